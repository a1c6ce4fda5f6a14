//! Handshake messages out of their fragments, in order (RFC 6347 section 4.2).
//!
//! `transport` calls it with what records hold. Memory is bounded whatever the fragments say: a message grows
//! with what really came, and all that waits shares one allowance. Nothing here is an error of the connection.

use std::collections::VecDeque;
use std::ops::Range;

/// Type, length, message_seq, fragment offset and fragment length in front of each fragment.
pub(super) const HEADER: usize = 12;
/// How far ahead of the next message a fragment may be: the longest flight has seven messages.
const LOOK_AHEAD: usize = 8;
/// Pieces of one message that may lie apart: more than come of 64 KiB in datagrams of 256 bytes.
const MAX_PIECES: usize = 160;

/// One fragment of a handshake message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fragment<'a> {
    pub(super) kind: u8,
    /// Length of the whole message's body.
    length: usize,
    pub(super) seq: u16,
    offset: usize,
    body: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// The fragment at the beginning of a handshake record, and what follows it.
    pub(super) fn parse(record: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (header, rest) = record.split_first_chunk::<HEADER>()?;
        let [kind, l1, l2, l3, s1, s2, o1, o2, o3, f1, f2, f3] = *header;
        let number = |a, b, c| u32::from_be_bytes([0, a, b, c]) as usize;
        let (length, offset) = (number(l1, l2, l3), number(o1, o2, o3));
        let (body, rest) = rest.split_at_checked(number(f1, f2, f3))?;
        let within = offset + body.len() <= length;
        // An empty fragment tells something only of an empty message.
        if !within || (body.is_empty() && length > 0) {
            return None;
        }
        let seq = u16::from_be_bytes([s1, s2]);
        Some((Self { kind, length, seq, offset, body }, rest))
    }

    /// The beginning of the body, if this is it.
    pub(super) fn first_piece(&self) -> Option<&'a [u8]> {
        (self.offset == 0).then_some(self.body)
    }
}

/// A message of which not all, or all, fragments are here.
#[derive(Debug)]
struct Partial {
    kind: u8,
    length: usize,
    /// The header and as much of the body as the furthest fragment reaches.
    raw: Vec<u8>,
    /// What of the body is here: apart from each other, in order.
    pieces: Vec<Range<usize>>,
}

impl Partial {
    fn new(fragment: &Fragment<'_>) -> Self {
        let mut raw = vec![fragment.kind];
        let length = (fragment.length as u32).to_be_bytes();
        raw.extend_from_slice(&length[1..]);
        raw.extend_from_slice(&fragment.seq.to_be_bytes());
        raw.extend_from_slice(&[0; 3]);
        raw.extend_from_slice(&length[1..]);
        Self { kind: fragment.kind, length: fragment.length, raw, pieces: Vec::new() }
    }

    fn is_whole(&self) -> bool {
        match self.pieces.as_slice() {
            [] => self.length == 0,
            [piece] => piece.start == 0 && piece.end == self.length,
            _ => false,
        }
    }

    fn contradicts(&self, fragment: &Fragment<'_>) -> bool {
        self.kind != fragment.kind || self.length != fragment.length
    }

    fn add(&mut self, fragment: &Fragment<'_>) {
        if fragment.body.is_empty() {
            return;
        }
        let mut new = fragment.offset..fragment.offset + fragment.body.len();
        let from = self.pieces.partition_point(|piece| piece.end < new.start);
        let to = self.pieces.partition_point(|piece| piece.start <= new.end);
        let end = HEADER + new.end;
        self.raw.resize(self.raw.len().max(end), 0);
        self.raw[HEADER + new.start..end].copy_from_slice(fragment.body);
        // What touches becomes one piece.
        if let Some(touched) = self.pieces.get(from..to).filter(|touched| !touched.is_empty()) {
            new.start = new.start.min(touched[0].start);
            new.end = new.end.max(touched[touched.len() - 1].end);
        }
        if from == to && self.pieces.len() >= MAX_PIECES {
            // No honest peer cuts a message so: its own fragments are to come through in the end.
            self.pieces.clear();
            self.pieces.push(new);
        } else {
            self.pieces.splice(from..to, [new]);
        }
    }
}

