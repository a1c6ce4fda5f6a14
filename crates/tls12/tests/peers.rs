//! Against OpenSSL and GnuTLS, over TCP on loopback.

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;

use support::programs::*;
use support::*;
use tls12::*;

fn openssl_server(files: &Files, key: usize, arguments: &[&str]) -> (Program, u16) {
    let port = free_port();
    let [key, certificate] = files.key(key);
    let mut command = Command::new("openssl");
    command.args(["s_server", "-tls1_2", "-accept", &format!("127.0.0.1:{port}")]);
    command.arg("-key").arg(key).arg("-cert").arg(certificate).args(arguments);
    let mut program = Program::start(&mut command);
    program.expect("ACCEPT");
    (program, port)
}

fn openssl_client(files: &Files, key: Option<usize>, port: u16, arguments: &[&str]) -> Program {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-tls1_2", "-connect", &format!("127.0.0.1:{port}")]);
    if let Some(key) = key {
        let [key, certificate] = files.key(key);
        command.arg("-key").arg(key).arg("-cert").arg(certificate);
    }
    command.args(arguments);
    Program::start(&mut command)
}

const GNUTLS: &str = "NORMAL:-VERS-ALL:+VERS-TLS1.2:+SIGN-EDDSA-ED25519";

fn gnutls_server(files: &Files, key: usize, priority: &str, arguments: &[&str]) -> (Program, u16) {
    let port = free_port();
    let [key, certificate] = files.key(key);
    let mut command = Command::new("gnutls-serv");
    command.args(["--echo", "--port", &port.to_string(), "--priority", priority]);
    command.arg("--x509keyfile").arg(key).arg("--x509certfile").arg(certificate);
    command.args(arguments);
    let mut program = Program::start(&mut command);
    program.expect("done");
    (program, port)
}

fn gnutls_client(
    files: &Files,
    key: Option<usize>,
    port: u16,
    priority: &str,
    arguments: &[&str],
) -> Program {
    let mut command = Command::new("gnutls-cli");
    command.args(["127.0.0.1", "--port", &port.to_string(), "--priority", priority]);
    command.arg("--no-ca-verification");
    if let Some(key) = key {
        let [key, certificate] = files.key(key);
        command.arg("--x509keyfile").arg(key).arg("--x509certfile").arg(certificate);
    }
    command.args(arguments);
    Program::start(&mut command)
}

fn client() -> ClientConfig {
    ClientConfig { server_name: Some("localhost".into()), ..ClientConfig::default() }
}

fn connected(config: ClientConfig, credentials: &[usize], port: u16) -> Live {
    let credentials = credentials.iter().map(|key| credential(*key, Shape::X509)).collect();
    Live::new(Side::client(config, credentials), connect(port))
}

/// A server of ours that takes one connection from a program.
fn accepted(
    config: ServerConfig,
    key: usize,
    start: impl FnOnce(u16) -> Program,
) -> (Live, Program) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut program = start(listener.local_addr().unwrap().port());
    let stream = accept(&listener, &mut program);
    (Live::new(Side::server(config, vec![credential(key, Shape::X509)]), stream), program)
}

fn suites() -> impl Iterator<Item = &'static Suite> {
    SUITES.iter().filter(|suite| !suite.is_anonymous())
}

fn fits(suite: &Suite, key: usize) -> bool {
    matches!((key, suite.authentication), (0, Authentication::Rsa))
        || matches!((key, suite.authentication), (1 | 2, Authentication::Ecdsa))
}

#[test]
fn our_client_with_openssl_every_suite_and_key() {
    let files = Files::new();
    for key in 0..3 {
        let group = files.group();
        // -rev answers each line backwards, to any number of clients in a row.
        let arguments = ["-rev", "-dhparam", group.to_str().unwrap()];
        let (_program, port) = openssl_server(&files, key, &arguments);
        for suite in suites().filter(|suite| fits(suite, key)) {
            let mut config = client();
            config.common.suites = vec![suite];
            let mut live = connected(config, &[], port);
            live.establish();
            assert_eq!(live.side.connection.summary().unwrap().suite, suite);
            live.converse(b"hello\n", b"olleh\n");
            live.side.connection.close();
            live.run_until(|side| side.closed.is_some());
        }
    }
}

