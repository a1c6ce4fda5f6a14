//! The pool as threads see it: requests, and the connections they go over.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Pid, getpid};
use tlspool_wire::{Body, CtlKey, Facilities, Packet, Ping, Starttls};

use super::Cancel;
use super::link::{Link, Ticket};
use crate::exchange::{ATTEMPTS, NotStarted};
use crate::location::Place;
use crate::session::Step;
use crate::{Error, Plaintext, Session, SessionGuard, StarttlsRequest, questions};

/// The local TLS Pool. Cheap to clone and to share among threads; connects when first used and
/// again when the pool was restarted.
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
    /// The process they belong to: a forked child must not read its parent's answers.
    owner: Option<Pid>,
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
    pub fn connect(&self) -> Result<(), Error> {
        self.link().map(drop)
    }

    /// Exchanges identity strings (`YYYYMMDDproducer`) and facilities; returns the pool's
    /// identity, and those of `facilities` that it has.
    pub fn ping(&self, identity: &str, facilities: Facilities) -> Result<Ping, Error> {
        questions::ping_answer(self.ask(&questions::ping(identity, facilities)?)?)
    }

    /// Runs TLS over the connected socket `cryptfd`, which is consumed in every case. Returns
    /// when the handshake is done and the names are authenticated.
    pub fn starttls(
        &self,
        request: StarttlsRequest,
        cryptfd: OwnedFd,
        plaintext: Plaintext<'_>,
    ) -> Result<Session, Error> {
        self.starttls_cancellable(request, cryptfd, plaintext, &Cancel::new())
    }

    /// As [`Self::starttls`]; `cancel` gives up on it from another thread.
    pub fn starttls_cancellable(
        &self,
        request: StarttlsRequest,
        cryptfd: OwnedFd,
        mut plaintext: Plaintext<'_>,
        cancel: &Cancel,
    ) -> Result<Session, Error> {
        let ahead = request.first_pieces()?;
        let mut fields = request.into_wire()?;
        fields.flags = fields.flags | plaintext.flags();
        let mut ours = None;
        plaintext.prepare(&fields, &mut ours);
        let body = Body::Starttls(fields);
        let along = plaintext.along();
        let (mut ticket, mut packet) =
            self.begin(&ahead, &body, Some(cryptfd), along, Some(cancel))?;
        if ticket.went_along() {
            plaintext.went_along();
        }
        loop {
            let cbid = packet.cbid;
            let (answer, descriptor) = match Step::from_packet(packet)? {
                Step::Done(answer) => return Ok(finish(ticket, answer, ours)),
                Step::CheckLocalid(proposal) => plaintext.answer_localid(proposal),
                Step::Connect(established) => plaintext.answer_connect(established, &mut ours),
            };
            ticket.answer(cbid, answer, descriptor)?;
            packet = ticket.wait()?;
        }
    }

    /// Renegotiates the session that the request's control key names (RFC 5746): identities may be added or
    /// changed. The program is not asked about local identities. Returns the names that hold from now on.
    /// A session that cannot, such as one of TLS 1.3, says so and goes on as it is.
    pub fn renegotiate(&self, request: StarttlsRequest) -> Result<Starttls, Error> {
        questions::renegotiate_answer(self.ask_about_session(&questions::renegotiate(request))?)
    }

    /// Lets go of a session: it is then reached only after a reattach, over any connection.
    pub fn detach(&self, ctlkey: CtlKey) -> Result<(), Error> {
        questions::done(&self.ask_about_session(&questions::detach(ctlkey))?)
    }

    /// Takes over a session that is detached.
    pub fn reattach(&self, ctlkey: CtlKey) -> Result<(), Error> {
        questions::done(&self.ask_about_session(&questions::reattach(ctlkey))?)
    }

    /// Fills `out` (at most 350 bytes) with keying material of the session (RFC 5705). No context
    /// and an empty context give different bytes.
    pub fn prng(
        &self,
        ctlkey: CtlKey,
        label: &str,
        context: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let question = questions::prng(ctlkey, label, context, out.len())?;
        questions::prng_answer(&self.ask_about_session(&question)?, out)
    }

    /// A fact about the session; `kind` is the number of an [`crate::InfoKind`].
    pub fn info(&self, ctlkey: CtlKey, kind: u32) -> Result<Vec<u8>, Error> {
        questions::info_answer(&self.ask_about_session(&questions::info(ctlkey, kind, None)?)?)
    }

    /// Whether `value` is (one of) the session's facts of `kind`: if not, or if it is not known,
    /// that is an error of the pool. Returns what the pool says the fact is.
    pub fn check_info(&self, ctlkey: CtlKey, kind: u32, value: &[u8]) -> Result<Vec<u8>, Error> {
        let question = questions::info(ctlkey, kind, Some(value))?;
        questions::info_answer(&self.ask_about_session(&question)?)
    }

    /// Opens another connection to the same pool, for a program that reads and writes records
    /// itself.
    pub fn open_raw(&self) -> Result<OwnedFd, Error> {
        crate::io::dial(&self.place.path())
    }

    /// One request, one answer.
    pub(super) fn ask(&self, body: &Body) -> Result<Body, Error> {
        let (mut ticket, packet) = self.begin(&[], body, None, None, None)?;
        ticket.finish();
        questions::answer(packet)
    }

    /// As [`Self::ask`], for a request that names a session: if the current connection does not
    /// have it, the session may live on an older one.
    fn ask_about_session(&self, body: &Body) -> Result<Body, Error> {
        let error = match self.ask(body) {
            Err(error) if error.is_elsewhere() => error,
            other => return other,
        };
        for link in self.retired_links() {
            let Ok(mut ticket) = link.start(body.clone(), [None, None]) else { continue };
            let Ok(packet) = ticket.wait() else { continue };
            ticket.finish();
            match questions::answer(packet) {
                Err(error) if error.is_elsewhere() => {}
                other => return other,
            }
        }
        Err(error)
    }

    /// Sends a request and waits for its first record. Sends again over a new connection as
    /// long as the pool has certainly not acted on it.
    pub(super) fn begin(
        &self,
        ahead: &[Body],
        body: &Body,
        descriptor: Option<OwnedFd>,
        along: Option<BorrowedFd<'_>>,
        cancel: Option<&Cancel>,
    ) -> Result<(Ticket, Packet), Error> {
        let mut last = Error::Lost;
        for _ in 0..ATTEMPTS {
            let link = self.link()?;
            let passed = [descriptor.as_ref().map(AsFd::as_fd), along];
            let mut ticket = match link.start_after(ahead, body.clone(), passed) {
                Ok(ticket) => ticket,
                Err(NotStarted::Failed(error)) => return Err(error),
                Err(NotStarted::Gone) => {
                    self.retire(&link);
                    continue;
                }
            };
            if let Some(cancel) = cancel {
                cancel.watch(&ticket);
            }
            let packet = ticket.wait()?;
            match &packet.body {
                Body::Error(reply) if Error::from_reply(reply).is_draining() => {
                    ticket.finish();
                    self.retire(&link);
                    last = Error::from_reply(reply);
                }
                _ => {
                    drop(descriptor); // kept so far to send it again
                    return Ok((ticket, packet));
                }
            }
        }
        Err(last)
    }

    /// The connection for new requests.
    fn link(&self) -> Result<Arc<Link>, Error> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let process = getpid();
        if connections.owner != Some(process) {
            *connections = Connections { owner: Some(process), ..Connections::default() };
        }
        if let Some(link) = &connections.current {
            if link.is_usable() {
                return Ok(Arc::clone(link));
            }
            let link = Arc::clone(link);
            connections.retire(&link);
        }
        connections.retired.retain(|link| !link.is_hung_up());
        for _ in 0..ATTEMPTS {
            let link = Arc::new(Link::new(crate::io::dial(&self.place.path())?)?);
            match link.hello() {
                Ok(()) => {
                    connections.current = Some(Arc::clone(&link));
                    return Ok(link);
                }
                Err(NotStarted::Gone) => {}
                Err(NotStarted::Failed(error)) => return Err(error),
            }
        }
        Err(Error::Lost)
    }

    fn retire(&self, link: &Arc<Link>) {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).retire(link);
    }

    fn retired_links(&self) -> Vec<Arc<Link>> {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.retired.iter().rev().cloned().collect()
    }
}

impl Connections {
    fn retire(&mut self, link: &Arc<Link>) {
        if self.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            self.retired.extend(self.current.take());
        }
    }
}

fn finish(mut ticket: Ticket, answer: Starttls, plaintext: Option<OwnedFd>) -> Session {
    ticket.finish();
    let link: Arc<Link> = Arc::clone(ticket.link());
    Session { answer, plaintext, guard: SessionGuard(link) }
}
