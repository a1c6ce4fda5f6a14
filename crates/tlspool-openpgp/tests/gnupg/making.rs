//! Certificates that we make, read by GnuPG.

use std::time::Duration;

use aws_lc_rs::digest::{Digest, SHA256, SHA384};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use tlspool_identity::DoNai;
use tlspool_openpgp::make::{MakeError, Reason, Wanted, create};
use tlspool_openpgp::{Algorithm, Certificate, Fault, Hash, Limits, RemoteError, RemoteKey};

use crate::gpg::{Gpg, day};

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

/// A key in memory, in place of one on a token.
struct Soft {
    pair: Pair,
    spki: Vec<u8>,
    broken: bool,
}

impl Soft {
    fn new(kind: &str) -> Self {
        let (pair, spki) = match kind {
            "p256" => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
                let public: PublicKeyX509Der<'static> = pair.public_key().as_der().unwrap();
                let spki = public.as_ref().to_vec();
                (Pair::Ecdsa(pair), spki)
            }
            "p384" => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
                let public: PublicKeyX509Der<'static> = pair.public_key().as_der().unwrap();
                let spki = public.as_ref().to_vec();
                (Pair::Ecdsa(pair), spki)
            }
            "ed25519" => {
                let pair = Ed25519KeyPair::generate().unwrap();
                let public: PublicKeyX509Der<'static> = pair.public_key().as_der().unwrap();
                let spki = public.as_ref().to_vec();
                (Pair::Ed25519(pair), spki)
            }
            _ => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
                let public: PublicKeyX509Der<'static> = pair.public_key().as_der().unwrap();
                let spki = public.as_ref().to_vec();
                (Pair::Rsa(pair), spki)
            }
        };
        Self { pair, spki, broken: false }
    }
}

impl RemoteKey for Soft {
    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign_digest(&mut self, hash: Hash, digest: &[u8]) -> Result<Vec<u8>, RemoteError> {
        if self.broken {
            return Err("the token is gone".into());
        }
        let import = |algorithm| Digest::import_less_safe(digest, algorithm).unwrap();
        Ok(match (&self.pair, hash) {
            (Pair::Ecdsa(pair), Hash::Sha256) => {
                pair.sign_digest(&import(&SHA256)).unwrap().as_ref().to_vec()
            }
            (Pair::Ecdsa(pair), Hash::Sha384) => {
                pair.sign_digest(&import(&SHA384)).unwrap().as_ref().to_vec()
            }
            (Pair::Ed25519(pair), Hash::Sha512) => pair.sign(digest).as_ref().to_vec(),
            (Pair::Rsa(pair), Hash::Sha256) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign_digest(&RSA_PKCS1_SHA256, &import(&SHA256), &mut signature).unwrap();
                signature
            }
            _ => return Err("an odd hash".into()),
        })
    }
}

fn name(text: &str) -> DoNai {
    DoNai::parse(text).unwrap()
}

/// For john@example.org and example.com, good for 30 days from day 0.
fn made(primary: &mut Soft, subkey: Option<&mut Soft>) -> Result<Certificate, MakeError> {
    let (john, domain) = (name("john@example.org"), name("example.com"));
    let wanted = Wanted {
        names: &[&john, &domain],
        display_name: "John Doe",
        created: day(0),
        validity: Some(Duration::from_hours(30 * 24)),
    };
    create(primary, subkey.map(|key| key as &mut dyn RemoteKey), &wanted)
}

fn import(gpg: &Gpg, certificate: &Certificate) -> String {
    let file = gpg.path("made");
    std::fs::write(&file, certificate.to_bytes()).unwrap();
    gpg.import(1, &file);
    gpg.run(1, &["--check-sigs", &certificate.fingerprint().to_string()])
}

