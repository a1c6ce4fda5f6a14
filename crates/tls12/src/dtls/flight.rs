//! What we send in one go, and when again (RFC 6347 section 4.2.4).
//!
//! `transport` calls it. Messages are kept whole and cut when a datagram is made, since the next time the cuts
//! may be smaller. Records of a repeated flight have new numbers.

use std::time::{Duration, Instant};

use super::SealError;
use super::inbox;
use super::record::{CHANGE_CIPHER_SPEC, FIRST_VERSION, HANDSHAKE, MAX_PLAINTEXT, VERSION, Writer};

const CLIENT_HELLO: u8 = 1;
/// A fragment that carries less than this waits for the next datagram, unless it is all there is.
const LEAST_PIECE: usize = 32;

#[derive(Debug)]
enum Item {
    /// A message: where in `bytes` it lies, header included.
    Message {
        epoch: u16,
        start: usize,
        end: usize,
    },
    ChangeCipherSpec {
        epoch: u16,
    },
}

/// The messages of one flight.
#[derive(Debug, Default)]
pub(super) struct Flight {
    items: Vec<Item>,
    bytes: Vec<u8>,
    /// The item to send next, and how much of its body was sent.
    item: usize,
    sent: usize,
    /// What is here may be sent.
    complete: bool,
}

impl Flight {
    /// Adds a message. Returns it with the header that the transcript covers.
    pub(super) fn push(&mut self, epoch: u16, seq: u16, kind: u8, body: &[u8]) -> &[u8] {
        let start = self.bytes.len();
        let length = (body.len() as u32).to_be_bytes();
        self.bytes.push(kind);
        self.bytes.extend_from_slice(&length[1..]);
        self.bytes.extend_from_slice(&seq.to_be_bytes());
        self.bytes.extend_from_slice(&[0; 3]);
        self.bytes.extend_from_slice(&length[1..]);
        self.bytes.extend_from_slice(body);
        let end = self.bytes.len();
        self.items.push(Item::Message { epoch, start, end });
        &self.bytes[start..]
    }

    pub(super) fn push_change_cipher_spec(&mut self, epoch: u16) {
        self.items.push(Item::ChangeCipherSpec { epoch });
    }

    /// All of it is here: it may go out, from its beginning.
    pub(super) fn send(&mut self) {
        self.complete = true;
        self.item = 0;
        self.sent = 0;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether something of it belongs to this epoch.
    pub(super) fn uses(&self, of: u16) -> bool {
        self.items.iter().any(|item| {
            let (Item::Message { epoch, .. } | Item::ChangeCipherSpec { epoch }) = item;
            *epoch == of
        })
    }

    /// Content type of the next record to send.
    pub(super) fn next_content(&self) -> Option<u8> {
        match self.items.get(self.item).filter(|_| self.complete)? {
            Item::Message { .. } => Some(HANDSHAKE),
            Item::ChangeCipherSpec { .. } => Some(CHANGE_CIPHER_SPEC),
        }
    }

    /// Writes the next record into `buf`, as much as fits. None if nothing is left or not even a piece fits.
    pub(super) fn write_record(
        &mut self,
        writers: &mut [Writer],
        buf: &mut [u8],
    ) -> Result<Option<usize>, SealError> {
        let Some(item) = self.items.get(self.item).filter(|_| self.complete) else {
            return Ok(None);
        };
        let (Item::Message { epoch, .. } | Item::ChangeCipherSpec { epoch }) = *item;
        let Some(writer) = writers.iter_mut().find(|writer| writer.epoch == epoch) else {
            return Err(SealError::NoKey);
        };
        let (prefix, suffix) = writer.room();
        let Some(room) = buf.len().checked_sub(prefix + suffix).map(|r| r.min(MAX_PLAINTEXT))
        else {
            return Ok(None);
        };
        let Item::Message { start, end, .. } = *item else {
            if room == 0 {
                return Ok(None);
            }
            buf[prefix] = 1;
            let len = prefix + 1 + suffix;
            writer.seal(CHANGE_CIPHER_SPEC, VERSION, &mut buf[..len])?;
            self.item += 1;
            return Ok(Some(len));
        };
        let (header, body) = self.bytes[start..end].split_at(inbox::HEADER);
        let left = &body[self.sent..];
        let piece = left.len().min(room.saturating_sub(inbox::HEADER));
        if room < inbox::HEADER || piece < left.len().min(LEAST_PIECE) {
            return Ok(None);
        }
        let plain = &mut buf[prefix..prefix + inbox::HEADER + piece];
        plain[..6].copy_from_slice(&header[..6]);
        plain[6..9].copy_from_slice(&(self.sent as u32).to_be_bytes()[1..]);
        plain[9..12].copy_from_slice(&(piece as u32).to_be_bytes()[1..]);
        plain[inbox::HEADER..].copy_from_slice(&left[..piece]);
        // A server that does not know yet which version it speaks may look at this one.
        let first = header[0] == CLIENT_HELLO && epoch == 0;
        let version = if first { FIRST_VERSION } else { VERSION };
        let len = prefix + inbox::HEADER + piece + suffix;
        writer.seal(HANDSHAKE, version, &mut buf[..len])?;
        self.sent += piece;
        if self.sent == body.len() {
            self.item += 1;
            self.sent = 0;
        }
        Ok(Some(len))
    }
}

/// When a flight that was not answered goes out again.
#[derive(Debug)]
pub(super) struct Timer {
    initial: Duration,
    max: Duration,
    max_sendings: u32,
    timeout: Duration,
    deadline: Option<Instant>,
    /// How often the flight was sent because time was up, the first time included.
    sendings: u32,
    last_sent: Option<Instant>,
}

/// What to do when time is up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    NotYet,
    /// Send the flight again. So many times it was sent before.
    Again(u32),
    /// It was sent often enough.
    GiveUp,
}

