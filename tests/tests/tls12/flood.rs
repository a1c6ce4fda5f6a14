//! A flood of hellos from addresses at which nobody asked for anything: no state, and no more bytes than came.

#[path = "../robust/processes.rs"]
#[allow(dead_code)] // shared with other test programs
mod processes;

use std::net::UdpSocket;
use std::process::Command;

use processes::Holdings;
use tlspool_tests::binaries::program;
use tlspool_tests::net::free_udp_port;
use tlspool_tests::{House, LIMIT, Process};

const HELLOS: usize = 100_000;
/// Sockets, each at an address of its own, and the hellos that each sends at a time.
const SENDERS: usize = 50;
/// Addresses: after so many hellos all senders move on.
const ROUND: usize = 1000;
/// Memory that the allocator may keep more of.
const SLACK_KIB: u64 = 4096;

/// A ClientHello of DTLS 1.2 with this number in it, one suite, and a cookie that nobody gave.
fn hello(number: usize) -> Vec<u8> {
    let cookie: &[u8] = if number.is_multiple_of(2) { &[] } else { &[9; 20] };
    let length = 42 + cookie.len() as u8;
    let mut hello = vec![22, 254, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, length + 12];
    hello.extend([1, 0, 0, length, 0, 0, 0, 0, 0, 0, 0, length, 254, 253]);
    let mut random = [7; 32];
    random[..8].copy_from_slice(&(number as u64).to_be_bytes());
    hello.extend(random);
    hello.extend([0, cookie.len() as u8]);
    hello.extend(cookie);
    hello.extend([0, 2, 0xc0, 0x2f, 1, 0]);
    hello
}

/// Sends hellos from `SENDERS` addresses of the loopback network; returns the bytes sent and received.
fn flood(listen: &str, from: usize, hellos: usize) -> (usize, usize) {
    let (mut sent, mut received) = (0, 0);
    let mut answer = [0; 2000];
    for start in (from..from + hellos).step_by(ROUND) {
        let senders: Vec<_> = (0..SENDERS)
            .map(|n| {
                let n = start / ROUND * SENDERS + n;
                let address = format!("127.{}.{}.{}:0", 1 + (n >> 16), (n >> 8) & 255, n & 255);
                let socket = UdpSocket::bind(address).unwrap();
                socket.set_read_timeout(Some(LIMIT)).unwrap();
                socket
            })
            .collect();
        for number in (start..start + ROUND).step_by(SENDERS) {
            for (n, sender) in senders.iter().enumerate() {
                sent += sender.send_to(&hello(number + n), listen).unwrap();
            }
            for sender in &senders {
                let n = sender.recv(&mut answer).unwrap();
                assert_eq!((answer[0], answer[13]), (22, 3), "a HelloVerifyRequest");
                received += n;
            }
        }
    }
    (sent, received)
}

#[test]
fn a_hundred_thousand_spoofed_hellos_leave_no_state() {
    let house = House::new();
    let leaf = house.identity("example.com");
    let daemon = house.start();
    let port = free_udp_port();
    let listen = format!("127.0.0.1:{port}");
    let service = UdpSocket::bind("127.0.0.1:0").unwrap();
    service.set_read_timeout(Some(LIMIT)).unwrap();
    let mut command = Command::new(program("tlstunnel"));
    command.arg("-S").arg(house.socket()).args(["-u", "-s", "-l", &listen, "-r"]);
    command.args([&service.local_addr().unwrap().to_string(), "-L", "example.com"]);
    let tunnel = Process::start(&mut command);
    tunnel.await_words("ready");
    // One round first, for what is allocated once.
    flood(&listen, 0, ROUND);
    let (before, said) = (Holdings::of(tunnel.pid()), tunnel.said());
    let (sent, received) = flood(&listen, ROUND, HELLOS);
    assert!(received <= sent, "{received} bytes for {sent}");
    let after = Holdings::of(tunnel.pid());
    assert_eq!((after.descriptors, after.threads), (before.descriptors, before.threads));
    assert!(after.rss_kib <= before.rss_kib + SLACK_KIB, "{before:?} {after:?}");
    // Nobody has heard of it.
    assert_eq!(tunnel.said(), said);
    for total in ["requests", "handshakes", "failed", "refused"] {
        house.await_status(&format!("totals/{total}"), 0);
    }
    // And who is really there is served.
    let mut command = Command::new("openssl");
    command.args(["s_client", "-dtls1_2", "-connect", &listen, "-CAfile", house.anchor()]);
    command.args(["-servername", "example.com", "-quiet"]);
    let mut client = Process::start(&mut command);
    client.tell("hello\n");
    let mut buffer = [0; 100];
    let n = service.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"hello\n");
    drop((client, tunnel, leaf));
    daemon.stop();
}
