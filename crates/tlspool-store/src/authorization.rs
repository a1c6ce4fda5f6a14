//! The table `authorization`: which peers, once they have proved who they are, may meet which of our names.
//!
//! Of the rules that match, the one that comes first decides: the lowest position; then the most concrete
//! selector of the peer in the look-up order of its name, one for peers without a name, one for any peer; then
//! the same for our name; then a rule for the service before one for any; then one for our role before one
//! for both. No two rules of a table match the same with equal rank.

use std::fmt;

use rusqlite::{OptionalExtension, params};
use tlspool_identity::{DoNai, Selector};

use crate::identities::found;
use crate::{Role, Roles, Store, StoreError};

/// Longest comment, in bytes.
pub const MAX_COMMENT: usize = 200;

/// The position of a rule that has no reason for another.
pub const DEFAULT_POSITION: i32 = 100;

/// How the table writes "any".
const ANY: &str = "*";

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// They may.
    Allow,
    /// They may not.
    Deny,
}

impl Effect {
    /// As in the table: `allow`, `deny`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    /// Reads it back.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Allow, Self::Deny].into_iter().find(|effect| effect.as_str() == text)
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The peers that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Peers {
    /// Those with a name that matches.
    Named(Selector),
    /// Those that have shown no name.
    Nameless,
    /// All, with or without a name.
    Anyone,
}

impl Peers {
    /// As in the table: a selector, nothing, or `*`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Named(selector) => selector.as_str(),
            Self::Nameless => "",
            Self::Anyone => ANY,
        }
    }

    /// Reads it back, or as a person writes the selector.
    pub fn parse(text: &str) -> Result<Self, tlspool_identity::NameError> {
        match text {
            "" => Ok(Self::Nameless),
            ANY => Ok(Self::Anyone),
            selector => Selector::parse(selector).map(Self::Named),
        }
    }
}

impl fmt::Display for Peers {
    /// For people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Named(selector) => selector.as_str(),
            Self::Nameless => "(no name)",
            Self::Anyone => "(anyone)",
        })
    }
}

/// A row of `authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationRow {
    /// The row's number (0 in a row to add).
    pub id: i64,
    /// What it says.
    pub effect: Effect,
    /// About whom.
    pub remote: Peers,
    /// Our names; none: any, and peers that we show no name.
    pub local: Option<Selector>,
    /// The service; none: any.
    pub service: Option<String>,
    /// Our roles in which it holds.
    pub roles: Roles,
    /// The lowest decides.
    pub position: i32,
    /// For people.
    pub comment: String,
}

const COLUMNS: &str = "id, effect, remote, local, service, roles, position, comment";

