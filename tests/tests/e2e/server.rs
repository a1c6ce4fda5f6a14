//! The pool as TLS server; the peers are programs of OpenSSL and GnuTLS.

use std::io::{BufRead, Write};
use std::process::Command;

use tlspool_client::{PoolError, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::{Greeted, Outcome, Server, noise};
use tlspool_tests::authority::{Leaf, algorithm};
use tlspool_tests::{House, Process};

use crate::openssl_client::{VERSIONS, greeted, greeting, open, s_client};

#[test]
fn keys_in_files_of_every_kind() {
    let house = House::new();
    let kinds = [
        ("rsa.example.com", &algorithm::RSA2048, "RSA-PSS"),
        ("p256.example.com", &algorithm::P256, "ECDSA"),
        ("p384.example.com", &algorithm::P384, "ECDSA"),
        ("ed25519.example.com", &algorithm::ED25519, "ed25519"),
    ];
    for (name, algorithm, _) in kinds {
        house.add(name, &house.authority().leaf_with(name, algorithm, |_| {}));
    }
    let daemon = house.start();
    for (name, _, signature) in kinds {
        for (option, version) in VERSIONS {
            // TLS 1.2 wants the curves of certificates listed too.
            let groups = [("X25519:P-256:P-384", "X25519"), ("P-256:P-384", "ECDH, prime256v1")];
            for (group, shown) in groups {
                let (said, met) = greeted(&house, open(), name, &[option, "-groups", group]);
                assert!(said.contains(&format!("Peer signature type: {signature}")), "{said}");
                assert!(said.contains(&format!("Server Temp Key: {shown}")), "{said}");
                assert!(said.contains(&format!("New, {version}")), "{said}");
                // SNI chose the identity.
                assert_eq!(met.localid, name);
            }
        }
        let pkcs1 = ["-tls1_2", "-sigalgs", "RSA+SHA256"];
        if signature == "RSA-PSS" {
            let (said, _) = greeted(&house, open(), name, &pkcs1);
            assert!(said.contains("Peer signature type: RSA\n"), "{said}");
        }
    }
    let log = daemon.stop();
    let line = log.lines().find(|line| line.contains("handshake done")).unwrap();
    for word in ["rsa.example.com", "protocol", "suite", "ms="] {
        assert!(line.contains(word), "{line}");
    }
}

#[test]
fn keys_on_a_token_of_every_kind() {
    let house = House::new();
    let token = house.token("vault");
    let kinds = ["rsa2048", "p256", "p384", "ed25519"];
    for kind in kinds {
        house.token_identity(&format!("{kind}.example.com"), kind, &token);
    }
    let _daemon = house.start();
    for kind in kinds {
        let name = format!("{kind}.example.com");
        for (option, version) in VERSIONS {
            let (said, met) = greeted(&house, open(), &name, &[option]);
            assert!(said.contains(&format!("New, {version}")), "{said}");
            assert_eq!(met.localid, name);
        }
    }
    let status = house.status();
    let text = status.to_string();
    assert!(text.contains("token=vault") && text.contains("\"signatures\":8"), "{status}");
}

#[test]
fn client_certificates_required_requested_ignored() {
    let house = House::new();
    house.identity("example.com");
    let john = house.authority().leaf("john@example.org");
    let stranger = tlspool_tests::Authority::new(&house.path(""), "stranger");
    let mallory = stranger.leaf("john@example.org");
    let expired = house.authority().expired("john@example.org");
    let _daemon = house.start();
    let server = StarttlsRequest::server;
    let requested = || server().flags(Flags::REQUEST_REMOTEID);
    let shown =
        |leaf: &Leaf| ["-cert", leaf.certificate(), "-key", leaf.key()].map(str::to_owned).to_vec();
    for (option, _) in VERSIONS {
        let with = |leaf: &Leaf| [vec![option.to_owned()], shown(leaf)].concat();
        let args = |list: &[String]| list.to_vec();
        let go = |request, list: &[String]| {
            let list: Vec<&str> = list.iter().map(String::as_str).collect();
            greeting(&house, request, "example.com", &list)
        };
        let none = args(&[option.to_owned()]);
        let name = |outcome: Outcome<Greeted>| outcome.unwrap().remoteid;
        // A good one.
        assert_eq!(name(go(server(), &with(&john)).2), "john@example.org");
        assert_eq!(name(go(requested(), &with(&john)).2), "john@example.org");
        assert_eq!(name(go(open(), &with(&john)).2), "");
        // None.
        let (good, said, outcome) = go(server(), &none);
        assert!(!good && !said.contains("you are"), "{said}");
        let error = outcome.unwrap_err();
        assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
        assert_eq!(name(go(requested(), &none).2), "");
        assert_eq!(name(go(open(), &none).2), "");
        // One that nobody vouches for, or no longer.
        for (leaf, why) in [(&mallory, "issue"), (&expired, "expired")] {
            for request in [server(), requested()] {
                let (good, said, outcome) = go(request, &with(leaf));
                assert!(!good && !said.contains("you are"), "{said}");
                let error = outcome.unwrap_err();
                assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
                assert!(error.to_string().contains(why), "{error}");
            }
            assert_eq!(name(go(open(), &with(leaf)).2), "");
        }
        // The one that is wanted, and another.
        let wanted = |who| server().remoteid(who).unwrap();
        assert_eq!(name(go(wanted("john@example.org"), &with(&john)).2), "john@example.org");
        let error = go(wanted("jane@example.org"), &with(&john)).2.unwrap_err();
        assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
        assert!(error.to_string().contains("jane@example.org"), "{error}");
    }
}

#[test]
fn sessions_are_resumed_with_the_same_identity_only() {
    let house = House::new();
    for name in ["one.example.com", "two.example.com"] {
        house.identity(name);
    }
    let _daemon = house.start();
    for (number, (option, version)) in VERSIONS.into_iter().enumerate() {
        let file = house.text(&format!("session-{number}"));
        let first = ["-sess_out", &file, option];
        let (said, _) = greeted(&house, open(), "one.example.com", &first);
        assert!(said.contains(&format!("New, {version}")), "{said}");
        let again = ["-sess_in", &file, option];
        let (said, met) = greeted(&house, open(), "one.example.com", &again);
        assert!(said.contains(&format!("Reused, {version}")), "{said}");
        assert_eq!(met.localid, "one.example.com");
        // Nor does a server with other wishes resume it.
        let (_, said, outcome) =
            greeting(&house, StarttlsRequest::server(), "one.example.com", &again);
        assert!(!said.contains("you are"), "{said}");
        assert_eq!(outcome.unwrap_err().pool_error(), Some(PoolError::RemoteidRefused));
        let named = open().localid("two.example.com").unwrap();
        let (_, said, outcome) = greeting(&house, named, "two.example.com", &again);
        assert!(!said.contains("Reused,"), "{said}");
        assert_eq!(outcome.unwrap().localid, "two.example.com");
        house.await_status("totals/resumed", number as u64 + 1);
    }
}

#[test]
fn the_name_that_is_asked_for_must_be_ours() {
    let house = House::new();
    house.identity("example.com");
    let _daemon = house.start();
    let (good, said, outcome) = greeting(&house, open(), "example.net", &[]);
    assert!(!good, "{said}");
    assert!(said.contains("alert"), "{said}");
    let error = outcome.unwrap_err();
    assert!(error.to_string().contains("example.net"), "{error}");
    // The program's word stands above that of the peer, if it names nobody.
    let named = open().localid("example.com").unwrap();
    let (good, said, outcome) = greeting(&house, named, "example.com", &["-noservername"]);
    assert!(good, "{said}");
    assert_eq!(outcome.unwrap().localid, "example.com");
}

#[test]
fn a_wildcard_serves_the_hosts_below_its_name() {
    let house = House::new();
    let wild = house.authority().leaf_with("*.example.com", &algorithm::P256, |_| {});
    house.add("example.com", &wild);
    let exact = house.authority().leaf_with("own.example.com", &algorithm::RSA2048, |_| {});
    house.add("own.example.com", &exact);
    let _daemon = house.start();
    for host in ["www.example.com", "mail.example.com", "www.example.com"] {
        let (said, met) = greeted(&house, open(), host, &["-verify_hostname", host]);
        assert!(said.contains("Verification: OK"), "{said}");
        assert!(said.contains("Peer signature type: ECDSA"), "{said}");
        // The name that was proved, not the one of the row.
        assert_eq!(met.localid, host);
    }
    // A row of its own comes first, and a wildcard covers one label only.
    let (said, _) = greeted(&house, open(), "own.example.com", &[]);
    assert!(said.contains("Peer signature type: RSA-PSS"), "{said}");
    let (good, said, outcome) = greeting(&house, open(), "a.b.example.com", &[]);
    assert!(!good, "{said}");
    assert!(outcome.unwrap_err().to_string().contains("a.b.example.com"));
    let (good, _, outcome) = greeting(&house, open(), "www.own.example.com", &[]);
    assert!(!good);
    assert!(outcome.unwrap_err().to_string().contains("does not cover www.own.example.com"));
    // The program that names it itself.
    let named = open().localid("www.example.com").unwrap();
    let (good, said, outcome) = greeting(&house, named, "www.example.com", &[]);
    assert!(good, "{said}");
    assert_eq!(outcome.unwrap().localid, "www.example.com");
}

#[test]
fn gnutls_with_both_versions() {
    let house = House::new();
    house.identity("example.com");
    let john = house.authority().leaf("john@example.org");
    let _daemon = house.start();
    for version in ["1.2", "1.3"] {
        let server = Server::greeter(house.pool(), StarttlsRequest::server());
        let mut command = Command::new("gnutls-cli");
        command.args(["--x509cafile", house.anchor(), "--sni-hostname", "example.com"]);
        command.args(["--verify-hostname", "example.com", "127.0.0.1", "-p"]);
        command.arg(server.address.port().to_string());
        command.arg(format!("--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"));
        command.args(["--x509certfile", john.certificate(), "--x509keyfile", john.key()]);
        let mut peer = Process::start(&mut command);
        peer.await_words("Simple Client Mode");
        peer.tell("hello\n");
        let said = peer.await_words("you are john@example.org: hello");
        assert!(said.contains(&format!("Description: (TLS{version}")), "{said}");
        assert!(said.contains("Status: The certificate is trusted"), "{said}");
        let (status, said) = peer.end();
        assert!(status.success(), "{said}");
        assert_eq!(server.outcome().unwrap().remoteid, "john@example.org");
    }
}

#[test]
fn big_transfers_to_and_from_openssl() {
    let house = House::new();
    house.identity("example.com");
    let _daemon = house.start();
    let bytes = noise(24 << 20);
    std::fs::write(house.path("noise"), &bytes).unwrap();
    for (option, _) in VERSIONS {
        let sent = bytes.clone();
        let server = Server::start(house.pool(), open(), move |_, plaintext| {
            plaintext.write_all(&sent).unwrap();
        });
        let output = s_client(&house, &server.at(), "example.com", &["-quiet", option]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == bytes, "{} bytes arrived", output.stdout.len());
        server.outcome().unwrap();

        let expected = bytes.clone();
        let server = Server::start(house.pool(), open(), move |_, plaintext| {
            let mut heard = vec![0; expected.len()];
            std::io::Read::read_exact(plaintext, &mut heard).unwrap();
            heard == expected
        });
        let input = std::fs::File::open(house.path("noise")).unwrap();
        let mut command = s_client(&house, &server.at(), "example.com", &["-quiet", option]);
        let output = command.stdin(input).output().unwrap();
        assert!(server.outcome().unwrap(), "{output:?}");
    }
}

/// Answers each line with `heard LINE`.
fn parrot(_: &tlspool_client::Session, plaintext: &mut std::os::unix::net::UnixStream) {
    let mut writer = plaintext.try_clone().unwrap();
    for line in std::io::BufReader::new(plaintext).lines() {
        let Ok(line) = line else { return };
        if writer.write_all(format!("heard {line}\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// `s_client` with its commands: lines of one letter.
fn commanded(house: &House, address: &str, option: &str) -> Process {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", address, "-CAfile", house.anchor(), option]);
    command.args(["-servername", "example.com"]);
    let peer = Process::start(&mut command);
    peer.await_words("Verify return code: 0 (ok)");
    peer
}

#[test]
fn keys_are_updated_when_the_peer_wants() {
    let house = House::new();
    house.identity("example.com");
    let _daemon = house.start();
    let server = Server::start(house.pool(), open(), parrot);
    let mut peer = commanded(&house, &server.at(), "-tls1_3");
    // "k" updates the peer's keys, "K" asks for ours too.
    for (number, letter) in ["k", "K", "K", "k"].into_iter().enumerate() {
        peer.tell(format!("{letter}\n"));
        peer.await_that("KEYUPDATE", |said| said.matches("KEYUPDATE").count() == number + 1);
        peer.tell(format!("words {number}\n"));
        peer.await_words(&format!("heard words {number}"));
    }
    peer.tell("Q\n");
    let (status, said) = peer.end();
    assert!(status.success(), "{said}");
    server.outcome().unwrap();
}

/// TLS 1.2 lets a client renegotiate; we do not.
#[test]
fn renegotiation_is_refused() {
    let house = House::new();
    house.identity("example.com");
    let _daemon = house.start();
    let server = Server::start(house.pool(), open(), parrot);
    let mut peer = commanded(&house, &server.at(), "-tls1_2");
    peer.tell("before\n");
    peer.await_words("heard before");
    peer.tell("R\n");
    let (status, said) = peer.end();
    assert!(!status.success() && said.contains("no renegotiation"), "{said}");
    server.outcome().unwrap();
    greeted(&house, open(), "example.com", &[]);
}
