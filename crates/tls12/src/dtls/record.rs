//! Records of DTLS 1.2 (RFC 6347 section 4.1): headers, the replay window, and keys by epoch.
//!
//! `transport` calls it. What is no record is noise: there is nothing to report but that it was dropped.

use std::ops::Range;

use crate::crypto::{Aead, RecordKey};

use super::SealError;

/// Type, version, epoch, sequence number and length in front of a record.
pub(super) const HEADER: usize = 13;
/// Most plaintext in a record (RFC 5246 section 6.2.1).
pub(super) const MAX_PLAINTEXT: usize = 1 << 14;
/// Most that protection may add (RFC 5246 section 6.2.3).
const MAX_EXPANSION: usize = 2048;
/// Longest record that we send, and thus the longest user message of SCTP.
pub(super) const MAX_SENT: usize = HEADER + MAX_PLAINTEXT + Aead::Aes256Gcm.overhead();

pub(super) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const APPLICATION_DATA: u8 = 23;

/// DTLS 1.2.
pub(super) const VERSION: [u8; 2] = [254, 253];
/// DTLS 1.0: what a first ClientHello and a HelloVerifyRequest say, for peers that know no better.
pub(super) const FIRST_VERSION: [u8; 2] = [254, 255];

const LAST_SEQ: u64 = (1 << 48) - 1;

/// Blocks of 16 bytes that one key of AES-GCM may seal, counting one more for each record: with more, who
/// sees them all can tell them from random bytes with a probability beyond 2^-60 (the bound behind
/// RFC 8446 section 5.5; its number of records there is for records of full length).
const GCM_BLOCKS: u64 = 1 << 34;

/// A record as it lies in a datagram.
pub(super) struct Parsed {
    pub(super) content_type: u8,
    pub(super) version: [u8; 2],
    pub(super) epoch: u16,
    /// 48 bits.
    pub(super) seq: u64,
    /// Where in the datagram its fragment is.
    pub(super) fragment: Range<usize>,
}

/// Reads the record at the beginning of `rest`, the datagram from `at` on. None if there is no whole record;
/// as its length is not to be trusted then, nothing behind it is a record either.
pub(super) fn parse(datagram: &[u8], at: usize) -> Option<Parsed> {
    let rest = datagram.get(at..)?;
    let (header, rest) = rest.split_first_chunk::<HEADER>()?;
    let [content_type, major, minor, e1, e2, s1, s2, s3, s4, s5, s6, l1, l2] = *header;
    let len = usize::from(u16::from_be_bytes([l1, l2]));
    if major != VERSION[0] || len > MAX_PLAINTEXT + MAX_EXPANSION || len > rest.len() {
        return None;
    }
    let start = at + HEADER;
    Some(Parsed {
        content_type,
        version: [major, minor],
        epoch: u16::from_be_bytes([e1, e2]),
        seq: u64::from_be_bytes([0, 0, s1, s2, s3, s4, s5, s6]),
        fragment: start..start + len,
    })
}

/// Which of the latest records were seen (RFC 6347 section 4.1.2.6). 128 of them: bursts are reordered by more
/// than the 64 that RFC recommends at least.
#[derive(Debug, Default)]
pub(super) struct ReplayWindow {
    /// One more than the highest number seen.
    next: u64,
    /// Bit n: `next - 1 - n` was seen.
    seen: u128,
}

impl ReplayWindow {
    /// Whether a record with this number may be new.
    pub(super) fn may_be_new(&self, seq: u64) -> bool {
        let Some(age) = self.next.checked_sub(seq + 1) else { return true };
        age < 128 && self.seen >> age & 1 == 0
    }

    /// A record with this number was authentic.
    pub(super) fn mark(&mut self, seq: u64) {
        if let Some(age) = self.next.checked_sub(seq + 1) {
            if age < 128 {
                self.seen |= 1 << age;
            }
        } else {
            let ahead = seq + 1 - self.next;
            self.seen = if ahead < 128 { self.seen << ahead } else { 0 } | 1;
            self.next = seq + 1;
        }
    }
}

