//! Ports, and sockets that do not wait for ever.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::LIMIT;

/// A port of 127.0.0.1 that is free, for programs which cannot choose one and say so. It is none of those
/// that the kernel gives to outgoing connections, and no other call in this process returns it.
pub fn free_port() -> u16 {
    const LOWEST: u16 = 10_000;
    const HIGHEST: u16 = 32_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let _ = NEXT.compare_exchange(
        0,
        (std::process::id() % 2000) as u16 * 11 + LOWEST,
        Ordering::Relaxed,
        Ordering::Relaxed,
    );
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        if port >= HIGHEST {
            NEXT.store(LOWEST, Ordering::Relaxed);
        } else if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The same, and free for UDP as well: resolvers ask from any port, these included.
pub fn free_udp_port() -> u16 {
    loop {
        let port = free_port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Listens on a port of 127.0.0.1.
pub fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number");
    (listener, address)
}

/// Connects, with limits on reading and writing.
pub fn dial(address: impl std::net::ToSocketAddrs) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    limit(&stream)?;
    Ok(stream)
}

/// Both ends of a TCP connection.
///
/// A thread has one listener for all its pairs. With one for each, whoever makes thousands of pairs a minute fills the
/// kernel's ports with connections in TIME_WAIT, until most of the processor goes into finding one that is free.
pub fn tcp_pair() -> (TcpStream, TcpStream) {
    thread_local!(static LISTENER: (TcpListener, SocketAddr) = listen());
    LISTENER.with(|(listener, address)| {
        let near = dial(address).expect("a connection");
        let far = listener.accept().expect("its other end").0;
        limit(&far).expect("a time limit");
        (near, far)
    })
}

/// Two UDP sockets that are connected to each other.
pub fn udp_pair() -> (UdpSocket, UdpSocket) {
    let bind = || UdpSocket::bind("127.0.0.1:0").expect("a port");
    let (near, far) = (bind(), bind());
    near.connect(far.local_addr().expect("its number")).expect("a connection");
    far.connect(near.local_addr().expect("its number")).expect("a connection");
    (near, far)
}

/// Lets reading and writing fail in the end.
pub fn limit(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))
}
