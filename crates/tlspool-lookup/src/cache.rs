//! What was looked up is remembered for a while: by memcached, which several pools may share, if servers
//! are configured, and in this process otherwise.
//!
//! [`Cached`] stands around any [`Sources`]. What is present is remembered for [`Settings::timeout`], what is
//! provably absent for a quarter of it and a minute at most: it begins to exist without anybody telling
//! us. Neither is remembered for longer than its source says ([`Found::lasts`]): of the DNS, TTLs and signatures.
//! A failure is never remembered: it is no fact, and the sources bound by themselves how often they are
//! asked. A decision on who may have a session is of the moment: that is not remembered either.
//!
//! Several questions are read out of memcached by one command ([`Sources::recall`]).
//!
//! Who can write to memcached must not be able to vouch for anyone, and who can read it must not learn
//! whom we meet: see [`seal`]. What can be done there is to lose values, or to bring back one for the same
//! question whose time is not over. A server that is down or stalls costs [`Settings::wait`] once, then
//! nothing until it is tried again; the answer is then looked up as if there were no cache.

mod memcached;
mod memory;
pub mod seal;

use std::fmt::{self, Debug, Formatter};
use std::path::PathBuf;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tlspool_validate::sources::{
    Caches, Found, Looking, Options, Origin, Outcome, Query, Recalled, Recalling, Sources,
};

pub use self::memcached::{Server, ServerError};
pub use self::memory::Memory;
pub use self::seal::{Key, KeyError};

use self::memcached::{Cluster, Read};
use self::seal::Sealer;

/// Absence is remembered for this part of the timeout,
const ABSENT_PART: u32 = 4;
/// and never longer than this.
const ABSENT_MOST: Duration = Duration::from_mins(1);
/// Longer timeouts are cut to this: memcached would take them for a date.
const TIMEOUT_MOST: Duration = Duration::from_hours(24 * 29);

/// How to remember.
#[derive(Debug)]
pub struct Settings {
    /// memcached servers, and the key that is shared with the other pools which use them; without any,
    /// this process remembers by itself.
    pub shared: Option<(Vec<Server>, Key)>,
    /// How long what is present is remembered; zero: nothing is.
    pub timeout: Duration,
    /// How long to wait for memcached.
    pub wait: Duration,
    /// How many answers this process remembers by itself,
    pub entries: usize,
    /// and of how many bytes altogether.
    pub bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shared: None,
            timeout: Duration::from_mins(5),
            wait: Duration::from_millis(100),
            entries: 10_000,
            bytes: 32 << 20,
        }
    }
}

/// Why a cache cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A server's address.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The shared key.
    #[error("cache key {}: {why}", .file.display())]
    Key {
        /// Where it is.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        why: KeyError,
    },
}

/// Sources whose answers are remembered.
pub struct Cached<S> {
    sources: S,
    store: Store,
    timeout: Duration,
}

/// Where.
enum Store {
    Nowhere,
    Memory(Arc<Memory>),
    Memcached(Cluster, Box<Sealer>),
}

impl<S> Debug for Cached<S> {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        let store = match self.store {
            Store::Nowhere => "nowhere",
            Store::Memory(_) => "memory",
            Store::Memcached(..) => "memcached",
        };
        to.debug_struct("Cached").field("store", &store).finish_non_exhaustive()
    }
}

impl<S: Sources> Cached<S> {
    /// Remembers what `sources` answer. Must be used within a tokio runtime.
    pub fn new(sources: S, settings: Settings) -> Self {
        let timeout = settings.timeout.min(TIMEOUT_MOST);
        let store = match settings.shared {
            _ if timeout.is_zero() => Store::Nowhere,
            Some((servers, key)) if !servers.is_empty() => {
                Store::Memcached(Cluster::new(servers, settings.wait), Box::new(Sealer::new(&key)))
            }
            _ => Store::Memory(Arc::new(Memory::new(settings.entries, settings.bytes))),
        };
        Self { sources, store, timeout }
    }

    /// Remembers what `sources` answer in a memory that others use too.
    pub fn with_memory(sources: S, memory: Arc<Memory>, timeout: Duration) -> Self {
        let store = if timeout.is_zero() { Store::Nowhere } else { Store::Memory(memory) };
        Self { sources, store, timeout: timeout.min(TIMEOUT_MOST) }
    }

    /// The sources themselves.
    pub fn sources(&self) -> &S {
        &self.sources
    }

    /// Where what is remembered comes from.
    fn origin(&self) -> Origin {
        match self.store {
            Store::Memcached(..) => Origin::Memcached,
            Store::Nowhere | Store::Memory(_) => Origin::Memory,
        }
    }

    /// How long what was found is remembered, if at all: no longer than its source lets it count.
    fn lifetime(&self, found: &Found) -> Option<Duration> {
        let own = match found.outcome {
            Outcome::Present(_) => self.timeout,
            Outcome::Absent(_) => (self.timeout / ABSENT_PART).min(ABSENT_MOST),
            Outcome::Failed(_) => return None,
        };
        let lifetime = own.min(found.lasts.unwrap_or(Duration::MAX));
        (!lifetime.is_zero()).then_some(lifetime)
    }

