//! Keys that sign elsewhere: on a token, by way of the caller.

use std::error::Error;
use std::fmt;
use std::time::SystemTime;

use sequoia_openpgp as openpgp;

use openpgp::crypto::Signer;
use openpgp::crypto::mpi::{MPI, PublicKey, Signature};
use openpgp::packet::Key;
use openpgp::packet::key::{Key4, PublicParts, UnspecifiedRole};
use openpgp::types::{Curve, HashAlgorithm, PublicKeyAlgorithm};

use crate::key::{Algorithm, identifier, spki_of};

/// What goes wrong elsewhere.
pub type RemoteError = Box<dyn Error + Send + Sync>;

/// The hash that a [`RemoteKey`] is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256, with RSA and P-256.
    Sha256,
    /// SHA-384, with P-384.
    Sha384,
    /// SHA-512, with Ed25519.
    Sha512,
}

/// A private key that somebody else holds.
pub trait RemoteKey {
    /// The public key: SubjectPublicKeyInfo in DER.
    fn spki(&self) -> &[u8];

    /// Signs a hash: RSA by PKCS #1 v1.5, ECDSA with the signature in DER, Ed25519 with the hash as
    /// its message.
    fn sign_digest(&mut self, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, RemoteError>;
}

/// A [`RemoteKey`] as sequoia wants it: an OpenPGP key made at a certain time.
pub(crate) struct External<'k> {
    remote: &'k mut dyn RemoteKey,
    key: Key<PublicParts, UnspecifiedRole>,
    hash: Hash,
    accepted: [HashAlgorithm; 1],
}

/// A failure of a [`RemoteKey`], on its way through sequoia.
#[derive(Debug)]
pub(crate) struct RemoteFailure(pub(crate) RemoteError);

impl fmt::Display for RemoteFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for RemoteFailure {}

impl<'k> External<'k> {
    /// The key with the creation time that makes its fingerprint; none if it is of no kind that
    /// OpenPGP and TLS share.
    pub(crate) fn new(remote: &'k mut dyn RemoteKey, created: SystemTime) -> Option<Self> {
        let key = key_of(remote.spki(), created)?;
        Self::of(remote, key)
    }

    /// The key that stands in a certificate; none if it is another one.
    pub(crate) fn of(
        remote: &'k mut dyn RemoteKey,
        key: Key<PublicParts, UnspecifiedRole>,
    ) -> Option<Self> {
        let (algorithm, spki) = spki_of(key.mpis()).ok()?;
        if spki != remote.spki() {
            return None;
        }
        let (hash, accepted) = match algorithm {
            Algorithm::Rsa { .. } | Algorithm::P256 => (Hash::Sha256, HashAlgorithm::SHA256),
            Algorithm::P384 => (Hash::Sha384, HashAlgorithm::SHA384),
            Algorithm::Ed25519 => (Hash::Sha512, HashAlgorithm::SHA512),
        };
        Some(Self { remote, key, hash, accepted: [accepted] })
    }

    /// The one hash that goes with the key.
    pub(crate) fn hash(&self) -> HashAlgorithm {
        self.accepted[0]
    }

    /// The public key.
    pub(crate) fn key(&self) -> &Key<PublicParts, UnspecifiedRole> {
        &self.key
    }
}

impl Signer for External<'_> {
    fn public(&self) -> &Key<PublicParts, UnspecifiedRole> {
        &self.key
    }

    fn acceptable_hashes(&self) -> &[HashAlgorithm] {
        &self.accepted
    }

    fn sign(&mut self, hash: HashAlgorithm, digest: &[u8]) -> openpgp::Result<Signature> {
        if hash != self.accepted[0] {
            return Err(openpgp::Error::UnsupportedHashAlgorithm(hash).into());
        }
        let signature = self.remote.sign_digest(self.hash, digest).map_err(RemoteFailure)?;
        let odd = || openpgp::Error::InvalidOperation("the signature has an odd form".into());
        Ok(match self.key.mpis() {
            PublicKey::RSA { .. } => Signature::RSA { s: MPI::new(&signature) },
            PublicKey::ECDSA { .. } => {
                let (r, s) = pair(&signature).ok_or_else(odd)?;
                Signature::ECDSA { r: MPI::new(r), s: MPI::new(s) }
            }
            PublicKey::EdDSA { .. } => {
                let (r, s) = signature.split_at_checked(32).ok_or_else(odd)?;
                Signature::EdDSA { r: MPI::new(r), s: MPI::new(s) }
            }
            _ => {
                let signature = signature.try_into().map_err(|_| odd())?;
                Signature::Ed25519 { s: Box::new(signature) }
            }
        })
    }
}

/// The OpenPGP key, version 4, of a SubjectPublicKeyInfo.
fn key_of(spki: &[u8], created: SystemTime) -> Option<Key<PublicParts, UnspecifiedRole>> {
    let inner = element(spki, 0x30)?.0;
    let public = |identifier: &[u8]| {
        let bits = inner.strip_prefix(identifier)?;
        element(bits, 3)?.0.strip_prefix(&[0])
    };
    let ecdsa = |curve, point: &[u8]| {
        (PublicKeyAlgorithm::ECDSA, PublicKey::ECDSA { curve, q: MPI::new(point) })
    };
    let (algorithm, mpis) = if let Some(key) = public(identifier::RSA) {
        let (n, e) = pair(key)?;
        let mpis = PublicKey::RSA { e: MPI::new(e), n: MPI::new(n) };
        (PublicKeyAlgorithm::RSAEncryptSign, mpis)
    } else if let Some(point) = public(identifier::P256) {
        ecdsa(Curve::NistP256, point)
    } else if let Some(point) = public(identifier::P384) {
        ecdsa(Curve::NistP384, point)
    } else {
        let q = MPI::new(&[&[0x40], public(identifier::ED25519)?].concat());
        #[allow(deprecated)] // the form that version 4 keys have everywhere
        let algorithm = PublicKeyAlgorithm::EdDSA;
        (algorithm, PublicKey::EdDSA { curve: Curve::Ed25519, q })
    };
    let key: Key4<PublicParts, UnspecifiedRole> = Key4::new(created, algorithm, mpis).ok()?;
    // Whoever reads the certificate must arrive at the same key.
    spki_of(key.mpis()).is_ok_and(|(_, again)| again == spki).then(|| key.into())
}

/// The two INTEGERs of a SEQUENCE, without leading zeros.
fn pair(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (content, rest) = element(der, 0x30)?;
    let (one, after) = element(content, 2)?;
    let (other, end) = element(after, 2)?;
    (rest.is_empty() && end.is_empty()).then_some((one, other))
}

/// The content of the DER element at the start, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk::<2>()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(len, rest)| (usize::from(*len), rest))?,
        0x82 => {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        _ => return None,
    };
    (found == tag).then(|| rest.split_at_checked(len))?
}
