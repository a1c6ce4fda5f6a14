//! The sentence of the mission: a client pool as `john@example.org` and a server pool for `example.com`, in two
//! network namespaces, keys on tokens. Each is proved by what the other's own domain publishes; first through
//! DNSSEC with cold caches, then from memcached, then past it; then the domain takes its word back.
//!
//! The namespace of the server has the DNS of everybody, the directory of `example.com`, and the server's pool
//! with its memcached; that of the client has the directory of `example.org` and the client's pool with its.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use tlspool_client::{Error, PoolError, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::{Greeted, accept, call, greet, plaintext};
use tlspool_tests::netns::{Namespace, pair, with_namespaces};
use tlspool_tests::slapd::Setup;
use tlspool_tests::zones::{Signing, ZoneSet, Zones};
use tlspool_tests::{Daemon, Entries, House, Leaf, Memcached, Slapd, run};

use crate::{cache, dns, tlsa};

const SERVER: &str = "example.com";
const CLIENT: &str = "john@example.org";
const BASES: [&str; 2] = ["dc=example,dc=com", "dc=example,dc=org"];
const NONE: Flags = Flags(0);

/// One side: a machine with a pool.
struct Side {
    space: Namespace,
    house: House,
    daemon: Option<Daemon>,
    memcached: Memcached,
    directory: Option<Slapd>,
}

/// Both, and what is between them.
struct World {
    server: Side,
    client: Side,
    /// Where the server's program listens: always the same port, as what is remembered is about a port.
    listener: TcpListener,
    _zones: Zones,
}

/// Who refuses the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refuser {
    Server,
    Client,
}

/// What came of a meeting: what the server's program met, and what the client's was told.
type Met = (Result<Greeted, Error>, Result<String, Error>);

/// What is asked of the outside, by all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    /// Searches in the directories of the server's domain and of the client's.
    searches: [usize; 2],
    /// Datagrams at the machine with the DNS.
    datagrams: u64,
}

impl Side {
    fn new(space: Namespace) -> Self {
        let memcached = space.enter(Memcached::tcp);
        Self { space, house: House::new(), daemon: None, memcached, directory: None }
    }

    /// Opens the domain's directory, and returns the records that lead to it.
    fn publish(&mut self, domain: &str, entries: &Entries) -> Vec<String> {
        let leaf = self.house.authority().leaf(&format!("ldap.{domain}"));
        let setup = Setup { address: self.space.address.to_string(), ..Setup::default() };
        let slapd = self.space.enter(|| Slapd::with(setup, &leaf, &[entries]));
        let records = vec![
            format!("ldap A {}", self.space.address),
            format!("_ldap._tcp SRV 0 0 {} ldap", slapd.port),
            format!("_{}._tcp.ldap TLSA {}", slapd.port, tlsa(&leaf)),
        ];
        self.directory = Some(slapd);
        records
    }

    fn start(&mut self, zones: &Zones) {
        let cache = cache(&self.house, &self.memcached, "0123456789abcdef0123456789abcdef");
        self.house.configure(&format!(
            "log = {{ level = \"debug\" }}\n{}[tls]\ntickets = 0\nclient_cache = 0\n{cache}",
            dns(zones)
        ));
        self.daemon = Some(self.space.enter(|| self.house.start()));
    }

    /// Replaces what the domain's directory has of one entry.
    fn replace(&self, base: &str, name: &str, attribute: &str, value: &[u8]) {
        let directory = self.directory.as_ref().unwrap();
        self.space.enter(|| directory.replace(base, name, attribute, &[value]));
    }

    fn searches(&self) -> usize {
        let log = |slapd: &Slapd| self.space.enter(|| slapd.whole_log());
        self.directory.as_ref().map_or(0, |slapd| log(slapd).matches("SRCH base").count())
    }

    /// What the pool has said since `before` bytes of its log, once it has said `words` there.
    fn log_since(&self, before: usize, words: &str) -> String {
        let daemon = self.daemon.as_ref().unwrap();
        let log = daemon.await_log_that(words, |log| log[before..].contains(words));
        log[before..].to_owned()
    }

