//! Where files are when nobody says: the system's folders for root, the XDG folders for other users.

use super::AbsolutePath;
use std::path::PathBuf;

/// The default places for one user.
#[derive(Clone, Debug, PartialEq)]
pub struct Places {
    /// Whether that user is root.
    pub root: bool,
    /// The configuration file.
    pub config: PathBuf,
    /// Folder of the control socket and the PID file.
    pub runtime_dir: AbsolutePath,
    /// The SQLite file.
    pub database: AbsolutePath,
    /// The listening socket.
    pub socket: AbsolutePath,
}

impl Places {
    /// For the user who runs this process, and the environment he has.
    pub fn of_this_user() -> Self {
        let uid = rustix::process::geteuid();
        if uid.is_root() {
            return Self::of_root();
        }
        Self::of_user(uid.as_raw(), |name| std::env::var_os(name).map(PathBuf::from))
    }

    /// For root, whatever the environment says.
    pub fn of_root() -> Self {
        Self {
            root: true,
            config: "/etc/tlspool/tlspool.toml".into(),
            runtime_dir: AbsolutePath::literal("/run/tlspool"),
            database: AbsolutePath::literal("/var/lib/tlspool/tlspool.db"),
            socket: AbsolutePath::literal("/var/run/tlspool.sock"),
        }
    }

    /// For another user, with the XDG Base Directory variables read through `env`; a relative path in
    /// one of them is ignored, as that specification demands.
    fn of_user(uid: u32, env: impl Fn(&str) -> Option<PathBuf>) -> Self {
        let folder = |variable: &str| env(variable).and_then(AbsolutePath::new);
        let temporary = AbsolutePath::literal("/tmp");
        let home = folder("HOME").unwrap_or_else(|| temporary.clone());
        let config = folder("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
        let state = folder("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state"));
        let runtime = match folder("XDG_RUNTIME_DIR") {
            Some(dir) => dir.join("tlspool"),
            None => temporary.join(&format!("tlspool-{uid}")),
        };
        Self {
            root: false,
            config: config.join("tlspool/tlspool.toml").to_path_buf(),
            database: state.join("tlspool/tlspool.db"),
            socket: runtime.join("tlspool.sock"),
            runtime_dir: runtime,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_their_own_folders() {
        let places = Places::of_user(1000, |name| match name {
            "HOME" => Some("/home/u".into()),
            "XDG_RUNTIME_DIR" => Some("/run/user/1000".into()),
            "XDG_CONFIG_HOME" => Some("relative".into()),
            _ => None,
        });
        assert_eq!(places.config, PathBuf::from("/home/u/.config/tlspool/tlspool.toml"));
        assert_eq!(places.socket.to_string(), "/run/user/1000/tlspool/tlspool.sock");
        assert_eq!(places.database.to_string(), "/home/u/.local/state/tlspool/tlspool.db");
    }

    #[test]
    fn nothing_at_all_still_gives_places() {
        let places = Places::of_user(7, |_| None);
        assert_eq!(places.socket.to_string(), "/tmp/tlspool-7/tlspool.sock");
    }
}
