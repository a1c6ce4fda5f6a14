//! The process's one pool, and its plain requests.

use std::ffi::{c_char, c_int};
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};
use std::sync::{Mutex, OnceLock, PoisonError};

use tlspool_client::{CtlKey, Error, Facilities, Pool};
use tlspool_wire::{Body, command};

use crate::cancellation::Shelter;
use crate::failure::{fail, fail_errno};
use crate::ffi::{self, PING_LEN, opt_path, opt_str};

/// Length in `tlspool_info` that asks instead of comparing.
const ASK: u16 = 0xffff;
/// Bytes of the buffer of `tlspool_info`.
const INFO_LEN: usize = 334;

static POOL: OnceLock<Pool> = OnceLock::new();

/// The pool that all functions without a path of their own use. Its place is settled by the
/// first use, or by a first `tlspool_open_poolhandle` with a path.
pub(crate) fn pool() -> &'static Pool {
    heed_rights();
    POOL.get_or_init(Pool::new)
}

/// Before the environment is asked: who got more rights than its user does not believe it.
pub(crate) fn heed_rights() {
    // SAFETY: a constant of the process, 0 if it is not known.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 {
        tlspool_client::ignore_environment();
    }
}

/// The key at `ctlkey`.
///
/// # Safety
/// `ctlkey` is NULL or points to 16 bytes.
pub(crate) unsafe fn key(ctlkey: *const u8) -> Option<CtlKey> {
    // SAFETY: the caller's promise.
    (!ctlkey.is_null()).then(|| CtlKey(unsafe { *ctlkey.cast() }))
}

/// A connection handed to the program, and how to recognise it: the program closes it when it
/// likes, and its number may then be anything.
static HANDLE: Mutex<Option<(RawFd, libc::dev_t, libc::ino_t)>> = Mutex::new(None);

/// See tlspool_open_poolhandle(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_open_poolhandle(path: *const c_char) -> c_int {
    let _shelter = Shelter::enter();
    // SAFETY: NULL or a string, as the manual page asks.
    let path = unsafe { opt_path(path) };
    heed_rights();
    let pool = POOL.get_or_init(|| path.map_or_else(Pool::new, Pool::at));
    let mut handle = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = *handle
        && identify(known.0) == Some(known)
        && is_connected(known.0)
    {
        return known.0;
    }
    match pool.open_raw() {
        Ok(socket) => {
            let fd = socket.into_raw_fd();
            *handle = identify(fd);
            fd
        }
        Err(error) => fail(&error),
    }
}

fn identify(fd: RawFd) -> Option<(RawFd, libc::dev_t, libc::ino_t)> {
    // SAFETY: all zero is a valid stat, and the call fills it for whatever fd is.
    unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut stat) == 0).then_some((fd, stat.st_dev, stat.st_ino))
    }
}

fn is_connected(fd: RawFd) -> bool {
    let mut poll = libc::pollfd { fd, events: 0, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&raw mut poll, 1, 0) == 0 }
}

/// See tlspool_ping(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_ping(pingdata: *mut u8) -> c_int {
    let _shelter = Shelter::enter();
    if pingdata.is_null() {
        return fail_errno(libc::EINVAL);
    }
    // SAFETY: a pingpool_t, as the manual page asks.
    let asked = match unsafe { ffi::read(command::PING, pingdata, PING_LEN) } {
        Ok(Body::Ping(ping)) => ping,
        Ok(_) => return fail_errno(libc::EINVAL),
        Err(error) => return fail(&error),
    };
    match pool().ping(asked.identity.as_str(), Facilities(asked.facilities)) {
        Ok(pong) => {
            // SAFETY: as above.
            unsafe { ffi::write(Body::Ping(pong), pingdata, PING_LEN) };
            0
        }
        Err(error) => fail(&error),
    }
}

