//! From the root down, each zone at a server of its own.

use std::time::Duration;

use tlspool_lookup::dns::{AnchorSource, DnsSettings, Resolver, UpstreamSettings};
use tlspool_lookup::names::{LookupFailure, Names};
use tlspool_tests::zones::{Signing, ZoneSet, Zones};

use crate::support::{DIGEST, absent, bogus, deadline, secure, tlsa};

fn from_root(zones: &Zones) -> Resolver {
    let root = zones.address();
    Resolver::new(&DnsSettings {
        upstream: UpstreamSettings::Root { hints: vec![root.ip()], port: root.port() },
        anchors: AnchorSource::File(zones.anchor()),
        attempt: Duration::from_secs(5),
        attempts: 2,
        ..DnsSettings::default()
    })
    .unwrap()
}

#[tokio::test]
async fn referrals() {
    let record = format!("_443._tcp TLSA 3 1 1 {DIGEST}");
    let zones = ZoneSet::new()
        .separate()
        .zone("com", Signing::Nsec3, &[])
        .zone(
            "example.com",
            Signing::Nsec,
            &[
                &record,
                "@ A 127.0.0.1",
                "_443._tcp.alias CNAME _443._tcp.example.org.",
                &format!("wide TXT {}", "\"0123456789012345678901234567890123456789\" ".repeat(60)),
            ],
        )
        .zone("deep.example.com", Signing::Nsec, &[&record, "@ A 127.0.0.1"])
        .zone("example.org", Signing::Nsec, &[&record, "@ A 127.0.0.1"])
        .zone("unsigned.org", Signing::None, &[&record, "@ A 127.0.0.1"])
        .zone("expired.org", Signing::Expired, &[&record, "@ A 127.0.0.1"])
        .serve();
    let resolver = from_root(&zones);
    for host in ["example.com", "deep.example.com", "alias.example.com", "example.org"] {
        secure(&tlsa(&resolver, host).await);
    }
    absent(&tlsa(&resolver, "nobody.example.com").await, "there is no");
    absent(&tlsa(&resolver, "nobody.com").await, "there is no");
    absent(&tlsa(&resolver, "nobody").await, "there is no");
    absent(&tlsa(&resolver, "unsigned.org").await, "unsigned.org is not signed");
    bogus(&tlsa(&resolver, "expired.org").await, "expired");
    let addresses = resolver.addresses("unsigned.org", deadline()).await;
    assert_eq!(addresses, Ok(vec![[127, 0, 0, 1].into()]));
}

#[tokio::test]
async fn servers_that_do_not_help() {
    let record = format!("_443._tcp TLSA 3 1 1 {DIGEST}");
    let zones = ZoneSet::new()
        .separate()
        .zone(
            "com",
            Signing::Nsec,
            &[
                // Delegated to a server that does not know it, to one that has no address, and to two
                // zones whose servers have each other's names.
                "lame NS ns.com.",
                "nowhere NS ns.nobody.com.",
                "left NS ns.right.com.\nright NS ns.left.com.",
            ],
        )
        .zone("example.com", Signing::Nsec, &[&record, "@ A 127.0.0.1"])
        .serve();
    let resolver = from_root(&zones);
    for host in ["lame.com", "nowhere.com", "left.com"] {
        let result = tlsa(&resolver, host).await;
        let failed = matches!(
            result,
            Err(LookupFailure::Unanswered { .. } | LookupFailure::OutOfBounds { .. })
        );
        assert!(failed, "{host}: {result:?}");
    }
    secure(&tlsa(&resolver, "example.com").await);
    // No root server at all.
    let resolver = Resolver::new(&DnsSettings {
        upstream: UpstreamSettings::Root { hints: vec![], port: 53 },
        ..DnsSettings::default()
    });
    assert_eq!(resolver.unwrap_err().to_string(), "there is no DNS server to ask");
}
