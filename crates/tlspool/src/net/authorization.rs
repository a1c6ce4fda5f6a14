//! May this peer, which has proved its name, have a session with us? Decided by the rules of the database, then
//! by those whom the configuration names: a program, RADIUS servers. That is after the policy has said who the
//! peer is and before any plaintext moves. Used by handshakes ([`super::host`]) and by `tlspool authorize check`.
//!
//! A denial stands whoever speaks besides, and ends the asking; what cannot be read or understood denies.
//! Nothing is asked of others here: the look-up process does it.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lru::LruCache;
use serde::{Serialize, Serializer};
use tlspool_identity::DoNai;
use tlspool_store::{AuthorizationRow, Effect, Role, Roles, Store, StoreError};
use tlspool_validate::sources::{
    Answer, Authorizer, Caches, Opinion, Options, Outcome, Query, Sources,
};

use super::identities::Identities;
use crate::config::{Ask, Authorization, Config, Ruling};
use crate::lookups::{OwnLookUps, block_on};

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
    /// It could not be asked, or did not answer in time, and that counts as `allow`.
    Unreachable,
    /// It could not be asked or understood, and that denies.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// Decides; everything by `deadline`.
pub(crate) async fn decide(
    settings: &Authorization,
    tables: &RefCell<Identities>,
    sources: &dyn Sources,
    meeting: &Meeting,
    deadline: Instant,
) -> Decision {
    let mut decision = Decision { allowed: false, steps: Vec::new() };
    let mut decided = false;
    if let Some(step) = rule(tables, meeting, Instant::now()) {
        decided = step.says == Says::Allow;
        if decision.is_denied_by(step) {
            return decision;
        }
    }
    if settings.ask == Ask::Always || !decided {
        let authorizers = [
            settings.program.as_ref().map(|_| Authorizer::Program),
            settings.radius.as_ref().map(|_| Authorizer::Radius),
        ];
        for authorizer in authorizers.into_iter().flatten() {
            let step = ask(settings, sources, meeting, authorizer, deadline).await;
            decided |= matches!(step.says, Says::Allow | Says::Unreachable);
            if decision.is_denied_by(step) {
                return decision;
            }
        }
    }
    decision.allowed = true;
    if !decided {
        let says = match settings.default {
            Ruling::Allow => Says::Allow,
            Ruling::Deny => Says::Deny,
        };
        let (by, why) = ("authorization.default".to_owned(), "nobody has a word".to_owned());
        decision.allowed = !decision.is_denied_by(Step { by, says, why, elapsed: Duration::ZERO });
    }
    decision
}

/// Decides in this process, which asks by itself: for commands.
pub(crate) fn decide_here(config: &Config, meeting: &Meeting) -> Result<Decision, String> {
    let tables = RefCell::new(Identities::new(config.database.to_path_buf()));
    block_on(async {
        let sources = OwnLookUps::new(config)?;
        let deadline = Instant::now() + config.limits.handshake_timeout;
        Ok(decide(&config.authorization, &tables, &sources, meeting, deadline).await)
    })
}

/// Asks somebody outside of the pool.
async fn ask(
    settings: &Authorization,
    sources: &dyn Sources,
    meeting: &Meeting,
    authorizer: Authorizer,
    deadline: Instant,
) -> Step {
    let name = |name: &Option<DoNai>| name.as_ref().map_or_else(String::new, DoNai::to_string);
    let query = Query::Authorize {
        authorizer,
        remote: name(&meeting.remote),
        local: name(&meeting.local),
        service: meeting.service.to_string(),
        server: meeting.role == Role::Server,
    };
    // Nothing of it is ever remembered.
    let found = sources.look_up(&query, Options { deadline, caches: Caches::Ignore }).await;
    let whose = || match (authorizer, &settings.program) {
        (Authorizer::Program, Some(program)) => program.socket.to_string(),
        (Authorizer::Program, None) => "the program".to_owned(),
        (Authorizer::Radius, _) => "RADIUS".to_owned(),
    };
    let (by, says, why) = match found.outcome {
        Outcome::Present(Answer::Authorization { opinion, by, why }) => match opinion {
            Opinion::Allow => (by, Says::Allow, why),
            Opinion::Deny => (by, Says::Deny, why),
            Opinion::Unreachable if settings.unreachable == Ruling::Allow => {
                (by, Says::Unreachable, why)
            }
            Opinion::Unreachable => (by, Says::Failed, format!("unreachable: {why}")),
        },
        Outcome::Present(_) => (whose(), Says::Failed, "another kind of answer".to_owned()),
        Outcome::Absent(_) => (whose(), Says::Silent, String::new()),
        Outcome::Failed(why) => (whose(), Says::Failed, why),
    };
    Step { by, says, why, elapsed: found.elapsed }
}

/// What the rules say; none if there are no rules.
fn rule(tables: &RefCell<Identities>, meeting: &Meeting, begun: Instant) -> Option<Step> {
    let step = |by: &str, says, why: String| {
        Some(Step { by: by.to_owned(), says, why, elapsed: begun.elapsed() })
    };
    let mut identities = tables.borrow_mut();
    let found = match identities.authorizations() {
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
    if row.roles != Roles::Both {
        let _ = write!(text, " as {}", row.roles);
    }
    if !row.comment.is_empty() {
        let _ = write!(text, " ({})", row.comment);
    }
    text
}

impl Decision {
    /// Takes a step down; returns whether it denies.
    fn is_denied_by(&mut self, step: Step) -> bool {
        let denies = matches!(step.says, Says::Deny | Says::Failed);
        self.steps.push(step);
        denies
    }

    /// Who decided, and why, for who is refused; names the peer.
    pub(crate) fn refusal(&self, meeting: &Meeting) -> String {
        let peer = meeting.remote.as_ref().map_or("a peer without a name", DoNai::as_str);
        match self.steps.last() {
            Some(step) => format!("{peer} is not authorized, by {step}"),
            None => format!("{peer} is not authorized"),
        }
    }
}

impl fmt::Display for Decision {
    /// A line each; the last one says what came of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for step in &self.steps {
            let millis = step.elapsed.as_secs_f64() * 1000.0;
            writeln!(f, "authorization: {}, by {step} [{millis:.1} ms]", step.says)?;
        }
        writeln!(f, "authorization: {}", if self.allowed { "allowed" } else { "denied" })
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
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
        })
    }
}

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde calls it
fn micros<S: Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
