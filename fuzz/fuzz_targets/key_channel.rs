//! Messages between the network process and the key process, both ways.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_keys::ipc::{MAX_MESSAGE, decode_message, decode_request};

fuzz_target!(|data: &[u8]| {
    if data.len() > MAX_MESSAGE {
        return;
    }
    let mut encoded = Vec::new();
    if let Ok(request) = decode_request(data) {
        request.encode(&mut encoded);
        assert_eq!(decode_request(&encoded).as_ref(), Ok(&request));
    }
    if let Ok(message) = decode_message(data) {
        message.encode(&mut encoded);
        assert_eq!(decode_message(&encoded).as_ref(), Ok(&message));
    }
});
