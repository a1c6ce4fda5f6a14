//! The pool as tasks see it.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use tlspool_wire::{Body, CtlKey, Facilities, Packet, Ping, Starttls};
use tokio::sync::Mutex;

use super::link::{Link, Ticket};
use crate::exchange::{ATTEMPTS, NotStarted};
use crate::location::Place;
use crate::session::{Step, answer_with};
use crate::{Error, LocalidAnswer, Refusal, Session, SessionGuard, StarttlsRequest, questions};

/// The local TLS Pool. Cheap to clone; connects when first used and again when the pool was
/// restarted.
#[derive(Debug, Clone)]
pub struct Pool {
    place: Place,
    connections: Arc<Mutex<Connections>>,
}

#[derive(Debug, Default)]
struct Connections {
    current: Option<Arc<Link>>,
    /// No new requests go here, but sessions may live on them until the pool closes.
    retired: Vec<Arc<Link>>,
}

type PlaintextFuture<'a> = Pin<Box<dyn Future<Output = Result<OwnedFd, Refusal>> + Send + 'a>>;
type Connect<'a> = Box<dyn FnMut(Starttls) -> PlaintextFuture<'a> + Send + 'a>;

/// Where the plaintext goes; made from a [`crate::Plaintext`], or with an asynchronous
/// [`Self::connect`].
pub struct Plaintext<'a> {
    base: crate::Plaintext<'a>,
    connect: Option<Connect<'a>>,
}

impl fmt::Debug for Plaintext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.connect {
            Some(_) => f.write_str("Plaintext::connect"),
            None => self.base.fmt(f),
        }
    }
}

impl<'a> From<crate::Plaintext<'a>> for Plaintext<'a> {
    fn from(base: crate::Plaintext<'a>) -> Self {
        Self { base, connect: None }
    }
}