/// What became of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Kept.
    Taken,
    /// Of a message that was delivered already: the peer repeats itself.
    Repeated,
    /// Too far ahead, too long, or beyond the allowance.
    Dropped,
}

/// The messages of one handshake that the peer sends.
#[derive(Debug)]
pub(super) struct Inbox {
    /// message_seq of the first slot.
    next: u16,
    slots: VecDeque<Option<Partial>>,
    max_message: usize,
}

impl Inbox {
    /// `next`: the message_seq of the first message; `max_message`: longest body that is taken.
    pub(super) fn new(next: u16, max_message: usize) -> Self {
        Self { next, slots: VecDeque::new(), max_message }
    }

    /// From here on `seq` is what comes next; what waits for its place behind it stays.
    pub(super) fn skip_to(&mut self, seq: u16) {
        match seq.checked_sub(self.next).map(usize::from) {
            Some(ahead) if ahead <= self.slots.len() => drop(self.slots.drain(..ahead)),
            _ => self.slots.clear(),
        }
        self.next = seq;
    }

    pub(super) fn add(&mut self, fragment: &Fragment<'_>) -> Fate {
        let Some(ahead) = fragment.seq.checked_sub(self.next) else { return Fate::Repeated };
        let at = usize::from(ahead);
        if at >= LOOK_AHEAD || fragment.length > self.max_message {
            return Fate::Dropped;
        }
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        // A fragment that contradicts what is here: one of the two is a lie or damaged, and nobody knows
        // which. The newer counts, so that a lie lasts no longer than until the peer repeats itself.
        self.slots[at].take_if(|partial| partial.contradicts(fragment));
        if !self.make_room(at, HEADER + fragment.offset + fragment.body.len()) {
            return Fate::Dropped;
        }
        self.slots[at].get_or_insert_with(|| Partial::new(fragment)).add(fragment);
        Fate::Taken
    }

    /// Makes room for the message in slot `at` to become this long, at the cost of those furthest ahead.
    /// All together may hold two messages of the longest kind.
    fn make_room(&mut self, at: usize, length: usize) -> bool {
        let allowance = 2 * (HEADER + self.max_message);
        loop {
            let others = self.slots.iter().enumerate().filter(|(other, _)| *other != at);
            let held: usize = others.flat_map(|(_, slot)| slot).map(|p| p.raw.len()).sum();
            if held + length <= allowance {
                return true;
            }
            let Some(furthest) = self.slots.iter().rposition(Option::is_some).filter(|f| *f > at)
            else {
                return false;
            };
            self.slots[furthest] = None;
        }
    }

    /// The kind of the next message, if all of it is here.
    pub(super) fn peek(&self) -> Option<u8> {
        let partial = self.slots.front()?.as_ref()?;
        partial.is_whole().then_some(partial.kind)
    }

