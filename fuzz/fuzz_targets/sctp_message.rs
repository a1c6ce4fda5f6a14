//! Messages of local programs with the header of DTLS over SCTP, and messages that come in parts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_engine::twelve::{Parts, header_of, info_of};
use tlspool_sctp::Info;
use tlspool_wire::MessageHeader;
use tlspool_wire::message::MessageFlags;

fuzz_target!(|data: &[u8]| {
    let Some((header, mut rest)) = MessageHeader::split(data) else {
        assert!(data.len() < MessageHeader::LENGTH);
        return;
    };
    assert_eq!([&header.encode()[..], rest].concat(), data);
    let info = info_of(header);
    assert_eq!(Info::from_bits(info.to_bits()), info);
    let known = MessageFlags(header.flags.0 & MessageFlags::UNORDERED.0);
    assert_eq!(header_of(info), MessageHeader { flags: known, ..header });
    // The first byte is the length of a part, and so on; the bound is anything.
    let most = usize::from(header.stream) % 512;
    let (mut parts, mut all) = (Parts::default(), Vec::new());
    while let [length, more @ ..] = rest {
        let part;
        (part, rest) = more.split_at(more.len().min(usize::from(*length)));
        parts.add(part, most);
        all.extend_from_slice(part);
        assert_eq!(parts.is_empty(), all.is_empty());
    }
    all.truncate(most + 1);
    assert_eq!(parts.take(), all);
    assert!(parts.is_empty());
});
