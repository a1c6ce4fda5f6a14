//! Where the directory of a domain is: its SRV records if they are secure, else the host `ldap.` of the
//! domain; and the TLSA records there, without which it is not believed.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tlspool_validate::sources::{CredentialKind, Transport};

use super::connection::{Security, Site};
use crate::flights::Trace;
use crate::names::{Lasting, LookupFailure, Names, Proven, Srv, TlsaSet};

/// Directories of a domain that are tried.
const TRIED: usize = 4;

/// The well-known ports.
const LDAP: u16 = 389;
const LDAPS: u16 = 636;

/// A directory, with what says how it proves itself.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) site: Site,
    pub(crate) tlsa: TlsaSet,
}

/// What the DNS says of a domain's directory.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) outcome: Whereabouts,
    /// For how long, at most.
    pub(crate) lasts: Duration,
    pub(crate) steps: Vec<String>,
}

/// Where it is.
#[derive(Debug)]
pub(crate) enum Whereabouts {
    /// At one of these; in the order in which to try them, at least one.
    At(Vec<Candidate>),
    /// The domain provably has none that could be believed; why.
    Nowhere(String),
    /// It cannot be known, or it cannot be believed; why.
    Unknown(String),
}

/// Finds the directories of `domain` for credentials of this kind.
pub(crate) async fn locate<N: Names>(
    names: Rc<N>,
    domain: String,
    kind: CredentialKind,
    trace: Trace,
    deadline: Instant,
) -> Rc<Located> {
    let lasts = Cell::new(Duration::MAX);
    let outcome = find(&*names, &domain, kind, &trace, &lasts, deadline).await;
    Rc::new(Located { outcome, lasts: lasts.get(), steps: trace.steps() })
}

async fn find<N: Names>(
    names: &N,
    domain: &str,
    kind: CredentialKind,
    trace: &Trace,
    lasts: &Cell<Duration>,
    deadline: Instant,
) -> Whereabouts {
    // For OpenPGP, the name that key servers in LDAP have first.
    let services = match kind {
        CredentialKind::OpenPgp => &["_pgpkey-ldap", "_ldap", "_ldaps"][..],
        CredentialKind::X509 => &["_ldap", "_ldaps"],
    };
    let questions: Vec<_> =
        services.iter().map(|service| format!("{service}._tcp.{domain}")).collect();
    let answers = join_all(questions.iter().map(|name| names.srv(name, deadline))).await;
    for ((service, name), answer) in services.iter().zip(&questions).zip(answers) {
        match noted(answer, lasts) {
            Ok(Proven::Secure(records)) => {
                let records = order(records);
                let text: Vec<_> =
                    records.iter().map(|srv| format!("{}:{}", srv.target, srv.port)).collect();
                trace.step(format!("SRV {name}: secure, {}", text.join(", ")));
                let sites = records.into_iter().take(TRIED).map(|srv| site(service, srv));
                return prove(names, sites.collect(), trace, lasts, deadline).await;
            }
            Ok(Proven::Absent(why)) => trace.step(format!("SRV {name}: absent, {why}")),
            Err(error) => return unknown(trace, &format!("SRV {name}"), &error),
        }
    }
    let host = format!("ldap.{domain}");
    let site = |port, security| Site { host: host.clone(), port, security };
    let sites = vec![site(LDAP, Security::StartTls), site(LDAPS, Security::Immediate)];
    match prove(names, sites, trace, lasts, deadline).await {
        Whereabouts::Unknown(why) if why == NO_DANE => Whereabouts::Nowhere(format!(
            "{domain} has no directory: neither SRV records nor a host {host} with TLSA records"
        )),
        found => found,
    }
}

/// A directory that the DNS names, but for which DANE does not vouch.
const NO_DANE: &str = "the domain's directory has no TLSA records, so its answers are not believed";

