//! Records one by one, for those who run their own event loop: the C library's asynchronous family.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use tlspool_wire::packet::ErrorReply;
use tlspool_wire::{Assembler, Body, Packet, RawRecord};

pub use crate::io::Received;
use crate::{Error, Refusal};

/// Sends one record in one piece; never partially.
pub fn send(
    socket: BorrowedFd<'_>,
    packet: &Packet,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    Ok(crate::io::send(socket, packet, [descriptor, None])?)
}

/// As [`send`], for a record that is bytes already.
pub fn send_record(
    socket: BorrowedFd<'_>,
    record: &RawRecord,
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    Ok(crate::io::send_record(socket, record, [descriptor, None])?)
}

/// Reads once, without blocking.
pub fn receive(socket: BorrowedFd<'_>, into: &mut Assembler<OwnedFd>) -> Received {
    crate::io::receive(socket, into)
}

/// Blocks until a whole record is there.
pub fn receive_blocking(socket: BorrowedFd<'_>) -> Result<Packet, Error> {
    let mut assembler = Assembler::default();
    loop {
        match receive(socket, &mut assembler) {
            Received::Partial => {}
            Received::WouldBlock => {
                // A signal just leads to another look.
                let _ = poll(&mut [PollFd::new(&socket, PollFlags::IN)], None);
            }
            Received::Ended => return Err(Error::Lost),
            Received::Record(Ok(packet)) => return Ok(packet),
            Received::Record(Err(_)) => return Err(Error::Protocol("a malformed record")),
        }
    }
}

/// Whether the pool wants an answer to this record. A final response may carry a cbid left over from the
/// callback before it.
pub fn is_callback(packet: &Packet) -> bool {
    crate::exchange::is_callback(packet)
}

/// What an ERROR record of the pool means.
pub fn error(reply: &ErrorReply) -> Error {
    Error::from_reply(reply)
}

/// The ERROR record that refuses a callback.
pub fn refusal(refusal: Refusal) -> Body {
    refusal.into_body()
}
