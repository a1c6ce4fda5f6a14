//! The connection: one handshake state machine for both roles, over either record layer.
//!
//! ```text
//!             ┌────────────────────────────────────────────────┐
//!             ▼                                                │ refused (no_renegotiation)
//!   Fresh ─► Handshake ─► Anonymous ─► Handshake ─► Open ◄─► Handshake
//!               │  (precursor only)                  ▲│
//!               └────────────────────────────────────┘└─► Closed   (also from everywhere else, on a fault)
//! ```
//! *Open* alone carries data. A handshake that runs over an open connection leaves it open: data that the peer
//! sent before it joined still arrives. [`client`] and [`server`] hold the states within a handshake.

mod client;
mod output;
mod relay;
mod server;

pub use output::{
    ChooseCredential, Closed, NewConfig, Output, Renegotiated, SignRequest, Summary, Verify,
};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::codec::{CertificateType, PeerCertificate, Signed, kind};
use crate::config::{Anonymous, ClientConfig, Common, Credential, Renegotiation, ServerConfig};
use crate::crypto::{
    Group, KeyKind, RecordKey, SignatureScheme, Transcript, VerifyError, verify_signature,
};
use crate::dtls::{self, FlightEnd};
use crate::error::{Alert, Error};
use crate::keys::{Exporter, Role, Secrets, VERIFY_DATA};
use crate::record::{Incoming, MAX_IDLE, Message, Stream};
use crate::suite::{Authentication, Suite};
use crate::ticket::ClientSession;
use crate::transport::{Datagram, Sent, Transport};

/// What hellos agree on.
#[derive(Clone)]
struct Agreed {
    suite: &'static Suite,
    client_random: [u8; 32],
    server_random: [u8; 32],
    certificate_type: CertificateType,
    alpn: Option<Vec<u8>>,
    ticket: bool,
}

/// A handshake that is about to be, or is, complete.
struct Completion {
    secrets: Secrets,
    group: Option<Group>,
    peer: Option<PeerCertificate>,
    peer_key: Vec<u8>,
    shown: Option<Arc<Credential>>,
    server_name: Option<String>,
    alpn: Option<Vec<u8>>,
    resumed: bool,
    client_session: Option<ClientSession>,
    renegotiation: bool,
    requested: bool,
    client_verify: [u8; VERIFY_DATA],
    server_verify: [u8; VERIFY_DATA],
    tls_unique: [u8; VERIFY_DATA],
}

impl Completion {
    fn new(
        secrets: Secrets,
        agreed: &Agreed,
        server_name: Option<String>,
        renegotiation: bool,
        requested: bool,
    ) -> Self {
        Self {
            secrets,
            group: None,
            peer: None,
            peer_key: Vec::new(),
            shown: None,
            server_name,
            alpn: agreed.alpn.clone(),
            resumed: false,
            client_session: None,
            renegotiation,
            requested,
            client_verify: [0; VERIFY_DATA],
            server_verify: [0; VERIFY_DATA],
            tls_unique: [0; VERIFY_DATA],
        }
    }
}

/// What a message leads to.
enum Step {
    Client(Box<client::Handshake>),
    Server(Box<server::Handshake>),
    /// The handshake is over.
    Done,
}

/// The latest finished handshake.
struct Session {
    exporter: Exporter,
    summary: Summary,
    client_verify: [u8; VERIFY_DATA],
    server_verify: [u8; VERIFY_DATA],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No handshake is finished.
    Fresh,
    /// A precursor is: the next must authenticate.
    Anonymous,
    /// Data may flow.
    Open,
    Closed,
}

enum Config {
    Client(Arc<ClientConfig>),
    Server(Arc<ServerConfig>),
}

impl Config {
    fn common(&self) -> &Common {
        match self {
            Self::Client(config) => &config.common,
            Self::Server(config) => &config.common,
        }
    }
}

