//! `tlspool policy` and `tlspool pin`, and what they make of an `openssl s_server`.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::workbench::{Bench, openssl};

#[test]
fn policies_are_made_shown_and_removed() {
    let bench = Bench::new();
    let id = bench.good(&["policy", "add", ".example.com", "PKIX", "and", "Dane?"]);
    let local = ["policy", "add", "@.", "pq or client", "--side", "local", "--service", "imap"];
    bench.good(&local);
    let again = bench.bad(&["policy", "add", ".example.com", "true"]);
    assert!(again.contains("already"), "{again}");
    let rows = bench.json(&["policy", "list", "--json"]);
    assert_eq!(rows[0]["expression"], "pkix and dane?");
    assert_eq!((&rows[1]["side"], &rows[1]["service"]), (&"local".into(), &"imap".into()));
    let shown = bench.good(&["policy", "show", id.trim()]);
    assert!(shown.contains("usable:     yes"), "{shown}");
    let exported = bench.good(&["policy", "export"]);
    bench.good(&["policy", "remove", id.trim()]);
    assert_eq!(bench.json(&["policy", "list", "--json"]).len(), 1);
    bench.configure("other.db");
    std::fs::write(bench.path("rows"), &exported).unwrap();
    bench.good(&["policy", "import", &bench.text("rows")]);
    assert_eq!(bench.good(&["policy", "export"]), exported);
}

#[test]
fn mistakes_are_pointed_at() {
    let bench = Bench::new();
    let error = bench.bad(&["policy", "add", ".", "pkix and danee"]);
    assert!(error.contains("did you mean dane?"), "{error}");
    assert!(error.contains("pkix and danee\n         ^^^^^"), "{error}");
    let error = bench.bad(&["policy", "add", ".", "TCO|DG|&&"]);
    assert!(error.contains("pkix and (crl or ocsp) and (dane or ldap)"), "{error}");
    assert_eq!(bench.json(&["policy", "list", "--json"]).len(), 0);
}

#[test]
fn the_older_form_is_imported() {
    let bench = Bench::new();
    let rows = "{\"side\":\"remote\",\"selector\":\".\",\"expression\":\"TCO|DG|&&\"}\n\
                {\"side\":\"local\",\"selector\":\"@.\",\"expression\":\"identity\"}\n";
    std::fs::write(bench.path("rows"), rows).unwrap();
    bench.good(&["policy", "import", &bench.text("rows")]);
    let rows = bench.json(&["policy", "list", "--json"]);
    assert_eq!(rows[0]["expression"], "pkix and (crl or ocsp) and (dane or ldap)");
    // All or none.
    bench.configure("other.db");
    let rows = "{\"side\":\"remote\",\"selector\":\".\",\"expression\":\"T\"}\n\
                {\"side\":\"remote\",\"selector\":\"@.\",\"expression\":\"T&\"}\n";
    std::fs::write(bench.path("rows"), rows).unwrap();
    let error = bench.bad(&["policy", "import", &bench.text("rows")]);
    assert!(error.contains("line 2") && error.contains("needs 2 values"), "{error}");
    assert_eq!(bench.json(&["policy", "list", "--json"]).len(), 0);
}

#[test]
fn pins_move_to_another_database() {
    let bench = Bench::new();
    let digits = ["ab".repeat(32), "cd".repeat(20)];
    bench.good(&["pin", "add", "www.example.com", "--fingerprint", &digits[0]]);
    let id = bench.good(&[
        "pin",
        "add",
        "john@example.com",
        "--fingerprint",
        &digits[1],
        "--for",
        "10d",
    ]);
    let shown = bench.good(&["pin", "show", id.trim()]);
    assert!(shown.contains("john@example.com") && shown.contains(&digits[1]), "{shown}");
    let exported = bench.good(&["pin", "export"]);
    std::fs::write(bench.path("pins"), &exported).unwrap();
    bench.configure("other.db");
    bench.good(&["pin", "import", &bench.text("pins")]);
    assert_eq!(bench.good(&["pin", "export"]), exported);
    assert_eq!(exported.lines().count(), 2);
    assert_eq!(exported.matches("\"expires\":null").count(), 1, "{exported}");
    for wrong in [
        r#"{"name":"a.example","kind":"x509","fingerprint":"abc"}"#,
        r#"{"name":"a.example","kind":"x509","fingerprint":"ab"}"#,
        r#"{"name":"a.example","kind":"ssh","fingerprint":"ab"}"#,
        r#"{"name":"@a.example","kind":"x509","fingerprint":"ab"}"#,
    ] {
        std::fs::write(bench.path("wrong"), wrong).unwrap();
        let error = bench.bad(&["pin", "import", &bench.text("wrong")]);
        assert!(error.contains("line 1"), "{error}");
    }
    assert!(bench.bad(&["pin", "show", "99"]).contains("pin number 99"));
}

