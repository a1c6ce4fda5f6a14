//! A descriptor that tasks can wait for.
//!
//! tokio's `AsyncFd` is unsafe to make, because it must stay registered for the very descriptor it
//! was made with. This type owns the descriptor and never lends it out to be replaced.

#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::unix::AsyncFd;

/// An open descriptor registered with the runtime.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Makes `fd` non-blocking and registers it; must be called within a runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Self::as_is(fd)
    }

    /// Registers `fd` without making it non-blocking, for descriptors that are only waited for (a pidfd).
    pub fn as_is(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open and always returns the same number. It is moved into the
        // `AsyncFd`, and this type gives out shared references only, so that nobody can replace it
        // before both are dropped together.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }
}

impl Deref for Watched {
    type Target = AsyncFd<OwnedFd>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
