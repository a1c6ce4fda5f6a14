//! `tlspool identity | access | trust | token` as a person uses them, with SoftHSM2 and OpenSSL.

mod tables;
mod tokens;
mod workbench;
