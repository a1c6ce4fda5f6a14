//! The daemon `tlspool` and its command line, as a library so that tests and fuzz targets reach it.
//!
//! Up to four processes: the [`supervisor`] (sockets, PID file, signals), the network process ([`net`]), the
//! key process (crate `tlspool-keys`) and the look-up process (crate `tlspool-lookup`).

#![deny(unsafe_code)]

pub mod admin;
pub mod child;
pub mod cli;
pub mod commands;
pub mod config;
pub mod confine;
pub mod logging;
mod lookups;
pub mod net;
pub mod supervisor;
pub mod users;
pub mod watched;
