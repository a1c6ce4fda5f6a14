//! Policies in the daemon: what they demand of `openssl s_server`, with pins, signed zones and revocation.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tlspool_client::StarttlsRequest;
use tlspool_tests::app::call;
use tlspool_tests::authority::Leaf;
use tlspool_tests::net::free_port;
use tlspool_tests::zones::{Signing, ZoneSet, dns, tlsa};
use tlspool_tests::{Authority, House, Process, openssl, web};

/// `openssl s_server` at `port`.
fn serve(port: u16, leaf: &Leaf, more: &[&str]) -> Process {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-rev"]);
    command.args(["-cert", leaf.certificate(), "-key", leaf.key()]).args(more);
    let server = Process::start(&mut command);
    server.await_words("ACCEPT");
    server
}

/// The error text of a session with `www.example.com` at `port`; none if there is one.
fn refusal(house: &House, port: u16, service: &str) -> Option<String> {
    let request = StarttlsRequest::client("www.example.com").unwrap().service(service).unwrap();
    call(&house.pool(), request, ("127.0.0.1", port)).err().map(|error| error.to_string())
}

fn stranger(house: &House) -> Authority {
    Authority::new(&house.path("pki"), "stranger")
}

#[test]
fn policies_are_obeyed_at_once() {
    let house = House::new();
    let leaf = house.authority().leaf("www.example.com");
    let port = free_port();
    let _server = serve(port, &leaf, &["-tls1_2"]);
    let daemon = house.start();
    assert_eq!(refusal(&house, port, "http"), None);
    let id = house.good(&["policy", "add", ".example.com", "pkix", "and", "private"]);
    let text = refusal(&house, port, "http").unwrap();
    assert!(text.contains("remote .example.com") && text.contains("visible on the wire"), "{text}");
    // A row for a service and a more concrete one go before it.
    house.good(&["policy", "add", ".example.com", "pkix", "--service", "http"]);
    assert_eq!(refusal(&house, port, "http"), None);
    assert!(refusal(&house, port, "imap").is_some());
    house.good(&["policy", "add", "www.example.com", "not private"]);
    assert_eq!(refusal(&house, port, "imap"), None);
    house.good(&["policy", "remove", id.trim()]);
    daemon.stop();
}

#[test]
fn the_first_sight_is_pinned_and_binds() {
    let house = House::new();
    let stranger = stranger(&house);
    let (first, second) = (free_port(), free_port());
    let _one = serve(first, &stranger.leaf("www.example.com"), &[]);
    let _two = serve(second, &stranger.leaf("www.example.com"), &[]);
    let daemon = house.start();
    assert!(refusal(&house, first, "").unwrap().contains("no trust anchor"));
    house.good(&["policy", "add", "www.example.com", "identity and pin?"]);
    for _ in 0..2 {
        assert_eq!(refusal(&house, first, ""), None);
    }
    let pins = house.good(&["pin", "list", "--json"]);
    assert_eq!(pins.lines().count(), 1, "{pins}");
    let text = refusal(&house, second, "").unwrap();
    assert!(text.contains("another fingerprint is pinned"), "{text}");
    // What fails for another reason leaves nothing behind.
    let pin: serde_json::Value = serde_json::from_str(&pins).unwrap();
    house.good(&["pin", "remove", &pin["id"].to_string()]);
    house.good(&["policy", "add", "@.", "true"]);
    house.good(&["policy", "remove", "1"]);
    house.good(&["policy", "add", "www.example.com", "pin? and pkix"]);
    assert!(refusal(&house, first, "").is_some());
    assert_eq!(house.good(&["pin", "list", "--json"]), "");
    let log = daemon.stop();
    assert_eq!(log.matches("pinned at first sight").count(), 1, "{log}");
}

/// A TLSA record's data: the whole certificate, SHA-256.
#[test]
fn dane_vouches_and_contradicts() {
    let house = House::new();
    let stranger = stranger(&house);
    let ports = [free_port(), free_port(), free_port()];
    let leaf = stranger.leaf("www.example.com");
    let trusted = house.authority().leaf("www.example.com");
    let _good = serve(ports[0], &leaf, &[]);
    let _contradicted = serve(ports[1], &trusted, &[]);
    let _unpublished = serve(ports[2], &trusted, &[]);
    let records = [
        "www A 127.0.0.1".to_owned(),
        format!("_{}._tcp.www TLSA {}", ports[0], tlsa(&leaf)),
        format!("_{}._tcp.www TLSA {}", ports[1], tlsa(&leaf)),
    ];
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let zones = ZoneSet::new().zone("example.com", Signing::Nsec, &records).serve();
    house.configure(&format!("log = {{ level = \"debug\" }}\n{}", dns(&zones)));
    let daemon = house.start();
    // Nobody certified it, but its domain publishes it.
    assert_eq!(refusal(&house, ports[0], ""), None);
    daemon.await_log_that("that DANE has decided", |log| {
        let default = log.split_once("policy: policy for remote, the default holds");
        default.is_some_and(|(_, rest)| rest.contains("dane"))
    });
    // An authority that we trust certified it, but its domain publishes another.
    let text = refusal(&house, ports[1], "").unwrap();
    assert!(text.contains("dane is false"), "{text}");
    // Provably nothing is published: the authority decides.
    assert_eq!(refusal(&house, ports[2], ""), None);
    // The command says the same.
    let place = format!("127.0.0.1:{}", ports[0]);
    let explain = ["policy", "explain", "www.example.com", "--connect", &place, "--json"];
    let json: serde_json::Value = serde_json::from_str(&house.good(&explain)).unwrap();
    assert_eq!((&json["believed"], &json["source"]), (&true.into(), &"dane".into()));
    let mut asked = json["trace"]["asked"].as_array().unwrap().iter();
    let dane = asked.find(|asked| asked["predicate"] == "dane").unwrap();
    assert_eq!((&dane["truth"], &dane["origin"]), (&"true".into(), &"live".into()));
    // Without its zones, nothing is provable, and what cannot be asked is no absence.
    drop(zones);
    let ignoring = StarttlsRequest::client("www.example.com").unwrap();
    let ignoring = ignoring.flags(tlspool_client::StarttlsFlags::IGNORE_CACHES);
    let refused = call(&house.pool(), ignoring, ("127.0.0.1", ports[2]));
    let text = refused.map(drop).expect_err("nothing is known").to_string();
    assert!(text.contains("dane is failed") || text.contains("ldap is failed"), "{text}");
    daemon.stop();
}

