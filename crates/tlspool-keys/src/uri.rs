//! Names of keys: `pkcs11:` URIs (RFC 7512) and `file:` URIs (RFC 8089, local only).
//!
//! [`KeyUri::parse`] is what reads identities out of the database, what a person typed, and what
//! the network process sends to the key process: it accepts any bytes without panicking. Unknown
//! attributes are vendor attributes and are ignored (RFC 7512 section 2.3); a known attribute given
//! twice is refused. `Display` writes the canonical form, which parses to the same value.
//!
//! A PIN never stands in a URI that is stored: `pin-value` is refused with an error of its own.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longer URIs are refused; the attributes of a real token take a few hundred bytes.
pub const MAX_URI: usize = 4096;

/// Where a key or certificate is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyUri {
    /// An object on a PKCS #11 token.
    Pkcs11(Box<Pkcs11Uri>),
    /// A PEM or DER file: an absolute path.
    File(PathBuf),
}

/// The attributes of a `pkcs11:` URI; what is absent matches anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Pkcs11Uri {
    /// Label of the token.
    pub token: Option<String>,
    /// Manufacturer of the token.
    pub manufacturer: Option<String>,
    /// Serial number of the token.
    pub serial: Option<String>,
    /// Model of the token.
    pub model: Option<String>,
    /// Manufacturer of the module.
    pub library_manufacturer: Option<String>,
    /// Description of the module.
    pub library_description: Option<String>,
    /// Version of the module: major, minor.
    pub library_version: Option<(u8, u8)>,
    /// Manufacturer of the slot.
    pub slot_manufacturer: Option<String>,
    /// Description of the slot.
    pub slot_description: Option<String>,
    /// Number of the slot. Many modules renumber slots: prefer `serial`.
    pub slot_id: Option<u64>,
    /// Label of the object.
    pub object: Option<String>,
    /// `CKA_ID` of the object.
    pub id: Option<Vec<u8>>,
    /// Class of the object.
    pub class: Option<ObjectClass>,
    /// The module to use: an absolute path.
    pub module_path: Option<PathBuf>,
    /// The configured module to use: its file name without `lib` and `.so`.
    pub module_name: Option<String>,
    /// File that holds the PIN.
    pub pin_source: Option<PathBuf>,
}

/// The `type` attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectClass {
    /// `private`
    Private,
    /// `public`
    Public,
    /// `cert`
    Certificate,
    /// `secret-key`
    SecretKey,
    /// `data`
    Data,
}

/// What is wrong with a URI, and at which attribute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Neither `pkcs11:` nor `file:`.
    #[error("expected a URI that starts with pkcs11: or file:")]
    Scheme,
    /// Longer than [`MAX_URI`].
    #[error("longer than {MAX_URI} bytes")]
    TooLong,
    /// A known attribute appears twice.
    #[error("attribute {0} is given twice")]
    Duplicate(&'static str),
    /// Something between separators is not `name=value`.
    #[error("expected name=value instead of {0:?}")]
    NotAttribute(String),
    /// A path attribute stands behind `?`, or a query attribute before it.
    #[error("attribute {0} is on the wrong side of the question mark")]
    Misplaced(&'static str),
    /// The value of an attribute cannot be right.
    #[error("attribute {name}: {problem}")]
    Value {
        /// The attribute, or `file` for a path.
        name: &'static str,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
    /// A PIN in a URI would be stored and shown.
    #[error(
        "pin-value is refused because it would store a secret; use pin-source=file:/path, or tlspool -p"
    )]
    PinValue,
}

impl KeyUri {
    /// Parses `pkcs11:` and `file:` URIs; schemes are compared without case.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text.len() > MAX_URI {
            return Err(UriError::TooLong);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UriError::Scheme)?;
        if scheme.eq_ignore_ascii_case("pkcs11") {
            Pkcs11Uri::parse_attributes(rest).map(|uri| Self::Pkcs11(Box::new(uri)))
        } else if scheme.eq_ignore_ascii_case("file") {
            parse_file(rest).map(Self::File)
        } else {
            Err(UriError::Scheme)
        }
    }
}

