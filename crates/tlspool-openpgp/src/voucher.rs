//! Who vouches for a name: keys that we trust.
//!
//! Trust goes one step: from a key in the trust table to the user IDs that it has certified. What
//! those certify is no business of ours (no trust signatures, no web of trust).

use std::time::SystemTime;

use sequoia_openpgp as openpgp;

use openpgp::cert::amalgamation::key::PrimaryKey;
use openpgp::cert::prelude::{ErasedKeyAmalgamation, ValidUserIDAmalgamation};
use openpgp::packet::Signature;
use openpgp::packet::key::PublicParts;
use openpgp::policy::Policy;
use openpgp::types::{RevocationType, SignatureType};
use tlspool_identity::DoNai;
use tlspool_identity::x509::CertificateNames;

use crate::names::held;
use crate::standing::{strict, valid, valid_key};
use crate::{Certificate, Fingerprint, NotCertified};

/// Why a name in a certificate is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voucher {
    /// The certificate itself is among the trusted.
    Trusted,
    /// This trusted key has certified the user ID.
    Certified(Fingerprint),
}

/// What one trusted key says of one user ID.
enum Word {
    Nothing,
    Certified,
    Withdrawn,
}

impl Certificate {
    /// Whether one of `trusted` vouches at `now` for `name` in this certificate (predicate `openpgp`):
    /// by a valid certification of the user ID that carries the name, or because the certificate is
    /// itself among them. For a user whose domain answers, ask with the domain.
    pub fn certified_by(
        &self,
        name: &DoNai,
        trusted: &[Self],
        now: SystemTime,
    ) -> Result<Voucher, NotCertified> {
        let policy = strict(now);
        let cert = valid(&self.cert, &policy, now)?;
        let user_ids: Vec<_> =
            held(&cert).into_iter().filter(|user_id| carries(user_id, name)).collect();
        if user_ids.is_empty() {
            return Err(NotCertified::NoSuchName(name.to_string()));
        }
        if trusted.iter().any(|trusted| trusted.cert.fingerprint() == self.cert.fingerprint()) {
            return Ok(Voucher::Trusted);
        }
        let mut almost = None;
        for trusted in trusted {
            let words = user_ids.iter().map(|user_id| word(user_id, trusted, &policy, now));
            let by = trusted.fingerprint();
            let error = match strongest(words) {
                Word::Nothing => continue,
                Word::Withdrawn => {
                    NotCertified::Withdrawn { name: name.to_string(), by: by.to_string() }
                }
                Word::Certified => match valid(&trusted.cert, &policy, now) {
                    Ok(_) => return Ok(Voucher::Certified(by)),
                    Err(unfit) => {
                        let (name, by) = (name.to_string(), by.to_string());
                        NotCertified::TrustedUnfit { name, by, unfit }
                    }
                },
            };
            almost = almost.or(Some(error));
        }
        Err(almost.unwrap_or_else(|| NotCertified::Nobody {
            name: name.to_string(),
            trusted: trusted.len(),
        }))
    }
}

fn carries(user_id: &ValidUserIDAmalgamation<'_>, name: &DoNai) -> bool {
    let mut names = CertificateNames::default();
    let read = names.add_user_id(user_id.userid().value());
    read.is_ok() && names.identities().any(|carried| carried == name)
}

fn strongest(words: impl Iterator<Item = Word>) -> Word {
    words.fold(Word::Nothing, |best, word| match (best, word) {
        (Word::Certified, _) | (_, Word::Certified) => Word::Certified,
        (Word::Withdrawn, _) | (_, Word::Withdrawn) => Word::Withdrawn,
        _ => Word::Nothing,
    })
}

/// What the keys of `trusted` that may certify say of `user_id`: the newest of certification and
/// revocation counts, and a hard revocation always.
fn word<'a>(
    user_id: &ValidUserIDAmalgamation<'a>,
    trusted: &'a Certificate,
    policy: &'a dyn Policy,
    now: SystemTime,
) -> Word {
    let user_id = user_id.amalgamation();
    let mut result = Word::Nothing;
    for issuer in trusted.cert.keys() {
        let key = issuer.key();
        let newest = |signatures: &mut dyn Iterator<Item = &Signature>| {
            signatures.filter_map(|signature| signature.signature_creation_time()).max()
        };
        let certified = newest(
            &mut user_id
                .valid_certifications_by_key(policy, now, key)
                .filter(|signature| is_checked(signature)),
        );
        let revocations: Vec<_> =
            user_id.valid_third_party_revocations_by_key(policy, now, key).collect();
        let withdrawn = newest(&mut revocations.iter().copied());
        let for_good = revocations.iter().any(|revocation| {
            let reason = revocation.reason_for_revocation();
            reason.is_none_or(|(reason, _)| reason.revocation_type() == RevocationType::Hard)
        });
        let word = match (certified, withdrawn) {
            (_, Some(_)) if for_good => Word::Withdrawn,
            (Some(certified), Some(withdrawn)) if withdrawn >= certified => Word::Withdrawn,
            // Only a key that may certify; asked last, as it costs most.
            (Some(_), _) if may_certify(&issuer, policy, now) => Word::Certified,
            (_, Some(_)) => Word::Withdrawn,
            _ => Word::Nothing,
        };
        result = strongest([result, word].into_iter());
    }
    result
}

/// A certification that somebody has checked something: a persona certification says that nobody did
/// (RFC 9580 section 5.2.1.7).
fn is_checked(signature: &Signature) -> bool {
    signature.typ() != SignatureType::PersonaCertification
}

/// Whether a key of a trusted certificate may certify. That the certificate as a whole is good is
/// asked elsewhere, so that it can be told.
fn may_certify<'a>(
    issuer: &ErasedKeyAmalgamation<'a, PublicParts>,
    policy: &'a dyn Policy,
    now: SystemTime,
) -> bool {
    issuer.primary()
        || valid_key(issuer, policy, now).is_ok_and(|issuer| issuer.for_certification())
}
