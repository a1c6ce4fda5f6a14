//! OpenPGP certificates as TLS credentials (RFC 6091): whose they are, which key of them signs, who
//! vouches for them, and how one is made whose keys never leave a token.
//!
//! [`Certificate::read`] takes bytes from outside, within [`Limits`]. Everything said about a
//! certificate is said for a time that the caller gives. The validator asks
//! [`names`](Certificate::names) and [`certified_by`](Certificate::certified_by), the TLS engine's host
//! [`signing_key`](Certificate::signing_key); what a directory knows is brought in with
//! [`merge`](Certificate::merge). [`make`] serves `tlspool identity`.
//!
//! This crate does no I/O, reads no clock, and holds no private key.
#![forbid(unsafe_code)]

mod certificate;
mod error;
mod key;
mod limits;
pub mod make;
mod names;
mod signer;
mod standing;
mod voucher;

pub use certificate::{Certificate, Fingerprint, KeyId};
pub use error::{Date, Fault, MergeError, NotCertified, Part, ReadError, Unfit};
pub use key::{Algorithm, KeyState, SigningKey};
pub use limits::Limits;
pub use names::UserId;
pub use signer::{Hash, RemoteError, RemoteKey};
pub use voucher::Voucher;
