//! The record layer of TLS 1.2 (RFC 5246 section 6): headers, protection, and handshake messages out of
//! their fragments.
//!
//! [`Stream`] serves the state machine; its `seal` and `open` serve a relay, in place and without
//! allocation. It knows keys and sequence numbers, and nothing of what messages mean.

use std::ops::Range;

use crate::codec::{framed, length24};
use crate::crypto::{RecordKey, TAG_LEN};
use crate::error::{Alert, Error};

/// Most plaintext in a record.
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// Type, version and length in front of a record of TLS.
pub const HEADER: usize = 5;
/// Most that protection may add (RFC 5246 section 6.2.3).
const MAX_EXPANSION: usize = 2048;
/// Longest record on the wire.
pub const MAX_RECORD: usize = HEADER + MAX_PLAINTEXT + MAX_EXPANSION;
/// Bytes from the peer that are kept while the caller thinks about a question, or a record is not whole.
const MAX_INCOMING: usize = 256 * 1024;
/// Longest handshake message: a chain of large certificates fits.
pub(crate) const MAX_MESSAGE: usize = 1 << 16;
/// Records without data, and messages without effect, that a peer may send in a row.
pub(crate) const MAX_IDLE: u32 = 32;
/// Records that one key may seal: 2^24.5 for AES-GCM (draft-irtf-cfrg-aead-limits), with room for alerts.
const SEAL_LIMIT: u64 = (1 << 24) - 64;

/// TLS 1.2 in a record header.
const VERSION: [u8; 2] = [3, 3];
/// What the first record of a client says, for servers that know no better (RFC 5246 appendix E.1).
const FIRST_VERSION: [u8; 2] = [3, 1];

/// Content types (RFC 5246 section 6.2.1).
pub mod content {
    #![allow(missing_docs)]
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

/// Something whole that the peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Handshake(Message),
    ChangeCipherSpec,
    Alert {
        fatal: bool,
        alert: Alert,
    },
    Data(Vec<u8>),
    /// Of DTLS over SCTP, with what the caller said of it.
    Message {
        data: Vec<u8>,
        tag: u64,
    },
}

/// A handshake message with the header that the transcript covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) raw: Vec<u8>,
    pub(crate) header: usize,
}

impl Message {
    pub(crate) fn kind(&self) -> u8 {
        self.raw[0]
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.raw[self.header..]
    }
}

/// One direction of one epoch.
#[derive(Debug)]
pub(crate) struct Protection {
    pub(crate) key: RecordKey,
    seq: u64,
}

impl Protection {
    pub(crate) const fn new(key: RecordKey) -> Self {
        Self { key, seq: 0 }
    }
}

/// Both directions of a byte stream.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    tx: Option<Protection>,
    rx: Option<Protection>,
    /// What the peer's ChangeCipherSpec changes to.
    next_rx: Option<Protection>,
    /// Records to send.
    out: Vec<u8>,
    /// Handshake messages not yet in a record.
    flight: Vec<u8>,
    spoken: bool,
    heard: bool,
    /// Bytes from the peer, those before `taken` already dealt with.
    incoming: Vec<u8>,
    taken: usize,
    /// Handshake bytes not yet dealt with, those before `message_taken` already are.
    messages: Vec<u8>,
    message_taken: usize,
    idle: u32,
}

impl Stream {
    /// Bytes in front of the plaintext of a record that we seal.
    pub(crate) fn prefix(&self) -> usize {
        let explicit = self.tx.as_ref().map_or(0, |tx| tx.key.aead().explicit_nonce_len());
        HEADER + explicit
    }

    /// Bytes behind it.
    pub(crate) fn suffix(&self) -> usize {
        if self.tx.is_some() { TAG_LEN } else { 0 }
    }

    /// Whether the key may seal more data.
    pub(crate) fn may_seal(&self) -> bool {
        self.tx.as_ref().is_some_and(|tx| tx.seq < SEAL_LIMIT)
    }

    /// Seals the record in `room`: prefix, `length` bytes of plaintext, suffix, and maybe more that is
    /// not touched. Returns the record's length.
    pub(crate) fn seal(
        &mut self,
        kind: u8,
        room: &mut [u8],
        length: usize,
    ) -> Result<usize, Error> {
        const NO_ROOM: Error = Error::Misuse("no room for the record");
        let total = self.prefix() + length + self.suffix();
        let record = room.get_mut(..total).ok_or(NO_ROOM)?;
        let [high, low] = ((total - HEADER) as u16).to_be_bytes();
        let [major, minor] = if self.spoken { VERSION } else { FIRST_VERSION };
        record[..HEADER].copy_from_slice(&[kind, major, minor, high, low]);
        if let Some(tx) = &mut self.tx {
            tx.key.seal_in_place(tx.seq, kind, VERSION, &mut record[HEADER..])?;
            tx.seq = tx.seq.checked_add(1).ok_or(Error::Internal("the sequence number ended"))?;
        }
        Ok(total)
    }

