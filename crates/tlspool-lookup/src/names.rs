//! What other look-ups ask of the DNS: the line between the directory look-up, which finds a server and
//! must know which certificate is its own, and whoever resolves names ([`crate::dns::Resolver`], or a
//! table in tests).
//!
//! Names given are canonical, as in `tlspool_validate::sources`: A-labels, lower case, no final dot. A
//! failure is never taken for absence.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tlspool_validate::sources::{Tlsa, Transport};

/// A future that stays on its thread.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What DNSSEC proves about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proven<T> {
    /// The records exist, and every signature from the root anchor to them is right.
    Secure(T),
    /// It is proven that there are none, or that the zone is not signed; why, for a trace.
    Absent(String),
}

/// Something that counts for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lasting<T> {
    /// What.
    pub value: T,
    /// For how long at most: the shortest of the TTLs and signatures that it rests on.
    pub lasts: Duration,
}

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Srv {
    /// Lower is tried first.
    pub priority: u16,
    /// Share among those of equal priority.
    pub weight: u16,
    /// The target's port.
    pub port: u16,
    /// The target: A-labels, lower case, no final dot. Never empty: "no such service" is absence.
    pub target: String,
}

/// The TLSA records of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsaSet {
    /// The records, at least one.
    pub records: Vec<Tlsa>,
    /// Names that the server's certificate may carry besides the one asked for, because secure
    /// aliases lead from it there (RFC 7671 section 7).
    pub reference_names: Vec<String>,
}

/// Why a name could not be looked up, or what came back is not to be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupFailure {
    /// The deadline passed.
    #[error("{0}: no answer in time")]
    TimedOut(String),
    /// DNSSEC says that the answer is wrong: forged, damaged, stripped or expired signatures.
    #[error("{name}: the answer is bogus: {why}")]
    Bogus {
        /// What was asked.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// Servers cannot be reached, or refuse to answer.
    #[error("{name}: {why}")]
    Unanswered {
        /// What was asked.
        name: String,
        /// What they said.
        why: String,
    },
    /// Too many questions about this are under way (`limit`).
    #[error("{target}: {limit} look-ups are under way already, which is the limit for one target")]
    Busy {
        /// Which domain or server.
        target: String,
        /// How many at once.
        limit: usize,
    },
    /// An answer is out of bounds: too many aliases, records or bytes.
    #[error("{name}: {why}")]
    OutOfBounds {
        /// What was asked.
        name: String,
        /// Which bound.
        why: String,
    },
    /// Not a name that the DNS can hold.
    #[error("{name:?} is no domain name: {why}")]
    BadName {
        /// The text, as given.
        name: String,
        /// Why.
        why: String,
    },
}

/// Asks the DNS. Every future ends at its deadline at the latest.
pub trait Names {
    /// The SRV records of `name` (`_ldap._tcp.example.com`).
    fn srv<'a>(
        &'a self,
        name: &'a str,
        deadline: Instant,
    ) -> LocalBoxFuture<'a, Result<Lasting<Proven<Vec<Srv>>>, LookupFailure>>;

    /// The TLSA records of the server `host` at `port` (RFC 6698 section 3, RFC 7671 section 7).
    fn tlsa<'a>(
        &'a self,
        host: &'a str,
        port: u16,
        transport: Transport,
        deadline: Instant,
    ) -> LocalBoxFuture<'a, Result<Lasting<Proven<TlsaSet>>, LookupFailure>>;

    /// The addresses of `host`, secure or not: a certificate says who is there. Never empty.
    fn addresses<'a>(
        &'a self,
        host: &'a str,
        deadline: Instant,
    ) -> LocalBoxFuture<'a, Result<Vec<IpAddr>, LookupFailure>>;
}
