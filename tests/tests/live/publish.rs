//! `tlspool identity publish` and `check`: what the one prints is loaded into a real directory and a real zone; the
//! other says what is missing before, and nothing after; and a second pool agrees with it.

use std::net::TcpListener;

use serde_json::Value;
use tlspool_client::{StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::{Server, call, greet};
use tlspool_tests::zones::{Signing, ZoneSet, Zones};
use tlspool_tests::{Entries, House, Slapd};

use crate::{dns, tlsa};

const BASE: &str = "dc=example,dc=com";

/// A publisher, its directory, and what its zone has to say of that.
struct Publisher {
    house: House,
    directory: Slapd,
    records: Vec<String>,
}

impl Publisher {
    fn new() -> Self {
        let house = House::new();
        let leaf = house.authority().leaf("ldap.example.com");
        let directory = Slapd::start(&leaf, &[&Entries::new("example.com", &[], &[])]);
        let port = directory.port;
        let records = vec![
            "ldap A 127.0.0.1".to_owned(),
            format!("_ldap._tcp SRV 0 0 {port} ldap"),
            format!("_{port}._tcp.ldap TLSA {}", tlsa(&leaf)),
        ];
        let token = house.token("publish");
        house.good(&["identity", "create", "example.com", "--token", &token]);
        house.good(&["identity", "create", "mary@example.com", "--token", &token]);
        house.good(&["identity", "create", "john@example.com", "--openpgp", "--token", &token]);
        Self { house, directory, records }
    }

    /// The zone with more records, which the pool asks from then on.
    fn zone(&self, more: &str) -> Zones {
        let records: Vec<&str> = self.records.iter().map(String::as_str).chain([more]).collect();
        let zones = ZoneSet::new().zone("example.com", Signing::Nsec, &records).serve();
        self.house.configure(&dns(&zones));
        zones
    }

    fn publish(&self, name: &str, more: &[&str]) -> String {
        self.house.good(&[&["identity", "publish", name], more].concat())
    }

    /// What a stranger concludes, for each case.
    fn check(&self, name: &str, more: &[&str]) -> Vec<Value> {
        let said = self.house.run(&[&["identity", "check", name, "--json"], more].concat());
        let conclusions: Vec<Value> =
            said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(!conclusions.is_empty(), "{}", said.err);
        assert_eq!(said.ok, conclusions.iter().all(|c| c["believed"] == true), "{conclusions:#?}");
        conclusions
    }
}

fn advice(conclusion: &Value) -> String {
    let lines = conclusion["advice"].as_array().unwrap().iter();
    lines.map(|line| line.as_str().unwrap().to_owned() + "\n").collect()
}

#[test]
fn what_is_published_is_found_and_believed() {
    let publisher = Publisher::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let port = address.port().to_string();
    let at = ["--port", port.as_str()];

    // Before: what is missing, and what to do.
    let zones = publisher.zone("");
    for conclusion in publisher.check("example.com", &at) {
        assert_eq!(conclusion["believed"], false, "{conclusion:#}");
        let advice = advice(&conclusion);
        for words in [
            &format!("no usable TLSA record at {}", conclusion["place"].as_str().unwrap()),
            "tlspool identity publish example.com --dns",
            "tlspool identity publish example.com --ldif",
        ] {
            assert!(advice.contains(words), "{words:?} is not in: {advice}");
        }
    }
    for name in ["mary@example.com", "john@example.com"] {
        let conclusions = publisher.check(name, &[]);
        let [conclusion] = conclusions.as_slice() else { panic!("{conclusions:#?}") };
        let advice = advice(conclusion);
        let words = format!("tlspool identity publish {name} --ldif");
        assert!(advice.contains(&words) && !advice.contains("--dns"), "{advice}");
    }
    let said = publisher.house.run(&["identity", "check", "example.com", at[0], at[1]]);
    assert!(said.out.contains("to do: ") && said.err.contains("strangers refuse"), "{said:?}");

    // Published as it is printed.
    let records = publisher.publish("example.com", &["--dns", at[0], at[1]]);
    drop(zones);
    let zones = publisher.zone(&records);
    for name in ["example.com", "mary@example.com", "john@example.com"] {
        let ldif = publisher.publish(name, &["--ldif"]);
        publisher.directory.add(BASE, &ldif);
        let both = publisher.publish(name, &at);
        assert!(both.contains(&ldif) && both.starts_with(';'), "{both}");
    }
    for (name, source) in
        [("example.com", "dane"), ("mary@example.com", "ldap"), ("john@example.com", "ldap")]
    {
        for conclusion in publisher.check(name, &at) {
            assert_eq!(conclusion["source"], source, "{conclusion:#}");
            assert_eq!(advice(&conclusion), "");
        }
    }
    let said = publisher.house.good(&["identity", "check", "example.com", at[0], at[1]]);
    let place = format!("at _{port}._tcp.example.com.: a stranger believes it, by dane");
    assert!(said.contains(&place) && said.contains("_client.example.com."), "{said}");

    // A second pool, which knows nothing of the first one's authority, agrees.
    let second = House::with(&dns(&zones));
    second.identity("server.example.org");
    publisher.house.good(&["trust", "add", second.anchor()]);
    let token = second.token("pgp");
    second.good(&["identity", "create", "pgp.example.org", "--openpgp", "--token", &token]);
    let key = second.text("pgp.asc");
    std::fs::write(&key, second.good(&["identity", "export", "pgp.example.org", "--armor"]))
        .unwrap();
    publisher.house.good(&["trust", "add", "--openpgp", &key]);
    let (first_daemon, second_daemon) = (publisher.house.start(), second.start());
    let request = StarttlsRequest::server().localid("example.com").unwrap();
    let request = request.flags(Flags::IGNORE_REMOTEID);
    let server = Server::on(&listener, publisher.house.pool(), request, |_, _| ());
    let request = StarttlsRequest::client("example.com").unwrap();
    let (session, _) = call(&second.pool(), request, address).unwrap();
    assert_eq!(session.remoteid(), "example.com");
    server.outcome().unwrap();
    for (local, user) in
        [("server.example.org", "mary@example.com"), ("pgp.example.org", "john@example.com")]
    {
        let request = StarttlsRequest::server().localid(local).unwrap();
        let server = Server::start(second.pool(), request, greet);
        let request = StarttlsRequest::client(local).unwrap().localid(user).unwrap();
        let called = call(&publisher.house.pool(), request, server.address);
        let (session, mut plaintext) =
            called.unwrap_or_else(|error| panic!("{error}\n{}", second_daemon.log()));
        std::io::Write::write_all(&mut plaintext, b"hello\n").unwrap();
        drop((plaintext, session));
        assert_eq!(server.outcome().unwrap().remoteid, user);
    }
    first_daemon.stop();
    second_daemon.stop();
}

#[test]
fn what_was_published_before_is_seen_to_be_old() {
    let publisher = Publisher::new();
    let house = &publisher.house;
    let server = ["--role", "server"];
    let records = publisher.publish("example.com", &["--dns"]);
    let _zones = publisher.zone(&records);
    publisher.directory.add(BASE, &publisher.publish("example.com", &["--ldif"]));
    assert_eq!(publisher.check("example.com", &server).len(), 1);

    // A new certificate with the old key: the record still fits, the directory's entry does not.
    let row = &publisher.check("example.com", &server)[0]["id"].to_string();
    let shown: Value =
        serde_json::from_str(&house.good(&["identity", "show", row, "--json"])).unwrap();
    let key = shown["key"].as_str().unwrap();
    house.good(&["identity", "remove", row]);
    house.good(&["identity", "create", "example.com", "--existing-key", "--key", key]);
    let conclusion = &publisher.check("example.com", &server)[0];
    let words = "tlspool identity publish example.com --ldif --replace";
    assert!(advice(conclusion).contains(words), "{conclusion:#}");
    publisher.directory.modify(BASE, &publisher.publish("example.com", &["--ldif", "--replace"]));
    assert_eq!(publisher.check("example.com", &server)[0]["believed"], true);
    // The same for OpenPGP, which is revoked here and published thus.
    publisher.directory.add(BASE, &publisher.publish("john@example.com", &["--ldif"]));
    assert_eq!(publisher.check("john@example.com", &[])[0]["believed"], true);
    house.good(&["identity", "renew", "john@example.com", "--days", "9"]);
    publisher
        .directory
        .modify(BASE, &publisher.publish("john@example.com", &["--ldif", "--replace"]));
    assert_eq!(publisher.check("john@example.com", &[])[0]["believed"], true);
    house.good(&["identity", "revoke", "john@example.com"]);
    publisher
        .directory
        .modify(BASE, &publisher.publish("john@example.com", &["--ldif", "--replace"]));
    let conclusion = &publisher.check("john@example.com", &[])[0];
    assert!(conclusion["refusal"].as_str().unwrap().contains("was revoked"), "{conclusion:#}");

    // Another certificate, which the records do not fit.
    let row = &publisher.check("example.com", &server)[0]["id"].to_string();
    house.good(&["identity", "remove", row]);
    house.identity("example.com");
    let conclusion = &publisher.check("example.com", &server)[0];
    assert!(advice(conclusion).contains("are for another certificate"), "{conclusion:#}");
    // Records of all usages, selectors and matchings, each of which is right.
    let leaf = house.authority().leaf("example.com");
    let chain = [&leaf.certificate, &house.authority().certificate];
    let chain = chain.map(|file| std::fs::read_to_string(file).unwrap()).concat();
    let chain = house.write("chain.pem", &chain);
    house.good(&["identity", "remove", "example.com", "--all"]);
    let (chain, key) = (chain.to_str().unwrap(), format!("file:{}", leaf.key()));
    house.good(&["identity", "add", "example.com", "--certificate", chain, "--key", &key]);
    publisher.directory.modify(BASE, &publisher.publish("example.com", &["--ldif", "--replace"]));
    for usage in ["2", "3"] {
        for selector in ["0", "1"] {
            for matching in ["0", "1", "2"] {
                let fields =
                    ["--usage", usage, "--selector", selector, "--matching", matching, "--dns"];
                let records = publisher.publish("example.com", &fields);
                let _zones = publisher.zone(&records);
                let conclusion = &publisher.check("example.com", &server)[0];
                assert_eq!(conclusion["source"], "dane", "{fields:?} {conclusion:#}");
            }
        }
    }
}

#[test]
fn what_cannot_be_published_or_checked_says_why() {
    let house = House::new();
    let token = house.token("publish");
    house.good(&["identity", "create", "example.com", "--token", &token, "--role", "server"]);
    for (arguments, why) in [
        (&["publish", "example.com", "--usage", "2"][..], "is about an authority"),
        (&["publish", "example.com", "--service", "a.b"], "a service has"),
        (&["publish", "example.com", "--role", "client"], "is for server only"),
        (&["publish", "nobody.example"], "there is no local identity"),
        (&["publish", "example.com", "--port", "0"], "0 is not in 1"),
        (&["check", "example.com"], "there is no [dns] section"),
    ] {
        let said = house.bad(&[&["identity"], arguments].concat());
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
}
