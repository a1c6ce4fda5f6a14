//! One face for the record layers, so that the state machine is the same over streams and datagrams.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use crate::crypto::RecordKey;
use crate::dtls::{self, Content, FlightEnd, SealError, Timeout};
use crate::error::{Alert, Error};
use crate::record::{Incoming, MAX_RECORD, Message, Protection, Stream};

/// Data that may wait while a question does, in bytes; what else the peer sends is lost, as datagrams may be.
const MAX_WAITING: usize = 256 * 1024;

/// What carries records. (Most connections are streams, so these are not behind a pointer.)
#[derive(Debug)]
#[allow(clippy::large_enum_variant)]
pub(crate) enum Transport {
    /// TLS over a stream.
    Stream(Stream),
    /// DTLS.
    Datagram(Box<Datagram>),
}

/// DTLS, with what waits between it and the state machine.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) inner: dtls::Transport,
    received: VecDeque<(Vec<u8>, u64)>,
    /// Bytes in `received`, and some for each message.
    waiting: usize,
    /// More came than may wait.
    lost: bool,
    to_send: VecDeque<Vec<u8>>,
    now: Instant,
}

/// What was put into the caller's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    Nothing,
    Bytes,
    /// Over SCTP, a ChangeCipherSpec.
    ChangeOfKeys,
}

impl Datagram {
    pub(crate) fn new(config: dtls::Config, start: Option<dtls::Start>, now: Instant) -> Self {
        let inner = match start {
            Some(start) => dtls::Transport::after_cookie(config, start),
            None => dtls::Transport::new(config),
        };
        Self {
            inner,
            received: VecDeque::new(),
            waiting: 0,
            lost: false,
            to_send: VecDeque::new(),
            now,
        }
    }

    fn is_sctp(&self) -> bool {
        self.inner.mode() == dtls::Mode::Sctp
    }

    fn next(&mut self) -> Option<Incoming> {
        if let Some((data, tag)) = self.received.pop_front() {
            self.waiting -= Self::cost(&data);
            return Some(self.data(data, tag));
        }
        if let Some([level, description]) = self.inner.next_alert() {
            return Some(Incoming::Alert { fatal: level == 2, alert: Alert(description) });
        }
        match self.inner.next_message() {
            Some(dtls::Incoming::ChangeCipherSpec) => return Some(Incoming::ChangeCipherSpec),
            Some(dtls::Incoming::Handshake(raw)) => {
                return Some(Incoming::Handshake(Message { raw, header: 12 }));
            }
            None => {}
        }
        let (data, tag) = self.inner.next_held_data()?;
        Some(self.data(data, tag))
    }

    fn data(&self, data: Vec<u8>, tag: u64) -> Incoming {
        if self.is_sctp() { Incoming::Message { data, tag } } else { Incoming::Data(data) }
    }

    fn keep(&mut self, data: &[u8]) {
        if self.waiting + Self::cost(data) <= MAX_WAITING {
            self.waiting += Self::cost(data);
            self.received.push_back((data.to_vec(), self.inner.tag()));
        } else {
            self.lost = true;
        }
    }

    /// Over SCTP nothing is lost or altered on the way, and nothing may be missing: what is dropped over UDP is a
    /// fault there.
    fn check_loss(&self) -> Result<(), Error> {
        if !self.is_sctp() {
            return Ok(());
        }
        let counters = self.inner.counters();
        if self.lost || counters.early > 0 {
            Err(Error::TooMuch("before its time"))
        } else if counters.malformed > 0 {
            Err(Error::Malformed("record"))
        } else if counters.forged > 0 {
            Err(Error::BadRecord)
        } else {
            Ok(())
        }
    }

    /// What a message costs, also when it is empty.
    const fn cost(data: &[u8]) -> usize {
        data.len() + 64
    }

    fn output(&mut self, buf: &mut Vec<u8>) -> Result<Sent, Error> {
        let start = buf.len();
        if self.inner.next_transmit().is_some() {
            let room = if self.is_sctp() { MAX_RECORD } else { self.inner.mtu() };
            buf.resize(start + room, 0);
            let sent = self.inner.poll_transmit(&mut buf[start..]);
            buf.truncate(start + sent.ok().flatten().map_or(0, |sent| sent.len));
            return Ok(match sent? {
                Some(sent) if self.is_sctp() && sent.content == Content::ChangeCipherSpec => {
                    Sent::ChangeOfKeys
                }
                Some(_) => Sent::Bytes,
                None => Sent::Nothing,
            });
        }
        Ok(match self.to_send.pop_front() {
            Some(datagram) => {
                buf.extend_from_slice(&datagram);
                Sent::Bytes
            }
            None => Sent::Nothing,
        })
    }

