//! Directories, with OpenLDAP as the directory.

use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use tlspool_lookup::directory::Settings;
use tlspool_lookup::names::{Proven, Srv};
use tlspool_tests::slapd::Setup;
use tlspool_tests::{Authority, Entries, Leaf, Slapd, run};
use tlspool_validate::sources::{Answer, Origin, Outcome, Query};

use crate::table::{
    Table, absence, absent, bogus, credentials, der, failure, find, lists, on_runtime, openpgp,
    until, x509,
};

/// A domain with its directory, and a DNS that knows it.
struct Domain {
    authority: Authority,
    leaf: Leaf,
    slapd: Slapd,
    table: Rc<Table>,
    _dir: tempfile::TempDir,
}

/// `example.com`, with entries that `fill` adds.
fn domain(fill: impl FnOnce(&Authority, &mut Entries)) -> Domain {
    domain_with(Setup::default(), fill)
}

fn domain_with(setup: Setup, fill: impl FnOnce(&Authority, &mut Entries)) -> Domain {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::new(dir.path(), "authority");
    let leaf = authority.leaf("ldap.example.com");
    let anchor = der(&authority.certificate);
    let web = der(&authority.leaf("example.com").certificate);
    let mut entries = Entries::new("example.com", &[&web], &[&anchor]);
    fill(&authority, &mut entries);
    let slapd = Slapd::with(setup, &leaf, &[&entries]);
    let table = Rc::new(Table::default());
    table.directory("_ldap", "ldap.example.com", slapd.port, &leaf.certificate);
    Domain { authority, leaf, slapd, table, _dir: dir }
}

/// An OpenPGP key, by Sequoia.
struct Key {
    armored: Vec<u8>,
    binary: Vec<u8>,
    fingerprint: Vec<u8>,
}

impl Key {
    fn new(user: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
        let sq = |arguments: &[&str]| {
            let said = run(Command::new("sq").args(arguments));
            assert!(said.ok, "sq {arguments:?}: {}", said.err);
            said.out
        };
        let (secret, public, binary) = (path("secret"), path("public"), path("binary"));
        sq(&["key", "generate", "--userid", user, "--export", &secret]);
        sq(&["key", "extract-cert", "--output", &public, &secret]);
        sq(&["dearmor", "--output", &binary, &public]);
        let inspected = sq(&["inspect", &public]);
        let (_, fingerprint) = inspected.split_once("Fingerprint: ").expect("a fingerprint");
        let hex = fingerprint.lines().next().expect("a line").trim();
        let fingerprint = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).expect("hexadecimal"))
            .collect();
        let read = |file| std::fs::read(file).expect("a file");
        Self { armored: read(public), binary: read(binary), fingerprint }
    }

    /// The last 16 digits of its fingerprint.
    fn id(&self) -> String {
        self.fingerprint[12..].iter().fold(String::new(), |id, byte| format!("{id}{byte:02X}"))
    }

    fn query(&self, name: &str) -> Query {
        Query::OpenPgpKey { name: name.into(), fingerprint: self.fingerprint.clone() }
    }
}

