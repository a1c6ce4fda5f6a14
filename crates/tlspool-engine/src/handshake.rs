//! Performs a handshake on a socket, with a host that answers what it asks.

#[cfg(test)]
pub(crate) mod tests;

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{
    CertificateError, CommonState, HandshakeKind, PeerIncompatible, ProtocolVersion,
    SupportedCipherSuite,
};
use zeroize::Zeroizing;

use crate::ask::{
    Agreed, Answer, CertificateType, Credential, Host, PeerCredential, Question, Refusal,
    ShownByPeer,
};
use crate::binding::{Exporter, Sender, Transcript};
use crate::config::{Engine, PeerAuthentication};
use crate::coroutine::{Progress, Step, context, within};
use crate::record::{Kernel, Traffic, alert};
use crate::socket::Socket;
use crate::tickets::Scope;
use crate::twelve::{self, Wishes};

/// Unread bytes of a handshake that are kept: a 64 KiB message in its records, with room.
const INCOMING_LIMIT: usize = 96 * 1024;

/// What rustls can do.
const X509_ONLY: &[CertificateType] = &[CertificateType::X509];

/// Bytes asked of the socket at a time; a flight without client certificate fits.
const READ_SIZE: usize = 4096;

/// Which side we are, and what that side is told.
#[derive(Debug, Clone, Copy)]
pub enum Role<'a> {
    /// TLS server.
    Server,
    /// TLS client.
    Client {
        /// The server's domain, for the server name indication (RFC 6066 section 3).
        server: Option<&'a str>,
        /// Whether to send it.
        sni: bool,
    },
}

/// One handshake to perform.
#[derive(Debug)]
pub struct Job<'a> {
    /// Which side we are.
    pub role: Role<'a>,
    /// What is demanded of the peer.
    pub authentication: PeerAuthentication,
    /// Sessions are resumed only within it. The chosen local credential of a server narrows it.
    pub scope: Scope,
    /// Keep the secrets from which an [`Exporter`] is made.
    pub exporter: bool,
    /// What the engine `tls12` is for.
    pub twelve: Wishes,
    /// A server's first datagram, if its cookie was found right already.
    pub first: Option<&'a [u8]>,
}

/// What was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// `TLSv1.3` or `TLSv1.2`.
    pub protocol: &'static str,
    /// Name of the cipher suite.
    pub suite: &'static str,
    /// Name of the key exchange group.
    pub group: &'static str,
    /// An earlier session was resumed: no certificate was sent.
    pub resumed: bool,
    /// No certificate was visible on the wire.
    pub private: bool,
}

/// A finished handshake.
pub struct Established {
    /// What was agreed.
    pub summary: Summary,
    /// The same, as policies see it.
    pub agreed: Agreed,
    /// What the peer has shown; also known for a resumed session.
    pub peer: Option<PeerCredential>,
    /// If the job asked for it.
    pub exporter: Option<Exporter>,
    /// The certificate that we have shown as a client: in this handshake, or in the one whose
    /// session was resumed.
    pub shown: Option<Arc<Credential>>,
    /// What carries data from here on.
    pub carrier: Carrier,
}

/// What carries a session's data.
pub enum Carrier {
    /// The keys that rustls has agreed on, and what came with the last flight: for [`crate::relay`].
    Rustls(Box<Traffic>),
    /// A connection of `tls12`: for [`crate::twelve`].
    Twelve(Box<twelve::Session>),
}

impl Carrier {
    /// The keys, if rustls has agreed on them.
    pub fn rustls(self) -> Option<Traffic> {
        match self {
            Self::Rustls(traffic) => Some(*traffic),
            Self::Twelve(_) => None,
        }
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The host refused the peer, or has no identity to show.
    #[error("{0}")]
    Refused(String),
    /// The private key did not sign.
    #[error("the private key did not sign: {0}")]
    Signature(String),
    /// The peer closed the connection.
    #[error("the peer closed the connection during the handshake")]
    PeerClosed,
    /// The peer does not speak TLS.
    #[error(
        "the peer sent something that is not TLS; is it waiting for a command such as STARTTLS, or is its port one without TLS?"
    )]
    NotTls,
    /// The peer sent more than any handshake needs.
    #[error("the peer sent more than a handshake may hold")]
    TooLong,
    /// The peer ended the handshake with an alert.
    #[error("the peer ended the handshake: {0}")]
    Alert(String),
    /// The peer has no TLS 1.3, and without it certificates would be visible.
    #[error(
        "certificates must not be visible, so it has to be TLS 1.3, and that the peer does not do"
    )]
    NotPrivate,
    /// TLS failed.
    #[error("{0}")]
    Tls(rustls::Error),
    /// The same, in the engine `tls12`.
    #[error("{0}")]
    Twelve(tls12::Error),
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Socket(#[from] std::io::Error),
}

