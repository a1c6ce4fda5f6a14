//! Knows which calls into modules are running, and since when.
//!
//! A module is foreign code that may hang (a card reader pulled out at the wrong moment, a network
//! HSM that vanished). The threads that call it cannot be stopped one by one, so the key process
//! ends itself when a call takes too long, and the supervisor starts it again: see
//! [`crate::server`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// All callers of one key store.
#[derive(Debug)]
pub(crate) struct Watch {
    start: Instant,
    limit: Duration,
    callers: Mutex<Vec<Arc<Caller>>>,
}

/// One thread or session that calls a module.
#[derive(Debug)]
pub(crate) struct Caller {
    start: Instant,
    limit: Duration,
    module: Arc<str>,
    /// Milliseconds since `start` at which the running call is overdue; 0 = none is running.
    overdue_at: AtomicU64,
}

/// A call that runs; dropping it ends it.
pub(crate) struct Calling<'a>(&'a Caller);

impl Watch {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { start: Instant::now(), limit, callers: Mutex::default() }
    }

    /// Registers a caller of a module, for as long as the returned handle lives.
    pub(crate) fn caller(&self, module: &Arc<str>) -> Arc<Caller> {
        let caller = Arc::new(Caller {
            start: self.start,
            limit: self.limit,
            module: module.clone(),
            overdue_at: AtomicU64::new(0),
        });
        let mut callers = self.callers.lock();
        callers.retain(|c| Arc::strong_count(c) > 1);
        callers.push(caller.clone());
        caller
    }

    /// The module in which a call is overdue.
    pub(crate) fn hung(&self) -> Option<Arc<str>> {
        let now = self.start.elapsed().as_millis() as u64;
        let callers = self.callers.lock();
        let overdue = |c: &&Arc<Caller>| {
            let at = c.overdue_at.load(Ordering::Relaxed);
            at != 0 && at < now
        };
        callers.iter().find(overdue).map(|c| c.module.clone())
    }
}

impl Caller {
    /// Starts a call.
    pub(crate) fn call(&self) -> Calling<'_> {
        self.call_for(self.limit)
    }

    /// Starts a call that may take longer, such as a PIN typed at the token itself.
    pub(crate) fn call_for(&self, limit: Duration) -> Calling<'_> {
        let at = (self.start.elapsed() + limit).as_millis() as u64;
        self.overdue_at.store(at.max(1), Ordering::Relaxed);
        Calling(self)
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.0.overdue_at.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_overdue_only_while_it_runs() {
        let watch = Watch::new(Duration::from_hours(1));
        let caller = watch.caller(&"module.so".into());
        assert_eq!(watch.hung(), None);
        let calling = caller.call_for(Duration::ZERO);
        while watch.hung().is_none() {
            std::thread::yield_now();
        }
        drop(calling);
        assert_eq!(watch.hung(), None);
        let _calling = caller.call();
        assert_eq!(watch.hung(), None);
    }
}
