//! The pair that the product's manual page names: `starttls_client` and `starttls_server`.

use std::ffi::{CString, c_char, c_int};
use std::os::fd::{IntoRawFd, OwnedFd};

use tlspool_client::{
    Error, LocalidAnswer, Plaintext, Refusal, Starttls, StarttlsFlags, StarttlsRequest, Text,
};

use crate::cancellation::Shelter;
use crate::failure::{fail_errno, fail_plainly};
use crate::ffi::{opt_str, text};
use crate::pool::{consume, pool};

/// Room for the longest name and its NUL.
const NAME_LEN: usize = 128;

/// Flags, as in `<tlspool/starttls.h>`.
mod flag {
    use std::ffi::c_int;
    pub(super) const REMOTE_OPTIONAL: c_int = 0x01;
    pub(super) const REMOTE_NONE: c_int = 0x02;
    pub(super) const LOCAL_NONE: c_int = 0x04;
    pub(super) const NO_REMOTE_USER: c_int = 0x08;
    pub(super) const NO_REMOTE_DOMAIN: c_int = 0x10;
    pub(super) const NO_CACHE_READ: c_int = 0x20;
    pub(super) const NO_CACHE_WRITE: c_int = 0x40;
    pub(super) const NO_AUTHORIZATION: c_int = 0x80;
    pub(super) const ALL: c_int = REMOTE_OPTIONAL
        | REMOTE_NONE
        | LOCAL_NONE
        | NO_REMOTE_USER
        | NO_REMOTE_DOMAIN
        | NO_CACHE_READ
        | NO_CACHE_WRITE
        | NO_AUTHORIZATION;
}

type CheckSni = unsafe extern "C" fn(*mut c_char) -> c_int;

/// What both functions were given.
struct Call {
    fd: c_int,
    proto: c_int,
    myname: *const c_char,
    flags: c_int,
    peername: *mut c_char,
    peername_len: usize,
}

/// See starttls_client(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn starttls_client(
    fd: c_int,
    proto: c_int,
    myname: *const c_char,
    flags: c_int,
    sniname: *const c_char,
    peername: *mut c_char,
    peername_len: usize,
) -> c_int {
    let _shelter = Shelter::enter();
    let call = Call { fd, proto, myname, flags, peername, peername_len };
    let roles = StarttlsFlags::LOCALROLE_CLIENT | StarttlsFlags::REMOTEROLE_SERVER;
    let answer = (flags & flag::LOCAL_NONE != 0).then_some(|_: &Starttls| LocalidAnswer::NotThis);
    // SAFETY: strings and a buffer, as the manual page asks.
    unsafe { call.run(roles, sniname, answer) }
}

/// See starttls_server(3).
#[unsafe(no_mangle)]
unsafe extern "C" fn starttls_server(
    fd: c_int,
    proto: c_int,
    myname: *const c_char,
    flags: c_int,
    checksni: Option<CheckSni>,
    peername: *mut c_char,
    peername_len: usize,
) -> c_int {
    let _shelter = Shelter::enter();
    let call = Call { fd, proto, myname, flags, peername, peername_len };
    let roles = StarttlsFlags::LOCALROLE_SERVER | StarttlsFlags::REMOTEROLE_CLIENT;
    let check = checksni.map(|checksni| {
        move |proposal: &Starttls| {
            let name = CString::new(proposal.localid.as_str()).unwrap_or_default();
            // It may write into the string, and end it earlier.
            let mut name = name.into_bytes_with_nul();
            // SAFETY: the program's own function, and a string that ends, in memory of ours.
            let accepted = unsafe { checksni(name.as_mut_ptr().cast()) != 0 };
            if accepted { LocalidAnswer::Accept } else { LocalidAnswer::NotThis }
        }
    });
    // SAFETY: strings and a buffer, as the manual page asks.
    unsafe { call.run(roles, std::ptr::null(), check) }
}

impl Call {
    /// # Safety
    /// The pointers are what the manual page asks.
    unsafe fn run(
        &self,
        roles: StarttlsFlags,
        remote: *const c_char,
        check: Option<impl FnMut(&Starttls) -> LocalidAnswer + Send>,
    ) -> c_int {
        // SAFETY: handed over in every case.
        let fd = unsafe { consume(self.fd) };
        // SAFETY: strings or NULL.
        let request = unsafe { self.request(roles, remote) };
        let outcome = fd.and_then(|fd| self.start(request?, fd, check));
        match outcome {
            Ok((ours, name)) => {
                // SAFETY: the name was checked to fit.
                unsafe { self.store(&name) };
                ours.into_raw_fd()
            }
            Err(Error::Io(error)) => fail_errno(error.raw_os_error().unwrap_or(libc::EIO)),
            Err(error) => fail_plainly(&error),
        }
    }

