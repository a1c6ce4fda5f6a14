//! Programs and peers that do not behave: each gets an error, and nothing is left of it.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use tlspool_client::{Plaintext, PoolError, StarttlsRequest};
use tlspool_wire::{Body, Packet, RECORD_LEN, Starttls, StarttlsFlags};

use crate::house::{House, tcp_pair};

fn answer(stream: &mut UnixStream) -> Packet {
    let mut record = [0; RECORD_LEN];
    stream.read_exact(&mut record).unwrap();
    Packet::decode(&record).unwrap()
}

fn refusal(stream: &mut UnixStream) -> PoolError {
    match answer(stream).body {
        Body::Error(error) => PoolError::from_code(error.code).unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn bad_records_are_answered() {
    let house = House::new();
    let mut stream = house.raw();
    let mut send = |cbid, body| {
        stream.write_all(&Packet { reqid: 7, cbid, body }.encode()).unwrap();
        refusal(&mut stream)
    };
    assert_eq!(send(0, Body::Unknown(0x1234)), PoolError::CommandUnknown);
    assert_eq!(send(0, Body::Success), PoolError::CommandNeeded);
    assert_eq!(send(9, Body::Success), PoolError::CommandBadCallbackResponse);
    let starttls = |flags| Body::Starttls(Starttls { flags, ipproto: 6, ..Starttls::default() });
    assert_eq!(send(0, starttls(StarttlsFlags::default())), PoolError::CipherSocketNeeded);
    assert_eq!(send(0, starttls(StarttlsFlags::RENEGOTIATE)), PoolError::RenegotiateNotFound);
    let mut garbled =
        Packet { reqid: 8, cbid: 0, body: starttls(StarttlsFlags::default()) }.encode();
    garbled[20..148].fill(b'x');
    stream.write_all(&garbled).unwrap();
    assert_eq!(refusal(&mut stream), PoolError::RecordMalformed);
    stream.write_all(&[0; 100]).unwrap();
    drop(stream);
    house.await_status("clients", 0);
}

#[test]
fn descriptors_that_are_no_connection_are_refused() {
    let house = House::new();
    house.identity("example.com");
    let pool = house.pool();
    let server = || StarttlsRequest::server().localid("example.com").unwrap();
    let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let listener = OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let datagrams = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
    for descriptor in [file, listener, datagrams] {
        let error = pool.starttls(server(), descriptor, Plaintext::pair()).unwrap_err();
        assert_eq!(error.pool_error(), Some(PoolError::CipherSocketNeeded), "{error}");
    }
}

#[test]
fn peers_that_do_not_behave_cost_nothing() {
    let house = House::new();
    house.identity("example.com");
    let pool = house.pool();
    for _ in 0..50 {
        for words in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"\x16\x03\x01\x00\x05\x01", b""] {
            let (near, mut far) = tcp_pair();
            let server = StarttlsRequest::server().localid("example.com").unwrap();
            far.write_all(words).unwrap();
            drop(far);
            let error = pool.starttls(server, OwnedFd::from(near), Plaintext::pair()).unwrap_err();
            assert_eq!(error.pool_error(), Some(PoolError::StirredNotShaken), "{error}");
        }
    }
    house.await_status("sessions", 0);
}

#[test]
fn a_peer_that_stalls_runs_out_of_time() {
    let house = House::with("[limits]\nhandshake_timeout = \"200ms\"\n");
    house.identity("example.com");
    let (near, _far) = tcp_pair();
    let server = StarttlsRequest::server().localid("example.com").unwrap();
    let error = house.pool().starttls(server, OwnedFd::from(near), Plaintext::pair()).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::Timeout), "{error}");
}
