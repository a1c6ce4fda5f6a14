//! Hashes, HMAC, the PRF (RFC 5246 5) and the transcript of a handshake.
//!
//! The state machine calls it; the cookies of DTLS use its HMAC. It never interprets a message.

use aws_lc_rs::{digest, hmac as lc_hmac, tls_prf};

use super::CryptoError;

pub use aws_lc_rs::digest::Digest;

/// An HMAC's value; as bytes with `as_ref`.
pub type Mac = lc_hmac::Tag;

/// The hash of a cipher suite: for the PRF and for Finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl Hash {
    /// Bytes of a digest.
    #[must_use]
    pub const fn output_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }

    /// The digest of `data`.
    #[must_use]
    pub fn digest(self, data: &[u8]) -> Digest {
        digest::digest(self.algorithm(), data)
    }

    fn algorithm(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
        }
    }
}

/// A key for HMAC, made once and used often.
#[derive(Clone)]
pub struct MacKey(lc_hmac::Key);

impl MacKey {
    /// A key of any length; `hash.output_len()` bytes are adequate.
    #[must_use]
    pub fn new(hash: Hash, key: &[u8]) -> Self {
        let algorithm = match hash {
            Hash::Sha256 => lc_hmac::HMAC_SHA256,
            Hash::Sha384 => lc_hmac::HMAC_SHA384,
        };
        Self(lc_hmac::Key::new(algorithm, key))
    }

    /// The HMAC of the parts, one after the other.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]]) -> Mac {
        let mut context = lc_hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        context.sign()
    }

    /// Whether `tag` begins the HMAC of the parts, compared in constant time. An empty tag never does;
    /// the caller sees to it that a tag is long enough to mean something.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        let right = self.sign(parts);
        let right = right.as_ref().get(..tag.len()).unwrap_or_default();
        !tag.is_empty() && super::equal(right, tag)
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey")
    }
}

/// One HMAC of the parts, one after the other.
#[must_use]
pub fn hmac(hash: Hash, key: &[u8], parts: &[&[u8]]) -> Mac {
    MacKey::new(hash, key).sign(parts)
}

/// The PRF of TLS 1.2 (RFC 5246 5): fills `out` from `secret`, `label` and the seeds one after the other.
/// An empty secret or an empty `out` is an error.
pub fn prf(
    hash: Hash,
    secret: &[u8],
    label: &[u8],
    seeds: &[&[u8]],
    out: &mut [u8],
) -> Result<(), CryptoError> {
    let algorithm = match hash {
        Hash::Sha256 => &tls_prf::P_SHA256,
        Hash::Sha384 => &tls_prf::P_SHA384,
    };
    let secret = tls_prf::Secret::new(algorithm, secret)?;
    let derived = match seeds {
        [seed] => secret.derive(label, seed, out.len())?,
        [one, two] => secret.derive_with_seed_concatination(label, one, two, out.len())?,
        _ => secret.derive(label, &seeds.concat(), out.len())?,
    };
    out.copy_from_slice(derived.as_ref());
    Ok(())
}

/// The handshake messages so far. They are kept, since until the CertificateVerify nobody knows which hash, or
/// that of Ed25519, is asked for; once the suite is known, its digest is kept up with them.
#[derive(Clone, Default)]
pub struct Transcript {
    messages: Vec<u8>,
    running: Option<(Hash, digest::Context)>,
}

impl Transcript {
    /// An empty transcript.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a message, header included. How much may come is bounded by who calls.
    pub fn add(&mut self, message: &[u8]) {
        self.messages.extend_from_slice(message);
        if let Some((_, context)) = &mut self.running {
            context.update(message);
        }
    }

    /// From here on digests of this hash cost no more than what was added.
    pub fn settle(&mut self, hash: Hash) {
        let mut context = digest::Context::new(hash.algorithm());
        context.update(&self.messages);
        self.running = Some((hash, context));
    }

    /// The digest of all messages so far.
    #[must_use]
    pub fn digest(&self, hash: Hash) -> Digest {
        match &self.running {
            Some((settled, context)) if *settled == hash => context.clone().finish(),
            _ => hash.digest(&self.messages),
        }
    }

    /// All messages so far, which is what a CertificateVerify signs (RFC 5246 7.4.8).
    #[must_use]
    pub fn messages(&self) -> &[u8] {
        &self.messages
    }
}

