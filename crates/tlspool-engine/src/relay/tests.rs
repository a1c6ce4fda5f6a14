//! What a relay answers, and how it ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::handshake::tests::traffic;

/// Messages that come late.
const HELLO_REQUEST: [u8; 4] = [0; 4];
const ASK_FOR_UPDATE: [u8; 5] = [24, 0, 0, 1, 1];

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A relay, and what is on the other sides of it.
struct World<A = UnixStream> {
    relay: Relay,
    /// The peer's keys and its socket.
    other: Traffic,
    peer: UnixStream,
    application: A,
}

impl World {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let (application, programs) = UnixStream::pair().unwrap();
        application.set_nonblocking(true).unwrap();
        Self::over(version, application, programs.into())
    }

    /// What the application was sent.
    fn delivered(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.application.read_to_end(&mut bytes);
        bytes
    }
}

impl<A> World<A> {
    /// We are the client.
    fn over(version: &'static SupportedProtocolVersion, application: A, programs: OwnedFd) -> Self {
        let (ours, other) = traffic(version);
        let (peer, theirs) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let theirs = Socket::stream(theirs.into()).unwrap();
        let programs = Socket::plaintext(programs).unwrap();
        Self { relay: Relay::new(theirs, programs, ours), other, peer, application }
    }

    /// A record of the peer's.
    fn seal(&mut self, kind: u8, plain: &[u8]) -> Vec<u8> {
        let prefix = self.other.prefix();
        let mut room = vec![0; prefix + plain.len() + self.other.suffix()];
        room[prefix..prefix + plain.len()].copy_from_slice(plain);
        let length = self.other.seal(kind, &mut room, plain.len()).unwrap();
        room.truncate(length);
        room
    }

    fn say(&mut self, kind: u8, plain: &[u8]) {
        let record = self.seal(kind, plain);
        self.peer.write_all(&record).unwrap();
    }

    /// Lets the relay do what there is to do; its end, if it comes to that.
    async fn turn(&mut self) -> Option<End> {
        // So that the sockets' news arrive.
        tokio::task::yield_now().await;
        let relay = &mut self.relay;
        match std::future::poll_fn(|cx| Poll::Ready(relay.poll(cx))).await {
            Poll::Ready(end) => Some(end),
            Poll::Pending => None,
        }
    }

    /// What the peer was sent: content types and contents of records.
    fn heard(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut bytes = Vec::new();
        // It ends with an error unless our side has ended.
        let _ = self.peer.read_to_end(&mut bytes);
        let mut records = Vec::new();
        let mut rest = &mut bytes[..];
        while let Some(length) = self.other.record_length(rest).unwrap() {
            let (record, others) = rest.split_at_mut(length);
            let (kind, plain) = self.other.open(record).unwrap();
            let plain = record[plain].to_vec();
            self.other.control(kind, &plain).ok();
            records.push((kind, plain));
            rest = others;
        }
        records
    }
}

/// How many times the peer asks: in each of so many records, then with data between.
const RECORDS: usize = 32;

#[test]
fn a_peer_that_asks_for_renegotiations_and_does_not_read_fills_no_memory() {
    runtime().block_on(async {
        let mut world = World::new(&TLS12);
        let asks = HELLO_REQUEST.repeat(MAX_PLAINTEXT / HELLO_REQUEST.len());
        for _ in 0..RECORDS {
            world.say(content::HANDSHAKE, &asks);
            world.say(content::APPLICATION_DATA, b"x");
            assert!(world.turn().await.is_none());
            assert!(world.relay.down.pending.len() <= MAX_RECORD, "one refusal waits at most");
        }
        assert_eq!(world.delivered().len(), RECORDS);
        let heard = world.heard();
        let refusal = (content::ALERT, vec![1, alert::NO_RENEGOTIATION]);
        assert!(!heard.is_empty() && heard.len() <= RECORDS, "{}", heard.len());
        assert!(heard.iter().all(|record| *record == refusal));
    });
}