/// Looks up the TLSA records of all.
async fn prove<N: Names>(
    names: &N,
    sites: Vec<Site>,
    trace: &Trace,
    lasts: &Cell<Duration>,
    deadline: Instant,
) -> Whereabouts {
    let questions =
        sites.iter().map(|site| names.tlsa(&site.host, site.port, Transport::Tcp, deadline));
    let answers = join_all(questions).await;
    let mut candidates = Vec::new();
    let mut failure = None;
    for (site, answer) in sites.into_iter().zip(answers) {
        let name = format!("TLSA _{}._tcp.{}", site.port, site.host);
        match noted(answer, lasts) {
            Ok(Proven::Secure(tlsa)) => {
                trace.step(format!("{name}: secure, {} records", tlsa.records.len()));
                candidates.push(Candidate { site, tlsa });
            }
            Ok(Proven::Absent(why)) => trace.step(format!("{name}: absent, {why}")),
            Err(error) => failure = Some(unknown(trace, &name, &error)),
        }
    }
    if candidates.is_empty() {
        failure.unwrap_or_else(|| Whereabouts::Unknown(NO_DANE.into()))
    } else {
        Whereabouts::At(candidates)
    }
}

/// An answer of the DNS, for how long it counts noted.
fn noted<T>(
    answer: Result<Lasting<T>, LookupFailure>,
    lasts: &Cell<Duration>,
) -> Result<T, LookupFailure> {
    let answer = answer?;
    lasts.set(lasts.get().min(answer.lasts));
    Ok(answer.value)
}

fn unknown(trace: &Trace, name: &str, error: &LookupFailure) -> Whereabouts {
    trace.step(format!("{name}: failed, {error}"));
    Whereabouts::Unknown(format!("cannot find the directory: {error}"))
}

fn site(service: &str, srv: Srv) -> Site {
    let immediate = service == "_ldaps" || srv.port == LDAPS;
    let security = if immediate { Security::Immediate } else { Security::StartTls };
    Site { host: srv.target, port: srv.port, security }
}

/// The order in which RFC 2782 wants targets tried: by priority, then at random by weight.
fn order(mut records: Vec<Srv>) -> Vec<Srv> {
    // Seeded by the system; good enough to spread load.
    let random = RandomState::new();
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.iter().map(|srv| srv.priority).min() {
        let equals = || records.iter().enumerate().filter(|(_, srv)| srv.priority == priority);
        let total: u64 = equals().map(|(_, srv)| u64::from(srv.weight)).sum();
        let mut mark = random.hash_one(records.len()) % (total + 1);
        let mut chosen = equals();
        let chosen = chosen
            .find(|(_, srv)| {
                let hit = u64::from(srv.weight) >= mark;
                mark = mark.saturating_sub(u64::from(srv.weight));
                hit
            })
            .map_or(0, |(at, _)| at);
        ordered.push(records.remove(chosen));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(priority: u16, weight: u16, target: &str) -> Srv {
        Srv { priority, weight, port: LDAP, target: target.into() }
    }

    #[test]
    fn targets_are_ordered_as_their_domain_wants() {
        let mut first = [0, 0];
        for _ in 0..1000 {
            let ordered =
                order(vec![srv(2, 9, "c"), srv(1, 1, "a"), srv(1, 9, "b"), srv(3, 0, "d")]);
            let names: Vec<_> = ordered.iter().map(|srv| srv.target.as_str()).collect();
            assert_eq!(names[2..], ["c", "d"]);
            first[usize::from(names[0] == "b")] += 1;
        }
        assert!(first[0] > 20 && first[1] > 600, "{first:?}");
    }

    #[test]
    fn a_service_says_how_tls_begins() {
        assert_eq!(site("_ldap", srv(0, 0, "a")).security, Security::StartTls);
        assert_eq!(site("_ldaps", srv(0, 0, "a")).security, Security::Immediate);
        let at_636 = Srv { port: LDAPS, ..srv(0, 0, "a") };
        assert_eq!(site("_ldap", at_636).security, Security::Immediate);
    }
}
