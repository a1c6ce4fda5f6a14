//! The tables of policies and pins, as the validator asks for them: looked up in the database, kept while
//! it is unchanged. And the one thing that the network process writes: the first sight of a peer.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest;
use lru::LruCache;
use tlspool_identity::DoNai;
use tlspool_store::{Kind, PolicyRow, PolicySide, Store, StoreError};
use tlspool_validate::policy::Expression;
use tlspool_validate::sources::CredentialKind;
use tlspool_validate::{Applicable, Commit, Side, Tables};

use super::identities::{Identities, write};

/// Names whose policies, and whose pins, a worker remembers.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Identifies the policies of a session.
pub(crate) type PolicyDigest = [u8; 32];

/// A fingerprint, and when its pin ends in seconds since 1970.
type Pinned = (Vec<u8>, Option<i64>);

/// What was found in the tables since they last changed.
pub(crate) struct PolicyCache {
    /// Whether there is any policy for the remote side and for the local side, if that was looked up.
    any: [Option<bool>; 2],
    policies: LruCache<(Side, DoNai, Box<str>), Option<Arc<Applicable>>>,
    any_pins: Option<bool>,
    pins: LruCache<DoNai, Rc<[Pinned]>>,
}

impl Default for PolicyCache {
    fn default() -> Self {
        Self {
            any: [None; 2],
            policies: LruCache::new(REMEMBERED),
            any_pins: None,
            pins: LruCache::new(REMEMBERED),
        }
    }
}

/// The tables as one worker sees them.
pub(crate) struct WorkerTables<'a>(pub(crate) &'a RefCell<Identities>);

impl Tables for WorkerTables<'_> {
    fn policy(
        &self,
        side: Side,
        name: &DoNai,
        service: &str,
    ) -> Result<Option<Arc<Applicable>>, String> {
        let mut identities = self.0.borrow_mut();
        let (cache, store) = identities.policies().map_err(|error| error.to_string())?;
        cache.policy(store, side, name, service)
    }

    fn pins(&self, name: &DoNai) -> Result<Vec<Vec<u8>>, String> {
        let mut identities = self.0.borrow_mut();
        let (cache, store) = identities.policies().map_err(|error| error.to_string())?;
        cache.pins(store, name).map_err(|error| error.to_string())
    }
}

impl WorkerTables<'_> {
    /// Identifies the policies that apply between these names, as far as they are known.
    pub(crate) fn digest(
        &self,
        remote: Option<&DoNai>,
        local: Option<&DoNai>,
        service: &str,
    ) -> PolicyDigest {
        let mut context = digest::Context::new(&digest::SHA256);
        for (side, name) in [(Side::Remote, remote), (Side::Local, local)] {
            let text = match name.map(|name| self.policy(side, name, service)) {
                None | Some(Ok(None)) => String::new(),
                Some(Ok(Some(applicable))) => applicable.expression.to_string(),
                Some(Err(error)) => error,
            };
            context.update(&(text.len() as u64).to_ne_bytes());
            context.update(text.as_bytes());
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        out
    }
}

impl PolicyCache {
    fn policy(
        &mut self,
        store: &Store,
        side: Side,
        name: &DoNai,
        service: &str,
    ) -> Result<Option<Arc<Applicable>>, String> {
        let text = |error: StoreError| error.to_string();
        let (any, stored) = match side {
            Side::Remote => (&mut self.any[0], PolicySide::Remote),
            Side::Local => (&mut self.any[1], PolicySide::Local),
        };
        if any.is_none() {
            *any = Some(store.has_policies(stored).map_err(text)?);
        }
        if *any == Some(false) {
            return Ok(None);
        }
        let asked = (side, name.clone(), service.into());
        if let Some(found) = self.policies.get(&asked) {
            return Ok(found.clone());
        }
        let row = store.policy_for(stored, name, service).map_err(text)?;
        let found = row.map(applicable).transpose()?.map(Arc::new);
        self.policies.put(asked, found.clone());
        Ok(found)
    }

    fn pins(&mut self, store: &Store, name: &DoNai) -> Result<Vec<Vec<u8>>, StoreError> {
        if self.any_pins.is_none() {
            self.any_pins = Some(store.has_pins()?);
        }
        if self.any_pins == Some(false) {
            return Ok(Vec::new());
        }
        let known = self.pins.get(name).cloned();
        let pins = if let Some(pins) = known {
            pins
        } else {
            let rows = store.pins_of(name)?;
            let pins: Rc<[Pinned]> =
                rows.into_iter().map(|row| (row.fingerprint, row.expires)).collect();
            self.pins.put(name.clone(), pins.clone());
            pins
        };
        let now = now();
        let valid = pins.iter().filter(|(_, expires)| expires.is_none_or(|end| end > now));
        Ok(valid.map(|(fingerprint, _)| fingerprint.clone()).collect())
    }
}

/// A row, with its expression read.
pub(crate) fn applicable(row: PolicyRow) -> Result<Applicable, String> {
    let expression = Expression::parse(&row.expression)
        .map_err(|error| format!("policy number {}: {error}", row.id))?;
    Ok(Applicable { selector: row.selector.to_string(), service: row.service, expression })
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Stores what is to be remembered of a handshake that has succeeded. An error means that it must not
/// go on: what was accepted at first sight would be accepted again and again.
pub(crate) async fn commit(
    identities: &RefCell<Identities>,
    commits: Vec<Commit>,
) -> Result<(), String> {
    if commits.is_empty() {
        return Ok(());
    }
    let written = write(identities, |store| {
        commits.into_iter().try_for_each(|commit| {
            let Commit::Pin { name, kind, fingerprint } = commit;
            let kind = match kind {
                CredentialKind::X509 => Kind::X509,
                CredentialKind::OpenPgp => Kind::OpenPgp,
            };
            store.pin_first_sight(&name, kind, &fingerprint, now())?;
            tracing::info!(remote = %name, "pinned at first sight");
            Ok(())
        })
    });
    written.await.map_err(|why| format!("the first sight of the peer cannot be pinned: {why}"))
}