#[test]
fn our_client_with_gnutls_every_suite_and_key() {
    let files = Files::new();
    for key in 0..3 {
        let priority = format!("{GNUTLS}:+DHE-RSA");
        let (_program, port) = gnutls_server(&files, key, &priority, &["--disable-client-cert"]);
        for suite in suites().filter(|suite| fits(suite, key)) {
            let mut config = client();
            config.common.suites = vec![suite];
            let mut live = connected(config, &[], port);
            live.establish();
            live.converse(b"hello\n", b"hello\n");
            live.side.connection.close();
            live.run_until(|side| side.closed.is_some());
        }
    }
}

#[test]
fn our_client_authenticates_to_openssl_and_gnutls() {
    let files = Files::new();
    for shown in [None, Some(0), Some(1), Some(2)] {
        for required in [true, false] {
            let verify = if required { "-Verify" } else { "-verify" };
            let (mut program, port) = openssl_server(&files, 1, &[verify, "1"]);
            let mut live = connected(client(), shown.as_slice(), port);
            live.run_until(|side| side.established);
            if required && shown.is_none() {
                let refused = Error::PeerAlert(Alert::HANDSHAKE_FAILURE);
                assert_eq!(live.side.error(), Some(&refused));
            } else {
                assert!(live.side.established, "{shown:?} {:?}", live.side.error());
                live.side.connection.send(b"hello\n").unwrap();
                live.flush();
                program.expect("hello");
                if shown.is_some() {
                    program.expect("depth=0");
                } else {
                    assert!(!program.seen.contains("depth=0"));
                }
            }
            drop(program);
            let flags = if required { &["--require-client-cert"][..] } else { &[] };
            let (_program, port) = gnutls_server(&files, 1, GNUTLS, flags);
            let mut live = connected(client(), shown.as_slice(), port);
            live.run_until(|side| side.established);
            if required && shown.is_none() {
                assert!(live.side.error().is_some());
            } else {
                live.converse(b"hello\n", b"hello\n");
                let showed = live.side.connection.summary().unwrap().shown.is_some();
                assert_eq!(showed, shown.is_some());
            }
        }
    }
}

/// OpenSSL's names.
fn openssl_name(suite: &Suite) -> String {
    let name = suite.name.trim_start_matches("TLS_").replace("_WITH_", "_");
    let name = name.replace("AES_", "AES").replace('_', "-");
    name.replace("CHACHA20-POLY1305-SHA256", "CHACHA20-POLY1305")
}

#[test]
fn openssl_with_our_server_every_suite_and_key() {
    let files = Files::new();
    for key in 0..3 {
        for suite in suites().filter(|suite| fits(suite, key)) {
            let (mut live, mut program) = accepted(ServerConfig::default(), key, |port| {
                let name = openssl_name(suite);
                openssl_client(&files, None, port, &["-cipher", &name, "-quiet"])
            });
            live.establish();
            assert_eq!(live.side.connection.summary().unwrap().suite, suite);
            program.say("hello\n");
            live.wait_for(b"hello\n");
            live.side.connection.send(b"welcome\n").unwrap();
            live.flush();
            program.expect("welcome");
        }
    }
}

#[test]
fn gnutls_with_our_server_every_suite_and_key() {
    let files = Files::new();
    for key in 0..3 {
        for suite in suites().filter(|suite| fits(suite, key)) {
            let mut config = ServerConfig::default();
            config.common.suites = vec![suite];
            let (mut live, mut program) = accepted(config, key, |port| {
                gnutls_client(&files, None, port, &format!("{GNUTLS}:+DHE-RSA"), &[])
            });
            live.establish();
            program.say("hello\n");
            live.wait_for(b"hello\n");
            live.side.connection.send(b"welcome\n").unwrap();
            live.flush();
            program.expect("welcome");
        }
    }
}

