//! Whom to ask, whom to believe, and how much: the settings of a resolver, and its trust anchors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use data_encoding::{BASE64, HEXUPPER_PERMISSIVE};
use hickory_resolver::proto::dnssec::rdata::{DNSKEY, DS};
use hickory_resolver::proto::dnssec::{Algorithm, DigestType, PublicKey as _, PublicKeyBuf};
use rustls::pki_types::CertificateDer;

/// Largest anchor file that is read.
const MAX_FILE: u64 = 256 * 1024;

/// The root zone's keys as IANA publishes them (<https://data.iana.org/root-anchors/>): KSK-2017 and
/// KSK-2024, in the same form as an anchor file.
const IANA: &str = "\
. IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D
. IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16
";

/// The addresses of the root servers A to M, those of IPv4 first.
const ROOT_SERVERS: [IpAddr; 26] = [
    v4(198, 41, 0, 4),
    v4(170, 247, 170, 2),
    v4(192, 33, 4, 12),
    v4(199, 7, 91, 13),
    v4(192, 203, 230, 10),
    v4(192, 5, 5, 241),
    v4(192, 112, 36, 4),
    v4(198, 97, 190, 53),
    v4(192, 36, 148, 17),
    v4(192, 58, 128, 30),
    v4(193, 0, 14, 129),
    v4(199, 7, 83, 42),
    v4(202, 12, 27, 33),
    v6([0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30]),
    v6([0x2801, 0x1b8, 0x10, 0, 0, 0, 0, 0xb]),
    v6([0x2001, 0x500, 0x2, 0, 0, 0, 0, 0xc]),
    v6([0x2001, 0x500, 0x2d, 0, 0, 0, 0, 0xd]),
    v6([0x2001, 0x500, 0xa8, 0, 0, 0, 0, 0xe]),
    v6([0x2001, 0x500, 0x2f, 0, 0, 0, 0, 0xf]),
    v6([0x2001, 0x500, 0x12, 0, 0, 0, 0, 0xd0d]),
    v6([0x2001, 0x500, 0x1, 0, 0, 0, 0, 0x53]),
    v6([0x2001, 0x7fe, 0, 0, 0, 0, 0, 0x53]),
    v6([0x2001, 0x503, 0xc27, 0, 0, 0, 2, 0x30]),
    v6([0x2001, 0x7fd, 0, 0, 0, 0, 0, 0x1]),
    v6([0x2001, 0x500, 0x9f, 0, 0, 0, 0, 0x42]),
    v6([0x2001, 0xdc3, 0, 0, 0, 0, 0, 0x35]),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(s: [u16; 8]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]))
}

/// How to resolve names.
#[derive(Debug, Clone)]
pub struct DnsSettings {
    /// Whom to ask.
    pub upstream: UpstreamSettings,
    /// Which keys of the root zone to believe.
    pub anchors: AnchorSource,
    /// How long one server may take for one question.
    pub attempt: Duration,
    /// How often each server is asked before a question has failed.
    pub attempts: usize,
    /// Look-ups under way for one domain; those beyond fail as busy.
    pub per_target: usize,
    /// Questions under way to all servers; those beyond wait.
    pub questions: usize,
    /// Zones whose keys are remembered, for as long as their records and signatures permit.
    pub zones: usize,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            upstream: UpstreamSettings::root(),
            anchors: AnchorSource::Iana,
            attempt: Duration::from_millis(1500),
            attempts: 3,
            per_target: 64,
            questions: 256,
            zones: 4096,
        }
    }
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub enum UpstreamSettings {
    /// Resolvers that return DNSSEC records, in order of preference. They need not validate, and are
    /// not believed if they say that they did.
    Forwarders(Vec<Forwarder>),
    /// The servers of each zone, from the root down.
    Root {
        /// Addresses of root servers.
        hints: Vec<IpAddr>,
        /// The port of all servers: 53.
        port: u16,
    },
}

impl UpstreamSettings {
    /// From the root servers that everybody uses.
    pub fn root() -> Self {
        Self::Root { hints: ROOT_SERVERS.to_vec(), port: 53 }
    }
}

/// One resolver to forward to.
#[derive(Debug, Clone)]
pub struct Forwarder {
    /// Where.
    pub address: SocketAddr,
    /// How.
    pub protocol: Protocol,
}

/// How to reach a resolver.
#[derive(Debug, Clone)]
pub enum Protocol {
    /// UDP, and TCP for what does not fit (RFC 7766).
    UdpTcp,
    /// TCP only.
    Tcp,
    /// DNS over TLS (RFC 7858), usually at port 853.
    Tls(TlsServer),
}

