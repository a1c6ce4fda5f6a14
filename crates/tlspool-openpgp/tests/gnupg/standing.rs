//! Expired, revoked, not yet, weak, wrong flags: each told apart.

use std::time::SystemTime;

use tlspool_openpgp::{Certificate, Fault, KeyId, Part, Unfit};

use crate::gpg::{Gpg, day};

fn certificate_fault(certificate: &Certificate, now: SystemTime) -> Fault {
    let Unfit { part, fault } = certificate.check(now).unwrap_err();
    assert_eq!(part, Part::Certificate);
    assert_eq!(certificate.names(now).unwrap_err().fault, fault);
    fault
}

fn key_fault(certificate: &Certificate, id: KeyId, now: SystemTime) -> Fault {
    certificate.check(now).unwrap();
    let Unfit { part, fault } = certificate.signing_key(id, now).unwrap_err();
    assert_eq!(part, Part::Key(id));
    fault
}

#[test]
fn time() {
    let gpg = Gpg::new();
    let key = gpg.key("<example.com>", "ed25519", "cert", "30d");
    gpg.run(5, &["--quick-add-key", &key, "ed25519", "sign,auth", "10d"]);
    let certificate = gpg.certificate(&key);
    let id = gpg.key_ids(&key)[1];
    let before = day(0) - std::time::Duration::from_secs(1);
    assert_eq!(certificate_fault(&certificate, before), Fault::NotYet { from: day(0) });
    assert_eq!(key_fault(&certificate, id, day(4)), Fault::NotYet { from: day(5) });
    assert!(certificate.signing_key(id, day(14)).is_ok());
    assert_eq!(key_fault(&certificate, id, day(15)), Fault::Expired { since: day(15) });
    certificate.check(day(29)).unwrap();
    assert_eq!(certificate.expires(day(29)), Some(day(30)));
    assert_eq!(certificate_fault(&certificate, day(30)), Fault::Expired { since: day(30) });
    let text = certificate.check(day(31)).unwrap_err().to_string();
    assert!(text.contains("has expired on 2025-07-01 12:00 UTC"), "{text}");
    let missing = KeyId([7; 8]);
    assert_eq!(key_fault(&certificate, missing, day(6)), Fault::Missing);

    // A directory knows of a later end, and of an earlier one.
    gpg.run(20, &["--quick-set-expire", &key, "60d"]);
    let extended = gpg.certificate(&key);
    let merged = certificate.merge(&extended).unwrap();
    assert_eq!(merged.expires(day(40)), Some(day(80)));
    gpg.run(21, &["--quick-set-expire", &key, "5d"]);
    let merged = merged.merge(&gpg.certificate(&key)).unwrap();
    assert_eq!(certificate_fault(&merged, day(27)), Fault::Expired { since: day(26) });
    // Whichever of them the peer shows.
    let merged = gpg.certificate(&key).merge(&certificate).unwrap();
    assert_eq!(certificate_fault(&merged, day(27)), Fault::Expired { since: day(26) });

    let other = gpg.key("<other.example>", "ed25519", "cert", "30d");
    let error = certificate.merge(&gpg.certificate(&other)).unwrap_err();
    assert_eq!((error.ours, error.theirs), (key, other));
}

#[test]
fn flags() {
    let gpg = Gpg::new();
    let key = gpg.key("<example.com>", "ed25519", "cert", "0");
    gpg.run(0, &["--quick-add-key", &key, "ed25519", "sign", "0"]);
    gpg.run(0, &["--quick-add-key", &key, "ed25519", "auth", "0"]);
    gpg.run(0, &["--quick-add-key", &key, "rsa2048", "encr", "0"]);
    let certificate = gpg.certificate(&key);
    let ids = gpg.key_ids(&key);
    assert_eq!(key_fault(&certificate, ids[0], day(1)), Fault::MayNotSign);
    let sign = certificate.signing_key(ids[1], day(1)).unwrap();
    assert!(sign.may_sign && !sign.may_authenticate);
    let auth = certificate.signing_key(ids[2], day(1)).unwrap();
    assert!(!auth.may_sign && auth.may_authenticate);
    assert_eq!(key_fault(&certificate, ids[3], day(1)), Fault::MayNotSign);

    // One key for all: the primary itself signs.
    let key = gpg.key("<all.example>", "ed25519", "cert,sign", "0");
    let primary = gpg.certificate(&key).signing_key(gpg.key_ids(&key)[0], day(1)).unwrap();
    assert!(primary.is_primary && primary.may_sign);
}

