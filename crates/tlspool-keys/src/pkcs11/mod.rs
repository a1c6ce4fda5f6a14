//! Keys on PKCS #11 tokens.
//!
//! ```text
//! KeyStore ── Module (one .so) ── Token (one card or soft token) ── Lane (one session)
//! ```
//!
//! A [`token::Token`] owns a bounded queue and up to `sessions_per_token` lanes, because a PKCS #11
//! session serves one thread at a time. What heals is described in [`Fault::heals`]: the session is
//! opened again, the token logged in again, the object found again, and the request tried once
//! more. Vendor code runs in these calls: every one is under the eye of [`watch::Watch`].

pub(crate) mod admin;
pub(crate) mod guarded;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod objects;
mod raw;
pub(crate) mod sign;
pub(crate) mod token;
pub(crate) mod watch;
pub(crate) mod work;

use cryptoki::error::{Error, RvError};

use crate::KeyError;

/// Why a request to a token did not succeed, before it is known whether that is final.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The module said so.
    Module(Error),
    /// Final.
    Key(KeyError),
    /// Somebody was asked for the PIN: wait for it, or fail with this.
    WaitForPin(KeyError),
    /// The PIN for a signature was refused, and is not tried again: there may be another.
    PinRefused(KeyError),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Module(error)
    }
}

impl From<KeyError> for Fault {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl Fault {
    fn rv(&self) -> Option<RvError> {
        match self {
            Self::Module(Error::Pkcs11(rv, _)) => Some(*rv),
            _ => None,
        }
    }

    /// Whether a new session, a new login and a new search may make it work: the token was removed
    /// and returned, the session expired, somebody logged out, the object was written again.
    pub(crate) fn heals(&self) -> bool {
        matches!(
            self.rv(),
            Some(
                RvError::DeviceRemoved
                    | RvError::DeviceError
                    | RvError::TokenNotPresent
                    | RvError::TokenNotRecognized
                    | RvError::SlotIdInvalid
                    | RvError::SessionHandleInvalid
                    | RvError::SessionClosed
                    | RvError::UserNotLoggedIn
                    | RvError::ObjectHandleInvalid
                    | RvError::KeyHandleInvalid
                    | RvError::OperationActive
                    | RvError::CryptokiNotInitialized
            )
        )
    }

    /// Whether the token is in no slot.
    pub(crate) fn token_absent(&self) -> bool {
        matches!(self, Self::Key(KeyError::TokenAbsent(_)))
    }

    /// The error as the caller of the provider sees it; `what` names the token or module.
    pub(crate) fn into_error(self, what: &str) -> KeyError {
        let error = match self {
            Self::Key(error) | Self::WaitForPin(error) | Self::PinRefused(error) => return error,
            Self::Module(error) => error,
        };
        match error {
            Error::Pkcs11(RvError::PinLocked, _) => KeyError::PinLocked(what.to_owned()),
            Error::Pkcs11(
                RvError::DeviceRemoved
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::SlotIdInvalid,
                _,
            ) => KeyError::TokenAbsent(what.to_owned()),
            Error::Pkcs11(
                RvError::MechanismInvalid
                | RvError::MechanismParamInvalid
                | RvError::FunctionNotSupported
                | RvError::CurveNotSupported
                | RvError::KeySizeRange,
                function,
            ) => KeyError::Unsupported(format!("{what} ({function})")),
            Error::Pkcs11(rv, function) => {
                KeyError::ModuleFailed(format!("{what}: {function} returned {}", ckr(rv)))
            }
            error => KeyError::ModuleFailed(format!("{what}: {error}")),
        }
    }
}

/// `CKR_…` as the manuals of modules spell it.
fn ckr(rv: RvError) -> String {
    if let RvError::VendorDefined(n) | RvError::UnknownErrorCode(n) = rv {
        return format!("{n:#010x}");
    }
    let mut name = String::from("CKR");
    for c in format!("{rv:?}").chars() {
        if c.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spells_return_values_as_the_standard_does() {
        assert_eq!(ckr(RvError::UserNotLoggedIn), "CKR_USER_NOT_LOGGED_IN");
        assert_eq!(ckr(RvError::VendorDefined(0x8000_0001)), "0x80000001");
    }
}
