//! Chains made here against records made here, with each mistake that others made.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose as Eku,
    GeneralSubtree, IsCa, KeyPair, NameConstraints,
};
use rustls_pki_types::UnixTime;

use super::*;
use crate::{Peer, SystemAnchors, TableAnchor, TrustAnchors};

type Authority = CertifiedIssuer<'static, KeyPair>;
type Der = CertificateDer<'static>;

/// 2030-01-01, within rcgen's default validity.
const NOW: u64 = 1_893_456_000;

fn params(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    params
}

fn root_with(change: impl FnOnce(&mut CertificateParams)) -> Authority {
    CertifiedIssuer::self_signed(params("Root", change), KeyPair::generate().unwrap()).unwrap()
}

fn root() -> Authority {
    root_with(|_| {})
}

fn between(issuer: &Authority, name: &str) -> Authority {
    let key = KeyPair::generate().unwrap();
    CertifiedIssuer::signed_by(params(name, |_| {}), key, issuer).unwrap()
}

fn leaf_with(issuer: &Authority, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Der {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
}

fn leaf(issuer: &Authority, name: &str) -> Der {
    leaf_with(issuer, name, |_| {})
}

fn trusting(roots: &[&Der]) -> PkixValidator {
    let rows = roots.iter().map(|der| TableAnchor { service: None, certificate: der });
    let loaded = TrustAnchors::load(&SystemAnchors::default(), rows).unwrap();
    PkixValidator::new(Arc::new(loaded.anchors), Legacy::Refuse)
}

fn key_of(der: &Der) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(der).unwrap();
    certificate.tbs_certificate.subject_pki.raw.to_vec()
}

/// A record for `der` as a careful administrator makes it.
fn record(usage: u8, selector: u8, matching: u8, der: &Der) -> Tlsa {
    let part = if selector == 0 { der.to_vec() } else { key_of(der) };
    let data = match matching {
        1 => digest::digest(&digest::SHA256, &part).as_ref().to_vec(),
        2 => digest::digest(&digest::SHA512, &part).as_ref().to_vec(),
        _ => part,
    };
    Tlsa { usage, selector, matching, data }
}

/// Asks for `wanted`, by default without trust anchors.
struct Ask<'a> {
    wanted: Option<&'a str>,
    reference: &'a [&'a str],
    pkix: Option<&'a PkixValidator>,
    freedom: bool,
    peer: Peer,
}

const ASK: Ask<'static> = Ask {
    wanted: Some("example.com"),
    reference: &[],
    pkix: None,
    freedom: false,
    peer: Peer::Server,
};

impl Ask<'_> {
    fn of(&self, chain: &[Der], records: &[Tlsa]) -> Verdict {
        let wanted = self.wanted.map(|name| DoNai::parse(name).unwrap());
        let question = Question {
            chain,
            peer: self.peer,
            wanted: wanted.as_ref(),
            domain_represents_user: self.freedom,
            service: "",
            now: UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
        };
        let reference: Vec<_> = self.reference.iter().map(ToString::to_string).collect();
        check(&question, records, &reference, self.pkix)
    }
}

#[track_caller]
fn matched(verdict: Verdict) -> Matched {
    match verdict {
        Verdict::Match(matched) => matched,
        other => panic!("{other}"),
    }
}

#[track_caller]
fn no_match(verdict: &Verdict, why: &str) {
    assert!(matches!(verdict, Verdict::NoMatch(_)), "{verdict}");
    assert!(verdict.to_string().contains(why), "{verdict}");
}

#[track_caller]
fn absent(verdict: &Verdict, why: &str) {
    assert!(matches!(verdict, Verdict::Absent(_)), "{verdict}");
    assert!(verdict.to_string().contains(why), "{verdict}");
}