/// Keys of a handshake over SCTP, and how far they are (RFC 6083 section 4.8).
struct NextKeys {
    exporter: Exporter,
    /// The caller knows of them.
    told: bool,
    /// Our ChangeCipherSpec is out.
    changed: bool,
    /// Both sides' Finished were right.
    done: bool,
}

/// What outlives a handshake.
struct Core {
    config: Config,
    transport: Transport,
    events: VecDeque<Output>,
    session: Option<Session>,
    phase: Phase,
    /// It was open at some time, so the session is one that counts.
    opened: bool,
    /// A HelloRequest of ours waits for its ClientHello.
    requested: bool,
    /// Over SCTP: keys that are about to be used, or have just come into use.
    next_keys: Option<NextKeys>,
    /// When the peer's latest renegotiation began.
    renegotiated: Option<Instant>,
    /// Messages without effect in a row.
    idle: u32,
    /// The cookie that our first hello had to carry (DTLS). OpenSSL's server asks for it in later hellos too,
    /// and passes over one that lacks it.
    cookie: Vec<u8>,
    said_close: bool,
    heard_close: bool,
    /// Makes something else of each message that is sent.
    #[cfg(test)]
    liar: Option<tests::Liar>,
}

impl Core {
    /// Sends a handshake message.
    fn say(&mut self, transcript: &mut Transcript, kind: u8, body: &[u8]) {
        #[cfg(test)]
        if let Some(liar) = &mut self.liar {
            for (kind, body) in liar(kind, body) {
                let raw = self.transport.queue(kind, &body);
                transcript.add(&raw);
            }
            return;
        }
        let raw = self.transport.queue(kind, body);
        transcript.add(&raw);
    }

    /// The keys are known; the peer will change to `key`.
    fn prepare_rx(&mut self, key: RecordKey, secrets: &Secrets) -> Result<(), Error> {
        if self.transport.is_sctp() {
            let exporter = Exporter::new(secrets, [0; VERIFY_DATA]);
            self.next_keys = Some(NextKeys { exporter, told: false, changed: false, done: false });
        }
        self.transport.prepare_rx(key)
    }

    fn ask(&mut self, question: Output) {
        // A signature is wanted for a flight of ours that has begun; all else follows one of the peer's.
        if !matches!(question, Output::Sign(_)) {
            self.transport.flight_answered();
        }
        self.events.push_back(question);
    }

    /// A handshake is finished on both sides.
    fn complete(&mut self, completion: Completion) -> Result<Step, Error> {
        self.transport.handshake_completed();
        if let Some(keys) = &mut self.next_keys {
            keys.done = true;
        }
        let anonymous = completion.secrets.suite.is_anonymous();
        let before = self.session.take();
        let private = self.phase == Phase::Anonymous
            || before.as_ref().is_some_and(|before| before.summary.private);
        let peer_changed = before.as_ref().is_none_or(|b| b.summary.peer != completion.peer);
        let shown_changed = before.as_ref().is_none_or(|b| b.summary.shown != completion.shown);
        self.session = Some(Session {
            exporter: Exporter::new(&completion.secrets, completion.tls_unique),
            summary: Summary {
                suite: completion.secrets.suite,
                group: completion.group,
                peer: completion.peer,
                peer_key: completion.peer_key,
                shown: completion.shown,
                server_name: completion.server_name,
                alpn: completion.alpn,
                resumed: completion.resumed,
                private,
            },
            client_verify: completion.client_verify,
            server_verify: completion.server_verify,
        });
        if let Some(session) = completion.client_session {
            self.events.push_back(Output::Session(Box::new(session)));
        }
        if self.phase == Phase::Open {
            let requested = completion.requested;
            self.events.push_back(Output::Renegotiated(Renegotiated {
                requested,
                peer_changed,
                shown_changed,
            }));
            return Ok(Step::Done);
        }
        debug_assert_eq!(completion.renegotiation, self.phase == Phase::Anonymous);
        if anonymous && self.config.common().anonymous != Anonymous::Final {
            self.phase = Phase::Anonymous;
            return match &self.config {
                Config::Client(config) => {
                    let config = config.clone();
                    client::Handshake::start(self, &config, true)
                        .map(|handshake| Step::Client(Box::new(handshake)))
                }
                Config::Server(_) => Ok(Step::Done),
            };
        }
        self.phase = Phase::Open;
        self.opened = true;
        self.events.push_back(Output::Established);
        Ok(Step::Done)
    }

