//! The control socket: `tlspool status` and `tlspool -k` talk to the running supervisor.
//!
//! Only root and the user who runs the daemon get in: the socket has mode 0600 and SO_PEERCRED is asked
//! besides. Both sides check, because descriptors flow towards the new daemon.

use super::message::{AsyncChannel, Channel, ControlReply, ControlRequest};
use super::sockets::bind_at;
use crate::config::{AbsolutePath, FileMode};
use crate::watched::Watched;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, listen,
    socket_with, sockopt,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How long the running daemon may take to answer.
pub const ANSWER_TIME: Duration = Duration::from_secs(10);

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
        let mute = |source| ControlError::Mute { path: self.path.clone(), source };
        self.channel.send(request, &[]).map_err(mute)?;
        match self.channel.recv_within(Some(ANSWER_TIME)).map_err(mute)? {
            Some((ControlReply::Refused { problem }, _)) => Err(ControlError::Refused(problem)),
            Some(answer) => Ok(answer),
            None => Err(mute(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// Whether root or we ourselves are at the other end.
fn is_ours(socket: &impl AsFd) -> bool {
    sockopt::socket_peercred(socket)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

/// Takes the answer to a request, with the descriptors that belong to it.
pub type Answer = oneshot::Sender<(ControlReply, Vec<OwnedFd>)>;

/// A request with the way to answer it.
pub struct Asked {
    /// What is asked.
    pub request: ControlRequest,
    /// Where the answer goes.
    pub answer: Answer,
}

/// The control socket of this supervisor.
pub struct ControlSocket {
    listener: Watched,
    path: AbsolutePath,
}

impl ControlSocket {
    /// Makes the socket. One that is there is replaced in one step, so that after `-k` no command finds
    /// nothing.
    pub fn bind(path: &AbsolutePath) -> io::Result<Self> {
        let new = path.with_extension(format!("{}", std::process::id()));
        let _ = std::fs::remove_file(&new);
        let fd = bind_at(&new, FileMode(0o600), SocketType::SEQPACKET)?;
        listen(&fd, 16)?;
        std::fs::rename(&new, path)?;
        Ok(Self { listener: Watched::new(fd)?, path: path.clone() })
    }

    /// Accepts for ever and passes requests on. May be cancelled.
    pub async fn serve(&self, requests: &mpsc::Sender<Asked>) -> io::Result<()> {
        loop {
            let mut ready = self.listener.readable().await?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let accepted = ready.try_io(|fd| Ok(accept_with(fd.get_ref(), flags)?));
            if let Ok(Ok(socket)) = accepted
                && is_ours(&socket)
            {
                tokio::spawn(serve_one(AsyncChannel::new(socket)?, requests.clone()));
            }
        }
    }

    /// Takes the socket out of the file system.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve_one(channel: AsyncChannel, requests: mpsc::Sender<Asked>) {
    while let Ok(Some((request, _))) = channel.recv::<ControlRequest>().await {
        let (answer, answered) = oneshot::channel();
        if requests.send(Asked { request, answer }).await.is_err() {
            return;
        }
        let Ok((reply, fds)) = answered.await else { return };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        if channel.send(&reply, &fds).await.is_err() {
            return;
        }
    }
}
