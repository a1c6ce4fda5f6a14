//! OpenPGP certificates whose keys are on a token, and GnuPG's opinion of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::workbench::{Bench, said};

/// GnuPG with a folder of its own.
struct Gnupg<'b>(&'b Bench);

impl<'b> Gnupg<'b> {
    fn new(bench: &'b Bench) -> Self {
        let home = bench.path("gnupg");
        fs::create_dir(&home).unwrap();
        fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
        let gpg = Self(bench);
        gpg.run(&["--check-trustdb"]);
        gpg
    }

    /// It must succeed.
    fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("gpg")
            .env("GNUPGHOME", self.0.path("gnupg"))
            .env("LC_ALL", "C")
            .args(["--batch", "--no-tty", "--yes", "--pinentry-mode", "loopback"])
            .args(["--passphrase", ""])
            .args(arguments)
            .output()
            .unwrap();
        let said = said(output);
        assert!(said.ok, "gpg {arguments:?}: {}", said.err);
        said.out + &said.err
    }

    fn import(&self, name: &str, text: &str) {
        fs::write(self.0.path(name), text).unwrap();
        self.run(&["--import", &self.0.text(name)]);
    }

    /// The columns of a listing, of its primary key and its subkeys.
    fn keys(&self, fingerprint: &str) -> Vec<Vec<String>> {
        let listing = self.run(&["--with-colons", "--list-keys", fingerprint]);
        let keys = listing.lines().filter(|l| l.starts_with("pub:") || l.starts_with("sub:"));
        keys.map(|line| line.split(':').map(str::to_owned).collect()).collect()
    }
}

impl Drop for Gnupg<'_> {
    fn drop(&mut self) {
        // The agent that it has started for this folder.
        let mut command = Command::new("gpgconf");
        let _ = command.args(["--kill", "all"]).env("GNUPGHOME", self.0.path("gnupg")).status();
    }
}

/// `identity create --openpgp` on the token, with more arguments.
fn create(bench: &Bench, name: &str, more: &[&str]) -> Value {
    let token = bench.token();
    let create = ["identity", "create", name, "--openpgp", "--token", &token];
    bench.good(&[&create[..], more].concat());
    show(bench, name)
}

fn show(bench: &Bench, name: &str) -> Value {
    bench.json(&["identity", "show", name, "--json"]).pop().unwrap()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).unwrap().as_str().unwrap_or_else(|| panic!("{pointer} of {value}"))
}

#[test]
fn keys_on_the_token_and_signatures_that_gnupg_verifies() {
    let Some(bench) = Bench::with_token() else { return };
    let gpg = Gnupg::new(&bench);
    for algorithm in ["p256", "p384", "rsa2048", "ed25519"] {
        let name = format!("{algorithm}@example.org");
        let more = ["--algorithm", algorithm, "--alt", "example.com", "--display-name", "John Doe"];
        let shown = create(&bench, &name, &more);
        assert_eq!(shown["kind"], "openpgp");
        assert!(text(&shown, "/key").starts_with("pkcs11:"));
        assert!(text(&shown, "/certify_key").contains("certify"));
        let names = &shown["openpgp"]["names"];
        assert_eq!((names[0].as_str(), names[1].as_str()), (Some(&*name), Some("example.com")));

        let armored = bench.good(&["identity", "export", &name, "--armor"]);
        assert_eq!(armored, text(&shown, "/certificate"));
        gpg.import("exported.asc", &armored);
        let fingerprint = text(&shown, "/openpgp/fingerprint");
        let said = gpg.run(&["--check-sigs", fingerprint]);
        assert!(said.contains("3 good signatures") && !said.contains("bad sig"), "{said}");
        assert!(said.contains(&format!("John Doe <{name}>")), "{said}");
        let keys = gpg.keys(fingerprint);
        assert!(keys[0][11].starts_with('c') && keys[1][11] == "sa", "{keys:?}");
    }
    // Two keys each, and all of them private ones that stay where they are.
    let objects = bench.json(&["token", "show", &bench.token(), "--json"]);
    assert_eq!(objects.iter().filter(|object| object["class"] == "private").count(), 8);
    let list = bench.good(&["identity", "list"]);
    assert_eq!(list.matches("  openpgp  ").count(), 4, "{list}");
    let people = bench.good(&["identity", "show", "p256@example.org"]);
    for word in ["signs and authenticates", "certifying key", "BEGIN PGP PUBLIC KEY BLOCK"] {
        assert!(people.contains(word), "{people}");
    }
}

