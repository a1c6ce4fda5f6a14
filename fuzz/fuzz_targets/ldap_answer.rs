//! What a directory answers: messages, entries, certificates, OpenPGP keys.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_lookup::directory::read_answer;
use tlspool_validate::sources::CredentialKind;

fuzz_target!(|data: &[u8]| {
    let listed = read_answer(data, CredentialKind::X509);
    for der in listed.credentials.iter().chain(&listed.anchors) {
        assert_eq!(der.first(), Some(&0x30));
    }
    let listed = read_answer(data, CredentialKind::OpenPgp);
    for key in &listed.credentials {
        assert!(key[0] & 0x80 != 0);
    }
    assert!(listed.anchors.is_empty());
});
