//! User messages: bytes with a stream, a payload protocol and an order; and what the stack tells in between.

use std::io::IoSliceMut;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use crate::raw;

/// SCTP_ASSOC_CHANGE
const ASSOCIATION_CHANGE: u16 = 0x8001;
/// Of struct sctp_assoc_change, its state: the association stands.
const UP: u16 = 0;
/// SCTP_SENDER_DRY_EVENT
const SENDER_DRY: u16 = 0x8009;
/// Bytes of struct sctp_sender_dry_event.
const SENDER_DRY_LENGTH: usize = 12;

/// What a message has beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Info {
    /// Its stream.
    pub stream: u16,
    /// Its payload protocol identifier: four bytes that are passed on as they are.
    pub ppid: u32,
    /// It may overtake others of its stream.
    pub unordered: bool,
}

impl Info {
    /// All of it in one number.
    pub const fn to_bits(self) -> u64 {
        (self.unordered as u64) << 48 | (self.stream as u64) << 32 | self.ppid as u64
    }

    /// The reverse of [`Self::to_bits`].
    pub const fn from_bits(bits: u64) -> Self {
        Self { stream: (bits >> 32) as u16, ppid: bits as u32, unordered: bits >> 48 & 1 == 1 }
    }
}

/// What came out of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A message, or a part of one.
    Message {
        /// How many bytes.
        length: usize,
        /// What else it has.
        info: Info,
        /// It ends here. Until then, what comes next belongs to the same message.
        whole: bool,
    },
    /// The peer has everything that was sent: the answer to [`tell_dryness`].
    Dry,
    /// The stack told something that nobody asked here.
    Other,
    /// The association is over, or another one has taken its place.
    End,
}

/// Receives into `buffers`, without waiting. Call [`tell_messages`] once before: without it, every message seems to
/// come on stream 0.
pub fn receive(fd: BorrowedFd<'_>, buffers: &mut [IoSliceMut<'_>]) -> Result<Received, Errno> {
    let message = raw::receive(fd, buffers)?;
    let whole = message.flags & libc::MSG_EOR != 0;
    if message.flags & libc::MSG_NOTIFICATION != 0 {
        let first = buffers.first().map(|buffer| &buffer[..]).unwrap_or_default();
        return Ok(notification(first.get(..message.length).filter(|_| whole)));
    }
    if message.length == 0 {
        return Ok(Received::End);
    }
    let info = message.info.map_or(Info::default(), |info| Info {
        stream: info.stream,
        ppid: info.ppid,
        unordered: i32::from(info.flags) & libc::SCTP_UNORDERED != 0,
    });
    Ok(Received::Message { length: message.length, info, whole })
}

/// What a notification says. Of those that are not whole, nothing is believed.
fn notification(bytes: Option<&[u8]>) -> Received {
    match bytes {
        Some(bytes @ [a, b, rest @ ..]) => match (u16::from_ne_bytes([*a, *b]), rest) {
            (SENDER_DRY, _) if bytes.len() == SENDER_DRY_LENGTH => Received::Dry,
            (ASSOCIATION_CHANGE, [_, _, _, _, _, _, c, d, ..])
                if u16::from_ne_bytes([*c, *d]) != UP =>
            {
                Received::End
            }
            _ => Received::Other,
        },
        _ => Received::Other,
    }
}

/// Sends a message without waiting: all of it, or nothing. With `prompt`, the peer's stack is asked to acknowledge
/// it at once.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], info: Info, prompt: bool) -> Result<usize, Errno> {
    let mut flags = 0;
    if info.unordered {
        flags |= libc::SCTP_UNORDERED;
    }
    if prompt {
        flags |= libc::SCTP_SACK_IMMEDIATELY;
    }
    let info = raw::SendInfo {
        stream: info.stream,
        flags: flags as u16,
        ppid: info.ppid,
        ..raw::SendInfo::default()
    };
    raw::send(fd, bytes, &info)
}

/// Has [`receive`] learn what messages have beside their bytes, and that an association is over which our own end
/// has shut down, or which was lost or begun anew.
pub fn tell_messages(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    raw::set(fd, libc::SCTP_RECVRCVINFO, &1_i32)?;
    event(fd, ASSOCIATION_CHANGE, true)
}

/// Has [`receive`] return [`Received::Dry`] when the peer has everything that was sent until then, which may be at
/// once. Answered then with [`forget_dryness`], else it comes again.
pub fn tell_dryness(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    // What is on already would not say what it has said.
    dryness(fd, false)?;
    dryness(fd, true)
}

/// The reverse of [`tell_dryness`].
pub fn forget_dryness(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    dryness(fd, false)
}

fn dryness(fd: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
    event(fd, SENDER_DRY, on)
}

fn event(fd: BorrowedFd<'_>, kind: u16, on: bool) -> Result<(), Errno> {
    let event = raw::Event { association: 0, kind, on: on.into(), unused: 0 };
    raw::set(fd, raw::option::EVENT, &event)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_everything() {
        for info in [
            Info::default(),
            Info { stream: 65535, ppid: u32::MAX, unordered: true },
            Info { stream: 3, ppid: 0x2f00_0000, unordered: false },
        ] {
            assert_eq!(Info::from_bits(info.to_bits()), info);
        }
    }

    #[test]
    fn notifications() {
        let mut dry = [0; SENDER_DRY_LENGTH];
        dry[..2].copy_from_slice(&SENDER_DRY.to_ne_bytes());
        assert_eq!(notification(Some(&dry)), Received::Dry);
        assert_eq!(notification(Some(&dry[..11])), Received::Other);
        assert_eq!(notification(None), Received::Other);
        assert_eq!(notification(Some(&[9])), Received::Other);
        dry[0] ^= 1;
        assert_eq!(notification(Some(&dry)), Received::Other);
        let mut change = [0; 20];
        change[..2].copy_from_slice(&ASSOCIATION_CHANGE.to_ne_bytes());
        assert_eq!(notification(Some(&change)), Received::Other);
        change[8..10].copy_from_slice(&3_u16.to_ne_bytes());
        assert_eq!(notification(Some(&change)), Received::End);
        assert_eq!(notification(Some(&change[..9])), Received::Other);
    }
}
