//! `tlspool authorize`.

use crate::workbench::Bench;

#[test]
fn rules_are_made_shown_and_removed() {
    let bench = Bench::new();
    let said = bench.run(&["authorize", "add", "allow", "John@Example.COM", "--service", "imap"]);
    assert!(said.ok, "{}", said.err);
    assert!(said.err.contains("nobody is denied yet"), "{}", said.err);
    let allow = said.out.trim().to_owned();
    let deny =
        ["authorize", "add", "deny", "--anyone", "--local", ".example.com", "--role", "server"];
    let said = bench.run(&[&deny[..], &["--position", "-5", "--comment", "for now"]].concat());
    assert!(said.ok && !said.err.contains("nobody"), "{}", said.err);
    bench.good(&["authorize", "add", "allow", "--nameless"]);
    let again = bench.bad(&["authorize", "add", "deny", "john@example.com", "--service", "imap"]);
    assert!(again.contains("already"), "{again}");
    let rows = bench.json(&["authorize", "list", "--json"]);
    let first = &rows[0];
    assert_eq!((&first["effect"], &first["remote"]), (&"deny".into(), &"*".into()));
    assert_eq!((&first["local"], &first["roles"]), (&".example.com".into(), &"server".into()));
    assert_eq!((&first["position"], &first["comment"]), (&(-5).into(), &"for now".into()));
    assert_eq!((&rows[1]["remote"], &rows[2]["remote"]), (&"john@example.com".into(), &"".into()));
    let listed = bench.good(&["authorize", "list"]);
    assert!(listed.contains("(anyone)") && listed.contains("(no name)"), "{listed}");
    let shown = bench.good(&["authorize", "show", &allow]);
    assert!(shown.contains("service:  imap") && shown.contains("local:    any"), "{shown}");
    let exported = bench.good(&["authorize", "export"]);
    bench.good(&["authorize", "remove", &allow]);
    assert!(bench.bad(&["authorize", "show", &allow]).contains("there is no authorization rule"));
    assert_eq!(bench.json(&["authorize", "list", "--json"]).len(), 2);
    bench.configure("other.db");
    std::fs::write(bench.path("rows"), &exported).unwrap();
    bench.good(&["authorize", "import", &bench.text("rows")]);
    assert_eq!(bench.good(&["authorize", "export"]), exported);
}

#[test]
fn mistakes_are_told_and_change_nothing() {
    let bench = Bench::new();
    for (arguments, why) in [
        (&["add", "allow"][..], "required"),
        (&["add", "allow", "john@example.com", "--anyone"], "cannot be used with"),
        (&["add", "permit", "john@example.com"], "invalid value"),
        (&["add", "allow", "a..b"], "empty label"),
        (&["add", "allow", ".", "--comment", "two\nlines"], "on one line"),
        (&["remove", "9"], "there is no authorization rule number 9"),
        (&["check"], "required"),
    ] {
        let error = bench.bad(&[&["authorize"], arguments].concat());
        assert!(error.contains(why), "{arguments:?}: {error}");
    }
    let rows = "{\"effect\":\"allow\",\"remote\":\".\"}\n# a comment\n\
                {\"effect\":\"perhaps\",\"remote\":\"@.\"}\n";
    std::fs::write(bench.path("rows"), rows).unwrap();
    let error = bench.bad(&["authorize", "import", &bench.text("rows")]);
    assert!(error.contains("line 3") && error.contains("neither allow nor deny"), "{error}");
    assert_eq!(bench.json(&["authorize", "list", "--json"]).len(), 0);
}

#[test]
fn who_decides_is_told() {
    let bench = Bench::new();
    let said = bench.good(&["authorize", "check", "--nameless"]);
    assert!(said.contains("authorization.default") && said.ends_with("allowed\n"), "{said}");
    bench.good(&["authorize", "add", "deny", "--nameless", "--role", "server"]);
    let said = bench.run(&["authorize", "check", "--nameless"]);
    assert!(!said.ok && said.err.contains("a peer without a name is not authorized, by rule 1"));
    bench.good(&["authorize", "check", "--nameless", "--role", "client"]);
}
