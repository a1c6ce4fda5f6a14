//! TLS 1.2 and DTLS 1.2 without I/O: what rustls does not offer.
//!
//! OpenPGP certificates (RFC 6091), the anonymous precursor with secure renegotiation, and DTLS. No I/O,
//! no clock, no private key: the caller carries bytes and time in, and actions out.
#![forbid(unsafe_code)]

mod codec;
mod config;
pub mod crypto;
pub mod dtls;
mod error;
mod keys;
mod machine;
mod record;
mod suite;
mod ticket;
mod transport;

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
pub use record::{HEADER, MAX_PLAINTEXT, MAX_RECORD, content};
pub use suite::{Authentication, Exchange, SUITES, Suite};
pub use ticket::{ClientSession, TicketKey, TicketKeys};
