//! What the policy is asked about a peer, and what it answers.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use rustls_pki_types::{CertificateDer, UnixTime};
use tlspool_identity::{DoNai, How};
use tlspool_openpgp::{Certificate as OpenPgpCertificate, KeyId, SigningKey};

use crate::policy::Expression;
use crate::sources::{Caches, CredentialKind, Transport};
use crate::trace::Trace;
use crate::validator::fingerprint;
use crate::{Peer, Refusal};

/// What a peer shows of itself.
#[derive(Debug, Clone, Copy)]
pub enum Credential<'a> {
    /// Its X.509 certificates as it sent them, its own first.
    X509(&'a [CertificateDer<'a>]),
    /// Its OpenPGP certificate, and the key of it that signs the handshake, if that is known. A directory
    /// may know that this key was revoked, or that it is good for longer.
    OpenPgp(&'a OpenPgpCertificate, Option<KeyId>),
}

impl Credential<'_> {
    /// What is pinned of it: SHA-256 of the certificate, or the fingerprint of the primary key.
    pub(crate) fn fingerprint(&self) -> Option<Vec<u8>> {
        match self {
            Self::X509(chain) => chain.first().map(|leaf| fingerprint(leaf)),
            Self::OpenPgp(certificate, _) => Some(certificate.fingerprint().as_bytes().to_vec()),
        }
    }

    pub(crate) fn kind(&self) -> CredentialKind {
        match self {
            Self::X509(_) => CredentialKind::X509,
            Self::OpenPgp(..) => CredentialKind::OpenPgp,
        }
    }
}

/// What the handshake has agreed on so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// Certificates are not visible on the wire: TLS 1.3, or after the anonymous precursor.
    pub private: bool,
    /// The key exchange resists quantum computers.
    pub post_quantum: bool,
    /// The keys of the key exchange are ephemeral.
    pub forward_secrecy: bool,
}

/// Where the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Its port.
    pub port: u16,
    /// How it is reached.
    pub transport: Transport,
}

/// A peer to judge.
#[derive(Debug, Clone, Copy)]
pub struct Inquiry<'a> {
    /// What it shows.
    pub credential: Credential<'a>,
    /// Its side; ours is the other.
    pub peer: Peer,
    /// The name the application wants; none: whoever it is, report it.
    pub wanted: Option<&'a DoNai>,
    /// Our own name, if we have one here: policies of the local side are found by it.
    pub local: Option<&'a DoNai>,
    /// Whether the domain may answer for a wanted user. Without a wanted name it says nothing.
    pub domain_represents_user: bool,
    /// The service; empty if the application named none.
    pub service: &'a str,
    /// The peer's port and transport; none if the connection is not over the Internet.
    pub endpoint: Option<Endpoint>,
    /// What was remembered does not count (IGNORE_CACHES).
    pub ignore_caches: bool,
    /// What the handshake has agreed on.
    pub negotiated: Negotiated,
    /// The OCSP response that the peer stapled (RFC 6066 section 8); empty if none.
    pub stapled_ocsp: &'a [u8],
    /// The time of the handshake.
    pub now: UnixTime,
    /// When the handshake has to be over; the validator may set an earlier time for itself.
    pub deadline: Instant,
    /// Whether to keep a [`Trace`].
    pub trace: bool,
}

impl Inquiry<'_> {
    /// Whether the domain may answer for the user: only for one whom the application wants.
    pub(crate) fn domain_may_answer(&self) -> bool {
        self.domain_represents_user && self.wanted.is_some()
    }

    pub(crate) fn caches(&self) -> Caches {
        if self.ignore_caches { Caches::Ignore } else { Caches::Use }
    }
}

/// Which of the two sides a policy belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// It is found by the peer's name.
    Remote,
    /// It is found by our own name.
    Local,
}

impl Side {
    /// As in the table: `remote`, `local`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A policy that applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicable {
    /// The selector of its row.
    pub selector: String,
    /// The service of its row; none: any.
    pub service: Option<String>,
    /// What must hold.
    pub expression: Expression,
}

/// The tables that a policy is made of. Called often: keep what was found.
pub trait Tables {
    /// The policy for `name` and `service`: of the first selector in the name's look-up order that has
    /// one, the one for this service, else the one for any service.
    fn policy(
        &self,
        side: Side,
        name: &DoNai,
        service: &str,
    ) -> Result<Option<Arc<Applicable>>, String>;

    /// The fingerprints that are pinned for exactly this name and have not expired: SHA-256 of X.509
    /// certificates, those of primary keys of OpenPGP certificates.
    fn pins(&self, name: &DoNai) -> Result<Vec<Vec<u8>>, String>;
}

/// Tables with nothing in them.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTables;

impl Tables for NoTables {
    fn policy(&self, _: Side, _: &DoNai, _: &str) -> Result<Option<Arc<Applicable>>, String> {
        Ok(None)
    }

    fn pins(&self, _: &DoNai) -> Result<Vec<Vec<u8>>, String> {
        Ok(Vec::new())
    }
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
    /// The strongest of those who vouched: `dane`, `ldap`, `openpgp`, `pkix`, `pin`, or `policy` if
    /// the policy demands none of them.
    pub source: &'static str,
    /// The key of an OpenPGP certificate that signs the handshake, if the inquiry named one: fit to sign by
    /// the certificate as shown, together with what its directory knows of it.
    pub signing_key: Option<SigningKey>,
    /// How the policy came to it, if that was asked for.
    pub trace: Option<Box<Trace>>,
    /// What to store if, and only if, the handshake succeeds.
    pub commits: Vec<Commit>,
}

/// Something to remember of a handshake that succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// The first sight of a peer (`pin?`).
    Pin {
        /// Its name.
        name: DoNai,
        /// What it shows.
        kind: CredentialKind,
        /// SHA-256 of its X.509 certificate, or the fingerprint of its primary OpenPGP key.
        fingerprint: Vec<u8>,
    },
}

/// A peer that is not believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub refusal: Refusal,
    /// How the policy came to it, if that was asked for.
    pub trace: Option<Box<Trace>>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, trace: None }
    }
}
