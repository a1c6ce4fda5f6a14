//! `tlspool identity | access | trust | token` as a person uses them, with SoftHSM2, OpenSSL and GnuPG.

mod openpgp;
mod tables;
mod tokens;
mod workbench;
