//! A socket that came from somebody else: checked, then read and written without waiting.
//!
//! `O_NONBLOCK` belongs to the open file, which the application may share, so it is left alone;
//! every call says MSG_DONTWAIT instead.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_linger, socket_domain, socket_type};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags,
    Shutdown, SocketType, getpeername, recv, recvmsg, send, sendmsg, shutdown,
};
use tlspool_sctp::{Info, Received, Streams};
use tokio::io::unix::AsyncFd;

/// Most bytes of a stream in one message of SCTP, when nothing says where records begin.
const SCTP_PIECE: usize = 1 << 14;

/// A connected socket, registered with this thread's runtime.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
    kind: Kind,
}

/// What a socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Bytes.
    Stream,
    /// Messages of UDP, or of UNIX sockets.
    Packets,
    /// Bytes on one stream of SCTP.
    SctpStream {
        stream: u16,
        /// They are TLS: a record is a message, what comes on other streams is none of ours, and an end is said
        /// in records.
        records: bool,
    },
    /// Messages of SCTP.
    SctpMessages,
}

/// What [`Socket::poll_recv_message`] brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// Bytes: of packets and of SCTP a message, or with `whole` unset a part of one.
    Bytes {
        /// How many.
        length: usize,
        /// What SCTP says of the message.
        info: Info,
        /// The message ends here.
        whole: bool,
        /// It was longer than the room for it, and the rest is lost.
        cut: bool,
    },
    /// Over SCTP, the peer has everything that was sent ([`tlspool_sctp::tell_dryness`]).
    Dry,
    /// The other end sends no more.
    End,
}

/// The descriptor is of no use as a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not a socket at all.
    #[error("the descriptor is not a socket; pass a connected one")]
    NotASocket,
    /// Listening, or connected to nothing.
    #[error("the socket is not connected; pass a connected one")]
    NotConnected,
    /// A socket that carries no byte stream, where one is needed.
    #[error("the socket is not a stream socket; for datagrams set ipproto 17 and the flag DTLS")]
    NotAStream,
    /// A socket that carries no datagrams, where it should.
    #[error("the socket is not a datagram socket; ipproto 17 needs one")]
    NotDatagrams,
    /// A byte stream, where messages are to be kept.
    #[error("the socket keeps no messages; pass a SEQPACKET, datagram or SCTP socket")]
    NotMessages,
    /// Not a socket of SCTP, where one is needed.
    #[error("the socket is not an SCTP socket; ipproto 132 needs one")]
    NotSctp,
    /// An association without the stream.
    #[error(
        "the association has no stream {stream} in both directions, only the first {least}; ask for more \
         (SCTP_INITMSG)"
    )]
    NoStream {
        /// What was asked for.
        stream: u16,
        /// What there is.
        least: u16,
    },
    /// An association whose DATA chunks anybody could make.
    #[error(
        "our end of the association takes DATA or FORWARD-TSN chunks that are not authenticated (RFC 4895); \
         set SCTP_AUTH_CHUNK for both before it is made"
    )]
    TakesUnauthenticated,
    /// The same on the other side.
    #[error(
        "the peer's end of the association does not authenticate DATA and FORWARD-TSN chunks (RFC 4895), as DTLS \
         over SCTP must (RFC 6083)"
    )]
    PeerUnauthenticated,
    /// An option of SCTP that the system does not have or refuses.
    #[error("the system refuses an option of SCTP: {0}")]
    Option(Errno),
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

/// Checks that `fd` is a connected SCTP socket, one-to-one or peeled off.
pub fn check_sctp(fd: BorrowedFd<'_>) -> Result<(), Unusable> {
    check(fd, false)?;
    if !tlspool_sctp::is_sctp(fd) {
        return Err(Unusable::NotSctp);
    }
    // A socket remembers its peer when the association is gone.
    tlspool_sctp::streams(fd).map(drop).map_err(|_| Unusable::NotConnected)
}

/// Checks that `fd` is a connected SCTP socket that has `stream` in both directions.
pub fn check_stream(fd: BorrowedFd<'_>, stream: u16) -> Result<(), Unusable> {
    check_sctp(fd)?;
    has_stream(tlspool_sctp::streams(fd).map_err(Unusable::Option)?, stream)
}

