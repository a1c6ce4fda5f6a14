//! The pool against other implementations of TLS, with keys on tokens, and with programs in C and Python.

mod library;
mod server;
