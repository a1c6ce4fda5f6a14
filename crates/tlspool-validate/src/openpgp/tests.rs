//! Certificates that GnuPG made, believed or refused.

use std::process::Command;
use std::time::Duration;

use rustls_pki_types::UnixTime;
use tempfile::TempDir;

use super::*;
use crate::policy::Predicate;
use crate::sources::{Answer, CredentialKind, Outcome, Query};
use crate::trace::Truth;
use crate::validator::tests::{
    Rows, World, absent, authority, everything_on, failed, inquiry, leaf, name,
};
use crate::{Commit, Credential, Inquiry, Legacy, PolicyValidator, Refused, Validated};

/// 2025-06-01 12:00:00 UTC
const START: u64 = 1_748_779_200;
const DAY: u64 = 86_400;

/// GnuPG with a folder of its own, and a clock that the test sets.
struct Gpg(TempDir);

impl Drop for Gpg {
    fn drop(&mut self) {
        let mut command = Command::new("gpgconf");
        let _ = command.args(["--kill", "all"]).env("GNUPGHOME", self.0.path()).status();
    }
}

impl Gpg {
    fn run(&self, days: u64, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new("gpg")
            .env("GNUPGHOME", self.0.path())
            .args(["--batch", "--no-tty", "--yes", "--pinentry-mode", "loopback"])
            .args(["--passphrase", "", "--no-auto-check-trustdb", "--trust-model", "always"])
            .arg(format!("--faked-system-time={}!", START + days * DAY))
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn export(&self, user_id: &str) -> Vec<u8> {
        self.run(0, &["--export", &format!("={user_id}")])
    }
}

struct Scene {
    gpg: Gpg,
    john: Certificate,
    validator: PolicyValidator,
}

const JOHN: &str = "John <john@example.org>";

impl Scene {
    /// John's certificate, good for 30 days, which the authority certifies.
    fn new() -> Self {
        let gpg = Gpg(tempfile::tempdir().unwrap());
        gpg.run(0, &["--quick-gen-key", "CA <ca@example.org>", "ed25519", "cert", "0"]);
        gpg.run(0, &["--quick-gen-key", JOHN, "ed25519", "cert,sign", "30d"]);
        gpg.run(0, &["--quick-gen-key", "Mary <john@example.org>", "ed25519", "cert,sign", "0"]);
        let sign = ["--local-user", "ca@example.org", "--quick-sign-key"];
        let listing = gpg.run(0, &["--with-colons", "--list-keys", &format!("={JOHN}")]);
        let listing = String::from_utf8(listing).unwrap();
        let line = listing.lines().find(|line| line.starts_with("fpr:")).unwrap();
        gpg.run(1, &[&sign[..], &[line.split(':').nth(9).unwrap()]].concat());
        let john = Certificate::read(&gpg.export(JOHN), Limits::PEER).unwrap();
        let ca = gpg.export("CA <ca@example.org>");
        let (trust, warnings) = OpenPgpTrust::load([(None, ca.as_slice()), (Some("x"), b"junk")]);
        assert_eq!((trust.len(), warnings.len()), (1, 1));
        let validator =
            PolicyValidator::new(std::sync::Arc::default(), Legacy::Refuse, everything_on())
                .with_openpgp_trust(std::sync::Arc::new(trust));
        Self { gpg, john, validator }
    }

