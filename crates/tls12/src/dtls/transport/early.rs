//! Records that came too early: a bounded number of them.

use std::collections::VecDeque;

use crate::dtls::Mode;

/// Records that may wait for their key, or for the handshake's end.
const MAX_EARLY: usize = 64;
/// Bytes of them in all.
const MAX_EARLY_BYTES: usize = 128 * 1024;
/// The same over SCTP, where nothing may be lost: what the peer sends while its Finished, on another stream, is
/// late.
const MAX_EARLY_SCTP: usize = 4096;
const MAX_EARLY_BYTES_SCTP: usize = 4 * 1024 * 1024;

/// A bounded number of records that came too early.
#[derive(Debug)]
pub(super) struct Early {
    records: VecDeque<(Vec<u8>, u64)>,
    bytes: usize,
    /// Most records, and bytes.
    most: (usize, usize),
}

impl Early {
    pub(super) fn new(mode: Mode) -> Self {
        let most = match mode {
            Mode::Udp => (MAX_EARLY, MAX_EARLY_BYTES),
            Mode::Sctp => (MAX_EARLY_SCTP, MAX_EARLY_BYTES_SCTP),
        };
        Self { records: VecDeque::new(), bytes: 0, most }
    }

    pub(super) fn push(&mut self, record: &[u8], tag: u64) -> bool {
        let fits = self.records.len() < self.most.0 && self.bytes + record.len() <= self.most.1;
        if fits {
            self.bytes += record.len();
            self.records.push_back((record.to_vec(), tag));
        }
        fits
    }

    pub(super) fn pop(&mut self) -> Option<(Vec<u8>, u64)> {
        let (record, tag) = self.records.pop_front()?;
        self.bytes -= record.len();
        Some((record, tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_both_modes() {
        assert_eq!(Early::new(Mode::Udp).most, (64, 131_072));
        assert_eq!(Early::new(Mode::Sctp).most, (4_096, 4_194_304));
    }

    #[test]
    fn what_comes_early_has_bounds() {
        for mode in [Mode::Udp, Mode::Sctp] {
            let mut early = Early::new(mode);
            let (records, bytes) = early.most;
            for tag in 0..records {
                assert!(early.push(b"x", tag as u64));
            }
            assert!(!early.push(b"x", 0));
            assert_eq!(early.pop(), Some((b"x".to_vec(), 0)));
            assert!(early.push(b"x", 0) && !early.push(b"", 0));
            let mut early = Early::new(mode);
            assert!(early.push(&vec![7; bytes - 1], 0));
            assert!(!early.push(b"xy", 0));
            assert!(early.push(b"x", 0) && !early.push(b"x", 0));
            assert_eq!(early.pop().map(|(record, _)| record.len()), Some(bytes - 1));
            assert!(early.push(&vec![7; bytes - 1], 0));
            let mut early = Early::new(mode);
            for _ in 0..2 {
                assert!(early.push(&vec![7; bytes / 2], 0));
            }
            early.pop().unwrap();
            assert!(early.push(&vec![7; bytes / 2], 0) && !early.push(b"x", 0));
        }
    }
}