#[test]
fn revoked_for_good_or_from_now_on() {
    for (reason, hard) in [("0", true), ("1", true), ("2", false), ("3", false)] {
        let gpg = Gpg::new();
        let key = gpg.key("<example.com>", "ed25519", "cert,sign", "0");
        let before = gpg.certificate(&key);
        let file = gpg.path("revocation");
        // Yes; the reason; a text that ends with an empty line; yes.
        let arguments = ["--output", file.to_str().unwrap(), "--gen-revoke", &key];
        gpg.answer(10, &arguments, &format!("y\n{reason}\ngone\n\ny\n"));
        gpg.import(10, &file);
        let certificate = gpg.certificate(&key);
        let fault = certificate_fault(&certificate, day(11));
        let Fault::Revoked { since, compromised, reason } = fault else { panic!("{fault:?}") };
        assert_eq!((since, compromised), (day(10), hard));
        assert!(reason.contains("gone"), "{reason}");
        // The past is spoiled only by the hard one.
        assert_eq!(certificate.check(day(5)).is_err(), hard);
        // A directory tells, even if the peer does not.
        before.check(day(11)).unwrap();
        let merged = before.merge(&certificate).unwrap();
        assert!(matches!(certificate_fault(&merged, day(11)), Fault::Revoked { .. }));
        let merged = certificate.merge(&before).unwrap();
        assert!(matches!(certificate_fault(&merged, day(11)), Fault::Revoked { .. }));
    }
}

#[test]
fn a_revoked_subkey() {
    let gpg = Gpg::new();
    let key = gpg.key("<example.com>", "ed25519", "cert", "0");
    gpg.run(0, &["--quick-add-key", &key, "ed25519", "sign", "0"]);
    let id = gpg.key_ids(&key)[1];
    gpg.certificate(&key).signing_key(id, day(9)).unwrap();
    let answers = "key 1\nrevkey\ny\n1\nstolen\n\ny\nsave\n";
    gpg.answer(10, &["--edit-key", &key], answers);
    let fault = key_fault(&gpg.certificate(&key), id, day(11));
    assert!(matches!(fault, Fault::Revoked { compromised: true, .. }), "{fault:?}");
}

#[test]
fn weak_signatures() {
    let gpg = Gpg::new();
    // gpg signs with SHA-1 if it is told to.
    let weak = [
        "--cert-digest-algo",
        "SHA1",
        "--quick-gen-key",
        "<weak.example>",
        "rsa2048",
        "cert,sign",
        "0",
    ];
    gpg.run(0, &weak);
    let certificate = gpg.certificate(&gpg.fingerprint("<weak.example>"));
    let fault = certificate_fault(&certificate, day(1));
    let Fault::Weak { why } = fault else { panic!("{fault:?}") };
    assert!(why.contains("SHA1"), "{why}");

    let key = gpg.key("<example.com>", "ed25519", "cert", "0");
    gpg.run(0, &["--quick-add-key", &key, "rsa1024", "sign", "0"]);
    let fault = key_fault(&gpg.certificate(&key), gpg.key_ids(&key)[1], day(1));
    assert_eq!(fault, Fault::Unsupported { algorithm: "RSA with 1024 bits".into() });
}

#[test]
fn altered_signatures_hold_nothing() {
    let gpg = Gpg::new();
    let key = gpg.key("<example.com>", "ed25519", "cert", "0");
    let mut bytes = gpg.export(&key);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let certificate = Certificate::read(&bytes, tlspool_openpgp::Limits::PEER).unwrap();
    let fault = certificate_fault(&certificate, day(1));
    assert!(matches!(fault, Fault::Unsigned { .. }), "{fault:?}");
}
