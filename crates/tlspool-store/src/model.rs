//! The types of the rows.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use tlspool_identity::DoNai;

/// Our side of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// We open.
    Client,
    /// We answer.
    Server,
}

/// The roles an identity may play: at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Roles {
    /// Client only.
    Client,
    /// Server only.
    Server,
    /// Both.
    Both,
}

impl Role {
    /// Its bit in the `roles` column.
    pub(crate) fn bit(self) -> i64 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
        }
    }
}

impl Roles {
    /// Whether `role` is among them.
    pub fn include(self, role: Role) -> bool {
        self.bits() & role.bit() != 0
    }

    pub(crate) fn bits(self) -> i64 {
        match self {
            Self::Client => 1,
            Self::Server => 2,
            Self::Both => 3,
        }
    }

    /// As people write it: `client`, `server`, `both`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Both => "both",
        }
    }
}

impl Roles {
    /// Reads it back.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Client, Self::Server, Self::Both].into_iter().find(|roles| roles.as_str() == text)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

impl FromSql for Roles {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_i64()? {
            1 => Ok(Self::Client),
            2 => Ok(Self::Server),
            3 => Ok(Self::Both),
            other => Err(FromSqlError::OutOfRange(other)),
        }
    }
}

/// The kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// X.509 certificates.
    X509,
    /// An OpenPGP certificate.
    OpenPgp,
}

impl Kind {
    /// As in the table: `x509`, `openpgp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::X509 => "x509",
            Self::OpenPgp => "openpgp",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromSql for Kind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "x509" => Ok(Self::X509),
            "openpgp" => Ok(Self::OpenPgp),
            _ => Err(FromSqlError::InvalidType),
        }
    }
}

impl ToSql for Kind {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

/// The SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

/// The fingerprint of a certificate in DER.
pub fn fingerprint(der: &[u8]) -> Fingerprint {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, der).as_ref());
    Fingerprint(bytes)
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Where an identity's certificate is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    /// Here: the chain in DER, leaf first.
    Chain(Vec<Vec<u8>>),
    /// Here: an OpenPGP certificate (transferable public key) in binary.
    OpenPgp(Vec<u8>),
    /// At a `file:` URI (read again at HUP) or a `pkcs11:` URI; the key process reads it.
    Uri(String),
}

/// A row of `local_identity`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalIdentity {
    /// The row's number; another row may get it once this one is removed.
    pub id: i64,
    /// The name.
    pub name: DoNai,
    /// What it may be used for.
    pub roles: Roles,
    /// The kind of credential.
    pub kind: Kind,
    /// The certificate or chain.
    pub certificate: CertificateSource,
    /// The private key: `pkcs11:` (RFC 7512) or `file:`.
    pub key_uri: String,
    /// The key that certifies an OpenPGP certificate, if it is another and known.
    pub certify_uri: Option<String>,
    /// The lowest comes first.
    pub preference: i32,
    /// Used when neither the application nor the peer names an identity.
    pub is_default: bool,
    /// Of the leaf or the OpenPGP certificate, if it is inline.
    pub fingerprint: Option<Fingerprint>,
    /// When it was added, seconds since 1970.
    pub created: i64,
}

/// An identity to add.
#[derive(Debug, Clone)]
pub struct NewIdentity<'a> {
    /// The name.
    pub name: &'a DoNai,
    /// What it may be used for.
    pub roles: Roles,
    /// The kind of credential.
    pub kind: Kind,
    /// The certificate or chain.
    pub certificate: CertificateSource,
    /// The private key.
    pub key_uri: &'a str,
    /// The lowest comes first; 100 unless there is a reason.
    pub preference: i32,
    /// Used when nobody names an identity.
    pub is_default: bool,
}
