//! What only the engine `tls12` does, through the daemon: OpenPGP certificates, the anonymous
//! precursor, renegotiation.

mod datagrams;
mod flood;
mod openpgp;
mod precursor;
mod privacy;
mod programs;
mod renegotiation;
mod tunnel;