/// What one epoch needs for reading.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) epoch: u16,
    /// None in epoch 0.
    key: Option<RecordKey>,
    /// None over SCTP (RFC 6083).
    window: Option<ReplayWindow>,
}

/// Why a record is not taken; counted, never reported.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Replayed,
    Forged,
    TooLong,
}

impl Reader {
    pub(super) fn plain(epoch: u16) -> Self {
        // Without a key a window would only help who wants to shut out the real peer's records.
        Self { epoch, key: None, window: None }
    }

    pub(super) fn protected(epoch: u16, key: RecordKey, replay_check: bool) -> Self {
        Self { epoch, key: Some(key), window: replay_check.then(ReplayWindow::default) }
    }

    pub(super) fn is_protected(&self) -> bool {
        self.key.is_some()
    }

    /// Opens a record of this epoch in place. Returns where in `datagram` its plaintext is.
    pub(super) fn open(
        &mut self,
        record: &Parsed,
        datagram: &mut [u8],
    ) -> Result<Range<usize>, Refused> {
        let start = record.fragment.start;
        let fragment = datagram.get_mut(record.fragment.clone()).ok_or(Refused::TooLong)?;
        let Some(key) = &self.key else {
            return if fragment.len() > MAX_PLAINTEXT {
                Err(Refused::TooLong)
            } else {
                Ok(record.fragment.clone())
            };
        };
        if self.window.as_ref().is_some_and(|window| !window.may_be_new(record.seq)) {
            return Err(Refused::Replayed);
        }
        let seq64 = u64::from(record.epoch) << 48 | record.seq;
        let plain = key
            .open_in_place(seq64, record.content_type, record.version, fragment)
            .map_err(|_| Refused::Forged)?;
        if let Some(window) = &mut self.window {
            window.mark(record.seq);
        }
        if plain.len() > MAX_PLAINTEXT {
            return Err(Refused::TooLong);
        }
        Ok(start + plain.start..start + plain.end)
    }
}

/// What one epoch needs for writing.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) epoch: u16,
    key: Option<RecordKey>,
    next_seq: u64,
    blocks: u64,
}

impl Writer {
    pub(super) fn new(epoch: u16, key: Option<RecordKey>, next_seq: u64) -> Self {
        Self { epoch, key, next_seq, blocks: 0 }
    }

    pub(super) fn is_protected(&self) -> bool {
        self.key.is_some()
    }

    /// Bytes in front of the plaintext, and behind it.
    pub(super) fn room(&self) -> (usize, usize) {
        self.key.as_ref().map_or((HEADER, 0), |key| {
            let explicit = key.aead().explicit_nonce_len();
            (HEADER + explicit, key.aead().overhead() - explicit)
        })
    }

    /// Whether the key may seal more application data.
    pub(super) fn may_seal(&self) -> bool {
        let enough = match self.key.as_ref().map(RecordKey::aead) {
            None => return false,
            Some(Aead::ChaCha20Poly1305) => true,
            Some(Aead::Aes128Gcm | Aead::Aes256Gcm) => self.blocks < GCM_BLOCKS,
        };
        // What is left is for alerts and a last handshake.
        enough && self.next_seq < LAST_SEQ - (1 << 16)
    }

