//! From a service to its TLSA records: SRV (RFC 7673), MX (RFC 7672), aliases (RFC 7671 section 7), and
//! clients as the drafts of the IETF's DANCE group place them.

use std::time::{Duration, Instant};

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tlspool_validate::sources::{Answer, Found, Origin, Outcome as Said, Tlsa, Transport};

use super::upstream::{describe, text};
use super::walk::{Outcome, Resolved};
use super::{Resolver, parse};
use crate::names::{LookupFailure, Proven, Srv, TlsaSet};

/// Targets of a service that are looked at.
pub(super) const MAX_TARGETS: usize = 8;
/// TLSA records that are used.
const MAX_RECORDS: usize = 64;

/// These are not located by SRV records, whatever somebody publishes.
const PLAIN: [&str; 2] = ["http", "https"];

/// What there is to say of a look-up.
pub(super) struct Notes {
    /// For a trace.
    pub(super) steps: Vec<String>,
    /// How long counts what it rests on so far.
    pub(super) lasts: Duration,
}

impl Default for Notes {
    fn default() -> Self {
        Self { steps: Vec::new(), lasts: Duration::MAX }
    }
}

impl Notes {
    /// It also rests on what counts for so long.
    fn last(&mut self, lasts: Duration) {
        self.lasts = self.lasts.min(lasts);
    }

    fn append(&mut self, mut other: Self) {
        self.steps.append(&mut other.steps);
        self.last(other.lasts);
    }
}

impl Resolver {
    pub(super) async fn server(
        &self,
        host: &str,
        port: u16,
        transport: Transport,
        service: &str,
        deadline: Instant,
        notes: &mut Notes,
    ) -> Result<Proven<TlsaSet>, LookupFailure> {
        let targets = match service {
            "" => None,
            service if PLAIN.contains(&service) => None,
            "smtp" => self.exchanges(host, deadline, notes).await?,
            service => self.targets(host, port, transport, service, deadline, notes).await?,
        };
        match targets {
            None => self.host(host, port, transport, deadline, notes).await,
            Some(targets) => self.hosts(host, &targets, port, transport, deadline, notes).await,
        }
    }

    pub(super) async fn client(
        &self,
        domain: &str,
        service: &str,
        deadline: Instant,
        notes: &mut Notes,
    ) -> Result<Proven<TlsaSet>, LookupFailure> {
        let general = parse(&format!("_client.{domain}"))?;
        let mut names = Vec::new();
        if is_label(service) {
            names.push(parse(&format!("_{service}._client.{domain}"))?);
        }
        names.push(general);
        let mut reasons = Vec::new();
        for name in names {
            match self.tlsa_at(&name, deadline, notes).await? {
                Proven::Secure(records) => {
                    let reference_names = Vec::new();
                    return Ok(Proven::Secure(TlsaSet { records, reference_names }));
                }
                Proven::Absent(why) => reasons.push(why),
            }
        }
        Ok(Proven::Absent(reasons.join("; ")))
    }

    /// The records of one host, or, if secure aliases lead from it to another, of that one if it has
    /// any.
    pub(super) async fn host(
        &self,
        host: &str,
        port: u16,
        transport: Transport,
        deadline: Instant,
        notes: &mut Notes,
    ) -> Result<Proven<TlsaSet>, LookupFailure> {
        let name = parse(host)?;
        let own_name = tlsa_name(host, port, transport)?;
        let mut own_notes = Notes::default();
        let (own, address) = tokio::join!(
            self.tlsa_at(&own_name, deadline, &mut own_notes),
            self.records(&name, RecordType::A, deadline),
        );
        // An address that is forged is as bad as a forged TLSA record: without it we do not know
        // whether there is an alias.
        let address = address?;
        notes.last(address.lasts);
        let canonical = address.canonical.and_then(|canonical| host_text(&canonical));
        if let Some(canonical) = canonical {
            notes.steps.push(format!("{host}: secure alias of {canonical}"));
            let name = tlsa_name(&canonical, port, transport)?;
            if let Proven::Secure(records) = self.tlsa_at(&name, deadline, notes).await? {
                let set = TlsaSet { records, reference_names: vec![canonical] };
                return Ok(Proven::Secure(set));
            }
        }
        notes.append(own_notes);
        Ok(match own? {
            Proven::Absent(why) => Proven::Absent(why),
            Proven::Secure(records) => {
                Proven::Secure(TlsaSet { records, reference_names: Vec::new() })
            }
        })
    }

