//! The socket protocol, version 2: fixed-size records, flags, numbers and errors.
//!
//! Bytes in, types out, and back. The daemon and every client use this crate, so both sides
//! agree by construction. It does no I/O: [`assemble::Assembler`] says how many bytes to read
//! next and keeps each descriptor with the record whose bytes it arrived with.
//!
//! All integers are in host byte order: the protocol never leaves the machine.
#![forbid(unsafe_code)]

pub mod assemble;
pub mod error;
pub mod flags;
mod layout;
pub mod message;
pub mod packet;
pub mod text;

pub use assemble::Assembler;
pub use error::PoolError;
pub use flags::{Facilities, LidentryFlags, StarttlsFlags};
pub use message::MessageHeader;
pub use packet::{
    Body, ControlRequest, CtlKey, Info, InfoKind, Lidentry, Packet, Pinentry, Ping, Prng, Starttls,
};
pub use text::Text;

/// Bytes of one record, the same for every command.
pub const RECORD_LEN: usize = 388;

/// One record as it travels.
pub type RawRecord = [u8; RECORD_LEN];

/// Identity string of the protocol, the answer to PING (`YYYYMMDDproducer`).
pub const PROTOCOL_IDENTITY: &str = "20151111api@tlspool.arpa2.net";

/// Where a pool listens when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/tlspool.sock";

/// Command numbers.
pub mod command {
    /// Response: done, nothing to add.
    pub const SUCCESS: u32 = 0x0000_0000;
    /// Response: failed; also a client's refusal of a callback.
    pub const ERROR: u32 = 0x0000_0001;
    /// Exchange identity string and facilities.
    pub const PING: u32 = 0x0000_0010;
    /// Run TLS over the descriptor that comes along.
    pub const STARTTLS: u32 = 0x0000_0024;
    /// Callback: which local identity may be used?
    pub const STARTTLS_LOCALID: u32 = 0x0000_0028;
    /// Registers a PIN service; callbacks ask it for PINs.
    pub const PINENTRY: u32 = 0x0000_0029;
    /// Callback: connect the plaintext side.
    pub const PLAINTEXT_CONNECT: u32 = 0x0000_002a;
    /// Keying material for the application (RFC 5705).
    pub const PRNG: u32 = 0x0000_002b;
    /// Facts about a session.
    pub const INFO: u32 = 0x0000_002c;
    /// Lets a session outlive this connection.
    pub const CONTROL_DETACH: u32 = 0x0000_0100;
    /// Takes a detached session over.
    pub const CONTROL_REATTACH: u32 = 0x0000_0101;
    /// Registers the local identity selector.
    pub const LIDENTRY_REGISTER: u32 = 0x0000_0200;
    /// Callback to that selector.
    pub const LIDENTRY_CALLBACK: u32 = 0x0000_0201;
    /// Bit of site-local commands.
    pub const LOCAL: u32 = 0x8000_0000;
    /// Site-local notice, pool to client, only if both pinged [`crate::Facilities::DRAIN_NOTICE`]:
    /// this pool is being replaced; send new requests over a new connection. No answer.
    pub const DRAINING: u32 = LOCAL | 0x0001;
    /// Site-local, client to pool: a piece of the datagram that began a DTLS session, before the STARTTLS
    /// with the same reqid. No answer.
    pub const DATAGRAM: u32 = LOCAL | 0x0002;
}
