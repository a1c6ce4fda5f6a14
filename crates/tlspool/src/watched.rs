//! A descriptor that tasks can wait for.
//!
//! tokio's `AsyncFd` is unsafe to make, because it must stay registered for the very descriptor it
//! was made with. This type owns the descriptor and never lends it out to be replaced.

#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An open descriptor registered with the runtime: an `OwnedFd`, or an `Arc` of one.
#[derive(Debug)]
pub struct Watched<T: AsRawFd = OwnedFd>(AsyncFd<T>);

impl Watched {
    /// Makes `fd` non-blocking and registers it; must be called within a runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Self::as_is(fd)
    }

    /// Registers `fd`, non-blocking already, to wait for room to write only.
    pub fn to_write(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: as in `as_is`.
        Ok(Self(unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) }?))
    }

    /// Registers `fd` without making it non-blocking, for descriptors that are only waited for (a pidfd).
    pub fn as_is(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an `OwnedFd` is open and always returns the same number. It is moved into the
        // `AsyncFd`, and this type gives out shared references only, so that nobody can replace it
        // before both are dropped together.
        Ok(Self(unsafe { AsyncFd::register(fd) }?))
    }
}

impl Watched<Arc<OwnedFd>> {
    /// Makes `fd`, which others use besides, non-blocking and registers it to wait for something to
    /// read only; must be called within a runtime.
    pub fn shared(fd: Arc<OwnedFd>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: as in `as_is`; behind an `Arc` the descriptor cannot be replaced or closed either.
        Ok(Self(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?))
    }
}

impl<T: AsRawFd> Deref for Watched<T> {
    type Target = AsyncFd<T>;
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T: AsRawFd + AsFd> AsFd for Watched<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}
