//! Programs that serve the pool: PIN entry and local identity selection.
//!
//! A program ends a service by cancelling its thread, while that waits for the pool or is in the program's callback. So
//! what a service owns is not in its frames but belongs to the thread, which drops it when it ends.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, RawFd};

use tlspool_client::{
    Error, Lidentry, LidentryFlags, Pool, PoolError, Refusal, Service, Text, raw,
};
use tlspool_wire::Body;

use crate::cancellation::{self, disable, restore};
use crate::failure::{errno, fail, fail_errno, set_errno};
use crate::ffi::{self, LIDENTRY_LEN, PINENTRY_LEN, Record, opt_path};
use crate::pool::pool;

type PinCallback = unsafe extern "C-unwind" fn(*mut u8, *mut c_void);
type LocalidCallback = unsafe extern "C-unwind" fn(*mut u8, *mut c_void) -> *const c_char;

/// A service that runs.
struct Running {
    service: Service,
    /// What the program is asked, as it was, and for it to change. Its place is fixed.
    asked: Option<(Body, Box<Record>)>,
}

thread_local! {
    /// The services of this thread: of several, each was begun by the callback of the one before.
    static RUNNING: RefCell<Vec<Running>> = const { RefCell::new(Vec::new()) };
}

/// What a service is asked.
#[derive(Clone, Copy)]
enum Kind {
    Pins,
    Choices,
}

/// What a service does next.
#[derive(Clone, Copy)]
enum Next {
    /// Waits until this is readable.
    Wait(RawFd),
    /// Asks the program; the struct is the callback's.
    Ask(*mut u8),
    /// Returns this.
    End(c_int),
}

/// See tlspool_pin_service(3).
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn tlspool_pin_service(
    path: *const c_char,
    regflags: u32,
    responsetimeout_usec: c_int,
    cb: Option<PinCallback>,
    data: *mut c_void,
) -> c_int {
    let Some(cb) = cb else { return fail_errno(libc::EINVAL) };
    // Nothing in this frame wants to be dropped: it may be unwound.
    let before = disable();
    // SAFETY: NULL or a string, as the manual page asks.
    let begun = unsafe {
        begin(path, |pool| Service::pins(pool, regflags, responsetimeout_usec.max(0) as u32))
    };
    if begun != 0 {
        restore(before);
        return begun;
    }
    loop {
        match next(Kind::Pins) {
            // SAFETY: this frame owns nothing, and is the program's.
            Next::Wait(fd) => unsafe { cancellation::wait(fd, before) },
            Next::Ask(entry) => {
                restore(before);
                // SAFETY: a pinentry_t that lives through the call, and the program's own pointer.
                unsafe { cb(entry, data) };
                disable();
                answer(pin_answer);
            }
            Next::End(outcome) => {
                restore(before);
                return outcome;
            }
        }
    }
}

/// See tlspool_localid_service(3).
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn tlspool_localid_service(
    path: *const c_char,
    regflags: u32,
    responsetimeout: c_int,
    cb: Option<LocalidCallback>,
    data: *mut c_void,
) -> c_int {
    let Some(cb) = cb else { return fail_errno(libc::EINVAL) };
    // As above.
    let before = disable();
    // SAFETY: NULL or a string, as the manual page asks.
    let begun = unsafe {
        begin(path, |pool| {
            let timeout = responsetimeout.max(0) as u32;
            let flags = LidentryFlags(regflags);
            Service::choices(pool, Lidentry { flags, timeout, ..Lidentry::default() })
        })
    };
    if begun != 0 {
        restore(before);
        return begun;
    }
    loop {
        match next(Kind::Choices) {
            // SAFETY: this frame owns nothing, and is the program's.
            Next::Wait(fd) => unsafe { cancellation::wait(fd, before) },
            Next::Ask(entry) => {
                set_errno(0);
                restore(before);
                // SAFETY: a struct pioc_lidentry that lives through the call, the program's own pointer.
                let problem = unsafe { cb(entry, data) };
                disable();
                // SAFETY: the callback returns NULL or a string.
                answer(|_, changed| unsafe { localid_answer(changed, problem) });
            }
            Next::End(outcome) => {
                restore(before);
                return outcome;
            }
        }
    }
}

