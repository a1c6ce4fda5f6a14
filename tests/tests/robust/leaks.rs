//! 100,000 failed requests of all kinds leave nothing behind.

use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use tlspool_client::wire::packet::{ControlRequest, ErrorReply};
use tlspool_client::wire::{Body, Packet};
use tlspool_client::{CtlKey, Starttls, Text};
use tlspool_tests::{House, LIMIT};

use crate::alone;
use crate::processes::{Holdings, room_for_descriptors};
use crate::raw::{Raw, client, server, tcp};

/// Failed requests in all.
const FAILED: usize = 100_000;
/// Of these, handshakes that fail in the middle.
const HANDSHAKES: usize = 4000;
/// Rounds; what is in use is compared from the first to the last.
const ROUNDS: usize = 10;
/// Cheap ones on one connection at a time.
const BATCH: usize = 100;
/// Memory that the allocator may keep more of, in the end.
const SLACK_KIB: u64 = 8192;

/// Requests that fail at once, in different ways.
fn cheap(fds: &[OwnedFd]) -> Vec<(Vec<u8>, Vec<BorrowedFd<'_>>)> {
    let request = |body: Body| Packet { reqid: 3, cbid: 0, body }.encode().to_vec();
    let key = CtlKey([7; 16]);
    let control = || ControlRequest { ctlkey: key, ..ControlRequest::default() };
    let starttls = || request(Body::Starttls(server("example.com")));
    let mut garbled = starttls();
    garbled[20..148].fill(b'x');
    let mut stray = request(Body::PlaintextConnect(Starttls::default()));
    stray[2] = 9;
    let error = ErrorReply { code: 1, message: Text::cut("no") };
    let mut all = vec![
        (request(Body::Unknown(0x999)), vec![]),
        (request(Body::Error(error)), vec![]),
        (request(Body::ControlDetach(control())), vec![]),
        (request(Body::ControlReattach(control())), vec![]),
        (request(Body::LidentryCallback(tlspool_client::Lidentry::default())), vec![]),
        (starttls(), vec![]),
        (garbled, vec![fds[0].as_fd()]),
        (stray, vec![fds[0].as_fd()]),
        (starttls(), vec![fds[0].as_fd(), fds[1].as_fd()]),
        (starttls(), vec![fds[0].as_fd(); 20]),
        (request(Body::Starttls(server("not a name"))), vec![fds[2].as_fd()]),
    ];
    all.extend(fds.iter().take(2).map(|fd| (starttls(), vec![fd.as_fd()])));
    all
}

/// Handshakes that fail in the middle, eight ways.
fn handshake(house: &House, raw: &Raw, way: usize) {
    let (near, mut far) = tcp();
    let request = match way % 8 {
        6 => Starttls { timeout_ms: 1, ..server("example.com") },
        _ => server("example.com"),
    };
    match way % 8 {
        0 => far.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap(),
        1 => far.write_all(b"\x16\x03\x01\x02").unwrap(),
        2 | 3 => {
            // The client wants another server, or the server refuses the plaintext callback.
            let name = if way % 8 == 2 { "other.example.com" } else { "example.com" };
            raw.ask(1, request, near).unwrap();
            raw.ask(2, client(name), far.into()).unwrap();
            let mut failed = 0;
            while failed < 2 {
                let packet = raw.answer().unwrap();
                match &packet.body {
                    Body::PlaintextConnect(_) => raw.send(&packet, None).unwrap(),
                    Body::Error(_) => failed += 1,
                    other => panic!("{other:?}"),
                }
            }
            return;
        }
        4 => drop(rustix::net::sockopt::set_socket_linger(&far, Some(std::time::Duration::ZERO))),
        5 => {
            // The program leaves.
            let leaving = Raw::connect(&house.socket()).unwrap();
            leaving.ask(1, request, near).unwrap();
            return;
        }
        6 => {
            raw.ask(1, request, near).unwrap();
            raw.refusal();
            return;
        }
        _ => {}
    }
    drop(far);
    raw.ask(1, request, near).unwrap();
    raw.refusal();
}

fn round(house: &House) {
    let (raw, other) = tlspool_tests::net::tcp_pair();
    let udp: OwnedFd = UdpSocket::bind("127.0.0.1:0").unwrap().into();
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let fds = [file, udp, raw.into(), other.into()];
    let kinds = cheap(&fds);
    let failing = (FAILED - HANDSHAKES) / ROUNDS / BATCH;
    for batch in 0..failing {
        let raw = Raw::connect(&house.socket()).unwrap();
        for n in 0..BATCH {
            let (bytes, fds) = &kinds[(batch + n) % kinds.len()];
            raw.send_bytes(bytes, fds).unwrap();
        }
        for _ in 0..BATCH {
            raw.refusal();
        }
        if batch % 2 == 0 {
            raw.send_bytes(&[0; 50], &[fds[0].as_fd()]).unwrap();
        }
    }
    let raw = Raw::connect(&house.socket()).unwrap();
    // A failed pair is two.
    (0..HANDSHAKES / ROUNDS).for_each(|way| handshake(house, &raw, way));
    drop(raw);
    house.await_status("clients", 0);
    house.await_status("sessions", 0);
}

#[test]
fn a_hundred_thousand_failures_leave_nothing() {
    let _alone = alone();
    let house = House::with("[log]\nlevel = \"error\"");
    house.identity("example.com");
    let daemon = house.start();
    let pid = |which: &str| house.status()["daemon"][which].as_u64().unwrap() as u32;
    let processes = [daemon.pid(), pid("network_pid"), pid("key_process_pid")];
    let holdings = || processes.map(Holdings::of);
    round(&house);
    let first = holdings();
    for _ in 1..ROUNDS {
        round(&house);
    }
    // The supervisor may not have noticed yet that the question for the status is over.
    let deadline = Instant::now() + LIMIT;
    let is_back = |(before, after): (&Holdings, &Holdings)| {
        after.descriptors <= before.descriptors && after.threads <= before.threads
    };
    let mut last = holdings();
    while !first.iter().zip(&last).all(is_back) && Instant::now() < deadline {
        std::thread::yield_now();
        last = holdings();
    }
    eprintln!("supervisor, network, keys: {first:?}, then {last:?}");
    let refused = &house.status()["totals"];
    eprintln!("totals: {refused}");
    for (before, after) in first.iter().zip(&last) {
        assert!(is_back((before, after)), "descriptors or threads are left: {before:?} {after:?}");
        assert!(
            after.rss_kib <= before.rss_kib + SLACK_KIB,
            "memory is left: {before:?} {after:?}"
        );
    }
    daemon.stop();
}

/// The kernel need not make its table of descriptors larger in a rush, while all threads that open one wait.
#[test]
fn there_is_room_for_many_descriptors_from_the_start() {
    let house = House::new();
    let daemon = house.start();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let wanted = limit.map_or(1 << 16, |limit| limit.min(1 << 16));
    let pid = house.status()["daemon"]["network_pid"].as_u64().unwrap() as u32;
    let room = room_for_descriptors(pid);
    assert!(room >= wanted, "room for {room} of {wanted}");
    daemon.stop();
}
