//! The cryptography of the engine: records, key exchange, hashes and signatures of peers.
//!
//! The state machine and the record layers call it. Everything that aws-lc-rs has is done by it; finite-field
//! Diffie-Hellman is crypto-bigint in constant time. It never holds a long-term private key, never signs,
//! and never reads a clock.

mod aead;
mod ffdh;
mod hash;
mod kx;
mod signature;

pub use aead::{Aead, BadRecord, RecordKey, TAG_LEN};
pub use hash::{Digest, Hash, Mac, MacKey, Transcript, hmac, prf};
pub use kx::{Group, KeyShare, KxError, dh_group_from_params};
pub use signature::{KeyKind, SignatureScheme, VerifyError, key_kind, verify_signature};

use subtle::ConstantTimeEq;

/// What the library below could not do: in practice out of memory, or the system has no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library failed")]
pub struct CryptoError;

impl From<aws_lc_rs::error::Unspecified> for CryptoError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// Fills `out` with random bytes of the system's quality.
pub fn random(out: &mut [u8]) -> Result<(), CryptoError> {
    Ok(aws_lc_rs::rand::fill(out)?)
}

/// Whether two secrets are equal, in a time that depends on their lengths alone.
#[must_use]
pub fn equal(left: &[u8], right: &[u8]) -> bool {
    left.ct_eq(right).into()
}

#[cfg(test)]
fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_for_debugging_has_no_secrets() {
        let key = RecordKey::new(Aead::Aes128Gcm, &[7; 16], &[7; 4]).unwrap();
        assert_eq!(format!("{key:?}"), "RecordKey(Aes128Gcm)");
        let share = KeyShare::generate(Group::X25519).unwrap();
        assert_eq!(format!("{share:?}"), "KeyShare(X25519)");
        assert_eq!(format!("{:?}", MacKey::new(Hash::Sha256, &[7; 32])), "MacKey");
        let mut transcript = Transcript::new();
        transcript.add(&[7; 32]);
        assert_eq!(format!("{transcript:?}"), "Transcript(32 bytes)");
    }
}
