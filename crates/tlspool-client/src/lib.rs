//! Client of the TLS Pool's socket: hand over a connected socket, get back plaintext and names.
//!
//! Programs in Rust use it directly, the C library is a thin layer over it. [`Pool`] blocks and
//! may be shared by threads; [`aio::Pool`] (feature `tokio`) is its asynchronous twin. Both keep
//! any number of requests in flight on one connection, reconnect when the pool was restarted,
//! and move to the new pool when the old one says it is draining.
//!
//! A TLS session that was started without [`StarttlsFlags::FORK`] ends when its connection to
//! the pool closes. Therefore a connection stays open as long as the [`Pool`] or any
//! [`SessionGuard`] of it lives, also after new requests went elsewhere.
//!
//! ```no_run
//! use tlspool_client::{Plaintext, Pool, StarttlsRequest};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tcp = std::net::TcpStream::connect("www.example.com:443")?;
//! let pool = Pool::new();
//! let request = StarttlsRequest::client("www.example.com")?;
//! let session = pool.starttls(request, tcp.into(), Plaintext::pair())?;
//! println!("this is {}", session.remoteid());
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

#[cfg(feature = "tokio")]
pub mod aio;
mod blocking;
mod error;
mod exchange;
#[cfg(any(test, feature = "fake-pool"))]
pub mod fake;
mod io;
mod location;
mod questions;
pub mod raw;
mod session;

pub use blocking::{Cancel, Pool, Service};
pub use error::Error;
pub use location::{DEFAULT_CONFIG, config_variable, ignore_environment, socket_path};
pub use session::{LocalidAnswer, Plaintext, Refusal, Session, SessionGuard, StarttlsRequest};
pub use tlspool_wire::{
    self as wire, CtlKey, Facilities, Info, InfoKind, Lidentry, LidentryFlags, Pinentry, Ping,
    PoolError, Starttls, StarttlsFlags, Text,
};
