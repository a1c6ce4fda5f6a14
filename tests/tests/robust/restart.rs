//! Taking the daemon's place while it works, and ending it.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tlspool_client::wire::Body;
use tlspool_client::{StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::plaintext;
use tlspool_tests::binaries::program;
use tlspool_tests::net::{free_port, listen, tcp_pair};
use tlspool_tests::{House, LIMIT, Process};

use crate::alone;
use crate::load::Load;
use crate::processes::is_running;
use crate::raw::{Pair, Raw, client, server, with};
use crate::streams::{Stream, both};

/// Connections established before the handover; each is two sessions of the pool.
const ESTABLISHED: usize = 1000;

/// Answers everything that connects with what it sends, for as long as the test runs.
fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// A server's tunnel to `to` and a client's tunnel to that one; returns both and where to connect.
fn tunnels(house: &House, to: &str) -> (Process, Process, String) {
    let start = |arguments: &[&str]| {
        let mut command = Command::new(program("tlstunnel"));
        command.args(arguments).args(["-S", &house.text("run/sock")]);
        let tunnel = Process::start(&mut command);
        tunnel.await_words("ready");
        tunnel
    };
    let middle = format!("127.0.0.1:{}", free_port());
    let front = format!("127.0.0.1:{}", free_port());
    let far = start(&["-s", "-l", &middle, "-r", to, "-L", "example.com"]);
    let near = start(&["-c", "-l", &front, "-r", &middle, "-R", "example.com"]);
    (far, near, front)
}

#[test]
fn a_handover_under_load_loses_nothing() {
    let _alone = alone();
    let house = House::new();
    house.identity("example.com");
    let old = house.start();
    let (client, server) = (client("example.com"), server("example.com"));

    // Sessions of three kinds of programs: those that have left, those that know nothing of handovers,
    // and those that understand DRAIN_NOTICE.
    let leaving = Raw::connect(&house.socket()).unwrap();
    let (forked, forked_server) =
        (with(client.clone(), Flags::FORK), with(server.clone(), Flags::FORK));
    let mut pairs = leaving.pairs(ESTABLISHED * 4 / 10, &forked, &forked_server).unwrap();
    drop(leaving);
    let staying = Raw::connect(&house.socket()).unwrap();
    pairs.extend(staying.pairs(ESTABLISHED * 4 / 10, &client, &server).unwrap());
    let pool = house.pool();
    let (near, far) =
        (StarttlsRequest::from(client.clone()), StarttlsRequest::from(server.clone()));
    while pairs.len() < ESTABLISHED {
        let (mut near, mut far) = both(&pool, near.clone(), far.clone()).unwrap();
        pairs.push(Pair { near: plaintext(&mut near), far: plaintext(&mut far) });
    }
    assert_eq!(house.status()["sessions"], 2 * ESTABLISHED);
    let network = house.status()["daemon"]["network_pid"].as_u64().unwrap() as u32;

    // New connections of three kinds.
    let (listener, address) = listen();
    echo(listener);
    let (_far, _near, front) = tunnels(&house, &address.to_string());
    let load = Load::on(pairs);
    let streams = [
        Stream::of_pool(pool.clone(), near.clone(), far),
        Stream::of_raw(house.socket(), client, server),
        Stream::of_echoes("tlstunnel", front),
    ];
    let go_on = || {
        load.await_rounds(1);
        for stream in &streams {
            stream.await_more(5);
        }
    };
    go_on();
    let second = house.start_with(&["-k"]);
    assert_eq!(old.hear(), format!("MAINPID={}", second.pid()));
    go_on();
    let third = house.start_with(&["-k"]);
    go_on();
    assert_eq!(house.status()["daemon"]["pid"], third.pid());
    let made = streams.map(Stream::stop_good);

    // The established ones are all there still, in the process that had them.
    load.await_rounds(1);
    let mut pairs = load.stop();
    assert_eq!(pairs.len(), ESTABLISHED);
    for pair in &mut pairs {
        pair.exchange().unwrap();
    }
    eprintln!("new connections meanwhile: {made:?}");
    let (status, log) = second.end();
    assert!(status.success(), "the one between had no session left: {status}: {log}");

    // The old process ends with its last session.
    let mut last = pairs.pop().unwrap();
    drop(pairs);
    last.exchange().unwrap();
    assert!(is_running(old.pid()) && is_running(network));
    drop(last);
    let (status, log) = old.end();
    assert!(status.success() && log.contains("drained"), "{status}: {log}");
    assert!(!is_running(network));
    drop((staying, pool));
    third.stop();
}

/// Existing programs know nothing of handovers: one that has just connected sends its request whoever
/// accepted it.
#[test]
fn who_connected_just_before_is_served() {
    let _alone = alone();
    let house = House::new();
    house.identity("example.com");
    let old = house.start();
    let fresh = Raw::connect(&house.socket()).unwrap();
    house.await_status("clients", 1);
    let new = house.start_with(&["-k"]);
    old.await_log("this one drains");
    let mut pairs = fresh.pairs(1, &client("example.com"), &server("example.com")).unwrap();
    pairs[0].exchange().unwrap();
    assert_eq!(house.status()["sessions"], 0, "it is the old one that serves it");
    drop((pairs, fresh));
    let (status, log) = old.end();
    assert!(status.success(), "{status}: {log}");
    new.stop();
}

#[test]
fn sessions_that_outlast_drain_timeout_are_cut() {
    let _alone = alone();
    let house = House::with("[limits]\ndrain_timeout = \"1s\"");
    house.identity("example.com");
    let old = house.start();
    let raw = Raw::connect(&house.socket()).unwrap();
    let mut pairs = raw.pairs(2, &client("example.com"), &server("example.com")).unwrap();
    let (server_end, client_end) = tcp_pair();
    raw.ask(1, server("example.com"), server_end.into()).unwrap();
    raw.ask(2, client("example.com"), client_end.into()).unwrap();
    let mut over_tcp = Vec::new();
    while over_tcp.len() < 2 {
        let packet = raw.answer().unwrap();
        if matches!(packet.body, Body::PlaintextConnect(_)) {
            over_tcp.push(raw.connect_tcp(&packet).unwrap());
        }
    }
    let begun = Instant::now();
    let new = house.start_with(&["-k"]);
    pairs[0].exchange().unwrap();
    drop(pairs.pop());
    // Nobody closed them, so it must not look as if the peer had.
    for end in &mut over_tcp {
        end.read(&mut [0]).expect_err("a cut session is no clean end");
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "too early");
    let Pair { mut near, far } = pairs.pop().unwrap();
    assert_eq!(near.read(&mut [0]).unwrap_or(0), 0);
    let (status, log) = old.end();
    assert!(status.success() && log.contains("drain_timeout has passed"), "{status}: {log}");
    assert!(begun.elapsed() < LIMIT);
    drop((far, raw));
    new.stop();
}

/// Of a program that has closed, the rest waits for a slow peer, but not for longer than the daemon may drain.
#[test]
fn what_is_on_its_way_does_not_outlast_drain_timeout() {
    let _alone = alone();
    let house = House::with("[limits]\ndrain_timeout = \"1s\"");
    house.identity("example.com");
    let daemon = house.start();
    let raw = Raw::connect(&house.socket()).unwrap();
    let Pair { mut near, far } =
        raw.pairs(1, &client("example.com"), &server("example.com")).unwrap().pop().unwrap();
    // As much as there is room for on a way at whose end nobody reads.
    near.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    while near.write(&[7; 1 << 14]).is_ok() {}
    drop(near);
    let begun = Instant::now();
    daemon.signal(Signal::TERM);
    let (status, log) = daemon.end();
    assert!(status.success() && log.contains("drain_timeout has passed"), "{status}: {log}");
    assert!(begun.elapsed() < LIMIT, "{log}");
    drop((far, raw));
}

#[test]
fn term_drains_and_a_second_term_quits() {
    let _alone = alone();
    let house = House::new();
    house.identity("example.com");
    for quits in [false, true] {
        let daemon = house.start();
        let raw = Raw::connect(&house.socket()).unwrap();
        let mut pairs = raw.pairs(1, &client("example.com"), &server("example.com")).unwrap();
        let network = house.status()["daemon"]["network_pid"].as_u64().unwrap() as u32;
        daemon.signal(Signal::TERM);
        assert!(daemon.hear().starts_with("STOPPING=1"));
        let begun = Instant::now();
        while UnixStream::connect(house.socket()).is_ok() {
            assert!(begun.elapsed() < LIMIT, "the daemon ends, but lets programs in");
        }
        pairs[0].exchange().unwrap();
        assert!(is_running(network));
        if quits {
            daemon.signal(Signal::TERM);
        } else {
            pairs.clear();
        }
        let (status, log) = daemon.end();
        assert!(status.success(), "{status}: {log}");
        assert!(log.contains(if quits { "ending at once" } else { "drained" }), "{log}");
        assert!(!is_running(network));
    }
}

#[test]
fn a_stale_pid_file_is_no_obstacle_and_a_second_start_is() {
    let _alone = alone();
    let house = House::new();
    std::fs::create_dir_all(house.path("run")).unwrap();
    // A process that runs, but holds no lock.
    house.write("run/tlspool.pid", &format!("{}\n", std::process::id()));
    let daemon = house.start();
    let complaint = house.bad(&["-f"]);
    assert!(complaint.contains(&format!("PID {}", daemon.pid())), "{complaint}");
    assert!(complaint.contains("-k"), "{complaint}");
    daemon.stop();
}