    /// What is remembered in this process, and for how much longer.
    fn in_memory(&self, query: &Query) -> Option<(Outcome, Duration)> {
        match &self.store {
            Store::Memory(memory) if query.may_be_remembered() => memory.get(query),
            Store::Nowhere | Store::Memory(_) | Store::Memcached(..) => None,
        }
    }

    /// What is remembered of `queries`, in their order. memcached is asked once for all of them.
    async fn recall_all(&self, queries: &[Query], deadline: Instant) -> Vec<Recalled> {
        let begin = Instant::now();
        let Store::Memcached(cluster, sealer) = &self.store else {
            let recalled = queries.iter().map(|query| match self.in_memory(query) {
                None => Recalled::default(),
                Some((outcome, left)) => {
                    let (steps, elapsed) = (vec![remembered_in_memory(left)], begin.elapsed());
                    Recalled { outcome: Some(outcome), left, elapsed, steps }
                }
            });
            return recalled.collect();
        };
        let mut recalled = vec![Recalled::default(); queries.len()];
        let places = (0..queries.len()).filter(|place| queries[*place].may_be_remembered());
        let places: Vec<usize> = places.collect();
        let names: Vec<_> = places.iter().map(|place| sealer.name(&queries[*place])).collect();
        let found = cluster.get(&names, deadline).await;
        let elapsed = begin.elapsed();
        for ((place, name), (server, read)) in places.into_iter().zip(&names).zip(found) {
            let opened = match read {
                Read::Miss => Err("not remembered".to_owned()),
                Read::Down(why) => Err(why),
                Read::Hit(value) => sealer.open(name, &value, now(), self.timeout).map_err(|why| {
                    cluster.complain(name, why);
                    format!("a value that does not count: {why}")
                }),
            };
            let (outcome, left, step) = match opened {
                Ok((outcome, left)) => {
                    let step = format!("remembered for another {} s", left.as_secs());
                    (Some(outcome), left, step)
                }
                Err(why) => (None, Duration::ZERO, why),
            };
            let steps = vec![format!("memcached {server}: {step}")];
            recalled[place] = Recalled { outcome, left, elapsed, steps };
        }
        recalled
    }

    async fn remember(&self, query: &Query, found: &Found, deadline: Instant) {
        let Some(lifetime) = self.lifetime(found) else { return };
        let outcome = &found.outcome;
        match &self.store {
            Store::Nowhere => {}
            Store::Memory(memory) => memory.put(query, outcome, lifetime),
            Store::Memcached(cluster, sealer) => {
                // memcached counts in seconds, and so does the seal.
                let lifetime = Duration::from_secs(lifetime.as_secs().max(1));
                let name = sealer.name(query);
                if let Some(value) = sealer.seal(&name, outcome, now() + lifetime) {
                    cluster.set(name, lifetime, value, deadline).await;
                }
            }
        }
    }
}

/// The time by which values expire, which pools on several machines must agree upon: since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn remembered_in_memory(left: Duration) -> String {
    format!("remembered in memory for another {} s", left.as_secs())
}

impl<S: Sources> Sources for Cached<S> {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        if !query.may_be_remembered() {
            return self.sources.look_up(query, options);
        }
        Box::pin(async move {
            let begin = Instant::now();
            let mut steps = Vec::new();
            match options.caches {
                Caches::Ignore => {
                    steps.push("what is remembered is ignored, as was asked".to_owned());
                }
                Caches::Missed => {}
                Caches::Use => {
                    let recalled = self.recall_all(slice::from_ref(query), options.deadline).await;
                    let recalled = recalled.into_iter().next().unwrap_or_default();
                    steps = recalled.steps;
                    if let Some(outcome) = recalled.outcome {
                        let origin = self.origin();
                        let elapsed = begin.elapsed();
                        return Found { outcome, origin, elapsed, lasts: None, steps };
                    }
                }
            }
            let mut found = self.sources.look_up(query, options).await;
            if found.origin == Origin::Live {
                self.remember(query, &found, options.deadline).await;
            }
            steps.append(&mut found.steps);
            Found { steps, elapsed: begin.elapsed(), ..found }
        })
    }

    fn at_hand(&self, query: &Query, options: Options) -> Option<Found> {
        if options.caches != Caches::Use {
            return None;
        }
        let begin = Instant::now();
        let (outcome, left) = self.in_memory(query)?;
        let (origin, steps) = (Origin::Memory, vec![remembered_in_memory(left)]);
        Some(Found { outcome, origin, elapsed: begin.elapsed(), lasts: None, steps })
    }

    fn recall<'a>(&'a self, queries: &'a [Query], deadline: Instant) -> Recalling<'a> {
        Box::pin(self.recall_all(queries, deadline))
    }
}

#[cfg(test)]
mod tests;