    async fn ask(
        &self,
        days: u64,
        expression: &str,
        world: &World,
        change: impl FnOnce(&mut Inquiry<'_>, &mut Rows),
    ) -> Result<Validated, Refused> {
        let wanted = name("john@example.org");
        let mut inquiry = inquiry(&[], Some(&wanted));
        inquiry.credential = Credential::OpenPgp(&self.john, None);
        inquiry.now = UnixTime::since_unix_epoch(Duration::from_secs(START + days * DAY));
        let mut rows = Rows::remote(expression);
        change(&mut inquiry, &mut rows);
        self.validator.validate(&inquiry, &rows, world).await
    }

    async fn truth(&self, days: u64, predicate: Predicate, world: &World) -> (Truth, String) {
        let result = self.ask(days, predicate.as_str(), world, |_, _| {}).await;
        let trace = result.map_or_else(|refused| refused.trace, |validated| validated.trace);
        let trace = trace.unwrap();
        let asked = trace.asked(predicate).unwrap();
        (asked.truth, asked.why.clone())
    }

    fn listing(&self, user_ids: &[&str]) -> World {
        let credentials = user_ids.iter().map(|user_id| self.gpg.export(user_id)).collect();
        let answer = Answer::Directory { credentials, anchors: Vec::new() };
        World::default().with("directory", 1, Outcome::Present(answer))
    }
}

#[tokio::test(start_paused = true)]
async fn certified_by_a_trusted_key() {
    let scene = Scene::new();
    let nobody = World::default();
    assert_eq!(scene.truth(2, Predicate::OpenPgp, &nobody).await.0, Truth::True);
    assert_eq!(scene.truth(0, Predicate::OpenPgp, &nobody).await.0, Truth::False);
    assert_eq!(scene.ask(2, "openpgp", &nobody, |_, _| {}).await.unwrap().source, "openpgp");
    let service = |inquiry: &mut Inquiry<'_>, _: &mut Rows| inquiry.service = "x";
    assert!(scene.ask(2, "openpgp", &nobody, service).await.is_err());
    for predicate in [Predicate::Pkix, Predicate::Dane, Predicate::Crl, Predicate::Ocsp] {
        assert_eq!(scene.truth(2, predicate, &nobody).await.0, Truth::Absent, "{predicate}");
    }
    // And it is absent where X.509 is shown.
    let chain = [leaf(&authority("Root"), &["john@example.org"])];
    let wanted = name("john@example.org");
    let refused = scene
        .validator
        .validate(&inquiry(&chain, Some(&wanted)), &Rows::remote("openpgp"), &nobody)
        .await
        .unwrap_err();
    let trace = refused.trace.unwrap();
    assert_eq!(trace.asked(Predicate::OpenPgp).unwrap().truth, Truth::Absent);
}

#[tokio::test(start_paused = true)]
async fn the_directory_lists_it() {
    let scene = Scene::new();
    let mary = "Mary <john@example.org>";
    for (world, expected) in [
        (scene.listing(&[JOHN]), Truth::True),
        (scene.listing(&[mary, JOHN]), Truth::True),
        (scene.listing(&[mary]), Truth::False),
        (scene.listing(&[]), Truth::Absent),
        (World::default().with("directory", 1, absent()), Truth::Absent),
        (World::default().with("directory", 1, failed()), Truth::Failed),
    ] {
        let (found, why) = scene.truth(2, Predicate::Ldap, &world).await;
        assert_eq!(found, expected, "{why}");
        let (name, kind) = ("john@example.org".to_owned(), CredentialKind::OpenPgp);
        assert_eq!(world.asked.borrow()[0].0, Query::Directory { name, kind });
    }
    // By default the directory vouches, and without one a trusted key.
    let rows = |_: &mut Inquiry<'_>, rows: &mut Rows| rows.policies.clear();
    let validated = scene.ask(2, "true", &scene.listing(&[JOHN]), rows).await.unwrap();
    assert_eq!((validated.identity, validated.source), (name("john@example.org"), "ldap"));
    let none = World::default().with("directory", 1, absent());
    let validated = scene.ask(2, "true", &none, rows).await.unwrap();
    assert_eq!(validated.source, "openpgp");
    // What the directory lists must match, whoever else vouches.
    assert!(scene.ask(2, "true", &scene.listing(&[mary]), rows).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn revoked_and_extended_in_the_directory() {
    let scene = Scene::new();
    let expired = scene.ask(31, "openpgp", &World::default(), |_, _| {}).await.unwrap_err();
    assert!(expired.refusal.to_string().contains("expired"), "{}", expired.refusal);
    let listing = scene.gpg.run(0, &["--with-colons", "--list-keys", &format!("={JOHN}")]);
    let listing = String::from_utf8(listing).unwrap();
    let fingerprint = listing.lines().find(|l| l.starts_with("fpr:")).unwrap();
    let fingerprint = fingerprint.split(':').nth(9).unwrap();
    // The directory knows of a later end.
    let stale = scene.listing(&[JOHN]);
    assert!(scene.ask(31, "identity and ldap", &stale, |_, _| {}).await.is_err());
    scene.gpg.run(20, &["--quick-set-expire", fingerprint, "90d"]);
    let world = scene.listing(&[JOHN]);
    assert!(scene.ask(31, "identity and ldap", &world, |_, _| {}).await.is_ok());
    // But if it is not asked, the end is the end.
    assert!(
        scene
            .ask(
                31,
                "identity and pin?",
                &World::default().with("directory", 1, failed()),
                |_, _| {}
            )
            .await
            .is_err()
    );
    // And of a revocation.
    let file = scene.gpg.0.path().join("openpgp-revocs.d").join(format!("{fingerprint}.rev"));
    let text = std::fs::read_to_string(&file).unwrap().replace(":-----BEGIN", "-----BEGIN");
    std::fs::write(&file, text).unwrap();
    scene.gpg.run(21, &["--import", file.to_str().unwrap()]);
    let world = scene.listing(&[JOHN]);
    for expression in ["ldap", "openpgp and ldap?"] {
        let refused = scene.ask(22, expression, &world, |_, _| {}).await.unwrap_err();
        let text = refused.refusal.to_string();
        assert!(text.contains("by the directory's copy") && text.contains("revoked"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn pinned_by_its_primary_key() {
    let scene = Scene::new();
    let nobody = World::default();
    let first = scene.ask(2, "identity and pin?", &nobody, |_, _| {}).await.unwrap();
    let fingerprint = scene.john.fingerprint().as_bytes().to_vec();
    let commit = Commit::Pin {
        name: name("john@example.org"),
        kind: CredentialKind::OpenPgp,
        fingerprint: fingerprint.clone(),
    };
    assert_eq!(first.commits, [commit]);
    let pinned = |pin: Vec<u8>| {
        move |_: &mut Inquiry<'_>, rows: &mut Rows| {
            rows.pins.insert("john@example.org".to_owned(), vec![pin]);
        }
    };
    assert!(scene.ask(2, "pin", &nobody, pinned(fingerprint)).await.is_ok());
    assert!(scene.ask(2, "pin?", &nobody, pinned(vec![1; 20])).await.is_err());
}
