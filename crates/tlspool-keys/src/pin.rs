//! PINs: who gives them, how a refused one is remembered, and where they survive a crash.
//!
//! A PIN comes from the file a `pin-source` attribute names, or from a person through a
//! [`PinSource`]. A PIN that a token refused is remembered as a salted digest and never offered
//! again, because tokens lock themselves after a few wrong ones. What a person typed is kept in
//! memory, and in a memory file that the supervisor hands to the next key process
//! ([`PinMemory`]), which locks it in memory: nobody else maps or reads it.

use std::os::fd::OwnedFd;
use std::path::Path;

use aws_lc_rs::digest;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use parking_lot::Mutex;
use rustix::io::{pread, pwrite};
use zeroize::{Zeroize, Zeroizing};

use crate::{KeyError, TokenName, files};

/// The longest PIN: what a PINENTRY record of the socket protocol can carry.
pub const MAX_PIN: usize = 127;

/// The largest file with a PIN: there may be remarks below the first line.
const MAX_FILE: u64 = 4096;

/// A PIN; wiped when dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Pin(Zeroizing<String>);

/// What a person must know to give a PIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRequest {
    /// The token that waits.
    pub token: TokenName,
    /// 1 for the first question, counting up after each refused PIN.
    pub attempt: u32,
    /// The token refused a PIN since the last good one.
    pub count_low: bool,
    /// The next wrong PIN locks the token.
    pub final_try: bool,
}

/// What a source says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinReply {
    /// Try this one.
    Pin(Pin),
    /// Nobody is there, or the person refused: fail the request.
    Refused,
    /// Somebody was asked; [`KeyStore::pin_arrived`](crate::KeyStore::pin_arrived) will be called.
    Later,
}

/// A person, or a program that asks one.
pub trait PinSource: Send + Sync {
    /// Asks for the PIN of a token.
    fn pin(&self, request: &PinRequest) -> PinReply;
    /// The token accepted or refused the latest PIN this source gave.
    fn outcome(&self, _token: &TokenName, _accepted: bool) {}
    /// The token was unlocked, whoever gave the PIN: whoever was asked for it need not answer any more.
    fn unlocked(&self, _token: &TokenName) {}
}

/// Nobody to ask: only `pin-source` files open tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPins;

impl PinSource for NoPins {
    fn pin(&self, _request: &PinRequest) -> PinReply {
        PinReply::Refused
    }
}

impl Pin {
    /// Takes a PIN; `None` when it is empty, too long, or contains a NUL.
    pub fn new(text: &str) -> Option<Self> {
        let fits = !text.is_empty() && text.len() <= MAX_PIN && !text.contains('\0');
        fits.then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The PIN itself, for the token only.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Reads the file of a `pin-source`: its first line.
    pub(crate) fn from_file(path: &Path) -> Result<Self, KeyError> {
        let fail = |what: String| KeyError::File(format!("PIN file {}: {what}", path.display()));
        let (bytes, _) = files::read(path, MAX_FILE).map_err(|e| fail(e.to_string()))?;
        let line = bytes.split(|&b| b == b'\n' || b == b'\r').next().unwrap_or(&[]);
        let text = std::str::from_utf8(line).map_err(|_| fail("is not UTF-8".into()))?;
        Self::new(text)
            .ok_or_else(|| fail(format!("its first line must be the PIN, 1 to {MAX_PIN} bytes")))
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pin(..)")
    }
}

// The memory file: a header, then fixed-size records, one for each token. All numbers are
// native-endian; both readers are the same program.
const MAGIC: &[u8; 8] = b"tlsPpin2";
const SALT: usize = 32;
const HEADER: usize = MAGIC.len() + SALT;
/// Refused PINs remembered of a token; the oldest makes room. Tokens lock themselves long before.
const REFUSED: usize = 16;
/// How many are refused, token, digests of the refused ones, length of the PIN (0: none), PIN.
const RECORD: usize = PIN_AT + MAX_PIN;
const REFUSED_AT: usize = 1 + 32;
const LENGTH_AT: usize = REFUSED_AT + 32 * REFUSED;
const PIN_AT: usize = LENGTH_AT + 1;
const RECORDS: usize = 64;

/// Accepted PINs and digests of refused ones, in memory, and in a file that outlives the process.
pub struct PinMemory {
    inner: Mutex<Inner>,
}

struct Inner {
    file: Option<OwnedFd>,
    /// Whether PINs are written to the file, beside the digests of refused ones.
    keep_pins: bool,
    salt: [u8; SALT],
    records: Vec<Record>,
}

struct Record {
    token: [u8; 32],
    /// Since the last good PIN, oldest first.
    refused: Vec<[u8; 32]>,
    pin: Option<Pin>,
    /// The digest of the latest good one from a file; not in the memory file.
    proved: Option<[u8; 32]>,
}

impl PinMemory {
    /// Restores what an earlier key process wrote; a file that is empty or damaged is begun anew. Without
    /// `keep_pins` only the digests of refused PINs are restored and written, and PINs that stand in the file
    /// are wiped.
    ///
    /// # Panics
    /// If the system has no random numbers.
    pub fn restore(file: Option<OwnedFd>, keep_pins: bool) -> Self {
        let mut salt = [0; SALT];
        // Without a salt the digests of refused PINs could be guessed; without randomness nothing
        // else in this process would work either.
        SystemRandom::new().fill(&mut salt).expect("the system has random numbers");
        let mut inner = Inner { file, keep_pins, salt, records: Vec::new() };
        if !inner.load() {
            inner.begin();
        }
        Self { inner: Mutex::new(inner) }
    }