fn has_stream(streams: Streams, stream: u16) -> Result<(), Unusable> {
    let least = streams.inward.min(streams.outward);
    if stream < least { Ok(()) } else { Err(Unusable::NoStream { stream, least }) }
}

/// Checks that `fd` is fit for plaintext; with `messages`, for such that keep their boundaries. If it is SCTP, bytes
/// need `stream`.
pub fn check_plaintext(
    fd: BorrowedFd<'_>,
    stream: u16,
    messages: bool,
) -> Result<SocketType, Unusable> {
    let kind = check(fd, false)?;
    if !tlspool_sctp::is_sctp(fd) {
        let fits = !messages || kind != SocketType::STREAM;
        return if fits { Ok(kind) } else { Err(Unusable::NotMessages) };
    }
    // An association that is over may have left something to read.
    if !messages && let Ok(streams) = tlspool_sctp::streams(fd) {
        has_stream(streams, stream)?;
    }
    Ok(kind)
}

/// Checks that `fd` is a connected SCTP socket that authenticates chunks in both directions.
pub fn check_authenticated(fd: BorrowedFd<'_>) -> Result<(), Unusable> {
    check_sctp(fd)?;
    let authenticated = tlspool_sctp::authenticated(fd).map_err(Unusable::Option)?;
    match (authenticated.inward, authenticated.outward) {
        (true, true) => Ok(()),
        (false, _) => Err(Unusable::TakesUnauthenticated),
        (true, false) => Err(Unusable::PeerUnauthenticated),
    }
}

impl Socket {
    /// The TLS side: a stream socket that [`check`] has found usable.
    pub fn stream(fd: OwnedFd) -> Result<Self, Unusable> {
        Self::register(fd, Kind::Stream)
    }

    /// The DTLS side: a connected datagram socket that [`check_datagram`] has found usable.
    pub fn datagram(fd: OwnedFd) -> Result<Self, Unusable> {
        Self::register(fd, Kind::Packets)
    }

    /// The TLS side over SCTP, on one stream: a socket that [`check_sctp`] has found usable.
    pub fn sctp_stream(fd: OwnedFd, stream: u16) -> Result<Self, Unusable> {
        Self::register_sctp(fd, Kind::SctpStream { stream, records: true })
    }

    /// The DTLS side over SCTP: a socket that [`check_authenticated`] has found usable.
    pub fn sctp_messages(fd: OwnedFd) -> Result<Self, Unusable> {
        // Whoever had it before may have asked for the same.
        tlspool_sctp::forget_dryness(fd.as_fd()).map_err(Unusable::Option)?;
        Self::register_sctp(fd, Kind::SctpMessages)
    }

    /// Where the peer is, as bytes that stand for it.
    pub fn peer_bytes(&self) -> Vec<u8> {
        let address = getpeername(self.fd.get_ref()).ok().flatten();
        let address = address.and_then(|any| std::net::SocketAddr::try_from(any).ok());
        address.map_or_else(Vec::new, |address| address.to_string().into_bytes())
    }

    /// The plaintext side: a connected stream, packet or datagram socket.
    pub fn plaintext(fd: OwnedFd) -> Result<Self, Unusable> {
        Self::plaintext_beside_sctp(fd, 0, false)
    }

    /// The plaintext side of a session over SCTP. If it is SCTP itself, it carries bytes on `stream`, or with
    /// `messages` messages on any.
    pub fn plaintext_beside_sctp(
        fd: OwnedFd,
        stream: u16,
        messages: bool,
    ) -> Result<Self, Unusable> {
        let kind = check_plaintext(fd.as_fd(), stream, messages)?;
        if tlspool_sctp::is_sctp(&fd) {
            let bytes = Kind::SctpStream { stream, records: false };
            return Self::register_sctp(fd, if messages { Kind::SctpMessages } else { bytes });
        }
        match kind {
            SocketType::STREAM => Self::register(fd, Kind::Stream),
            _ => Self::register(fd, Kind::Packets),
        }
    }

    fn register_sctp(fd: OwnedFd, kind: Kind) -> Result<Self, Unusable> {
        tlspool_sctp::tell_messages(fd.as_fd()).map_err(Unusable::Option)?;
        tlspool_sctp::set_nodelay(fd.as_fd()).map_err(Unusable::Option)?;
        Self::register(fd, kind)
    }

