//! Messages of local programs with the header of DTLS over SCTP.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_sctp::Info;
use tlspool_wire::MessageHeader;
use tlspool_wire::message::MessageFlags;

fuzz_target!(|data: &[u8]| {
    let Some((header, rest)) = MessageHeader::split(data) else {
        assert!(data.len() < MessageHeader::LENGTH);
        return;
    };
    assert_eq!([&header.encode()[..], rest].concat(), data);
    let info = Info {
        stream: header.stream,
        ppid: u32::from_ne_bytes(header.ppid),
        unordered: header.flags.contains(MessageFlags::UNORDERED),
    };
    assert_eq!(Info::from_bits(info.to_bits()), info);
});