/// Performs the handshake. Time limits are the caller's: dropping the future gives it up.
pub async fn run<H: Host>(
    engine: &Engine,
    socket: &Socket,
    job: Job<'_>,
    host: &mut H,
) -> Result<Established, HandshakeError> {
    let wishes = job.twelve;
    match job.role {
        Role::Client { .. } if wishes.insist => twelve::client(engine, socket, &job, host).await,
        Role::Server if wishes.insist => twelve::server(engine, socket, &[], &job, host).await,
        Role::Server
            if wishes.openpgp || wishes.private || wishes.anonymous != tls12::Anonymous::Never =>
        {
            let (first, ours) = first_look(socket, wishes, host).await?;
            if ours {
                twelve::server(engine, socket, &first, &job, host).await
            } else {
                run_rustls(engine, socket, job, first, host).await
            }
        }
        _ => run_rustls(engine, socket, job, Vec::new(), host).await,
    }
}

/// Reads a client's hello, and says whether `tls12` should serve it.
async fn first_look<H: Host>(
    socket: &Socket,
    wishes: Wishes,
    host: &mut H,
) -> Result<(Vec<u8>, bool), HandshakeError> {
    let mut first = Vec::new();
    loop {
        let have = first.len();
        if have >= INCOMING_LIMIT {
            return Err(HandshakeError::TooLong);
        }
        first.resize(have + READ_SIZE, 0);
        let received = socket.recv(&mut first[have..]).await?;
        first.truncate(have + received);
        if received == 0 {
            return Err(HandshakeError::PeerClosed);
        }
        if let Some(ours) = twelve::is_ours(wishes, &first, host).await {
            return Ok((first, ours));
        }
    }
}

async fn run_rustls<H: Host>(
    engine: &Engine,
    socket: &Socket,
    job: Job<'_>,
    first: Vec<u8>,
    host: &mut H,
) -> Result<Established, HandshakeError> {
    let context = Rc::new(Context::new(job.scope, job.exporter));
    // A client looks for a session to resume right here.
    let mut machine = within(context.clone(), || Machine::new(engine, &job))?;
    machine.incoming.bytes = first;
    let mut errand = Errand { host, failure: None, verified: false };
    let mut fresh = matches!(job.role, Role::Client { .. });
    let private = job.twelve.private;
    loop {
        if fresh || machine.incoming.has_whole_record() {
            let (back, stop) = step(machine, &context, &mut errand).await?;
            machine = back;
            let stop = match stop {
                // rustls goes on without a certificate when a client's choice failed; we do not.
                Ok(on) if errand.failure.is_some() && machine.has_progressed(&on) => {
                    machine.abandon();
                    Err(rustls::Error::General("the host refused".into()))
                }
                stop => stop,
            };
            let sent = if machine.outgoing.is_empty() || machine.may_hold(&stop) {
                Ok(())
            } else {
                let sent = socket.send_all(&machine.outgoing).await;
                machine.outgoing.clear();
                sent
            };
            match stop {
                // The cause matters more than whether the alert could be sent.
                Err(error) => {
                    return Err(errand.failure.take().unwrap_or_else(|| explain(error, private)));
                }
                Ok(Stop::Ready) => {
                    sent?;
                    break;
                }
                Ok(Stop::NeedBytes) => sent?,
            }
            fresh = false;
        }
        errand.host.peer_is_next();
        machine.receive(socket).await?;
    }
    let already_verified = errand.verified;
    let mut established = machine.finish(&context)?;
    // A client that was refused what it should show goes on without, as far as rustls is concerned.
    if let Some(failure) = errand.failure.take() {
        established.refuse(socket).await;
        return Err(failure);
    }
    // rustls does not verify again the certificates of a session that it resumes; we do, because
    // what is validated live may have changed.
    if job.authentication != PeerAuthentication::Ignored
        && !already_verified
        && let Some(credential) = established.peer.clone()
        && let Err(refusal) = errand
            .host
            .verify(ShownByPeer { credential, ocsp: Vec::new(), agreed: established.agreed })
            .await
    {
        established.refuse(socket).await;
        return Err(HandshakeError::Refused(refusal.text));
    }
    if let Err(refusal) = errand.host.authorize(established.shown.as_deref()).await {
        established.refuse(socket).await;
        return Err(HandshakeError::Refused(refusal.text));
    }
    Ok(established)
}