/// How a resolver proves itself over TLS.
#[derive(Debug, Clone)]
pub enum TlsServer {
    /// By a certificate for this name (RFC 8310).
    Name {
        /// The name.
        name: String,
        /// Trust anchors in DER; none: those of the system.
        roots: Option<Vec<CertificateDer<'static>>>,
    },
    /// By this SHA-256 digest of its SubjectPublicKeyInfo, and nothing else (RFC 7858 section 4.2).
    Pin([u8; 32]),
}

/// Where the anchor for the root comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AnchorSource {
    /// Built in.
    #[default]
    Iana,
    /// DS or DNSKEY records of the root in the form of a zone file, one per line, as
    /// `unbound-anchor` and `dns-root-data` write them.
    File(PathBuf),
}

/// Why a resolver cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The anchor file cannot be read.
    #[error("cannot read the DNSSEC anchor {}: {why}", path.display())]
    ReadAnchor {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A line of the anchor file is wrong.
    #[error("DNSSEC anchor {}, line {line}: {why}", path.display())]
    Anchor {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// No usable record in it.
    #[error("the DNSSEC anchor {} has no DS or DNSKEY record of the root that we can use", .0.display())]
    NoAnchor(PathBuf),
    /// Nobody to ask.
    #[error("there is no DNS server to ask")]
    NoServer,
    /// The TLS set-up of a forwarder is wrong.
    #[error("DNS over TLS to {address}: {why}")]
    Tls {
        /// Which forwarder.
        address: SocketAddr,
        /// What is wrong.
        why: String,
    },
}

/// The keys of the root zone that are believed.
#[derive(Debug, Default)]
pub(super) struct Anchors {
    digests: Vec<DS>,
    keys: Vec<DNSKEY>,
}

impl Anchors {
    pub(super) fn load(source: &AnchorSource) -> Result<Self, SettingsError> {
        let (path, text) = match source {
            AnchorSource::Iana => (Path::new("(built in)"), IANA.to_owned()),
            AnchorSource::File(path) => (path.as_path(), read(path)?),
        };
        let mut anchors = Self::default();
        for (index, line) in text.lines().enumerate() {
            anchors.add(line).map_err(|why| SettingsError::Anchor {
                path: path.to_owned(),
                line: index + 1,
                why,
            })?;
        }
        if anchors.digests.is_empty() && anchors.keys.is_empty() {
            return Err(SettingsError::NoAnchor(path.to_owned()));
        }
        Ok(anchors)
    }

    /// Whether `key` of the root zone is believed.
    pub(super) fn has(&self, key: &DNSKEY) -> bool {
        let root = hickory_resolver::proto::rr::Name::root();
        key.zone_key()
            && !key.revoke()
            && (self.keys.iter().any(|known| known.public_key() == key.public_key())
                || self.digests.iter().any(|ds| {
                    ds.algorithm() == key.public_key().algorithm()
                        && ds.covers(&root, key).unwrap_or(false)
                }))
    }

    fn add(&mut self, line: &str) -> Result<(), &'static str> {
        let (record, comment) = line.split_once(';').unwrap_or((line, ""));
        let mut words = record.split_ascii_whitespace().peekable();
        let Some(owner) = words.next() else { return Ok(()) };
        if owner != "." {
            return Err("the name is not the root's (\".\")");
        }
        // A key that unbound has seen but not yet accepted, or that is no longer good (RFC 5011).
        if comment.contains("state=") && !["state=2", "state=3"].iter().any(|s| comment.contains(s))
        {
            return Ok(());
        }
        while words.peek().is_some_and(|w| *w == "IN" || w.bytes().all(|b| b.is_ascii_digit())) {
            words.next();
        }
        let kind = words.next();
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u16>().ok());
        let (first, second, third) =
            (number(words.next()), number(words.next()), number(words.next()));
        let data: String = words.collect();
        match kind {
            Some("DS") => {
                let (Some(tag), Some(algorithm), Some(digest)) = (first, second, third) else {
                    return Err("a DS record has a key tag, an algorithm, a digest type, a digest");
                };
                let (algorithm, digest) = (byte(algorithm)?, byte(digest)?);
                let data = HEXUPPER_PERMISSIVE
                    .decode(data.as_bytes())
                    .map_err(|_| "the digest is not in hexadecimal")?;
                // Others could not be checked (RFC 8624), and a shorter digest would match nothing.
                let length = match digest {
                    2 => 32,
                    4 => 48,
                    _ => return Ok(()),
                };
                if data.len() != length {
                    return Err("the digest has the wrong length");
                }
                let digest = DigestType::from(digest);
                self.digests.push(DS::new(tag, Algorithm::from_u8(algorithm), digest, data));
            }
            Some("DNSKEY") => {
                let (Some(flags), Some(3), Some(algorithm)) = (first, second, third) else {
                    return Err("a DNSKEY record has flags, protocol 3, an algorithm, a key");
                };
                let algorithm = Algorithm::from_u8(byte(algorithm)?);
                let data =
                    BASE64.decode(data.as_bytes()).map_err(|_| "the key is not in base64")?;
                self.keys.push(DNSKEY::with_flags(flags, PublicKeyBuf::new(data, algorithm)));
            }
            _ => return Err("neither a DS nor a DNSKEY record"),
        }
        Ok(())
    }
}

