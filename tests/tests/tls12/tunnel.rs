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

#[test]
fn who_shows_no_cookie_gets_no_session_and_no_more_bytes() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    let (listen, service) = (address(), address());
    let _tunnel = tunnel(&house, &["-s", "-l", &listen, "-r", &service]);
    let mut sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.set_read_timeout(Some(LIMIT)).unwrap();
    // A ClientHello of DTLS 1.2 with one suite and no cookie.
    let mut hello = vec![22, 254, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 54];
    hello.extend([1, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 42, 254, 253]);
    hello.extend([7; 32]);
    hello.extend([0, 0, 0, 2, 0xc0, 0x2f, 1, 0]);
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
