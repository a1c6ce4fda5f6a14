//! What the commands of all tables do alike: remove rows by number, export and import them.

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tlspool_store::{Store, StoreError};

use super::output::{self, note};
use super::{AdminContext, AdminError};

/// A row with its number, for `--json`.
#[derive(Debug, Serialize)]
pub(super) struct Numbered<R> {
    pub(super) id: i64,
    #[serde(flatten)]
    pub(super) row: R,
}

/// Removes the rows with these numbers: all or none.
pub(super) fn remove(
    context: &AdminContext,
    ids: &[i64],
    one: impl Fn(&Store, i64) -> Result<(), StoreError>,
) -> Result<(), AdminError> {
    let mut store = context.store_to_change()?;
    store.transaction(|store| Ok(ids.iter().try_for_each(|id| one(store, *id))?))
}

/// Writes rows as JSON lines.
pub(super) fn export<R, S: Serialize>(
    out: &mut dyn Write,
    rows: impl IntoIterator<Item = R>,
    shown: impl Fn(R) -> S,
) -> Result<(), AdminError> {
    rows.into_iter().try_for_each(|row| output::json(out, &shown(row)))
}

/// Reads rows as [`export`] writes them, and adds them: all or none. `what` they are is told.
pub(super) fn import<T: DeserializeOwned>(
    context: &AdminContext,
    file: &Path,
    what: &str,
    mut add: impl FnMut(&Store, T) -> Result<(), AdminError>,
) -> Result<(), AdminError> {
    let (mut store, text) = (context.store()?, output::read(file)?);
    let count = store.transaction(|store| output::each_line(&text, |row| add(store, row)))?;
    note(format_args!("{count} {what} imported"));
    Ok(())
}
