//! What the processes of the daemon say to each other, and the channel that carries it.
//!
//! A channel is a SOCK_SEQPACKET socket; a message is JSON with descriptors beside it. This is not a hot
//! path: requests of programs and signatures never go this way. Both ends are ours, but a message that
//! does not parse is an error, never a panic, because the network process might have been taken over.
//!
//! Used with a tokio runtime ([`AsyncChannel`]: supervisor and network process) and without
//! ([`Channel`]: at the start of a child, and in the commands).

use crate::config::{Config, Log};
use crate::watched::Watched;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The first message to the network process. Descriptors: the listeners, then the key channels.
#[derive(Debug, Serialize, Deserialize)]
pub struct NetworkStart {
    /// The configuration.
    pub config: Config,
    /// Paths of the listeners, in the order of the descriptors.
    pub listeners: Vec<PathBuf>,
    /// User and group to become, if the supervisor is root.
    pub become_user: Option<Account>,
    /// Where the log goes.
    pub log: Log,
}

/// The first message to the key process. Descriptors: the PIN memory, then the key channels.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeydStart {
    /// The configuration.
    pub config: Config,
    /// User and group to become, if the supervisor is root.
    pub become_user: Option<Account>,
    /// Where the log goes.
    pub log: Log,
}

/// The first message to the look-up process. Descriptors: one channel for each worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct LookupStart {
    /// The configuration.
    pub config: Config,
    /// User and group to become, if the supervisor is root.
    pub become_user: Option<Account>,
    /// Where the log goes.
    pub log: Log,
}

/// Whom a child process runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The user's name, for the supplementary groups.
    pub name: String,
    /// The user's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// From the supervisor to the network process.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToNetwork {
    /// Stop accepting and close the listeners (another daemon has them now); sessions go on, and the
    /// process ends after the last one, or when `drain_timeout` is over, with [`FromNetwork::Drained`].
    StopAccepting,
    /// The daemon ends: as `StopAccepting`. The supervisor removes the sockets from the file system.
    Drain,
    /// The configuration was read again. What cannot change in a running process is as it was.
    Reload {
        /// Comes back in [`FromNetwork::Reloaded`].
        id: u64,
        /// The whole configuration.
        config: Box<Config>,
    },
    /// The key process was started anew. Descriptors: one channel for each worker.
    KeyChannels,
    /// The look-up process was started. Descriptors: one channel for each worker; none if there is no
    /// such process any more.
    LookupChannels,
    /// Answers [`FromNetwork::WhichProgram`].
    Program {
        /// The id of the question.
        id: u64,
        /// The program's file; `None` if the process is gone, or not that user's any more.
        program: Option<PathBuf>,
    },
    /// Asks for [`FromNetwork::Status`].
    Status {
        /// Comes back in the answer.
        id: u64,
    },
}

/// From the network process to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromNetwork {
    /// Programs are served.
    Ready,
    /// The process cannot start, and ends.
    Failed {
        /// Why, and what to do.
        problem: String,
    },
    /// Answers [`ToNetwork::Status`].
    Status {
        /// The id of the question.
        id: u64,
        /// What `tlspool status` shows (docs: `tlspool status --json`).
        status: serde_json::Value,
    },
    /// Which program does a process run that has connected? Only root may look at those of others.
    WhichProgram {
        /// Comes back in the answer.
        id: u64,
        /// The process.
        pid: i32,
        /// Its user.
        uid: u32,
    },
    /// Answers [`ToNetwork::Reload`]: all workers go by the new configuration, or it cannot be used and the old one stays.
    Reloaded {
        /// The id of the message.
        id: u64,
    },
    /// The last session has ended; the process ends.
    Drained,
    /// A token waits for its PIN and no PIN program is connected.
    PinWaiting {
        /// The token's label.
        token: String,
    },
}

/// From a daemon that goes to the background to the process that was called on the terminal.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToFront {
    /// Something that the person should know.
    Note {
        /// What.
        text: String,
    },
    /// Programs are served; the terminal gets its prompt back.
    Ready,
    /// The daemon did not start.
    Failed {
        /// Why, and what to do.
        problem: String,
    },
}

/// Over the control socket, from a command or a new daemon to the running supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum ControlRequest {
    /// What is going on?
    Status,
    /// A new daemon asks for the sockets, the PID file and the PIN memory ([`ControlReply::Handover`]).
    TakeOver {
        /// Its PID.
        pid: i32,
    },
    /// The new daemon serves: the old one stops accepting and drains. Its answer is `Done`. Only for who took over by
    /// this connection.
    Commit,
    /// Asks a daemon that belongs to a unit of systemd to start its successor itself, so that that has the unit's
    /// surroundings: `Done` if it does, [`ControlReply::NoUnit`] if there is no unit. One descriptor comes along, for
    /// [`ToFront`].
    Replace {
        /// The program that asks: the successor must be that one.
        program: PathBuf,
        /// The configuration file, if one was named.
        config: Option<PathBuf>,
    },
}

