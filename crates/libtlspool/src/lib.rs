//! The C library `libtlspool`: what C programs call, over [`tlspool_client`].
//!
//! It translates: C's strings, structs, descriptors and `errno` on one side, the client crate's
//! types on the other. It has no logic of the protocol. The functions and what they promise are
//! documented in the headers under `include/` and the manual pages of section 3.
//!
//! Safety: C promises what the manual pages ask of it: pointers are valid for the structs and
//! lengths they go with, strings end in NUL, and descriptors that are handed over are the
//! caller's. Each `SAFETY` note below names the promise it builds on.
#![allow(clippy::missing_safety_doc)] // the callers are C programs, which read manual pages

mod asynchronous;
mod cancellation;
mod config;
mod failure;
mod ffi;
mod pool;
mod services;
mod simple;
mod starttls;
