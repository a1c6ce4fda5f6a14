//! How a connection ends: by its caller, by both sides, or by a fault.

use super::{Closed, Connection, Output, Phase};
use crate::error::{Alert, Error};

impl Connection {
    /// Says that no more data follows. The peer's may still arrive.
    pub fn close(&mut self) {
        if self.core.phase == Phase::Closed || self.core.said_close {
            return;
        }
        self.core.said_close = true;
        if let Err(error) = self.core.transport.queue_alert(Alert::CLOSE_NOTIFY) {
            return self.end(Closed::Failed(error));
        }
        if self.core.phase == Phase::Open {
            self.close_if_both();
        } else {
            self.end(Closed::Failed(Error::Refused(Alert::USER_CANCELED)));
        }
    }

    /// Ends the connection with an alert, for a reason of the caller's.
    pub fn abort(&mut self, alert: Alert) {
        if self.core.phase != Phase::Closed {
            self.fail(Error::Refused(alert));
        }
    }

    pub(super) fn close_if_both(&mut self) {
        if self.core.said_close && self.core.heard_close {
            self.end(Closed::Cleanly);
        }
    }

    pub(super) fn fail(&mut self, error: Error) {
        if let Some(alert) = error.alert() {
            // If even the alert cannot be made, the peer sees the connection end.
            let _ = self.core.transport.queue_alert(alert);
        }
        self.end(Closed::Failed(error));
    }

    pub(super) fn end(&mut self, how: Closed) {
        self.handshake = None;
        self.core.phase = Phase::Closed;
        // Questions are moot; data that arrived whole is not.
        self.core.events.retain(|event| {
            !matches!(event, Output::Verify(_) | Output::Sign(_) | Output::ChooseCredential(_))
        });
        self.core.events.push_back(Output::Closed(how));
    }
}