#[test]
fn one_key_and_keys_in_files() {
    let Some(bench) = Bench::with_token() else { return };
    let gpg = Gnupg::new(&bench);
    let shown = create(&bench, "one.example", &["--one-key", "--algorithm", "ed25519"]);
    assert_eq!(shown["certify_key"], Value::Null);
    gpg.import("one.asc", text(&shown, "/certificate"));
    let keys = gpg.keys(text(&shown, "/openpgp/fingerprint"));
    assert_eq!(keys.len(), 1, "{keys:?}");
    assert!(keys[0][11].starts_with("csa") || keys[0][11].starts_with("sca"), "{keys:?}");
    bench.good(&["identity", "renew", "one.example", "--days", "700"]);

    let key = format!("file:{}", bench.text("key.pem"));
    let name = "file.example";
    bench.good(&["identity", "create", name, "--openpgp", "--key", &key, "--algorithm", "rsa2048"]);
    let shown = show(&bench, name);
    assert!(text(&shown, "/certify_key").ends_with("key.pem.certify"), "{shown}");
    bench.good(&["identity", "renew", name]);
    // The same keys again, for another name.
    let again =
        ["identity", "create", "again.example", "--openpgp", "--existing-key", "--key", &key];
    let error = bench.bad(&again);
    assert!(error.contains("--certify-key"), "{error}");
    let certify = format!("{key}.certify");
    bench.good(&[&again[..], &["--certify-key", &certify]].concat());
    // A failure leaves no keys behind.
    let error = bench.bad(&[
        "identity",
        "create",
        "bad.example",
        "--openpgp",
        "--token",
        &bench.token(),
        "--display-name",
        "<bad>",
    ]);
    assert!(error.contains("display name"), "{error}");
    let objects = bench.json(&["token", "show", &bench.token(), "--json"]);
    assert_eq!(objects.iter().filter(|object| object["class"] == "private").count(), 1);
}

#[test]
fn renewed_and_revoked_by_the_token() {
    let Some(bench) = Bench::with_token() else { return };
    let gpg = Gnupg::new(&bench);
    let name = "john@example.org";
    let shown = create(&bench, name, &["--days", "10"]);
    let fingerprint = text(&shown, "/openpgp/fingerprint").to_owned();
    gpg.import("first.asc", text(&shown, "/certificate"));
    let ends = |keys: &[Vec<String>]| -> Vec<u64> {
        keys.iter().map(|key| key[6].parse().unwrap()).collect()
    };
    let before = ends(&gpg.keys(&fingerprint));
    bench.good(&["identity", "renew", name, "--days", "100"]);
    let renewed = show(&bench, name);
    assert_eq!(text(&renewed, "/openpgp/fingerprint"), fingerprint);
    assert_eq!(renewed["certify_key"], shown["certify_key"]);
    gpg.import("second.asc", text(&renewed, "/certificate"));
    let after = ends(&gpg.keys(&fingerprint));
    for (before, after) in before.iter().zip(&after) {
        let days = (after - before) / 86_400;
        assert!((89..=90).contains(&days), "{before} {after}");
    }
    let said = gpg.run(&["--check-sigs", &fingerprint]);
    assert!(!said.contains("bad sig"), "{said}");

    // Prepared, nothing changes.
    let prepared = bench.good(&["identity", "revoke", name, "--prepare"]);
    assert!(prepared.contains("BEGIN PGP PUBLIC KEY BLOCK"), "{prepared}");
    assert_eq!(show(&bench, name), renewed);
    let revocation =
        bench.good(&["identity", "revoke", name, "--reason", "retired", "--text", "moved"]);
    gpg.import("revocation.asc", &revocation);
    assert_eq!(gpg.keys(&fingerprint)[0][1], "r");
    let revoked = show(&bench, name);
    assert!(text(&revoked, "/openpgp/not_after").contains("revoked"), "{revoked}");
    assert!(text(&revoked, "/openpgp/not_after").contains("moved"), "{revoked}");
    let error = bench.bad(&["identity", "renew", name]);
    assert!(error.contains("revoked"), "{error}");
}

