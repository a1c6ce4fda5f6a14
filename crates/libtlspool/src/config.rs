//! The old-style configuration file, and the process that runs the pool.

use std::ffi::{CString, c_char, c_int};
use std::path::{Path, PathBuf};

use crate::cancellation::Shelter;
use crate::failure::{fail, fail_errno};
use crate::ffi::{opt_path, opt_str};
use crate::pool::heed_rights;

/// Where the daemon of this project writes its process id.
const PIDFILE: &str = "/run/tlspool/tlspool.pid";
/// Where programs in the field look for it.
const DEFAULT_PIDFILE: &str = "/var/run/tlspool.pid";

/// See tlspool_configvar(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_configvar(
    cfgfile: *const c_char,
    varname: *const c_char,
) -> *mut c_char {
    let _shelter = Shelter::enter();
    heed_rights();
    // SAFETY: both are NULL or strings, as the manual page asks.
    let (file, name) = unsafe { (opt_path(cfgfile), opt_str("varname", varname)) };
    let Ok(Some(name)) = name else {
        fail_errno(libc::EINVAL);
        return std::ptr::null_mut();
    };
    let value = tlspool_client::config_variable(file.as_deref(), name);
    let Some(value) = value.and_then(|v| CString::new(v).ok()) else {
        fail_errno(libc::ENOENT);
        return std::ptr::null_mut();
    };
    // SAFETY: a string that ends in NUL; the copy is the caller's to free.
    unsafe { libc::strdup(value.as_ptr()) }
}

/// See tlspool_pid(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn tlspool_pid(opt_pidfile: *const c_char) -> c_int {
    let _shelter = Shelter::enter();
    heed_rights();
    // SAFETY: NULL or a string, as the manual page asks.
    let named = unsafe { opt_path(opt_pidfile) };
    match read_pid(&named.unwrap_or_else(pidfile)) {
        Ok(pid) => pid,
        Err(error) => fail(&error.into()),
    }
}

/// As for the socket: the configuration, the user's own pool, the default.
fn pidfile() -> PathBuf {
    if let Some(path) = tlspool_client::config_variable(None, "daemon_pidfile") {
        return path.into();
    }
    let beside = tlspool_client::socket_path(None).with_extension("pid");
    let usual = [beside, PIDFILE.into()].into_iter().find(|path| path.exists());
    usual.unwrap_or_else(|| DEFAULT_PIDFILE.into())
}

fn read_pid(path: &Path) -> std::io::Result<c_int> {
    let text = std::fs::read_to_string(path)?;
    let pid = text.trim().parse().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| std::io::Error::from_raw_os_error(libc::EINVAL))
}
