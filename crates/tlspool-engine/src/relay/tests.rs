//! What a relay answers, and how it ends.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12, TLS13};
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::handshake::tests::traffic;
use crate::linger::{MOMENT, STANDSTILL};

/// Messages that come late.
const HELLO_REQUEST: [u8; 4] = [0; 4];
const ASK_FOR_UPDATE: [u8; 5] = [24, 0, 0, 1, 1];

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Whose clock moves only by hand, or when there is nothing else to wait for.
fn paused() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// A relay, and what is on the other sides of it.
struct World<A = UnixStream, P = UnixStream> {
    relay: Relay,
    /// The peer's keys and its socket.
    other: Traffic,
    peer: P,
    application: A,
}

impl World {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        let (application, programs) = UnixStream::pair().unwrap();
        application.set_nonblocking(true).unwrap();
        Self::over(version, application, programs.into())
    }
}

impl<P> World<UnixStream, P> {
    /// What the application was sent.
    fn delivered(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.application.read_to_end(&mut bytes);
        bytes
    }
}

impl World<UnixStream, TcpStream> {
    /// With a peer over TCP that has room for little that it has not read.
    fn over_tcp(version: &'static SupportedProtocolVersion) -> Self {
        let (application, programs) = UnixStream::pair().unwrap();
        application.set_nonblocking(true).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        set_socket_recv_buffer_size(&listener, 4096).unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        set_socket_send_buffer_size(&theirs, 1 << 20).unwrap();
        let peer = listener.accept().unwrap().0;
        peer.set_nonblocking(true).unwrap();
        Self::between(version, application, programs.into(), peer, theirs.into())
    }
}

impl<A> World<A> {
    fn over(version: &'static SupportedProtocolVersion, application: A, programs: OwnedFd) -> Self {
        let (peer, theirs) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        Self::between(version, application, programs, peer, theirs.into())
    }
}

impl<A, P: Read + Write> World<A, P> {
    /// We are the client.
    fn between(
        version: &'static SupportedProtocolVersion,
        application: A,
        programs: OwnedFd,
        peer: P,
        theirs: OwnedFd,
    ) -> Self {
        let (ours, other) = traffic(version);
        let theirs = Socket::stream(theirs).unwrap();
        let programs = Socket::plaintext(programs).unwrap();
        Self { relay: Relay::new(theirs, programs, ours), other, peer, application }
    }

    /// The same when the application is gone.
    fn leave(self) -> World<(), P> {
        let Self { relay, other, peer, application: _ } = self;
        World { relay, other, peer, application: () }
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
        self.open(bytes)
    }

    fn open(&mut self, mut bytes: Vec<u8>) -> Vec<(u8, Vec<u8>)> {
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
            let mut world = world_of_a_reset().await;
            world.application.write_all(b"half of it").unwrap();
            let mut world = world.leave();
            if noticed_by_sending {
                let relay = &mut world.relay;
                relay.up.pending.push_back(b"more".to_vec());
                let sent = std::future::poll_fn(|cx| relay.poll_flush_up(cx)).await;
                assert!(sent.is_ok() && relay.deserted);
            }
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
        let mut world = World::new(&TLS13);
        world.say(content::APPLICATION_DATA, b"unread");
        assert!(world.turn().await.is_none());
        world.application.write_all(b"all of it").unwrap();
        let mut world = world.leave();
        assert!(world.turn().await.is_none());
        let data = (content::APPLICATION_DATA, b"all of it".to_vec());
        let end = (content::ALERT, vec![1, alert::CLOSE_NOTIFY]);
        assert_eq!(world.heard(), [data, end]);
    });
}

/// More than all sockets on the way take.
const MUCH: usize = 4 << 20;

impl<P: Read + Write> World<UnixStream, P> {
    /// The application says at most so much, as long as there is room on the way; how much it was.
    async fn talk(&mut self, most: usize) -> usize {
        let mut said = 0;
        loop {
            match self.application.write(&vec![7; (most - said).min(1 << 14)]) {
                Ok(0) => return said,
                Ok(n) => said += n,
                Err(_) => {
                    let moved = self.relay.down.moved;
                    assert!(self.turn().await.is_none());
                    if self.relay.down.moved == moved {
                        return said;
                    }
                }
            }
        }
    }
}

