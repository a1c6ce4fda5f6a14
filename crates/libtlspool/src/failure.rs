//! `errno`, and words for it.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};

use tlspool_client::{Error, PoolError};

use crate::cancellation::Shelter;

thread_local! {
    /// The last failure of this thread: what `errno` was set to, and the pool's own words.
    static LAST: RefCell<(c_int, CString)> = RefCell::default();
    /// What [`tlspool_strerror`] returned last.
    static SHOWN: RefCell<CString> = RefCell::default();
}

/// Sets `errno`.
pub(crate) fn set_errno(number: c_int) {
    // SAFETY: the location is valid for this thread.
    unsafe { *libc::__errno_location() = number };
}

pub(crate) fn errno() -> c_int {
    // SAFETY: the location is valid for this thread.
    unsafe { *libc::__errno_location() }
}

/// Fails with the number the pool gave: `errno` may be an `E_TLSPOOL_...`, as existing programs
/// expect.
pub(crate) fn fail(error: &Error) -> c_int {
    fail_as(error.number(), error)
}

/// Fails with an `errno` that any program knows.
pub(crate) fn fail_plainly(error: &Error) -> c_int {
    fail_as(error.pool_error().map_or_else(|| error.number(), plain_errno), error)
}

/// Fails with `number`.
pub(crate) fn fail_errno(number: c_int) -> c_int {
    fail_as(number, &Error::Io(std::io::Error::from_raw_os_error(number)))
}

fn fail_as(number: c_int, error: &Error) -> c_int {
    let words = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
    LAST.with_borrow_mut(|last| *last = (number, words));
    set_errno(number);
    -1
}

/// The nearest errno for those who print with `perror`; starttls_client(3) has this table.
fn plain_errno(error: PoolError) -> c_int {
    match error {
        PoolError::OutOfMemory => libc::ENOMEM,
        PoolError::ClientDisconnect => libc::ECONNRESET,
        PoolError::ClientRefusesCallback => libc::ECANCELED,
        PoolError::CipherSocketNeeded | PoolError::PlainSocketNeeded => libc::ENOTSOCK,
        PoolError::SuperfluousSocket
        | PoolError::CommandNeeded
        | PoolError::CommandBadCallbackResponse
        | PoolError::RecordMalformed => libc::EINVAL,
        PoolError::CommandUnknown
        | PoolError::CommandNotImpl
        | PoolError::InfokindUnknown
        | PoolError::FacilityStarttls
        | PoolError::FacilityStartgss
        | PoolError::FacilityStartssh => libc::ENOSYS,
        PoolError::CtlkeyRegistrationFailed
        | PoolError::CtlkeyAttached
        | PoolError::LidentryNotVacant
        | PoolError::PinentryNotVacant
        | PoolError::EntangledThreads => libc::EBUSY,
        PoolError::CtlkeyNotFound
        | PoolError::CtlkeyDetached
        | PoolError::RenegotiateNotFound
        | PoolError::RenegotiateNotInterruptable
        | PoolError::InfoNotFound
        | PoolError::PrngUnavailable
        | PoolError::LocalidUnknown => libc::ENOENT,
        PoolError::CtlkeyNotYours | PoolError::LocalidNotYours | PoolError::LocalidRefused => {
            libc::EACCES
        }
        PoolError::RemoteidRefused
        | PoolError::NotAuthorized
        | PoolError::RenegotiateWouldBeInsecure => libc::EPERM,
        PoolError::ConnectionHandlerSetup | PoolError::ConnectionDriverSetup => libc::EIO,
        PoolError::StirredNotShaken => libc::EPROTO,
        PoolError::LimitReached => libc::EAGAIN,
        PoolError::Timeout => libc::ETIMEDOUT,
        PoolError::KeyUnavailable => libc::ENOKEY,
        PoolError::Draining => libc::ESHUTDOWN,
    }
}

/// See tlspool_strerror(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_strerror(errnum: c_int) -> *const c_char {
    let _shelter = Shelter::enter();
    let last = LAST.with_borrow(|(number, words)| (*number == errnum).then(|| words.clone()));
    let words = last.filter(|words| !words.is_empty()).unwrap_or_else(|| general_words(errnum));
    SHOWN.with_borrow_mut(|shown| {
        *shown = words;
        shown.as_ptr()
    })
}

fn general_words(errnum: c_int) -> CString {
    if let Some(error) = PoolError::from_code(errnum) {
        return CString::new(error.to_string()).unwrap_or_default();
    }
    let mut buffer = [0 as c_char; 256];
    // SAFETY: the buffer is as long as said; the function ends it with a NUL.
    unsafe {
        libc::strerror_r(errnum, buffer.as_mut_ptr(), buffer.len() - 1);
        CStr::from_ptr(buffer.as_ptr()).to_owned()
    }
}
