//! Opening the file, and what concerns it as a whole.

use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::{StoreError, schema};

/// How long a writer waits for another writer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a reader waits. In WAL mode it only ever waits for a recovery after a crash.
const READ_TIMEOUT: Duration = Duration::from_millis(250);

/// Statements kept prepared: more than this crate has.
const STATEMENTS: usize = 64;

/// What a handle may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Look up only; the file must exist and have the right schema.
    ReadOnly,
    /// Also change; makes the file (mode 0640) and its directory (0750), migrates old schemas.
    ReadWrite,
}

/// One connection to the database.
#[derive(Debug)]
pub struct Store {
    pub(crate) connection: Connection,
    path: PathBuf,
    owner: u32,
}

impl Store {
    /// Opens the database at `path`.
    ///
    /// What only reads and may find a database of an older program uses [`Store::open_to_read`].
    pub fn open(path: impl AsRef<Path>, mode: Mode) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let mut connection = match mode {
            Mode::ReadOnly => open_to_read(path)?,
            Mode::ReadWrite => open_to_write(path)?,
        };
        let of = |error| StoreError::of(path, error);
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        // Nothing in a schema that somebody else wrote may run functions with side effects.
        connection.pragma_update(None, "trusted_schema", false).map_err(of)?;
        match mode {
            Mode::ReadOnly => {
                connection.busy_timeout(READ_TIMEOUT).map_err(of)?;
                connection.pragma_update(None, "query_only", true).map_err(of)?;
                schema::check(&connection, path)?;
            }
            Mode::ReadWrite => {
                connection.busy_timeout(WRITE_TIMEOUT).map_err(of)?;
                connection.pragma_update(None, "journal_mode", "wal").map_err(of)?;
                connection.pragma_update(None, "synchronous", "normal").map_err(of)?;
                schema::migrate(&mut connection, path)?;
            }
        }
        let owner =
            std::fs::metadata(path).map_err(|_| StoreError::Missing { path: path.into() })?;
        Ok(Self { connection, path: path.to_owned(), owner: owner.uid() })
    }

    /// Opens the database at `path` to look up. One that an older program wrote is migrated first; it stays
    /// [`StoreError::TooOld`] if this user may not. An empty file is no database yet ([`StoreError::Missing`]):
    /// only who writes makes one of it.
    pub fn open_to_read(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        match Self::open(path, Mode::ReadOnly) {
            Err(too_old @ StoreError::TooOld { .. }) => {
                Self::open(path, Mode::ReadWrite).map_err(|_| too_old)?;
                Self::open(path, Mode::ReadOnly)
            }
            opened => opened,
        }
    }

    /// Opens a database that is there, to change rows of it; never makes one.
    pub fn open_to_change(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        Self::open_to_read(path)?;
        Self::open(path, Mode::ReadWrite)
    }

    /// What is to be read where there is no database: empty tables, in memory, as if there were one at `path` that
    /// belongs to `owner`.
    pub fn empty(path: impl AsRef<Path>, owner: u32) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let of = |error| StoreError::of(path, error);
        let mut connection = Connection::open_in_memory().map_err(of)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        schema::migrate(&mut connection, path)?;
        connection.pragma_update(None, "query_only", true).map_err(of)?;
        Ok(Self { connection, path: path.to_owned(), owner })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The uid that owns the file. That user and root may use every local identity.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// A number that changes whenever another connection has changed the database (a read of
    /// shared memory, about a microsecond). Changes through this handle do not count.
    pub fn data_version(&self) -> Result<i64, StoreError> {
        let mut statement = self.connection.prepare_cached("PRAGMA data_version")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    /// Runs `work` in one write transaction: all of it happens, or nothing if it fails.
    pub fn transaction<T, E: From<StoreError>>(
        &mut self,
        work: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let begin = |error| E::from(StoreError::of(&self.path, error));
        let transaction =
            rusqlite::Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)
                .map_err(begin)?;
        let result = work(self)?;
        transaction.commit().map_err(begin)?;
        Ok(result)
    }

    /// Turns SQLite's "constraint failed" into "is there already", other errors as they are.
    pub(crate) fn explain(
        &self,
        error: rusqlite::Error,
        what: impl FnOnce() -> String,
    ) -> StoreError {
        match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) => StoreError::Exists { what: what() },
            _ => StoreError::of(&self.path, error),
        }
    }

    /// As `?`, for statements that write: knows the path, to explain permissions.
    pub(crate) fn written<T>(&self, result: rusqlite::Result<T>) -> Result<T, StoreError> {
        result.map_err(|error| StoreError::of(&self.path, error))
    }
}