fn byte(number: u16) -> Result<u8, &'static str> {
    u8::try_from(number).map_err(|_| "a number is larger than 255")
}

fn read(path: &Path) -> Result<String, SettingsError> {
    let failed = |why: String| SettingsError::ReadAnchor { path: path.to_owned(), why };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_FILE {
        return Err(failed(format!("{size} bytes; at most {MAX_FILE} are read")));
    }
    std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anchors(text: &str) -> Result<Anchors, SettingsError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("anchor");
        std::fs::write(&path, text).unwrap();
        Anchors::load(&AnchorSource::File(path))
    }

    /// KSK-2017 as the root zone publishes it.
    const KSK: &str = "AwEAAaz/tAm8yTn4Mfeh5eyI96WSVexTBAvkMgJzkKTOiW1vkIbzxeF3+/4RgWOq7HrxRixHlFlEx\
        OLAJr5emLvN7SWXgnLh4+B5xQlNVz8Og8kvArMtNROxVQuCaSnIDdD5LKyWbRd2n9WGe2R8PzgCmr3EgVLrjyBxWezF0j\
        LHwVN8efS3rCj/EWgvIWgb9tarpVUDK/b58Da+sqqls3eNbuv7pr+eoZG+SrDK6nWeL3c6H5Apxz7LjVc1uTIdsIXxuOL\
        YA4/ilBmSVIzuDWfdRUfhHdY6+cn8HFRm+2hM8AnXGXws9555KrUB5qihylGa8subX2Nn6UwNR1AkUTV74bU=";

    fn key(flags: u16) -> DNSKEY {
        let data = BASE64.decode(KSK.as_bytes()).unwrap();
        DNSKEY::with_flags(flags, PublicKeyBuf::new(data, Algorithm::RSASHA256))
    }

    #[test]
    fn the_anchor_that_is_built_in() {
        let anchors = Anchors::load(&AnchorSource::Iana).unwrap();
        assert_eq!(anchors.digests.len(), 2);
        assert!(anchors.has(&key(257)));
        // Revoked (RFC 5011), and no zone key.
        assert!(!anchors.has(&key(0x181)));
        assert!(!anchors.has(&key(1)));
    }

    #[test]
    fn files() {
        for text in [
            format!(". IN DNSKEY 257 3 8 {KSK}\n"),
            format!(
                "; comment\n\n.\t172800\tIN\tDNSKEY\t257 3 8 {KSK} ;{{id = 20326}} ;;state=2 [ VALID ]\n"
            ),
            ". DS 20326 8 2 e06d44b80b8f1d39a95c0b0d7c65d084 58e880409bbc683457104237c7f8ec8d"
                .into(),
        ] {
            assert!(anchors(&text).unwrap().has(&key(257)), "{text}");
        }
        for (text, why) in [
            ("", "no DS or DNSKEY"),
            ("com. IN DS 1 8 2 00", "line 1: the name is not the root's"),
            ("\n. IN DS 1 8 2 00", "line 2: the digest has the wrong length"),
            (". IN DS 1 8 2 x", "hexadecimal"),
            (". IN DS 1 300 2 00", "larger than 255"),
            (". IN DS 1 8", "a DS record has"),
            (". IN DNSKEY 257 2 8 AAAA", "a DNSKEY record has"),
            (". IN DNSKEY 257 3 8 A", "base64"),
            (". IN A 127.0.0.1", "neither"),
            // SHA-1 alone proves nothing any more.
            (". IN DS 1 8 1 0000000000000000000000000000000000000000", "no DS or DNSKEY"),
        ] {
            let error = anchors(text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        // Seen by unbound, not yet accepted.
        let pending = format!(". 1 IN DNSKEY 257 3 8 {KSK} ;;state=1 [ ADDPEND ]\n");
        assert!(anchors(&pending).is_err());
    }
}
