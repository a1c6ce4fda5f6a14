//! One connection's records, epochs and flights.
//!
//! The state machine drives it. For each datagram: [`Transport::receive`] until it yields no more data, then
//! [`Transport::next_alert`], [`Transport::next_message`] and [`Transport::next_held_data`] until they yield
//! none; what the machine does with messages may release more. It knows no message but by its type.
//!
//! Reading has a current epoch and, once the machine set its key, the next one:
//!
//! ```text
//!            prepare_reading(key)            Finished delivered, machine content
//!  epoch n ───────────────────────► n, n+1 ──────────────────────────────────► n+1
//!           records of n+1 wait              reading_confirmed()
//! ```
//!
//! In between, Finished is taken from epoch n+1 and from nowhere else, everything else from epoch n; data of
//! epoch n+1 waits until the machine is content. A ChangeCipherSpec record says nothing that the epoch number
//! of a protected record does not say better, so it may be lost or come at any time: the machine is told of the
//! change when the first message of the next epoch is at hand.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use crate::crypto::RecordKey;

use super::cookie::Start;
use super::flight::{Due, Flight, Timer};
use super::inbox::{Fate, Fragment, Inbox};
use super::record::{self, Parsed, Reader, Refused, Writer};
use super::{Config, Counters, MIN_MTU, Mode, SealError};

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const FINISHED: u8 = 20;

const CLOSE_NOTIFY: u8 = 0;
const FATAL: u8 = 2;

/// Records that may wait for their key, or for the handshake's end.
const MAX_EARLY: usize = 64;
/// Bytes of them in all.
const MAX_EARLY_BYTES: usize = 128 * 1024;
/// The same over SCTP, where nothing may be lost: what the peer sends while its Finished, on another stream, is
/// late.
const MAX_EARLY_SCTP: usize = 4096;
const MAX_EARLY_BYTES_SCTP: usize = 4 * 1024 * 1024;
/// Alerts that wait to be read or sent.
const MAX_ALERTS: usize = 8;

/// Sizes to which the datagrams of a flight shrink when no answer comes (RFC 6347 section 4.1.1.1): what IPv6
/// carries anywhere, what IPv4 hosts must take, and a last resort.
const SMALLER: [usize; 3] = [1232, 548, 256];
/// After so many sendings without an answer the datagrams shrink, and again after as many more.
const SHRINK_AFTER: u32 = 2;

/// Something of the peer's handshake, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// The peer changed to the prepared key: what comes next is protected with it.
    ChangeCipherSpec,
    /// A message with its header of 12 bytes, in the form that the transcript covers (RFC 6347 section 4.2.6).
    Handshake(Vec<u8>),
}

/// Whether a flight is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlightEnd {
    /// The peer has to answer: the flight is sent again until it does.
    Awaited,
    /// The handshake ends with it: it is kept, and sent again when the peer repeats what came before it.
    Last,
    /// It may be ignored (HelloRequest): sent once.
    Unanswered,
}

/// What a datagram to send holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Handshake messages, and maybe a ChangeCipherSpec.
    Handshake,
    /// Over SCTP: a ChangeCipherSpec. What follows is protected with the new key.
    ChangeCipherSpec,
    /// An alert.
    Alert,
}

/// A datagram to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// How many bytes of the buffer it has.
    pub len: usize,
    /// What it holds.
    pub content: Content,
}

/// What came of a timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// Nothing to do but ask for datagrams to send and for the next deadline.
    Fine,
    /// The peer did not answer in all the time that was given to it.
    GaveUp,
}

/// The record layer of one connection.
#[derive(Debug)]
pub struct Transport {
    config: Config,
    counters: Counters,

    reader: Reader,
    next_reader: Option<Reader>,
    /// Records of the next epoch whose key is not known yet, header included. Anybody can send such.
    sealed: Early,
    /// Data of the next epoch, until the machine is content with the handshake.
    held: Early,
    /// What the caller says of the datagram at hand.
    tag: u64,
    inbox: Inbox,
    /// No message of a handshake but HelloRequest came since the last one ended.
    idle: bool,
    changed: bool,
    alerts: VecDeque<[u8; 2]>,
    /// An alert that anybody could have sent: it counts if the peer says nothing else.
    doubtful: Option<[u8; 2]>,