    /// Length of the record that begins with these bytes, header included; `None` if its header is not
    /// whole yet.
    pub(crate) fn record_length(&self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        let Some(&kind) = bytes.first() else { return Ok(None) };
        if !(content::CHANGE_CIPHER_SPEC..=content::APPLICATION_DATA).contains(&kind) {
            return Err(if self.heard {
                Error::Unexpected("a record of an unknown type")
            } else {
                Error::NotTls
            });
        }
        let [_, major, minor, high, low, ..] = *bytes else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let limit = MAX_PLAINTEXT + if self.rx.is_some() { MAX_EXPANSION } else { 0 };
        if major != 3 || self.rx.is_some() && minor != 3 {
            Err(if self.heard { Error::Version } else { Error::NotTls })
        } else if length > limit {
            Err(Error::RecordOverflow)
        } else {
            Ok(Some(HEADER + length))
        }
    }

    /// Opens a whole record in place. Returns its content type and where its plaintext is.
    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<(u8, Range<usize>), Error> {
        let Some((&kind, fragment)) =
            record.split_at_mut_checked(HEADER).and_then(|(h, f)| Some((h.first()?, f)))
        else {
            return Err(Error::BadRecord);
        };
        let plain = match &mut self.rx {
            Some(rx) => {
                let opened = rx.key.open_in_place(rx.seq, kind, VERSION, fragment);
                let opened = opened.map_err(|_| Error::BadRecord)?;
                rx.seq = rx.seq.checked_add(1).ok_or(Error::BadRecord)?;
                opened
            }
            None => 0..fragment.len(),
        };
        if plain.len() > MAX_PLAINTEXT {
            return Err(Error::RecordOverflow);
        }
        self.heard = true;
        if kind == content::APPLICATION_DATA && !plain.is_empty() {
            self.idle = 0;
        } else if kind != content::HANDSHAKE || plain.is_empty() {
            // Handshake messages are bounded by what the state machine takes.
            self.idle += 1;
            if self.idle > MAX_IDLE {
                return Err(Error::Flood);
            }
        }
        if kind != content::HANDSHAKE && self.has_partial_message() {
            return Err(Error::Unexpected("another record within a handshake message"));
        }
        Ok((kind, HEADER + plain.start..HEADER + plain.end))
    }

    /// Takes what the peer sent.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.incoming.drain(..std::mem::take(&mut self.taken));
        if self.incoming.len() + bytes.len() > MAX_INCOMING {
            return Err(Error::TooMuch("bytes at once"));
        }
        self.incoming.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole thing of what was received.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, Error> {
        loop {
            if let Some(message) = self.next_message()? {
                return Ok(Some(Incoming::Handshake(message)));
            }
            let waiting = &self.incoming[self.taken..];
            let Some(length) = self.record_length(waiting)?.filter(|l| waiting.len() >= *l) else {
                return Ok(None);
            };
            let record = self.taken..self.taken + length;
            self.taken = record.end;
            let mut incoming = std::mem::take(&mut self.incoming);
            let opened = self.open(&mut incoming[record.clone()]);
            let incoming_of = opened.and_then(|(kind, plain)| {
                let plain = &incoming[record.start + plain.start..record.start + plain.end];
                self.fragment(kind, plain)
            });
            if self.taken == incoming.len() {
                // An idle connection keeps no buffer.
                self.taken = 0;
                incoming = Vec::new();
            }
            self.incoming = incoming;
            if let Some(whole) = incoming_of? {
                return Ok(Some(whole));
            }
        }
    }

    /// Takes the plaintext of a record. `None` if it belongs to a handshake message.
    pub(crate) fn fragment(&mut self, kind: u8, plain: &[u8]) -> Result<Option<Incoming>, Error> {
        match kind {
            content::HANDSHAKE => {
                if plain.is_empty() {
                    return Err(Error::Unexpected("an empty handshake record"));
                }
                self.messages.extend_from_slice(plain);
                Ok(None)
            }
            content::CHANGE_CIPHER_SPEC if plain == [1] => Ok(Some(Incoming::ChangeCipherSpec)),
            content::CHANGE_CIPHER_SPEC => Err(Error::Malformed("ChangeCipherSpec")),
            content::ALERT => match *plain {
                [level @ (1 | 2), alert] => {
                    Ok(Some(Incoming::Alert { fatal: level == 2, alert: Alert(alert) }))
                }
                [_, _] => Err(Error::Illegal("the level of an alert")),
                _ => Err(Error::Malformed("alert")),
            },
            _ if plain.is_empty() => Ok(None),
            _ => Ok(Some(Incoming::Data(plain.to_vec()))),
        }
    }