#[test]
fn revocation_lists_and_ocsp() {
    let house = House::new();
    let [good, bad] = [(); 2].map(|()| house.authority().leaf("www.example.com"));
    let number = |leaf: &Leaf| {
        let said = openssl(&["x509", "-in", leaf.certificate(), "-noout", "-serial"]);
        said.split_once('=').unwrap().1.trim().to_owned()
    };
    // The authority's records, of which openssl makes a list and responses.
    let index = format!(
        "V\t400101000000Z\t\t{}\tunknown\t/CN=x\nR\t400101000000Z\t250101000000Z\t{}\tunknown\t/CN=y\n",
        number(&good),
        number(&bad)
    );
    house.write("index", &index);
    house.write("index.attr", "unique_subject = no\n");
    house.write("number", "01\n");
    let settings = format!(
        "[ca]\ndefault_ca = d\n[d]\ndatabase = {}\ncrlnumber = {}\ndefault_md = sha256\n\
         default_crl_days = 30\ncrl_extensions = x\n[x]\nauthorityKeyIdentifier = keyid:always\n",
        house.text("index"),
        house.text("number")
    );
    let settings = house.write("ca.cnf", &settings);
    let (list, key) = (house.text("list.pem"), house.authority().key());
    let authority =
        ["-cert", house.anchor(), "-keyfile", key, "-config", settings.to_str().unwrap()];
    openssl(&[&["ca", "-gencrl", "-out", &list], &authority[..]].concat());
    let answers = Arc::new(AtomicBool::new(true));
    let (index, folder, still) = (house.path("index"), house.path("."), answers.clone());
    let authority = house.shared_authority();
    let responder = web::serve(move |request| {
        assert!(request.head.contains("content-type: application/ocsp-request"), "{request:?}");
        still.load(Ordering::SeqCst).then(|| web::ocsp(&authority, &index, &folder, &request.body))
    });
    let (good_port, bad_port, stapled_port) = (free_port(), free_port(), free_port());
    let _good = serve(good_port, &good, &[]);
    let _bad = serve(bad_port, &bad, &[]);
    let response = house.text("response");
    openssl(&[
        "ocsp",
        "-issuer",
        house.anchor(),
        "-cert",
        good.certificate(),
        "-index",
        &house.text("index"),
        "-CA",
        house.anchor(),
        "-rsigner",
        house.anchor(),
        "-rkey",
        key,
        "-respout",
        &response,
        "-ndays",
        "2",
        "-noverify",
    ]);
    let _stapled = serve(stapled_port, &good, &["-status_file", &response]);
    house.configure(&format!(
        "[validation]\ncrls = [\"{list}\"]\nocsp_responder = \"http://{responder}/\"\n\
         [dns]\nforwarders = [\"127.0.0.1:{}\"]\n[http]\ninternal = true\n\
         [cache]\nlifetime = \"1ms\"\n",
        free_port()
    ));
    let daemon = house.start();
    for (expression, asked) in [("pkix and crl", "a revocation list"), ("pkix and ocsp", "OCSP")] {
        house.good(&["policy", "add", "www.example.com", expression]);
        assert_eq!(refusal(&house, good_port, ""), None, "{expression}");
        let text = refusal(&house, bad_port, "").unwrap();
        assert!(text.contains(&format!("has been revoked, says {asked}")), "{text}");
        let rows = house.good(&["policy", "list", "--json"]);
        let row: serde_json::Value = serde_json::from_str(&rows).unwrap();
        house.good(&["policy", "remove", &row["id"].to_string()]);
    }
    // Without its responder only who staples is believed.
    house.good(&["policy", "add", "www.example.com", "pkix and ocsp"]);
    answers.store(false, Ordering::SeqCst);
    let text = refusal(&house, bad_port, "").unwrap();
    assert!(text.contains("ocsp is failed"), "{text}");
    assert_eq!(refusal(&house, stapled_port, ""), None);
    let log = daemon.stop();
    assert!(log.contains("handshake done"), "{log}");
}
