//! `tlstunnel -u`: DNS through two tunnels and two pools, between `dig` and NSD.

use std::net::UdpSocket;
use std::process::Command;

use tlspool_tests::binaries::program;
use tlspool_tests::net::free_udp_port;
use tlspool_tests::{House, LIMIT, Process, run};

fn tunnel(house: &House, arguments: &[&str]) -> Process {
    let mut command = Command::new(program("tlstunnel"));
    command.arg("-S").arg(house.socket()).arg("-u").args(arguments);
    let tunnel = Process::start(&mut command);
    tunnel.await_words("ready");
    tunnel
}

fn address() -> String {
    format!("127.0.0.1:{}", free_udp_port())
}

/// An authoritative server for `example.test`, and where it listens.
fn name_server(house: &House) -> (Process, String) {
    let port = free_udp_port();
    let zone = "$ORIGIN example.test.\n@ 60 SOA a b 1 60 60 60 60\n@ 60 NS a\na 60 A 192.0.2.7\n";
    let zone = house.write("example.test.zone", zone);
    let folder = house.path("").display().to_string();
    let configuration = house.write(
        "nsd.conf",
        &format!(
            "server:\n ip-address: 127.0.0.1@{port}\n username: \"\"\n chroot: \"\"\n \
             zonesdir: \"{folder}\"\n database: \"\"\n pidfile: \"{folder}/nsd.pid\"\n \
             xfrdfile: \"{folder}/xfrd.state\"\n zonelistfile: \"{folder}/zone.list\"\n \
             logfile: \"\"\n server-count: 1\nremote-control:\n control-enable: no\n\
             zone:\n name: example.test\n zonefile: {}\n",
            zone.display()
        ),
    );
    let mut command = Command::new("nsd");
    command.arg("-d").arg("-c").arg(configuration);
    let server = Process::start(&mut command);
    server.await_words("nsd started");
    (server, format!("127.0.0.1:{port}"))
}

#[test]
fn dig_asks_nsd_over_dtls() {
    let (servers, clients) = (House::new(), House::new());
    servers.identity("example.com");
    clients.good(&["trust", "add", servers.anchor()]);
    let (serving, calling) = (servers.start(), clients.start());
    let (_nsd, service) = name_server(&servers);
    let (middle, near) = (address(), address());
    let server = tunnel(&servers, &["-s", "-l", &middle, "-r", &service, "-L", "example.com"]);
    let client = tunnel(&clients, &["-c", "-l", &near, "-r", &middle, "-R", "example.com"]);
    let port = near.rsplit(':').next().unwrap();
    for _ in 0..3 {
        let mut dig = Command::new("dig");
        dig.args(["+short", "+tries=2", "+time=10", "@127.0.0.1", "-p", port, "a.example.test"]);
        let said = run(&mut dig);
        assert!(
            said.ok && said.out == "192.0.2.7\n",
            "{}{}\n{}\n{}",
            said.out,
            said.err,
            server.said(),
            client.said()
        );
    }
    // Sessions of datagrams end with who has them.
    drop((server, client));
    calling.stop();
    let log = serving.stop();
    assert_eq!(log.matches("protocol=DTLSv1.2").count(), 3, "{log}");
}

/// A ClientHello of DTLS 1.2 that can be answered, and the number that its record and its message have.
fn hello(number: u8, cookie: &[u8]) -> Vec<u8> {
    let length = 72 + cookie.len() as u8;
    let mut hello = vec![22, 254, 255, 0, 0, 0, 0, 0, 0, 0, number, 0, length + 12];
    hello.extend([1, 0, 0, length, 0, number, 0, 0, 0, 0, 0, length, 254, 253]);
    hello.extend([7; 32]);
    hello.extend([0, cookie.len() as u8]);
    hello.extend(cookie);
    // ECDHE with ECDSA or RSA, secure renegotiation; extended master secret, P-256, signatures.
    hello.extend([0, 6, 0xc0, 0x2b, 0xc0, 0x2f, 0, 0xff, 1, 0, 0, 24, 0, 23, 0, 0]);
    hello.extend([0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1]);
    hello
}

/// A service that hears what comes.
fn service() -> (UdpSocket, String) {
    let service = UdpSocket::bind("127.0.0.1:0").unwrap();
    service.set_read_timeout(Some(LIMIT)).unwrap();
    let address = service.local_addr().unwrap().to_string();
    (service, address)
}

fn hears(service: &UdpSocket, words: &str) -> bool {
    let mut heard = [0; 100];
    service.recv(&mut heard).is_ok_and(|n| &heard[..n] == words.as_bytes())
}

fn s_client(server: &str, more: &[&str]) -> Process {
    let mut command = Command::new("openssl");
    Process::start(command.args(["s_client", "-dtls1_2", "-connect", server]).args(more))
}

#[test]
fn a_client_that_comes_again_from_its_port_is_served() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    let ((service, at), listen, own) = (service(), address(), address());
    let tunnel = tunnel(&house, &["-s", "-l", &listen, "-r", &at, "-L", "example.com"]);
    for words in ["once\n", "again\n"] {
        let mut client = s_client(&listen, &["-bind", &own]);
        client.tell(words);
        assert!(hears(&service, words), "{}\n{}", client.said(), tunnel.said());
        client.end();
        house.await_status("sessions", 0);
    }
    daemon.stop();
}

/// While there is no room, who asks is not answered; it asks again.
#[test]
fn a_client_that_found_no_room_is_served_later() {
    let house = House::with("[limits]\nhandshake_timeout = \"5s\"");
    house.identity("example.com");
    let daemon = house.start();
    let ((service, at), listen) = (service(), address());
    let arguments = ["-s", "-l", &listen, "-r", &at, "-L", "example.com", "--pending", "1"];
    let tunnel = tunnel(&house, &arguments);
    // It shows its cookie, and says nothing more.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    silent.set_read_timeout(Some(LIMIT)).unwrap();
    silent.connect(&listen).unwrap();
    silent.send(&hello(0, &[])).unwrap();
    let mut asks = [0; 100];
    let n = silent.recv(&mut asks).unwrap();
    silent.send(&hello(1, &asks[28..n])).unwrap();
    house.await_status("sessions", 1);
    let mut client = s_client(&listen, &[]);
    client.tell("hello\n");
    assert!(hears(&service, "hello\n"), "{}\n{}", client.said(), tunnel.said());
    // Sessions of datagrams end with who has them.
    drop((client, tunnel));
    daemon.stop();
}

#[test]
fn who_shows_no_cookie_gets_no_session_and_no_more_bytes() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    let (listen, service) = (address(), address());
    let _tunnel = tunnel(&house, &["-s", "-l", &listen, "-r", &service]);
    let mut sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.set_read_timeout(Some(LIMIT)).unwrap();
    let hello = hello(0, &[]);
    let mut answer = [0; 2000];
    for _ in 0..200 {
        sender.send_to(&hello, &listen).unwrap();
        let n = sender.recv(&mut answer).unwrap();
        assert!(n <= hello.len(), "{n} bytes for {}", hello.len());
        assert_eq!((answer[0], answer[13]), (22, 3), "a HelloVerifyRequest");
        sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.set_read_timeout(Some(LIMIT)).unwrap();
    }
    let log = daemon.stop();
    assert!(!log.contains("handshake"), "{log}");
}
