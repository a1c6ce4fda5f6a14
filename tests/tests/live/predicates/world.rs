//! Peers, and what is published about them.

use std::path::Path;
use std::process::Command;

use rcgen::{CertificateParams, CrlDistributionPoint, CustomExtension, SerialNumber};
use tlspool_client::{StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::{Outcome, Server, call};
use tlspool_tests::authority::{Leaf, algorithm};
use tlspool_tests::net::free_port;
use tlspool_tests::zones::{Signing, ZoneSet, Zones};
use tlspool_tests::{Authority, Daemon, Entries, House, Process, Slapd, web};

use super::policies;
use crate::{dns, tlsa};

/// How the pool that judges meets a peer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meet {
    /// As a client of `openssl s_server` at this port.
    Openssl(u16),
    /// As a client of the other pool.
    Pool,
    /// As a server, to which the other pool comes.
    Caller,
}

/// The name of the pool that judges.
const JUDGE: &str = "judge.example.net";

/// Everybody.
pub(super) struct World {
    judge: House,
    other: House,
    daemons: [Daemon; 2],
    /// With a certificate of the authority that the judge trusts, for `*.example.com`.
    pub(super) trusted: u16,
    /// The same from an authority that nobody trusts.
    pub(super) stranger: u16,
    /// The same as the first, but no longer good.
    pub(super) expired: u16,
    /// The first without TLS 1.3.
    pub(super) old: u16,
    /// With a certificate that names a list and a responder, which say that it is good.
    pub(super) good: u16,
    /// The same, but they say that it was revoked.
    pub(super) revoked: u16,
    /// The same, but nobody is where it says.
    pub(super) forsaken: u16,
    /// For the domains that have a directory.
    pub(super) domains: u16,
    _servers: Vec<Process>,
    _zones: Zones,
    _directory: Slapd,
}

/// `openssl s_server`, which answers lines.
pub(super) fn serve(leaf: &Leaf, more: &[&str]) -> (Process, u16) {
    let port = free_port();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-rev"]);
    command.args(["-cert", leaf.certificate(), "-key", leaf.key()]).args(more);
    let server = Process::start(&mut command);
    server.await_words("ACCEPT");
    (server, port)
}

pub(super) fn der(leaf: &Leaf) -> Vec<u8> {
    pem::parse(std::fs::read(&leaf.certificate).unwrap()).unwrap().into_contents()
}

