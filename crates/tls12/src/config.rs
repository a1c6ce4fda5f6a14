//! What the caller wants of a connection, and what it shows of itself.

use std::sync::Arc;
use std::time::Duration;

use crate::codec::{CertificateType, Framing, PeerCertificate};
use crate::crypto::{Group, SignatureScheme};
use crate::suite::{SUITES, Suite};
use crate::ticket::{ClientSession, TicketKeys};

/// What both roles have.
#[derive(Debug, Clone)]
pub struct Common {
    /// Suites that authenticate, best first. Anonymous ones in it are passed over: see `anonymous`.
    pub suites: Vec<&'static Suite>,
    /// Groups for the key exchange, best first.
    pub groups: Vec<Group>,
    /// Signatures that are taken from the peer, best first.
    pub schemes: Vec<SignatureScheme>,
    /// Kinds of certificates, best first (RFC 6091 section 3.1). With X.509 alone the extension
    /// stays out.
    pub certificate_types: Vec<CertificateType>,
    /// How our OpenPGP certificates are framed.
    pub framing: Framing,
    /// Whether anonymous suites are used, and what for.
    pub anonymous: Anonymous,
    /// Certificates, and the names that they belong to, are sent within encryption or not at all: what
    /// `anonymous` permits must happen, or there is no connection.
    pub private: bool,
    /// Application protocols, best first (RFC 7301); empty: none is negotiated.
    pub alpn: Vec<Vec<u8>>,
    /// What the peer may ask for.
    pub renegotiation: Renegotiation,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            suites: SUITES.iter().filter(|suite| !suite.is_anonymous()).collect(),
            groups: vec![
                Group::X25519,
                Group::Secp256r1,
                Group::Secp384r1,
                Group::Ffdhe3072,
                Group::Ffdhe2048,
                Group::Ffdhe4096,
            ],
            schemes: SignatureScheme::ALL.to_vec(),
            certificate_types: vec![CertificateType::X509],
            framing: Framing::default(),
            anonymous: Anonymous::Never,
            private: false,
            alpn: Vec::new(),
            renegotiation: Renegotiation::default(),
        }
    }
}

/// What anonymous suites are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Anonymous {
    /// Nothing: they are neither offered nor taken.
    #[default]
    Never,
    /// A first handshake that hides the one which authenticates. If the peer does not do it, the
    /// first handshake authenticates, unless [`Common::private`] forbids it.
    Precursor,
    /// The end: the caller does not care who either side is.
    Final,
}

/// Renegotiation that the peer asks for. Ours is not bounded here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renegotiation {
    /// Answered with `no_renegotiation`.
    Refuse,
    /// Done, but not more often.
    AtMostEvery(Duration),
}

impl Default for Renegotiation {
    fn default() -> Self {
        Self::AtMostEvery(Duration::from_secs(10))
    }
}

/// A client's wishes.
#[derive(Debug, Clone, Default)]
pub struct ClientConfig {
    /// What both roles have.
    pub common: Common,
    /// The server name indication (RFC 6066 section 3), A-labels.
    pub server_name: Option<String>,
    /// Leave the server name out of what travels in the clear: with a precursor, of its first
    /// handshake, else altogether.
    pub conceal_name: bool,
    /// Ask for a session ticket.
    pub wants_session: bool,
    /// A session to resume.
    pub session: Option<ClientSession>,
}

/// A server's wishes.
#[derive(Debug, Clone, Default)]
pub struct ServerConfig {
    /// What both roles have.
    pub common: Common,
    /// What is asked of the client.
    pub client_auth: ClientAuth,
    /// Session tickets are given and taken with these keys.
    pub tickets: Option<Arc<TicketKeys>>,
    /// Tickets open only within the scope in which they were sealed, and with the same credential.
    pub scope: [u8; 32],
    /// The program as a whole also serves TLS 1.3: the random says so (RFC 8446 section 4.1.3), and a
    /// client that says it fell back is refused (RFC 7507).
    pub serves_tls13: bool,
}

/// Whether a client must authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// It is not asked.
    #[default]
    None,
    /// It is asked, and may have nothing to show.
    Requested,
    /// It must.
    Required,
}

/// Something to show, and how to name its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The caller's name for it; comes back with each request to sign.
    pub id: u64,
    /// What the peer gets to see.
    pub certificate: PeerCertificate,
    /// What its key can sign with, best first.
    pub schemes: Vec<SignatureScheme>,
    /// Separates the session tickets of a server's credentials: a digest of the certificate.
    pub fingerprint: [u8; 32],
}
