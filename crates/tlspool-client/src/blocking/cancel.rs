//! Giving up on a request from another thread.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::link::Ticket;

/// A handle to give up on a request: it then returns [`crate::Error::Cancelled`] at once. The pool
/// may still be working on it; callbacks it makes are refused, which ends a handshake.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    cancelled: bool,
    act: Option<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cancel")
    }
}

impl Cancel {
    /// A handle for one request.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives up on the request that this handle was passed to, or will be.
    pub fn cancel(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.cancelled = true;
        if let Some(act) = &state.act {
            act();
        }
    }

    /// From now on cancels the request of `ticket`, at once if it was asked for before.
    pub(super) fn watch(&self, ticket: &Ticket) {
        let act = ticket.canceller();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.cancelled {
            act();
        }
        state.act = Some(Box::new(act));
    }
}
