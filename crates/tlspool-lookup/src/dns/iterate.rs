//! Asking the servers of each zone, from the root down (RFC 1034 section 5.3.3).
//!
//! Nothing learnt here is believed for more than where to ask next: answers are validated by whoever
//! asked, and a false referral leads to an answer that does not validate. hickory's recursor is not
//! used: it asks at port 53 only, and keeps answers that nobody has validated.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use lru::LruCache;

use super::upstream::{Reply, Server, Upstream, describe, is_answer};
use super::work::Work;
use crate::names::{LocalBoxFuture, LookupFailure};

/// Zone cuts on the way to a name.
const REFERRALS: usize = 20;
/// Name servers whose own address must be looked up, one within the other.
const DEPTH: usize = 3;
/// Name servers of a zone that are used.
const SERVERS: usize = 4;
/// Delegations that are remembered.
const ZONES: NonZeroUsize = NonZeroUsize::new(4096).expect("positive");
/// How long at most.
const REMEMBERED: Duration = Duration::from_hours(1);

/// A walk through the zones.
pub(super) struct Iterator {
    hints: Vec<IpAddr>,
    port: u16,
    zones: Mutex<LruCache<Name, (Instant, Vec<IpAddr>)>>,
}

impl Iterator {
    pub(super) fn new(hints: &[IpAddr], port: u16) -> Self {
        Self { hints: hints.to_vec(), port, zones: Mutex::new(LruCache::new(ZONES)) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hints.is_empty()
    }

    /// An answer from the zone of `name`.
    pub(super) async fn resolve(
        &self,
        upstream: &Upstream,
        name: &Name,
        kind: RecordType,
        work: &Work,
    ) -> Result<Reply, LookupFailure> {
        self.descend(upstream, name, kind, work, 0).await
    }

    fn descend<'a>(
        &'a self,
        upstream: &'a Upstream,
        name: &'a Name,
        kind: RecordType,
        work: &'a Work,
        depth: usize,
    ) -> LocalBoxFuture<'a, Result<Reply, LookupFailure>> {
        Box::pin(async move {
            let (zone, servers) = self.known(name, kind);
            let from_root = zone.is_root();
            match self.follow(upstream, zone, servers, name, kind, work, depth).await {
                // What is remembered may be out of date, or false.
                Err(LookupFailure::Unanswered { .. }) if !from_root => {
                    let servers = self.hints.clone();
                    self.follow(upstream, Name::root(), servers, name, kind, work, depth).await
                }
                result => result,
            }
        })
    }

    #[allow(clippy::too_many_arguments)] // one step of a recursion
    async fn follow(
        &self,
        upstream: &Upstream,
        mut zone: Name,
        mut servers: Vec<IpAddr>,
        name: &Name,
        kind: RecordType,
        work: &Work,
        depth: usize,
    ) -> Result<Reply, LookupFailure> {
        let failed = |why: String| LookupFailure::Unanswered { name: describe(name, kind), why };
        for _ in 0..REFERRALS {
            let reply =
                self.ask_one(upstream, &servers, name, kind, work).await?.map_err(failed)?;
            let Some(referral) = Referral::of(&reply, &zone, name, kind) else {
                let lame = reply.answers.is_empty()
                    && !reply.authoritative
                    && reply.code != ResponseCode::NXDomain;
                if lame {
                    return Err(failed(format!("the servers of {zone} do not know it")));
                }
                return Ok(reply);
            };
            servers = referral.glue;
            let mut hosts = referral.hosts.into_iter().take(SERVERS);
            while let (true, true, Some(host)) = (servers.is_empty(), depth < DEPTH, hosts.next()) {
                for kind in [RecordType::A, RecordType::AAAA] {
                    if let Ok(reply) = self.descend(upstream, &host, kind, work, depth + 1).await {
                        servers.extend(reply.answers.iter().filter_map(|r| r.data.ip_addr()));
                    }
                }
            }
            if servers.is_empty() {
                return Err(failed(format!("no server of {} has an address", referral.zone)));
            }
            zone = referral.zone;
            let until = Instant::now() + Duration::from_secs(referral.ttl.into()).min(REMEMBERED);
            self.lock().put(zone.clone(), (until, servers.clone()));
        }
        Err(failed(format!("more than {REFERRALS} referrals")))
    }

    async fn ask_one(
        &self,
        upstream: &Upstream,
        servers: &[IpAddr],
        name: &Name,
        kind: RecordType,
        work: &Work,
    ) -> Result<Result<Reply, String>, LookupFailure> {
        let mut why = String::new();
        for _ in 0..upstream.attempts() {
            for ip in servers.iter().take(SERVERS) {
                let server = Server::plain(SocketAddr::new(*ip, self.port));
                match upstream.ask_server(&server, name, kind, false, work).await? {
                    Ok(reply) if is_answer(reply.code) => return Ok(Ok(reply)),
                    Ok(reply) => why = format!("{ip} answers {}", reply.code),
                    Err(error) => why = format!("{ip}: {error}"),
                }
            }
        }
        Ok(Err(why))
    }

    /// The closest zone whose servers are known. A DS record is in the zone above its name.
    fn known(&self, name: &Name, kind: RecordType) -> (Name, Vec<IpAddr>) {
        let mut zone = if kind == RecordType::DS { name.base_name() } else { name.clone() };
        let mut zones = self.lock();
        while !zone.is_root() {
            if let Some((until, servers)) = zones.get(&zone)
                && *until > Instant::now()
            {
                return (zone, servers.clone());
            }
            zone = zone.base_name();
        }
        (Name::root(), self.hints.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<Name, (Instant, Vec<IpAddr>)>> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// "Ask those."
struct Referral {
    zone: Name,
    hosts: Vec<Name>,
    glue: Vec<IpAddr>,
    ttl: u32,
}

impl Referral {
    /// Only one that leads closer to the name counts.
    fn of(reply: &Reply, zone: &Name, name: &Name, kind: RecordType) -> Option<Self> {
        if !reply.answers.is_empty() || reply.authoritative || reply.code != ResponseCode::NoError {
            return None;
        }
        let closer = |child: &Name| {
            zone.zone_of(child)
                && child != zone
                && child.zone_of(name)
                && (kind != RecordType::DS || child != name)
        };
        let first = reply
            .authorities
            .iter()
            .find(|record| record.record_type() == RecordType::NS && closer(&record.name))?;
        let mut hosts = Vec::new();
        for record in reply.authorities.iter().filter(|record| record.name == first.name) {
            if let RData::NS(host) = &record.data {
                hosts.push(host.0.clone());
            }
        }
        let mut glue = Vec::new();
        for record in reply.additionals.iter().filter(|record| hosts.contains(&record.name)) {
            glue.extend(record.data.ip_addr());
        }
        // Those of IPv4 first: hosts without IPv6 are more frequent than the reverse.
        glue.sort_by_key(IpAddr::is_ipv6);
        Some(Self { zone: first.name.clone(), hosts, glue, ttl: first.ttl })
    }
}
