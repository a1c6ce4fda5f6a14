//! Protection of records: AES-GCM (RFC 5288) and ChaCha20-Poly1305 (RFC 7905).
//!
//! Both record layers call it, once per record, in place and without allocation. It knows nothing of headers
//! or sequence numbers but what it is given: a number must never be used twice with one key, and the caller
//! sees to that.

use std::ops::Range;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use zeroize::Zeroizing;

use super::CryptoError;

/// Bytes of the authentication tag at the end of each protected record.
pub const TAG_LEN: usize = 16;
const NONCE_LEN: usize = 12;

/// The AEAD of a cipher suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aead {
    /// AES-GCM with a 128 bit key (RFC 5288).
    Aes128Gcm,
    /// AES-GCM with a 256 bit key (RFC 5288).
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 7905).
    ChaCha20Poly1305,
}

impl Aead {
    /// Bytes of a write key in the key block.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// Bytes of a write IV in the key block.
    #[must_use]
    pub const fn fixed_iv_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 4,
            Self::ChaCha20Poly1305 => NONCE_LEN,
        }
    }

    /// Bytes of nonce that travel in front of each record's ciphertext.
    #[must_use]
    pub const fn explicit_nonce_len(self) -> usize {
        NONCE_LEN - self.fixed_iv_len()
    }

    /// Bytes that protection adds to a record: the explicit nonce and the tag.
    #[must_use]
    pub const fn overhead(self) -> usize {
        self.explicit_nonce_len() + TAG_LEN
    }
}

/// A record that is too short, too long, or not from who holds the key. What is wrong is not told, on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record is damaged or forged")]
pub struct BadRecord;

/// The key of one direction of one epoch.
pub struct RecordKey {
    aead: Aead,
    key: LessSafeKey,
    /// The write IV, padded with zeros at the end: AES-GCM puts the explicit nonce there.
    iv: Zeroizing<[u8; NONCE_LEN]>,
}

impl RecordKey {
    /// `key` and `iv` as cut from the key block (RFC 5246 6.3), of the lengths that `aead` names.
    pub fn new(aead: Aead, key: &[u8], iv: &[u8]) -> Result<Self, CryptoError> {
        let algorithm = match aead {
            Aead::Aes128Gcm => &AES_128_GCM,
            Aead::Aes256Gcm => &AES_256_GCM,
            Aead::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        if iv.len() != aead.fixed_iv_len() {
            return Err(CryptoError);
        }
        let mut padded = Zeroizing::new([0; NONCE_LEN]);
        padded[..iv.len()].copy_from_slice(iv);
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key)?);
        Ok(Self { aead, key, iv: padded })
    }

    /// Which AEAD this key is for.
    #[must_use]
    pub fn aead(&self) -> Aead {
        self.aead
    }

    /// Protects one record. `buf` is room for the explicit nonce, the plaintext, and room for the tag;
    /// it holds the record's fragment afterwards. `seq64` is the sequence number, in DTLS with the epoch in
    /// its upper 16 bits.
    pub fn seal_in_place(
        &self,
        seq64: u64,
        content_type: u8,
        version: [u8; 2],
        buf: &mut [u8],
    ) -> Result<(), CryptoError> {
        let explicit = self.aead.explicit_nonce_len();
        let plain_len = buf.len().checked_sub(self.aead.overhead()).ok_or(CryptoError)?;
        let aad = additional_data(seq64, content_type, version, plain_len).ok_or(CryptoError)?;
        let (head, rest) = buf.split_at_mut(explicit);
        let (plain, tag_room) = rest.split_at_mut(plain_len);
        head.copy_from_slice(&seq64.to_be_bytes()[..explicit]);
        let nonce = self.nonce(seq64.to_be_bytes());
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(aad), plain)?;
        tag_room.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens one record's fragment. Returns where the plaintext lies in it.
    pub fn open_in_place(
        &self,
        seq64: u64,
        content_type: u8,
        version: [u8; 2],
        fragment: &mut [u8],
    ) -> Result<Range<usize>, BadRecord> {
        let explicit = self.aead.explicit_nonce_len();
        let plain_len = fragment.len().checked_sub(self.aead.overhead()).ok_or(BadRecord)?;
        let aad = additional_data(seq64, content_type, version, plain_len).ok_or(BadRecord)?;
        // RFC 5288 3: the sender chooses the explicit part; it need not be the sequence number.
        let mut number = seq64.to_be_bytes();
        number[..explicit].copy_from_slice(&fragment[..explicit]);
        let nonce = self.nonce(number);
        self.key
            .open_in_place(nonce, Aad::from(aad), &mut fragment[explicit..])
            .map_err(|_| BadRecord)?;
        Ok(explicit..explicit + plain_len)
    }

    fn nonce(&self, number: [u8; 8]) -> Nonce {
        let mut nonce = *self.iv;
        for (byte, part) in nonce[NONCE_LEN - 8..].iter_mut().zip(number) {
            *byte ^= part;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RecordKey").field(&self.aead).finish()
    }
}