    fn log_length(&self) -> usize {
        self.daemon.as_ref().unwrap().log().len()
    }
}

impl World {
    /// With what each domain has in its directory, if it has one, and more records of the server's domain.
    fn new(
        [mut server, mut client]: [Side; 2],
        entries: [Option<&Entries>; 2],
        records: &[String],
    ) -> Self {
        let mut ours = records.to_vec();
        let mut theirs = Vec::new();
        if let Some(entries) = entries[0] {
            ours.extend(server.publish(SERVER, entries));
        }
        if let Some(entries) = entries[1] {
            theirs.extend(client.publish("example.org", entries));
        }
        let text = |records: &[String]| records.join("\n");
        let zones = ZoneSet::new()
            .zone("example.com", Signing::Nsec, &[&text(&ours)])
            .zone("example.org", Signing::Nsec3, &[&text(&theirs)])
            .at(server.space.address);
        let zones = server.space.enter(move || zones.serve());
        server.start(&zones);
        client.start(&zones);
        let address = server.space.address;
        let listener = server.space.enter(|| TcpListener::bind((address, 0)).unwrap());
        Self { server, client, listener, _zones: zones }
    }

    /// A meeting of two programs that know the names, and nothing else.
    fn meet(&self, flags: Flags) -> Met {
        let place = self.listener.local_addr().unwrap();
        let (ours, theirs) = (self.server.house.pool(), self.client.house.pool());
        std::thread::scope(|scope| {
            let serving = scope.spawn(|| {
                let request = StarttlsRequest::server().localid(SERVER).unwrap();
                let request = request.remoteid(CLIENT).unwrap().flags(flags);
                let tcp = accept(&self.listener);
                let both = tlspool_client::Plaintext::pair();
                let mut session = ours.starttls(request, tcp, both)?;
                let mut plaintext = plaintext(&mut session);
                Ok(greet(&session, &mut plaintext))
            });
            let request = StarttlsRequest::client(SERVER).unwrap().localid(CLIENT).unwrap();
            let called = self.client.space.enter(|| call(&theirs, request.flags(flags), place));
            let told = called.map(|(session, mut plaintext)| {
                assert_eq!((session.localid(), session.remoteid()), (CLIENT, SERVER));
                // If the server has changed its mind by then, both of these fail.
                let mut answer = String::new();
                let _ = plaintext.write_all(b"hello\n");
                let _ = plaintext.read_to_string(&mut answer);
                answer
            });
            (serving.join().unwrap(), told)
        })
    }

    /// A meeting at which both believe each other.
    fn succeed(&self, flags: Flags) {
        let (served, told) = self.meet(flags);
        let logs = || {
            let log = |side: &Side| side.daemon.as_ref().unwrap().log();
            format!("{}\n{}", log(&self.server), log(&self.client))
        };
        let told = told.unwrap_or_else(|error| panic!("{error}\n{}", logs()));
        let served = served.unwrap_or_else(|error| panic!("{error}\n{}", logs()));
        assert_eq!((served.localid.as_str(), served.remoteid.as_str()), (SERVER, CLIENT));
        assert_eq!(told, format!("you are {CLIENT}: hello\n"));
    }

    fn asked(&self) -> Asked {
        Asked {
            searches: [self.server.searches(), self.client.searches()],
            datagrams: self.server.space.datagrams(),
        }
    }

    /// Cold, from memcached, past it; `stored` is how many answers each side remembers, `sources` what vouches for
    /// the server and for the client.
    fn three_times(&self, stored: [usize; 2], [server, client]: [&str; 2]) {
        let proofs = |origin: &'static str| {
            let lengths = [self.server.log_length(), self.client.log_length()];
            move |world: &Self| {
                let sides =
                    [(&world.client, lengths[1], server), (&world.server, lengths[0], client)];
                for (side, before, source) in sides {
                    let log = side.log_since(before, "handshake done");
                    let says = |line: &&str| line.contains("policy: *") && line.contains(source);
                    let line = log.lines().find(says).unwrap_or_else(|| panic!("{source}: {log}"));
                    assert!(line.contains("true") && line.contains(origin), "{origin}: {log}");
                }
            }
        };
        let begin = self.asked();
        let proved = proofs("[live");
        self.succeed(NONE);
        proved(self);
        self.server.memcached.await_stored(stored[0]);
        self.client.memcached.await_stored(stored[1]);
        let cold = self.asked();
        assert!(cold.datagrams > begin.datagrams, "{begin:?} {cold:?}");

