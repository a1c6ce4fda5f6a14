//! SCTP-AUTH (RFC 4895): which chunks are authenticated, and with which key.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use zeroize::Zeroize;

use crate::raw;

/// Bytes of a key that DTLS exports (RFC 6083 section 4.8).
pub const AUTH_KEY: usize = 64;

/// Types of chunks that DTLS wants to be authenticated (RFC 6083 section 4.5).
const DATA: u8 = 0;
const FORWARD_TSN: u8 = 192;

/// In front of the list in struct sctp_authchunks.
const CHUNKS_AT: usize = 8;

/// Whose DATA and FORWARD-TSN chunks are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authenticated {
    /// The peer's: our end takes no others.
    pub inward: bool,
    /// Ours: the peer's end takes no others.
    pub outward: bool,
}

/// Has DATA and FORWARD-TSN chunks authenticated in both directions, if the peer does the same. Before the socket
/// connects or listens. Does not depend on `net.sctp.auth_enable`.
pub fn set_authentication(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    support(fd)?;
    raw::set(fd, libc::SCTP_AUTH_CHUNK, &DATA)?;
    raw::set(fd, libc::SCTP_AUTH_CHUNK, &FORWARD_TSN)
}

fn support(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let yes = raw::AssociationValue { association: 0, value: 1 };
    raw::set(fd, raw::option::AUTH_SUPPORTED, &yes)
}

/// What was agreed on for the association of a connected socket.
pub fn authenticated(fd: BorrowedFd<'_>) -> Result<Authenticated, Errno> {
    // An accepted socket does not know what its listener knew.
    support(fd)?;
    let has = |option| {
        let mut room = raw::Room::<512>::default();
        match raw::get_bytes(fd, option, &mut room) {
            Ok(length) => Ok(has_both(room.0.get(..length).unwrap_or_default())),
            // The association knows nothing of authentication.
            Err(Errno::ACCESS) => Ok(false),
            Err(error) => Err(error),
        }
    };
    Ok(Authenticated {
        inward: has(libc::SCTP_LOCAL_AUTH_CHUNKS)?,
        outward: has(libc::SCTP_PEER_AUTH_CHUNKS)?,
    })
}

/// Whether struct sctp_authchunks lists both.
fn has_both(bytes: &[u8]) -> bool {
    let number = bytes.get(4..CHUNKS_AT).and_then(|bytes| bytes.try_into().ok());
    let number = number.map_or(0, u32::from_ne_bytes) as usize;
    let listed = bytes.get(CHUNKS_AT..).unwrap_or_default();
    let listed = &listed[..number.min(listed.len())];
    listed.contains(&DATA) && listed.contains(&FORWARD_TSN)
}

/// The number of the key with which chunks are sent.
pub fn key_in_use(fd: BorrowedFd<'_>) -> Result<u16, Errno> {
    Ok(raw::get::<raw::KeyNumber>(fd, libc::SCTP_AUTH_ACTIVE_KEY)?.number)
}

/// Adds a key: chunks of the peer's may be made with it from now on.
pub fn set_key(fd: BorrowedFd<'_>, number: u16, key: &[u8; AUTH_KEY]) -> Result<(), Errno> {
    // struct sctp_authkey: association, number, length, key.
    let mut bytes = [0; 8 + AUTH_KEY];
    bytes[4..6].copy_from_slice(&number.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(AUTH_KEY as u16).to_ne_bytes());
    bytes[8..].copy_from_slice(key);
    let set = raw::set_bytes(fd, libc::SCTP_AUTH_KEY, &bytes);
    bytes.zeroize();
    set
}

/// Makes chunks of what is sent from now on with this key.
pub fn use_key(fd: BorrowedFd<'_>, number: u16) -> Result<(), Errno> {
    raw::set(fd, libc::SCTP_AUTH_ACTIVE_KEY, &key_number(number))
}

/// Forgets a key that is not in use: chunks made with it are no longer taken.
pub fn remove_key(fd: BorrowedFd<'_>, number: u16) -> Result<(), Errno> {
    raw::set(fd, libc::SCTP_AUTH_DELETE_KEY, &key_number(number))
}

fn key_number(number: u16) -> raw::KeyNumber {
    raw::KeyNumber { association: 0, number, unused: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_chunks() {
        let list =
            |number: u32, chunks: &[u8]| [&[0; 4], &number.to_ne_bytes()[..], chunks].concat();
        assert!(has_both(&list(2, &[0, 192])));
        assert!(has_both(&list(4, &[130, 192, 0, 1])));
        assert!(!has_both(&list(1, &[0, 192])));
        assert!(!has_both(&list(9, &[0, 1])));
        assert!(!has_both(&list(0, &[])));
        assert!(!has_both(&[0; 3]));
    }
}
