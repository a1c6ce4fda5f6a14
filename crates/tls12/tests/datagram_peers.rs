//! DTLS against OpenSSL and GnuTLS, over UDP on loopback.

mod support;

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use support::programs::*;
use support::*;
use tls12::dtls;
use tls12::*;

const GNUTLS: &str = "NORMAL:-VERS-ALL:+VERS-DTLS1.2:+SIGN-EDDSA-ED25519:+DHE-RSA";

fn openssl_server(files: &Files, key: usize, arguments: &[&str]) -> (Program, u16) {
    let port = free_port();
    let [key, certificate] = files.key(key);
    let mut command = Command::new("openssl");
    command.args(["s_server", "-dtls1_2", "-timeout", "-accept", &format!("127.0.0.1:{port}")]);
    command.arg("-key").arg(key).arg("-cert").arg(certificate).args(arguments);
    let mut program = Program::start(&mut command);
    program.expect("ACCEPT");
    (program, port)
}

fn gnutls_server(files: &Files, key: usize, arguments: &[&str]) -> (Program, u16) {
    let port = free_port();
    let [key, certificate] = files.key(key);
    let mut command = Command::new("gnutls-serv");
    command.args(["--udp", "--echo", "--port", &port.to_string(), "--priority", GNUTLS]);
    command.arg("--x509keyfile").arg(key).arg("--x509certfile").arg(certificate);
    command.args(arguments);
    let mut program = Program::start(&mut command);
    program.expect("UDP");
    program.expect("done");
    (program, port)
}

fn openssl_client(files: &Files, key: Option<usize>, port: u16, arguments: &[&str]) -> Program {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-dtls1_2", "-timeout", "-connect", &format!("127.0.0.1:{port}")]);
    if let Some(key) = key {
        let [key, certificate] = files.key(key);
        command.arg("-key").arg(key).arg("-cert").arg(certificate);
    }
    command.args(arguments);
    Program::start(&mut command)
}

fn gnutls_client(files: &Files, key: Option<usize>, port: u16, arguments: &[&str]) -> Program {
    let mut command = Command::new("gnutls-cli");
    command.args(["--udp", "127.0.0.1", "--port", &port.to_string(), "--priority", GNUTLS]);
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

fn connected(config: ClientConfig, shown: Option<usize>, port: u16) -> LiveDatagrams {
    connected_with(config, shown, port, dtls::Config::default())
}

fn connected_with(
    config: ClientConfig,
    shown: Option<usize>,
    port: u16,
    settings: dtls::Config,
) -> LiveDatagrams {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let now = Instant::now();
    let connection = Connection::datagram_client(&Arc::new(config), settings, now).unwrap();
    let credentials = shown.iter().map(|key| credential(*key, Shape::X509)).collect();
    LiveDatagrams { side: Side::new(connection, credentials), socket }
}

/// A server of ours that takes one connection from a program, cookie first.
#[track_caller]
fn accepted(
    config: ServerConfig,
    key: usize,
    start: impl FnOnce(u16) -> Program,
) -> (LiveDatagrams, Program) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let program = start(socket.local_addr().unwrap().port());
    let live = accept_datagrams(&Arc::new(config), key, &socket);
    (live, program)
}

fn suites_for(key: usize) -> impl Iterator<Item = &'static Suite> {
    let by = if key == 0 { Authentication::Rsa } else { Authentication::Ecdsa };
    SUITES.iter().filter(move |suite| suite.authentication == by)
}

/// OpenSSL's names.
fn openssl_name(suite: &Suite) -> String {
    let name = suite.name.trim_start_matches("TLS_").replace("_WITH_", "_");
    let name = name.replace("AES_", "AES").replace('_', "-");
    name.replace("CHACHA20-POLY1305-SHA256", "CHACHA20-POLY1305")
}

#[test]
fn our_client_with_openssl_every_suite_and_key() {
    let files = Files::new();
    let group = files.group();
    // OpenSSL's server has no use for an Ed25519 key in DTLS.
    for key in 0..2 {
        let arguments = ["-dhparam", group.to_str().unwrap(), "-listen"];
        for suite in suites_for(key) {
            // It serves one.
            let (mut program, port) = openssl_server(&files, key, &arguments);
            let mut config = client();
            config.common.suites = vec![suite];
            let mut live = connected(config, None, port);
            live.establish();
            assert_eq!(live.side.connection.summary().unwrap().suite, suite);
            live.send(b"hello\n");
            program.expect("hello");
            program.say("welcome\n");
            live.wait_for(b"welcome\n");
            live.side.connection.close();
            live.flush();
            program.expect("DONE");
        }
    }
}

