//! Real ends of SCTP associations, on a kernel that has them, and what they look like on the wire.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, Shutdown, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, ipproto, listen, recv, shutdown, socket_with, sockopt,
};
use tlspool_sctp::{self as sctp, Info, Received};

use crate::LIMIT;

/// More than any message here.
const ROOM: usize = 1 << 17;

/// What a socket is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// With authenticated DATA and FORWARD-TSN chunks, as DTLS wants it.
    Authenticated,
    /// As it comes.
    Plain,
}

fn socket(kind: Kind, streams: u16) -> OwnedFd {
    let flags = SocketFlags::CLOEXEC;
    let protocol = Some(ipproto::SCTP);
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, protocol)
        .expect("SCTP: these tests run in the VM, see scripts/run-in-vm.sh");
    sctp::ask_streams(socket.as_fd(), streams).expect("streams");
    if kind == Kind::Authenticated {
        sctp::set_authentication(socket.as_fd()).expect("SCTP-AUTH");
    }
    socket
}

/// A socket that listens on 127.0.0.1, with so many streams of its own for each association.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    /// Where.
    pub address: SocketAddr,
}

impl Listener {
    /// Listens.
    pub fn open(kind: Kind, streams: u16) -> Self {
        let socket = socket(kind, streams);
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        bind(&socket, &any).expect("a port");
        listen(&socket, 64).expect("a listener");
        let address = getsockname(&socket).expect("its address").try_into().expect("of IPv4");
        Self { socket, address }
    }

    /// The next association.
    pub fn accept(&self) -> OwnedFd {
        await_event(self.socket.as_fd(), PollFlags::IN);
        accept_with(&self.socket, SocketFlags::CLOEXEC).expect("an association")
    }
}

/// Connects to `address`, with `streams` of our own.
pub fn dial(address: SocketAddr, kind: Kind, streams: u16) -> OwnedFd {
    let socket = socket(kind, streams);
    connect(&socket, &address).expect("an association");
    socket
}

/// Both ends of an association.
pub fn pair(kind: Kind) -> (OwnedFd, OwnedFd) {
    let listener = Listener::open(kind, 20);
    let near = dial(listener.address, kind, 20);
    (near, listener.accept())
}

/// A port that is free.
pub fn free_port() -> u16 {
    Listener::open(Kind::Plain, 1).address.port()
}

fn await_event(fd: BorrowedFd<'_>, events: PollFlags) {
    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&limit)).expect("poll");
    assert!(ready > 0, "nothing happens");
}

/// An end of an association that speaks plaintext.
#[derive(Debug)]
pub struct End(OwnedFd);

impl End {
    /// Takes a connected socket.
    pub fn new(socket: OwnedFd) -> Self {
        sctp::tell_messages(socket.as_fd()).expect("an option");
        Self(socket)
    }

    /// Connects without authentication.
    pub fn dial(address: SocketAddr, streams: u16) -> Self {
        Self::new(dial(address, Kind::Plain, streams))
    }

    /// Sends a message.
    pub fn send(&self, message: &[u8], info: Info) {
        loop {
            match sctp::send(self.0.as_fd(), message, info, false) {
                Ok(_) => return,
                Err(Errno::AGAIN) => await_event(self.0.as_fd(), PollFlags::OUT),
                Err(error) => panic!("cannot send: {error}"),
            }
        }
    }

    /// The next message; none at the end. An association that was aborted is at its end too.
    pub fn next(&self) -> Option<(Vec<u8>, Info)> {
        let mut message = Vec::new();
        let mut buffer = vec![0; ROOM];
        loop {
            match sctp::receive(self.0.as_fd(), &mut [IoSliceMut::new(&mut buffer)]) {
                Ok(Received::Message { length, info, whole }) => {
                    message.extend_from_slice(&buffer[..length]);
                    if whole {
                        return Some((message, info));
                    }
                }
                Ok(Received::Dry | Received::Other) => {}
                Err(Errno::AGAIN) => await_event(self.0.as_fd(), PollFlags::IN),
                Ok(Received::End) | Err(_) => return None,
            }
        }
    }

    /// Says no more; what was said arrives.
    pub fn finish(&self) {
        shutdown(&self.0, Shutdown::Write).expect("it is connected");
    }

    /// The socket.
    pub fn socket(&self) -> &OwnedFd {
        &self.0
    }
}

/// A service that sends every message back as it came: on its stream, with its PPID, in or out of order.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
}

