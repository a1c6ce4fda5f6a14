//! What the key process does to itself before it touches a key: no core dumps, no debugger of the
//! same user, no swap.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit,
};

/// Best effort; what the system refuses is logged.
pub(super) fn harden() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "the key process can be dumped");
    }
    if let Err(error) = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }) {
        tracing::warn!(%error, "cannot forbid core dumps of the key process");
    }
    // With a limit, locking future pages would make later allocations fail: rather not at all.
    let unlimited = getrlimit(Resource::Memlock).current.is_none();
    if !unlimited && !rustix::process::geteuid().is_root() {
        tracing::info!("RLIMIT_MEMLOCK is limited: keys and PINs may be written to swap space");
        return;
    }
    // Only pages that are used (ONFAULT): thread stacks and arenas reserve far more.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if let Err(error) = mlockall(flags) {
        tracing::info!(%error, "cannot lock memory: keys and PINs may be written to swap space");
    }
}

/// Ends the process at once: exit handlers of a hung module might hang too.
#[allow(unsafe_code)]
pub(super) fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` has no precondition and does not return.
    unsafe { libc::_exit(code.into()) }
}
