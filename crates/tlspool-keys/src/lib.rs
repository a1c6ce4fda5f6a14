//! Private keys: where they are, how they are named, and who may touch them.
//!
//! Three faces, for three callers:
//! - [`provider::KeyStore`] finds keys on PKCS #11 tokens and in PEM files and signs with them, in this
//!   process. The key process uses it, and the command line for `tlspool identity create` and
//!   `tlspool token`.
//! - [`server::run_key_process`] is the whole of `tlspool-keyd`: the only process that loads modules,
//!   reads key files and holds PINs. It answers the requests of [`ipc`].
//! - [`client::KeyClient`] is how the network process asks it. It never sees a key.
//!
//! Keys are named by [`uri::KeyUri`]: `pkcs11:` (RFC 7512) or `file:`.
//!
//! This crate never touches the network and never hands a private key out.
#![deny(unsafe_code)] // two exceptions: `pkcs11::load` (the argument string of a module), `server::harden`

pub mod algorithm;
pub mod client;
mod der;
mod error;
mod files;
mod info;
pub mod ipc;
mod pem;
pub mod pin;
mod pkcs11;
pub mod provider;
pub mod server;
pub mod uri;

pub use algorithm::{KeyAlgorithm, SignScheme};
pub use error::KeyError;
pub use info::{KeyId, KeyInfo, TokenName, TokenStatus};
pub use provider::{KeyStore, KeyStoreConfig, ModuleConfig};
pub use uri::{KeyUri, Pkcs11Uri, UriError};
