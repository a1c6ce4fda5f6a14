//! May this peer, which has proved its name, have a session with us? Decided by the rules of the database,
//! after the policy has said who the peer is and before any plaintext moves. Used by handshakes ([`super::host`])
//! and by `tlspool authorize check`.
//!
//! A denial stands whoever speaks besides; what cannot be read denies.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lru::LruCache;
use serde::{Serialize, Serializer};
use tlspool_identity::DoNai;
use tlspool_store::{AuthorizationRow, Effect, Role, Store, StoreError};

use super::identities::Identities;
use crate::config::{Authorization, Ruling};

/// Questions of which a worker remembers the rule that decides.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Who meets whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Meeting {
    /// Our role.
    pub(crate) role: Role,
    /// The peer's name, if it has shown one.
    pub(crate) remote: Option<DoNai>,
    /// Ours, if we have one here.
    pub(crate) local: Option<DoNai>,
    /// The service; empty if none was named.
    pub(crate) service: Box<str>,
}

/// What one of those who decide says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Says {
    /// It may.
    Allow,
    /// It may not.
    Deny,
    /// Nothing.
    Silent,
    /// It could not be understood.
    Failed,
}

/// One who was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Step {
    /// Who.
    pub(crate) by: String,
    /// What it says.
    pub(crate) says: Says,
    /// In words; may be empty.
    pub(crate) why: String,
    /// How long it took.
    #[serde(rename = "elapsed_us", serialize_with = "micros")]
    pub(crate) elapsed: Duration,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Whether there may be a session.
    pub(crate) allowed: bool,
    /// All who were asked, in that order. The last one of a denial has denied it.
    pub(crate) steps: Vec<Step>,
}

/// Rules that were found since the table last changed.
pub(crate) struct AuthorizationCache {
    /// Whether there is any rule, if that was looked up.
    any: Option<bool>,
    found: LruCache<Meeting, Option<Rc<AuthorizationRow>>>,
}

impl Default for AuthorizationCache {
    fn default() -> Self {
        Self { any: None, found: LruCache::new(REMEMBERED) }
    }
}

impl AuthorizationCache {
    /// The rule that decides.
    fn rule(
        &mut self,
        store: &Store,
        meeting: &Meeting,
    ) -> Result<Option<Rc<AuthorizationRow>>, StoreError> {
        if self.any.is_none() {
            self.any = Some(store.has_authorizations()?);
        }
        if self.any == Some(false) {
            return Ok(None);
        }
        if let Some(found) = self.found.get(meeting) {
            return Ok(found.clone());
        }
        let Meeting { role, remote, local, service } = meeting;
        let rows = store.authorizations_for(remote.as_ref(), local.as_ref(), service, *role)?;
        let found = rows.into_iter().next().map(Rc::new);
        self.found.put(meeting.clone(), found.clone());
        Ok(found)
    }
}

/// Decides.
pub(crate) fn decide(
    settings: &Authorization,
    tables: &RefCell<Identities>,
    meeting: &Meeting,
) -> Decision {
    let mut steps = Vec::new();
    let begun = Instant::now();
    let says = rule(tables, meeting, begun);
    let said = says.as_ref().map_or(Says::Silent, |step| step.says);
    steps.extend(says);
    match said {
        Says::Allow => Decision { allowed: true, steps },
        Says::Deny | Says::Failed => Decision { allowed: false, steps },
        Says::Silent => {
            let allowed = settings.default == Ruling::Allow;
            let says = if allowed { Says::Allow } else { Says::Deny };
            let why = "nobody has a word about it".to_owned();
            let by = "authorization.default".to_owned();
            steps.push(Step { by, says, why, elapsed: Duration::ZERO });
            Decision { allowed, steps }
        }
    }
}

/// What the rules say; none if there are no rules.
fn rule(tables: &RefCell<Identities>, meeting: &Meeting, begun: Instant) -> Option<Step> {
    let step = |by: &str, says, why: String| {
        Some(Step { by: by.to_owned(), says, why, elapsed: begun.elapsed() })
    };
    let mut identities = tables.borrow_mut();
    let found = match identities.authorizations() {
        // Without a database there are none.
        Err(StoreError::Missing { .. }) => return None,
        Err(error) => Err(error),
        Ok((cache, store)) => match cache.rule(store, meeting) {
            Ok(None) if cache.any == Some(false) => return None,
            found => found,
        },
    };
    match found {
        Ok(Some(row)) => {
            let says = match row.effect {
                Effect::Allow => Says::Allow,
                Effect::Deny => Says::Deny,
            };
            step(&format!("rule {}", row.id), says, describe(&row))
        }
        Ok(None) => step("rules", Says::Silent, "none matches".to_owned()),
        Err(error) => step("rules", Says::Failed, error.to_string()),
    }
}

/// A rule in a few words.
pub(crate) fn describe(row: &AuthorizationRow) -> String {
    let mut text = format!("{} {}", row.effect, row.remote);
    if let Some(local) = &row.local {
        let _ = write!(text, " to {local}");
    }
    if let Some(service) = &row.service {
        let _ = write!(text, " for {service}");
    }
    if row.roles != tlspool_store::Roles::Both {
        let _ = write!(text, " as {}", row.roles);
    }
    if !row.comment.is_empty() {
        let _ = write!(text, " ({})", row.comment);
    }
    text
}

impl Decision {
    /// Who decided, and why, for who is refused; names the peer.
    pub(crate) fn refusal(&self, meeting: &Meeting) -> String {
        let peer = meeting.remote.as_ref().map_or("a peer without a name", DoNai::as_str);
        match self.steps.last() {
            Some(step) => format!("{peer} is not authorized, by {step}"),
            None => format!("{peer} is not authorized"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.why.as_str() {
            "" => f.write_str(&self.by),
            why => write!(f, "{}: {why}", self.by),
        }
    }
}

impl fmt::Display for Says {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Silent => "silent",
            Self::Failed => "failed",
        })
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn micros<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
}
