//! Does a presented certificate chain match the TLSA records of its name (RFC 6698, 7671, 7672, 7673)?
//!
//! The policy asks this about peers, the directory look-up about directories. The records must come from
//! a DNSSEC-secure answer ([`crate::sources::Answer::Tlsa`]); that is for the caller to know. Nothing is
//! looked up here, and no handshake signature is checked.
//!
//! Any match of any record wins. Records that we cannot use are skipped, and if none is left it is as if
//! there were none. DANE speaks for domains: about a user it says nothing, unless the domain may answer
//! for its user.

use std::cell::Cell;
use std::fmt::{self, Write as _};

use aws_lc_rs::digest;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use tlspool_identity::x509::{self, CertificateNames, Legacy};
use tlspool_identity::{DoNai, matches};
use webpki::{EndEntityCert, VerifiedPath};
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo, X509Certificate};

use crate::pkix::{PkixValidator, carried, drop_unconstrained, find_path, refusal};
use crate::sources::Tlsa;
use crate::{Question, Refusal};

/// More records than anybody publishes; those after are not looked at.
const MAX_RECORDS: usize = 64;
/// More issuers than a path can have (webpki: six); those after are not looked at.
const MAX_ISSUERS: usize = 16;

/// The certificate usage of a record (RFC 6698 section 2.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Usage {
    /// 0: an authority in a path to one of our own trust anchors.
    PkixTa,
    /// 1: the peer's own certificate, which has a path to one of our trust anchors.
    PkixEe,
    /// 2: an authority, trusted for this name because the record says so.
    DaneTa,
    /// 3: the peer's own certificate; neither names nor dates nor issuers count.
    DaneEe,
}

/// A record that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// Its place among the records.
    pub record: usize,
    /// Its usage.
    pub usage: Usage,
    /// The name in the certificate that fits; none if names do not count ([`Usage::DaneEe`]): then the
    /// peer is the domain at which the record was found, whatever its certificate says.
    pub name: Option<DoNai>,
    /// One line for a trace.
    pub text: String,
}

/// What TLSA records say about a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A record matches.
    Match(Matched),
    /// There are usable records and none matches: for each, why. It is not the peer.
    NoMatch(Vec<String>),
    /// There is no usable record, as if none were published; why.
    Absent(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Match(matched) => f.write_str(&matched.text),
            Self::NoMatch(reasons) => write!(f, "no TLSA record matches: {}", reasons.join("; ")),
            Self::Absent(why) => write!(f, "no usable TLSA record: {why}"),
        }
    }
}

/// Compares what the peer presented with `records`.
///
/// The peer may carry the wanted name or one of `reference_names`, to which secure records lead from it.
/// Usages 0 and 1 need `pkix`; without it records of these usages are unusable.
pub fn check(
    question: &Question<'_>,
    records: &[Tlsa],
    reference_names: &[String],
    pkix: Option<&PkixValidator>,
) -> Verdict {
    if question.wanted.is_some_and(|name| name.user().is_some()) && !question.domain_represents_user
    {
        return Verdict::Absent("DANE speaks for domains, not for users".to_owned());
    }
    let mut usable = Vec::new();
    let mut unusable = Vec::new();
    for (index, tlsa) in records.iter().enumerate().take(MAX_RECORDS) {
        match Record::new(index, tlsa, pkix.is_some()) {
            Ok(record) => usable.push(record),
            Err(why) => unusable.push(format!("{}: {why}", describe(tlsa))),
        }
    }
    if usable.is_empty() {
        if unusable.is_empty() {
            return Verdict::Absent("none is published".to_owned());
        }
        unusable.truncate(8);
        return Verdict::Absent(unusable.join("; "));
    }
    let [leaf, issuers @ ..] = question.chain else {
        return Verdict::NoMatch(vec!["the peer sent no certificate".to_owned()]);
    };
    let issuers = &issuers[..issuers.len().min(MAX_ISSUERS)];
    let presented = Presented { question, reference_names, leaf, issuers };
    // The cheapest first: these need no path.
    let mut reasons = Vec::new();
    for usage in [Usage::DaneEe, Usage::DaneTa, Usage::PkixEe, Usage::PkixTa] {
        let records: Vec<_> = usable.iter().filter(|record| record.usage == usage).collect();
        if records.is_empty() {
            continue;
        }
        let result = match (usage, pkix) {
            (Usage::DaneEe, _) => presented.dane_ee(&records),
            (Usage::DaneTa, _) => {
                presented.dane_ta(&records, pkix.map_or(Legacy::Refuse, PkixValidator::legacy))
            }
            (Usage::PkixEe, Some(pkix)) => presented.pkix_ee(&records, pkix),
            (Usage::PkixTa, Some(pkix)) => presented.pkix_ta(&records, pkix),
            (Usage::PkixEe | Usage::PkixTa, None) => continue, // sorted out above
        };
        match result {
            Ok(matched) => return Verdict::Match(matched),
            Err(why) => {
                let which: Vec<_> = records.iter().map(|r| describe(r.tlsa)).take(4).collect();
                reasons.push(format!("{}: {why}", which.join(", ")));
            }
        }
    }
    Verdict::NoMatch(reasons)
}