#[test]
fn what_cannot_be_read_is_not_exported_as_if_it_could() {
    use tlspool_store::{CertificateSource, Kind, Mode, NewIdentity, NewTrustAnchor, Roles, Store};
    let bench = Bench::new();
    let store = Store::open(bench.path("pool.db"), Mode::ReadWrite).unwrap();
    let name = tlspool_identity::DoNai::parse("john@example.com").unwrap();
    let identity = NewIdentity {
        name: &name,
        roles: Roles::Both,
        kind: Kind::OpenPgp,
        certificate: CertificateSource::OpenPgp(b"not any more".to_vec()),
        key_uri: "file:/nowhere/key",
        preference: 100,
        is_default: false,
    };
    let row = store.add_identity(&identity).unwrap();
    let anchor =
        NewTrustAnchor { kind: Kind::OpenPgp, service: None, certificate: b"nor this", label: "x" };
    let anchor = store.add_trust_anchor(&anchor).unwrap();
    let error = bench.bad(&["identity", "export"]);
    assert!(error.contains(&format!("identity number {row}, john@example.com")), "{error}");
    let error = bench.bad(&["trust", "export"]);
    assert!(error.contains(&format!("anchor number {anchor}")), "{error}");
}

#[test]
fn pins_are_made_and_removed() {
    let bench = Bench::new();
    let server = Server::certificate(&bench);
    let cert = bench.text("cert.pem");
    let id = bench.good(&["pin", "add", "www.example.com", "--certificate", &cert]);
    let ten_days = ["--fingerprint", "AB:", "--for", "10d"];
    assert!(!bench.run(&[&["pin", "add", "a.example"], &ten_days[..]].concat()).ok);
    let digits = "ab:".repeat(20);
    let digits = digits.trim_end_matches(':');
    bench.good(&["pin", "add", "john@example.com", "--fingerprint", digits, "--for", "10d"]);
    let pins = bench.json(&["pin", "list", "--json"]);
    assert_eq!((&pins[0]["kind"], &pins[1]["kind"]), (&"openpgp".into(), &"x509".into()));
    assert_eq!(pins[1]["fingerprint"], server.as_str());
    assert!(pins[0]["expires"].is_i64() && pins[1]["expires"].is_null());
    bench.good(&["pin", "remove", id.trim()]);
    assert_eq!(bench.json(&["pin", "list", "--json"]).len(), 1);
}

/// `openssl s_server` with a certificate of its own for www.example.com.
struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Makes the certificate; returns its fingerprint.
    fn certificate(bench: &Bench) -> String {
        let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=x \
            -addext subjectAltName=DNS:www.example.com -addext basicConstraints=CA:FALSE -keyout key.pem -out cert.pem";
        openssl(bench, &arguments.split_whitespace().collect::<Vec<_>>());
        let output = Command::new("openssl")
            .args(["x509", "-in", &bench.text("cert.pem"), "-noout", "-fingerprint", "-sha256"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_once('=').unwrap().1.trim().replace(':', "").to_lowercase()
    }

    fn start(bench: &Bench, more: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert", &bench.text("cert.pem")])
            .args(["-key", &bench.text("key.pem")])
            .args(more)
            // At the end of its input it would end as well.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| {
            let line = line.unwrap();
            line.strip_prefix("ACCEPT ")?.rsplit_once(':')?.1.parse().ok()
        });
        // Its end of the pipe must stay open.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port: port.unwrap() }
    }

    fn explain(&self, more: &[&'static str]) -> Vec<String> {
        let place = format!("127.0.0.1:{}", self.port);
        let mut arguments: Vec<String> =
            ["policy", "explain", "www.example.com", "--connect", &place].map(String::from).into();
        arguments.extend(more.iter().map(ToString::to_string));
        arguments
    }
}

