//! Programs and peers that do not behave, at the real daemon: each is told what is wrong, the log has a
//! line, and another program's handshakes go on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tlspool_client::wire::packet::{ControlRequest, ErrorReply};
use tlspool_client::wire::{Body, Packet, RECORD_LEN};
use tlspool_client::{CtlKey, Facilities, Ping, PoolError as E, Starttls, Text};
use tlspool_client::{Lidentry, Pinentry, StarttlsFlags as Flags};
use tlspool_tests::app::{noise, plaintext};
use tlspool_tests::net::{listen, tcp_pair};
use tlspool_tests::{Daemon, House, LIMIT};

use crate::alone;
use crate::raw::{Raw, Refusal, client, keyed, server, tcp, with};
use crate::streams::Stream;

/// A daemon, and a program that behaves, whose connections must all succeed.
struct Scene {
    house: House,
    daemon: Daemon,
    bystander: Stream,
    /// Characters of the log that earlier steps left.
    seen: usize,
}

impl Scene {
    fn new(more: &str) -> Self {
        let house = House::with(more);
        house.identity("example.com");
        let daemon = house.start();
        let (client, server) = (client("example.com"), server("example.com"));
        let bystander = Stream::of_raw(house.socket(), client, server);
        Self { house, daemon, bystander, seen: 0 }
    }

    fn raw(&self) -> Raw {
        Raw::connect(&self.house.socket()).unwrap()
    }

    /// The log has a new line with `words`.
    fn logged(&mut self, words: &str) {
        let seen = self.seen;
        let log =
            self.daemon.await_log_that(words, |log| log.get(seen..).unwrap_or("").contains(words));
        let at = log[seen..].find(words).unwrap();
        self.seen = seen + at + words.len();
    }

    /// It was refused for `error`, in these words, which the log has too.
    #[allow(clippy::needless_pass_by_value)] // a refusal is looked at once
    fn told(&mut self, refusal: Refusal, error: E, words: &str) {
        assert_eq!(refusal.0, error, "{}", refusal.1);
        assert!(refusal.1.contains(words), "{:?} lacks {words:?}", refusal.1);
        self.logged(words);
    }

    /// The others are not harmed, and nothing is left.
    fn end(self) {
        self.bystander.await_more(2);
        let good = self.bystander.stop_good();
        assert!(good > 0);
        self.house.await_status("sessions", 0);
        self.house.await_status("clients", 0);
        self.daemon.stop();
    }
}

fn null() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

fn ping() -> Body {
    Body::Ping(Ping { identity: Text::cut("20260101test"), facilities: Facilities::STARTTLS.0 })
}

#[test]
fn records_that_make_no_sense() {
    let _alone = alone();
    let mut scene = Scene::new("");
    let raw = scene.raw();
    for unknown in [0, 0x12, 0x1234, 0x8000_0001, u32::MAX] {
        let refusal = raw.refused(Body::Unknown(unknown), &[]);
        // 0 is SUCCESS, which only a pool says.
        let error = if unknown == 0 { E::CommandNeeded } else { E::CommandUnknown };
        scene.told(refusal, error, "command");
    }
    let error = ErrorReply { code: 5, message: Text::cut("no") };
    scene.told(raw.refused(Body::Error(error), &[]), E::CommandNeeded, "not a command");
    let stray = raw.refused(Body::PlaintextConnect(Starttls::default()), &[]);
    scene.told(stray, E::CommandBadCallbackResponse, "cbid");
    let choice = raw.refused(Body::LidentryCallback(Lidentry::default()), &[]);
    scene.told(choice, E::CommandBadCallbackResponse, "cbid");
    let pin = Pinentry { pin: Text::cut("1234").into(), ..Pinentry::default() };
    let unasked = raw.refused(Body::Pinentry(pin), &[]);
    scene.told(unasked, E::CommandBadCallbackResponse, "nobody asked");

    // Texts that do not end within their field.
    let starttls = Packet { reqid: 5, cbid: 0, body: Body::Starttls(server("example.com")) };
    for (at, length, field) in [(20, 128, "localid"), (148, 128, "remoteid"), (292, 16, "service")]
    {
        let mut record = starttls.encode();
        record[at..at + length].fill(b'x');
        let (fd, _peer) = tcp();
        raw.send_bytes(&record, &[fd.as_fd()]).unwrap();
        scene.told(raw.refusal(), E::RecordMalformed, field);
    }
    let mut record = Packet { reqid: 5, cbid: 0, body: ping() }.encode();
    record[8..144].fill(0xff);
    raw.send_bytes(&record, &[]).unwrap();
    scene.told(raw.refusal(), E::RecordMalformed, "field");

    // A record in pieces is a record; one cut short is not.
    let whole = Packet { reqid: 6, cbid: 0, body: ping() };
    for byte in whole.encode() {
        raw.send_bytes(&[byte], &[]).unwrap();
    }
    assert!(matches!(raw.answer().unwrap().body, Body::Ping(_)));
    raw.send_bytes(&[0; RECORD_LEN - 1], &[null().as_fd()]).unwrap();
    drop(raw);
    scene.logged("in the middle of a record");
    scene.end();
}