#[test]
fn openssl_and_gnutls_authenticate_to_our_server() {
    let files = Files::new();
    for shown in [None, Some(0), Some(1), Some(2)] {
        for auth in [ClientAuth::Requested, ClientAuth::Required, ClientAuth::None] {
            for gnutls in [false, true] {
                let config = ServerConfig { client_auth: auth, ..ServerConfig::default() };
                let (mut live, mut program) = accepted(config, 1, |port| {
                    if gnutls {
                        gnutls_client(&files, shown, port, GNUTLS, &[])
                    } else {
                        openssl_client(&files, shown, port, &["-quiet"])
                    }
                });
                live.run_until(|side| side.established);
                if auth == ClientAuth::Required && shown.is_none() {
                    assert_eq!(live.side.error(), Some(&Error::NoCertificate));
                    continue;
                }
                assert!(live.side.established, "{:?}", live.side.error());
                let peer = live.side.connection.summary().unwrap().peer.clone();
                let expected = shown.filter(|_| auth != ClientAuth::None);
                assert_eq!(peer, expected.map(|n| credential(n, Shape::X509).certificate.clone()));
                program.say("hello\n");
                live.wait_for(b"hello\n");
            }
        }
    }
}

#[test]
fn our_client_resumes_with_openssl_and_gnutls() {
    let files = Files::new();
    for gnutls in [false, true] {
        let (_program, port) = if gnutls {
            gnutls_server(&files, 1, GNUTLS, &["--disable-client-cert"])
        } else {
            openssl_server(&files, 1, &["-rev"])
        };
        let mut live = connected(ClientConfig { wants_session: true, ..client() }, &[], port);
        live.establish();
        live.converse(b"aha\n", b"aha\n");
        let session = live.side.session.take().expect("a ticket");
        live.side.connection.close();
        live.run_until(|side| side.closed.is_some());
        let again = ClientConfig { session: Some(session), wants_session: true, ..client() };
        let mut live = connected(again, &[], port);
        live.establish();
        assert!(live.side.connection.summary().unwrap().resumed);
        live.converse(b"aha\n", b"aha\n");
    }
}

#[test]
fn openssl_resumes_with_our_server() {
    let files = Files::new();
    let session = files.path("session");
    let current = std::sync::Arc::new(TicketKey::generate().unwrap());
    let tickets = std::sync::Arc::new(TicketKeys { current, previous: vec![], lifetime: 600 });
    for round in 0..2 {
        let config = ServerConfig { tickets: Some(tickets.clone()), ..ServerConfig::default() };
        let option = if round == 0 { "-sess_out" } else { "-sess_in" };
        let (mut live, mut program) = accepted(config, 1, |port| {
            openssl_client(&files, None, port, &[option, session.to_str().unwrap()])
        });
        live.establish();
        assert_eq!(live.side.connection.summary().unwrap().resumed, round == 1);
        program.say("hello\n");
        live.wait_for(b"hello\n");
        program.say("Q\n");
        program.finish();
    }
}

#[test]
fn gnutls_resumes_with_our_server() {
    let files = Files::new();
    let current = std::sync::Arc::new(TicketKey::generate().unwrap());
    let tickets = std::sync::Arc::new(TicketKeys { current, previous: vec![], lifetime: 600 });
    let config = ServerConfig { tickets: Some(tickets), ..ServerConfig::default() };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut program = gnutls_client(&files, None, port, GNUTLS, &["--resume"]);
    for round in 0..2 {
        let stream = accept(&listener, &mut program);
        let side = Side::server(config.clone(), vec![credential(1, Shape::X509)]);
        let mut live = Live::new(side, stream);
        live.establish();
        assert_eq!(live.side.connection.summary().unwrap().resumed, round == 1);
        if round == 0 {
            live.run_until(|side| side.peer_closed);
        } else {
            program.say("hello\n");
            live.wait_for(b"hello\n");
        }
        live.side.connection.close();
        live.flush();
    }
}

