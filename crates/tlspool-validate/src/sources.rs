//! What validation asks of the outside, and what the outside answers: the line between who decides
//! (the policy, in the network process) and who looks up (the look-up process, `tlspool-lookup`).
//!
//! Questions and answers are plain data, so that they travel between processes and through a cache. An
//! answer is *present*, *absent* (the source provably has nothing to say) or *failed*; only the first
//! two are facts, and a failure is never taken for absence.

use std::future::{Future, ready};
use std::pin::Pin;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How the peer is reached; decides the name of its TLSA records (RFC 6698 section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// `_tcp`
    Tcp,
    /// `_udp`
    Udp,
    /// `_sctp`
    Sctp,
}

/// A kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CredentialKind {
    /// An X.509 certificate.
    X509,
    /// An OpenPGP certificate (transferable public key).
    OpenPgp,
}

/// Who decides, outside of the pool, whether a peer may have a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Authorizer {
    /// A program behind a UNIX socket.
    Program,
    /// RADIUS servers (RFC 2865).
    Radius,
}

/// One thing to look up. Names are canonical: A-labels, lower case, no final dot.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Query {
    /// The TLSA records of a server. With a service that is located by SRV (RFC 7673) or MX (RFC 7672),
    /// those of its secure targets whose port is `port`.
    ServerTlsa {
        /// The name that the application wants: a domain.
        host: String,
        /// The port that it is connected to.
        port: u16,
        /// How.
        transport: Transport,
        /// The service, such as `smtp` or `xmpp-client`; empty if unknown.
        service: String,
    },
    /// The TLSA records of a client: `_service._client.domain`, then `_client.domain`.
    ClientTlsa {
        /// The client's domain.
        domain: String,
        /// The service; empty if unknown.
        service: String,
    },
    /// What the directory of the name's domain lists for it.
    Directory {
        /// `example.com` or `john@example.com`.
        name: String,
        /// Which of its credentials.
        kind: CredentialKind,
    },
    /// The OpenPGP certificate with this fingerprint (RFC 6091 section 3.3), from the directory of
    /// the name's domain.
    OpenPgpKey {
        /// The name that it should carry; its domain says which directory.
        name: String,
        /// Fingerprint of the primary key, 20 or 32 bytes.
        fingerprint: Vec<u8>,
    },
    /// An OCSP responder's answer (RFC 6960).
    Ocsp {
        /// `http:` URL of the responder.
        url: String,
        /// The request in DER.
        request: Vec<u8>,
    },
    /// A certificate revocation list.
    Crl {
        /// `http:` URL.
        url: String,
    },
    /// May this peer, which has proved its name, have a session with us? The answer is of the moment: it is
    /// never remembered.
    Authorize {
        /// Who is asked.
        authorizer: Authorizer,
        /// The peer's name; empty if it has shown none.
        remote: String,
        /// Ours; empty if we have none here.
        local: String,
        /// The service; empty if unknown.
        service: String,
        /// We are the server.
        server: bool,
    },
}

impl Query {
    /// Whether the answer may be remembered.
    pub fn may_be_remembered(&self) -> bool {
        !matches!(self, Self::Authorize { .. })
    }
}

/// What an authorizer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opinion {
    /// Yes.
    Allow,
    /// No.
    Deny,
    /// It cannot be asked, or does not answer in time. (One that answers wrongly is a failed look-up.)
    Unreachable,
}

