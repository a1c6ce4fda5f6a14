//! Values of the configuration that TOML has no type for: durations, octal modes, names of users.
//!
//! Each is a string in the file and a type here; a string that does not parse is refused with what
//! would have been right. Used by [`super::Config`] only.

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A value that is written as text in the configuration file.
pub(crate) trait TextValue: Sized {
    /// What a right value looks like, to finish the sentence "expected …".
    const EXPECTED: &'static str;
    /// The value, or `None` if the text is not one.
    fn from_text(text: &str) -> Option<Self>;
    /// The text that reads back as this value.
    fn to_text(&self) -> String;
}

struct TextVisitor<T>(PhantomData<T>);

impl<T: TextValue> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

/// Reads a value from its text.
pub(crate) fn text<'de, D: Deserializer<'de>, T: TextValue>(d: D) -> Result<T, D::Error> {
    d.deserialize_str(TextVisitor(PhantomData))
}

macro_rules! text_serde {
    ($($t:ty),*) => {$(
        impl<'de> serde::Deserialize<'de> for $t {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                $crate::config::values::text(d)
            }
        }
        impl serde::Serialize for $t {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&$crate::config::values::TextValue::to_text(self))
            }
        }
    )*};
}
pub(crate) use text_serde;
text_serde!(FileMode, UserName, GroupName, AbsolutePath, Forwarder, CacheServer, HttpUrl);

/// Permission bits of a socket, written in octal: `"0660"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl TextValue for FileMode {
    const EXPECTED: &'static str = "permissions in octal as a string, such as \"0660\"";

    fn from_text(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let bits = u32::from_str_radix(digits, 8).ok()?;
        (matches!(digits.len(), 3 | 4) && bits <= 0o777).then_some(Self(bits))
    }

    fn to_text(&self) -> String {
        format!("{:04o}", self.0)
    }
}

fn is_account_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && !text.contains([':', '\n', '\0', '/'])
}

/// The name of a user, as in passwd(5); all digits is a number of a user without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserName(pub String);

impl TextValue for UserName {
    const EXPECTED: &'static str = "the name of a user, such as \"tlspool\"";

    fn from_text(text: &str) -> Option<Self> {
        is_account_name(text).then(|| Self(text.to_owned()))
    }

    fn to_text(&self) -> String {
        self.0.clone()
    }
}

/// The name of a group, as in group(5); all digits is a number of a group without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupName(pub String);

impl TextValue for GroupName {
    const EXPECTED: &'static str = "the name of a group, such as \"www-data\"";

    fn from_text(text: &str) -> Option<Self> {
        is_account_name(text).then(|| Self(text.to_owned()))
    }

    fn to_text(&self) -> String {
        self.0.clone()
    }
}

/// An `http:` URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(pub String);

impl TextValue for HttpUrl {
    const EXPECTED: &'static str = "a URL that begins with http://, such as \
        \"http://ocsp.example.com/\" (OCSP responses are signed, TLS adds nothing)";

    fn from_text(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("http://")?;
        let sound = !rest.is_empty()
            && !rest.starts_with(['/', ':'])
            && text.len() <= 1024
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        sound.then(|| Self(text.to_owned()))
    }

    fn to_text(&self) -> String {
        self.0.clone()
    }
}

/// A path that starts with `/`: a daemon has no use for the folder it was started in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AbsolutePath(PathBuf);

impl AbsolutePath {
    /// Takes a path; `None` if it is relative.
    pub fn new(path: impl Into<PathBuf>) -> Option<Self> {
        let path = path.into();
        path.is_absolute().then_some(Self(path))
    }

    /// A path written in this program.
    pub(super) fn literal(path: &'static str) -> Self {
        debug_assert!(path.starts_with('/'));
        Self(path.into())
    }

    /// The path below this one.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        Self(self.0.join(name.trim_start_matches('/')))
    }
}

impl std::ops::Deref for AbsolutePath {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl AsRef<Path> for AbsolutePath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for AbsolutePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl TextValue for AbsolutePath {
    const EXPECTED: &'static str = "an absolute path, one that starts with /";

    fn from_text(text: &str) -> Option<Self> {
        if text.contains('\0') { None } else { Self::new(text) }
    }