    /// The accepted PIN of a token.
    pub(crate) fn pin(&self, token: &TokenName) -> Option<Pin> {
        let token = token_digest(token);
        let inner = self.inner.lock();
        inner.records.iter().find(|r| r.token == token)?.pin.clone()
    }

    /// Remembers that a token accepted a PIN.
    pub(crate) fn accepted(&self, token: &TokenName, pin: Option<&Pin>) {
        self.change(token, |record, _| {
            record.refused.clear();
            record.pin = pin.cloned();
        });
    }

    /// Remembers that a token accepted the PIN of a file. Which PIN it was is forgotten with this process.
    pub(crate) fn proved(&self, token: &TokenName, pin: &Pin) {
        self.change(token, |record, salt| record.proved = Some(pin_digest(salt, pin)));
    }

    /// Whether this PIN, of a file, may be the wrong one that the token says it was given: none that it
    /// refused is known here, and it was not accepted either.
    pub(crate) fn is_doubtful(&self, token: &TokenName, pin: &Pin) -> bool {
        let token = token_digest(token);
        let inner = self.inner.lock();
        let proved = Some(pin_digest(&inner.salt, pin));
        let record = inner.records.iter().find(|r| r.token == token);
        record.is_none_or(|record| record.refused.is_empty() && record.proved != proved)
    }

    /// Remembers that a token refused a PIN.
    pub(crate) fn refused(&self, token: &TokenName, pin: &Pin) {
        self.change(token, |record, salt| {
            let digest = pin_digest(salt, pin);
            if !record.refused.contains(&digest) {
                if record.refused.len() >= REFUSED {
                    record.refused.remove(0);
                }
                record.refused.push(digest);
            }
            if record.pin.as_ref() == Some(pin) {
                record.pin = None;
            }
            if record.proved == Some(digest) {
                record.proved = None;
            }
        });
    }

    /// Whether the token refused this very PIN since it accepted one.
    pub(crate) fn is_refused(&self, token: &TokenName, pin: &Pin) -> bool {
        let token = token_digest(token);
        let inner = self.inner.lock();
        let digest = pin_digest(&inner.salt, pin);
        inner.records.iter().any(|r| r.token == token && r.refused.contains(&digest))
    }

    fn change(&self, token: &TokenName, change: impl FnOnce(&mut Record, &[u8; SALT])) {
        let token = token_digest(token);
        let mut inner = self.inner.lock();
        let found = inner.records.iter().position(|r| r.token == token);
        let index = found.unwrap_or_else(|| {
            inner.records.push(Record { token, refused: Vec::new(), pin: None, proved: None });
            inner.records.len() - 1
        });
        let salt = inner.salt;
        change(&mut inner.records[index], &salt);
        inner.store(index);
    }
}

impl std::fmt::Debug for PinMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PinMemory(..)")
    }
}

