//! How sessions end, and what they bring before.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rcgen::PublicKeyData;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use tls12::dtls;
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::config::{Engine, EngineOptions};
use crate::linger::{MOMENT, STANDSTILL};

/// Much more than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// A session with nobody in particular, ours as a client, and the peer's end of it.
fn session(datagrams: bool) -> (Box<Session>, Connection) {
    session_as(Side::Client, datagrams)
}

/// Our role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

fn session_as(side: Side, datagrams: bool) -> (Box<Session>, Connection) {
    let engine = Engine::new(&EngineOptions::default()).unwrap();
    let job = |role| Job {
        role,
        authentication: PeerAuthentication::Ignored,
        scope: [0; 32],
        exporter: false,
        twelve: Wishes { anonymous: Anonymous::Final, ..Wishes::default() },
        first: None,
    };
    let (ours, theirs) = (job(Role::Client { server: None, sni: false }), job(Role::Server));
    let config = Arc::new(client_config(&engine, &ours).0);
    let server = Arc::new(server_config(&engine, &theirs));
    let now = Instant::now();
    let (mut client, mut server) = if datagrams {
        let settings = dtls::Config::default;
        (
            Connection::datagram_client(&config, settings(), now).unwrap(),
            Connection::datagram_server(server, settings(), None, now),
        )
    } else {
        (Connection::client(&config).unwrap(), Connection::server(server))
    };
    for _ in 0..4 {
        for bytes in outputs(&mut client) {
            server.handle_input(&bytes, now);
        }
        for bytes in outputs(&mut server) {
            client.handle_input(&bytes, now);
        }
    }
    assert!(client.may_send() && server.may_send());
    match side {
        Side::Client => (Box::new(Session::new(client, &engine, &ours)), server),
        Side::Server => (Box::new(Session::new(server, &engine, &theirs)), client),
    }
}

/// The key of whoever must show itself in a renegotiation.
fn key() -> &'static rcgen::CertifiedKey<rcgen::KeyPair> {
    static KEY: OnceLock<rcgen::CertifiedKey<rcgen::KeyPair>> = OnceLock::new();
    KEY.get_or_init(|| rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap())
}

/// Answers a question: servers show themselves, everybody is believed. `false`: it is none.
fn answer(connection: &mut Connection, question: &Output) -> bool {
    match question {
        Output::ChooseCredential(question) => {
            let credential = tls12::Credential {
                id: 0,
                certificate: tls12::PeerCertificate::X509(vec![key().cert.der().to_vec()]),
                schemes: vec![tls12::SignatureScheme::EcdsaSecp256r1Sha256],
                fingerprint: [1; 32],
            };
            let shows = question.role == tls12::Role::Server;
            connection.chosen(Ok(shows.then(|| Arc::new(credential))));
        }
        Output::Sign(request) => {
            let pair = EcdsaKeyPair::from_pkcs8(
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                &key().signing_key.serialize_der(),
            );
            let signature = pair.unwrap().sign(&SystemRandom::new(), &request.message).unwrap();
            connection.signed(Some(signature.as_ref().to_vec()));
        }
        Output::Verify(_) => {
            connection.verified(Ok(key().signing_key.subject_public_key_info()));
        }
        _ => return false,
    }
    true
}

/// What a connection wants to send.
fn outputs(connection: &mut Connection) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let mut bytes = Vec::new();
        match connection.poll_output(&mut bytes) {
            Output::Send => all.push(bytes),
            question if answer(connection, &question) => {}
            Output::Idle | Output::WaitUntil(_) => return all,
            Output::Closed(Closed::Failed(error)) => panic!("{error}"),
            _ => {}
        }
    }
}

const MANNER: Manner =
    Manner { client: true, authentication: PeerAuthentication::Ignored, idle: None, stream: 0 };

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Whose clock moves only by hand.
fn paused() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Both ends of a socket with messages: theirs and ours.
fn packets() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// A relay over streams, the peer's connection, and the other ends of its sockets.
fn streams() -> (Relay, Connection, UnixStream, UnixStream) {
    streams_as(Side::Client)
}

