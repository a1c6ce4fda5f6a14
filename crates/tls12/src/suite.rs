//! The cipher suites of the profile: AEAD with ephemeral key exchange, and the anonymous ones.

use crate::crypto::{Aead, Hash};

/// How the key exchange is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// Elliptic curves (RFC 8422).
    Ecdhe,
    /// Finite fields (RFC 7919).
    Dhe,
}

/// Which kind of key signs the key exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// RSA, with either padding.
    Rsa,
    /// ECDSA or Ed25519 (RFC 8422 section 2.1).
    Ecdsa,
    /// Nobody: anyone may be at the other end.
    Anonymous,
}

/// A cipher suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Suite {
    /// Its number on the wire.
    pub code: u16,
    /// Its name in the registry.
    pub name: &'static str,
    /// The key exchange.
    pub exchange: Exchange,
    /// Who signs it.
    pub authentication: Authentication,
    /// Record protection.
    pub aead: Aead,
    /// The hash of the PRF.
    pub hash: Hash,
}

/// Stands for an empty renegotiation_info (RFC 5746 section 3.3).
pub(crate) const EMPTY_RENEGOTIATION_INFO_SCSV: u16 = 0x00FF;
/// The client fell back to this version (RFC 7507).
pub(crate) const FALLBACK_SCSV: u16 = 0x5600;

macro_rules! suites {
    ($($code:literal $name:ident $exchange:ident $authentication:ident $aead:ident $hash:ident;)*) => {
        /// All suites of the profile, in our order of preference.
        pub static SUITES: &[Suite] = &[$(Suite {
            code: $code,
            name: stringify!($name),
            exchange: Exchange::$exchange,
            authentication: Authentication::$authentication,
            aead: Aead::$aead,
            hash: Hash::$hash,
        }),*];
    };
}

suites! {
    0xC02C TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 Ecdhe Ecdsa Aes256Gcm Sha384;
    0xC02B TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 Ecdhe Ecdsa Aes128Gcm Sha256;
    0xCCA9 TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 Ecdhe Ecdsa ChaCha20Poly1305 Sha256;
    0xC030 TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 Ecdhe Rsa Aes256Gcm Sha384;
    0xC02F TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 Ecdhe Rsa Aes128Gcm Sha256;
    0xCCA8 TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 Ecdhe Rsa ChaCha20Poly1305 Sha256;
    0x009F TLS_DHE_RSA_WITH_AES_256_GCM_SHA384 Dhe Rsa Aes256Gcm Sha384;
    0x009E TLS_DHE_RSA_WITH_AES_128_GCM_SHA256 Dhe Rsa Aes128Gcm Sha256;
    0xCCAA TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256 Dhe Rsa ChaCha20Poly1305 Sha256;
    0x00A7 TLS_DH_anon_WITH_AES_256_GCM_SHA384 Dhe Anonymous Aes256Gcm Sha384;
    0x00A6 TLS_DH_anon_WITH_AES_128_GCM_SHA256 Dhe Anonymous Aes128Gcm Sha256;
}

impl Suite {
    /// The suite with this number, if the profile has it.
    pub fn from_code(code: u16) -> Option<&'static Self> {
        SUITES.iter().find(|suite| suite.code == code)
    }

    /// Whether nobody is authenticated.
    pub fn is_anonymous(&self) -> bool {
        self.authentication == Authentication::Anonymous
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_found() {
        for suite in SUITES {
            assert_eq!(Suite::from_code(suite.code), Some(suite));
        }
        assert_eq!(Suite::from_code(0xC014), None); // CBC
        assert_eq!(SUITES.iter().filter(|suite| suite.is_anonymous()).count(), 2);
    }
}
