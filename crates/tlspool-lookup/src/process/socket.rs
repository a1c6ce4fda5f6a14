//! One end of a channel between the network process and the look-up process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// When to look again for room that cannot be waited for.
const MOMENT: Duration = Duration::from_millis(10);

/// A socket of datagrams. Datagrams over a connection is what `UnixDatagram` does and SEQPACKET as well; only the
/// kernel sees that it is the latter, which tells when the other end is closed.
///
/// It is registered for reading only: a UNIX socket signals room to write whenever the other end has read, which would
/// wake us for nothing after each message.
#[derive(Debug)]
pub(super) struct Socket(AsyncFd<UnixDatagram>);

impl Socket {
    /// Takes over a connected socket. Must be called within a tokio runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = UnixDatagram::from(socket);
        socket.set_nonblocking(true)?;
        Ok(Self(watch(socket, Interest::READABLE)?))
    }

    /// Reads a datagram; zero: the other end is closed.
    pub(super) async fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |socket| socket.recv(buffer)).await
    }

    /// Writes a datagram, if there is room.
    pub(super) fn try_send(&self, datagram: &[u8]) -> io::Result<()> {
        self.0.get_ref().send(datagram).map(drop)
    }

    /// Writes a datagram, when there is room.
    pub(super) async fn send(&self, datagram: &[u8]) -> io::Result<()> {
        loop {
            match self.try_send(datagram) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.room().await,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                sent => return sent,
            }
        }
    }

    /// Waits until it is worth while to try again to write: there is room, or the other end is closed.
    pub(super) async fn room(&self) {
        // Seldom needed, and so not kept.
        let room = self.0.get_ref().try_clone();
        let room = room.and_then(|socket| watch(socket, Interest::WRITABLE));
        let waited = match &room {
            Ok(room) => room.writable().await.is_ok(),
            Err(_) => false,
        };
        if !waited {
            // There is no descriptor left to wait with.
            sleep(MOMENT).await;
        }
    }
}

/// Registers a socket. (The function that replaces `with_interest` is unsafe because it trusts `AsRawFd`; a
/// `UnixDatagram` can be trusted.)
#[allow(deprecated)]
fn watch(socket: UnixDatagram, interest: Interest) -> io::Result<AsyncFd<UnixDatagram>> {
    AsyncFd::with_interest(socket, interest)
}