    fn register(fd: OwnedFd, kind: Kind) -> Result<Self, Unusable> {
        let unusable = |error: io::Error| {
            Unusable::NotPollable(Errno::from_io_error(&error).unwrap_or(Errno::PERM))
        };
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives.
        let fd = unsafe { AsyncFd::register(fd) }.map_err(|error| unusable(error.into()))?;
        Ok(Self { fd, kind })
    }

    /// Whether it keeps message boundaries.
    pub fn is_packets(&self) -> bool {
        matches!(self.kind, Kind::Packets | Kind::SctpMessages)
    }

    /// Whether what it carries may be lost on the way.
    pub fn is_lossy(&self) -> bool {
        self.kind == Kind::Packets
    }

    /// Whether it carries messages of SCTP.
    pub fn is_sctp_messages(&self) -> bool {
        self.kind == Kind::SctpMessages
    }

    /// The descriptor, for what only SCTP has.
    pub(crate) fn sctp(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Receives into `buffer`; 0 is the end of the stream.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.is_sctp() {
            let mut buffers = [IoSliceMut::new(buffer)];
            return self.poll_recv_sctp(cx, &mut buffers);
        }
        // A short packet says nothing of the next one.
        let wanted = if self.is_packets() { 0 } else { buffer.len() };
        self.poll_read(cx, wanted, |fd| Ok(recv(fd, &mut *buffer, RecvFlags::DONTWAIT)?.0))
    }

