//! The look-up process: the messages of its channels, its serving loop, and its client.
//!
//! The network process faces the world and may not open connections; the look-up process may, and
//! holds nothing worth stealing. Between them is one SEQPACKET channel for each network worker, over
//! which plain data goes: [`Query`](tlspool_validate::sources::Query) one way,
//! [`Found`](tlspool_validate::sources::Found) the other, in any order.

mod client;
pub mod message;
mod server;
mod socket;

pub use client::LookupClient;
pub use message::Counters;
pub use server::{Limits, serve};

#[cfg(test)]
mod tests;
