//! Memory for PINs that outlives the key process, so that a crash of a module asks nobody again.
//!
//! The supervisor makes it and hands it to each key process; it never maps or reads it itself. It is a
//! file without a name whose size is sealed.

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, sendfile};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// More than the key process uses.
const SIZE: u64 = 64 * 1024;

/// New memory, all zeroes.
pub fn create() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Old kernels do not know the flag, which only says that nobody executes it.
    let fd = memfd_create("tlspool-pins", flags | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create("tlspool-pins", flags))?;
    ftruncate(&fd, SIZE)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(fd)
}

/// New memory with what stands in `old`. The kernel copies; no PIN enters this process.
pub fn copy_of(old: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let new = create()?;
    let mut offset = 0;
    while offset < SIZE {
        let left = (SIZE - offset) as usize;
        if sendfile(&new, old, Some(&mut offset), left)? == 0 {
            break;
        }
    }
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_size_is_fixed() {
        let memory = create().unwrap();
        assert!(ftruncate(&memory, 1).is_err());
        assert!(ftruncate(&memory, 2 * SIZE).is_err());
    }

    #[test]
    fn a_copy_is_the_same_and_apart() {
        let old = create().unwrap();
        rustix::io::pwrite(&old, b"1234", 4000).unwrap();
        let new = copy_of(old.as_fd()).unwrap();
        rustix::io::pwrite(&old, b"xxxx", 4000).unwrap();
        let mut bytes = [0; 4];
        rustix::io::pread(&new, &mut bytes, 4000).unwrap();
        assert_eq!(&bytes, b"1234");
    }
}