    /// The records of all targets together: which of them the peer is, nobody knows.
    async fn hosts(
        &self,
        domain: &str,
        targets: &[String],
        port: u16,
        transport: Transport,
        deadline: Instant,
        notes: &mut Notes,
    ) -> Result<Proven<TlsaSet>, LookupFailure> {
        let mut set = TlsaSet { records: Vec::new(), reference_names: Vec::new() };
        let mut reasons = Vec::new();
        let mut failure = None;
        for target in targets {
            match self.host(target, port, transport, deadline, notes).await {
                Ok(Proven::Secure(found)) => {
                    set.records.extend(found.records);
                    for name in std::iter::once(target.clone()).chain(found.reference_names) {
                        if name != domain && !set.reference_names.contains(&name) {
                            set.reference_names.push(name);
                        }
                    }
                }
                Ok(Proven::Absent(why)) => reasons.push(why),
                Err(error) => {
                    notes.steps.push(error.to_string());
                    failure.get_or_insert(error);
                }
            }
        }
        set.records.truncate(MAX_RECORDS);
        match failure {
            _ if !set.records.is_empty() => Ok(Proven::Secure(set)),
            Some(error) => Err(error),
            None => Ok(Proven::Absent(reasons.join("; "))),
        }
    }

    /// Secure targets of SRV records at `port`; none if the domain itself is to be asked.
    async fn targets(
        &self,
        host: &str,
        port: u16,
        transport: Transport,
        service: &str,
        deadline: Instant,
        notes: &mut Notes,
    ) -> Result<Option<Vec<String>>, LookupFailure> {
        if !is_label(service) {
            return Ok(None);
        }
        let name = parse(&format!("_{service}.{}.{host}", label(transport)))?;
        let Proven::Secure(found) = self.secure_srv(&name, deadline, notes).await? else {
            return Ok(None);
        };
        let mut targets: Vec<String> = Vec::new();
        for srv in found.into_iter().filter(|srv| srv.port == port) {
            if !targets.contains(&srv.target) && targets.len() < MAX_TARGETS {
                targets.push(srv.target);
            }
        }
        if targets.is_empty() {
            notes.steps.push(format!("{}: no target has port {port}", text(&name)));
            return Ok(None);
        }
        Ok(Some(targets))
    }

    /// Secure mail exchangers; none if the domain itself is to be asked.
    async fn exchanges(
        &self,
        host: &str,
        deadline: Instant,
        notes: &mut Notes,
    ) -> Result<Option<Vec<String>>, LookupFailure> {
        let name = parse(host)?;
        let resolved = self.records(&name, RecordType::MX, deadline).await?;
        let records = match secure(&name, RecordType::MX, resolved, notes) {
            Proven::Absent(_) => return Ok(None),
            Proven::Secure(records) => records,
        };
        let mut found: Vec<(u16, String)> = Vec::new();
        for record in &records {
            if let RData::MX(mx) = record
                && let Some(exchange) = host_text(&mx.exchange)
            {
                found.push((mx.preference, exchange));
            }
        }
        found.sort();
        let mut targets: Vec<String> = Vec::new();
        for (_, target) in found {
            if !targets.contains(&target) && targets.len() < MAX_TARGETS {
                targets.push(target);
            }
        }
        // "MX 0 ." (RFC 7505) takes no mail; whoever is connected is asked about itself.
        Ok((!targets.is_empty()).then_some(targets))
    }