impl Store {
    /// All rules, in the order in which they would decide if all matched, as far as that can be told.
    pub fn authorizations(&self) -> Result<Vec<AuthorizationRow>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM authorization ORDER BY position, remote IN ('', '*'), remote, \
             local = '*', local, service DESC, roles"
        );
        self.several(&sql, params![])
    }

    /// The rule with this number.
    pub fn authorization(&self, id: i64) -> Result<Option<AuthorizationRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM authorization WHERE id = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let row = statement.query_row(params![id], |row| Ok(read(row))).optional()?;
        row.transpose()
    }

    /// Whether there is any rule.
    pub fn has_authorizations(&self) -> Result<bool, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM authorization)")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    /// The rules that match, the one that decides first. A peer without a name has no `remote`.
    pub fn authorizations_for(
        &self,
        remote: Option<&DoNai>,
        local: Option<&DoNai>,
        service: &str,
        role: Role,
    ) -> Result<Vec<AuthorizationRow>, StoreError> {
        let mut remotes = steps(remote);
        if remote.is_none() {
            remotes.push(String::new());
        }
        let mut locals = steps(local);
        for steps in [&mut remotes, &mut locals] {
            steps.push(ANY.to_owned());
        }
        // Each pair of steps is one look into the index; names, and so the steps, are bounded.
        let sql = format!(
            "SELECT {COLUMNS} FROM authorization \
             WHERE remote IN (SELECT value FROM json_each(?1)) \
             AND local IN (SELECT value FROM json_each(?2)) \
             AND service IN ('', ?3) AND roles & ?4"
        );
        let lists = [json_list(&remotes), json_list(&locals)];
        let mut rows = self.several(&sql, params![lists[0], lists[1], service, role.bit()])?;
        let at = |steps: &[String], text: &str| steps.iter().position(|step| step == text);
        rows.sort_by_key(|row| {
            (
                row.position,
                at(&remotes, row.remote.as_str()),
                at(&locals, local_text(row)),
                row.service.is_none(),
                row.roles == Roles::Both,
            )
        });
        Ok(rows)
    }

    /// Adds a rule and returns its number.
    pub fn add_authorization(&self, row: &AuthorizationRow) -> Result<i64, StoreError> {
        if row.comment.len() > MAX_COMMENT || row.comment.chars().any(char::is_control) {
            let text = format!("a comment has at most {MAX_COMMENT} bytes, on one line");
            return Err(StoreError::Refused(text));
        }
        let result = self
            .connection
            .prepare_cached(
                "INSERT INTO authorization \
                 (effect, remote, local, service, roles, position, comment) \
                 VALUES (?1,?2,?3,?4,?5,?6,?7)",
            )?
            .insert(params![
                row.effect.as_str(),
                row.remote.as_str(),
                local_text(row),
                row.service.as_deref().unwrap_or_default(),
                row.roles.bits(),
                row.position,
                row.comment,
            ]);
        result.map_err(|error| {
            self.explain(error, || {
                let local = row.local.as_ref().map_or("any name", Selector::as_str);
                let service = row.service.as_deref().unwrap_or("any service");
                format!("a rule for {}, {local}, {service} and role {}", row.remote, row.roles)
            })
        })
    }

    /// Removes the rule with this number.
    pub fn remove_authorization(&self, id: i64) -> Result<(), StoreError> {
        let sql = "DELETE FROM authorization WHERE id = ?1";
        let changed = self.written(self.connection.execute(sql, params![id]))?;
        found(changed, || format!("authorization rule number {id}"))
    }

    fn several(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<AuthorizationRow>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }
}

/// The selectors of a name, from concrete to general.
fn steps(name: Option<&DoNai>) -> Vec<String> {
    name.into_iter().flat_map(DoNai::lookup_order).map(|step| step.to_string()).collect()
}

/// A JSON array of texts.
fn json_list(texts: &[String]) -> String {
    let quoted = texts.iter().map(|text| {
        let mut out = String::with_capacity(text.len() + 2);
        out.push('"');
        for c in text.chars() {
            if matches!(c, '"' | '\\') {
                out.push('\\');
            }
            out.push(c);
        }
        out.push('"');
        out
    });
    format!("[{}]", quoted.collect::<Vec<_>>().join(","))
}

fn local_text(row: &AuthorizationRow) -> &str {
    row.local.as_ref().map_or(ANY, Selector::as_str)
}

fn read(row: &rusqlite::Row<'_>) -> Result<AuthorizationRow, StoreError> {
    let id = row.get(0)?;
    let bad = |why: String| StoreError::BadRow { table: "authorization", id, why };
    let effect: String = row.get(1)?;
    let remote: String = row.get(2)?;
    let local: String = row.get(3)?;
    let service: String = row.get(4)?;
    Ok(AuthorizationRow {
        id,
        effect: Effect::parse(&effect).ok_or_else(|| bad("effect".to_owned()))?,
        remote: Peers::parse(&remote).map_err(|error| bad(format!("remote: {error}")))?,
        local: match local.as_str() {
            ANY => None,
            selector => {
                let selector = Selector::parse(selector);
                Some(selector.map_err(|error| bad(format!("local: {error}")))?)
            }
        },
        service: Some(service).filter(|service| !service.is_empty()),
        roles: row.get(5)?,
        position: row.get(6)?,
        comment: row.get(7)?,
    })
}

#[cfg(test)]
mod tests;