#[test]
fn every_usage_selector_and_matching() {
    let root = root();
    let middle = between(&root, "Between");
    let own = leaf(&middle, "example.com");
    let stranger = leaf(&middle, "example.com");
    let other_root = self::root();
    let pkix = trusting(&[root.der()]);
    let chain = [own.clone(), middle.der().clone(), root.der().clone()];
    let ask = Ask { pkix: Some(&pkix), ..ASK };
    for selector in 0..2 {
        for matching in 0..3 {
            for (usage, kind, good, bad) in [
                (0, Usage::PkixTa, root.der(), other_root.der()),
                (0, Usage::PkixTa, middle.der(), &own),
                (1, Usage::PkixEe, &own, &stranger),
                (2, Usage::DaneTa, root.der(), other_root.der()),
                (2, Usage::DaneTa, middle.der(), &stranger),
                (3, Usage::DaneEe, &own, middle.der()),
            ] {
                let good = record(usage, selector, matching, good);
                let matched = matched(ask.of(&chain, std::slice::from_ref(&good)));
                assert_eq!((matched.usage, matched.record), (kind, 0));
                assert_eq!(matched.name.is_none(), kind == Usage::DaneEe);
                assert!(matched.text.contains(&describe(&good)), "{}", matched.text);
                let bad = record(usage, selector, matching, bad);
                no_match(&ask.of(&chain, &[bad]), "");
                // One bit. (An authority that the record holds whole is one whatever signed it.)
                if (usage, selector, matching) == (2, 0, 0) {
                    continue;
                }
                let mut altered = good;
                let last = altered.data.len() - 1;
                altered.data[last] ^= 1;
                assert!(!matches!(ask.of(&chain, &[altered]), Verdict::Match(_)));
            }
        }
    }
}

#[test]
fn a_digest_of_the_wrong_length_is_no_record() {
    let root = root();
    let own = leaf(&root, "example.com");
    for matching in [1, 2] {
        for usage in [2, 3] {
            let good = record(usage, 0, matching, &own);
            for length in [0, 1, 20, good.data.len() - 1] {
                let mut short = good.clone();
                short.data.truncate(length);
                absent(&ASK.of(std::slice::from_ref(&own), &[short]), "bytes instead of");
            }
            let mut long = good.clone();
            long.data.push(0);
            absent(&ASK.of(std::slice::from_ref(&own), &[long]), "bytes instead of");
        }
    }
}

#[test]
fn unknown_values_are_skipped_and_do_not_hide_what_is_good() {
    let root = root();
    let own = leaf(&root, "example.com");
    let good = record(3, 1, 1, &own);
    let odd = [
        (Tlsa { usage: 4, ..good.clone() }, "usage is unknown"),
        (Tlsa { usage: 255, ..good.clone() }, "usage is unknown"),
        (Tlsa { selector: 2, ..good.clone() }, "selector is unknown"),
        (Tlsa { matching: 3, ..good.clone() }, "matching type is unknown"),
        (Tlsa { usage: 3, selector: 0, matching: 0, data: vec![] }, "no certificate"),
        (Tlsa { usage: 2, selector: 0, matching: 0, data: vec![0x30, 0] }, "no certificate"),
        (Tlsa { usage: 3, selector: 1, matching: 0, data: b"key".to_vec() }, "no public key"),
    ];
    let chain = [own];
    for (record, why) in &odd {
        absent(&ASK.of(&chain, std::slice::from_ref(record)), why);
    }
    let mut all: Vec<_> = odd.into_iter().map(|(record, _)| record).collect();
    absent(&ASK.of(&chain, &all), "usage is unknown");
    absent(&ASK.of(&chain, &[]), "none is published");
    // Mixed: any match wins, wherever it stands.
    all.insert(3, good.clone());
    assert_eq!(matched(ASK.of(&chain, &all)).record, 3);
    // One usable record that does not match is no absence.
    all[3] = record(3, 1, 1, root.der());
    no_match(&ASK.of(&chain, &all), "is another");
}

