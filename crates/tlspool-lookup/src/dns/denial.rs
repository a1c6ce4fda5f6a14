//! What NSEC and NSEC3 records prove: that a name, or a type at a name, does not exist (RFC 4035 section
//! 5.4, RFC 5155 section 8, RFC 6840 section 4).
//!
//! Pure: the records given must have been verified with the keys of one zone.

use data_encoding::BASE32_DNSSEC;
use hickory_resolver::proto::dnssec::Nsec3HashAlgorithm;
use hickory_resolver::proto::dnssec::rdata::{NSEC, NSEC3};
use hickory_resolver::proto::rr::{Name, RecordType, RecordTypeSet};

/// More iterations than any sane zone has (RFC 9276 section 3.2); they cost us time.
const MAX_ITERATIONS: u16 = 150;

/// Verified records of one zone.
#[derive(Debug, Default)]
pub(super) struct Denials {
    /// The zone whose keys signed them.
    pub(super) zone: Name,
    pub(super) nsec: Vec<(Name, NSEC)>,
    pub(super) nsec3: Vec<(Name, NSEC3)>,
    /// The shortest time that one of them lasts, in seconds; none: there are none.
    pub(super) lasts: Option<u32>,
}

/// What they prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// There is no such name.
    Name,
    /// There is the name, or a wildcard for it, but not that type. For DS: it is no zone.
    Type,
    /// For DS: the name is a zone that is delegated without DS, so it is not signed.
    Delegation,
    /// For DS: what is delegated there, if anything, is not signed (RFC 5155 section 6).
    OptOut,
}

/// What they prove about a name to which a wildcard was expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expanded {
    /// Nothing closer exists.
    Proven,
    /// Nothing closer that is signed does, but an unsigned zone may (RFC 5155 section 9.2).
    OptOut,
}

impl Denials {
    /// What is proven about `kind` at `name`; else, why nothing is.
    pub(super) fn prove(&self, name: &Name, kind: RecordType) -> Result<Denied, &'static str> {
        if !self.zone.zone_of(name) {
            return Err("the proof is another zone's");
        }
        if !self.nsec.is_empty() {
            return self.by_nsec(name, kind);
        }
        let hashed = Hashed::new(self)?;
        hashed.prove(name, kind)
    }

    /// Whether nothing stands between `name` and the wildcard with `labels` labels after its `*` that
    /// was expanded to it (RFC 4035 section 5.3.4, RFC 5155 section 8.8). The wildcard must be of the
    /// zone that these records are of: a zone above it has no name in it, and denies them all.
    pub(super) fn expansion(&self, name: &Name, labels: u8) -> Result<Expanded, &'static str> {
        if !self.zone.zone_of(name) {
            return Err("the proof is another zone's");
        }
        let labels = usize::from(labels);
        if !self.nsec.is_empty() {
            let cover = self.cover(name).ok_or("it is not proven that the name does not exist")?;
            if closest(name, &self.zone, cover).iter().count() == labels {
                return Ok(Expanded::Proven);
            }
            return Err("a closer wildcard may exist");
        }
        let hashed = Hashed::new(self)?;
        match hashed.cover(&name.trim_to(labels + 1))? {
            Some(cover) if cover.opt_out() => Ok(Expanded::OptOut),
            Some(_) => Ok(Expanded::Proven),
            None => Err("it is not proven that the name does not exist"),
        }
    }

    fn by_nsec(&self, name: &Name, kind: RecordType) -> Result<Denied, &'static str> {
        if let Some((_, nsec)) = self.nsec.iter().find(|(owner, _)| owner == name) {
            return no_type(nsec.type_set(), name, kind);
        }
        let cover = self.cover(name).ok_or("no NSEC record is about the name")?;
        // Names exist below it, so it does as well, with nothing at it.
        if name.zone_of(cover.1.next_domain_name()) {
            return Ok(Denied::Type);
        }
        let encloser = closest(name, &self.zone, cover);
        let wildcard =
            encloser.prepend_label("*").map_err(|_| "the wildcard's name is too long")?;
        if let Some((_, nsec)) = self.nsec.iter().find(|(owner, _)| *owner == wildcard) {
            return no_type(nsec.type_set(), name, kind);
        }
        match self.cover(&wildcard) {
            Some(_) => Ok(Denied::Name),
            None => Err("it is not proven that there is no wildcard"),
        }
    }

    /// The record that covers `name`, and speaks for it.
    fn cover(&self, name: &Name) -> Option<&(Name, NSEC)> {
        self.nsec.iter().find(|(owner, nsec)| {
            let next = nsec.next_domain_name();
            // The last one of the zone leads back to its apex.
            let before_next = if owner < next { name < next } else { *next == self.zone };
            owner < name && before_next && (!owner.zone_of(name) || !is_cut(nsec.type_set()))
        })
    }
}

/// The closest ancestor of `name` that exists, as a covering record shows: it is an ancestor of one of
/// the two names between which `name` would stand.
fn closest(name: &Name, zone: &Name, (owner, nsec): &(Name, NSEC)) -> Name {
    let mut ancestor = name.base_name();
    while ancestor != *zone
        && !ancestor.is_root()
        && !ancestor.zone_of(owner)
        && !ancestor.zone_of(nsec.next_domain_name())
    {
        ancestor = ancestor.base_name();
    }
    ancestor
}

