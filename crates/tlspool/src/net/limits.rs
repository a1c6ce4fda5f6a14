//! Counts what is in use and refuses what would be too much. Every count falls when its guard is
//! dropped, whatever way a request ends.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A user's number.
pub(crate) type Uid = u32;

/// The user who may do everything.
pub(crate) const ROOT: Uid = 0;

/// How many of a thing are in use, in all and by each user.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    all: AtomicU32,
    by_user: Mutex<HashMap<Uid, u32>>,
    /// Somebody waits for ends.
    watched: AtomicBool,
    ended: Notify,
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
        self.all.load(Ordering::SeqCst)
    }

    /// From now on [`Self::ended`] tells. Waking a thread each time, though nobody wants to know, would cost more than
    /// the rest of an end.
    pub(crate) fn watch(&self) {
        self.watched.store(true, Ordering::SeqCst);
    }

    /// Waits until there was an end since the last time. Who watches first, and looks at [`Self::in_use`] then, misses
    /// none.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
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
        self.meter.all.fetch_sub(1, Ordering::SeqCst);
        if self.meter.watched.load(Ordering::SeqCst) {
            self.meter.ended.notify_one();
        }
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

/// Counts events by the second, for the last minute.
#[derive(Debug)]
pub(crate) struct LastMinute(Mutex<[(u64, u32); MINUTE]>);

const MINUTE: usize = 60;

impl Default for LastMinute {
    fn default() -> Self {
        Self(Mutex::new([(0, 0); MINUTE]))
    }
}

impl LastMinute {
    /// Counts one event in the second `now`.
    pub(crate) fn count(&self, now: u64) {
        let slot = &mut self.0.lock()[(now % MINUTE as u64) as usize];
        if slot.0 != now {
            *slot = (now, 0);
        }
        slot.1 = slot.1.saturating_add(1);
    }

    /// Events a second, over the last minute or since second 0 if that is less.
    pub(crate) fn rate(&self, now: u64) -> f64 {
        let recent = |slot: &&(u64, u32)| now.saturating_sub(slot.0) < MINUTE as u64;
        // A sum of no floating point numbers is -0.0.
        let events =
            self.0.lock().iter().filter(recent).fold(0.0, |all, slot| all + f64::from(slot.1));
        events / f64::from((now + 1).min(MINUTE as u64) as u32)
    }
}

/// The latest failures, for `tlspool status`: what the program was told, and nothing secret.
#[derive(Debug, Default)]
pub(crate) struct Failures(Mutex<VecDeque<FailureLine>>);

/// One failure.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct FailureLine {
    /// Seconds since 1970.
    pub(crate) time: u64,
    pub(crate) client: String,
    pub(crate) error: String,
}

/// Failures remembered.
const FAILURES: usize = 20;

impl Failures {
    /// Remembers one; the oldest makes room.
    pub(crate) fn add(&self, client: String, error: String) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut lines = self.0.lock();
        if lines.len() >= FAILURES {
            lines.pop_front();
        }
        lines.push_back(FailureLine { time, client, error });
    }

    /// All that are remembered, oldest first.
    pub(crate) fn lines(&self) -> Vec<FailureLine> {
        self.0.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn rates_are_those_of_the_last_minute() {
        let minute = LastMinute::default();
        (0..10).for_each(|_| minute.count(1));
        assert!((minute.rate(1) - 5.0).abs() < 1e-9, "two seconds so far");
        (0..30).for_each(|_| minute.count(61));
        assert!((minute.rate(61) - 0.5).abs() < 1e-9, "second 1 is over");
        assert_eq!(minute.rate(200).to_string(), "0");
    }

    #[test]
    fn the_latest_failures_are_remembered() {
        let failures = Failures::default();
        (0..25).for_each(|n| failures.add("pid 1".into(), format!("failure {n}")));
        let lines = failures.lines();
        assert_eq!(lines.len(), FAILURES);
        assert_eq!((&*lines[0].error, &*lines[19].error), ("failure 5", "failure 24"));
    }

    #[test]
    fn who_watches_misses_no_end_however_late_it_comes() {
        let meter = Arc::new(Meter::default());
        let mut cx = Context::from_waker(Waker::noop());
        let mut has_ended = || pin!(meter.ended()).poll(&mut cx).is_ready();
        let (before, after) = (meter.take(1, 3, 3).unwrap(), meter.take(1, 3, 3).unwrap());
        drop(before);
        assert!(!has_ended(), "nobody watches");
        meter.watch();
        assert!(meter.in_use() == 1 && !has_ended());
        drop(after);
        assert!(has_ended() && !has_ended());
    }

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