    /// What is asked of the pool.
    ///
    /// # Safety
    ///
    /// `remote` is NULL or a string that ends, and so are the names that the program handed over.
    unsafe fn request(
        &self,
        roles: StarttlsFlags,
        remote: *const c_char,
    ) -> Result<Starttls, Error> {
        let invalid = || Error::Io(std::io::Error::from_raw_os_error(libc::EINVAL));
        let mut flags = roles;
        match self.proto {
            libc::IPPROTO_TCP => {}
            libc::IPPROTO_UDP | 132 => flags = flags | StarttlsFlags::DTLS,
            _ => {
                let errno = libc::EPROTONOSUPPORT;
                return Err(std::io::Error::from_raw_os_error(errno).into());
            }
        }
        if self.flags & !flag::ALL != 0 {
            return Err(invalid());
        }
        let is_set = |bits| self.flags & bits != 0;
        if is_set(flag::REMOTE_OPTIONAL) {
            flags = flags | StarttlsFlags::REQUEST_REMOTEID;
        }
        if is_set(flag::REMOTE_NONE) {
            flags = flags | StarttlsFlags::IGNORE_REMOTEID;
        }
        if is_set(flag::NO_CACHE_READ | flag::NO_CACHE_WRITE) {
            flags = flags | StarttlsFlags::IGNORE_CACHES;
        }
        // SAFETY: strings or NULL, the caller's promise.
        let (local, remote) =
            unsafe { (opt_str("myname", self.myname)?, opt_str("sniname", remote)?) };
        let local = local.filter(|_| !is_set(flag::LOCAL_NONE)).unwrap_or_default();
        Ok(Starttls {
            flags,
            ipproto: self.proto as u8,
            localid: text("myname", local)?,
            remoteid: text("sniname", remote.unwrap_or_default())?,
            ..Starttls::default()
        })
    }

    fn start(
        &self,
        request: Starttls,
        fd: OwnedFd,
        check: Option<impl FnMut(&Starttls) -> LocalidAnswer + Send>,
    ) -> Result<(OwnedFd, Text<128>), Error> {
        let mut objection = None;
        let mut plaintext = Plaintext::pair();
        if self.is_particular() {
            plaintext = plaintext.accept_if(|established| {
                self.accept(established).map_err(|errno| {
                    objection = Some(errno);
                    Refusal::from(std::io::Error::from_raw_os_error(errno))
                })
            });
        }
        let request = StarttlsRequest::from(request);
        let outcome = match check {
            None => pool().starttls(request, fd, plaintext),
            Some(check) => pool().starttls(request, fd, plaintext.check_localid(check)),
        };
        if let Some(errno) = objection {
            return Err(std::io::Error::from_raw_os_error(errno).into());
        }
        let session = outcome?;
        let ours = session.plaintext.ok_or(Error::Protocol("no plaintext connection was made"))?;
        Ok((ours, session.answer.remoteid))
    }

    /// Whether some peers will not do, so that the names must be seen before plaintext flows.
    fn is_particular(&self) -> bool {
        self.flags & (flag::NO_REMOTE_USER | flag::NO_REMOTE_DOMAIN) != 0
            || (!self.peername.is_null() && self.peername_len < NAME_LEN)
    }

    /// Whether this peer will do; else an errno.
    fn accept(&self, established: &Starttls) -> Result<(), c_int> {
        let name = established.remoteid.as_str();
        let unwanted = match name {
            "" => 0,
            user if user.contains('@') => flag::NO_REMOTE_USER,
            _ => flag::NO_REMOTE_DOMAIN,
        };
        if self.flags & unwanted != 0 {
            return Err(libc::EPERM);
        }
        if !self.peername.is_null() && name.len() >= self.peername_len {
            return Err(libc::ERANGE);
        }
        Ok(())
    }

    /// Writes the peer's name where the program wants it, if it fits.
    ///
    /// # Safety
    ///
    /// `peername` is NULL or has `peername_len` bytes that nobody else uses.
    unsafe fn store(&self, name: &Text<128>) {
        let name = name.as_str().as_bytes();
        if self.peername.is_null() || name.len() >= self.peername_len {
            return;
        }
        // SAFETY: the buffer has `peername_len` bytes, more than the name.
        unsafe {
            std::ptr::copy_nonoverlapping(name.as_ptr(), self.peername.cast(), name.len());
            *self.peername.add(name.len()) = 0;
        }
    }
}

// SAFETY: the closures that refer to a call run in the thread that made it; the pointers are
// not used elsewhere.
unsafe impl Sync for Call {}
