//! Signatures of the peer's: which keys fit which suites, and whether a signature is right.

use crate::codec::Signed;
use crate::config::Common;
use crate::crypto::{KeyKind, SignatureScheme, VerifyError, verify_signature};
use crate::error::Error;
use crate::suite::Authentication;

/// Which suites a key of this kind fits.
pub(super) fn authentication_of(kind: KeyKind) -> Authentication {
    match kind {
        KeyKind::Rsa => Authentication::Rsa,
        KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::Ed25519 => Authentication::Ecdsa,
    }
}

/// Which suites signatures of this scheme fit.
pub(super) fn authentication_by(scheme: SignatureScheme) -> Authentication {
    if scheme.fits(KeyKind::Rsa) { Authentication::Rsa } else { Authentication::Ecdsa }
}

pub(super) fn check_signature(
    common: &Common,
    key: &[u8],
    message: &[u8],
    signed: &Signed,
    what: &'static str,
) -> Result<(), Error> {
    let scheme = SignatureScheme::from_code_point(signed.scheme)
        .filter(|scheme| common.schemes.contains(scheme))
        .ok_or(Error::Illegal("a signature scheme that was not offered"))?;
    verify_signature(scheme, key, message, &signed.signature).map_err(|error| match error {
        VerifyError::UnsupportedKey => {
            Error::UnsupportedCertificate("its key is of a kind that is not supported")
        }
        VerifyError::WrongScheme => Error::Illegal("a signature scheme that does not fit the key"),
        VerifyError::BadSignature => Error::Decrypt(what),
    })
}