impl FromStr for KeyUri {
    type Err = UriError;
    fn from_str(text: &str) -> Result<Self, UriError> {
        Self::parse(text)
    }
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pkcs11(uri) => uri.fmt(f),
            Self::File(path) => {
                f.write_str("file:")?;
                encode(f, rooted(path), |b| is_pchar(b) || b == b'/' || b == b'&')
            }
        }
    }
}

impl Pkcs11Uri {
    fn parse_attributes(rest: &str) -> Result<Self, UriError> {
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let mut uri = Self::default();
        for attribute in path.split(';').filter(|a| !a.is_empty()) {
            uri.path_attribute(attribute)?;
        }
        for attribute in query.unwrap_or("").split('&').filter(|a| !a.is_empty()) {
            uri.query_attribute(attribute)?;
        }
        Ok(uri)
    }

    fn path_attribute(&mut self, attribute: &str) -> Result<(), UriError> {
        let (name, value) = split(attribute)?;
        match name {
            "token" => text(&mut self.token, "token", value),
            "manufacturer" => text(&mut self.manufacturer, "manufacturer", value),
            "serial" => text(&mut self.serial, "serial", value),
            "model" => text(&mut self.model, "model", value),
            "library-manufacturer" => {
                text(&mut self.library_manufacturer, "library-manufacturer", value)
            }
            "library-description" => {
                text(&mut self.library_description, "library-description", value)
            }
            "library-version" => set(&mut self.library_version, "library-version", version(value)?),
            "slot-manufacturer" => text(&mut self.slot_manufacturer, "slot-manufacturer", value),
            "slot-description" => text(&mut self.slot_description, "slot-description", value),
            "slot-id" => set(&mut self.slot_id, "slot-id", number(value)?),
            "object" => text(&mut self.object, "object", value),
            "id" => set(&mut self.id, "id", decode("id", value)?),
            "type" => set(&mut self.class, "type", ObjectClass::parse(value)?),
            "pin-source" => Err(UriError::Misplaced("pin-source")),
            "pin-value" => Err(UriError::PinValue),
            "module-name" => Err(UriError::Misplaced("module-name")),
            "module-path" => Err(UriError::Misplaced("module-path")),
            _ => Ok(()), // a vendor's
        }
    }

    fn query_attribute(&mut self, attribute: &str) -> Result<(), UriError> {
        let (name, value) = split(attribute)?;
        match name {
            "pin-source" => set(&mut self.pin_source, "pin-source", pin_source(value)?),
            "pin-value" => Err(UriError::PinValue),
            "module-name" => text(&mut self.module_name, "module-name", value),
            "module-path" => {
                let path = absolute("module-path", decode("module-path", value)?)?;
                set(&mut self.module_path, "module-path", path)
            }
            "token" => Err(UriError::Misplaced("token")),
            "object" => Err(UriError::Misplaced("object")),
            "id" => Err(UriError::Misplaced("id")),
            "serial" => Err(UriError::Misplaced("serial")),
            "type" => Err(UriError::Misplaced("type")),
            _ => Ok(()),
        }
    }

    /// True when the URI says nothing about a token, so that any token could be meant.
    pub fn names_no_token(&self) -> bool {
        self.token.is_none()
            && self.serial.is_none()
            && self.manufacturer.is_none()
            && self.model.is_none()
            && self.slot_id.is_none()
    }
}

