//! What goes out: datagrams of flights, alerts, and application data.

use super::{Content, FATAL, MAX_ALERTS, Transmit, Transport};
use crate::dtls::flight::Flight;
use crate::dtls::record::{self, Writer};
use crate::dtls::{Mode, SealError};

impl Transport {
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
}
