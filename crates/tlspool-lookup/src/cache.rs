//! What was looked up is remembered for a while: by memcached, which several pools may share, if servers
//! are configured, and in this process otherwise.
//!
//! [`Cached`] stands around any [`Sources`]. What is present is remembered for [`Settings::timeout`], what is
//! provably absent for a quarter of it and a minute at most: it begins to exist without anybody telling
//! us. A failure is never remembered: it is no fact, and the sources bound by themselves how often they are
//! asked. A decision on who may have a session is of the moment: that is not remembered either.
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
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tlspool_validate::sources::{Found, Looking, Options, Origin, Outcome, Query, Sources};

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

    /// How long an outcome is remembered, if at all.
    fn lifetime(&self, outcome: &Outcome) -> Option<Duration> {
        match outcome {
            Outcome::Present(_) => Some(self.timeout),
            Outcome::Absent(_) => Some((self.timeout / ABSENT_PART).min(ABSENT_MOST)),
            Outcome::Failed(_) => None,
        }
    }

    /// What is remembered; what there is to say of it goes to `steps`.
    async fn recall(
        &self,
        query: &Query,
        deadline: Instant,
        steps: &mut Vec<String>,
    ) -> Option<(Outcome, Origin)> {
        match &self.store {
            Store::Nowhere => None,
            Store::Memory(memory) => {
                let (outcome, left) = memory.get(query)?;
                steps.push(format!("remembered in memory for another {} s", left.as_secs()));
                Some((outcome, Origin::Memory))
            }
            Store::Memcached(cluster, sealer) => {
                let name = sealer.name(query);
                let (server, read) = cluster.get(&name, deadline).await;
                let value = match read {
                    Read::Hit(value) => value,
                    Read::Miss => {
                        steps.push(format!("memcached {server}: not remembered"));
                        return None;
                    }
                    Read::Down(why) => {
                        steps.push(format!("memcached {server}: {why}"));
                        return None;
                    }
                };
                match sealer.open(&name, &value, now(), self.timeout) {
                    Ok((outcome, left)) => {
                        let left = left.as_secs();
                        steps.push(format!("memcached {server}: remembered for another {left} s"));
                        Some((outcome, Origin::Memcached))
                    }
                    Err(why) => {
                        cluster.complain(&name, why);
                        steps.push(format!(
                            "memcached {server}: a value that does not count: {why}"
                        ));
                        None
                    }
                }
            }
        }
    }

    async fn remember(&self, query: &Query, outcome: &Outcome, deadline: Instant) {
        let Some(lifetime) = self.lifetime(outcome) else { return };
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

impl<S: Sources> Sources for Cached<S> {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        if !query.may_be_remembered() {
            return self.sources.look_up(query, options);
        }
        Box::pin(async move {
            let begin = Instant::now();
            let mut steps = Vec::new();
            if options.ignore_caches {
                steps.push("what is remembered is ignored, as was asked".to_owned());
            } else if let Some((outcome, origin)) =
                self.recall(query, options.deadline, &mut steps).await
            {
                return Found { outcome, origin, elapsed: begin.elapsed(), steps };
            }
            let mut found = self.sources.look_up(query, options).await;
            if found.origin == Origin::Live {
                self.remember(query, &found.outcome, options.deadline).await;
            }
            steps.append(&mut found.steps);
            Found { steps, elapsed: begin.elapsed(), ..found }
        })
    }
}

#[cfg(test)]
mod tests;
