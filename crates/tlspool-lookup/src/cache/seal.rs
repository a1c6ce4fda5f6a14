//! Values as they stand in memcached, where anybody may read and write.
//!
//! Two keys are derived from the key that the pools share. The *name* under which an answer stands is an
//! HMAC of the question, so it says nothing about whom it is about. The *value* is the outcome, encrypted
//! and authenticated (AES-256-GCM-SIV, RFC 8452, which forgives a repeated nonce; several pools draw them
//! independently). A plain MAC would do against forgery, but certificates name people. Authenticated
//! with it are the name and the time at which the value expires, so that it counts for no other question
//! and no longer.
//!
//! ```text
//! version 1 | expires, seconds since 1970, 8 bytes | nonce, 12 bytes | ciphertext | tag, 16 bytes
//! ```

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use tlspool_validate::sources::{Outcome, Query};
use zeroize::Zeroizing;

/// Layout of values and derivation of names; others are not read.
const VERSION: u8 = 1;
/// Before all names.
const PREFIX: &str = "tlspool1:";

/// Bytes before the ciphertext.
const HEAD: usize = 1 + 8;

/// Values larger than this are not remembered: memcached takes 1 MiB with all that belongs to it.
pub const MAX_VALUE: usize = 1_000_000;

/// Bytes of a key file.
const KEY_LEAST: usize = 32;
const KEY_MOST: usize = 4096;

/// The key that pools share.
#[derive(Clone)]
pub struct Key(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Key {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Key")
    }
}

/// Why bytes are no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// Too easy to guess.
    #[error("has {0} bytes; make one with `openssl rand -hex 32`")]
    Short(usize),
    /// No key is that long.
    #[error("has more than {KEY_MOST} bytes")]
    Long,
    /// Who reads it can vouch for anyone.
    #[error("is open to everybody (mode {0:03o}); take their rights away with `chmod o=`")]
    Open(u32),
}

impl Key {
    /// A key of at least 32 bytes. White space at the end belongs to the file, not to the key.
    pub fn new(bytes: &[u8]) -> Result<Self, KeyError> {
        let key = bytes.trim_ascii_end();
        match key.len() {
            0..KEY_LEAST => Err(KeyError::Short(key.len())),
            KEY_LEAST..=KEY_MOST => Ok(Self(Zeroizing::new(key.to_vec()))),
            _ => Err(KeyError::Long),
        }
    }

    /// Reads a key file, which must not be open to everybody.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let file = fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(KeyError::Open(mode));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_MOST + 2));
        file.take(KEY_MOST as u64 + 2).read_to_end(&mut bytes)?;
        Self::new(&bytes)
    }

    /// A key of its own for each purpose.
    fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let tag = hmac::sign(&key, purpose.as_bytes());
        let mut derived = Zeroizing::new([0; 32]);
        derived.copy_from_slice(tag.as_ref());
        derived
    }
}

/// The name under which the answer to a question stands.
#[derive(Clone, PartialEq, Eq)]
pub struct Name([u8; 32]);

impl Name {
    /// As memcached has it: visible ASCII, fewer than 250 bytes.
    pub fn key(&self) -> String {
        let mut key = String::with_capacity(PREFIX.len() + 2 * self.0.len());
        key.push_str(PREFIX);
        HEXLOWER.encode_append(&self.0, &mut key);
        key
    }

    /// Bytes that are spread evenly.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.key())
    }
}

/// Why a value does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsealed {
    /// Too short, or of another version.
    #[error("it is not as we write them")]
    Layout,
    /// It was altered, or written with another key, or for another question.
    #[error("it was altered, or written with another key or for another question")]
    Forged,
    /// It was good once.
    #[error("its time is over")]
    Expired,
    /// It would be remembered for longer than we remember.
    #[error("it was written to last longer than is set here")]
    TooLong,
}

/// Seals and opens values.
#[derive(Debug)]
pub struct Sealer {
    names: hmac::Key,
    values: RandomizedNonceKey,
}