impl std::fmt::Debug for Transcript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transcript({} bytes)", self.messages.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::unhex;
    use super::*;

    /// The vectors that the TLS working group published for TLS 1.2's PRF.
    #[test]
    fn prf_vectors() {
        let secret = unhex("9bbe436ba940f017b17652849a71db35");
        let seed = unhex("a0ba9f936cda311827a6f796ffd5198c");
        let mut out = [0; 100];
        prf(Hash::Sha256, &secret, b"test label", &[&seed], &mut out).unwrap();
        assert_eq!(
            out.to_vec(),
            unhex(concat!(
                "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a",
                "6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab",
                "4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff701",
                "87347b66"
            ))
        );
        let secret = unhex("b80b733d6ceefcdc71566ea48e5567df");
        let seed = unhex("cd665cf6a8447dd6ff8b27555edb7465");
        let mut out = [0; 148];
        prf(Hash::Sha384, &secret, b"test label", &[&seed], &mut out).unwrap();
        assert_eq!(
            out.to_vec(),
            unhex(concat!(
                "7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cd",
                "e9ca0faa60be9fe34f82b1233c9146a0e534cb400fed2700884f9dc236f80edd",
                "8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d918425",
                "9b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee6",
                "91c8f3a26854308d5eaa3be85e0990703d73e56f"
            ))
        );
    }

    #[test]
    fn the_cut_of_seeds_does_not_matter() {
        let mut results = Vec::new();
        for seeds in [
            &[b"abcdef".as_slice()][..],
            &[b"abc", b"def"],
            &[b"a", b"b", b"cdef"],
            &[b"", b"abcd", b"e", b"f"],
        ] {
            let mut out = [0; 48];
            prf(Hash::Sha384, b"secret", b"label", seeds, &mut out).unwrap();
            results.push(out);
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        let mut none = [0; 48];
        prf(Hash::Sha384, b"secret", b"label", &[], &mut none).unwrap();
        assert_ne!(none, results[0]);
        assert!(prf(Hash::Sha256, b"", b"label", &[b"seed"], &mut none).is_err());
    }

    #[test]
    fn hmac_vectors() {
        // RFC 4231, test case 2.
        let (key, data) = (b"Jefe", [b"what do ya want ".as_slice(), b"for nothing?"]);
        assert_eq!(
            hmac(Hash::Sha256, key, &data).as_ref(),
            unhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
        );
        assert_eq!(
            hmac(Hash::Sha384, key, &data).as_ref(),
            unhex(concat!(
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e",
                "8e2240ca5e69e2c78b3239ecfab21649"
            ))
        );
    }

    #[test]
    fn a_tag_is_right_whole_or_cut_and_never_empty() {
        let key = MacKey::new(Hash::Sha256, b"key");
        let tag = key.sign(&[b"data"]);
        let tag = tag.as_ref();
        assert!(key.verify(&[b"da", b"ta"], tag));
        assert!(key.verify(&[b"data"], &tag[..16]));
        assert!(!key.verify(&[b"date"], tag));
        assert!(!key.verify(&[b"data"], b""));
        assert!(!key.verify(&[b"data"], &[tag, b"0"].concat()));
        assert!(!MacKey::new(Hash::Sha256, b"other").verify(&[b"data"], tag));
    }

    #[test]
    fn the_transcript_digests_the_same_settled_or_not() {
        let mut early = Transcript::new();
        let mut late = Transcript::new();
        early.settle(Hash::Sha384);
        assert!(early.running.is_some() && late.running.is_none());
        for message in [b"one".as_slice(), b"", b"three"] {
            early.add(message);
            late.add(message);
        }
        for hash in [Hash::Sha256, Hash::Sha384] {
            let expected = hash.digest(b"onethree");
            assert_eq!(early.digest(hash).as_ref(), expected.as_ref());
            assert_eq!(late.digest(hash).as_ref(), expected.as_ref());
            assert_eq!(expected.as_ref().len(), hash.output_len());
        }
        late.settle(Hash::Sha256);
        late.add(b"four");
        assert_eq!(late.messages(), b"onethreefour");
        assert_eq!(
            late.digest(Hash::Sha256).as_ref(),
            Hash::Sha256.digest(b"onethreefour").as_ref()
        );
        // A digest does not end the transcript.
        late.add(b"five");
        assert_eq!(
            late.digest(Hash::Sha256).as_ref(),
            Hash::Sha256.digest(b"onethreefourfive").as_ref()
        );
    }
}
