//! The daemon under load, under attack and under repair: it loses nothing, leaks nothing and tells
//! nothing. Real processes throughout.
//!
//! These tests measure processes and load the machine, so they run one at a time ([`alone`]) whatever
//! the number of test threads.

mod core_dump;
mod counter;
mod input;
mod keys;
mod leaks;
mod limits;
mod load;
mod moves;
mod processes;
mod raw;
mod restart;
mod streams;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits until no other test of this file runs; raises the limit of open descriptors.
fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    let guard = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    guard
}
