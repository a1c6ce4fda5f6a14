//! Counts what is in use and refuses what would be too much. Every count falls when its guard is
//! dropped, whatever way a request ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

/// A user's number.
pub(crate) type Uid = u32;

/// How many of a thing are in use, in all and by each user.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    all: AtomicU32,
    by_user: Mutex<HashMap<Uid, u32>>,
}

/// The limit that would be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// The limit for all users together.
    All(u32),
    /// The limit for one user.
    User(u32),
}

/// One thing in use.
#[derive(Debug)]
pub(crate) struct InUse {
    meter: Arc<Meter>,
    user: Uid,
}

impl Meter {
    /// Takes one for `user`, within the limits.
    pub(crate) fn take(
        self: &Arc<Self>,
        user: Uid,
        all: u32,
        each: u32,
    ) -> Result<InUse, Exceeded> {
        let mut by_user = self.by_user.lock();
        if self.all.load(Ordering::Relaxed) >= all {
            return Err(Exceeded::All(all));
        }
        let used = by_user.entry(user).or_default();
        if *used >= each {
            return Err(Exceeded::User(each));
        }
        *used += 1;
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(InUse { meter: self.clone(), user })
    }

    /// How many are in use.
    pub(crate) fn in_use(&self) -> u32 {
        self.all.load(Ordering::Relaxed)
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut by_user = self.meter.by_user.lock();
        if let Some(used) = by_user.get_mut(&self.user) {
            *used -= 1;
            if *used == 0 {
                by_user.remove(&self.user);
            }
        }
        self.meter.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counters for `tlspool status`; they only grow.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) clients: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) handshakes: AtomicU64,
    pub(crate) resumed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
}

impl Totals {
    /// Adds one.
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_the_whole_are_kept() {
        let meter = Arc::new(Meter::default());
        let first = meter.take(1, 3, 2).unwrap();
        let _second = meter.take(1, 3, 2).unwrap();
        assert_eq!(meter.take(1, 3, 2).unwrap_err(), Exceeded::User(2));
        let _other = meter.take(2, 3, 2).unwrap();
        assert_eq!(meter.take(3, 3, 2).unwrap_err(), Exceeded::All(3));
        drop(first);
        assert_eq!(meter.in_use(), 2);
        assert!(meter.take(1, 3, 2).is_ok());
    }
}