    /// The next message with the header of one that was not cut, if all of it is here.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        self.peek()?;
        let partial = self.slots.pop_front().flatten()?;
        // After 65536 messages in one handshake there is no next; the state machine ends it long before.
        self.next = self.next.wrapping_add(1);
        Some(partial.raw)
    }

    /// Bytes held.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.slots.iter().flatten().map(|partial| partial.raw.capacity()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 16;

    fn fragment(kind: u8, length: usize, seq: u16, offset: usize, body: &[u8]) -> Vec<u8> {
        let mut out = vec![kind];
        out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&seq.to_be_bytes());
        out.extend_from_slice(&(offset as u32).to_be_bytes()[1..]);
        out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
        out.extend_from_slice(body);
        out
    }

    fn add(inbox: &mut Inbox, kind: u8, length: usize, seq: u16, at: usize, body: &[u8]) -> Fate {
        let bytes = fragment(kind, length, seq, at, body);
        inbox.add(&Fragment::parse(&bytes).unwrap().0)
    }

    fn whole(kind: u8, seq: u16, body: &[u8]) -> Vec<u8> {
        fragment(kind, body.len(), seq, 0, body)
    }

    #[test]
    fn fragments_that_lie_are_none() {
        let good = fragment(1, 10, 0, 4, b"abcdef");
        assert!(Fragment::parse(&good).is_some());
        for len in 0..good.len() {
            assert!(Fragment::parse(&good[..len]).is_none());
        }
        let (_, rest) = Fragment::parse(&[&good[..], b"rest"].concat())
            .map(|(f, r)| (f.seq, r.to_vec()))
            .unwrap();
        assert_eq!(rest, b"rest");
        assert!(Fragment::parse(&fragment(1, 9, 0, 4, b"abcdef")).is_none());
        assert!(Fragment::parse(&fragment(1, 9, 0, 0xff_ffff, b"abcdef")).is_none());
        assert!(Fragment::parse(&fragment(1, 9, 0, 0, b"")).is_none());
        assert!(Fragment::parse(&fragment(14, 0, 0, 0, b"")).is_some());
        assert!(Fragment::parse(&fragment(14, 0, 0, 1, b"")).is_none());
    }

    #[test]
    fn pieces_in_any_order_and_overlapping_make_the_message() {
        let body: Vec<u8> = (0..100).collect();
        for cuts in [
            &[0..100, 0..100][..],
            &[50..100, 0..50],
            &[0..60, 40..100],
            &[90..100, 0..10, 50..60, 5..95],
            &[0..1, 2..3, 4..5, 1..2, 3..4, 5..100],
            &[10..20, 10..20, 0..10, 20..99, 98..100],
            &[20..30, 10..40, 0..50, 50..100],
        ] {
            let mut inbox = Inbox::new(3, MAX);
            for cut in cuts {
                let fate = add(&mut inbox, 11, 100, 3, cut.start, &body[cut.clone()]);
                assert_eq!(fate, Fate::Taken);
            }
            assert_eq!(inbox.peek(), Some(11));
            assert_eq!(inbox.pop().unwrap(), whole(11, 3, &body), "{cuts:?}");
            let again = add(&mut inbox, 11, 100, 3, 0, &body);
            assert_eq!(again, Fate::Repeated);
        }
    }

    #[test]
    fn messages_come_in_order() {
        let mut inbox = Inbox::new(0, MAX);
        add(&mut inbox, 14, 0, 2, 0, b"");
        add(&mut inbox, 11, 1, 1, 0, b"x");
        assert_eq!(inbox.pop(), None);
        add(&mut inbox, 2, 2, 0, 0, b"hi");
        assert_eq!(inbox.pop().unwrap(), whole(2, 0, b"hi"));
        assert_eq!(inbox.pop().unwrap(), whole(11, 1, b"x"));
        assert_eq!(inbox.pop().unwrap(), whole(14, 2, b""));
        assert_eq!(inbox.pop(), None);
        assert_eq!(inbox.held(), 0);
    }

    #[test]
    fn far_ahead_and_too_long_is_dropped() {
        let mut inbox = Inbox::new(5, 1000);
        assert_eq!(add(&mut inbox, 1, 1, 4, 0, b"x"), Fate::Repeated);
        assert_eq!(add(&mut inbox, 1, 1, 5 + 8, 0, b"x"), Fate::Dropped);
        assert_eq!(add(&mut inbox, 1, 1, 5 + 7, 0, b"x"), Fate::Taken);
        assert_eq!(add(&mut inbox, 1, 1001, 5, 0, b"x"), Fate::Dropped);
        assert_eq!(add(&mut inbox, 1, 1000, 5, 0, b"x"), Fate::Taken);
        let mut last = Inbox::new(u16::MAX, 1000);
        assert_eq!(add(&mut last, 1, 1, u16::MAX, 0, b"x"), Fate::Taken);
        assert!(last.pop().is_some());
    }

    #[test]
    fn the_newer_of_two_that_contradict_counts() {
        let mut inbox = Inbox::new(0, MAX);
        add(&mut inbox, 11, 60_000, 0, 0, b"a lie");
        add(&mut inbox, 11, 4, 0, 0, b"tr");
        add(&mut inbox, 11, 4, 0, 2, b"ue");
        assert_eq!(inbox.pop().unwrap(), whole(11, 0, b"true"));
        add(&mut inbox, 12, 2, 1, 0, b"x");
        add(&mut inbox, 16, 2, 1, 1, b"z");
        assert_eq!(inbox.pop(), None);
        add(&mut inbox, 16, 2, 1, 0, b"y");
        assert_eq!(inbox.pop().unwrap(), whole(16, 1, b"yz"));
    }

    #[test]
    fn memory_is_bounded() {
        let max = 10_000;
        let mut inbox = Inbox::new(0, max);
        // Every message begun at its end, and in many pieces.
        for seq in (0..8).rev() {
            for offset in (0..max - 1).rev().step_by(2) {
                add(&mut inbox, 11, max, seq, offset, b"x");
            }
            assert!(inbox.slots.iter().flatten().all(|partial| partial.pieces.len() <= MAX_PIECES));
        }
        // A vector may have room for twice what it holds.
        assert!(inbox.held() <= 4 * (max + HEADER), "{}", inbox.held());
        // The next message always finds room.
        for offset in (0..max).step_by(500) {
            assert_eq!(add(&mut inbox, 11, max, 0, offset, &[7; 500]), Fate::Taken);
        }
        assert_eq!(inbox.pop().unwrap(), whole(11, 0, &vec![7; max]));
    }

    #[test]
    fn two_of_the_longest_fit_exactly() {
        let max = 1000;
        let mut inbox = Inbox::new(0, max);
        let body = vec![7; max];
        assert_eq!(add(&mut inbox, 11, max, 1, 0, &body), Fate::Taken);
        assert_eq!(add(&mut inbox, 11, max, 0, 0, &body), Fate::Taken);
        // Not a byte more.
        assert_eq!(add(&mut inbox, 11, max, 2, 0, b"x"), Fate::Dropped);
        for seq in 0..2 {
            assert_eq!(inbox.pop().unwrap(), whole(11, seq, &body));
        }
    }

    #[test]
    fn what_finds_no_room_leaves_what_is_there() {
        let max = 1000;
        let mut inbox = Inbox::new(0, max);
        assert_eq!(add(&mut inbox, 11, max, 0, 0, &vec![7; max]), Fate::Taken);
        assert_eq!(add(&mut inbox, 11, max, 1, 0, &vec![7; max - 200]), Fate::Taken);
        assert_eq!(add(&mut inbox, 11, 300, 2, 0, &[8; 100]), Fate::Taken);
        assert_eq!(add(&mut inbox, 11, 300, 2, 100, &[8; 200]), Fate::Dropped);
        inbox.pop().unwrap();
        assert_eq!(add(&mut inbox, 11, 300, 2, 100, &[8; 200]), Fate::Taken);
        assert_eq!(add(&mut inbox, 11, max, 1, max - 200, &[7; 200]), Fate::Taken);
        inbox.pop().unwrap();
        assert_eq!(inbox.pop().unwrap(), whole(11, 2, &[8; 300]));
    }

    #[test]
    fn skipping_keeps_what_is_ahead() {
        let mut inbox = Inbox::new(0, MAX);
        add(&mut inbox, 11, 1, 2, 0, b"x");
        add(&mut inbox, 2, 1, 1, 0, b"y");
        inbox.skip_to(1);
        assert_eq!(inbox.pop().unwrap(), whole(2, 1, b"y"));
        assert_eq!(inbox.pop().unwrap(), whole(11, 2, b"x"));
        add(&mut inbox, 11, 1, 3, 0, b"x");
        inbox.skip_to(0);
        assert_eq!((inbox.pop(), inbox.held()), (None, 0));
        add(&mut inbox, 11, 1, 3, 0, b"x");
        inbox.skip_to(100);
        assert_eq!((inbox.pop(), inbox.held()), (None, 0));
    }
}
