//! What comes in: bytes, time, and the end of the stream; and what each message, alert and record of data does.

use std::time::Instant;

use super::{Closed, Config, Connection, Output, Phase, Step, client, server};
use crate::codec::kind;
use crate::error::{Alert, Error};
use crate::record::{Incoming, Message};

impl Connection {
    /// Takes what the peer sent: any piece of a stream, or one datagram. What it means comes out of
    /// [`Self::poll_output`]. Of a stream, bring no more than some records while a question waits.
    pub fn handle_input(&mut self, bytes: &[u8], now: Instant) {
        self.now = Some(now);
        if self.core.phase == Phase::Closed {
            return;
        }
        if let Err(error) = self.core.transport.receive(bytes, now) {
            return self.fail(error);
        }
        self.pump();
    }

    /// Time has passed; see [`Output::WaitUntil`]. Over datagrams call it also before an answer that took its
    /// time, so that timers begin now.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = Some(now);
        if self.core.phase == Phase::Closed {
            return;
        }
        match self.core.transport.handle_timeout(now) {
            Ok(()) => self.pump(),
            Err(error) => self.fail(error),
        }
    }

    /// The stream from the peer ended.
    pub fn handle_end(&mut self) {
        if self.core.phase == Phase::Closed {
            return;
        }
        if self.core.heard_close {
            self.close_if_both();
        } else {
            self.end(Closed::Failed(Error::Truncated));
        }
    }

    pub(super) fn pump(&mut self) {
        while self.core.phase != Phase::Closed && !self.is_asking() {
            let done = match self.core.transport.next() {
                Ok(Some(incoming)) => self.incoming(incoming),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                self.fail(error);
            }
        }
    }

    pub(super) fn incoming(&mut self, incoming: Incoming) -> Result<(), Error> {
        match incoming {
            Incoming::Handshake(message) => self.message(&message),
            Incoming::ChangeCipherSpec => {
                let step = match self.handshake.take() {
                    Some(Step::Client(handshake)) => {
                        handshake.change_cipher_spec(&mut self.core)?
                    }
                    Some(Step::Server(handshake)) => {
                        handshake.change_cipher_spec(&mut self.core)?
                    }
                    _ => return Err(Error::Unexpected("ChangeCipherSpec")),
                };
                self.go(step);
                Ok(())
            }
            Incoming::Alert { fatal, alert } => self.alert(fatal, alert),
            Incoming::Data(data) => {
                self.admit_data()?;
                self.core.events.push_back(Output::Data(data));
                Ok(())
            }
            Incoming::Message { data, tag } => {
                self.admit_data()?;
                self.core.events.push_back(Output::Message { data, tag });
                Ok(())
            }
        }
    }

    /// May data of the peer's arrive now?
    pub(super) fn admit_data(&mut self) -> Result<(), Error> {
        match self.core.phase {
            Phase::Anonymous => return Err(Error::DataInAnonymousPhase),
            // Datagrams come in any order.
            Phase::Open if !self.core.heard_close || self.core.transport.is_datagram() => {}
            _ => return Err(Error::Unexpected("application data")),
        }
        // What was on its way when the renegotiation began still counts; once the peer has joined,
        // it has no reason to send any.
        let joined = match &self.handshake {
            Some(Step::Client(handshake)) => !handshake.is_fresh(),
            Some(Step::Server(_)) => true,
            _ => false,
        };
        if joined && !self.core.transport.is_datagram() {
            return Err(Error::Unexpected("application data"));
        }
        self.core.idle = 0;
        Ok(())
    }

    fn message(&mut self, message: &Message) -> Result<(), Error> {
        let core = &mut self.core;
        let step = match (self.handshake.take(), message.kind()) {
            (handshake, kind::HELLO_REQUEST) => {
                let Config::Client(config) = &core.config else {
                    return Err(Error::Unexpected("HelloRequest"));
                };
                if !message.body().is_empty() {
                    return Err(Error::Malformed("HelloRequest"));
                }
                let config = config.clone();
                match handshake {
                    // RFC 5246 section 7.4.1.1: ignored during a handshake.
                    Some(step) => {
                        core.nothing()?;
                        step
                    }
                    None if core.admits_renegotiation(self.now)? => {
                        Step::Client(Box::new(client::Handshake::start(core, &config, false)?))
                    }
                    None => Step::Done,
                }
            }
            (Some(Step::Client(handshake)), _) => handshake.message(core, message)?,
            (Some(Step::Server(handshake)), _) => handshake.message(core, message)?,
            (_, kind::CLIENT_HELLO) => {
                let Config::Server(config) = &core.config else {
                    return Err(Error::Unexpected("ClientHello"));
                };
                let config = config.clone();
                let requested = std::mem::take(&mut core.requested);
                let open = core.phase == Phase::Open;
                if open && !requested && !core.admits_renegotiation(self.now)? {
                    Step::Done
                } else {
                    server::Handshake::start(core, &config, message, requested)?
                }
            }
            (_, other) => return Err(Error::Unexpected(crate::codec::name(other))),
        };
        self.go(step);
        Ok(())
    }

    fn alert(&mut self, fatal: bool, alert: Alert) -> Result<(), Error> {
        let core = &mut self.core;
        match alert {
            Alert::CLOSE_NOTIFY => {
                core.heard_close = true;
                if core.phase == Phase::Open {
                    core.events.push_back(Output::PeerClosed);
                    self.close_if_both();
                } else {
                    self.end(Closed::Failed(Error::PeerAlert(alert)));
                }
            }
            Alert::NO_RENEGOTIATION if !fatal => {
                let refused = match &self.handshake {
                    Some(Step::Client(handshake)) => handshake.is_fresh() && handshake.requested,
                    None => std::mem::take(&mut core.requested),
                    _ => false,
                };
                match (core.phase, refused) {
                    (Phase::Anonymous, _) => return Err(Error::StaysAnonymous),
                    (Phase::Open, true) => {
                        self.handshake = None;
                        core.events.push_back(Output::RenegotiationRefused);
                    }
                    _ => core.nothing()?,
                }
            }
            _ if fatal => self.end(Closed::Failed(Error::PeerAlert(alert))),
            _ => core.nothing()?,
        }
        Ok(())
    }
}