impl Established {
    /// Tells the peer `access_denied` (RFC 8446 section 6.2): the session ends before any data.
    pub async fn refuse(&mut self, socket: &Socket) {
        let traffic = match &mut self.carrier {
            Carrier::Rustls(traffic) => traffic,
            Carrier::Twelve(session) => return session.refuse(socket).await,
        };
        let mut out = std::mem::take(&mut traffic.held);
        if traffic.seal_alert(alert::ACCESS_DENIED, &mut out).is_ok() {
            // The session is over either way.
            let _ = socket.send_all(&out).await;
        }
    }
}

/// What a handshake is about, for the objects that rustls calls.
pub(crate) struct Context {
    scope: Cell<Scope>,
    keeps_secrets: bool,
    secret: RefCell<Zeroizing<Vec<u8>>>,
    shown: RefCell<Option<Arc<Credential>>>,
    /// A certificate, or none, was chosen in this very handshake.
    chose: Cell<bool>,
    agreed: Cell<Agreed>,
}

impl Context {
    pub(crate) fn new(scope: Scope, keeps_secrets: bool) -> Self {
        let scope = Cell::new(scope);
        Self {
            scope,
            keeps_secrets,
            secret: RefCell::default(),
            shown: RefCell::default(),
            chose: Cell::new(false),
            agreed: Cell::new(Agreed {
                private: false,
                post_quantum: false,
                forward_secrecy: true,
            }),
        }
    }

    /// What was agreed before the record that is being looked at.
    pub(crate) fn agreed(&self) -> Agreed {
        self.agreed.get()
    }

    /// The host chose what to show as a client.
    pub(crate) fn choose(&self, credential: Option<Arc<Credential>>) {
        self.chose.set(true);
        self.set_shown(credential);
    }

    /// The certificate that this session, or the one it resumes, has shown as a client.
    pub(crate) fn shown(&self) -> Option<Arc<Credential>> {
        self.shown.borrow().clone()
    }

    pub(crate) fn set_shown(&self, credential: Option<Arc<Credential>>) {
        *self.shown.borrow_mut() = credential;
    }

    pub(crate) fn scope(&self) -> Scope {
        self.scope.get()
    }

    /// From here on, sessions are resumed only with the credential of this fingerprint.
    pub(crate) fn narrow_scope(&self, fingerprint: &[u8; 32]) {
        let mut digest = digest::Context::new(&digest::SHA256);
        digest.update(&self.scope.get());
        digest.update(fingerprint);
        let mut scope = [0; 32];
        scope.copy_from_slice(digest.finish().as_ref());
        self.scope.set(scope);
    }

    pub(crate) fn keeps_secrets(&self) -> bool {
        self.keeps_secrets
    }

    pub(crate) fn keep_secret(&self, secret: &[u8]) {
        if self.keeps_secrets {
            *self.secret.borrow_mut() = Zeroizing::new(secret.to_vec());
        }
    }
}

/// Carries questions to the host, and remembers why it refused.
struct Errand<'h, H> {
    host: &'h mut H,
    failure: Option<HandshakeError>,
    verified: bool,
}

