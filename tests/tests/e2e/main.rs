//! The pool against other implementations of TLS, with keys on tokens, and with programs in C and Python.

mod access;
mod client;
mod closing;
mod disclosure;
mod library;
mod on_the_fly;
mod openssl_client;
mod policy;
mod programs;
mod reload;
mod server;
mod tokens;
mod tunnel;
