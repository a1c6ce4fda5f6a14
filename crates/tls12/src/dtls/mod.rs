//! DTLS 1.2 (RFC 6347) over UDP and over SCTP (RFC 6083): records in datagrams, and a handshake that survives
//! loss, duplication and reordering.
//!
//! [`Transport`] carries the handshake messages and data of one connection for the state machine, which decides
//! everything else. [`Cookies`] answers first hellos without a connection. What is no good record is dropped and
//! counted: nothing from the network is an error here. (Over SCTP it is one of the connection, which looks at the
//! counters.) No I/O and no clock: bytes and times are passed in.

mod cookie;
mod counters;
mod flight;
mod inbox;
mod record;
mod transport;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use cookie::{Cookies, Start, Verdict};
pub use counters::Counters;
pub use transport::{Content, FlightEnd, Incoming, Timeout, Transmit, Transport};

/// What carries the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Datagrams that may be lost, come twice, or in another order.
    Udp,
    /// User messages, of which those of the handshake are reliable and in order (RFC 6083): one record each,
    /// no retransmission, no replay check.
    Sctp,
}

/// Settings of a transport.
#[derive(Debug, Clone)]
pub struct Config {
    /// What carries the records.
    pub mode: Mode,
    /// Longest datagram in bytes, without the headers of IP and UDP; of no effect over SCTP.
    pub mtu: usize,
    /// How long to wait for an answer to a flight before it is sent again; doubles each time.
    pub initial_timeout: Duration,
    /// Where the doubling ends.
    pub max_timeout: Duration,
    /// How often a flight is sent before the connection is given up, the first time included.
    pub max_sendings: u32,
    /// Longest handshake message that is taken, in bytes; as much again may wait in other messages.
    pub max_message: usize,
}

/// Shortest datagram that can be set: a third of what IPv4 carries anywhere.
pub const MIN_MTU: usize = 192;

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Udp,
            // What is left of 1500 bytes by IPv6, UDP and a tunnel or two.
            mtu: 1400,
            initial_timeout: Duration::from_secs(1),
            max_timeout: Duration::from_mins(1),
            // Twelve minutes. Where a fifth of all packets is lost, ten attempts in a row fail once in some ten thousand
            // handshakes, so each fails with 0.4, and as many as these once in some millions.
            max_sendings: 17,
            max_message: 1 << 16,
        }
    }
}

/// Why something cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The message does not fit into one record, or not into one datagram (EMSGSIZE).
    #[error("the message is longer than a record may be: {limit} bytes at most")]
    TooLong {
        /// Most bytes that fit.
        limit: usize,
    },
    /// There is no key yet.
    #[error("there is no key for this epoch")]
    NoKey,
    /// The epoch's key or numbers are used up: renegotiate, or close.
    #[error("the epoch's key is used up")]
    Exhausted,
    /// The buffer has no room for header and tag.
    #[error("the buffer has no room for a record")]
    NoRoom,
}