impl<H: Host> Errand<'_, H> {
    async fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::ServerCredential { sni, schemes } => {
                match self.host.server_credential(sni.as_deref(), &schemes, X509_ONLY).await {
                    Ok(credential) => Answer::Credential(Some(credential)),
                    Err(refusal) => {
                        self.refused(refusal);
                        Answer::Credential(None)
                    }
                }
            }
            Question::ClientCredential { schemes } => {
                match self.host.client_credential(CertificateType::X509).await {
                    Ok(credential) => {
                        // One that the server cannot check is as good as none.
                        let usable =
                            credential.filter(|c| c.schemes.iter().any(|s| schemes.contains(s)));
                        Answer::Credential(usable)
                    }
                    Err(refusal) => {
                        self.refused(refusal);
                        Answer::Credential(None)
                    }
                }
            }
            Question::Sign { credential, scheme, message } => {
                match self.host.sign(&credential, scheme, &message).await {
                    Ok(signature) => Answer::Signature(Some(signature)),
                    Err(failure) => {
                        self.failure = Some(HandshakeError::Signature(failure.0));
                        Answer::Signature(None)
                    }
                }
            }
            Question::Verify(_) if self.failure.is_some() => {
                // It is over already, and this is how rustls says so to the peer.
                self.verified = true;
                Answer::Verified(Err(CertificateError::ApplicationVerificationFailure))
            }
            Question::Verify(peer) => {
                self.verified = true;
                match self.host.verify(peer).await {
                    Ok(_) => Answer::Verified(Ok(())),
                    Err(refusal) => {
                        let alert = refusal.certificate.clone();
                        self.refused(refusal);
                        Answer::Verified(Err(alert))
                    }
                }
            }
        }
    }

    fn refused(&mut self, refusal: Refusal) {
        self.failure = Some(HandshakeError::Refused(refusal.text));
    }
}

/// Runs one step, answering what it asks.
async fn step<H: Host>(
    mut machine: Box<Machine>,
    context: &Rc<Context>,
    errand: &mut Errand<'_, H>,
) -> Result<(Box<Machine>, Result<Stop, rustls::Error>), HandshakeError> {
    let mut step = Step::new(context.clone(), move || {
        let stop = machine.advance();
        (machine, stop)
    })?;
    let mut answer = Answer::Begin;
    loop {
        match step.resume(answer) {
            Progress::Done(result) => return Ok(result),
            Progress::Asked(question) => answer = errand.answer(question).await,
        }
    }
}

enum Stop {
    NeedBytes,
    Ready,
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// A rustls connection with its buffers.
struct Machine {
    connection: Connection,
    incoming: Incoming,
    outgoing: Vec<u8>,
    early: Vec<u8>,
    peer_closed: bool,
    transcript: Option<Transcript>,
}

/// What the peer sent.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    /// How much of it rustls may look at: whole records, one more only when it needs it. What
    /// follows the handshake stays for [`Traffic`]. (rustls would answer a KeyUpdate when it sends
    /// data, which it never does here.)
    shown: usize,
}

/// Calls rustls until it needs bytes, is ready, or failed. (A macro, because the two connection
/// types share no public trait.)
macro_rules! advance {
    ($machine:ident, $connection:ident, $us:expr, $peer:expr) => {{
        $machine.incoming.show_record();
        let context = context();
        loop {
            // Certificates come in a later record than what is agreed, except in TLS 1.2.
            if let Some(context) = &context {
                context.agreed.set(Agreed::of(&*$connection));
            }
            let UnbufferedStatus { discard, state } =
                $connection.process_tls_records($machine.incoming.shown());
            let (mut stop, mut encoded) = (None, None);
            match state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    let before = $machine.outgoing.len();
                    encode(&mut $machine.outgoing, |buffer| data.encode(buffer))?;
                    encoded = Some(before);
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::ReadTraffic(mut data)) => {
                    while let Some(record) = data.next_record() {
                        $machine.early.extend_from_slice(record?.payload);
                    }
                }
                Ok(ConnectionState::BlockedHandshake) => stop = Some(Ok(Stop::NeedBytes)),
                Ok(ConnectionState::WriteTraffic(_)) => stop = Some(Ok(Stop::Ready)),
                Ok(ConnectionState::PeerClosed) => $machine.peer_closed = true,
                Ok(ConnectionState::Closed) => stop = Some(Ok(Stop::Ready)),
                Ok(other) => {
                    stop = Some(Err(rustls::Error::General(format!("unexpected {other:?}"))));
                }
                Err(error) => {
                    $machine.incoming.discard(discard);
                    // What remains to be said is the alert.
                    while $connection.wants_write() {
                        let UnbufferedStatus { discard, state } =
                            $connection.process_tls_records($machine.incoming.shown());
                        if let Ok(ConnectionState::EncodeTlsData(mut data)) = state {
                            encode(&mut $machine.outgoing, |buffer| data.encode(buffer))?;
                        }
                        $machine.incoming.discard(discard);
                    }
                    return Err(error);
                }
            }
            if discard > 0 {
                if let Some(transcript) = &mut $machine.transcript {
                    transcript.see($peer, &$machine.incoming.bytes[..discard]);
                }
                $machine.incoming.discard(discard);
            }
            // What we say answers what was discarded, so it comes second.
            if let (Some(transcript), Some(before)) = (&mut $machine.transcript, encoded) {
                transcript.see($us, &$machine.outgoing[before..]);
            }
            if let Some(stop) = stop {
                if matches!(stop, Ok(Stop::NeedBytes)) && $machine.incoming.show_record() {
                    continue;
                }
                return stop;
            }
        }
    }};
}

