//! A PKCS #11 module that misbehaves on request.
//!
//! It forwards to the module that `P11MOCK_MODULE` names, and before each signature reads the
//! words in the file that `P11MOCK_CONTROL` names (no file: it just forwards):
//!
//! | word | effect, on `C_Sign` if nothing is said |
//! | --- | --- |
//! | `delay_ms N` | takes N milliseconds longer |
//! | `parallel N` | N calls at a time, the others wait |
//! | `wait` | goes on when the word is gone |
//! | `crash` | aborts the process |
//! | `hang` | never returns |
//! | `removed` | fails with `CKR_DEVICE_REMOVED` |
//! | `absent` | as `removed`, and all slots are empty |
//! | `remove_at N` | the Nth signature finds the token removed and all its sessions closed |
//! | `expire_at N` | the Nth signature finds all sessions closed |
//! | `logout_at N` | the Nth signature finds the user logged out |
//! | `lie_length` | the length of a signature is told to be all there is |
//! | `lie_count` | `C_FindObjects` tells of one object more than there was room for |
//! | `login_ms N` | `C_Login` takes N milliseconds longer |
//! | `wait_login` | `C_Login` goes on when the word is gone |
//!
//! With a file `P11MOCK_CARD` it has a PIN of its own, whose tries it counts: see `card`.
//!
//! Each signature appends a byte to the file that `P11MOCK_COUNT` names, and each login to the
//! file that `P11MOCK_LOGINS` names: their length is the count.

#![allow(non_snake_case)] // the names are those of the PKCS #11 standard

mod card;

use std::ffi::c_void;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cryptoki_sys::{
    CK_BBOOL, CK_BYTE_PTR, CK_FUNCTION_LIST, CK_FUNCTION_LIST_PTR_PTR, CK_OBJECT_HANDLE_PTR, CK_RV,
    CK_SESSION_HANDLE, CK_SESSION_INFO, CK_SLOT_ID, CK_SLOT_ID_PTR, CK_TOKEN_INFO_PTR, CK_ULONG,
    CK_ULONG_PTR, CK_UNAVAILABLE_INFORMATION, CK_USER_TYPE, CK_UTF8CHAR_PTR, CKR_DEVICE_REMOVED,
    CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR, CKR_OK, CKR_SESSION_HANDLE_INVALID,
    CKR_USER_NOT_LOGGED_IN, Pkcs11,
};
use parking_lot::{Condvar, Mutex};

/// The real module, and our list of functions.
struct Modules {
    real: CK_FUNCTION_LIST,
    ours: CK_FUNCTION_LIST,
    _library: Pkcs11,
}

// SAFETY: the lists hold function pointers that stay valid because the library is never unloaded,
// and PKCS #11 modules are initialised for use from several threads.
unsafe impl Send for Modules {}
// SAFETY: as above; the lists are never written after creation.
unsafe impl Sync for Modules {}

static MODULES: OnceLock<Option<Modules>> = OnceLock::new();
static SIGNATURES: AtomicU64 = AtomicU64::new(0);
static BUSY: Mutex<u64> = Mutex::new(0);
static FREE: Condvar = Condvar::new();

/// The words of the control file.
#[derive(Default)]
struct Control {
    delay_ms: u64,
    parallel: Option<u64>,
    wait: bool,
    crash: bool,
    hang: bool,
    removed: bool,
    absent: bool,
    remove_at: Option<u64>,
    expire_at: Option<u64>,
    logout_at: Option<u64>,
    lie_length: bool,
    lie_count: bool,
    login_ms: u64,
    wait_login: bool,
}

impl Control {
    fn read() -> Self {
        let mut control = Self::default();
        let Some(path) = std::env::var_os("P11MOCK_CONTROL") else { return control };
        let Ok(text) = std::fs::read_to_string(path) else { return control };
        let mut words = text.split_whitespace();
        while let Some(word) = words.next() {
            let mut number = || words.next().and_then(|n| n.parse().ok());
            match word {
                "delay_ms" => control.delay_ms = number().unwrap_or(0),
                "parallel" => control.parallel = number(),
                "remove_at" => control.remove_at = number(),
                "expire_at" => control.expire_at = number(),
                "logout_at" => control.logout_at = number(),
                "wait" => control.wait = true,
                "login_ms" => control.login_ms = number().unwrap_or(0),
                "wait_login" => control.wait_login = true,
                "lie_length" => control.lie_length = true,
                "lie_count" => control.lie_count = true,
                "crash" => control.crash = true,
                "hang" => control.hang = true,
                "removed" => control.removed = true,
                "absent" => control.absent = true,
                other => eprintln!("p11mock: unknown word {other:?}"),
            }
        }
        control
    }
}

