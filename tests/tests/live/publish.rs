//! `tlspool identity publish` and `check`: what the one prints is loaded into a real directory and a real zone; the
//! other says what is missing before, and nothing after; and a second pool agrees with it.

use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Digest, SHA256};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::Value;
use tlspool_client::{StarttlsFlags as Flags, StarttlsRequest};
use tlspool_identity::DoNai;
use tlspool_openpgp::make::{Wanted, create};
use tlspool_openpgp::{Hash, RemoteError, RemoteKey};
use tlspool_tests::app::{Server, call, greet};
use tlspool_tests::zones::{Signing, ZoneSet, Zones, tlsa_data};
use tlspool_tests::{Entries, House, Leaf, Slapd};

use crate::{dns, tlsa};

const BASE: &str = "dc=example,dc=com";

/// Entries of a directory are compared by their keys.
const KEYS: &str = "[validation]\nldap_match = \"key\"\n";

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
    let zones = publisher.zone(&records);
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
    // Who compares keys would take it, but that is not what a stranger does, whatever this pool does itself.
    house.configure(&(dns(&zones) + KEYS));
    let conclusion = &publisher.check("example.com", &server)[0];
    assert!(advice(conclusion).contains(words), "{conclusion:#}");
    let daemon = house.start();
    for (settings, believed) in [("", false), (KEYS, true)] {
        let second = House::with(&(dns(&zones) + settings));
        let _daemon = second.start();
        let request = StarttlsRequest::server().localid("example.com").unwrap();
        let request = request.flags(Flags::IGNORE_REMOTEID);
        let server = Server::start(house.pool(), request, |_, _| ());
        let request = StarttlsRequest::client("example.com").unwrap();
        let called = call(&second.pool(), request, server.address).map(drop);
        // The server does not judge.
        let _ = server.outcome();
        assert_eq!(called.is_ok(), believed, "{settings:?}: {called:?}");
        if let Err(error) = called {
            assert!(error.to_string().contains("ldap is false"), "{error}");
        }
    }
    daemon.stop();
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
    let authority = house.authority();
    let authority = Leaf { certificate: authority.certificate.clone(), key: authority.key.clone() };
    for (usage, published) in [("0", &authority), ("1", &leaf), ("2", &authority), ("3", &leaf)] {
        for selector in ["0", "1"] {
            for matching in ["0", "1", "2"] {
                let fields =
                    ["--usage", usage, "--selector", selector, "--matching", matching, "--dns"];
                let records = publisher.publish("example.com", &fields);
                let numbers = [selector, matching].map(|number| number.parse().unwrap());
                let data = tlsa_data(published, numbers[0], numbers[1]);
                for owner in ["_443._tcp", "_client"] {
                    let record = format!(
                        "{owner}.example.com. IN TLSA {usage} {selector} {matching} {data}"
                    );
                    assert!(records.lines().any(|line| line == record), "{record}: {records}");
                }
                // With 0 and 1, strangers must trust the authority anyway.
                if usage >= "2" {
                    let _zones = publisher.zone(&records);
                    let conclusion = &publisher.check("example.com", &server)[0];
                    assert_eq!(conclusion["source"], "dane", "{fields:?} {conclusion:#}");
                }
            }
        }
    }
}

