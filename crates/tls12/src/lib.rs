//! TLS 1.2 and DTLS 1.2 without I/O: what rustls does not offer.
//!
//! OpenPGP certificates (RFC 6091), the anonymous precursor with secure renegotiation, and DTLS. No I/O,
//! no clock, no private key: the caller carries bytes and time in, and actions out.
#![forbid(unsafe_code)]

pub mod crypto;
pub mod dtls;
