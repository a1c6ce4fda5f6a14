//! Equal questions that are asked at the same time are answered together.
//!
//! A flight is driven by those who wait for it: it goes on as long as one of them does, and is given up
//! with the last. Used by [`crate::directory`]; everything here stays on its thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Debug, Formatter};
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::rc::Rc;

use futures_util::FutureExt;
use futures_util::future::{Shared, WeakShared};

type Work<V> = Pin<Box<dyn Future<Output = V>>>;

/// Entries beyond which those that are over are swept out.
const SWEEP_AT: usize = 64;

/// What happened so far; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Rc<RefCell<Vec<String>>>);

impl Trace {
    pub(crate) fn step(&self, step: impl Into<String>) {
        self.0.borrow_mut().push(step.into());
    }

    pub(crate) fn extend(&self, steps: &[String]) {
        self.0.borrow_mut().extend_from_slice(steps);
    }

    pub(crate) fn steps(&self) -> Vec<String> {
        self.0.borrow().clone()
    }
}

/// What is under way, by question.
pub(crate) struct Flights<K, V: Clone> {
    under_way: RefCell<Table<K, V>>,
}

struct Table<K, V: Clone> {
    flights: HashMap<K, (WeakShared<Work<V>>, Trace)>,
    sweep_at: usize,
}

impl<K, V: Clone> Default for Flights<K, V> {
    fn default() -> Self {
        let table = Table { flights: HashMap::new(), sweep_at: SWEEP_AT };
        Self { under_way: RefCell::new(table) }
    }
}

impl<K, V: Clone> Debug for Flights<K, V> {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        write!(to, "Flights({})", self.under_way.borrow().flights.len())
    }
}

impl<K: Eq + Hash, V: Clone + 'static> Flights<K, V> {
    /// Joins the flight for `key`, or starts one with `work`.
    pub(crate) fn join<F>(&self, key: K, work: impl FnOnce(Trace) -> F) -> (Shared<Work<V>>, Trace)
    where
        F: Future<Output = V> + 'static,
    {
        let table = &mut *self.under_way.borrow_mut();
        if let Some((flight, trace)) = table.flights.get(&key)
            && let Some(flight) = flight.upgrade()
            && flight.peek().is_none()
        {
            return (flight, trace.clone());
        }
        if table.flights.len() >= table.sweep_at {
            table.flights.retain(|_, (flight, _)| flight.upgrade().is_some());
            table.sweep_at = SWEEP_AT.max(table.flights.len() * 2);
        }
        let trace = Trace::default();
        let work: Work<V> = Box::pin(work(trace.clone()));
        let flight = work.shared();
        if let Some(weak) = flight.downgrade() {
            table.flights.insert(key, (weak, trace.clone()));
        }
        (flight, trace)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn equal_questions_share_an_answer() {
        let flights = Flights::<&str, u32>::default();
        let started = Rc::new(Cell::new(0));
        let go = Rc::new(Notify::new());
        let ask = |key| {
            let (started, go) = (Rc::clone(&started), Rc::clone(&go));
            flights.join(key, |trace| async move {
                started.set(started.get() + 1);
                trace.step("asked");
                go.notified().await;
                started.get()
            })
        };
        let ((first, trace), (second, same), (other, _)) = (ask("a"), ask("a"), ask("b"));
        let both = async { tokio::join!(first, second, other) };
        let go_on = async {
            go.notify_one();
            go.notify_one();
        };
        assert_eq!(tokio::join!(both, go_on).0, (2, 2, 2));
        assert_eq!((trace.steps(), same.steps()), (vec!["asked".into()], vec!["asked".into()]));
        // What is over is asked again.
        go.notify_one();
        assert_eq!(ask("a").0.await, 3);
    }

    #[tokio::test]
    async fn a_flight_outlives_who_began_it_and_ends_with_the_last() {
        let flights = Flights::<u32, u32>::default();
        let alive = Rc::new(());
        let ask = |key| {
            let alive = Rc::clone(&alive);
            let work = async move {
                tokio::task::yield_now().await;
                Rc::strong_count(&alive) as u32
            };
            flights.join(key, |_| work).0
        };
        let mut first = ask(1);
        assert!(futures_util::poll!(&mut first).is_pending());
        let second = ask(1);
        drop(first);
        assert_eq!(second.await, 2);
        drop(ask(1));
        assert_eq!(Rc::strong_count(&alive), 1);
        for key in 0..1000 {
            drop(ask(key));
        }
        assert!(flights.under_way.borrow().flights.len() <= SWEEP_AT);
    }
}