#[test]
fn our_client_with_gnutls_every_suite_and_key() {
    let files = Files::new();
    for key in 0..3 {
        let (_program, port) = gnutls_server(&files, key, &["--disable-client-cert"]);
        for suite in suites_for(key) {
            let mut config = client();
            config.common.suites = vec![suite];
            let mut live = connected(config, None, port);
            live.establish();
            assert_eq!(live.side.connection.summary().unwrap().suite, suite);
            live.send(b"hello\n");
            live.wait_for(b"hello\n");
            live.side.connection.close();
            live.flush();
        }
    }
}

#[test]
fn openssl_and_gnutls_with_our_server_every_suite_and_key() {
    let files = Files::new();
    for key in 0..3 {
        for suite in suites_for(key) {
            for gnutls in [false, true] {
                let mut config = ServerConfig::default();
                config.common.suites = vec![suite];
                let (mut live, mut program) = accepted(config, key, |port| {
                    if gnutls {
                        gnutls_client(&files, None, port, &[])
                    } else {
                        openssl_client(&files, None, port, &["-cipher", &openssl_name(suite)])
                    }
                });
                live.establish();
                assert_eq!(live.side.connection.summary().unwrap().suite, suite);
                program.say("hello\n");
                live.wait_for(b"hello\n");
                live.send(b"welcome\n");
                program.expect("welcome");
                // close_notify arrives, and ends it.
                live.side.connection.close();
                live.flush();
                if !gnutls {
                    program.expect("closed");
                }
            }
        }
    }
}

#[test]
fn clients_authenticate_or_not() {
    let files = Files::new();
    for shown in [None, Some(0), Some(1), Some(2)] {
        for required in [true, false] {
            let verify = if required { "-Verify" } else { "-verify" };
            let (mut program, port) = openssl_server(&files, 1, &[verify, "1"]);
            let mut live = connected(client(), shown, port);
            live.run_until(|side| side.established);
            if required && shown.is_none() {
                let refused = Error::PeerAlert(Alert::HANDSHAKE_FAILURE);
                assert_eq!(live.side.error(), Some(&refused));
            } else {
                live.send(b"hello\n");
                program.expect("hello");
                if shown.is_some() {
                    program.expect("depth=0");
                } else {
                    assert!(!program.seen.contains("depth=0"));
                }
            }
            if required && shown.is_none() {
                // Over UDP gnutls-serv says nothing to such a client.
                continue;
            }
            let flags = if required { &["--require-client-cert"][..] } else { &[] };
            let (_program, port) = gnutls_server(&files, 1, flags);
            let mut live = connected(client(), shown, port);
            live.establish();
            let showed = live.side.connection.summary().unwrap().shown.is_some();
            assert_eq!(showed, shown.is_some());
            live.send(b"hello\n");
            live.wait_for(b"hello\n");
        }
        for auth in [ClientAuth::Requested, ClientAuth::Required] {
            for gnutls in [false, true] {
                let config = ServerConfig { client_auth: auth, ..ServerConfig::default() };
                let (mut live, mut program) = accepted(config, 1, |port| {
                    if gnutls {
                        gnutls_client(&files, shown, port, &[])
                    } else {
                        openssl_client(&files, shown, port, &[])
                    }
                });
                live.run_until(|side| side.established);
                if auth == ClientAuth::Required && shown.is_none() {
                    assert_eq!(live.side.error(), Some(&Error::NoCertificate));
                    continue;
                }
                let peer = live.side.connection.summary().unwrap().peer.clone();
                let expected = shown.map(|n| credential(n, Shape::X509).certificate.clone());
                assert_eq!(peer, expected);
                program.say("hello\n");
                live.wait_for(b"hello\n");
            }
        }
    }
}

#[test]
fn our_client_resumes_with_gnutls_and_openssl() {
    let files = Files::new();
    for gnutls in [true, false] {
        let (mut program, port) = if gnutls {
            gnutls_server(&files, 1, &["--disable-client-cert"])
        } else {
            openssl_server(&files, 1, &[])
        };
        let mut session = None;
        for resumed in [false, true] {
            let config = ClientConfig { wants_session: true, session, ..client() };
            let mut live = connected(config, None, port);
            live.establish();
            assert_eq!(live.side.connection.summary().unwrap().resumed, resumed, "{gnutls}");
            let line = format!("hello {resumed}\n");
            live.send(line.as_bytes());
            if gnutls {
                live.wait_for(line.as_bytes());
            } else {
                program.expect(line.trim());
            }
            session = live.side.session.take();
            live.side.connection.close();
            live.flush();
            if !gnutls && !resumed {
                program.expect("DONE");
            }
        }
    }
}