        let proved = proofs("[memcached");
        self.succeed(NONE);
        proved(self);
        // Nobody was asked but memcached.
        assert_eq!(self.asked(), cold);

        let proved = proofs("[live");
        self.succeed(Flags::IGNORE_CACHES);
        proved(self);
        let live = self.asked();
        assert!(live.datagrams > cold.datagrams, "{cold:?} {live:?}");
        for ((begin, cold), live) in begin.searches.iter().zip(cold.searches).zip(live.searches) {
            assert_eq!(live > cold, cold > *begin, "each directory that was asked is asked again");
        }
    }

    /// A meeting that one side refuses, and why.
    fn refuse(&self, flags: Flags, refuser: Refuser, why: &[&str]) {
        let side = match refuser {
            Refuser::Server => &self.server,
            Refuser::Client => &self.client,
        };
        let before = side.log_length();
        let (served, told) = self.meet(flags);
        let error = if refuser == Refuser::Server {
            // With TLS 1.3 the client is done before it is judged; but nothing comes of it.
            assert_eq!(told.unwrap_or_default(), "");
            served.expect_err("the server should refuse")
        } else {
            served.expect_err("there is no client");
            told.expect_err("the client should refuse")
        };
        assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
        let log = side.log_since(before, "handshake failed");
        for words in why {
            assert!(log.contains(words), "{words:?} is not in: {log}");
        }
        // What a program is told has 127 bytes at most.
        for words in &why[..why.len().min(2)] {
            assert!(error.to_string().contains(words), "{words:?} is not in: {error}");
        }
    }

    fn end(self) -> [String; 2] {
        [self.server, self.client].map(|side| side.daemon.unwrap().stop())
    }
}

