//! The control socket: `tlspool status` and `tlspool -k` talk to the running supervisor.
//!
//! Only root and the user who runs the daemon get in: the socket has mode 0600 and SO_PEERCRED is asked
//! besides. Both sides check, because descriptors flow towards the new daemon. Without root the children of the daemon
//! are the same user: they are refused by their PIDs, and so is, where it is about more than looking, whoever is more
//! confined than the supervisor, such as the children of a daemon before that drains.

use super::message::{AsyncChannel, Channel, ControlReply, ControlRequest};
use super::sockets::{Place, bind_at};
use crate::config::{AbsolutePath, FileMode};
use crate::watched::Watched;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, UCred, accept_with, connect, listen,
    socket_with, sockopt,
};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long the running daemon may take to answer.
pub const ANSWER_TIME: Duration = Duration::from_secs(10);

/// When nobody can be accepted, most likely for want of descriptors, it is tried again after this time.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the running daemon cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody is there.
    #[error("no tlspool answers on {path}: {source}; is it running, with this configuration?")]
    Absent {
        /// The control socket.
        path: AbsolutePath,
        /// Why.
        source: io::Error,
    },
    /// Not allowed in.
    #[error("{path} is not yours: only root and the user who runs the daemon may control it")]
    Forbidden {
        /// The control socket.
        path: AbsolutePath,
    },
    /// It is there and does not speak, or nonsense.
    #[error("tlspool does not answer on {path}: {source}")]
    Mute {
        /// The control socket.
        path: AbsolutePath,
        /// Why.
        source: io::Error,
    },
    /// It said no.
    #[error("the running tlspool refuses: {0}")]
    Refused(String),
}

/// A connection to the running supervisor.
pub struct ControlClient {
    channel: Channel,
    path: AbsolutePath,
}

impl ControlClient {
    /// Connects to the control socket.
    pub fn connect(path: &AbsolutePath) -> Result<Self, ControlError> {
        let absent = |e: rustix::io::Errno| match e {
            rustix::io::Errno::ACCESS => ControlError::Forbidden { path: path.clone() },
            e => ControlError::Absent { path: path.clone(), source: e.into() },
        };
        let fd =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(absent)?;
        let address = SocketAddrUnix::new(&**path).map_err(absent)?;
        connect(&fd, &address).map_err(absent)?;
        if !is_ours(&fd) {
            return Err(ControlError::Forbidden { path: path.clone() });
        }
        Ok(Self { channel: Channel::new(fd), path: path.clone() })
    }

    /// Asks and waits for the answer, at most [`ANSWER_TIME`].
    pub fn ask(
        &mut self,
        request: &ControlRequest,
    ) -> Result<(ControlReply, Vec<OwnedFd>), ControlError> {
        self.ask_with(request, &[])
    }

