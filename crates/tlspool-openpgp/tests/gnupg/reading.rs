//! What is in a certificate: names, keys, and the bounds on it.

use std::process::Command;

use tlspool_identity::{DoNai, How, matches};
use tlspool_openpgp::{Algorithm, Certificate, Limits, ReadError};

use crate::gpg::{Gpg, day};

#[test]
fn names_in_user_ids() {
    let gpg = Gpg::new();
    let key = gpg.key("John <John@Example.org>", "ed25519", "cert", "0");
    for user_id in ["<example.com>", "mary@example.org", "Mary <mary@example.org>"] {
        gpg.run(1, &["--quick-add-uid", &key, user_id]);
    }
    gpg.run(2, &["--quick-set-primary-uid", &key, "<example.com>"]);
    gpg.run(3, &["--quick-revoke-uid", &key, "Mary <mary@example.org>"]);
    let certificate = gpg.certificate(&key);
    let names = certificate.names(day(4)).unwrap();
    let found: Vec<_> = names.identities().map(DoNai::as_str).collect();
    assert_eq!(found, ["example.com", "john@example.org"]);
    assert_eq!(names.ignored.len(), 1);
    // At other times other user IDs count: sequoia knows that a revocation for no longer being
    // valid leaves the past alone.
    let names = certificate.names(day(2)).unwrap();
    assert!(names.identities().any(|name| name.as_str() == "mary@example.org"));
    let names = certificate.names(day(0)).unwrap();
    let found: Vec<_> = names.identities().map(DoNai::as_str).collect();
    assert_eq!(found, ["john@example.org"]);
    let wanted = DoNai::parse("jane@example.com").unwrap();
    let names = certificate.names(day(4)).unwrap();
    assert_eq!(matches(&wanted, &names, true).unwrap().how, How::DomainForUser);
    assert_eq!(matches(&wanted, &names, false), None);
    let faults: Vec<_> =
        certificate.user_ids(day(4)).into_iter().map(|id| (id.text, id.fault)).collect();
    let of = |text: &str| faults.iter().find(|(id, _)| id == text).unwrap().1.clone();
    assert_eq!(of("<example.com>"), None);
    assert!(of("Mary <mary@example.org>").unwrap().to_string().contains("revoked"));
}

#[test]
fn hidden_characters_spoil_the_whole() {
    let gpg = Gpg::new();
    let key = gpg.key("<example.com>", "ed25519", "cert", "0");
    gpg.run(1, &["--quick-add-uid", &key, "<exam\u{200b}ple.org>"]);
    let error = gpg.certificate(&key).names(day(2)).unwrap_err();
    assert!(error.to_string().contains("hidden character (U+200B)"), "{error}");
}

/// The SubjectPublicKeyInfo of each kind of key verifies what gpg has signed with it: made plain by
/// OpenSSL, which must read it.
#[test]
fn public_keys_for_tls() {
    let gpg = Gpg::new();
    for (algorithm, kind, schemes) in [
        ("rsa3072", Algorithm::Rsa { bits: 3072 }, 6),
        ("nistp256/ecdsa", Algorithm::P256, 1),
        ("nistp384/ecdsa", Algorithm::P384, 1),
        ("ed25519", Algorithm::Ed25519, 1),
    ] {
        let key =
            gpg.key(&format!("<{}.example>", algorithm.replace('/', "-")), "ed25519", "cert", "0");
        gpg.run(0, &["--quick-add-key", &key, algorithm, "sign,auth", "1y"]);
        let certificate = gpg.certificate(&key);
        assert_eq!(certificate.fingerprint().to_string(), key);
        let ids = gpg.key_ids(&key);
        let signing = certificate.signing_key(ids[1], day(1)).unwrap();
        assert_eq!(signing.algorithm, kind);
        assert_eq!(signing.algorithm.schemes().len(), schemes);
        assert!(signing.may_sign && signing.may_authenticate && !signing.is_primary);
        assert_eq!(signing.expires, Some(day(365)));
        let again = certificate.signing_key_by_spki(&signing.spki, day(1)).unwrap().unwrap();
        assert_eq!(again, signing);
        let keys = certificate.signing_keys(day(1)).unwrap();
        assert_eq!((keys.len(), keys[0].0, keys[1].0), (2, ids[1], ids[0]));
        assert!(keys[1].1.is_err());

        let file = gpg.path("spki.der");
        std::fs::write(&file, &signing.spki).unwrap();
        let openssl = Command::new("openssl")
            .args(["pkey", "-pubin", "-inform", "DER", "-noout", "-text", "-in"])
            .arg(&file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&openssl.stdout).replace([' ', '\n', ':'], "");
        assert!(openssl.status.success(), "{openssl:?}");
        // gpg shows the same numbers: the modulus, or the point after the curve.
        let listing = gpg.run(0, &["--with-colons", "--with-key-data", "--list-keys", &key]);
        let (_, subkey) = listing.split_once("\nsub:").unwrap();
        let field = if matches!(kind, Algorithm::Rsa { .. }) { "pkd:0:" } else { "pkd:1:" };
        let numbers = subkey.lines().find(|line| line.starts_with(field)).unwrap();
        let digits = numbers.split(':').nth(3).unwrap().to_lowercase();
        let prefix = if kind == Algorithm::Ed25519 { "40" } else { "" };
        let digits = digits.strip_prefix(prefix).unwrap();
        assert!(text.contains(digits), "{text} {digits}");
    }
}

