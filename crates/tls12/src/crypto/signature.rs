//! Signatures of peers: which scheme fits which key, and whether one is right.
//!
//! The state machine calls it for ServerKeyExchange and CertificateVerify. It judges a signature, never a
//! certificate, and never signs: that is the caller's, who holds the key.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1,
    ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    UnparsedPublicKey, VerificationAlgorithm,
};

use super::Digest;

/// A signature scheme, by the names of RFC 8446 4.2.3. In TLS 1.2 those of ECDSA name the hash alone, and fit
/// either curve (RFC 8446 4.2.3, RFC 5246 7.4.1.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureScheme {
    /// rsa_pkcs1_sha256
    RsaPkcs1Sha256,
    /// rsa_pkcs1_sha384
    RsaPkcs1Sha384,
    /// rsa_pkcs1_sha512
    RsaPkcs1Sha512,
    /// rsa_pss_rsae_sha256
    RsaPssRsaeSha256,
    /// rsa_pss_rsae_sha384
    RsaPssRsaeSha384,
    /// rsa_pss_rsae_sha512
    RsaPssRsaeSha512,
    /// ecdsa_secp256r1_sha256
    EcdsaSecp256r1Sha256,
    /// ecdsa_secp384r1_sha384
    EcdsaSecp384r1Sha384,
    /// ed25519
    Ed25519,
}

impl SignatureScheme {
    /// All schemes, best first: what an offer lists.
    pub const ALL: [Self; 9] = [
        Self::Ed25519,
        Self::EcdsaSecp256r1Sha256,
        Self::EcdsaSecp384r1Sha384,
        Self::RsaPssRsaeSha256,
        Self::RsaPssRsaeSha384,
        Self::RsaPssRsaeSha512,
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
    ];

    /// The code point, which in TLS 1.2 is a hash and a signature algorithm side by side.
    #[must_use]
    pub const fn code_point(self) -> u16 {
        match self {
            Self::RsaPkcs1Sha256 => 0x0401,
            Self::RsaPkcs1Sha384 => 0x0501,
            Self::RsaPkcs1Sha512 => 0x0601,
            Self::EcdsaSecp256r1Sha256 => 0x0403,
            Self::EcdsaSecp384r1Sha384 => 0x0503,
            Self::RsaPssRsaeSha256 => 0x0804,
            Self::RsaPssRsaeSha384 => 0x0805,
            Self::RsaPssRsaeSha512 => 0x0806,
            Self::Ed25519 => 0x0807,
        }
    }

    /// The scheme with this code point.
    #[must_use]
    pub fn from_code_point(code_point: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| scheme.code_point() == code_point)
    }

    /// Whether a key of this kind makes such signatures.
    #[must_use]
    pub const fn fits(self, kind: KeyKind) -> bool {
        match self {
            Self::Ed25519 => matches!(kind, KeyKind::Ed25519),
            Self::EcdsaSecp256r1Sha256 | Self::EcdsaSecp384r1Sha384 => {
                matches!(kind, KeyKind::EcdsaP256 | KeyKind::EcdsaP384)
            }
            Self::RsaPkcs1Sha256
            | Self::RsaPkcs1Sha384
            | Self::RsaPkcs1Sha512
            | Self::RsaPssRsaeSha256
            | Self::RsaPssRsaeSha384
            | Self::RsaPssRsaeSha512 => matches!(kind, KeyKind::Rsa),
        }
    }

    /// The digest that is signed of `message`; none for Ed25519, which signs the message itself.
    #[must_use]
    pub fn digest(self, message: &[u8]) -> Option<Digest> {
        let algorithm = match self {
            Self::RsaPkcs1Sha256 | Self::RsaPssRsaeSha256 | Self::EcdsaSecp256r1Sha256 => {
                &digest::SHA256
            }
            Self::RsaPkcs1Sha384 | Self::RsaPssRsaeSha384 | Self::EcdsaSecp384r1Sha384 => {
                &digest::SHA384
            }
            Self::RsaPkcs1Sha512 | Self::RsaPssRsaeSha512 => &digest::SHA512,
            Self::Ed25519 => return None,
        };
        Some(digest::digest(algorithm, message))
    }

    fn algorithm(self, kind: KeyKind) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match (self, kind) {
            (Self::RsaPkcs1Sha256, KeyKind::Rsa) => &RSA_PKCS1_2048_8192_SHA256,
            (Self::RsaPkcs1Sha384, KeyKind::Rsa) => &RSA_PKCS1_2048_8192_SHA384,
            (Self::RsaPkcs1Sha512, KeyKind::Rsa) => &RSA_PKCS1_2048_8192_SHA512,
            (Self::RsaPssRsaeSha256, KeyKind::Rsa) => &RSA_PSS_2048_8192_SHA256,
            (Self::RsaPssRsaeSha384, KeyKind::Rsa) => &RSA_PSS_2048_8192_SHA384,
            (Self::RsaPssRsaeSha512, KeyKind::Rsa) => &RSA_PSS_2048_8192_SHA512,
            (Self::EcdsaSecp256r1Sha256, KeyKind::EcdsaP256) => &ECDSA_P256_SHA256_ASN1,
            (Self::EcdsaSecp256r1Sha256, KeyKind::EcdsaP384) => &ECDSA_P384_SHA256_ASN1,
            (Self::EcdsaSecp384r1Sha384, KeyKind::EcdsaP256) => &ECDSA_P256_SHA384_ASN1,
            (Self::EcdsaSecp384r1Sha384, KeyKind::EcdsaP384) => &ECDSA_P384_SHA384_ASN1,
            (Self::Ed25519, KeyKind::Ed25519) => &ED25519,
            _ => return None,
        })
    }
}

