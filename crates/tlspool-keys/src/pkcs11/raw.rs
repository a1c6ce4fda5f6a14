//! The one call that the safe wrapper lacks: `C_Sign` for a signature that was begun before, with a
//! login in between. Only [`super::guarded`] needs it, for keys that want their PIN each time.

#![allow(unsafe_code)]

use std::path::Path;

use cryptoki::context::Function;
use cryptoki::error::Rv;
use cryptoki::session::Session;
use cryptoki_sys::{CK_FUNCTION_LIST, CK_ULONG, CKR_OK, Pkcs11};

use super::Fault;
use crate::KeyError;

/// Room for a signature: RSA keys have at most 4096 bits.
const ROOM: usize = 1024;

/// The functions of a module that is loaded.
pub(crate) struct Raw {
    functions: CK_FUNCTION_LIST,
    _library: Pkcs11,
}

// SAFETY: function pointers, valid as long as the library, which is kept; modules are initialised for
// use by several threads. The list is ours and is not written.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Raw {
    /// The functions of the module at `path`, which is in use already.
    pub(crate) fn of(path: &Path) -> Result<Self, KeyError> {
        let failed = |what: &str| KeyError::ModuleFailed(format!("{}: {what}", path.display()));
        // SAFETY: the module is loaded and its initialisers have run; this counts one more user.
        let library = unsafe { Pkcs11::new(path) }.map_err(|e| failed(&e.to_string()))?;
        let mut list = std::ptr::null_mut();
        // SAFETY: `list` is valid for writing.
        let rv = unsafe { library.C_GetFunctionList(&raw mut list) };
        if rv != CKR_OK || list.is_null() {
            return Err(failed("it has no list of functions"));
        }
        // SAFETY: the module has just returned it; it lives as long as the library.
        let functions = unsafe { *list };
        Ok(Self { functions, _library: library })
    }

    /// Finishes the signature that was begun in `session`.
    pub(super) fn sign(&self, session: &Session, data: &[u8]) -> Result<Vec<u8>, Fault> {
        let sign = self.functions.C_Sign.ok_or_else(|| {
            KeyError::ModuleFailed("the module has no function to sign with".into())
        })?;
        let mut signature = vec![0; ROOM];
        let mut length = signature.len() as CK_ULONG;
        // SAFETY: the session is open; both pointers are valid for the lengths that go with them, and
        // the standard has modules read the data only, though its type does not say so.
        let rv = unsafe {
            sign(
                session.handle(),
                data.as_ptr().cast_mut(),
                data.len() as CK_ULONG,
                signature.as_mut_ptr(),
                &raw mut length,
            )
        };
        Rv::from(rv).into_result(Function::Sign)?;
        signature.truncate(usize::try_from(length).unwrap_or(ROOM));
        Ok(signature)
    }
}
