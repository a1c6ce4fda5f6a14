//! Look-ups that validation asks for: DNS with DNSSEC, directories, revocation, and their cache. And the
//! decisions of those who authorize: a program, RADIUS servers.
//!
//! The look-up process runs this; it alone of the daemon's processes opens network connections.
#![forbid(unsafe_code)]

pub mod authorize;
pub mod cache;
pub mod directory;
pub mod dns;
mod flights;
pub mod http;
mod lookups;
pub mod names;
pub mod process;

pub use lookups::{Lookups, Settings, SetupError};