/// A relay whose application has gone, and whose peer takes nothing; how much the application had said.
async fn stuck() -> (World<()>, usize) {
    let mut world = World::new(&TLS13);
    let said = world.talk(MUCH).await;
    assert!(said < MUCH);
    let mut world = world.leave();
    assert!(world.turn().await.is_none());
    (world, said)
}

/// How much data there is in records, which end as they should.
fn whole(records: &[(u8, Vec<u8>)]) -> usize {
    let (end, data) = records.split_last().expect("records");
    assert_eq!(*end, (content::ALERT, vec![1, alert::CLOSE_NOTIFY]));
    assert!(data.iter().all(|(kind, _)| *kind == content::APPLICATION_DATA));
    data.iter().map(|(_, plain)| plain.len()).sum()
}

#[test]
fn a_clean_end_arrives_however_slow_the_line_is() {
    for cancelled in [false, true] {
        paused().block_on(async {
            let (mut world, said) = stuck().await;
            world.relay.cancelled = cancelled;
            let mut heard = Vec::new();
            while !world.relay.down.done {
                // It stands for a while, then moves a bit.
                for _ in 0..2 {
                    tokio::time::advance(STANDSTILL / 12).await;
                    let end = world.turn().await;
                    assert!(end.is_none(), "{end:?} after {}", heard.len());
                }
                let mut bytes = vec![0; 1 << 17];
                let n = world.peer.read(&mut bytes).unwrap();
                heard.extend_from_slice(&bytes[..n]);
                assert!(world.turn().await.is_none());
            }
            let _ = world.peer.read_to_end(&mut heard);
            assert_eq!(whole(&world.open(heard)), said);
            world.say(content::ALERT, &[1, alert::CLOSE_NOTIFY]);
            let end = world.turn().await;
            assert!(matches!(end, Some(End::ApplicationClosed)), "{end:?}");
        });
    }
}

#[test]
fn a_peer_that_takes_nothing_for_a_minute_is_lost() {
    paused().block_on(async {
        let (mut world, _) = stuck().await;
        // It is noticed after a while that the application has gone, of which something is unread.
        tokio::time::advance(STANDSTILL).await;
        assert!(world.turn().await.is_none());
        tokio::time::advance(STANDSTILL / 60 * 59).await;
        assert!(world.turn().await.is_none());
        tokio::time::advance(STANDSTILL / 60).await;
        let end = world.turn().await;
        let late = |e: &io::Error| e.kind() == io::ErrorKind::TimedOut;
        assert!(matches!(&end, Some(End::PeerLost(error)) if late(error)), "{end:?}");
    });
}

#[test]
fn what_is_on_its_way_in_the_kernel_is_waited_for() {
    paused().block_on(async {
        let mut world = World::over_tcp(&TLS13);
        let said = world.talk(1 << 18).await;
        assert_eq!(said, 1 << 18);
        let mut world = world.leave();
        assert!(world.turn().await.is_none());
        assert!(world.relay.down.done && world.relay.peer.unacknowledged() > 0);
        tokio::time::advance(STANDSTILL / 2).await;
        let end = world.turn().await;
        assert!(end.is_none(), "{end:?}");
        // What the peer says meanwhile, nobody would read: a closed socket would be reset.
        world.say(content::APPLICATION_DATA, b"go on");
        let (mut heard, begun) = (Vec::new(), Instant::now());
        while world.relay.peer.unacknowledged() > 0 && begun.elapsed() < Duration::from_secs(20) {
            let _ = world.peer.read_to_end(&mut heard);
            assert!(world.turn().await.is_none());
        }
        assert_eq!(whole(&world.open(heard)), said);
        // Now it has all, and a moment to end its side.
        assert!(world.turn().await.is_none());
        tokio::time::advance(MOMENT).await;
        let end = world.turn().await;
        assert!(matches!(end, Some(End::ApplicationClosed)), "{end:?}");
    });
}

