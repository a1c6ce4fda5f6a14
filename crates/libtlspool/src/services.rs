//! Programs that serve the pool: PIN entry and local identity selection.

use std::ffi::{CStr, c_char, c_int, c_void};

use tlspool_client::{Cancel, Error, Lidentry, LidentryFlags, Pool, PoolError, Refusal};
use tlspool_wire::Body;

use crate::failure::{errno, fail, fail_errno, set_errno};
use crate::ffi::{self, LIDENTRY_LEN, PINENTRY_LEN, Record, opt_path};
use crate::pool::pool;

type PinCallback = unsafe extern "C" fn(*mut u8, *mut c_void);
type LocalidCallback = unsafe extern "C" fn(*mut u8, *mut c_void) -> *const c_char;

/// See tlspool_pin_service(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_pin_service(
    path: *const c_char,
    regflags: u32,
    responsetimeout_usec: c_int,
    cb: Option<PinCallback>,
    data: *mut c_void,
) -> c_int {
    let Some(cb) = cb else { return fail_errno(libc::EINVAL) };
    // SAFETY: NULL or a string, as the manual page asks.
    let pool = unsafe { pool_at(path) };
    let timeout = responsetimeout_usec.max(0) as u32;
    let end = pool.pin_service(regflags, timeout, &Cancel::new(), |entry| {
        let mut record = Record::of(Body::Pinentry(entry.clone()));
        // SAFETY: a pinentry_t that lives through the call, and the program's own pointer.
        unsafe { cb(record.data(), data) };
        // A PIN that does not end in NUL is none.
        if let Ok(Body::Pinentry(mut answer)) = record.body() {
            std::mem::swap(&mut entry.pin, &mut answer.pin);
        }
    });
    ended(&end)
}

/// See tlspool_localid_service(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_localid_service(
    path: *const c_char,
    regflags: u32,
    responsetimeout: c_int,
    cb: Option<LocalidCallback>,
    data: *mut c_void,
) -> c_int {
    let Some(cb) = cb else { return fail_errno(libc::EINVAL) };
    // SAFETY: NULL or a string, as the manual page asks.
    let pool = unsafe { pool_at(path) };
    let registration = Lidentry {
        flags: LidentryFlags(regflags),
        timeout: responsetimeout.max(0) as u32,
        ..Lidentry::default()
    };
    let end = pool.lidentry_service(registration, &Cancel::new(), |entry| {
        let mut record = Record::of(Body::LidentryCallback(entry.clone()));
        set_errno(0);
        // SAFETY: a struct pioc_lidentry that lives through the call, the program's own pointer.
        let problem = unsafe { cb(record.data(), data) };
        if !problem.is_null() {
            let code = match errno() {
                0 => PoolError::ClientRefusesCallback.code(),
                number => number,
            };
            // SAFETY: the callback returns NULL or a string.
            let message = unsafe { CStr::from_ptr(problem) }.to_string_lossy().into_owned();
            return Err(Refusal { code, message });
        }
        match record.body() {
            Ok(Body::LidentryCallback(answer)) => {
                *entry = answer;
                Ok(())
            }
            _ => Err(std::io::Error::from_raw_os_error(libc::EINVAL).into()),
        }
    });
    ended(&end)
}

/// The pool at `path`, or the process's pool for NULL.
///
/// # Safety
///
/// `path` is NULL or a string that ends.
unsafe fn pool_at(path: *const c_char) -> Pool {
    // SAFETY: the caller's promise.
    match unsafe { opt_path(path) } {
        Some(path) => Pool::at(path),
        None => pool().clone(),
    }
}

/// A pool that goes away is the usual end of a service.
fn ended(end: &Error) -> c_int {
    fail(end)
}

// The largest struct a callback sees fits the record.
const _: () = assert!(PINENTRY_LEN <= 380 && LIDENTRY_LEN <= 380 && ffi::STARTTLS_LEN <= 380);