/// A TLSA record's data (RFC 6698 section 2.1), as published: fields may hold unknown values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tlsa {
    /// 0 PKIX-TA, 1 PKIX-EE, 2 DANE-TA, 3 DANE-EE.
    pub usage: u8,
    /// 0 whole certificate, 1 SubjectPublicKeyInfo.
    pub selector: u8,
    /// 0 exact, 1 SHA-256, 2 SHA-512.
    pub matching: u8,
    /// The data to match.
    pub data: Vec<u8>,
}

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// DNSSEC-secure TLSA records; at least one.
    Tlsa {
        /// The records.
        records: Vec<Tlsa>,
        /// Names that a certificate may carry besides the wanted one, because secure records lead
        /// from it there (RFC 7671 section 7, RFC 7672 section 3.2.2, RFC 7673 section 4.1).
        reference_names: Vec<String>,
    },
    /// What a directory lists; at least one credential or anchor.
    Directory {
        /// Certificates in DER, or transferable public keys in binary.
        credentials: Vec<Vec<u8>>,
        /// Anchors that the domain publishes (`cACertificate`), in DER.
        anchors: Vec<Vec<u8>>,
    },
    /// A transferable public key in binary.
    OpenPgpKey(Vec<u8>),
    /// An OCSP response in DER, not yet verified.
    Ocsp(Vec<u8>),
    /// A revocation list in DER, not yet verified.
    Crl(Vec<u8>),
    /// What an authorizer says. (If it has nothing to say, that is absence.)
    Authorization {
        /// Its opinion.
        opinion: Opinion,
        /// Who that is, in words.
        by: String,
        /// Why, in words; may be empty.
        why: String,
    },
}

/// How a look-up ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The source answers.
    Present(Answer),
    /// The source provably has nothing to say; why.
    Absent(String),
    /// The source could not be asked, or its answer is not to be believed; why.
    Failed(String),
}

/// Where an outcome came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It was looked up just now.
    Live,
    /// It was remembered in this process.
    Memory,
    /// It was remembered by memcached.
    Memcached,
}

/// An outcome, and what to say of it in a trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// How it ended.
    pub outcome: Outcome,
    /// Where it came from.
    pub origin: Origin,
    /// How long it took.
    pub elapsed: Duration,
    /// For how long the source lets it count at most, from now; none: it does not say.
    pub lasts: Option<Duration>,
    /// Steps on the way, for `tlspool policy explain`: "SRV _ldap._tcp.example.com: secure, ...".
    pub steps: Vec<String>,
}

impl Found {
    /// A look-up that failed, and took so long for it.
    pub fn failed(why: impl Into<String>, elapsed: Duration) -> Self {
        let outcome = Outcome::Failed(why.into());
        Self { outcome, origin: Origin::Live, elapsed, lasts: None, steps: Vec::new() }
    }
}

/// What a cache says of a question: read before it is known whether the answer will be wanted, so without asking
/// any source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recalled {
    /// What is remembered; a failure never is. None: it must be looked up.
    pub outcome: Option<Outcome>,
    /// For how much longer that counts.
    pub left: Duration,
    /// How long it took to read.
    pub elapsed: Duration,
    /// What there is to say of it in a trace.
    pub steps: Vec<String>,
}

/// What of the caches counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Caches {
    /// What is remembered is an answer.
    #[default]
    Use,
    /// What is remembered was read just now ([`Sources::recall`]), and did not have the answer: it need not be read
    /// again.
    Missed,
    /// IGNORE_CACHES: what is remembered does not count, but what is found is remembered.
    Ignore,
}

/// How to look up.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// When the whole validation has to be over.
    pub deadline: Instant,
    /// What of the caches counts.
    pub caches: Caches,
}

/// A look-up, when it is done.
pub type Looking<'a> = Pin<Box<dyn Future<Output = Found> + 'a>>;

/// What is remembered of several questions, in their order, when it is read.
pub type Recalling<'a> = Pin<Box<dyn Future<Output = Vec<Recalled>> + 'a>>;

/// Looks things up. Never fails but in its outcome; ends at the deadline at the latest.
pub trait Sources {
    /// Looks `query` up.
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a>;

    /// The answer to `query` if it is here already: nobody is asked, and nothing waited for.
    fn at_hand(&self, query: &Query, options: Options) -> Option<Found> {
        let _ = (query, options);
        None
    }

    /// What is remembered of `queries`; no source is asked.
    fn recall<'a>(&'a self, queries: &'a [Query], deadline: Instant) -> Recalling<'a> {
        let _ = deadline;
        Box::pin(ready(vec![Recalled::default(); queries.len()]))
    }

    /// These are looked up next, all at the same time: who has a long way to a cache may go it once for all.
    fn announce(&self, queries: &[&Query], options: Options) {
        let _ = (queries, options);
    }
}