    fn to_text(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

/// A DNS server: `"192.0.2.1"` or `"[2001:db8::1]:5353"`; with `tcp:` before it, not over UDP; over TLS
/// with what its certificate must have after it: `"192.0.2.1#dns.example.net"`, or
/// `"192.0.2.1:8853#sha256:…"`, the digest of its key in 64 hexadecimal digits (RFC 7858).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarder {
    /// Address and port; the port is 53, or 853 over TLS, if none is written.
    pub address: SocketAddr,
    /// Over TCP only, without TLS.
    pub tcp: bool,
    /// How it proves itself, if it is asked over TLS.
    pub tls: Option<ForwarderTls>,
}

/// What the certificate of a DNS server must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwarderTls {
    /// This name, and an issuer that is trusted.
    Name(String),
    /// A key with this SHA-256 digest.
    Pin([u8; 32]),
}

impl ForwarderTls {
    const PIN: &str = "sha256:";

    fn from_text(text: &str) -> Option<Self> {
        if let Some(digits) = text.strip_prefix(Self::PIN) {
            let mut pin = [0; 32];
            let digits = digits.as_bytes();
            if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
                return None;
            }
            for (byte, pair) in pin.iter_mut().zip(digits.chunks(2)) {
                *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
            }
            return Some(Self::Pin(pin));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let is_name = !text.is_empty() && text.len() <= 253 && text.bytes().all(plain);
        is_name.then(|| Self::Name(text.to_ascii_lowercase()))
    }

    fn to_text(&self) -> String {
        match self {
            Self::Name(name) => name.clone(),
            Self::Pin(pin) => {
                let digits = pin.iter().map(|byte| format!("{byte:02x}"));
                std::iter::once(Self::PIN.to_owned()).chain(digits).collect()
            }
        }
    }
}

impl TextValue for Forwarder {
    const EXPECTED: &'static str = "an address such as \"192.0.2.1\" or \"[2001:db8::1]:5353\", \
                                    or \"192.0.2.1#dns.example.net\" for DNS over TLS";

    fn from_text(text: &str) -> Option<Self> {
        let (address, tls) = match text.split_once('#') {
            Some((address, tls)) => (address, Some(ForwarderTls::from_text(tls)?)),
            None => (text, None),
        };
        let (address, tcp) = match address.strip_prefix("tcp:") {
            Some(_) if tls.is_some() => return None,
            Some(address) => (address, true),
            None => (address, false),
        };
        let address = match address.parse() {
            Ok(address) => address,
            Err(_) => SocketAddr::new(address.parse().ok()?, if tls.is_some() { 853 } else { 53 }),
        };
        Some(Self { address, tcp, tls })
    }

    fn to_text(&self) -> String {
        match &self.tls {
            Some(tls) => format!("{}#{}", self.address, tls.to_text()),
            None if self.tcp => format!("tcp:{}", self.address),
            None => self.address.to_string(),
        }
    }
}

/// A memcached server: `"127.0.0.1"`, `"192.0.2.1:11211"`, or `"unix:/path"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheServer {
    /// Over TCP.
    Tcp(SocketAddr),
    /// A UNIX socket.
    Unix(AbsolutePath),
}

impl TextValue for CacheServer {
    const EXPECTED: &'static str =
        "an address such as \"127.0.0.1:11211\", or \"unix:/run/memcached.sock\"";

    fn from_text(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return AbsolutePath::from_text(path).map(Self::Unix);
        }
        let address = match text.parse() {
            Ok(address) => address,
            Err(_) => SocketAddr::new(text.parse().ok()?, 11_211),
        };
        Some(Self::Tcp(address))
    }

    fn to_text(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => format!("unix:{path}"),
        }
    }
}

/// For `#[serde(with = "duration")]`: a [`Duration`] as `"500ms"`, `"30s"`, `"1h30m"`, `"2d"`.
pub(crate) mod duration {
    use super::{PhantomData, TextValue, TextVisitor};
    use serde::{Deserializer, Serializer};
    use std::time::Duration;

    pub(super) struct Text(pub(super) Duration);

    /// Longest unit first, as they are written; milliseconds before minutes so that `ms` is not `m`.
    const UNITS: [(&str, u64); 5] =
        [("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)];

    impl TextValue for Text {
        const EXPECTED: &'static str =
            "a duration such as \"500ms\", \"30s\", \"5m\", \"12h\" or \"1d\"";

        fn from_text(text: &str) -> Option<Self> {
            let (mut rest, mut total) = (text, 0u64);
            while !rest.is_empty() {
                let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
                let number: u64 = rest[..digits].parse().ok()?;
                rest = &rest[digits..];
                let (unit, millis) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
                rest = &rest[unit.len()..];
                total = total.checked_add(number.checked_mul(*millis)?)?;
            }
            (!text.is_empty()).then(|| Self(Duration::from_millis(total)))
        }

        fn to_text(&self) -> String {
            let millis = self.0.as_millis();
            for (unit, factor) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)]
            {
                if millis > 0 && millis.is_multiple_of(factor) {
                    return format!("{}{unit}", millis / factor);
                }
            }
            format!("{millis}ms")
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        d.deserialize_str(TextVisitor::<Text>(PhantomData)).map(|text| text.0)
    }

    pub(crate) fn serialize<S: Serializer>(value: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&Text(*value).to_text())
    }
}

