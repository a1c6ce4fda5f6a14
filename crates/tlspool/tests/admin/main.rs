//! `tlspool identity | access | trust | policy | authorize | pin | token` as a person uses them, with
//! SoftHSM2, OpenSSL and GnuPG.

mod authorization;
mod openpgp;
mod policies;
mod tables;
mod tokens;
mod workbench;
