//! The program `tlspool`.

#![forbid(unsafe_code)]

fn main() {}
