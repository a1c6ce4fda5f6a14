//! `tlstunnel -x` and `-y`: an echo service of SCTP behind two tunnels and two pools.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use tlspool_client::wire::MessageHeader;
use tlspool_client::wire::message::{MAX_MESSAGE, MessageFlags};
use tlspool_sctp::Info;
use tlspool_tests::binaries::program;
use tlspool_tests::net::{dial, free_port};
use tlspool_tests::sctp::{self, Capture, Echo, End};
use tlspool_tests::{House, Process};

use super::messages::Two;

/// A tunnel that is ready.
fn tunnel(house: &House, arguments: &[&str]) -> Process {
    let mut command = Command::new(program("tlstunnel"));
    command.arg("-S").arg(house.socket()).args(arguments);
    let tunnel = Process::start(&mut command);
    tunnel.await_words("ready");
    tunnel
}

/// Two pools and two tunnels between `near` and `service`.
struct Way {
    two: Two,
    tunnels: [Process; 2],
    middle: SocketAddr,
}

impl Way {
    fn new(near: &str, service: &str, how: &[&str], ends: [&[&str]; 2]) -> Self {
        let two = Two::new("");
        let middle = SocketAddr::from(([127, 0, 0, 1], sctp::free_port()));
        let at = middle.to_string();
        let server = ["-s", "-l", &at, "-r", service, "-L", "example.com", "-R"];
        let server = [&server[..], &["john@example.org"], how, ends[0]].concat();
        let client = ["-c", "-l", near, "-r", &at, "-R", "example.com", "-L"];
        let client = [&client[..], &["john@example.org"], how, ends[1]].concat();
        let tunnels = [tunnel(&two.servers, &server), tunnel(&two.clients, &client)];
        Self { two, tunnels, middle }
    }

    fn said(&self) -> String {
        self.tunnels.each_ref().map(Process::said).join("\n") + &self.two.logs()
    }

    fn stop(self) -> String {
        drop(self.tunnels);
        self.two.stop()
    }
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

#[test]
#[ignore = "in the VM"]
fn dtls_keeps_streams_protocols_and_order() {
    let echo = Echo::start(100);
    let near = at(sctp::free_port());
    let capture = Capture::start();
    let way = Way::new(&near.to_string(), &echo.address.to_string(), &["-x", "0"], [&[], &[]]);
    let ends: Vec<_> = (0..3).map(|_| End::dial(near, 100)).collect();
    let secret = b"a secret of the echo service";
    for n in 0..100_u16 {
        let end = &ends[usize::from(n) % ends.len()];
        let length = (usize::from(n) * 331) % MAX_MESSAGE + 1;
        let mut message = secret.repeat(length / secret.len() + 1);
        message.truncate(length);
        let info = Info { stream: n, ppid: u32::from(n) * 77_777, unordered: n % 4 == 0 };
        end.send(&message, info);
        assert_eq!(end.next(), Some((message, info)), "{}", way.said());
    }
    for end in ends {
        end.finish();
        assert_eq!(end.next(), None);
    }
    let seen = capture.of(way.middle.port());
    let data: Vec<_> = seen.iter().filter(|packet| packet.has_data()).collect();
    assert!(data.len() > 100, "{}", data.len());
    for packet in data {
        assert!(packet.is_authenticated(), "{packet:?}");
        let shown = |value: &[u8]| value.windows(secret.len()).any(|window| window == secret);
        assert!(!packet.chunks.iter().any(|(_, _, value)| shown(value)), "plaintext");
    }
    let log = way.stop();
    assert_eq!(log.matches("protocol=DTLSv1.2").count(), 6, "{log}");
}

#[test]
#[ignore = "in the VM"]
fn a_stream_of_dtls_for_programs_on_unix_sockets() {
    let echo = Echo::start(100);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("near");
    let service = echo.address.to_string();
    // With the last one, each message has a header that says its stream.
    let ppid = [0, 0, 0, 46];
    let header = MessageHeader { stream: 99, flags: MessageFlags::UNORDERED, ppid }.encode();
    for (stream, header) in [("7", &[][..]), ("65535", &header)] {
        let way = Way::new(path.to_str().unwrap(), &service, &["-x", stream], [&[], &[]]);
        let program = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        connect(&program, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        let program = std::os::unix::net::UnixDatagram::from(program);
        program.set_read_timeout(Some(tlspool_tests::LIMIT)).unwrap();
        for message in [&b"one"[..], b"another", &[3; MAX_MESSAGE]] {
            let message = [header, message].concat();
            program.send(&message).unwrap();
            let mut buffer = vec![0; message.len() + 1];
            let n = program.recv(&mut buffer).unwrap();
            assert_eq!(buffer[..n], message, "{}", way.said());
        }
        drop(program);
        way.stop();
    }
}

#[test]
#[ignore = "in the VM"]
fn a_service_without_the_stream_is_told_apart_in_the_log() {
    let echo = Echo::start(5);
    let near = at(sctp::free_port());
    let way = Way::new(&near.to_string(), &echo.address.to_string(), &["-y", "9"], [&[], &[]]);
    let end = End::dial(near, 10);
    assert_eq!(end.next(), None);
    way.tunnels[0].await_words("the plaintext side: the association has no stream 9");
    way.stop();
}

#[test]
#[ignore = "in the VM"]
fn tls_on_one_stream_between_services_of_sctp() {
    let echo = Echo::start(10);
    let near = at(sctp::free_port());
    let way = Way::new(&near.to_string(), &echo.address.to_string(), &["-y", "2"], [&[], &[]]);
    let end = End::dial(near, 10);
    let sent = tlspool_tests::app::noise(100_000);
    let info = Info { stream: 2, ..Info::default() };
    for piece in sent.chunks(5000) {
        end.send(piece, info);
    }
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let (bytes, at) = end.next().unwrap_or_else(|| panic!("{}", way.said()));
        assert_eq!(at.stream, 2);
        received.extend(bytes);
    }
    assert!(received == sent);
    end.finish();
    assert_eq!(end.next(), None);
    let log = way.stop();
    assert_eq!(log.matches("protocol=TLSv1.3").count(), 2, "{log}");
}

#[test]
#[ignore = "in the VM"]
fn tls_on_one_stream_between_programs_of_tcp_and_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service");
    let service = UnixListener::bind(&path).unwrap();
    let near = at(free_port());
    let ends: [&[&str]; 2] = [&[], &["--plain-tcp"]];
    let way = Way::new(&near.to_string(), path.to_str().unwrap(), &["-y", "0"], ends);
    let echo = thread::spawn(move || {
        let (mut stream, _) = service.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let mut program = dial(near).unwrap();
    let sent = tlspool_tests::app::noise(300_000);
    program.write_all(&sent).unwrap();
    program.shutdown(std::net::Shutdown::Write).unwrap();
    let mut received = Vec::new();
    program.read_to_end(&mut received).unwrap();
    assert!(received == sent, "{} bytes\n{}", received.len(), way.said());
    echo.join().unwrap();
    way.stop();
}

#[test]
#[ignore = "in the VM"]
fn a_peer_that_does_not_authenticate_chunks_is_told_apart_in_the_log() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    let (listen, service) = (at(sctp::free_port()), at(sctp::free_port()));
    let (here, there) = (listen.to_string(), service.to_string());
    let tunnel = tunnel(&house, &["-s", "-x", "0", "-l", &here, "-r", &there]);
    let end = End::dial(listen, 1);
    assert_eq!(end.next(), None);
    tunnel.await_words("RFC 4895");
    daemon.stop();
}