#[test]
fn gnupg_verifies_every_signature() {
    for (kind, algorithm) in [
        ("p256", Algorithm::P256),
        ("p384", Algorithm::P384),
        ("ed25519", Algorithm::Ed25519),
        ("rsa", Algorithm::Rsa { bits: 2048 }),
    ] {
        let gpg = Gpg::new();
        let (mut primary, mut subkey) = (Soft::new(kind), Soft::new(kind));
        let certificate = made(&mut primary, Some(&mut subkey)).unwrap();
        let said = import(&gpg, &certificate);
        assert!(said.contains("3 good signatures"), "{said}");
        assert!(!said.contains("bad signature"), "{said}");
        let fingerprint = certificate.fingerprint().to_string();
        let listing = gpg.run(1, &["--with-colons", "--list-keys", &fingerprint]);
        let capabilities: Vec<_> = listing
            .lines()
            .filter(|line| line.starts_with("pub:") || line.starts_with("sub:"))
            .map(|line| line.split(':').nth(11).unwrap().to_owned())
            .collect();
        // The small letters are the key's own, the large those of the whole.
        assert!(capabilities[0].starts_with('c') && capabilities[1] == "sa", "{capabilities:?}");
        assert!(listing.contains("John Doe <john@example.org>"), "{listing}");
        assert!(listing.contains("John Doe <example.com>"), "{listing}");
        // GnuPG's export is the same to us.
        let exported = gpg.certificate(&fingerprint);
        let key = exported.signing_key_by_spki(&subkey.spki, day(1)).unwrap().unwrap();
        assert_eq!((key.algorithm, key.expires), (algorithm, Some(day(30))));
        assert!(key.may_sign && key.may_authenticate);
        let names = exported.names(day(1)).unwrap();
        let names: Vec<_> = names.identities().map(DoNai::as_str).collect();
        assert_eq!(names, ["john@example.org", "example.com"]);
        assert_eq!(
            certificate.check(day(30)).unwrap_err().fault,
            Fault::Expired { since: day(30) }
        );
    }
}

#[test]
fn one_key_does_it_all() {
    let gpg = Gpg::new();
    let mut primary = Soft::new("ed25519");
    let certificate = made(&mut primary, None).unwrap();
    let said = import(&gpg, &certificate);
    assert!(said.contains("2 good signatures"), "{said}");
    let key = certificate.signing_key_by_spki(&primary.spki, day(1)).unwrap().unwrap();
    assert!(key.is_primary && key.may_sign && key.may_authenticate);
}

#[test]
fn renewed_also_after_its_end() {
    let gpg = Gpg::new();
    for now in [20, 40] {
        let (mut primary, mut subkey) = (Soft::new("p256"), Soft::new("p256"));
        let old = made(&mut primary, Some(&mut subkey)).unwrap();
        let new = old.renew(&mut primary, Some(&mut subkey), day(now), Some(day(100))).unwrap();
        assert_eq!(new.fingerprint(), old.fingerprint());
        assert_eq!(new.expires(day(now)), Some(day(100)));
        let key = new.signing_key_by_spki(&subkey.spki, day(99)).unwrap().unwrap();
        assert_eq!(key.expires, Some(day(100)));
        assert!(key.may_sign && key.may_authenticate);
        assert_eq!(new.check(day(100)).unwrap_err().fault, Fault::Expired { since: day(100) });
        // The peer shows the old one, the directory knows the new one.
        assert_eq!(old.merge(&new).unwrap().expires(day(now)), Some(day(100)));
        // It reads back the same.
        let again = Certificate::read(&new.to_bytes(), Limits::PEER).unwrap();
        again.check(day(99)).unwrap();
        let for_ever = new.renew(&mut primary, Some(&mut subkey), day(50), None).unwrap();
        assert_eq!(for_ever.expires(day(1000)), None);
        // However often it is renewed, it grows no more.
        let often = (1..10).fold(new.clone(), |last, time| {
            last.renew(&mut primary, Some(&mut subkey), day(now + time), Some(day(100))).unwrap()
        });
        let twice =
            new.renew(&mut primary, Some(&mut subkey), day(now + 1), Some(day(100))).unwrap();
        assert!(often.to_bytes().len() <= twice.to_bytes().len() + 20);
        often.check(day(99)).unwrap();
        assert!(often.signing_key_by_spki(&subkey.spki, day(99)).unwrap().is_ok());
        let file = gpg.path("renewed");
        std::fs::write(&file, new.to_bytes()).unwrap();
        gpg.import(60, &file);
        let said = gpg.run(60, &["--check-sigs", &new.fingerprint().to_string()]);
        assert!(said.contains("[expires: 2025-09-09]") && !said.contains("bad sig"), "{said}");
        assert_eq!(said.matches("[expires: 2025-09-09]").count(), 2, "{said}");
        // Neither by another key, nor to an end before its start.
        let error = new.renew(&mut subkey, None, day(now), None).unwrap_err();
        assert!(matches!(error, MakeError::OtherKey(_)), "{error}");
        let mut other = Soft::new("p256");
        let error = new.renew(&mut primary, Some(&mut other), day(60), None).unwrap_err();
        assert!(matches!(error, MakeError::OtherKey(_)), "{error}");
        let before = day(0) - Duration::from_secs(1);
        let error = new.renew(&mut primary, None, day(60), Some(before)).unwrap_err();
        assert!(matches!(error, MakeError::Time), "{error}");
    }
}

