//! Look-ups under way: equal ones share one answer, and no domain has more than its share.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

/// Look-ups under way, by what they ask. Each belongs to a target.
pub(super) struct Flights<K, V> {
    state: Mutex<State<K, V>>,
    limit: usize,
}

struct State<K, V> {
    cells: HashMap<K, Entry<V>>,
    targets: HashMap<String, usize>,
}

struct Entry<V> {
    cell: Arc<OnceCell<V>>,
    waiting: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Flights<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        let state = State { cells: HashMap::new(), targets: HashMap::new() };
        Self { state: Mutex::new(state), limit }
    }

    /// The value of `key`: of the look-up under way, else of `look_up`. If the caller that looks up gives
    /// up, another that waits begins again. Without a value, `target` has `limit` look-ups under way.
    pub(super) async fn get(
        &self,
        key: &K,
        target: &str,
        look_up: impl AsyncFnOnce() -> V,
    ) -> Result<V, usize> {
        let seat = self.sit(key, target)?;
        Ok(seat.cell.get_or_init(|| look_up()).await.clone())
    }

    fn sit<'a>(&'a self, key: &'a K, target: &'a str) -> Result<Seat<'a, K, V>, usize> {
        let mut state = self.lock();
        if let Some(entry) = state.cells.get_mut(key) {
            entry.waiting += 1;
            let cell = Arc::clone(&entry.cell);
            return Ok(Seat { flights: self, key, target, cell });
        }
        let count = state.targets.get(target).copied().unwrap_or(0);
        if count >= self.limit {
            return Err(self.limit);
        }
        state.targets.insert(target.to_owned(), count + 1);
        let cell = Arc::new(OnceCell::new());
        state.cells.insert(key.clone(), Entry { cell: Arc::clone(&cell), waiting: 1 });
        Ok(Seat { flights: self, key, target, cell })
    }

    fn lock(&self) -> MutexGuard<'_, State<K, V>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One caller that waits.
struct Seat<'a, K: Eq + Hash + Clone, V: Clone> {
    flights: &'a Flights<K, V>,
    key: &'a K,
    target: &'a str,
    cell: Arc<OnceCell<V>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Drop for Seat<'_, K, V> {
    fn drop(&mut self) {
        let mut state = self.flights.lock();
        let Some(entry) = state.cells.get_mut(self.key) else { return };
        entry.waiting -= 1;
        if entry.waiting > 0 {
            return;
        }
        state.cells.remove(self.key);
        if let Some(count) = state.targets.get_mut(self.target) {
            *count -= 1;
            if *count == 0 {
                state.targets.remove(self.target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn equal_ones_share() {
        let flights: Flights<&str, u32> = Flights::new(1);
        let made = Cell::new(0);
        let one = || {
            flights.get(&"a", "example", async || {
                made.set(made.get() + 1);
                tokio::time::sleep(Duration::from_secs(1)).await;
                made.get()
            })
        };
        assert_eq!(tokio::join!(one(), one(), one()), (Ok(1), Ok(1), Ok(1)));
        // Those that come later look up again.
        assert_eq!(one().await, Ok(2));
        assert!(flights.lock().cells.is_empty() && flights.lock().targets.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_gives_up_leaves_the_work_to_others() {
        let flights: Flights<&str, u32> = Flights::new(1);
        let slow = async |n| {
            let look_up = async || {
                tokio::time::sleep(Duration::from_secs(3)).await;
                n
            };
            flights.get(&"a", "example", look_up).await
        };
        let impatient = tokio::time::timeout(Duration::from_secs(1), slow(1));
        let (first, second) = tokio::join!(impatient, slow(2));
        assert!(first.is_err());
        assert_eq!(second, Ok(2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_bound_is_per_target() {
        let flights: Flights<&str, ()> = Flights::new(2);
        let wait = |key: &'static str, target: &'static str| {
            let flights = &flights;
            async move {
                let look_up = async || tokio::time::sleep(Duration::from_secs(1)).await;
                flights.get(&key, target, look_up).await
            }
        };
        let results = tokio::join!(
            wait("a", "example"),
            wait("b", "example"),
            wait("c", "example"),
            wait("d", "other"),
            wait("b", "example"),
        );
        assert_eq!(results, (Ok(()), Ok(()), Err(2), Ok(()), Ok(())));
        assert_eq!(wait("c", "example").await, Ok(()));
    }
}