#[test]
fn descriptors_that_do_not_fit() {
    let _alone = alone();
    let mut scene = Scene::new("");
    let raw = scene.raw();
    let starttls = || Body::Starttls(server("example.com"));
    scene.told(raw.refused(starttls(), &[]), E::CipherSocketNeeded, "needs the socket");
    let (fd, _peer) = tcp();
    for many in [2, 3, 5, 253] {
        let fds: Vec<BorrowedFd<'_>> = vec![fd.as_fd(); many];
        let refusal = raw.refused(starttls(), &fds);
        scene.told(refusal, E::SuperfluousSocket, "at most one descriptor");
    }
    scene.told(raw.refused(ping(), &[fd.as_fd()]), E::SuperfluousSocket, "takes no descriptor");
    // Descriptors that came with different pieces of one record.
    let record = Packet { reqid: 1, cbid: 0, body: starttls() }.encode();
    raw.send_bytes(&record[..100], &[fd.as_fd()]).unwrap();
    raw.send_bytes(&record[100..], &[fd.as_fd()]).unwrap();
    scene.told(raw.refusal(), E::SuperfluousSocket, "at most one descriptor");

    let folder = scene.house.path("");
    let unconnected = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    );
    let connected_udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    connected_udp.connect(connected_udp.local_addr().unwrap()).unwrap();
    let misfits: [(OwnedFd, &str); 8] = [
        (null(), "not a socket"),
        (std::fs::File::open(&folder).unwrap().into(), "not a socket"),
        (std::io::pipe().unwrap().0.into(), "not a socket"),
        (unconnected.unwrap(), "not connected; pass a connected one"),
        (TcpListener::bind("127.0.0.1:0").unwrap().into(), "not connected"),
        (UnixListener::bind(scene.house.path("l")).unwrap().into(), "not connected"),
        (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "not connected"),
        (connected_udp.into(), "not a stream socket; for datagrams"),
    ];
    for (fd, words) in misfits {
        let refusal = raw.refused(starttls(), &[fd.as_fd()]);
        scene.told(refusal, E::CipherSocketNeeded, words);
    }
    let not_sctp = (132, E::CipherSocketNeeded, "not an SCTP socket; ipproto 132");
    let udp_without_dtls = (17, E::RecordMalformed, "DTLS");
    let unknown = (99, E::RecordMalformed, "ipproto 99");
    for (ipproto, error, words) in [udp_without_dtls, not_sctp, unknown] {
        let body = Body::Starttls(Starttls { ipproto, ..server("example.com") });
        scene.told(raw.refused(body, &[fd.as_fd()]), error, words);
    }
    drop(raw);
    scene.end();
}

/// An answer to PLAINTEXT_CONNECT (by default, the callback's own body) and its descriptor, and what
/// the program is told.
type Wrong<'a> = (Option<Body>, Option<BorrowedFd<'a>>, E, &'a str);

