//! The connection of a program that asks for much moves to another worker, and back when it asks for little: with
//! half a record, with requests under way, and with all that ends with it.

use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tlspool_client::wire::{Body, Packet, RECORD_LEN};
use tlspool_client::{Facilities, Ping, Text};
use tlspool_tests::House;

use crate::alone;
use crate::raw::{Raw, client, server, tcp};

/// Requests under way, one more than a slow program has.
const MANY: u16 = 33;
/// After this time without a request a program is a slow one again, whatever it asked for before.
const FORGOTTEN: Duration = Duration::from_millis(200);
/// The number of a PING.
const PING: u16 = 4711;
/// So much of a record is not the whole.
const HALF: usize = 100;

fn ping() -> [u8; RECORD_LEN] {
    let ping = Ping { identity: Text::cut("moves"), facilities: Facilities::STARTTLS.0 };
    Packet { reqid: PING, cbid: 0, body: Body::Ping(ping) }.encode()
}

fn pong(raw: &Raw) {
    let answer = raw.answer().unwrap();
    assert!(matches!(answer.body, Body::Ping(_)), "{answer:?}");
    assert_eq!(answer.reqid, PING);
}

/// A program that asks for so much that its connection moves, and has begun to send a PING; `before` records earlier.
fn begin(house: &House, before: usize) -> (Raw, Vec<TcpStream>) {
    let raw = Raw::connect(&house.socket()).unwrap();
    (0..before).for_each(|_| raw.send_bytes(&ping(), &[]).unwrap());
    let peers = (0..MANY).map(|number| {
        let (fd, peer) = tcp();
        let request =
            Packet { reqid: number, cbid: 0, body: Body::Starttls(server("example.com")) };
        let mut bytes = request.encode().to_vec();
        if number + 1 == MANY {
            bytes.extend(&ping()[..HALF]);
        }
        raw.send_bytes(&bytes, &[fd.as_fd()]).unwrap();
        peer
    });
    let peers = peers.collect();
    (0..before).for_each(|_| pong(&raw));
    (raw, peers)
}

#[test]
fn a_connection_moves_with_all_that_belongs_to_it() {
    let _alone = alone();
    let house = House::with("log = { level = \"debug\" }\n");
    house.identity("example.com");
    let daemon = house.start();
    let express = house.status()["workers"].as_array().unwrap().len() - 1;
    let (away, back) = (format!("from={express} to="), format!("to={express}"));
    let programs: Vec<_> = (0..8).map(|before| begin(&house, before)).collect();
    let have_moved =
        |count| daemon.await_log_that(&away, |log| log.matches(&away).count() == count);
    have_moved(programs.len());
    for (raw, peers) in programs {
        raw.send_bytes(&ping()[HALF..], &[]).unwrap();
        pong(&raw);
        // What was under way is answered where it goes on.
        drop(peers);
        let mut refused: Vec<u16> = (0..MANY).map(|_| raw.answer().unwrap().reqid).collect();
        refused.sort_unstable();
        assert_eq!(refused, (0..MANY).collect::<Vec<_>>());
        drop(raw);
    }
    house.await_status("clients", 0);
    // A program that asks for little comes back, and half a record with it.
    let (raw, peers) = begin(&house, 0);
    have_moved(9);
    drop(peers);
    raw.send_bytes(&ping()[HALF..], &[]).unwrap();
    (0..=MANY).for_each(|_| drop(raw.answer().unwrap()));
    let begun = Instant::now();
    while begun.elapsed() < FORGOTTEN {
        raw.send_bytes(&ping(), &[]).unwrap();
        pong(&raw);
    }
    let (fd, peer) = tcp();
    let request = Packet { reqid: 0, cbid: 0, body: Body::Starttls(server("example.com")) };
    let mut bytes = request.encode().to_vec();
    bytes.extend(&ping()[..HALF]);
    raw.send_bytes(&bytes, &[fd.as_fd()]).unwrap();
    daemon.await_log(&back);
    raw.send_bytes(&ping()[HALF..], &[]).unwrap();
    pong(&raw);
    drop(peer);
    raw.refusal();
    raw.send_bytes(&ping(), &[]).unwrap();
    pong(&raw);
    // Its end is seen where it lives now: a session that depends on it ends, and it is counted no longer.
    let (fd, peer) = tcp();
    raw.ask(1, server("example.com"), fd).unwrap();
    house.await_status("sessions", 1);
    drop(raw);
    house.await_status("sessions", 0);
    house.await_status("clients", 0);
    drop(peer);
    daemon.stop();
}

#[test]
fn programs_that_move_all_at_once_lose_nothing() {
    let _alone = alone();
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    let pair = (client("example.com"), server("example.com"));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let raw = Raw::connect(&house.socket()).unwrap();
                for burst in [1, 20, 1, 40, 2] {
                    let mut pairs = raw.batch(&vec![pair.clone(); burst]).unwrap();
                    for pair in &mut pairs {
                        pair.exchange().unwrap();
                    }
                }
            });
        }
    });
    house.await_status("sessions", 0);
    daemon.stop();
}
