//! The tunnel with a pool that does no TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use rustix::net::{AddressFamily, SocketType, bind, getsockname};
use tempfile::TempDir;
use tlspool_client::fake::FakePool;
use tlspool_client::wire::Body;
use tlspool_client::{PoolError, Starttls, StarttlsFlags};

use super::Tunnel;
use crate::options::Options;

/// No test waits longer for anything.
const LIMIT: Duration = Duration::from_mins(1);

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("pool");
    (folder, socket)
}

/// Starts a tunnel to `pool` on a free port.
async fn start(pool: &Path, more: &[&str]) -> SocketAddr {
    let pool = pool.to_str().unwrap();
    let args = ["tlstunnel", "-S", pool, "-l", "127.0.0.1:0"];
    let options = Options::try_parse_from(args.iter().chain(more)).unwrap();
    let tunnel = Tunnel::open(&options).await.unwrap();
    let address = tunnel.listener.local_address();
    tokio::spawn(async move { tunnel.run().await });
    address
}

/// Runs the blocking part of a test beside the tunnel.
async fn beside<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(LIMIT, tokio::task::spawn_blocking(test)).await.unwrap().unwrap()
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

fn said(mut stream: impl Read) -> String {
    let mut text = [0; 5];
    stream.read_exact(&mut text).unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

#[tokio::test]
async fn a_server_connects_after_the_handshake_and_keeps_nothing() {
    let (_folder, socket) = folder();
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    let pool = FakePool::bind(&socket).unwrap();
    let remote = backend.local_addr().unwrap().to_string();
    let address = start(&socket, &["-s", "-r", &remote, "-L", "example.com"]).await;
    beside(move || {
        let mut peer = connect(address);
        let mut tunnel = pool.accept().unwrap();
        let (request, cipher) = tunnel.receive().unwrap();
        let Body::Starttls(asked) = request.body.clone() else { panic!("{request:?}") };
        assert_eq!(asked.localid.as_str(), "example.com");
        assert!(asked.flags.contains(StarttlsFlags::IGNORE_REMOTEID));
        backend.set_nonblocking(true).unwrap();
        assert!(backend.accept().is_err(), "connected before the peer was known");
        backend.set_nonblocking(false).unwrap();
        tunnel.call_back(&request, 7, Body::PlaintextConnect(asked.clone())).unwrap();
        let (answer, plaintext) = tunnel.receive().unwrap();
        assert_eq!((answer.reqid, answer.cbid), (request.reqid, 7));
        tunnel.answer(&request, Body::Starttls(asked)).unwrap();
        let (mut service, _) = backend.accept().unwrap();
        let (mut cipher, mut plaintext) =
            (TcpStream::from(cipher.unwrap()), TcpStream::from(plaintext.unwrap()));
        peer.write_all(b"hello").unwrap();
        assert_eq!(said(retry(&mut cipher)), "hello");
        plaintext.write_all(b"there").unwrap();
        assert_eq!(said(&service), "there");
        // Only the pool's descriptors keep the connections open.
        drop((cipher, plaintext));
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        assert_eq!(service.read(&mut [0]).unwrap(), 0);
    })
    .await;
}

/// Descriptors arrive nonblocking; tests are simpler when they are not.
fn retry(stream: &mut TcpStream) -> &mut TcpStream {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

#[tokio::test]
async fn a_client_hands_over_both() {
    let (_folder, socket) = folder();
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let pool = FakePool::bind(&socket).unwrap();
    let remote = service.local_addr().unwrap().to_string();
    let address = start(&socket, &["-c", "-r", &remote, "-R", "example.com", "-f"]).await;
    beside(move || {
        let mut program = connect(address);
        let mut tunnel = pool.accept().unwrap();
        let (request, cipher) = tunnel.receive().unwrap();
        let Body::Starttls(asked) = request.body.clone() else { panic!("{request:?}") };
        assert_eq!(asked.remoteid.as_str(), "example.com");
        let wanted = StarttlsFlags::LOCALROLE_CLIENT | StarttlsFlags::FORK;
        assert!(asked.flags.contains(wanted));
        tunnel.call_back(&request, 1, Body::PlaintextConnect(asked.clone())).unwrap();
        let (_, plaintext) = tunnel.receive().unwrap();
        tunnel.answer(&request, Body::Starttls(asked)).unwrap();
        program.write_all(b"hello").unwrap();
        let (mut cipher, mut plaintext) =
            (TcpStream::from(cipher.unwrap()), TcpStream::from(plaintext.unwrap()));
        assert_eq!(said(retry(&mut plaintext)), "hello");
        cipher.write_all(b"there").unwrap();
        assert_eq!(said(service.accept().unwrap().0), "there");
    })
    .await;
}

#[tokio::test]
async fn an_unreachable_service_refuses_the_callback() {
    let (_folder, socket) = folder();
    let pool = FakePool::bind(&socket).unwrap();
    // Taken, but nobody listens.
    let taken = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&taken, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let nobody = SocketAddr::try_from(getsockname(&taken).unwrap()).unwrap().to_string();
    let address = start(&socket, &["-s", "-r", &nobody]).await;
    beside(move || {
        let mut peer = connect(address);
        let mut tunnel = pool.accept().unwrap();
        let (request, cipher) = tunnel.receive().unwrap();
        tunnel.call_back(&request, 1, Body::PlaintextConnect(Starttls::default())).unwrap();
        let (answer, plaintext) = tunnel.receive().unwrap();
        let Body::Error(refusal) = answer.body else { panic!("{answer:?}") };
        let expected = format!("cannot connect to {nobody}: ");
        assert!(refusal.message.as_str().starts_with(&expected), "{}", refusal.message);
        assert!((1..256).contains(&refusal.code), "{} is an errno", refusal.code);
        assert!(plaintext.is_none());
        let refused = PoolError::ClientRefusesCallback;
        let body = tlspool_client::wire::packet::ErrorReply {
            code: refused.code(),
            message: refusal.message,
        };
        tunnel.answer(&request, Body::Error(body)).unwrap();
        drop(cipher);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn connections_wait_for_a_pool_that_comes_back() {
    let (folder, socket) = folder();
    let path = folder.path().join("service");
    let service = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let address = start(&socket, &["-s", "-r", path.to_str().unwrap()]).await;
    for _ in 0..2 {
        let (socket, service) = (socket.clone(), service.try_clone().unwrap());
        beside(move || {
            let mut peer = connect(address);
            peer.write_all(b"hello").unwrap();
            let pool = FakePool::bind(&socket).unwrap();
            let mut tunnel = pool.accept().unwrap();
            let (request, cipher) = tunnel.receive().unwrap();
            let established = Body::PlaintextConnect(Starttls::default());
            tunnel.call_back(&request, 1, established).unwrap();
            let (_, plaintext) = tunnel.receive().unwrap();
            tunnel.answer(&request, Body::Starttls(Starttls::default())).unwrap();
            let mut cipher = TcpStream::from(cipher.unwrap());
            assert_eq!(said(retry(&mut cipher)), "hello");
            UnixStream::from(plaintext.unwrap()).write_all(b"there").unwrap();
            assert_eq!(said(service.accept().unwrap().0), "there");
            // The pool dies here; the next connection finds another.
        })
        .await;
    }
}

#[tokio::test]
async fn a_pool_that_stays_away_costs_the_connection() {
    let (_folder, socket) = folder();
    let address = start(&socket, &["-s", "-r", "127.0.0.1:9", "--pool-timeout", "0"]).await;
    beside(move || {
        let mut peer = connect(address);
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    })
    .await;
}

/// A stream to `address` from another address of this machine.
fn connect_from(from: &str, address: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &from.parse::<SocketAddr>().unwrap()).unwrap();
    rustix::net::connect(&socket, &address).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream
}

/// One who connects and says nothing has his share of the handshakes, and no more of them.
#[tokio::test]
async fn a_silent_peer_leaves_room_for_others() {
    let (_folder, socket) = folder();
    let pool = FakePool::bind(&socket).unwrap();
    let address = start(&socket, &["-s", "-r", "/nowhere/", "--pending", "8"]).await;
    beside(move || {
        // Two begin; eight wait for them; the rest is turned away.
        let silent: Vec<_> = (0..12).map(|_| connect_from("127.0.0.2:0", address)).collect();
        let mut other = connect_from("127.0.0.3:0", address);
        let mut tunnel = pool.accept().unwrap();
        let mut next = || {
            let (request, cipher) = tunnel.receive().unwrap();
            let cipher = TcpStream::from(cipher.unwrap());
            (request, cipher.peer_addr().unwrap().ip().to_string(), cipher)
        };
        let first: Vec<_> = (0..3).map(|_| next()).collect();
        let from: Vec<_> = first.iter().map(|(_, peer, _)| peer.as_str()).collect();
        assert_eq!(from, ["127.0.0.2", "127.0.0.2", "127.0.0.3"]);
        for mut stream in &silent[10..] {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        }
        // Whoever waits comes next, one for each that is over.
        let mut over = first.into_iter().take(2).map(|(request, ..)| request).collect::<Vec<_>>();
        for waiting in &silent[2..10] {
            let request = over.remove(0);
            let timeout = tlspool_client::wire::Packet::error(0, PoolError::Timeout, "");
            tunnel.answer(&request, timeout.body).unwrap();
            let (request, cipher) = tunnel.receive().unwrap();
            let peer = TcpStream::from(cipher.unwrap()).peer_addr().unwrap();
            assert_eq!(peer, waiting.local_addr().unwrap());
            over.push(request);
        }
        other.write_all(b"hello").unwrap();
    })
    .await;
}

/// The pool goes away after it was seen, while the other side is being reached.
#[tokio::test]
async fn a_pool_that_goes_away_in_between_costs_no_connection() {
    let (folder, socket) = folder();
    let path = folder.path().join("remote");
    // Its queue has room for one.
    let remote = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&remote, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&remote, 0).unwrap();
    let remote = std::os::unix::net::UnixListener::from(remote);
    let filler = UnixStream::connect(&path).unwrap();
    let pool = FakePool::bind(&socket).unwrap();
    let to = path.to_str().unwrap();
    let address = start(&socket, &["-c", "-r", to, "-R", "example.com"]).await;
    beside(move || {
        let mut program = connect(address);
        program.write_all(b"hello").unwrap();
        let mut seen = pool.accept().unwrap();
        seen.receive_any().unwrap();
        drop((seen, pool));
        std::fs::remove_file(&socket).unwrap();
        // Now there is room, and the connection is made.
        let _filler = (filler, remote.accept().unwrap());
        let far = remote.accept().unwrap().0;
        let pool = FakePool::bind(&socket).unwrap();
        let mut tunnel = pool.accept().unwrap();
        let (request, cipher) = tunnel.receive().unwrap();
        assert!(cipher.is_some());
        let Body::Starttls(asked) = request.body.clone() else { panic!("{request:?}") };
        tunnel.call_back(&request, 1, Body::PlaintextConnect(asked.clone())).unwrap();
        let (_, plaintext) = tunnel.receive().unwrap();
        tunnel.answer(&request, Body::Starttls(asked)).unwrap();
        assert_eq!(said(retry(&mut TcpStream::from(plaintext.unwrap()))), "hello");
        drop(far);
    })
    .await;
}