/// What kind of public key a SubjectPublicKeyInfo holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA (rsaEncryption).
    Rsa,
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// Ed25519 (RFC 8410).
    Ed25519,
}

/// Why a signature does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The key is of no kind that this engine takes (unsupported_certificate).
    #[error("the peer's public key is of a kind that is not supported")]
    UnsupportedKey,
    /// The scheme does not go with the key (illegal_parameter).
    #[error("the signature scheme does not fit the peer's key")]
    WrongScheme,
    /// The signature is not by this key over this message (decrypt_error).
    #[error("the peer's signature is wrong")]
    BadSignature,
}

/// The kind of key in a SubjectPublicKeyInfo (DER); none if it is malformed or of another kind. Keys for
/// RSASSA-PSS alone are another kind.
#[must_use]
pub fn key_kind(spki_der: &[u8]) -> Option<KeyKind> {
    parse_spki(spki_der).map(|(kind, _)| kind)
}

/// Checks that `signature` is over `message` with `scheme` by the key in `spki_der`, a SubjectPublicKeyInfo.
/// RSA keys are taken from 2048 to 8192 bits.
pub fn verify_signature(
    scheme: SignatureScheme,
    spki_der: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), VerifyError> {
    let (kind, key) = parse_spki(spki_der).ok_or(VerifyError::UnsupportedKey)?;
    let algorithm = scheme.algorithm(kind).ok_or(VerifyError::WrongScheme)?;
    UnparsedPublicKey::new(algorithm, key)
        .verify(message, signature)
        .map_err(|_| VerifyError::BadSignature)
}

// AlgorithmIdentifiers, without the SEQUENCE around them. RFC 3279 2.3.1 wants the NULL.
const RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
const EC_P256: &[u8] =
    b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const EC_P384: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
const ED25519_ID: &[u8] = b"\x06\x03\x2b\x65\x70";

/// The kind, and the contents of the BIT STRING.
fn parse_spki(der: &[u8]) -> Option<(KeyKind, &[u8])> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    let (spki, after) = element(SEQUENCE, der)?;
    let (algorithm, rest) = element(SEQUENCE, spki)?;
    let (bits, tail) = element(BIT_STRING, rest)?;
    let (unused, key) = bits.split_first()?;
    if !after.is_empty() || !tail.is_empty() || *unused != 0 {
        return None;
    }
    let kind = match algorithm {
        RSA => KeyKind::Rsa,
        EC_P256 => KeyKind::EcdsaP256,
        EC_P384 => KeyKind::EcdsaP384,
        ED25519_ID => KeyKind::Ed25519,
        _ => return None,
    };
    Some((kind, key))
}