/// A usable record.
#[derive(Debug)]
struct Record<'a> {
    index: usize,
    usage: Usage,
    selector: Selector,
    matching: Matching,
    tlsa: &'a Tlsa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Selector {
    Certificate,
    PublicKey,
}

#[derive(Debug, Clone, Copy)]
enum Matching {
    Exact,
    Digest(&'static digest::Algorithm),
}

/// Why a record cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Unusable {
    #[error("its usage is unknown")]
    Usage,
    #[error("its selector is unknown")]
    Selector,
    #[error("its matching type is unknown")]
    Matching,
    #[error("its digest has {is} bytes instead of {should}")]
    Length { is: usize, should: usize },
    #[error("its data is no certificate")]
    Certificate,
    #[error("its data is no public key")]
    PublicKey,
    #[error("there are no trust anchors here, which its usage needs")]
    NoAnchors,
}

impl<'a> Record<'a> {
    fn new(index: usize, tlsa: &'a Tlsa, anchors: bool) -> Result<Self, Unusable> {
        let usage = match tlsa.usage {
            0 => Usage::PkixTa,
            1 => Usage::PkixEe,
            2 => Usage::DaneTa,
            3 => Usage::DaneEe,
            _ => return Err(Unusable::Usage),
        };
        let selector = match tlsa.selector {
            0 => Selector::Certificate,
            1 => Selector::PublicKey,
            _ => return Err(Unusable::Selector),
        };
        let matching = match tlsa.matching {
            0 => Matching::Exact,
            1 => Matching::Digest(&digest::SHA256),
            2 => Matching::Digest(&digest::SHA512),
            _ => return Err(Unusable::Matching),
        };
        match (matching, selector) {
            (Matching::Digest(algorithm), _) => {
                let (is, should) = (tlsa.data.len(), algorithm.output_len());
                if is != should {
                    return Err(Unusable::Length { is, should });
                }
            }
            (Matching::Exact, Selector::Certificate) => {
                let parsed = X509Certificate::from_der(&tlsa.data);
                if !parsed.is_ok_and(|(rest, _)| rest.is_empty()) {
                    return Err(Unusable::Certificate);
                }
            }
            (Matching::Exact, Selector::PublicKey) => {
                let parsed = SubjectPublicKeyInfo::from_der(&tlsa.data);
                if !parsed.is_ok_and(|(rest, _)| rest.is_empty()) {
                    return Err(Unusable::PublicKey);
                }
            }
        }
        if matches!(usage, Usage::PkixTa | Usage::PkixEe) && !anchors {
            return Err(Unusable::NoAnchors);
        }
        Ok(Self { index, usage, selector, matching, tlsa })
    }

    /// Whether it means this certificate.
    fn is(&self, certificate: &CertificateDer<'_>) -> bool {
        let part = match self.selector {
            Selector::Certificate => certificate.as_ref(),
            Selector::PublicKey => match X509Certificate::from_der(certificate) {
                Ok((_, parsed)) => parsed.tbs_certificate.subject_pki.raw,
                Err(_) => return false,
            },
        };
        match self.matching {
            Matching::Exact => part == self.tlsa.data,
            Matching::Digest(algorithm) => {
                digest::digest(algorithm, part).as_ref() == self.tlsa.data
            }
        }
    }

    fn matched(&self, name: Option<DoNai>, what: &str) -> Matched {
        let named = match &name {
            Some(name) => format!("a certificate for {name}, "),
            None => String::new(),
        };
        let text = format!("TLSA {} matches: {named}{what}", describe(self.tlsa));
        Matched { record: self.index, usage: self.usage, name, text }
    }
}