/// The running supervisor's answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum ControlReply {
    /// The status of the daemon.
    Status {
        /// See [`FromNetwork::Status`], with what the supervisor knows added.
        status: serde_json::Value,
    },
    /// Descriptors: the locked PID file, the PIN memory, then the listeners.
    Handover {
        /// Paths of the listeners, in the order of the descriptors.
        listeners: Vec<PathBuf>,
        /// PID of the old supervisor.
        pid: i32,
        /// The listeners are systemd's: their files stay when the daemon ends.
        from_systemd: bool,
        /// Where systemd hears about the service (`NOTIFY_SOCKET`).
        notify_socket: Option<String>,
    },
    /// It is done.
    Done,
    /// The daemon does not belong to a unit of systemd; whoever replaces it starts the new one.
    NoUnit,
    /// It is not.
    Refused {
        /// Why.
        problem: String,
    },
}

/// Bytes in one datagram; well below the send buffer that a socket gets by default.
const CHUNK: usize = 60_000;
/// No message is longer than this, whoever sends it.
const MAX_MESSAGE: usize = 64 << 20;
/// The kernel's bound on descriptors in one datagram (`SCM_MAX_FD`).
const MAX_FDS: usize = 253;

/// First byte of a datagram: the message begins with it, or goes on in the next one.
const BEGINS: u8 = 1;
const GOES_ON: u8 = 2;

/// Both ends of a new channel; both close on exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

fn encode<M: Serialize>(message: &M) -> io::Result<Vec<Vec<u8>>> {
    let json = serde_json::to_vec(message)?;
    let count = json.len().div_ceil(CHUNK).max(1);
    let mut rest = json.as_slice();
    let mut datagrams = Vec::with_capacity(count);
    for n in 0..count {
        let (chunk, after) = rest.split_at(rest.len().min(CHUNK));
        let begins = if n == 0 { BEGINS } else { 0 };
        let goes_on = if n + 1 < count { GOES_ON } else { 0 };
        let mut datagram = Vec::with_capacity(chunk.len() + 1);
        datagram.push(begins | goes_on);
        datagram.extend_from_slice(chunk);
        datagrams.push(datagram);
        rest = after;
    }
    Ok(datagrams)
}

fn send_datagram(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

/// A message on its way in.
#[derive(Default)]
struct Incoming {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

enum Step {
    Complete(Vec<u8>, Vec<OwnedFd>),
    GoesOn,
    Closed,
}

impl Incoming {
    /// Reads one datagram; `WouldBlock` if there is none.
    fn read(&mut self, socket: BorrowedFd<'_>) -> io::Result<Step> {
        let mut buffer = vec![0u8; CHUNK + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags)?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        let Some((&marks, chunk)) = buffer[..received.bytes].split_first() else {
            return Ok(Step::Closed);
        };
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(invalid("a datagram was cut short"));
        }
        if marks & BEGINS != 0 {
            *self = Self::default();
        }
        if self.bytes.len() + chunk.len() > MAX_MESSAGE {
            return Err(invalid("a message without end"));
        }
        self.bytes.extend_from_slice(chunk);
        self.fds.extend(fds);
        if marks & GOES_ON != 0 {
            return Ok(Step::GoesOn);
        }
        let whole = std::mem::take(self);
        Ok(Step::Complete(whole.bytes, whole.fds))
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn decode<M: DeserializeOwned>(bytes: &[u8]) -> io::Result<M> {
    Ok(serde_json::from_slice(bytes)?)
}

/// A channel for code without a runtime: calls wait.
pub struct Channel {
    socket: OwnedFd,
    incoming: Incoming,
}

impl Channel {
    /// Takes one end of a [`pair`] or a connected control socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, incoming: Incoming::default() }
    }

    /// Sends a message; waits while the other end is slow.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut fds = fds;
        for datagram in encode(message)? {
            loop {
                match send_datagram(self.socket.as_fd(), &datagram, fds) {
                    Ok(()) => break,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        wait_for(&self.socket, PollFlags::OUT, None)?;
                    }
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
            fds = &[];
        }
        Ok(())
    }

    /// Waits for a message; `None` when the other end is closed.
    pub fn recv<M: DeserializeOwned>(&mut self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        self.recv_within(None)
    }

    /// As [`Self::recv`], for at most `limit`; then `TimedOut`.
    pub fn recv_within<M: DeserializeOwned>(
        &mut self,
        limit: Option<Duration>,
    ) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            match self.incoming.read(self.socket.as_fd()) {
                Ok(Step::Complete(bytes, fds)) => return Ok(Some((decode(&bytes)?, fds))),
                Ok(Step::GoesOn) => {}
                Ok(Step::Closed) => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(&self.socket, PollFlags::IN, end)?;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The socket.
    pub fn into_fd(self) -> OwnedFd {
        self.socket
    }
}

fn wait_for(socket: &OwnedFd, flags: PollFlags, end: Option<Instant>) -> io::Result<()> {
    let left = match end {
        None => None,
        Some(end) => {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Some(Timespec::try_from(left).map_err(io::Error::other)?)
        }
    };
    match poll(&mut [PollFd::new(socket, flags)], left.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A channel for tasks.
pub struct AsyncChannel {
    socket: Watched,
    incoming: parking_lot::Mutex<Incoming>,
    sending: tokio::sync::Mutex<()>,
}

impl AsyncChannel {
    /// Takes one end of a [`pair`] or a connected control socket; must be called within a runtime.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: Watched::new(socket)?,
            incoming: parking_lot::Mutex::default(),
            sending: tokio::sync::Mutex::default(),
        })
    }

    /// Sends a message; several tasks may.
    pub async fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let datagrams = encode(message)?;
        let _turn = self.sending.lock().await;
        let mut fds = fds;
        for datagram in datagrams {
            loop {
                let mut ready = self.socket.writable().await?;
                match ready.try_io(|socket| send_datagram(socket.as_fd(), &datagram, fds)) {
                    Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
                    Ok(result) => {
                        result?;
                        break;
                    }
                    Err(_would_block) => {}
                }
            }
            fds = &[];
        }
        Ok(())
    }

    /// Waits for a message; `None` when the other end is closed. One task at a time; may be cancelled.
    pub async fn recv<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| self.incoming.lock().read(socket.as_fd())) {
                Ok(Ok(Step::Complete(bytes, fds))) => return Ok(Some((decode(&bytes)?, fds))),
                Ok(Ok(Step::Closed)) => return Ok(None),
                Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(Err(e)) if e.kind() != io::ErrorKind::Interrupted => return Err(e),
                Ok(_) | Err(_) => {}
            }
        }
    }
}

