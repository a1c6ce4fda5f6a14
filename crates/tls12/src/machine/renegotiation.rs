//! Handshakes over an open connection: whose wish they are, and whether they may begin.

use std::time::Instant;

use super::{Config, Connection, Core, NewConfig, Phase};
use crate::codec::kind;
use crate::config::Renegotiation;
use crate::dtls::FlightEnd;
use crate::error::{Alert, Error};

impl Core {
    /// May the peer begin a renegotiation now? If not, it is told.
    pub(super) fn admits_renegotiation(&mut self, now: Option<Instant>) -> Result<bool, Error> {
        let admitted = match (self.config.common().renegotiation, self.renegotiated, now) {
            (Renegotiation::Refuse, ..) => false,
            (Renegotiation::AtMostEvery(interval), Some(latest), Some(now)) => {
                now.saturating_duration_since(latest) >= interval
            }
            (Renegotiation::AtMostEvery(_), ..) => true,
        };
        if admitted && !self.said_close {
            self.renegotiated = now;
            self.idle = 0;
            return Ok(true);
        }
        self.nothing()?;
        // Nothing is said after our end.
        if !self.said_close {
            self.transport.queue_alert(Alert::NO_RENEGOTIATION)?;
        }
        Ok(false)
    }
}

impl Connection {
    /// Asks for a renegotiation, from now on with this configuration if there is one. It ends with
    /// [`Output::Renegotiated`] or [`Output::RenegotiationRefused`]; a peer may also ignore a server's wish.
    pub fn renegotiate(&mut self, config: Option<NewConfig>) -> Result<(), Error> {
        if self.core.phase != Phase::Open || self.handshake.is_some() || self.core.said_close {
            return Err(Error::Misuse("a renegotiation needs an open connection at rest"));
        }
        match (&mut self.core.config, config) {
            (_, None) => {}
            (Config::Client(old), Some(NewConfig::Client(new))) => *old = new,
            (Config::Server(old), Some(NewConfig::Server(new))) => *old = new,
            _ => return Err(Error::Misuse("a configuration of the other role")),
        }
        match &self.core.config {
            Config::Client(config) => {
                let config = config.clone();
                self.say_hello(&config, true)
            }
            Config::Server(_) => {
                self.core.requested = true;
                self.core.transport.queue(kind::HELLO_REQUEST, &[]);
                self.core.transport.end_flight(FlightEnd::Unanswered);
                Ok(())
            }
        }
    }
}
