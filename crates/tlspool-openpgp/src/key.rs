//! The keys of a certificate that can sign in TLS.

use std::time::SystemTime;

use sequoia_openpgp as openpgp;

use openpgp::cert::amalgamation::ValidAmalgamation;
use openpgp::cert::amalgamation::key::PrimaryKey;
use openpgp::cert::prelude::{ErasedKeyAmalgamation, KeyAmalgamation};
use openpgp::crypto::mpi::PublicKey;
use openpgp::packet::key::PublicParts;
use openpgp::policy::Policy;
use openpgp::types::Curve;

use crate::standing::{strict, valid, valid_key};
use crate::{Certificate, Fault, KeyId, Unfit};

/// Kinds of keys that TLS verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA.
    Rsa {
        /// Size of the modulus.
        bits: u16,
    },
    /// ECDSA over P-256.
    P256,
    /// ECDSA over P-384.
    P384,
    /// Ed25519: the EdDSA of version 4 keys, and that of RFC 9580.
    Ed25519,
}

/// A key that may sign handshakes at the time that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// How TLS names it.
    pub id: KeyId,
    /// Whether it is the primary key itself.
    pub is_primary: bool,
    /// Its kind.
    pub algorithm: Algorithm,
    /// The public key: SubjectPublicKeyInfo in DER.
    pub spki: Vec<u8>,
    /// When it ends, if ever.
    pub expires: Option<SystemTime>,
    /// Whether its flags permit signing data; some peers want that of a server.
    pub may_sign: bool,
    /// Whether its flags permit authentication.
    pub may_authenticate: bool,
}

/// A key, and what it is for TLS or why it is nothing.
pub type KeyState = (KeyId, Result<SigningKey, Unfit>);

impl Algorithm {
    /// TLS SignatureSchemes (RFC 8446 section 4.2.3) that keys of this kind make, best first. In
    /// TLS 1.2 an ECDSA key goes with any hash; those here fit its curve.
    pub fn schemes(self) -> &'static [u16] {
        match self {
            Self::Rsa { .. } => &[0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601],
            Self::P256 => &[0x0403],
            Self::P384 => &[0x0503],
            Self::Ed25519 => &[0x0807],
        }
    }
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "rsa-{bits}"),
            Self::P256 => f.write_str("p256"),
            Self::P384 => f.write_str("p384"),
            Self::Ed25519 => f.write_str("ed25519"),
        }
    }
}

fn has_spki(key: &ErasedKeyAmalgamation<'_, PublicParts>, spki: &[u8]) -> bool {
    spki_of(key.key().mpis()).is_ok_and(|(_, found)| found == spki)
}

impl Certificate {
    /// The key with this ID, if it may sign a handshake at `now` (RFC 6091 section 3.3).
    pub fn signing_key(&self, id: KeyId, now: SystemTime) -> Result<SigningKey, Unfit> {
        self.find(now, |key| KeyId::of(&key.key().keyid()) == id)
            .unwrap_or(Err(Unfit::key(id, Fault::Missing)))
    }

    /// The key with this SubjectPublicKeyInfo, if it may sign a handshake at `now`; none if no key
    /// is this one.
    pub fn signing_key_by_spki(
        &self,
        spki: &[u8],
        now: SystemTime,
    ) -> Option<Result<SigningKey, Unfit>> {
        self.find(now, |key| has_spki(key, spki))
    }

    /// The ID of the key with this SubjectPublicKeyInfo, fit or not; none if no key is this one.
    pub fn key_id_by_spki(&self, spki: &[u8]) -> Option<KeyId> {
        self.cert.keys().find(|key| has_spki(key, spki)).map(|key| KeyId::of(&key.key().keyid()))
    }

    /// The SubjectPublicKeyInfo of the primary key, which certifies; none if TLS has no such kind.
    pub fn primary_spki(&self) -> Option<Vec<u8>> {
        spki_of(self.cert.primary_key().key().mpis()).ok().map(|(_, spki)| spki)
    }

    /// Every key with what it is or why it may not sign at `now`; subkeys first, as TLS prefers them,
    /// the newest of them before the others. An expired or revoked certificate is an error.
    pub fn signing_keys(&self, now: SystemTime) -> Result<Vec<KeyState>, Unfit> {
        let policy = strict(now);
        valid(&self.cert, &policy, now)?;
        let mut keys: Vec<_> = self.cert.keys().collect();
        keys.sort_by_key(|key| (key.primary(), std::cmp::Reverse(key.key().creation_time())));
        let answer = |key| (KeyId::of(&KeyAmalgamation::key(key).keyid()), fit(key, &policy, now));
        Ok(keys.iter().map(answer).collect())
    }