/// RFC 5246 6.2.3.3; none if the length does not fit.
fn additional_data(seq64: u64, content_type: u8, version: [u8; 2], len: usize) -> Option<[u8; 13]> {
    let len = u16::try_from(len).ok()?.to_be_bytes();
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&seq64.to_be_bytes());
    aad[8] = content_type;
    aad[9..11].copy_from_slice(&version);
    aad[11..].copy_from_slice(&len);
    Some(aad)
}

#[cfg(test)]
mod tests {
    use super::super::unhex;
    use super::*;

    const ALL: [Aead; 3] = [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305];
    const TLS: [u8; 2] = [3, 3];

    fn key(aead: Aead) -> RecordKey {
        let key: Vec<u8> = (0..aead.key_len() as u8).collect();
        let iv: Vec<u8> = (0x40..0x40 + aead.fixed_iv_len() as u8).collect();
        RecordKey::new(aead, &key, &iv).unwrap()
    }

    fn sealed(aead: Aead, seq: u64, plain: &[u8]) -> Vec<u8> {
        let mut buf = vec![0; aead.explicit_nonce_len()];
        buf.extend_from_slice(plain);
        buf.resize(buf.len() + TAG_LEN, 0);
        key(aead).seal_in_place(seq, 23, TLS, &mut buf).unwrap();
        buf
    }

    /// Computed with Python's cryptography package from RFC 5288's and RFC 7905's constructions.
    /// RFC 5288 section 3, RFC 7905 section 2.
    #[test]
    fn lengths_are_those_of_the_rfcs() {
        for (aead, lengths) in [
            (Aead::Aes128Gcm, (16, 4, 8, 24)),
            (Aead::Aes256Gcm, (32, 4, 8, 24)),
            (Aead::ChaCha20Poly1305, (32, 12, 0, 16)),
        ] {
            let nonce = (aead.fixed_iv_len(), aead.explicit_nonce_len());
            assert_eq!((aead.key_len(), nonce.0, nonce.1, aead.overhead()), lengths);
        }
    }

    #[test]
    fn known_answers() {
        for (aead, expected) in KNOWN {
            let fragment = sealed(aead, 0x0001_0000_0000_0005, b"known answer");
            assert_eq!(fragment, unhex(expected), "{aead:?}");
        }
    }

    #[test]
    fn what_is_sealed_opens_and_only_that() {
        for aead in ALL {
            for len in [0, 1, 15, 16, 17, 1000, 1 << 14] {
                let plain = vec![7; len];
                let fragment = sealed(aead, 9, &plain);
                assert_eq!(fragment.len(), len + aead.overhead());
                let mut copy = fragment.clone();
                let range = key(aead).open_in_place(9, 23, TLS, &mut copy).unwrap();
                assert_eq!(copy[range], plain);
            }
            let fragment = sealed(aead, 9, b"text");
            let open = |seq, kind, version, mut fragment: Vec<u8>| {
                key(aead).open_in_place(seq, kind, version, &mut fragment)
            };
            assert_eq!(open(10, 23, TLS, fragment.clone()), Err(BadRecord));
            assert_eq!(open(9, 22, TLS, fragment.clone()), Err(BadRecord));
            assert_eq!(open(9, 23, [254, 253], fragment.clone()), Err(BadRecord));
            for at in 0..fragment.len() {
                let mut damaged = fragment.clone();
                damaged[at] ^= 1;
                assert_eq!(open(9, 23, TLS, damaged), Err(BadRecord), "byte {at}");
            }
            for len in 0..fragment.len() {
                assert_eq!(open(9, 23, TLS, fragment[..len].to_vec()), Err(BadRecord));
            }
            assert_eq!(open(9, 23, TLS, vec![0; 70_000]), Err(BadRecord));
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        for aead in ALL {
            let (key_len, iv_len) = (aead.key_len(), aead.fixed_iv_len());
            assert!(RecordKey::new(aead, &vec![0; key_len - 1], &vec![0; iv_len]).is_err());
            assert!(RecordKey::new(aead, &vec![0; key_len + 1], &vec![0; iv_len]).is_err());
            assert!(RecordKey::new(aead, &vec![0; key_len], &vec![0; iv_len - 1]).is_err());
            assert!(RecordKey::new(aead, &vec![0; key_len], &vec![0; iv_len + 1]).is_err());
            let mut small = vec![0; aead.overhead() - 1];
            assert!(key(aead).seal_in_place(0, 23, TLS, &mut small).is_err());
            let mut large = vec![0; 0x1_0000 + aead.overhead()];
            assert!(key(aead).seal_in_place(0, 23, TLS, &mut large).is_err());
        }
    }

    const KNOWN: [(Aead, &str); 3] = [
        (
            Aead::Aes128Gcm,
            "0001000000000005608393dd9fc101ea9f8f1064c05fe94a2010e051bdb65eb52f13d2ec",
        ),
        (
            Aead::Aes256Gcm,
            "00010000000000056cb05c895a0c550af3d9d85ab7e8251fc7e6a239a73db5010eb83331",
        ),
        (Aead::ChaCha20Poly1305, "ab8c03121206c7cab2cfd5cd158559550fad226c1448f2437dd15204"),
    ];
}
