//! Rules and the program over DTLS, with pools on both sides and with OpenSSL.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::thread::{self, JoinHandle};

use tlspool_client::{Plaintext, StarttlsRequest};
use tlspool_tests::app::{Outcome, datagrams, message};
use tlspool_tests::net::{free_udp_port, udp_pair};
use tlspool_tests::{House, Process};

use crate::program::{Does, NO, Program, YES, configuration};
use crate::{assert_denied, authorize, shown};

/// Two pools that trust each other.
fn houses() -> (House, House) {
    let (servers, clients) = (House::new(), House::new());
    servers.identity("example.com");
    clients.identity("john@example.org");
    clients.good(&["trust", "add", servers.anchor()]);
    servers.good(&["trust", "add", clients.anchor()]);
    (servers, clients)
}

/// A server of one message, which it sends back; whom it met, and how many came.
fn serve(house: &House, socket: UdpSocket) -> JoinHandle<Outcome<(String, usize)>> {
    let pool = house.pool();
    thread::spawn(move || {
        let request = StarttlsRequest::server().datagrams().service("coap")?;
        let mut session = pool.starttls(request, socket.into(), Plaintext::pair())?;
        let plaintext = datagrams(&mut session);
        let said = message(&plaintext);
        if !said.is_empty() {
            plaintext.send(&said).unwrap();
        }
        Ok((session.remoteid().to_owned(), usize::from(!said.is_empty())))
    })
}

/// A client's session.
fn begin(house: &House, socket: UdpSocket) -> Outcome<UnixDatagram> {
    let request = StarttlsRequest::client("example.com")?.datagrams().service("coap")?;
    let request = request.localid("john@example.org")?;
    let mut session = house.pool().starttls(request, socket.into(), Plaintext::pair())?;
    Ok(datagrams(&mut session))
}

/// A client that sends a message; what came back, which is empty if the session ended.
fn call(house: &House, socket: UdpSocket) -> Outcome<Vec<u8>> {
    let plaintext = begin(house, socket)?;
    // Who was denied by the other side may learn it only here: the pool shuts the session, in the middle of it or before.
    let mut buffer = [0; 100];
    match plaintext.send(b"hello").and_then(|_| plaintext.recv(&mut buffer)) {
        Ok(n) => Ok(buffer[..n].to_vec()),
        Err(error)
            if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) =>
        {
            Ok(Vec::new())
        }
        Err(error) => panic!("no answer: {error}"),
    }
}

type Met = (Outcome<Vec<u8>>, Outcome<(String, usize)>);

fn meet(servers: &House, clients: &House) -> Met {
    let (near, far) = udp_pair();
    let server = serve(servers, far);
    (call(clients, near), server.join().unwrap())
}

fn assert_met((called, served): Met) {
    assert_eq!(called.unwrap(), b"hello");
    assert_eq!(served.unwrap(), ("john@example.org".to_owned(), 1));
}

/// The server said no, and nothing moved.
fn assert_refused((called, served): Met, words: &str) {
    assert_denied(&served.unwrap_err(), words);
    match called {
        Ok(said) => assert!(said.is_empty(), "{said:?}"),
        Err(error) => assert!(is_told(&error.to_string()), "{error}"),
    }
}

/// Whether the peer's alert is in these words.
fn is_told(words: &str) -> bool {
    words.contains("access denied") || words.contains("access_denied")
}

#[test]
fn rules_in_both_roles() {
    let (servers, clients) = houses();
    let (serving, calling) = (servers.start(), clients.start());
    assert_met(meet(&servers, &clients));
    let local = ["--local", "example.com", "--service", "coap", "--role", "server"];
    let rule = authorize(&servers, &[&["add", "deny", "@example.org"], &local[..]].concat());
    let words = format!("john@example.org is not authorized, by rule {rule}");
    assert_refused(meet(&servers, &clients), &words);
    serving.await_log(&words);
    let allow = ["add", "allow", "john@example.org", "--local", "example.com"];
    let allow = authorize(&servers, &allow);
    assert_met(meet(&servers, &clients));
    authorize(&servers, &["remove", &rule, &allow]);
    // The client denies.
    let rule = authorize(&clients, &["add", "deny", "example.com", "--service", "coap"]);
    let (called, served) = meet(&servers, &clients);
    assert_denied(&called.unwrap_err(), &format!("example.com is not authorized, by rule {rule}"));
    let told = served.unwrap_err().to_string();
    assert!(is_told(&told), "{told}");
    authorize(&clients, &["remove", &rule]);
    assert_met(meet(&servers, &clients));
    let log = calling.stop();
    assert!(log.contains("DTLSv1.2"), "{log}");
    serving.stop();
}

#[test]
fn a_client_shows_nothing_to_whom_it_may_not_meet() {
    let house = House::new();
    house.identity("john@example.org");
    let leaf = house.authority().leaf("example.com");
    let daemon = house.start();
    let port = free_udp_port();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-dtls1_2", "-listen", "-Verify", "1", "-CAfile", house.anchor()]);
    command.args(["-accept", &format!("127.0.0.1:{port}")]).args(shown(&leaf));
    let server = Process::start(&mut command);
    server.await_words("ACCEPT");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(("127.0.0.1", port)).unwrap();
    let rule = authorize(&house, &["add", "deny", "example.com", "--local", "@example.org"]);
    let error = call(&house, udp).unwrap_err();
    assert_denied(&error, &format!("example.com is not authorized, by rule {rule}"));
    let said = server.await_words("alert access denied");
    assert!(!said.contains("BEGIN CERTIFICATE"), "our certificate left: {said}");
    daemon.stop();
}

#[test]
fn the_program_is_asked_once_and_obeyed() {
    let (servers, clients) = houses();
    servers.configure(&configuration(&servers, "", "timeout = \"50s\""));
    let program = Program::start(&servers);
    let daemons = [servers.start(), clients.start()];
    program.now(Does::Say(YES));
    assert_met(meet(&servers, &clients));
    let question = serde_json::json!({"version": 1, "role": "server",
        "remote": "john@example.org", "local": "example.com", "service": "coap"});
    assert_eq!(program.asked(), question);
    program.now(Does::Say(NO));
    assert_refused(meet(&servers, &clients), "john@example.org is not authorized, by /");
    assert_eq!(program.asked(), question);
    // Nobody answers: that is no yes.
    program.now(Does::Die);
    assert_refused(meet(&servers, &clients), "john@example.org is not authorized");
    assert_eq!(program.asked(), question);

    // While it thinks, the client may be done and speak already: that is kept, and asks nobody a second time.
    program.now(Does::Hang);
    let (near, far) = udp_pair();
    let served = serve(&servers, far);
    let plaintext = begin(&clients, near).unwrap();
    plaintext.send(b"hello").unwrap();
    assert_eq!(program.asked(), question);
    assert!(!served.is_finished());
    program.release(YES);
    assert_met((Ok(message(&plaintext)), served.join().unwrap()));
    assert!(program.lines.try_recv().is_err(), "once for each handshake");
    for daemon in daemons {
        daemon.stop();
    }
}
