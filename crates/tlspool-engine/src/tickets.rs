//! Session resumption that never crosses identities, applications or policies.
//!
//! A *scope* is a digest of everything that must be equal for a session to be resumed: who the
//! application is, the local and remote identity, the flags that shape validation, and the
//! generation of the trust anchors. Server tickets carry their scope as associated data, client
//! sessions are stored under it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use lru::LruCache;
use parking_lot::{Mutex, RwLock};
use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::server::ProducesTickets;

use crate::ask::Credential;
use crate::coroutine::context;

/// A digest of all that must be equal for a session to be resumed.
pub type Scope = [u8; 32];

/// TLS 1.3 tickets kept per scope; each is used once (RFC 8446 appendix C.4).
const TICKETS_PER_SCOPE: usize = 4;

/// Bytes of a key's name, in front of a ticket.
const KEY_NAME: usize = 8;

/// Stateless tickets under keys that rotate.
pub(crate) struct Ticketer {
    lifetime: Duration,
    keys: RwLock<Keys>,
}

struct Keys {
    current: TicketKey,
    previous: Option<TicketKey>,
}

struct TicketKey {
    name: [u8; KEY_NAME],
    key: LessSafeKey,
    made: Instant,
}

impl TicketKey {
    fn new() -> Option<Self> {
        let mut secret = zeroize::Zeroizing::new([0; 32]);
        let mut name = [0; KEY_NAME];
        rand::fill(secret.as_mut()).ok()?;
        rand::fill(&mut name).ok()?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret.as_ref()).ok()?);
        Some(Self { name, key, made: Instant::now() })
    }
}

impl Ticketer {
    /// Tickets that live for `lifetime`; keys rotate at half of it. `None` without randomness.
    pub(crate) fn new(lifetime: Duration) -> Option<Self> {
        let current = TicketKey::new()?;
        Some(Self { lifetime, keys: RwLock::new(Keys { current, previous: None }) })
    }

    fn rotate(&self) {
        if self.keys.read().current.made.elapsed() < self.lifetime / 2 {
            return;
        }
        let Some(fresh) = TicketKey::new() else { return };
        let mut keys = self.keys.write();
        if keys.current.made.elapsed() >= self.lifetime / 2 {
            keys.previous = Some(std::mem::replace(&mut keys.current, fresh));
        }
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer")
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let scope = context()?.scope();
        self.rotate();
        let keys = self.keys.read();
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket =
            Vec::with_capacity(KEY_NAME + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&keys.current.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let tag = keys
            .current
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(scope),
                &mut ticket[KEY_NAME + NONCE_LEN..],
            )
            .ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let scope = context()?.scope();
        let (name, rest) = ticket.split_at_checked(KEY_NAME)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys.read();
        let key = std::iter::once(&keys.current)
            .chain(&keys.previous)
            .find(|key| key.name == *name && key.made.elapsed() < self.lifetime)?;
        let mut plain = sealed.to_vec();
        let opened = key
            .key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(scope), &mut plain)
            .ok()?
            .len();
        plain.truncate(opened);
        Some(plain)
    }
}

/// Sessions this machine may resume as a client, a bounded number of scopes.
pub(crate) struct ClientSessions(Mutex<LruCache<Scope, ClientSession>>);

#[derive(Default)]
struct ClientSession {
    key_exchange: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: Vec<Tls13ClientSessionValue>,
    /// The certificate that the sessions were established with.
    shown: Option<Arc<Credential>>,
}

impl ClientSessions {
    pub(crate) fn new(scopes: std::num::NonZeroUsize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(LruCache::new(scopes))))
    }

    fn with<R>(&self, work: impl FnOnce(&mut ClientSession) -> R) -> Option<R> {
        let scope = context()?.scope();
        Some(work(self.0.lock().get_or_insert_mut(scope, ClientSession::default)))
    }

    /// Stores a session, and what it has shown of us. Sessions that have shown something else go.
    fn store(&self, work: impl FnOnce(&mut ClientSession)) {
        let shown = context().and_then(|context| context.shown());
        self.with(|session| {
            let of = |shown: &Option<Arc<Credential>>| shown.as_ref().map(|c| c.fingerprint);
            if of(&session.shown) != of(&shown) {
                *session = ClientSession {
                    key_exchange: session.key_exchange,
                    ..ClientSession::default()
                };
            }
            session.shown = shown;
            work(session);
        });
    }

    /// A session to resume; what it has shown of us is what the resumed one shows.
    fn offer<R>(&self, work: impl FnOnce(&mut ClientSession) -> Option<R>) -> Option<R> {
        let (offered, shown) =
            self.with_existing(|session| Some((work(session)?, session.shown.clone())))?;
        context()?.set_shown(shown);
        Some(offered)
    }

    fn with_existing<R>(&self, work: impl FnOnce(&mut ClientSession) -> Option<R>) -> Option<R> {
        let scope = context()?.scope();
        self.0.lock().get_mut(&scope).and_then(work)
    }
}

impl fmt::Debug for ClientSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientSessions")
    }
}

/// The server name is part of the scope already, so these ignore it.
impl ClientSessionStore for ClientSessions {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.with(|session| session.key_exchange = Some(group));
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.with_existing(|session| session.key_exchange)
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.store(|session| session.tls12 = Some(value));
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.offer(|session| session.tls12.clone())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.with_existing(|session| session.tls12.take());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.store(|session| {
            if session.tls13.len() == TICKETS_PER_SCOPE {
                session.tls13.remove(0);
            }
            session.tls13.push(value);
        });
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.offer(|session| session.tls13.pop())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::coroutine::within;
    use crate::handshake::Context;

    fn scope(n: u8) -> Rc<Context> {
        Rc::new(Context::new([n; 32], false))
    }

    #[test]
    fn a_ticket_opens_only_in_its_scope() {
        let ticketer = Ticketer::new(Duration::from_mins(1)).unwrap();
        let ticket = within(scope(1), || ticketer.encrypt(b"state")).unwrap();
        assert_eq!(within(scope(1), || ticketer.decrypt(&ticket)).unwrap(), b"state");
        assert!(within(scope(2), || ticketer.decrypt(&ticket)).is_none());
        let mut bent = ticket.clone();
        bent[KEY_NAME + NONCE_LEN] ^= 1;
        assert!(within(scope(1), || ticketer.decrypt(&bent)).is_none());
        for cut in 0..ticket.len() {
            assert!(within(scope(1), || ticketer.decrypt(&ticket[..cut])).is_none());
        }
    }

    #[test]
    fn keys_rotate_and_then_expire() {
        let ticketer = Ticketer::new(Duration::ZERO).unwrap();
        let ticket = within(scope(1), || ticketer.encrypt(b"state")).unwrap();
        assert!(within(scope(1), || ticketer.decrypt(&ticket)).is_none());
        let first = ticketer.keys.read().current.name;
        ticketer.rotate();
        assert_ne!(ticketer.keys.read().current.name, first);
    }
}
