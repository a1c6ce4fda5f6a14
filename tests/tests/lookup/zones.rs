//! From the signed root to the entry of a directory: DNSSEC by NSD, the directory by OpenLDAP.

use std::rc::Rc;

use tlspool_lookup::directory::{Directories, Settings};
use tlspool_lookup::dns::{
    AnchorSource, DnsSettings, Forwarder, Protocol, Resolver, UpstreamSettings,
};
use tlspool_tests::slapd::Setup;
use tlspool_tests::zones::{Signing, ZoneSet, Zones};
use tlspool_tests::{Authority, Entries, Slapd, is_root};

use crate::table::{absence, der, failure, find, lists, on_runtime, x509};

fn directories(zones: &Zones) -> Directories<Resolver> {
    let forwarder = Forwarder { address: zones.address(), protocol: Protocol::UdpTcp };
    let settings = DnsSettings {
        upstream: UpstreamSettings::Forwarders(vec![forwarder]),
        anchors: AnchorSource::File(zones.anchor()),
        ..DnsSettings::default()
    };
    let resolver = Resolver::new(&settings).expect("a resolver");
    Directories::new(Rc::new(resolver), Settings::default())
}

/// TLSA data that is the whole of a certificate.
fn tlsa(owner: &str, certificate: &[u8]) -> String {
    let hex = certificate.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    format!("{owner} TLSA 3 0 0 {hex}")
}

#[test]
fn a_directory_is_believed_from_the_root_down() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::new(dir.path(), "authority");
    let leaf = authority.leaf("ldap.example.com");
    let shown = der(&leaf.certificate);
    let john = der(&authority.leaf("john@example.com").certificate);
    let domains = [
        "example.com",
        "guest.example",
        "unsigned.example",
        "expired.example",
        "careless.example",
        "outside.example",
        "none.example",
        "wrong.example",
    ];
    let entries: Vec<_> = domains
        .iter()
        .map(|domain| {
            let mut entries = Entries::new(domain, &[], &[]);
            entries.user("john", &format!("john@{domain}"), &[&john]);
            entries
        })
        .collect();
    let slapd = Slapd::start(&leaf, &entries.iter().collect::<Vec<_>>());
    let port = slapd.port;
    let srv = |target: &str| format!("_ldap._tcp SRV 0 0 {port} {target}");
    let here = ["ldap A 127.0.0.1".to_owned(), tlsa(&format!("_{port}._tcp.ldap"), &shown)];
    let own = [here[0].as_str(), here[1].as_str(), &srv("ldap")].map(String::from);
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let wrong = tlsa(&format!("_{port}._tcp.ldap"), &john);
    let zones = ZoneSet::new()
        .zone("example.com", Signing::Nsec, &own)
        // Hosted by another domain.
        .zone("guest.example", Signing::Nsec3, &[&srv("ldap.example.com.")])
        .zone("unsigned.example", Signing::None, &own)
        .zone("expired.example", Signing::Expired, &own)
        .zone("careless.example", Signing::Nsec, &[&srv("ldap"), "ldap A 127.0.0.1"])
        .zone("outside.example", Signing::Nsec, &[&srv("ldap.unsigned.example.")])
        .zone("none.example", Signing::OptOut, &["_ldap._tcp SRV 0 0 0 ."])
        .zone("wrong.example", Signing::Nsec, &[&srv("ldap"), "ldap A 127.0.0.1", &wrong])
        .serve();
    on_runtime(async {
        let directories = directories(&zones);
        for domain in ["example.com", "guest.example"] {
            let found = find(&directories, &x509(&format!("john@{domain}"))).await;
            lists(&found, &[&john]);
        }
        for domain in ["unsigned.example", "none.example", "absent.example"] {
            let found = find(&directories, &x509(&format!("john@{domain}"))).await;
            assert!(absence(&found).contains("has no directory"), "{found:#?}");
        }
        for (domain, why) in [
            ("expired.example", "bogus"),
            ("careless.example", "has no TLSA records"),
            ("outside.example", "has no TLSA records"),
            ("wrong.example", "this is not the directory"),
        ] {
            let found = find(&directories, &x509(&format!("john@{domain}"))).await;
            assert!(failure(&found).contains(why), "{domain}: {found:#?}");
        }
    });
    let log = slapd.whole_log();
    assert_eq!(log.matches("SRCH base").count(), 2, "{log}");
}

#[test]
fn without_srv_records_the_directory_is_the_host_ldap_of_the_domain() {
    if !is_root() {
        return; // the ports are the well-known ones
    }
    let dir = tempfile::tempdir().expect("a temporary folder");
    let authority = Authority::new(dir.path(), "authority");
    let leaf = authority.leaf("ldap.example.com");
    let shown = der(&leaf.certificate);
    let john = der(&authority.leaf("john@example.com").certificate);
    let mut entries = Entries::new("example.com", &[], &[]);
    entries.user("john", "john@example.com", &[&john]);
    // Nobody else has this address, which is this machine's too.
    let pid = std::process::id().to_be_bytes();
    let address = format!("127.{}.{}.{}", 1 | pid[1], pid[2], pid[3].max(1));
    let setup = Setup { address: address.clone(), port: 389, ldaps: 636, ..Setup::default() };
    let slapd = Slapd::with(setup, &leaf, &[&entries]);
    for port in [389, 636] {
        let zones = ZoneSet::new()
            .zone(
                "example.com",
                Signing::Nsec,
                &[&format!("ldap A {address}"), &tlsa(&format!("_{port}._tcp.ldap"), &shown)],
            )
            .serve();
        on_runtime(async {
            let found = find(&directories(&zones), &x509("john@example.com")).await;
            lists(&found, &[&john]);
            let at = format!("//ldap.example.com:{port}: {address}:{port}");
            assert!(found.steps.iter().any(|step| step.contains(&at)), "{:#?}", found.steps);
        });
    }
    let log = slapd.whole_log();
    assert_eq!(log.matches("EXT oid=1.3.6.1.4.1.1466.20037").count(), 1, "{log}");
}
