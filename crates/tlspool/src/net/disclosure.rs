//! Whom a client shows when its program named nobody: what the table `disclosure` says, and what the
//! program says that chooses (see [`super::chooser`]). Nobody, unless one of them names somebody.
//!
//! Both need to know the remote, so nobody is shown to a remote that the program did not name, or whose
//! name it wants to ignore. A name that is found here is worth no more than one that the program gives:
//! access rules say whether it may be used.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use lru::LruCache;
use tlspool_engine::{CertificateType, Refusal};
use tlspool_identity::{DoNai, DomainPart, Selector};
use tlspool_store::{AccessError, LocalIdentity, Role, Store, StoreError};
use tlspool_wire::{LidentryFlags as Flags, StarttlsFlags};

use super::chooser::{Choice, NoChoice, Question, Remember};
use super::host::{RequestHost, kind_of};
use super::identities::{Identities, write};
use super::limits::Uid;

/// Remotes whose rows a worker remembers.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Names that are offered to whoever chooses, beside those of the table.
const CANDIDATES: usize = 64;

/// How often it is looked whether an identity has come that was announced.
const ARRIVAL_CHECK: Duration = Duration::from_millis(100);

/// What the table says about one remote and one user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Steps from the remote's name up to the selector.
    pub(crate) step: usize,
    pub(crate) selector: Selector,
    /// In order; none: nobody, which ends the list.
    pub(crate) names: Vec<Option<DoNai>>,
}

/// What was found in the table since it last changed.
pub(crate) struct DisclosureCache {
    any: Option<bool>,
    listed: LruCache<(Uid, DoNai), Option<Arc<Listed>>>,
}

impl Default for DisclosureCache {
    fn default() -> Self {
        Self { any: None, listed: LruCache::new(REMEMBERED) }
    }
}

impl DisclosureCache {
    fn listed(
        &mut self,
        store: &Store,
        uid: Uid,
        remote: &DoNai,
    ) -> Result<Option<Arc<Listed>>, StoreError> {
        if self.any.is_none() {
            self.any = Some(store.has_disclosures()?);
        }
        if self.any == Some(false) {
            return Ok(None);
        }
        let asked = (uid, remote.clone());
        if let Some(known) = self.listed.get(&asked) {
            return Ok(known.clone());
        }
        let found = store.disclosed(remote, uid)?.and_then(|disclosed| {
            let selector = disclosed.rows.first()?.remote.clone();
            let names = disclosed.rows.into_iter().map(|row| row.local).collect();
            Some(Arc::new(Listed { step: disclosed.step, selector, names }))
        });
        self.listed.put(asked, found.clone());
        Ok(found)
    }
}

/// How a client finds out whom to show.
#[derive(Debug, Default)]
pub(crate) struct Disclosure {
    /// What the table says, if that may be asked at all.
    listed: Option<Arc<Listed>>,
    /// Names of the table that the program may use, in order.
    usable: Vec<DoNai>,
    /// A program is to choose.
    asks: bool,
    /// What it has chosen.
    chosen: Option<Choice>,
}

/// Identifies what decides whom a client shows.
pub(crate) type DisclosureDigest = [u8; 32];