/// As [`duration::deserialize`], for times in which something is to be done: one of nothing is refused.
pub(crate) fn some_time<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    at_least(Duration::from_millis(1), duration::deserialize(d)?)
}

/// The same for calls into PKCS #11 modules, which may well take a part of a second.
pub(crate) fn module_time<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    at_least(Duration::from_secs(1), duration::deserialize(d)?)
}

fn at_least<E: de::Error>(least: Duration, value: Duration) -> Result<Duration, E> {
    if value >= least {
        return Ok(value);
    }
    let text = |value| duration::Text(value).to_text();
    Err(E::custom(format!("{:?} is too little; expected at least {:?}", text(value), text(least))))
}

/// A duration from a command line.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = duration::Text::from_text(text).map(|text| text.0);
    parsed.ok_or_else(|| format!("expected {}", duration::Text::EXPECTED))
}

/// For `#[serde(deserialize_with = "at_least_one")]`: a bound of nothing would bar everybody.
pub(crate) fn at_least_one<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match u32::deserialize(d)? {
        0 => Err(de::Error::invalid_value(de::Unexpected::Unsigned(0), &"a number from 1 up")),
        number => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::duration::Text;
    use super::*;

    #[test]
    fn durations_read_back_as_they_were_written() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("12h", 43_200_000),
            ("1d", 86_400_000),
        ] {
            let value = Text::from_text(text).unwrap();
            assert_eq!(value.0, Duration::from_millis(millis));
            assert_eq!(value.to_text(), text);
        }
        assert_eq!(Text::from_text("1h30m").unwrap().0, Duration::from_mins(90));
        assert_eq!(Text::from_text("0s").unwrap().0, Duration::ZERO);
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "30",
            "s",
            "30 s",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "1y",
            "600000000000000d",
        ] {
            assert!(Text::from_text(text).is_none(), "{text}");
        }
    }

    #[test]
    fn only_http_urls() {
        assert!(HttpUrl::from_text("http://127.0.0.1:2560/").is_some());
        for text in ["https://a.example/", "http://", "http:///x", "http://a b", "ocsp.example"] {
            assert_eq!(HttpUrl::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(FileMode::from_text("0660"), Some(FileMode(0o660)));
        assert_eq!(FileMode::from_text("0o600"), Some(FileMode(0o600)));
        for text in ["660660", "0880", "", "4755", "rw"] {
            assert_eq!(FileMode::from_text(text), None, "{text}");
        }
        assert_eq!(FileMode(0o600).to_text(), "0600");
    }

    #[test]
    fn paths_are_absolute() {
        assert!(AbsolutePath::from_text("/run/x").is_some());
        assert!(AbsolutePath::from_text("run/x").is_none());
        assert!(AbsolutePath::from_text("").is_none());
    }

    #[test]
    fn servers_are_addresses_with_ports_or_paths() {
        for (text, written) in [
            ("192.0.2.1", "192.0.2.1:53"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
            ("192.0.2.1#DNS.example.net", "192.0.2.1:853#dns.example.net"),
            ("192.0.2.1:8853#dns.example.net", "192.0.2.1:8853#dns.example.net"),
            ("tcp:192.0.2.1", "tcp:192.0.2.1:53"),
            (
                "192.0.2.1#sha256:00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF",
                "192.0.2.1:853#sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
            ),
        ] {
            let forwarder = Forwarder::from_text(text).unwrap();
            assert_eq!(forwarder.to_text(), written);
            assert_eq!(Forwarder::from_text(written), Some(forwarder));
        }
        for text in [
            "",
            "dns.example.net",
            "192.0.2.1#",
            "192.0.2.1:99999",
            "192.0.2.1#a b",
            "192.0.2.1#sha256:00",
            "tcp:192.0.2.1#dns.example.net",
        ] {
            assert_eq!(Forwarder::from_text(text), None, "{text}");
        }
        let server = |text| CacheServer::from_text(text).map(|server| server.to_text());
        assert_eq!(server("127.0.0.1").unwrap(), "127.0.0.1:11211");
        assert_eq!(server("unix:/run/memcached.sock").unwrap(), "unix:/run/memcached.sock");
        assert_eq!(server("localhost:11211"), None);
    }
}