#[test]
fn callbacks_answered_by_the_wrong_one_or_wrongly() {
    let _alone = alone();
    let mut scene = Scene::new("[limits]\ncallback_timeout = \"8s\"");
    let (asked, other) = (scene.raw(), scene.raw());
    let calls = |raw: &Raw| {
        let (near, far) = tcp();
        raw.ask(1, server("example.com"), near).unwrap();
        raw.ask(2, client("example.com"), far.into()).unwrap();
        let callbacks = [raw.answer().unwrap(), raw.answer().unwrap()];
        let [one, two] = callbacks;
        if one.reqid == 1 { (one, two) } else { (two, one) }
    };
    let (_ours, pools) = UnixStream::pair().unwrap();
    let not_waited = "no callback of this connection";

    // On another connection, for another request, twice.
    let (serving, connecting) = calls(&asked);
    other.send(&serving, Some(pools.as_fd())).unwrap();
    scene.told(other.refusal(), E::CommandBadCallbackResponse, not_waited);
    let stray = Packet { reqid: 3, ..serving.clone() };
    asked.send(&stray, Some(pools.as_fd())).unwrap();
    scene.told(asked.refusal(), E::CommandBadCallbackResponse, not_waited);
    let mut far = asked.connect_plaintext(&serving).unwrap();
    let mut near = asked.connect_plaintext(&connecting).unwrap();
    for _ in 0..2 {
        assert!(matches!(asked.answer().unwrap().body, Body::Starttls(_)));
    }
    near.write_all(b"unharmed").unwrap();
    let mut heard = [0; 8];
    far.read_exact(&mut heard).unwrap();
    asked.send(&serving, Some(pools.as_fd())).unwrap();
    scene.told(asked.refusal(), E::CommandBadCallbackResponse, not_waited);
    drop((near, far));

    // Answered with a refusal, with nothing, with something else, with no connection, and not at all.
    let refusal = Body::Error(ErrorReply { code: 13, message: Text::cut("not with this one") });
    let (file, datagram) = (null(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let wrong: [Wrong<'_>; 6] = [
        (Some(refusal), None, E::ClientRefusesCallback, "not with this one"),
        (None, None, E::PlainSocketNeeded, "must carry a socket"),
        (Some(ping()), Some(pools.as_fd()), E::CommandBadCallbackResponse, "PLAINTEXT_CONNECT"),
        (None, Some(file.as_fd()), E::PlainSocketNeeded, "not a socket"),
        (None, Some(datagram.as_fd()), E::PlainSocketNeeded, "not connected"),
        (Some(Body::Unknown(0)), None, E::ClientRefusesCallback, "too long to answer"),
    ];
    for (body, fd, error, words) in wrong {
        let late = words == "too long to answer";
        let (serving, connecting) = calls(&asked);
        let mut plaintext = asked.connect_tcp(&connecting).unwrap();
        if !late {
            let body = body.unwrap_or(serving.body.clone());
            asked.send(&Packet { body, ..serving }, fd).unwrap();
        }
        let mut answers = [asked.answer().unwrap(), asked.answer().unwrap()];
        answers.sort_by_key(|answer| answer.reqid);
        match &answers[0].body {
            Body::Error(reply) => {
                let number = E::from_code(reply.code).unwrap();
                scene.told((number, reply.message.to_string()), error, words);
            }
            other => panic!("{words}: {other:?}"),
        }
        // The peer was not told that all is well.
        let end = plaintext.read(&mut [0]);
        assert!(end.is_err(), "{words}: its peer saw a clean end");
    }
    drop((asked, other));
    scene.end();
}

#[test]
fn control_keys_of_others() {
    let _alone = alone();
    let mut scene = Scene::new("");
    let (mine, yours) = (scene.raw(), scene.raw());
    let (key, server_key) = (keyed(client("example.com"), 1), keyed(server("example.com"), 2));
    let pairs = mine.pairs(1, &key, &server_key).unwrap();
    let (fd, _peer) = tcp();
    for raw in [&mine, &yours] {
        let reused = raw.refused(Body::Starttls(key.clone()), &[fd.as_fd()]);
        scene.told(reused, E::CtlkeyRegistrationFailed, "this control key");
    }
    let control = |key: u8| ControlRequest { ctlkey: CtlKey([key; 16]), ..Default::default() };
    let detach = |key| Body::ControlDetach(control(key));
    let reattach = |key| Body::ControlReattach(control(key));
    scene.told(yours.refused(detach(1), &[]), E::CtlkeyNotYours, "another connection");
    scene.told(yours.refused(detach(9), &[]), E::CtlkeyNotFound, "control key");
    scene.told(yours.refused(reattach(9), &[]), E::CtlkeyNotFound, "control key");
    scene.told(yours.refused(reattach(1), &[]), E::CtlkeyAttached, "attached");
    let question =
        tlspool_client::wire::packet::Prng::question(CtlKey([1; 16]), b"EXPERIMENTAL x", None, 16);
    let foreign = yours.refused(Body::Prng(question.unwrap()), &[]);
    scene.told(foreign, E::CtlkeyNotYours, "no such session of yours");
    let info = tlspool_client::Info {
        ctlkey: CtlKey([1; 16]),
        kind: 0x5280_0000,
        len: 0xffff,
        buffer: [0; 334],
    };
    let foreign = yours.refused(Body::Info(info), &[]);
    scene.told(foreign, E::CtlkeyNotYours, "no such session of yours");
    mine.send(&Packet { reqid: 1, cbid: 0, body: detach(1) }, None).unwrap();
    assert_eq!(mine.answer().unwrap().body, Body::Success);
    scene.told(mine.refused(detach(1), &[]), E::CtlkeyDetached, "detached");
    let detached = Body::Starttls(with(server("example.com"), Flags::DETACH));
    let refusal = mine.refused(detached, &[fd.as_fd()]);
    scene.told(refusal, E::CtlkeyRegistrationFailed, "needs a control key");
    drop((pairs, mine, yours));
    scene.end();
}

#[test]
fn names_that_are_not_here() {
    let _alone = alone();
    let mut scene = Scene::new("");
    let raw = scene.raw();
    let mut try_name = |request: Starttls, error, words: &str| {
        let (fd, _peer) = tcp();
        scene.told(raw.refused(Body::Starttls(request), &[fd.as_fd()]), error, words);
    };
    let unknown = Starttls { localid: Text::cut("nobody@example.net"), ..client("example.com") };
    try_name(unknown, E::LocalidUnknown, "nobody@example.net");
    for bad in ["two words", "@", "a@b@c", "exa\u{1}mple.com"] {
        try_name(server(bad), E::RecordMalformed, "localid");
        try_name(client(bad), E::RecordMalformed, "remoteid");
    }
    // A server learns of its name's absence when a client has come.
    let pool = scene.house.pool();
    let requests = (client("example.com").into(), server("absent.example.com").into());
    let refused = crate::streams::both(&pool, requests.0, requests.1).unwrap_err();
    assert!(refused.pool_error().is_some(), "{refused}");
    scene.logged("absent.example.com");
    drop((raw, pool));
    scene.end();
}

/// How long a peer that stops is waited for; who ends by itself has the time that everybody has.
const SHORT: u32 = 400;
const LONG: u32 = 0;

/// Has a peer do what `peer` does to a server's handshake that has so many milliseconds.
fn meet(scene: &Scene, timeout_ms: u32, peer: impl FnOnce(TcpStream, &Raw)) -> Refusal {
    let raw = scene.raw();
    let (fd, far) = tcp();
    let request = Starttls { timeout_ms, ..server("example.com") };
    raw.ask(1, request, fd).unwrap();
    peer(far, &raw);
    raw.refusal()
}

/// Whether an answer comes within a moment.
fn answered(raw: &Raw) -> bool {
    let moment = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
    poll(&mut [PollFd::new(&raw.0, PollFlags::IN)], Some(&moment)).unwrap() > 0
}

/// The beginning of a TLS connection, from OpenSSL.
fn client_hello() -> Vec<u8> {
    let (listener, address) = listen();
    let mut command = std::process::Command::new("openssl");
    command.args(["s_client", "-servername", "example.com", "-connect", &address.to_string()]);
    let _peer = tlspool_tests::Process::start(&mut command);
    let mut stream = listener.accept().unwrap().0;
    let mut hello = vec![0; 5];
    stream.read_exact(&mut hello).unwrap();
    let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
    hello.resize(5 + length, 0);
    stream.read_exact(&mut hello[5..]).unwrap();
    hello
}

#[test]
fn peers_that_do_not_speak_tls_or_stop() {
    let _alone = alone();
    let mut scene = Scene::new("");
    let hello = client_hello();
    for words in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"EHLO example.com\r\n", b"\0\0\0\0\0\0\0\0"] {
        let refusal = meet(&scene, LONG, |mut peer, raw| {
            peer.write_all(words).unwrap();
            while !answered(raw) {}
        });
        scene.told(refusal, E::StirredNotShaken, "not TLS");
    }
    for part in [&[][..], &hello[..3], &hello[..hello.len() / 2], &hello[..]] {
        let refusal = meet(&scene, LONG, |mut peer, _| peer.write_all(part).unwrap());
        assert_eq!(refusal.0, E::StirredNotShaken, "{refusal:?}");
        scene.logged(&refusal.1);
    }
    // Resets instead of closing.
    let refusal = meet(&scene, LONG, |mut peer, _| {
        peer.write_all(&hello[..20]).unwrap();
        rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    });
    // It may be over before it has begun.
    let early = refusal.0 == E::CipherSocketNeeded && refusal.1.contains("not connected");
    assert!(early || refusal.0 == E::StirredNotShaken, "{refusal:?}");
    scene.logged(&refusal.1);
    // Stops, and stays.
    for part in [&[][..], &hello[..hello.len() / 2], &hello[..]] {
        let mut kept = None;
        let refusal = meet(&scene, SHORT, |mut peer, raw| {
            peer.write_all(part).unwrap();
            while !answered(raw) {}
            kept = Some(peer);
        });
        scene.told(refusal, E::Timeout, "too long");
    }
    // Garbage that looks like TLS, and without end.
    let refusal = meet(&scene, LONG, |mut peer, raw| {
        let mut record = vec![22, 3, 3, 0x40, 0];
        record.extend(noise(0x4000));
        while !answered(raw) && peer.write_all(&record).is_ok() {}
    });
    assert_eq!(refusal.0, E::StirredNotShaken, "{refusal:?}");
    scene.logged(&refusal.1);
    // One byte after the other is slow, and ends with its time.
    let begun = Instant::now();
    let refusal = meet(&scene, SHORT, |mut peer, raw| {
        for byte in hello.iter().cycle() {
            if answered(raw) || peer.write_all(&[*byte]).is_err() {
                return;
            }
        }
    });
    scene.told(refusal, E::Timeout, "too long");
    assert!(begun.elapsed() >= Duration::from_millis(SHORT.into()));
    scene.end();
}

/// Two descriptors are for those who asked whether they may, and only with STARTTLS.
#[test]
fn a_plaintext_socket_may_come_along() {
    let _alone = alone();
    let mut scene = Scene::new("");
    let raw = scene.raw();
    let along = Facilities::STARTTLS | Facilities::PLAINTEXT_ALONG;
    let asked = Body::Ping(Ping { identity: Text::cut("20260101test"), facilities: along.0 });
    raw.send(&Packet { reqid: 1, cbid: 0, body: asked }, None).unwrap();
    let Body::Ping(pong) = raw.answer().unwrap().body else { panic!("no answer to PING") };
    assert_eq!(pong.facilities, along.0);

    let (cipher, _peer) = tcp();
    let starttls = || Body::Starttls(server("example.com"));
    let refusal = raw.refused(starttls(), &[cipher.as_fd(), null().as_fd()]);
    scene.told(refusal, E::PlainSocketNeeded, "not a socket");
    let refusal = raw.refused(starttls(), &[cipher.as_fd(); 3]);
    scene.told(refusal, E::SuperfluousSocket, "too many descriptors");
    let refusal = raw.refused(ping(), &[cipher.as_fd(); 2]);
    scene.told(refusal, E::SuperfluousSocket, "at most one descriptor");

    let (near, far) = tcp_pair();
    let mut ends = Vec::new();
    for (reqid, request, cipher) in
        [(2, server("example.com"), near), (3, client("example.com"), far)]
    {
        let (ours, pools) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        let packet = Packet { reqid, cbid: 0, body: Body::Starttls(request) };
        raw.send_bytes(&packet.encode(), &[cipher.as_fd(), pools.as_fd()]).unwrap();
        ends.push(ours);
    }
    for _ in 0..2 {
        // Nobody is asked for what is there.
        let answer = raw.answer().unwrap();
        assert!(matches!(answer.body, Body::Starttls(_)), "{answer:?}");
    }
    ends[0].write_all(b"along").unwrap();
    let mut heard = [0; 5];
    ends[1].read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"along");
    drop((ends, raw));
    scene.end();
}

