//! Certified by a key that we trust.

use tlspool_identity::DoNai;
use tlspool_openpgp::{Certificate, Fault, NotCertified, Voucher};

use crate::gpg::{Gpg, day};

fn name(text: &str) -> DoNai {
    DoNai::parse(text).unwrap()
}

struct Scene {
    gpg: Gpg,
    authority: String,
    john: String,
}

impl Scene {
    /// A key with two user IDs, the first of which the authority certifies on day 5.
    fn new(certify: &[&str]) -> Self {
        let gpg = Gpg::new();
        let authority = gpg.key("Authority <ca@example.org>", "ed25519", "cert", "100d");
        let john = gpg.key("John <john@example.org>", "ed25519", "cert", "0");
        gpg.run(1, &["--quick-add-uid", &john, "<example.com>"]);
        let scene = Self { gpg, authority, john };
        scene.certify(5, certify);
        scene
    }

    fn certify(&self, days: u64, more: &[&str]) {
        let sign = ["--local-user", &self.authority];
        let what = ["--quick-sign-key", &self.john, "=John <john@example.org>"];
        self.gpg.run(days, &[&sign, more, &what].concat());
    }

    fn asked(&self, who: &str, days: u64) -> Result<Voucher, NotCertified> {
        let john = self.gpg.certificate(&self.john);
        john.certified_by(&name(who), &[self.trusted()], day(days))
    }

    fn trusted(&self) -> Certificate {
        self.gpg.certificate(&self.authority)
    }

    fn withdraw(&self, days: u64, reason: &str) {
        // The second user ID is the older; not the signature of John, but that of the authority; sure; the reason, a text, and a yes.
        let answers = format!("uid 2\nrevsig\nn\ny\ny\n{reason}\n\ny\nsave\n");
        let arguments = ["--local-user", &self.authority, "--edit-key", &self.john];
        self.gpg.answer(days, &arguments, &answers);
    }
}

#[test]
fn the_user_id_that_carries_the_name() {
    let scene = Scene::new(&[]);
    let voucher = scene.asked("john@example.org", 6).unwrap();
    assert_eq!(voucher, Voucher::Certified(scene.trusted().fingerprint()));
    // Not before, not the other user ID, not a name that it lacks.
    assert!(matches!(scene.asked("john@example.org", 4), Err(NotCertified::Nobody { .. })));
    assert!(matches!(scene.asked("example.com", 6), Err(NotCertified::Nobody { .. })));
    assert!(matches!(scene.asked("example.org", 6), Err(NotCertified::NoSuchName(_))));
    let john = scene.gpg.certificate(&scene.john);
    let nobody = john.certified_by(&name("john@example.org"), &[], day(6));
    assert!(matches!(nobody, Err(NotCertified::Nobody { trusted: 0, .. })));
    // It vouches for itself only if it is trusted.
    let itself = john.certified_by(&name("example.com"), std::slice::from_ref(&john), day(6));
    assert_eq!(itself, Ok(Voucher::Trusted));
    // The trusted key does not vouch for ever.
    let error = scene.asked("john@example.org", 101).unwrap_err();
    let NotCertified::TrustedUnfit { unfit, .. } = error else { panic!("{error}") };
    assert_eq!(unfit.fault, Fault::Expired { since: day(100) });
}

#[test]
fn a_certification_ends() {
    let scene = Scene::new(&["--default-cert-expire", "10d"]);
    scene.asked("john@example.org", 14).unwrap();
    assert!(matches!(scene.asked("john@example.org", 15), Err(NotCertified::Nobody { .. })));
}

#[test]
fn a_certification_of_nothing_checked() {
    let scene = Scene::new(&["--default-cert-level", "1"]);
    assert!(matches!(scene.asked("john@example.org", 6), Err(NotCertified::Nobody { .. })));
    scene.certify(7, &["--default-cert-level", "3", "--force-sign-key"]);
    scene.asked("john@example.org", 8).unwrap();
}

#[test]
fn a_certification_taken_back() {
    // 4: no longer valid, the only soft reason for user IDs. 0: none given.
    for (reason, hard) in [("4", false), ("0", true)] {
        let scene = Scene::new(&[]);
        scene.withdraw(10, reason);
        let error = scene.asked("john@example.org", 11).unwrap_err();
        assert!(matches!(error, NotCertified::Withdrawn { .. }), "{error}");
        assert_eq!(scene.asked("john@example.org", 9).is_err(), hard);
        scene.certify(20, &["--force-sign-key"]);
        assert_eq!(scene.asked("john@example.org", 21).is_err(), hard);
    }
}

#[test]
fn a_trusted_key_that_is_revoked() {
    let scene = Scene::new(&[]);
    let file = scene.gpg.path("revocation");
    let arguments = ["--output", file.to_str().unwrap(), "--gen-revoke", &scene.authority];
    scene.gpg.answer(10, &arguments, "y\n1\ngone\n\ny\n");
    scene.gpg.import(10, &file);
    let error = scene.asked("john@example.org", 11).unwrap_err();
    assert!(matches!(error, NotCertified::TrustedUnfit { .. }), "{error}");
    assert!(error.to_string().contains("revoked"), "{error}");
}

#[test]
fn a_revoked_user_id_is_nobodys() {
    let scene = Scene::new(&[]);
    scene.gpg.run(10, &["--quick-revoke-uid", &scene.john, "John <john@example.org>"]);
    let error = scene.asked("john@example.org", 11).unwrap_err();
    assert!(matches!(error, NotCertified::NoSuchName(_)), "{error}");
}
