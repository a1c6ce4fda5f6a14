//! Why a peer is not believed.

use tlspool_identity::DoNai;
use tlspool_identity::x509::CertificateError;

/// Why a peer is not believed, in words for the one who must mend it. Names out of certificates
/// appear in it with odd characters escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It sent none.
    #[error("the peer sent no certificate")]
    NoCertificate,
    /// It is not a certificate, or a strange one.
    #[error("the peer's certificate cannot be read: {0}")]
    Malformed(String),
    /// Too early.
    #[error("the certificate is not valid before {0}; check the clocks of both machines")]
    NotYetValid(String),
    /// Too late.
    #[error("the certificate, or one that issued it, expired {0}; it must be renewed")]
    Expired(String),
    /// No path to an anchor.
    #[error(
        "no trust anchor{} issued the certificate (issuer: {issuer}); \
         if you trust that one: tlspool trust add",
        for_service(service)
    )]
    UnknownIssuer {
        /// The issuer at the end of what the peer sent.
        issuer: String,
        /// The service whose own anchors were asked; empty if there were none of its own.
        service: String,
    },
    /// A signature in the path does not verify.
    #[error("a signature in the certificate chain is wrong: the chain is forged or damaged")]
    BadSignature,
    /// Wrong extended key usage.
    #[error("the certificate is not meant for a {0}: its extended key usage lacks {0}Auth")]
    WrongUsage(&'static str),
    /// A CA's certificate shown as one's own.
    #[error(
        "the peer shows the certificate of an authority (CA:TRUE) as its own; it needs one of its \
         own, or add this very one with: tlspool trust add"
    )]
    AuthorityAsPeer,
    /// An issuer was not permitted to issue this.
    #[error("an issuer was not permitted to issue this certificate: {0}")]
    Constrained(String),
    /// An algorithm or critical extension that is not supported.
    #[error("the certificate chain uses what is not supported: {0}")]
    Unsupported(String),
    /// The chain takes too much work.
    #[error("the certificate chain is too long or too tangled")]
    TooComplex,
    /// No name in the credential.
    #[error("the certificate names neither a user nor a domain{}", aside(ignored))]
    NoName {
        /// Names that were put aside, and why.
        ignored: Vec<String>,
    },
    /// Not the wanted name.
    #[error("the peer is not {wanted}: its certificate is for {}", list(carried))]
    WrongName {
        /// What the application wanted.
        wanted: DoNai,
        /// What the credential carries.
        carried: Vec<String>,
    },
    /// An OpenPGP certificate that is no good.
    #[error("the peer's OpenPGP certificate: {0}")]
    OpenPgp(String),
    /// It was revoked.
    #[error("the certificate has been revoked, says {0}; the peer needs a new one")]
    Revoked(String),
    /// The policy does not hold.
    #[error(
        "{}; so the policy for {of} does not hold: {expression}; see: tlspool policy explain",
        reasons.join("; ")
    )]
    Policy {
        /// Whose policy: its side and selector.
        of: String,
        /// What should hold.
        expression: String,
        /// What each predicate at fault came to.
        reasons: Vec<String>,
        /// The alert of a predicate that has one of its own.
        alert: Option<u8>,
    },
    /// The policies cannot be read.
    #[error("no peer can be believed, because the policies cannot be read: {0}")]
    NoPolicy(String),
}

impl Refusal {
    /// The TLS alert to send (RFC 8446 6.2).
    pub fn alert(&self) -> u8 {
        match self {
            Self::NoCertificate => 116,
            Self::NotYetValid(_) | Self::Expired(_) => 45,
            Self::UnknownIssuer { .. } => 48,
            Self::Revoked(_) => 44,
            Self::Policy { alert, .. } => alert.unwrap_or(46),
            Self::NoPolicy(_) => 80,
            Self::BadSignature => 51,
            Self::Unsupported(_) | Self::WrongUsage(_) => 43,
            Self::Malformed(_)
            | Self::AuthorityAsPeer
            | Self::Constrained(_)
            | Self::TooComplex
            | Self::NoName { .. }
            | Self::OpenPgp(_)
            | Self::WrongName { .. } => 42,
        }
    }
}

impl From<CertificateError> for Refusal {
    fn from(error: CertificateError) -> Self {
        Self::Malformed(error.to_string())
    }
}

fn for_service(service: &str) -> String {
    if service.is_empty() { String::new() } else { format!(" of service {service:?}") }
}

/// How many names an error text lists.
const LISTED: usize = 5;

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "nobody".to_owned();
    }
    let more = if names.len() > LISTED { ", …" } else { "" };
    names[..names.len().min(LISTED)].join(", ") + more
}

fn aside(ignored: &[String]) -> String {
    if ignored.is_empty() { String::new() } else { format!(" ({})", list(ignored)) }
}