#[test]
fn usage_2_without_the_certificate_in_the_chain() {
    let root = root();
    let own = leaf(&root, "example.com");
    let chain = [own.clone()];
    // A digest cannot be turned into a certificate.
    for (selector, matching) in [(0, 1), (0, 2), (1, 1), (1, 2)] {
        let verdict = ASK.of(&chain, &[record(2, selector, matching, root.der())]);
        no_match(&verdict, "is not in the chain");
    }
    // Whole, it can: certificate and key.
    for selector in [0, 1] {
        let verdict = ASK.of(&chain, &[record(2, selector, 0, root.der())]);
        assert_eq!(matched(verdict).usage, Usage::DaneTa);
    }
    // Also with one in between, which must be there.
    let middle = between(&root, "Between");
    let own = leaf(&middle, "example.com");
    for selector in [0, 1] {
        let record = record(2, selector, 0, root.der());
        no_match(&ASK.of(std::slice::from_ref(&own), std::slice::from_ref(&record)), "");
        matched(ASK.of(&[own.clone(), middle.der().clone()], &[record]));
    }
}

#[test]
fn usage_2_needs_a_path_not_just_presence() {
    let root = root();
    let other = self::root();
    // The named authority is in the chain, but another of the same name issued the leaf.
    let chain = [leaf(&other, "example.com"), root.der().clone()];
    for selector in [0, 1] {
        for matching in 0..3 {
            no_match(&ASK.of(&chain, &[record(2, selector, matching, root.der())]), "");
        }
    }
    // The leaf is no authority over itself.
    no_match(&ASK.of(&chain, &[record(2, 0, 1, &chain[0])]), "is not in the chain");
    // An end entity in the role of an authority.
    let fake = leaf(&root, "fake.example");
    let chain = [leaf(&root, "example.com"), fake.clone()];
    no_match(&ASK.of(&chain, &[record(2, 0, 1, &fake)]), "CA:TRUE is missing");
}

#[test]
fn usage_2_checks_names_dates_and_use() {
    let root = root();
    let record = record(2, 0, 1, root.der());
    let chain = |leaf: Der| [leaf, root.der().clone()];
    let ask = |leaf: Der| ASK.of(&chain(leaf), std::slice::from_ref(&record));
    assert_eq!(
        matched(ask(leaf(&root, "example.com"))).name,
        Some(DoNai::parse("example.com").unwrap())
    );
    no_match(&ask(leaf(&root, "example.org")), "[example.org], not for example.com");
    no_match(
        &ask(leaf_with(&root, "example.com", |p| p.not_after = rcgen::date_time_ymd(2029, 1, 1))),
        "expired",
    );
    no_match(
        &ask(leaf_with(&root, "example.com", |p| p.not_before = rcgen::date_time_ymd(2031, 1, 1))),
        "not valid before",
    );
    no_match(
        &ask(leaf_with(&root, "example.com", |p| {
            p.extended_key_usages = vec![Eku::ClientAuth];
        })),
        "not meant for a server",
    );
    let client = Ask { peer: Peer::Client, ..ASK };
    let own = leaf_with(&root, "example.com", |p| p.extended_key_usages = vec![Eku::ClientAuth]);
    matched(client.of(&chain(own), std::slice::from_ref(&record)));
    // Nobody in particular is nobody.
    let nobody = Ask { wanted: None, ..ASK };
    no_match(
        &nobody.of(&chain(leaf(&root, "example.com")), std::slice::from_ref(&record)),
        "no name to compare",
    );
}

#[test]
fn usage_2_and_the_limits_of_the_authority() {
    let named = |authority: &Authority, chain: &[Der]| {
        let mut chain = chain.to_vec();
        chain.push(authority.der().clone());
        ASK.of(&chain, &[record(2, 0, 1, authority.der())])
    };
    let expired = root_with(|p| p.not_after = rcgen::date_time_ymd(2029, 1, 1));
    no_match(&named(&expired, &[leaf(&expired, "example.com")]), "the authority expired");
    let early = root_with(|p| p.not_before = rcgen::date_time_ymd(2031, 1, 1));
    no_match(&named(&early, &[leaf(&early, "example.com")]), "the authority is not valid before");
    let elsewhere = root_with(|p| {
        p.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".into())],
            excluded_subtrees: vec![],
        });
    });
    no_match(&named(&elsewhere, &[leaf(&elsewhere, "example.com")]), "name constraints");
    // Its path length, also when webpki sees only its name and key.
    let short = root_with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    matched(named(&short, &[leaf(&short, "example.com")]));
    let middle = between(&short, "Between");
    let chain = [leaf(&middle, "example.com"), middle.der().clone()];
    no_match(&named(&short, &chain), "path length");
    no_match(&ASK.of(&chain, &[record(2, 0, 0, short.der())]), "path length");
}