    /// Writes the header around a plaintext that lies between the rooms, and seals it.
    pub(super) fn seal(
        &mut self,
        content_type: u8,
        version: [u8; 2],
        record: &mut [u8],
    ) -> Result<(), SealError> {
        let (head, fragment) = record.split_first_chunk_mut::<HEADER>().ok_or(SealError::NoRoom)?;
        let len = u16::try_from(fragment.len()).map_err(|_| SealError::NoRoom)?;
        if self.next_seq > LAST_SEQ {
            return Err(SealError::Exhausted);
        }
        let seq64 = u64::from(self.epoch) << 48 | self.next_seq;
        head[0] = content_type;
        head[1..3].copy_from_slice(&version);
        head[3..11].copy_from_slice(&seq64.to_be_bytes());
        head[11..].copy_from_slice(&len.to_be_bytes());
        // A number is used up even if sealing fails: it must never be used twice.
        self.next_seq += 1;
        self.blocks += fragment.len() as u64 / 16 + 1;
        if let Some(key) = &self.key {
            key.seal_in_place(seq64, content_type, version, fragment)
                .map_err(|_| SealError::NoRoom)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> RecordKey {
        RecordKey::new(Aead::Aes128Gcm, &[1; 16], &[2; 4]).unwrap()
    }

    fn record(writer: &mut Writer, kind: u8, plain: &[u8]) -> Vec<u8> {
        let (prefix, suffix) = writer.room();
        let mut record = vec![0; prefix];
        record.extend_from_slice(plain);
        record.resize(record.len() + suffix, 0);
        writer.seal(kind, VERSION, &mut record).unwrap();
        record
    }

    /// The bounds in figures, which no other test reaches: 2^48 records and 2^34 blocks are too many for one.
    #[test]
    fn bounds_are_those_of_the_rfcs() {
        assert_eq!((MAX_PLAINTEXT, MAX_SENT), (16_384, 13 + 16_384 + 24));
        assert_eq!((LAST_SEQ, GCM_BLOCKS), (0xffff_ffff_ffff, 17_179_869_184));
    }

    #[test]
    fn headers_lie_only_within_the_datagram() {
        let whole = record(&mut Writer::new(0, None, 5), HANDSHAKE, b"abc");
        assert_eq!(whole[..13], [22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 5, 0, 3]);
        let parsed = parse(&whole, 0).unwrap();
        assert_eq!((parsed.epoch, parsed.seq, parsed.fragment), (0, 5, 13..16));
        for len in 0..whole.len() {
            assert!(parse(&whole[..len], 0).is_none());
        }
        assert!(parse(&whole, 1).is_none());
        assert!(parse(&whole, 100).is_none());
        let mut other = whole.clone();
        other[1] = 3;
        assert!(parse(&other, 0).is_none());
        let mut long = vec![0; 20_000];
        long[..13].copy_from_slice(&[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 0, 0x48, 0x00]);
        assert!(parse(&long, 0).is_some());
        long[12] = 1;
        assert!(parse(&long, 0).is_none());
    }

    #[test]
    fn the_window_takes_each_number_once() {
        let mut window = ReplayWindow::default();
        for seq in [0, 5, 3, 1, 200, 190, 73, 2_000, 1_873, LAST_SEQ] {
            assert!(window.may_be_new(seq), "{seq}");
            window.mark(seq);
            assert!(!window.may_be_new(seq), "{seq}");
        }
        assert!(!window.may_be_new(2));
        assert!(!window.may_be_new(LAST_SEQ - 128));
        assert!(window.may_be_new(LAST_SEQ - 127));
    }

    #[test]
    fn the_window_is_128_wide() {
        let mut window = ReplayWindow::default();
        window.mark(127);
        assert!(window.may_be_new(0));
        window.mark(128);
        assert!(!window.may_be_new(0));
        assert!(window.may_be_new(1));
        window.mark(0); // too old: without effect
        assert!(window.may_be_new(1));
    }

    #[test]
    fn what_is_sealed_opens_once() {
        let mut writer = Writer::new(3, Some(key()), 0);
        let mut reader = Reader::protected(3, key(), true);
        let sealed = record(&mut writer, APPLICATION_DATA, b"hello");
        let mut copy = sealed.clone();
        let parsed = parse(&copy, 0).unwrap();
        let range = reader.open(&parsed, &mut copy).unwrap();
        assert_eq!(copy[range], *b"hello");
        let mut copy = sealed.clone();
        assert_eq!(reader.open(&parsed, &mut copy), Err(Refused::Replayed));
        // Over SCTP numbers are not checked.
        let mut reader = Reader::protected(3, key(), false);
        for _ in 0..2 {
            let mut copy = sealed.clone();
            assert!(reader.open(&parsed, &mut copy).is_ok());
        }
        // Each byte of header and fragment counts, but that of the length, which parsing needs.
        for at in (0..sealed.len()).filter(|at| ![1, 11, 12].contains(at)) {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            let parsed = parse(&damaged, 0).unwrap();
            assert_eq!(reader.open(&parsed, &mut damaged), Err(Refused::Forged), "byte {at}");
        }
    }

    #[test]
    fn a_forged_record_does_not_move_the_window() {
        let mut writer = Writer::new(1, Some(key()), 7);
        let mut reader = Reader::protected(1, key(), true);
        let sealed = record(&mut writer, APPLICATION_DATA, b"x");
        let mut forged = sealed.clone();
        forged[6] = 1; // a high number
        let parsed = parse(&forged, 0).unwrap();
        assert_eq!(reader.open(&parsed, &mut forged), Err(Refused::Forged));
        let mut copy = sealed;
        let parsed = parse(&copy, 0).unwrap();
        assert!(reader.open(&parsed, &mut copy).is_ok());
    }

    #[test]
    fn too_much_plaintext_is_refused() {
        let mut writer = Writer::new(1, Some(key()), 0);
        let mut long = record(&mut writer, APPLICATION_DATA, &vec![0; MAX_PLAINTEXT + 1]);
        let parsed = parse(&long, 0).unwrap();
        let mut reader = Reader::protected(1, key(), true);
        assert_eq!(reader.open(&parsed, &mut long), Err(Refused::TooLong));
        let mut writer = Writer::new(0, None, 0);
        let mut long = record(&mut writer, HANDSHAKE, &vec![0; MAX_PLAINTEXT + 1]);
        let parsed = parse(&long, 0).unwrap();
        assert_eq!(Reader::plain(0).open(&parsed, &mut long), Err(Refused::TooLong));
    }

    #[test]
    fn numbers_and_keys_end() {
        let mut writer = Writer::new(1, Some(key()), LAST_SEQ);
        assert!(!writer.may_seal());
        record(&mut writer, ALERT, &[1, 0]);
        let mut one_more = [0; 64];
        assert_eq!(writer.seal(ALERT, VERSION, &mut one_more), Err(SealError::Exhausted));
        // 65,536 numbers are kept for alerts and a last handshake.
        assert!(!Writer::new(1, Some(key()), LAST_SEQ - 65_536).may_seal());
        assert!(Writer::new(1, Some(key()), LAST_SEQ - 65_537).may_seal());
        let mut writer = Writer::new(1, Some(key()), 0);
        assert!(writer.may_seal());
        for (sealed, blocks) in [(0, 2), (7, 4), (8, 7), (100, 15), (1_000, 80)] {
            record(&mut writer, APPLICATION_DATA, &vec![0; sealed]);
            assert_eq!(writer.blocks, blocks, "with {sealed} bytes, 8 of nonce and 16 of tag");
        }
        writer.blocks = GCM_BLOCKS;
        assert!(!writer.may_seal());
        let chacha = RecordKey::new(Aead::ChaCha20Poly1305, &[0; 32], &[0; 12]).unwrap();
        let mut writer = Writer::new(1, Some(chacha), 0);
        writer.blocks = GCM_BLOCKS;
        assert!(writer.may_seal());
        assert!(!Writer::new(0, None, 0).may_seal());
        let mut short = [0; HEADER - 1];
        assert_eq!(writer.seal(ALERT, VERSION, &mut short), Err(SealError::NoRoom));
        let mut short = [0; HEADER + 15];
        assert_eq!(writer.seal(ALERT, VERSION, &mut short), Err(SealError::NoRoom));
    }
}