#[test]
fn a_session_that_is_cut_is_over_in_a_moment() {
    paused().block_on(async {
        let (ours, _other) = traffic(&TLS13);
        let (_peer, theirs) = UnixStream::pair().unwrap();
        let (mut application, programs) = UnixStream::pair().unwrap();
        let theirs = Socket::stream(theirs.into()).unwrap();
        let programs = Socket::plaintext(programs.into()).unwrap();
        application.set_nonblocking(true).unwrap();
        let cancel = Cancel::default();
        let mut session = pin!(run(theirs, programs, ours, &cancel));
        let mut standing = async |time| tokio::time::timeout(time, session.as_mut()).await;
        let bytes = vec![7; 1 << 14];
        loop {
            // As much as there is room for.
            let first = application.write(&bytes);
            let blocked = first.is_err() && {
                standing(Duration::from_millis(1)).await.expect_err("it goes on");
                application.write(&bytes).is_err()
            };
            if blocked {
                break;
            }
        }
        drop(application);
        cancel.request();
        standing(STANDSTILL / 2).await.expect_err("there is something on its way");
        cancel.cut();
        let ended = standing(MOMENT + Duration::from_secs(1)).await.expect("it is over");
        assert!(matches!(ended.end, End::Cancelled), "{}", ended.end);
    });
}

#[test]
fn an_application_that_stays_when_its_session_is_to_end_is_not_waited_for() {
    paused().block_on(async {
        let mut world = World::new(&TLS13);
        world.talk(MUCH).await;
        world.relay.cancelled = true;
        assert!(world.turn().await.is_none());
        tokio::time::advance(MOMENT).await;
        let end = world.turn().await;
        assert!(matches!(end, Some(End::Cancelled)), "{end:?}");
    });
}

/// What a peer that takes nothing any more had said before.
async fn last_words<P: Read + Write>(mut world: World<UnixStream, P>, alert: Option<u8>) {
    let mut said = world.seal(content::APPLICATION_DATA, b"last words");
    if let Some(alert) = alert {
        said.extend(world.seal(content::ALERT, &[2, alert]));
    }
    world.peer.write_all(&said).unwrap();
    let World { relay, other, peer, application } = world;
    // With something unread, so that TCP resets.
    drop(peer);
    let mut world = World { relay, other, peer: io::empty(), application };
    // The first may go through; then it is sent to nobody.
    let begun = Instant::now();
    let end = loop {
        world.application.write_all(b"data").unwrap();
        if let Some(end) = world.turn().await {
            break end;
        }
        assert!(begun.elapsed() < Duration::from_secs(20));
    };
    match alert {
        Some(alert) => assert!(matches!(end, End::PeerAlert(it) if it == alert), "{end:?}"),
        None => assert!(matches!(end, End::PeerLost(_)), "{end:?}"),
    }
    assert_eq!(world.delivered(), b"last words");
}

#[test]
fn the_last_words_of_a_peer_are_heard_though_nothing_reaches_it() {
    for alert in [None, Some(alert::INTERNAL_ERROR)] {
        runtime().block_on(async {
            last_words(World::new(&TLS13), alert).await;
            let mut world = World::over_tcp(&TLS13);
            world.application.write_all(b"unread").unwrap();
            assert!(world.turn().await.is_none());
            world.peer.peek(&mut [0]).unwrap();
            last_words(world, alert).await;
        });
    }
}

#[test]
fn what_the_peer_said_before_its_alert_is_delivered_to_who_reads_slowly() {
    paused().block_on(async {
        let (application, programs) = UnixStream::pair().unwrap();
        application.set_nonblocking(true).unwrap();
        set_socket_send_buffer_size(&programs, 4096).unwrap();
        let mut world = World::over(&TLS13, application, programs.into());
        let mut said = Vec::new();
        for _ in 0..4 {
            said.extend(world.seal(content::APPLICATION_DATA, &[7; MAX_PLAINTEXT]));
        }
        said.extend(world.seal(content::ALERT, &[2, alert::INTERNAL_ERROR]));
        world.peer.write_all(&said).unwrap();
        let mut heard = Vec::new();
        let end = loop {
            if let Some(end) = world.turn().await {
                break end;
            }
            tokio::time::advance(STANDSTILL / 2).await;
            let mut bytes = vec![0; 1 << 16];
            let n = world.application.read(&mut bytes).unwrap();
            heard.extend_from_slice(&bytes[..n]);
        };
        assert!(matches!(end, End::PeerAlert(alert::INTERNAL_ERROR)), "{end:?}");
        heard.extend(world.delivered());
        assert_eq!(heard.len(), 4 * MAX_PLAINTEXT);
    });
}