#[test]
fn x509_and_openpgp_beside_each_other() {
    let Some(bench) = Bench::with_token() else { return };
    let shown = create(&bench, "john@example.org", &[]);
    let key = text(&shown, "/key");
    let x509 = ["identity", "create", "john@example.org", "--existing-key", "--key", key];
    bench.good(&x509);
    let rows = bench.json(&["identity", "list", "--json"]);
    let kinds: Vec<_> = rows.iter().map(|row| row["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["openpgp", "x509"]);
    // Only one of them is meant.
    bench.good(&["identity", "renew", "john@example.org"]);
    bench.good(&["identity", "export", "john@example.org", "--armor"]);
    bench.good(&["identity", "create", "www.example.org", "--token", &bench.token()]);
    let error = bench.bad(&["identity", "export", "www.example.org", "--armor"]);
    assert!(error.contains("no OpenPGP certificate"), "{error}");
    bench.bad(&["identity", "export", "--armor"]);
    let error = bench.bad(&["identity", "create", "a.example", "--openpgp", "--csr", "-"]);
    assert!(error.contains("cannot be used with"), "{error}");

    let exported = bench.good(&["identity", "export"]);
    fs::write(bench.path("exported"), &exported).unwrap();
    bench.configure("second.db");
    bench.good(&["identity", "import", &bench.text("exported")]);
    assert_eq!(bench.good(&["identity", "export"]), exported);
    bench.good(&["identity", "renew", "john@example.org"]);
}

#[test]
fn certificates_made_elsewhere() {
    let Some(bench) = Bench::with_token() else { return };
    let gpg = Gnupg::new(&bench);
    // Made by one pool, extended by GnuPG's idea of packets, and brought to another pool.
    let name = "john@example.org";
    let shown = create(&bench, name, &[]);
    let (key, certify) = (text(&shown, "/key"), text(&shown, "/certify_key"));
    let fingerprint = text(&shown, "/openpgp/fingerprint");
    gpg.import("john.asc", text(&shown, "/certificate"));
    let file = bench.text("john.gpg");
    gpg.run(&["--output", &file, "--export", fingerprint]);
    bench.configure("second.db");
    let add = ["identity", "add", name, "--openpgp", &file, "--key"];
    let said = bench.run(&[&add[..], &[key]].concat());
    assert!(said.ok && !said.err.contains("object"), "{}", said.err);
    assert!(bench.bad(&[&add[..], &[key]].concat()).contains("already"));
    bench.good(&[&add[..], &[key, "--replace", "--role", "client"]].concat());
    assert_eq!(bench.json(&["identity", "list", "--json"]).len(), 1);
    // The pool was not told where the certifying key is.
    let error = bench.bad(&["identity", "renew", name]);
    assert!(error.contains("--certify-key"), "{error}");
    bench.good(&["identity", "renew", name, "--certify-key", certify]);
    bench.good(&["identity", "renew", name]);

    // Another key, another name, no key at all.
    bench.good(&["identity", "create", "other.example", "--token", &bench.token()]);
    let other = show(&bench, "other.example");
    let error = bench.bad(&[&add[..], &[text(&other, "/key")]].concat());
    assert!(error.contains("holds another key"), "{error}");
    let mary = ["identity", "add", "mary@example.org", "--openpgp", &file, "--key", key];
    let said = bench.run(&mary);
    assert!(said.ok && said.err.contains("not for mary@example.org"), "{}", said.err);
    fs::write(bench.path("nonsense"), "hello").unwrap();
    let nonsense = bench.text("nonsense");
    let error = bench.bad(&["identity", "add", name, "--openpgp", &nonsense, "--key", key]);
    assert!(error.contains("no OpenPGP certificate"), "{error}");
    bench.bad(&["identity", "add", name, "--key", key]);
    let secret = bench.text("secret.gpg");
    gpg.run(&["--quick-gen-key", "<secret.example>", "ed25519", "cert", "0"]);
    gpg.run(&["--output", &secret, "--export-secret-keys", "=<secret.example>"]);
    let error =
        bench.bad(&["identity", "add", "secret.example", "--openpgp", &secret, "--key", key]);
    assert!(error.contains("secret key"), "{error}");
}

#[test]
fn trusted_keys() {
    let Some(bench) = Bench::with_token() else { return };
    let gpg = Gnupg::new(&bench);
    gpg.run(&["--quick-gen-key", "Authority <ca@example.org>", "ed25519", "cert", "0"]);
    let file = bench.text("ca.asc");
    gpg.run(&["--armor", "--output", &file, "--export", "=Authority <ca@example.org>"]);
    let said = bench.good(&["trust", "add", "--openpgp", &file]);
    assert!(said.contains("Authority <ca@example.org>"), "{said}");
    bench.good(&["trust", "add", "--openpgp", &file, "--service", "imap"]);
    let list = bench.good(&["trust", "list"]);
    assert_eq!(list.matches("  openpgp  ").count(), 2, "{list}");
    let rows = bench.json(&["trust", "list", "--json"]);
    assert_eq!(rows[0]["kind"], "openpgp");
    assert_eq!(rows[0]["names"][0], "ca@example.org");
    let id = rows[0]["id"].to_string();
    let shown = bench.good(&["trust", "show", &id]);
    assert!(shown.contains("BEGIN PGP PUBLIC KEY BLOCK"), "{shown}");
    // The same key, changed, is still the same key.
    gpg.run(&["--quick-add-uid", "=Authority <ca@example.org>", "<example.org>"]);
    gpg.run(&["--armor", "--output", &file, "--export", "=Authority <ca@example.org>"]);
    let error = bench.bad(&["trust", "add", "--openpgp", &file]);
    assert!(error.contains(&format!("as number {id}")), "{error}");
    let exported = bench.good(&["trust", "export"]);
    bench.good(&["trust", "remove", &id]);
    bench.good(&["trust", "add", "--openpgp", &file]);

    fs::write(bench.path("exported"), &exported).unwrap();
    bench.configure("second.db");
    bench.good(&["trust", "import", &bench.text("exported")]);
    assert_eq!(bench.good(&["trust", "export"]), exported);
    let error = bench.bad(&["trust", "import", &bench.text("exported")]);
    assert!(error.contains("nothing was imported"), "{error}");
}