/// What a peer presented, taken apart.
struct Presented<'a> {
    question: &'a Question<'a>,
    reference_names: &'a [String],
    leaf: &'a CertificateDer<'a>,
    issuers: &'a [CertificateDer<'a>],
}

impl Presented<'_> {
    /// RFC 7671 section 5.1: nothing but the key, or the certificate, counts.
    fn dane_ee(&self, records: &[&Record<'_>]) -> Result<Matched, String> {
        let found = records.iter().find(|record| record.is(self.leaf));
        let found = found.ok_or("the peer's certificate is another")?;
        Ok(found.matched(None, "it is the peer's own"))
    }

    /// RFC 7671 section 5.2: the authority is in the chain, or the record holds it whole.
    fn dane_ta(&self, records: &[&Record<'_>], legacy: Legacy) -> Result<Matched, String> {
        let mut anchors = Anchors::default();
        for record in records {
            for issuer in self.issuers.iter().filter(|issuer| record.is(issuer)) {
                anchors.certificate(record, issuer, self.question);
            }
            match (record.matching, record.selector) {
                (Matching::Exact, Selector::Certificate) => {
                    let whole = CertificateDer::from(record.tlsa.data.as_slice());
                    anchors.certificate(record, &whole, self.question);
                }
                (Matching::Exact, Selector::PublicKey) => {
                    for certificate in std::iter::once(self.leaf).chain(self.issuers) {
                        anchors.key(record, certificate);
                    }
                }
                (Matching::Digest(_), _) => {}
            }
        }
        if anchors.trusted.is_empty() {
            return Err(anchors.refused.unwrap_or_else(|| {
                "the authority is not in the chain that the peer sent".to_owned()
            }));
        }
        let too_long = Cell::new(false);
        let said = |error: &webpki::Error| match error {
            webpki::Error::UnknownIssuer if too_long.get() => {
                refusal(&webpki::Error::PathLenConstraintViolated, self.question, false).to_string()
            }
            webpki::Error::UnknownIssuer => {
                "the authority did not issue what the peer sent".to_owned()
            }
            error => refusal(error, self.question, false).to_string(),
        };
        let end_entity = EndEntityCert::try_from(self.leaf).map_err(|e| said(&e))?;
        // One search for all records: what a peer sends must not multiply with what a zone publishes.
        let accept = |path: &VerifiedPath<'_>| {
            let allowed = anchors.of(path).is_some();
            too_long.set(!allowed);
            allowed
        };
        let path = find_path(&end_entity, self.issuers, &anchors.trusted, self.question, &accept)
            .map_err(|error| said(&error))?;
        let mut names = x509::names(self.leaf, legacy).map_err(|error| error.to_string())?;
        drop_unconstrained(&mut names, &path);
        let name = self.name(&names)?;
        let origin = anchors.of(&path).ok_or("the authority is unknown")?;
        Ok(origin.record.matched(Some(name), "issued by the authority that the record names"))
    }

    fn pkix_ee(&self, records: &[&Record<'_>], pkix: &PkixValidator) -> Result<Matched, String> {
        let found = records.iter().find(|record| record.is(self.leaf));
        let found = found.ok_or("the peer's certificate is another")?;
        let names = pkix.names(self.question, &|_| true).map_err(|error| error.to_string())?;
        Ok(found.matched(Some(self.name(&names)?), "with a path to a trust anchor"))
    }

    fn pkix_ta(&self, records: &[&Record<'_>], pkix: &PkixValidator) -> Result<Matched, String> {
        // Any path will do (RFC 6698 section 2.1.1), so the search goes on after one that will not.
        let (seen, found) = (Cell::new(false), Cell::new(None));
        let through = |path: &[CertificateDer<'_>]| {
            seen.set(true);
            found.set(records.iter().find(|record| path.iter().any(|issuer| record.is(issuer))));
            found.get().is_some()
        };
        match (pkix.names(self.question, &through), found.get()) {
            (Ok(names), Some(record)) => {
                let what = "with a path to a trust anchor through the authority that it names";
                Ok(record.matched(Some(self.name(&names)?), what))
            }
            (Err(Refusal::UnknownIssuer { .. }), _) if seen.get() => {
                Err("the path to a trust anchor does not lead through that authority".to_owned())
            }
            (Err(error), _) => Err(error.to_string()),
            (Ok(_), None) => Err("no path was seen".to_owned()),
        }
    }

    /// The wanted name or a reference name that `names` carry.
    fn name(&self, names: &CertificateNames) -> Result<DoNai, String> {
        let freedom = self.question.domain_represents_user;
        let of_wanted = self.question.wanted.and_then(|wanted| matches(wanted, names, freedom));
        let reference = || {
            let parsed = self.reference_names.iter().filter_map(|n| DoNai::parse(n).ok());
            let mut domains = parsed.filter(|name| name.user().is_none());
            domains.find_map(|name| matches(&name, names, false))
        };
        match of_wanted.or_else(reference) {
            Some(found) => Ok(found.identity),
            None if self.question.wanted.is_none() && self.reference_names.is_empty() => {
                Err("there is no name to compare with".to_owned())
            }
            None => {
                let wanted = self.question.wanted.map(ToString::to_string);
                let wanted: Vec<_> = wanted
                    .into_iter()
                    .chain(self.reference_names.iter().cloned())
                    .take(4)
                    .collect();
                let mut carried = carried(names);
                carried.truncate(4);
                Err(format!(
                    "the certificate is for [{}], not for {}",
                    carried.join(", "),
                    wanted.join(" or ")
                ))
            }
        }
    }
}

/// The authorities that DANE-TA records name, as far as they are at hand.
#[derive(Default)]
struct Anchors<'r> {
    trusted: Vec<TrustAnchor<'static>>,
    /// Where each comes from.
    origins: Vec<Origin<'r>>,
    /// Why one was not taken.
    refused: Option<String>,
}

struct Origin<'r> {
    record: &'r Record<'r>,
    /// The most intermediate certificates that it permits.
    longest: Option<u32>,
}