/// Copies byte by byte.
fn trickle(mut from: TcpStream, mut to: TcpStream) {
    to.set_nodelay(true).unwrap();
    std::thread::spawn(move || {
        let mut byte = [0];
        while matches!(from.read(&mut byte), Ok(1)) && to.write_all(&byte).is_ok() {}
    });
}

#[test]
fn a_peer_that_is_slow_but_in_time_is_served() {
    let _alone = alone();
    let scene = Scene::new("");
    let pool = scene.house.pool();
    let (near, far) = tcp_pair();
    let (slow_near, slow_far) = tcp_pair();
    trickle(far.try_clone().unwrap(), slow_near.try_clone().unwrap());
    trickle(slow_near, far);
    let mut ends = std::thread::scope(|scope| {
        let plain = tlspool_client::Plaintext::pair;
        let pool = &pool;
        let serving = scope
            .spawn(move || pool.starttls(server("example.com").into(), slow_far.into(), plain()));
        let connected = pool.starttls(client("example.com").into(), near.into(), plain());
        [connected.unwrap(), serving.join().unwrap().unwrap()]
    });
    let [mut near, mut far] = ends.each_mut().map(plaintext);
    near.write_all(b"slowly").unwrap();
    let mut heard = [0; 6];
    far.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"slowly");
    drop((near, far, ends, pool));
    scene.end();
}

