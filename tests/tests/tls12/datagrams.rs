//! DTLS over UDP: two pools, and OpenSSL and GnuTLS on either side.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;

use tlspool_client::{Plaintext, PoolError, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::{datagrams, message};
use tlspool_tests::net::{free_udp_port, udp_pair};
use tlspool_tests::{House, Process};

#[test]
fn messages_keep_their_boundaries_between_two_pools() {
    let (servers, clients) = (House::new(), House::new());
    servers.identity("example.com");
    clients.identity("john@example.org");
    clients.good(&["trust", "add", servers.anchor()]);
    servers.good(&["trust", "add", clients.anchor()]);
    let (serving, calling) = (servers.start(), clients.start());
    let (near, far) = udp_pair();
    let pool = servers.pool();
    let server = thread::spawn(move || {
        let request = StarttlsRequest::server().datagrams();
        let mut session = pool.starttls(request, far.into(), Plaintext::pair())?;
        let plaintext = datagrams(&mut session);
        for _ in 0..4 {
            plaintext.send(&message(&plaintext)).unwrap();
        }
        Ok::<_, tlspool_client::Error>(session.remoteid().to_owned())
    });
    let request = StarttlsRequest::client("example.com").unwrap().datagrams();
    let request = request.localid("john@example.org").unwrap();
    let mut session = clients
        .pool()
        .starttls(request, near.into(), Plaintext::pair())
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", serving.log(), calling.log()));
    assert_eq!(session.remoteid(), "example.com");
    let plaintext = datagrams(&mut session);
    // One that no datagram carries is lost, and disturbs nothing.
    plaintext.send(&vec![9; 60_000]).unwrap();
    for length in [1, 2, 700, 1200] {
        let sent = vec![length as u8; length];
        plaintext.send(&sent).unwrap();
        assert_eq!(message(&plaintext), sent);
    }
    assert_eq!(server.join().unwrap().unwrap(), "john@example.org");
    drop((plaintext, session));
    let log = calling.stop();
    assert!(log.contains("DTLSv1.2"), "{log}");
    serving.stop();
}

#[test]
fn openssl_and_gnutls_as_servers() {
    let house = House::new();
    let leaf = house.authority().leaf("example.com");
    let daemon = house.start();
    for gnutls in [false, true] {
        let port = free_udp_port();
        let number = port.to_string();
        let mut command;
        let ready;
        if gnutls {
            command = Command::new("gnutls-serv");
            command.args(["--udp", "--echo", "--port", &number, "--disable-client-cert"]);
            command.args(["--x509certfile", leaf.certificate(), "--x509keyfile", leaf.key()]);
            // It says "listening" before it does, and this afterwards.
            ready = "...done";
        } else {
            command = Command::new("openssl");
            command.args(["s_server", "-dtls1_2", "-listen"]);
            command.args(["-accept", &format!("127.0.0.1:{number}")]);
            command.args(["-cert", leaf.certificate(), "-key", leaf.key()]);
            ready = "ACCEPT";
        }
        let mut server = Process::start(&mut command);
        server.await_words(ready);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.connect(("127.0.0.1", port)).unwrap();
        let request = StarttlsRequest::client("example.com").unwrap().datagrams();
        let mut session = house
            .pool()
            .starttls(request, udp.into(), Plaintext::pair())
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", server.said(), daemon.log()));
        assert_eq!(session.remoteid(), "example.com");
        let plaintext = datagrams(&mut session);
        plaintext.send(b"abc\n").unwrap();
        if gnutls {
            // It echoes by itself; the other one says what its terminal says.
            assert_eq!(message(&plaintext), b"abc\n");
        } else {
            server.await_words("abc");
            server.tell("cba\n");
            assert_eq!(message(&plaintext), b"cba\n");
        }
    }
    daemon.stop();
}

#[test]
fn openssl_and_gnutls_as_clients() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    for gnutls in [false, true] {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port().to_string();
        let mut command;
        if gnutls {
            command = Command::new("gnutls-cli");
            command.args(["--udp", "--x509cafile", house.anchor(), "--sni-hostname"]);
            command.args(["example.com", "--verify-hostname", "example.com"]);
            command.args(["--port", &port, "127.0.0.1"]);
        } else {
            command = Command::new("openssl");
            command.args(["s_client", "-dtls1_2", "-servername", "example.com", "-CAfile"]);
            command.args([house.anchor(), "-verify_return_error", "-verify_hostname"]);
            command.args(["example.com", "-connect", &format!("127.0.0.1:{port}")]);
        }
        let mut client = Process::start(&mut command);
        // Who is there is learned from the first datagram, which stays in the socket.
        let mut first = [0; 2000];
        let (_, peer) = udp.peek_from(&mut first).unwrap();
        udp.connect(peer).unwrap();
        let request = StarttlsRequest::server().datagrams().flags(Flags::IGNORE_REMOTEID);
        let mut session = house
            .pool()
            .starttls(request, OwnedFd::from(udp), Plaintext::pair())
            .unwrap_or_else(|error| panic!("{error}\n{}\n{}", client.said(), daemon.log()));
        let plaintext = datagrams(&mut session);
        client.tell("hello\n");
        assert_eq!(message(&plaintext), b"hello\n");
        plaintext.send(b"welcome\n").unwrap();
        client.await_words("welcome");
    }
    daemon.stop();
}

#[test]
fn wrong_sockets_and_flags_are_refused() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    let pool = house.pool();
    let refused = |request: StarttlsRequest, socket: OwnedFd| {
        pool.starttls(request, socket, Plaintext::pair()).unwrap_err().pool_error()
    };
    let unconnected = UdpSocket::bind("127.0.0.1:0").unwrap();
    let request = StarttlsRequest::server().datagrams();
    assert_eq!(refused(request.clone(), unconnected.into()), Some(PoolError::CipherSocketNeeded));
    let (tcp, _other) = tlspool_tests::net::tcp_pair();
    assert_eq!(refused(request, tcp.into()), Some(PoolError::CipherSocketNeeded));
    let (near, _far) = udp_pair();
    assert_eq!(
        refused(StarttlsRequest::server().flags(Flags::DTLS), near.into()),
        Some(PoolError::RecordMalformed)
    );
    daemon.stop();
}
