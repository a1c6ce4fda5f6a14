//! Keys on a token: made, listed, signed with.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::workbench::{Bench, PIN, openssl};

#[test]
fn keys_of_every_kind_and_certificates_with_them() {
    let Some(bench) = Bench::with_token() else { return };
    for (algorithm, openssl_says) in [
        ("p256", "prime256v1"),
        ("p384", "secp384r1"),
        ("rsa2048", "2048 bit"),
        ("ed25519", "ED25519"),
    ] {
        let name = format!("{algorithm}.example.com");
        let token = bench.token();
        bench.good(&[
            "identity",
            "create",
            &name,
            "--token",
            &token,
            "--algorithm",
            algorithm,
            "--alt",
            "also.example.com",
            "--role",
            "server",
        ]);
        let shown = &bench.json(&["identity", "show", &name, "--json"])[0];
        let names: Vec<&str> = shown["leaf"]["names"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_str().unwrap())
            .collect();
        assert_eq!(names, [&name, "also.example.com"]);
        assert!(shown["key"].as_str().unwrap().starts_with("pkcs11:"), "{shown}");
        std::fs::write(bench.path("self.pem"), shown["certificate"].as_str().unwrap()).unwrap();
        // The signature is good, and the key is of the kind that was asked for.
        openssl(&bench, &["verify", "-check_ss_sig", "-CAfile", "self.pem", "self.pem"]);
        let text = openssl(&bench, &["x509", "-in", "self.pem", "-noout", "-text"]);
        assert!(text.contains(openssl_says), "{text}");
        assert!(text.contains("TLS Web Server Authentication") && !text.contains("Client Auth"));
        // Of two identities with one key, the second comes from the key that is there.
        let key = shown["key"].as_str().unwrap();
        let user = format!("{algorithm}@example.com");
        bench.good(&["identity", "create", &user, "--existing-key", "--key", key]);
    }
    let objects = bench.json(&["token", "show", &bench.token(), "--json"]);
    let private = objects.iter().filter(|object| object["class"] == "private").count();
    assert_eq!(private, 4, "{objects:?}");
    let text = bench.good(&["identity", "list"]);
    assert_eq!(text.lines().count(), 9, "{text}");
}

#[test]
fn a_key_whose_identity_is_there_stays_though_nobody_can_read_that() {
    let Some(bench) = Bench::with_token() else { return };
    for (name, kind) in
        [("www.example.com", &[][..]), ("john@example.com", &["--openpgp", "--one-key"])]
    {
        let create = ["identity", "create", name, "--token", &bench.token()];
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = bench.command(&[&create, kind].concat());
        let output = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("cannot write the result"), "{said}");
    }
    let rows = bench.json(&["identity", "list", "--json"]);
    let objects = bench.json(&["token", "show", &bench.token(), "--json"]);
    let private = objects.iter().filter(|object| object["class"] == "private").count();
    assert_eq!((rows.len(), private), (2, 2), "{objects:?}");
}

#[test]
fn a_request_is_signed_by_an_authority_and_comes_back() {
    let Some(bench) = Bench::with_token() else { return };
    let csr = bench.text("request.pem");
    let name = "john@example.com";
    let said = bench.run(&["identity", "create", name, "--token", &bench.token(), "--csr", &csr]);
    assert!(said.ok && said.err.contains("tlspool identity add john@example.com"), "{}", said.err);
    let key = said.err.split('\'').nth(1).unwrap();
    openssl(&bench, &["req", "-verify", "-in", "request.pem", "-noout"]);
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
    openssl(
        &bench,
        &[
            "x509",
            "-req",
            "-in",
            "request.pem",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-copy_extensions",
            "copy",
            "-out",
            "leaf.pem",
        ],
    );
    let chain = ["leaf.pem", "ca.pem"].map(|f| std::fs::read_to_string(bench.path(f)).unwrap());
    std::fs::write(bench.path("chain.pem"), chain.concat()).unwrap();
    let certificate = bench.text("chain.pem");
    let add = ["identity", "add", name, "--certificate", &certificate, "--key", key];
    bench.good(&add);
    let shown = &bench.json(&["identity", "show", name, "--json"])[0];
    assert_eq!(shown["leaf"]["issuer"], "CN=Authority");
    assert_eq!(shown["leaf"]["names"][0], name);
    assert_eq!(shown["certificate"].as_str().unwrap().matches("BEGIN").count(), 2);
    assert!(bench.bad(&add).contains("remove it first"));
    bench.good(&[&add[..], &["--replace"]].concat());
    assert_eq!(bench.json(&["identity", "list", "--json"]).len(), 1);
    // A certificate of another key is refused, and so is the chain the wrong way around.
    let ca = bench.text("ca.pem");
    let error = bench.bad(&["identity", "add", "x.example", "--certificate", &ca, "--key", key]);
    assert!(error.contains("belongs to another key"), "{error}");
}