impl Incoming {
    /// Where the record behind those shown ends, if it is whole or can never become one. Saves
    /// rustls, and us, from looking at every byte of a peer that sends one at a time.
    fn next_record(&self) -> Option<usize> {
        let [kind, major, _, high, low, ..] = *self.bytes.get(self.shown..)? else {
            return None;
        };
        if !(20..=23).contains(&kind) || major != 3 {
            return Some(self.bytes.len());
        }
        let end = self.shown + 5 + usize::from(u16::from_be_bytes([high, low]));
        (end <= self.bytes.len()).then_some(end)
    }

    fn has_whole_record(&self) -> bool {
        self.next_record().is_some()
    }

    /// Lets rustls look at one more record; `false` if there is none.
    fn show_record(&mut self) -> bool {
        let next = self.next_record();
        self.shown = next.unwrap_or(self.shown);
        next.is_some()
    }

    fn discard(&mut self, n: usize) {
        self.bytes.drain(..n);
        self.shown -= n;
    }

    fn shown(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.shown]
    }
}

impl Machine {
    /// Whether the last step came to something beyond waiting.
    fn has_progressed(&self, stop: &Stop) -> bool {
        matches!(stop, Stop::Ready) || !self.outgoing.is_empty()
    }

    /// Says nothing of what was to be said, but an alert where that is possible: in TLS 1.2 a client that
    /// has not shown its certificate yet speaks in the clear.
    fn abandon(&mut self) {
        self.outgoing.clear();
        let version = match &self.connection {
            Connection::Client(connection) => connection.protocol_version(),
            Connection::Server(connection) => connection.protocol_version(),
        };
        if version == Some(ProtocolVersion::TLSv1_2) {
            self.outgoing.extend_from_slice(&[21, 3, 3, 0, 2, 2, alert::ACCESS_DENIED]);
        }
    }