#[test]
fn certificates_of_users_and_of_the_domain_are_found() {
    let mut john = Vec::new();
    let mut both = Vec::new();
    let domain = domain(|authority, entries| {
        john = der(&authority.leaf("john@example.com").certificate);
        both = der(&authority.leaf("mary@example.com").certificate);
        entries.user("john", "jj@example.com", &[&john]);
        entries.user("m.smith", "mary@example.com", &[&both, &john]);
        entries.user("bare", "bare@example.com", &[]);
        // A domain of its own below ours: its users are not ours.
        entries.add("dc=cs,dc=example,dc=com", &[("objectClass", b"domain"), ("dc", b"cs")]);
        entries.add(
            "uid=eve,dc=cs,dc=example,dc=com",
            &[
                ("objectClass", b"inetOrgPerson"),
                ("uid", b"eve"),
                ("cn", b"eve"),
                ("sn", b"eve"),
                ("userCertificate;binary", &john),
            ],
        );
    });
    let directories = domain.table.directories(Settings::default());
    on_runtime(async {
        let found = find(&directories, &x509("john@example.com")).await;
        lists(&found, &[&john]);
        assert_eq!(found.origin, Origin::Live);
        let steps = found.steps.join("\n");
        for words in [
            "SRV _ldap._tcp.example.com: secure, ldap.example.com:",
            "secure, 1 records",
            "TLS 1.3",
            "bound anonymously",
            "subtree (|(uid=john)(mail=john@example.com)): 1 entries, 1 credentials",
        ] {
            assert!(steps.contains(words), "{words:?} is not in\n{steps}");
        }
        let found = find(&directories, &x509("mary@example.com")).await;
        lists(&found, &[&both, &john]);
        assert!(found.steps.iter().any(|step| step.contains("(was open)")), "{:#?}", found.steps);

        let found = find(&directories, &x509("example.com")).await;
        let Outcome::Present(Answer::Directory { credentials, anchors }) = &found.outcome else {
            panic!("{found:?}")
        };
        assert_eq!(credentials.len(), 1);
        assert_eq!(*anchors, [der(&domain.authority.certificate)]);

        for nobody in ["bare@example.com", "nobody@example.com", "eve@example.com"] {
            let found = find(&directories, &x509(nobody)).await;
            assert_eq!(absence(&found), format!("the directory lists nothing for {nobody}"));
        }
        let found = find(&directories, &openpgp("john@example.com")).await;
        absence(&found);
    });
    // All on one connection, and StartTLS before anything else.
    let log = domain.slapd.whole_log();
    assert_eq!(log.matches("EXT oid=1.3.6.1.4.1.1466.20037").count(), 1, "{log}");
    assert_eq!(log.matches("BIND dn=\"\" method=128").count(), 1, "{log}");
}

#[test]
fn filter_characters_in_a_name_are_characters() {
    let mut john = Vec::new();
    let mut strange = Vec::new();
    let domain = domain(|authority, entries| {
        john = der(&authority.leaf("john@example.com").certificate);
        strange = der(&authority.leaf("strange@example.com").certificate);
        entries.user("john", "john@example.com", &[&john]);
        entries.user("*)(uid=*", "none@example.com", &[&strange]);
    });
    let directories = domain.table.directories(Settings::default());
    on_runtime(async {
        for name in ["*", "j*", "j*n", "*)(uid=*))(|(uid=*", "john)(uid=john", "\\6aohn"] {
            let found = find(&directories, &x509(&format!("{name}@example.com"))).await;
            absence(&found);
            let found = find(&directories, &openpgp(&format!("{name}@example.com"))).await;
            absence(&found);
        }
        let found = find(&directories, &x509("*)(uid=*@example.com")).await;
        lists(&found, &[&strange]);
        let steps = found.steps.join("\n");
        assert!(steps.contains(r"(uid=\2a\29\28uid=\2a)"), "{steps}");
    });
}

#[test]
fn openpgp_keys_are_found_by_user_and_by_fingerprint() {
    let (john, mary, web) = (
        Key::new("John <john@example.com>"),
        Key::new("Mary <mary@example.com>"),
        Key::new("Web <example.com>"),
    );
    // With a base of their own for keys, and without.
    for unit in ["Keys", "People"] {
        let domain = domain(|_, entries| {
            if unit == "Keys" {
                entries.key_space(unit);
                // Beside the base that is announced, so nobody finds it.
                entries.key("People", &mary.id(), &["Mary <mary@example.com>"], &mary.armored);
            }
            entries.key(unit, &john.id(), &["John <john@example.com>", "J"], &john.armored);
            entries.key(unit, &web.id(), &["Web <example.com>"], &web.armored);
        });
        let directories = domain.table.directories(Settings::default());
        on_runtime(async {
            let found = find(&directories, &openpgp("john@example.com")).await;
            lists(&found, &[&john.binary]);
            let found = find(&directories, &openpgp("example.com")).await;
            lists(&found, &[&web.binary]);
            let found = find(&directories, &john.query("john@example.com")).await;
            let key = Answer::OpenPgpKey(john.binary.clone());
            assert_eq!(found.outcome, Outcome::Present(key), "{:#?}", found.steps);
            for query in [openpgp("mary@example.com"), mary.query("mary@example.com")] {
                absence(&find(&directories, &query).await);
            }
            // Another key under this key ID: the fingerprint decides.
            let mut fingerprint = john.fingerprint.clone();
            fingerprint[0] ^= 1;
            let query = Query::OpenPgpKey { name: "john@example.com".into(), fingerprint };
            absence(&find(&directories, &query).await);
            // Changes show at once.
            let name = format!("pgpCertID={},ou={unit},dc=example,dc=com", john.id());
            let values = [mary.armored.as_slice()];
            domain.slapd.replace("dc=example,dc=com", &name, "pgpKey", &values);
            let found = find(&directories, &openpgp("john@example.com")).await;
            lists(&found, &[&mary.binary]);
        });
    }
}

