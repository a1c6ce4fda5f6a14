//! Certificates that GnuPG made, believed or refused.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustls_pki_types::UnixTime;
use tempfile::TempDir;

use super::*;
use crate::policy::Predicate;
use crate::sources::{
    Answer, CredentialKind, Found, Looking, Options, Origin, Outcome, Query, Sources,
};
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
    fn command(&self, days: u64) -> Command {
        let mut command = Command::new("gpg");
        command
            .env("GNUPGHOME", self.0.path())
            .args(["--batch", "--no-tty", "--yes", "--pinentry-mode", "loopback"])
            .args(["--passphrase", "", "--no-auto-check-trustdb", "--trust-model", "always"])
            .arg(format!("--faked-system-time={}!", START + days * DAY));
        command
    }

    fn run(&self, days: u64, arguments: &[&str]) -> Vec<u8> {
        let output = self.command(days).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// A dialogue: each line answers one prompt.
    fn answer(&self, days: u64, arguments: &[&str], answers: &str) {
        let mut command = self.command(days);
        command.args(["--no-batch", "--command-fd", "0", "--status-fd", "2"]).args(arguments);
        let piped = (Stdio::piped(), Stdio::null(), Stdio::piped());
        command.stdin(piped.0).stdout(piped.1).stderr(piped.2);
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(answers.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn export(&self, user_id: &str) -> Vec<u8> {
        self.run(0, &["--export", &format!("={user_id}")])
    }
}

struct Scene {
    gpg: Gpg,
    john: Certificate,
    /// Of his primary key.
    fingerprint: String,
    /// The key that signs the handshake.
    key: KeyId,
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
        let fingerprint = line.split(':').nth(9).unwrap().to_owned();
        gpg.run(1, &[&sign[..], &[&fingerprint]].concat());
        let john = Certificate::read(&gpg.export(JOHN), Limits::PEER).unwrap();
        let ca = gpg.export("CA <ca@example.org>");
        let (trust, warnings) = OpenPgpTrust::load([(None, ca.as_slice()), (Some("x"), b"junk")]);
        assert_eq!((trust.len(), warnings.len()), (1, 1));
        let validator =
            PolicyValidator::new(std::sync::Arc::default(), Legacy::Refuse, everything_on())
                .with_openpgp_trust(std::sync::Arc::new(trust));
        let key = key_id(&fingerprint);
        Self { gpg, john, fingerprint, key, validator }
    }

    async fn ask(
        &self,
        days: u64,
        expression: &str,
        world: &World,
        change: impl FnOnce(&mut Inquiry<'_>, &mut Rows),
    ) -> Result<Validated, Refused> {
        self.judge(days, expression, world, change).await
    }

    async fn ask_of(
        &self,
        days: u64,
        expression: &str,
        sources: &dyn Sources,
    ) -> Result<Validated, Refused> {
        self.judge(days, expression, sources, |_, _| {}).await
    }

    async fn judge(
        &self,
        days: u64,
        expression: &str,
        sources: &dyn Sources,
        change: impl FnOnce(&mut Inquiry<'_>, &mut Rows),
    ) -> Result<Validated, Refused> {
        let wanted = name("john@example.org");
        let mut inquiry = inquiry(&[], Some(&wanted));
        inquiry.credential = Credential::OpenPgp(&self.john, Some(self.key));
        inquiry.now = UnixTime::since_unix_epoch(Duration::from_secs(START + days * DAY));
        let mut rows = Rows::remote(expression);
        change(&mut inquiry, &mut rows);
        self.validator.validate(&inquiry, &rows, sources).await
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

/// The ID of a key with this fingerprint, of version 4.
fn key_id(fingerprint: &str) -> KeyId {
    let digits = &fingerprint[fingerprint.len() - 16..];
    KeyId(u64::from_str_radix(digits, 16).unwrap().to_be_bytes())
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
    let fingerprint = scene.fingerprint.as_str();
    for outcome in [absent(), failed()] {
        let world = World::default().with("directory", 1, outcome);
        // Whatever the policy thinks of it, a key whose time is over signs nothing.
        for expression in ["openpgp", "identity", "true"] {
            let expired = scene.ask(31, expression, &world, |_, _| {}).await.unwrap_err();
            assert!(expired.refusal.to_string().contains("expired"), "{}", expired.refusal);
        }
    }
    // Who keeps the directory from answering does not make a certificate one that nobody certifies.
    for (outcome, found) in [(absent(), Truth::False), (failed(), Truth::Failed)] {
        let world = World::default().with("directory", 1, outcome);
        for predicate in [Predicate::OpenPgp, Predicate::Identity] {
            assert_eq!(scene.truth(31, predicate, &world).await.0, found, "{predicate}");
        }
    }
    // The directory knows of a later end.
    let stale = scene.listing(&[JOHN]);
    assert!(scene.ask(31, "identity and ldap", &stale, |_, _| {}).await.is_err());
    scene.gpg.run(20, &["--quick-set-expire", fingerprint, "90d"]);
    let world = scene.listing(&[JOHN]);
    for expression in ["identity and ldap", "openpgp", "identity and openpgp and pkix?"] {
        let validated = scene.ask(31, expression, &world, |_, _| {}).await.unwrap();
        let end = UnixTime::since_unix_epoch(Duration::from_secs(START + 110 * DAY));
        let key = validated.signing_key.unwrap();
        assert_eq!((key.id, key.expires), (scene.key, Some(system_time(end))));
    }
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
    // The peer's own copy knows nothing of it.
    assert!(scene.ask(22, "openpgp", &World::default(), |_, _| {}).await.is_ok());
    for expression in ["ldap", "openpgp and ldap?"] {
        let refused = scene.ask(22, expression, &world, |_, _| {}).await.unwrap_err();
        let text = refused.refusal.to_string();
        assert!(text.contains("by the directory's copy") && text.contains("revoked"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_subkey_that_is_extended_or_revoked_in_the_directory() {
    let mut scene = Scene::new();
    let john = scene.fingerprint.clone();
    scene.gpg.run(0, &["--quick-add-key", &john, "ed25519", "sign,auth", "10d"]);
    scene.john = Certificate::read(&scene.gpg.export(JOHN), Limits::PEER).unwrap();
    let listing = scene.gpg.run(0, &["--with-colons", "--list-keys", &john]);
    let listing = String::from_utf8(listing).unwrap();
    let line = listing.lines().filter(|line| line.starts_with("fpr:")).nth(1).unwrap();
    let subkey = line.split(':').nth(9).unwrap().to_owned();
    scene.key = key_id(&subkey);
    let none = World::default().with("directory", 1, absent());
    let policy = "identity and ldap? and (ldap or openpgp)";
    let shown = scene.ask(9, policy, &none, |_, _| {}).await.unwrap();
    assert_eq!(shown.signing_key.unwrap().id, scene.key);
    for world in [&none, &scene.listing(&[JOHN])] {
        let refused = scene.ask(11, policy, world, |_, _| {}).await.unwrap_err();
        assert!(refused.refusal.to_string().contains("expired"), "{}", refused.refusal);
    }
    scene.gpg.run(5, &["--quick-set-expire", &john, "20d", &subkey]);
    let world = scene.listing(&[JOHN]);
    let validated = scene.ask(11, policy, &world, |_, _| {}).await.unwrap();
    assert_eq!((validated.source, validated.signing_key.unwrap().id), ("ldap", scene.key));
    // A policy that asks for a trusted key only asks the directory for its sake, which then vouches.
    let validated = scene.ask(11, "openpgp", &world, |_, _| {}).await.unwrap();
    assert_eq!((validated.source, validated.signing_key.unwrap().id), ("ldap", scene.key));
    let answers = "key 1\nrevkey\ny\n1\nstolen\n\ny\nsave\n";
    scene.gpg.answer(6, &["--edit-key", &john], answers);
    let world = scene.listing(&[JOHN]);
    for day in [9, 11] {
        let refused = scene.ask(day, policy, &world, |_, _| {}).await.unwrap_err();
        let text = refused.refusal.to_string();
        assert!(text.contains("by the directory's copy") && text.contains("revoked"), "{text}");
    }
    // A key that is none of the certificate's, or may not sign, is refused before anybody is asked.
    scene.key = KeyId([7; 8]);
    let refused = scene.ask(9, policy, &World::default(), |_, _| {}).await.unwrap_err();
    assert!(refused.refusal.to_string().contains("does not exist"), "{}", refused.refusal);
}

/// A directory whose answer is remembered, or is not.
struct Directory {
    outcome: Outcome,
    remembered: bool,
}

impl Directory {
    fn found(&self, origin: Origin) -> Found {
        let outcome = self.outcome.clone();
        Found { outcome, origin, elapsed: Duration::ZERO, lasts: None, steps: Vec::new() }
    }
}

impl Sources for Directory {
    fn look_up<'a>(&'a self, _: &'a Query, _: Options) -> Looking<'a> {
        Box::pin(std::future::ready(self.found(Origin::Live)))
    }

    fn at_hand(&self, _: &Query, _: Options) -> Option<Found> {
        self.remembered.then(|| self.found(Origin::Memory))
    }
}

#[tokio::test(start_paused = true)]
async fn the_directory_s_copy_counts_whether_it_is_remembered_or_not() {
    let mut scene = Scene::new();
    let listed = |scene: &Scene| Answer::Directory {
        credentials: vec![scene.gpg.export(JOHN)],
        anchors: Vec::new(),
    };
    // The directory alone has the certification.
    let certified = listed(&scene);
    let minimal = ["--export-options", "export-minimal", "--export", &scene.fingerprint];
    let minimal = Certificate::read(&scene.gpg.run(2, &minimal), Limits::PEER).unwrap();
    let shown = std::mem::replace(&mut scene.john, minimal);
    for (expression, accepted) in [
        ("identity and openpgp and ldap", true),
        ("identity and ldap? and openpgp", true),
        ("identity and ldap and not openpgp", false),
    ] {
        for remembered in [false, true] {
            let outcome = Outcome::Present(certified.clone());
            let directory = Directory { outcome, remembered };
            let result = scene.ask_of(4, expression, &directory).await;
            assert_eq!(result.is_ok(), accepted, "{expression}, remembered: {remembered}");
        }
    }
    // A policy that does not ask the directory takes what is shown, and nobody is asked.
    assert!(scene.ask(4, "identity and openpgp", &World::default(), |_, _| {}).await.is_err());
    // A directory that cannot be asked makes nothing false.
    let directory = Directory { outcome: failed(), remembered: false };
    let refused = scene.ask_of(4, "identity and ldap? or not openpgp", &directory).await;
    assert!(refused.is_err());
    // The trusted key has withdrawn its certification, as the directory alone knows.
    scene.john = shown;
    scene.gpg.run(3, &["--quick-revoke-sig", &scene.fingerprint, "ca@example.org"]);
    let withdrawn = listed(&scene);
    for (expression, accepted) in [
        ("identity and openpgp and ldap", false),
        ("identity and ldap? and openpgp", false),
        ("(openpgp or pkix?) and ldap", true),
        ("(openpgp or pkix) and ldap", false),
        ("openpgp", true),
    ] {
        for remembered in [false, true] {
            let outcome = Outcome::Present(withdrawn.clone());
            let directory = Directory { outcome, remembered };
            let result = scene.ask_of(4, expression, &directory).await;
            assert_eq!(result.is_ok(), accepted, "{expression}, remembered: {remembered}");
        }
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