impl Echo {
    /// Starts it, with so many streams for each association; it runs as long as the process.
    pub fn start(streams: u16) -> Self {
        let listener = Listener::open(Kind::Plain, streams);
        let address = listener.address;
        thread::spawn(move || {
            loop {
                let accepted = accept_with(&listener.socket, SocketFlags::CLOEXEC);
                let Ok(socket) = accepted else { return };
                thread::spawn(move || {
                    let end = End::new(socket);
                    while let Some((message, info)) = end.next_patiently() {
                        end.send(&message, info);
                    }
                });
            }
        });
        Self { address }
    }
}

impl End {
    /// As [`Self::next`], however long it takes.
    fn next_patiently(&self) -> Option<(Vec<u8>, Info)> {
        poll(&mut [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)], None).ok()?;
        self.next()
    }
}

/// A packet of SCTP that went over the loopback interface.
#[derive(Debug, Clone)]
pub struct Packet {
    /// Source and destination ports.
    pub ports: (u16, u16),
    /// Type, flags and value of each chunk.
    pub chunks: Vec<(u8, u8, Vec<u8>)>,
}

/// Types of chunks.
pub mod chunk {
    #![allow(missing_docs)]
    pub const DATA: u8 = 0;
    pub const AUTH: u8 = 15;
}

impl Packet {
    /// Reads a packet of IPv4.
    fn read(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 15) * 4;
        let sctp = packet.get(header..)?;
        let short = |at: usize| Some(u16::from_be_bytes(sctp.get(at..at + 2)?.try_into().ok()?));
        let ports = (short(0)?, short(2)?);
        let mut chunks = Vec::new();
        let mut rest = sctp.get(12..)?;
        while let [kind, flags, high, low, ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            chunks.push((*kind, *flags, rest.get(4..length)?.to_vec()));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(Self { ports, chunks })
    }

    /// The number of the key that authenticates what follows it, if it does.
    pub fn key(&self) -> Option<u16> {
        let (_, _, value) = self.chunks.iter().find(|(kind, ..)| *kind == chunk::AUTH)?;
        Some(u16::from_be_bytes(value.get(..2)?.try_into().ok()?))
    }

    /// Whether it has user data.
    pub fn has_data(&self) -> bool {
        self.chunks.iter().any(|(kind, ..)| *kind == chunk::DATA)
    }

    /// Whether no user data stands in front of the chunk that authenticates it, or without one.
    pub fn is_authenticated(&self) -> bool {
        let first =
            self.chunks.iter().find(|(kind, ..)| matches!(*kind, chunk::DATA | chunk::AUTH));
        first.is_none_or(|(kind, ..)| *kind == chunk::AUTH)
    }
}

/// Listens to all of SCTP that arrives at 127.0.0.1, until it is dropped.
#[derive(Debug)]
pub struct Capture {
    heard: Arc<Heard>,
    over: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

/// A raw socket, and what came out of it.
#[derive(Debug)]
struct Heard {
    raw: OwnedFd,
    packets: Mutex<Vec<Packet>>,
}

impl Heard {
    /// All that has arrived.
    fn all(&self) -> MutexGuard<'_, Vec<Packet>> {
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match recv(&self.raw, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    packets.push(Packet::read(&buffer[..length]).expect("a packet of SCTP"));
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return packets,
                Err(error) => panic!("the capture: {error}"),
            }
        }
    }
}

impl Capture {
    /// Listens from now on.
    pub fn start() -> Self {
        let flags = SocketFlags::CLOEXEC;
        let raw = socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::SCTP));
        let raw = raw.expect("a raw socket");
        // More than any test sends.
        sockopt::set_socket_recv_buffer_size_force(&raw, 32 << 20).expect("we are root");
        let heard = Arc::new(Heard { raw, packets: Mutex::default() });
        let over = Arc::new(AtomicBool::new(false));
        let (hears, is_over) = (Arc::clone(&heard), Arc::clone(&over));
        let listening = thread::spawn(move || {
            // So often it looks whether it is over.
            let often = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            while !is_over.load(Ordering::Relaxed) {
                let mut raw = [PollFd::from_borrowed_fd(hears.raw.as_fd(), PollFlags::IN)];
                match poll(&mut raw, Some(&often)) {
                    Ok(_) => drop(hears.all()),
                    Err(Errno::INTR) => {}
                    Err(error) => panic!("the capture: {error}"),
                }
            }
        });
        Self { heard, over, listening: Some(listening) }
    }

    /// What was heard from and to `port` so far.
    pub fn of(&self, port: u16) -> Vec<Packet> {
        let packets = self.heard.all();
        packets.iter().filter(|p| p.ports.0 == port || p.ports.1 == port).cloned().collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if self.listening.take().is_some_and(|listening| listening.join().is_err())
            && !thread::panicking()
        {
            panic!("the capture has missed something");
        }
    }
}