impl<'a> Plaintext<'a> {
    /// After the handshake, `connect` sees both authenticated names and returns the pool's end.
    pub fn connect<F>(mut connect: impl FnMut(Starttls) -> F + Send + 'a) -> Self
    where
        F: Future<Output = Result<OwnedFd, Refusal>> + Send + 'a,
    {
        let connect: Connect<'a> = Box::new(move |established| Box::pin(connect(established)));
        Self { base: crate::Plaintext::pair(), connect: Some(connect) }
    }

    /// As [`crate::Plaintext::check_localid`].
    #[must_use]
    pub fn check_localid(
        mut self,
        check: impl FnMut(&Starttls) -> LocalidAnswer + Send + 'a,
    ) -> Self {
        self.base = self.base.check_localid(check);
        self
    }

    async fn answer_connect(
        &mut self,
        established: Starttls,
        ours: &mut Option<OwnedFd>,
    ) -> (Body, Option<OwnedFd>) {
        match &mut self.connect {
            None => self.base.answer_connect(established, ours),
            Some(connect) => answer_with(connect(established.clone()).await, established),
        }
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool {
    /// The pool at the usual place ([`crate::socket_path`]), which is looked up for each connection.
    pub fn new() -> Self {
        Self { place: Place::usual(), connections: Arc::default() }
    }

    /// The pool whose socket is at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { place: Place::at(path.into()), connections: Arc::default() }
    }

    /// The socket this pool is looked for at, for now.
    pub fn path(&self) -> PathBuf {
        self.place.path()
    }

    /// Makes sure that there is a connection.
    pub async fn connect(&self) -> Result<(), Error> {
        self.link().await.map(drop)
    }

    /// As [`crate::Pool::ping`].
    pub async fn ping(&self, identity: &str, facilities: Facilities) -> Result<Ping, Error> {
        questions::ping_answer(self.ask(&questions::ping(identity, facilities)?).await?)
    }

    /// As [`crate::Pool::starttls`]. Dropping the future gives up on the handshake; the socket
    /// is gone in every case.
    pub async fn starttls<'a>(
        &self,
        request: StarttlsRequest,
        cryptfd: OwnedFd,
        plaintext: impl Into<Plaintext<'a>>,
    ) -> Result<Session, Error> {
        self.starttls_with(request, &mut Some(cryptfd), &mut plaintext.into()).await
    }

    /// As [`Self::starttls`], with sockets that are only taken once they can be delivered: if the pool is not
    /// there ([`Error::NoPool`]) both are left as they were, and the same can be asked again.
    pub async fn starttls_with(
        &self,
        request: StarttlsRequest,
        cryptfd: &mut Option<OwnedFd>,
        plaintext: &mut Plaintext<'_>,
    ) -> Result<Session, Error> {
        let ahead = request.first_pieces()?;
        let mut fields = request.into_wire()?;
        fields.flags = fields.flags | plaintext.base.flags();
        let mut ours = None;
        if plaintext.connect.is_none() {
            plaintext.base.prepare(&fields, &mut ours);
        }
        let along = plaintext.base.along();
        let body = Body::Starttls(fields);
        let begun = self.begin(&ahead, &body, cryptfd, along).await;
        let (mut ticket, mut packet) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                plaintext.base.unprepare(ours.as_ref());
                return Err(error);
            }
        };
        if ticket.along {
            plaintext.base.went_along();
        }
        loop {
            let cbid = packet.cbid;
            let (answer, descriptor) = match Step::from_packet(packet)? {
                Step::Done(answer) => {
                    ticket.finish();
                    let link: Arc<Link> = Arc::clone(&ticket.link);
                    return Ok(Session { answer, plaintext: ours, guard: SessionGuard(link) });
                }
                Step::CheckLocalid(proposal) => plaintext.base.answer_localid(proposal),
                Step::Connect(established) => {
                    plaintext.answer_connect(established, &mut ours).await
                }
            };
            ticket.answer(cbid, answer, descriptor).await?;
            packet = ticket.wait().await?;
        }
    }

    /// As [`crate::Pool::detach`].
    pub async fn detach(&self, ctlkey: CtlKey) -> Result<(), Error> {
        questions::done(&self.ask_about_session(&questions::detach(ctlkey)).await?)
    }

    /// As [`crate::Pool::reattach`].
    pub async fn reattach(&self, ctlkey: CtlKey) -> Result<(), Error> {
        questions::done(&self.ask_about_session(&questions::reattach(ctlkey)).await?)
    }

    /// As [`crate::Pool::renegotiate`].
    pub async fn renegotiate(&self, request: StarttlsRequest) -> Result<Starttls, Error> {
        let question = questions::renegotiate(request);
        questions::renegotiate_answer(self.ask_about_session(&question).await?)
    }

    /// As [`crate::Pool::prng`].
    pub async fn prng(
        &self,
        ctlkey: CtlKey,
        label: &str,
        context: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let question = questions::prng(ctlkey, label, context, out.len())?;
        questions::prng_answer(&self.ask_about_session(&question).await?, out)
    }

    /// As [`crate::Pool::info`].
    pub async fn info(&self, ctlkey: CtlKey, kind: u32) -> Result<Vec<u8>, Error> {
        let question = questions::info(ctlkey, kind, None)?;
        questions::info_answer(&self.ask_about_session(&question).await?)
    }

    /// As [`crate::Pool::check_info`].
    pub async fn check_info(
        &self,
        ctlkey: CtlKey,
        kind: u32,
        value: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let question = questions::info(ctlkey, kind, Some(value))?;
        questions::info_answer(&self.ask_about_session(&question).await?)
    }

    async fn ask(&self, body: &Body) -> Result<Body, Error> {
        let (mut ticket, packet) = self.begin(&[], body, &mut None, None).await?;
        ticket.finish();
        questions::answer(packet)
    }

    /// As [`Self::ask`]; if the current connection does not have the session, it may live on an
    /// older one.
    async fn ask_about_session(&self, body: &Body) -> Result<Body, Error> {
        let error = match self.ask(body).await {
            Err(error) if error.is_elsewhere() => error,
            other => return other,
        };
        let retired: Vec<_> = self.connections.lock().await.retired.iter().rev().cloned().collect();
        for link in retired {
            let Ok(mut ticket) = link.start(body.clone(), [None, None]).await else { continue };
            let Ok(packet) = ticket.wait().await else { continue };
            ticket.finish();
            match questions::answer(packet) {
                Err(error) if error.is_elsewhere() => {}
                other => return other,
            }
        }
        Err(error)
    }

    /// Sends a request and waits for its first record. Sends again over a new connection as
    /// long as the pool has certainly not acted on it. Takes the descriptor once it may have been delivered for good.
    async fn begin(
        &self,
        ahead: &[Body],
        body: &Body,
        descriptor: &mut Option<OwnedFd>,
        along: Option<BorrowedFd<'_>>,
    ) -> Result<(Ticket, Packet), Error> {
        let mut last = Error::Lost;
        let mut gone = Vec::new();
        for _ in 0..ATTEMPTS {
            let link = self.link().await?;
            let passed = [descriptor.as_ref().map(AsFd::as_fd), along];
            let mut ticket = match link.start_after(ahead, body.clone(), passed).await {
                Ok(ticket) => ticket,
                Err(NotStarted::Failed(error)) => return Err(error),
                Err(NotStarted::Gone) => {
                    self.connections.lock().await.retire(&link);
                    gone.push(link);
                    continue;
                }
            };
            let packet = match ticket.wait().await {
                Ok(packet) => packet,
                Err(error) => {
                    *descriptor = None;
                    return Err(error);
                }
            };
            match &packet.body {
                Body::Error(reply) if Error::from_reply(reply).is_draining() => {
                    ticket.finish();
                    self.connections.lock().await.retire(&link);
                    last = Error::from_reply(reply);
                }
                _ => {
                    *descriptor = None; // kept so far to send it again
                    return Ok((ticket, packet));
                }
            }
        }
        Err(gone.iter().find_map(|link| link.parting()).unwrap_or(last))
    }

    /// The connection for new requests.
    async fn link(&self) -> Result<Arc<Link>, Error> {
        let mut connections = self.connections.lock().await;
        if let Some(link) = connections.current.clone() {
            if link.is_usable() {
                return Ok(link);
            }
            connections.retire(&link);
        }
        connections.retired.retain(|link| !link.is_hung_up());
        for _ in 0..ATTEMPTS {
            // A UNIX socket whose backlog is full blocks in connect, or fails if it may not.
            let place = self.place.clone();
            let dial = move || crate::io::dial(&place.path());
            let dialled = tokio::task::spawn_blocking(dial).await;
            let socket = dialled.map_err(std::io::Error::other)??;
            match Link::new(socket).await {
                Ok(link) => {
                    let link = Arc::new(link);
                    connections.current = Some(Arc::clone(&link));
                    return Ok(link);
                }
                Err(NotStarted::Gone) => {}
                Err(NotStarted::Failed(error)) => return Err(error),
            }
        }
        Err(Error::Lost)
    }
}

impl Connections {
    fn retire(&mut self, link: &Arc<Link>) {
        if self.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            self.retired.extend(self.current.take());
        }
    }
}
