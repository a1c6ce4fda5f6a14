//! DNS with DNSSEC validated in this process: TLSA records of servers and clients, and what the directory
//! look-up asks ([`Names`]).
//!
//! [`Resolver::server_tlsa`] and [`Resolver::client_tlsa`] answer the queries of
//! `tlspool_validate::sources`. Only what DNSSEC proves counts: records that are not secure are
//! never returned as TLSA, "absent" is proven or the zone is provably unsigned, and everything else is
//! a failure. A look-up ends at its deadline; what it may cost is bounded (`work`), and so is the number
//! of look-ups for one domain.
//!
//! | module | holds |
//! | --- | --- |
//! | `settings` | whom to ask, the anchors |
//! | `upstream`, `iterate`, `tls` | questions to forwarders, or from the root down; nothing is believed |
//! | `chain`, `denial` | DNSSEC |
//! | `walk` | aliases |
//! | `services` | SRV, MX, TLSA: which names a service leads to |
//! | `flight`, `work` | sharing, bounds |

mod chain;
mod denial;
mod flight;
mod iterate;
mod services;
mod settings;
mod tls;
mod upstream;
mod walk;
mod work;

use std::net::IpAddr;
use std::time::Instant;

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tlspool_validate::sources::{Found, Transport};

use crate::names::{Lasting, LocalBoxFuture, LookupFailure, Names, Proven, Srv, TlsaSet};
use chain::Validator;
use flight::Flights;
use services::Notes;
pub use settings::{
    AnchorSource, DnsSettings, Forwarder, Protocol, SettingsError, TlsServer, UpstreamSettings,
};
use upstream::{describe, text};
use walk::{Outcome, Resolved};
use work::Work;

/// Resolves names. One serves all look-ups of the process; it needs a tokio runtime, of any kind.
pub struct Resolver {
    validator: Validator,
    flights: Flights<(Name, RecordType), Result<Resolved, LookupFailure>>,
}

impl Resolver {
    /// A resolver. Reads the anchor file and, for DNS over TLS, the system's trust anchors; later it
    /// reads no file.
    pub fn new(settings: &DnsSettings) -> Result<Self, SettingsError> {
        Ok(Self {
            validator: Validator::new(settings)?,
            flights: Flights::new(settings.per_target.max(1)),
        })
    }

    /// The TLSA records of the server `host` at `port`. With a service that is located by SRV
    /// (RFC 7673) or MX (RFC 7672) records, those of its secure targets at that port.
    pub async fn server_tlsa(
        &self,
        host: &str,
        port: u16,
        transport: Transport,
        service: &str,
        deadline: Instant,
    ) -> Found {
        let begin = Instant::now();
        let mut notes = Notes::default();
        let set = self.server(host, port, transport, service, deadline, &mut notes).await;
        services::found(set, begin, notes)
    }

    /// The TLSA records of the client `domain`: `_service._client.domain`, else `_client.domain`.
    pub async fn client_tlsa(&self, domain: &str, service: &str, deadline: Instant) -> Found {
        let begin = Instant::now();
        let mut notes = Notes::default();
        let set = self.client(domain, service, deadline, &mut notes).await;
        services::found(set, begin, notes)
    }

    /// The records of `kind` behind `name`.
    async fn records(
        &self,
        name: &Name,
        kind: RecordType,
        deadline: Instant,
    ) -> Result<Resolved, LookupFailure> {
        let key = (name.clone(), kind);
        let target = target(name);
        let look_up = async || {
            let result = walk::resolve(&self.validator, name, kind, &Work::new()).await;
            if let Err(error) = &result {
                tracing::debug!(%error, "look-up failed");
            }
            result
        };
        let flight = Box::pin(self.flights.get(&key, &target, look_up));
        match tokio::time::timeout_at(deadline.into(), flight).await {
            Ok(Ok(result)) => result,
            Ok(Err(limit)) => Err(LookupFailure::Busy { target, limit }),
            Err(_) => Err(LookupFailure::TimedOut(describe(name, kind))),
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Names for Resolver {
    fn srv<'a>(
        &'a self,
        name: &'a str,
        deadline: Instant,
    ) -> LocalBoxFuture<'a, Result<Lasting<Proven<Vec<Srv>>>, LookupFailure>> {
        Box::pin(async move {
            let mut notes = Notes::default();
            let value = self.secure_srv(&parse(name)?, deadline, &mut notes).await?;
            Ok(Lasting { value, lasts: notes.lasts })
        })
    }

    fn tlsa<'a>(
        &'a self,
        host: &'a str,
        port: u16,
        transport: Transport,
        deadline: Instant,
    ) -> LocalBoxFuture<'a, Result<Lasting<Proven<TlsaSet>>, LookupFailure>> {
        Box::pin(async move {
            let mut notes = Notes::default();
            let value = self.host(host, port, transport, deadline, &mut notes).await?;
            Ok(Lasting { value, lasts: notes.lasts })
        })
    }

    fn addresses<'a>(
        &'a self,
        host: &'a str,
        deadline: Instant,
    ) -> LocalBoxFuture<'a, Result<Vec<IpAddr>, LookupFailure>> {
        Box::pin(async move {
            let name = parse(host)?;
            let (four, six) = tokio::join!(
                self.records(&name, RecordType::A, deadline),
                self.records(&name, RecordType::AAAA, deadline),
            );
            let mut addresses = Vec::new();
            let mut why = None;
            for result in [four, six] {
                match result.map(|resolved| resolved.outcome) {
                    Ok(Outcome::Secure(records) | Outcome::Unsigned(records, _)) => {
                        addresses.extend(records.iter().filter_map(RData::ip_addr));
                    }
                    Ok(Outcome::Absent(_)) => {}
                    Err(error) => why = Some(error),
                }
            }
            addresses.truncate(services::MAX_TARGETS);
            match (addresses.is_empty(), why) {
                (false, _) => Ok(addresses),
                (true, Some(error)) => Err(error),
                (true, None) => Err(LookupFailure::Unanswered {
                    name: host.to_owned(),
                    why: "it has no address".to_owned(),
                }),
            }
        })
    }
}

