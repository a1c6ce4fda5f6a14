//! SCTP sockets (RFC 6458): messages with their stream and payload protocol, and the keys of SCTP-AUTH (RFC 4895).
//!
//! The engine carries TLS and DTLS over such sockets, the tunnel opens them, tests are their other ends. What any
//! socket can (bind, connect, shut down) is left to rustix; this holds what only SCTP has, and the unsafe code for
//! it. It knows no TLS, waits for nothing, and keeps no state: sockets are one-to-one, or peeled off.

mod auth;
mod message;
mod raw;

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{ipproto, sockopt};

pub use auth::{
    AUTH_KEY, Authenticated, authenticated, key_in_use, remove_key, set_authentication, set_key,
    use_key,
};
pub use message::{Info, Received, forget_dryness, receive, send, tell_dryness, tell_messages};

/// Among the values of SO_MEMINFO (`linux/sock_diag.h`).
const SK_MEMINFO_WMEM_QUEUED: usize = 5;

/// Whether `fd` is an SCTP socket.
pub fn is_sctp(fd: impl AsFd) -> bool {
    sockopt::socket_protocol(fd).is_ok_and(|protocol| protocol == Some(ipproto::SCTP))
}

/// How many streams an association has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// From the peer to us.
    pub inward: u16,
    /// From us to the peer.
    pub outward: u16,
}

/// How many streams the association of a connected socket has.
pub fn streams(fd: BorrowedFd<'_>) -> Result<Streams, Errno> {
    // struct sctp_status, which ends with an address.
    let mut status = raw::Room::<256>::default();
    let length = raw::get_bytes(fd, libc::SCTP_STATUS, &mut status)?;
    let field = |at: usize| {
        let bytes = status.0.get(at..at + 2).filter(|_| at + 2 <= length)?;
        Some(u16::from_ne_bytes(bytes.try_into().ok()?))
    };
    let streams = field(16).zip(field(18)).map(|(inward, outward)| Streams { inward, outward });
    streams.ok_or(Errno::INVAL)
}

/// Asks for streams, before the socket connects or listens: `outward` of our own, and as many of the peer's as it
/// likes. What comes of it, [`streams`] tells.
pub fn ask_streams(fd: BorrowedFd<'_>, outward: u16) -> Result<(), Errno> {
    let wish = raw::InitMessage {
        num_ostreams: outward.max(1),
        max_instreams: u16::MAX,
        max_attempts: 0,
        max_init_timeo: 0,
    };
    raw::set(fd, libc::SCTP_INITMSG, &wish)
}

/// How much of what was sent the peer's stack has not acknowledged: bytes, with what the kernel needs to keep them.
pub fn queued(fd: BorrowedFd<'_>) -> Result<u32, Errno> {
    Ok(raw::memory(fd)?[SK_MEMINFO_WMEM_QUEUED])
}

/// Sends at once what is small, as a relay wants it that passes on whole messages.
pub fn set_nodelay(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    raw::set(fd, libc::SCTP_NODELAY, &1_i32)
}