fn open_to_read(path: &Path) -> Result<Connection, StoreError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(StoreError::Missing { path: path.to_owned() });
        }
        _ => {}
    }
    // Writable if possible, because WAL readers write their locks; `query_only` is set afterwards.
    let flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_WRITE)
        .or_else(|_| Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_READ_ONLY))
        .map_err(|error| StoreError::of(path, error))
}

fn open_to_write(path: &Path) -> Result<Connection, StoreError> {
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty() && !d.exists()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .map_err(|source| StoreError::Directory { path: directory.to_owned(), source })?;
    }
    create(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(path, flags).map_err(|error| StoreError::of(path, error))
}

/// Makes an empty file if there is none: SQLite would give it the umask's mode, and its WAL files
/// take mode and owner of this one. Root makes it for whoever owns the directory: the daemon must be
/// able to use what an administrator made. Errors show when SQLite opens it, with its reason.
fn create(path: &Path) {
    let created = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path);
    let directory = path.parent().and_then(|directory| std::fs::metadata(directory).ok());
    if let (Ok(file), Some(directory)) = (created, directory) {
        // Fails for anyone but root, who then owns the directory anyway.
        let _ = std::os::unix::fs::fchown(&file, Some(directory.uid()), Some(directory.gid()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SCHEMA_VERSION;

    #[test]
    fn makes_reads_and_sees_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/pool.db");
        assert!(matches!(Store::open(&path, Mode::ReadOnly), Err(StoreError::Missing { .. })));
        let writer = Store::open(&path, Mode::ReadWrite).unwrap();
        let reader = Store::open(&path, Mode::ReadOnly).unwrap();
        let before = reader.data_version().unwrap();
        assert_eq!(reader.data_version().unwrap(), before);
        writer
            .connection
            .execute(
                "INSERT INTO policy (side, selector, expression) VALUES ('local', '.', '1')",
                [],
            )
            .unwrap();
        assert_ne!(reader.data_version().unwrap(), before);
        assert!(reader.connection.execute("DELETE FROM policy", []).is_err());
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn refuses_what_is_not_ours_or_newer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "no database at all, but long enough to be one ".repeat(40)).unwrap();
        for mode in [Mode::ReadOnly, Mode::ReadWrite] {
            assert!(
                matches!(Store::open(&path, mode), Err(StoreError::NotOurs { .. })),
                "{mode:?}"
            );
        }
        let path = folder.path().join("other.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(matches!(Store::open(&path, Mode::ReadWrite), Err(StoreError::NotOurs { .. })));
        let path = folder.path().join("new.db");
        let store = Store::open(&path, Mode::ReadWrite).unwrap();
        store.connection.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
        for mode in [Mode::ReadOnly, Mode::ReadWrite] {
            assert!(matches!(Store::open(&path, mode), Err(StoreError::TooNew { .. })));
        }
    }

    #[test]
    fn who_reads_makes_no_database() {
        let folder = tempfile::tempdir().unwrap();
        let [path, empty] = ["none.db", "empty.db"].map(|name| folder.path().join(name));
        std::fs::write(&empty, "").unwrap();
        for path in [&path, &empty] {
            for opened in [
                Store::open_to_read(path),
                Store::open_to_change(path),
                Store::open(path, Mode::ReadOnly),
            ] {
                assert!(matches!(opened, Err(StoreError::Missing { .. })), "{opened:?}");
            }
        }
        assert!(!path.exists());
        assert_eq!(std::fs::metadata(&empty).unwrap().len(), 0);
        let nothing = Store::empty(&path, 7).unwrap();
        assert_eq!((nothing.owner(), nothing.policies().unwrap().len()), (7, 0));
        assert!(nothing.connection.execute("DELETE FROM policy", []).is_err());
        assert!(!path.exists());
        // Who writes makes one of the empty file too.
        Store::open(&empty, Mode::ReadWrite).unwrap();
        Store::open_to_read(&empty).unwrap();
        Store::open_to_change(&empty).unwrap();
    }

    #[test]
    fn an_old_schema_is_migrated_with_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(include_str!("schema/v1.sql")).unwrap();
        old.execute_batch(
            "PRAGMA application_id = 0x544c5350; PRAGMA user_version = 1; \
             INSERT INTO local_identity (name, roles, kind, certificate_uri, key_uri) \
             VALUES ('a.example', 3, 'x509', 'file:/a', 'file:/b')",
        )
        .unwrap();
        drop(old);
        let unread = Store::open(&path, Mode::ReadOnly);
        assert!(matches!(unread, Err(StoreError::TooOld { found: 1, .. })));
        let store = Store::open_to_read(&path).unwrap();
        assert!(store.connection.execute("DELETE FROM local_identity", []).is_err());
        let row = store.identity(1).unwrap().unwrap();
        assert_eq!((row.name.as_str(), row.certify_uri), ("a.example", None));
        Store::open(&path, Mode::ReadOnly).unwrap();
    }

    /// A database as an older program left it, with one rule.
    fn written_by(version: usize, path: &Path) {
        let steps = [include_str!("schema/v1.sql"), include_str!("schema/v2.sql")];
        let old = Connection::open(path).unwrap();
        steps[..version].iter().for_each(|step| old.execute_batch(step).unwrap());
        old.execute_batch(&format!(
            "PRAGMA application_id = 0x544c5350; PRAGMA user_version = {version}; \
             INSERT INTO authorization (id, remote, local, service, position, effect) \
             VALUES (7, '@example.com', '.', 'imap', 20, 'deny')"
        ))
        .unwrap();
    }

    #[test]
    fn rules_of_authorization_survive_each_migration() {
        use crate::{AuthorizationRow, Effect, Peers, Roles};
        use tlspool_identity::Selector;
        let folder = tempfile::tempdir().unwrap();
        for version in [1, 2] {
            let path = folder.path().join(format!("{version}.db"));
            written_by(version, &path);
            let store = Store::open(&path, Mode::ReadWrite).unwrap();
            let expected = AuthorizationRow {
                id: 7,
                effect: Effect::Deny,
                remote: Peers::parse("@example.com").unwrap(),
                local: Some(Selector::parse(".").unwrap()),
                service: Some("imap".to_owned()),
                roles: Roles::Both,
                position: 20,
                comment: String::new(),
            };
            assert_eq!(store.authorizations().unwrap(), [expected]);
            let now: i64 = store
                .connection
                .pragma_query_value(None, "user_version", |row| row.get(0))
                .unwrap();
            assert_eq!(now, SCHEMA_VERSION);
            Store::open(&path, Mode::ReadOnly).unwrap();
        }
    }

    #[test]
    fn a_transaction_is_all_or_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path().join("a.db"), Mode::ReadWrite).unwrap();
        let insert = "INSERT INTO policy (side, selector, expression) VALUES ('local', '.', '1')";
        let failed: Result<(), StoreError> = store.transaction(|store| {
            store.connection.execute(insert, [])?;
            Err(StoreError::Busy)
        });
        assert!(failed.is_err());
        store
            .transaction(|store| store.connection.execute(insert, []).map_err(StoreError::from))
            .unwrap();
        let rows: i64 =
            store.connection.query_row("SELECT count(*) FROM policy", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, 1);
    }
}
