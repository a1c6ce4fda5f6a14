//! An OpenPGP certificate that a peer, a directory or an administrator brought.
#![no_main]

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use tlspool_identity::DoNai;
use tlspool_openpgp::{Certificate, Limits, Voucher};

/// Of the certificate of `seeds/openpgp/certified`, which it has certified.
static AUTHORITY: LazyLock<Certificate> = LazyLock::new(|| {
    let bytes = include_bytes!("../fixtures/authority.pgp");
    Certificate::read(bytes, Limits::PEER).expect("a certificate")
});

/// After all seeds were made: 2025-06-11 12:00:00 UTC.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_749_643_200)
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(certificate) = Certificate::read(bytes, Limits::PEER) else { return };
    let now = now();
    let good = certificate.check(now).is_ok();
    let names = certificate.names(now);
    let keys = certificate.signing_keys(now);
    assert!(good || (names.is_err() && keys.is_err()));
    for (id, key) in keys.iter().flatten() {
        if let Ok(key) = key {
            assert_eq!(certificate.signing_key(*id, now).map(|key| key.id), Ok(*id));
            assert!(certificate.signing_key_by_spki(&key.spki, now).is_some_and(|key| key.is_ok()));
            assert!(key.expires.is_none_or(|end| end > now));
        }
    }
    let authority = std::slice::from_ref(&*AUTHORITY);
    for name in names.iter().flat_map(|names| names.identities()) {
        assert_eq!(DoNai::parse_strict(name.as_str()).as_ref(), Ok(name));
        let _ = certificate.certified_by(name, authority, now);
        let itself = std::slice::from_ref(&certificate);
        assert_eq!(certificate.certified_by(name, itself, now), Ok(Voucher::Trusted));
    }
    for user_id in certificate.user_ids(now) {
        assert!(!user_id.text.contains(char::is_control));
    }
    // What is written reads back as the same, and merged with itself it stays what it is.
    let written = certificate.to_bytes();
    if let Ok(again) = Certificate::read(&written, Limits::LARGE) {
        assert_eq!(again.fingerprint(), certificate.fingerprint());
        assert!(certificate.merge(&again).is_ok());
    }
    let _ = certificate.to_armored();
    let _ = certificate.merge(&AUTHORITY);
});
