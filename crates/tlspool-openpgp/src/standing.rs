//! Is a certificate, or a part of it, good at a given time?
//!
//! The one place that asks sequoia's policy. Revocations count first, then time, then algorithms:
//! the reason that is told is the one that the owner would name.

use std::time::SystemTime;

use sequoia_openpgp as openpgp;

use openpgp::Cert;
use openpgp::cert::amalgamation::{ValidAmalgamation, ValidateAmalgamation};
use openpgp::cert::prelude::{ErasedKeyAmalgamation, ValidCert, ValidErasedKeyAmalgamation};
use openpgp::packet::Signature;
use openpgp::packet::key::PublicParts;
use openpgp::policy::{AsymmetricAlgorithm, Policy, StandardPolicy};
use openpgp::types::{HashAlgorithm, RevocationStatus, RevocationType};

use crate::certificate::one_line;
use crate::{Certificate, Fault, KeyId, Unfit};

impl Certificate {
    /// Whether the certificate as a whole is good at `now`: neither expired nor revoked, and held
    /// by safe algorithms.
    pub fn check(&self, now: SystemTime) -> Result<(), Unfit> {
        valid(&self.cert, &strict(now), now).map(drop)
    }

    /// When the certificate as a whole ends, if ever.
    pub fn expires(&self, now: SystemTime) -> Option<SystemTime> {
        let policy = strict(now);
        let cert = self.cert.with_policy(&policy, now).ok()?;
        cert.primary_key().key_expiration_time()
    }

    /// When the primary key was made.
    pub fn created(&self) -> SystemTime {
        self.cert.primary_key().key().creation_time()
    }
}

/// The rules at `now`: which algorithms are safe depends on the time.
pub(crate) fn strict(now: SystemTime) -> StandardPolicy<'static> {
    StandardPolicy::at(now)
}

/// Rules that only tell whether a signature is right, not whether it is strong: to explain, never to
/// decide.
fn lenient() -> StandardPolicy<'static> {
    let mut policy = StandardPolicy::new();
    for hash in HashAlgorithm::variants() {
        policy.accept_hash(hash);
    }
    for algorithm in AsymmetricAlgorithm::variants() {
        policy.accept_asymmetric_algo(algorithm);
    }
    policy
}

/// The certificate, if it is good.
pub(crate) fn valid<'a>(
    cert: &'a Cert,
    policy: &'a dyn Policy,
    now: SystemTime,
) -> Result<ValidCert<'a>, Unfit> {
    let primary = cert.primary_key().key();
    if let Some(fault) = revoked(&cert.revocation_status(policy, now)) {
        return Err(Unfit::certificate(fault));
    }
    if primary.creation_time() > now {
        return Err(Unfit::certificate(Fault::NotYet { from: primary.creation_time() }));
    }
    let valid = cert.with_policy(policy, now).map_err(|error| {
        let weak = cert.with_policy(&lenient(), now).is_ok();
        Unfit::certificate(signature_fault(weak, &error))
    })?;
    if let Err(error) = valid.alive() {
        let fault = lifetime_fault(valid.primary_key().key_expiration_time(), now, &error);
        return Err(Unfit::certificate(fault));
    }
    Ok(valid)
}

/// A key of a good certificate, if the key is good too.
pub(crate) fn valid_key<'a>(
    key: &ErasedKeyAmalgamation<'a, PublicParts>,
    policy: &'a dyn Policy,
    now: SystemTime,
) -> Result<ValidErasedKeyAmalgamation<'a, PublicParts>, Unfit> {
    let id = KeyId::of(&key.key().keyid());
    let created = key.key().creation_time();
    if created > now {
        return Err(Unfit::key(id, Fault::NotYet { from: created }));
    }
    let valid = key.clone().with_policy(policy, now).map_err(|error| {
        let weak = key.clone().with_policy(&lenient(), now).is_ok();
        Unfit::key(id, signature_fault(weak, &error))
    })?;
    if let Some(fault) = revoked(&valid.revocation_status()) {
        return Err(Unfit::key(id, fault));
    }
    if let Err(error) = valid.alive() {
        let fault = lifetime_fault(valid.key_expiration_time(), now, &error);
        return Err(Unfit::key(id, fault));
    }
    Ok(valid)
}

/// What a revocation by the owner says. One that a stranger might have been entitled to
/// ([`RevocationStatus::CouldBe`]) says nothing, or strangers could revoke.
pub(crate) fn revoked(status: &RevocationStatus<'_>) -> Option<Fault> {
    let RevocationStatus::Revoked(signatures) = status else { return None };
    let mut faults = signatures.iter().map(|signature| revocation_fault(signature));
    let first = faults.next()?;
    let hard = |fault: &Fault| matches!(fault, Fault::Revoked { compromised: true, .. });
    if hard(&first) {
        return Some(first);
    }
    Some(faults.find(hard).unwrap_or(first))
}

fn revocation_fault(signature: &Signature) -> Fault {
    let since = signature.signature_creation_time().unwrap_or(SystemTime::UNIX_EPOCH);
    match signature.reason_for_revocation() {
        Some((reason, text)) => {
            let text = one_line(&String::from_utf8_lossy(text));
            let text = if text.is_empty() { text } else { format!(" ({text})") };
            let compromised = reason.revocation_type() == RevocationType::Hard;
            Fault::Revoked { since, compromised, reason: format!("{reason}{text}") }
        }
        None => Fault::Revoked { since, compromised: true, reason: "no reason given".into() },
    }
}

fn signature_fault(weak: bool, error: &impl std::fmt::Display) -> Fault {
    let why = one_line(error);
    if weak { Fault::Weak { why } } else { Fault::Unsigned { why } }
}

fn lifetime_fault(
    expires: Option<SystemTime>,
    now: SystemTime,
    error: &impl std::fmt::Display,
) -> Fault {
    match expires {
        Some(since) if since <= now => Fault::Expired { since },
        _ => Fault::Unsigned { why: one_line(error) },
    }
}
