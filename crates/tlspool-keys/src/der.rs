//! The few DER structures between PKCS #11 and TLS: public keys, ECDSA signatures, DigestInfo.
//!
//! What is read here comes from tokens; whatever does not fit is refused with `None`.

use crate::algorithm::{KeyAlgorithm, SignScheme};

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// AlgorithmIdentifier of rsaEncryption, with its NULL.
const ALG_RSA: &[u8] =
    &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// AlgorithmIdentifier of id-ecPublicKey with prime256v1.
const ALG_P256: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
/// AlgorithmIdentifier of id-ecPublicKey with secp384r1.
const ALG_P384: &[u8] = &[
    0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04,
    0x00, 0x22,
];
/// AlgorithmIdentifier of id-Ed25519.
const ALG_ED25519: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

/// `CKA_EC_PARAMS` of P-256: the object identifier.
pub(crate) const OID_P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// `CKA_EC_PARAMS` of P-384.
pub(crate) const OID_P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// `CKA_EC_PARAMS` of Ed25519 as an object identifier (PKCS #11 3.0).
pub(crate) const OID_ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// `CKA_EC_PARAMS` of Ed25519 as the curve name `edwards25519`, which SoftHSM2 also takes.
pub(crate) const NAME_ED25519: &[u8] = b"\x13\x0cedwards25519";

/// One TLV.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = Vec::with_capacity(len + 6);
    out.push(tag);
    match len {
        0..=0x7f => out.push(len as u8),
        0x80..=0xff => out.extend([0x81, len as u8]),
        0x100..=0xffff => out.extend([0x82, (len >> 8) as u8, len as u8]),
        _ => out.extend([0x83, (len >> 16) as u8, (len >> 8) as u8, len as u8]),
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// Splits one TLV off the front: tag, content, rest.
pub(crate) fn read_tlv(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let n = usize::from(first & 0x7f);
        if n == 0 || n > 4 {
            return None;
        }
        let (digits, rest) = rest.split_at_checked(n)?;
        (digits.iter().fold(0, |len, &b| len << 8 | usize::from(b)), rest)
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// An INTEGER from unsigned big-endian bytes.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|&&b| b == 0).count();
    let bytes = &bytes[zeros..];
    match bytes.first() {
        None => vec![INTEGER, 1, 0],
        Some(&b) if b >= 0x80 => tlv(INTEGER, &[&[0], bytes]),
        Some(_) => tlv(INTEGER, &[bytes]),
    }
}

/// SubjectPublicKeyInfo of an RSA key, and its size in bits.
pub(crate) fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> (Vec<u8>, KeyAlgorithm) {
    let key = tlv(SEQUENCE, &[&integer(modulus), &integer(exponent)]);
    (spki(ALG_RSA, &key), KeyAlgorithm::Rsa { bits: bits(modulus) })
}

/// SubjectPublicKeyInfo of an RSAPublicKey (PKCS #1).
pub(crate) fn rsa_spki_from_pkcs1(key: &[u8]) -> Option<(Vec<u8>, KeyAlgorithm)> {
    let (tag, content, _) = read_tlv(key)?;
    let (integer, modulus, _) = read_tlv(content)?;
    (tag == SEQUENCE && integer == INTEGER)
        .then(|| (spki(ALG_RSA, key), KeyAlgorithm::Rsa { bits: bits(modulus) }))
}

fn bits(modulus: &[u8]) -> u16 {
    let zeros = modulus.iter().take_while(|&&b| b == 0).count();
    let bytes = &modulus[zeros..];
    let top = bytes.first().map_or(0, |b| b.leading_zeros() as usize);
    u16::try_from((bytes.len() * 8).saturating_sub(top)).unwrap_or(u16::MAX)
}

/// SubjectPublicKeyInfo of a P-256 key from its uncompressed point.
pub(crate) fn p256_spki(point: &[u8]) -> Vec<u8> {
    spki(ALG_P256, point)
}

/// SubjectPublicKeyInfo of a P-384 key from its uncompressed point.
pub(crate) fn p384_spki(point: &[u8]) -> Vec<u8> {
    spki(ALG_P384, point)
}

/// SubjectPublicKeyInfo of an Ed25519 key.
pub(crate) fn ed25519_spki(key: &[u8]) -> Vec<u8> {
    spki(ALG_ED25519, key)
}

fn spki(algorithm: &[u8], key: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[algorithm, &tlv(BIT_STRING, &[&[0], key])])
}