/// See tlspool_control(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn _tlspool_control_command(cmd: c_int, ctlkey: *const u8) -> c_int {
    let _shelter = Shelter::enter();
    // SAFETY: 16 bytes, as the manual page asks.
    let Some(ctlkey) = (unsafe { key(ctlkey) }) else { return fail_errno(libc::EINVAL) };
    let done = match cmd as u32 {
        command::CONTROL_DETACH => pool().detach(ctlkey),
        command::CONTROL_REATTACH => pool().reattach(ctlkey),
        _ => return fail_errno(libc::EINVAL),
    };
    done.map_or_else(|error| fail(&error), |()| 0)
}

/// See tlspool_prng(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_prng(
    label: *const c_char,
    context_len: u16,
    context: *const u8,
    wanted: u16,
    out: *mut u8,
    ctlkey: *const u8,
) -> c_int {
    let _shelter = Shelter::enter();
    // SAFETY: a string and 16 bytes, as the manual page asks.
    let (label, ctlkey) = unsafe { (opt_str("label", label), key(ctlkey)) };
    if out.is_null() {
        return fail_errno(libc::EINVAL);
    }
    // SAFETY: `wanted` bytes, as the manual page asks; zeroed so that they are valid to refer to,
    // and so that a failure leaves nothing that looks random.
    let out = unsafe {
        out.write_bytes(0, usize::from(wanted));
        std::slice::from_raw_parts_mut(out, usize::from(wanted))
    };
    // SAFETY: `context_len` bytes unless NULL, as the manual page asks.
    let context = (!context.is_null())
        .then(|| unsafe { std::slice::from_raw_parts(context, usize::from(context_len)) });
    let (label, ctlkey) = match (label, ctlkey) {
        (Ok(Some(label)), Some(ctlkey)) => (label, ctlkey),
        (Err(error), _) => return fail(&error),
        _ => return fail_errno(libc::EINVAL),
    };
    pool().prng(ctlkey, label, context, out).map_or_else(|error| fail(&error), |()| 0)
}

/// See tlspool_info(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_info(
    kind: u32,
    buffer: *mut u8,
    len: *mut u16,
    ctlkey: *const u8,
) -> c_int {
    let _shelter = Shelter::enter();
    // SAFETY: 16 bytes, as the manual page asks.
    let ctlkey = unsafe { key(ctlkey) };
    let (Some(ctlkey), false, false) = (ctlkey, buffer.is_null(), len.is_null()) else {
        return fail_errno(libc::EINVAL);
    };
    // SAFETY: one length and 334 bytes, as the manual page asks.
    let (len, buffer) = unsafe { (&mut *len, std::slice::from_raw_parts_mut(buffer, INFO_LEN)) };
    let answer = match buffer.get(..usize::from(*len)) {
        _ if *len == ASK => pool().info(ctlkey, kind),
        Some(value) => pool().check_info(ctlkey, kind, value),
        None => return fail_errno(libc::EINVAL),
    };
    match answer {
        Ok(value) => {
            if *len == ASK {
                buffer[..value.len()].copy_from_slice(&value);
                *len = value.len() as u16;
            }
            0
        }
        Err(error) => fail(&error),
    }
}

/// A descriptor that the program handed over.
///
/// # Safety
/// `fd` is the program's to give.
pub(crate) unsafe fn consume(fd: c_int) -> Result<std::os::fd::OwnedFd, Error> {
    use std::os::fd::FromRawFd;
    // SAFETY: only asks whether the number is a descriptor at all.
    if fd < 0 || unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(std::io::Error::from_raw_os_error(libc::EBADF).into());
    }
    // SAFETY: it is open, and the caller's promise.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd) })
}

/// A duplicate of a descriptor that the program keeps.
///
/// # Safety
/// `fd` is open, or the program gets an error.
pub(crate) unsafe fn duplicate(fd: c_int) -> std::io::Result<std::os::fd::OwnedFd> {
    // SAFETY: borrowed only for the call, which fails if it is not open; -1 is kept out.
    if fd < 0 {
        return Err(std::io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: as above.
    unsafe { BorrowedFd::borrow_raw(fd) }.try_clone_to_owned()
}
