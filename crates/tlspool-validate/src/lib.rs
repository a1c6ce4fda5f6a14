//! Is the peer who it says it is, and whom we wanted?
//!
//! [`PolicyValidator`] answers an [`Inquiry`] about a peer with [`Validated`] names or a [`Refusal`]
//! that a person can act on. It evaluates the [policy] that applies, whose predicates ask
//! trust anchors ([`PkixValidator`], RFC 5280), TLSA records ([`dane`]), directories, pins, trusted OpenPGP keys, revocation.
//!
//! Validation reads no file and does no I/O: what must be looked up is asked of [`sources::Sources`], what
//! the tables say of [`Tables`]. [`TrustAnchors`] and [`RevocationLists`] are built once, shared, and
//! swapped whole when files or the trust table change. The proof that the peer holds the key (the handshake's
//! signature) is the TLS engine's business.
#![forbid(unsafe_code)]

mod anchors;
pub mod dane;
mod evaluate;
mod foresee;
mod inquiry;
mod openpgp;
mod pkix;
pub mod policy;
mod predicates;
mod refusal;
mod revocation;
pub mod sources;
pub mod trace;
mod validator;

pub use anchors::{AnchorError, Loaded, SystemAnchors, TableAnchor, TrustAnchors, is_authority};
pub use foresee::Expected;
pub use inquiry::{
    Applicable, Commit, Credential, Endpoint, Inquiry, Negotiated, NoTables, Refused, Side, Tables,
    Validated,
};
pub use openpgp::OpenPgpTrust;
pub use pkix::PkixValidator;
pub use refusal::Refusal;
pub use revocation::crl::{RevocationListError, RevocationLists};
pub use rustls_pki_types::{CertificateDer, UnixTime};
use tlspool_identity::DoNai;
pub use tlspool_identity::x509::Legacy;
pub use tlspool_openpgp::{
    Certificate as OpenPgpCertificate, KeyId, Limits as OpenPgpLimits, SigningKey,
};
pub use validator::{LdapMatch, PolicySettings, PolicyValidator};

/// Whose certificate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A server's: it must be good for serverAuth.
    Server,
    /// A client's: it must be good for clientAuth.
    Client,
}

/// A chain, and what it should be good for.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The peer's certificates as it sent them, its own first.
    pub chain: &'a [CertificateDer<'a>],
    /// The peer's side.
    pub peer: Peer,
    /// The name the application wants; none: whoever it is, report it.
    pub wanted: Option<&'a DoNai>,
    /// Whether the domain may answer for a wanted user.
    pub domain_represents_user: bool,
    /// The service, which may have trust anchors of its own; empty if the application named none.
    pub service: &'a str,
    /// The time of the handshake.
    pub now: UnixTime,
}