    /// Something came that changes nothing.
    fn nothing(&mut self) -> Result<(), Error> {
        self.idle += 1;
        if self.idle > MAX_IDLE { Err(Error::Flood) } else { Ok(()) }
    }

    /// May the peer begin a renegotiation now? If not, it is told.
    fn admits_renegotiation(&mut self, now: Option<Instant>) -> Result<bool, Error> {
        let admitted = match (self.config.common().renegotiation, self.renegotiated, now) {
            (Renegotiation::Refuse, ..) => false,
            (Renegotiation::AtMostEvery(interval), Some(latest), Some(now)) => {
                now.saturating_duration_since(latest) >= interval
            }
            (Renegotiation::AtMostEvery(_), ..) => true,
        };
        if admitted && !self.said_close {
            self.renegotiated = now;
            self.idle = 0;
            return Ok(true);
        }
        self.nothing()?;
        self.transport.queue_alert(Alert::NO_RENEGOTIATION)?;
        Ok(false)
    }
}

/// A TLS 1.2 or DTLS 1.2 connection.
pub struct Connection {
    core: Core,
    handshake: Option<Step>,
    now: Option<Instant>,
}

impl Connection {
    /// A client. Its ClientHello waits in [`Self::poll_output`].
    pub fn client(config: &Arc<ClientConfig>) -> Result<Self, Error> {
        let mut connection =
            Self::new(Config::Client(config.clone()), Transport::Stream(Stream::default()));
        connection.say_hello(config, true)?;
        Ok(connection)
    }

    /// A server.
    pub fn server(config: Arc<ServerConfig>) -> Self {
        Self::new(Config::Server(config), Transport::Stream(Stream::default()))
    }

    /// A client of DTLS, over what `settings` say.
    pub fn datagram_client(
        config: &Arc<ClientConfig>,
        settings: dtls::Config,
        now: Instant,
    ) -> Result<Self, Error> {
        let transport = Transport::Datagram(Box::new(Datagram::new(settings, None, now)));
        let mut connection = Self::new(Config::Client(config.clone()), transport);
        connection.say_hello(config, true)?;
        Ok(connection)
    }

    /// A server of DTLS. Over UDP begin it only when [`dtls::Cookies`] found the hello's cookie valid, with
    /// what they say, and bring it the same datagram.
    pub fn datagram_server(
        config: Arc<ServerConfig>,
        settings: dtls::Config,
        start: Option<dtls::Start>,
        now: Instant,
    ) -> Self {
        let transport = Transport::Datagram(Box::new(Datagram::new(settings, start, now)));
        Self::new(Config::Server(config), transport)
    }

    fn new(config: Config, transport: Transport) -> Self {
        let core = Core {
            config,
            transport,
            events: VecDeque::new(),
            session: None,
            phase: Phase::Fresh,
            opened: false,
            requested: false,
            next_keys: None,
            renegotiated: None,
            idle: 0,
            cookie: Vec::new(),
            said_close: false,
            heard_close: false,
            #[cfg(test)]
            liar: None,
        };
        Self { core, handshake: None, now: None }
    }

    fn say_hello(&mut self, config: &Arc<ClientConfig>, requested: bool) -> Result<(), Error> {
        let handshake = client::Handshake::start(&mut self.core, config, requested)?;
        self.handshake = Some(Step::Client(Box::new(handshake)));
        Ok(())
    }

    // ---- what comes in

