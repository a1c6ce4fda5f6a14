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
fn disclosures_are_made_explained_and_removed() {
    let bench = Bench::new();
    identity(&bench, "john@example.org");
    let add = ["disclosure", "add", ".example.com", "john@example.org"];
    let said = bench.run(&[&add[..], &["jane@example.org"]].concat());
    assert!(said.ok && said.err.contains("no local identity jane@example.org"), "{}", said.err);
    assert_eq!(said.out, "1\n2\n");
    let error = bench.bad(&add);
    assert!(error.contains("already"), "{error}");
    let show = |remote: &str| bench.good(&["disclosure", "show", remote, "--user", "0"]);
    let shown = show("WWW.example.com");
    for words in ["www.example.com", ".example.com, for everyone", "jane@example.org: passed over"]
    {
        assert!(shown.contains(words), "{shown}");
    }
    assert!(shown.contains("shown:      john@example.org"), "{shown}");
    assert!(show("example.com").contains("shown:      nobody"));
    let own = bench.good(&["disclosure", "add", "www.example.com", "--nobody", "--user", "0"]);
    assert!(show("www.example.com").contains("shown:      nobody"));
    let first = ["disclosure", "add", ".example.com", "--first", "a@example.org", "b@example.org"];
    bench.good(&first);
    let rows = bench.good(&["disclosure", "list"]);
    let shown: Vec<_> =
        rows.lines().skip(1).filter_map(|row| row.split_whitespace().last()).collect();
    let order = ["a@example.org", "b@example.org", "john@example.org", "jane@example.org"];
    assert_eq!(shown, [&order[..], &["nobody"]].concat());
    // What was written is read.
    let exported = bench.good(&["disclosure", "export"]);
    std::fs::write(bench.path("rows"), &exported).unwrap();
    let error = bench.bad(&["disclosure", "import", &bench.text("rows")]);
    assert!(error.contains("line 1") && error.contains("already"), "{error}");
    for row in bench.json(&["disclosure", "list", "--json"]) {
        bench.good(&["disclosure", "remove", &row["id"].to_string()]);
    }
    bench.good(&["disclosure", "import", &bench.text("rows")]);
    assert_eq!(bench.good(&["disclosure", "export"]), exported);
    assert!(bench.bad(&["disclosure", "remove", "4711"]).contains("4711"), "{own}");
    for (args, why) in [
        (&["a b", "john@example.org"][..], "a b"),
        (&["example.com"], "required"),
        (&["example.com", "--nobody", "john@example.org"], "cannot be used with"),
        (&["example.com", ".example.org"], "empty label"),
        (&["example.com", "john@example.org", "--user", "no such user"], "no such user"),
    ] {
        let error = bench.bad(&[&["disclosure", "add"], args].concat());
        assert!(error.contains(why), "{error}");
    }
    std::fs::write(bench.path("bad"), "{\"remote\":\".\",\"local\":\"a@@b\"}\n").unwrap();
    let error = bench.bad(&["disclosure", "import", &bench.text("bad")]);
    assert!(error.contains("line 1"), "{error}");
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
