//! A worker's way to the look-up process, with what is remembered on this side of it: what one worker has
//! learnt, all know, and no process has to be asked.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tlspool_lookup::cache::{Cached, Memory};
use tlspool_lookup::process::{Counters, LookupClient};
use tlspool_validate::sources::{Found, Looking, Options, Query, Recalled, Sources};

use super::settings::Settings;
use crate::config::Config;
use crate::lookups::in_memory;

/// How long the look-up process may take to tell what it does.
const STATUS_TIME: Duration = Duration::from_secs(1);

/// What all workers remember; with memcached nothing, it remembers for all.
pub(crate) struct Remembered {
    memory: Arc<Memory>,
    lifetime: Duration,
}

impl Remembered {
    /// Nothing yet.
    pub(crate) fn new(config: &Config) -> Self {
        let cache = &config.cache;
        let lifetime = if in_memory(config) { cache.lifetime } else { Duration::ZERO };
        let memory = Memory::new(cache.entries as usize, cache.bytes as usize);
        Self { memory: Arc::new(memory), lifetime }
    }

    /// How many answers, and how many questions were answered by them.
    pub(crate) fn counts(&self) -> (usize, u64) {
        (self.memory.entries(), self.memory.hits())
    }
}

/// Looks up what validation asks for; fails if look-ups are not configured. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lookups {
    client: LookupClient,
    cached: Rc<RefCell<Rc<Cached<LookupClient>>>>,
    /// What is remembered is beyond the look-up process.
    afar: Rc<Cell<bool>>,
}

impl Lookups {
    /// Without a process yet.
    pub(crate) fn new(settings: &Settings) -> Self {
        let client = LookupClient::off();
        if settings.config.looks_up() {
            client.expect();
        }
        let cached = Rc::new(RefCell::new(cached(&client, settings)));
        let afar = Rc::new(Cell::new(afar(&settings.config)));
        Self { client, cached, afar }
    }

    /// The settings have changed.
    pub(crate) fn reload(&self, settings: &Settings) {
        self.cached.replace(cached(&self.client, settings));
        self.afar.set(afar(&settings.config));
    }

    /// Whether it takes a journey to learn what is remembered: memcached does, the memory of this process does not.
    pub(crate) fn remember_afar(&self) -> bool {
        self.afar.get()
    }

    /// What memcached remembers of `queries`, in their order. They are sent now, and the answer can wait until it is
    /// wanted.
    pub(crate) fn recalling(
        &self,
        queries: &[Query],
        deadline: Instant,
    ) -> impl Future<Output = Vec<Recalled>> + use<> {
        self.client.recalling(queries, deadline)
    }

    /// The look-up process was started; without a channel: there is none any more.
    pub(crate) fn restarted(&self, channel: Option<OwnedFd>) {
        match channel.map(|channel| self.client.connect(channel)) {
            None => self.client.disconnect(),
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!("the new look-up process cannot be reached: {error}");
            }
        }
    }

    /// What the look-up process has done so far, for all workers.
    pub(crate) async fn counters(&self) -> Option<Counters> {
        self.client.status(STATUS_TIME).await.ok()
    }
}

fn afar(config: &Config) -> bool {
    config.looks_up() && !in_memory(config)
}

fn cached(client: &LookupClient, settings: &Settings) -> Rc<Cached<LookupClient>> {
    let Remembered { memory, lifetime } = &settings.remembered;
    Rc::new(Cached::with_memory(client.clone(), memory.clone(), *lifetime))
}

impl Sources for Lookups {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        let cached = self.cached.borrow().clone();
        Box::pin(async move { cached.look_up(query, options).await })
    }

    fn at_hand(&self, query: &Query, options: Options) -> Option<Found> {
        self.cached.borrow().at_hand(query, options)
    }
}