/// An OpenPGP identity on a token, published in its domain's directory; returns the name of its entry.
fn openpgp(house: &House, name: &str, domain: &str) -> (Entries, String) {
    let token = house.token("mission");
    house.good(&["identity", "create", name, "--openpgp", "--token", &token]);
    let shown = house.good(&["identity", "show", name, "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let fingerprint = shown.pointer("/openpgp/fingerprint").unwrap().as_str().unwrap();
    let id = &fingerprint[fingerprint.len() - 16..];
    let armored = house.good(&["identity", "export", name, "--armor"]);
    let mut entries = Entries::new(domain, &[], &[]);
    entries.key_space("Keys");
    entries.key("Keys", id, &[&format!("<{name}>")], armored.as_bytes());
    let entry = format!("pgpCertID={id},ou=Keys,{}", entries.base());
    (entries, entry)
}

/// The certificate of an identity with a revocation that the identity itself knows nothing of.
fn revoked(house: &House, name: &str) -> Vec<u8> {
    let certificate = house.good(&["identity", "export", name, "--armor"]);
    let reason = ["--prepare", "--reason", "compromised", "--text", "the token was stolen"];
    let revocation = house.good(&[&["identity", "revoke", name], &reason[..]].concat());
    let home = tempfile::tempdir().unwrap();
    let gpg = |arguments: &[&str]| {
        let said = run(Command::new("gpg")
            .args(["--homedir", home.path().to_str().unwrap(), "--batch", "--no-tty"])
            .args(["--no-autostart", "--trust-model", "always"])
            .args(arguments));
        assert!(said.ok, "gpg {arguments:?}: {}", said.err);
        said.out
    };
    // Makes the trust database, which revocations are written to.
    gpg(&["--trust-model", "pgp", "--check-trustdb"]);
    for (file, text) in [("certificate", certificate), ("revocation", revocation)] {
        let file = house.write(&format!("{name}.{file}"), &text);
        gpg(&["--import", file.to_str().unwrap()]);
    }
    gpg(&["--armor", "--export"]).into_bytes()
}

#[test]
fn john_and_example_com_by_openpgp_in_their_directories() {
    with_namespaces("mission::john_and_example_com_by_openpgp_in_their_directories", || {
        let [server, client] = pair().map(Side::new);
        let (ours, our_entry) = openpgp(&server.house, SERVER, "example.com");
        let (theirs, john) = openpgp(&client.house, CLIENT, "example.org");
        let world = World::new([server, client], [Some(&ours), Some(&theirs)], &[]);
        world.three_times([1, 1], ["ldap", "ldap"]);
        assert!(world.asked().searches.iter().all(|searches| *searches > 0));

        // John's key is stolen, and his domain says so.
        let why = ["by the directory's copy", "was revoked", "the token was stolen"];
        let copy = revoked(&world.client.house, CLIENT);
        world.client.replace(BASES[1], &john, "pgpKey", &copy);
        // What is remembered counts until its time is over.
        world.succeed(NONE);
        world.refuse(Flags::IGNORE_CACHES, Refuser::Server, &why);
        // And what was found out when nobody would believe a cache is in it now.
        let stored = 3;
        world.server.memcached.await_stored(stored);
        world.refuse(NONE, Refuser::Server, &why);

        // The server's too: then the client does not even show who it is.
        let copy = revoked(&world.server.house, SERVER);
        world.server.replace(BASES[0], &our_entry, "pgpKey", &copy);
        world.refuse(Flags::IGNORE_CACHES, Refuser::Client, &why);
        for log in world.end() {
            assert!(log.contains("TLSv1.2") && !log.contains("TLSv1.3"), "{log}");
        }
    });
}

/// An X.509 identity on a token whose certificate nobody signed but itself.
fn x509(house: &House, name: &str) -> Leaf {
    let token = house.token("mission");
    house.good(&["identity", "create", name, "--self-signed", "--token", &token]);
    certificate(house, name)
}

/// The certificate of an identity, as a file. Its key stays where it is.
fn certificate(house: &House, name: &str) -> Leaf {
    let shown = house.good(&["identity", "show", name, "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let pem = shown["certificate"].as_str().unwrap();
    Leaf { certificate: house.write(&format!("{name}.pem"), pem), key: house.path("none") }
}

fn der(leaf: &Leaf) -> Vec<u8> {
    pem::parse(std::fs::read(&leaf.certificate).unwrap()).unwrap().into_contents()
}

#[test]
fn example_com_by_dane_alone_and_john_by_his_directory_alone() {
    with_namespaces("mission::example_com_by_dane_alone_and_john_by_his_directory_alone", || {
        let [server, client] = pair().map(Side::new);
        let ours = x509(&server.house, SERVER);
        let john = x509(&client.house, CLIENT);
        let mut theirs = Entries::new("example.org", &[], &[]);
        theirs.user("john", CLIENT, &[&der(&john)]);
        let record = format!("*._tcp TLSA {}", tlsa(&ours));
        // The client remembers TLSA records, and that there is no directory.
        let world = World::new([server, client], [None, Some(&theirs)], &[record]);
        world.three_times([1, 2], ["dane", "ldap"]);

        // John has left, and somebody else has his name.
        let other = der(&world.client.house.authority().leaf(CLIENT));
        let entry = format!("uid=john,ou=People,{}", BASES[1]);
        world.client.replace(BASES[1], &entry, "userCertificate;binary", &other);
        world.succeed(NONE);
        let why = ["ldap is false", "the directory lists 1 other certificates"];
        world.refuse(Flags::IGNORE_CACHES, Refuser::Server, &why);

        // The server has another certificate for the same name, which the DNS knows nothing of.
        let leaf = world.server.house.authority().leaf(SERVER);
        world.server.house.good(&["identity", "remove", SERVER, "--all"]);
        world.server.house.add(SERVER, &leaf);
        world.refuse(NONE, Refuser::Client, &["dane is false"]);
        for log in world.end() {
            assert!(log.contains("TLSv1.3"), "{log}");
        }
    });
}
