//! The database file as one of its readers sees it: opened when it is first needed, opened anew when another file
//! has taken its place.
//!
//! A daemon may start before there is a database; then its tables are read as if they were empty, and one that is made
//! later is seen. Once there was one, its absence is an error: rules that deny must not vanish with their file. An
//! empty file is no database, whoever put it there.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tlspool_store::{Store, StoreError};

/// What all readers in a process know of the file.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    /// One of them has had it open.
    seen: AtomicBool,
    /// That it is not there was told.
    told: AtomicBool,
}

/// A file, whatever its name. The device and the inode.
type FileId = (u64, u64);

/// What is read.
struct Open {
    store: Store,
    /// `None`: there has never been a file, the tables are empty.
    file: Option<FileId>,
}

/// One reader's connection.
pub(crate) struct Database {
    path: PathBuf,
    sight: Arc<Sight>,
    open: Option<Open>,
    /// SQLite's counter of changes, when it was last looked at.
    version: Option<i64>,
}

impl Database {
    /// The database at `path`.
    pub(crate) fn new(path: PathBuf, sight: Arc<Sight>) -> Self {
        Self { path, sight, open: None, version: None }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has changed, or is another file, since the last look.
    pub(crate) fn has_changed(&mut self) -> Result<bool, StoreError> {
        let known = self.open.as_ref().and_then(|open| open.file);
        let anew = match known {
            Some(known) if known == self.file()? => false,
            Some(_) => {
                self.reopen()?;
                tracing::info!(database = %self.path.display(), "another file is in its place: opened anew");
                true
            }
            None => self.reopen()?,
        };
        let version = Some(self.store()?.data_version()?);
        let changed = anew || version != self.version;
        self.version = version;
        Ok(changed)
    }

    /// The tables, as they were found at the last look.
    pub(crate) fn store(&mut self) -> Result<&Store, StoreError> {
        if self.open.is_none() {
            self.reopen()?;
        }
        match &self.open {
            Some(open) => Ok(&open.store),
            None => Err(StoreError::Missing { path: self.path.clone() }),
        }
    }

    /// Opens what is there; what was open stays so if that fails. Whether something else is open now.
    fn reopen(&mut self) -> Result<bool, StoreError> {
        let error = match self.open_file() {
            Ok(open) => {
                self.sight.seen.store(true, Ordering::Relaxed);
                self.sight.told.store(false, Ordering::Relaxed);
                self.open = Some(open);
                return Ok(true);
            }
            Err(error @ StoreError::Missing { .. }) => error,
            Err(error) => return Err(error),
        };
        self.tell(&error);
        if self.open.is_some() {
            return Ok(false);
        }
        let owner = rustix::process::geteuid().as_raw();
        self.open = Some(Open { store: Store::empty(&self.path, owner)?, file: None });
        Ok(true)
    }

    fn open_file(&self) -> Result<Open, StoreError> {
        // If the file changes meanwhile, the next look finds another.
        let file = Some(self.file()?);
        match Store::open_to_read(&self.path) {
            Ok(store) => Ok(Open { store, file }),
            Err(StoreError::Missing { .. }) => Err(self.absent()),
            Err(error) => Err(error),
        }
    }

    /// The file that is there.
    fn file(&self) -> Result<FileId, StoreError> {
        match std::fs::metadata(&self.path) {
            Ok(data) => Ok((data.dev(), data.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.absent()),
            Err(source) => Err(StoreError::Unreachable { path: self.path.clone(), source }),
        }
    }

    /// There is no database: an error, if there was one.
    fn absent(&self) -> StoreError {
        let path = self.path.clone();
        if !self.sight.seen.load(Ordering::Relaxed) {
            return StoreError::Missing { path };
        }
        let error = StoreError::Gone { path };
        self.tell(&error);
        error
    }

    /// Tells once that there is no database.
    fn tell(&self, error: &StoreError) {
        if self.sight.told.swap(true, Ordering::Relaxed) {
            return;
        }
        if matches!(error, StoreError::Gone { .. }) {
            tracing::error!("no handshake succeeds: {error}");
        } else {
            tracing::warn!(
                "no identity, policy, pin or rule of authorization is in force: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use tlspool_identity::DoNai;
    use tlspool_store::{Kind, Mode, PinRow};

    use super::*;

    #[test]
    fn one_that_is_made_later_is_seen_and_one_that_is_gone_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let sight = Arc::new(Sight::default());
        let mut one = Database::new(path.clone(), sight.clone());
        let mut other = Database::new(path.clone(), sight);
        assert!(one.has_changed().unwrap());
        assert!(!one.has_changed().unwrap());
        assert!(one.store().unwrap().policies().unwrap().is_empty());
        assert!(!path.exists(), "who looks makes no file");
        Store::open(&path, Mode::ReadWrite).unwrap();
        assert!(one.has_changed().unwrap());
        assert!(!one.has_changed().unwrap());
        let aside = folder.path().join("aside.db");
        std::fs::rename(&path, &aside).unwrap();
        // Also for who has never had it open.
        for reader in [&mut one, &mut other] {
            assert!(matches!(reader.has_changed(), Err(StoreError::Gone { .. })));
        }
        assert!(matches!(other.store(), Err(StoreError::Gone { .. })));
        // Nor is an empty file a database, until somebody writes to it.
        std::fs::write(&path, "").unwrap();
        for reader in [&mut one, &mut other] {
            assert!(matches!(reader.has_changed(), Err(StoreError::Gone { .. })));
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        std::fs::rename(&aside, &path).unwrap();
        assert!(!one.has_changed().unwrap());
        assert!(other.has_changed().unwrap());
        std::fs::remove_file(&path).unwrap();
        Store::open(&path, Mode::ReadWrite).unwrap();
        assert!(one.has_changed().unwrap() && other.has_changed().unwrap());
    }

    #[test]
    fn another_file_in_its_place_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let [path, copy] = ["a.db", "copy.db"].map(|name| folder.path().join(name));
        Store::open(&path, Mode::ReadWrite).unwrap();
        let mut reader = Database::new(path.clone(), Arc::default());
        assert!(reader.has_changed().unwrap());
        Store::open(&copy, Mode::ReadWrite).unwrap();
        std::fs::rename(&copy, &path).unwrap();
        assert!(reader.has_changed().unwrap());
        assert!(!reader.has_changed().unwrap());
        // Its changes are seen, and no longer those of the other.
        let store = Store::open(&path, Mode::ReadWrite).unwrap();
        let pin = PinRow {
            id: 0,
            name: DoNai::parse("example.com").unwrap(),
            kind: Kind::X509,
            fingerprint: vec![1; 32],
            expires: None,
        };
        store.add_pin(&pin).unwrap();
        assert!(reader.has_changed().unwrap());
    }
}