impl fmt::Display for Pkcs11Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("pkcs11:")?;
        let mut first = true;
        let mut put = |f: &mut fmt::Formatter<'_>, name: &str, value: Option<&[u8]>| {
            let Some(value) = value else { return Ok(()) };
            f.write_str(if first { "" } else { ";" })?;
            first = false;
            write!(f, "{name}=")?;
            // RFC 7512 section 2.3: the whole of an id should be percent-encoded.
            encode(f, value, |b| name != "id" && (is_pchar(b) || b == b'&'))
        };
        let text = |value: &Option<String>| value.as_ref().map(|v| v.clone().into_bytes());
        let version = self.library_version.map(|(a, b)| format!("{a}.{b}").into_bytes());
        put(f, "library-manufacturer", text(&self.library_manufacturer).as_deref())?;
        put(f, "library-description", text(&self.library_description).as_deref())?;
        put(f, "library-version", version.as_deref())?;
        put(f, "slot-manufacturer", text(&self.slot_manufacturer).as_deref())?;
        put(f, "slot-description", text(&self.slot_description).as_deref())?;
        put(f, "slot-id", self.slot_id.map(|n| n.to_string().into_bytes()).as_deref())?;
        put(f, "model", text(&self.model).as_deref())?;
        put(f, "manufacturer", text(&self.manufacturer).as_deref())?;
        put(f, "serial", text(&self.serial).as_deref())?;
        put(f, "token", text(&self.token).as_deref())?;
        put(f, "id", self.id.as_deref())?;
        put(f, "object", text(&self.object).as_deref())?;
        put(f, "type", self.class.map(|c| c.as_str().as_bytes()))?;

        let mut mark = '?';
        let mut query = |f: &mut fmt::Formatter<'_>, name: &str, value: &[u8]| {
            write!(f, "{mark}{name}=")?;
            mark = '&';
            encode(f, value, |b| is_pchar(b) || b == b'/')
        };
        if let Some(path) = &self.module_path {
            query(f, "module-path", path.as_os_str().as_bytes())?;
        }
        if let Some(name) = &self.module_name {
            query(f, "module-name", name.as_bytes())?;
        }
        if let Some(path) = &self.pin_source {
            // The value is itself a URI: its reserved bytes are encoded once for either.
            query(f, "pin-source", format!("file:{}", FileName(path)).as_bytes())?;
        }
        Ok(())
    }
}

impl ObjectClass {
    /// The word of RFC 7512.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Public => "public",
            Self::Certificate => "cert",
            Self::SecretKey => "secret-key",
            Self::Data => "data",
        }
    }

    fn parse(value: &str) -> Result<Self, UriError> {
        Ok(match value {
            "private" => Self::Private,
            "public" => Self::Public,
            "cert" => Self::Certificate,
            "secret-key" => Self::SecretKey,
            "data" => Self::Data,
            _ => {
                let problem = "expected private, public, cert, secret-key or data";
                return Err(UriError::Value { name: "type", problem });
            }
        })
    }
}

fn split(attribute: &str) -> Result<(&str, &str), UriError> {
    let bad = || UriError::NotAttribute(attribute.chars().take(40).collect());
    let (name, value) = attribute.split_once('=').ok_or_else(bad)?;
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if name.is_empty() || !name.bytes().all(word) {
        return Err(bad());
    }
    Ok((name, value))
}

fn set<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), UriError> {
    if slot.is_some() {
        return Err(UriError::Duplicate(name));
    }
    *slot = Some(value);
    Ok(())
}

fn text(slot: &mut Option<String>, name: &'static str, value: &str) -> Result<(), UriError> {
    let bytes = decode(name, value)?;
    let value = String::from_utf8(bytes)
        .map_err(|_| UriError::Value { name, problem: "not UTF-8 after percent-decoding" })?;
    set(slot, name, value)
}

fn number(value: &str) -> Result<u64, UriError> {
    let problem = "expected a decimal number";
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let parsed = if digits { value.parse().ok() } else { None };
    parsed.ok_or(UriError::Value { name: "slot-id", problem })
}

fn version(value: &str) -> Result<(u8, u8), UriError> {
    let (major, minor) = value.split_once('.').unwrap_or((value, "0"));
    let part = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok()).flatten();
    part(major).zip(part(minor)).ok_or(UriError::Value {
        name: "library-version",
        problem: "expected MAJOR or MAJOR.MINOR, each below 256",
    })
}

/// `file:/path`, `file:///path` or a bare absolute path.
fn pin_source(value: &str) -> Result<PathBuf, UriError> {
    let name = "pin-source";
    let bytes = decode(name, value)?;
    match bytes.strip_prefix(b"file:") {
        Some(rest) => {
            // The value is a URI of its own and may carry a second layer of percent-encoding.
            let rest = std::str::from_utf8(rest)
                .map_err(|_| UriError::Value { name, problem: "not UTF-8" })?;
            parse_file(rest).map_err(|_| UriError::Value {
                name,
                problem: "expected file: and an absolute path",
            })
        }
        None => absolute(name, bytes),
    }
}

