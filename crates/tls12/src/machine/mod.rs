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
//!
//! Bytes come in by [`input`], and what they lead to goes out by [`output`]; [`answer`] takes what the caller was
//! asked for. [`relay`] is the way of data past all that, once the connection is open.

mod answer;
mod client;
mod completion;
mod core;
mod end;
mod input;
mod output;
mod relay;
mod renegotiation;
mod server;
mod signature;

#[cfg(test)]
mod tests;

pub use output::{
    ChooseCredential, Closed, NewConfig, Output, Renegotiated, SignRequest, Summary, Verify,
};

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use completion::Completion;

use crate::codec::{CertificateType, PeerCertificate};
use crate::config::{ClientConfig, Common, ServerConfig};
use crate::dtls;
use crate::error::Error;
use crate::keys::{Exporter, Role, VERIFY_DATA};
use crate::record::Stream;
use crate::suite::Suite;
use crate::transport::{Datagram, Transport};

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