/// The entry point of every PKCS #11 module.
///
/// # Safety
/// `list` must be valid for writing a pointer, as the PKCS #11 standard demands of the caller.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    let Some(modules) = modules() else { return CKR_GENERAL_ERROR };
    // SAFETY: the caller gives a valid pointer; callers only read the list.
    unsafe { *list = (&raw const modules.ours).cast_mut() };
    CKR_OK
}

fn modules() -> Option<&'static Modules> {
    let load = || {
        let path = std::env::var_os("P11MOCK_MODULE")?;
        // SAFETY: loading runs the initialisers of the module that the test chose.
        let library = unsafe { Pkcs11::new(path) }.ok()?;
        let mut list = std::ptr::null_mut();
        // SAFETY: `list` is valid for writing.
        if unsafe { library.C_GetFunctionList(&raw mut list) } != CKR_OK || list.is_null() {
            return None;
        }
        // SAFETY: the module returned CKR_OK and a list, which lives as long as the library.
        let real = unsafe { *list };
        let ours = CK_FUNCTION_LIST {
            C_GetFunctionList: Some(C_GetFunctionList),
            C_GetSlotList: Some(get_slot_list),
            C_GetTokenInfo: Some(get_token_info),
            C_FindObjects: Some(find_objects),
            C_Login: Some(login),
            C_Sign: Some(sign),
            ..real
        };
        Some(Modules { real, ours, _library: library })
    };
    MODULES.get_or_init(load).as_ref()
}

fn count(variable: &str) {
    let Some(path) = std::env::var_os(variable) else { return };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(b".")) {
        eprintln!("p11mock: {variable}: {error}");
    }
}

unsafe extern "C" fn get_slot_list(
    present: CK_BBOOL,
    slots: CK_SLOT_ID_PTR,
    number: CK_ULONG_PTR,
) -> CK_RV {
    if Control::read().absent {
        // SAFETY: the caller gives a valid pointer to a number.
        unsafe { *number = 0 };
        return CKR_OK;
    }
    let real = modules().and_then(|modules| modules.real.C_GetSlotList);
    // SAFETY: the arguments are those that the caller vouches for.
    real.map_or(CKR_GENERAL_ERROR, |real| unsafe { real(present, slots, number) })
}

unsafe extern "C" fn find_objects(
    session: CK_SESSION_HANDLE,
    objects: CK_OBJECT_HANDLE_PTR,
    most: CK_ULONG,
    number: CK_ULONG_PTR,
) -> CK_RV {
    let real = modules().and_then(|modules| modules.real.C_FindObjects);
    // SAFETY: the arguments are those that the caller vouches for.
    let code =
        real.map_or(CKR_GENERAL_ERROR, |real| unsafe { real(session, objects, most, number) });
    if code == CKR_OK && Control::read().lie_count {
        // SAFETY: the caller gives a valid pointer to a number.
        unsafe { *number = most + 1 };
    }
    code
}

unsafe extern "C" fn login(
    session: CK_SESSION_HANDLE,
    user: CK_USER_TYPE,
    pin: CK_UTF8CHAR_PTR,
    len: CK_ULONG,
) -> CK_RV {
    count("P11MOCK_LOGINS");
    let Some(real) = modules().and_then(|modules| modules.real.C_Login) else {
        return CKR_GENERAL_ERROR;
    };
    let control = Control::read();
    if control.login_ms > 0 {
        std::thread::sleep(Duration::from_millis(control.login_ms)); // being slow is its purpose
    }
    if control.wait_login {
        wait_until(|| !Control::read().wait_login);
    }
    // SAFETY: the caller gives `len` bytes, or a null pointer.
    let typed = (!pin.is_null()).then(|| unsafe { std::slice::from_raw_parts(pin, len as usize) });
    match card::login(user, typed) {
        // SAFETY: the arguments are those that the caller vouches for.
        Ok(None) => unsafe { real(session, user, pin, len) },
        // SAFETY: the PIN lives until after the call, and modules do not write it.
        Ok(Some(pin)) => unsafe {
            real(session, user, pin.as_ptr().cast_mut(), pin.len() as CK_ULONG)
        },
        Err(code) => code,
    }
}

