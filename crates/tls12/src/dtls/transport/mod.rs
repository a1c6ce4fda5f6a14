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
//!
//! [`reading`] takes datagrams in, with what came too [`early`]; [`flights`] makes flights of our messages, and
//! [`sending`] makes datagrams of these, of alerts and of data.

mod early;
mod flights;
mod reading;
mod sending;

use std::collections::VecDeque;
use std::time::Instant;

use early::Early;

use super::cookie::Start;
use super::flight::{Due, Flight, Timer};
use super::inbox::Inbox;
use super::record::{Reader, Writer};
use super::{Config, Counters, MIN_MTU, Mode};

const CLOSE_NOTIFY: u8 = 0;
const FATAL: u8 = 2;

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
