//! The anonymous precursor: between two pools, and with OpenSSL, which can do neither more nor less than
//! stay anonymous.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;

use tlspool_client::StarttlsRequest;
use tlspool_tests::app::{Server, call};
use tlspool_tests::binaries::workspace;
use tlspool_tests::net::{dial, listen};
use tlspool_tests::{House, Process, run};

/// Joins two streams, and returns all that went either way.
pub(crate) fn tap(near: TcpStream, far: TcpStream) -> Vec<u8> {
    let copy = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                seen.extend_from_slice(&buffer[..n]);
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
            // The other end may be gone already.
            let _ = to.shutdown(std::net::Shutdown::Write);
            seen
        })
    };
    let up = copy(near.try_clone().unwrap(), far.try_clone().unwrap());
    let down = copy(far, near);
    let mut seen = up.join().unwrap();
    seen.extend(down.join().unwrap());
    seen
}

pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// What an observer sees of a connection with this mode on the client's side.
fn observed(mode: &str) -> (Vec<u8>, Vec<u8>, String) {
    let servers = House::with("[privacy]\nmode = \"attempt\"");
    let leaf = servers.identity("example.com");
    // TLS 1.3 hides certificates by itself: without the precursor it must not be spoken here.
    let clients = House::with(&format!("[privacy]\nmode = \"{mode}\""));
    clients.identity("john@example.org");
    clients.good(&["trust", "add", servers.anchor()]);
    servers.good(&["trust", "add", clients.anchor()]);
    let (serving, calling) = (servers.start(), clients.start());
    let request = StarttlsRequest::server().service("smtp").unwrap();
    let server = Server::greeter(servers.pool(), request);
    let (listener, address) = listen();
    let target = server.at();
    let wire = thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        tap(near, dial(target).unwrap())
    });
    let request = StarttlsRequest::client("example.com").unwrap();
    let request = request.localid("john@example.org").unwrap().service("smtp").unwrap();
    let (session, mut plaintext) = call(&clients.pool(), request, address)
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", serving.log(), calling.log()));
    assert_eq!(session.remoteid(), "example.com");
    plaintext.write_all(b"hello\n").unwrap();
    let mut said = String::new();
    plaintext.read_to_string(&mut said).unwrap();
    assert_eq!(said, "you are john@example.org: hello\n");
    drop(plaintext);
    assert_eq!(server.outcome().unwrap().remoteid, "john@example.org");
    let seen = wire.join().unwrap();
    serving.stop();
    let log = calling.stop();
    let pem = std::fs::read(leaf.certificate()).unwrap();
    (seen, der(&pem), log)
}

/// The first certificate of a PEM file.
pub(crate) fn der(pem: &[u8]) -> Vec<u8> {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem).unwrap().to_vec()
}

#[test]
fn an_observer_sees_neither_certificates_nor_names() {
    let (seen, certificate, log) = observed("require");
    assert!(!contains(&seen, &certificate), "the certificate was visible");
    assert!(!contains(&seen, b"example.com"), "the name was visible");
    assert!(log.contains("TLSv1.2"), "{log}");
}

#[test]
fn without_it_tls13_hides_the_certificate_but_not_the_name() {
    let (seen, certificate, log) = observed("off");
    assert!(!contains(&seen, &certificate));
    assert!(contains(&seen, b"example.com"), "SNI is visible");
    assert!(log.contains("TLSv1.3"), "{log}");
}

/// TLS 1.2 without the precursor shows both: the same capture, with a client that speaks no more.
#[test]
fn without_it_tls12_shows_the_certificate_and_the_name() {
    let servers = House::with("[privacy]\nmode = \"attempt\"");
    let leaf = servers.identity("example.com");
    let serving = servers.start();
    let request = StarttlsRequest::server().service("smtp").unwrap();
    let request = request.flags(tlspool_client::StarttlsFlags::IGNORE_REMOTEID);
    let server = Server::greeter(servers.pool(), request);
    let (listener, address) = listen();
    let target = server.at();
    let wire = thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        tap(near, dial(target).unwrap())
    });
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), "-tls1_2", "-quiet"]);
    command.args(["-servername", "example.com", "-CAfile", servers.anchor()]);
    let mut client = Process::start(&mut command);
    client.tell("hello\n");
    client.await_words("you are : hello");
    drop(client);
    server.outcome().unwrap();
    let seen = wire.join().unwrap();
    let certificate = der(&std::fs::read(leaf.certificate()).unwrap());
    assert!(contains(&seen, &certificate), "the certificate was hidden");
    assert!(contains(&seen, b"example.com"), "the name was hidden");
    let log = serving.stop();
    assert!(log.contains("TLSv1.2"), "{log}");
}

/// Somebody finishes an anonymous handshake with each side and passes on what they say inside. The server sees that
/// what the client renegotiates is not the handshake that it had itself (RFC 5746).
#[test]
fn a_man_in_the_middle_of_the_anonymous_phase_is_caught() {
    let servers = House::with("[privacy]\nmode = \"require\"");
    servers.identity("example.com");
    let clients = House::with("[privacy]\nmode = \"require\"");
    clients.identity("john@example.org");
    clients.good(&["trust", "add", servers.anchor()]);
    servers.good(&["trust", "add", clients.anchor()]);
    let (serving, calling) = (servers.start(), clients.start());
    let request = StarttlsRequest::server().service("smtp").unwrap();
    let server = Server::greeter(servers.pool(), request);
    let middle = servers.path("middle");
    let said = run(Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&middle)
        .arg(workspace().join("tests/tests/tls12/programs/middle.c"))
        .arg("-lgnutls"));
    assert!(said.ok, "{}", said.err);
    let middle = Process::start(Command::new(middle).arg(server.address.port().to_string()));
    let ready = middle.await_that("its port", |said| said.ends_with('\n'));
    let port: u16 = ready.trim().trim_start_matches("ready ").parse().unwrap();
    let request = StarttlsRequest::client("example.com").unwrap();
    let request = request.localid("john@example.org").unwrap().service("smtp").unwrap();
    let refused = call(&clients.pool(), request, ("127.0.0.1", port)).unwrap_err().to_string();
    assert!(refused.contains("handshake_failure"), "{refused}");
    let error = server.outcome().unwrap_err().to_string();
    assert!(error.contains("renegotiation_info"), "{error}");
    // He was there, and passed on the hello and the alert that it met with: handshake_failure.
    let said = middle.await_words("over");
    assert!(said.contains("in the middle\nup: type 22, first byte 1,"), "{said}");
    assert!(said.contains("down: type 21, first byte 2, second byte 40"), "{said}");
    let log = serving.stop();
    assert!(log.contains("renegotiation_info"), "{log}");
    calling.stop();
}

/// `openssl s_client` offers anonymous suites only, speaks while it is anonymous, and is thrown out.
#[test]
fn data_in_the_anonymous_phase_is_fatal() {
    let house = House::with("[privacy]\nmode = \"attempt\"");
    house.identity("example.com");
    let daemon = house.start();
    let request = StarttlsRequest::server().service("smtp").unwrap();
    let server = Server::greeter(house.pool(), request);
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &server.at(), "-tls1_2"]);
    command.args(["-cipher", "ADH-AES256-GCM-SHA384:@SECLEVEL=0", "-quiet"]);
    let mut client = Process::start(&mut command);
    client.tell("vital information\n");
    let error = server.outcome().unwrap_err().to_string();
    assert!(error.contains("anonymous phase"), "{error}");
    let log = daemon.stop();
    assert!(log.contains("anonymous phase"), "{log}");
}
