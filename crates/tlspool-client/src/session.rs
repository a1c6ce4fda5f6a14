//! STARTTLS in types: what is asked, how callbacks are answered, what stands in the end.

use std::any::Any;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use tlspool_wire::packet::{DatagramPiece, ErrorReply};
use tlspool_wire::{Body, CtlKey, Packet, PoolError, Starttls, StarttlsFlags, Text};

use crate::Error;
use crate::error::NameField;

/// A request for TLS on a connected socket. Identities are required and validated unless a
/// flag says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StarttlsRequest {
    fields: Starttls,
    nameless: bool,
    first: Vec<u8>,
}

impl StarttlsRequest {
    /// Be the TLS client towards `remoteid` (`example.com` or `john@example.com`); the peer must
    /// prove that name, and its domain goes out as server name.
    pub fn client(remoteid: &str) -> Result<Self, Error> {
        let flags = StarttlsFlags::LOCALROLE_CLIENT | StarttlsFlags::REMOTEROLE_SERVER;
        Ok(Starttls { remoteid: Text::new(remoteid).named("remoteid")?, ..tcp(flags) }.into())
    }

    /// Be the TLS server. The local name is the one the client asks for, unless
    /// [`Self::localid`] says which.
    pub fn server() -> Self {
        tcp(StarttlsFlags::LOCALROLE_SERVER | StarttlsFlags::REMOTEROLE_CLIENT).into()
    }

    /// DTLS over a connected UDP socket. A plaintext pair is then of SEQPACKET sockets: each message is one
    /// record, and end of file is the end of the session.
    #[must_use]
    pub fn datagrams(mut self) -> Self {
        self.fields.ipproto = 17;
        self.flags(StarttlsFlags::DTLS)
    }

    /// Over a connected SCTP association, TLS on one of its streams (RFC 3436).
    #[must_use]
    pub fn sctp(mut self, stream: u16) -> Self {
        self.fields.ipproto = 132;
        self.fields.streamid = stream;
        self
    }

    /// Over a connected SCTP association, DTLS (RFC 6083). The association must authenticate DATA and FORWARD-TSN
    /// chunks in both directions. A plaintext pair is then one of SEQPACKET sockets; their messages are those of
    /// `stream`, or, with [`tlspool_wire::message::EVERY_STREAM`], have each a
    /// [`tlspool_wire::MessageHeader`] in front. A plaintext socket of SCTP keeps streams by itself.
    #[must_use]
    pub fn sctp_messages(self, stream: u16) -> Self {
        self.sctp(stream).flags(StarttlsFlags::DTLS)
    }

    /// For a server of DTLS: the datagram that began the session, whose cookie was found right. It was taken
    /// from the socket before the socket was connected, so the pool cannot read it there. At most
    /// [`tlspool_wire::packet::MAX_FIRST_DATAGRAM`] bytes.
    #[must_use]
    pub fn first_datagram(mut self, datagram: &[u8]) -> Self {
        self.first = datagram.to_vec();
        self
    }

    /// The pieces in which the first datagram goes ahead of the request.
    pub(crate) fn first_pieces(&self) -> Result<Vec<Body>, Error> {
        let pieces = DatagramPiece::of(&self.first).ok_or(Error::TooLong("first datagram"))?;
        Ok(pieces.into_iter().map(Body::Datagram).collect())
    }

    /// Our own name.
    pub fn localid(mut self, localid: &str) -> Result<Self, Error> {
        self.fields.localid = Text::new(localid).named("localid")?;
        Ok(self)
    }

    /// The name the peer must prove.
    pub fn remoteid(mut self, remoteid: &str) -> Result<Self, Error> {
        self.fields.remoteid = Text::new(remoteid).named("remoteid")?;
        Ok(self)
    }

    /// Name of the service (as in the services database), which selects the policy.
    pub fn service(mut self, service: &str) -> Result<Self, Error> {
        self.fields.service = Text::new(service).named("service")?;
        Ok(self)
    }

    /// Sets `flags` beside those that are set.
    #[must_use]
    pub fn flags(mut self, flags: StarttlsFlags) -> Self {
        self.fields.flags = self.fields.flags | flags;
        self
    }

    /// Milliseconds for the handshake; 0 is the pool's default, `u32::MAX` is no limit.
    #[must_use]
    pub fn timeout_ms(mut self, milliseconds: u32) -> Self {
        self.fields.timeout_ms = milliseconds;
        self
    }

    /// The key by which to name the session later; without it, a random one is made.
    #[must_use]
    pub fn ctlkey(mut self, ctlkey: CtlKey) -> Self {
        self.fields.ctlkey = ctlkey;
        self
    }

    /// No control key: the session cannot be asked about or detached later, which spares the pool
    /// what it would keep for that.
    #[must_use]
    pub fn nameless(mut self) -> Self {
        self.nameless = true;
        self
    }

    /// The request as it travels, with a control key unless it shall have none.
    pub(crate) fn into_wire(mut self) -> Result<Starttls, Error> {
        if self.fields.ctlkey.is_none() && !self.nameless {
            self.fields.ctlkey = random_ctlkey()?;
        }
        Ok(self.fields)
    }
}

