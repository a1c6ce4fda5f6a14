//! What the key process does to itself before it touches a key: no core dumps, no debugger of the
//! same user, no swap.

use std::os::fd::OwnedFd;
use std::ptr::null_mut;

use rustix::mm::{MapFlags, MlockAllFlags, ProtFlags, mlock, mlockall, mmap};
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

/// Keeps the memory file of the PINs out of swap for the life of this process: what is mapped can be locked, and
/// nobody else maps it. It is small enough for any usual RLIMIT_MEMLOCK.
pub(super) fn lock_pin_memory(file: &OwnedFd) {
    if let Err(error) = map_and_lock(file) {
        tracing::info!(%error, "cannot lock the memory of PINs: they may be written to swap space");
    }
}

#[allow(unsafe_code)]
fn map_and_lock(file: &OwnedFd) -> rustix::io::Result<()> {
    let size = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
    if size == 0 {
        return Ok(()); // nothing is in it, and nothing can be mapped
    }
    // SAFETY: a new mapping where the kernel likes; nobody reads it, so that it does not matter who writes the
    // file or makes it shorter.
    let start = unsafe { mmap(null_mut(), size, ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
    // SAFETY: the range is the mapping, which is never undone.
    unsafe { mlock(start, size) }
}

/// Ends the process at once: exit handlers of a hung module might hang too.
#[allow(unsafe_code)]
pub(super) fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` has no precondition and does not return.
    unsafe { libc::_exit(code.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    #[test]
    fn the_memory_of_pins_is_locked() {
        let file = memfd_create("pins-to-lock", MemfdFlags::CLOEXEC).unwrap();
        map_and_lock(&file).unwrap();
        ftruncate(&file, 64 * 1024).unwrap();
        map_and_lock(&file).unwrap();
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let (_, ours) = smaps.split_once("memfd:pins-to-lock").unwrap();
        let locked = ours.lines().find_map(|line| line.strip_prefix("Locked:")).unwrap();
        assert_eq!(locked.trim(), "64 kB");
    }
}