#[test]
fn usage_3_ignores_dates_names_use_and_issuers() {
    let root = root();
    for own in [
        leaf_with(&root, "example.com", |p| p.not_after = rcgen::date_time_ymd(2001, 1, 1)),
        leaf_with(&root, "example.com", |p| p.not_before = rcgen::date_time_ymd(2040, 1, 1)),
        leaf(&root, "somebody.else"),
        leaf_with(&root, "a\0.example.com", |_| {}),
        leaf_with(&root, "example.com", |p| p.extended_key_usages = vec![Eku::CodeSigning]),
        root.der().clone(),
    ] {
        for (selector, matching) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
            let matched =
                matched(ASK.of(std::slice::from_ref(&own), &[record(3, selector, matching, &own)]));
            assert_eq!((matched.usage, matched.name), (Usage::DaneEe, None));
        }
    }
    // Only the first certificate is the peer's: one further up proves nothing.
    let chain = [leaf(&root, "example.com"), leaf(&root, "example.com")];
    no_match(&ASK.of(&chain, &[record(3, 0, 1, &chain[1])]), "is another");
    no_match(&ASK.of(&[], &[record(3, 0, 1, &chain[1])]), "sent no certificate");
    let nonsense = [CertificateDer::from(b"no certificate".to_vec())];
    no_match(&ASK.of(&nonsense, &[record(3, 1, 1, &chain[1]), record(2, 1, 0, &chain[1])]), "");
}

#[test]
fn rollover_with_two_records() {
    let root = root();
    let (old, new) = (leaf(&root, "example.com"), leaf(&root, "example.com"));
    let records = [record(3, 1, 1, &old), record(3, 1, 1, &new)];
    assert_eq!(matched(ASK.of(&[old], &records)).record, 0);
    assert_eq!(matched(ASK.of(&[new], &records)).record, 1);
    // From an authority to a leaf: each alone is enough.
    let old_root = self::root();
    let new = leaf(&root, "example.com");
    let records = [record(2, 0, 1, old_root.der()), record(3, 1, 1, &new)];
    assert_eq!(matched(ASK.of(&[new], &records)).record, 1);
    let chain = [leaf(&old_root, "example.com"), old_root.der().clone()];
    assert_eq!(matched(ASK.of(&chain, &records)).record, 0);
}

#[test]
fn pkix_usages_need_the_path_too() {
    let (root, unknown) = (root(), root());
    let pkix = trusting(&[root.der()]);
    let ask = Ask { pkix: Some(&pkix), ..ASK };
    let chain = [leaf(&unknown, "example.com"), unknown.der().clone()];
    for (usage, der) in [(0, &chain[1]), (1, &chain[0])] {
        let verdict = ask.of(&chain, &[record(usage, 0, 1, der)]);
        no_match(&verdict, "");
        absent(&ASK.of(&chain, &[record(usage, 0, 1, der)]), "no trust anchors here");
    }
    // In a path, but dates and names count.
    for own in [
        leaf(&root, "example.org"),
        leaf_with(&root, "example.com", |p| p.not_after = rcgen::date_time_ymd(2029, 1, 1)),
    ] {
        let records = [record(1, 0, 1, &own), record(0, 0, 1, root.der())];
        no_match(&ask.of(&[own], &records), "");
    }
    // The anchor need not be sent: we have it.
    let own = leaf(&root, "example.com");
    for selector in [0, 1] {
        matched(ask.of(std::slice::from_ref(&own), &[record(0, selector, 1, root.der())]));
    }
    // In the chain as sent, but not in the path.
    let other = between(&root, "Other");
    let verdict = ask.of(&[own, other.der().clone()], &[record(0, 0, 1, other.der())]);
    no_match(&verdict, "does not lead through");
}

