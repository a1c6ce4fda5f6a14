//! From a service to its records.

use tlspool_lookup::names::{LookupFailure, Names, Proven};
use tlspool_tests::zones::{Signing, ZoneSet, Zones};
use tlspool_validate::sources::Transport::{Sctp, Tcp, Udp};

use crate::support::{DIGEST, deadline, failed, nothing, present, proven, resolver};

fn record(owner: &str) -> String {
    format!("{owner} TLSA 3 1 1 {DIGEST}")
}

fn zones() -> Zones {
    ZoneSet::new()
        .zone(
            "example.com",
            Signing::Nsec,
            &[
                "@ A 127.0.0.1",
                &record("_5222._tcp"),
                &record("_5222._udp"),
                &record("_5222._sctp"),
                // Served elsewhere: the letters' case is as people write it.
                "_xmpp-client._tcp SRV 5 0 5222 XMPP.Example.NET.",
                "_xmpp-client._tcp SRV 1 0 5222 first.example.net.",
                "_xmpp-client._tcp SRV 1 0 5223 tls.example.net.",
                // Not offered.
                "_pop3._tcp SRV 0 0 0 .",
                // In an unsigned zone, and in one that is bogus.
                "_imap._tcp SRV 0 0 143 imap.unsigned.example.",
                "_sieve._tcp SRV 0 0 4190 sieve.bogus.example.",
                "_mixed._tcp SRV 0 0 1 sieve.bogus.example.\n_mixed._tcp SRV 0 0 1 first.example.net.",
                "@ MX 10 mx1.example.net.",
                "@ MX 20 mx2.example.net.",
                "@ MX 30 mx.unsigned.example.",
                &record("_25._tcp"),
                "null MX 0 .",
                &record("_25._tcp.null"),
                "null A 127.0.0.1",
            ],
        )
        .zone(
            "example.net",
            Signing::Nsec3,
            &[
                "xmpp A 127.0.0.1\nfirst A 127.0.0.1\ntls A 127.0.0.1",
                &record("_5222._tcp.xmpp"),
                &format!("_5222._tcp.first TLSA 2 0 1 {DIGEST}"),
                &record("_1._tcp.first"),
                "mx1 A 127.0.0.1\nmx2 CNAME mx3\nmx3 A 127.0.0.1",
                &record("_25._tcp.mx1"),
                &format!("_25._tcp.mx3 TLSA 3 0 1 {DIGEST}"),
            ],
        )
        .zone("unsigned.example", Signing::None, &["imap A 127.0.0.1", &record("_143._tcp.imap")])
        .zone(
            "bogus.example",
            Signing::Expired,
            &["sieve A 127.0.0.1", &record("_4190._tcp.sieve"), &record("_1._tcp.sieve")],
        )
        .serve()
}

#[tokio::test]
async fn servers() {
    let zones = zones();
    let resolver = resolver(&zones);
    let ask = |port, service| resolver.server_tlsa("example.com", port, Tcp, service, deadline());
    // The host itself.
    assert_eq!(present(&ask(5222, "").await), (1, vec![]));
    assert_eq!(present(&ask(5222, "https").await), (1, vec![]));
    assert_eq!(present(&ask(5222, "unknown-service").await), (1, vec![]));
    for transport in [Udp, Sctp] {
        let found =
            resolver.server_tlsa("example.com", 5222, transport, "xmpp-client", deadline()).await;
        assert_eq!(present(&found), (1, vec![]));
    }
    // The targets of SRV records at that port.
    let found = ask(5222, "xmpp-client").await;
    let targets = vec!["first.example.net".to_owned(), "xmpp.example.net".to_owned()];
    assert_eq!(present(&found), (2, targets));
    assert!(
        found
            .steps
            .iter()
            .any(|step| step == "_xmpp-client._tcp.example.com SRV: secure, 3 records"),
        "{:?}",
        found.steps
    );
    // A target without records, and a port that none has.
    assert!(nothing(&ask(5223, "xmpp-client").await).contains("_5223._tcp.tls.example.net"));
    assert!(nothing(&ask(5224, "xmpp-client").await).contains("_5224._tcp.example.com"));
    // "." is no target; the application reached somebody nevertheless.
    assert_eq!(present(&ask(5222, "pop3").await), (1, vec![]));
    // Targets elsewhere.
    assert!(nothing(&ask(143, "imap").await).contains("unsigned.example is not signed"));
    assert!(failed(&ask(4190, "sieve").await).contains("expired"));
    assert_eq!(present(&ask(1, "mixed").await), (1, vec!["first.example.net".to_owned()]));
    // A service whose name could not be a label.
    assert_eq!(present(&ask(5222, "a.b").await), (1, vec![]));
}

