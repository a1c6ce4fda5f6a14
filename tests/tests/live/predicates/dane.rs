//! The rows of DANE: usages, selectors and matchings, and the mistakes that others made (RFC 7671).

use tlspool_tests::Authority;
use tlspool_tests::authority::Leaf;
use tlspool_tests::zones::{Signing, ZoneSet, tlsa_data};

use super::world::{Meet, chain_file, leaf, meet_pools, pools, serve};
use super::{Absent, Failed, False, True, Truth, is_as_told, services};
use crate::dns;

/// A record's data for a certificate.
fn record(usage: u8, selector: u8, matching: u8, leaf: &Leaf) -> String {
    format!("{usage} {selector} {matching} {}", tlsa_data(leaf, selector, matching))
}

#[test]
fn every_row_of_the_dane_list() {
    let (judge, other) = pools();
    let authority = judge.authority();
    let strangers = Authority::new(&judge.path("pki"), "stranger");
    let names = ["*.example.com", "target.example.net"];
    let own = leaf(&strangers, &names, |_| {});
    let old = leaf(&strangers, &names, |_| {});
    let trusted = leaf(authority, &names, |_| {});
    let expired = leaf(&strangers, &names, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let elsewhere = leaf(&strangers, &["elsewhere.example.org"], |_| {});
    let chain = ["-cert_chain", chain_file(&strangers).to_str().unwrap()];
    let (_bare_server, bare) = serve(&own, &[]);
    let (_chain_server, chained) = serve(&own, &chain);
    let (_trusted_server, vouched) = serve(&trusted, &["-cert_chain", judge.anchor()]);
    let (_expired_server, late) = serve(&expired, &chain);
    let (_elsewhere_server, wrong_name) = serve(&elsewhere, &chain);
    let ca = |authority: &Authority| Leaf {
        certificate: authority.certificate.clone(),
        key: authority.key.clone(),
    };
    let (stranger_ca, our_ca) = (ca(&strangers), ca(authority));

    let mut rows: Vec<(String, Truth, u16, Vec<String>)> = Vec::new();
    let mut add = |what: &str, truth, port, records: Vec<String>| {
        rows.push((what.to_owned(), truth, port, records));
    };
    for (selector, matching) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
        let name = |usage: u8| format!("u{usage}s{selector}m{matching}");
        let record = |usage, leaf: &Leaf| vec![record(usage, selector, matching, leaf)];
        add(&name(3), True, bare, record(3, &own));
        add(&name(2), True, chained, record(2, &stranger_ca));
        // These two want a path to an authority that we trust anyway.
        add(&name(1), True, vouched, record(1, &trusted));
        add(&name(0), True, vouched, record(0, &our_ca));
        add(&format!("{}-untrusted", name(1)), False, chained, record(1, &own));
        add(&format!("{}-untrusted", name(0)), False, chained, record(0, &stranger_ca));
        add(&format!("{}-another", name(3)), False, bare, record(3, &old));
        add(&format!("{}-another", name(2)), False, chained, record(2, &our_ca));
    }
    // Usage 2 without the certificate in the chain: only the record that holds it whole helps.
    add("ta-missing", False, bare, vec![record(2, 0, 1, &stranger_ca)]);
    add("ta-missing-key", False, bare, vec![record(2, 1, 1, &stranger_ca)]);
    add("ta-whole", True, bare, vec![record(2, 0, 0, &stranger_ca)]);
    // Usage 2 checks names and dates, usage 3 does not.
    add("ee-expired", True, late, vec![record(3, 0, 1, &expired)]);
    add("ta-expired", False, late, vec![record(2, 0, 1, &stranger_ca)]);
    add("ee-elsewhere", True, wrong_name, vec![record(3, 1, 1, &elsewhere)]);
    add("ta-elsewhere", False, wrong_name, vec![record(2, 0, 1, &stranger_ca)]);
    // Digests of a wrong length, and unknown numbers, are skipped; any match wins.
    let whole = tlsa_data(&own, 0, 1);
    let short = format!("3 0 1 {}", &whole[2..]);
    let unknown = ["9 0 1", "3 9 1", "3 0 9"].map(|numbers| format!("{numbers} {whole}"));
    add("short", Absent, bare, vec![short.clone()]);
    add("unknown", Absent, bare, unknown.to_vec());
    add(
        "mixed",
        True,
        bare,
        [vec![record(3, 0, 1, &own), short.clone()], unknown.to_vec()].concat(),
    );
    add(
        "mixed-wrong",
        False,
        bare,
        [vec![record(3, 0, 1, &old), short], unknown.to_vec()].concat(),
    );
    // Keys roll over.
    add("rollover", True, bare, vec![record(3, 1, 1, &old), record(3, 1, 1, &own)]);
    add("after-rollover", False, bare, vec![record(3, 1, 1, &old)]);

    let (mut zone, mut hosts) = (Vec::new(), Vec::new());
    for (what, truth, port, records) in rows {
        zone.push(format!("{what} A 127.0.0.1"));
        zone.extend(records.iter().map(|data| format!("_{port}._tcp.{what} TLSA {data}")));
        hosts.push((format!("{what}.example.com"), truth, port));
    }
    let good = record(3, 0, 1, &own);
    let bad = record(3, 0, 1, &old);
    // A wildcard is for every port; aliases count while they are secure.
    zone.push(format!("*._tcp.wild TLSA {good}"));
    zone.push("wild A 127.0.0.1\nnothing A 127.0.0.1".to_owned());
    zone.push("alias CNAME target.example.net.\nalias-out CNAME out.unsigned.example.".to_owned());
    zone.push("alias-bad CNAME bad.bogus.example.".to_owned());
    let at = |what: &str, data: &str| format!("_{bare}._tcp.{what} TLSA {data}");
    zone.push(at("alias-kept", &good));
    zone.push("alias-kept CNAME out.unsigned.example.".to_owned());
    for (what, truth) in [
        ("wild", True),
        ("nothing", Absent),
        ("alias", True),
        ("alias-out", Absent),
        ("alias-kept", True),
        ("alias-bad", Failed),
    ] {
        hosts.push((format!("{what}.example.com"), truth, bare));
    }
    hosts.push(("www.unsigned.example".to_owned(), Absent, bare));
    hosts.push(("www.bogus.example".to_owned(), Failed, bare));
    hosts.push(("www.stripped.example".to_owned(), Failed, bare));
    let zone: Vec<&str> = zone.iter().map(String::as_str).collect();
    let others = |what: &str| format!("{what} A 127.0.0.1\n{}", at(what, &bad));
    let zones = ZoneSet::new()
        .zone("example.com", Signing::Nsec, &zone)
        .zone("example.net", Signing::Nsec3, &[&at("target", &good), "target A 127.0.0.1"])
        .zone("unsigned.example", Signing::None, &[&others("www"), &others("out")])
        .zone("bogus.example", Signing::Expired, &[&others("www"), &others("bad")])
        .zone("stripped.example", Signing::Stripped, &[&others("www")])
        .serve();
    judge.configure(&format!("{}[tls]\nclient_cache = 0\n", dns(&zones)));
    let daemon = judge.start();
    let mut wrong = Vec::new();
    for (name, truth, port) in &hosts {
        for (service, should) in services("dane").iter().zip(truth.believed()) {
            let result = meet_pools(&judge, &other, Meet::Openssl(*port), name, service);
            // Not even the most lenient policy makes somebody else the one who was asked for.
            let carried = name.ends_with(".example.com") && *port != wrong_name;
            let (should, words) = if should && !carried && *truth != True {
                (false, format!("the peer is not {name}"))
            } else {
                (should, truth.words("dane"))
            };
            if !is_as_told(&result, should, &words) {
                wrong.push(format!("{service} of {name}, {truth:?}: {result:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    daemon.stop();
}
