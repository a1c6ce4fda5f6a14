//! Client against server in memory: everything that can be negotiated.
#![allow(missing_docs)]

mod connection;
mod negotiation;
mod openpgp;
mod precursor;
mod renegotiation;
mod resumption;
#[path = "../support/mod.rs"]
mod support;

use tls12::{ClientConfig, ServerConfig};

fn client() -> ClientConfig {
    ClientConfig { server_name: Some("localhost".into()), ..ClientConfig::default() }
}

fn server() -> ServerConfig {
    ServerConfig::default()
}

fn contains(wire: &[u8], needle: &[u8]) -> bool {
    wire.windows(needle.len()).any(|window| window == needle)
}