#[test]
fn rows_of_another_role_are_left_out() {
    let publisher = Publisher::new();
    let house = &publisher.house;
    house.good(&["identity", "remove", "example.com"]);
    let token = house.token("roles");
    let mut ids = Vec::new();
    for role in ["server", "client"] {
        let key = token.replace('?', &format!(";object={role}?"));
        house.good(&["identity", "create", "example.com", "--key", &key, "--role", role]);
        let rows = house.good(&["identity", "list", "example.com", "--json"]);
        let row: Value = serde_json::from_str(rows.lines().last().unwrap()).unwrap();
        ids.push(row["id"].to_string());
    }
    let record = |id: &str, owner: &str| {
        let said = publisher.publish(id, &["--dns"]);
        let records: Vec<&str> = said.lines().filter(|line| line.contains("TLSA")).collect();
        let [record] = records.as_slice() else { panic!("{said}") };
        assert!(record.starts_with(owner), "{said}");
        (*record).to_owned()
    };
    let servers = record(&ids[0], "_443._tcp.example.com. ");
    let clients = record(&ids[1], "_client.example.com. ");
    let all = publisher.publish("example.com", &["--dns"]);
    assert!(all.contains(&servers) && all.contains(&clients), "{all}");
    let _zones = publisher.zone(&all);
    for (role, id, here, left_out) in
        [("server", &ids[0], &servers, &clients), ("client", &ids[1], &clients, &servers)]
    {
        let role = ["--role", role];
        let said = publisher.publish("example.com", &[&role[..], &["--dns"]].concat());
        assert!(said.contains(here) && !said.contains(left_out), "{said}");
        let conclusions = publisher.check("example.com", &role);
        let [conclusion] = conclusions.as_slice() else { panic!("{conclusions:#?}") };
        assert_eq!(conclusion["id"].to_string(), *id, "{conclusion:#}");
        assert_eq!(conclusion["source"], "dane", "{conclusion:#}");
    }
    assert_eq!(publisher.check("example.com", &[]).len(), 2);
}

/// A P-256 key in a file, which signs as if it were on a token.
struct Soft {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
    file: String,
}

impl Soft {
    fn new(house: &House, name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key.serialize_der())
            .unwrap();
        let file = house.write(name, &key.serialize_pem()).display().to_string();
        let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let spki = spki.as_ref().to_vec();
        Self { pair, spki, file }
    }
}

impl RemoteKey for Soft {
    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign_digest(&mut self, _: Hash, digest: &[u8]) -> Result<Vec<u8>, RemoteError> {
        let digest = Digest::import_less_safe(digest, &SHA256)?;
        Ok(self.pair.sign_digest(&digest)?.as_ref().to_vec())
    }
}

#[test]
fn an_openpgp_certificate_is_judged_by_the_rows_own_key() {
    let publisher = Publisher::new();
    let house = &publisher.house;
    let (mut primary, mut good, mut over) =
        (Soft::new(house, "primary"), Soft::new(house, "good"), Soft::new(house, "over"));
    // Two certificates of one primary key are one with both subkeys; the end of the second is renewed away for
    // all but its own subkey.
    let now = SystemTime::now();
    let day = Duration::from_hours(24);
    let jane = DoNai::parse("jane@example.com").unwrap();
    let wanted =
        Wanted { names: &[&jane], display_name: "", created: now - 9 * day, validity: Some(day) };
    let second = create(&mut primary, Some(&mut over), &wanted).unwrap();
    let first =
        create(&mut primary, Some(&mut good), &Wanted { validity: None, ..wanted }).unwrap();
    let first = first.renew(&mut primary, Some(&mut good), now - day, None).unwrap();
    let both = house.write("both.asc", &first.merge(&second).unwrap().to_armored());
    let add = ["identity", "add", "jane@example.com", "--openpgp", both.to_str().unwrap(), "--key"];
    for soft in [&good, &over] {
        house.good(&[&add[..], &[&format!("file:{}", soft.file)]].concat());
    }
    let _zones = publisher.zone("");
    publisher.directory.add(BASE, &publisher.publish("jane@example.com", &["--ldif"]));
    let conclusions = publisher.check("jane@example.com", &[]);
    let [fit, unfit] = conclusions.as_slice() else { panic!("{conclusions:#?}") };
    assert_eq!(fit["source"], "ldap", "{fit:#}");
    let why = unfit["refusal"].as_str().unwrap();
    assert!(unfit["believed"] == false && why.contains("expired"), "{unfit:#}");
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
