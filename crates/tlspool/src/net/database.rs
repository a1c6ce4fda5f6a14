//! The database file as one of its readers sees it: opened when it is first needed, opened anew when another file
//! has taken its place.
//!
//! A daemon may start before there is a database; then nothing is in the tables, and one that is made later is
//! seen. Once there was one, its absence is an error: rules that deny must not vanish with their file.

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

/// One reader's connection.
pub(crate) struct Database {
    path: PathBuf,
    sight: Arc<Sight>,
    open: Option<(Store, FileId)>,
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
        let here = self.file()?;
        if let Some((_, known)) = &self.open
            && *known != here
        {
            tracing::info!(database = %self.path.display(), "another file is in its place: opened anew");
            self.open = None;
        }
        let anew = self.open.is_none();
        let version = Some(self.store()?.data_version()?);
        let changed = anew || version != self.version;
        self.version = version;
        Ok(changed)
    }

    /// The tables, as they were found at the last look.
    pub(crate) fn store(&mut self) -> Result<&Store, StoreError> {
        if let Some(open) = self.open.take() {
            return Ok(&self.open.insert(open).0);
        }
        // If the file changes meanwhile, the next look finds another.
        let here = self.file()?;
        let store = Store::open_to_read(&self.path).map_err(|error| match error {
            StoreError::Missing { path } if self.sight.seen.load(Ordering::Relaxed) => {
                StoreError::Gone { path }
            }
            other => other,
        })?;
        self.sight.seen.store(true, Ordering::Relaxed);
        self.sight.told.store(false, Ordering::Relaxed);
        Ok(&self.open.insert((store, here)).0)
    }

    /// The file that is there; tells once if there is none.
    fn file(&self) -> Result<FileId, StoreError> {
        let path = || self.path.clone();
        let error = match std::fs::metadata(&self.path) {
            Ok(data) => return Ok((data.dev(), data.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if self.sight.seen.load(Ordering::Relaxed) {
                    StoreError::Gone { path: path() }
                } else {
                    StoreError::Missing { path: path() }
                }
            }
            Err(source) => return Err(StoreError::Unreachable { path: path(), source }),
        };
        if !self.sight.told.swap(true, Ordering::Relaxed) {
            if matches!(error, StoreError::Gone { .. }) {
                tracing::error!("no handshake succeeds: {error}");
            } else {
                tracing::warn!(
                    "no identity, policy, pin or rule of authorization is in force: {error}"
                );
            }
        }
        Err(error)
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
        for _ in 0..2 {
            assert!(matches!(one.has_changed(), Err(StoreError::Missing { .. })));
        }
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
        std::fs::rename(&aside, &path).unwrap();
        assert!(!one.has_changed().unwrap());
        assert!(other.has_changed().unwrap());
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
