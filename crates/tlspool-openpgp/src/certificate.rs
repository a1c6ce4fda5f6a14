//! One certificate: read, merged, written.

use std::fmt;
use std::io::Read;
use std::sync::Arc;

use sequoia_openpgp as openpgp;

use openpgp::Cert;
use openpgp::armor::{Kind, Reader, ReaderMode};
use openpgp::parse::Parse;
use openpgp::serialize::SerializeInto;

use crate::{Limits, MergeError, ReadError, limits};

/// An OpenPGP certificate (transferable public key). Cheap to clone.
#[derive(Clone)]
pub struct Certificate {
    pub(crate) cert: Arc<Cert>,
}

/// The 8 bytes by which a key is named in a signature, and in TLS (RFC 6091 section 3.3). Not
/// proof of anything: others may have the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 8]);

/// The fingerprint of a primary key: 20 bytes (version 4, SHA-1) or 32 (version 6, SHA-256).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(Vec<u8>);

impl Certificate {
    /// Reads one certificate, binary or armored.
    pub fn read(bytes: &[u8], limits: Limits) -> Result<Self, ReadError> {
        // Every packet starts with the highest bit set, and no armor does.
        if bytes.first().is_some_and(|first| first & 0x80 != 0) {
            return Self::read_binary(bytes, limits);
        }
        if bytes.len() > limits.armored() {
            return Err(ReadError::TooLarge { most: limits.bytes });
        }
        let mut reader = Reader::from_bytes(bytes, ReaderMode::Tolerant(Some(Kind::PublicKey)));
        let mut binary = Vec::new();
        let read = reader.by_ref().take(limits.bytes as u64 + 1).read_to_end(&mut binary);
        if read.is_err() || binary.is_empty() {
            let secret = bytes.windows(SECRET_ARMOR.len()).any(|text| text == SECRET_ARMOR);
            return Err(if secret { ReadError::SecretKey } else { ReadError::Armor });
        }
        Self::read_binary(&binary, limits)
    }

    /// Reads one certificate in binary, as TLS and the database hold it.
    pub fn read_binary(bytes: &[u8], limits: Limits) -> Result<Self, ReadError> {
        limits::check(bytes, limits)?;
        let cert =
            Cert::from_bytes(bytes).map_err(|error| ReadError::Malformed(one_line(&error)))?;
        Ok(Self::of(cert))
    }

    pub(crate) fn of(cert: Cert) -> Self {
        Self { cert: Arc::new(cert) }
    }

    /// Of the primary key: what identifies the certificate, what is pinned, and what RFC 6091 sends
    /// in place of the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(self.cert.fingerprint().as_bytes().to_vec())
    }

    /// Brings in what another copy of the certificate knows: revocations, new expiry, user IDs,
    /// subkeys, certifications. Only what the primary key has signed has an effect, so the copy may
    /// come from anywhere.
    pub fn merge(&self, copy: &Self) -> Result<Self, MergeError> {
        // The only error of sequoia is that of different primary keys.
        Cert::clone(&self.cert).merge_public(Cert::clone(&copy.cert)).map(Self::of).map_err(|_| {
            MergeError {
                ours: self.fingerprint().to_string(),
                theirs: copy.fingerprint().to_string(),
            }
        })
    }

    /// In binary, without certifications that are not to be exported: to show to a peer.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.cert.export_to_vec().unwrap_or_default()
    }

    /// In ASCII armor: to hand to people.
    pub fn to_armored(&self) -> String {
        let armored = self.cert.armored().export_to_vec().unwrap_or_default();
        String::from_utf8_lossy(&armored).into_owned()
    }
}

const SECRET_ARMOR: &[u8] = b"BEGIN PGP PRIVATE KEY BLOCK";

/// An error and its causes on one line, cut, without what drives a terminal.
pub(crate) fn one_line(error: &impl fmt::Display) -> String {
    format!("{error:#}").chars().filter(|c| !c.is_control()).take(300).collect()
}

impl Fingerprint {
    /// 20 or 32 bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Fingerprint {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// As upper case hexadecimal digits.
fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl KeyId {
    pub(crate) fn of(id: &openpgp::KeyID) -> Self {
        let mut bytes = [0; 8];
        if id.as_bytes().len() == 8 {
            bytes.copy_from_slice(id.as_bytes());
        }
        Self(bytes)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({})", self.fingerprint())
    }
}