impl Disclosure {
    /// A resumed session shows who was shown when it began; it must not when somebody else would be
    /// shown now. `unique` is a number that no other handshake has.
    pub(crate) fn digest(&self, unique: impl FnOnce() -> u64) -> DisclosureDigest {
        let mut context = digest::Context::new(&digest::SHA256);
        for name in &self.usable {
            context.update(name.as_str().as_bytes());
            context.update(b"\n");
        }
        if self.asks {
            // Who is to be asked is asked each time.
            context.update(&unique().to_ne_bytes());
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        out
    }

    /// Whether what was chosen is to be made.
    pub(crate) fn is_on_the_fly(&self) -> bool {
        self.chosen.as_ref().is_some_and(|choice| choice.on_the_fly)
    }

    /// Whether somebody may be shown whom the program did not name.
    pub(crate) fn is_open(&self) -> bool {
        self.asks || !self.usable.is_empty()
    }
}

/// Whether a registration with these flags leaves this entry of the table to the pool.
fn may_skip(flags: Flags, remote: &DoNai, listed: &Listed) -> bool {
    if !flags.contains(Flags::SKIP_DBENTRY) {
        return false;
    }
    let (level, without_user) = match remote.user() {
        Some(_) => (listed.step / 2, listed.step % 2 == 1),
        None => (listed.step, false),
    };
    let same = flags.contains(Flags::SKIP_DOMAIN_SAME);
    let one_up = flags.contains(Flags::SKIP_DOMAIN_ONEUP);
    let level_fits = !same && !one_up || same && level == 0 || one_up && level == 1;
    level_fits
        && !(without_user && flags.contains(Flags::SKIP_USER))
        && !(listed.selector.domain() == DomainPart::Any && flags.contains(Flags::SKIP_NOTROOT))
}

impl RequestHost {
    /// Finds out what decides whom a client shows, and returns the rows that it may come to, best first:
    /// they say which engine to use. An error is for the program, before the peer is bothered.
    pub(crate) fn prepare_disclosure(&mut self) -> Result<Rc<Vec<LocalIdentity>>, Refusal> {
        self.disclosure = Disclosure::default();
        if self.role == Role::Server {
            return Ok(Rc::default());
        }
        let ignored = self.request.flags.contains(StarttlsFlags::IGNORE_REMOTEID);
        let remote = self.remote.clone().filter(|_| !ignored);
        let named = self.local.clone();
        let rows = match &named {
            Some(name) if self.wants_on_the_fly() => self.may_make(name).map(|()| Rc::default())?,
            Some(name) => self.look_up(Some(name))?,
            None => Rc::default(),
        };
        // A program that names somebody has decided, unless it wants to be asked what is made of that.
        let Some(remote) = remote.filter(|_| named.is_none() || self.wants_check()) else {
            return Ok(rows);
        };
        let uid = self.asker.peer.uid;
        let listed = listed(&self.worker.identities, uid, &remote)
            .map_err(|error| self.refuse_access(&AccessError::Store(error)))?;
        let skips = |flags| listed.as_ref().is_some_and(|l| may_skip(flags, &remote, l));
        let asks = self.worker.shared.choosers.flags_for(uid).is_some_and(|flags| !skips(flags));
        let mut first = None;
        let mut usable = Vec::new();
        if named.is_none() {
            let names = listed.iter().flat_map(|listed| &listed.names);
            for name in names.map_while(Option::as_ref) {
                if let Some(rows) = self.may_show(name)? {
                    first.get_or_insert(rows);
                    usable.push(name.clone());
                }
            }
        }
        self.disclosure = Disclosure { listed, usable, asks, chosen: None };
        Ok(if named.is_some() { rows } else { first.unwrap_or_default() })
    }

    /// The rows of a name of the table, if the program may use it.
    fn may_show(&mut self, name: &DoNai) -> Result<Option<Rc<Vec<LocalIdentity>>>, Refusal> {
        let found =
            self.worker.identities.borrow_mut().look_up(&self.asker, Some(name), Role::Client);
        match found {
            Ok(rows) => Ok(Some(rows)),
            Err(error @ AccessError::Store(_)) => Err(self.refuse_access(&error)),
            Err(error) => {
                let client = &self.asker.peer;
                tracing::debug!(%client, reqid = self.reqid, "disclosure passes over: {error}");
                Ok(None)
            }
        }
    }

    /// Whom this client shows to a server that takes certificates of this type; none: nobody.
    pub(crate) async fn whom_to_show(
        &mut self,
        kind: CertificateType,
    ) -> Result<Option<DoNai>, Refusal> {
        let proposed = match self.choose_local().await? {
            Some(choice) => choice.local,
            None => match self.local.clone() {
                Some(local) => Some(local),
                None => self.first_of(kind)?,
            },
        };
        if self.wants_check() { self.check_localid(proposed.as_ref()).await } else { Ok(proposed) }
    }

