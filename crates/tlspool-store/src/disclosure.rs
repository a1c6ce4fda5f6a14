//! The table `disclosure`: which local names a client may show to which remote, when its program named
//! none.
//!
//! The selectors of the remote's name are tried from concrete to general, and the first that has any row
//! for the caller decides: rows for its user, else rows for everyone. Other users' rows do not count. The
//! names of that selector are candidates in order; access rules decide besides which of them the caller
//! may use. A row without a local name ends the list: nobody is shown.

use rusqlite::{OptionalExtension, params};
use tlspool_identity::{DoNai, Selector};

use crate::identities::found;
use crate::{Store, StoreError};

/// Names that one selector may have for one user.
pub const MAX_DISCLOSED: usize = 32;

/// Rows that are remembered for one user; an administrator may add more.
pub const MAX_REMEMBERED: usize = 4096;

/// The column for rows that are for everyone.
const EVERYONE: i64 = -1;

/// A row of `disclosure`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisclosureRow {
    /// The row's number (0 in a row to add).
    pub id: i64,
    /// To whom.
    pub remote: Selector,
    /// For programs of this user (uid) only; none: everyone's.
    pub user: Option<u32>,
    /// Whom they may show; none: nobody.
    pub local: Option<DoNai>,
}

/// The rows that decide about a remote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disclosed {
    /// Steps from the remote's name up to the selector, as [`DoNai::lookup_order`] counts them.
    pub step: usize,
    /// In order; at least one. All have the same selector and user.
    pub rows: Vec<DisclosureRow>,
}

/// Where a name goes among those that its selector has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Before them.
    First,
    /// After them.
    Last,
}

const COLUMNS: &str = "id, remote, uid, local_name";

impl Store {
    /// All rows.
    pub fn disclosures(&self) -> Result<Vec<DisclosureRow>, StoreError> {
        self.read_disclosures("ORDER BY remote, uid, position, id", [])
    }

    /// The row with this number.
    pub fn disclosure(&self, id: i64) -> Result<Option<DisclosureRow>, StoreError> {
        Ok(self.read_disclosures("WHERE id = ?1", params![id])?.pop())
    }

    /// Whether there is any row.
    pub fn has_disclosures(&self) -> Result<bool, StoreError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM disclosure)";
        let mut statement = self.connection.prepare_cached(sql)?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    /// The rows that decide what programs of the user `uid` show to `remote`; none if there are none.
    pub fn disclosed(&self, remote: &DoNai, uid: u32) -> Result<Option<Disclosed>, StoreError> {
        for (step, selector) in remote.lookup_order().enumerate() {
            let mut rows = self.read_disclosures(
                "WHERE remote = ?1 AND uid IN (?2, ?3) ORDER BY uid DESC, position, id",
                params![selector.as_str(), EVERYONE, uid],
            )?;
            if let Some(user) = rows.first().map(|row| row.user) {
                rows.retain(|row| row.user == user);
                return Ok(Some(Disclosed { step, rows }));
            }
        }
        Ok(None)
    }

    /// Adds a row and returns its number.
    pub fn add_disclosure(&self, row: &DisclosureRow, place: Place) -> Result<i64, StoreError> {
        let uid = row.user.map_or(EVERYONE, i64::from);
        let (count, first, last): (i64, i64, i64) = self
            .connection
            .prepare_cached(
                "SELECT count(*), ifnull(min(position), 1), ifnull(max(position), 0) \
                 FROM disclosure WHERE remote = ?1 AND uid = ?2",
            )?
            .query_row(params![row.remote.as_str(), uid], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        if count >= MAX_DISCLOSED as i64 {
            let text = format!("{} has {MAX_DISCLOSED} names already; remove some", row.remote);
            return Err(StoreError::Refused(text));
        }
        let position = match place {
            Place::First => first.saturating_sub(1),
            Place::Last => last.saturating_add(1),
        };
        let local = row.local.as_ref().map_or("", DoNai::as_str);
        let result = self
            .connection
            .prepare_cached(
                "INSERT INTO disclosure (remote, uid, position, local_name) VALUES (?1,?2,?3,?4)",
            )?
            .insert(params![row.remote.as_str(), uid, position, local]);
        result.map_err(|error| {
            self.explain(error, || match local {
                "" => format!("that {} is shown nobody", row.remote),
                local => format!("that {} may be shown {local}", row.remote),
            })
        })
    }

    /// Remembers a choice that a person or a program made for the user `uid`. A name that is there already
    /// stays where it is, unless `reorder`.
    pub fn remember_disclosure(
        &mut self,
        remote: &Selector,
        uid: u32,
        local: Option<&DoNai>,
        place: Place,
        reorder: bool,
    ) -> Result<(), StoreError> {
        self.transaction(|store| {
            let known: Option<i64> = store
                .connection
                .prepare_cached(
                    "SELECT id FROM disclosure WHERE remote = ?1 AND uid = ?2 AND local_name = ?3",
                )?
                .query_row(params![remote.as_str(), uid, local.map_or("", DoNai::as_str)], |row| {
                    row.get(0)
                })
                .optional()?;
            match known {
                Some(_) if !reorder => return Ok(()),
                Some(id) => store.remove_disclosure(id)?,
                None => {
                    let count: i64 = store.connection.query_row(
                        "SELECT count(*) FROM disclosure WHERE uid = ?1",
                        params![uid],
                        |row| row.get(0),
                    )?;
                    if count >= MAX_REMEMBERED as i64 {
                        let text = format!(
                            "uid {uid} has {MAX_REMEMBERED} rows; see: tlspool disclosure list"
                        );
                        return Err(StoreError::Refused(text));
                    }
                }
            }
            let (remote, local) = (remote.clone(), local.cloned());
            let row = DisclosureRow { id: 0, remote, user: Some(uid), local };
            store.add_disclosure(&row, place).map(|_| ())
        })
    }

    /// Removes the row with this number.
    pub fn remove_disclosure(&self, id: i64) -> Result<(), StoreError> {
        let changed = self.written(
            self.connection.execute("DELETE FROM disclosure WHERE id = ?1", params![id]),
        )?;
        found(changed, || format!("disclosure number {id}"))
    }

    fn read_disclosures(
        &self,
        rest: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<DisclosureRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM disclosure {rest}");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            let bad = |why: String| StoreError::BadRow { table: "disclosure", id, why };
            let remote: String = row.get(1)?;
            let uid: i64 = row.get(2)?;
            let local: String = row.get(3)?;
            found.push(DisclosureRow {
                id,
                remote: Selector::parse(&remote).map_err(|error| bad(error.to_string()))?,
                user: match uid {
                    EVERYONE => None,
                    uid => Some(u32::try_from(uid).map_err(|_| bad("uid".to_owned()))?),
                },
                local: match local.as_str() {
                    "" => None,
                    name => Some(DoNai::parse(name).map_err(|error| bad(error.to_string()))?),
                },
            });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
