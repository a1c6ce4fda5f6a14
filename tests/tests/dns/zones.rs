//! Zones as they should be, and as they should not.

use std::time::Duration;

use tlspool_lookup::dns::Resolver;
use tlspool_lookup::names::{LookupFailure, Names, Proven};
use tlspool_tests::zones::{BRIEF, Signing, ZoneSet};
use tlspool_validate::sources::Transport;

use crate::support::{DIGEST, absent, bogus, deadline, proven, resolver, secure, settings, tlsa};

fn record(owner: &str) -> String {
    format!("{owner} TLSA 3 1 1 {DIGEST}")
}

#[tokio::test]
async fn secure_records_and_secure_absence() {
    for signing in [Signing::Nsec, Signing::Nsec3, Signing::OptOut] {
        let zones = ZoneSet::new()
            .zone(
                "example.com",
                signing,
                &[
                    &record("_443._tcp.www"),
                    &format!("_443._tcp.www TLSA 2 0 2 {DIGEST}{DIGEST}"),
                    &format!("_443._tcp.www TLSA 4 9 255 {DIGEST}"),
                    "www A 127.0.0.1",
                    "host A 127.0.0.1",
                ],
            )
            .zone("deep.er.example.com", signing, &[&record("_443._tcp")])
            .serve();
        let resolver = resolver(&zones);
        let result = tlsa(&resolver, "www.example.com").await;
        let set = secure(&result);
        assert_eq!(set.records.len(), 3, "{signing:?}");
        // Unknown values come through as they are.
        assert!(set.records.iter().any(|r| (r.usage, r.selector, r.matching) == (4, 9, 255)));
        secure(&tlsa(&resolver, "WWW.Example.COM").await);
        secure(&tlsa(&resolver, "deep.er.example.com").await);
        absent(&tlsa(&resolver, "example.com").await, "there is no _443._tcp.example.com");
        absent(&tlsa(&resolver, "host.example.com").await, "there is no");
        absent(&tlsa(&resolver, "nobody.example.com").await, "there is no");
        absent(&tlsa(&resolver, "nobody.deep.er.example.com").await, "there is no");
        absent(&tlsa(&resolver, "nobody.com").await, "there is no");
        absent(&tlsa(&resolver, "nobody").await, "there is no");
        // The name exists, with another type or with nothing.
        let srv = proven(resolver.srv("www.example.com", deadline()).await);
        assert_eq!(srv, Ok(Proven::Absent("www.example.com has no SRV record".into())));
        let srv = proven(resolver.srv("_tcp.www.example.com", deadline()).await);
        assert_eq!(srv, Ok(Proven::Absent("_tcp.www.example.com has no SRV record".into())));
        let udp = proven(resolver.tlsa("www.example.com", 443, Transport::Udp, deadline()).await);
        absent(&udp, "there is no");
    }
}

#[tokio::test]
async fn keys_of_every_kind() {
    for algorithm in ["RSASHA256", "RSASHA512", "ECDSAP384SHA384", "ED25519"] {
        let zones = ZoneSet::new()
            .zone("example.com", Signing::Nsec, &[&record("_443._tcp")])
            .algorithm("example.com", algorithm)
            .serve();
        secure(&tlsa(&resolver(&zones), "example.com").await);
    }
    // What nobody can rely on any more is as good as no signature.
    let zones = ZoneSet::new()
        .zone("example.com", Signing::Nsec, &[&record("_443._tcp")])
        .algorithm("example.com", "RSASHA1")
        .serve();
    absent(&tlsa(&resolver(&zones), "example.com").await, "not supported");
}

#[tokio::test]
async fn bogus_zones() {
    let records = [&record("_443._tcp"), "@ A 127.0.0.1"];
    for (signing, why) in [
        (Signing::Expired, "expired"),
        (Signing::Early, "not yet valid"),
        (Signing::Stripped, "none of the zone's keys"),
    ] {
        let zones = ZoneSet::new().zone("example.com", signing, &records).serve();
        let resolver = resolver(&zones);
        bogus(&tlsa(&resolver, "example.com").await, why);
        // No proof of absence either.
        bogus(&tlsa(&resolver, "nobody.example.com").await, "");
        // Nothing is remembered against the zone next to it, nor for this one.
        absent(&tlsa(&resolver, "other.com").await, "there is no");
        bogus(&tlsa(&resolver, "example.com").await, why);
    }
    // The whole tree below an expired zone.
    let zones = ZoneSet::new()
        .zone("com", Signing::Expired, &[])
        .zone("example.com", Signing::Nsec, &records)
        .serve();
    bogus(&tlsa(&resolver(&zones), "example.com").await, "expired");
}

