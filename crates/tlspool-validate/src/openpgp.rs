//! OpenPGP certificates: the predicate `openpgp`, and what a directory's copy says.

use std::collections::HashMap;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use tlspool_identity::x509::CertificateNames;
use tlspool_openpgp::{Certificate, Fault, KeyId, Limits, SigningKey};

use crate::Refusal;
use crate::evaluate::{Evaluation, Step, Why};
use crate::policy::{Predicate, Verdict};
use crate::predicates::nothing;
use crate::validator::system_time;

/// More copies of a certificate than a directory has.
const MAX_COPIES: usize = 8;

/// The keys that certify OpenPGP certificates. As with X.509, a service with keys of its own trusts only
/// these.
#[derive(Default)]
pub struct OpenPgpTrust {
    common: Vec<Certificate>,
    services: HashMap<String, Vec<Certificate>>,
}

impl OpenPgpTrust {
    /// Reads rows of the trust table: a service (none: all) and a certificate. Beside the keys, a line for
    /// the log about each row that cannot be read.
    pub fn load<'a>(
        rows: impl IntoIterator<Item = (Option<&'a str>, &'a [u8])>,
    ) -> (Self, Vec<String>) {
        let mut trust = Self::default();
        let mut warnings = Vec::new();
        for (service, bytes) in rows {
            let keys = match service.filter(|service| !service.is_empty()) {
                None => &mut trust.common,
                Some(service) => trust.services.entry(service.to_owned()).or_default(),
            };
            match Certificate::read(bytes, Limits::LARGE) {
                Ok(certificate) => keys.push(certificate),
                Err(error) => warnings.push(format!("a trusted OpenPGP key is left out: {error}")),
            }
        }
        (trust, warnings)
    }

    /// How many keys there are, over all services.
    pub fn len(&self) -> usize {
        self.common.len() + self.services.values().map(Vec::len).sum::<usize>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key with this fingerprint among those that count for `service`: for a peer that shows no more than its
    /// fingerprint (RFC 6091 section 3.3).
    pub fn find(&self, service: &str, fingerprint: &[u8]) -> Option<&Certificate> {
        self.of(service).iter().find(|key| key.fingerprint().as_bytes() == fingerprint)
    }

    fn of(&self, service: &str) -> &[Certificate] {
        self.services.get(service).unwrap_or(&self.common)
    }
}

impl std::fmt::Debug for OpenPgpTrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenPgpTrust({} keys)", self.len())
    }
}

/// The names in a certificate. If it has expired, those that it had, and the refusal that is due unless a
/// directory knows of a later end.
pub(crate) fn names(
    certificate: &Certificate,
    now: UnixTime,
) -> Result<(CertificateNames, Option<Refusal>), Refusal> {
    match certificate.names(system_time(now)) {
        Ok(names) => Ok((names, None)),
        Err(unfit) => {
            let refusal = Refusal::OpenPgp(unfit.to_string());
            let Fault::Expired { since } = unfit.fault else { return Err(refusal) };
            let before = since.checked_sub(Duration::from_secs(1));
            match before.map(|before| certificate.names(before)) {
                Some(Ok(names)) => Ok((names, Some(refusal))),
                _ => Err(refusal),
            }
        }
    }
}

/// The key that signs the handshake, by the certificate as shown; none if nobody said which it is. If all that is
/// wrong is that its time is over, the refusal is within: a directory may know of a later end. Nothing is looked up
/// for others.
pub(crate) fn shown_key(
    certificate: &Certificate,
    key: Option<KeyId>,
    now: UnixTime,
) -> Result<Option<Result<SigningKey, Refusal>>, Refusal> {
    let Some(key) = key else { return Ok(None) };
    match certificate.signing_key(key, system_time(now)) {
        Ok(key) => Ok(Some(Ok(key))),
        Err(unfit) => {
            let refusal = Refusal::OpenPgp(unfit.to_string());
            let Fault::Expired { .. } = unfit.fault else { return Err(refusal) };
            Ok(Some(Err(refusal)))
        }
    }
}

