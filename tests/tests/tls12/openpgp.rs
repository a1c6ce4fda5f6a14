//! OpenPGP certificates on both sides, through two pools whose keys are on two tokens.

use std::io::{Read, Write};

use tlspool_client::{PoolError, StarttlsRequest};
use tlspool_tests::House;
use tlspool_tests::app::{Server, call};

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

#[test]
fn both_sides_by_openpgp_in_either_framing() {
    for framing in ["deployed", "rfc6091"] {
        let more = format!("[openpgp]\nframing = \"{framing}\"");
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