impl Sealer {
    /// With the shared key.
    ///
    /// # Panics
    /// Never: the algorithm takes keys of 32 bytes.
    pub fn new(key: &Key) -> Self {
        let names = hmac::Key::new(hmac::HMAC_SHA256, &*key.derive("tlspool cache 1: names"));
        let values = key.derive("tlspool cache 1: values");
        let values = RandomizedNonceKey::new(&AES_256_GCM_SIV, &*values);
        Self { names, values: values.expect("32 bytes are a key") }
    }

    /// The name under which the answer to `query` stands.
    pub fn name(&self, query: &Query) -> Name {
        // A question is plain data; there is nothing about it that cannot be written down.
        let bytes = postcard::to_allocvec(query).unwrap_or_default();
        let tag = hmac::sign(&self.names, &bytes);
        let mut name = [0; 32];
        name.copy_from_slice(tag.as_ref());
        Name(name)
    }

    /// The value, if it is not too large. `expires` is since 1970.
    pub fn seal(&self, name: &Name, outcome: &Outcome, expires: Duration) -> Option<Vec<u8>> {
        let mut text = postcard::to_allocvec(outcome).ok()?;
        if text.len() > MAX_VALUE {
            return None;
        }
        let mut value = vec![VERSION];
        value.extend_from_slice(&expires.as_secs().to_be_bytes());
        let aad = Aad::from(bound(name, &value));
        let nonce = self.values.seal_in_place_append_tag(aad, &mut text).ok()?;
        value.extend_from_slice(nonce.as_ref());
        value.extend_from_slice(&text);
        Some(value)
    }

    /// What a value says, and how much longer it counts. `now` is since 1970; nothing counts for longer
    /// than `most`.
    pub fn open(
        &self,
        name: &Name,
        value: &[u8],
        now: Duration,
        most: Duration,
    ) -> Result<(Outcome, Duration), Unsealed> {
        let (head, rest) = value.split_at_checked(HEAD).ok_or(Unsealed::Layout)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unsealed::Layout)?;
        let Some((&VERSION, expires)) = head.split_first() else { return Err(Unsealed::Layout) };
        let expires = expires.try_into().map_err(|_| Unsealed::Layout)?;
        let expires = Duration::from_secs(u64::from_be_bytes(expires));
        let mut text = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let aad = Aad::from(bound(name, head));
        let text =
            self.values.open_in_place(nonce, aad, &mut text).map_err(|_| Unsealed::Forged)?;
        let left = expires.saturating_sub(now);
        if left.is_zero() {
            return Err(Unsealed::Expired);
        }
        // One second, because the end was rounded, and clocks differ.
        if left > most.max(Duration::from_secs(1)) + Duration::from_secs(1) {
            return Err(Unsealed::TooLong);
        }
        Ok((read(text)?, left))
    }
}

/// What is authenticated beside the outcome.
fn bound(name: &Name, head: &[u8]) -> Vec<u8> {
    [&name.0[..], head].concat()
}

/// An outcome out of what was authentic, all of it.
fn read(text: &[u8]) -> Result<Outcome, Unsealed> {
    match postcard::take_from_bytes(text) {
        // A failure is never written.
        Ok((outcome @ (Outcome::Present(_) | Outcome::Absent(_)), [])) => Ok(outcome),
        _ => Err(Unsealed::Layout),
    }
}

/// Reads an outcome as if it were authentic. For fuzzing.
pub fn read_outcome(text: &[u8]) -> Option<Outcome> {
    read(text).ok()
}

#[cfg(test)]
mod tests {
    use tlspool_validate::sources::{Answer, CredentialKind};

    use super::*;

    const NOW: Duration = Duration::from_hours(500_000);
    const MINUTE: Duration = Duration::from_mins(1);

    fn query(name: &str) -> Query {
        Query::Directory { name: name.into(), kind: CredentialKind::X509 }
    }

    fn sealer(key: u8) -> Sealer {
        Sealer::new(&Key::new(&[key; 32]).unwrap())
    }

    fn present() -> Outcome {
        let credentials = vec![b"certificate of john@example.com".to_vec()];
        Outcome::Present(Answer::Directory { credentials, anchors: vec![] })
    }