fn without(text: &str, words: &str) -> String {
    let lines = text.lines().filter(|line| !line.contains(words));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[tokio::test]
async fn altered_zones() {
    let altered = |change: fn(String) -> String| {
        ZoneSet::new()
            .zone("example.com", Signing::Nsec, &[&record("_443._tcp.www"), "www A 127.0.0.1"])
            .altered("example.com", change)
            .serve()
    };
    // Another digest.
    let zones = altered(|text| text.replace("00112233445566", "10112233445566"));
    bogus(&tlsa(&resolver(&zones), "www.example.com").await, "signature of example.com is wrong");
    // No signature for it.
    let zones = altered(|text| without(&text, "RRSIG\tTLSA"));
    bogus(&tlsa(&resolver(&zones), "www.example.com").await, "not signed, but its zone is");
    // No record and no proof of that.
    let zones = altered(|text| {
        let text = without(&text, "TLSA\t3");
        let text = without(&text, "RRSIG\tTLSA");
        let text = without(&text, "\tNSEC\t");
        without(&text, "RRSIG\tNSEC")
    });
    bogus(&tlsa(&resolver(&zones), "www.example.com").await, "absence is not proven");
    // An address that is forged might hide an alias.
    let zones = altered(|text| text.replace("A\t127.0.0.1", "A\t127.0.0.9"));
    bogus(&tlsa(&resolver(&zones), "www.example.com").await, "signature of example.com is wrong");
}

#[tokio::test]
async fn another_root() {
    let set = || ZoneSet::new().zone("example.com", Signing::Nsec, &[&record("_443._tcp")]).serve();
    let (ours, theirs) = (set(), set());
    let resolver = Resolver::new(&settings(theirs.address(), ours.anchor())).unwrap();
    bogus(&tlsa(&resolver, "example.com").await, "none of the root's keys is that of the anchor");
}

#[tokio::test]
async fn unsigned_zones_are_absence_if_that_is_proven() {
    for signing in [Signing::Nsec, Signing::Nsec3, Signing::OptOut] {
        let zones = ZoneSet::new()
            .zone("example", signing, &[])
            .zone("unsigned.example", Signing::None, &[&record("_443._tcp"), "@ A 127.0.0.1"])
            .zone("below.unsigned.example", Signing::Nsec, &[&record("_443._tcp")])
            .zone("signed.example", Signing::Nsec, &[&record("_443._tcp")])
            .serve();
        let resolver = resolver(&zones);
        let why = "unsigned.example is not signed";
        absent(&tlsa(&resolver, "unsigned.example").await, why);
        absent(&tlsa(&resolver, "nobody.unsigned.example").await, why);
        // Signed, but no key leads there.
        absent(&tlsa(&resolver, "below.unsigned.example").await, why);
        secure(&tlsa(&resolver, "signed.example").await);
        absent(&tlsa(&resolver, "nobody.example").await, "there is no");
        // Addresses need no proof.
        let addresses = resolver.addresses("unsigned.example", deadline()).await;
        assert_eq!(addresses, Ok(vec![[127, 0, 0, 1].into()]));
    }
    let zones = ZoneSet::new()
        .zone("example", Signing::None, &[])
        .zone("signed.example", Signing::Nsec, &[&record("_443._tcp")])
        .serve();
    absent(&tlsa(&resolver(&zones), "signed.example").await, "example is not signed");
}

#[tokio::test]
async fn wildcards() {
    for signing in [Signing::Nsec, Signing::Nsec3, Signing::OptOut] {
        let zones = ZoneSet::new()
            .zone(
                "example.com",
                signing,
                &[
                    &record("*._tcp.wild"),
                    &record("*.all"),
                    &record("_443._tcp.one.all"),
                    "* A 127.0.0.1",
                    "*.no A 127.0.0.1",
                ],
            )
            .serve();
        let resolver = resolver(&zones);
        for host in ["wild.example.com", "any.thing.all.example.com"] {
            let result = tlsa(&resolver, host).await;
            if signing == Signing::OptOut {
                // There may be a zone in its place that is not signed.
                absent(&result, "opt-out");
            } else {
                secure(&result);
            }
        }
        secure(&tlsa(&resolver, "one.all.example.com").await);
        // The name exists, so the wildcard is not for it.
        let udp =
            proven(resolver.tlsa("one.all.example.com", 443, Transport::Udp, deadline()).await);
        absent(&udp, "there is no");
        // A wildcard, but none of TLSA.
        absent(&tlsa(&resolver, "host.no.example.com").await, "has no TLSA record");
    }
}

#[tokio::test]
async fn aliases() {
    let zones = ZoneSet::new()
        .zone(
            "example.com",
            Signing::Nsec,
            &[
                // The records are aliases.
                "_443._tcp.own CNAME Records.Example.ORG.",
                "_443._tcp.lost CNAME _443._tcp.unsigned.example.",
                "_443._tcp.via CNAME via.unsigned.example.",
                "_443._tcp.none CNAME nobody.example.org.",
                // The host is one.
                "alias CNAME host.example.org.",
                "plain CNAME plain.example.org.",
                &record("_443._tcp.plain"),
                "away CNAME unsigned.example.",
                &record("_443._tcp.away"),
                // Circles.
                "_443._tcp.self CNAME _443._tcp.self",
                "_443._tcp.left CNAME _443._tcp.right",
                "_443._tcp.right CNAME _443._tcp.left",
                "_443._tcp.long CNAME l1",
                "l1 CNAME l2\nl2 CNAME l3\nl3 CNAME l4\nl4 CNAME l5",
                "l5 CNAME l6\nl6 CNAME l7\nl7 CNAME l8\nl8 CNAME l9",
                &record("l9"),
                "moved DNAME example.org.",
            ],
        )
        .zone(
            "example.org",
            Signing::Nsec3,
            &[
                &record("records"),
                "host A 127.0.0.1",
                &record("_443._tcp.host"),
                "plain A 127.0.0.1",
            ],
        )
        .zone(
            "unsigned.example",
            Signing::None,
            &[&record("_443._tcp"), "via CNAME records.example.org.", "@ A 127.0.0.1"],
        )
        .serve();
    let resolver = resolver(&zones);
    let names = |set: &tlspool_lookup::names::TlsaSet| set.reference_names.clone();
    assert!(names(secure(&tlsa(&resolver, "own.example.com").await)).is_empty());
    absent(&tlsa(&resolver, "lost.example.com").await, "unsigned.example is not signed");
    // Secure again at the end does not help.
    absent(&tlsa(&resolver, "via.example.com").await, "unsigned.example is not signed");
    absent(&tlsa(&resolver, "none.example.com").await, "there is no nobody.example.org");
    let alias = tlsa(&resolver, "alias.example.com").await;
    assert_eq!(names(secure(&alias)), ["host.example.org"]);
    // Nothing at the end: what is at the beginning counts, for the name at the beginning.
    assert!(names(secure(&tlsa(&resolver, "plain.example.com").await)).is_empty());
    assert!(names(secure(&tlsa(&resolver, "away.example.com").await)).is_empty());
    for circle in ["self", "left", "long"] {
        let result = tlsa(&resolver, &format!("{circle}.example.com")).await;
        assert!(matches!(result, Err(LookupFailure::OutOfBounds { .. })), "{circle}: {result:?}");
    }
    let moved = tlsa(&resolver, "host.moved.example.com").await;
    assert_eq!(names(secure(&moved)), ["host.example.org"]);
}

#[tokio::test]
async fn answers_that_do_not_fit_a_datagram() {
    let data = "ab".repeat(1500);
    let records: Vec<String> =
        (0..12).map(|n| format!("_443._tcp TLSA 3 0 0 {n:02x}{data}")).collect();
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let zones = ZoneSet::new().zone("example.com", Signing::Nsec, &records).serve();
    let resolver = resolver(&zones);
    assert_eq!(secure(&tlsa(&resolver, "example.com").await).records.len(), 12);
}

/// Records have a TTL of 300 s where they say nothing, absence one of 60 s.
#[tokio::test]
async fn what_is_found_counts_for_its_ttl_and_while_it_is_signed() {
    let seconds = Duration::from_secs;
    for signing in [Signing::Nsec, Signing::Nsec3] {
        let zones = ZoneSet::new()
            .zone(
                "example.com",
                signing,
                &[
                    &format!("_443._tcp.www 40 TLSA 3 1 1 {DIGEST}"),
                    "www A 127.0.0.1",
                    "alias 30 CNAME www",
                    &record("_443._tcp.long"),
                    "long A 127.0.0.1",
                    "_imap._tcp.long 20 SRV 0 0 443 www",
                    "* 10 A 127.0.0.1",
                ],
            )
            .zone("brief.example", Signing::Brief, &[&record("_443._tcp"), "@ A 127.0.0.1"])
            .zone("unsigned.example", Signing::None, &["@ 50 A 127.0.0.1"])
            .serve();
        let resolver = resolver(&zones);
        let lasts = async |host, service| {
            let found = resolver.server_tlsa(host, 443, Transport::Tcp, service, deadline()).await;
            found.lasts.unwrap_or_else(|| panic!("{host}: {found:?}"))
        };
        assert_eq!(lasts("www.example.com", "").await, seconds(40), "{signing:?}");
        assert_eq!(lasts("long.example.com", "").await, seconds(300));
        // An alias, a service, an address that a wildcard makes, each with what it leads to.
        assert_eq!(lasts("alias.example.com", "").await, seconds(30));
        assert_eq!(lasts("long.example.com", "imap").await, seconds(20));
        assert_eq!(lasts("nobody.example.com", "").await, seconds(10));
        assert_eq!(lasts("unsigned.example", "").await, seconds(50));
        let absent = resolver.srv("www.example.com", deadline()).await.unwrap();
        assert_eq!(absent.lasts, seconds(60));
        let brief = lasts("brief.example", "").await;
        assert!(brief <= BRIEF && !brief.is_zero(), "{brief:?}");
    }
}
