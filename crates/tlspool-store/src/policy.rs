//! The table `policy`: what must hold of peers, by the peer's name or by ours.
//!
//! The selectors of a name are tried from concrete to general, and the first that has a row decides: one
//! for the service if there is one, else one for any service. Expressions are text here; whoever writes
//! them has checked them.

use std::fmt;

use rusqlite::{OptionalExtension, params};
use tlspool_identity::{DoNai, Selector};

use crate::identities::found;
use crate::{Store, StoreError};

/// By whose name a policy is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PolicySide {
    /// The peer's.
    Remote,
    /// Ours.
    Local,
}

impl PolicySide {
    /// As in the table: `remote`, `local`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Local => "local",
        }
    }
}

impl fmt::Display for PolicySide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A row of `policy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyRow {
    /// The row's number (0 in a row to add).
    pub id: i64,
    /// By whose name it is found.
    pub side: PolicySide,
    /// The names.
    pub selector: Selector,
    /// The service; none: any.
    pub service: Option<String>,
    /// What must hold.
    pub expression: String,
}

const COLUMNS: &str = "id, side, selector, service, expression";

impl Store {
    /// All policies.
    pub fn policies(&self) -> Result<Vec<PolicyRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM policy ORDER BY side DESC, selector, service");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    /// The policy with this number.
    pub fn policy(&self, id: i64) -> Result<Option<PolicyRow>, StoreError> {
        self.one(&format!("SELECT {COLUMNS} FROM policy WHERE id = ?1"), params![id])
    }

    /// Whether there is any policy for `side`.
    pub fn has_policies(&self, side: PolicySide) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM policy WHERE side = ?1)";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row(params![side.as_str()], |row| row.get(0))?)
    }

    /// The policy that decides about a name and a service; none if there is none.
    pub fn policy_for(
        &self,
        side: PolicySide,
        name: &DoNai,
        service: &str,
    ) -> Result<Option<PolicyRow>, StoreError> {
        // The empty service, any, sorts first.
        let sql = format!(
            "SELECT {COLUMNS} FROM policy WHERE side = ?1 AND selector = ?2 AND service IN ('', ?3) \
             ORDER BY service DESC LIMIT 1"
        );
        for selector in name.lookup_order() {
            let row = self.one(&sql, params![side.as_str(), selector.as_str(), service])?;
            if row.is_some() {
                return Ok(row);
            }
        }
        Ok(None)
    }

    /// Adds a policy and returns its number.
    pub fn add_policy(&self, row: &PolicyRow) -> Result<i64, StoreError> {
        let result = self
            .connection
            .prepare_cached(
                "INSERT INTO policy (side, selector, service, expression) VALUES (?1,?2,?3,?4)",
            )?
            .insert(params![
                row.side.as_str(),
                row.selector.as_str(),
                row.service.as_deref().unwrap_or_default(),
                row.expression,
            ]);
        result.map_err(|error| {
            self.explain(error, || {
                let service = row.service.as_deref().unwrap_or("any service");
                format!("a policy for {} {} and {service}", row.side, row.selector)
            })
        })
    }

    /// Removes the policy with this number.
    pub fn remove_policy(&self, id: i64) -> Result<(), StoreError> {
        let changed =
            self.written(self.connection.execute("DELETE FROM policy WHERE id = ?1", params![id]))?;
        found(changed, || format!("policy number {id}"))
    }

    fn one(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
    ) -> Result<Option<PolicyRow>, StoreError> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = statement.query_row(params, |row| Ok(read(row))).optional()?;
        row.transpose()
    }
}

fn read(row: &rusqlite::Row<'_>) -> Result<PolicyRow, StoreError> {
    let id = row.get(0)?;
    let bad = |why: String| StoreError::BadRow { table: "policy", id, why };
    let side: String = row.get(1)?;
    let selector: String = row.get(2)?;
    let service: String = row.get(3)?;
    Ok(PolicyRow {
        id,
        side: match side.as_str() {
            "remote" => PolicySide::Remote,
            "local" => PolicySide::Local,
            _ => return Err(bad("side".to_owned())),
        },
        selector: Selector::parse(&selector).map_err(|error| bad(error.to_string()))?,
        service: Some(service).filter(|service| !service.is_empty()),
        expression: row.get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;

    #[test]
    fn the_most_concrete_selector_and_the_service_decide() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("a.db"), Mode::ReadWrite).unwrap();
        assert!(!store.has_policies(PolicySide::Remote).unwrap());
        let add = |side, selector: &str, service: Option<&str>, expression: &str| {
            store.add_policy(&PolicyRow {
                id: 0,
                side,
                selector: Selector::parse(selector).unwrap(),
                service: service.map(str::to_owned),
                expression: expression.to_owned(),
            })
        };
        let remote = PolicySide::Remote;
        add(remote, ".", None, "any").unwrap();
        add(remote, ".", Some("imap"), "any imap").unwrap();
        add(remote, ".example.com", None, "below").unwrap();
        let id = add(remote, "www.example.com", Some("https"), "www https").unwrap();
        add(PolicySide::Local, ".", None, "ours").unwrap();
        assert!(store.has_policies(remote).unwrap());
        let again = add(remote, ".", None, "other");
        assert!(matches!(again, Err(StoreError::Exists { .. })), "{again:?}");
        for (name, service, expected) in [
            ("www.example.com", "https", "www https"),
            ("www.example.com", "imap", "below"),
            ("example.com", "imap", "any imap"),
            ("example.com", "", "any"),
        ] {
            let name = DoNai::parse(name).unwrap();
            let row = store.policy_for(remote, &name, service).unwrap().unwrap();
            assert_eq!(row.expression, expected, "{name} {service}");
        }
        // A pattern without a user matches no user.
        let john = DoNai::parse("john@example.com").unwrap();
        assert_eq!(store.policy_for(remote, &john, "imap").unwrap(), None);
        assert_eq!(store.policies().unwrap().len(), 5);
        assert_eq!(store.policy(id).unwrap().unwrap().service.as_deref(), Some("https"));
        store.remove_policy(id).unwrap();
        assert_eq!(store.policy(id).unwrap(), None);
        assert!(matches!(store.remove_policy(id), Err(StoreError::NotFound { .. })));
    }
}
