//! Shuts the network process and the look-up process in before the first byte from outside is parsed: which
//! files they can reach (Landlock) and which system calls they can make (seccomp).
//!
//! Called once by [`crate::child`], with one thread, after privileges are gone; threads started later
//! inherit it. What a process needs from then on, it has as open descriptors, or it is listed in
//! [`files`] and [`calls`].

mod calls;
mod files;

pub(crate) use files::{anchors_within, open_homes};

use crate::config::{Config, Strictness};
use std::fmt;

/// Who is shut in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The network process: gets its connections as descriptors, reads the database.
    Network,
    /// The look-up process: opens connections, and no file.
    Lookup,
}

/// Why a process cannot be shut in, while the configuration demands it.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Landlock failed, or the kernel has too little of it.
    #[error(
        "Landlock cannot confine the process: {0}; use a kernel that has it enabled (security/lsm), \
         or set confinement.landlock = \"best-effort\""
    )]
    Landlock(String),
    /// seccomp failed.
    #[error(
        "seccomp cannot confine the process: {0}; use a kernel that has it, or set \
         confinement.seccomp = \"best-effort\""
    )]
    Seccomp(String),
}

/// How far a process is shut in, for the log and `tlspool status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Degree {
    /// Entirely.
    Full,
    /// As far as this kernel can.
    Partial,
    /// Not at all, and why.
    None(String),
    /// The configuration does not want it.
    Off,
}

impl fmt::Display for Degree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("full"),
            Self::Partial => f.write_str("partial"),
            Self::None(why) => write!(f, "none ({why})"),
            Self::Off => f.write_str("off"),
        }
    }
}

/// What [`apply`] has reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confined {
    /// Files.
    pub landlock: Degree,
    /// System calls.
    pub seccomp: Degree,
}

/// Confines the calling thread and all that it starts. Needs `no_new_privs`, which
/// [`crate::users::drop_privileges`] has set.
pub fn apply(config: &Config, role: Role) -> Result<Confined, ConfineError> {
    // The name services load their libraries at first use; after this they need not be found again.
    let _ = crate::users::user_of(rustix::process::getuid().as_raw());
    let _ = crate::users::group("root");
    let wanted = &config.confinement;
    Ok(Confined {
        landlock: reach(wanted.landlock, || files::restrict(config, role), ConfineError::Landlock)?,
        seccomp: reach(wanted.seccomp, || calls::restrict(role), ConfineError::Seccomp)?,
    })
}

fn reach(
    wanted: Strictness,
    restrict: impl FnOnce() -> Result<Degree, String>,
    error: impl FnOnce(String) -> ConfineError,
) -> Result<Degree, ConfineError> {
    if wanted == Strictness::Off {
        return Ok(Degree::Off);
    }
    let degree = restrict().unwrap_or_else(Degree::None);
    match (wanted, degree) {
        (Strictness::Require, Degree::None(why)) => Err(error(why)),
        (_, degree) => Ok(degree),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::path::Path;

    #[test]
    fn what_is_required_and_missing_is_an_error() {
        let missing = || Err("not in this kernel".to_owned());
        let error = reach(Strictness::Require, missing, ConfineError::Landlock).unwrap_err();
        assert!(error.to_string().contains("best-effort"));
        let degree = reach(Strictness::BestEffort, missing, ConfineError::Landlock).unwrap();
        assert_eq!(degree.to_string(), "none (not in this kernel)");
        let degree = reach(Strictness::Off, || unreachable!(), ConfineError::Landlock).unwrap();
        assert_eq!(degree, Degree::Off);
    }

    /// Set in the process that is to be killed.
    const VICTIM: &str = "TLSPOOL_TEST_CONFINED";

    /// Runs the test `name` again in a process of its own, as the victim; how that ended.
    fn victim(name: &str) -> std::process::ExitStatus {
        let program = std::env::current_exe().unwrap();
        let name = format!("confine::tests::{name}");
        let mut command = std::process::Command::new(program);
        command.args([&name, "--exact", "--nocapture"]).env(VICTIM, "1");
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.status().unwrap()
    }

    #[test]
    fn who_starts_a_program_is_killed() {
        use std::os::unix::process::{CommandExt, ExitStatusExt};
        if std::env::var_os(VICTIM).is_none() {
            let status = victim("who_starts_a_program_is_killed");
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{status}");
            return;
        }
        rustix::thread::set_no_new_privs(true).unwrap();
        let confined = apply(&Config::defaults(), Role::Lookup).unwrap();
        assert_eq!(confined.seccomp, Degree::Full);
        let error = std::process::Command::new("/bin/true").exec();
        panic!("still there: {error}");
    }

    #[test]
    fn a_look_up_process_reads_no_file_and_listens_nowhere() {
        let there = std::env::current_exe().unwrap();
        std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let files = files::restrict(&Config::defaults(), Role::Lookup).unwrap();
            assert_eq!(files, Degree::Full, "this kernel has too little of Landlock for the test");
            for path in [Path::new("/etc/passwd"), Path::new("/proc/self/maps"), &there] {
                let error = std::fs::File::open(path).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{}", path.display());
            }
            for folder in ["/", "/tmp", "/etc"] {
                let error = std::fs::read_dir(folder).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{folder}");
            }
            let new = std::env::temp_dir().join(format!("confined-{}", std::process::id()));
            assert_eq!(std::fs::write(&new, "x").unwrap_err().kind(), ErrorKind::PermissionDenied);
            std::fs::write("/dev/null", "x").unwrap();
            std::fs::File::open("/dev/urandom").unwrap();
            let error = std::net::TcpListener::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        })
        .join()
        .unwrap();
    }
}
