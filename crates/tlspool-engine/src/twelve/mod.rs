//! Sessions that the crate `tls12` serves: OpenPGP certificates, the anonymous precursor, datagrams.
//!
//! ```text
//!   handshake::run ──(ClientHello, wishes)──► choose ──► rustls
//!                                                └─────► twelve::shake ─► Established
//!                                                        twelve::relay ─► Ended
//! ```
//! `tls12` does no I/O; this carries bytes and time in and out, and its questions to the [`Host`]. Unlike a
//! session of rustls, one of `tls12` keeps its connection for as long as it lives, because either side
//! may renegotiate.

mod association;
mod relay;
mod shake;
mod store;

use std::collections::VecDeque;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tls12::{CertificateType, Common, Connection, PeerCertificate};
use tlspool_sctp::Info;

use crate::ask::{Credential, Host, PeerCredential, Shown};
use crate::binding::Exporter;
use crate::config::{Engine, PeerAuthentication};
use crate::handshake::{HandshakeError, Job, Role, Summary};
use crate::tickets::Scope;

use self::association::Association;

pub use tls12::Anonymous;

pub use association::{Parts, header_of, info_of};
pub use relay::{Manner, Order, Orders, Outcome, Terms, run};
pub(crate) use shake::{client, server};
pub(crate) use store::Store;

/// What `tls12` is for in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wishes {
    /// A client's handshake is done by `tls12`. (A server's, if the client's hello calls for it.)
    pub insist: bool,
    /// What anonymous suites are for.
    pub anonymous: Anonymous,
    /// OpenPGP certificates are taken, and preferred.
    pub openpgp: bool,
    /// OpenPGP certificates are framed as in RFC 6091, not as deployed programs do it.
    pub rfc_framing: bool,
    /// Of an OpenPGP certificate of ours, the fingerprint is sent (RFC 6091 section 3.3), if it has 20 bytes.
    pub fingerprint: bool,
    /// No certificate travels in the clear, or there is no session: in TLS 1.3 it does not, and `tls12` hides
    /// it if `anonymous` permits that.
    pub private: bool,
}

impl Wishes {
    fn certificate_types(self) -> Vec<CertificateType> {
        if self.openpgp {
            vec![CertificateType::OpenPgp, CertificateType::X509]
        } else {
            vec![CertificateType::X509]
        }
    }

    fn common(self) -> Common {
        let framing =
            if self.rfc_framing { tls12::Framing::Rfc6091 } else { tls12::Framing::Deployed };
        Common {
            certificate_types: self.certificate_types(),
            framing,
            anonymous: self.anonymous,
            private: self.private,
            ..Common::default()
        }
    }
}

