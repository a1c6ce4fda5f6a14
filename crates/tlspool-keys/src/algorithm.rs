//! Kinds of keys and the TLS signature schemes they make (RFC 8446 section 4.2.3).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;

use crate::KeyError;

/// What kind of key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// RSA, 2048 to 4096 bits (up to 8192 from a file).
    Rsa {
        /// Size of the modulus.
        bits: u16,
    },
    /// ECDSA over P-256.
    P256,
    /// ECDSA over P-384.
    P384,
    /// Ed25519 (RFC 8032).
    Ed25519,
}

/// A TLS SignatureScheme that the pool can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[allow(missing_docs)] // the names are those of RFC 8446
pub enum SignScheme {
    RsaPkcs1Sha256 = 0x0401,
    RsaPkcs1Sha384 = 0x0501,
    RsaPkcs1Sha512 = 0x0601,
    EcdsaP256Sha256 = 0x0403,
    EcdsaP384Sha384 = 0x0503,
    RsaPssSha256 = 0x0804,
    RsaPssSha384 = 0x0805,
    RsaPssSha512 = 0x0806,
    Ed25519 = 0x0807,
}

impl SignScheme {
    /// The scheme of a number on the wire, if the pool can make it.
    pub fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            0x0401 => Self::RsaPkcs1Sha256,
            0x0501 => Self::RsaPkcs1Sha384,
            0x0601 => Self::RsaPkcs1Sha512,
            0x0403 => Self::EcdsaP256Sha256,
            0x0503 => Self::EcdsaP384Sha384,
            0x0804 => Self::RsaPssSha256,
            0x0805 => Self::RsaPssSha384,
            0x0806 => Self::RsaPssSha512,
            0x0807 => Self::Ed25519,
            _ => return None,
        })
    }

    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The hash over the message; none for Ed25519, which signs the message itself.
    pub(crate) fn digest(self) -> Option<&'static digest::Algorithm> {
        match self {
            Self::RsaPkcs1Sha256 | Self::EcdsaP256Sha256 | Self::RsaPssSha256 => {
                Some(&digest::SHA256)
            }
            Self::RsaPkcs1Sha384 | Self::EcdsaP384Sha384 | Self::RsaPssSha384 => {
                Some(&digest::SHA384)
            }
            Self::RsaPkcs1Sha512 | Self::RsaPssSha512 => Some(&digest::SHA512),
            Self::Ed25519 => None,
        }
    }
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    /// A message, to be hashed by us.
    Message(&'a [u8]),
    /// A hash that somebody else has made; Ed25519 signs it as a message.
    Digest(&'a [u8]),
}

impl<'a> Payload<'a> {
    /// The bytes as they came, for schemes that do not hash.
    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Self::Message(bytes) | Self::Digest(bytes) => bytes,
        }
    }

    /// The hash to sign.
    pub(crate) fn digest(
        self,
        algorithm: &'static digest::Algorithm,
    ) -> Result<digest::Digest, KeyError> {
        match self {
            Self::Message(message) => Ok(digest::digest(algorithm, message)),
            Self::Digest(hash) => digest::Digest::import_less_safe(hash, algorithm)
                .map_err(|_| KeyError::Unsupported(format!("a hash of {} bytes", hash.len()))),
        }
    }
}

impl KeyAlgorithm {
    /// The schemes a key of this kind makes, best first.
    pub fn schemes(self) -> &'static [SignScheme] {
        use SignScheme::{
            EcdsaP256Sha256, EcdsaP384Sha384, Ed25519, RsaPkcs1Sha256, RsaPkcs1Sha384,
            RsaPkcs1Sha512, RsaPssSha256, RsaPssSha384, RsaPssSha512,
        };
        match self {
            Self::Rsa { .. } => &[
                RsaPssSha256,
                RsaPssSha384,
                RsaPssSha512,
                RsaPkcs1Sha256,
                RsaPkcs1Sha384,
                RsaPkcs1Sha512,
            ],
            Self::P256 => &[EcdsaP256Sha256],
            Self::P384 => &[EcdsaP384Sha384],
            Self::Ed25519 => &[Ed25519],
        }
    }

    /// Refuses a scheme that keys of this kind cannot make.
    pub(crate) fn check(self, scheme: SignScheme) -> Result<(), KeyError> {
        if self.schemes().contains(&scheme) {
            return Ok(());
        }
        Err(KeyError::Unsupported(format!("{scheme:?} with a key of type {self}")))
    }

    pub(crate) fn encode(self) -> (u8, u16) {
        match self {
            Self::Rsa { bits } => (1, bits),
            Self::P256 => (2, 0),
            Self::P384 => (3, 0),
            Self::Ed25519 => (4, 0),
        }
    }

    pub(crate) fn decode(kind: u8, bits: u16) -> Option<Self> {
        Some(match kind {
            1 => Self::Rsa { bits },
            2 => Self::P256,
            3 => Self::P384,
            4 => Self::Ed25519,
            _ => return None,
        })
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(f, "rsa-{bits}"),
            Self::P256 => f.write_str("p256"),
            Self::P384 => f.write_str("p384"),
            Self::Ed25519 => f.write_str("ed25519"),
        }
    }
}

impl FromStr for KeyAlgorithm {
    type Err = String;

    /// `rsa-2048`, `rsa-3072`, `rsa-4096`, `p256`, `p384` or `ed25519`.
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "p256" => Self::P256,
            "p384" => Self::P384,
            "ed25519" => Self::Ed25519,
            "rsa" | "rsa-2048" => Self::Rsa { bits: 2048 },
            "rsa-3072" => Self::Rsa { bits: 3072 },
            "rsa-4096" => Self::Rsa { bits: 4096 },
            _ => {
                return Err(format!(
                    "unknown key algorithm {text:?}: use p256, p384, ed25519, rsa-2048, rsa-3072 or rsa-4096"
                ));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_round_trip() {
        for number in 0..=u16::MAX {
            if let Some(scheme) = SignScheme::from_number(number) {
                assert_eq!(scheme.number(), number);
            }
        }
        for name in ["p256", "p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"] {
            let algorithm: KeyAlgorithm = name.parse().unwrap();
            assert_eq!(algorithm.to_string(), name);
            let (kind, bits) = algorithm.encode();
            assert_eq!(KeyAlgorithm::decode(kind, bits), Some(algorithm));
        }
        assert!(KeyAlgorithm::P256.check(SignScheme::EcdsaP384Sha384).is_err());
    }
}