#[test]
fn programs_that_flood_stall_and_send_garbage() {
    let _alone = alone();
    let mut scene = Scene::new("[limits]\ncallback_timeout = \"3s\"");
    // Stall: with nothing, and in the middle of a record with a descriptor.
    let stalled: Vec<Raw> = (0..50).map(|_| scene.raw()).collect();
    for raw in &stalled[25..] {
        raw.send_bytes(&[0; 100], &[null().as_fd()]).unwrap();
    }
    // Ask and never read: disconnected after a while.
    let deaf = scene.raw();
    let question = Packet { reqid: 1, cbid: 0, body: ping() }.encode();
    let begun = Instant::now();
    while deaf.send_bytes(&question, &[]).is_ok() {
        assert!(begun.elapsed() < LIMIT, "it was never disconnected");
    }
    scene.logged("does not read its answers");
    // Ask a lot, and read: all is answered.
    let busy = scene.raw();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| (0..5000).all(|_| busy.send_bytes(&question, &[]).is_ok()));
        for _ in 0..5000 {
            assert!(matches!(busy.answer().unwrap().body, Body::Ping(_)));
        }
        assert!(asking.join().unwrap());
    });
    // Garbage: an error for each record of it.
    let garbage = scene.raw();
    for record in noise(500 * RECORD_LEN).chunks(RECORD_LEN) {
        garbage.send_bytes(record, &[]).unwrap();
        garbage.refusal();
    }
    scene.logged("refused a record");
    // Requests, abandoned at once.
    for _ in 0..50 {
        let raw = scene.raw();
        let (near, far) = tcp();
        raw.ask(1, server("example.com"), near).unwrap();
        raw.ask(2, client("example.com"), far.into()).unwrap();
    }
    scene.logged("closed its connection");
    scene.bystander.await_more(3);
    drop((stalled, deaf, busy, garbage));
    scene.end();
}

/// A peer that takes nothing blocks only its own session.
#[test]
fn peers_that_do_not_read_hold_nobody_up() {
    let _alone = alone();
    let scene = Scene::new("");
    let raw = scene.raw();
    let mut pairs = raw.pairs(8, &client("example.com"), &server("example.com")).unwrap();
    let block = noise(1 << 16);
    for pair in &mut pairs {
        pair.near.set_nonblocking(true).unwrap();
        while pair.near.write(&block).is_ok() {}
    }
    scene.bystander.await_more(3);
    for pair in &mut pairs {
        pair.near.set_nonblocking(false).unwrap();
        pair.near.shutdown(std::net::Shutdown::Write).unwrap();
        let all = tlspool_tests::app::read_all(&mut pair.far).unwrap();
        assert!(!all.is_empty());
    }
    drop((pairs, raw));
    scene.end();
}
