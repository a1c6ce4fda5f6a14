//! Remembering in this process: the answers used last, bounded in number and bytes. Threads may share one.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use tlspool_validate::sources::{Answer, Outcome, Query};

/// What an entry costs beside its bytes, about.
const OVERHEAD: usize = 256;

/// An answer, for a while.
#[derive(Debug)]
struct Entry {
    outcome: Outcome,
    until: Instant,
    size: usize,
}

/// The answers used last.
#[derive(Debug)]
pub struct Memory {
    table: Mutex<Table>,
    most_bytes: usize,
    hits: AtomicU64,
}

#[derive(Debug)]
struct Table {
    entries: LruCache<Query, Entry>,
    bytes: usize,
}

impl Memory {
    /// For so many answers, of so many bytes altogether.
    pub fn new(most_entries: usize, most_bytes: usize) -> Self {
        let most = NonZeroUsize::new(most_entries).unwrap_or(NonZeroUsize::MIN);
        let table = Table { entries: LruCache::new(most), bytes: 0 };
        Self { table: Mutex::new(table), most_bytes, hits: AtomicU64::new(0) }
    }

    /// How many answers are remembered.
    pub fn entries(&self) -> usize {
        self.table.lock().entries.len()
    }

    /// How many questions were answered from here.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// What is remembered, and for how much longer.
    pub(super) fn get(&self, query: &Query) -> Option<(Outcome, Duration)> {
        let table = &mut *self.table.lock();
        let entry = table.entries.get(query)?;
        let left = entry.until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Some((entry.outcome.clone(), left));
        }
        table.remove(query);
        None
    }

    pub(super) fn put(&self, query: &Query, outcome: &Outcome, lifetime: Duration) {
        let table = &mut *self.table.lock();
        table.remove(query);
        let size = OVERHEAD + query_size(query) + outcome_size(outcome);
        if size > self.most_bytes {
            return;
        }
        let until = Instant::now() + lifetime;
        let entry = Entry { outcome: outcome.clone(), until, size };
        table.bytes += size;
        if let Some((_, old)) = table.entries.push(query.clone(), entry) {
            table.bytes -= old.size;
        }
        while table.bytes > self.most_bytes
            && let Some((_, old)) = table.entries.pop_lru()
        {
            table.bytes -= old.size;
        }
    }
}

impl Table {
    fn remove(&mut self, query: &Query) {
        if let Some(old) = self.entries.pop(query) {
            self.bytes -= old.size;
        }
    }
}

fn query_size(query: &Query) -> usize {
    match query {
        Query::ServerTlsa { host: one, service: two, .. }
        | Query::ClientTlsa { domain: one, service: two } => one.len() + two.len(),
        Query::Directory { name, .. } => name.len(),
        Query::OpenPgpKey { name, fingerprint } => name.len() + fingerprint.len(),
        Query::Ocsp { url, request } => url.len() + request.len(),
        Query::Crl { url } => url.len(),
        Query::Authorize { remote, local, service, .. } => {
            remote.len() + local.len() + service.len()
        }
    }
}

fn outcome_size(outcome: &Outcome) -> usize {
    let all = |values: &[Vec<u8>]| values.iter().map(|value| 32 + value.len()).sum::<usize>();
    match outcome {
        Outcome::Present(Answer::Tlsa { records, reference_names }) => {
            records.iter().map(|tlsa| 32 + tlsa.data.len()).sum::<usize>()
                + reference_names.iter().map(|name| 32 + name.len()).sum::<usize>()
        }
        Outcome::Present(Answer::Directory { credentials, anchors }) => {
            all(credentials) + all(anchors)
        }
        Outcome::Present(Answer::OpenPgpKey(bytes) | Answer::Ocsp(bytes) | Answer::Crl(bytes)) => {
            bytes.len()
        }
        Outcome::Present(Answer::Authorization { by, why, .. }) => by.len() + why.len(),
        Outcome::Absent(why) | Outcome::Failed(why) => why.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crl(number: usize) -> Query {
        Query::Crl { url: format!("http://{number}/") }
    }

    fn present(length: usize) -> Outcome {
        Outcome::Present(Answer::Crl(vec![7; length]))
    }

    const LONG: Duration = Duration::from_mins(5);

    #[test]
    fn the_answers_used_last_are_remembered() {
        let memory = Memory::new(3, 1 << 20);
        for number in 0..3 {
            memory.put(&crl(number), &present(number), LONG);
        }
        assert!(memory.get(&crl(0)).is_some());
        memory.put(&crl(3), &present(3), LONG);
        let there: Vec<_> = (0..4).map(|number| memory.get(&crl(number)).is_some()).collect();
        assert_eq!(there, [true, false, true, true]);
        let (outcome, left) = memory.get(&crl(3)).unwrap();
        assert_eq!(outcome, present(3));
        assert!(left <= LONG && left > LONG / 2);
    }

    #[test]
    fn bytes_are_bounded_and_counted_right() {
        let memory = Memory::new(100, 10_000);
        for number in 0..100 {
            memory.put(&crl(number), &present(1000), LONG);
            memory.put(&crl(number), &present(1000), LONG);
            assert!(memory.table.lock().bytes <= 10_000);
        }
        assert!(memory.get(&crl(99)).is_some() && memory.get(&crl(80)).is_none());
        memory.put(&crl(99), &present(20_000), LONG);
        assert!(memory.get(&crl(99)).is_none());
        memory.put(&crl(98), &present(0), Duration::ZERO);
        assert!(memory.get(&crl(98)).is_none());
        let table = memory.table.lock();
        assert_eq!(table.bytes, table.entries.iter().map(|(_, entry)| entry.size).sum::<usize>());
    }
}