    /// Receives what is there of a byte stream, whether the runtime has heard of it or not; fails with
    /// [`io::ErrorKind::WouldBlock`] if that is nothing.
    pub fn recv_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let received = match self.kind {
                Kind::Stream | Kind::Packets => {
                    recv(self.fd.get_ref(), &mut *buffer, RecvFlags::DONTWAIT).map(|(n, _)| n)
                }
                Kind::SctpStream { .. } | Kind::SctpMessages => {
                    self.receive_sctp(&mut [IoSliceMut::new(buffer)])
                }
            };
            match received {
                Err(Errno::INTR) => {}
                received => return Ok(received?),
            }
        }
    }

    const fn is_sctp(&self) -> bool {
        matches!(self.kind, Kind::SctpStream { .. } | Kind::SctpMessages)
    }

    /// Receives bytes of the one stream.
    fn poll_recv_sctp(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_read(cx, 0, |_| self.receive_sctp(buffers))
    }

    fn receive_sctp(&self, buffers: &mut [IoSliceMut<'_>]) -> rustix::io::Result<usize> {
        match tlspool_sctp::receive(self.fd.as_fd(), buffers)? {
            Received::Message { length, info, .. } => match self.kind {
                Kind::SctpStream { stream, records: true } if stream != info.stream => {
                    Err(Errno::INTR)
                }
                _ => Ok(length),
            },
            Received::End => Ok(0),
            // It is looked again.
            Received::Dry | Received::Other => Err(Errno::INTR),
        }
    }

    /// Receives into `buffers`, in order, with what is known of the message.
    pub fn poll_recv_message(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<Arrived>> {
        let plain =
            |length, cut| Arrived::Bytes { length, info: Info::default(), whole: true, cut };
        if self.kind != Kind::SctpMessages {
            let end = !self.is_packets();
            return self.poll_recv_vectored(cx, buffers).map_ok(|(length, cut)| match length {
                0 if end || self.is_read_closed() => Arrived::End,
                _ => plain(length, cut),
            });
        }
        let mut arrived = Arrived::End;
        let received = self.poll_read(cx, 0, |fd| {
            arrived = match tlspool_sctp::receive(fd, buffers)? {
                Received::Message { length, info, whole } => {
                    Arrived::Bytes { length, info, whole, cut: false }
                }
                Received::Dry => Arrived::Dry,
                Received::End => Arrived::End,
                Received::Other => return Err(Errno::INTR),
            };
            Ok(0)
        });
        received.map_ok(|_| arrived)
    }

    /// Receives into several buffers, in order. The second value says that a message was longer
    /// than all of them, and was cut.
    pub fn poll_recv_vectored(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<(usize, bool)>> {
        if self.is_sctp() {
            return self.poll_recv_sctp(cx, buffers).map_ok(|n| (n, false));
        }
        let wanted = if self.is_packets() { 0 } else { buffers.iter().map(|b| b.len()).sum() };
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
        if let Kind::SctpStream { stream, records } = self.kind {
            let piece = if records { first_record(bytes) } else { bytes.len().min(SCTP_PIECE) };
            let info = Info { stream, ..Info::default() };
            return self.poll_write(cx, |fd| tlspool_sctp::send(fd, &bytes[..piece], info, false));
        }
        if self.kind == Kind::SctpMessages {
            // The handshake's: on stream 0, in order.
            return self.poll_write(cx, |fd| tlspool_sctp::send(fd, bytes, Info::default(), true));
        }
        self.poll_write(cx, |fd| send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL))
    }

    /// Sends some of several buffers, in order.
    pub fn poll_send_vectored(
        &self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_sctp() {
            let first = buffers.iter().find(|buffer| !buffer.is_empty());
            return self.poll_send(cx, first.map(|buffer| &buffer[..]).unwrap_or_default());
        }
        self.poll_write(cx, |fd| {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            sendmsg(fd, buffers, &mut SendAncillaryBuffer::default(), flags)
        })
    }

    /// Sends a message, or some bytes of a stream; over SCTP, where messages are kept, with `info`. `prompt`: the
    /// peer's stack shall acknowledge it at once.
    pub fn poll_send_message(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        info: Info,
        prompt: bool,
    ) -> Poll<io::Result<usize>> {
        match self.kind {
            Kind::SctpMessages => {
                self.poll_write(cx, |fd| tlspool_sctp::send(fd, bytes, info, prompt))
            }
            _ => self.poll_send(cx, bytes),
        }
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

    /// How much of what was sent the peer's stack does not have yet: bytes, over SCTP more or less. Over UDP
    /// nobody knows; what is in a UNIX socket has arrived.
    pub fn unacknowledged(&self) -> u64 {
        match self.kind {
            Kind::Packets => 0,
            Kind::SctpStream { .. } | Kind::SctpMessages => {
                tlspool_sctp::queued(self.fd.as_fd()).map_or(0, u64::from)
            }
            Kind::Stream if socket_domain(self.fd.get_ref()) == Ok(AddressFamily::UNIX) => 0,
            Kind::Stream => send_queue(self.fd.as_fd()),
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

    /// No more is sent; what was sent still arrives. SCTP has no half of an association: it ends when its last
    /// side is closed, so the TLS side waits for that.
    pub fn shutdown_write(&self) {
        if matches!(self.kind, Kind::SctpStream { records: true, .. }) {
            return;
        }
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

    /// Whether by this error the other end has reset the connection, and what it sent may have been lost with it.
    /// (On a UNIX socket the same error says only that it left our bytes unread.)
    pub fn was_reset(&self, error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::ConnectionReset
            && socket_domain(self.fd.get_ref()) != Ok(AddressFamily::UNIX)
    }

    /// Makes closing visible as a failure to the other end where the socket's kind allows it:
    /// TCP answers with a reset. (A UNIX socket has no such thing.)
    pub fn abort_on_close(&self) {
        // Best effort by nature; fails on UNIX sockets.
        let _ = set_socket_linger(self.fd.get_ref(), Some(Duration::ZERO));
    }
}

/// Bytes of a TCP connection that are not acknowledged; 0 if there is none any more.
fn send_queue(fd: BorrowedFd<'_>) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one `int`, which `bytes` is.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if done == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// How much of `bytes`, which begin with a TLS record, belong to it.
fn first_record(bytes: &[u8]) -> usize {
    match bytes {
        [_, _, _, high, low, ..] => {
            bytes.len().min(usize::from(u16::from_be_bytes([*high, *low])) + tls12::HEADER)
        }
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_message() {
        let record = [23, 3, 3, 0, 2, 1, 2];
        assert_eq!(first_record(&[&record[..], &record].concat()), 7);
        assert_eq!(first_record(&record[..6]), 6);
        assert_eq!(first_record(&record[..3]), 3);
        assert_eq!(first_record(&[23, 3, 3, 0, 0, 9]), 5);
        assert_eq!(first_record(&[]), 0);
    }
}