    writers: Vec<Writer>,
    next_seq: u16,
    flight: Flight,
    timer: Timer,
    /// The last flight of a handshake that is over, if it was ours, and when it was sent.
    last_flight: Flight,
    last_sent: Option<Instant>,
    outgoing_alerts: VecDeque<(u16, [u8; 2])>,
    /// Longest datagram of a flight; `config.mtu` or less.
    flight_mtu: usize,
}

/// What a fragment that came again asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Repeats {
    Nothing,
    /// Our flight of this handshake.
    Flight,
    /// Our last flight of the handshake before.
    LastFlight,
}

/// A bounded number of records that came too early.
#[derive(Debug)]
struct Early {
    records: VecDeque<(Vec<u8>, u64)>,
    bytes: usize,
    /// Most records, and bytes.
    most: (usize, usize),
}

impl Early {
    fn new(mode: Mode) -> Self {
        let most = match mode {
            Mode::Udp => (MAX_EARLY, MAX_EARLY_BYTES),
            Mode::Sctp => (MAX_EARLY_SCTP, MAX_EARLY_BYTES_SCTP),
        };
        Self { records: VecDeque::new(), bytes: 0, most }
    }

    fn push(&mut self, record: &[u8], tag: u64) -> bool {
        let fits = self.records.len() < self.most.0 && self.bytes + record.len() <= self.most.1;
        if fits {
            self.bytes += record.len();
            self.records.push_back((record.to_vec(), tag));
        }
        fits
    }

    fn pop(&mut self) -> Option<(Vec<u8>, u64)> {
        let (record, tag) = self.records.pop_front()?;
        self.bytes -= record.len();
        Some((record, tag))
    }
}

