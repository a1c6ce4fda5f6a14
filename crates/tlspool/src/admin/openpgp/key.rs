//! A key in a key store, in the form that an OpenPGP certificate is signed with.

use tlspool_keys::{KeyAlgorithm, KeyInfo, KeyStore, SignScheme};
use tlspool_openpgp::{Hash, RemoteError, RemoteKey};

/// A key that stays where it is.
pub(super) struct StoreKey<'a> {
    pub(super) store: &'a KeyStore,
    pub(super) key: &'a KeyInfo,
}

impl RemoteKey for StoreKey<'_> {
    fn spki(&self) -> &[u8] {
        &self.key.spki_der
    }

    fn sign_digest(&mut self, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, RemoteError> {
        let scheme = match (self.key.algorithm, hash) {
            (KeyAlgorithm::Rsa { .. }, Hash::Sha256) => SignScheme::RsaPkcs1Sha256,
            (KeyAlgorithm::P256, Hash::Sha256) => SignScheme::EcdsaP256Sha256,
            (KeyAlgorithm::P384, Hash::Sha384) => SignScheme::EcdsaP384Sha384,
            (KeyAlgorithm::Ed25519, _) => SignScheme::Ed25519,
            (algorithm, hash) => return Err(format!("{algorithm} does not sign {hash:?}").into()),
        };
        Ok(self.store.sign_digest(&self.key.id, scheme, digest)?)
    }
}