    /// The first name of the table with a certificate of this type.
    fn first_of(&mut self, kind: CertificateType) -> Result<Option<DoNai>, Refusal> {
        let kind = kind_of(kind);
        for name in self.disclosure.usable.clone() {
            let rows = self.may_show(&name)?;
            if rows.is_some_and(|rows| rows.iter().any(|row| row.kind == kind)) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Has somebody choose, once a handshake; none if nobody is to be asked.
    async fn choose_local(&mut self) -> Result<Option<Choice>, Refusal> {
        if self.disclosure.chosen.is_some() || !self.disclosure.asks {
            return Ok(self.disclosure.chosen.clone());
        }
        let Some(remote) = self.remote.clone() else { return Ok(None) };
        let (worker, asker) = (self.worker.clone(), self.asker.clone());
        let uid = asker.peer.uid;
        let wanted = worker.shared.choosers.flags_for(uid);
        let candidates = if wanted.is_some_and(|flags| flags.contains(Flags::WANT_CANDIDATES)) {
            let found = worker.identities.borrow_mut().usable_names(&asker, CANDIDATES);
            found.map_err(|error| self.refuse_access(&AccessError::Store(error)))?
        } else {
            Vec::new()
        };
        let question = Question {
            uid,
            remote,
            proposed: self.local.clone(),
            listed: self.disclosure.listed.clone(),
            candidates,
            limit: worker.settings().config.limits.requests_per_client,
            deadline: self.deadline,
        };
        let client = &asker.peer;
        let choice = match worker.shared.choosers.ask(question).await {
            Ok(choice) => choice,
            // Nobody is there any more: it is as if nobody had been.
            Err(NoChoice::Unattended) => return Ok(None),
            Err(failure) => {
                tracing::warn!(%client, reqid = self.reqid, "{failure}");
                return Err(self.refuse(failure.error(), failure.to_string()));
            }
        };
        let local = choice.local.as_ref().map_or("", DoNai::as_str);
        tracing::info!(%client, reqid = self.reqid, local, "the local identity was chosen");
        if let Some(name) = choice.local.as_ref().filter(|_| choice.is_new && !choice.on_the_fly) {
            self.await_arrival(name).await?;
        }
        self.outcome.remember =
            choice.remember.clone().map(|remember| (remember, choice.local.clone()));
        self.disclosure.chosen = Some(choice.clone());
        Ok(Some(choice))
    }

    /// Waits until an identity is there that was announced, or the handshake's time is up.
    async fn await_arrival(&mut self, name: &DoNai) -> Result<(), Refusal> {
        loop {
            let found =
                self.worker.identities.borrow_mut().look_up(&self.asker, Some(name), Role::Client);
            match found {
                Ok(_) => return Ok(()),
                Err(AccessError::Unknown { .. } | AccessError::Denied { .. })
                    if self.deadline.is_none_or(|end| tokio::time::Instant::now() < end) =>
                {
                    tokio::time::sleep(ARRIVAL_CHECK).await;
                }
                Err(error) => return Err(self.refuse_access(&error)),
            }
        }
    }
}

fn listed(
    identities: &RefCell<Identities>,
    uid: Uid,
    remote: &DoNai,
) -> Result<Option<Arc<Listed>>, StoreError> {
    let mut identities = identities.borrow_mut();
    let (cache, store) = identities.disclosures()?;
    cache.listed(store, uid, remote)
}

/// Remembers a choice whose handshake has succeeded. That it cannot be is told in the log; the session
/// has nothing to do with it.
pub(crate) async fn remember(
    identities: &RefCell<Identities>,
    uid: Uid,
    choice: Option<(Remember, Option<DoNai>)>,
) {
    let Some((Remember { remote, place, reorder }, local)) = choice else { return };
    let shown = remote.to_string();
    let written = write(identities, move |store| {
        store.remember_disclosure(&remote, uid, local.as_ref(), place, reorder)
    });
    match written.await {
        Ok(()) => tracing::info!(remote = shown, uid, "remembered whom to show"),
        Err(error) => tracing::error!(remote = shown, uid, "a choice was not remembered: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skips(flags: Flags, remote: &str, step: usize) -> bool {
        let remote = DoNai::parse(remote).unwrap();
        let selector = remote.lookup_order().nth(step).unwrap();
        may_skip(flags, &remote, &Listed { step, selector, names: Vec::new() })
    }

    #[test]
    fn what_a_registration_skips() {
        let user = "john@cs.example.com"; // john@cs, @cs, john@.example, @.example, john@.com, ...
        let host = "cs.example.com"; // cs, .example.com, .com, .
        let cases: [(Flags, &str, &[usize]); 11] = [
            (Flags::default(), user, &[]),
            (Flags::WANT_DBENTRY, user, &[]),
            (Flags::SKIP_DBENTRY, user, &[0, 1, 2, 3, 4, 5, 6, 7]),
            (Flags::SKIP_USER, user, &[0, 2, 4, 6]),
            (Flags::SKIP_USER, host, &[0, 1, 2, 3]),
            (Flags::SKIP_DOMAIN_SAME, user, &[0, 1]),
            (Flags::SKIP_DOMAIN_ONEUP, user, &[2, 3]),
            (Flags::SKIP_DOMAIN_SUB, host, &[0, 1]),
            (Flags::SKIP_NOTROOT, user, &[0, 1, 2, 3, 4, 5]),
            (Flags::SKIP_NOTROOT, host, &[0, 1, 2]),
            (Flags::SKIP_USER | Flags::SKIP_DOMAIN_SUB | Flags::SKIP_NOTROOT, user, &[0, 2]),
        ];
        for (flags, remote, skipped) in cases {
            let steps = DoNai::parse(remote).unwrap().lookup_order().count();
            let found: Vec<usize> = (0..steps).filter(|&step| skips(flags, remote, step)).collect();
            assert_eq!(found, skipped, "{flags:?} {remote}");
        }
    }

    #[test]
    fn who_is_asked_resumes_nothing() {
        let by_table = |names: &[&str]| Disclosure {
            usable: names.iter().map(|name| DoNai::parse(name).unwrap()).collect(),
            ..Disclosure::default()
        };
        let digest = |disclosure: &Disclosure| disclosure.digest(|| 1);
        let (one, two) = (by_table(&["a@a.example"]), by_table(&["a@a.example", "b@a.example"]));
        assert_eq!(digest(&one), by_table(&["a@a.example"]).digest(|| 2));
        assert_ne!(digest(&one), digest(&two));
        assert_ne!(digest(&one), digest(&by_table(&["b@a.example"])));
        assert_ne!(digest(&one), digest(&Disclosure::default()));
        let asks = Disclosure { asks: true, ..by_table(&["a@a.example"]) };
        assert_ne!(asks.digest(|| 1), asks.digest(|| 2));
        assert!(one.is_open() && asks.is_open() && !Disclosure::default().is_open());
    }
}