unsafe extern "C" fn get_token_info(slot: CK_SLOT_ID, info: CK_TOKEN_INFO_PTR) -> CK_RV {
    let real = modules().and_then(|modules| modules.real.C_GetTokenInfo);
    // SAFETY: the arguments are those that the caller vouches for.
    let code = real.map_or(CKR_GENERAL_ERROR, |real| unsafe { real(slot, info) });
    if code == CKR_OK {
        // SAFETY: the real module has filled it in.
        unsafe { (*info).flags = card::flags((*info).flags) };
    }
    code
}

/// Nobody tells when a file changes.
fn wait_until(over: impl Fn() -> bool) {
    while !over() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

unsafe extern "C" fn sign(
    session: CK_SESSION_HANDLE,
    data: CK_BYTE_PTR,
    len: CK_ULONG,
    signature: CK_BYTE_PTR,
    signature_len: CK_ULONG_PTR,
) -> CK_RV {
    let Some(modules) = modules() else { return CKR_GENERAL_ERROR };
    let Some(real) = modules.real.C_Sign else { return CKR_GENERAL_ERROR };
    if !signature.is_null() {
        let number = SIGNATURES.fetch_add(1, Ordering::Relaxed) + 1;
        if let Err(code) = before_signature(modules, session, number) {
            return code;
        }
        count("P11MOCK_COUNT");
    } else if Control::read().lie_length {
        // SAFETY: the caller gives a valid pointer to a number.
        unsafe { *signature_len = CK_UNAVAILABLE_INFORMATION };
        return CKR_OK;
    }
    // SAFETY: the arguments are those that the caller vouches for.
    unsafe { real(session, data, len, signature, signature_len) }
}

fn before_signature(
    modules: &Modules,
    session: CK_SESSION_HANDLE,
    number: u64,
) -> Result<(), CK_RV> {
    let control = Control::read();
    if control.crash {
        std::process::abort();
    }
    if control.hang {
        loop {
            std::thread::park();
        }
    }
    if control.removed || control.absent {
        return Err(CKR_DEVICE_REMOVED);
    }
    if control.remove_at == Some(number) {
        close_all(modules, session)?;
        return Err(CKR_DEVICE_REMOVED);
    }
    if control.expire_at == Some(number) {
        close_all(modules, session)?;
        return Err(CKR_SESSION_HANDLE_INVALID);
    }
    if control.logout_at == Some(number) {
        let logout = modules.real.C_Logout.ok_or(CKR_FUNCTION_FAILED)?;
        // SAFETY: the session is the caller's.
        unsafe { logout(session) };
        return Err(CKR_USER_NOT_LOGGED_IN);
    }
    if control.wait {
        wait_until(|| !Control::read().wait);
    }
    if let Some(limit) = control.parallel {
        let mut busy = BUSY.lock();
        while *busy >= limit {
            FREE.wait(&mut busy);
        }
        *busy += 1;
    }
    if control.delay_ms > 0 {
        std::thread::sleep(Duration::from_millis(control.delay_ms)); // being slow is its purpose
    }
    if control.parallel.is_some() {
        *BUSY.lock() -= 1;
        FREE.notify_one();
    }
    Ok(())
}

/// Closes all sessions of the token that the session is on.
fn close_all(modules: &Modules, session: CK_SESSION_HANDLE) -> Result<(), CK_RV> {
    let about = modules.real.C_GetSessionInfo.ok_or(CKR_FUNCTION_FAILED)?;
    let close = modules.real.C_CloseAllSessions.ok_or(CKR_FUNCTION_FAILED)?;
    let mut info = CK_SESSION_INFO::default();
    // SAFETY: `info` is valid for writing; the session is the caller's.
    unsafe {
        about(session, &raw mut info);
        close(info.slotID);
    }
    Ok(())
}

/// Keeps the entry point in the rlib, so that depending on this crate is not an empty thing.
#[doc(hidden)]
pub fn linked() -> *const c_void {
    C_GetFunctionList as *const c_void
}