    /// Takes what the peer sent: any piece of a stream, or one datagram. What it means comes out of
    /// [`Self::poll_output`]. Of a stream, bring no more than some records while a question waits.
    pub fn handle_input(&mut self, bytes: &[u8], now: Instant) {
        self.now = Some(now);
        if self.core.phase == Phase::Closed {
            return;
        }
        if let Err(error) = self.core.transport.receive(bytes, now) {
            return self.fail(error);
        }
        self.pump();
    }

    /// Time has passed; see [`Output::WaitUntil`]. Over datagrams call it also before an answer that took its
    /// time, so that timers begin now.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = Some(now);
        if self.core.phase == Phase::Closed {
            return;
        }
        match self.core.transport.handle_timeout(now) {
            Ok(()) => self.pump(),
            Err(error) => self.fail(error),
        }
    }

    /// The stream from the peer ended.
    pub fn handle_end(&mut self) {
        if self.core.phase == Phase::Closed {
            return;
        }
        if self.core.heard_close {
            self.close_if_both();
        } else {
            self.end(Closed::Failed(Error::Truncated));
        }
    }

    /// The answer to [`Output::ChooseCredential`]. `None`: nothing to show, which ends a server's
    /// handshake unless it may stay anonymous. An alert ends it in any case.
    pub fn chosen(&mut self, credential: Result<Option<Arc<Credential>>, Alert>) {
        self.resume(|step, core| {
            let credential = credential.map_err(Error::Refused)?;
            match step {
                Some(Step::Client(handshake)) => handshake.chosen(core, credential),
                Some(Step::Server(handshake)) => handshake.chosen(core, credential),
                _ => Err(Error::Misuse("no credential was to be chosen")),
            }
        });
    }

    /// The answer to [`Output::Sign`]: the signature as TLS carries it (ECDSA: DER), or none.
    pub fn signed(&mut self, signature: Option<Vec<u8>>) {
        self.resume(|step, core| {
            let signature = signature.ok_or(Error::NoSignature)?;
            match step {
                Some(Step::Client(handshake)) => handshake.signed(core, signature),
                Some(Step::Server(handshake)) => handshake.signed(core, signature),
                _ => Err(Error::Misuse("no signature was asked for")),
            }
        });
    }

    /// The answer to [`Output::Verify`]: the SubjectPublicKeyInfo (DER) of the key that the peer signs
    /// with, whatever the kind of certificate, or the alert to send. For a peer that showed nothing, and for a
    /// resumed session, the key is not used.
    pub fn verified(&mut self, key: Result<Vec<u8>, Alert>) {
        self.resume(|step, core| match step {
            Some(Step::Client(handshake)) => handshake.verified(core, key),
            Some(Step::Server(handshake)) => handshake.verified(core, key),
            _ => Err(Error::Misuse("nobody was to be verified")),
        });
    }

    fn resume(&mut self, with: impl FnOnce(Option<Step>, &mut Core) -> Result<Step, Error>) {
        if self.core.phase == Phase::Closed {
            return;
        }
        let step = self.handshake.take();
        match with(step, &mut self.core) {
            Ok(step) => {
                self.go(step);
                self.pump();
            }
            Err(error) => self.fail(error),
        }
    }

    fn go(&mut self, step: Step) {
        self.handshake = match step {
            Step::Done => None,
            step => Some(step),
        };
    }

    /// Whether an answer is waited for: until then nothing is read.
    pub fn is_asking(&self) -> bool {
        match &self.handshake {
            Some(Step::Client(handshake)) => handshake.is_asking(),
            Some(Step::Server(handshake)) => handshake.is_asking(),
            _ => false,
        }
    }

    fn pump(&mut self) {
        while self.core.phase != Phase::Closed && !self.is_asking() {
            let done = match self.core.transport.next() {
                Ok(Some(incoming)) => self.incoming(incoming),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                self.fail(error);
            }
        }
    }

    fn incoming(&mut self, incoming: Incoming) -> Result<(), Error> {
        match incoming {
            Incoming::Handshake(message) => self.message(&message),
            Incoming::ChangeCipherSpec => {
                let step = match self.handshake.take() {
                    Some(Step::Client(handshake)) => {
                        handshake.change_cipher_spec(&mut self.core)?
                    }
                    Some(Step::Server(handshake)) => {
                        handshake.change_cipher_spec(&mut self.core)?
                    }
                    _ => return Err(Error::Unexpected("ChangeCipherSpec")),
                };
                self.go(step);
                Ok(())
            }
            Incoming::Alert { fatal, alert } => self.alert(fatal, alert),
            Incoming::Data(data) => {
                self.admit_data()?;
                self.core.events.push_back(Output::Data(data));
                Ok(())
            }
            Incoming::Message { data, tag } => {
                self.admit_data()?;
                self.core.events.push_back(Output::Message { data, tag });
                Ok(())
            }
        }
    }

    /// May data of the peer's arrive now?
    fn admit_data(&mut self) -> Result<(), Error> {
        match self.core.phase {
            Phase::Anonymous => return Err(Error::DataInAnonymousPhase),
            // Datagrams come in any order.
            Phase::Open if !self.core.heard_close || self.core.transport.is_datagram() => {}
            _ => return Err(Error::Unexpected("application data")),
        }
        // What was on its way when the renegotiation began still counts; once the peer has joined,
        // it has no reason to send any.
        let joined = match &self.handshake {
            Some(Step::Client(handshake)) => !handshake.is_fresh(),
            Some(Step::Server(_)) => true,
            _ => false,
        };
        if joined && !self.core.transport.is_datagram() {
            return Err(Error::Unexpected("application data"));
        }
        self.core.idle = 0;
        Ok(())
    }

    fn message(&mut self, message: &Message) -> Result<(), Error> {
        let core = &mut self.core;
        let step = match (self.handshake.take(), message.kind()) {
            (handshake, kind::HELLO_REQUEST) => {
                let Config::Client(config) = &core.config else {
                    return Err(Error::Unexpected("HelloRequest"));
                };
                if !message.body().is_empty() {
                    return Err(Error::Malformed("HelloRequest"));
                }
                let config = config.clone();
                match handshake {
                    // RFC 5246 section 7.4.1.1: ignored during a handshake.
                    Some(step) => {
                        core.nothing()?;
                        step
                    }
                    None if core.admits_renegotiation(self.now)? => {
                        Step::Client(Box::new(client::Handshake::start(core, &config, false)?))
                    }
                    None => Step::Done,
                }
            }
            (Some(Step::Client(handshake)), _) => handshake.message(core, message)?,
            (Some(Step::Server(handshake)), _) => handshake.message(core, message)?,
            (_, kind::CLIENT_HELLO) => {
                let Config::Server(config) = &core.config else {
                    return Err(Error::Unexpected("ClientHello"));
                };
                let config = config.clone();
                let requested = std::mem::take(&mut core.requested);
                let open = core.phase == Phase::Open;
                if open && !requested && !core.admits_renegotiation(self.now)? {
                    Step::Done
                } else {
                    server::Handshake::start(core, &config, message, requested)?
                }
            }
            (_, other) => return Err(Error::Unexpected(crate::codec::name(other))),
        };
        self.go(step);
        Ok(())
    }

    fn alert(&mut self, fatal: bool, alert: Alert) -> Result<(), Error> {
        let core = &mut self.core;
        match alert {
            Alert::CLOSE_NOTIFY => {
                core.heard_close = true;
                if core.phase == Phase::Open {
                    core.events.push_back(Output::PeerClosed);
                    self.close_if_both();
                } else {
                    self.end(Closed::Failed(Error::PeerAlert(alert)));
                }
            }
            Alert::NO_RENEGOTIATION if !fatal => {
                let refused = match &self.handshake {
                    Some(Step::Client(handshake)) => handshake.is_fresh() && handshake.requested,
                    None => std::mem::take(&mut core.requested),
                    _ => false,
                };
                match (core.phase, refused) {
                    (Phase::Anonymous, _) => return Err(Error::StaysAnonymous),
                    (Phase::Open, true) => {
                        self.handshake = None;
                        core.events.push_back(Output::RenegotiationRefused);
                    }
                    _ => core.nothing()?,
                }
            }
            _ if fatal => self.end(Closed::Failed(Error::PeerAlert(alert))),
            _ => core.nothing()?,
        }
        Ok(())
    }

    fn close_if_both(&mut self) {
        if self.core.said_close && self.core.heard_close {
            self.end(Closed::Cleanly);
        }
    }

    fn fail(&mut self, error: Error) {
        if let Some(alert) = error.alert() {
            // If even the alert cannot be made, the peer sees the connection end.
            let _ = self.core.transport.queue_alert(alert);
        }
        self.end(Closed::Failed(error));
    }

    fn end(&mut self, how: Closed) {
        self.handshake = None;
        self.core.phase = Phase::Closed;
        // Questions are moot; data that arrived whole is not.
        self.core.events.retain(|event| {
            !matches!(event, Output::Verify(_) | Output::Sign(_) | Output::ChooseCredential(_))
        });
        self.core.events.push_back(Output::Closed(how));
    }

    // ---- what goes out

    /// What to do next; call it until it says [`Output::Idle`] or [`Output::WaitUntil`]. Bytes to send are
    /// appended to `buf`.
    pub fn poll_output(&mut self, buf: &mut Vec<u8>) -> Output {
        // Before anything that is sent with them, or after which the peer may use them.
        if let Some(keys) = &mut self.core.next_keys
            && !std::mem::replace(&mut keys.told, true)
        {
            return Output::NewKeys;
        }
        match self.core.transport.output(buf) {
            Ok(Sent::Bytes) => return Output::Send,
            Ok(Sent::ChangeOfKeys) => {
                if let Some(keys) = &mut self.core.next_keys {
                    keys.changed = true;
                }
                return Output::SendChangeOfKeys;
            }
            Ok(Sent::Nothing) => {}
            Err(error) => self.end(Closed::Failed(error)),
        }
        if self.core.next_keys.as_ref().is_some_and(|keys| keys.changed && keys.done) {
            self.core.next_keys = None;
            return Output::OldKeysDone;
        }
        if let Some(event) = self.core.events.pop_front() {
            return event;
        }
        match self.core.transport.timeout() {
            Some(time) if self.core.phase != Phase::Closed => Output::WaitUntil(time),
            _ => Output::Idle,
        }
    }

    /// Sends data. Only while [`Self::may_send`].
    pub fn send(&mut self, data: &[u8]) -> Result<(), Error> {
        if !self.may_send() {
            return Err(Error::Misuse("no data can be sent now"));
        }
        self.core.transport.queue_data(data)
    }

    /// Whether data can be sent now: the connection is open, no handshake runs, and the key is not used up.
    pub fn may_send(&self) -> bool {
        self.core.phase == Phase::Open
            && self.handshake.is_none()
            && !self.core.said_close
            && self.core.transport.may_seal()
    }

    /// Says that no more data follows. The peer's may still arrive.
    pub fn close(&mut self) {
        if self.core.phase == Phase::Closed || self.core.said_close {
            return;
        }
        self.core.said_close = true;
        if let Err(error) = self.core.transport.queue_alert(Alert::CLOSE_NOTIFY) {
            return self.end(Closed::Failed(error));
        }
        if self.core.phase == Phase::Open {
            self.close_if_both();
        } else {
            self.end(Closed::Failed(Error::Refused(Alert::USER_CANCELED)));
        }
    }

    /// Ends the connection with an alert, for a reason of the caller's.
    pub fn abort(&mut self, alert: Alert) {
        if self.core.phase != Phase::Closed {
            self.fail(Error::Refused(alert));
        }
    }

    /// Asks for a renegotiation, from now on with this configuration if there is one. It ends with
    /// [`Output::Renegotiated`] or [`Output::RenegotiationRefused`]; a peer may also ignore a server's wish.
    pub fn renegotiate(&mut self, config: Option<NewConfig>) -> Result<(), Error> {
        if self.core.phase != Phase::Open || self.handshake.is_some() || self.core.said_close {
            return Err(Error::Misuse("a renegotiation needs an open connection at rest"));
        }
        match (&mut self.core.config, config) {
            (_, None) => {}
            (Config::Client(old), Some(NewConfig::Client(new))) => *old = new,
            (Config::Server(old), Some(NewConfig::Server(new))) => *old = new,
            _ => return Err(Error::Misuse("a configuration of the other role")),
        }
        match &self.core.config {
            Config::Client(config) => {
                let config = config.clone();
                self.say_hello(&config, true)
            }
            Config::Server(_) => {
                self.core.requested = true;
                self.core.transport.queue(kind::HELLO_REQUEST, &[]);
                self.core.transport.end_flight(FlightEnd::Unanswered);
                Ok(())
            }
        }
    }

    // ---- what is known

    /// What was agreed; `None` before [`Output::Established`].
    pub fn summary(&self) -> Option<&Summary> {
        self.core.session.as_ref().filter(|_| self.core.opened).map(|s| &s.summary)
    }

    /// Keying material of the latest handshake; `None` before [`Output::Established`].
    pub fn exporter(&self) -> Option<Exporter> {
        self.core.session.as_ref().filter(|_| self.core.opened).map(|s| s.exporter.clone())
    }

    /// The server's certificate, whoever of us that is: what tls-server-end-point hashes (RFC 5929 section
    /// 4), with the hash of the certificate's signature, SHA-256 instead of MD5 and SHA-1.
    pub fn server_certificate(&self) -> Option<&PeerCertificate> {
        let summary = self.summary()?;
        match &self.core.config {
            Config::Client(_) => summary.peer.as_ref(),
            Config::Server(_) => summary.shown.as_ref().map(|credential| &credential.certificate),
        }
    }

    /// Whether it runs over datagrams: DTLS.
    pub fn is_datagram(&self) -> bool {
        self.core.transport.is_datagram()
    }

    /// Which side we are.
    pub fn role(&self) -> Role {
        match self.core.config {
            Config::Client(_) => Role::Client,
            Config::Server(_) => Role::Server,
        }
    }

    /// Whether a handshake runs.
    pub fn is_handshaking(&self) -> bool {
        self.handshake.is_some() || matches!(self.core.phase, Phase::Fresh | Phase::Anonymous)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("role", &self.role())
            .field("phase", &self.core.phase)
            .finish_non_exhaustive()
    }
}

/// Which suites a key of this kind fits.
fn authentication_of(kind: KeyKind) -> Authentication {
    match kind {
        KeyKind::Rsa => Authentication::Rsa,
        KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::Ed25519 => Authentication::Ecdsa,
    }
}

/// Which suites signatures of this scheme fit.
fn authentication_by(scheme: SignatureScheme) -> Authentication {
    if scheme.fits(KeyKind::Rsa) { Authentication::Rsa } else { Authentication::Ecdsa }
}

fn check_signature(
    common: &Common,
    key: &[u8],
    message: &[u8],
    signed: &Signed,
    what: &'static str,
) -> Result<(), Error> {
    let scheme = SignatureScheme::from_code_point(signed.scheme)
        .filter(|scheme| common.schemes.contains(scheme))
        .ok_or(Error::Illegal("a signature scheme that was not offered"))?;
    verify_signature(scheme, key, message, &signed.signature).map_err(|error| match error {
        VerifyError::UnsupportedKey => {
            Error::UnsupportedCertificate("its key is of a kind that is not supported")
        }
        VerifyError::WrongScheme => Error::Illegal("a signature scheme that does not fit the key"),
        VerifyError::BadSignature => Error::Decrypt(what),
    })
}

#[cfg(test)]
mod tests;