/// The key that signs the handshake, by all that is known of the certificate; `shown` is what it is by the
/// certificate as shown.
pub(crate) fn signing_key(
    evaluation: &Evaluation<'_>,
    shown: Option<&Result<SigningKey, Refusal>>,
) -> Result<Option<SigningKey>, Refusal> {
    match (evaluation.inquiry.credential, &evaluation.merged) {
        (crate::Credential::OpenPgp(_, Some(key)), Some(merged)) => {
            let found = merged.signing_key(key, system_time(evaluation.inquiry.now));
            found.map(Some).map_err(|unfit| Refusal::OpenPgp(unfit.to_string()))
        }
        _ => shown.cloned().transpose(),
    }
}

/// Whether a trusted key certifies the peer's certificate for its name. One that has expired, or whose
/// signing key has, waits for the directory, which may know of a later end. So does one that nobody certifies if the
/// policy asks the directory anyway, whose copy may have the certification.
pub(crate) fn begin(evaluation: &Evaluation<'_>) -> Step {
    if !matches!(evaluation.inquiry.credential, crate::Credential::OpenPgp(..)) {
        return nothing("the peer shows an X.509 certificate");
    }
    let expired = evaluation.stale.is_some() || evaluation.key_expired;
    if expired && matches!(evaluation.ldap(), Step::LookUp(_)) {
        return Step::With(Predicate::Ldap);
    }
    let (verdict, why) = certified(evaluation);
    if verdict == Verdict::False && evaluation.will_ask_directory() {
        return Step::With(Predicate::Ldap);
    }
    Step::Done(verdict, why)
}

/// Whether a trusted key certifies the peer's certificate for its name, as far as the certificate is known
/// by now.
pub(crate) fn certified(evaluation: &Evaluation<'_>) -> (Verdict, Why) {
    let crate::Credential::OpenPgp(shown, _) = evaluation.inquiry.credential else {
        return (Verdict::Absent, Why::Nothing("the peer shows an X.509 certificate"));
    };
    let certificate = evaluation.merged.as_ref().unwrap_or(shown);
    let trusted = evaluation.validator.openpgp_trust().of(evaluation.inquiry.service);
    let now = system_time(evaluation.inquiry.now);
    match certificate.certified_by(evaluation.subject(), trusted, now) {
        Ok(_) => (Verdict::True, Why::Fixed("certified by a trusted key")),
        Err(error) => (Verdict::False, Why::Refusal(Refusal::OpenPgp(error.to_string()))),
    }
}

/// Whether a directory lists a certificate. What the directory's copy knows counts: revocations and
/// expiry of the certificate, of the name, and of the key that signs the handshake.
pub(crate) fn compare(
    evaluation: &mut Evaluation<'_>,
    shown: &Certificate,
    key: Option<KeyId>,
    listed: &[Vec<u8>],
) -> (Verdict, Why) {
    let fingerprint = shown.fingerprint();
    let copies = listed.iter().filter_map(|bytes| Certificate::read(bytes, Limits::LARGE).ok());
    let mut copies = copies.filter(|copy| copy.fingerprint() == fingerprint).take(MAX_COPIES);
    let Some(first) = copies.next() else {
        let text = format!("the directory lists {} other OpenPGP certificates", listed.len());
        return (Verdict::False, Why::Text(text));
    };
    let mut merged = shown.clone();
    for copy in std::iter::once(first).chain(copies) {
        match merged.merge(&copy) {
            Ok(more) => merged = more,
            Err(error) => return (Verdict::Failed, Why::Text(error.to_string())),
        }
    }
    let now = system_time(evaluation.inquiry.now);
    let refused = |text: String| {
        let text = format!("by the directory's copy, {text}");
        (Verdict::False, Why::Refusal(Refusal::OpenPgp(text)))
    };
    let names = match merged.names(now) {
        Ok(names) => names,
        Err(unfit) => return refused(unfit.to_string()),
    };
    let subject = evaluation.subject();
    if !names.identities().any(|name| name == subject) {
        return refused(format!("it is not for {subject} (any more)"));
    }
    if let Some(Err(unfit)) = key.map(|key| merged.signing_key(key, now)) {
        return refused(unfit.to_string());
    }
    evaluation.merged = Some(merged);
    (Verdict::True, Why::Fixed("the directory lists this certificate, and it is in force"))
}

#[cfg(test)]
mod tests;