impl From<StarttlsRequest> for Starttls {
    /// The fields of the protocol, as they were filled in.
    fn from(request: StarttlsRequest) -> Self {
        request.fields
    }
}

impl From<Starttls> for StarttlsRequest {
    /// For those who fill in the fields of the protocol themselves.
    fn from(fields: Starttls) -> Self {
        Self { fields, nameless: false, first: Vec::new() }
    }
}

fn tcp(flags: StarttlsFlags) -> Starttls {
    Starttls { flags, ipproto: 6, ..Starttls::default() }
}

fn random_ctlkey() -> Result<CtlKey, Error> {
    let mut key = CtlKey::default();
    while key.is_none() {
        let mut have = 0;
        while have < key.0.len() {
            have +=
                rustix::rand::getrandom(&mut key.0[have..], rustix::rand::GetRandomFlags::empty())
                    .map_err(io::Error::from)?;
        }
    }
    Ok(key)
}

/// How a callback is refused: an errno or [`PoolError`] code, and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What the pool is told, and reports back.
    pub code: i32,
    /// Words for a person.
    pub message: String,
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        let code = error.raw_os_error().unwrap_or(PoolError::ClientRefusesCallback.code());
        Self { code, message: error.to_string() }
    }
}

impl From<PoolError> for Refusal {
    fn from(error: PoolError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl Refusal {
    pub(crate) fn into_body(self) -> Body {
        Body::Error(ErrorReply { code: self.code, message: Text::cut(&self.message) })
    }
}

/// What an application says to a proposed local identity
/// ([`StarttlsFlags::LOCALID_CHECK`]).
#[derive(Debug)]
pub enum LocalidAnswer {
    /// This one.
    Accept,
    /// This one, and here is the pool's end of the plaintext connection.
    AcceptWith(OwnedFd),
    /// Rather this other one.
    Instead(Text<128>),
    /// Not this one; the pool may propose another.
    NotThis,
    /// End the handshake.
    Refuse(Refusal),
}

type CheckLocalid<'a> = Box<dyn FnMut(&Starttls) -> LocalidAnswer + Send + 'a>;
type Accept<'a> = Box<dyn FnMut(&Starttls) -> Result<(), Refusal> + Send + 'a>;
type Connect<'a> = Box<dyn FnMut(&Starttls) -> Result<OwnedFd, Refusal> + Send + 'a>;

/// Where the plaintext goes, and who is asked about local identities.
pub struct Plaintext<'a> {
    pub(crate) source: Source<'a>,
    check: Option<CheckLocalid<'a>>,
    accept: Option<Accept<'a>>,
}

pub(crate) enum Source<'a> {
    Pair,
    Given(Option<OwnedFd>),
    Connect(Connect<'a>),
}

impl fmt::Debug for Plaintext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.source {
            Source::Pair => "Plaintext::pair",
            Source::Given(_) => "Plaintext::given",
            Source::Connect(_) => "Plaintext::connect",
        })
    }
}

impl<'a> Plaintext<'a> {
    /// Makes a socket pair; the application's end is [`Session::plaintext`].
    pub fn pair() -> Self {
        Self { source: Source::Pair, check: None, accept: None }
    }

    /// The pool's end is this socket.
    pub fn given(socket: OwnedFd) -> Self {
        Self { source: Source::Given(Some(socket)), check: None, accept: None }
    }

    /// After the handshake, `connect` sees both authenticated names and returns the pool's end.
    pub fn connect(connect: impl FnMut(&Starttls) -> Result<OwnedFd, Refusal> + Send + 'a) -> Self {
        Self { source: Source::Connect(Box::new(connect)), check: None, accept: None }
    }

    /// Asks `check` about each local identity proposed, which also sets
    /// [`StarttlsFlags::LOCALID_CHECK`] on the request.
    #[must_use]
    pub fn check_localid(
        mut self,
        check: impl FnMut(&Starttls) -> LocalidAnswer + Send + 'a,
    ) -> Self {
        self.check = Some(Box::new(check));
        self
    }

    /// Asks `accept` whether the authenticated names will do, before any plaintext flows.
    #[must_use]
    pub fn accept_if(
        mut self,
        accept: impl FnMut(&Starttls) -> Result<(), Refusal> + Send + 'a,
    ) -> Self {
        self.accept = Some(Box::new(accept));
        self
    }

    /// Gets the pool's end ready before the request is made, unless the names must be seen first;
    /// our end of a pair goes to `ours`.
    pub(crate) fn prepare(&mut self, request: &Starttls, ours: &mut Option<OwnedFd>) {
        if self.accept.is_some() || !matches!(self.source, Source::Pair) {
            return;
        }
        // If there is no descriptor left, that is told when the pool asks.
        if let Ok((mine, pools)) = crate::io::plaintext_pair(request) {
            *ours = Some(mine);
            self.source = Source::Given(Some(pools));
        }
    }

