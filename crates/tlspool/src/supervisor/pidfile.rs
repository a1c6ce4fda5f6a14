//! The PID file: locked while the daemon runs, so that a leftover one means nothing.
//!
//! The lock belongs to the open file, not to the process: `-k` hands the descriptor to the new daemon,
//! and there is no moment without a lock.

use super::control::ControlError;
use crate::config::AbsolutePath;
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

/// Why the PID file is not ours.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another daemon has it.
    #[error(
        "tlspool is running already{}; `tlspool -k` replaces it without cutting a session",
        pid.map(|pid| format!(" with PID {pid}")).unwrap_or_default()
    )]
    Running {
        /// Its PID, if the file says.
        pid: Option<i32>,
    },
    /// The daemon that has it does not hand it over.
    #[error("the running tlspool refuses: {problem}")]
    Refused {
        /// Why.
        problem: String,
    },
    /// The daemon that handed it over ended in the middle of that, and took things away.
    #[error("the old daemon was told to end meanwhile, and {} is gone; start tlspool again ({problem})", path.display())]
    Lost {
        /// What is missing.
        path: PathBuf,
        /// What it said to the end of the handover.
        problem: ControlError,
    },
    /// The file cannot be used.
    #[error("cannot use the PID file {path}: {source}; set pid_file to a place we can write to")]
    Unusable {
        /// The file.
        path: AbsolutePath,
        /// Why.
        source: io::Error,
    },
}

/// The locked file. Dropping it unlocks; [`Self::remove`] also takes it out of the file system.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: AbsolutePath,
}

impl PidFile {
    /// Opens and locks the file; says nothing in it yet.
    pub fn lock(path: &AbsolutePath) -> Result<Self, PidFileError> {
        let unusable = |e: io::Error| PidFileError::Unusable { path: path.clone(), source: e };
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let mode = Mode::from_raw_mode(0o644);
            let file: File = open(&**path, flags, mode).map_err(|e| unusable(e.into()))?.into();
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(PidFileError::Running { pid: read(&file) }),
                Err(e) => return Err(unusable(e.into())),
            }
            // The daemon that held it may have removed the file between our open and our lock.
            let ours = file.metadata().map_err(unusable)?;
            match std::fs::metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                    // Whoever asks now must not take for ours the PID of a daemon that is no more.
                    file.set_len(0).map_err(unusable)?;
                    return Ok(Self { file, path: path.clone() });
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(unusable(e)),
            }
        }
    }

    /// Takes a locked file that another daemon hands over.
    pub fn inherited(fd: OwnedFd, path: &AbsolutePath) -> Self {
        Self { file: fd.into(), path: path.clone() }
    }

    /// Writes our PID. What another daemon handed over has its PID until then, and is never empty.
    pub fn write(&self) -> Result<(), PidFileError> {
        let text = format!("{}\n", std::process::id());
        self.file
            .write_all_at(text.as_bytes(), 0)
            .and_then(|()| self.file.set_len(text.len() as u64))
            .map_err(|source| PidFileError::Unusable { path: self.path.clone(), source })
    }

    /// The PID in the file.
    pub fn pid(&self) -> Option<i32> {
        read(&self.file)
    }

    /// Whether the file is still what is at its path.
    pub fn is_there(&self) -> bool {
        match (self.file.metadata(), std::fs::symlink_metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
            _ => false,
        }
    }

    /// Where it is.
    pub fn path(&self) -> &AbsolutePath {
        &self.path
    }

    /// Ends it: the file goes, unless it is another daemon's now, and then the lock.
    pub fn remove(self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl AsFd for PidFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn read(file: &File) -> Option<i32> {
    let mut bytes = [0; 16];
    let length = file.read_at(&mut bytes, 0).ok()?;
    std::str::from_utf8(&bytes[..length]).ok()?.trim().parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somewhere() -> (tempfile::TempDir, AbsolutePath) {
        let dir = tempfile::tempdir().unwrap();
        let path = AbsolutePath::new(dir.path().join("pid")).unwrap();
        (dir, path)
    }

    #[test]
    fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
        let (_dir, path) = somewhere();
        let first = PidFile::lock(&path).unwrap();
        first.write().unwrap();
        let error = PidFile::lock(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("PID {}", std::process::id())), "{error}");
        assert!(error.contains("`tlspool -k`"), "{error}");
    }

    #[test]
    fn a_stale_file_is_no_obstacle() {
        let (_dir, path) = somewhere();
        std::fs::write(&path, "4194304 and some rubbish from long ago\n").unwrap();
        let file = PidFile::lock(&path).unwrap();
        file.write().unwrap();
        assert_eq!(file.pid(), Some(std::process::id() as i32));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        std::fs::remove_file(&path).unwrap();
        assert!(!file.is_there());
        let other = PidFile::lock(&path).unwrap();
        file.remove();
        assert!(other.is_there(), "another daemon's file stays");
        other.remove();
        assert!(!path.exists());
        PidFile::lock(&path).unwrap();
    }

    #[test]
    fn a_lock_that_was_handed_over_outlives_the_giver() {
        let (_dir, path) = somewhere();
        let old = PidFile::lock(&path).unwrap();
        let new = PidFile::inherited(old.as_fd().try_clone_to_owned().unwrap(), &path);
        drop(old);
        assert!(matches!(PidFile::lock(&path), Err(PidFileError::Running { .. })));
        drop(new);
        PidFile::lock(&path).unwrap();
    }

    #[test]
    fn symbolic_links_are_not_followed() {
        let (dir, path) = somewhere();
        std::os::unix::fs::symlink(dir.path().join("victim"), &path).unwrap();
        assert!(matches!(PidFile::lock(&path), Err(PidFileError::Unusable { .. })));
        assert!(!dir.path().join("victim").exists());
    }
}
