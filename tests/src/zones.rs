//! Signed DNS zones, from a root with an anchor of its own down, served by NSD.
//!
//! ```no_run
//! # use tlspool_tests::zones::{Signing, ZoneSet};
//! let zones = ZoneSet::new()
//!     .zone("example.com", Signing::Nsec, &["www A 127.0.0.1", "_443._tcp.www TLSA 3 1 1 ab…"])
//!     .zone("unsigned.example", Signing::None, &[])
//!     .serve();
//! let (forwarder, anchor) = (zones.address(), zones.anchor());
//! ```
//! The server holds all zones, so it answers every question with authority and can stand for a resolver
//! that returns DNSSEC records. Zones between the root and the given ones are made as needed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::authority::Leaf;
use crate::net::free_udp_port;
use crate::process::{Process, openssl, run};

/// How a zone is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// With NSEC.
    Nsec,
    /// With NSEC3.
    Nsec3,
    /// With NSEC3, all with the opt-out flag.
    OptOut,
    /// With NSEC; the signatures expired years ago.
    Expired,
    /// With NSEC; the signatures expire after [`BRIEF`].
    Brief,
    /// With NSEC; the signatures begin in 2040.
    Early,
    /// Not at all, and the zone above says so.
    None,
    /// Not at all, but the zone above has a DS record: bogus.
    Stripped,
}

/// How long signatures last that do not last long: less than the TTL of all records.
pub const BRIEF: Duration = Duration::from_mins(3);

/// Alters a zone file after it was signed.
type Change = Box<dyn FnOnce(String) -> String + Send>;

/// Zones to be made.
#[derive(Default)]
pub struct ZoneSet {
    zones: BTreeMap<String, Spec>,
    separate: bool,
    address: Option<IpAddr>,
}

struct Spec {
    signing: Signing,
    records: String,
    algorithm: String,
    change: Option<Change>,
}

/// The algorithm of keys, unless another is chosen.
const ALGORITHM: &str = "ECDSAP256SHA256";

/// Zones that are served, until dropped.
#[derive(Debug)]
pub struct Zones {
    servers: Vec<Process>,
    address: SocketAddr,
    folder: TempDir,
}

impl ZoneSet {
    /// None but the root, with NSEC.
    pub fn new() -> Self {
        Self::default().zone("", Signing::Nsec, &[])
    }

    /// Adds a zone (empty: the root), with records as in a zone file, names relative to the zone. It has
    /// SOA and NS records already.
    #[must_use]
    pub fn zone(mut self, name: &str, signing: Signing, records: &[&str]) -> Self {
        let spec = Spec {
            signing,
            records: records.join("\n"),
            algorithm: ALGORITHM.into(),
            change: None,
        };
        self.zones.insert(name.to_owned(), spec);
        self
    }

    /// Chooses the algorithm of a zone's keys, in the words of `ldns-keygen`.
    #[must_use]
    pub fn algorithm(mut self, name: &str, algorithm: &str) -> Self {
        algorithm.clone_into(&mut self.zones.get_mut(name).expect("a zone was added").algorithm);
        self
    }

    /// Alters the file of a zone after it was signed.
    #[must_use]
    pub fn altered(
        mut self,
        name: &str,
        change: impl FnOnce(String) -> String + Send + 'static,
    ) -> Self {
        self.zones.get_mut(name).expect("a zone was added").change = Some(Box::new(change));
        self
    }

    /// Zones of each depth get a server of their own: the root at 127.0.0.1, those below it at
    /// 127.0.0.2, and so on, all at one port.
    #[must_use]
    pub fn separate(mut self) -> Self {
        self.separate = true;
        self
    }

