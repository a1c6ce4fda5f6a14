//! OpenPGP certificates on both sides, through two pools whose keys are on two tokens.

use std::io::{Read, Write};

use tlspool_client::{PoolError, StarttlsFlags, StarttlsRequest};
use tlspool_tests::app::{Server, call};
use tlspool_tests::zones::{Signing, ZoneSet, dns};
use tlspool_tests::{Entries, House, Slapd, run};

/// Makes an OpenPGP identity with its keys on a token of `house`, known to `other`.
fn identity(house: &House, name: &str, other: &House) {
    let token = house.token("pgp");
    house.good(&["identity", "create", name, "--openpgp", "--token", &token]);
    let file = other.text(&format!("{name}.pgp"));
    std::fs::write(&file, house.good(&["identity", "export", name, "--armor"])).unwrap();
    other.good(&["trust", "add", "--openpgp", &file]);
}

fn to(name: &str) -> StarttlsRequest {
    StarttlsRequest::client(name).unwrap()
}

/// In both framings, and with both descriptors: of who shows but a fingerprint, the trust table has the rest.
#[test]
fn both_sides_by_openpgp_in_either_framing() {
    for (framing, descriptor) in [
        ("deployed", "certificate"),
        ("rfc6091", "certificate"),
        ("deployed", "fingerprint"),
        ("rfc6091", "fingerprint"),
    ] {
        let more = format!("[openpgp]\nframing = \"{framing}\"\ndescriptor = \"{descriptor}\"");
        let (servers, clients) = (House::with(&more), House::with(&more));
        identity(&servers, "example.com", &clients);
        identity(&clients, "john@example.org", &servers);
        let (serving, calling) = (servers.start(), clients.start());
        let server = Server::greeter(servers.pool(), StarttlsRequest::server());
        let request = to("example.com").localid("john@example.org").unwrap();
        let (session, mut plaintext) = call(&clients.pool(), request, server.at())
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", serving.log(), calling.log()));
        assert_eq!(session.localid(), "john@example.org");
        assert_eq!(session.remoteid(), "example.com");
        plaintext.write_all(b"hello\n").unwrap();
        let mut said = String::new();
        plaintext.read_to_string(&mut said).unwrap();
        assert_eq!(said, "you are john@example.org: hello\n");
        drop(plaintext);
        assert_eq!(server.outcome().unwrap().remoteid, "john@example.org");
        let log = calling.stop();
        assert!(log.contains("protocol=\"TLSv1.2\"") || log.contains("TLSv1.2"), "{log}");
        serving.stop();
    }
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let (servers, clients) = (House::new(), House::new());
    let token = servers.token("pgp");
    servers.good(&["identity", "create", "example.com", "--openpgp", "--token", &token]);
    identity(&clients, "john@example.org", &servers);
    let (serving, calling) = (servers.start(), clients.start());
    let server = Server::greeter(servers.pool(), StarttlsRequest::server());
    let request = to("example.com").localid("john@example.org").unwrap();
    let error = call(&clients.pool(), request, server.at()).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
    assert!(server.outcome().is_err());
    calling.stop();
    serving.stop();
}

#[test]
fn who_has_openpgp_still_serves_x509() {
    let servers = House::new();
    servers.identity("example.com");
    let token = servers.token("pgp");
    servers.good(&["identity", "create", "example.com", "--openpgp", "--token", &token]);
    let clients = House::new();
    clients.good(&["trust", "add", servers.anchor()]);
    let (serving, calling) = (servers.start(), clients.start());
    let request = StarttlsRequest::server().flags(tlspool_client::StarttlsFlags::REQUEST_REMOTEID);
    let server = Server::greeter(servers.pool(), request);
    let (session, plaintext) =
        call(&clients.pool(), to("example.com"), server.at()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(session.remoteid(), "example.com");
    drop(plaintext);
    drop(session);
    drop(server);
    assert!(calling.stop().contains("TLSv1.3"));
    serving.stop();
}

/// The server shows a fingerprint; the client has the rest from the directory of the server's domain, which also
/// vouches for it.
#[test]
fn a_fingerprint_is_looked_up_in_the_directory() {
    for framing in ["deployed", "rfc6091"] {
        let more = format!("[openpgp]\nframing = \"{framing}\"\ndescriptor = \"fingerprint\"");
        let servers = House::with(&more);
        let token = servers.token("pgp");
        servers.good(&["identity", "create", "example.com", "--openpgp", "--token", &token]);
        let armored = servers.good(&["identity", "export", "example.com", "--armor"]);
        let file = servers.write("example.com.pgp", &armored);
        let inspected = run(std::process::Command::new("sq").arg("inspect").arg(&file)).out;
        let fingerprint = inspected.split_once("Fingerprint: ").unwrap().1.lines().next().unwrap();
        let id = &fingerprint.trim()[24..];
        let leaf = servers.authority().leaf("ldap.example.com");
        let mut entries = Entries::new("example.com", &[], &[]);
        entries.key_space("Keys").key("Keys", id, &["<example.com>"], armored.as_bytes());
        let directory = Slapd::start(&leaf, &[&entries]);
        let pem = pem::parse(std::fs::read(leaf.certificate()).unwrap()).unwrap();
        let hex = pem.contents().iter().fold(String::new(), |text, b| format!("{text}{b:02x}"));
        let zones = ZoneSet::new()
            .zone(
                "example.com",
                Signing::Nsec,
                &[
                    "ldap A 127.0.0.1",
                    &format!("_{}._tcp.ldap TLSA 3 0 0 {hex}", directory.port),
                    &format!("_ldap._tcp SRV 0 0 {} ldap", directory.port),
                    &format!("_pgpkey-ldap._tcp SRV 0 0 {} ldap", directory.port),
                ],
            )
            .serve();
        let clients = House::with(&format!("{more}\nremotes = [\"example.com\"]\n{}", dns(&zones)));
        let (serving, calling) = (servers.start(), clients.start());
        let ignoring = || StarttlsRequest::server().flags(StarttlsFlags::IGNORE_REMOTEID);
        let server = Server::greeter(servers.pool(), ignoring());
        let (session, mut plaintext) = call(&clients.pool(), to("example.com"), server.at())
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", calling.log(), directory.log()));
        assert_eq!(session.remoteid(), "example.com");
        plaintext.write_all(b"hello\n").unwrap();
        let mut said = String::new();
        plaintext.read_to_string(&mut said).unwrap();
        assert_eq!(said, "you are : hello\n");
        drop(plaintext);
        server.outcome().unwrap();
        // Who has nothing but the fingerprint does not believe it.
        let strangers = House::with("[openpgp]\nremotes = [\"example.com\"]");
        let strange = strangers.start();
        let server = Server::greeter(servers.pool(), ignoring());
        let refused = call(&strangers.pool(), to("example.com"), server.at()).unwrap_err();
        assert_eq!(refused.pool_error(), Some(PoolError::RemoteidRefused), "{refused}");
        assert!(refused.to_string().contains("fingerprint"), "{refused}");
        assert!(server.outcome().is_err());
        for daemon in [serving, calling, strange] {
            daemon.stop();
        }
    }
}