    /// The first key that `is_it` accepts and that is fit; else why the first accepted is not.
    fn find(
        &self,
        now: SystemTime,
        is_it: impl Fn(&ErasedKeyAmalgamation<'_, PublicParts>) -> bool,
    ) -> Option<Result<SigningKey, Unfit>> {
        let policy = strict(now);
        if let Err(unfit) = valid(&self.cert, &policy, now) {
            return Some(Err(unfit));
        }
        let mut first = None;
        for key in self.cert.keys().filter(is_it) {
            match fit(&key, &policy, now) {
                Ok(key) => return Some(Ok(key)),
                Err(unfit) => first = first.or(Some(Err(unfit))),
            }
        }
        first
    }
}

/// What TLS needs of a key, if the key may sign.
fn fit<'a>(
    key: &ErasedKeyAmalgamation<'a, PublicParts>,
    policy: &'a dyn Policy,
    now: SystemTime,
) -> Result<SigningKey, Unfit> {
    let id = KeyId::of(&key.key().keyid());
    // First, because signatures by a key of an unknown kind cannot be verified either.
    let (algorithm, spki) = spki_of(key.key().mpis())
        .map_err(|algorithm| Unfit::key(id, Fault::Unsupported { algorithm }))?;
    let valid = valid_key(key, policy, now)?;
    let (may_sign, may_authenticate) = (valid.for_signing(), valid.for_authentication());
    if !may_sign && !may_authenticate {
        return Err(Unfit::key(id, Fault::MayNotSign));
    }
    Ok(SigningKey {
        id,
        is_primary: key.primary(),
        algorithm,
        spki,
        expires: sooner(
            valid.key_expiration_time(),
            valid.valid_cert().primary_key().key_expiration_time(),
        ),
        may_sign,
        may_authenticate,
    })
}

fn sooner(one: Option<SystemTime>, other: Option<SystemTime>) -> Option<SystemTime> {
    [one, other].into_iter().flatten().min()
}

/// AlgorithmIdentifiers in DER (RFC 3279 section 2.3.1, RFC 5480, RFC 8410).
pub(crate) mod identifier {
    pub(crate) const RSA: &[u8] =
        &[0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    pub(crate) const P256: &[u8] = &[
        0x30, 19, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3,
        1, 7,
    ];
    pub(crate) const P384: &[u8] =
        &[0x30, 16, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22];
    pub(crate) const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];
}

/// The SubjectPublicKeyInfo of a key; else the name of its kind.
pub(crate) fn spki_of(key: &PublicKey) -> Result<(Algorithm, Vec<u8>), String> {
    let named = || Err(key.algo().map_or_else(|| "unknown".to_owned(), |algo| algo.to_string()));
    Ok(match key {
        PublicKey::RSA { e, n } => {
            // What verifiers take; sequoia's own verifies up to 4096.
            if !(2048..=8192).contains(&n.bits()) || e.bits() > 64 {
                return Err(format!("RSA with {} bits", n.bits()));
            }
            let numbers = [integer(n.value()), integer(e.value())].concat();
            let bits = n.bits() as u16;
            (Algorithm::Rsa { bits }, spki(identifier::RSA, &der(0x30, &numbers)))
        }
        PublicKey::ECDSA { curve, q } => match (curve, q.value()) {
            (Curve::NistP256, [4, rest @ ..]) if rest.len() == 64 => {
                (Algorithm::P256, spki(identifier::P256, q.value()))
            }
            (Curve::NistP384, [4, rest @ ..]) if rest.len() == 96 => {
                (Algorithm::P384, spki(identifier::P384, q.value()))
            }
            (curve, _) => return Err(format!("ECDSA over {curve}")),
        },
        PublicKey::EdDSA { curve: Curve::Ed25519, q } => match q.value() {
            // The prefix tells that this is the native form (RFC 9580 section 5.5.5.5).
            [0x40, point @ ..] if point.len() == 32 => {
                (Algorithm::Ed25519, spki(identifier::ED25519, point))
            }
            _ => return named(),
        },
        PublicKey::Ed25519 { a } => (Algorithm::Ed25519, spki(identifier::ED25519, a)),
        _ => return named(),
    })
}

fn spki(identifier: &[u8], public: &[u8]) -> Vec<u8> {
    let bits = der(3, &[&[0], public].concat());
    der(0x30, &[identifier, &bits].concat())
}

/// An INTEGER that is not negative.
fn integer(value: &[u8]) -> Vec<u8> {
    let value = &value[value.iter().take_while(|byte| **byte == 0).count()..];
    match value.first() {
        Some(first) if first & 0x80 == 0 => der(2, value),
        _ => der(2, &[&[0], value].concat()),
    }
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let mut out = vec![tag];
    match len {
        0..=0x7f => out.push(len as u8),
        0x80..=0xff => out.extend([0x81, len as u8]),
        _ => out.extend([0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(content);
    out
}
