//! The pool as TLS client; the peers are servers of OpenSSL and GnuTLS.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::process::Command;

use tlspool_client::{PoolError, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::{call, read_all};
use tlspool_tests::authority::{Leaf, algorithm};
use tlspool_tests::net::free_port;
use tlspool_tests::{Authority, House, Process};

fn to(name: &str) -> StarttlsRequest {
    StarttlsRequest::client(name).unwrap()
}

/// `openssl s_server`, which sends every line back in reverse, and its address.
pub(crate) fn s_server(house: &House, leaf: &Leaf, more: &[&str]) -> (Process, String) {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-CAfile", house.anchor()]);
    command.args(["-cert", leaf.certificate(), "-key", leaf.key()]).args(more);
    let server = Process::start(&mut command);
    let said = server.await_that("ACCEPT", |said| {
        said.split_once("ACCEPT 127.0.0.1:").is_some_and(|(_, port)| port.contains('\n'))
    });
    let port = said.split_once("ACCEPT 127.0.0.1:").unwrap().1.lines().next().unwrap();
    let address = format!("127.0.0.1:{}", port.trim());
    (server, address)
}

/// One line there and back; the name the server proved.
fn reversed(house: &House, request: StarttlsRequest, address: &str) -> (String, String) {
    let pool = house.pool();
    let (session, mut plaintext) =
        call(&pool, request, address).unwrap_or_else(|error| panic!("{error}"));
    plaintext.write_all(b"abc\n").unwrap();
    let mut line = String::new();
    BufReader::new(&plaintext).read_line(&mut line).unwrap();
    assert_eq!(line, "cba\n");
    (session.localid().to_owned(), session.remoteid().to_owned())
}

#[test]
fn servers_of_every_kind() {
    let house = House::new();
    let daemon = house.start();
    let kinds = [&algorithm::RSA2048, &algorithm::P256, &algorithm::P384, &algorithm::ED25519];
    for kind in kinds {
        let leaf = house.authority().leaf_with("example.com", kind, |_| {});
        for (option, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            for group in ["X25519", "P-256"] {
                let (server, address) = s_server(&house, &leaf, &[option, "-groups", group]);
                let (localid, remoteid) = reversed(&house, to("example.com"), &address);
                assert_eq!((localid.as_str(), remoteid.as_str()), ("", "example.com"));
                let said = server.await_words("CONNECTION CLOSED");
                assert!(said.contains(&format!("Protocol version: {version}")), "{said}");
            }
        }
    }
    let log = daemon.stop();
    assert_eq!(log.matches("handshake done").count(), 16, "{log}");
}

#[test]
fn our_certificate_is_shown_if_asked_for() {
    let house = House::new();
    let leaf = house.authority().leaf("example.com");
    house.identity("john@example.org");
    let token = house.token("vault");
    house.token_identity("jane@example.org", "rsa2048", &token);
    let daemon = house.start();
    let request = |name| to("example.com").localid(name).unwrap();
    for option in ["-tls1_2", "-tls1_3"] {
        let ask = ["-Verify", "1", "-verify_return_error", option];
        for name in ["john@example.org", "jane@example.org"] {
            let (server, address) = s_server(&house, &leaf, &ask);
            assert_eq!(reversed(&house, request(name), &address).0, name);
            let said = server.await_words("CONNECTION CLOSED");
            assert!(said.contains("Peer certificate: "), "{said}");
        }
        // A server that does not ask sees none, and we are told so.
        let (server, address) = s_server(&house, &leaf, &[option]);
        reversed(&house, request("john@example.org"), &address);
        let said = server.await_words("CONNECTION CLOSED");
        assert!(!said.contains("Peer certificate: CN"), "{said}");
        // A server that insists gets nothing from a client that named nobody.
        let (server, address) = s_server(&house, &leaf, &ask);
        let outcome = call(&house.pool(), to("example.com"), &address);
        server.await_words("peer did not return a certificate");
        match outcome {
            // TLS 1.3: the refusal comes after our handshake is done, and ends the session.
            Ok((_session, plaintext)) => {
                assert!(read_all(&plaintext).unwrap_or_default().is_empty());
                daemon.await_log("ended by the peer: certificate required");
            }
            Err(error) => assert_eq!(error.pool_error(), Some(PoolError::StirredNotShaken)),
        }
    }
}

#[test]
fn gnutls_servers() {
    let house = House::new();
    let leaf = house.authority().leaf("example.com");
    house.identity("john@example.org");
    let _daemon = house.start();
    for version in ["1.2", "1.3"] {
        let port = free_port();
        let mut command = Command::new("gnutls-serv");
        command.args(["--echo", "--require-client-cert", "--verify-client-cert", "-p"]);
        command.arg(port.to_string());
        command.args(["--x509cafile", house.anchor()]);
        command.args(["--x509certfile", leaf.certificate(), "--x509keyfile", leaf.key()]);
        command.arg(format!("--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"));
        let server = Process::start(&mut command);
        server.await_words("...done");
        let request = to("example.com").localid("john@example.org").unwrap();
        let pool = house.pool();
        let (session, mut plaintext) = call(&pool, request, ("127.0.0.1", port)).unwrap();
        assert_eq!(session.remoteid(), "example.com");
        plaintext.write_all(b"hello GnuTLS\n").unwrap();
        let mut line = String::new();
        BufReader::new(&plaintext).read_line(&mut line).unwrap();
        assert_eq!(line, "hello GnuTLS\n");
        server.await_words("john@example.org");
        server.await_words(&format!("Description: (TLS{version}"));
        plaintext.shutdown(Shutdown::Write).unwrap();
    }
}

/// Nothing of ours may be shown to a server that is not who it should be.
#[test]
fn a_server_is_verified_before_anything_is_disclosed() {
    let house = House::new();
    house.identity("john@example.org");
    let other = Authority::new(&house.path(""), "other");
    let daemon = house.start();
    let good = house.authority().leaf("example.com");
    let client_only = house.authority().leaf_with("example.com", &algorithm::P256, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let cases = [
        (house.authority().leaf("example.net"), "example.com"),
        (house.authority().expired("example.com"), "expired"),
        (other.leaf("example.com"), "issue"),
        (client_only, "usage"),
    ];
    let request = || to("example.com").localid("john@example.org").unwrap();
    for option in ["-tls1_2", "-tls1_3"] {
        let ask = ["-verify", "1", "-msg", option];
        let ours = |said: &str| {
            said.lines().any(|line| line.starts_with("<<<") && line.contains(", Certificate"))
        };
        let (server, address) = s_server(&house, &good, &ask);
        reversed(&house, request(), &address);
        server.await_that("our certificate", ours);
        for (leaf, why) in &cases {
            let (server, address) = s_server(&house, leaf, &ask);
            let error = call(&house.pool(), request(), &address).unwrap_err();
            assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
            assert!(error.to_string().contains(why), "{why}: {error}");
            let said = server.await_words(", Alert");
            assert!(!ours(&said), "{said}");
        }
    }
    // A program may do without.
    let (_server, address) = s_server(&house, &cases[2].0, &[]);
    let request = to("example.com").flags(Flags::IGNORE_REMOTEID);
    assert_eq!(reversed(&house, request, &address).1, "");
    let log = daemon.stop();
    assert_eq!(log.matches("handshake failed").count(), 8, "{log}");
}

#[test]
fn sessions_are_resumed_within_one_identity() {
    let house = House::new();
    let leaf = house.authority().leaf("example.com");
    for name in ["john@example.org", "jane@example.org"] {
        house.identity(name);
    }
    let _daemon = house.start();
    let request = |name| to("example.com").localid(name).unwrap();
    for (number, option) in ["-tls1_2", "-tls1_3"].into_iter().enumerate() {
        let (_server, address) = s_server(&house, &leaf, &["-verify", "1", option]);
        let before = number as u64;
        assert_eq!(reversed(&house, request("john@example.org"), &address).0, "john@example.org");
        assert_eq!(reversed(&house, request("jane@example.org"), &address).0, "jane@example.org");
        house.await_status("totals/resumed", before);
        // The ticket has come before the line that followed it.
        assert_eq!(reversed(&house, request("john@example.org"), &address).0, "john@example.org");
        house.await_status("totals/resumed", before + 1);
    }
}