impl Inner {
    fn load(&mut self) -> bool {
        let Some(file) = &self.file else { return false };
        let mut header = [0; HEADER];
        if !read_exactly(file, &mut header, 0) || !header.starts_with(MAGIC) {
            return false;
        }
        self.salt.copy_from_slice(&header[MAGIC.len()..]);
        let mut bytes = Zeroizing::new([0; RECORD]);
        for index in 0..RECORDS {
            if !read_exactly(file, &mut bytes[..], offset(index)) {
                break;
            }
            let Some(mut record) = Record::decode(&bytes) else { break };
            let forgotten = !self.keep_pins && record.pin.take().is_some();
            self.records.push(record);
            if forgotten {
                self.store(index);
            }
        }
        true
    }

    fn begin(&self) {
        let Some(file) = &self.file else { return };
        let header = [&MAGIC[..], &self.salt].concat();
        if let Err(error) = pwrite(file, &header, 0) {
            tracing::warn!(%error, "cannot write the PIN memory: PINs must be typed again after a crash");
        }
    }

    fn store(&self, index: usize) {
        let Some(file) = &self.file else { return };
        if index >= RECORDS {
            tracing::warn!("the PIN memory is full: {RECORDS} tokens");
            return;
        }
        let bytes = self.records[index].encode(self.keep_pins);
        if let Err(error) = pwrite(file, &bytes[..], offset(index)) {
            tracing::warn!(%error, "cannot write the PIN memory: PINs must be typed again after a crash");
        }
    }
}

impl Record {
    fn encode(&self, with_pin: bool) -> Zeroizing<[u8; RECORD]> {
        let mut bytes = Zeroizing::new([0; RECORD]);
        bytes[0] = self.refused.len() as u8; // at most REFUSED
        bytes[1..33].copy_from_slice(&self.token);
        for (place, digest) in bytes[REFUSED_AT..LENGTH_AT].chunks_mut(32).zip(&self.refused) {
            place.copy_from_slice(digest);
        }
        if let Some(pin) = self.pin.as_ref().filter(|_| with_pin) {
            bytes[LENGTH_AT] = pin.0.len() as u8;
            bytes[PIN_AT..PIN_AT + pin.0.len()].copy_from_slice(pin.0.as_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let mut token = [0; 32];
        token.copy_from_slice(&bytes[1..33]);
        let digests = bytes[REFUSED_AT..LENGTH_AT].as_chunks::<32>().0;
        let refused = digests.iter().take(usize::from(bytes[0])).copied().collect();
        let pin = match usize::from(bytes[LENGTH_AT]) {
            0 => None,
            length => {
                let text = bytes.get(PIN_AT..PIN_AT + length)?;
                Some(Pin::new(std::str::from_utf8(text).ok()?)?)
            }
        };
        (token != [0; 32]).then_some(Self { token, refused, pin, proved: None })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.salt.zeroize();
    }
}

fn offset(index: usize) -> u64 {
    (HEADER + index * RECORD) as u64
}

fn read_exactly(file: &OwnedFd, bytes: &mut [u8], at: u64) -> bool {
    let len = bytes.len();
    matches!(pread(file, bytes, at), Ok(n) if n == len)
}

fn token_digest(token: &TokenName) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in [&token.label, &token.manufacturer, &token.model, &token.serial] {
        context.update(&(part.len() as u64).to_ne_bytes());
        context.update(part.as_bytes());
    }
    to_array(&context.finish())
}

fn pin_digest(salt: &[u8; SALT], pin: &Pin) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(salt);
    context.update(pin.0.as_bytes());
    to_array(&context.finish())
}

