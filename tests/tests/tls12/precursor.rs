//! The anonymous precursor: between two pools, and with OpenSSL, which can do neither more nor less than
//! stay anonymous.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;

use tlspool_client::StarttlsRequest;
use tlspool_tests::app::{Server, call};
use tlspool_tests::net::{dial, listen};
use tlspool_tests::{House, Process};

/// Joins two streams, and returns all that went either way.
fn tap(near: TcpStream, far: TcpStream) -> Vec<u8> {
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

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
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
fn der(pem: &[u8]) -> Vec<u8> {
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