/// One DER element with this tag: its contents, and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if found != tag {
        return None;
    }
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // No key that is of use needs more than two bytes of length.
        0x81 => {
            let (&len, rest) = rest.split_first()?;
            (usize::from(len), rest)
        }
        0x82 => {
            let (len, rest) = rest.split_first_chunk()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use SignatureScheme as S;
    use std::path::Path;
    use std::process::Command;

    fn openssl(dir: &Path, args: &str) {
        let output =
            Command::new("openssl").args(args.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{args}: {output:?}");
    }

    const KEYS: [(&str, &str, KeyKind); 4] = [
        ("rsa", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048", KeyKind::Rsa),
        ("p256", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256", KeyKind::EcdsaP256),
        ("p384", "-algorithm EC -pkeyopt ec_paramgen_curve:P-384", KeyKind::EcdsaP384),
        ("ed", "-algorithm ED25519", KeyKind::Ed25519),
    ];

    fn sign(dir: &Path, name: &str, scheme: S) -> Vec<u8> {
        let options = match scheme {
            S::Ed25519 => "",
            S::RsaPkcs1Sha256 | S::EcdsaSecp256r1Sha256 => " -digest sha256",
            S::RsaPkcs1Sha384 | S::EcdsaSecp384r1Sha384 => " -digest sha384",
            S::RsaPkcs1Sha512 => " -digest sha512",
            S::RsaPssRsaeSha256 => {
                " -digest sha256 -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest"
            }
            S::RsaPssRsaeSha384 => {
                " -digest sha384 -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest"
            }
            S::RsaPssRsaeSha512 => {
                " -digest sha512 -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest"
            }
        };
        openssl(
            dir,
            &format!("pkeyutl -sign -inkey {name}.pem -rawin -in message -out sig{options}"),
        );
        std::fs::read(dir.join("sig")).unwrap()
    }

    #[test]
    fn signatures_by_openssl() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let message = b"what the handshake signs";
        std::fs::write(dir.join("message"), message).unwrap();
        for (name, options, kind) in KEYS {
            openssl(dir, &format!("genpkey {options} -out {name}.pem"));
            openssl(dir, &format!("pkey -in {name}.pem -pubout -outform DER -out {name}.der"));
            let spki = std::fs::read(dir.join(format!("{name}.der"))).unwrap();
            assert_eq!(key_kind(&spki), Some(kind));
            for scheme in S::ALL {
                if !scheme.fits(kind) {
                    assert_eq!(
                        verify_signature(scheme, &spki, message, &[0; 64]),
                        Err(VerifyError::WrongScheme)
                    );
                    continue;
                }
                let mut signature = sign(dir, name, scheme);
                assert_eq!(
                    verify_signature(scheme, &spki, message, &signature),
                    Ok(()),
                    "{scheme:?}"
                );
                let bad = Err(VerifyError::BadSignature);
                assert_eq!(verify_signature(scheme, &spki, b"other", &signature), bad);
                assert_eq!(verify_signature(scheme, &spki, message, b""), bad);
                for other in S::ALL.into_iter().filter(|other| *other != scheme && other.fits(kind))
                {
                    assert_eq!(verify_signature(other, &spki, message, &signature), bad);
                }
                *signature.last_mut().unwrap() ^= 1;
                assert_eq!(verify_signature(scheme, &spki, message, &signature), bad);
            }
        }
    }

    #[test]
    fn keys_of_other_kinds_and_damaged_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for (options, expected) in [
            ("-algorithm ED448", VerifyError::UnsupportedKey),
            ("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", VerifyError::UnsupportedKey),
            ("-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048", VerifyError::UnsupportedKey),
            ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", VerifyError::BadSignature),
        ] {
            openssl(dir, &format!("genpkey {options} -out key.pem"));
            openssl(dir, "pkey -in key.pem -pubout -outform DER -out key.der");
            let spki = std::fs::read(dir.join("key.der")).unwrap();
            let result = verify_signature(S::RsaPkcs1Sha256, &spki, b"m", &[1; 128]);
            assert_eq!(result, Err(expected), "{options}");
        }
        openssl(dir, "genpkey -algorithm ED25519 -out key.pem");
        openssl(dir, "pkey -in key.pem -pubout -outform DER -out key.der");
        let spki = std::fs::read(dir.join("key.der")).unwrap();
        assert_eq!(key_kind(&spki), Some(KeyKind::Ed25519));
        for len in 0..spki.len() {
            assert_eq!(key_kind(&spki[..len]), None);
        }
        assert_eq!(key_kind(&[&spki[..], &[0]].concat()), None);
        for at in 0..12 {
            let mut damaged = spki.clone();
            damaged[at] ^= 1;
            assert_eq!(key_kind(&damaged), None, "byte {at}");
        }
        assert_eq!(key_kind(&[0x30, 0x83, 0, 0, 1, 0]), None);
    }

    #[test]
    fn code_points_lead_back() {
        for scheme in S::ALL {
            assert_eq!(S::from_code_point(scheme.code_point()), Some(scheme));
        }
        assert_eq!(S::from_code_point(0x0201), None); // SHA-1
        assert_eq!(S::from_code_point(0x0809), None); // rsa_pss_pss_sha256
    }

    #[test]
    fn digests_are_of_the_scheme() {
        let len = |scheme: S| scheme.digest(b"").map(|digest| digest.as_ref().len());
        assert_eq!(len(S::Ed25519), None);
        assert_eq!(len(S::EcdsaSecp256r1Sha256), Some(32));
        assert_eq!(len(S::EcdsaSecp384r1Sha384), Some(48));
        assert_eq!(len(S::RsaPssRsaeSha512), Some(64));
    }
}
