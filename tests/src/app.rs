//! A program whose TLS the pool does, in a thread of the test.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tlspool_client::{Error, Plaintext, Pool, Session, StarttlsRequest};

use crate::LIMIT;
use crate::net::{dial, listen};

/// The outcome of one connection: what the program made of it, or why there was no session.
pub type Outcome<T> = Result<T, Error>;

/// A server of one connection.
#[derive(Debug)]
pub struct Server<T> {
    /// Where it listens.
    pub address: SocketAddr,
    thread: JoinHandle<Outcome<T>>,
}

impl<T: Send + 'static> Server<T> {
    /// Accepts one connection, asks the pool for TLS, and has `work` speak with the peer.
    pub fn start(
        pool: Pool,
        request: StarttlsRequest,
        work: impl FnOnce(&Session, &mut UnixStream) -> T + Send + 'static,
    ) -> Self {
        let (listener, _) = listen();
        Self::on(&listener, pool, request, work)
    }

    /// As [`Self::start`], where `listener` listens, which may do so for longer.
    pub fn on(
        listener: &TcpListener,
        pool: Pool,
        request: StarttlsRequest,
        work: impl FnOnce(&Session, &mut UnixStream) -> T + Send + 'static,
    ) -> Self {
        let address = listener.local_addr().expect("it listens");
        let listener = listener.try_clone().expect("another descriptor of it");
        let thread = thread::spawn(move || {
            let tcp = accept(&listener);
            let mut session = pool.starttls(request, tcp, Plaintext::pair())?;
            let mut plaintext = plaintext(&mut session);
            Ok(work(&session, &mut plaintext))
        });
        Self { address, thread }
    }

    /// Where it listens, for command lines.
    pub fn at(&self) -> String {
        self.address.to_string()
    }

    /// What became of the connection.
    pub fn outcome(self) -> Outcome<T> {
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Server<Greeted> {
    /// A server that reads a line, answers `you are NAME: LINE`, and closes.
    pub fn greeter(pool: Pool, request: StarttlsRequest) -> Self {
        Self::start(pool, request, greet)
    }
}

/// Whom a greeter met.
#[derive(Debug, PartialEq, Eq)]
pub struct Greeted {
    /// The name we had.
    pub localid: String,
    /// The name the peer proved.
    pub remoteid: String,
    /// What it said.
    pub line: String,
}

/// Reads a line, answers `you are NAME: LINE`, and closes.
pub fn greet(session: &Session, plaintext: &mut UnixStream) -> Greeted {
    let mut line = String::new();
    BufReader::new(&*plaintext).read_line(&mut line).expect("a line");
    let answer = format!("you are {}: {line}", session.remoteid());
    plaintext.write_all(answer.as_bytes()).expect("the peer reads");
    plaintext.shutdown(Shutdown::Write).expect("our socket");
    // The peer closes too, or is gone.
    let _ = io::copy(plaintext, &mut io::sink());
    Greeted {
        localid: session.localid().into(),
        remoteid: session.remoteid().into(),
        line: line.trim_end().into(),
    }
}

/// Connects to `address` and asks the pool for TLS.
pub fn call(
    pool: &Pool,
    request: StarttlsRequest,
    address: impl std::net::ToSocketAddrs,
) -> Outcome<(Session, UnixStream)> {
    let tcp = dial(address).expect("a connection");
    let mut session = pool.starttls(request, tcp.into(), Plaintext::pair())?;
    let plaintext = plaintext(&mut session);
    Ok((session, plaintext))
}

/// The application's end of a session, with limits on reading and writing.
pub fn plaintext(session: &mut Session) -> UnixStream {
    let plaintext = UnixStream::from(session.plaintext.take().expect("a pair was asked for"));
    plaintext.set_read_timeout(Some(LIMIT)).expect("a time limit");
    plaintext.set_write_timeout(Some(LIMIT)).expect("a time limit");
    plaintext
}

/// The same of a session of messages. Receiving gives an empty one at the session's end.
pub fn datagrams(session: &mut Session) -> UnixDatagram {
    let plaintext = UnixDatagram::from(session.plaintext.take().expect("a pair was asked for"));
    plaintext.set_read_timeout(Some(LIMIT)).expect("a time limit");
    plaintext.set_write_timeout(Some(LIMIT)).expect("a time limit");
    plaintext
}

/// The next message.
pub fn message(from: &UnixDatagram) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let n = from.recv(&mut buffer).expect("a message");
    buffer.truncate(n);
    buffer
}

/// Accepts a connection; fails if none comes.
pub fn accept(listener: &TcpListener) -> OwnedFd {
    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut listening = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
    assert!(poll(&mut listening, Some(&limit)).expect("poll works") > 0, "nobody connects");
    listener.accept().expect("a connection").0.into()
}

/// Bytes that do not repeat within reach of a buffer, so that a lost or doubled one shows.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Reads to the end of file.
pub fn read_all(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    from.read_to_end(&mut all)?;
    Ok(all)
}