    /// They are served at this address, which is one of this machine or namespace, instead of 127.0.0.1.
    #[must_use]
    pub fn at(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// The address of the servers of one depth.
    fn host(&self, depth: usize) -> IpAddr {
        let place = if self.separate { depth + 1 } else { 1 };
        self.address.unwrap_or_else(|| [127, 0, 0, place as u8].into())
    }

    /// Signs them, for a server that the caller starts: the file of a zone is `NAME.zone` (`root.zone`), and signed
    /// `NAME.zone.served`; beside them are the keys, and the root's DS record in `anchor`. Returns the names, too.
    pub fn sign(&mut self) -> (TempDir, Vec<String>) {
        let folder = TempDir::new().expect("a folder");
        self.complete();
        let names: Vec<String> = self.zones.keys().cloned().collect();
        let mut delegations: BTreeMap<String, String> = BTreeMap::new();
        let mut signer = Signer { folder: folder.path(), delegations: &mut delegations };
        // The deepest first: a zone holds the DS records of those below it.
        let mut order = names.clone();
        order.sort_by_key(|name| std::cmp::Reverse(depth(name)));
        for name in order {
            let spec = self.zones.remove(&name).expect("it is there");
            let parent = parent(&name, &names);
            let host = self.host(depth(&name));
            signer.make(&name, parent, spec, host);
        }
        (folder, names)
    }

    /// Signs and serves them.
    pub fn serve(mut self) -> Zones {
        let (folder, names) = self.sign();
        let port = free_udp_port();
        let deepest = names.iter().map(|name| depth(name)).max().unwrap_or(0);
        let groups = if self.separate { deepest + 1 } else { 1 };
        let mut servers = Vec::new();
        for group in 0..groups {
            let here = |name: &&String| !self.separate || depth(name) == group;
            let here: Vec<_> = names.iter().filter(here).collect();
            servers.push(nsd(folder.path(), self.host(group), port, &here));
        }
        Zones { servers, address: SocketAddr::new(self.host(0), port), folder }
    }

    /// Adds the zones above each: a delegation is in the zone directly above.
    fn complete(&mut self) {
        let names: Vec<String> = self.zones.keys().cloned().collect();
        for name in names {
            let Some((_, top)) = name.rsplit_once('.') else { continue };
            self.zones.entry(top.to_owned()).or_insert_with(|| Spec {
                signing: Signing::Nsec,
                records: String::new(),
                algorithm: ALGORITHM.into(),
                change: None,
            });
        }
    }
}

/// Without their zones, nobody answers: killed at once, a server would leave children that still do.
impl Drop for Zones {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.signal(Signal::TERM);
            server.signal(Signal::CONT);
        }
        for server in &mut self.servers {
            server.wait();
        }
    }
}

impl Zones {
    /// The server of the root and, unless they are separate, of all zones. UDP and TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A file with the DS record of the root's key.
    pub fn anchor(&self) -> PathBuf {
        self.folder.path().join("anchor")
    }

    /// What the servers said; for a test that fails.
    pub fn said(&self) -> String {
        self.servers.iter().map(Process::said).collect()
    }
}

/// `[dns]` of a configuration, with these zones as the only server.
pub fn dns(zones: &Zones) -> String {
    let (address, anchor) = (zones.address(), zones.anchor());
    format!("[dns]\nforwarders = [\"{address}\"]\nroot_anchor = \"{}\"\n", anchor.display())
}

/// The data of a TLSA record for the very certificate, by digest.
pub fn tlsa(leaf: &Leaf) -> String {
    format!("3 0 1 {}", tlsa_data(leaf, 0, 1))
}

/// What a TLSA record with this selector and matching type has of a certificate, in hexadecimal.
pub fn tlsa_data(leaf: &Leaf, selector: u8, matching: u8) -> String {
    let file = leaf.certificate.with_extension("selected");
    let selected = file.to_str().expect("temporary paths are text");
    let in_der = ["-outform", "DER", "-out", selected];
    if selector == 0 {
        openssl(&[&["x509", "-in", leaf.certificate()], &in_der[..]].concat());
    } else {
        let key = openssl(&["x509", "-in", leaf.certificate(), "-noout", "-pubkey"]);
        let pem = leaf.certificate.with_extension("pub");
        std::fs::write(&pem, key).expect("a file");
        let pem = pem.to_str().expect("temporary paths are text");
        openssl(&[&["pkey", "-pubin", "-in", pem], &in_der[..]].concat());
    }
    let digest = match matching {
        0 => {
            let bytes = std::fs::read(&file).expect("it was written");
            return bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        }
        1 => "-sha256",
        _ => "-sha512",
    };
    let said = openssl(&["dgst", digest, "-r", selected]);
    said.split_once(' ').expect("a digest and a name").0.to_owned()
}

fn depth(name: &str) -> usize {
    if name.is_empty() { 0 } else { name.split('.').count() }
}

/// The closest zone above.
fn parent<'a>(name: &str, names: &'a [String]) -> Option<&'a String> {
    let above =
        |zone: &&String| zone.is_empty() && !name.is_empty() || name.ends_with(&format!(".{zone}"));
    names.iter().filter(above).max_by_key(|zone| zone.len())
}

struct Signer<'a> {
    folder: &'a Path,
    delegations: &'a mut BTreeMap<String, String>,
}

