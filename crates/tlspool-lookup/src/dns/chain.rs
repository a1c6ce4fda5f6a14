//! DNSSEC (RFC 4033 to 4035, 5155, 6840): from the root's anchor to the records of one name.
//!
//! An answer is *secure* if its signatures lead to the anchor, *unsigned* if a secure proof says that a
//! zone above it is delegated without a key, *absent* if a secure proof says that there is none, and
//! else an error. What servers say about validation (the AD bit) does not count, nor does anything in an
//! answer that is not needed for its proof.
//!
//! hickory reads messages and checks single signatures; the decisions are made here. Its own validator
//! answers another question: it marks records, and gives negative answers whose authority section
//! is all unsigned as if the name were, so a forged "no" with any unsigned zone's SOA would pass for
//! absence. It also remembers verdicts for as long as a forged TTL says, and beyond the end
//! of signatures.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS, RRSIG};
use hickory_resolver::proto::dnssec::{Algorithm, DigestType, Verifier};
use hickory_resolver::proto::rr::rdata::NULL;
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType, SerialNumber};
use hickory_resolver::proto::serialize::binary::BinDecodable;
use lru::LruCache;

use super::denial::{Denials, Denied, Expanded};
use super::flight::Flights;
use super::settings::{Anchors, DnsSettings, SettingsError};
use super::upstream::{Reply, Upstream, describe, text};
use super::work::Work;
use crate::names::{LocalBoxFuture, LookupFailure};

/// Signatures over one set of records that are tried.
const MAX_SIGNATURES: usize = 8;
/// Keys with the tag of a signature that are tried (the KeyTrap attack is made of such collisions).
const MAX_SAME_TAG: usize = 4;
/// Sets of denial records that are looked at; a proof needs three.
const MAX_DENIALS: usize = 8;
/// How long keys are remembered at most.
const REMEMBERED: Duration = Duration::from_hours(1);
/// How long it is remembered that a zone is unsigned.
const REMEMBERED_UNSIGNED: Duration = Duration::from_mins(5);

/// One answer, validated.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Secure records; at least one.
    Secure(Vec<RData>),
    /// Records of an unsigned zone; why they are not secure.
    Unsigned(Vec<RData>, Arc<str>),
    /// A secure alias (CNAME or DNAME).
    Alias(Name),
    /// An alias in an unsigned zone.
    UnsignedAlias(Name, Arc<str>),
    /// There are none; secure, or so says an unsigned zone.
    Absent(Arc<str>),
}

/// What a name is, seen from the zone above it.
#[derive(Debug, Clone)]
enum Cut {
    /// A signed zone.
    Signed(Arc<Vec<DNSKEY>>),
    /// A zone, or below one, that is not signed.
    Unsigned(Arc<str>),
    /// No zone: its records are in the zone above.
    None,
    /// There is no such name.
    NoName,
}

enum Security {
    /// Verified, with a signature that lasts so many seconds.
    Secure(u32),
    Unsigned(Arc<str>),
}

/// Validates what the upstream answers.
pub(super) struct Validator {
    upstream: Upstream,
    anchors: Anchors,
    cuts: Mutex<LruCache<Name, (Instant, Cut)>>,
    flights: Flights<Name, Result<Cut, LookupFailure>>,
}

impl Validator {
    pub(super) fn new(settings: &DnsSettings) -> Result<Self, SettingsError> {
        let zones = NonZeroUsize::new(settings.zones).unwrap_or(NonZeroUsize::MIN);
        Ok(Self {
            upstream: Upstream::new(settings)?,
            anchors: Anchors::load(&settings.anchors)?,
            cuts: Mutex::new(LruCache::new(zones)),
            flights: Flights::new(usize::MAX),
        })
    }

