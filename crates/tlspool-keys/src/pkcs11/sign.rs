//! Signing on a session: the mechanisms that every token has, with the hash made here.

use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};

use super::Fault;
use crate::algorithm::Payload;
use crate::{KeyError, SignScheme, der};

/// Signs by `call`, which gets the mechanism and what to sign with it; the result is encoded as TLS
/// wants it.
pub(super) fn sign(
    scheme: SignScheme,
    payload: Payload<'_>,
    call: impl FnOnce(&Mechanism, &[u8]) -> Result<Vec<u8>, Fault>,
) -> Result<Vec<u8>, Fault> {
    let Some(algorithm) = scheme.digest() else {
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
        return call(&mechanism, payload.bytes());
    };
    let digest = payload.digest(algorithm)?;
    let hash = digest.as_ref();
    if let Some(info) = der::digest_info(scheme, hash) {
        return call(&Mechanism::RsaPkcs, &info);
    }
    if let Some((hash_alg, mgf)) = pss(scheme) {
        let s_len = hash.len().try_into()?;
        let params = PkcsPssParams { hash_alg, mgf, s_len };
        return call(&Mechanism::RsaPkcsPss(params), hash);
    }
    let raw = call(&Mechanism::Ecdsa, hash)?;
    der::ecdsa_signature(&raw).ok_or_else(|| {
        KeyError::ModuleFailed("the token made an ECDSA signature of odd length".into()).into()
    })
}

fn pss(scheme: SignScheme) -> Option<(MechanismType, PkcsMgfType)> {
    Some(match scheme {
        SignScheme::RsaPssSha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        SignScheme::RsaPssSha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        SignScheme::RsaPssSha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
        _ => return None,
    })
}
