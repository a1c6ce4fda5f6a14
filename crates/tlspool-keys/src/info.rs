//! What is known about a key, a token and its state without touching them.

use std::fmt;

use aws_lc_rs::digest;

use crate::algorithm::KeyAlgorithm;
use crate::uri::{KeyUri, Pkcs11Uri};

/// Names an opened key on the channel: a digest of its URI and its public key.
///
/// Because the public key is part of it, a signature can never come from another key than the one
/// whose certificate was chosen, even if the file or token object was replaced in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

/// A key that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Names the key in sign requests.
    pub id: KeyId,
    /// The URI it was opened by, as the caller wrote it.
    pub uri: String,
    /// SubjectPublicKeyInfo (RFC 5280), DER: what the certificate must carry.
    pub spki_der: Vec<u8>,
    /// Kind of key.
    pub algorithm: KeyAlgorithm,
}

/// A token as PKCS #11 tells tokens apart; slots come and go, this stays.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenName {
    /// The label its owner gave it.
    pub label: String,
    /// Who made it.
    pub manufacturer: String,
    /// What it is.
    pub model: String,
    /// Its serial number.
    pub serial: String,
}

/// The state of one token in the key process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenStatus {
    /// The token as a URI.
    pub uri: String,
    /// Whether its PIN was accepted or is not needed.
    pub logged_in: bool,
    /// Open sessions.
    pub sessions: u16,
    /// Requests in its queue, or waiting for its PIN.
    pub waiting: u32,
    /// Signatures since the key process started.
    pub signatures: u64,
    /// Failed requests since the key process started.
    pub failures: u64,
    /// The latest failure, or empty.
    pub last_error: String,
}

impl KeyId {
    pub(crate) fn of(uri: &str, spki_der: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&(uri.len() as u64).to_be_bytes());
        context.update(uri.as_bytes());
        context.update(spki_der);
        let mut id = [0; 16];
        id.copy_from_slice(&context.finish().as_ref()[..16]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl TokenName {
    /// The URI that selects this token and no other.
    pub fn uri(&self) -> Pkcs11Uri {
        Pkcs11Uri {
            token: Some(self.label.clone()),
            manufacturer: Some(self.manufacturer.clone()),
            model: Some(self.model.clone()),
            serial: Some(self.serial.clone()),
            ..Pkcs11Uri::default()
        }
    }

    pub(crate) fn matches(&self, uri: &Pkcs11Uri) -> bool {
        let same = |wanted: &Option<String>, have: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == have)
        };
        same(&uri.token, &self.label)
            && same(&uri.manufacturer, &self.manufacturer)
            && same(&uri.model, &self.model)
            && same(&uri.serial, &self.serial)
    }
}

impl fmt::Display for TokenName {
    /// As a person would name it: `label (model, serial 123)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, serial {})", self.label, self.model, self.serial)
    }
}

impl From<Pkcs11Uri> for KeyUri {
    fn from(uri: Pkcs11Uri) -> Self {
        Self::Pkcs11(Box::new(uri))
    }
}
