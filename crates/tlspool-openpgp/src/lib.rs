//! OpenPGP certificates as TLS credentials: whose they are, which key of them signs, who vouches for them.
#![forbid(unsafe_code)]
