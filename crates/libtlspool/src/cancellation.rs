//! Threads that are cancelled (pthread_cancel) while they are in the library.
//!
//! A cancelled thread is unwound at a cancellation point, which may be any blocking call of libc or a callback of the
//! program. Frames of ours that own something must not be unwound: nothing would be dropped, and the compiler
//! counts on it that `extern "C"` functions return. So cancellation is off while the library works, and what
//! waits for long, or calls the program back for long, does so from a frame that owns nothing.

use std::ffi::c_int;

const DISABLE: c_int = 1;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

unsafe extern "C-unwind" {
    /// A cancellation point: it may unwind instead of returning.
    #[link_name = "poll"]
    #[allow(clashing_extern_declarations)] // that of libc must not unwind
    fn poll_or_unwind(fds: *mut libc::pollfd, n: libc::nfds_t, timeout: c_int) -> c_int;
}

/// The calling thread cannot be cancelled while this lives.
#[must_use]
pub(crate) struct Shelter(c_int);

impl Shelter {
    pub(crate) fn enter() -> Self {
        Self(disable())
    }
}

impl Drop for Shelter {
    fn drop(&mut self) {
        restore(self.0);
    }
}

/// From now on the calling thread cannot be cancelled; returns what [`restore`] wants.
pub(crate) fn disable() -> c_int {
    let mut before = DISABLE;
    // SAFETY: one int; it fails for an unknown state only.
    unsafe { pthread_setcancelstate(DISABLE, &raw mut before) };
    before
}

/// As it was before.
pub(crate) fn restore(before: c_int) {
    // SAFETY: NULL is permitted by the C libraries of Linux, and the state came from there.
    unsafe { pthread_setcancelstate(before, std::ptr::null_mut()) };
}

/// Waits until a descriptor is readable or hung up, or a signal came. The thread may be cancelled meanwhile.
///
/// # Safety
///
/// No frame between the program and this one owns anything.
pub(crate) unsafe fn wait(fd: c_int, before: c_int) {
    let mut fds = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    restore(before);
    // SAFETY: one pollfd; frames that may be unwound own nothing, the caller's promise and by the looks of this one.
    unsafe { poll_or_unwind(&raw mut fds, 1, -1) };
    disable();
}
