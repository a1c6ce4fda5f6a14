//! A socket that came from somebody else: checked, then read and written without waiting.
//!
//! `O_NONBLOCK` belongs to the open file, which the application may share, so it is left alone;
//! every call says MSG_DONTWAIT instead.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_linger, socket_type};
use rustix::net::{
    RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags, Shutdown,
    SocketType, getpeername, recv, recvmsg, send, sendmsg, shutdown,
};
use tokio::io::unix::AsyncFd;

/// A connected socket, registered with this thread's runtime.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
    packets: bool,
}

/// The descriptor is of no use as a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not a socket at all.
    #[error("the descriptor is not a socket")]
    NotASocket,
    /// Listening, or connected to nothing.
    #[error("the socket is not connected")]
    NotConnected,
    /// A socket that carries no byte stream, where one is needed.
    #[error("the socket is not a stream socket")]
    NotAStream,
    /// A socket that carries no datagrams, where it should.
    #[error("the socket is not a datagram socket")]
    NotDatagrams,
    /// The runtime cannot wait for it.
    #[error("the socket cannot be waited for: {0}")]
    NotPollable(Errno),
}

/// Checks that `fd` is a connected socket; with `stream`, that it carries a byte stream.
pub fn check(fd: BorrowedFd<'_>, stream: bool) -> Result<SocketType, Unusable> {
    let kind = socket_type(fd).map_err(|_| Unusable::NotASocket)?;
    // A socket that listens has no peer either.
    getpeername(fd).map_err(|_| Unusable::NotConnected)?;
    if stream && kind != SocketType::STREAM {
        return Err(Unusable::NotAStream);
    }
    Ok(kind)
}

/// Checks that `fd` is a connected datagram socket.
pub fn check_datagram(fd: BorrowedFd<'_>) -> Result<(), Unusable> {
    match check(fd, false)? {
        SocketType::DGRAM => Ok(()),
        _ => Err(Unusable::NotDatagrams),
    }
}

impl Socket {
    /// The TLS side: a stream socket that [`check`] has found usable.
    pub fn stream(fd: OwnedFd) -> Result<Self, Unusable> {
        Self::register(fd, SocketType::STREAM)
    }

    /// The DTLS side: a connected datagram socket that [`check_datagram`] has found usable.
    pub fn datagram(fd: OwnedFd) -> Result<Self, Unusable> {
        Self::register(fd, SocketType::DGRAM)
    }

    /// Where the peer is, as bytes that stand for it.
    pub fn peer_bytes(&self) -> Vec<u8> {
        let address = getpeername(self.fd.get_ref()).ok().flatten();
        let address = address.and_then(|any| std::net::SocketAddr::try_from(any).ok());
        address.map_or_else(Vec::new, |address| address.to_string().into_bytes())
    }

    /// The plaintext side: a connected stream, packet or datagram socket.
    pub fn plaintext(fd: OwnedFd) -> Result<Self, Unusable> {
        let kind = check(fd.as_fd(), false)?;
        Self::register(fd, kind)
    }

    fn register(fd: OwnedFd, kind: SocketType) -> Result<Self, Unusable> {
        let unusable = |error: io::Error| {
            Unusable::NotPollable(Errno::from_io_error(&error).unwrap_or(Errno::PERM))
        };
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|error| unusable(error.into()))?;
        Ok(Self { fd, packets: kind != SocketType::STREAM })
    }

    /// Whether it keeps message boundaries.
    pub fn is_packets(&self) -> bool {
        self.packets
    }

    /// Receives into `buffer`; 0 is the end of the stream.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        // A short packet says nothing of the next one.
        let wanted = if self.packets { 0 } else { buffer.len() };
        self.poll_read(cx, wanted, |fd| Ok(recv(fd, &mut *buffer, RecvFlags::DONTWAIT)?.0))
    }

    /// Receives into several buffers, in order. The second value says that a message was longer
    /// than all of them, and was cut.
    pub fn poll_recv_vectored(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<(usize, bool)>> {
        let wanted = if self.packets { 0 } else { buffers.iter().map(|b| b.len()).sum() };
        let mut cut = false;
        let result = self.poll_read(cx, wanted, |fd| {
            let mut no_control = RecvAncillaryBuffer::default();
            let message = recvmsg(fd, buffers, &mut no_control, RecvFlags::DONTWAIT)?;
            cut = message.flags.contains(ReturnFlags::TRUNC);
            Ok(message.bytes)
        });
        result.map_ok(|n| (n, cut))
    }

    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        wanted: usize,
        mut read: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_read_ready(cx))?;
            match read(self.fd.as_fd()) {
                Ok(n) => {
                    // Less than wanted: drained. The next arrival is a new edge, and so is the end.
                    if n > 0 && n < wanted {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Sends some of `bytes`.
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write(cx, |fd| send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
    }

    /// Sends some of several buffers, in order.
    pub fn poll_send_vectored(
        &self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write(cx, |fd| {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            sendmsg(fd, buffers, &mut SendAncillaryBuffer::default(), flags)
        })
    }

    fn poll_write(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.fd.poll_write_ready(cx))?;
            match write(self.fd.as_fd()) {
                Ok(n) => return Poll::Ready(Ok(n)),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Receives into `buffer`; 0 is the end of the stream.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_recv(cx, buffer)).await
    }

    /// Sends all of `bytes`.
    pub async fn send_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = std::future::poll_fn(|cx| self.poll_send(cx, bytes)).await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// No more is sent; what was sent still arrives.
    pub fn shutdown_write(&self) {
        // It fails only if the connection is gone, which the next read tells.
        let _ = shutdown(self.fd.get_ref(), Shutdown::Write);
    }

    /// Whether the other end is closed entirely, not just for sending.
    pub fn is_hung_up(&self) -> bool {
        self.has_events(PollFlags::HUP)
    }

    /// Whether the other end sends no more.
    pub fn is_read_closed(&self) -> bool {
        self.has_events(PollFlags::HUP | PollFlags::RDHUP)
    }

    fn has_events(&self, events: PollFlags) -> bool {
        let mut fds = [PollFd::new(self.fd.get_ref(), events)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().intersects(events)
    }

    /// Makes closing visible as a failure to the other end where the socket's kind allows it:
    /// TCP answers with a reset. (A UNIX socket has no such thing.)
    pub fn abort_on_close(&self) {
        // Best effort by nature; fails on UNIX sockets.
        let _ = set_socket_linger(self.fd.get_ref(), Some(Duration::ZERO));
    }
}
