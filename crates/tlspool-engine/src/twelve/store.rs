//! What `tls12` needs to resume sessions: ticket keys that rotate, and sessions of ours as a client.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use tls12::dtls::{Cookies, Verdict};
use tls12::{ClientSession, TicketKey, TicketKeys};

use crate::ask::Credential;
use crate::tickets::Scope;

/// How long a DTLS cookie is good: some round trips.
const COOKIE_LIFETIME: Duration = Duration::from_mins(1);

/// Shared by all handshakes.
pub(crate) struct Store {
    keys: Mutex<Option<Rotating>>,
    sessions: Option<Mutex<LruCache<Scope, Kept>>>,
    lifetime: Duration,
    cookies: Mutex<Cookies>,
}

struct Rotating {
    keys: Arc<TicketKeys>,
    /// When the current key was made.
    made: Instant,
    /// The same of the previous one, if there is one.
    previous: Option<Instant>,
}

struct Kept {
    session: ClientSession,
    shown: Option<Arc<Credential>>,
    since: Instant,
}

impl Store {
    /// Without `tickets`, a server gives none.
    pub(crate) fn new(
        tickets: bool,
        lifetime: Duration,
        sessions: Option<NonZeroUsize>,
    ) -> Result<Self, tls12::Error> {
        let keys = if tickets { Some(Rotating::new(lifetime)?) } else { None };
        let sessions = sessions.map(|scopes| Mutex::new(LruCache::new(scopes)));
        let cookies = Cookies::new(COOKIE_LIFETIME, Instant::now())
            .map_err(|_| tls12::Error::Internal("no random bytes"))?;
        Ok(Self { keys: Mutex::new(keys), sessions, lifetime, cookies: Mutex::new(cookies) })
    }

    /// Judges the first datagram of a peer (RFC 6347 section 4.2.1).
    pub(crate) fn judge(&self, datagram: &[u8], address: &[u8], out: &mut [u8]) -> Verdict {
        self.cookies.lock().respond(datagram, address, Instant::now(), out)
    }

    /// The keys in use; they rotate at half the lifetime of a ticket.
    pub(crate) fn ticket_keys(&self) -> Option<Arc<TicketKeys>> {
        let mut keys = self.keys.lock();
        let rotating = keys.as_mut()?;
        rotating.turn(self.lifetime);
        Some(rotating.keys.clone())
    }

    /// Whether sessions of ours as a client are kept.
    pub(crate) fn keeps_sessions(&self) -> bool {
        self.sessions.is_some()
    }

    /// Keeps a session to resume, and what it has shown of us.
    pub(crate) fn keep(
        &self,
        scope: Scope,
        session: ClientSession,
        shown: Option<Arc<Credential>>,
    ) {
        if let Some(sessions) = &self.sessions {
            sessions.lock().put(scope, Kept { session, shown, since: Instant::now() });
        }
    }

    /// A session to resume.
    pub(crate) fn offer(&self, scope: &Scope) -> Option<(ClientSession, Option<Arc<Credential>>)> {
        let mut sessions = self.sessions.as_ref()?.lock();
        let kept = sessions.get(scope)?;
        let hint = Duration::from_secs(kept.session.lifetime().into());
        let lifetime = if hint.is_zero() { self.lifetime } else { hint.min(self.lifetime) };
        if kept.since.elapsed() >= lifetime {
            sessions.pop(scope);
            return None;
        }
        Some((kept.session.clone(), kept.shown.clone()))
    }
}

impl Rotating {
    fn new(lifetime: Duration) -> Result<Self, tls12::Error> {
        let keys = TicketKeys {
            current: Arc::new(TicketKey::generate()?),
            previous: Vec::new(),
            lifetime: u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX),
        };
        Ok(Self { keys: Arc::new(keys), made: Instant::now(), previous: None })
    }

    /// No ticket outlives its lifetime, however long nobody came: a key is good for as long.
    fn turn(&mut self, lifetime: Duration) {
        // Without randomness the old key serves on.
        if self.made.elapsed() >= lifetime / 2
            && let Ok(mut next) = Self::new(lifetime)
        {
            next.keep(&self.keys.current, self.made);
            *self = next;
        }
        if self.previous.is_some_and(|made| made.elapsed() >= lifetime) {
            Arc::make_mut(&mut self.keys).previous.clear();
            self.previous = None;
        }
    }

    /// Tickets under this key are taken, too.
    fn keep(&mut self, key: &Arc<TicketKey>, made: Instant) {
        Arc::make_mut(&mut self.keys).previous = vec![key.clone()];
        self.previous = Some(made);
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_for_as_long_as_a_ticket_may_live() {
        let lifetime = Duration::from_mins(2);
        let ago =
            |minutes: u64| Instant::now().checked_sub(Duration::from_secs(60 * minutes)).unwrap();
        let mut rotating = Rotating::new(lifetime).unwrap();
        rotating.turn(lifetime);
        assert!(rotating.keys.previous.is_empty() && rotating.previous.is_none());
        let first = rotating.keys.current.clone();
        rotating.made = ago(1);
        rotating.turn(lifetime);
        assert!(Arc::ptr_eq(&rotating.keys.previous[0], &first));
        // In use, but past its time.
        rotating.previous = Some(ago(2));
        rotating.turn(lifetime);
        assert!(rotating.keys.previous.is_empty());
        // Nobody came for long.
        rotating.made = ago(10);
        rotating.turn(lifetime);
        assert!(rotating.keys.previous.is_empty() && rotating.previous.is_none());
    }
}
