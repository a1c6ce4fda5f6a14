//! What only the engine `tls12` does, through the daemon: OpenPGP certificates, the anonymous
//! precursor, renegotiation.

mod datagrams;
mod openpgp;
mod precursor;
mod renegotiation;
mod tunnel;