#[test]
fn revoked_in_the_eyes_of_gnupg() {
    for (reason, hard) in [
        (Reason::Retired, false),
        (Reason::Superseded, false),
        (Reason::Compromised, true),
        (Reason::Unspecified, true),
    ] {
        let gpg = Gpg::new();
        let (mut primary, mut subkey) = (Soft::new("ed25519"), Soft::new("p256"));
        let certificate = made(&mut primary, Some(&mut subkey)).unwrap();
        import(&gpg, &certificate);
        let revoked = certificate.revoke(&mut primary, day(5), reason, "moved").unwrap();
        let fault = revoked.certificate.check(day(6)).unwrap_err().fault;
        let Fault::Revoked { compromised, reason, since } = fault else { panic!("{fault:?}") };
        assert_eq!((compromised, since), (hard, day(5)));
        assert!(reason.contains("moved"), "{reason}");
        // The revocation alone is enough for others.
        let file = gpg.path("revocation.asc");
        std::fs::write(&file, &revoked.armored).unwrap();
        gpg.import(6, &file);
        let fingerprint = certificate.fingerprint().to_string();
        let listing = gpg.run(6, &["--with-colons", "--list-keys", &fingerprint]);
        let primary_line = listing.lines().find(|line| line.starts_with("pub:")).unwrap();
        assert!(primary_line.starts_with("pub:r:"), "{listing}");
        let error = revoked.certificate.renew(&mut primary, None, day(7), None).unwrap_err();
        assert!(error.to_string().contains("revoked"), "{error}");
        let error = certificate.revoke(&mut subkey, day(5), Reason::Retired, "").unwrap_err();
        assert!(matches!(error, MakeError::OtherKey(_)), "{error}");
    }
}

#[test]
fn a_key_that_fails_says_so() {
    let mut primary = Soft { broken: true, ..Soft::new("p256") };
    let error = made(&mut primary, None).unwrap_err();
    assert!(matches!(&error, MakeError::Key(_)), "{error:?}");
    assert_eq!(error.to_string(), "the key did not sign: the token is gone");
    let mut subkey = Soft { broken: true, ..Soft::new("p256") };
    let error = made(&mut Soft::new("p256"), Some(&mut subkey)).unwrap_err();
    assert!(matches!(&error, MakeError::Key(_)), "{error:?}");
    let mut odd = Soft { spki: vec![0x30, 0], ..Soft::new("p256") };
    assert!(matches!(made(&mut odd, None), Err(MakeError::Kind)));
    let john = name("john@example.org");
    let wanted = Wanted {
        names: &[&john],
        display_name: "John <mary@example.org>",
        created: day(0),
        validity: None,
    };
    let error = create(&mut Soft::new("p256"), None, &wanted).unwrap_err();
    assert!(matches!(error, MakeError::DisplayName(_)), "{error}");
}
