//! Who wants more than the limits give is told which setting it was.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::Command;

use tlspool_client::wire::Body;
use tlspool_client::{PoolError as E, Starttls};
use tlspool_tests::binaries::program;
use tlspool_tests::net::{dial, free_port, listen};
use tlspool_tests::{House, Process, is_root};

use crate::alone;
use crate::raw::{Raw, client, server, tcp};

#[allow(clippy::needless_pass_by_value)] // a refusal is looked at once
fn told(refusal: (E, String), setting: &str) {
    assert_eq!(refusal.0, E::LimitReached, "{}", refusal.1);
    assert!(refusal.1.contains(setting), "{:?} does not name {setting}", refusal.1);
}

#[test]
fn connections() {
    let _alone = alone();
    let limits = [
        ("clients = 3\nclients_per_user = 3", "limits.clients"),
        ("clients_per_user = 2", "limits.clients_per_user"),
    ];
    for (lines, setting) in limits {
        let house = House::with(&format!("[limits]\n{lines}"));
        let daemon = house.start();
        let many: Vec<Raw> = (0..6).map(|_| Raw::connect(&house.socket()).unwrap()).collect();
        let allowed = if setting == "limits.clients" { 3 } else { 2 };
        for raw in &many[allowed..] {
            told(raw.refusal(), setting);
            assert_eq!((&raw.0).read(&mut [0]).unwrap(), 0, "and that is all");
        }
        daemon.await_log(&format!("{setting} is {allowed}"));
        drop(many);
        house.await_status("clients", 0);
        let again = Raw::connect(&house.socket()).unwrap();
        assert_eq!(again.refused(Body::Unknown(5), &[]).0, E::CommandUnknown);
        drop(again);
        daemon.stop();
    }
}

#[test]
fn sessions() {
    let _alone = alone();
    let limits = [
        ("sessions = 4\nsessions_per_user = 4", "limits.sessions"),
        ("sessions_per_user = 4", "limits.sessions_per_user"),
    ];
    for (lines, setting) in limits {
        let house = House::with(&format!("[limits]\n{lines}"));
        house.identity("example.com");
        let daemon = house.start();
        let raw = Raw::connect(&house.socket()).unwrap();
        let (client, server) = (client("example.com"), server("example.com"));
        let mut pairs = raw.pairs(2, &client, &server).unwrap();
        let (fd, _peer) = tcp();
        told(raw.refused(Body::Starttls(client.clone()), &[fd.as_fd()]), setting);
        daemon.await_log(setting);
        if setting == "limits.sessions_per_user" && is_root() {
            another_user(&house);
            house.await_status("sessions", 4);
        }
        for pair in &mut pairs {
            pair.exchange().unwrap();
        }
        drop(pairs.pop());
        house.await_status("sessions", 2);
        pairs.extend(raw.pairs(1, &client, &server).unwrap());
        for pair in &mut pairs {
            pair.exchange().unwrap();
        }
        drop((pairs, raw));
        daemon.stop();
    }
}

/// What one user has used up, another has not: a tunnel of his works, which takes two sessions.
fn another_user(house: &House) {
    let (listener, address) = listen();
    let (middle, front) = (free_port(), free_port());
    let tunnel = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(program("tlstunnel")).args(arguments);
        command.args(["-S", &house.text("run/sock")]);
        let tunnel = Process::start(&mut command);
        tunnel.await_words("ready");
        tunnel
    };
    let (middle, front) = (format!("127.0.0.1:{middle}"), format!("127.0.0.1:{front}"));
    let _far = tunnel(&["-s", "-l", &middle, "-r", &address.to_string(), "-L", "example.com"]);
    let _near = tunnel(&["-c", "-l", &front, "-r", &middle, "-R", "example.com"]);
    let mut near = dial(&front).unwrap();
    near.write_all(b"hello").unwrap();
    let mut far = listener.accept().unwrap().0;
    let mut heard = [0; 5];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    drop((near, far));
}

#[test]
fn requests_in_flight() {
    let _alone = alone();
    let house = House::with("[limits]\nrequests_per_client = 2");
    house.identity("example.com");
    let daemon = house.start();
    let raw = Raw::connect(&house.socket()).unwrap();
    let peers: Vec<_> = (0..2)
        .map(|reqid| {
            let (fd, peer) = tcp();
            raw.ask(reqid, Starttls { timeout_ms: u32::MAX, ..server("example.com") }, fd).unwrap();
            peer
        })
        .collect();
    let (fd, _peer) = tcp();
    told(raw.refused(Body::Starttls(server("example.com")), &[fd.as_fd()]), "requests_per_client");
    daemon.await_log("requests_per_client");
    drop(peers);
    for _ in 0..2 {
        assert_eq!(raw.refusal().0, E::StirredNotShaken);
    }
    assert_eq!(raw.refused(Body::Unknown(5), &[]).0, E::CommandUnknown);
    drop(raw);
    daemon.stop();
}

/// One user's peers that say nothing keep no other user from his handshakes: two at a time, for a tunnel.
#[test]
fn handshakes_of_other_users() {
    if !is_root() {
        eprintln!("SKIPPED: only root can run a program as another user");
        return;
    }
    let _alone = alone();
    let house = House::with("[limits]\nhandshakes = 6");
    house.identity("example.com");
    let daemon = house.start();
    let raw = Raw::connect(&house.socket()).unwrap();
    let silent: Vec<_> = (0..20)
        .map(|reqid| {
            let (fd, peer) = tcp();
            raw.ask(reqid, Starttls { timeout_ms: u32::MAX, ..server("example.com") }, fd).unwrap();
            peer
        })
        .collect();
    house.await_status("sessions", 20);
    another_user(&house);
    house.await_status("sessions", 20);
    drop((silent, raw));
    daemon.stop();
}

/// Handshakes beyond the limit wait their turn, within their time.
#[test]
fn handshakes_at_a_time() {
    let _alone = alone();
    let house = House::with("[limits]\nhandshakes = 1");
    house.identity("example.com");
    let daemon = house.start();
    let (raw, other) =
        (Raw::connect(&house.socket()).unwrap(), Raw::connect(&house.socket()).unwrap());
    let (fd, peer) = tcp();
    raw.ask(1, Starttls { timeout_ms: u32::MAX, ..server("example.com") }, fd).unwrap();
    house.await_status("sessions", 1);
    let (fd, waiting) = tcp();
    let brief = Starttls { timeout_ms: 200, ..server("example.com") };
    let refusal = other.refused(Body::Starttls(brief), &[fd.as_fd()]);
    assert_eq!(refusal.0, E::Timeout, "{}", refusal.1);
    drop((peer, waiting));
    assert_eq!(raw.refusal().0, E::StirredNotShaken);
    drop((raw, other));
    daemon.stop();
}
