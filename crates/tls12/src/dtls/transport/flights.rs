//! The handshake's sending: messages become flights.

use std::time::Instant;

use super::{FlightEnd, Transport};
use crate::crypto::RecordKey;
use crate::dtls::flight::Flight;
use crate::dtls::record::Writer;
use crate::dtls::{Mode, SealError};

impl Transport {
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

    pub(super) fn epoch(&self) -> u16 {
        self.writers.last().map_or(0, |writer| writer.epoch)
    }
}
