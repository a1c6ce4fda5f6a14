//! DTLS over SCTP between two pools: messages keep their streams, their payload protocols and their order.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tlspool_client::wire::MessageHeader;
use tlspool_client::wire::message::{EVERY_STREAM, MAX_MESSAGE, MessageFlags};
use tlspool_client::{CtlKey, Plaintext, Session, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_sctp::{self as sctp, Info};
use tlspool_tests::sctp::{Capture, End, Kind, Packet, chunk, dial, pair};
use tlspool_tests::{Daemon, House, LIMIT};

use super::weather::Weather;

/// Two pools that trust each other.
pub(crate) struct Two {
    pub(crate) servers: House,
    pub(crate) clients: House,
    pub(crate) serving: Daemon,
    pub(crate) calling: Daemon,
}

impl Two {
    pub(crate) fn new(more: &str) -> Self {
        let (servers, clients) = (House::with(more), House::with(more));
        servers.identity("example.com");
        clients.identity("john@example.org");
        clients.good(&["trust", "add", servers.anchor()]);
        servers.good(&["trust", "add", clients.anchor()]);
        let (serving, calling) = (servers.start(), clients.start());
        Self { servers, clients, serving, calling }
    }

    pub(crate) fn logs(&self) -> String {
        format!("{}\n{}", self.serving.log(), self.calling.log())
    }

    pub(crate) fn stop(self) -> String {
        let calling = self.calling.stop();
        self.serving.stop() + &calling
    }
}

/// The application's end of a session, whose messages have headers.
#[derive(Debug)]
struct Framed(UnixDatagram);

impl Framed {
    fn of(session: &mut Session) -> Self {
        let socket = UnixDatagram::from(session.plaintext.take().unwrap());
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket.set_write_timeout(Some(LIMIT)).unwrap();
        Self(socket)
    }

    fn send(&self, header: MessageHeader, message: &[u8]) {
        self.0.send(&[&header.encode()[..], message].concat()).unwrap();
    }

    fn receive(&self) -> Option<(MessageHeader, Vec<u8>)> {
        let mut buffer = vec![0; MAX_MESSAGE + 100];
        let n = self.0.recv(&mut buffer).unwrap();
        let (header, message) = MessageHeader::split(&buffer[..n])?;
        Some((header, message.to_vec()))
    }
}

/// A server in a thread that sends every message back with the header it came with.
fn echo(two: &Two, socket: OwnedFd, request: StarttlsRequest) -> JoinHandle<(String, usize)> {
    let pool = two.servers.pool();
    thread::spawn(move || {
        let mut session = pool.starttls(request, socket, Plaintext::pair()).unwrap();
        let framed = Framed::of(&mut session);
        let mut echoed = 0;
        while let Some((header, message)) = framed.receive() {
            framed.send(header, &message);
            echoed += 1;
        }
        (session.remoteid().to_owned(), echoed)
    })
}

fn header(stream: u16, ppid: u32) -> MessageHeader {
    MessageHeader { stream, flags: MessageFlags::default(), ppid: ppid.to_be_bytes() }
}

fn request() -> StarttlsRequest {
    let request = StarttlsRequest::client("example.com").unwrap().sctp_messages(EVERY_STREAM);
    request.localid("john@example.org").unwrap()
}

fn port_of(socket: &OwnedFd) -> u16 {
    std::net::SocketAddr::try_from(rustix::net::getsockname(socket).unwrap()).unwrap().port()
}

/// Numbers of the keys that authenticated data, in the order in which they came up, of packets from `port`.
fn keys(packets: &[Packet], port: u16) -> Vec<u16> {
    let data = packets.iter().filter(|packet| packet.ports.0 == port && packet.has_data());
    let mut keys: Vec<_> = data.map(|packet| packet.key().unwrap()).collect();
    keys.dedup();
    keys
}

#[test]
#[ignore = "in the VM"]
fn streams_and_protocols_are_kept_and_authenticated_with_new_keys() {
    let two = Two::new("");
    let capture = Capture::start();
    let (near, far) = pair(Kind::Authenticated);
    let (port, at) = (port_of(&near), far.try_clone().unwrap());
    let here = near.try_clone().unwrap();
    let server = echo(&two, far, StarttlsRequest::server().sctp_messages(EVERY_STREAM));
    let key = CtlKey([7; 16]);
    let pool = two.clients.pool();
    let mut session = pool
        .starttls(request().ctlkey(key), near, Plaintext::pair())
        .unwrap_or_else(|error| panic!("{error}\n{}", two.logs()));
    assert_eq!(session.remoteid(), "example.com");
    let framed = Framed::of(&mut session);
    let secret = b"nobody is to see this on the wire";
    let both_ways = || {
        for (n, length) in [1, 33, 1400, 1500, 9000, MAX_MESSAGE].into_iter().enumerate() {
            let mut message = secret.repeat(length / secret.len() + 1);
            message.truncate(length);
            let header = header(n as u16 * 3, 47 + n as u32);
            framed.send(header, &message);
            assert_eq!(framed.receive().unwrap(), (header, message));
        }
        let unordered = MessageHeader { flags: MessageFlags::UNORDERED, ..header(19, 0) };
        framed.send(unordered, secret);
        assert_eq!(framed.receive().unwrap(), (unordered, secret.to_vec()));
    };
    both_ways();
    assert_eq!(sctp::key_in_use(here.as_fd()), Ok(1));
    assert_eq!(sctp::key_in_use(at.as_fd()), Ok(1));
    // Each handshake has a key of its own (RFC 6083 section 4.8).
    let renegotiated = pool.renegotiate(request().ctlkey(key));
    let renegotiated = renegotiated.unwrap_or_else(|error| panic!("{error}\n{}", two.logs()));
    assert_eq!(renegotiated.remoteid.as_str(), "example.com");
    both_ways();
    assert_eq!(sctp::key_in_use(here.as_fd()), Ok(2));
    assert_eq!(sctp::key_in_use(at.as_fd()), Ok(2));
    // Those before are gone: they can neither be removed once more nor used.
    for number in [0, 1] {
        for socket in [&here, &at] {
            assert!(sctp::remove_key(socket.as_fd(), number).is_err(), "{number}");
            assert!(sctp::use_key(socket.as_fd(), number).is_err(), "{number}");
        }
    }
    // What the wire shows. (The tests' own descriptors keep the association from ending until then.)
    let seen = capture.of(port);
    let data: Vec<_> = seen.iter().filter(|packet| packet.has_data()).collect();
    assert!(data.len() > 40, "{} packets", data.len());
    for packet in &data {
        assert!(packet.is_authenticated(), "{packet:?}");
        for (_, _, value) in &packet.chunks {
            assert!(!value.windows(8).any(|window| window == &secret[..8]), "plaintext");
        }
    }
    let ports = [port, port_of(&at)];
    for port in ports {
        assert_eq!(keys(&seen, port), [0, 1, 2], "sent from {port}");
    }
    drop((here, at));
    drop((framed, session));
    let (name, echoed) = server.join().unwrap();
    assert_eq!((name.as_str(), echoed), ("john@example.org", 14));
    let log = two.stop();
    assert!(log.contains("DTLSv1.2"), "{log}");
}

#[test]
#[ignore = "in the VM"]
fn a_server_renegotiates_and_a_precursor_hides() {
    let two = Two::new("[privacy]\nmode = \"require\"");
    let capture = Capture::start();
    let (near, far) = pair(Kind::Authenticated);
    let (port, here) = (port_of(&near), near.try_clone().unwrap());
    let pool = two.servers.pool();
    let key = CtlKey([9; 16]);
    let ours = StarttlsRequest::server().sctp_messages(5).service("smtp").unwrap().ctlkey(key);
    let server = thread::spawn(move || {
        let mut session = pool.starttls(ours.clone(), far, Plaintext::pair())?;
        let plaintext = UnixDatagram::from(session.plaintext.take().unwrap());
        plaintext.set_read_timeout(Some(LIMIT)).unwrap();
        let mut buffer = [0; 100];
        let n = plaintext.recv(&mut buffer).unwrap();
        let renegotiated = pool.renegotiate(ours)?;
        plaintext.send(&buffer[..n]).unwrap();
        // Until the other end is gone.
        assert_eq!(plaintext.recv(&mut buffer).unwrap(), 0);
        Ok::<_, tlspool_client::Error>(renegotiated.remoteid.as_str().to_owned())
    });
    // A program that knows of one stream has no headers.
    let asked = StarttlsRequest::client("example.com").unwrap().sctp_messages(5);
    let asked = asked.service("smtp").unwrap().localid("john@example.org").unwrap();
    let mut session = two
        .clients
        .pool()
        .starttls(asked, near, Plaintext::pair())
        .unwrap_or_else(|error| panic!("{error}\n{}", two.logs()));
    let plaintext = UnixDatagram::from(session.plaintext.take().unwrap());
    plaintext.set_read_timeout(Some(LIMIT)).unwrap();
    plaintext.send(b"hello").unwrap();
    let mut buffer = [0; 100];
    assert_eq!(plaintext.recv(&mut buffer).unwrap(), 5, "{}", two.logs());
    // Two handshakes of the precursor, and one more.
    assert_eq!(sctp::key_in_use(here.as_fd()), Ok(3));
    assert_eq!(keys(&capture.of(port), port), [0, 1, 2, 3]);
    drop((plaintext, session));
    let name = server.join().unwrap().unwrap_or_else(|error| panic!("{error}\n{}", two.logs()));
    assert_eq!(name, "john@example.org");
    two.stop();
}

#[test]
#[ignore = "in the VM"]
fn much_data_on_many_streams_both_ways() {
    const MESSAGES: u32 = 600;
    let two = Two::new("");
    let (near, far) = pair(Kind::Authenticated);
    let server = echo(&two, far, StarttlsRequest::server().sctp_messages(EVERY_STREAM));
    let mut session = two.clients.pool().starttls(request(), near, Plaintext::pair()).unwrap();
    let framed = Framed::of(&mut session);
    let sender = Framed(framed.0.try_clone().unwrap());
    let sending = thread::spawn(move || {
        for n in 0..MESSAGES {
            let length = (n as usize * 7919) % MAX_MESSAGE;
            let message = [&n.to_be_bytes()[..], &vec![n as u8; length]].concat();
            let length = message.len().min(MAX_MESSAGE);
            sender.send(header((n % 20) as u16, n), &message[..length]);
        }
    });
    let mut next = [0; 20].map(|_: u32| None::<u32>);
    for _ in 0..MESSAGES {
        let (header, message) = framed.receive().unwrap();
        let n = u32::from_be_bytes(message[..4].try_into().unwrap());
        assert_eq!((header.stream, header.ppid), ((n % 20) as u16, n.to_be_bytes()));
        assert_eq!(message.len(), (4 + (n as usize * 7919) % MAX_MESSAGE).min(MAX_MESSAGE));
        assert!(message[4..].iter().all(|byte| *byte == n as u8));
        // In order within each stream.
        let before = next[usize::from(header.stream)].replace(n);
        assert!(before.is_none_or(|before| before + 20 == n), "{before:?} before {n}");
    }
    sending.join().unwrap();
    drop((framed, session));
    assert_eq!(server.join().unwrap().1, MESSAGES as usize);
    two.stop();
}

#[test]
#[ignore = "in the VM"]
fn plaintext_sockets_of_sctp_need_no_header() {
    let two = Two::new("");
    let (near, far) = pair(Kind::Authenticated);
    let server = echo(&two, far, StarttlsRequest::server().sctp_messages(EVERY_STREAM));
    let (ours, pools) = pair(Kind::Plain);
    let session = two.clients.pool().starttls(request(), near, Plaintext::given(pools)).unwrap();
    let end = End::new(ours);
    for n in 0..40_u16 {
        let info = Info { stream: n % 20, ppid: u32::from(n) << 16, unordered: n % 3 == 0 };
        let message = vec![n as u8; 1 + usize::from(n) * 400];
        end.send(&message, info);
        assert_eq!(end.next(), Some((message, info)));
    }
    // An association ends as a whole, and cleanly.
    end.finish();
    assert_eq!(end.next(), None);
    drop(session);
    assert_eq!(server.join().unwrap().1, 40);
    two.stop();
}

#[test]
#[ignore = "in the VM"]
fn what_cannot_be_carried_ends_the_session_and_says_why() {
    let two = Two::new("");
    for (message, words) in [
        ([&header(999, 0).encode()[..], b"x"].concat(), "stream 999"),
        (vec![0; 8 + MAX_MESSAGE + 1], "longer than 16384 bytes"),
        (vec![0; 7], "lacks its header"),
    ] {
        let (near, far) = pair(Kind::Authenticated);
        let server = echo(&two, far, StarttlsRequest::server().sctp_messages(EVERY_STREAM));
        let mut session = two.clients.pool().starttls(request(), near, Plaintext::pair()).unwrap();
        let framed = Framed::of(&mut session);
        framed.0.send(&message).unwrap();
        assert_eq!(framed.receive(), None);
        assert_eq!(server.join().unwrap().1, 0);
        two.calling.await_log(words);
    }
    two.stop();
}

#[test]
#[ignore = "in the VM"]
fn a_lost_association_is_no_clean_end() {
    let two = Two::new("");
    let (near, far) = pair(Kind::Authenticated);
    let doomed = far.try_clone().unwrap();
    let server = echo(&two, far, StarttlsRequest::server().sctp_messages(EVERY_STREAM));
    let mut session = two.clients.pool().starttls(request(), near, Plaintext::pair()).unwrap();
    let framed = Framed::of(&mut session);
    framed.send(header(1, 1), b"hello");
    framed.receive().unwrap();
    // Ends the association under both pools, without a word of DTLS.
    rustix::net::shutdown(&doomed, rustix::net::Shutdown::Write).unwrap();
    drop(doomed);
    assert_eq!(framed.receive(), None);
    drop(session);
    server.join().unwrap();
    two.calling.await_log("close_notify");
    two.stop();
}

/// The client waits until the server has its answer, and hears that the association is over.
#[test]
#[ignore = "in the VM"]
fn an_association_that_ends_while_keys_change_ends_the_session() {
    let two = Two::new("");
    let capture = Capture::start();
    let (near, far) = pair(Kind::Authenticated);
    let (port, doomed) = (port_of(&far), far.try_clone().unwrap());
    let server = echo(&two, far, StarttlsRequest::server().sctp_messages(EVERY_STREAM));
    let (key, pool) = (CtlKey([7; 16]), two.clients.pool());
    let mut session = pool.starttls(request().ctlkey(key), near, Plaintext::pair()).unwrap();
    let framed = Framed::of(&mut session);
    framed.send(header(1, 1), b"hello");
    framed.receive().unwrap();
    let said = || {
        let packets = capture.of(port);
        let chunks = packets.iter().filter(|p| p.ports.0 == port).flat_map(|p| &p.chunks);
        chunks.filter(|(kind, ..)| *kind == chunk::DATA).count()
    };
    let before = said();
    let slow = Weather::begin("delay 300ms");
    let renegotiating = thread::spawn(move || pool.renegotiate(request().ctlkey(key)));
    // ServerHello, Certificate, ServerKeyExchange, CertificateRequest, ServerHelloDone.
    let deadline = Instant::now() + LIMIT;
    while said() < before + 5 {
        assert!(Instant::now() < deadline, "{}", two.logs());
        thread::sleep(Duration::from_millis(1));
    }
    // What the client answers now is not acknowledged before it has heard of the end.
    rustix::net::shutdown(&doomed, rustix::net::Shutdown::Write).unwrap();
    drop(doomed);
    assert_eq!(framed.receive(), None);
    assert!(renegotiating.join().unwrap().is_err());
    drop((session, slow));
    server.join().unwrap();
    two.calling.await_log("close_notify");
    two.stop();
}

#[test]
#[ignore = "in the VM"]
fn sessions_are_resumed() {
    let two = Two::new("");
    for _ in 0..2 {
        let (near, far) = pair(Kind::Authenticated);
        let here = near.try_clone().unwrap();
        let ours = StarttlsRequest::server().sctp_messages(EVERY_STREAM);
        let server = echo(&two, far, ours.flags(Flags::REQUEST_REMOTEID));
        let mut session = two.clients.pool().starttls(request(), near, Plaintext::pair()).unwrap();
        let framed = Framed::of(&mut session);
        framed.send(header(1, 1), b"hello");
        framed.receive().unwrap();
        assert_eq!(sctp::key_in_use(here.as_fd()), Ok(1));
        drop((framed, session, here));
        server.join().unwrap();
    }
    let log = two.stop();
    assert_eq!(log.matches("resumed=true").count(), 2, "{log}");
}

#[test]
#[ignore = "in the VM"]
fn many_at_a_time() {
    let two = Two::new("");
    let listener = tlspool_tests::sctp::Listener::open(Kind::Authenticated, 20);
    let mut open = Vec::new();
    for n in 0..20_u32 {
        let near = dial(listener.address, Kind::Authenticated, 20);
        let ours = StarttlsRequest::server().sctp_messages(EVERY_STREAM);
        let server = echo(&two, listener.accept(), ours);
        let pool = two.clients.pool();
        let client = thread::spawn(move || {
            let mut session = pool.starttls(request(), near, Plaintext::pair()).unwrap();
            let framed = Framed::of(&mut session);
            framed.send(header(n as u16, n), &n.to_be_bytes());
            assert_eq!(framed.receive().unwrap(), (header(n as u16, n), n.to_be_bytes().to_vec()));
        });
        open.push((client, server));
    }
    for (client, server) in open {
        client.join().unwrap();
        assert_eq!(server.join().unwrap().1, 1);
    }
    two.stop();
}
