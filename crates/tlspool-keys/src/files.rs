//! Which files the key store may read. Whoever names a URI makes it read a file: the network process
//! does, and a peer may have taken that over.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

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

#[cfg(test)]
mod tests {
    use super::*;

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