/// Whether the zone that signed this says nothing about names below it (RFC 6840 section 4.1).
fn is_cut(types: &RecordTypeSet) -> bool {
    types.contains(RecordType::DNAME)
        || types.contains(RecordType::NS) && !types.contains(RecordType::SOA)
}

/// What a record at the name itself, or at a wildcard for it, proves.
fn no_type(types: &RecordTypeSet, name: &Name, kind: RecordType) -> Result<Denied, &'static str> {
    if types.contains(kind) {
        return Err("the records exist");
    }
    if types.contains(RecordType::CNAME) {
        return Err("there is an alias");
    }
    let (apex, delegated) = (types.contains(RecordType::SOA), types.contains(RecordType::NS));
    match kind {
        // The child knows nothing about its DS.
        RecordType::DS if apex && !name.is_root() => Err("the proof is from below the zone cut"),
        RecordType::DS if delegated && !apex => Ok(Denied::Delegation),
        RecordType::DS => Ok(Denied::Type),
        _ if delegated && !apex => Err("the proof is from above the zone cut"),
        _ => Ok(Denied::Type),
    }
}

/// NSEC3 records with equal parameters.
struct Hashed<'a> {
    zone: &'a Name,
    algorithm: Nsec3HashAlgorithm,
    iterations: u16,
    salt: &'a [u8],
    records: Vec<(Vec<u8>, &'a NSEC3)>,
}

impl<'a> Hashed<'a> {
    fn new(denials: &'a Denials) -> Result<Self, &'static str> {
        let Some((_, first)) = denials.nsec3.first() else {
            return Err("neither NSEC nor NSEC3 records prove it");
        };
        let (algorithm, iterations) = (first.hash_algorithm(), first.iterations());
        if iterations > MAX_ITERATIONS {
            return Err("the zone demands more NSEC3 iterations than we do");
        }
        let salt = first.salt();
        let mut records = Vec::new();
        for (owner, nsec3) in &denials.nsec3 {
            let alike = nsec3.hash_algorithm() == algorithm
                && nsec3.iterations() == iterations
                && nsec3.salt() == salt
                && nsec3.flags() <= 1
                && owner.base_name() == denials.zone;
            let hash = owner.iter().next().and_then(|label| BASE32_DNSSEC.decode(label).ok());
            if let (true, Some(hash)) = (alike, hash) {
                records.push((hash, nsec3));
            }
        }
        Ok(Self { zone: &denials.zone, algorithm, iterations, salt, records })
    }

    fn hash(&self, name: &Name) -> Result<Vec<u8>, &'static str> {
        let digest = self.algorithm.hash(self.salt, name, self.iterations);
        digest.map(|d| d.as_ref().to_vec()).map_err(|_| "the name cannot be hashed")
    }

    fn at(&self, name: &Name) -> Result<Option<&'a NSEC3>, &'static str> {
        let hash = self.hash(name)?;
        let found = self.records.iter().find(|(owner, _)| *owner == hash);
        Ok(found.map(|(_, nsec3)| *nsec3))
    }

    fn cover(&self, name: &Name) -> Result<Option<&'a NSEC3>, &'static str> {
        let hash = self.hash(name)?;
        let found = self.records.iter().find(|(owner, nsec3)| {
            let (owner, next) = (owner.as_slice(), nsec3.next_hashed_owner_name());
            let hash = hash.as_slice();
            if owner < next { owner < hash && hash < next } else { hash > owner || hash < next }
        });
        Ok(found.map(|(_, nsec3)| *nsec3))
    }

    fn prove(&self, name: &Name, kind: RecordType) -> Result<Denied, &'static str> {
        if let Some(nsec3) = self.at(name)? {
            return no_type(nsec3.type_set(), name, kind);
        }
        // RFC 5155 section 8.3: the closest ancestor that exists; the one below it does not.
        let mut next_closer = name.clone();
        let encloser = loop {
            if next_closer == *self.zone || next_closer.is_root() {
                return Err("no NSEC3 record shows an ancestor of the name");
            }
            let ancestor = next_closer.base_name();
            if let Some(nsec3) = self.at(&ancestor)? {
                if is_cut(nsec3.type_set()) {
                    return Err("the proof is from above the zone cut");
                }
                break ancestor;
            }
            next_closer = ancestor;
        };
        let cover = self.cover(&next_closer)?.ok_or("no NSEC3 record covers the name")?;
        if kind == RecordType::DS && cover.opt_out() {
            return Ok(Denied::OptOut);
        }
        let wildcard =
            encloser.prepend_label("*").map_err(|_| "the wildcard's name is too long")?;
        if let Some(nsec3) = self.at(&wildcard)? {
            return no_type(nsec3.type_set(), name, kind);
        }
        match self.cover(&wildcard)? {
            // With opt-out something unsigned may exist there, but nothing signed.
            Some(_) => Ok(Denied::Name),
            None => Err("it is not proven that there is no wildcard"),
        }
    }
}

#[cfg(test)]
mod tests;
