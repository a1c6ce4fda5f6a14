//! The tables: rules, anchors, export and import, and who may write.

use std::os::unix::process::CommandExt;

use crate::workbench::{Bench, openssl, said};

/// An identity with a key in a file.
fn identity(bench: &Bench, name: &str) {
    let key = format!("file:{}", bench.text(&format!("{name}.key")));
    bench.good(&["identity", "create", name, "--key", &key]);
}

#[test]
fn names_are_checked_and_found() {
    let bench = Bench::new();
    assert_eq!(bench.good(&["identity", "list"]).lines().count(), 1);
    identity(&bench, "www.example.com");
    identity(&bench, "john@example.com");
    assert_eq!(bench.json(&["identity", "list", ".example.com", "--json"]).len(), 1);
    assert_eq!(bench.json(&["identity", "list", "@.", "--json"]).len(), 1);
    let shown = bench.good(&["identity", "show", "WWW.Example.COM"]);
    assert!(shown.contains("BEGIN CERTIFICATE") && shown.contains("root"), "{shown}");
    for (name, why) in
        [("192.0.2.1", "IP address"), ("a..b", "empty label"), ("@a.example", "selector")]
    {
        let error = bench.bad(&["identity", "create", name, "--key", "file:/nowhere/key"]);
        assert!(error.contains(why), "{error}");
    }
    let error = bench.bad(&["identity", "remove", "nobody.example"]);
    assert!(error.contains("tlspool identity list"), "{error}");
    bench.good(&["identity", "remove", "www.example.com"]);
    assert!(bench.path("www.example.com.key").exists());
    assert_eq!(bench.json(&["identity", "list", "--json"]).len(), 1);
}

#[test]
fn certificates_by_reference() {
    let bench = Bench::new();
    openssl(
        &bench,
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=old",
            "-addext",
            "subjectAltName=DNS:other.example",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ],
    );
    let (key, cert) = (bench.text("key.pem"), format!("file:{}", bench.text("cert.pem")));
    let said = bench.run(&["identity", "add", "a.example", "--certificate", &cert, "--key", &key]);
    assert!(said.ok && said.err.contains("not for a.example"), "{}", said.err);
    let shown = &bench.json(&["identity", "show", "a.example", "--json"])[0];
    assert_eq!(shown["certificate_uri"], cert.as_str());
    assert_eq!(shown["key"], format!("file:{key}"));
}

#[test]
fn rules_are_made_explained_and_removed() {
    let bench = Bench::new();
    identity(&bench, "john@example.com");
    let uid = "4242";
    let show = ["access", "show", "john@example.com", "--user", uid];
    let denied = bench.good(&show);
    assert!(denied.contains("tlspool access add john@example.com --user 4242"), "{denied}");
    let id = bench.good(&["access", "add", "@example.com", "--user", uid]);
    assert!(bench.good(&show).contains("permitted:  yes"));
    bench.good(&["access", "add", "john@example.com", "--group", "0", "--program", "/bin/cat"]);
    assert!(bench.good(&show).contains("permitted:  no"));
    let error = bench.bad(&["access", "add", "@example.com", "--user", uid]);
    assert!(error.contains("already"), "{error}");
    assert!(bench.bad(&["access", "add", "@."]).contains("--user"));
    assert!(bench.bad(&["access", "add", "@.", "--user", "no-such-user"]).contains("no user"));
    bench.bad(&["access", "add", "@.", "--anyone", "--program", "cat"]);
    assert_eq!(bench.json(&["access", "list", "--json"]).len(), 2);
    bench.good(&["access", "remove", id.trim()]);
    assert_eq!(bench.good(&["access", "list"]).lines().count(), 2);
}

#[test]
fn what_is_exported_can_be_imported_elsewhere() {
    let bench = Bench::new();
    identity(&bench, "www.example.com");
    identity(&bench, "john@example.com");
    bench.good(&["access", "add", ".", "--anyone"]);
    bench.good(&["access", "add", "@.", "--user", "7", "--program", "/bin/cat"]);
    let pem =
        bench.json(&["identity", "show", "www.example.com", "--json"])[0]["certificate"].clone();
    std::fs::write(bench.path("www.pem"), pem.as_str().unwrap()).unwrap();
    bench.good(&["trust", "add", &bench.text("www.pem"), "--service", "imap"]);
    let tables = ["identity", "access", "trust"];
    let exports = tables.map(|table| {
        let text = bench.good(&[table, "export"]);
        assert!(!text.is_empty() && !text.contains("PRIVATE"));
        std::fs::write(bench.path(table), &text).unwrap();
        text
    });
    bench.configure("second.db");
    for (table, text) in tables.iter().zip(&exports) {
        let file = bench.text(table);
        bench.good(&[table, "import", &file]);
        assert_eq!(&bench.good(&[table, "export"]), text);
        // Again: the rows are there already, and none is added twice.
        let error = bench.bad(&[table, "import", &file]);
        assert!(error.contains("line 1") && error.contains("nothing was imported"), "{error}");
        std::fs::write(bench.path(table), "{\"what\": 1}\n").unwrap();
        bench.bad(&[table, "import", &file]);
        assert_eq!(&bench.good(&[table, "export"]), text);
    }
}

#[test]
fn anchors_and_how_they_are_trusted() {
    let bench = Bench::new();
    openssl(
        &bench,
        &[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=Authority",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ],
    );
    identity(&bench, "www.example.com");
    let leaf =
        bench.json(&["identity", "show", "www.example.com", "--json"])[0]["certificate"].clone();
    std::fs::write(bench.path("leaf.pem"), leaf.as_str().unwrap()).unwrap();
    let (ca, leaf) = (bench.text("ca.pem"), bench.text("leaf.pem"));
    let added = bench.good(&["trust", "add", &ca, &leaf]);
    assert!(added.contains("as an authority") && added.contains("issues no others"), "{added}");
    assert!(bench.bad(&["trust", "add", &ca]).contains("already"));
    bench.good(&["trust", "add", &ca, "--service", "imap"]);
    let list = bench.json(&["trust", "list", "--json"]);
    assert_eq!(list.len(), 3);
    let imap = list.iter().find(|row| row["service"] == "imap").unwrap();
    assert_eq!(imap["authority"], true);
    let id = imap["id"].to_string();
    assert!(bench.good(&["trust", "show", &id]).contains("CN=Authority"));
    bench.good(&["trust", "remove", &id]);
    assert!(bench.bad(&["trust", "remove", &id]).contains("no trust anchor"));
    std::fs::write(bench.path("no.pem"), "hello\n").unwrap();
    assert!(bench.bad(&["trust", "add", &bench.text("no.pem")]).contains("no.pem"));
}

#[test]
fn who_may_not_write_is_told_who_may() {
    let bench = Bench::new();
    identity(&bench, "www.example.com");
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: needs root to become another user");
        return;
    }
    // The folder is open, the database is not.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bench.path(""), open).unwrap();
    let mut command = bench.command(&["access", "add", ".", "--anyone"]);
    let output = said(command.uid(65534).gid(65534).output().unwrap());
    assert!(!output.ok && output.err.contains("root or as its owner (uid 0)"), "{}", output.err);
}
