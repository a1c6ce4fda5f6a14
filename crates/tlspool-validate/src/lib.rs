//! Is the peer who it says it is, and whom we wanted?
//!
//! A [`Validator`] answers a [`Question`] about a peer's certificate chain with [`Validated`] names or
//! a [`Refusal`] that a person can act on. [`PkixValidator`] asks trust anchors (RFC 5280); validators
//! that ask live sources stand beside it behind the same trait.
//!
//! Validation reads no file and copies no anchor: [`TrustAnchors`] is built once, shared, and swapped
//! whole when files or the trust table change. The proof that the peer holds the key (the handshake's
//! signature) is the TLS engine's business.
#![forbid(unsafe_code)]

mod anchors;
pub mod dane;
mod pkix;
pub mod policy;
mod refusal;
pub mod sources;

use std::future::Future;
use std::pin::Pin;

pub use anchors::{AnchorError, Loaded, SystemAnchors, TableAnchor, TrustAnchors, is_authority};
pub use pkix::PkixValidator;
pub use refusal::Refusal;
pub use rustls_pki_types::{CertificateDer, UnixTime};
pub use tlspool_identity::x509::Legacy;
use tlspool_identity::{DoNai, How};

/// Whose certificate it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A server's: it must be good for serverAuth.
    Server,
    /// A client's: it must be good for clientAuth.
    Client,
}

/// What a validator is asked.
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

/// The names that a peer has proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validated {
    /// The one to report: the wanted name (its domain, if that answered for it), else the first
    /// that the credential carries. Never a wildcard.
    pub identity: DoNai,
    /// Further names in the credential.
    pub others: Vec<DoNai>,
    /// How it carries the wanted name; none if none was wanted. [`How::DomainForUser`] means that the
    /// freedom was used.
    pub how: Option<How>,
    /// Who vouched: `pkix`.
    pub source: &'static str,
}

/// A validator's answer, when it is there.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Result<Validated, Refusal>> + 'a>>;

/// One source of trust, or a policy over several.
pub trait Validator {
    /// Answers `question`; may wait for the network.
    fn validate<'a>(&'a self, question: Question<'a>) -> Answer<'a>;
}