#[test]
fn openssl_resumes_with_our_server() {
    let files = Files::new();
    let session = files.path("session");
    let current = Arc::new(TicketKey::generate().unwrap());
    let tickets = Arc::new(TicketKeys { current, previous: vec![], lifetime: 600 });
    for option in ["-sess_out", "-sess_in"] {
        let config = ServerConfig { tickets: Some(tickets.clone()), ..ServerConfig::default() };
        let (mut live, mut program) = accepted(config, 1, |port| {
            openssl_client(&files, None, port, &[option, session.to_str().unwrap()])
        });
        live.establish();
        assert_eq!(live.side.connection.summary().unwrap().resumed, option == "-sess_in");
        program.say("hello\n");
        live.wait_for(b"hello\n");
        live.side.connection.close();
        live.flush();
        program.finish();
    }
}

#[test]
fn our_client_renegotiates_with_openssl_and_gnutls() {
    let files = Files::new();
    for gnutls in [false, true] {
        let (mut program, port) = if gnutls {
            gnutls_server(&files, 1, &["--disable-client-cert"])
        } else {
            openssl_server(&files, 1, &["-client_renegotiation"])
        };
        let mut live = connected(client(), None, port);
        live.establish();
        for round in 1..=2 {
            live.side.connection.renegotiate(None).unwrap();
            live.run_until(|side| side.renegotiated.len() == round || side.refused);
            assert_eq!(live.side.renegotiated.len(), round, "{gnutls} {:?}", live.side.closed);
            let line = format!("round {round}\n");
            live.send(line.as_bytes());
            if gnutls {
                live.wait_for(line.as_bytes());
            } else {
                program.expect(line.trim());
            }
        }
    }
}

#[test]
fn an_openssl_server_renegotiates_with_our_client() {
    let files = Files::new();
    let (mut program, port) = openssl_server(&files, 1, &[]);
    let mut live = connected(client(), Some(0), port);
    live.establish();
    live.send(b"hello\n");
    program.expect("hello");
    // Asks for a certificate in the new handshake.
    program.say("R\n");
    live.run_until(|side| !side.renegotiated.is_empty());
    let expected = Renegotiated { requested: false, peer_changed: false, shown_changed: true };
    assert_eq!(live.side.renegotiated, [expected], "{:?}", live.side.closed);
    live.send(b"again\n");
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
    program.say("hello\n");
    live.wait_for(b"hello\n");
    let asks = ServerConfig { client_auth: ClientAuth::Required, ..ServerConfig::default() };
    let asks = NewConfig::Server(Arc::new(asks));
    live.side.connection.renegotiate(Some(asks)).unwrap();
    live.run_until(|side| side.renegotiated.len() == 2);
    let expected = Renegotiated { requested: true, peer_changed: true, shown_changed: false };
    assert_eq!(live.side.renegotiated.get(1), Some(&expected), "{:?}", live.side.closed);
    program.say("again\n");
    live.wait_for(b"again\n");
}

#[test]
fn a_gnutls_client_renegotiates_with_our_server() {
    let files = Files::new();
    let (mut live, mut program) = accepted(ServerConfig::default(), 1, |port| {
        gnutls_client(&files, None, port, &["--rehandshake"])
    });
    live.establish();
    live.run_until(|side| !side.renegotiated.is_empty());
    assert_eq!(live.side.closed, None);
    program.say("hello\n");
    live.wait_for(b"hello\n");
}

/// Both peers cut their flights, and so do we.
#[test]
fn small_datagrams_both_ways() {
    let files = Files::new();
    for gnutls in [false, true] {
        let (mut program, port) = if gnutls {
            gnutls_server(&files, 0, &["--mtu", "400", "--disable-client-cert"])
        } else {
            openssl_server(&files, 0, &["-mtu", "400"])
        };
        let settings = dtls::Config { mtu: 200, ..dtls::Config::default() };
        let mut live = connected_with(client(), None, port, settings);
        live.establish();
        live.send(b"hello\n");
        if gnutls {
            live.wait_for(b"hello\n");
        } else {
            program.expect("hello");
        }
    }
}

/// Over DTLS too: anonymous first, then who they are.
#[test]
fn our_client_precedes_anonymously_with_openssl() {
    let files = Files::new();
    let group = files.group();
    let arguments = [
        "-cipher",
        "ALL:ADH:@SECLEVEL=0",
        "-dhparam",
        group.to_str().unwrap(),
        "-client_renegotiation",
    ];
    let (mut program, port) = openssl_server(&files, 1, &arguments);
    let mut config = ClientConfig { conceal_name: true, ..client() };
    config.common.anonymous = Anonymous::Precursor;
    config.common.private = true;
    let mut live = connected(config, None, port);
    live.establish();
    let summary = live.side.connection.summary().unwrap();
    assert!(summary.private && summary.peer.is_some());
    live.send(b"hello\n");
    program.expect("hello");
}
