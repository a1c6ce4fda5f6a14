//! TLS 1.2 and DTLS 1.2 without I/O: what rustls does not offer.
//!
//! OpenPGP certificates (RFC 6091), the anonymous precursor with secure renegotiation, and DTLS. No I/O,
//! no clock, no private key, no reading of certificates: the caller carries bytes and time in, and actions out.
//!
//! # How to drive it
//!
//! ```no_run
//! # use std::{sync::Arc, time::Instant};
//! # use tls12::{ClientConfig, Connection, Error, Output};
//! # fn transmit(_: &[u8]) {}
//! # fn receive() -> Vec<u8> { vec![] }
//! # fn deliver(_: &[u8]) {}
//! # fn choose(_: &tls12::ChooseCredential) -> Option<Arc<tls12::Credential>> { None }
//! # fn sign(_: &tls12::SignRequest) -> Option<Vec<u8>> { None }
//! # fn judge(_: &tls12::Verify) -> Result<Vec<u8>, tls12::Alert> { Ok(vec![]) }
//! # fn main() -> Result<(), Error> {
//! let config = ClientConfig { server_name: Some("example.com".into()), ..Default::default() };
//! let mut connection = Connection::client(&Arc::new(config))?;
//! let mut buf = Vec::new();
//! loop {
//!     match connection.poll_output(&mut buf) {
//!         Output::Send => {
//!             transmit(&buf);
//!             buf.clear();
//!         }
//!         Output::ChooseCredential(question) => connection.chosen(Ok(choose(&question))),
//!         Output::Sign(request) => connection.signed(sign(&request)),
//!         // The SubjectPublicKeyInfo of the key the peer signs with, for X.509 and OpenPGP alike.
//!         Output::Verify(question) => connection.verified(judge(&question)),
//!         Output::Established => connection.send(b"hello")?,
//!         Output::Data(data) => deliver(&data),
//!         Output::Closed(_) => break,
//!         Output::Idle => connection.handle_input(&receive(), Instant::now()),
//!         _ => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Answers may come any time later: while a question waits, nothing more is read. Once established, a relay may
//! own the buffers instead: [`Connection::seal`] and [`Connection::open`] work in place and allocate nothing.
//!
//! # What it guarantees
//!
//! - Extended master secret (RFC 7627), secure renegotiation (RFC 5746), ephemeral key exchange and AEAD, or
//!   there is no connection.
//! - A client shows nothing and signs nothing before its caller has accepted the server.
//! - With an anonymous precursor nothing counts, and no data passes, before the handshake inside is done.
//! - Each fault of a peer is an [`Error`] with its alert; all that a peer can make grow has a bound.
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate self as tls12;

mod codec;
mod config;
pub mod crypto;
pub mod dtls;
mod error;
mod keys;
mod machine;
mod peek;
mod record;
mod suite;
mod ticket;
mod transport;

#[doc(hidden)]
pub use codec::read_and_write;
pub use codec::{CertificateType, Framing, PeerCertificate};
pub use config::{
    Anonymous, ClientAuth, ClientConfig, Common, Credential, Renegotiation, ServerConfig,
};
pub use crypto::{Group, SignatureScheme};
pub use error::{Alert, Error};
pub use keys::{ExportError, Exporter, Role};
pub use machine::{
    ChooseCredential, Closed, Connection, NewConfig, Output, Renegotiated, SignRequest, Summary,
    Verify,
};
pub use peek::{Offer, Peek, peek};
pub use record::{HEADER, MAX_PLAINTEXT, MAX_RECORD, content};
pub use suite::{Authentication, Exchange, SUITES, Suite};
pub use ticket::{ClientSession, TicketKey, TicketKeys};
