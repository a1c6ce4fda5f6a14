//! Where the pool's socket is.
//!
//! In this order: the path the program gives; `socket_name` in the old-style configuration file
//! that `TLSPOOL_CONFIG_FILE` names (default `/etc/tlspool.conf`); for a user other than root
//! the user's own pool at `$XDG_RUNTIME_DIR/tlspool/tlspool.sock`, if its socket exists; the
//! default path. A program that runs with more rights than its user ignores the environment.
//!
//! Nothing of this is settled for good: a [`Place`] is looked up whenever a connection is made, as the
//! user's own pool may start after the program, and be gone for a moment when it is started again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{getegid, geteuid, getgid, getuid};
use tlspool_wire::DEFAULT_SOCKET;

/// The old-style configuration file that is read when nobody names another.
pub const DEFAULT_CONFIG: &str = "/etc/tlspool.conf";

/// See [`ignore_environment`].
static IGNORED: AtomicBool = AtomicBool::new(false);

/// From now on the environment does not say where the pool is. For a program that runs with more rights than its user
/// in a way that its ids do not show, such as capabilities of its file; of ids, this crate knows by itself.
pub fn ignore_environment() {
    IGNORED.store(true, Ordering::Relaxed);
}

/// The path of the pool's socket; never fails, as there is always the default.
pub fn socket_path(explicit: Option<&Path>) -> PathBuf {
    Surroundings::real().socket_path(explicit)
}

/// Where one pool is looked for.
#[derive(Debug, Clone)]
pub(crate) struct Place(Option<PathBuf>);

impl Place {
    /// Wherever the pool is at the time.
    pub(crate) fn usual() -> Self {
        Self(None)
    }

    /// Always this path.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self(Some(path))
    }

    /// The path of the socket, now.
    pub(crate) fn path(&self) -> PathBuf {
        socket_path(self.0.as_deref())
    }
}

/// The value of `name` in an old-style configuration file (`word value` on a line, `#` starts a
/// comment), or `None` if the file or the line is missing. No `file` means the one that
/// `TLSPOOL_CONFIG_FILE` names, or [`DEFAULT_CONFIG`].
pub fn config_variable(file: Option<&Path>, name: &str) -> Option<String> {
    match file {
        Some(file) => variable_in(file, name),
        None => variable_in(&Surroundings::real().config_file, name),
    }
}

/// What of the process and its environment decides; apart, so that tests can say otherwise.
struct Surroundings {
    config_file: PathBuf,
    runtime_dir: Option<PathBuf>,
}

impl Surroundings {
    fn real() -> Self {
        let borrowed_rights =
            IGNORED.load(Ordering::Relaxed) || getuid() != geteuid() || getgid() != getegid();
        let variable = |name| {
            std::env::var_os(name).filter(|v| !borrowed_rights && !v.is_empty()).map(PathBuf::from)
        };
        Self {
            config_file: variable("TLSPOOL_CONFIG_FILE").unwrap_or_else(|| DEFAULT_CONFIG.into()),
            runtime_dir: variable("XDG_RUNTIME_DIR").filter(|_| !geteuid().is_root()),
        }
    }

    fn socket_path(&self, explicit: Option<&Path>) -> PathBuf {
        if let Some(path) = explicit {
            return path.to_owned();
        }
        if let Some(path) = variable_in(&self.config_file, "socket_name") {
            return path.into();
        }
        let own = self.runtime_dir.as_ref().map(|dir| dir.join("tlspool/tlspool.sock"));
        own.filter(|path| path.exists()).unwrap_or_else(|| DEFAULT_SOCKET.into())
    }
}

fn variable_in(file: &Path, name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&std::fs::read(file).ok()?).into_owned();
    text.lines().find_map(|line| {
        let (word, value) = line.trim().split_once(char::is_whitespace)?;
        (word == name && !word.starts_with('#')).then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_places() {
        let dir = tempfile::tempdir().unwrap();
        let mut around = Surroundings {
            config_file: dir.path().join("none.conf"),
            runtime_dir: Some(dir.path().to_owned()),
        };
        assert_eq!(around.socket_path(None), Path::new(DEFAULT_SOCKET));

        std::fs::create_dir(dir.path().join("tlspool")).unwrap();
        let own = dir.path().join("tlspool/tlspool.sock");
        std::fs::write(&own, "").unwrap();
        assert_eq!(around.socket_path(None), own);

        around.config_file = dir.path().join("tlspool.conf");
        std::fs::write(
            &around.config_file,
            "# socket_name /wrong\ndaemon_pidfile /run/p\n socket_name\t /run/a b.sock \n",
        )
        .unwrap();
        assert_eq!(around.socket_path(None), Path::new("/run/a b.sock"));
        assert_eq!(
            config_variable(Some(&around.config_file), "daemon_pidfile").as_deref(),
            Some("/run/p")
        );
        assert_eq!(config_variable(Some(&around.config_file), "#"), None);

        assert_eq!(around.socket_path(Some(Path::new("/x"))), Path::new("/x"));
    }
}