    pub(super) async fn secure_srv(
        &self,
        name: &Name,
        deadline: Instant,
        notes: &mut Notes,
    ) -> Result<Proven<Vec<Srv>>, LookupFailure> {
        let resolved = self.records(name, RecordType::SRV, deadline).await?;
        let records = match secure(name, RecordType::SRV, resolved, notes) {
            Proven::Absent(why) => return Ok(Proven::Absent(why)),
            Proven::Secure(records) => records,
        };
        let mut found = Vec::new();
        for record in &records {
            if let RData::SRV(srv) = record
                && let Some(target) = host_text(&srv.target)
            {
                let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
                found.push(Srv { priority, weight, port, target });
            }
        }
        found.sort_by_key(|srv| srv.priority);
        if found.is_empty() {
            // The target "." (RFC 2782), or none that is a host.
            return Ok(Proven::Absent(format!("{} offers no such service", text(name))));
        }
        Ok(Proven::Secure(found))
    }

    async fn tlsa_at(
        &self,
        name: &Name,
        deadline: Instant,
        notes: &mut Notes,
    ) -> Result<Proven<Vec<Tlsa>>, LookupFailure> {
        let resolved = self.records(name, RecordType::TLSA, deadline).await?;
        let records = match secure(name, RecordType::TLSA, resolved, notes) {
            Proven::Absent(why) => return Ok(Proven::Absent(why)),
            Proven::Secure(records) => records,
        };
        let mut found = Vec::new();
        for record in records {
            if let RData::TLSA(tlsa) = record {
                found.push(Tlsa {
                    usage: tlsa.cert_usage.into(),
                    selector: tlsa.selector.into(),
                    matching: tlsa.matching.into(),
                    data: tlsa.cert_data,
                });
            }
        }
        found.truncate(MAX_RECORDS);
        Ok(Proven::Secure(found))
    }
}

/// Only what is secure counts; a line about it goes to `steps`.
fn secure(
    name: &Name,
    kind: RecordType,
    resolved: Resolved,
    notes: &mut Notes,
) -> Proven<Vec<RData>> {
    notes.last(resolved.lasts);
    let (proven, line) = match resolved.outcome {
        Outcome::Secure(records) => {
            let line = format!("secure, {} records", records.len());
            (Proven::Secure(records), line)
        }
        Outcome::Unsigned(_, why) => {
            let line = format!("not secure: {why}");
            (Proven::Absent(why.to_string()), line)
        }
        Outcome::Absent(why) => (Proven::Absent(why.to_string()), format!("none: {why}")),
    };
    notes.steps.push(format!("{}: {line}", describe(name, kind)));
    proven
}

/// The answer to a query.
pub(super) fn found(
    set: Result<Proven<TlsaSet>, LookupFailure>,
    begin: Instant,
    Notes { steps, lasts }: Notes,
) -> Found {
    let outcome = match set {
        Ok(Proven::Secure(TlsaSet { records, reference_names })) => {
            Said::Present(Answer::Tlsa { records, reference_names })
        }
        Ok(Proven::Absent(why)) => Said::Absent(why),
        Err(error) => Said::Failed(error.to_string()),
    };
    let (elapsed, lasts) = (begin.elapsed(), Some(lasts));
    Found { outcome, origin: Origin::Live, elapsed, lasts, steps }
}

fn tlsa_name(host: &str, port: u16, transport: Transport) -> Result<Name, LookupFailure> {
    parse(&format!("_{port}.{}.{host}", label(transport)))
}

fn label(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "_tcp",
        Transport::Udp => "_udp",
        Transport::Sctp => "_sctp",
    }
}

/// Whether a service has a label of its own.
fn is_label(service: &str) -> bool {
    !service.is_empty()
        && service.len() < 63
        && service.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// A host that a record points to; none if it is no name of a host.
fn host_text(name: &Name) -> Option<String> {
    let text = text(&name.to_lowercase());
    parse(&text).is_ok().then_some(text)
}