fn run(bench: &Bench, arguments: &[String]) -> crate::workbench::Said {
    bench.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_server_is_explained() {
    let bench = Bench::new();
    let fingerprint = Server::certificate(&bench);
    let server = Server::start(&bench, &[]);
    // Nobody vouches for it.
    let said = run(&bench, &server.explain(&[]));
    assert!(!said.ok && said.err.contains("not believed: no trust anchor"), "{}", said.err);
    assert!(said.out.contains("www.example.com: refused"), "{}", said.out);
    assert!(said.out.contains("* not true  and"), "{}", said.out);
    assert!(said.out.contains("  absent      dane?"), "{}", said.out);
    assert!(said.out.contains("* false         pkix"), "{}", said.out);
    // A pin does, and the tree says so.
    bench.good(&["pin", "add", "www.example.com", "--fingerprint", &fingerprint]);
    let said = run(&bench, &server.explain(&[]));
    assert!(said.ok, "{} {}", said.out, said.err);
    assert!(said.out.contains("believed: www.example.com (pin)"), "{}", said.out);
    let lines: Vec<&str> = said.out.lines().collect();
    let decided = lines.iter().any(|line| {
        line.starts_with("* true") && line.contains("pin") && line.contains("is pinned")
    });
    assert!(decided, "{}", said.out);
    // As JSON, with what the handshake has agreed on.
    bench.good(&["policy", "add", "www.example.com", "pin and private and forward-secrecy"]);
    let said = run(&bench, &server.explain(&["--json"]));
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json["believed"], &json["source"]), (&true.into(), &"pin".into()));
    let expression = &json["trace"]["expressions"][0];
    assert_eq!(expression["selector"], "www.example.com");
    assert_eq!(expression["tree"]["parts"][1]["truth"], "true");
    // Whom the policy believes may still have no session.
    assert_eq!(json["authorization"]["allowed"], true);
    bench.good(&["authorize", "add", "deny", ".example.com", "--role", "client"]);
    let said = run(&bench, &server.explain(&[]));
    assert!(said.ok && said.out.contains("believed: www.example.com (pin)"), "{}", said.out);
    assert!(said.out.contains("authorization: deny, by rule 1: deny .example.com"), "{}", said.out);
    assert!(said.out.ends_with("authorization: denied\n"), "{}", said.out);
    // TLS 1.2 shows certificates to everybody.
    let old = Server::start(&bench, &["-tls1_2"]);
    let said = run(&bench, &old.explain(&[]));
    assert!(!said.ok && said.err.contains("visible on the wire"), "{}", said.err);
    // Our own name has a say too.
    bench.good(&["policy", "add", "@example.org", "server", "--side", "local"]);
    let said = run(&bench, &server.explain(&["--local", "john@example.org"]));
    assert!(!said.ok && said.err.contains("we are the client"), "{}", said.err);
    let offline = ["policy", "explain", "a.example", "--local", "john@example.org", "--offline"];
    let said = bench.good(&offline);
    assert!(said.contains("remote, the default: identity and"), "{said}");
    assert!(said.contains("local, @example.org: server"), "{said}");
}

#[test]
fn what_cannot_be_explained_is_told() {
    let bench = Bench::new();
    let error = bench.bad(&["policy", "explain", "a.example", "--connect", "127.0.0.1:1"]);
    assert!(error.contains("cannot connect to 127.0.0.1:1"), "{error}");
    let error = bench.bad(&["policy", "explain", "a.example", "--service", "no-such"]);
    assert!(error.contains("--connect HOST:PORT"), "{error}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        use std::io::Write;
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        let _ = std::io::copy(&mut socket, &mut std::io::sink());
    });
    let error = bench.bad(&["policy", "explain", "a.example", "--connect", &place]);
    assert!(error.contains("not TLS"), "{error}");
}
