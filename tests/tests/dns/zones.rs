//! Zones as they should be, and as they should not.

use tlspool_tests::zones::{Signing, ZoneSet};

use crate::support::{DIGEST, absent, bogus, resolver, secure, tlsa};

#[tokio::test]
async fn secure_records() {
    for signing in [Signing::Nsec, Signing::Nsec3, Signing::OptOut] {
        let zones = ZoneSet::new()
            .zone(
                "example.com",
                signing,
                &[
                    &format!("_443._tcp.www TLSA 3 1 1 {DIGEST}"),
                    &format!("_443._tcp.www TLSA 2 0 2 {DIGEST}{DIGEST}"),
                    &format!("_443._tcp.www TLSA 4 9 255 {DIGEST}"),
                    "www A 127.0.0.1",
                ],
            )
            .serve();
        let resolver = resolver(&zones);
        let result = tlsa(&resolver, "www.example.com").await;
        let set = secure(&result);
        assert_eq!(set.records.len(), 3, "{signing:?}");
        // Unknown values come through as they are.
        assert!(set.records.iter().any(|r| (r.usage, r.selector, r.matching) == (4, 9, 255)));
        absent(&tlsa(&resolver, "example.com").await, "there is no _443._tcp.example.com");
        absent(&tlsa(&resolver, "nobody.example.com").await, "there is no");
        absent(&tlsa(&resolver, "nobody.example").await, "there is no");
    }
}

#[tokio::test]
async fn bogus_zones() {
    let record = format!("_443._tcp TLSA 3 1 1 {DIGEST}");
    let records = [record.as_str(), "@ A 127.0.0.1"];
    for (signing, why) in
        [(Signing::Expired, "expired"), (Signing::Early, "not yet valid"), (Signing::Stripped, "")]
    {
        let zones = ZoneSet::new().zone("example.com", signing, &records).serve();
        bogus(&tlsa(&resolver(&zones), "example.com").await, why);
    }
}