    /// As [`Self::ask`], with descriptors.
    pub fn ask_with(
        &mut self,
        request: &ControlRequest,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(ControlReply, Vec<OwnedFd>), ControlError> {
        let mute = |source| ControlError::Mute { path: self.path.clone(), source };
        self.channel.send(request, fds).map_err(mute)?;
        match self.channel.recv_within(Some(ANSWER_TIME)).map_err(mute)? {
            Some((ControlReply::Refused { problem }, _)) => Err(ControlError::Refused(problem)),
            Some(answer) => Ok(answer),
            None => Err(mute(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// Whether root or we ourselves are at the other end.
fn is_ours(socket: &impl AsFd) -> bool {
    sockopt::socket_peercred(socket).is_ok_and(|peer| is_one_of_us(&peer))
}

fn is_one_of_us(peer: &UCred) -> bool {
    peer.uid.is_root() || peer.uid == rustix::process::geteuid()
}

/// Takes the answer to a request, with the descriptors that belong to it.
pub type Answer = oneshot::Sender<(ControlReply, Vec<OwnedFd>)>;

/// A connection to the control socket, for as long as it is open.
#[derive(Clone, Debug, Default)]
pub struct Connection(Weak<()>);

impl Connection {
    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Whether both are the same connection, which is open.
    pub fn is(&self, other: &Self) -> bool {
        self.is_open() && self.0.ptr_eq(&other.0)
    }
}

/// A request with the way to answer it.
pub struct Asked {
    /// What is asked.
    pub request: ControlRequest,
    /// The descriptors that came along.
    pub fds: Vec<OwnedFd>,
    /// Who asks, as the kernel says.
    pub peer: UCred,
    /// By which connection.
    pub connection: Connection,
    /// Where the answer goes.
    pub answer: Answer,
}

/// The control socket of this supervisor.
pub struct ControlSocket {
    listener: Watched,
    place: Place,
}

impl ControlSocket {
    /// Makes the socket. One that is there is replaced in one step, so that after `-k` no command finds
    /// nothing.
    pub fn bind(path: &AbsolutePath) -> io::Result<Self> {
        let new = path.with_extension(format!("{}", std::process::id()));
        let _ = std::fs::remove_file(&new);
        let fd = bind_at(&new, FileMode(0o600), SocketType::SEQPACKET)?;
        let made = listen(&fd, 16)
            .map_err(io::Error::from)
            .and_then(|()| Watched::new(fd))
            .and_then(|listener| std::fs::rename(&new, path).map(|()| listener));
        match made {
            Ok(listener) => Ok(Self { listener, place: Place::of(path) }),
            Err(error) => {
                let _ = std::fs::remove_file(&new);
                Err(error)
            }
        }
    }

    /// Accepts for ever and passes requests on. May be cancelled.
    pub async fn serve(&self, requests: &mpsc::Sender<Asked>) -> io::Result<()> {
        loop {
            let mut ready = self.listener.readable().await?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let accepted = ready.try_io(|fd| Ok(accept_with(fd.get_ref(), flags)?));
            match accepted {
                Ok(Ok(socket)) => begin(socket, requests),
                Ok(Err(error)) if is_passing(&error) => {}
                Ok(Err(error)) => {
                    tracing::error!("nobody can control the daemon now: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(_would_block) => {}
            }
        }
    }

    /// Takes the socket out of the file system.
    pub fn remove(self) {
        self.place.remove();
    }
}

/// The one that connects has left again, or the call was interrupted.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

/// Serves a connection, if it is one of ours. One that cannot be served ends; the next one may do better.
fn begin(socket: OwnedFd, requests: &mpsc::Sender<Asked>) {
    let Ok(peer) = sockopt::socket_peercred(&socket) else { return };
    if !is_one_of_us(&peer) {
        return;
    }
    match AsyncChannel::new(socket) {
        Ok(channel) => drop(tokio::spawn(serve_one(channel, peer, requests.clone()))),
        Err(error) => tracing::error!("a command cannot be heard: {error}"),
    }
}

async fn serve_one(channel: AsyncChannel, peer: UCred, requests: mpsc::Sender<Asked>) {
    let open = Arc::new(());
    while let Ok(Some((request, fds))) = channel.recv::<ControlRequest>().await {
        let (answer, answered) = oneshot::channel();
        let connection = Connection(Arc::downgrade(&open));
        if requests.send(Asked { request, fds, peer, connection, answer }).await.is_err() {
            return;
        }
        let Ok((reply, fds)) = answered.await else { return };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if channel.send(&reply, &fds).await.is_err() {
            return;
        }
    }
}

/// Whether this process, which may be of our own user, is to be trusted with what a daemon has: it must not be more
/// confined than we are. Our network process, and that of a daemon before us, is: system call filters never go.
pub(super) fn may_succeed(peer: &UCred) -> Result<(), String> {
    let pid = peer.pid.as_raw_nonzero();
    let theirs = match filters_of(&pid.to_string()) {
        Ok(filters) => filters,
        // Under hidepid root cannot look at everybody; our children are not root where root runs us.
        Err(_) if peer.uid.is_root() => return Ok(()),
        Err(error) => return Err(format!("cannot see whether process {pid} is confined: {error}")),
    };
    let ours = filters_of("self").unwrap_or(0);
    if theirs > ours {
        return Err(format!("process {pid} is confined, as a part of a daemon is"));
    }
    Ok(())
}

/// How many system call filters a process has.
fn filters_of(process: &str) -> io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.strip_prefix(':')?.trim().parse::<u64>().ok()
    };
    // Kernels before 5.9 say only whether there are any (mode 2).
    Ok(field("Seccomp_filters").or_else(|| Some(u64::from(field("Seccomp")? == 2))).unwrap_or(0))
}

#[cfg(test)]
mod tests;