    fn seal(&mut self, room: &mut [u8], length: usize) -> Result<usize, Error> {
        let (prefix, suffix) = self.inner.data_room();
        let total = prefix + length + suffix;
        let datagram = room.get_mut(..total).ok_or(Error::Misuse("no room for the record"))?;
        self.inner.seal_data(datagram)?;
        Ok(total)
    }
}

impl Transport {
    pub(crate) const fn is_datagram(&self) -> bool {
        matches!(self, Self::Datagram(_))
    }

    /// DTLS over SCTP (RFC 6083).
    pub(crate) fn is_sctp(&self) -> bool {
        matches!(self, Self::Datagram(datagram) if datagram.is_sctp())
    }

    /// What hellos say.
    pub(crate) const fn version(&self) -> [u8; 2] {
        match self {
            Self::Stream(_) => [3, 3],
            Self::Datagram(_) => [254, 253],
        }
    }

    /// Does a client that says this speak what we speak? (Versions of DTLS count down.)
    pub(crate) const fn check_version(&self, version: [u8; 2]) -> Result<(), Error> {
        let speaks = match self {
            Self::Stream(_) => version[0] == 3 && version[1] >= 3,
            Self::Datagram(_) => version[0] == 254 && version[1] <= 253,
        };
        if speaks { Ok(()) } else { Err(Error::Version) }
    }

    // ---- what comes in

