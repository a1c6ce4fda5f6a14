//! How connections end: each direction by itself, and a cut that nobody takes for an end.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::process::Command;
use std::thread;

use rustix::process::Signal;
use tlspool_client::{Plaintext, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::{Server, accept, call, noise, read_all};
use tlspool_tests::net::{listen, tcp_pair};
use tlspool_tests::{House, Process};

fn open() -> StarttlsRequest {
    StarttlsRequest::server().flags(Flags::IGNORE_REMOTEID)
}

/// A Python program with TLS of its own: says when the other side has ended, and goes on writing.
const LATE_WRITER: &str = r#"
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[3])
context.maximum_version = getattr(ssl.TLSVersion, sys.argv[4])
tcp = socket.create_connection((sys.argv[1], int(sys.argv[2])))
tls = context.wrap_socket(tcp, server_hostname="example.com", suppress_ragged_eofs=False)
heard = b""
while chunk := tls.recv(65536):
    heard += chunk
print("heard", heard.decode(), flush=True)
tls.sendall(b"x" * 1000000)
tls.sendall(b"last words")
try:
    tls.unwrap()
except ssl.SSLError as error:
    print("unwrap:", error)
tcp.close()
"#;

#[test]
fn our_side_ends_and_the_peer_goes_on() {
    let house = House::new();
    house.identity("example.com");
    let _daemon = house.start();
    let script = house.write("late.py", LATE_WRITER);
    for version in ["TLSv1_2", "TLSv1_3"] {
        let server = Server::start(house.pool(), open(), |_, plaintext| {
            plaintext.write_all(b"first words").unwrap();
            plaintext.shutdown(Shutdown::Write).unwrap();
            read_all(plaintext)
        });
        let mut command = Command::new("python3");
        command.arg(&script).args(["127.0.0.1", &server.address.port().to_string()]);
        let peer = Process::start(command.args([house.anchor(), version]));
        let heard = server.outcome().unwrap().unwrap();
        assert_eq!(heard.len(), 1_000_010, "{}", peer.said());
        assert!(heard.ends_with(b"last words"));
        let (status, said) = peer.end();
        assert!(status.success() && said.contains("heard first words"), "{said}");
    }
}

/// `gnutls-cli` says its end when its input ends, and reads on.
#[test]
fn the_peer_ends_and_our_side_goes_on() {
    let house = House::new();
    house.identity("example.com");
    let _daemon = house.start();
    for version in ["1.2", "1.3"] {
        let server = Server::start(house.pool(), open(), |_, plaintext| {
            let heard = read_all(&mut *plaintext).unwrap();
            plaintext.write_all(b"I heard you to the end\n").unwrap();
            heard
        });
        let mut command = Command::new("gnutls-cli");
        command.args(["--x509cafile", house.anchor(), "--verify-hostname", "example.com"]);
        command.args(["--sni-hostname", "example.com", "127.0.0.1", "-p"]);
        command.arg(server.address.port().to_string());
        command.arg(format!("--priority=NORMAL:-VERS-ALL:+VERS-TLS{version}"));
        let mut peer = Process::start(&mut command);
        peer.await_words("Simple Client Mode");
        peer.tell("the end\n");
        peer.close_stdin();
        peer.await_words("I heard you to the end");
        assert_eq!(server.outcome().unwrap(), b"the end\n");
    }
}

/// The same with the pool on both sides and megabytes in flight.
#[test]
fn both_directions_end_by_themselves() {
    let house = House::new();
    house.identity("example.com");
    let _daemon = house.start();
    let bytes = noise(8 << 20);
    let answer: Vec<u8> = bytes.iter().rev().copied().collect();
    let expected = answer.clone();
    let server = Server::start(house.pool(), open(), move |_, plaintext| {
        let heard = read_all(&mut *plaintext).unwrap();
        plaintext.write_all(&answer).unwrap();
        heard
    });
    let pool = house.pool();
    let (_session, mut plaintext) =
        call(&pool, StarttlsRequest::client("example.com").unwrap(), server.address).unwrap();
    plaintext.write_all(&bytes).unwrap();
    plaintext.shutdown(Shutdown::Write).unwrap();
    assert!(read_all(&plaintext).unwrap() == expected);
    assert!(server.outcome().unwrap() == bytes);
    house.await_status("sessions", 0);
}

/// A peer that dies sends the end of its TCP connection, but not that of TLS. An application that got
/// an end of file would take half a message for a whole one. (UNIX sockets have no reset, so this is
/// for those who hand over TCP sockets.)
#[test]
fn a_cut_connection_is_no_end_of_file() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    for option in ["-tls1_2", "-tls1_3"] {
        let (listener, address) = listen();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-ign_eof", "-connect", &address.to_string(), option]);
        let mut peer = Process::start(command.args(["-servername", "example.com"]));
        let cipher = accept(&listener);
        let (mut mine, theirs) = tcp_pair();
        let pool = house.pool();
        let session = pool.starttls(open(), cipher, Plaintext::given(theirs.into())).unwrap();
        assert_eq!(session.localid(), "example.com");
        peer.tell("half a mess");
        let mut heard = [0; 11];
        mine.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"half a mess");
        peer.signal(Signal::KILL);
        let end = mine.read(&mut heard);
        let reset = end.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset);
        assert!(reset, "{option}: {end:?}");
    }
    let log = daemon.stop();
    assert_eq!(log.matches("ended without close_notify").count(), 2, "{log}");
}

/// Full duplex: both directions are busy at once, and neither waits for the other.
#[test]
fn both_directions_at_once() {
    let house = House::new();
    house.identity("example.com");
    let _daemon = house.start();
    let (there, back) = (noise(16 << 20), noise(12 << 20));
    let (expected, sent) = (there.clone(), back.clone());
    let server = Server::start(house.pool(), open(), move |_, plaintext| {
        thread::scope(|scope| {
            let mut writing = plaintext.try_clone().unwrap();
            let writer = scope.spawn(move || {
                writing.write_all(&sent).unwrap();
                writing.shutdown(Shutdown::Write).unwrap();
            });
            let heard = read_all(plaintext).unwrap();
            writer.join().unwrap();
            heard == expected
        })
    });
    let pool = house.pool();
    let (_session, plaintext) =
        call(&pool, StarttlsRequest::client("example.com").unwrap(), server.address).unwrap();
    thread::scope(|scope| {
        let mut writing = plaintext.try_clone().unwrap();
        scope.spawn(move || {
            writing.write_all(&there).unwrap();
            writing.shutdown(Shutdown::Write).unwrap();
        });
        assert!(read_all(&plaintext).unwrap() == back);
    });
    assert!(server.outcome().unwrap());
}