#[test]
fn any_path_will_do_for_usage_0() {
    // Two authorities of one name and key, under two roots that both are trusted.
    let (first, second) = (root_with(|_| {}), {
        let key = KeyPair::generate().unwrap();
        CertifiedIssuer::self_signed(params("Root 2", |_| {}), key).unwrap()
    });
    let key = KeyPair::generate().unwrap();
    let pem = key.serialize_pem();
    let under_first = CertifiedIssuer::signed_by(params("Between", |_| {}), key, &first).unwrap();
    let key = KeyPair::from_pem(&pem).unwrap();
    let under_second = CertifiedIssuer::signed_by(params("Between", |_| {}), key, &second).unwrap();
    let pkix = trusting(&[first.der(), second.der()]);
    let ask = Ask { pkix: Some(&pkix), ..ASK };
    let own = leaf(&under_first, "example.com");
    let chain = [own, under_first.der().clone(), under_second.der().clone()];
    for der in [first.der(), second.der(), under_first.der(), under_second.der()] {
        matched(ask.of(&chain, &[record(0, 0, 1, der)]));
    }
}

#[test]
fn names_that_secure_records_lead_to() {
    let root = root();
    let records = [record(2, 0, 1, root.der())];
    let chain = [leaf(&root, "mx.example.net"), root.der().clone()];
    no_match(&ASK.of(&chain, &records), "not for example.com");
    let ask = Ask { reference: &["mx.example.net"], ..ASK };
    let matched_name = matched(ask.of(&chain, &records)).name;
    assert_eq!(matched_name, Some(DoNai::parse("mx.example.net").unwrap()));
    // The wanted name is still good, a third one is not.
    let chain = [leaf(&root, "example.com"), root.der().clone()];
    matched(ask.of(&chain, &records));
    let chain = [leaf(&root, "www.example.net"), root.der().clone()];
    no_match(&ask.of(&chain, &records), "not for example.com or mx.example.net");
    // What is no domain is no reference name.
    let ask = Ask { reference: &["john@example.net", "*", ""], ..ASK };
    let chain = [leaf(&root, "john@example.net"), root.der().clone()];
    no_match(&ask.of(&chain, &records), "");
}

#[test]
fn wildcards_stand_for_one_whole_label() {
    let root = root();
    let records = [record(2, 0, 1, root.der())];
    for (carried, wanted, good) in [
        ("*.example.com", "www.example.com", true),
        ("*.example.com", "a.b.example.com", false),
        ("*.example.com", "example.com", false),
        ("w*.example.com", "www.example.com", false),
        ("www.*.com", "www.example.com", false),
        ("*.com", "example.com", false),
        ("*", "com", false),
    ] {
        let chain = [leaf(&root, carried), root.der().clone()];
        let verdict = Ask { wanted: Some(wanted), ..ASK }.of(&chain, &records);
        assert_eq!(matches!(verdict, Verdict::Match(_)), good, "{carried}, {wanted}: {verdict}");
        let reference = Ask { reference: &[wanted], ..ASK }.of(&chain, &records);
        assert_eq!(matches!(reference, Verdict::Match(_)), good, "{carried}, {wanted}");
    }
    let chain = [leaf(&root, "example.com\0.evil.example"), root.der().clone()];
    no_match(&ASK.of(&chain, &records), "");
}

#[test]
fn users_are_not_for_dane() {
    let root = root();
    let own = leaf(&root, "example.com");
    let records = [record(3, 0, 1, &own)];
    let john = Ask { wanted: Some("john@example.com"), ..ASK };
    absent(&john.of(std::slice::from_ref(&own), &records), "for domains");
    matched(Ask { freedom: true, ..john }.of(&[own], &records));
}

#[test]
fn many_records_and_certificates_are_bounded() {
    let root = root();
    let own = leaf(&root, "example.com");
    let mut records: Vec<_> = (0..MAX_RECORDS).map(|_| record(3, 0, 1, root.der())).collect();
    records.push(record(3, 0, 1, &own));
    no_match(&ASK.of(&[own], &records), "is another");
}