impl AsFd for AsyncChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn descriptors_arrive_with_their_message() {
        let (here, there) = pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        let sender = Channel::new(here);
        sender.send(&ToNetwork::Status { id: 7 }, &[]).unwrap();
        sender.send(&ToNetwork::KeyChannels, &[writer.as_fd()]).unwrap();
        drop((sender, writer));
        let mut receiver = Channel::new(there);
        let (first, fds) = receiver.recv::<ToNetwork>().unwrap().unwrap();
        assert!(matches!(first, ToNetwork::Status { id: 7 }) && fds.is_empty());
        let (second, mut fds) = receiver.recv::<ToNetwork>().unwrap().unwrap();
        assert!(matches!(second, ToNetwork::KeyChannels));
        assert!(rustix::io::fcntl_getfd(&fds[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        std::fs::File::from(fds.remove(0)).write_all(b"x").unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
        assert!(receiver.recv::<ToNetwork>().unwrap().is_none());
    }

    #[test]
    fn long_messages_are_cut_and_joined() {
        let (here, there) = pair().unwrap();
        let long = "é".repeat(5 * CHUNK);
        let expected = long.clone();
        let sender = std::thread::spawn(move || {
            Channel::new(here).send(&FromNetwork::Failed { problem: long }, &[])
        });
        let (message, _) = Channel::new(there).recv::<FromNetwork>().unwrap().unwrap();
        sender.join().unwrap().unwrap();
        assert!(matches!(message, FromNetwork::Failed { problem } if problem == expected));
    }

    #[test]
    fn a_message_that_was_given_up_does_not_spoil_the_next() {
        let (here, there) = pair().unwrap();
        send_datagram(here.as_fd(), &[BEGINS | GOES_ON, b'{'], &[]).unwrap();
        let sender = Channel::new(here);
        sender.send(&FromNetwork::Drained, &[]).unwrap();
        let (message, _) = Channel::new(there).recv::<FromNetwork>().unwrap().unwrap();
        assert!(matches!(message, FromNetwork::Drained));
    }

    #[test]
    fn nonsense_is_an_error() {
        let (here, there) = pair().unwrap();
        send_datagram(here.as_fd(), b"\x01{\"Readi\":", &[]).unwrap();
        assert!(Channel::new(there).recv::<FromNetwork>().is_err());
    }

    #[test]
    fn waiting_has_an_end() {
        let (_here, there) = pair().unwrap();
        let error = Channel::new(there)
            .recv_within::<FromNetwork>(Some(Duration::from_millis(1)))
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn tasks_exchange_messages() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (here, there) = pair().unwrap();
            let (here, there) =
                (AsyncChannel::new(here).unwrap(), AsyncChannel::new(there).unwrap());
            let status = FromNetwork::Status { id: 1, status: "s".repeat(3 * CHUNK).into() };
            let (sent, received) =
                tokio::join!(here.send(&status, &[]), there.recv::<FromNetwork>());
            sent.unwrap();
            assert!(matches!(received.unwrap().unwrap().0, FromNetwork::Status { id: 1, .. }));
            drop(here);
            assert!(there.recv::<FromNetwork>().await.unwrap().is_none());
        });
    }
}