    fn next_message(&mut self) -> Result<Option<Message>, Error> {
        let waiting = &self.messages[self.message_taken..];
        let [_, a, b, c, ..] = *waiting else { return Ok(None) };
        let length = length24([a, b, c]);
        if length > MAX_MESSAGE {
            return Err(Error::TooMuch("bytes in a handshake message"));
        }
        let Some(raw) = waiting.get(..4 + length) else { return Ok(None) };
        let message = Message { raw: raw.to_vec(), header: 4 };
        self.message_taken += raw.len();
        if self.message_taken == self.messages.len() {
            self.messages = Vec::new();
            self.message_taken = 0;
        }
        Ok(Some(message))
    }

    /// Whether handshake bytes wait that no record boundary may cut.
    pub(crate) fn has_partial_message(&self) -> bool {
        self.message_taken < self.messages.len()
    }

    /// Received bytes that are not dealt with: the beginning of a record.
    pub(crate) fn take_unread(&mut self) -> Vec<u8> {
        let mut incoming = std::mem::take(&mut self.incoming);
        incoming.drain(..std::mem::take(&mut self.taken));
        incoming
    }

    // ---- sending

    /// Whether something waits to be sent.
    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty() || !self.flight.is_empty()
    }

    /// Queues a handshake message; returns what the transcript covers.
    pub(crate) fn queue(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        let raw = framed(kind, body);
        self.flight.extend_from_slice(&raw);
        raw
    }

    /// Puts the queued messages into records.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        let flight = std::mem::take(&mut self.flight);
        for fragment in flight.chunks(MAX_PLAINTEXT) {
            self.seal_small(content::HANDSHAKE, fragment)?;
        }
        Ok(())
    }

    /// Says ChangeCipherSpec, and protects with `next` from there on.
    pub(crate) fn change_tx(&mut self, next: Protection) -> Result<(), Error> {
        self.flush()?;
        self.seal_small(content::CHANGE_CIPHER_SPEC, &[1])?;
        self.tx = Some(next);
        Ok(())
    }

    /// What the peer will change to.
    pub(crate) fn prepare_rx(&mut self, next: Protection) {
        self.next_rx = Some(next);
    }

    /// The peer said ChangeCipherSpec.
    pub(crate) fn change_rx(&mut self) -> Result<(), Error> {
        match self.next_rx.take() {
            Some(next) if !self.has_partial_message() => self.rx = Some(next),
            _ => return Err(Error::Unexpected("ChangeCipherSpec")),
        }
        Ok(())
    }

    /// Queues an alert, behind what was queued before.
    pub(crate) fn queue_alert(&mut self, alert: Alert) -> Result<(), Error> {
        self.flush()?;
        let level = if alert.is_warning() { 1 } else { 2 };
        self.seal_small(content::ALERT, &[level, alert.0])
    }

    /// Queues data as records.
    pub(crate) fn queue_data(&mut self, data: &[u8]) -> Result<(), Error> {
        self.flush()?;
        data.chunks(MAX_PLAINTEXT)
            .try_for_each(|part| self.seal_small(content::APPLICATION_DATA, part))
    }

    fn seal_small(&mut self, kind: u8, payload: &[u8]) -> Result<(), Error> {
        let (start, prefix) = (self.out.len(), self.prefix());
        let mut out = std::mem::take(&mut self.out);
        out.resize(start + prefix + payload.len() + self.suffix(), 0);
        out[start + prefix..][..payload.len()].copy_from_slice(payload);
        let sealed = self.seal(kind, &mut out[start..], payload.len());
        self.out = out;
        sealed.map(|_| ())
    }

    /// The first flight is over: both sides know the version.
    pub(crate) fn version_agreed(&mut self) {
        self.spoken = true;
    }

    /// Moves what is to be sent to the end of `buf`; `false` if there is nothing.
    pub(crate) fn output(&mut self, buf: &mut Vec<u8>) -> Result<bool, Error> {
        self.flush()?;
        let any = !self.out.is_empty();
        buf.append(&mut self.out);
        self.out = Vec::new();
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Aead;

    fn protection() -> Protection {
        Protection::new(RecordKey::new(Aead::Aes128Gcm, &[7; 16], &[3; 4]).unwrap())
    }

    /// Two streams whose records from the first to the second are protected.
    fn protected() -> (Stream, Stream) {
        let (mut from, mut to) = (Stream::default(), Stream::default());
        from.tx = Some(protection());
        to.rx = Some(protection());
        from.version_agreed();
        to.heard = true;
        (from, to)
    }

    fn sealed(from: &mut Stream, kind: u8, plain: &[u8]) -> Vec<u8> {
        let mut room = vec![0; from.prefix() + plain.len() + from.suffix()];
        room[from.prefix()..][..plain.len()].copy_from_slice(plain);
        let n = from.seal(kind, &mut room, plain.len()).unwrap();
        assert_eq!(n, room.len());
        room
    }

    /// The bounds in figures; that on records under one key is too many for a test.
    #[test]
    fn bounds_are_those_of_the_rfcs() {
        assert_eq!((MAX_PLAINTEXT, MAX_RECORD), (16_384, 5 + 16_384 + 2_048));
        assert_eq!((MAX_INCOMING, MAX_MESSAGE, SEAL_LIMIT), (262_144, 65_536, 16_777_152));
    }

    #[test]
    fn the_longest_record_opens_and_no_longer_one() {
        let (mut from, mut to) = protected();
        let mut record = sealed(&mut from, content::APPLICATION_DATA, &vec![1; MAX_PLAINTEXT]);
        assert_eq!(to.record_length(&record), Ok(Some(record.len())));
        let (kind, plain) = to.open(&mut record).unwrap();
        assert_eq!((kind, plain.len()), (content::APPLICATION_DATA, MAX_PLAINTEXT));
        let mut record = sealed(&mut from, content::APPLICATION_DATA, &vec![1; MAX_PLAINTEXT + 1]);
        assert_eq!(to.open(&mut record), Err(Error::RecordOverflow));
    }

    #[test]
    fn headers_have_bounds() {
        let (_, protected) = protected();
        let plain = Stream::default();
        let header = |length: usize| [23, 3, 3, (length >> 8) as u8, length as u8];
        let most = MAX_PLAINTEXT + MAX_EXPANSION;
        assert_eq!(protected.record_length(&header(most)), Ok(Some(HEADER + most)));
        assert_eq!(protected.record_length(&header(most + 1)), Err(Error::RecordOverflow));
        assert_eq!(plain.record_length(&header(MAX_PLAINTEXT)), Ok(Some(HEADER + MAX_PLAINTEXT)));
        assert_eq!(plain.record_length(&header(MAX_PLAINTEXT + 1)), Err(Error::RecordOverflow));
        for cut in 0..HEADER {
            assert_eq!(plain.record_length(&header(9)[..cut]), Ok(None));
        }
        // Versions: the first record may say 3.1, a protected one must say 3.3.
        assert_eq!(plain.record_length(&[22, 3, 1, 0, 9]), Ok(Some(14)));
        assert_eq!(plain.record_length(&[22, 2, 3, 0, 9]), Err(Error::NotTls));
        assert_eq!(protected.record_length(&[22, 3, 1, 0, 9]), Err(Error::Version));
        assert_eq!(protected.record_length(&[22, 4, 3, 0, 9]), Err(Error::Version));
        for kind in [0, 19, 24, 255] {
            assert_eq!(plain.record_length(&[kind]), Err(Error::NotTls));
            let unknown = Err(Error::Unexpected("a record of an unknown type"));
            assert_eq!(protected.record_length(&[kind]), unknown);
        }
        for kind in 20..=23 {
            assert_eq!(plain.record_length(&[kind]), Ok(None));
        }
    }

    #[test]
    fn each_record_opens_once_and_in_order() {
        let (mut from, mut to) = protected();
        let records: Vec<_> =
            (0..3).map(|n| sealed(&mut from, content::APPLICATION_DATA, &[n; 9])).collect();
        assert!(to.open(&mut records[0].clone()).is_ok());
        for wrong in [&records[0], &records[2]] {
            assert_eq!(to.open(&mut wrong.clone()), Err(Error::BadRecord));
        }
        assert!(to.open(&mut records[1].clone()).is_ok());
        for cut in 0..records[2].len() {
            assert_eq!(to.open(&mut records[2].clone()[..cut]), Err(Error::BadRecord), "{cut}");
        }
        assert!(to.open(&mut records[2].clone()).is_ok());
    }

    #[test]
    fn what_is_sealed_has_room() {
        let (mut from, _) = protected();
        let needed = from.prefix() + 10 + from.suffix();
        let mut room = vec![0; needed];
        let refused = from.seal(content::APPLICATION_DATA, &mut room[..needed - 1], 10);
        assert_eq!(refused, Err(Error::Misuse("no room for the record")));
        assert_eq!(from.seal(content::APPLICATION_DATA, &mut room, 10), Ok(needed));
        assert!(from.may_seal());
        from.tx.as_mut().unwrap().seq = SEAL_LIMIT;
        assert!(!from.may_seal());
        from.tx.as_mut().unwrap().seq = u64::MAX;
        assert!(from.seal(content::APPLICATION_DATA, &mut room, 10).is_err());
    }

    #[test]
    fn messages_are_cut_and_joined_but_not_mixed() {
        let mut stream = Stream::default();
        // Two messages in three records.
        stream.receive(&[22, 3, 3, 0, 3, 20, 0, 0]).unwrap();
        assert!(stream.next().unwrap().is_none());
        assert!(stream.has_partial_message());
        stream.receive(&[22, 3, 3, 0, 4, 2, 9, 8, 14, 22, 3, 3, 0, 3, 0, 0, 0]).unwrap();
        for (kind, body) in [(20, &[9, 8][..]), (14, &[])] {
            let Some(Incoming::Handshake(message)) = stream.next().unwrap() else { panic!() };
            assert_eq!((message.kind(), message.body()), (kind, body));
        }
        assert!(stream.next().unwrap().is_none() && !stream.has_partial_message());
        // Keys do not change within a message.
        stream.receive(&[22, 3, 3, 0, 2, 20, 0]).unwrap();
        assert!(stream.next().unwrap().is_none());
        stream.prepare_rx(protection());
        assert_eq!(stream.change_rx(), Err(Error::Unexpected("ChangeCipherSpec")));
    }

    #[test]
    fn what_changes_nothing_is_counted_until_data_comes() {
        const IDLE: [(u8, &[u8]); 4] = [
            (content::ALERT, &[1, 112]),
            (content::CHANGE_CIPHER_SPEC, &[1]),
            (content::APPLICATION_DATA, &[]),
            (content::HANDSHAKE, &[]),
        ];
        for (kind, plain) in IDLE {
            let (mut from, mut to) = protected();
            let mut pass = |kind, plain| to.open(&mut sealed(&mut from, kind, plain)).map(drop);
            for _ in 0..2 {
                for _ in 0..MAX_IDLE {
                    assert_eq!(pass(kind, plain), Ok(()));
                    // Handshake messages count for nothing, either way.
                    assert_eq!(pass(content::HANDSHAKE, &[1]), Ok(()));
                }
                assert_eq!(pass(content::APPLICATION_DATA, &[1]), Ok(()));
            }
            for _ in 0..MAX_IDLE {
                assert_eq!(pass(kind, plain), Ok(()));
            }
            assert_eq!(pass(kind, plain), Err(Error::Flood), "{kind}");
        }
        let mut stream = Stream::default();
        assert_eq!(stream.fragment(content::APPLICATION_DATA, &[]), Ok(None));
    }

    #[test]
    fn what_is_dealt_with_is_not_kept() {
        let mut stream = Stream::default();
        // Whole records, and the beginning of the next one, again and again.
        let record = [&[22, 3, 3, 0x10, 0][..], &[20, 0, 0x0F, 0xFC], &[7; 0x0FFC]].concat();
        stream.receive(&record[..9]).unwrap();
        let mut passed = 0;
        while passed <= MAX_INCOMING {
            let rest = [&record[9..], &record[..9]].concat();
            stream.receive(&rest).unwrap();
            assert!(matches!(stream.next(), Ok(Some(Incoming::Handshake(_)))));
            assert_eq!(stream.next(), Ok(None));
            passed += rest.len();
        }
        assert_eq!(stream.take_unread(), &record[..9]);
        stream.receive(&record).unwrap();
        assert!(matches!(stream.next(), Ok(Some(Incoming::Handshake(_)))));
        assert_eq!((stream.incoming.capacity(), stream.messages.capacity()), (0, 0));
    }

    #[test]
    fn what_waits_has_bounds() {
        let mut stream = Stream::default();
        stream.receive(&vec![22; MAX_INCOMING]).unwrap();
        assert_eq!(stream.receive(&[22]), Err(Error::TooMuch("bytes at once")));
        // The longest message waits for its end, the next longer one does not.
        for (length, refused) in [(MAX_MESSAGE, false), (MAX_MESSAGE + 1, true)] {
            let mut stream = Stream::default();
            let [_, a, b, c] = (length as u32).to_be_bytes();
            stream.receive(&[22, 3, 3, 0, 4, 11, a, b, c]).unwrap();
            assert_eq!(stream.next().is_err(), refused, "{length}");
        }
    }
}