fn parse_file(rest: &str) -> Result<PathBuf, UriError> {
    let path = match rest.strip_prefix("//") {
        None => rest,
        Some(authority) => {
            let slash = authority.find('/').unwrap_or(authority.len());
            if !matches!(&authority[..slash], "" | "localhost") {
                let problem = "the file must be on this machine: file:/path";
                return Err(UriError::Value { name: "file", problem });
            }
            &authority[slash..]
        }
    };
    absolute("file", decode("file", path)?)
}

/// The bytes of an absolute path with one slash in front: after two, a URI has a host.
fn rooted(path: &Path) -> &[u8] {
    let bytes = path.as_os_str().as_bytes();
    let slashes = bytes.iter().take_while(|b| **b == b'/').count();
    &bytes[slashes.saturating_sub(1)..]
}

fn absolute(name: &'static str, bytes: Vec<u8>) -> Result<PathBuf, UriError> {
    if bytes.first() != Some(&b'/') {
        return Err(UriError::Value { name, problem: "expected an absolute path" });
    }
    if bytes.contains(&0) {
        return Err(UriError::Value { name, problem: "a path has no NUL byte" });
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    Ok(OsStr::from_bytes(rooted(&path)).into())
}

/// Percent-decoding (RFC 3986 section 2.1). What must be encoded and is not, is refused: it is a
/// typing error more often than a name.
fn decode(name: &'static str, value: &str) -> Result<Vec<u8>, UriError> {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16)).map(|d| d as u8);
    let bytes = value.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'%' => {
                let pair = hex(bytes.get(at + 1)).zip(hex(bytes.get(at + 2)));
                let problem = "a percent sign needs two hexadecimal digits behind it";
                let (high, low) = pair.ok_or(UriError::Value { name, problem })?;
                decoded.push(high << 4 | low);
                at += 3;
                continue;
            }
            b' ' => {
                return Err(UriError::Value { name, problem: "a space must be written as %20" });
            }
            b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'}' => {
                let problem = "a reserved character must be percent-encoded";
                return Err(UriError::Value { name, problem });
            }
            0..=0x1f | 0x7f..=0xff => {
                let problem =
                    "control characters and characters outside ASCII must be percent-encoded";
                return Err(UriError::Value { name, problem });
            }
            _ => decoded.push(byte),
        }
        at += 1;
    }
    Ok(decoded)
}

/// What may stand literally in both the path and the query (`pk11-res-avail` and unreserved).
fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]@!$'()*+,=".contains(&byte)
}