    /// The records of one type at one name, and for how long that counts.
    pub(super) async fn step(
        &self,
        name: &Name,
        kind: RecordType,
        work: &Work,
    ) -> Result<(Step, Duration), LookupFailure> {
        let reply = self.upstream.ask(name, kind, work).await?;
        let set = Set::of(&reply.answers, name, kind);
        if !set.records.is_empty() {
            return Ok(match self.secure(&set, &reply, work).await? {
                Security::Secure(lasts) => (Step::Secure(set.data()), seconds(lasts)),
                Security::Unsigned(why) => (Step::Unsigned(set.data(), why), set.unsigned_lasts()),
            });
        }
        if let Some(step) = self.alias(name, kind, &reply, work).await? {
            return Ok(step);
        }
        let unsigned = negative_lasts(&reply, None).min(REMEMBERED_UNSIGNED);
        match self.denied(name, kind, &reply, work).await? {
            Ok(Absence::Proven(denied, lasts)) => {
                let why = match denied {
                    Denied::Name => format!("there is no {}", text(name)),
                    _ => format!("{} has no {kind} record", text(name)),
                };
                Ok((Step::Absent(why.into()), negative_lasts(&reply, lasts)))
            }
            Ok(Absence::Unsigned(why)) => Ok((Step::Absent(why), unsigned)),
            Err(why) => match self.walk(name, work).await? {
                Some(why) => Ok((Step::Absent(why), unsigned)),
                None => Err(bogus(name, kind, &format!("absence is not proven: {why}"))),
            },
        }
    }

    /// The alias at `name`, or above it (DNAME, RFC 6672), that answers instead.
    async fn alias(
        &self,
        name: &Name,
        kind: RecordType,
        reply: &Reply,
        work: &Work,
    ) -> Result<Option<(Step, Duration)>, LookupFailure> {
        let set = Set::of(&reply.answers, name, RecordType::CNAME);
        let target = match set.records.as_slice() {
            [] => None,
            [record] => match &record.data {
                RData::CNAME(target) => Some(target.0.clone()),
                _ => None,
            },
            _ => return Err(bogus(name, kind, "it has several aliases")),
        };
        if let Some(target) = &target
            && !set.signatures.is_empty()
        {
            let target = target.clone();
            return Ok(Some(match self.secure(&set, reply, work).await? {
                Security::Secure(lasts) => (Step::Alias(target), seconds(lasts)),
                Security::Unsigned(why) => (Step::UnsignedAlias(target, why), set.unsigned_lasts()),
            }));
        }
        // A CNAME that a DNAME makes is not signed itself.
        let mut above = name.base_name();
        while !above.is_root() {
            let set = Set::of(&reply.answers, &above, RecordType::DNAME);
            if let [record] = set.records.as_slice() {
                let RData::Unknown { rdata, .. } = &record.data else { break };
                let Some(target) = redirect(name, &above, rdata) else { break };
                return Ok(Some(match self.secure(&set, reply, work).await? {
                    Security::Secure(lasts) => (Step::Alias(target), seconds(lasts)),
                    Security::Unsigned(why) => {
                        (Step::UnsignedAlias(target, why), set.unsigned_lasts())
                    }
                }));
            }
            above = above.base_name();
        }
        let Some(target) = target else { return Ok(None) };
        match self.walk(name, work).await? {
            Some(why) => Ok(Some((Step::UnsignedAlias(target, why), set.unsigned_lasts()))),
            None => Err(bogus(name, RecordType::CNAME, "it is not signed, but its zone is")),
        }
    }