fn streams_as(side: Side) -> (Relay, Connection, UnixStream, UnixStream) {
    let (session, other) = session_as(side, false);
    let (peer, theirs) = UnixStream::pair().unwrap();
    let (application, programs) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let theirs = Socket::stream(theirs.into()).unwrap();
    let programs = Socket::plaintext(programs.into()).unwrap();
    let manner = Manner { client: side == Side::Client, ..MANNER };
    (Relay::new(theirs, programs, session, manner), other, peer, application)
}

/// How a relay ends.
async fn end(relay: &mut Relay) -> End {
    let turn = std::future::poll_fn(|cx| relay.poll(cx));
    match tokio::time::timeout(LIMIT, turn).await.expect("an end") {
        Turn::End(end) => end,
        _ => panic!("a turn that is no end"),
    }
}

/// Brings what the peer wants to send to the relay, and the reverse, until the relay's caller has something to do,
/// or both are silent. `meanwhile` is called as often as a handshake is seen to run.
async fn exchange(
    relay: &mut Relay,
    other: &mut Connection,
    peer: &mut UnixStream,
    mut meanwhile: impl FnMut(),
) -> Option<Turn> {
    loop {
        let said = outputs(other);
        for bytes in &said {
            peer.write_all(bytes).unwrap();
        }
        // So that the sockets' news arrive.
        tokio::task::yield_now().await;
        let turn = std::future::poll_fn(|cx| Poll::Ready(relay.poll(cx))).await;
        let connection = &mut relay.session.connection;
        if connection.is_handshaking() {
            meanwhile();
        }
        match turn {
            Poll::Ready(Turn::Question(question)) => assert!(answer(connection, &question)),
            Poll::Ready(turn) => return Some(turn),
            Poll::Pending => {
                let mut buffer = vec![0; 1 << 15];
                match peer.read(&mut buffer) {
                    Ok(n) => other.handle_input(&buffer[..n], Instant::now()),
                    Err(_) if said.is_empty() => return None,
                    Err(_) => {}
                }
            }
        }
    }
}

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn an_end_of_the_peer_is_heard_once() {
    runtime().block_on(async {
        let (mut relay, mut other, mut peer, mut application) = streams();
        // The application reads no more, and still writes; the peer has said all, and still reads.
        application.shutdown(Shutdown::Read).unwrap();
        application.write_all(b"more").unwrap();
        other.send(b"unread").unwrap();
        other.close();
        for bytes in outputs(&mut other) {
            peer.write_all(&bytes).unwrap();
        }
        peer.shutdown(Shutdown::Write).unwrap();
        let sent = std::future::poll_fn(|cx| {
            assert!(relay.poll(cx).is_pending());
            if peer.read(&mut [0; 100]).is_ok() { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(LIMIT, sent).await.unwrap();
        // Now nothing happens: it waits, and does not ask to be looked at again.
        let bell = Arc::new(Bell::default());
        assert!(relay.poll(&mut Context::from_waker(&Arc::clone(&bell).into())).is_pending());
        assert!(relay.deserted);
        tokio::task::yield_now().await;
        assert_eq!(bell.0.load(Ordering::Relaxed), 0);
        application.shutdown(Shutdown::Write).unwrap();
        let end = end(&mut relay).await;
        assert!(matches!(end, End::ApplicationClosed), "{end}");
    });
}

#[test]
fn an_end_of_the_peer_ends_what_waits_for_it() {
    runtime().block_on(async {
        let (mut relay, _other, peer, _application) = streams();
        // As over SCTP, where an event would come that tells what the peer has.
        (relay.change, relay.dry) = (Some(vec![1]), Dry::Asked);
        drop(peer);
        let end = end(&mut relay).await;
        assert!(matches!(end, End::Truncated), "{end}");
    });
}

#[test]
fn no_data_moves_between_a_renegotiation_and_its_authorization() {
    for side in [Side::Client, Side::Server] {
        runtime().block_on(async {
            let (mut relay, mut other, mut peer, mut application) = streams_as(side);
            other.renegotiate(None).unwrap();
            let mut data = Some(b"data");
            let says = || {
                if let Some(data) = data.take() {
                    application.write_all(data).unwrap();
                }
            };
            let turn = exchange(&mut relay, &mut other, &mut peer, says).await;
            if let Some(Turn::End(end)) = &turn {
                panic!("{side:?}: {end}");
            }
            assert!(matches!(turn, Some(Turn::Renegotiated(_))), "{side:?}");
            assert_eq!(relay.sent, 0, "{side:?}");
            // Now it is authorized.
            assert!(exchange(&mut relay, &mut other, &mut peer, || {}).await.is_none());
            assert_eq!(relay.sent, 4, "{side:?}");
        });
    }
}

#[test]
fn a_renegotiation_too_many_is_refused_while_data_moves() {
    for side in [Side::Client, Side::Server] {
        runtime().block_on(async {
            let (mut relay, mut other, mut peer, mut application) = streams_as(side);
            other.renegotiate(None).unwrap();
            let turn = exchange(&mut relay, &mut other, &mut peer, || {}).await;
            assert!(matches!(turn, Some(Turn::Renegotiated(_))), "{side:?}");
            assert!(exchange(&mut relay, &mut other, &mut peer, || {}).await.is_none());
            other.renegotiate(None).unwrap();
            application.write_all(b"data").unwrap();
            let turn = exchange(&mut relay, &mut other, &mut peer, || {}).await;
            if let Some(Turn::End(end)) = &turn {
                panic!("{side:?}: {end}");
            }
            assert!(turn.is_none() && relay.sent == 4, "{side:?}");
        });
    }
}

#[test]
fn answers_that_nobody_reads_fill_no_memory() {
    runtime().block_on(async {
        let (mut relay, mut other, mut peer, mut application) = streams();
        other.renegotiate(None).unwrap();
        let turn = exchange(&mut relay, &mut other, &mut peer, || {}).await;
        assert!(matches!(turn, Some(Turn::Renegotiated(_))));
        assert!(exchange(&mut relay, &mut other, &mut peer, || {}).await.is_none());
        application.set_nonblocking(true).unwrap();
        // Wishes that are refused, with data between, until the relay takes no more.
        let mut asked = 0;
        let mut said = Vec::new();
        loop {
            if said.is_empty() {
                other.renegotiate(None).unwrap();
                other.send(b"x").unwrap();
                said = outputs(&mut other).concat();
            }
            let taken = peer.write(&said);
            tokio::task::yield_now().await;
            let turn = std::future::poll_fn(|cx| Poll::Ready(relay.poll(cx))).await;
            assert!(turn.is_pending());
            let delivered = application.read(&mut [0; 1 << 12]);
            match taken {
                Ok(taken) => drop(said.drain(..taken)),
                Err(_) if delivered.is_err() => break,
                Err(_) => {}
            }
            asked += 1;
            assert!(relay.out.len() <= 2 * ANSWERS && asked < 100_000, "{}", relay.out.len());
        }
        // It goes on when they are read.
        let waiting = relay.out.len();
        assert!(waiting >= ANSWERS);
        assert!(peer.read(&mut vec![0; 1 << 15]).is_ok());
        tokio::task::yield_now().await;
        let turn = std::future::poll_fn(|cx| Poll::Ready(relay.poll(cx))).await;
        assert!(turn.is_pending());
        assert!(application.read(&mut [0; 1 << 12]).is_ok());
    });
}

#[test]
fn an_application_that_resets_is_no_clean_end() {
    for noticed_by_sending in [false, true] {
        runtime().block_on(async {
            let (session, mut other) = session(false);
            let (mut peer, theirs) = UnixStream::pair().unwrap();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut application = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let programs = listener.accept().unwrap().0;
            let theirs = Socket::stream(theirs.into()).unwrap();
            let programs = Socket::plaintext(programs.into()).unwrap();
            let mut relay = Relay::new(theirs, programs, session, MANNER);
            other.send(b"unread").unwrap();
            for bytes in &outputs(&mut other) {
                peer.write_all(bytes).unwrap();
            }
            tokio::task::yield_now().await;
            let turn = std::future::poll_fn(|cx| Poll::Ready(relay.poll(cx))).await;
            assert!(turn.is_pending());
            application.peek(&mut [0; 1]).unwrap();
            application.write_all(b"half of it").unwrap();
            drop(application);
            if noticed_by_sending {
                relay.up.push_back((b"more".to_vec(), Info::default()));
            }
            let end = end(&mut relay).await;
            assert!(matches!(end, End::ApplicationLost(_)), "{end}");
            drop(relay);
            let mut heard = Vec::new();
            peer.read_to_end(&mut heard).unwrap();
            other.handle_input(&heard, Instant::now());
            let mut events = Vec::new();
            while !matches!(events.last(), Some(Output::Idle)) {
                events.push(other.poll_output(&mut Vec::new()));
            }
            assert!(matches!(&events[0], Output::Data(data) if data == b"half of it"));
            let alert = tls12::Error::PeerAlert(Alert::INTERNAL_ERROR);
            assert!(matches!(&events[1], Output::Closed(Closed::Failed(e)) if *e == alert));
        });
    }
}

#[test]
fn a_record_that_is_cut_behind_a_renegotiation_is_whole_again() {
    runtime().block_on(async {
        let (mut relay, mut other, mut peer, mut application) = streams();
        other.renegotiate(None).unwrap();
        // The peer's Finished, and half of a record behind it.
        let mut record = Vec::new();
        let turn = loop {
            let mut said = outputs(&mut other).concat();
            if !other.is_handshaking()
                && record.is_empty()
                && relay.session.connection.is_handshaking()
            {
                other.send(b"in two pieces").unwrap();
                record = outputs(&mut other).concat();
                said.extend_from_slice(&record[..7]);
            }
            peer.write_all(&said).unwrap();
            tokio::task::yield_now().await;
            match std::future::poll_fn(|cx| Poll::Ready(relay.poll(cx))).await {
                Poll::Ready(Turn::Question(question)) => {
                    assert!(answer(&mut relay.session.connection, &question));
                }
                Poll::Ready(turn) => break turn,
                Poll::Pending => {
                    let mut buffer = vec![0; 1 << 15];
                    if let Ok(n) = peer.read(&mut buffer) {
                        other.handle_input(&buffer[..n], Instant::now());
                    }
                }
            }
        };
        assert!(matches!(turn, Turn::Renegotiated(_)) && !record.is_empty());
        assert!(exchange(&mut relay, &mut other, &mut peer, || {}).await.is_none());
        assert_eq!(relay.partial, record[..7]);
        peer.write_all(&record[7..]).unwrap();
        assert!(exchange(&mut relay, &mut other, &mut peer, || {}).await.is_none());
        let mut heard = [0; 13];
        application.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"in two pieces");
    });
}

#[test]
fn a_silent_peer_is_told_that_it_is_over() {
    runtime().block_on(async {
        let (session, mut other) = session(true);
        let ((peer, theirs), (_application, programs)) = (packets(), packets());
        let theirs = Socket::datagram(theirs).unwrap();
        let programs = Socket::plaintext(programs).unwrap();
        let manner = Manner { idle: Some(Duration::from_millis(10)), ..MANNER };
        let mut relay = Relay::new(theirs, programs, session, manner);
        let end = end(&mut relay).await;
        assert!(matches!(end, End::Idle), "{end}");
        let mut buffer = [0; 1000];
        let (n, _) = recv(&peer, &mut buffer[..], RecvFlags::DONTWAIT).unwrap();
        other.handle_input(&buffer[..n], Instant::now());
        assert!(matches!(other.poll_output(&mut Vec::new()), Output::PeerClosed));
    });
}

#[test]
fn an_empty_message_is_no_end() {
    runtime().block_on(async {
        let (mut session, mut other) = session(true);
        session.early.push_back((Vec::new(), Info::default()));
        session.early.push_back((b"x".to_vec(), Info::default()));
        let (peer, theirs) = packets();
        let (application, programs) = packets();
        let theirs = Socket::datagram(theirs).unwrap();
        let programs = Socket::plaintext(programs).unwrap();
        let mut relay = Relay::new(theirs, programs, session, MANNER);
        other.send(b"").unwrap();
        other.send(b"y").unwrap();
        for bytes in outputs(&mut other) {
            rustix::io::write(&peer, &bytes).unwrap();
        }
        let mut arrived = Vec::new();
        let read = std::future::poll_fn(|cx| {
            assert!(relay.poll(cx).is_pending());
            let mut buffer = [0; 100];
            while let Ok((n, _)) = recv(&application, &mut buffer[..], RecvFlags::DONTWAIT) {
                arrived.push(buffer[..n].to_vec());
            }
            if arrived.len() < 2 { Poll::Pending } else { Poll::Ready(()) }
        });
        tokio::time::timeout(LIMIT, read).await.unwrap();
        assert_eq!(arrived, [b"x", b"y"]);
    });
}

#[test]
fn only_an_end_that_drains_has_much_time() {
    let limit = |state: fn(&mut Relay)| {
        paused().block_on(async {
            let (peer, theirs) = packets();
            let (application, programs) = packets();
            let theirs = Socket::datagram(theirs).unwrap();
            let programs = Socket::plaintext(programs).unwrap();
            let mut relay = Relay::new(theirs, programs, session(true).0, MANNER);
            // As over SCTP, when the application has said all and the peer does not acknowledge it.
            (relay.down_ended, relay.closing, relay.dry) = (true, true, Dry::Asked);
            let lingers = async |relay: &mut Relay| {
                std::future::poll_fn(|cx| Poll::Ready(relay.poll_linger(cx))).await.is_pending()
            };
            assert!(lingers(&mut relay).await);
            state(&mut relay);
            assert!(lingers(&mut relay).await);
            tokio::time::advance(MOMENT).await;
            let moment = !lingers(&mut relay).await;
            tokio::time::advance(STANDSTILL.saturating_sub(MOMENT)).await;
            assert!(moment || !lingers(&mut relay).await);
            drop((peer, application));
            if moment { MOMENT } else { STANDSTILL }
        })
    };
    assert_eq!(limit(|_| {}), STANDSTILL);
    assert_eq!(limit(|relay| relay.cancelled = true), STANDSTILL);
    assert_eq!(limit(|relay| relay.cut = true), MOMENT);
    assert_eq!(limit(|relay| relay.dying = Some(End::Truncated)), MOMENT);
    assert_eq!(limit(|relay| relay.cannot(io::Error::other("it"))), MOMENT);
    assert_eq!(limit(|relay| relay.closing = false), MOMENT);
}

/// A relay over streams whose application has gone, and whose peer takes nothing; how much the application had said.
async fn stuck() -> (Relay, Connection, UnixStream, usize) {
    let (mut relay, other, peer, mut application) = streams();
    application.set_nonblocking(true).unwrap();
    let (mut said, bytes) = (0, vec![7; 1 << 14]);
    loop {
        if let Ok(n) = application.write(&bytes) {
            said += n;
            continue;
        }
        let moved = relay.moved;
        assert!(turn(&mut relay).await.is_none());
        if relay.moved == moved {
            break;
        }
    }
    drop(application);
    (relay, other, peer, said)
}

/// Lets the relay do what there is to do; its end, if it comes to that.
async fn turn(relay: &mut Relay) -> Option<End> {
    tokio::task::yield_now().await;
    match std::future::poll_fn(|cx| Poll::Ready(relay.poll(cx))).await {
        Poll::Ready(Turn::End(end)) => Some(end),
        Poll::Ready(_) => panic!("a turn that is no end"),
        Poll::Pending => None,
    }
}

#[test]
fn a_clean_end_arrives_however_slow_the_line_is() {
    for cancelled in [false, true] {
        paused().block_on(async {
            let (mut relay, mut other, mut peer, said) = stuck().await;
            relay.cancelled = cancelled;
            let (mut heard, mut ended) = (0, false);
            while !ended {
                let unsent = !(relay.down_ended && relay.out.is_empty());
                for _ in 0..if unsent { 2 } else { 0 } {
                    tokio::time::advance(STANDSTILL / 12).await;
                    let end = turn(&mut relay).await;
                    assert!(end.is_none(), "{end:?} after {heard}");
                }
                let mut bytes = vec![0; 1 << 17];
                let n = peer.read(&mut bytes).unwrap();
                other.handle_input(&bytes[..n], Instant::now());
                loop {
                    match other.poll_output(&mut Vec::new()) {
                        Output::Data(data) => heard += data.len(),
                        Output::PeerClosed => ended = true,
                        Output::Idle => break,
                        _ => {}
                    }
                }
                assert!(turn(&mut relay).await.is_none());
            }
            assert_eq!(heard, said);
            other.close();
            for bytes in outputs(&mut other) {
                peer.write_all(&bytes).unwrap();
            }
            let end = end(&mut relay).await;
            assert!(matches!(end, End::ApplicationClosed), "{end}");
        });
    }
}

#[test]
fn a_peer_that_takes_nothing_for_a_minute_is_lost() {
    for cut in [false, true] {
        paused().block_on(async {
            let (mut relay, _other, _peer, _) = stuck().await;
            assert!(turn(&mut relay).await.is_none());
            // It is noticed after a while that the application has gone, of which something is unread.
            tokio::time::advance(STANDSTILL).await;
            assert!(turn(&mut relay).await.is_none());
            (relay.cancelled, relay.cut) = (cut, cut);
            assert!(turn(&mut relay).await.is_none());
            tokio::time::advance(if cut { MOMENT } else { STANDSTILL }).await;
            let end = turn(&mut relay).await;
            match end {
                Some(End::Cancelled) if cut => {}
                Some(End::PeerLost(e)) if !cut && e.kind() == io::ErrorKind::TimedOut => {}
                end => panic!("{end:?}"),
            }
        });
    }
}

#[test]
fn the_last_words_of_a_peer_are_heard_though_nothing_reaches_it() {
    for alert in [None, Some(Alert::INTERNAL_ERROR)] {
        runtime().block_on(async {
            let (mut relay, mut other, mut peer, mut application) = streams();
            other.send(b"last words").unwrap();
            if let Some(alert) = alert {
                other.abort(alert);
            }
            let mut said = Vec::new();
            loop {
                match other.poll_output(&mut said) {
                    Output::Idle | Output::Closed(_) => break,
                    _ => peer.write_all(&std::mem::take(&mut said)).unwrap(),
                }
            }
            application.write_all(b"data").unwrap();
            // It is sent first, as if the peer's words came at that moment.
            relay.lose(io::ErrorKind::BrokenPipe.into());
            drop(peer);
            let end = end(&mut relay).await;
            match alert {
                Some(alert) => {
                    assert!(matches!(end, End::PeerAlert(it) if it == alert.0), "{end}");
                }
                None => assert!(matches!(end, End::PeerLost(_)), "{end}"),
            }
            drop(relay);
            let mut heard = Vec::new();
            application.read_to_end(&mut heard).unwrap_or_default();
            assert_eq!(heard, b"last words");
        });
    }
}
