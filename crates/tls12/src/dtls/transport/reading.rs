//! What comes in: records of two epochs, and what the machine makes of them.

use std::ops::Range;
use std::time::Instant;

use super::{CLOSE_NOTIFY, FATAL, Incoming, MAX_ALERTS, Transport};
use crate::crypto::RecordKey;
use crate::dtls::flight::Flight;
use crate::dtls::inbox::{Fate, Fragment, Inbox};
use crate::dtls::record::{self, Parsed, Reader, Refused};
use crate::dtls::{Mode, SealError};

const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const FINISHED: u8 = 20;

/// What a fragment that came again asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Repeats {
    Nothing,
    /// Our flight of this handshake.
    Flight,
    /// Our last flight of the handshake before.
    LastFlight,
}

impl Transport {
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
}