#[test]
fn many_wishes_for_new_keys_are_granted_once_before_the_next_data() {
    runtime().block_on(async {
        let mut world = World::new(&TLS13);
        for _ in 0..RECORDS {
            world.say(content::HANDSHAKE, &ASK_FOR_UPDATE);
            world.other.update_tx(&mut Vec::new()).unwrap();
            world.say(content::APPLICATION_DATA, b"x");
            assert!(world.turn().await.is_none());
        }
        assert_eq!(world.delivered().len(), RECORDS);
        world.application.write_all(b"data").unwrap();
        assert!(world.turn().await.is_none());
        let update = (content::HANDSHAKE, vec![24, 0, 0, 1, 0]);
        let data = (content::APPLICATION_DATA, b"data".to_vec());
        assert_eq!(world.heard(), [update, data]);
    });
}

#[test]
fn nothing_is_said_after_our_end() {
    for (version, asks) in [(&TLS12, &HELLO_REQUEST[..]), (&TLS13, &ASK_FOR_UPDATE)] {
        runtime().block_on(async {
            let mut world = World::new(version);
            world.application.shutdown(Shutdown::Write).unwrap();
            assert!(world.turn().await.is_none());
            world.say(content::HANDSHAKE, asks);
            if *version == TLS13 {
                world.other.update_tx(&mut Vec::new()).unwrap();
            }
            world.say(content::APPLICATION_DATA, b"more");
            world.say(content::ALERT, &[1, alert::CLOSE_NOTIFY]);
            let end = world.turn().await;
            assert!(matches!(end, Some(End::Closed)), "{end:?}");
            assert_eq!(world.delivered(), b"more");
            assert_eq!(world.heard(), [(content::ALERT, vec![1, alert::CLOSE_NOTIFY])]);
        });
    }
}

#[test]
fn a_peer_that_takes_no_answer_is_lost_at_once() {
    runtime().block_on(async {
        let mut world = World::new(&TLS12);
        world.say(content::HANDSHAKE, &HELLO_REQUEST);
        world.peer.shutdown(Shutdown::Read).unwrap();
        let end = world.turn().await;
        assert!(matches!(end, Some(End::PeerLost(_))), "{end:?}");
    });
}

/// A world whose application is about to reset its connection: it has not read what it was sent.
async fn world_of_a_reset() -> World<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let application = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let programs = listener.accept().unwrap().0;
    let mut world = World::over(&TLS13, application, programs.into());
    world.say(content::APPLICATION_DATA, b"unread");
    assert!(world.turn().await.is_none());
    world.application.peek(&mut [0; 1]).unwrap();
    world
}

#[test]
fn an_application_that_resets_is_no_clean_end() {
    for noticed_by_sending in [false, true] {
        runtime().block_on(async {
            let World { mut relay, other, peer, mut application } = world_of_a_reset().await;
            application.write_all(b"half of it").unwrap();
            drop(application);
            if noticed_by_sending {
                relay.up.pending.push_back(b"more".to_vec());
                let sent = std::future::poll_fn(|cx| relay.poll_flush_up(cx)).await;
                assert!(sent.is_ok() && relay.deserted);
            }
            let mut world = World { relay, other, peer, application: () };
            let end = world.turn().await;
            assert!(matches!(end, Some(End::ApplicationLost(_))), "{end:?}");
            let data = (content::APPLICATION_DATA, b"half of it".to_vec());
            let alert = (content::ALERT, vec![2, alert::INTERNAL_ERROR]);
            assert_eq!(world.heard(), [data, alert], "{noticed_by_sending}");
        });
    }
}

#[test]
fn who_leaves_bytes_in_a_unix_socket_unread_ends_cleanly() {
    runtime().block_on(async {
        let World { relay, other, peer, mut application } = {
            let mut world = World::new(&TLS13);
            world.say(content::APPLICATION_DATA, b"unread");
            assert!(world.turn().await.is_none());
            world
        };
        application.write_all(b"all of it").unwrap();
        drop(application);
        let mut world = World { relay, other, peer, application: () };
        assert!(world.turn().await.is_none());
        let data = (content::APPLICATION_DATA, b"all of it".to_vec());
        let end = (content::ALERT, vec![1, alert::CLOSE_NOTIFY]);
        assert_eq!(world.heard(), [data, end]);
    });
}