/// An established session of `tls12`.
pub struct Session {
    connection: Connection,
    /// What was chosen to be shown; the place is the number by which `tls12` knows it.
    chosen: Vec<Arc<Credential>>,
    engine: Engine,
    scope: Scope,
    /// As in [`Wishes::fingerprint`].
    fingerprint: bool,
    /// Data that came with the handshake's last flight.
    early: VecDeque<(Vec<u8>, Info)>,
    /// What it runs over, if that is SCTP.
    association: Option<Association>,
    peer_closed: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Session {
    fn new(connection: Connection, engine: &Engine, job: &Job<'_>) -> Self {
        Self {
            connection,
            chosen: Vec::new(),
            engine: engine.clone(),
            scope: job.scope,
            fingerprint: job.twelve.fingerprint,
            early: VecDeque::new(),
            association: None,
            peer_closed: false,
        }
    }

    /// What was agreed.
    pub fn summary(&self) -> Option<Summary> {
        let summary = self.connection.summary()?;
        Some(Summary {
            protocol: if self.connection.is_datagram() { "DTLSv1.2" } else { "TLSv1.2" },
            suite: summary.suite.name,
            group: summary.group.map_or("none", tls12::Group::name),
            resumed: summary.resumed,
            private: summary.private,
        })
    }

    /// What the peer has shown.
    pub fn peer(&self) -> Option<PeerCredential> {
        self.connection.summary()?.peer.clone().map(credential_of)
    }

    /// What we have shown.
    pub fn shown(&self) -> Option<Arc<Credential>> {
        let shown = self.connection.summary()?.shown.as_ref()?;
        self.chosen.get(usize::try_from(shown.id).ok()?).cloned()
    }

    /// Computes keying material.
    pub fn exporter(&self) -> Option<Exporter> {
        self.connection.exporter().map(Exporter::twelve)
    }

    /// Names what we show to `tls12`.
    fn remember(&mut self, credential: Arc<Credential>) -> u64 {
        let known =
            self.chosen.iter().position(|known| known.fingerprint == credential.fingerprint);
        let at = known.unwrap_or(self.chosen.len());
        if known.is_none() {
            self.chosen.push(credential);
        }
        at as u64
    }
}

fn credential_of(certificate: PeerCertificate) -> PeerCredential {
    match certificate {
        PeerCertificate::X509(chain) => {
            PeerCredential::X509(chain.into_iter().map(CertificateDer::from).collect())
        }
        PeerCertificate::OpenPgp { key_id, certificate } => {
            PeerCredential::OpenPgp { key_id, certificate }
        }
        PeerCertificate::OpenPgpFingerprint { key_id, fingerprint } => {
            PeerCredential::OpenPgpFingerprint { key_id, fingerprint }
        }
    }
}

/// What is sent of it; of OpenPGP perhaps but the fingerprint.
fn certificate_of(shown: &Shown, fingerprint: bool) -> PeerCertificate {
    match shown {
        Shown::X509(chain) => PeerCertificate::X509(chain.iter().map(|c| c.to_vec()).collect()),
        Shown::OpenPgp { key_id, fingerprint: Some(of), .. } if fingerprint => {
            PeerCertificate::OpenPgpFingerprint { key_id: *key_id, fingerprint: *of }
        }
        Shown::OpenPgp { key_id, certificate, .. } => {
            PeerCertificate::OpenPgp { key_id: *key_id, certificate: certificate.clone() }
        }
    }
}

/// What an offered session has shown of us, and the number by which `tls12` knows it.
type Offered = (Arc<Credential>, usize);

/// A client's configuration for `job`.
fn client_config(engine: &Engine, job: &Job<'_>) -> (tls12::ClientConfig, Option<Offered>) {
    let (server, sni) = match job.role {
        Role::Client { server, sni } => (server, sni),
        Role::Server => (None, false),
    };
    let (session, shown) = match engine.twelve.offer(&job.scope) {
        Some((session, shown)) => (Some(session), shown),
        None => (None, None),
    };
    let number = session.as_ref().and_then(|session| session.shown()).map(|shown| shown.id);
    let shown = shown.zip(number.and_then(|number| usize::try_from(number).ok()));
    let config = tls12::ClientConfig {
        common: job.twelve.common(),
        server_name: server.map(str::to_owned),
        // Without a precursor the name travels in the clear; only with one it can be hidden.
        conceal_name: !sni || job.twelve.anonymous != Anonymous::Never,
        wants_session: engine.twelve.keeps_sessions(),
        session,
    };
    (config, shown)
}

/// A server's configuration for `job`.
fn server_config(engine: &Engine, job: &Job<'_>) -> tls12::ServerConfig {
    tls12::ServerConfig {
        common: job.twelve.common(),
        client_auth: match job.authentication {
            PeerAuthentication::Required => tls12::ClientAuth::Required,
            PeerAuthentication::Requested => tls12::ClientAuth::Requested,
            PeerAuthentication::Ignored => tls12::ClientAuth::None,
        },
        tickets: engine.twelve.ticket_keys(),
        scope: job.scope,
        serves_tls13: true,
    }
}

/// Whether a client with this hello is served here.
pub(crate) async fn is_ours<H: Host>(wishes: Wishes, first: &[u8], host: &mut H) -> Option<bool> {
    match tls12::peek(first) {
        tls12::Peek::More => None,
        tls12::Peek::Hello(offer) if offer.tls13 => Some(false),
        // rustls would show its certificate.
        _ if wishes.private => Some(true),
        tls12::Peek::Other => Some(false),
        tls12::Peek::Hello(offer) => Some(
            offer.anonymous && wishes.anonymous != Anonymous::Never
                || offer.openpgp
                    && wishes.openpgp
                    && host.has_openpgp(offer.server_name.as_deref()).await,
        ),
    }
}

/// In the words of a handshake's errors.
fn explain(error: tls12::Error) -> HandshakeError {
    match error {
        tls12::Error::NotTls => HandshakeError::NotTls,
        tls12::Error::Truncated => HandshakeError::PeerClosed,
        tls12::Error::PeerAlert(alert) => HandshakeError::Alert(alert.to_string()),
        other => HandshakeError::Twelve(other),
    }
}
