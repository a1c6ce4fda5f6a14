//! The schema and its history.

use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

use crate::StoreError;

/// `PRAGMA application_id`: "TLSP", so that no other SQLite file is taken for ours.
const APPLICATION_ID: i64 = 0x544c_5350;

/// One step of the schema each, applied in order; `PRAGMA user_version` counts the steps done.
/// A released step is never edited: append the next one.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/v1.sql"),
    include_str!("schema/v2.sql"),
    include_str!("schema/v3.sql"),
    include_str!("schema/v4.sql"),
];

/// The schema this program reads and writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// Makes or migrates the schema, all or nothing.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    if check(connection, path).is_ok() {
        return Ok(());
    }
    let of = |error| StoreError::of(path, error);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(of)?;
    // Read again under the lock: another process may have been faster.
    let found = version(&transaction, path)?;
    if found > SCHEMA_VERSION {
        return Err(StoreError::TooNew { path: path.to_owned(), found, known: SCHEMA_VERSION });
    }
    for step in MIGRATIONS.iter().skip(found as usize) {
        transaction.execute_batch(step).map_err(of)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(of)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(of)?;
    transaction.commit().map_err(of)
}

/// Checks that the schema is the one this program knows. A file without any is no database.
pub(crate) fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(connection, path)?;
    let (path, known) = (path.to_owned(), SCHEMA_VERSION);
    if found == 0 {
        return Err(StoreError::Missing { path });
    }
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(StoreError::TooOld { path, found, known }),
        std::cmp::Ordering::Greater => Err(StoreError::TooNew { path, found, known }),
    }
}

/// The schema's version; 0 in an empty file.
fn version(connection: &Connection, path: &Path) -> Result<i64, StoreError> {
    let pragma = |name: &str| {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, i64>(0))
            .map_err(|error| StoreError::of(path, error))
    };
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|error| StoreError::of(path, error))?;
    if tables > 0 && pragma("application_id")? != APPLICATION_ID {
        return Err(StoreError::NotOurs { path: path.to_owned() });
    }
    pragma("user_version")
}
