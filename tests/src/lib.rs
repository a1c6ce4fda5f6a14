//! What the end-to-end tests share: the programs as users run them, each in a temporary folder.
//!
//! A test starts the real `tlspool` in a [`House`], and peers as a [`Process`]. Nothing sleeps: readiness
//! comes over the socket on which systemd would listen, everything else by waiting for output, for bytes
//! or for the end of a process, each within [`LIMIT`]. Whatever a test started ends with it, by its PID.

#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc)] // test support: panicking is how a test fails

pub mod app;
pub mod authority;
pub mod binaries;
pub mod freeradius;
pub mod house;
pub mod memcached;
pub mod net;
pub mod netns;
pub mod process;
pub mod program;
pub mod sctp;
pub mod slapd;
pub mod terminal;
pub mod web;
pub mod zones;

pub use authority::{Authority, Leaf};
pub use house::{Daemon, House, PIN, SOFTHSM};
pub use memcached::Memcached;
pub use process::{Process, Said, openssl, run};
pub use program::Program;
pub use slapd::{Entries, Slapd};
pub use terminal::Terminal;

/// Nothing takes this long; a test that fails ends nevertheless.
pub const LIMIT: std::time::Duration = std::time::Duration::from_mins(1);

/// Whether the tests run as root; some need to become other users.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
