//! `privacy.mode = "require"`: whoever the peer is, no certificate of ours is seen on the wire.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread::{self, JoinHandle};

use tlspool_client::{Error, Plaintext, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::{Server, call, datagrams, message};
use tlspool_tests::net::{dial, free_port, free_udp_port, listen, udp_pair};
use tlspool_tests::{Daemon, House, Process};

use crate::precursor::{contains, der, tap};

/// What the pool says of it.
const FORBIDDEN: &str = "must not be";

fn house() -> House {
    House::with("[privacy]\nmode = \"require\"")
}

fn said(error: &Error) -> String {
    error.to_string()
}

/// Who passes on a connection to `target`, and has seen all of it in the end.
fn observer(
    target: impl FnOnce() -> TcpStream + Send + 'static,
) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let (listener, address) = listen();
    let wire = thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        tap(near, target())
    });
    (address, wire)
}

/// A client as there are many: TLS 1.2, and no suite without certificates.
fn plain_client(address: SocketAddr, version: &str) -> Process {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string(), version, "-quiet"]);
    Process::start(command.args(["-servername", "example.com"]))
}

/// Whether the service permits a precursor or not, whether the program names who it is or not.
#[test]
fn a_server_shows_no_certificate_to_a_plain_tls12_client() {
    let house = house();
    let certificate = der(&std::fs::read(house.identity("example.com").certificate()).unwrap());
    let token = house.token("pgp");
    house.good(&["identity", "create", "example.com", "--openpgp", "--token", &token]);
    let daemon = house.start();
    for service in ["smtp", "http", ""] {
        for named in [false, true] {
            let mut request = StarttlsRequest::server().service(service).unwrap();
            request = request.flags(Flags::IGNORE_REMOTEID);
            if named {
                request = request.localid("example.com").unwrap();
            }
            let server = Server::greeter(house.pool(), request);
            let target = server.at();
            let (address, wire) = observer(move || dial(target).unwrap());
            let mut client = plain_client(address, "-tls1_2");
            client.tell("hello\n");
            let error = said(&server.outcome().unwrap_err());
            assert!(error.contains(FORBIDDEN), "{service} {named}: {error}");
            drop(client);
            assert!(!contains(&wire.join().unwrap(), &certificate), "{service} {named}");
        }
    }
    // TLS 1.3 hides it by itself.
    let request = StarttlsRequest::server().service("smtp").unwrap();
    let server = Server::greeter(house.pool(), request.flags(Flags::IGNORE_REMOTEID));
    let mut client = plain_client(server.address, "-tls1_3");
    client.tell("hello\n");
    client.await_words("you are : hello");
    drop(client);
    server.outcome().unwrap();
    daemon.stop();
}

/// A server as there are many, which asks for a certificate.
fn plain_server(house: &House, version: &str) -> (Process, u16) {
    let leaf = house.authority().leaf("example.com");
    let port = free_port();
    let mut command = Command::new("openssl");
    command.args(["s_server", version, "-accept", &format!("127.0.0.1:{port}"), "-verify", "1"]);
    command.args(["-cert", leaf.certificate(), "-key", leaf.key(), "-naccept", "1"]);
    let server = Process::start(&mut command);
    server.await_words("ACCEPT");
    (server, port)
}

