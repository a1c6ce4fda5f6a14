//! Handshake messages of TLS 1.2: the first byte is the type, the rest the body.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((kind, body)) = data.split_first() {
        tls12::read_and_write(kind % 21, body);
    }
});