/// A certificate for these names.
pub(super) fn leaf(
    authority: &Authority,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> Leaf {
    authority.leaf_with("leaf", &algorithm::P256, |params| {
        let sans =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        params.subject_alt_names = sans.unwrap().subject_alt_names;
        change(params);
    })
}

/// A certificate for `www.example.com` that names a list and a responder at `place`.
fn revocable(authority: &Authority, place: &str, number: u64) -> Leaf {
    leaf(authority, &["www.example.com"], |params| {
        params.serial_number = Some(SerialNumber::from(number));
        let uris = vec![format!("http://{place}/list")];
        params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
        // AuthorityInfoAccessSyntax (RFC 5280 section 4.2.2.1) with one id-ad-ocsp.
        let url = format!("http://{place}/ocsp");
        let element = |tag: u8, content: &[u8]| [&[tag, content.len() as u8], content].concat();
        let method = element(6, &[0x2b, 6, 1, 5, 5, 7, 0x30, 1]);
        let access = element(0x30, &[method, element(0x86, url.as_bytes())].concat());
        let content = element(0x30, &access);
        let id = [1, 3, 6, 1, 5, 5, 7, 1, 1];
        params.custom_extensions.push(CustomExtension::from_oid_content(&id, content));
    })
}

const REVOKED: u64 = 0x1001;
const GOOD: u64 = 0x1002;

/// Where lists and OCSP responses are had.
fn revocation(house: &House) -> String {
    let entry = |kind: char, date: &str, number: u64| {
        format!("{kind}\t400101000000Z\t{date}\t{number:X}\tunknown\t/CN=x\n")
    };
    let index = entry('V', "", GOOD) + &entry('R', "250101000000Z", REVOKED);
    let index = house.write("index", &index);
    house.write("index.attr", "unique_subject = no\n");
    let (authority, folder) = (house.shared_authority(), house.path("."));
    let list = authority.revocation_list(&[REVOKED]);
    let address = web::serve(move |request| match request.path.as_str() {
        "/list" => Some(list.clone()),
        "/ocsp" => Some(web::ocsp(&authority, &index, &folder, &request.body)),
        _ => None,
    });
    address.to_string()
}

/// An OpenPGP identity; its certificate in armor, and its fingerprint.
fn openpgp(house: &House, token: &str, name: &str) -> (String, String) {
    house.good(&["identity", "create", name, "--openpgp", "--one-key", "--token", token]);
    let shown = house.good(&["identity", "show", name, "--json"]);
    let mut rows = shown.lines().map(|line| serde_json::from_str(line).unwrap());
    let fingerprint = rows.find_map(|row: serde_json::Value| {
        Some(row.pointer("/openpgp/fingerprint")?.as_str()?.to_owned())
    });
    (house.good(&["identity", "export", name, "--armor"]), fingerprint.unwrap())
}

/// Has `house` trust an OpenPGP key.
pub(super) fn trust_openpgp(house: &House, armored: &str) {
    let file = house.write("trusted.asc", armored);
    house.good(&["trust", "add", "--openpgp", file.to_str().unwrap()]);
}

/// A pool that judges by the predicates' policies, and one that comes and serves as anybody; both know each other.
pub(super) fn pools() -> (House, House) {
    let (judge, other) = (House::new(), House::new());
    policies(&judge);
    let token = judge.token("judge");
    judge.identity(JUDGE);
    trust_openpgp(&other, &openpgp(&judge, &token, JUDGE).0);
    other.good(&["trust", "add", judge.anchor()]);
    (judge, other)
}

/// A meeting of the two; who is judged shows `name`.
pub(super) fn meet_pools(
    judge: &House,
    other: &House,
    meet: Meet,
    name: &str,
    service: &str,
) -> Outcome<()> {
    let client = |name: &str| StarttlsRequest::client(name).unwrap();
    let judging = client(name).service(service).unwrap();
    match meet {
        Meet::Openssl(port) => call(&judge.pool(), judging, ("127.0.0.1", port)).map(drop),
        Meet::Pool => {
            let request = StarttlsRequest::server().localid(name).unwrap();
            let request = request.flags(Flags::IGNORE_REMOTEID);
            let server = Server::start(other.pool(), request, |_, _| ());
            let called = call(&judge.pool(), judging, server.address).map(drop);
            // The server does not judge; what it says is what the judge has done.
            let _ = server.outcome();
            called
        }
        Meet::Caller => {
            let request = StarttlsRequest::server().localid(JUDGE).unwrap();
            let request = request.remoteid(name).unwrap().service(service).unwrap();
            let server = Server::start(judge.pool(), request, |_, _| ());
            let request = client(JUDGE).localid(name).unwrap();
            let called = call(&other.pool(), request, server.address).map(drop);
            let judged = server.outcome();
            if let (Ok(()), Err(error)) = (&judged, called) {
                panic!("the judge believed {name}, but: {error}");
            }
            judged
        }
    }
}

impl World {
    pub(super) fn new() -> Self {
        let (judge, other) = pools();
        let authority = judge.authority();
        let stranger = Authority::new(&judge.path("pki"), "stranger");
        let web = ["example.com", "*.example.com"];
        let trusted = leaf(authority, &web, |_| {});
        let strange = leaf(&stranger, &web, |_| {});
        let expired = leaf(authority, &web, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        let place = revocation(&judge);
        let nowhere = format!("127.0.0.1:{}", free_port());
        let kinds = ["listed", "contradicted", "empty", "careless", "none"];
        let domains: Vec<String> = kinds.iter().map(|kind| format!("{kind}.example")).collect();
        let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
        let common = leaf(authority, &domains, |_| {});
        let (servers, ports): (Vec<_>, Vec<_>) = [
            serve(&trusted, &[]),
            serve(&strange, &[]),
            serve(&expired, &[]),
            serve(&trusted, &["-tls1_2"]),
            serve(&revocable(authority, &place, GOOD), &[]),
            serve(&revocable(authority, &place, REVOKED), &[]),
            serve(&revocable(authority, &nowhere, GOOD + 1), &[]),
            serve(&common, &[]),
        ]
        .into_iter()
        .unzip();

        // X.509: clients, and what is listed of them.
        let other_der = der(&trusted);
        let mut users = Entries::new("listed.example", &[&der(&common)], &[]);
        for user in ["john", "mary", "nobody"] {
            let name = format!("{user}@listed.example");
            let shown = other.identity(&name);
            let listed = if user == "john" { der(&shown) } else { other_der.clone() };
            if user != "nobody" {
                users.user(user, &name, &[&listed]);
            }
        }
        for name in ["john@none.example", "john@careless.example", "none.example"] {
            other.identity(name);
        }
        let contradicted = Entries::new("contradicted.example", &[&other_der], &[]);
        let mut all = vec![users, contradicted];
        all.extend(["empty.example", "careless.example"].map(|name| Entries::new(name, &[], &[])));
        // As clients of whom the DNS knows.
        let clients: Vec<Leaf> =
            ["client.example.com", "other-client.example.com", "client.bogus.example"]
                .iter()
                .map(|name| other.identity(name))
                .collect();
        // For key exchanges that OpenSSL does not have.
        other.add("pool.example.com", &leaf(authority, &["pool.example.com"], |_| {}));

        // OpenPGP: users and domains.
        let token = other.token("people");
        let mut keys = Vec::new();
        for name in [
            "listed.pgp.example",
            "contradicted.pgp.example",
            "empty.pgp.example",
            "none.pgp.example",
            "careless.pgp.example",
            "john@listed.pgp.example",
            "mary@listed.pgp.example",
            "nobody@listed.pgp.example",
            "john@none.pgp.example",
            "john@careless.pgp.example",
        ] {
            let (armored, fingerprint) = openpgp(&other, &token, name);
            keys.push((name, armored, fingerprint));
        }
        let find = |name: &str| keys.iter().find(|key| key.0 == name).unwrap();
        let mut listed = Entries::new("listed.pgp.example", &[], &[]);
        let mut contradicted = Entries::new("contradicted.pgp.example", &[], &[]);
        let publish = |entries: &mut Entries, name: &str, key: &str| {
            let (_, armored, fingerprint) = find(key);
            let id = &find(name).2[24..];
            assert_eq!(fingerprint.len(), 40);
            entries.key("People", id, &[&format!("<{name}>")], armored.as_bytes());
        };
        publish(&mut listed, "listed.pgp.example", "listed.pgp.example");
        publish(&mut listed, "john@listed.pgp.example", "john@listed.pgp.example");
        publish(&mut listed, "mary@listed.pgp.example", "nobody@listed.pgp.example");
        publish(&mut contradicted, "contradicted.pgp.example", "none.pgp.example");
        all.extend([listed, contradicted]);
        all.extend(
            ["empty.pgp.example", "careless.pgp.example"].map(|name| Entries::new(name, &[], &[])),
        );
        for name in ["listed.pgp.example", "john@listed.pgp.example"] {
            trust_openpgp(&judge, &find(name).1);
        }

        let directory_leaf = authority.leaf("ldap.listed.example");
        let directory = Slapd::start(&directory_leaf, &all.iter().collect::<Vec<_>>());
        let zones = zones(&directory, &directory_leaf, &clients);

        let file = |leaf: &Leaf| leaf.certificate().to_owned();
        for name in ["pinned.example.com", "pinned.example.org"] {
            judge.good(&["pin", "add", name, "--certificate", &file(&trusted)]);
        }
        for (name, key) in [
            ("john@listed.pgp.example", "john@listed.pgp.example"),
            ("mary@listed.pgp.example", "john@listed.pgp.example"),
        ] {
            judge.good(&["pin", "add", name, "--fingerprint", &find(key).2]);
        }
        judge.configure(&format!(
            "log = {{ level = \"debug\" }}\n[openpgp]\nremotes = [\".pgp.example\"]\n{}\
             [http]\ninternal = true\n[tls]\ntickets = 0\nclient_cache = 0\n",
            dns(&zones)
        ));
        let daemons = [judge.start(), other.start()];
        let [trusted, stranger, expired, old, good, revoked, forsaken, domains] =
            ports.try_into().unwrap();
        Self {
            judge,
            other,
            daemons,
            trusted,
            stranger,
            expired,
            old,
            good,
            revoked,
            forsaken,
            domains,
            _servers: servers,
            _zones: zones,
            _directory: directory,
        }
    }

    pub(super) fn meet(&self, meet: Meet, name: &str, service: &str) -> Outcome<()> {
        meet_pools(&self.judge, &self.other, meet, name, service)
    }

    pub(super) fn judge_log(&self) -> String {
        self.daemons[0].log()
    }

    pub(super) fn end(self) {
        for daemon in self.daemons {
            daemon.stop();
        }
    }
}

/// What the domains have in the DNS.
fn zones(directory: &Slapd, leaf: &Leaf, clients: &[Leaf]) -> Zones {
    let port = directory.port;
    let careless = ["ldap A 127.0.0.1".to_owned(), format!("_ldap._tcp SRV 0 0 {port} ldap")];
    let careful = format!("_{port}._tcp.ldap TLSA {}", tlsa(leaf));
    let mut set = ZoneSet::new();
    for kind in ["listed", "contradicted", "empty", "careless", "none"] {
        for parent in ["example", "pgp.example"] {
            let mut records: Vec<&str> = Vec::new();
            if kind != "none" {
                records.extend(careless.iter().map(String::as_str));
            }
            if !matches!(kind, "none" | "careless") {
                records.push(&careful);
            }
            set = set.zone(&format!("{kind}.{parent}"), Signing::Nsec, &records);
        }
    }
    let records = [
        "www A 127.0.0.1".to_owned(),
        format!("_client.client TLSA {}", tlsa(&clients[0])),
        format!("_client.other-client TLSA {}", tlsa(&clients[0])),
    ];
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let bogus = format!("_client.client TLSA {}", tlsa(&clients[2]));
    set.zone("example.com", Signing::Nsec3, &records)
        .zone("bogus.example", Signing::Expired, &[&bogus])
        .serve()
}

/// A chain for `-cert_chain`.
pub(super) fn chain_file(authority: &Authority) -> &Path {
    &authority.certificate
}
