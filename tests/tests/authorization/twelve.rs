//! Rules in the engine `tls12`: OpenPGP peers, and renegotiation.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;

use tlspool_client::{CtlKey, PoolError, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::House;
use tlspool_tests::app::{Server, call};

use crate::{assert_denied, authorize};

/// Makes an OpenPGP identity with its keys on a token of `house`, known to `other`.
fn openpgp(house: &House, name: &str, other: &House) {
    let token = house.token("pgp");
    house.good(&["identity", "create", name, "--openpgp", "--token", &token]);
    let file = other.text(&format!("{name}.pgp"));
    std::fs::write(&file, house.good(&["identity", "export", name, "--armor"])).unwrap();
    other.good(&["trust", "add", "--openpgp", &file]);
}

#[test]
fn openpgp_peers_on_both_sides() {
    let (servers, clients) = (House::new(), House::new());
    openpgp(&servers, "example.com", &clients);
    openpgp(&clients, "john@example.org", &servers);
    let (serving, calling) = (servers.start(), clients.start());
    let request = || {
        let request = StarttlsRequest::client("example.com").unwrap();
        request.localid("john@example.org").unwrap()
    };
    let meet = || {
        let server = Server::greeter(servers.pool(), StarttlsRequest::server());
        let ours = call(&clients.pool(), request(), server.at()).map(|(_, mut plaintext)| {
            // Who is denied by the other side learns it only here.
            let mut said = String::new();
            if plaintext.write_all(b"hello\n").is_ok() {
                let _ = plaintext.read_to_string(&mut said);
            }
            said
        });
        (ours, server.outcome())
    };
    let (ours, theirs) = meet();
    assert_eq!(ours.unwrap(), "you are john@example.org: hello\n");
    assert_eq!(theirs.unwrap().remoteid, "john@example.org");
    // The server denies; that the session resumes does not matter.
    let rule = authorize(&servers, &["add", "deny", "john@example.org", "--local", "example.com"]);
    let (ours, theirs) = meet();
    assert_eq!(ours.unwrap_or_default(), "");
    assert_denied(
        &theirs.unwrap_err(),
        &format!("john@example.org is not authorized, by rule {rule}"),
    );
    authorize(&servers, &["remove", &rule]);
    // The client denies.
    let rule = authorize(&clients, &["add", "deny", "example.com"]);
    let (ours, theirs) = meet();
    assert_denied(&ours.unwrap_err(), &format!("example.com is not authorized, by rule {rule}"));
    let told = theirs.unwrap_err().to_string();
    assert!(told.contains("access denied") || told.contains("access_denied"), "{told}");
    authorize(&clients, &["remove", &rule]);
    assert!(meet().1.is_ok());
    assert!(calling.stop().contains("TLSv1.2"));
    serving.stop();
}

fn echo(plaintext: &mut UnixStream) -> std::io::Result<String> {
    plaintext.write_all(b"line\n")?;
    let mut line = String::new();
    BufReader::new(&*plaintext).read_line(&mut line)?;
    Ok(line)
}

/// Sends every line back, until there is none; then says what it was sent.
fn parrot(_: &tlspool_client::Session, plaintext: &mut UnixStream) -> usize {
    let mut reader = BufReader::new(plaintext.try_clone().unwrap());
    let mut lines = 0;
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) | Err(_) => return lines,
            Ok(_) => lines += 1,
        }
        if plaintext.write_all(line.as_bytes()).is_err() {
            return lines;
        }
    }
}

#[test]
fn who_shows_itself_later_is_asked_about_then() {
    let more = "[privacy]\nmode = \"attempt\"";
    for server_denies in [true, false] {
        let (servers, clients) = (House::with(more), House::with(more));
        servers.identity("example.com");
        clients.identity("john@example.org");
        clients.good(&["trust", "add", servers.anchor()]);
        servers.good(&["trust", "add", clients.anchor()]);
        let (serving, calling) = (servers.start(), clients.start());
        let request =
            StarttlsRequest::server().service("smtp").unwrap().flags(Flags::REQUEST_REMOTEID);
        let server = Server::start(servers.pool(), request, parrot);
        let key = CtlKey([7; 16]);
        let request = StarttlsRequest::client("example.com").unwrap().service("smtp").unwrap();
        let pool = clients.pool();
        let (session, mut plaintext) = call(&pool, request.clone().ctlkey(key), server.at())
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", serving.log(), calling.log()));
        assert_eq!((session.localid(), session.remoteid()), ("", "example.com"));
        assert_eq!(echo(&mut plaintext).unwrap(), "line\n");
        let wish = request.localid("john@example.org").unwrap().ctlkey(key);
        let rule = if server_denies {
            authorize(&servers, &["add", "deny", "john@example.org", "--role", "server"])
        } else {
            authorize(&clients, &["add", "deny", ".", "--local", "john@example.org"])
        };
        let outcome = pool.renegotiate(wish);
        let words = if server_denies {
            // TLS 1.2 is complete on both sides when the server says no: the client may be told first that
            // it is done. What matters is that nothing moves.
            if let Err(error) = outcome {
                assert_ne!(error.pool_error(), Some(PoolError::NotAuthorized), "{error}");
            }
            format!("john@example.org is not authorized, by rule {rule}")
        } else {
            assert_denied(&outcome.unwrap_err(), &format!("by rule {rule}"));
            format!("example.com is not authorized, by rule {rule}")
        };
        assert_ne!(echo(&mut plaintext).unwrap_or_default(), "line\n", "data moves");
        let denies = if server_denies { &serving } else { &calling };
        denies.await_log(&words);
        drop(plaintext);
        assert_eq!(server.outcome().unwrap(), 1, "nothing reached the server's program");
        calling.stop();
        serving.stop();
    }
}