#[test]
fn our_client_renegotiates_with_openssl_and_gnutls() {
    let files = Files::new();
    for gnutls in [false, true] {
        let (_program, port) = if gnutls {
            gnutls_server(&files, 1, GNUTLS, &["--disable-client-cert"])
        } else {
            openssl_server(&files, 1, &["-rev", "-client_renegotiation"])
        };
        let mut live = connected(client(), &[], port);
        live.establish();
        live.converse(b"aha\n", b"aha\n");
        live.side.connection.renegotiate(None).unwrap();
        live.run_until(|side| !side.renegotiated.is_empty() || side.refused);
        assert!(!live.side.renegotiated.is_empty(), "{gnutls} {:?}", live.side.closed);
        assert!(!live.side.renegotiated[0].peer_changed);
        live.converse(b"aha\n", b"aha\n");
    }
}

#[test]
fn an_openssl_server_renegotiates_with_our_client() {
    let files = Files::new();
    // "R" asks for a client certificate in the new handshake.
    let (mut program, port) = openssl_server(&files, 1, &[]);
    let mut live = connected(client(), &[0], port);
    live.establish();
    assert!(live.side.connection.summary().unwrap().shown.is_none());
    live.side.connection.send(b"hello\n").unwrap();
    live.flush();
    program.expect("hello");
    program.say("R\n");
    live.run_until(|side| !side.renegotiated.is_empty());
    assert_eq!(live.side.closed, None);
    let expected = Renegotiated { requested: false, peer_changed: false, shown_changed: true };
    assert_eq!(live.side.renegotiated, [expected]);
    live.side.connection.send(b"again\n").unwrap();
    live.flush();
    program.expect("again");
}

#[test]
fn an_openssl_client_renegotiates_with_our_server_and_we_with_it() {
    let files = Files::new();
    let (mut live, mut program) =
        accepted(ServerConfig::default(), 1, |port| openssl_client(&files, Some(0), port, &[]));
    live.establish();
    program.say("R\n");
    live.run_until(|side| !side.renegotiated.is_empty());
    assert_eq!(live.side.closed, None);
    assert!(!live.side.renegotiated[0].requested);
    program.say("hello\n");
    live.wait_for(b"hello\n");
    // Now ours, with a demand for a certificate.
    let asks = ServerConfig { client_auth: ClientAuth::Required, ..ServerConfig::default() };
    let asks = NewConfig::Server(std::sync::Arc::new(asks));
    live.side.connection.renegotiate(Some(asks)).unwrap();
    live.run_until(|side| side.renegotiated.len() == 2);
    let expected = Renegotiated { requested: true, peer_changed: true, shown_changed: false };
    assert_eq!(live.side.renegotiated.get(1), Some(&expected), "{:?}", live.side.closed);
    program.say("hello\n");
    live.wait_for(b"hello\n");
}

#[test]
fn a_gnutls_client_renegotiates_with_our_server() {
    let files = Files::new();
    let (mut live, _program) = accepted(ServerConfig::default(), 1, |port| {
        gnutls_client(&files, None, port, GNUTLS, &["--rehandshake"])
    });
    live.establish();
    live.run_until(|side| !side.renegotiated.is_empty());
    assert_eq!(live.side.closed, None);
    assert!(!live.side.renegotiated[0].peer_changed);
}

fn precursor() -> ClientConfig {
    let mut config = ClientConfig { conceal_name: true, ..client() };
    config.common.anonymous = Anonymous::Precursor;
    config.common.private = true;
    config
}

