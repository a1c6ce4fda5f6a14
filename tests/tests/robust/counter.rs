//! A number that grows, and waiting for it.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use tlspool_tests::LIMIT;

#[derive(Debug, Clone, Default)]
pub(crate) struct Counter(Arc<(Mutex<u64>, Condvar)>);

impl Counter {
    pub(crate) fn add(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.1.notify_all();
    }

    pub(crate) fn now(&self) -> u64 {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is at least `goal`; false if that does not come to pass.
    pub(crate) fn reaches(&self, goal: u64) -> bool {
        // Beside a thousand sessions under load, on a machine that has more to do, little takes long.
        let deadline = Instant::now() + LIMIT * 4;
        let mut now = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while *now < goal {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            now = self.0.1.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