impl Timer {
    pub(super) fn new(initial: Duration, max: Duration, max_sendings: u32) -> Self {
        Self {
            initial,
            max: max.max(initial),
            max_sendings,
            timeout: initial,
            deadline: None,
            sendings: 0,
            last_sent: None,
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// A flight goes out for the first time; `answered`: it has an answer to wait for.
    pub(super) fn start(&mut self, answered: bool, now: Instant) {
        self.sendings = 1;
        self.last_sent = Some(now);
        self.deadline = answered.then(|| now + self.timeout);
    }

    /// The flight was answered. RFC 6347 section 4.2.4.1 would keep the timeout that its repetitions led to, until
    /// a flight goes without; that makes a handshake over a lossy path wait for minutes. Half of it is as long as
    /// the path was slow, and is soon short again where it was lossy.
    pub(super) fn stop(&mut self) {
        self.timeout = match self.sendings {
            0 => self.timeout,
            1 => self.initial,
            _ => self.initial.max(self.timeout / 2),
        };
        self.sendings = 0;
        self.deadline = None;
    }

    pub(super) fn check(&mut self, now: Instant) -> Due {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return Due::NotYet;
        }
        if self.sendings >= self.max_sendings {
            self.deadline = None;
            return Due::GiveUp;
        }
        self.timeout = (self.timeout * 2).min(self.max);
        self.deadline = Some(now + self.timeout);
        self.last_sent = Some(now);
        self.sendings += 1;
        Due::Again(self.sendings - 1)
    }

    /// The peer repeats its flight: whether ours should go out again. Not more often than the peer would
    /// reasonably ask, as the first flights are not authenticated.
    pub(super) fn may_repeat(&mut self, now: Instant) -> bool {
        let gap = self.initial / 2;
        if self.last_sent.is_some_and(|last| now < last + gap) {
            return false;
        }
        self.last_sent = Some(now);
        if self.deadline.is_some() {
            self.deadline = Some(now + self.timeout);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::record;

    fn writers() -> Vec<Writer> {
        vec![Writer::new(0, None, 0), Writer::new(1, None, 0)]
    }

    fn records(flight: &mut Flight, size: usize) -> Vec<Vec<u8>> {
        let mut writers = writers();
        let mut out = Vec::new();
        let mut buf = vec![0; size];
        while let Some(len) = flight.write_record(&mut writers, &mut buf).unwrap() {
            out.push(buf[..len].to_vec());
        }
        out
    }

    #[test]
    fn messages_are_cut_and_come_together_again() {
        let body: Vec<u8> = (0..=255).cycle().take(3_000).collect();
        for size in [60, 61, 100, 1_400, 4_000] {
            let mut flight = Flight::default();
            let whole = flight.push(0, 0, 11, &body).to_vec();
            let empty = flight.push(0, 1, 14, &[]).to_vec();
            assert!(records(&mut flight, size).is_empty(), "not complete yet");
            for _ in 0..2 {
                flight.send();
                let mut inbox = inbox::Inbox::new(0, 1 << 16);
                for datagram in records(&mut flight, size) {
                    let parsed = record::parse(&datagram, 0).unwrap();
                    let (fragment, rest) =
                        inbox::Fragment::parse(&datagram[parsed.fragment]).unwrap();
                    assert!(rest.is_empty());
                    inbox.add(&fragment);
                }
                assert_eq!(inbox.pop().unwrap(), whole, "{size}");
                assert_eq!(inbox.pop().unwrap(), empty, "{size}");
                assert_eq!(flight.next_content(), None);
            }
        }
    }

    #[test]
    fn records_are_of_their_kind_epoch_and_version() {
        let mut flight = Flight::default();
        flight.push(0, 0, CLIENT_HELLO, b"hello");
        assert!(flight.uses(0) && !flight.uses(1));
        flight.push(0, 1, 16, b"key");
        flight.push_change_cipher_spec(0);
        flight.push(1, 2, 20, b"finished");
        assert_eq!(flight.next_content(), None);
        flight.send();
        assert_eq!(flight.next_content(), Some(HANDSHAKE));
        let sent: Vec<(u8, [u8; 2], u16, u64)> = records(&mut flight, 1_000)
            .iter()
            .map(|datagram| record::parse(datagram, 0).unwrap())
            .map(|parsed| (parsed.content_type, parsed.version, parsed.epoch, parsed.seq))
            .collect();
        let expected = [
            (22, FIRST_VERSION, 0, 0),
            (22, VERSION, 0, 1),
            (20, VERSION, 0, 2),
            (22, VERSION, 1, 0),
        ];
        assert_eq!(sent, expected);
    }

    #[test]
    fn nothing_is_written_where_nothing_fits() {
        let mut flight = Flight::default();
        flight.push(0, 0, 11, &[7; 100]);
        flight.send();
        for size in 0..13 + 12 + LEAST_PIECE {
            assert!(records(&mut flight, size).is_empty(), "{size}");
        }
        assert_eq!(records(&mut flight, 13 + 12 + LEAST_PIECE).len(), 4);
        let mut flight = Flight::default();
        flight.push_change_cipher_spec(0);
        flight.send();
        assert!(records(&mut flight, 13).is_empty());
        assert_eq!(records(&mut flight, 14).len(), 1);
        // A message without a body needs no more than its header.
        let mut flight = Flight::default();
        flight.push(0, 0, 14, &[]);
        flight.send();
        assert!(records(&mut flight, 13 + 11).is_empty());
        assert_eq!(records(&mut flight, 13 + 12).len(), 1);
        let mut flight = Flight::default();
        flight.push(9, 0, 11, &[]);
        flight.send();
        let refused = flight.write_record(&mut writers(), &mut [0; 100]);
        assert_eq!(refused, Err(SealError::NoKey));
    }

    #[test]
    fn the_timeout_doubles_to_its_bound_and_ends() {
        let second = Duration::from_secs(1);
        let mut timer = Timer::new(second, 60 * second, 9);
        let mut now = Instant::now();
        timer.start(true, now);
        let mut waits = Vec::new();
        loop {
            let deadline = timer.deadline().unwrap();
            waits.push((deadline - now).as_secs());
            assert_eq!(timer.check(deadline.checked_sub(second / 1000).unwrap()), Due::NotYet);
            now = deadline;
            match timer.check(now) {
                Due::Again(before) => assert_eq!(before as usize, waits.len()),
                Due::GiveUp => break,
                Due::NotYet => panic!("time is up"),
            }
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(timer.deadline(), None);
        // After loss the next flight begins with half of it, however often the answer is told; without, the one
        // after begins anew.
        timer.stop();
        timer.stop();
        timer.start(true, now);
        assert_eq!(timer.deadline(), Some(now + 30 * second));
        timer.stop();
        timer.start(true, now);
        assert_eq!(timer.deadline(), Some(now + second));
        timer.start(false, now);
        assert_eq!(timer.deadline(), None);
    }

    #[test]
    fn a_peer_that_repeats_itself_is_answered_now_and_then() {
        let second = Duration::from_secs(1);
        let mut timer = Timer::new(second, 60 * second, 9);
        let start = Instant::now();
        timer.start(true, start);
        assert!(!timer.may_repeat(start + second / 4));
        assert!(timer.may_repeat(start + second / 2));
        assert_eq!(timer.deadline(), Some(start + second / 2 + second));
        assert!(!timer.may_repeat(start + second * 3 / 4));
        assert!(timer.may_repeat(start + second));
        timer.start(false, start);
        assert!(timer.may_repeat(start + second));
        assert_eq!(timer.deadline(), None);
    }
}