/// The kind of key in a SubjectPublicKeyInfo, if it is one we sign with.
pub(crate) fn spki_algorithm(der: &[u8]) -> Option<KeyAlgorithm> {
    let (tag, content, _) = read_tlv(der)?;
    if tag != SEQUENCE {
        return None;
    }
    if content.starts_with(ALG_P256) {
        Some(KeyAlgorithm::P256)
    } else if content.starts_with(ALG_P384) {
        Some(KeyAlgorithm::P384)
    } else if content.starts_with(ALG_ED25519) {
        Some(KeyAlgorithm::Ed25519)
    } else if let Some(rest) = content.strip_prefix(ALG_RSA) {
        let (tag, key, _) = read_tlv(rest)?;
        let key = key.strip_prefix(&[0]).filter(|_| tag == BIT_STRING)?;
        rsa_spki_from_pkcs1(key).map(|(_, algorithm)| algorithm)
    } else {
        None
    }
}

/// SubjectPublicKeyInfo from `CKA_EC_PARAMS` and `CKA_EC_POINT`.
///
/// PKCS #11 wraps the point in an OCTET STRING; some modules do not, and some use a BIT STRING for
/// Edwards curves.
pub(crate) fn ec_spki(params: &[u8], point: &[u8]) -> Option<(Vec<u8>, KeyAlgorithm)> {
    let (algorithm, len) = match params {
        OID_P256 => (KeyAlgorithm::P256, 65),
        OID_P384 => (KeyAlgorithm::P384, 97),
        OID_ED25519 | NAME_ED25519 => (KeyAlgorithm::Ed25519, 32),
        _ => return None,
    };
    let point = if point.len() == len {
        point
    } else {
        match read_tlv(point)? {
            (OCTET_STRING, inner, []) | (BIT_STRING, [0, inner @ ..], []) if inner.len() == len => {
                inner
            }
            _ => return None,
        }
    };
    let spki = match algorithm {
        KeyAlgorithm::P256 => p256_spki(point),
        KeyAlgorithm::P384 => p384_spki(point),
        _ => ed25519_spki(point),
    };
    Some((spki, algorithm))
}

/// ECDSA-Sig-Value (RFC 5480) from the `r || s` of PKCS #11.
pub(crate) fn ecdsa_signature(raw: &[u8]) -> Option<Vec<u8>> {
    if raw.is_empty() || !raw.len().is_multiple_of(2) {
        return None;
    }
    let (r, s) = raw.split_at(raw.len() / 2);
    Some(tlv(SEQUENCE, &[&integer(r), &integer(s)]))
}

/// DigestInfo (RFC 8017 section 9.2), what `CKM_RSA_PKCS` pads and signs.
pub(crate) fn digest_info(scheme: SignScheme, hash: &[u8]) -> Option<Vec<u8>> {
    let last = match scheme {
        SignScheme::RsaPkcs1Sha256 => 1,
        SignScheme::RsaPkcs1Sha384 => 2,
        SignScheme::RsaPkcs1Sha512 => 3,
        _ => return None,
    };
    let algorithm =
        [0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last, 0x05, 0x00];
    Some(tlv(SEQUENCE, &[&algorithm, &tlv(OCTET_STRING, &[hash])]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_minimal_and_positive() {
        assert_eq!(integer(&[0, 0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0]), [2, 1, 0]);
        let der = ecdsa_signature(&[0, 1, 0x80, 0]).unwrap();
        assert_eq!(der, [0x30, 8, 2, 1, 1, 2, 3, 0, 0x80, 0]);
        assert!(ecdsa_signature(&[1, 2, 3]).is_none());
    }

    #[test]
    fn reads_wrapped_and_bare_points() {
        let mut point = vec![4; 65];
        let bare = ec_spki(OID_P256, &point).unwrap();
        point.splice(0..0, [0x04, 65]);
        assert_eq!(ec_spki(OID_P256, &point).unwrap(), bare);
        assert_eq!(spki_algorithm(&bare.0), Some(KeyAlgorithm::P256));
        assert!(ec_spki(OID_P384, &point).is_none());
        let (spki, _) = ec_spki(NAME_ED25519, &[7; 32]).unwrap();
        assert_eq!(spki_algorithm(&spki), Some(KeyAlgorithm::Ed25519));
    }

    #[test]
    fn counts_the_bits_of_rsa() {
        let mut modulus = vec![0xff; 256];
        let (spki, algorithm) = rsa_spki(&modulus, &[1, 0, 1]);
        assert_eq!(algorithm, KeyAlgorithm::Rsa { bits: 2048 });
        assert_eq!(spki_algorithm(&spki), Some(algorithm));
        modulus[0] = 0x7f;
        assert_eq!(rsa_spki(&modulus, &[3]).1, KeyAlgorithm::Rsa { bits: 2047 });
    }

    #[test]
    fn truncated_tlvs_are_refused() {
        let whole = tlv(SEQUENCE, &[&[1; 300]]);
        for len in 0..whole.len() {
            assert!(read_tlv(&whole[..len]).is_none());
        }
        assert!(read_tlv(&[0x30, 0x85, 0, 0, 0, 0, 0]).is_none());
        assert!(read_tlv(&[0x30, 0x80]).is_none());
    }
}
