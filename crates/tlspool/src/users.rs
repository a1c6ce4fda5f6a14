//! Users and groups by name, and becoming one of them.
//!
//! The name services of the C library answer, so that users from LDAP or sssd count like those of
//! `/etc/passwd`. [`drop_privileges`] is called by the child processes, with one thread, before anything
//! else.

#![allow(unsafe_code)]

use crate::config::{GroupName, UserName};
use crate::supervisor::message::Account;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Why a user or group of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error(
        "there is no user \"{0}\"; make one with `useradd --system --no-create-home {0}`, or name another"
    )]
    NoUser(String),
    /// No such group.
    #[error("there is no group \"{0}\"; make one with `groupadd --system {0}`, or name another")]
    NoGroup(String),
    /// Only root can become somebody else.
    #[error("only root can run as \"{0}\"; start the daemon as root, or leave the setting out")]
    NotRoot(String),
    /// The system refused.
    #[error("cannot become \"{name}\": {source}")]
    Refused {
        /// The user.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// A line of passwd(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The number of the primary group.
    pub gid: u32,
    /// The folder; empty if there is no such line.
    pub home: PathBuf,
}

/// Calls a `…_r` function with a buffer that grows until the answer fits.
fn with_buffer<T>(
    mut call: impl FnMut(&mut [libc::c_char]) -> Result<Option<T>, i32>,
) -> Option<T> {
    let mut buffer = vec![0; 1024];
    loop {
        match call(&mut buffer) {
            Err(libc::ERANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(libc::EINTR) => {}
            other => return other.ok().flatten(),
        }
    }
}

fn passwd(
    query: impl Fn(*mut libc::passwd, &mut [libc::c_char], *mut *mut libc::passwd) -> i32,
) -> Option<User> {
    with_buffer(|buffer| {
        // SAFETY: `passwd` is a C struct of numbers and pointers, for which all zeroes is a value.
        let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        match query(&raw mut entry, buffer, &raw mut found) {
            0 if found.is_null() => Ok(None),
            0 => {
                // SAFETY: the call succeeded and found an entry, so `pw_name` and `pw_dir` are C strings
                // within `buffer`, which lives until the end of this closure.
                let [name, home] =
                    [entry.pw_name, entry.pw_dir].map(|text| unsafe { CStr::from_ptr(text) });
                let name = name.to_string_lossy().into_owned();
                let home = OsStr::from_bytes(home.to_bytes()).into();
                Ok(Some(User { name, uid: entry.pw_uid, gid: entry.pw_gid, home }))
            }
            error => Err(error),
        }
    })
}

/// The user with this name, or, if it is all digits and nobody's name, this number.
pub fn user(name: &str) -> Option<User> {
    let c_name = CString::new(name).ok()?;
    passwd(|entry, buffer, found| {
        // SAFETY: all pointers are to live objects, and the length is that of `buffer`.
        unsafe {
            libc::getpwnam_r(c_name.as_ptr(), entry, buffer.as_mut_ptr(), buffer.len(), found)
        }
    })
    .or_else(|| {
        let uid = name.parse().ok()?;
        Some(user_of(uid).unwrap_or_else(|| User {
            name: name.to_owned(),
            uid,
            gid: uid,
            home: PathBuf::new(),
        }))
    })
}

/// The user with this number.
pub fn user_of(uid: u32) -> Option<User> {
    passwd(|entry, buffer, found| {
        // SAFETY: all pointers are to live objects, and the length is that of `buffer`.
        unsafe { libc::getpwuid_r(uid, entry, buffer.as_mut_ptr(), buffer.len(), found) }
    })
}

/// The number of the group with this name.
pub fn group(name: &str) -> Option<u32> {
    let c_name = CString::new(name).ok()?;
    with_buffer(|buffer| {
        // SAFETY: `group` is a C struct of numbers and pointers, for which all zeroes is a value.
        let mut entry: libc::group = unsafe { std::mem::zeroed() };
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are to live objects, and the length is that of `buffer`.
        let result = unsafe {
            libc::getgrnam_r(
                c_name.as_ptr(),
                &raw mut entry,
                buffer.as_mut_ptr(),
                buffer.len(),
                &raw mut found,
            )
        };
        match result {
            0 if found.is_null() => Ok(None),
            0 => Ok(Some(entry.gr_gid)),
            error => Err(error),
        }
    })
    .or_else(|| name.parse().ok())
}

/// All groups of a user, the primary one included.
pub fn groups_of(user: &User) -> Vec<u32> {
    let Ok(name) = CString::new(user.name.as_str()) else { return vec![user.gid] };
    let mut count: libc::c_int = 32;
    loop {
        let mut groups: Vec<libc::gid_t> = vec![0; count.max(1) as usize];
        let before = count;
        // SAFETY: `groups` has room for `count` entries, and the call writes no more than that.
        let result = unsafe {
            libc::getgrouplist(name.as_ptr(), user.gid, groups.as_mut_ptr(), &raw mut count)
        };
        if result >= 0 {
            groups.truncate(count.max(0) as usize);
            return groups;
        }
        if count <= before || count > 1 << 16 {
            return vec![user.gid];
        }
    }
}

/// The account that a child process becomes: `None` if the daemon was not started by root, and then
/// naming anybody but oneself is an error.
pub fn account(
    user_name: Option<&UserName>,
    group_name: Option<&GroupName>,
) -> Result<Option<Account>, UserError> {
    let me = rustix::process::geteuid();
    let wanted = match user_name {
        Some(UserName(name)) => user(name).ok_or_else(|| UserError::NoUser(name.clone()))?,
        None if me.is_root() => user("root").ok_or_else(|| UserError::NoUser("root".into()))?,
        None => return Ok(None),
    };
    let gid = match group_name {
        Some(GroupName(name)) => group(name).ok_or_else(|| UserError::NoGroup(name.clone()))?,
        None => wanted.gid,
    };
    if me.is_root() {
        Ok(Some(Account { name: wanted.name, uid: wanted.uid, gid }))
    } else if wanted.uid == me.as_raw() {
        Ok(None)
    } else {
        Err(UserError::NotRoot(wanted.name))
    }
}

/// Becomes `account` with its supplementary groups, and gives up every capability and every way to new
/// ones. There is no way back.
pub fn drop_privileges(account: Option<&Account>) -> Result<(), UserError> {
    if let Some(account) = account {
        let refused = |source: io::Error| UserError::Refused { name: account.name.clone(), source };
        clear_bounding_set();
        let name = CString::new(account.name.as_str())
            .map_err(|_| UserError::NoUser(account.name.clone()))?;
        // SAFETY: these calls take numbers and a C string that lives; the process has one thread.
        let done = unsafe {
            libc::initgroups(name.as_ptr(), account.gid) == 0
                && libc::setgid(account.gid) == 0
                && libc::setuid(account.uid) == 0
        };
        if !done {
            return Err(refused(io::Error::last_os_error()));
        }
    }
    clear_capabilities().map_err(|source| UserError::Refused {
        name: account.map_or_else(|| "an unprivileged process".into(), |a| a.name.clone()),
        source,
    })
}

/// What has left the bounding set cannot come back with any exec. Needs a privilege that the caller may
/// lack within a container; the set is a second line, so that is no error.
fn clear_bounding_set() {
    for capability in rustix::thread::CapabilitySet::all().iter() {
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
}

fn clear_capabilities() -> io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    let _ = rustix::thread::clear_ambient_capability_set();
    set_no_new_privs(true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_by_name_and_number() {
        let root = user("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert_eq!(user_of(0).unwrap(), root);
        assert_eq!(group("root"), Some(0));
        assert!(groups_of(&root).contains(&0));
    }

    #[test]
    fn strangers_are_refused_with_a_way_out() {
        assert_eq!(user("no-such-user"), None);
        assert_eq!(group("no-such-group"), None);
        let name = UserName("no-such-user".into());
        let error = account(Some(&name), None).unwrap_err().to_string();
        assert!(error.contains("useradd"), "{error}");
    }

    #[test]
    fn digits_are_numbers_of_users_without_a_name() {
        assert_eq!(user("54321").unwrap().uid, 54321);
        assert_eq!(group("54321"), Some(54321));
    }
}
