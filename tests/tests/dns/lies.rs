//! Servers, and people on the way to them, that lie. In each case nothing but a failure, or the truth.

use std::time::{Duration, Instant};

use hickory_resolver::proto::dnssec::rdata::{DNSSECRData, RRSIG};
use hickory_resolver::proto::op::{Message, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{CNAME, TLSA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tlspool_lookup::dns::{DnsSettings, Resolver};
use tlspool_lookup::names::{LookupFailure, Names, Proven, TlsaSet};
use tlspool_tests::LIMIT;
use tlspool_tests::zones::{Signing, ZoneSet, Zones};
use tlspool_validate::sources::Transport;

use crate::liar::{Asked, Liar, ask};
use crate::support::{DIGEST, absent, bogus, proven, secure, settings, tlsa};

const WANTED: &str = "_443._tcp.www.example.com.";

/// A signed zone with a record, a wildcard and nothing; an unsigned one beside it.
fn zones() -> Zones {
    ZoneSet::new()
        .zone(
            "example.com",
            Signing::Nsec,
            &[
                &format!("_443._tcp.www TLSA 3 1 1 {DIGEST}"),
                &format!("*.wild TLSA 3 1 1 {DIGEST}"),
                "_443._tcp.exact.wild A 127.0.0.1",
                "www A 127.0.0.1",
            ],
        )
        .zone("hashed.com", Signing::Nsec3, &[&format!("_443._tcp TLSA 3 1 1 {DIGEST}")])
        .zone("examplf.org", Signing::OptOut, &[])
        .zone("unsigned.com", Signing::None, &[&format!("_443._tcp TLSA 3 1 1 {DIGEST}")])
        .serve()
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// For a server that answers, however busy the machine is.
fn patient(liar: &Liar, zones: &Zones) -> DnsSettings {
    DnsSettings {
        attempt: Duration::from_secs(20),
        attempts: 2,
        ..settings(liar.address, zones.anchor())
    }
}

/// For one that is silent.
fn quick(liar: &Liar, zones: &Zones) -> DnsSettings {
    DnsSettings { attempt: Duration::from_secs(2), ..patient(liar, zones) }
}

/// A server that lies about one question and is honest about the rest.
fn about(
    zones: &Zones,
    about: (&'static str, RecordType),
    lie: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> Liar {
    Liar::start(zones.address(), move |asked| {
        if asked.is(about.0, about.1) { lie(&asked) } else { vec![fit(&asked)] }
    })
}

/// Asks for `host` through such a server.
async fn lied_to(
    zones: &Zones,
    host: &str,
    question: (&'static str, RecordType),
    lie: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> (Result<Proven<TlsaSet>, LookupFailure>, Liar) {
    let liar = about(zones, question, lie);
    let resolver = Resolver::new(&patient(&liar, zones)).unwrap();
    (tlsa(&resolver, host).await, liar)
}

/// The same if it says nothing, for a while or for good.
async fn silent_to(
    zones: &Zones,
    lie: impl Fn(&Asked) -> Vec<Vec<u8>> + Send + Sync + 'static,
) -> (Result<Proven<TlsaSet>, LookupFailure>, Liar) {
    let liar = about(zones, (WANTED, RecordType::TLSA), lie);
    let resolver = Resolver::new(&quick(&liar, zones)).unwrap();
    (tlsa(&resolver, "www.example.com").await, liar)
}

/// The honest answer.
fn fit(asked: &Asked) -> Vec<u8> {
    asked.honest.to_vec().unwrap()
}

/// The honest answer with a change.
fn changed(asked: &Asked, change: impl Fn(&mut Message)) -> Vec<Vec<u8>> {
    let mut message = asked.honest.clone();
    change(&mut message);
    vec![message.to_vec().unwrap()]
}

/// What the honest server answers to another question, as if to this one.
fn replayed(asked: &Asked, zones: std::net::SocketAddr, other: &str, kind: RecordType) -> Message {
    let mut question = asked.question.clone();
    question.queries = vec![Query::query(name(other), kind)];
    let mut message = ask(zones, &question.to_vec().unwrap());
    message.queries.clone_from(&asked.question.queries);
    message
}

fn unanswered(result: &Result<Proven<TlsaSet>, LookupFailure>, expected: &str) {
    match result {
        Err(LookupFailure::Unanswered { why, .. }) => assert!(why.contains(expected), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn datagrams_that_are_no_answer() {
    let zones = zones();
    let about = (WANTED, RecordType::TLSA);
    // A wrong identifier, a stranger's address, another question, a question: each is followed by
    // the truth, which must be what counts.
    let false_record = || {
        let data = TLSA::new(3.into(), 1.into(), 1.into(), vec![9; 32]);
        Record::from_rdata(name(WANTED), 300, RData::TLSA(data))
    };
    let (result, _) = lied_to(&zones, "www.example.com", about, move |asked| {
        let mut forged = asked.honest.clone();
        forged.answers = vec![false_record()];
        let mut wrong_id = forged.clone();
        wrong_id.metadata.id = wrong_id.metadata.id.wrapping_add(1);
        let stranger = forged.to_vec().unwrap();
        asked.stranger.send_to(&stranger, asked.from).unwrap();
        let mut other = forged.clone();
        other.queries = vec![Query::query(name("example.org."), RecordType::TLSA)];
        let messages = [wrong_id, other].map(|message| message.to_vec().unwrap());
        messages.into_iter().chain([b"x".to_vec(), fit(asked)]).collect()
    })
    .await;
    assert_eq!(secure(&result).records[0].data[0], 0);
    // The forged one alone, even with the right identifier: no signature.
    let (result, _) = lied_to(&zones, "www.example.com", about, move |asked| {
        changed(asked, |message| message.answers = vec![false_record()])
    })
    .await;
    bogus(&result, "not signed, but its zone is");
    // With the signature of the true one.
    let (result, _) = lied_to(&zones, "www.example.com", about, move |asked| {
        changed(asked, |message| {
            message.answers.retain(|record| record.record_type() != RecordType::TLSA);
            message.answers.push(false_record());
        })
    })
    .await;
    bogus(&result, "signature of example.com is wrong");
    // One more record in a signed set.
    let (result, _) = lied_to(&zones, "www.example.com", about, move |asked| {
        changed(asked, |message| message.answers.push(false_record()))
    })
    .await;
    bogus(&result, "signature of example.com is wrong");
    // What is true twice is true.
    let (result, _) = lied_to(&zones, "www.example.com", about, move |asked| {
        changed(asked, |message| message.answers.extend_from_within(..))
    })
    .await;
    assert_eq!(secure(&result).records.len(), 1);
    // The question as an answer.
    let (result, _) = silent_to(&zones, |asked| vec![asked.question.to_vec().unwrap()]).await;
    unanswered(&result, "no answer in time");
}

#[tokio::test]
async fn truncated_and_oversize() {
    let zones = zones();
    let about = (WANTED, RecordType::TLSA);
    let (result, liar) = lied_to(&zones, "www.example.com", about, |asked| {
        changed(asked, |message| {
            if !asked.tcp {
                message.metadata.truncation = true;
                message.answers.clear();
            }
        })
    })
    .await;
    secure(&result);
    assert_eq!(liar.count_of(WANTED, RecordType::TLSA), 2);
    // A datagram larger than what we said we take is cut by the kernel: the stream has it whole.
    let (result, _) = lied_to(&zones, "www.example.com", about, |asked| {
        let filler = Record::from_rdata(
            name("filler.example."),
            1,
            RData::TLSA(TLSA::new(3.into(), 1.into(), 1.into(), vec![7; 9000])),
        );
        changed(asked, |message| message.additionals.push(filler.clone()))
    })
    .await;
    secure(&result);
    // Cut even over TCP.
    let (result, _) = lied_to(&zones, "www.example.com", about, |asked| {
        changed(asked, |message| message.metadata.truncation = true)
    })
    .await;
    unanswered(&result, "cut, even over TCP");
    // Thousands of records.
    let (result, _) = lied_to(&zones, "www.example.com", about, |asked| {
        changed(asked, |message| {
            message.metadata.truncation = !asked.tcp;
            for n in 0..3000 {
                let data = TLSA::new(3.into(), 1.into(), 1.into(), vec![(n % 256) as u8; 2]);
                message.answers.push(Record::from_rdata(name("a."), 1, RData::TLSA(data)));
            }
        })
    })
    .await;
    unanswered(&result, "more than 512 records");
    // Not a message at all, over UDP and over TCP.
    let (result, _) = silent_to(&zones, |asked| {
        let mut bytes = fit(asked);
        bytes.truncate(40);
        vec![bytes]
    })
    .await;
    assert!(matches!(result, Err(LookupFailure::Unanswered { .. })), "{result:?}");
}

#[tokio::test]
async fn false_absence() {
    let zones = zones();
    let honest = zones.address();
    let about = (WANTED, RecordType::TLSA);
    // Nothing, with no proof.
    for code in [ResponseCode::NoError, ResponseCode::NXDomain] {
        let (result, _) = lied_to(&zones, "www.example.com", about, move |asked| {
            changed(asked, |message| {
                message.metadata.response_code = code;
                message.answers.clear();
                message.authorities.clear();
            })
        })
        .await;
        bogus(&result, "absence is not proven");
    }
    // As if the name were in an unsigned zone: with the SOA of one.
    let (result, _) = lied_to(&zones, "www.example.com", about, move |asked| {
        let other = replayed(asked, honest, "unsigned.com.", RecordType::SOA);
        changed(asked, |message| {
            message.metadata.response_code = ResponseCode::NXDomain;
            message.answers.clear();
            message.authorities.clone_from(&other.answers);
        })
    })
    .await;
    bogus(&result, "absence is not proven");
    // True proofs about something else: of the same zone, of the zone above it, of one beside it.
    for (other, kind) in [
        ("_444._tcp.www.example.com.", RecordType::TLSA),
        ("www.example.com.", RecordType::TLSA),
        ("zzz.example.com.", RecordType::TLSA),
        ("a.example.com.", RecordType::TLSA),
        ("example.con.", RecordType::TLSA),
        ("examplez.com.", RecordType::TLSA),
        ("exampla.com.", RecordType::TLSA),
        ("unsigned.com.", RecordType::DS),
        ("nobody.hashed.com.", RecordType::TLSA),
        ("nobody.examplf.org.", RecordType::TLSA),
    ] {
        let (result, _) = lied_to(&zones, "www.example.com", about, move |asked| {
            vec![replayed(asked, honest, other, kind).to_vec().unwrap()]
        })
        .await;
        bogus(&result, "absence is not proven");
    }
    // The zone has no key, it says, with the proof for another.
    let (result, _) =
        lied_to(&zones, "www.example.com", ("example.com.", RecordType::DS), move |asked| {
            vec![replayed(asked, honest, "unsigned.com.", RecordType::DS).to_vec().unwrap()]
        })
        .await;
    bogus(&result, "absence is not proven");
    // Opt-out elsewhere, or in a zone below, says nothing about this one.
    let (result, _) =
        lied_to(&zones, "www.example.com", ("example.com.", RecordType::DS), move |asked| {
            vec![replayed(asked, honest, "nobody.examplf.org.", RecordType::DS).to_vec().unwrap()]
        })
        .await;
    bogus(&result, "absence is not proven");
    // The DS records and their signature are gone.
    let (result, _) =
        lied_to(&zones, "www.example.com", ("example.com.", RecordType::DS), |asked| {
            changed(asked, |message| message.answers.clear())
        })
        .await;
    bogus(&result, "absence is not proven");
    // The zone itself says that it has no key: it is not asked, or we would wait for ourselves.
    let (result, _) =
        lied_to(&zones, "www.example.com", ("example.com.", RecordType::DS), move |asked| {
            vec![replayed(asked, honest, "zzz.example.com.", RecordType::TLSA).to_vec().unwrap()]
        })
        .await;
    bogus(&result, "absence is not proven");
    // It is an alias, say the zone itself and the zone above, with signatures that are none.
    for signer in ["example.com.", "com."] {
        let (result, _) =
            lied_to(&zones, "www.example.com", ("example.com.", RecordType::DS), move |asked| {
                changed(asked, |message| {
                    let alias = RData::CNAME(CNAME(name("example.org.")));
                    let alias = Record::from_rdata(name("example.com."), 300, alias);
                    let signature = message.answers.iter().find_map(|record| match &record.data {
                        RData::DNSSEC(DNSSECRData::RRSIG(signature)) => Some(signature.clone()),
                        _ => None,
                    });
                    let signature = signature.unwrap();
                    let mut input = signature.input().clone();
                    input.type_covered = RecordType::CNAME;
                    input.signer_name = name(signer);
                    let signature = RRSIG::from_sig(input, signature.sig().to_vec());
                    let signature = RData::DNSSEC(DNSSECRData::RRSIG(signature));
                    let signature = Record::from_rdata(name("example.com."), 300, signature);
                    message.answers = vec![alias, signature];
                })
            })
            .await;
        bogus(&result, "");
    }
    // All signatures are gone, everywhere.
    let liar = Liar::start(zones.address(), |asked| {
        changed(&asked, |message| {
            for section in [&mut message.answers, &mut message.authorities] {
                section.retain(|record| {
                    !matches!(
                        record.record_type(),
                        RecordType::RRSIG | RecordType::NSEC | RecordType::NSEC3
                    )
                });
            }
        })
    });
    let resolver = Resolver::new(&patient(&liar, &zones)).unwrap();
    bogus(&tlsa(&resolver, "www.example.com").await, "");
    bogus(&tlsa(&resolver, "unsigned.com").await, "");
}

#[tokio::test]
async fn wildcards_where_there_is_a_name() {
    let zones = zones();
    let honest = zones.address();
    let resolver = Resolver::new(&settings(honest, zones.anchor())).unwrap();
    absent(&tlsa(&resolver, "exact.wild.example.com").await, "has no TLSA record");
    // The wildcard's record and signature, for a name that exists: no proof, or that for another.
    for keep in [false, true] {
        let wanted = ("_443._tcp.exact.wild.example.com.", RecordType::TLSA);
        let (result, _) = lied_to(&zones, "exact.wild.example.com", wanted, move |asked| {
            let other = "_443._tcp.zzz.wild.example.com.";
            let mut message = replayed(asked, honest, other, RecordType::TLSA);
            for record in &mut message.answers {
                record.name = name(wanted.0);
            }
            if !keep {
                message.authorities.clear();
            }
            vec![message.to_vec().unwrap()]
        })
        .await;
        bogus(&result, "");
    }
}

/// All that `com` says about which names it has.
fn denials_of_com(asked: &Asked, honest: std::net::SocketAddr, owners: usize) -> Vec<Record> {
    let mut found: Vec<Record> = Vec::new();
    let names = (0..500).flat_map(|n| ["a", "m", "z"].map(|letter| format!("{letter}{n}.com.")));
    for name in std::iter::once("com.".to_owned()).chain(names) {
        for record in replayed(asked, honest, &name, RecordType::A).authorities {
            let denies = match &record.data {
                RData::DNSSEC(DNSSECRData::RRSIG(signature)) => signature.input().type_covered,
                _ => record.record_type(),
            };
            let denies = matches!(denies, RecordType::NSEC | RecordType::NSEC3);
            if denies && !found.contains(&record) {
                found.push(record);
            }
        }
        if found.len() == 2 * owners {
            return found;
        }
    }
    panic!("{} of {owners}", found.len());
}

/// Zones above know of no name in those below: what they deny says nothing about a wildcard there, and
/// their own wildcards say nothing about names in zones below.
#[tokio::test]
async fn wildcards_and_the_denials_of_the_zone_above() {
    let wildcard = format!("* TLSA 3 1 1 {}", "9".repeat(64));
    for above in [Signing::Nsec, Signing::Nsec3, Signing::OptOut] {
        for signing in [Signing::Nsec, Signing::Nsec3] {
            let record = format!("_443._tcp.mail TLSA 3 1 1 {DIGEST}");
            let zones = ZoneSet::new()
                .zone("com", above, &[&wildcard])
                .zone("example.com", signing, &["* CNAME www", "www A 127.0.0.1", &record])
                .zone("unsigned.com", Signing::None, &[])
                .serve();
            let honest = zones.address();
            let resolver = Resolver::new(&settings(honest, zones.anchor())).unwrap();
            secure(&tlsa(&resolver, "mail.example.com").await);
            absent(&tlsa(&resolver, "other.example.com").await, "");
            for (host, wanted, other) in [
                ("mail.example.com", "_443._tcp.mail.example.com.", "zzz.example.com."),
                ("mail.example.com", "_443._tcp.mail.example.com.", "zzz.com."),
                ("unsigned.com", "_443._tcp.unsigned.com.", "zzz.com."),
            ] {
                let (result, _) = lied_to(&zones, host, (wanted, RecordType::TLSA), move |asked| {
                    let mut message = replayed(asked, honest, other, RecordType::TLSA);
                    message.answers.retain(|record| record.name == name(other));
                    assert!(!message.answers.is_empty());
                    for record in &mut message.answers {
                        record.name = name(wanted);
                    }
                    message.authorities = denials_of_com(asked, honest, 4);
                    vec![message.to_vec().unwrap()]
                })
                .await;
                if host == "unsigned.com" {
                    absent(&result, "not signed");
                } else {
                    bogus(&result, "");
                }
            }
        }
    }
}

#[tokio::test]
async fn aliases_that_nobody_signed() {
    let zones = zones();
    for target in ["_443._tcp.evil.example.", WANTED] {
        let about = (WANTED, RecordType::TLSA);
        let (result, _) = lied_to(&zones, "www.example.com", about, move |asked| {
            changed(asked, |message| {
                let alias = RData::CNAME(CNAME(name(target)));
                message.answers = vec![Record::from_rdata(name(WANTED), 300, alias)];
            })
        })
        .await;
        bogus(&result, "not signed, but its zone is");
    }
}

#[tokio::test]
async fn one_server_fails_and_another_answers() {
    let zones = zones();
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::FormErr] {
        let liar = Liar::start(zones.address(), move |asked| {
            changed(&asked, |message| message.metadata.response_code = code)
        });
        let mut both = patient(&liar, &zones);
        let resolver = Resolver::new(&both).unwrap();
        unanswered(&tlsa(&resolver, "www.example.com").await, "answers");
        let tlspool_lookup::dns::UpstreamSettings::Forwarders(list) = &mut both.upstream else {
            panic!("{both:?}")
        };
        list.push(tlspool_lookup::dns::Forwarder {
            address: zones.address(),
            protocol: tlspool_lookup::dns::Protocol::UdpTcp,
        });
        secure(&tlsa(&Resolver::new(&both).unwrap(), "www.example.com").await);
    }
}

#[tokio::test]
async fn silence() {
    let zones = zones();
    // A lost datagram is sent again.
    let lost = |asked: &Asked| if asked.before == 0 { vec![] } else { vec![fit(asked)] };
    let (result, _) = silent_to(&zones, lost).await;
    secure(&result);
    // Silence for good is a failure, after as many attempts as configured.
    let begun = Instant::now();
    let (result, liar) = silent_to(&zones, |_| vec![]).await;
    unanswered(&result, "no answer in time");
    // Who does not wait for an answer may be done before the question is read.
    while liar.count_of(WANTED, RecordType::TLSA) < 2 {
        assert!(begun.elapsed() < LIMIT, "it was not asked twice");
        tokio::task::yield_now().await;
    }
    assert_eq!(liar.count_of(WANTED, RecordType::TLSA), 2);
    // The deadline ends everything.
    let liar = Liar::start(zones.address(), |_| vec![]);
    let slow = DnsSettings { attempt: Duration::from_mins(1), ..quick(&liar, &zones) };
    let resolver = Resolver::new(&slow).unwrap();
    let deadline = Instant::now() + Duration::from_millis(200);
    let result = proven(resolver.tlsa("www.example.com", 443, Transport::Tcp, deadline).await);
    assert!(matches!(result, Err(LookupFailure::TimedOut(_))), "{result:?}");
}

#[tokio::test]
async fn sharing_and_bounds() {
    let zones = zones();
    // Equal look-ups at once are one.
    let liar = Liar::start(zones.address(), |asked| vec![fit(&asked)]);
    let resolver = Resolver::new(&patient(&liar, &zones)).unwrap();
    let ask = || tlsa(&resolver, "www.example.com");
    let (a, b, c) = tokio::join!(ask(), ask(), ask());
    for result in [a, b, c] {
        secure(&result);
    }
    for (name, kind) in [
        (WANTED, RecordType::TLSA),
        ("www.example.com.", RecordType::A),
        ("example.com.", RecordType::DNSKEY),
        ("com.", RecordType::DS),
        (".", RecordType::DNSKEY),
    ] {
        assert_eq!(liar.count_of(name, kind), 1, "{name} {kind}");
    }
    // The keys of zones are remembered; answers are not.
    let before = liar.count();
    secure(&ask().await);
    assert_eq!(liar.count() - before, 2);
    // A domain whose server is silent gets its share and no more; others are not in its way.
    let liar = Liar::start(zones.address(), |asked| {
        if asked.name().contains("hashed.com") { vec![] } else { vec![fit(&asked)] }
    });
    let bounded = DnsSettings { per_target: 4, ..quick(&liar, &zones) };
    let resolver = Resolver::new(&bounded).unwrap();
    let mut busy = 0;
    let hosts: Vec<String> = (0..6).map(|n| format!("h{n}.hashed.com")).collect();
    let (one, two, three, four, other) = tokio::join!(
        tlsa(&resolver, &hosts[0]),
        tlsa(&resolver, &hosts[1]),
        tlsa(&resolver, &hosts[2]),
        tlsa(&resolver, &hosts[3]),
        tlsa(&resolver, "www.example.com"),
    );
    secure(&other);
    for result in [one, two, three, four] {
        match result {
            Err(LookupFailure::Busy { target, limit }) => {
                assert_eq!((target.as_str(), limit), ("hashed.com", 4));
                busy += 1;
            }
            Err(LookupFailure::Unanswered { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    // Each asks two things at once.
    assert_eq!(busy, 2);
}

#[tokio::test]
async fn what_a_lookup_may_cost() {
    let zones = zones();
    // A thousand false signatures of the right kind: what is wrong is known before the deadline.
    let about = (WANTED, RecordType::TLSA);
    let (result, _) = lied_to(&zones, "www.example.com", about, |asked| {
        changed(asked, |message| {
            message.metadata.truncation = !asked.tcp;
            let answers = std::mem::take(&mut message.answers);
            for record in answers {
                if record.record_type() == RecordType::RRSIG {
                    for _ in 0..300 {
                        message.answers.push(record.clone());
                    }
                } else {
                    message.answers.push(Record::from_rdata(
                        record.name.clone(),
                        1,
                        RData::TLSA(TLSA::new(3.into(), 1.into(), 1.into(), vec![9; 32])),
                    ));
                }
            }
        })
    })
    .await;
    bogus(&result, "signature of example.com is wrong");
}
