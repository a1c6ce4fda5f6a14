//! Messages between the network process and the look-up process, both ways.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_lookup::process::message::{Assembly, RequestFrame, encode_answer};

fuzz_target!(|data: &[u8]| {
    if let Ok(request) = RequestFrame::decode(data) {
        if let Ok(encoded) = request.encode() {
            assert_eq!(RequestFrame::decode(&encoded).as_ref(), Ok(&request));
        }
    }
    // Datagrams, each with its length before it.
    let (mut assembly, mut rest) = (Assembly::default(), data);
    while let Some((length, after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes(*length)).min(after.len());
        let (datagram, after) = after.split_at(length);
        rest = after;
        let Ok(Some((id, answer))) = assembly.take(datagram) else { continue };
        let (mut again, mut read) = (Assembly::default(), None);
        for datagram in encode_answer(id, &answer) {
            read = again.take(&datagram).unwrap();
        }
        assert_eq!(read, Some((id, answer)));
    }
});
