//! HUP: certificates in files are read again, and sessions do not notice.

use std::io::{Read, Write};
use std::path::Path;

use tlspool_client::{CtlKey, InfoKind, StarttlsRequest};
use tlspool_tests::app::{Server, call};
use tlspool_tests::{Authority, House, openssl};

use crate::openssl_client::{greeted, open};

fn serial_seen(house: &House) -> String {
    let (said, _) = greeted(house, open(), "example.com", &[]);
    let start = said.find("-----BEGIN CERTIFICATE").unwrap();
    let end = said.find("-----END CERTIFICATE-----").unwrap() + 26;
    let file = house.write("seen.pem", &said[start..end]);
    openssl(&["x509", "-noout", "-serial", "-in", file.to_str().unwrap()])
}

#[test]
fn certificates_are_read_again_without_touching_sessions() {
    let house = House::new();
    let (key, request) = (house.text("pki/web.key"), house.text("pki/web.csr"));
    let subject = ["-subj", "/CN=web", "-addext", "subjectAltName=DNS:example.com"];
    let make = ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    openssl(&[&make[..], &subject[..], &["-keyout", &key, "-out", &request]].concat());
    let certificate = house.authority().sign(Path::new(&request)).display().to_string();
    house.good(&[
        "identity",
        "add",
        "example.com",
        "--certificate",
        &format!("file:{certificate}"),
        "--key",
        &format!("file:{key}"),
    ]);
    let serial_of_file = || openssl(&["x509", "-noout", "-serial", "-in", &certificate]);
    let daemon = house.start();
    let before = serial_of_file();
    assert_eq!(serial_seen(&house), before);

    let server = Server::start(house.pool(), open(), |_, plaintext| {
        let mut byte = [0];
        while plaintext.read(&mut byte).unwrap() > 0 {
            plaintext.write_all(&byte).unwrap();
        }
    });
    let pool = house.pool();
    let key = CtlKey([7; 16]);
    let client = StarttlsRequest::client("example.com").unwrap().ctlkey(key);
    let (_session, mut plaintext) = call(&pool, client, server.address).unwrap();
    let mut say = |byte: u8| {
        let mut heard = [0];
        plaintext.write_all(&[byte]).unwrap();
        plaintext.read_exact(&mut heard).unwrap();
        assert_eq!(heard, [byte]);
    };
    say(1);
    house.authority().sign(Path::new(&request));
    let after = serial_of_file();
    assert_ne!(before, after);
    daemon.reload();
    assert_eq!(serial_seen(&house), after);
    say(2);
    assert!(pool.info(key, InfoKind::PeerCertSubject.number()).is_ok());
    // A configuration that is wrong changes nothing.
    let config = std::fs::read_to_string(house.path("tlspool.toml")).unwrap();
    house.write("tlspool.toml", "version = 1\nsesions = 5\n");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.await_log("sesions");
    say(3);
    assert_eq!(serial_seen(&house), after);
    house.write("tlspool.toml", &config);
    assert_eq!(house.status()["daemon"]["pid"], daemon.pid());
    drop(plaintext);
    server.outcome().unwrap();
}

#[test]
fn trust_anchors_are_read_again() {
    let house = House::new();
    let other = Authority::new(&house.path(""), "other");
    let server = other.leaf("example.com");
    std::fs::create_dir(house.path("anchors")).unwrap();
    let config = std::fs::read_to_string(house.path("tlspool.toml")).unwrap();
    let folder = format!("system = false\nanchors = [{:?}]", house.path("anchors"));
    house.write("tlspool.toml", &config.replace("system = false", &folder));
    house.add("example.com", &server);
    let daemon = house.start();
    let call = || {
        let server = Server::start(house.pool(), open(), |_, _| ());
        let client = StarttlsRequest::client("example.com").unwrap();
        let outcome = call(&house.pool(), client, server.address);
        let outcome = outcome.map(|(session, _)| session.remoteid().to_owned());
        assert_eq!(server.outcome().is_ok(), outcome.is_ok());
        outcome
    };
    let error = call().unwrap_err();
    assert!(error.to_string().contains("issue"), "{error}");
    std::fs::copy(&other.certificate, house.path("anchors/other.pem")).unwrap();
    daemon.reload();
    assert_eq!(call().unwrap(), "example.com");
    std::fs::remove_file(house.path("anchors/other.pem")).unwrap();
    daemon.reload();
    assert!(call().is_err());
}