#[test]
fn a_client_shows_no_certificate_to_a_plain_tls12_server() {
    let house = house();
    let own = der(&std::fs::read(house.identity("john@example.org").certificate()).unwrap());
    let token = house.token("pgp");
    for name in ["jane@example.org", "john@example.org"] {
        // John has both kinds, Jane nothing else; both have OpenPGP first.
        house.good(&[
            "identity",
            "create",
            name,
            "--openpgp",
            "--token",
            &token,
            "--preference=-1",
        ]);
    }
    let daemon = house.start();
    for service in ["smtp", "ldap", ""] {
        for localid in ["john@example.org", "jane@example.org"] {
            let (server, port) = plain_server(&house, "-tls1_2");
            let (address, wire) = observer(move || dial(("127.0.0.1", port)).unwrap());
            let request = StarttlsRequest::client("example.com").unwrap().service(service).unwrap();
            let request = request.localid(localid).unwrap();
            let error = said(&call(&house.pool(), request, address).unwrap_err());
            // Of a server that could hide them only by the precursor, all that is seen is its alert.
            let told = if service == "smtp" { "handshake_failure" } else { FORBIDDEN };
            assert!(error.contains(told), "{service} {localid}: {error}");
            drop(server);
            let seen = wire.join().unwrap();
            assert!(!contains(&seen, &own) && !contains(&seen, b"@example.org"), "{service}");
        }
    }
    // John also has what TLS 1.3 takes.
    let (mut server, port) = plain_server(&house, "-tls1_3");
    let request = StarttlsRequest::client("example.com").unwrap().service("ldap").unwrap();
    let request = request.localid("john@example.org").unwrap();
    let session = call(&house.pool(), request, ("127.0.0.1", port));
    let (session, plaintext) =
        session.unwrap_or_else(|error| panic!("{error}\n{}\n{}", server.said(), daemon.log()));
    assert_eq!(session.localid(), "john@example.org");
    drop((plaintext, session));
    server.wait();
    daemon.stop();
}

/// What a datagram server of the pool makes of a client.
fn serve(house: &House, udp: UdpSocket, service: &str) -> Result<Vec<u8>, Error> {
    let request = StarttlsRequest::server().datagrams().flags(Flags::IGNORE_REMOTEID);
    let request = request.service(service).unwrap().localid("example.com").unwrap();
    let mut session = house.pool().starttls(request, OwnedFd::from(udp), Plaintext::pair())?;
    Ok(message(&datagrams(&mut session)))
}

#[test]
fn datagrams_show_no_certificate_to_plain_peers() {
    let house = house();
    house.identity("example.com");
    let daemon = house.start();
    for service in ["generic_anonpre", "http", ""] {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        let mut command = Command::new("openssl");
        command.args(["s_client", "-dtls1_2", "-connect", &format!("127.0.0.1:{port}")]);
        let client = Process::start(&mut command);
        let (_, peer) = udp.peek_from(&mut [0; 2000]).unwrap();
        udp.connect(peer).unwrap();
        let error = said(&serve(&house, udp, service).unwrap_err());
        assert!(error.contains(FORBIDDEN), "{service}: {error}");
        assert!(!client.said().contains("BEGIN CERTIFICATE"), "{}", client.said());
    }
    let leaf = house.authority().leaf("example.com");
    let port = free_udp_port();
    let mut command = Command::new("openssl");
    command.args(["s_server", "-dtls1_2", "-listen", "-accept", &format!("127.0.0.1:{port}")]);
    let server = Process::start(command.args(["-cert", leaf.certificate(), "-key", leaf.key()]));
    server.await_words("ACCEPT");
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.connect(("127.0.0.1", port)).unwrap();
    let request = StarttlsRequest::client("example.com").unwrap().datagrams();
    let refused = house.pool().starttls(request, udp.into(), Plaintext::pair()).unwrap_err();
    assert!(said(&refused).contains(FORBIDDEN), "{refused}");
    daemon.stop();
}

/// The precursor hides them here too, where the service permits it.
#[test]
fn datagrams_between_two_pools_are_private() {
    let house = house();
    house.identity("example.com");
    house.good(&["policy", "add", "example.com", "identity and pkix and private"]);
    let daemon: Daemon = house.start();
    let (near, far) = udp_pair();
    thread::scope(|threads| {
        let served = threads.spawn(|| serve(&house, far, "generic_anonpre"));
        let request = StarttlsRequest::client("example.com").unwrap().datagrams();
        let request = request.service("generic_anonpre").unwrap();
        let mut session = house
            .pool()
            .starttls(request, near.into(), Plaintext::pair())
            .unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
        datagrams(&mut session).send(b"hello").unwrap();
        assert_eq!(served.join().unwrap().unwrap(), b"hello");
    });
    daemon.stop();
}
