//! Associations that do not authenticate their chunks, and sockets of the wrong kind, are refused with words.

use std::os::fd::OwnedFd;

use tlspool_client::wire::PROTOCOL_IDENTITY;
use tlspool_client::{Facilities, Plaintext, PoolError, StarttlsRequest};
use tlspool_tests::House;
use tlspool_tests::net::tcp_pair;
use tlspool_tests::sctp::{End, Kind, Listener, dial, pair};

use super::messages::Two;

/// What helps if an association has too few.
const MORE_STREAMS: &str = "ask for more (SCTP_INITMSG)";

/// The number and the words with which a request is refused.
fn refusal(house: &House, request: StarttlsRequest, socket: OwnedFd) -> (PoolError, String) {
    let error = house.pool().starttls(request, socket, Plaintext::pair()).unwrap_err();
    (error.pool_error().unwrap(), error.to_string())
}

#[test]
#[ignore = "in the VM"]
fn without_authenticated_chunks_there_is_no_session() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    let request = StarttlsRequest::server().sctp_messages(0);
    // Nobody authenticates.
    let (near, _far) = pair(Kind::Plain);
    let (error, words) = refusal(&house, request.clone(), near);
    assert_eq!(error, PoolError::CipherSocketNeeded);
    assert!(words.contains("SCTP_AUTH_CHUNK"), "{words}");
    // We would, the peer does not: it must not be told from one who has the wrong program.
    let listener = Listener::open(Kind::Plain, 5);
    let near = dial(listener.address, Kind::Authenticated, 5);
    let _far = listener.accept();
    let (error, words) = refusal(&house, request.clone(), near);
    assert_eq!(error, PoolError::CipherSocketNeeded);
    assert!(words.contains("the peer's end") && words.contains("RFC 4895"), "{words}");
    // The peer would, we do not.
    let listener = Listener::open(Kind::Authenticated, 5);
    let near = dial(listener.address, Kind::Plain, 5);
    let far = listener.accept();
    let (_, words) = refusal(&house, request.clone(), near.try_clone().unwrap());
    assert!(words.contains("our end"), "{words}");
    let (_, words) = refusal(&house, request.clone(), far.try_clone().unwrap());
    assert!(words.contains("the peer's end"), "{words}");
    // An association that is over.
    drop(near);
    assert_eq!(End::new(far.try_clone().unwrap()).next(), None);
    let (_, words) = refusal(&house, request, far);
    assert!(words.contains("not connected"), "{words}");
    daemon.stop();
}

#[test]
#[ignore = "in the VM"]
fn wrong_sockets_and_streams_are_refused() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    let (tcp, _other) = tcp_pair();
    for request in [StarttlsRequest::server().sctp(0), StarttlsRequest::server().sctp_messages(0)] {
        let (error, words) = refusal(&house, request, tcp.try_clone().unwrap().into());
        assert_eq!(error, PoolError::CipherSocketNeeded);
        assert!(words.contains("not an SCTP socket"), "{words}");
    }
    let listener = Listener::open(Kind::Plain, 5);
    let near = dial(listener.address, Kind::Plain, 9);
    let _far = listener.accept();
    let (_, words) = refusal(&house, StarttlsRequest::server().sctp(5), near);
    assert!(words.contains("no stream 5") && words.ends_with(MORE_STREAMS), "{words}");
    // Bytes have no boundaries. (The pool says so at once if the socket comes along, which it does when the
    // connection has seen one request.)
    let (near, _far) = pair(Kind::Authenticated);
    let pool = house.pool();
    pool.ping(PROTOCOL_IDENTITY, Facilities::ALL_CURRENT).unwrap();
    let request = StarttlsRequest::server().sctp_messages(0);
    let error = pool.starttls(request, near, Plaintext::given(tcp.into())).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::PlainSocketNeeded), "{error}");
    assert!(error.to_string().contains("pass a SEQPACKET, datagram or SCTP socket"), "{error}");
    // A plaintext association without the stream.
    let near = dial(listener.address, Kind::Plain, 9);
    let few = Listener::open(Kind::Plain, 2);
    let _ours = dial(few.address, Kind::Plain, 2);
    let request = StarttlsRequest::server().sctp(4);
    let error = pool.starttls(request, near, Plaintext::given(few.accept())).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::PlainSocketNeeded), "{error}");
    let words = error.to_string();
    assert!(words.contains("the plaintext side: the association has no stream 4"), "{words}");
    assert!(words.ends_with(MORE_STREAMS), "{words}");
    // One that is connected to nobody.
    let lonely = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        Some(rustix::net::ipproto::SCTP),
    );
    let (error, words) = refusal(&house, StarttlsRequest::server().sctp(0), lonely.unwrap());
    assert_eq!(error, PoolError::CipherSocketNeeded);
    assert!(words.contains("not connected"), "{words}");
    daemon.stop();
}

/// `net.sctp.auth_enable` as long as it lives.
struct AuthEnable;

impl AuthEnable {
    const PATH: &str = "/proc/sys/net/sctp/auth_enable";

    fn off() -> Self {
        std::fs::write(Self::PATH, "0").unwrap();
        Self
    }
}

impl Drop for AuthEnable {
    fn drop(&mut self) {
        std::fs::write(Self::PATH, "1").unwrap();
    }
}

#[test]
#[ignore = "in the VM"]
fn sockets_authenticate_where_the_system_does_not() {
    let two = Two::new("");
    let _off = AuthEnable::off();
    let (near, far) = pair(Kind::Plain);
    let request = StarttlsRequest::server().sctp_messages(0);
    let (_, words) = refusal(&two.servers, request.clone(), far);
    assert!(words.contains("RFC 4895"), "{words}");
    drop(near);
    let (near, far) = pair(Kind::Authenticated);
    let pool = two.servers.pool();
    let server = std::thread::spawn(move || {
        pool.starttls(request, far, Plaintext::pair()).map(|session| session.remoteid().to_owned())
    });
    let request = StarttlsRequest::client("example.com").unwrap().sctp_messages(0);
    let request = request.localid("john@example.org").unwrap();
    let session = two
        .clients
        .pool()
        .starttls(request, near, Plaintext::pair())
        .unwrap_or_else(|error| panic!("{error}\n{}", two.logs()));
    assert_eq!(server.join().unwrap().unwrap(), "john@example.org");
    drop(session);
    two.stop();
}
