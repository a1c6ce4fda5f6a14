//! Which files the key store may read, and how. Whoever names a URI makes it read a file: the network
//! process does, and a peer may have taken that over.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::KeyError;

/// The folders in which keys, certificates and PIN sources may be; none: anywhere.
#[derive(Clone)]
pub(crate) struct Files(Arc<[PathBuf]>);

impl Files {
    pub(crate) fn new(folders: Vec<PathBuf>) -> Self {
        Self(folders.into())
    }

    /// An error unless the file may be read. Symbolic links in the folders are followed, as those of
    /// certbot must be: only administrators make them.
    pub(crate) fn permit(&self, path: &Path) -> Result<(), KeyError> {
        let climbs = path.components().any(|part| part == Component::ParentDir);
        if self.0.is_empty() || !climbs && self.0.iter().any(|folder| path.starts_with(folder)) {
            return Ok(());
        }
        Err(KeyError::File(format!(
            "{} is in no folder of keys.file_dirs; move it, or add its folder to the configuration",
            path.display()
        )))
    }
}

/// Reads a regular file of at most `most` bytes, a secret. A pipe or a device, which may have no end or make
/// us wait for one, is an error.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<(Zeroizing<Vec<u8>>, Metadata)> {
    // Or else opening a pipe waits for who writes into it.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("is not a regular file"));
    }
    if meta.len() > most {
        return Err(io::Error::other(format!("is larger than {most} bytes")));
    }
    // Room for all of it at once, so that no copy of a key is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(meta.len() as usize + 1));
    file.take(most).read_to_end(&mut bytes)?;
    Ok((bytes, meta))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_has_an_end_and_nobody_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "1234").unwrap();
        assert_eq!(read(&path("file"), 4).unwrap().0.as_slice(), b"1234");
        let text = |path: &Path| read(path, 3).unwrap_err().to_string();
        assert!(text(&path("file")).contains("larger than 3"));
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), mode).unwrap();
        for no_file in [&path("fifo"), Path::new("/dev/zero"), folder.path()] {
            assert!(text(no_file).contains("not a regular file"), "{no_file:?}");
        }
        assert_eq!(read(&path("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_below_the_folders() {
        let permits = |folders: &[&str], path: &str| {
            let folders = folders.iter().map(PathBuf::from).collect();
            Files::new(folders).permit(Path::new(path)).is_ok()
        };
        assert!(permits(&[], "/home/john/key.pem"));
        let folders = ["/etc/tlspool/keys", "/etc/letsencrypt/"];
        assert!(permits(&folders, "/etc/tlspool/keys/a/b.pem"));
        assert!(permits(&folders, "/etc/letsencrypt/live/x/privkey.pem"));
        assert!(!permits(&folders, "/etc/tlspool/keys2/b.pem"));
        assert!(!permits(&folders, "/etc/tlspool/keys/../../shadow"));
        assert!(!permits(&folders, "/home/john/key.pem"));
        assert!(!permits(&folders, "etc/tlspool/keys/b.pem"));
    }
}
