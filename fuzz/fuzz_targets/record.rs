//! Records of the socket protocol, as any local program may send them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_wire::{Assembler, Body, Packet, RECORD_LEN};

fuzz_target!(|data: &[u8]| {
    let Some((&pace, stream)) = data.split_first() else { return };
    let mut assembler = Assembler::<usize>::default();
    let (mut at, mut records) = (0, 0);
    while at < stream.len() {
        let wanted = assembler.wanted();
        let n = wanted.len().min(stream.len() - at).min(usize::from(pace) + 1);
        wanted[..n].copy_from_slice(&stream[at..at + n]);
        // A descriptor comes with the first bytes of every other record.
        if at % RECORD_LEN == 0 && (at / RECORD_LEN) % 2 == 1 {
            (0..=at / RECORD_LEN % 4).for_each(|_| assembler.take_descriptor(at / RECORD_LEN));
        }
        at += n;
        let Some(whole) = assembler.advance(n) else { continue };
        assert_eq!(whole.bytes[..], stream[at - RECORD_LEN..at]);
        assert_eq!(whole.descriptor, (records % 2 == 1).then_some(records));
        let brought = if records % 2 == 1 { 1 + records % 4 } else { 0 };
        assert_eq!(whole.second.is_some(), brought >= 2);
        assert_eq!(whole.surplus.is_some(), brought >= 3);
        records += 1;
        let Ok(packet) = Packet::decode(&whole.bytes) else { continue };
        match &packet.body {
            Body::Prng(prng) => drop(prng.as_question().map(|q| q.wanted)),
            Body::Info(info) => drop(info.given().map(|given| given.map(<[u8]>::len))),
            _ => {}
        }
        let again = Packet::decode(&packet.encode()).expect("what we write can be read");
        assert_eq!(again, packet);
    }
    assert_eq!(assembler.is_partial(), stream.len() % RECORD_LEN != 0);
});