#[test]
fn a_failure_leaves_no_key_behind() {
    let Some(bench) = Bench::with_token() else { return };
    let name = "a.example";
    let nowhere = bench.text("missing/request.pem");
    let token = bench.token();
    let error = bench.bad(&["identity", "create", name, "--token", &token, "--csr", &nowhere]);
    assert!(error.contains("cannot write"), "{error}");
    assert!(bench.json(&["token", "show", &token, "--json"]).is_empty());
    let key = format!("file:{}", bench.text("key.pem"));
    bench.bad(&["identity", "create", name, "--key", &key, "--csr", &nowhere]);
    assert!(!bench.path("key.pem").exists());
}

#[test]
fn key_files_are_private_and_never_overwritten() {
    let bench = Bench::new();
    let key = format!("file:{}", bench.text("key.pem"));
    for algorithm in ["p256", "rsa2048", "ed25519"] {
        let _ = std::fs::remove_file(bench.path("key.pem"));
        let name = format!("{algorithm}.example");
        bench.good(&["identity", "create", &name, "--key", &key, "--algorithm", algorithm]);
        let mode = std::fs::metadata(bench.path("key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        openssl(&bench, &["pkey", "-in", "key.pem", "-noout", "-check"]);
    }
    let before = std::fs::read(bench.path("key.pem")).unwrap();
    let error = bench.bad(&["identity", "create", "b.example", "--key", &key]);
    assert!(error.contains("exists"), "{error}");
    assert_eq!(std::fs::read(bench.path("key.pem")).unwrap(), before);
}

#[test]
fn a_pin_nobody_gives_and_a_wrong_one() {
    let Some(bench) = Bench::with_token() else { return };
    let error = bench.bad(&["identity", "create", "a.example", "--token", "pkcs11:token=test"]);
    assert!(error.contains("pin-source"), "{error}");
    std::fs::write(bench.path("pin"), "wrong\n").unwrap();
    let error = bench.bad(&["identity", "create", "a.example", "--token", &bench.token()]);
    assert!(error.contains("PIN"), "{error}");
    let error = bench.bad(&["identity", "create", "a.example", "--token", "pkcs11:token=other"]);
    assert!(error.contains("not present"), "{error}");
    let error = bench.bad(&["identity", "create", "a", "--key", "pkcs11:token=test?pin-value=1"]);
    assert!(error.contains("pin-value"), "{error}");
}

#[test]
fn a_pin_is_typed_without_being_shown() {
    let Some(bench) = Bench::with_token() else { return };
    // script(1) gives the program a terminal of its own.
    let inner = format!(
        "{} -c {} identity create typed.example --token pkcs11:token=test",
        env!("CARGO_BIN_EXE_tlspool"),
        bench.text("tlspool.toml")
    );
    let mut child = Command::new("script")
        .args(["-qec", &inner, "/dev/null"])
        .env("SOFTHSM2_CONF", bench.path("softhsm2.conf"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut seen = String::new();
    let mut byte = [0];
    while !seen.contains("PIN of token test") || !seen.ends_with(": ") {
        assert_eq!(screen.read(&mut byte).unwrap(), 1, "{seen}");
        seen.push(char::from(byte[0]));
    }
    writeln!(keyboard, "{PIN}").unwrap();
    screen.read_to_string(&mut seen).unwrap();
    assert!(child.wait().unwrap().success(), "{seen}");
    assert!(seen.contains("typed.example") && !seen.contains(PIN), "{seen}");
}

#[test]
fn listings_are_ready_to_paste() {
    let Some(bench) = Bench::with_token() else { return };
    let modules = bench.json(&["token", "modules", "--json"]);
    assert!(modules[0]["error"].is_null() && modules.len() == 1, "{modules:?}");
    let tokens = bench.json(&["token", "list", "--json"]);
    let uri =
        tokens.iter().find(|token| token["label"] == "test").unwrap()["uri"].as_str().unwrap();
    assert!(bench.good(&["token", "list"]).contains(uri));
    let with_pin = format!("{uri}?pin-source=file:{}", bench.text("pin"));
    bench.good(&["identity", "create", "a.example", "--token", &with_pin]);
    let objects = bench.good(&["token", "show", &with_pin]);
    assert!(objects.contains("a.example") && objects.contains("private"), "{objects}");
}