    /// Whether a set of records is signed as its zone demands.
    fn secure<'a>(
        &'a self,
        set: &'a Set<'a>,
        reply: &'a Reply,
        work: &'a Work,
    ) -> LocalBoxFuture<'a, Result<Security, LookupFailure>> {
        Box::pin(async move {
            let mut why = "it is not signed, but its zone is".to_owned();
            for signature in set.signatures.iter().take(MAX_SIGNATURES) {
                let input = signature.input();
                let signer = &input.signer_name;
                if let Err(wrong) = set.may_be_signed_by(signature) {
                    wrong.clone_into(&mut why);
                    continue;
                }
                let keys = match self.cut(signer, work).await? {
                    Cut::Signed(keys) => keys,
                    Cut::Unsigned(why) => return Ok(Security::Unsigned(why)),
                    Cut::None | Cut::NoName => {
                        why = format!("it is signed by {}, which is no zone", text(signer));
                        continue;
                    }
                };
                if !set.verify(signature, &keys, work)? {
                    why = format!("the signature of {} is wrong", text(signer));
                    continue;
                }
                let mut lasts = lasts(signature, set);
                if input.num_labels < set.name.num_labels() {
                    // An expanded wildcard: nothing closer may exist in its zone. The zones above know
                    // of no name in it, and would deny every one.
                    let records = &reply.authorities;
                    let denials =
                        match self.denials(&set.within, records, Some(signer), work).await? {
                            Ok(denials) => denials,
                            Err(why) => return Ok(Security::Unsigned(why)),
                        };
                    work.denial(set.name)?;
                    lasts = denials.lasts.unwrap_or(0).min(lasts);
                    match denials.expansion(set.name, input.num_labels) {
                        Ok(Expanded::OptOut) => {
                            let what = "may be in an unsigned zone (opt-out)";
                            let why = format!("{} {what}", text(set.name));
                            return Ok(Security::Unsigned(why.into()));
                        }
                        Ok(Expanded::Proven) => {}
                        Err(wrong) => {
                            wrong.clone_into(&mut why);
                            continue;
                        }
                    }
                }
                return Ok(Security::Secure(lasts));
            }
            match self.walk(&set.within, work).await? {
                Some(why) => Ok(Security::Unsigned(why)),
                None => Err(bogus(set.name, set.kind, &why)),
            }
        })
    }

    /// What `name` is: the root of trust for everything below it, if it is a signed zone.
    fn cut<'a>(
        &'a self,
        name: &'a Name,
        work: &'a Work,
    ) -> LocalBoxFuture<'a, Result<Cut, LookupFailure>> {
        Box::pin(async move {
            if let Some((until, cut)) = self.lock().get(name)
                && *until > Instant::now()
            {
                return Ok(cut.clone());
            }
            // Each depends on zones above it only, so those that wait for each other do not wait in a
            // circle.
            let result = self.flights.get(name, "", async || self.look_up_cut(name, work).await);
            result
                .await
                .unwrap_or_else(|limit| Err(LookupFailure::Busy { target: text(name), limit }))
        })
    }

    async fn look_up_cut(&self, name: &Name, work: &Work) -> Result<Cut, LookupFailure> {
        let (cut, lasts) = if name.is_root() {
            self.zone_keys(name, |key| self.anchors.has(key), u32::MAX, work).await?
        } else {
            self.delegation(name, work).await?
        };
        let until = match &cut {
            Cut::Signed(_) => lasts.min(REMEMBERED),
            Cut::Unsigned(_) => lasts.min(REMEMBERED_UNSIGNED),
            Cut::None | Cut::NoName => return Ok(cut),
        };
        self.lock().put(name.clone(), (Instant::now() + until, cut.clone()));
        Ok(cut)
    }

    /// What the zone above says about `name`, by its DS records or their proven absence.
    async fn delegation(&self, name: &Name, work: &Work) -> Result<(Cut, Duration), LookupFailure> {
        let reply = self.upstream.ask(name, RecordType::DS, work).await?;
        let set = Set::of(&reply.answers, name, RecordType::DS);
        if set.records.is_empty() {
            let cut = self.no_ds(name, &reply, work).await?;
            let soa = reply.authorities.iter().map(|record| record.ttl).min();
            return Ok((cut, Duration::from_secs(soa.unwrap_or(0).into())));
        }
        let lasts = match self.secure(&set, &reply, work).await? {
            Security::Secure(lasts) => lasts,
            Security::Unsigned(why) => return Ok((Cut::Unsigned(why), REMEMBERED_UNSIGNED)),
        };
        let mut usable = Vec::new();
        for record in &set.records {
            if let RData::DNSSEC(DNSSECRData::DS(ds)) = &record.data
                && is_supported(ds.algorithm())
                && matches!(ds.digest_type(), DigestType::SHA256 | DigestType::SHA384)
            {
                usable.push(ds);
            }
        }
        if usable.is_empty() {
            let why = format!("{} is signed only with what is not supported", text(name));
            return Ok((Cut::Unsigned(why.into()), Duration::from_secs(lasts.into())));
        }
        let named = |key: &DNSKEY| usable.iter().any(|ds| names(ds, name, key));
        self.zone_keys(name, named, lasts, work).await
    }

    async fn no_ds(&self, name: &Name, reply: &Reply, work: &Work) -> Result<Cut, LookupFailure> {
        // An alias is no zone, and stands in the zone above.
        let mut alias = Set::of(&reply.answers, name, RecordType::CNAME);
        alias.within = name.base_name();
        if !alias.records.is_empty() && !alias.signatures.is_empty() {
            return Ok(match self.secure(&alias, reply, work).await? {
                Security::Secure(_) => Cut::None,
                Security::Unsigned(why) => Cut::Unsigned(why),
            });
        }
        match self.denied(name, RecordType::DS, reply, work).await? {
            Ok(Absence::Proven(Denied::Type, _)) => Ok(Cut::None),
            Ok(Absence::Proven(Denied::Name, _)) => Ok(Cut::NoName),
            Ok(Absence::Proven(Denied::Delegation, _)) => {
                Ok(Cut::Unsigned(format!("{} is not signed", text(name)).into()))
            }
            Ok(Absence::Proven(Denied::OptOut, _)) => {
                let why = format!("{} is not signed, if it exists (opt-out)", text(name));
                Ok(Cut::Unsigned(why.into()))
            }
            Ok(Absence::Unsigned(why)) => Ok(Cut::Unsigned(why)),
            Err(why) => match self.walk(&name.base_name(), work).await? {
                Some(why) => Ok(Cut::Unsigned(why)),
                None => Err(bogus(name, RecordType::DS, &format!("absence is not proven: {why}"))),
            },
        }
    }

    /// The keys of a zone: all, if one that is `trusted` signed them.
    async fn zone_keys(
        &self,
        zone: &Name,
        trusted: impl Fn(&DNSKEY) -> bool,
        lasts_above: u32,
        work: &Work,
    ) -> Result<(Cut, Duration), LookupFailure> {
        let reply = self.upstream.ask(zone, RecordType::DNSKEY, work).await?;
        let set = Set::of(&reply.answers, zone, RecordType::DNSKEY);
        let mut keys = Vec::new();
        for record in &set.records {
            if let RData::DNSSEC(DNSSECRData::DNSKEY(key)) = &record.data
                && key.zone_key()
                && !key.revoke()
            {
                keys.push(key.clone());
            }
        }
        let entries: Vec<_> = keys.iter().filter(|key| trusted(key)).cloned().collect();
        if entries.is_empty() {
            let why = if zone.is_root() {
                "none of the root's keys is that of the anchor"
            } else {
                "none of the zone's keys is named by the zone above"
            };
            return Err(bogus(zone, RecordType::DNSKEY, why));
        }
        let mut why = "no trusted key signed the keys";
        for signature in set.signatures.iter().take(MAX_SIGNATURES) {
            if signature.input().signer_name != *zone {
                continue;
            }
            if let Err(wrong) = set.may_be_signed_by(signature) {
                why = wrong;
                continue;
            }
            if set.verify(signature, &entries, work)? {
                let lasts = lasts(signature, &set).min(lasts_above);
                let cut = Cut::Signed(Arc::new(keys));
                return Ok((cut, Duration::from_secs(lasts.into())));
            }
        }
        Err(bogus(zone, RecordType::DNSKEY, why))
    }

    /// From the root down to `name`: why there is an unsigned zone on the way, or none.
    fn walk<'a>(
        &'a self,
        name: &'a Name,
        work: &'a Work,
    ) -> LocalBoxFuture<'a, Result<Option<Arc<str>>, LookupFailure>> {
        Box::pin(async move {
            let labels = name.iter().count();
            for depth in 1..=labels {
                match self.cut(&name.trim_to(depth), work).await? {
                    Cut::Unsigned(why) => return Ok(Some(why)),
                    // What is below a name that does not exist does not exist either.
                    Cut::NoName => return Ok(None),
                    Cut::Signed(_) | Cut::None => {}
                }
            }
            Ok(None)
        })
    }

    /// What the authority section proves about `kind` at `name`; the inner error says why nothing.
    async fn denied(
        &self,
        name: &Name,
        kind: RecordType,
        reply: &Reply,
        work: &Work,
    ) -> Result<Result<Absence, &'static str>, LookupFailure> {
        let above = name.base_name();
        let within = if kind == RecordType::DS { &above } else { name };
        match self.denials(within, &reply.authorities, None, work).await? {
            Ok(denials) => {
                work.denial(name)?;
                let proven = denials.prove(name, kind);
                Ok(proven.map(|denied| Absence::Proven(denied, denials.lasts)))
            }
            Err(why) => Ok(Ok(Absence::Unsigned(why))),
        }
    }

    /// The verified NSEC and NSEC3 records of one zone at or above `within`, the given one if any; the
    /// inner error says that the zone is not signed.
    async fn denials(
        &self,
        within: &Name,
        authorities: &[Record],
        zone: Option<&Name>,
        work: &Work,
    ) -> Result<Result<Denials, Arc<str>>, LookupFailure> {
        let mut denials = Denials::default();
        let mut zone = zone.cloned();
        let mut seen: Vec<(&Name, RecordType)> = Vec::new();
        for record in authorities {
            let kind = record.record_type();
            if !matches!(kind, RecordType::NSEC | RecordType::NSEC3)
                || seen.contains(&(&record.name, kind))
            {
                continue;
            }
            seen.push((&record.name, kind));
            if seen.len() > MAX_DENIALS {
                break;
            }
            let set = Set::of(authorities, &record.name, kind);
            for signature in set.signatures.iter().take(MAX_SIGNATURES) {
                let input = signature.input();
                let signer = &input.signer_name;
                if !signer.zone_of(within)
                    || zone.as_ref().is_some_and(|zone| zone != signer)
                    // Such a record is never the expansion of a wildcard.
                    || input.num_labels != set.name.num_labels()
                    || set.may_be_signed_by(signature).is_err()
                {
                    continue;
                }
                let keys = match self.cut(signer, work).await? {
                    Cut::Signed(keys) => keys,
                    Cut::Unsigned(why) => return Ok(Err(why)),
                    Cut::None | Cut::NoName => continue,
                };
                if !set.verify(signature, &keys, work)? {
                    continue;
                }
                zone = Some(signer.clone());
                let lasts = lasts(signature, &set);
                denials.lasts = Some(denials.lasts.unwrap_or(lasts).min(lasts));
                match &record.data {
                    RData::DNSSEC(DNSSECRData::NSEC(nsec)) => {
                        denials.nsec.push((record.name.clone(), nsec.clone()));
                    }
                    RData::DNSSEC(DNSSECRData::NSEC3(nsec3)) => {
                        denials.nsec3.push((record.name.clone(), nsec3.clone()));
                    }
                    _ => {}
                }
                break;
            }
        }
        denials.zone = zone.unwrap_or_default();
        Ok(Ok(denials))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<Name, (Instant, Cut)>> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Absence {
    /// By records that last so many seconds.
    Proven(Denied, Option<u32>),
    Unsigned(Arc<str>),
}

/// The records of one type at one name, and the signatures over them.
struct Set<'a> {
    name: &'a Name,
    kind: RecordType,
    /// The name at or above which the zone must be that holds the set. While a zone cut is looked up,
    /// that is above it: else the look-up would wait for itself.
    within: Name,
    records: Vec<&'a Record>,
    signatures: Vec<&'a RRSIG>,
}