#[test]
fn our_client_precedes_anonymously_with_openssl_and_gnutls() {
    let files = Files::new();
    for gnutls in [false, true] {
        let group = files.group();
        let (_program, port) = if gnutls {
            let priority = format!("{GNUTLS}:+ANON-DH");
            gnutls_server(&files, 1, &priority, &["--disable-client-cert"])
        } else {
            let group = group.to_str().unwrap();
            let ciphers = "ALL:ADH:@SECLEVEL=0";
            let arguments =
                ["-rev", "-cipher", ciphers, "-client_renegotiation", "-dhparam", group];
            openssl_server(&files, 1, &arguments)
        };
        let mut live = connected(precursor(), &[], port);
        live.establish();
        let summary = live.side.connection.summary().unwrap();
        assert!(summary.private && !summary.suite.is_anonymous());
        assert_eq!(summary.peer, Some(credential(1, Shape::X509).certificate.clone()));
        live.converse(b"aha\n", b"aha\n");
    }
}

#[test]
fn an_openssl_client_precedes_anonymously_with_our_server() {
    let files = Files::new();
    let mut config = ServerConfig::default();
    config.common.anonymous = Anonymous::Precursor;
    config.common.private = true;
    let (mut live, mut program) = accepted(config, 1, |port| {
        openssl_client(&files, None, port, &["-cipher", "ADH:ALL:@SECLEVEL=0"])
    });
    // Read as soon as its first handshake is done.
    program.say("R\n");
    live.establish();
    let summary = live.side.connection.summary().unwrap();
    assert!(summary.private && !summary.suite.is_anonymous());
    program.say("hello\n");
    live.wait_for(b"hello\n");
}

#[test]
fn data_of_an_anonymous_openssl_client_is_fatal() {
    let files = Files::new();
    let mut config = ServerConfig::default();
    config.common.anonymous = Anonymous::Precursor;
    let (mut live, mut program) = accepted(config, 1, |port| {
        openssl_client(&files, None, port, &["-cipher", "ADH:@SECLEVEL=0"])
    });
    program.say("secret\n");
    live.run_until(|side| side.closed.is_some());
    assert_eq!(live.side.error(), Some(&Error::DataInAnonymousPhase));
    assert!(live.side.data.is_empty());
    drop(live);
    assert!(program.finish().contains("unexpected message"), "{}", program.seen);
}

#[test]
fn exporters_are_equal_to_those_of_openssl() {
    let files = Files::new();
    let (mut live, mut program) = accepted(ServerConfig::default(), 1, |port| {
        let label = ["-keymatexport", "EXPERIMENTAL-test", "-keymatexportlen", "32"];
        openssl_client(&files, None, port, &label)
    });
    live.establish();
    let mut out = [0; 32];
    let exporter = live.side.connection.exporter().unwrap();
    exporter.export(b"EXPERIMENTAL-test", None, &mut out).unwrap();
    program.expect(&hex(&out).to_uppercase());
}

#[test]
fn channel_bindings_are_equal_to_those_of_gnutls() {
    let files = Files::new();
    let (mut live, mut program) = accepted(ServerConfig::default(), 1, |port| {
        gnutls_client(&files, None, port, GNUTLS, &["--verbose"])
    });
    live.establish();
    let exporter = live.side.connection.exporter().unwrap();
    program.expect(&hex(exporter.tls_unique()));
    let binding = exporter.tls_exporter().unwrap();
    program.expect(&hex(&binding));
}

#[test]
fn old_peers_are_told_why() {
    let files = Files::new();
    let (mut live, _program) = accepted(ServerConfig::default(), 0, |port| {
        openssl_client(&files, None, port, &["-cipher", "AES128-SHA"])
    });
    live.run_until(|side| side.closed.is_some());
    assert!(matches!(live.side.error(), Some(Error::Insufficient(_))));
}

#[test]
fn a_peer_without_extended_master_secret_is_told_why() {
    let files = Files::new();
    let (mut live, _program) = accepted(ServerConfig::default(), 1, |port| {
        gnutls_client(&files, None, port, &format!("{GNUTLS}:%NO_SESSION_HASH"), &[])
    });
    live.run_until(|side| side.closed.is_some());
    assert!(matches!(live.side.error(), Some(Error::Insufficient(_))));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