/// A name in text as a name in the DNS.
fn parse(name: &str) -> Result<Name, LookupFailure> {
    let bad = |why: &str| LookupFailure::BadName {
        name: name.chars().take(80).collect(),
        why: why.to_owned(),
    };
    let labels: Vec<String> = name.split('.').map(str::to_ascii_lowercase).collect();
    for label in &labels {
        if label.is_empty() || label.len() > 63 {
            return Err(bad("a label has 1 to 63 bytes"));
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(bad("a label has letters, digits, - and _"));
        }
    }
    Name::from_labels(labels.iter().map(String::as_bytes)).map_err(|_| bad("it is too long"))
}

/// The domain whose look-ups are counted together: roughly what is registered. A wrong guess only
/// makes the bound a little tighter or looser.
fn target(name: &Name) -> String {
    let labels: Vec<&[u8]> = name.iter().collect();
    let short = |label: Option<&&[u8]>, most: usize| label.is_some_and(|l| l.len() <= most);
    let country = short(labels.last(), 2) && short(labels.iter().rev().nth(1), 3);
    let count = if country { 3 } else { 2 };
    text(&name.trim_to(count.min(labels.len())))
}

/// For the fuzz target `dns_answer`: reads an answer about `kind` at `name` and takes its proofs for
/// verified.
#[cfg(fuzzing)]
pub fn fuzz_answer(message: Vec<u8>, name: &str, kind: u16) {
    use denial::Denials;
    use hickory_resolver::proto::dnssec::rdata::DNSSECRData;

    let Ok(name) = parse(name) else { return };
    let kind = RecordType::from(kind);
    let Ok(response) = hickory_resolver::proto::op::DnsResponse::from_buffer(message) else {
        return;
    };
    let Ok(reply) = upstream::reply(response, &name, kind) else { return };
    let zone = name.trim_to(1);
    let mut denials = Denials { zone, nsec: Vec::new(), nsec3: Vec::new(), lasts: None };
    for record in &reply.authorities {
        match &record.data {
            RData::DNSSEC(DNSSECRData::NSEC(nsec)) => {
                denials.nsec.push((record.name.clone(), nsec.clone()));
            }
            RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) => {
                denials.nsec3.push((record.name.clone(), nsec3.clone()));
            }
            _ => {}
        }
    }
    let _ = denials.prove(&name, kind);
    let _ = denials.expansion(&name, name.num_labels().saturating_sub(1));
    chain::fuzz(&reply, &name, kind);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(text(&parse("_443._tcp.WWW.example.com").unwrap()), "_443._tcp.www.example.com");
        for bad in ["", ".", "a..b", "a.", ".a", "a b", "a\0b", "*.example.com", "ä.example", "a/b"]
        {
            assert!(matches!(parse(bad), Err(LookupFailure::BadName { .. })), "{bad}");
        }
        assert!(parse(&"a".repeat(63)).is_ok() && parse(&"a".repeat(64)).is_err());
        assert!(parse(&["a".repeat(63).as_str(); 4].join(".")).is_err());
    }

    #[test]
    fn targets() {
        for (name, expected) in [
            ("com", "com"),
            ("_443._tcp.www.example.com", "example.com"),
            ("www.example.co.uk", "example.co.uk"),
            ("www.example.nl", "example.nl"),
        ] {
            assert_eq!(target(&parse(name).unwrap()), expected);
        }
    }
}