    fn new(engine: &Engine, job: &Job<'_>) -> Result<Box<Self>, HandshakeError> {
        let connection = match job.role {
            Role::Server => {
                let config = engine.server(job.authentication, job.twelve.private);
                UnbufferedServerConnection::new(config).map(Connection::Server)
            }
            Role::Client { server, sni } => {
                let name = server
                    .and_then(|name| ServerName::try_from(name.to_owned()).ok())
                    .unwrap_or(ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into()));
                let config = engine.client(job.authentication, sni, job.twelve.private);
                UnbufferedClientConnection::new(config, name).map(Connection::Client)
            }
        }
        .map_err(HandshakeError::Tls)?;
        Ok(Box::new(Self {
            connection,
            incoming: Incoming::default(),
            outgoing: Vec::new(),
            early: Vec::new(),
            peer_closed: false,
            transcript: job.exporter.then(Transcript::default),
        }))
    }

    fn advance(&mut self) -> Result<Stop, rustls::Error> {
        match &mut self.connection {
            Connection::Client(connection) => {
                advance!(self, connection, Sender::Client, Sender::Server)
            }
            Connection::Server(connection) => {
                advance!(self, connection, Sender::Server, Sender::Client)
            }
        }
    }

    async fn receive(&mut self, socket: &Socket) -> Result<(), HandshakeError> {
        let have = self.incoming.bytes.len();
        if have >= INCOMING_LIMIT {
            return Err(HandshakeError::TooLong);
        }
        self.incoming.bytes.resize(have + READ_SIZE, 0);
        let received = socket.recv(&mut self.incoming.bytes[have..]).await;
        self.incoming.bytes.truncate(have + received.as_ref().copied().unwrap_or(0));
        match received? {
            0 => Err(HandshakeError::PeerClosed),
            _ => Ok(()),
        }
    }

    /// Whether what is to be sent can wait for the first data: tickets, which a TLS 1.3 server
    /// sends once it has the client's Finished (RFC 8446 section 4.6.1). Sent by themselves they
    /// cost a system call here, and wake the client for nothing it waits for.
    fn may_hold(&self, stop: &Result<Stop, rustls::Error>) -> bool {
        let Connection::Server(connection) = &self.connection else { return false };
        matches!(stop, Ok(Stop::Ready))
            && connection.protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    fn finish(self: Box<Self>, context: &Rc<Context>) -> Result<Established, HandshakeError> {
        let machine = *self;
        let common: &CommonState = match &machine.connection {
            Connection::Client(connection) => connection,
            Connection::Server(connection) => connection,
        };
        let unfinished = || HandshakeError::Tls(rustls::Error::HandshakeNotComplete);
        let suite = common.negotiated_cipher_suite().ok_or_else(unfinished)?;
        let summary = Summary {
            protocol: match common.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                _ => "TLSv1.2",
            },
            suite: suite.suite().as_str().unwrap_or("unknown"),
            group: common
                .negotiated_key_exchange_group()
                .and_then(|group| group.name().as_str())
                .unwrap_or("none"),
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            private: common.protocol_version() == Some(ProtocolVersion::TLSv1_3),
        };
        let agreed = Agreed::of(common);
        let peer = common.peer_certificates().filter(|chain| !chain.is_empty()).map(|chain| {
            PeerCredential::X509(chain.iter().map(|c| c.clone().into_owned()).collect())
        });
        let exporter =
            machine.transcript.and_then(|transcript| exporter(suite, context, &transcript));
        let (secrets, kernel) = match machine.connection {
            Connection::Client(connection) => connection
                .dangerous_into_kernel_connection()
                .map(|(secrets, kernel)| (secrets, Kernel::Client(kernel, context.clone()))),
            Connection::Server(connection) => connection
                .dangerous_into_kernel_connection()
                .map(|(secrets, kernel)| (secrets, Kernel::Server(kernel))),
        }
        .map_err(HandshakeError::Tls)?;
        let traffic = Traffic::new(
            suite,
            secrets,
            kernel,
            machine.early,
            machine.incoming.bytes,
            machine.outgoing,
            machine.peer_closed,
        )
        .map_err(HandshakeError::Tls)?;
        if !summary.resumed && !context.chose.get() {
            // The session that was offered for resumption was not resumed.
            context.set_shown(None);
        }
        let shown = context.shown();
        let carrier = Carrier::Rustls(Box::new(traffic));
        Ok(Established { summary, agreed, peer, exporter, shown, carrier })
    }
}

fn exporter(
    suite: SupportedCipherSuite,
    context: &Context,
    transcript: &Transcript,
) -> Option<Exporter> {
    let secret = context.secret.take();
    if secret.is_empty() { None } else { Exporter::new(suite, secret, transcript) }
}

/// Appends what `write` writes to `outgoing`, giving it as much room as it says it needs.
fn encode(
    outgoing: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), rustls::Error> {
    let used = outgoing.len();
    let mut room = outgoing.capacity() - used;
    loop {
        outgoing.resize(used + room, 0);
        match write(&mut outgoing[used..]) {
            Ok(written) => {
                outgoing.truncate(used + written);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(more)) => room = more.required_size.max(1024),
            Err(EncodeError::AlreadyEncoded) => {
                outgoing.truncate(used);
                return Err(rustls::Error::General("a handshake message was encoded twice".into()));
            }
        }
    }
}

/// In our words. What is private was offered as TLS 1.3 only.
fn explain(error: rustls::Error, private: bool) -> HandshakeError {
    match error {
        rustls::Error::AlertReceived(rustls::AlertDescription::ProtocolVersion)
        | rustls::Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) if private => HandshakeError::NotPrivate,
        rustls::Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType
            | rustls::InvalidMessage::UnknownProtocolVersion,
        ) => HandshakeError::NotTls,
        rustls::Error::AlertReceived(alert) => HandshakeError::Alert(alert_words(alert)),
        other => HandshakeError::Tls(other),
    }
}

/// An alert as its RFC calls it, nearly.
pub(crate) fn alert_words(alert: rustls::AlertDescription) -> String {
    alert.as_str().map_or_else(|| format!("{alert:?}"), readable)
}

/// `HandshakeFailure` becomes `handshake failure`.
fn readable(camel: &str) -> String {
    let mut words = String::new();
    for (at, c) in camel.char_indices() {
        if at > 0 && c.is_ascii_uppercase() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}