impl Signer<'_> {
    fn make(&mut self, name: &str, parent: Option<&String>, spec: Spec, host: IpAddr) {
        let file = file(name);
        let below = self.delegations.remove(name).unwrap_or_default();
        let text = format!(
            "$ORIGIN {name}.\n$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\n\
             ns A {host}\n{}\n{below}",
            spec.records
        );
        std::fs::write(self.folder.join(&file), text).expect("a file");
        let mut delegation =
            format!("$ORIGIN {name}.\n{name}. NS ns.{name}.\nns.{name}. A {host}\n");
        let signed = if spec.signing == Signing::None {
            std::fs::read_to_string(self.folder.join(&file)).expect("it was written")
        } else {
            let (keys, ds) = self.keys(name, &spec.algorithm);
            delegation += &ds;
            if name.is_empty() {
                std::fs::write(self.folder.join("anchor"), &ds).expect("a file");
            }
            self.sign(&file, &spec, &keys)
        };
        let signed = match spec.change {
            Some(change) => change(signed),
            None => signed,
        };
        std::fs::write(self.folder.join(format!("{file}.served")), signed).expect("a file");
        if let Some(parent) = parent {
            *self.delegations.entry(parent.clone()).or_default() += &delegation;
        }
    }

    /// A key-signing and a zone-signing key, and the DS record of the first.
    fn keys(&self, name: &str, algorithm: &str) -> (Vec<String>, String) {
        let zone = format!("{name}.");
        let mut keys = Vec::new();
        for kind in [&["-k"] as &[&str], &[]] {
            let generate = ["-a", algorithm, "-b", "2048", "-r", "/dev/urandom"];
            let said = self.tool("ldns-keygen", &[&generate, kind, &[&zone]].concat());
            keys.push(said.trim().to_owned());
        }
        let ds = self.tool("ldns-key2ds", &["-n", "-2", &format!("{}.key", keys[0])]);
        (keys, ds)
    }

    fn sign(&self, file: &str, spec: &Spec, keys: &[String]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let brief = (now + BRIEF).as_secs().to_string();
        let kind: &[&str] = match spec.signing {
            Signing::Nsec3 => &["-n", "-t", "1", "-s", "aabb"],
            Signing::OptOut => &["-n", "-p", "-t", "0"],
            Signing::Expired => &["-i", "20200101000000", "-e", "20200201000000"],
            Signing::Brief => &["-e", &brief],
            Signing::Early => &["-i", "20400101000000", "-e", "20400201000000"],
            Signing::Nsec | Signing::None | Signing::Stripped => &[],
        };
        let mut arguments = kind.to_vec();
        arguments.push(file);
        arguments.extend(keys.iter().map(String::as_str));
        self.tool("ldns-signzone", &arguments);
        let served = if spec.signing == Signing::Stripped {
            file.to_owned()
        } else {
            format!("{file}.signed")
        };
        std::fs::read_to_string(self.folder.join(served)).expect("ldns-signzone wrote it")
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> String {
        let said = run(Command::new(program).args(arguments).current_dir(self.folder));
        assert!(said.ok, "{program} {arguments:?}: {}{}", said.out, said.err);
        said.out
    }
}

fn file(name: &str) -> String {
    if name.is_empty() { "root.zone".to_owned() } else { format!("{name}.zone") }
}

fn nsd(folder: &Path, ip: IpAddr, port: u16, zones: &[&String]) -> Process {
    let path = |name: &str| folder.join(format!("{name}-{ip}")).display().to_string();
    let mut text = format!(
        "server:\n ip-address: {ip}@{port}\n username: \"\"\n chroot: \"\"\n database: \"\"\n \
         pidfile: \"{}\"\n zonelistfile: \"{}\"\n xfrdfile: \"{}\"\n xfrdir: \"{}\"\n \
         zonesdir: \"{}\"\n server-count: 1\n hide-version: yes\n verbosity: 1\n \
         rrl-ratelimit: 0\n\
         remote-control:\n control-enable: no\n",
        path("pid"),
        path("zonelist"),
        path("xfrd"),
        folder.display(),
        folder.display(),
    );
    for zone in zones {
        let name = if zone.is_empty() { "." } else { zone };
        let _ = write!(text, "zone:\n name: \"{name}\"\n zonefile: \"{}.served\"\n", file(zone));
    }
    let config = folder.join(format!("nsd-{ip}.conf"));
    std::fs::write(&config, text).expect("a file");
    let config = config.to_str().expect("temporary paths are text");
    let server = Process::start(Command::new("/usr/sbin/nsd").args(["-d", "-c", config]));
    server.await_words("nsd started");
    server
}