impl Transport {
    /// A transport for a connection that begins, on either side.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::after_cookie(config, Start { message_seq: 0, record_seq: 0 })
    }

    /// A server's transport for a connection that begins with a hello whose cookie was found valid: give it the
    /// same datagram then.
    #[must_use]
    pub fn after_cookie(mut config: Config, start: Start) -> Self {
        config.mtu = config.mtu.max(MIN_MTU);
        let timer = Timer::new(config.initial_timeout, config.max_timeout, config.max_sendings);
        Self {
            counters: Counters::default(),
            reader: Reader::plain(0),
            next_reader: None,
            // Little also over SCTP: before its key is known, an honest peer sends but a Finished, maybe an alert.
            sealed: Early::new(Mode::Udp),
            held: Early::new(config.mode),
            tag: 0,
            inbox: Inbox::new(start.message_seq, config.max_message),
            idle: true,
            changed: false,
            alerts: VecDeque::new(),
            doubtful: None,
            writers: vec![Writer::new(0, None, start.record_seq)],
            next_seq: start.message_seq,
            flight: Flight::default(),
            timer,
            last_flight: Flight::default(),
            last_sent: None,
            outgoing_alerts: VecDeque::new(),
            flight_mtu: config.mtu,
            config,
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    // ---- reading

    pub(crate) fn mode(&self) -> Mode {
        self.config.mode
    }

    /// Says something of the datagram that comes next, which comes back with data of it that has to wait.
    pub fn set_tag(&mut self, tag: u64) {
        self.tag = tag;
    }

    pub(crate) fn tag(&self) -> u64 {
        self.tag
    }

    /// Takes the records of a datagram from `cursor` on, which the caller sets to 0 for a new one. Returns where
    /// in the datagram a message of application data lies; none when the datagram is at its end.
    pub fn receive(
        &mut self,
        datagram: &mut [u8],
        cursor: &mut usize,
        now: Instant,
    ) -> Option<Range<usize>> {
        while *cursor < datagram.len() {
            let Some(parsed) = record::parse(datagram, *cursor) else {
                self.counters.malformed += 1;
                *cursor = datagram.len();
                break;
            };
            let start = std::mem::replace(cursor, parsed.fragment.end);
            if parsed.epoch == self.reader.epoch {
                if let Some(plain) = self.open(&parsed, datagram) {
                    let data =
                        self.current_record(parsed.content_type, &datagram[plain.clone()], now);
                    if data {
                        return Some(plain);
                    }
                }
            } else if parsed.epoch.checked_sub(1) == Some(self.reader.epoch) {
                if self.next_reader.is_some() {
                    self.next_epoch_record(&parsed, datagram, now);
                } else if !self.sealed.push(&datagram[start..parsed.fragment.end], self.tag) {
                    self.counters.early += 1;
                }
            } else {
                self.counters.other_epoch += 1;
            }
        }
        None
    }

    fn open(&mut self, parsed: &Parsed, datagram: &mut [u8]) -> Option<Range<usize>> {
        let reader = match &mut self.next_reader {
            Some(next) if next.epoch == parsed.epoch => next,
            _ => &mut self.reader,
        };
        let counter = match reader.open(parsed, datagram) {
            Ok(plain) => {
                self.counters.records += 1;
                return Some(plain);
            }
            Err(Refused::Replayed) => &mut self.counters.replayed,
            Err(Refused::Forged) => &mut self.counters.forged,
            Err(Refused::TooLong) => &mut self.counters.malformed,
        };
        *counter += 1;
        None
    }

    /// Whether this record of the current epoch is application data; everything else is dealt with here.
    fn current_record(&mut self, content_type: u8, plain: &[u8], now: Instant) -> bool {
        match content_type {
            record::APPLICATION_DATA if self.reader.is_protected() => return true,
            record::HANDSHAKE => self.handshake_record(plain, false, now),
            record::ALERT => self.alert_record(plain, self.reader.is_protected()),
            record::CHANGE_CIPHER_SPEC => {}
            _ => self.counters.senseless += 1,
        }
        false
    }

    fn next_epoch_record(&mut self, parsed: &Parsed, datagram: &mut [u8], now: Instant) {
        let Some(plain) = self.open(parsed, datagram) else { return };
        let plain = &datagram[plain];
        match parsed.content_type {
            record::APPLICATION_DATA => {
                if !self.held.push(plain, self.tag) {
                    self.counters.early += 1;
                }
            }
            record::HANDSHAKE => self.handshake_record(plain, true, now),
            record::ALERT => self.alert_record(plain, true),
            _ => self.counters.senseless += 1,
        }
    }

    fn alert_record(&mut self, plain: &[u8], authentic: bool) {
        let &[level, description] = plain else {
            self.counters.senseless += 1;
            return;
        };
        let alert = [level, description];
        if authentic || self.config.mode == Mode::Sctp {
            if self.alerts.len() < MAX_ALERTS {
                self.alerts.push_back(alert);
            }
        } else if level == FATAL || description == CLOSE_NOTIFY {
            self.doubtful = Some(alert);
        }
    }

    fn handshake_record(&mut self, mut plain: &[u8], next_epoch: bool, now: Instant) {
        let mut repeats = Repeats::Nothing;
        if plain.is_empty() {
            self.counters.senseless += 1;
        }
        while !plain.is_empty() {
            let Some((fragment, rest)) = Fragment::parse(plain) else {
                self.counters.senseless += 1;
                break;
            };
            plain = rest;
            repeats = repeats.max(self.fragment(&fragment, next_epoch));
        }
        if repeats == Repeats::Nothing {
            return;
        }
        self.counters.repeated += 1;
        if self.config.mode == Mode::Sctp {
            return;
        }
        // What we sent did not arrive, or not all of it.
        if repeats == Repeats::LastFlight {
            let gap = self.config.initial_timeout / 2;
            let may = self.last_sent.is_none_or(|last| now >= last + gap);
            if may && !self.last_flight.is_empty() {
                self.counters.resent += 1;
                self.last_sent = Some(now);
                self.last_flight.send();
            }
        } else if self.flight.is_complete() && self.timer.may_repeat(now) {
            self.counters.resent += 1;
            self.flight.send();
        }
    }

    fn fragment(&mut self, fragment: &Fragment<'_>, next_epoch: bool) -> Repeats {
        if (fragment.kind == FINISHED) != next_epoch {
            // The last message of the handshake that is over: the peer did not see our answer.
            if !next_epoch && self.reader.is_protected() {
                return Repeats::LastFlight;
            }
            self.counters.senseless += 1;
            return Repeats::Nothing;
        }
        let begins = matches!(fragment.kind, HELLO_REQUEST | CLIENT_HELLO | SERVER_HELLO);
        if self.idle && begins && self.reader.is_protected() {
            // A new handshake counts from 0 (RFC 6347 section 4.2.2), but peers differ on whether a HelloRequest
            // counts. These records are authentic and are taken once, so that their number can be trusted.
            self.inbox.skip_to(fragment.seq);
        }
        match self.inbox.add(fragment) {
            Fate::Taken => Repeats::Nothing,
            Fate::Repeated => Repeats::Flight,
            Fate::Dropped => {
                self.counters.senseless += 1;
                Repeats::Nothing
            }
        }
    }

    /// The next alert of the peer, as level and description. Those that were not authentic and whose sender was
    /// the only one to be heard are among them.
    pub fn next_alert(&mut self) -> Option<[u8; 2]> {
        self.alerts.pop_front()
    }

    /// The next part of the peer's handshake. Not to be called while the machine has to wait for its caller.
    pub fn next_message(&mut self) -> Option<Incoming> {
        let kind = self.inbox.peek()?;
        if kind == FINISHED && !std::mem::replace(&mut self.changed, true) {
            return Some(Incoming::ChangeCipherSpec);
        }
        if kind != HELLO_REQUEST {
            self.idle = false;
            // Somebody goes on with the handshake: the alert was not the last word.
            self.doubtful = None;
            // A peer that begins the next handshake has all of the last one.
            if self.reader.is_protected() {
                self.last_flight = Flight::default();
            }
        }
        self.inbox.pop().map(Incoming::Handshake)
    }

    /// Data that came before its handshake was over, and may be delivered now, with the tag of its datagram.
    pub fn next_held_data(&mut self) -> Option<(Vec<u8>, u64)> {
        self.next_reader.is_none().then(|| self.held.pop())?
    }

    /// The key that the peer will change to. To be called as soon as it is known, and in any case before
    /// [`Incoming::ChangeCipherSpec`] is awaited.
    pub fn prepare_reading(&mut self, key: RecordKey, now: Instant) -> Result<(), SealError> {
        let epoch = self.reader.epoch.checked_add(1).ok_or(SealError::Exhausted)?;
        let replay_check = self.config.mode == Mode::Udp;
        self.next_reader = Some(Reader::protected(epoch, key, replay_check));
        let tag = self.tag;
        while let Some((mut early, its)) = self.sealed.pop() {
            if let Some(parsed) = record::parse(&early, 0) {
                self.tag = its;
                self.next_epoch_record(&parsed, &mut early, now);
            }
        }
        self.tag = tag;
        Ok(())
    }

    /// The peer's Finished was right: its new epoch is the only one from here on, and its next handshake begins.
    pub fn reading_confirmed(&mut self) {
        if let Some(next) = self.next_reader.take() {
            self.reader = next;
            self.inbox = Inbox::new(0, self.config.max_message);
            self.idle = true;
            self.changed = false;
        }
    }

    // ---- the handshake's sending

    /// Adds a handshake message to the flight; the first one after a flight went out begins a new flight.
    /// Returns the message in the form that the transcript covers.
    pub fn push_message(&mut self, kind: u8, body: &[u8]) -> &[u8] {
        self.begin_flight();
        let seq = self.next_seq;
        self.next_seq = self.next_seq.wrapping_add(1);
        self.flight.push(self.epoch(), seq, kind, body)
    }

    /// Adds a ChangeCipherSpec to the flight: everything after it is protected with `key`.
    pub fn push_change_cipher_spec(&mut self, key: RecordKey) -> Result<(), SealError> {
        self.begin_flight();
        let epoch = self.epoch();
        let next = epoch.checked_add(1).ok_or(SealError::Exhausted)?;
        self.flight.push_change_cipher_spec(epoch);
        self.writers.push(Writer::new(next, Some(key), 0));
        Ok(())
    }

    /// The flight is whole: it is sent.
    pub fn end_flight(&mut self, end: FlightEnd, now: Instant) {
        if self.flight.is_empty() {
            return;
        }
        self.flight.send();
        if end == FlightEnd::Last {
            self.last_flight = std::mem::take(&mut self.flight);
            self.last_sent = Some(now);
        }
        let awaited = end == FlightEnd::Awaited && self.config.mode == Mode::Udp;
        self.timer.start(awaited, now);
    }

    /// All of the peer's answer is here: the flight is not sent again. To be called when the machine may need
    /// time for its own answer.
    pub fn flight_answered(&mut self) {
        self.timer.stop();
        self.flight = Flight::default();
    }

    /// Both sides' Finished were right: the next handshake's messages count from 0.
    pub fn handshake_completed(&mut self) {
        self.flight_answered();
        self.next_seq = 0;
    }

    fn begin_flight(&mut self) {
        if self.flight.is_complete() || self.flight.is_empty() {
            self.flight_answered();
            // Keys of earlier epochs are for sending again what was sent with them.
            let (epoch, last, alerts) = (self.epoch(), &self.last_flight, &self.outgoing_alerts);
            self.writers.retain(|writer| {
                let of = writer.epoch;
                of == epoch || last.uses(of) || alerts.iter().any(|(alert, _)| *alert == of)
            });
        }
    }

    fn epoch(&self) -> u16 {
        self.writers.last().map_or(0, |writer| writer.epoch)
    }

    // ---- sending

    /// Queues an alert. After a fatal one nothing else is sent.
    pub fn push_alert(&mut self, level: u8, description: u8) {
        if level == FATAL {
            self.timer.stop();
            self.flight = Flight::default();
            self.last_flight = Flight::default();
            self.outgoing_alerts.clear();
        }
        if self.outgoing_alerts.len() < MAX_ALERTS {
            self.outgoing_alerts.push_back((self.epoch(), [level, description]));
        }
    }

    /// What the next datagram to send will hold. Over SCTP this is where the caller waits, before it takes a
    /// ChangeCipherSpec, until the peer has everything (RFC 6083).
    #[must_use]
    pub fn next_transmit(&self) -> Option<Content> {
        match self.next_handshake_content() {
            Some(record::CHANGE_CIPHER_SPEC) if self.config.mode == Mode::Sctp => {
                Some(Content::ChangeCipherSpec)
            }
            Some(_) => Some(Content::Handshake),
            None => (!self.outgoing_alerts.is_empty()).then_some(Content::Alert),
        }
    }

    fn next_handshake_content(&self) -> Option<u8> {
        self.last_flight.next_content().or_else(|| self.flight.next_content())
    }

    /// Writes the next datagram to send into `buf`, which has room for the MTU, over SCTP for a whole record.
    /// Application data is not among what it sends: see [`Transport::seal_data`].
    pub fn poll_transmit(&mut self, buf: &mut [u8]) -> Result<Option<Transmit>, SealError> {
        let sctp = self.config.mode == Mode::Sctp;
        let limit = if sctp { record::MAX_SENT } else { self.flight_mtu }.min(buf.len());
        let buf = &mut buf[..limit];
        let Some(content) = self.next_transmit() else { return Ok(None) };
        let mut len = 0;
        for flight in [&mut self.last_flight, &mut self.flight] {
            while let Some(written) = flight.write_record(&mut self.writers, &mut buf[len..])? {
                len += written;
                if sctp {
                    return Ok(Some(Transmit { len, content }));
                }
            }
            if flight.next_content().is_some() {
                break;
            }
        }
        if len > 0 {
            return Ok(Some(Transmit { len, content }));
        }
        if self.next_handshake_content().is_some() {
            return Err(SealError::NoRoom);
        }
        let Some((epoch, alert)) = self.outgoing_alerts.pop_front() else { return Ok(None) };
        let writer = self.writers.iter_mut().find(|writer| writer.epoch == epoch);
        let Some(writer) = writer else { return Ok(None) };
        let (prefix, suffix) = writer.room();
        let len = prefix + alert.len() + suffix;
        let record = buf.get_mut(..len).ok_or(SealError::NoRoom)?;
        record[prefix..prefix + alert.len()].copy_from_slice(&alert);
        writer.seal(record::ALERT, record::VERSION, record)?;
        Ok(Some(Transmit { len, content }))
    }

    /// Bytes in front of and behind the plaintext of a record of application data.
    #[must_use]
    pub fn data_room(&self) -> (usize, usize) {
        self.writers.last().map_or((record::HEADER, 0), Writer::room)
    }

    /// Longest message of application data that can be sent.
    #[must_use]
    pub fn max_data(&self) -> usize {
        let (prefix, suffix) = self.data_room();
        match self.config.mode {
            Mode::Udp => (self.config.mtu - prefix - suffix).min(record::MAX_PLAINTEXT),
            Mode::Sctp => record::MAX_PLAINTEXT,
        }
    }

    /// Whether the key may seal more application data. When not, renegotiate or close.
    #[must_use]
    pub fn may_seal(&self) -> bool {
        self.writers.last().is_some_and(Writer::may_seal)
    }

    /// Makes a datagram of a message of application data, which lies in `datagram` between the rooms of
    /// [`Transport::data_room`]. In place and without allocation.
    pub fn seal_data(&mut self, datagram: &mut [u8]) -> Result<(), SealError> {
        let (prefix, suffix) = self.data_room();
        let limit = self.max_data();
        let writer =
            self.writers.last_mut().filter(|w| w.is_protected()).ok_or(SealError::NoKey)?;
        let len = datagram.len().checked_sub(prefix + suffix).ok_or(SealError::NoRoom)?;
        if len > limit {
            return Err(SealError::TooLong { limit });
        }
        if !writer.may_seal() {
            return Err(SealError::Exhausted);
        }
        writer.seal(record::APPLICATION_DATA, record::VERSION, datagram)
    }

    // ---- sizes and times

    /// Longest datagram, in bytes.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.config.mtu
    }

    /// Sets the longest datagram, as when the system said that one was too long. What of a flight went out is
    /// sent again, since it is not known what of it left.
    pub fn set_mtu(&mut self, mtu: usize) {
        let smaller = mtu < self.flight_mtu;
        self.config.mtu = mtu.max(MIN_MTU);
        self.flight_mtu = self.config.mtu;
        if smaller && self.config.mode == Mode::Udp {
            self.counters.shrunk += 1;
            for flight in [&mut self.last_flight, &mut self.flight] {
                if flight.is_complete() {
                    flight.send();
                }
            }
        }
    }

    /// When [`Transport::handle_timeout`] is to be called, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timer.deadline()
    }

    /// Does what is due. Too early a call does nothing.
    pub fn handle_timeout(&mut self, now: Instant) -> Timeout {
        match self.timer.check(now) {
            Due::NotYet => Timeout::Fine,
            Due::GiveUp => {
                self.tell_doubtful();
                Timeout::GaveUp
            }
            Due::Again(before) => {
                // Nobody but who sent the alert was heard for the whole time: it was the peer.
                if self.tell_doubtful() {
                    return Timeout::Fine;
                }
                if before.is_multiple_of(SHRINK_AFTER)
                    && let Some(size) = SMALLER.into_iter().find(|size| *size < self.flight_mtu)
                {
                    self.flight_mtu = size.max(MIN_MTU);
                    self.counters.shrunk += 1;
                }
                self.counters.resent += 1;
                self.flight.send();
                Timeout::Fine
            }
        }
    }

    fn tell_doubtful(&mut self) -> bool {
        let Some(alert) = self.doubtful.take() else { return false };
        self.alerts.push_back(alert);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