fn to_array(digest: &digest::Digest) -> [u8; 32] {
    let mut array = [0; 32];
    array.copy_from_slice(digest.as_ref());
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    fn token(serial: &str) -> TokenName {
        TokenName {
            label: "t".into(),
            manufacturer: "m".into(),
            model: "x".into(),
            serial: serial.into(),
        }
    }

    #[test]
    fn survives_in_the_memory_file() {
        let file = memfd_create("pins", MemfdFlags::CLOEXEC).unwrap();
        let memory = PinMemory::restore(Some(file.try_clone().unwrap()), true);
        let (good, bad) = (Pin::new("1234").unwrap(), Pin::new("9999").unwrap());
        memory.accepted(&token("1"), Some(&good));
        let worse = Pin::new("0000").unwrap();
        memory.refused(&token("2"), &worse);
        memory.refused(&token("2"), &bad);
        drop(memory);

        let memory = PinMemory::restore(Some(file.try_clone().unwrap()), true);
        assert_eq!(memory.pin(&token("1")), Some(good.clone()));
        assert_eq!(memory.pin(&token("2")), None);
        assert!(memory.is_refused(&token("2"), &bad));
        assert!(memory.is_refused(&token("2"), &worse), "not only the latest");
        assert!(!memory.is_refused(&token("2"), &good));
        memory.refused(&token("1"), &good);
        drop(memory);

        let memory = PinMemory::restore(Some(file), true);
        assert_eq!(memory.pin(&token("1")), None);
    }

    #[test]
    fn refusals_survive_where_pins_are_to_be_forgotten() {
        let file = memfd_create("pins", MemfdFlags::CLOEXEC).unwrap();
        let restore = |keep| PinMemory::restore(Some(file.try_clone().unwrap()), keep);
        let (good, bad) = (Pin::new("secret-pin").unwrap(), Pin::new("9999").unwrap());
        let in_file = || {
            let mut bytes = vec![0; 4096];
            let n = pread(&file, &mut bytes[..], 0).unwrap();
            bytes[..n].windows(10).any(|w| w == b"secret-pin")
        };
        let memory = restore(true);
        memory.accepted(&token("1"), Some(&good));
        memory.refused(&token("2"), &bad);
        assert!(in_file());
        // The next one is not to keep any.
        let memory = restore(false);
        assert_eq!(memory.pin(&token("1")), None);
        assert!(memory.is_refused(&token("2"), &bad));
        assert!(!in_file());
        memory.accepted(&token("1"), Some(&good));
        assert_eq!(memory.pin(&token("1")), Some(good), "while it lives");
        assert!(!in_file());
        memory.refused(&token("1"), &bad);
        assert!(restore(false).is_refused(&token("1"), &bad));
    }

    #[test]
    fn refused_pins_are_bounded_and_forgotten_after_a_good_one() {
        let memory = PinMemory::restore(None, true);
        let pin = |n: usize| Pin::new(&format!("{n:04}")).unwrap();
        (0..=REFUSED).for_each(|n| memory.refused(&token("1"), &pin(n)));
        assert!(!memory.is_refused(&token("1"), &pin(0)));
        assert!((1..=REFUSED).all(|n| memory.is_refused(&token("1"), &pin(n))));
        memory.accepted(&token("1"), Some(&pin(0)));
        assert!(!memory.is_refused(&token("1"), &pin(1)));
    }

    #[test]
    fn a_pin_of_which_nothing_is_known_is_doubtful() {
        let memory = PinMemory::restore(None, true);
        let (good, bad) = (Pin::new("1234").unwrap(), Pin::new("9999").unwrap());
        assert!(memory.is_doubtful(&token("1"), &good));
        memory.accepted(&token("1"), None);
        memory.proved(&token("1"), &good);
        assert!(!memory.is_doubtful(&token("1"), &good), "the wrong one was another");
        assert!(memory.is_doubtful(&token("1"), &bad));
        memory.refused(&token("1"), &bad);
        assert!(!memory.is_doubtful(&token("1"), &Pin::new("5678").unwrap()), "that was it");
        memory.refused(&token("1"), &good);
        memory.accepted(&token("1"), None);
        assert!(memory.is_doubtful(&token("1"), &good), "it was good once");
    }

    #[test]
    fn a_refused_pin_leaves_no_trace_in_the_file() {
        let file = memfd_create("pins", MemfdFlags::CLOEXEC).unwrap();
        let memory = PinMemory::restore(Some(file.try_clone().unwrap()), true);
        let pin = Pin::new("secret-pin").unwrap();
        memory.accepted(&token("1"), Some(&pin));
        memory.refused(&token("1"), &pin);
        let mut bytes = vec![0; 4096];
        let n = pread(&file, &mut bytes[..], 0).unwrap();
        assert!(!bytes[..n].windows(10).any(|w| w == b"secret-pin"));
    }

    #[test]
    fn refuses_what_no_token_takes_and_shows_nothing() {
        assert!(Pin::new("").is_none());
        assert!(Pin::new(&"x".repeat(128)).is_none());
        assert!(Pin::new("a\0b").is_none());
        assert_eq!(format!("{:?}", Pin::new("1234").unwrap()), "Pin(..)");
    }
}