#[test]
fn a_directory_is_found_as_the_domain_says() {
    let mut john = Vec::new();
    let domain = domain(|authority, entries| {
        john = der(&authority.leaf("john@example.com").certificate);
        entries.user("john", "john@example.com", &[&john]);
    });
    let Domain { leaf, slapd, .. } = &domain;
    let certificate = &leaf.certificate;
    let query = x509("john@example.com");
    on_runtime(async {
        // ldaps, by its own SRV record.
        let table = Rc::new(Table::default());
        table.directory("_ldaps", "ldap.example.com", slapd.ldaps, certificate);
        let directories = table.directories(Settings::default());
        let found = find(&directories, &query).await;
        lists(&found, &[&john]);
        assert!(found.steps.iter().any(|step| step.starts_with("ldaps://")), "{found:#?}");

        // For OpenPGP another directory comes first.
        let table = Rc::new(Table::default());
        table.directory("_pgpkey-ldap", "keys.example.com", 1, certificate);
        table.directory("_ldap", "ldap.example.com", slapd.port, certificate);
        let directories = table.directories(Settings::default());
        let found = find(&directories, &openpgp("john@example.com")).await;
        assert!(failure(&found).contains("ldap://keys.example.com:1: cannot connect"), "{found:?}");
        credentials(&find(&directories, &query).await);

        // If one of several is dead, the next is asked.
        let table = Rc::new(Table::default());
        table.directory("_ldap", "dead.example.com", 1, certificate);
        table.directory("_ldap", "ldap.example.com", slapd.port, certificate);
        let directories = table.directories(Settings::default());
        credentials(&find(&directories, &query).await);

        // No SRV, and no host with TLSA records: the domain has none, and that is proven.
        let table = Rc::new(Table::default());
        let directories = table.directories(Settings::default());
        let found = find(&directories, &query).await;
        assert!(absence(&found).contains("example.com has no directory"), "{found:?}");

        // An answer of the DNS that is not to be believed is no absence.
        for name in ["_ldap._tcp.example.com", "_ldaps._tcp.example.com"] {
            let table = Rc::new(Table::default());
            table.srv.borrow_mut().insert(name.into(), bogus(name));
            let directories = table.directories(Settings::default());
            assert!(failure(&find(&directories, &query).await).contains("bogus"));
        }
        for port in [389, 636] {
            let table = Rc::new(Table::default());
            let host = "ldap.example.com".to_owned();
            table.tlsa.borrow_mut().insert((host, port), bogus("TLSA"));
            let directories = table.directories(Settings::default());
            assert!(failure(&find(&directories, &query).await).contains("bogus"));
        }
    });
}

#[test]
fn without_dane_a_directory_is_not_believed() {
    let mut john = Vec::new();
    let domain = domain(|authority, entries| {
        john = der(&authority.leaf("john@example.com").certificate);
        entries.user("john", "john@example.com", &[&john]);
    });
    let (slapd, table) = (&domain.slapd, &domain.table);
    let host = "ldap.example.com";
    let query = x509("john@example.com");
    on_runtime(async {
        // No TLSA records: it is not even asked.
        let secured = table.tlsa.borrow_mut().insert((host.into(), slapd.port), Ok(absent()));
        let directories = table.directories(Settings::default());
        let found = find(&directories, &query).await;
        assert!(failure(&found).contains("has no TLSA records, so its answers are not"));
        let log = slapd.whole_log();
        assert!(!log.contains("EXT"), "{log}");

        // Those of another certificate, by the same authority for the same name.
        let other = domain.authority.leaf(host);
        table.prove(host, slapd.port, &der(&other.certificate));
        let found = find(&directories, &query).await;
        assert!(failure(&found).contains("this is not the directory: no TLSA record matches"));
        let log = slapd.whole_log();
        assert!(!log.contains("BIND"), "{log}");

        // The right ones; then the domain changes its mind, and the open connection does not count.
        table.tlsa.borrow_mut().insert((host.into(), slapd.port), secured.expect("it was there"));
        credentials(&find(&directories, &query).await);
        table.prove(host, slapd.port, &der(&other.certificate));
        assert!(failure(&find(&directories, &query).await).contains("this is not the directory"));
    });
}

