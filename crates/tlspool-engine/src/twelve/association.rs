//! What a session of DTLS over SCTP does with its association (RFC 6083): keys of SCTP-AUTH that follow the keys of
//! DTLS, and messages with their streams.

use std::io;

use tls12::Exporter;
use tlspool_sctp::{self as sctp, AUTH_KEY, Info};
use tlspool_wire::MessageHeader;
use tlspool_wire::message::{EVERY_STREAM, MessageFlags};
use zeroize::Zeroizing;

use crate::socket::Socket;

/// RFC 6083 section 5.
const LABEL: &[u8] = b"EXPORTER_DTLS_OVER_SCTP";

/// An association, and how far its keys are.
///
/// ```text
///            new_keys()              change_sent()            old_keys_done()
///   n in use ─────────► n+1 is taken ─────────────► n+1 in use ──────────────► n is forgotten
///                       of the peer     for what we send        nothing is taken with it
/// ```
#[derive(Debug)]
pub(super) struct Association {
    in_use: u16,
    next: Option<u16>,
    old: Option<u16>,
    /// Streams on which we can send.
    outward: u16,
}

impl Association {
    pub(super) fn of(socket: &Socket) -> io::Result<Self> {
        let in_use = sctp::key_in_use(socket.sctp())?;
        let outward = sctp::streams(socket.sctp())?.outward;
        Ok(Self { in_use, next: None, old: None, outward })
    }

    /// Whether messages can be sent on `stream`.
    pub(super) fn has(&self, stream: u16) -> bool {
        stream < self.outward
    }

    /// Takes what the peer protects with the keys that `exporter` belongs to.
    pub(super) fn new_keys(
        &mut self,
        socket: &Socket,
        exporter: Option<&Exporter>,
    ) -> io::Result<()> {
        if self.next.is_some() || self.old.is_some() {
            return Err(io::Error::other("a handshake began before the one before was over"));
        }
        let mut key = Zeroizing::new([0; AUTH_KEY]);
        let exported = exporter.map(|exporter| exporter.export(LABEL, None, key.as_mut()));
        if exported != Some(Ok(())) {
            return Err(io::Error::other("there is no key to export"));
        }
        let number = following(self.in_use);
        sctp::set_key(socket.sctp(), number, &key)?;
        self.next = Some(number);
        Ok(())
    }

    /// Our ChangeCipherSpec was sent: what follows is made with the new key.
    pub(super) fn change_sent(&mut self, socket: &Socket) -> io::Result<()> {
        let next = self.next.take().ok_or_else(|| io::Error::other("there is no next key"))?;
        sctp::use_key(socket.sctp(), next)?;
        self.old = Some(std::mem::replace(&mut self.in_use, next));
        Ok(())
    }

    /// The peer uses the new key too: what is made with the old one is taken no more.
    pub(super) fn old_keys_done(&mut self, socket: &Socket) -> io::Result<()> {
        let Some(old) = self.old.take() else { return Ok(()) };
        match sctp::remove_key(socket.sctp(), old) {
            // The peer has left already; what it said may still wait to be read.
            Err(_) if sctp::streams(socket.sctp()).is_err() => Ok(()),
            removed => Ok(removed?),
        }
    }
}

/// RFC 6083 section 4.8: key 0 is that of associations that begin.
fn following(number: u16) -> u16 {
    number.checked_add(1).unwrap_or(1)
}

/// How messages look on the application's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// As they are: it is SCTP too.
    Sctp,
    /// With a header each.
    Header,
    /// Bare, those of one stream only.
    Stream(u16),
}

impl Framing {
    /// As the application's socket and its request have it.
    pub(super) fn of(application: &Socket, stream: u16) -> Self {
        match stream {
            _ if application.is_sctp_messages() => Self::Sctp,
            EVERY_STREAM => Self::Header,
            stream => Self::Stream(stream),
        }
    }

    /// Bytes in front of a message.
    pub(super) fn room(self) -> usize {
        if self == Self::Header { MessageHeader::LENGTH } else { 0 }
    }

    /// Whether the application gets messages of this stream.
    pub(super) fn admits(self, stream: u16) -> bool {
        !matches!(self, Self::Stream(only) if only != stream)
    }

    /// What the application says of a message: `header` is in front of it, `info` is what its socket says.
    pub(super) fn read(self, header: &[u8], info: Info) -> Option<Info> {
        match self {
            Self::Sctp => Some(info),
            Self::Stream(stream) => Some(Info { stream, ..Info::default() }),
            Self::Header => {
                let (header, _) = MessageHeader::split(header)?;
                Some(info_of(header))
            }
        }
    }

    /// What is told of a message, if it has a header.
    pub(super) fn header(self, info: Info) -> Option<[u8; MessageHeader::LENGTH]> {
        (self == Self::Header).then(|| header_of(info).encode())
    }
}

/// What a header says of its message.
pub fn info_of(header: MessageHeader) -> Info {
    Info {
        stream: header.stream,
        ppid: u32::from_ne_bytes(header.ppid),
        unordered: header.flags.contains(MessageFlags::UNORDERED),
    }
}

/// The header that says this of a message.
pub fn header_of(info: Info) -> MessageHeader {
    let flags = if info.unordered { MessageFlags::UNORDERED } else { MessageFlags::default() };
    MessageHeader { stream: info.stream, flags, ppid: info.ppid.to_ne_bytes() }
}

/// Puts messages together that come in parts.
#[derive(Debug, Default)]
pub struct Parts {
    bytes: Vec<u8>,
}

impl Parts {
    /// Whether the message at hand is the first part of its own.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds a part, up to somewhat more than `most` bytes of all: what is longer is no message.
    pub fn add(&mut self, part: &[u8], most: usize) {
        let room = (most + 1).saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// The message, once it is whole.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// In words that a person can act on.
pub(super) fn no_stream(stream: u16) -> io::Error {
    io::Error::other(format!(
        "a message is for stream {stream}, which the association does not have: ask for more streams"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_numbers_go_round_without_zero() {
        assert_eq!((following(0), following(7), following(u16::MAX)), (1, 8, 1));
    }

    #[test]
    fn headers_say_what_sctp_says() {
        let info = Info { stream: 5, ppid: 0x2f00_0000, unordered: true };
        let header = Framing::Header.header(info).unwrap();
        assert_eq!(Framing::Header.read(&header, Info::default()), Some(info));
        assert_eq!(Framing::Header.read(&header[..7], Info::default()), None);
        assert_eq!(Framing::Sctp.read(&[], info), Some(info));
        assert_eq!(Framing::Stream(5).header(info), None);
        let bare = Framing::Stream(3).read(&[], info).unwrap();
        assert_eq!(bare, Info { stream: 3, ..Info::default() });
        assert!(Framing::Stream(3).admits(3) && !Framing::Stream(3).admits(4));
        assert!(Framing::Header.admits(9) && Framing::Sctp.admits(9));
    }

    #[test]
    fn parts_have_a_bound() {
        let mut parts = Parts::default();
        parts.add(b"abc", 5);
        parts.add(b"def", 5);
        parts.add(b"ghi", 5);
        assert_eq!(parts.take(), b"abcdef");
        assert!(parts.is_empty());
    }
}