#[tokio::test]
async fn mail() {
    let zones = zones();
    let resolver = resolver(&zones);
    let ask = |host| resolver.server_tlsa(host, 25, Tcp, "smtp", deadline());
    let found = ask("example.com").await;
    let names = ["mx1.example.net", "mx2.example.net", "mx3.example.net"].map(String::from);
    assert_eq!(present(&found), (2, names.to_vec()));
    assert_eq!(present(&ask("mx1.example.net").await), (1, vec![]));
    assert_eq!(present(&ask("null.example.com").await), (1, vec![]));
    assert!(nothing(&ask("imap.unsigned.example").await).contains("is not signed"));
    assert!(failed(&ask("sieve.bogus.example").await).contains("expired"));
}

#[tokio::test]
async fn clients() {
    let zones = ZoneSet::new()
        .zone(
            "example.com",
            Signing::Nsec,
            &[&format!("_imap._client TLSA 2 0 1 {DIGEST}"), &record("_client.host")],
        )
        .zone("example.org", Signing::None, &[&record("_client")])
        .zone("example.net", Signing::Expired, &[&record("_client")])
        .serve();
    let resolver = resolver(&zones);
    let ask = |domain, service| resolver.client_tlsa(domain, service, deadline());
    assert_eq!(present(&ask("example.com", "imap").await), (1, vec![]));
    assert_eq!(present(&ask("host.example.com", "imap").await), (1, vec![]));
    assert_eq!(present(&ask("host.example.com", "").await), (1, vec![]));
    // `_client.example.com` exists, with nothing at it.
    assert!(nothing(&ask("example.com", "smtp").await).contains("no TLSA record"));
    assert!(nothing(&ask("example.org", "imap").await).contains("not signed"));
    assert!(failed(&ask("example.net", "imap").await).contains("expired"));
    assert!(failed(&ask("ex ample.net", "imap").await).contains("no domain name"));
}

#[tokio::test]
async fn what_the_directory_look_up_asks() {
    let zones = zones();
    let resolver = resolver(&zones);
    let srv = proven(resolver.srv("_xmpp-client._tcp.example.com", deadline()).await);
    let Ok(Proven::Secure(srv)) = srv else { panic!("{srv:?}") };
    let order: Vec<_> = srv.iter().map(|s| (s.priority, s.port, s.target.as_str())).collect();
    assert_eq!(order.len(), 3);
    assert_eq!(order[2], (5, 5222, "xmpp.example.net"));
    let none = proven(resolver.srv("_pop3._tcp.example.com", deadline()).await);
    assert!(matches!(none, Ok(Proven::Absent(_))), "{none:?}");
    let unsigned = proven(resolver.srv("_pop3._tcp.unsigned.example", deadline()).await);
    assert!(matches!(unsigned, Ok(Proven::Absent(_))), "{unsigned:?}");
    let addresses = resolver.addresses("mx2.example.net", deadline()).await;
    assert_eq!(addresses, Ok(vec![[127, 0, 0, 1].into()]));
    let none = resolver.addresses("_5222._tcp.example.com", deadline()).await;
    assert!(matches!(none, Err(LookupFailure::Unanswered { .. })), "{none:?}");
    let bogus = resolver.addresses("sieve.bogus.example", deadline()).await;
    assert!(matches!(bogus, Err(LookupFailure::Bogus { .. })), "{bogus:?}");
}
