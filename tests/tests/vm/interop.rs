//! TLS over SCTP with OpenSSL, which knows no SCTP: socat carries its stream.

use std::io::{Read, Write};
use std::process::Command;

use tlspool_client::{Plaintext, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::plaintext;
use tlspool_tests::net::free_port;
use tlspool_tests::sctp::{Kind, Listener, dial, free_port as free_sctp_port};
use tlspool_tests::{House, Process};

#[test]
#[ignore = "in the VM"]
fn openssl_serves_behind_socat() {
    let house = House::new();
    let leaf = house.authority().leaf("example.com");
    let daemon = house.start();
    let (tcp, sctp) = (free_port(), free_sctp_port());
    let mut openssl = Command::new("openssl");
    openssl.args(["s_server", "-accept", &format!("127.0.0.1:{tcp}"), "-quiet"]);
    openssl.args(["-cert", leaf.certificate(), "-key", leaf.key()]);
    let mut openssl = Process::start(&mut openssl);
    let mut socat = Command::new("socat");
    socat.args(["-d", "-d", &format!("SCTP-LISTEN:{sctp},bind=127.0.0.1")]);
    let socat = Process::start(socat.arg(format!("TCP:127.0.0.1:{tcp},retry=20,interval=0.1")));
    socat.await_words("listening");
    let association = dial(([127, 0, 0, 1], sctp).into(), Kind::Plain, 5);
    let request = StarttlsRequest::client("example.com").unwrap().sctp(0);
    let mut session = house
        .pool()
        .starttls(request, association, Plaintext::pair())
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", openssl.said(), daemon.log()));
    let mut plaintext = plaintext(&mut session);
    plaintext.write_all(b"to openssl\n").unwrap();
    openssl.await_words("to openssl");
    openssl.tell("from openssl\n");
    let mut line = [0; 13];
    plaintext.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"from openssl\n");
    drop((plaintext, session));
    let log = daemon.stop();
    assert!(log.contains("TLSv1.3"), "{log}");
}

#[test]
#[ignore = "in the VM"]
fn openssl_calls_through_socat() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    let listener = Listener::open(Kind::Plain, 5);
    let tcp = free_port();
    let mut socat = Command::new("socat");
    socat.args(["-d", "-d", &format!("TCP-LISTEN:{tcp},bind=127.0.0.1")]);
    let socat = Process::start(socat.arg(format!("SCTP:{}", listener.address)));
    socat.await_words("listening");
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-tls1_2", "-connect", &format!("127.0.0.1:{tcp}"), "-quiet"]);
    openssl.args(["-servername", "example.com", "-CAfile", house.anchor()]);
    openssl.args(["-verify_return_error", "-verify_hostname", "example.com"]);
    let mut openssl = Process::start(&mut openssl);
    let request = StarttlsRequest::server().sctp(0).flags(Flags::IGNORE_REMOTEID);
    let mut session = house
        .pool()
        .starttls(request, listener.accept(), Plaintext::pair())
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", openssl.said(), daemon.log()));
    let mut plaintext = plaintext(&mut session);
    openssl.tell("from openssl\n");
    let mut line = [0; 13];
    plaintext.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"from openssl\n");
    plaintext.write_all(b"to openssl\n").unwrap();
    openssl.await_words("to openssl");
    drop((plaintext, session));
    let log = daemon.stop();
    assert!(log.contains("TLSv1.2"), "{log}");
}