impl<'r> Anchors<'r> {
    /// Takes a whole certificate. An anchor for webpki is a name and a key, so what the certificate
    /// says about its use is checked here.
    fn certificate(
        &mut self,
        record: &'r Record<'r>,
        der: &CertificateDer<'_>,
        question: &Question<'_>,
    ) {
        match authority(der, question) {
            Ok((anchor, longest)) => {
                self.trusted.push(anchor);
                self.origins.push(Origin { record, longest });
            }
            Err(why) => self.refused = Some(format!("the authority {why}")),
        }
    }

    /// Takes the record's key as that of the one who issued `certificate`.
    fn key(&mut self, record: &'r Record<'r>, certificate: &CertificateDer<'_>) {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return };
        let Ok((_, key)) = Any::from_der(&record.tlsa.data) else { return };
        let anchor = TrustAnchor {
            subject: certificate.issuer().to_vec().into(),
            subject_public_key_info: key.data.to_vec().into(),
            name_constraints: None,
        };
        if !self.trusted.contains(&anchor) {
            self.trusted.push(anchor);
            self.origins.push(Origin { record, longest: None });
        }
    }

    /// Where the anchor of `path` comes from, if it permits a path of that length.
    fn of(&self, path: &VerifiedPath<'_>) -> Option<&Origin<'r>> {
        let length = path.intermediate_certificates().count();
        let pairs = self.trusted.iter().zip(&self.origins);
        let mut same = pairs.filter(|(anchor, _)| *anchor == path.anchor());
        let fits = |longest: u32| usize::try_from(longest).is_ok_and(|longest| length <= longest);
        same.find(|(_, origin)| origin.longest.is_none_or(fits)).map(|(_, origin)| origin)
    }
}

/// An authority's certificate as anchor, with its path length.
fn authority(
    der: &CertificateDer<'_>,
    question: &Question<'_>,
) -> Result<(TrustAnchor<'static>, Option<u32>), String> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| "cannot be read".to_owned())?;
    let now = i64::try_from(question.now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(format!("is not valid before {}", validity.not_before));
    }
    if now > validity.not_after.timestamp() {
        return Err(format!("expired {}", validity.not_after));
    }
    let constraints = certificate.basic_constraints().map_err(|error| error.to_string())?;
    let Some(constraints) = constraints.filter(|extension| extension.value.ca) else {
        return Err("may not issue certificates (CA:TRUE is missing)".to_owned());
    };
    let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| error.to_string())?;
    Ok((anchor.to_owned(), constraints.value.path_len_constraint))
}

/// A record as in zone files, its data cut.
pub fn describe(tlsa: &Tlsa) -> String {
    const SHOWN: usize = 8;
    let mut text = format!("{} {} {} ", tlsa.usage, tlsa.selector, tlsa.matching);
    for byte in tlsa.data.iter().take(SHOWN) {
        let _ = write!(text, "{byte:02x}");
    }
    if tlsa.data.len() > SHOWN {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