#[test]
fn kinds_that_tls_does_not_have() {
    let gpg = Gpg::new();
    for algorithm in ["brainpoolP256r1/ecdsa", "nistp521/ecdsa", "dsa2048"] {
        let key =
            gpg.key(&format!("<{}.example>", algorithm.replace('/', "-")), "ed25519", "cert", "0");
        gpg.run(0, &["--quick-add-key", &key, algorithm, "sign", "1y"]);
        let error = gpg.certificate(&key).signing_key(gpg.key_ids(&key)[1], day(1)).unwrap_err();
        assert!(error.to_string().contains("cannot be used in TLS"), "{error}");
    }
}

#[test]
fn binary_armored_or_refused() {
    let gpg = Gpg::new();
    let john = gpg.key("John <john@example.org>", "ed25519", "cert", "0");
    let mary = gpg.key("Mary <mary@example.org>", "ed25519", "cert", "0");
    let read = |bytes: &[u8]| Certificate::read(bytes, Limits::PEER);
    let binary = gpg.export(&john);
    let certificate = read(&binary).unwrap();
    // Headers are written in the new format; the content is the same.
    let written = certificate.to_bytes();
    assert_eq!(read(&written).unwrap().to_bytes(), written);
    let armored = certificate.to_armored();
    assert!(armored.starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----"), "{armored}");
    assert_eq!(read(armored.as_bytes()).unwrap().to_bytes(), written);
    let by_gpg = gpg.run(0, &["--armor", "--export", &john]);
    assert_eq!(read(by_gpg.as_bytes()).unwrap().to_bytes(), written);

    let both = [binary.clone(), gpg.export(&mary)].concat();
    assert_eq!(read(&both).unwrap_err(), ReadError::SeveralKeys);
    let secret = gpg.run(0, &["--armor", "--export-secret-keys", &john]);
    assert_eq!(read(secret.as_bytes()).unwrap_err(), ReadError::SecretKey);
    let file = gpg.path("secret");
    gpg.run(0, &["--output", file.to_str().unwrap(), "--export-secret-keys", &john]);
    assert_eq!(read(&std::fs::read(file).unwrap()).unwrap_err(), ReadError::SecretKey);
    for nonsense in
        [&b""[..], b"hello", b"-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n"]
    {
        assert!(read(nonsense).is_err());
    }
    // Cut anywhere: an error, or less than the whole.
    for len in 0..binary.len() {
        if let Ok(shorter) = read(&binary[..len]) {
            assert_ne!(shorter.to_bytes(), written);
            let _ = shorter.names(day(1));
        }
    }
    let small = Limits { bytes: binary.len() - 1, packets: 10 };
    assert!(matches!(Certificate::read(&binary, small), Err(ReadError::TooLarge { .. })));
    let error = Certificate::read(armored.as_bytes(), small);
    assert!(matches!(error, Err(ReadError::TooLarge { .. })), "{error:?}");
    let few = Limits { bytes: 10_000, packets: 2 };
    assert!(matches!(Certificate::read(&binary, few), Err(ReadError::TooManyPackets { .. })));
}