impl<'a> Set<'a> {
    fn of(section: &'a [Record], name: &'a Name, kind: RecordType) -> Self {
        // A DS record is the business of the zone above.
        let within = if kind == RecordType::DS { name.base_name() } else { name.clone() };
        let mut set = Self { name, kind, within, records: Vec::new(), signatures: Vec::new() };
        for record in section.iter().filter(|record| record.name == *name) {
            if record.record_type() == kind {
                // A record that stands there twice counts once (RFC 4034 section 6.3).
                if !set.records.iter().any(|known| known.data == record.data) {
                    set.records.push(record);
                }
            } else if let RData::DNSSEC(DNSSECRData::RRSIG(signature)) = &record.data
                && signature.input().type_covered == kind
            {
                set.signatures.push(signature);
            }
        }
        set
    }

    fn data(&self) -> Vec<RData> {
        self.records.iter().map(|record| record.data.clone()).collect()
    }

    /// How long records that nobody has signed may be remembered.
    fn unsigned_lasts(&self) -> Duration {
        seconds(self.ttl()).min(REMEMBERED_UNSIGNED)
    }

    /// As received, in seconds.
    fn ttl(&self) -> u32 {
        self.records.iter().map(|record| record.ttl).min().unwrap_or(0)
    }

    /// RFC 4035 section 5.3.1, as far as it needs no key.
    fn may_be_signed_by(&self, signature: &RRSIG) -> Result<(), &'static str> {
        let input = signature.input();
        let signer = &input.signer_name;
        if !signer.zone_of(&self.within) {
            return Err("it is signed by another zone");
        }
        // hickory counts no leading `*`, as the field does.
        if input.num_labels > self.name.num_labels() {
            return Err("its signature is for another name");
        }
        if !is_supported(input.algorithm) {
            return Err("its signature is of a kind that is not supported");
        }
        let now = now();
        if SerialNumber::new(now) > input.sig_expiration {
            return Err("its signature has expired");
        }
        if SerialNumber::new(now) < input.sig_inception {
            return Err("its signature is not yet valid");
        }
        Ok(())
    }

    fn verify(
        &self,
        signature: &RRSIG,
        keys: &[DNSKEY],
        work: &Work,
    ) -> Result<bool, LookupFailure> {
        let input = signature.input();
        let fits = |key: &&DNSKEY| {
            key.algorithm() == input.algorithm
                && key.calculate_key_tag().is_ok_and(|tag| tag == input.key_tag)
        };
        for key in keys.iter().filter(fits).take(MAX_SAME_TAG) {
            work.signature(self.name)?;
            let records = self.records.iter().copied();
            if key.verify_rrsig(self.name, DNSClass::IN, signature, records).is_ok() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether `ds` means `key` of `zone`.
fn names(ds: &DS, zone: &Name, key: &DNSKEY) -> bool {
    ds.algorithm() == key.algorithm()
        && key.calculate_key_tag().is_ok_and(|tag| tag == ds.key_tag())
        && ds.covers(zone, key).unwrap_or(false)
}

/// Signatures of these kinds count; SHA-1 no longer does (RFC 8624, RFC 9905).
fn is_supported(algorithm: Algorithm) -> bool {
    matches!(
        algorithm,
        Algorithm::RSASHA256
            | Algorithm::RSASHA512
            | Algorithm::ECDSAP256SHA256
            | Algorithm::ECDSAP384SHA384
            | Algorithm::ED25519
    )
}

/// How many seconds a verified set may be remembered: no longer than its TTL, as signed and as
/// received, nor than its signature.
fn lasts(signature: &RRSIG, set: &Set<'_>) -> u32 {
    let left = signature.input().sig_expiration.get().wrapping_sub(now());
    left.min(set.ttl()).min(signature.input().original_ttl)
}

/// How long "there is none" may be remembered: no longer than the SOA record says (RFC 2308 section 5), nor than
/// its proof lasts (RFC 9077), if there is one.
fn negative_lasts(reply: &Reply, proof: Option<u32>) -> Duration {
    let soa = reply.authorities.iter().find_map(|record| match &record.data {
        RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
        _ => None,
    });
    seconds(soa.into_iter().chain(proof).min().unwrap_or(0))
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}

/// `name` with `above` replaced by the target of a DNAME record (RFC 6672 section 2.2).
fn redirect(name: &Name, above: &Name, target: &NULL) -> Option<Name> {
    let target = Name::from_bytes(&target.anything).ok()?;
    let kept = name.iter().count().checked_sub(above.iter().count())?;
    Name::from_labels(name.iter().take(kept).chain(target.iter())).ok()
}

fn bogus(name: &Name, kind: RecordType, why: &str) -> LookupFailure {
    LookupFailure::Bogus { name: describe(name, kind), why: why.to_owned() }
}

/// Seconds since 1970, as signatures count them (RFC 4034 section 3.1.5).
fn now() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as u32
}

/// Sets, signatures and aliases of an answer, with its own keys.
#[cfg(fuzzing)]
pub(super) fn fuzz(reply: &Reply, name: &Name, kind: RecordType) {
    let set = Set::of(&reply.answers, name, kind);
    let mut keys = Vec::new();
    for record in &reply.additionals {
        match &record.data {
            RData::DNSSEC(DNSSECRData::DNSKEY(key)) => keys.push(key.clone()),
            RData::Unknown { rdata, .. } => drop(redirect(name, &name.base_name(), rdata)),
            _ => {}
        }
    }
    for signature in &set.signatures {
        let _ = set.may_be_signed_by(signature);
        let _ = set.verify(signature, &keys, &Work::new());
        let _ = lasts(signature, &set);
    }
}