    /// Nothing was delivered, so that the request can be made again: a pair that was made for it goes.
    #[cfg(feature = "tokio")]
    pub(crate) fn unprepare(&mut self, ours: Option<&OwnedFd>) {
        if ours.is_some() {
            self.source = Source::Pair;
        }
    }

    /// The pool's end, if it may go along with the request.
    pub(crate) fn along(&self) -> Option<BorrowedFd<'_>> {
        match (&self.source, &self.accept) {
            (Source::Given(Some(socket)), None) => Some(socket.as_fd()),
            _ => None,
        }
    }

    /// The pool has its end: ours would hide its hang-ups.
    pub(crate) fn went_along(&mut self) {
        self.source = Source::Given(None);
    }

    /// The flags that go with the callbacks that were set.
    pub(crate) fn flags(&self) -> StarttlsFlags {
        match self.check {
            Some(_) => StarttlsFlags::LOCALID_CHECK,
            None => StarttlsFlags::default(),
        }
    }

    /// Answers a proposal of a local identity.
    pub(crate) fn answer_localid(&mut self, mut proposal: Starttls) -> (Body, Option<OwnedFd>) {
        let Some(check) = &mut self.check else {
            return (Refusal::from(PoolError::ClientRefusesCallback).into_body(), None);
        };
        let mut plaintext = None;
        match check(&proposal) {
            LocalidAnswer::Accept => {}
            LocalidAnswer::AcceptWith(socket) => plaintext = Some(socket),
            LocalidAnswer::Instead(name) => proposal.localid = name,
            LocalidAnswer::NotThis => proposal.localid = Text::EMPTY,
            LocalidAnswer::Refuse(refusal) => return (refusal.into_body(), None),
        }
        (Body::StarttlsLocalid(proposal), plaintext)
    }

    /// Answers PLAINTEXT_CONNECT; our end of a pair goes to `ours`.
    pub(crate) fn answer_connect(
        &mut self,
        established: Starttls,
        ours: &mut Option<OwnedFd>,
    ) -> (Body, Option<OwnedFd>) {
        if let Some(Err(refusal)) = self.accept.as_mut().map(|accept| accept(&established)) {
            return (refusal.into_body(), None);
        }
        let end = match &mut self.source {
            Source::Pair => crate::io::plaintext_pair(&established).map_err(Refusal::from).map(
                |(mine, pools)| {
                    *ours = Some(mine);
                    pools
                },
            ),
            Source::Given(socket) => socket.take().ok_or(PoolError::PlainSocketNeeded.into()),
            Source::Connect(connect) => connect(&established),
        };
        answer_with(end, established)
    }
}

pub(crate) fn answer_with(
    end: Result<OwnedFd, Refusal>,
    established: Starttls,
) -> (Body, Option<OwnedFd>) {
    match end {
        Ok(socket) => (Body::PlaintextConnect(established), Some(socket)),
        Err(refusal) => (refusal.into_body(), None),
    }
}

/// What a record means to a STARTTLS request.
pub(crate) enum Step {
    CheckLocalid(Starttls),
    Connect(Starttls),
    Done(Starttls),
}

impl Step {
    pub(crate) fn from_packet(packet: Packet) -> Result<Self, Error> {
        match packet.body {
            Body::StarttlsLocalid(s) => Ok(Self::CheckLocalid(s)),
            Body::PlaintextConnect(s) => Ok(Self::Connect(s)),
            Body::Starttls(s) => Ok(Self::Done(s)),
            Body::Error(reply) => Err(Error::from_reply(&reply)),
            _ => Err(Error::Protocol("not an answer to STARTTLS")),
        }
    }
}

/// A TLS session that stands: both names are authenticated as far as the flags asked.
#[derive(Debug)]
pub struct Session {
    /// The pool's answer. A flag that grants freedom is set only if that freedom was used.
    pub answer: Starttls,
    /// The application's end, if a pair was asked for. End of file on it is the peer's
    /// close_notify; a truncated connection shows as a
    /// reset on TCP, but as the same end of file on a UNIX socket, which has no reset: use TCP, or a
    /// protocol that knows its own end, where truncation matters.
    pub plaintext: Option<OwnedFd>,
    /// Keeps the session alive.
    pub guard: SessionGuard,
}

/// Keeps the connection to the pool open on which a session was started; unless it was FORKed,
/// the session ends when the last one and the pool handle are dropped.
#[derive(Clone)]
pub struct SessionGuard(#[allow(dead_code)] pub(crate) Arc<dyn Any + Send + Sync>);

impl fmt::Debug for SessionGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionGuard")
    }
}

impl Session {
    /// The name we were authenticated by; may be empty for a client.
    pub fn localid(&self) -> &str {
        self.answer.localid.as_str()
    }

    /// The name the peer proved; empty if none was asked or given.
    pub fn remoteid(&self) -> &str {
        self.answer.remoteid.as_str()
    }

    /// The key that names the session in later requests.
    pub fn ctlkey(&self) -> CtlKey {
        self.answer.ctlkey
    }
}
