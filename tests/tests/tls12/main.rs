//! What only the engine `tls12` does, through the daemon: OpenPGP certificates, the anonymous
//! precursor, renegotiation.

mod openpgp;
mod precursor;
mod renegotiation;
