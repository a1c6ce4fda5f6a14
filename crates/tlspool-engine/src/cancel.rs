//! How a session is asked to end: politely, so that what the application said arrives, or at once.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

/// Ends a relay from outside, from any thread.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<CancelState>);

#[derive(Debug, Default)]
struct CancelState {
    stage: AtomicU8,
    notify: Notify,
}

/// Stages of [`Cancel`].
const REQUESTED: u8 = 1;
const CUT: u8 = 2;

impl Cancel {
    /// Asks the session to end. If the application has closed, or does within a moment, what it sent before is
    /// still delivered, for as long as the peer takes it.
    pub fn request(&self) {
        self.raise(REQUESTED);
    }

    /// Has the session end within a moment, whatever is on its way.
    pub fn cut(&self) {
        self.raise(CUT);
    }

    fn raise(&self, stage: u8) {
        self.0.stage.fetch_max(stage, Ordering::AcqRel);
        self.0.notify.notify_waiters();
    }

    fn has_reached(&self, stage: u8) -> bool {
        self.0.stage.load(Ordering::Acquire) >= stage
    }

    async fn reached(&self, stage: u8) {
        while !self.has_reached(stage) {
            let mut notified = pin!(self.0.notify.notified());
            notified.as_mut().enable();
            if !self.has_reached(stage) {
                notified.await;
            }
        }
    }

    /// Whether it was asked to end.
    pub fn is_requested(&self) -> bool {
        self.has_reached(REQUESTED)
    }

    /// Waits until it is asked to end.
    pub async fn requested(&self) {
        self.reached(REQUESTED).await;
    }

    /// Waits until it is to be cut.
    pub(crate) async fn is_cut(&self) {
        self.reached(CUT).await;
    }
}
