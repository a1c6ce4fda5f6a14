//! What a request's socket carries: TLS or DTLS, over TCP, UDP or SCTP.

use std::os::fd::{AsFd, OwnedFd};

use tlspool_engine::Socket;
use tlspool_engine::socket::{self, Unusable};
use tlspool_wire::message::EVERY_STREAM;
use tlspool_wire::{PoolError, Starttls, StarttlsFlags as Flags};

use super::Failure;

/// Values of ipproto.
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
const IPPROTO_SCTP: u8 = 132;

/// What a request's socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carriage {
    /// TLS over TCP, or another stream.
    Tls,
    /// DTLS over UDP.
    Dtls,
    /// TLS on this stream of SCTP (RFC 3436).
    TlsSctp(u16),
    /// DTLS over SCTP (RFC 6083), with this stream for applications that know none.
    DtlsSctp(u16),
}

impl Carriage {
    /// What a request asks for.
    pub(super) fn of(request: &Starttls) -> Result<Self, Failure> {
        let malformed = |text: String| Err(Failure::new(PoolError::RecordMalformed, text));
        let stream = request.streamid;
        match (request.ipproto, request.flags.contains(Flags::DTLS)) {
            (IPPROTO_TCP, false) => Ok(Self::Tls),
            (IPPROTO_UDP, true) => Ok(Self::Dtls),
            (IPPROTO_SCTP, false) if stream == EVERY_STREAM => {
                malformed("TLS over SCTP runs on one stream; streamid is none".into())
            }
            (IPPROTO_SCTP, false) => Ok(Self::TlsSctp(stream)),
            (IPPROTO_SCTP, true) => Ok(Self::DtlsSctp(stream)),
            (IPPROTO_TCP, true) => {
                malformed("DTLS runs over UDP (ipproto 17) or SCTP (132), not over TCP".into())
            }
            (IPPROTO_UDP, false) => malformed("over UDP runs DTLS only: set the flag DTLS".into()),
            (other, _) => {
                malformed(format!("ipproto {other} is not TCP (6), UDP (17) or SCTP (132)"))
            }
        }
    }

    /// Whether it is DTLS over UDP.
    pub(super) fn is_udp(self) -> bool {
        self == Self::Dtls
    }

    /// Whether it is DTLS.
    pub(super) fn is_dtls(self) -> bool {
        matches!(self, Self::Dtls | Self::DtlsSctp(_))
    }

    /// The stream that the application asked for.
    pub(super) fn stream(self) -> u16 {
        match self {
            Self::TlsSctp(stream) | Self::DtlsSctp(stream) => stream,
            Self::Tls | Self::Dtls => 0,
        }
    }

    /// Whether plaintext has to keep the boundaries of its messages.
    fn has_messages(self) -> bool {
        matches!(self, Self::DtlsSctp(_))
    }

    /// Whether the socket is fit for it.
    pub(super) fn check(self, socket: &OwnedFd) -> Result<(), Failure> {
        let usable = match self {
            Self::Tls => socket::check(socket.as_fd(), true).map(drop),
            Self::Dtls => socket::check_datagram(socket.as_fd()),
            Self::TlsSctp(stream) => socket::check_stream(socket.as_fd(), stream),
            Self::DtlsSctp(_) => socket::check_authenticated(socket.as_fd()),
        };
        usable.map_err(cipher)
    }

    /// The peer's side.
    pub(super) fn open(self, socket: OwnedFd) -> Result<Socket, Failure> {
        let socket = match self {
            Self::Tls => Socket::stream(socket),
            Self::Dtls => Socket::datagram(socket),
            Self::TlsSctp(stream) => Socket::sctp_stream(socket, stream),
            Self::DtlsSctp(_) => Socket::sctp_messages(socket),
        };
        socket.map_err(cipher)
    }

    /// Whether a socket is fit for the plaintext of it.
    pub(super) fn check_plaintext(self, socket: &OwnedFd) -> Result<(), Failure> {
        let checked = socket::check_plaintext(socket.as_fd(), self.stream(), self.has_messages());
        checked.map(drop).map_err(plain)
    }

    /// The application's side.
    pub(super) fn plaintext(self, socket: OwnedFd) -> Result<Socket, Failure> {
        Socket::plaintext_beside_sctp(socket, self.stream(), self.has_messages()).map_err(plain)
    }
}

fn cipher(unusable: Unusable) -> Failure {
    Failure::new(PoolError::CipherSocketNeeded, unusable.to_string())
}

fn plain(unusable: Unusable) -> Failure {
    Failure::new(PoolError::PlainSocketNeeded, format!("the plaintext side: {unusable}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_and_flags() {
        let of = |ipproto, flags, streamid| {
            let request = Starttls { ipproto, flags, streamid, ..Starttls::default() };
            Carriage::of(&request).map_err(|failure| failure.error)
        };
        let (tls, dtls) = (Flags::default(), Flags::DTLS);
        assert_eq!(of(6, tls, 7), Ok(Carriage::Tls));
        assert_eq!(of(17, dtls, 7), Ok(Carriage::Dtls));
        assert_eq!(of(132, tls, 7), Ok(Carriage::TlsSctp(7)));
        assert_eq!(of(132, dtls, 0xffff), Ok(Carriage::DtlsSctp(0xffff)));
        for (ipproto, flags, stream) in
            [(6, dtls, 0), (17, tls, 0), (132, tls, 0xffff), (1, tls, 0)]
        {
            assert_eq!(of(ipproto, flags, stream), Err(PoolError::RecordMalformed));
        }
    }
}
