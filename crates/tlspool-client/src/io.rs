//! Records over the socket: one `sendmsg` each way out, reassembly on the way in.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg,
    sendmsg, socket_with, socketpair,
};
use tlspool_wire::packet::PacketError;
use tlspool_wire::{Assembler, Packet, RawRecord, Starttls, StarttlsFlags};
use zeroize::{Zeroize, Zeroizing};

use crate::Error;

/// Descriptors accepted with one read. The pool sends none; whatever comes is closed.
const STRAY: usize = 4;

/// What one read brought.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "handed on at once; a box per record would cost more"
)]
pub enum Received {
    /// A record, or one that cannot be read.
    Record(Result<Packet, PacketError>),
    /// Part of one: read on.
    Partial,
    /// Nothing yet.
    WouldBlock,
    /// The pool closed, or the connection broke.
    Ended,
}

/// Connects to the pool at `path`.
pub(crate) fn dial(path: &Path) -> Result<OwnedFd, Error> {
    let attempt = || -> Result<OwnedFd, Errno> {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let address = SocketAddrUnix::new(path)?;
        loop {
            match connect(&socket, &address) {
                // While it waited for room in the pool's queue; nothing has happened yet.
                Err(Errno::INTR) => {}
                done => return done.map(|()| socket),
            }
        }
    };
    attempt().map_err(|e| Error::NoPool { path: path.to_owned(), source: e.into() })
}

/// Descriptors on their way to the pool: at most two, and the second only with the first.
pub(crate) type Passed<'a> = [Option<BorrowedFd<'a>>; 2];

/// Sends one record with its descriptors, in one piece: clients and pools in the field read with
/// a single `recvmsg`. The kernel queues so small a message whole or not at all.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    packet: &Packet,
    descriptors: Passed<'_>,
) -> rustix::io::Result<()> {
    let raw = Zeroizing::new(packet.encode());
    send_record(socket, &raw, descriptors)
}

/// As [`send`], for a record that is bytes already.
pub(crate) fn send_record(
    socket: BorrowedFd<'_>,
    raw: &RawRecord,
    descriptors: Passed<'_>,
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let (both, one);
    match descriptors {
        [Some(first), Some(second)] => {
            both = [first, second];
            ancillary.push(SendAncillaryMessage::ScmRights(&both));
        }
        [Some(first), None] => {
            one = [first];
            ancillary.push(SendAncillaryMessage::ScmRights(&one));
        }
        [None, _] => {}
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(raw)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(n) if n == raw.len() => return Ok(()),
            // The rest can no longer be sent without tearing the stream.
            Ok(_) => return Err(Errno::PIPE),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads once, without blocking.
pub(crate) fn receive(socket: BorrowedFd<'_>, into: &mut Assembler<OwnedFd>) -> Received {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(STRAY))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = loop {
        let mut room = [IoSliceMut::new(into.wanted())];
        match recvmsg(socket, &mut room, &mut ancillary, flags) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let bytes = match received {
        Ok(message) if message.bytes > 0 => message.bytes,
        Err(Errno::AGAIN) => return Received::WouldBlock,
        Ok(_) | Err(_) => return Received::Ended,
    };
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptors.for_each(drop);
        }
    }
    match into.advance(bytes) {
        None => Received::Partial,
        Some(record) => {
            let mut raw = record.bytes;
            let packet = Packet::decode(&raw);
            raw.zeroize();
            Received::Record(packet)
        }
    }
}

/// Whether a failed send means that the connection is gone and nothing was delivered on it.
pub(crate) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN)
}

/// A socket pair fit for the plaintext of a request: TLS over SCTP has a stream, DTLS messages. Of sockets that keep
/// messages apart, only those of SEQPACKET tell that the other end is gone.
pub(crate) fn plaintext_pair(request: &Starttls) -> io::Result<(OwnedFd, OwnedFd)> {
    let dtls = request.flags.contains(StarttlsFlags::DTLS);
    let messages = request.ipproto == 17 || request.ipproto == 132 && dtls;
    let kind = if messages { SocketType::SEQPACKET } else { SocketType::STREAM };
    Ok(socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

/// Whether the pool has let go of the connection entirely, so that no session can live on it.
pub(crate) fn is_hung_up(socket: &impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut fds, Some(&now)), Ok(n) if n > 0)
        && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
