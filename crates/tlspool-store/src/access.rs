//! The table `access`: which local user, group or program may use which local names.
//!
//! Root and the owner of the database file may use every name. For anyone else a rule must say so:
//! the selectors of the name are tried from concrete to general, and the first that has any rule
//! decides. So a rule for `@example.com` covers all its users, until one for `john@example.com`
//! takes John out and gives him to whom it names.
//!
//! A rule with a program holds only for callers whose executable is known and is that one. That keeps
//! honest programs apart; it is no fence against a user who can run a debugger.

use std::path::Path;

use rusqlite::params;
use tlspool_identity::{DoNai, Selector};

use crate::identities::found;
use crate::{LocalIdentity, Role, Store, StoreError};

/// How many names are looked through for the only one a caller may use. Where there are more,
/// nobody expects the pool to guess.
const SEARCH_LIMIT: usize = 1000;

/// Who asks, as SO_PEERCRED and SO_PEERGROUPS say.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The effective uid.
    pub uid: u32,
    /// The effective gid and the supplementary ones.
    pub gids: &'a [u32],
    /// The executable (`/proc/PID/exe`), if the pool could learn it.
    pub program: Option<&'a Path>,
}

/// Whom a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A user, by uid.
    User(u32),
    /// The members of a group, by gid.
    Group(u32),
    /// Everyone who can connect to the socket.
    Anyone,
}

/// A row of `access`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// The row's number (0 in a rule to add).
    pub id: i64,
    /// The local names.
    pub selector: Selector,
    /// Who may use them.
    pub subject: Subject,
    /// With which program; none: any.
    pub program: Option<String>,
}