/// Registers with the pool at `path`, or the process's pool for NULL. Returns 0, or fails.
///
/// # Safety
///
/// `path` is NULL or a string that ends.
unsafe fn begin(
    path: *const c_char,
    register: impl FnOnce(&Pool) -> Result<Service, Error>,
) -> c_int {
    // SAFETY: the caller's promise.
    let service = match unsafe { opt_path(path) } {
        Some(path) => register(&Pool::at(path)),
        None => register(pool()),
    };
    match service {
        Ok(service) => {
            let running = Running { service, asked: None };
            // The thread ends already: there is nobody to keep it.
            let kept = RUNNING.try_with(|all| all.borrow_mut().push(running));
            kept.map_or_else(|_| fail_errno(libc::EINVAL), |()| 0)
        }
        Err(error) => fail(&error),
    }
}

/// What the service that was begun last does next.
fn next(kind: Kind) -> Next {
    let step = |all: &RefCell<Vec<Running>>| {
        let mut all = all.borrow_mut();
        let Some(running) = all.last_mut() else { return Next::End(fail_errno(libc::EINVAL)) };
        let error = match running.service.question() {
            Ok(None) => return Next::Wait(running.service.socket().as_raw_fd()),
            Ok(Some(question)) => match kind.question(question) {
                Some(asked) => {
                    let mut record = Box::new(Record::of(asked.clone()));
                    let data = record.data();
                    running.asked = Some((asked, record));
                    return Next::Ask(data);
                }
                None => Error::Protocol("not a callback of this service"),
            },
            Err(error) => error,
        };
        let ended = all.pop();
        drop((all, ended));
        Next::End(fail(&error))
    };
    RUNNING.try_with(step).unwrap_or_else(|_| Next::End(fail_errno(libc::EINVAL)))
}

/// Sends what `reply` makes of the question, and of what the program made of it.
fn answer(reply: impl FnOnce(Body, Result<Body, Error>) -> Body) {
    RUNNING.with_borrow_mut(|all| {
        let Some(running) = all.last_mut() else { return };
        let Some((asked, record)) = running.asked.take() else { return };
        running.service.answer(reply(asked, record.body()));
    });
}

impl Kind {
    /// The question as the program sees it, if it is one of this service.
    fn question(self, body: Body) -> Option<Body> {
        match (self, body) {
            (Self::Pins, Body::Pinentry(mut entry)) => {
                *entry.pin = Text::EMPTY;
                Some(Body::Pinentry(entry))
            }
            (Self::Choices, Body::LidentryCallback(entry)) => Some(Body::LidentryCallback(entry)),
            _ => None,
        }
    }
}

/// The PIN that the program has put in; one that does not end in NUL is none.
fn pin_answer(mut asked: Body, changed: Result<Body, Error>) -> Body {
    if let (Body::Pinentry(entry), Ok(Body::Pinentry(mut answer))) = (&mut asked, changed) {
        std::mem::swap(&mut entry.pin, &mut answer.pin);
    }
    asked
}

/// The program's choice, or its `problem`.
///
/// # Safety
///
/// `problem` is NULL or a string that ends.
unsafe fn localid_answer(changed: Result<Body, Error>, problem: *const c_char) -> Body {
    if problem.is_null() {
        return match changed {
            Ok(choice @ Body::LidentryCallback(_)) => choice,
            _ => raw::refusal(std::io::Error::from_raw_os_error(libc::EINVAL).into()),
        };
    }
    let code = match errno() {
        0 => PoolError::ClientRefusesCallback.code(),
        number => number,
    };
    // SAFETY: the caller's promise.
    let message = unsafe { CStr::from_ptr(problem) }.to_string_lossy().into_owned();
    raw::refusal(Refusal { code, message })
}

// The largest struct a callback sees fits the record.
const _: () = assert!(PINENTRY_LEN <= 380 && LIDENTRY_LEN <= 380 && ffi::STARTTLS_LEN <= 380);