    #[test]
    fn a_value_counts_for_its_question_and_its_time() {
        let sealer = sealer(1);
        let name = sealer.name(&query("john@example.com"));
        let value = sealer.seal(&name, &present(), NOW + MINUTE).unwrap();
        let open = |name, now, most| sealer.open(name, &value, now, most);
        assert_eq!(open(&name, NOW, MINUTE), Ok((present(), MINUTE)));
        assert_eq!(open(&name, NOW + MINUTE, MINUTE), Err(Unsealed::Expired));
        assert_eq!(open(&name, NOW, MINUTE / 2), Err(Unsealed::TooLong));
        for other in [query("jane@example.com"), Query::Crl { url: "john@example.com".into() }] {
            let other = sealer.name(&other);
            assert_eq!(sealer.open(&other, &value, NOW, MINUTE), Err(Unsealed::Forged));
        }
        let stranger = self::sealer(2);
        assert_ne!(stranger.name(&query("john@example.com")), name);
        assert_eq!(stranger.open(&name, &value, NOW, MINUTE), Err(Unsealed::Forged));
    }

    #[test]
    fn whatever_is_changed_nothing_counts() {
        let sealer = sealer(1);
        let name = sealer.name(&query("john@example.com"));
        let value = sealer.seal(&name, &present(), NOW + MINUTE).unwrap();
        for at in 0..value.len() {
            for bit in 0..8 {
                let mut altered = value.clone();
                altered[at] ^= 1 << bit;
                assert!(sealer.open(&name, &altered, NOW, MINUTE).is_err(), "byte {at}, bit {bit}");
            }
            assert!(sealer.open(&name, &value[..at], NOW, MINUTE).is_err(), "{at} bytes");
        }
        let longer = [&value[..], b"x"].concat();
        assert_eq!(sealer.open(&name, &longer, NOW, MINUTE), Err(Unsealed::Forged));
    }

    #[test]
    fn nobody_reads_whom_it_is_about() {
        let sealer = sealer(1);
        let name = sealer.name(&query("john@example.com"));
        let value = sealer.seal(&name, &present(), NOW).unwrap();
        let seen = [name.key().as_bytes(), &value].concat();
        for word in ["john", "example", "certificate"] {
            assert!(!seen.windows(word.len()).any(|window| window == word.as_bytes()));
        }
        assert!(name.key().len() < 250 && name.key().bytes().all(|byte| byte.is_ascii_graphic()));
        assert_ne!(value, sealer.seal(&name, &present(), NOW).unwrap());
    }

    #[test]
    fn what_is_too_large_or_a_failure_is_not_written_or_read() {
        let sealer = sealer(1);
        let name = sealer.name(&query("john@example.com"));
        let large = Outcome::Present(Answer::Crl(vec![7; MAX_VALUE + 1]));
        assert_eq!(sealer.seal(&name, &large, NOW), None);
        let failed = Outcome::Failed("why".into());
        let value = sealer.seal(&name, &failed, NOW + MINUTE).unwrap();
        assert_eq!(sealer.open(&name, &value, NOW, MINUTE), Err(Unsealed::Layout));
    }

    #[test]
    fn keys_are_secret_and_long() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let set = |mode, text: &[u8]| {
            fs::write(file.path(), text).unwrap();
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            Key::load(file.path())
        };
        let key = set(0o640, &[b'a'; 33]).unwrap();
        assert_eq!(*key.0, [b'a'; 33]);
        let key = set(0o600, b"0123456789abcdef0123456789abcdef\r\n").unwrap();
        assert_eq!(key.0.len(), 32);
        assert_eq!(format!("{key:?}"), "Key");
        assert!(matches!(set(0o604, &[1; 32]), Err(KeyError::Open(0o604))));
        assert!(matches!(
            set(0o600, b"0123456789abcdef0123456789abcde\n"),
            Err(KeyError::Short(31))
        ));
        assert!(matches!(set(0o600, &[b'a'; KEY_MOST + 1]), Err(KeyError::Long)));
        assert!(matches!(Key::load(Path::new("/nowhere")), Err(KeyError::Read(_))));
    }
}
