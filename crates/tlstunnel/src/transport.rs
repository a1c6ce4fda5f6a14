//! What sockets the tunnel makes: of TCP, of SCTP, and UNIX sockets that do the same.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};

/// Streams that an accepted association has towards whoever connected, if no more are asked for. As many as that
/// one asks for come from there, and go on to the other side.
pub(crate) const STREAMS: u16 = 1024;
/// All sockets are made like this.
pub(crate) const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// What a side of the tunnel is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TCP, or a UNIX stream socket.
    Tcp,
    /// SCTP, or a UNIX socket.
    Sctp(Carried),
}

/// What SCTP carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Carried {
    /// DTLS, in messages that are authenticated.
    Dtls,
    /// TLS, on one stream.
    Tls,
    /// Plaintext in messages.
    Messages,
    /// Plaintext on one stream.
    Bytes,
}

impl Transport {
    /// A socket for `address`, with `streams` of its own if it is SCTP.
    pub(crate) fn socket(self, address: &SocketAddr, streams: u16) -> io::Result<OwnedFd> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let Self::Sctp(carried) = self else {
            let socket = socket_with(family, SocketType::STREAM, FLAGS, None)?;
            // The relay writes whole records; waiting for more would only delay them. Accepted sockets inherit it.
            sockopt::set_tcp_nodelay(&socket, true)?;
            return Ok(socket);
        };
        let made = socket_with(family, SocketType::STREAM, FLAGS, Some(ipproto::SCTP));
        let socket = made.map_err(|error| match error {
            Errno::PROTONOSUPPORT => {
                io::Error::other("this system has no SCTP: is there a kernel module sctp?")
            }
            error => error.into(),
        })?;
        tlspool_sctp::ask_streams(socket.as_fd(), streams)?;
        if carried == Carried::Dtls {
            tlspool_sctp::set_authentication(socket.as_fd())?;
        }
        Ok(socket)
    }

    /// A UNIX socket.
    pub(crate) fn unix(self) -> io::Result<OwnedFd> {
        let kind = match self {
            Self::Tcp | Self::Sctp(Carried::Bytes) => SocketType::STREAM,
            Self::Sctp(Carried::Messages) => SocketType::SEQPACKET,
            Self::Sctp(Carried::Tls | Carried::Dtls) => {
                return Err(io::Error::other("SCTP has no paths: use host:port or [v6]:port"));
            }
        };
        Ok(socket_with(AddressFamily::UNIX, kind, FLAGS, None)?)
    }
}

/// How many streams the other side needs for what comes on `socket`.
pub(crate) fn streams_beside(socket: &OwnedFd) -> u16 {
    // Not of SCTP: one will do.
    tlspool_sctp::streams(socket.as_fd()).map_or(1, |streams| streams.inward)
}