fn encode(f: &mut fmt::Formatter<'_>, bytes: &[u8], literal: impl Fn(u8) -> bool) -> fmt::Result {
    use fmt::Write;
    for &byte in bytes {
        if literal(byte) {
            f.write_char(char::from(byte))?;
        } else {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// The path of a `file:` URI, percent-encoded.
struct FileName<'a>(&'a Path);

impl fmt::Display for FileName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        encode(f, rooted(self.0), |b| is_pchar(b) || b == b'/')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p11(text: &str) -> Pkcs11Uri {
        match KeyUri::parse(text) {
            Ok(KeyUri::Pkcs11(uri)) => *uri,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn reads_the_examples_of_rfc_7512() {
        assert_eq!(p11("pkcs11:"), Pkcs11Uri::default());
        let uri = p11("pkcs11:object=my-pubkey;type=public");
        assert_eq!(uri.object.as_deref(), Some("my-pubkey"));
        assert_eq!(uri.class, Some(ObjectClass::Public));
        let uri =
            p11("pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,\
%20Inc.;model=1.0;object=my-certificate;type=cert;id=%69%95%3E%5C%F4%BD%EC%91;serial=\
?pin-source=file:/etc/token_pin");
        assert_eq!(uri.token.as_deref(), Some("The Software PKCS#11 Softtoken"));
        assert_eq!(uri.manufacturer.as_deref(), Some("Snake Oil, Inc."));
        assert_eq!(uri.id.as_deref(), Some(&b"\x69\x95\x3E\x5C\xF4\xBD\xEC\x91"[..]));
        assert_eq!(uri.serial.as_deref(), Some(""));
        assert_eq!(uri.pin_source.as_deref(), Some(Path::new("/etc/token_pin")));
        let uri = p11("pkcs11:slot-description=Sun%20Metaslot;library-version=3.2;slot-id=327");
        assert_eq!(uri.library_version, Some((3, 2)));
        assert_eq!(uri.slot_id, Some(327));
        let uri =
            p11("pkcs11:object=a;type=private?module-path=/usr/lib/x.so&module-name=softhsm2");
        assert_eq!(uri.module_path.as_deref(), Some(Path::new("/usr/lib/x.so")));
        assert_eq!(uri.module_name.as_deref(), Some("softhsm2"));
    }

    #[test]
    fn ignores_vendor_attributes_and_refuses_duplicates() {
        assert_eq!(p11("pkcs11:vendor-aaa=value;token=t?x-pin=b").token.as_deref(), Some("t"));
        assert_eq!(KeyUri::parse("pkcs11:id=1;id=2"), Err(UriError::Duplicate("id")));
        assert_eq!(
            KeyUri::parse("pkcs11:?module-name=a&module-name=b"),
            Err(UriError::Duplicate("module-name"))
        );
    }

    #[test]
    fn says_what_is_wrong_where() {
        for (text, part) in [
            ("http:x", "starts with pkcs11"),
            ("/etc/key", "starts with pkcs11"),
            ("pkcs11:token", "name=value"),
            ("pkcs11:token=My Token", "attribute token: a space"),
            ("pkcs11:id=%4", "attribute id: a percent"),
            ("pkcs11:token=%ff", "attribute token: not UTF-8"),
            ("pkcs11:type=key", "attribute type"),
            ("pkcs11:slot-id=+1", "attribute slot-id"),
            ("pkcs11:library-version=1.999", "library-version"),
            ("pkcs11:pin-source=file:/x", "wrong side"),
            ("pkcs11:?token=x", "wrong side"),
            ("pkcs11:?pin-source=|prog", "absolute path"),
            ("pkcs11:?pin-source=file:rel", "absolute path"),
            ("pkcs11:?pin-value=1234", "pin-value is refused"),
            ("file:relative", "absolute path"),
            ("file://other.example/etc/key", "on this machine"),
            ("file:/a%00b", "NUL"),
        ] {
            let error = KeyUri::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn does_not_repeat_a_pin_in_its_error() {
        let error = KeyUri::parse("pkcs11:?pin-value=4711").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("4711"));
    }

    #[test]
    fn displays_what_parses_to_the_same() {
        for text in [
            "pkcs11:",
            "pkcs11:model=m;manufacturer=Snake%20Oil,%20Inc.;serial=12;token=a%3Bb;id=%00%FF;object=k%2F1&2;type=private\
?module-path=/usr/lib/a%3Fb%26.so&module-name=x&pin-source=file:/etc/pin",
            "pkcs11:library-manufacturer=x;library-description=y;library-version=1.2;slot-manufacturer=a;\
slot-description=b;slot-id=7",
            "file:/etc/ssl/private/k%20ey.pem",
            "pkcs11:?pin-source=file:/with%2520space%2525",
        ] {
            let uri = KeyUri::parse(text).unwrap();
            assert_eq!(uri.to_string(), text);
            assert_eq!(KeyUri::parse(&uri.to_string()).unwrap(), uri);
        }
        assert_eq!(KeyUri::parse("file:///etc/x").unwrap().to_string(), "file:/etc/x");
        assert_eq!(KeyUri::parse("FILE://localhost/etc/x").unwrap().to_string(), "file:/etc/x");
        // Two slashes in front of a path would make a host of its first part.
        assert_eq!(KeyUri::parse("file:////host/x").unwrap().to_string(), "file:/host/x");
        assert_eq!(KeyUri::parse("file:/%2Fhost/x").unwrap().to_string(), "file:/host/x");
        assert_eq!(KeyUri::File("//host/x".into()).to_string(), "file:/host/x");
    }
}