    /// Takes a piece of the stream, or a datagram.
    pub(crate) fn receive(&mut self, bytes: &[u8], now: Instant) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.receive(bytes),
            Self::Datagram(datagram) => {
                datagram.now = now;
                let (mut bytes, mut cursor) = (bytes.to_vec(), 0);
                while let Some(data) = datagram.inner.receive(&mut bytes, &mut cursor, now) {
                    datagram.keep(&bytes[data]);
                }
                datagram.check_loss()
            }
        }
    }

    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, Error> {
        match self {
            Self::Stream(stream) => stream.next(),
            Self::Datagram(datagram) => Ok(datagram.next()),
        }
    }

    /// The key that the peer will change to is known.
    pub(crate) fn prepare_rx(&mut self, next: RecordKey) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.prepare_rx(Protection::new(next)),
            Self::Datagram(datagram) => {
                let now = datagram.now;
                datagram.inner.prepare_reading(next, now)?;
            }
        }
        Ok(())
    }

    /// The peer said ChangeCipherSpec, where the state machine expects it.
    pub(crate) fn change_rx(&mut self) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.change_rx(),
            Self::Datagram(_) => Ok(()),
        }
    }

    /// The peer's Finished was right.
    pub(crate) fn confirm_rx(&mut self) {
        if let Self::Datagram(datagram) = self {
            datagram.inner.reading_confirmed();
        }
    }

    /// All of the peer's flight is here, and an answer may take time.
    pub(crate) fn flight_answered(&mut self) {
        if let Self::Datagram(datagram) = self {
            datagram.inner.flight_answered();
        }
    }

    pub(crate) fn handshake_completed(&mut self) {
        if let Self::Datagram(datagram) = self {
            datagram.inner.handshake_completed();
        }
    }

    // ---- what goes out

    /// Queues a handshake message; returns what the transcript covers.
    pub(crate) fn queue(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        match self {
            Self::Stream(stream) => stream.queue(kind, body),
            Self::Datagram(datagram) => datagram.inner.push_message(kind, body).to_vec(),
        }
    }

    /// Says ChangeCipherSpec, and protects with `next` from there on.
    pub(crate) fn change_tx(&mut self, next: RecordKey) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.change_tx(Protection::new(next)),
            Self::Datagram(datagram) => Ok(datagram.inner.push_change_cipher_spec(next)?),
        }
    }

    /// Our flight is whole.
    pub(crate) fn end_flight(&mut self, end: FlightEnd) {
        if let Self::Datagram(datagram) = self {
            let now = datagram.now;
            datagram.inner.end_flight(end, now);
        }
    }

    /// Both sides know the version.
    pub(crate) fn version_agreed(&mut self) {
        if let Self::Stream(stream) = self {
            stream.version_agreed();
        }
    }

    pub(crate) fn queue_alert(&mut self, alert: Alert) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.queue_alert(alert),
            Self::Datagram(datagram) => {
                let level = if alert.is_warning() { 1 } else { 2 };
                datagram.inner.push_alert(level, alert.0);
                Ok(())
            }
        }
    }

    /// Queues data: of datagrams one message, which must fit.
    pub(crate) fn queue_data(&mut self, data: &[u8]) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.queue_data(data),
            Self::Datagram(datagram) => {
                let (prefix, suffix) = datagram.inner.data_room();
                let mut room = vec![0; prefix + data.len() + suffix];
                room[prefix..prefix + data.len()].copy_from_slice(data);
                datagram.seal(&mut room, data.len())?;
                datagram.to_send.push_back(room);
                Ok(())
            }
        }
    }

    /// Appends what is to be sent to `buf`: all there is of a stream, one datagram.
    pub(crate) fn output(&mut self, buf: &mut Vec<u8>) -> Result<Sent, Error> {
        match self {
            Self::Stream(stream) => {
                Ok(if stream.output(buf)? { Sent::Bytes } else { Sent::Nothing })
            }
            Self::Datagram(datagram) => datagram.output(buf),
        }
    }

    /// Whether something waits that must be sent before data is sealed.
    pub(crate) fn has_output(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.has_output(),
            // Datagrams may overtake each other anyway.
            Self::Datagram(_) => false,
        }
    }

    // ---- time

    pub(crate) fn timeout(&self) -> Option<Instant> {
        match self {
            Self::Stream(_) => None,
            Self::Datagram(datagram) => datagram.inner.poll_timeout(),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Result<(), Error> {
        match self {
            Self::Stream(_) => Ok(()),
            Self::Datagram(datagram) => {
                datagram.now = now;
                match datagram.inner.handle_timeout(now) {
                    Timeout::Fine => Ok(()),
                    Timeout::GaveUp => Err(Error::TimedOut),
                }
            }
        }
    }

    // ---- the data path

    pub(crate) fn may_seal(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.may_seal(),
            Self::Datagram(datagram) => datagram.inner.may_seal(),
        }
    }

    pub(crate) fn prefix(&self) -> usize {
        match self {
            Self::Stream(stream) => stream.prefix(),
            Self::Datagram(datagram) => datagram.inner.data_room().0,
        }
    }

    pub(crate) fn suffix(&self) -> usize {
        match self {
            Self::Stream(stream) => stream.suffix(),
            Self::Datagram(datagram) => datagram.inner.data_room().1,
        }
    }

    pub(crate) fn seal(
        &mut self,
        kind: u8,
        room: &mut [u8],
        length: usize,
    ) -> Result<usize, Error> {
        match self {
            Self::Stream(stream) => stream.seal(kind, room, length),
            Self::Datagram(datagram) => datagram.seal(room, length),
        }
    }

    pub(crate) fn record_length(&self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        match self {
            Self::Stream(stream) => stream.record_length(bytes),
            Self::Datagram(_) => Err(Error::Misuse("a datagram is opened as a whole")),
        }
    }

    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<(u8, Range<usize>), Error> {
        match self {
            Self::Stream(stream) => stream.open(record),
            Self::Datagram(_) => Err(Error::Misuse("a datagram is opened as a whole")),
        }
    }

    pub(crate) fn fragment(&mut self, kind: u8, plain: &[u8]) -> Result<Option<Incoming>, Error> {
        match self {
            Self::Stream(stream) => stream.fragment(kind, plain),
            Self::Datagram(_) => Ok(None),
        }
    }

    /// Where in the datagram the next message of data lies, from `cursor` on.
    pub(crate) fn open_datagram(
        &mut self,
        bytes: &mut [u8],
        cursor: &mut usize,
        now: Instant,
    ) -> Result<Option<Range<usize>>, Error> {
        match self {
            Self::Stream(_) => Err(Error::Misuse("a stream has no datagrams")),
            Self::Datagram(datagram) => {
                datagram.now = now;
                let data = datagram.inner.receive(bytes, cursor, now);
                datagram.check_loss().map(|()| data)
            }
        }
    }

    pub(crate) fn take_unread(&mut self) -> Vec<u8> {
        match self {
            Self::Stream(stream) => stream.take_unread(),
            Self::Datagram(_) => Vec::new(),
        }
    }
}

impl From<SealError> for Error {
    fn from(error: SealError) -> Self {
        match error {
            SealError::TooLong { limit } => Self::MessageTooLong { limit },
            SealError::NoKey | SealError::NoRoom => Self::Misuse("no data can be sealed now"),
            SealError::Exhausted => Self::Internal("the key of this epoch is used up"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_has_a_bound() {
        assert_eq!(MAX_WAITING, 262_144);
    }
}
