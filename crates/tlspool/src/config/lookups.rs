//! The sections about live look-ups: `[dns]`, which turns them on, `[ldap]`, `[http]` and `[cache]`.

use super::values::{TextValue, at_least_one, duration};
use super::{AbsolutePath, CacheServer, Config, Forwarder};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// `[dns]`: where names are resolved. Without this section nothing is looked up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Servers that resolve for us; without any, the root servers and those they lead to are asked.
    pub forwarders: Vec<Forwarder>,
    /// Who certifies the forwarders that are asked over TLS: a PEM file. The system's trust anchors if
    /// absent.
    pub tls_anchors: Option<AbsolutePath>,
    /// Keys (DNSKEY) or their digests (DS) that sign the root, as in a zone file; IANA's if absent.
    pub root_anchor: Option<AbsolutePath>,
    /// Addresses of root servers; the well-known ones if there are none.
    pub root_servers: Vec<IpAddr>,
    /// The port of the servers of zones, when no forwarder is asked.
    pub port: u16,
    /// Time for one server to answer one question,
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// and how often each is asked.
    #[serde(deserialize_with = "at_least_one")]
    pub attempts: u32,
    /// Questions under way to all servers; those beyond wait.
    #[serde(deserialize_with = "at_least_one")]
    pub questions: u32,
    /// Look-ups under way for one domain; those beyond fail.
    #[serde(deserialize_with = "at_least_one")]
    pub per_domain: u32,
    /// Zones whose keys are remembered.
    #[serde(deserialize_with = "at_least_one")]
    pub zones: u32,
}

/// `[ldap]`: how directories are asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ldap {
    /// Look-ups under way at all directories together.
    #[serde(deserialize_with = "at_least_one")]
    pub look_ups: u32,
    /// Of these, at one directory.
    #[serde(deserialize_with = "at_least_one")]
    pub per_directory: u32,
    /// Connections to all directories together.
    #[serde(deserialize_with = "at_least_one")]
    pub connections: u32,
    /// Time for a look-up.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Of this, time to connect.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How long a connection stays open without use.
    #[serde(with = "duration")]
    pub idle: Duration,
    /// Entries in one answer.
    #[serde(deserialize_with = "at_least_one")]
    pub entries: u32,
    /// Bytes of one answer.
    #[serde(deserialize_with = "at_least_one")]
    pub answer_bytes: u32,
    /// Directories may be in internal networks.
    pub internal: bool,
}

/// `[http]`: how OCSP answers and revocation lists are fetched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Time for a look-up.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Of this, time to connect to one address.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// Look-ups under way at one host.
    #[serde(deserialize_with = "at_least_one")]
    pub per_host: u32,
    /// Bytes of an OCSP answer.
    #[serde(deserialize_with = "at_least_one")]
    pub ocsp_bytes: u32,
    /// Bytes of a revocation list.
    #[serde(deserialize_with = "at_least_one")]
    pub crl_bytes: u32,
    /// Servers in internal networks may be asked.
    pub internal: bool,
}

/// `[cache]`: how long, and where, answers are remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// memcached servers; without any, answers are remembered in the daemon.
    pub servers: Vec<CacheServer>,
    /// The secret by which the pools that share the servers recognise each other's entries.
    pub key_file: Option<AbsolutePath>,
    /// How long an answer is good; nothing is remembered if zero.
    #[serde(with = "duration")]
    pub lifetime: Duration,
    /// Time for memcached to answer; after that the look-up is made.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Answers remembered in the daemon.
    #[serde(deserialize_with = "at_least_one")]
    pub entries: u32,
    /// Bytes of these.
    #[serde(deserialize_with = "at_least_one")]
    pub bytes: u32,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            forwarders: Vec::new(),
            tls_anchors: None,
            root_anchor: None,
            root_servers: Vec::new(),
            port: 53,
            timeout: Duration::from_millis(1500),
            attempts: 3,
            questions: 256,
            per_domain: 64,
            zones: 4096,
        }
    }
}

impl Default for Ldap {
    fn default() -> Self {
        Self {
            look_ups: 8192,
            per_directory: 2048,
            connections: 512,
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            entries: 32,
            answer_bytes: 1 << 20,
            internal: true,
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            per_host: 64,
            ocsp_bytes: 64 << 10,
            crl_bytes: 8 << 20,
            internal: false,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            key_file: None,
            lifetime: Duration::from_mins(5),
            timeout: Duration::from_millis(100),
            entries: 10_000,
            bytes: 32 << 20,
        }
    }
}

/// What no single value shows: the key at fault and what to do.
pub(super) fn contradiction(config: &Config) -> Option<(String, String)> {
    let needs_dns = |key: &str| {
        let problem = "has no effect without look-ups; add a [dns] section, or leave this one out";
        Some((key.to_owned(), problem.to_owned()))
    };
    if config.dns.is_none() {
        if config.ldap != Ldap::default() {
            return needs_dns("ldap");
        }
        if config.http != Http::default() {
            return needs_dns("http");
        }
        if config.cache != Cache::default() {
            return needs_dns("cache");
        }
    }
    // What the channel between the processes carries, with something to spare.
    let most = (tlspool_lookup::process::message::MAX_ANSWER - 4096) as u32;
    for (key, bytes) in [
        ("ldap.answer_bytes", config.ldap.answer_bytes),
        ("http.ocsp_bytes", config.http.ocsp_bytes),
        ("http.crl_bytes", config.http.crl_bytes),
    ] {
        if bytes > most {
            return Some((key.into(), format!("at most {most} bytes can be looked up")));
        }
    }
    if let (Some(server), None) = (config.cache.servers.first(), &config.cache.key_file) {
        let problem = format!(
            "who can write to {} could vouch for anybody; name a file with at least 32 random bytes \
             in cache.key_file",
            server.to_text()
        );
        return Some(("cache.servers".into(), problem));
    }
    None
}
