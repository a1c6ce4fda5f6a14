//! What goes wrong with the database, in words that say what to do.

use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing at this path, or an empty file, and this handle may not make a database of it.
    #[error(
        "there is no database {}; the first command that adds something makes it, or \
         `tlspool identity import /dev/null` an empty one", path.display()
    )]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// There was one at this path, and it is gone. Only who remembers that says so.
    #[error(
        "the database {} is gone: put it back, or make another (`tlspool identity import /dev/null`) if all that \
         was in it shall be forgotten", path.display()
    )]
    Gone {
        /// The path.
        path: PathBuf,
    },
    /// Nobody can tell whether there is one.
    #[error("cannot reach the database {}: {source}", path.display())]
    Unreachable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not permitted to read or write the file or its directory.
    #[error(
        "may not {} the database {}: run as root or as its owner{}; its directory must be \
         writable too",
        if *write { "write" } else { "open" }, path.display(), owner_text(*owner)
    )]
    Permission {
        /// The path.
        path: PathBuf,
        /// Whether writing was refused.
        write: bool,
        /// The owner of what exists, if it could be told.
        owner: Option<u32>,
    },
    /// Another kind of SQLite file, or none at all.
    #[error("{} is not a database of the TLS Pool; give another path or move it away", path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
    },
    /// Written by a newer program.
    #[error(
        "the database {} has schema {found}, this program knows up to {known}: \
         upgrade the program, or restore the copy from before the upgrade", path.display()
    )]
    TooNew {
        /// The path.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Written by an older program, and this handle may not migrate it.
    #[error(
        "the database {} has schema {found}, this program needs {known}: \
         run `tlspool identity list` as its owner once, it migrates", path.display()
    )]
    TooOld {
        /// The path.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Another process holds the write lock for too long.
    #[error("another program is writing the database; try again when it has finished")]
    Busy,
    /// The directory of the database cannot be made.
    #[error("cannot make the directory {}: {source}; make it yourself", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A row that this program would not have written.
    #[error("row {id} of table {table} is not usable ({why}); remove it or correct it")]
    BadRow {
        /// The table.
        table: &'static str,
        /// Its `id`.
        id: i64,
        /// What is wrong.
        why: String,
    },
    /// The row is there already.
    #[error("{what} is in the table already; remove it first to replace it")]
    Exists {
        /// What.
        what: String,
    },
    /// There is no such row.
    #[error("there is no {what}")]
    NotFound {
        /// What.
        what: String,
    },
    /// A value that must not be stored.
    #[error("{0}")]
    Refused(String),
    /// Anything else SQLite says.
    #[error("the database failed: {0}; check the disk and the file's permissions")]
    Sql(rusqlite::Error),
}

fn owner_text(owner: Option<u32>) -> String {
    owner.map_or_else(String::new, |uid| format!(" (uid {uid})"))
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Sql(error),
        }
    }
}

impl StoreError {
    /// As `from`, but knows of the file at `path`, so that permissions can be explained.
    pub(crate) fn of(path: &Path, error: rusqlite::Error) -> Self {
        let owner = || {
            use std::os::unix::fs::MetadataExt;
            let existing = std::fs::metadata(path)
                .or_else(|_| std::fs::metadata(path.parent().unwrap_or(path)));
            existing.ok().map(|data| data.uid())
        };
        match error.sqlite_error_code() {
            Some(ErrorCode::ReadOnly) => {
                Self::Permission { path: path.to_owned(), write: true, owner: owner() }
            }
            Some(
                ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::AuthorizationForStatementDenied,
            ) => Self::Permission { path: path.to_owned(), write: false, owner: owner() },
            Some(ErrorCode::NotADatabase) => Self::NotOurs { path: path.to_owned() },
            _ => Self::from(error),
        }
    }
}