#[test]
fn a_dane_ta_record_vouches_for_the_directory_of_its_name_only() {
    let domain = domain(|authority, entries| {
        let john = der(&authority.leaf("john@example.com").certificate);
        entries.user("john", "john@example.com", &[&john]);
    });
    let anchor = der(&domain.authority.certificate);
    let query = x509("john@example.com");
    on_runtime(async {
        for (host, right) in [("ldap.example.com", true), ("dir.example.com", false)] {
            let table = Rc::new(Table::default());
            let srv = Srv { priority: 0, weight: 0, port: domain.slapd.port, target: host.into() };
            let name = "_ldap._tcp.example.com".to_owned();
            table.srv.borrow_mut().insert(name, Ok(Proven::Secure(vec![srv])));
            table.prove(host, domain.slapd.port, &anchor);
            for set in table.tlsa.borrow_mut().values_mut() {
                let Ok(Proven::Secure(set)) = set else { panic!() };
                set.records[0].usage = 2;
            }
            let directories = table.directories(Settings::default());
            let found = find(&directories, &query).await;
            if right {
                credentials(&found);
            } else {
                assert!(failure(&found).contains("this is not the directory"), "{found:?}");
            }
        }
    });
}

#[test]
fn a_directory_that_lists_too_much_or_forbids_asking_is_a_failure() {
    let mut certificate = Vec::new();
    let fill = |certificate: &mut Vec<u8>, authority: &Authority, entries: &mut Entries| {
        *certificate = der(&authority.leaf("john@example.com").certificate);
        for number in 0..40 {
            entries.user(&format!("john{number}"), "john@example.com", &[certificate]);
        }
    };
    let domain = domain(|authority, entries| fill(&mut certificate, authority, entries));
    on_runtime(async {
        let settings = Settings { entries: 20, ..Settings::default() };
        let directories = domain.table.directories(settings);
        let found = find(&directories, &x509("john@example.com")).await;
        assert!(failure(&found).contains("lists more than 20 entries"), "{found:?}");
        let settings = Settings { entries: 100, answer_bytes: 4096, ..Settings::default() };
        let directories = domain.table.directories(settings);
        let found = find(&directories, &x509("john@example.com")).await;
        assert!(failure(&found).contains("sends more than 4096 bytes"), "{found:?}");
    });
    let more = "disallow bind_anon".to_owned();
    let domain = domain_with(Setup { more, ..Setup::default() }, |_, _| {});
    let directories = domain.table.directories(Settings::default());
    on_runtime(async {
        let found = find(&directories, &x509("john@example.com")).await;
        assert!(failure(&found).contains("refuses an anonymous bind"), "{found:?}");
    });
}

#[test]
fn a_connection_that_ended_is_replaced_and_an_idle_one_ends() {
    let mut john = Vec::new();
    // The directory ends idle connections after a second.
    let setup = Setup { more: "idletimeout 1".into(), ..Setup::default() };
    let domain = domain_with(setup, |authority, entries| {
        john = der(&authority.leaf("john@example.com").certificate);
        entries.user("john", "john@example.com", &[&john]);
    });
    let query = x509("john@example.com");
    on_runtime(async {
        let directories = domain.table.directories(Settings::default());
        credentials(&find(&directories, &query).await);
        // One whose driver has not seen its end yet must do as well as one that has.
        for _ in 0..2 {
            let before = domain.slapd.log().matches("closed (idletimeout)").count();
            let closed = || domain.slapd.log().matches("closed (idletimeout)").count();
            until("the directory ends it", async || closed() > before).await;
            credentials(&find(&directories, &query).await);
        }

        // Ours end too.
        let settings = Settings { idle: Duration::from_millis(1), ..Settings::default() };
        let directories = domain.table.directories(settings);
        let before = domain.slapd.log().matches("UNBIND").count();
        credentials(&find(&directories, &query).await);
        let unbound = || domain.slapd.log().matches("UNBIND").count();
        until("we end it", async || unbound() > before).await;
    });
}