/// Why a caller gets no identity.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Not permitted. The text is short enough for a record of the socket protocol with most names.
    #[error("uid {uid} may not use {name}; permit: tlspool access add {name} --user {uid}")]
    Denied {
        /// The local name.
        name: DoNai,
        /// Who asked.
        uid: u32,
    },
    /// No such identity, or none for this role.
    #[error("no local identity {name} for a {role}; see: tlspool identity list")]
    Unknown {
        /// The local name.
        name: DoNai,
        /// Our role.
        role: Role,
    },
    /// Nobody named an identity, and this caller may use none.
    #[error("uid {uid} may use no {role} identity; see: tlspool access add --help")]
    None {
        /// Who asked.
        uid: u32,
        /// Our role.
        role: Role,
    },
    /// Nobody named an identity, and there are several.
    #[error("several {role} identities could be used: name one, or flag one as default")]
    Several {
        /// Our role.
        role: Role,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Subject {
    fn columns(self) -> (&'static str, i64) {
        match self {
            Self::User(uid) => ("user", uid.into()),
            Self::Group(gid) => ("group", gid.into()),
            Self::Anyone => ("anyone", -1),
        }
    }

    fn from_columns(kind: &str, id: i64) -> Option<Self> {
        match (kind, u32::try_from(id)) {
            ("user", Ok(uid)) => Some(Self::User(uid)),
            ("group", Ok(gid)) => Some(Self::Group(gid)),
            ("anyone", _) => Some(Self::Anyone),
            _ => None,
        }
    }

    fn covers(self, caller: &Caller<'_>) -> bool {
        match self {
            Self::User(uid) => uid == caller.uid,
            Self::Group(gid) => caller.gids.contains(&gid),
            Self::Anyone => true,
        }
    }
}

impl AccessRule {
    /// Whether the rule is for `caller`.
    pub fn covers(&self, caller: &Caller<'_>) -> bool {
        let program = self.program.as_deref().map(Path::new);
        self.subject.covers(caller) && program.is_none_or(|p| caller.program == Some(p))
    }
}

impl Store {
    /// Whether `caller` may use the local name `name` (which need not exist).
    pub fn check_access(&self, caller: &Caller<'_>, name: &DoNai) -> Result<(), AccessError> {
        if self.permits(caller, name)? {
            return Ok(());
        }
        Err(AccessError::Denied { name: name.clone(), uid: caller.uid })
    }

    /// The identities named `name` that `caller` may use as `role`: at least one.
    pub fn candidates(
        &self,
        caller: &Caller<'_>,
        name: &DoNai,
        role: Role,
    ) -> Result<Vec<LocalIdentity>, AccessError> {
        self.check_access(caller, name)?;
        let found = self.local_identities(name, role)?;
        if found.is_empty() {
            return Err(AccessError::Unknown { name: name.clone(), role });
        }
        Ok(found)
    }

    /// The identities to use when neither the application nor the peer named one: those of the first
    /// default that `caller` may use, else those of the only name that it may use.
    pub fn only_candidates(
        &self,
        caller: &Caller<'_>,
        role: Role,
    ) -> Result<Vec<LocalIdentity>, AccessError> {
        for default in self.default_identities(role)? {
            if self.permits(caller, &default.name)? {
                return Ok(self.local_identities(&default.name, role)?);
            }
        }
        let names = self.names(role, SEARCH_LIMIT + 1)?;
        let mut usable = None;
        for name in &names {
            if self.permits(caller, name)? && usable.replace(name).is_some() {
                return Err(AccessError::Several { role });
            }
        }
        match usable {
            _ if names.len() > SEARCH_LIMIT => Err(AccessError::Several { role }),
            Some(name) => Ok(self.local_identities(name, role)?),
            None => Err(AccessError::None { uid: caller.uid, role }),
        }
    }

    /// The names that `caller` may use as `role`, in alphabetical order: the first `limit` of those among
    /// the first 1,000 of the table.
    pub fn usable_names(
        &self,
        caller: &Caller<'_>,
        role: Role,
        limit: usize,
    ) -> Result<Vec<DoNai>, StoreError> {
        let mut usable = Vec::new();
        for name in self.names(role, SEARCH_LIMIT)? {
            if usable.len() >= limit {
                break;
            }
            if self.permits(caller, &name)? {
                usable.push(name);
            }
        }
        Ok(usable)
    }

    fn permits(&self, caller: &Caller<'_>, name: &DoNai) -> Result<bool, StoreError> {
        if caller.uid == 0 || caller.uid == self.owner() {
            return Ok(true);
        }
        for selector in name.lookup_order() {
            let rules = self.access_rules(&selector)?;
            if !rules.is_empty() {
                return Ok(rules.iter().any(|rule| rule.covers(caller)));
            }
        }
        Ok(false)
    }

    /// The rules with exactly this selector.
    pub fn access_rules(&self, selector: &Selector) -> Result<Vec<AccessRule>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, selector, subject, subject_id, program FROM access WHERE selector = ?1",
        )?;
        collect(statement.query(params![selector.as_str()])?)
    }

    /// Whether any rule is for one program only. Without such a rule, nobody needs to find out which
    /// program a caller runs.
    pub fn access_names_programs(&self) -> Result<bool, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM access WHERE program <> '')")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    /// All rules, by selector.
    pub fn all_access_rules(&self) -> Result<Vec<AccessRule>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT id, selector, subject, subject_id, program FROM access ORDER BY selector, id",
        )?;
        collect(statement.query([])?)
    }

    /// The rule with this number.
    pub fn access_rule(&self, id: i64) -> Result<Option<AccessRule>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT id, selector, subject, subject_id, program FROM access WHERE id = ?1",
        )?;
        Ok(collect(statement.query(params![id])?)?.pop())
    }

    /// Adds a rule (whatever its `id`) and returns its number.
    pub fn add_access_rule(&self, rule: &AccessRule) -> Result<i64, StoreError> {
        let program = rule.program.as_deref().unwrap_or_default();
        if !program.is_empty() && !program.starts_with('/') {
            return Err(StoreError::Refused(format!(
                "the program {program:?} must be given with its absolute path"
            )));
        }
        let (subject, subject_id) = rule.subject.columns();
        let result = self
            .connection
            .prepare_cached(
                "INSERT INTO access (selector, subject, subject_id, program) VALUES (?1,?2,?3,?4)",
            )?
            .insert(params![rule.selector.as_str(), subject, subject_id, program]);
        result.map_err(|error| self.explain(error, || format!("this rule for {}", rule.selector)))
    }

    /// Removes the rule with this number.
    pub fn remove_access_rule(&self, id: i64) -> Result<(), StoreError> {
        let changed =
            self.written(self.connection.execute("DELETE FROM access WHERE id = ?1", params![id]))?;
        found(changed, || format!("access rule number {id}"))
    }
}

fn collect(mut rows: rusqlite::Rows<'_>) -> Result<Vec<AccessRule>, StoreError> {
    let mut rules = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        let bad = |why: &str| StoreError::BadRow { table: "access", id, why: why.to_owned() };
        let selector: String = row.get(1)?;
        let kind: String = row.get(2)?;
        let program: String = row.get(4)?;
        rules.push(AccessRule {
            id,
            selector: Selector::parse(&selector).map_err(|error| bad(&error.to_string()))?,
            subject: Subject::from_columns(&kind, row.get(3)?).ok_or_else(|| bad("subject"))?,
            program: Some(program).filter(|p| !p.is_empty()),
        });
    }
    Ok(rules)
}

#[cfg(test)]
mod tests;
