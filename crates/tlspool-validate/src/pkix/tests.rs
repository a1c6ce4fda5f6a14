//! Certificates made here, believed or refused.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose as Eku,
    GeneralSubtree, IsCa, KeyPair, NameConstraints, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
};
use tlspool_identity::{DoNai, How};

use super::*;
use crate::{SystemAnchors, TableAnchor};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// 2030-01-01, within rcgen's default validity.
const NOW: u64 = 1_893_456_000;

fn authority(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn leaf(
    issuer: &Authority,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> CertificateDer<'static> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(names).unwrap();
    change(&mut params);
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
}

fn self_signed(name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    change(&mut params);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
}

fn trusting(rows: &[(Option<&str>, &CertificateDer<'_>)]) -> PkixValidator {
    let rows =
        rows.iter().map(|(service, der)| TableAnchor { service: *service, certificate: der });
    let loaded = TrustAnchors::load(&SystemAnchors::default(), rows).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    PkixValidator::new(Arc::new(loaded.anchors), Legacy::Refuse)
}

fn ask<'a>(chain: &'a [CertificateDer<'a>], wanted: Option<&'a DoNai>) -> Question<'a> {
    Question {
        chain,
        peer: Peer::Server,
        wanted,
        domain_represents_user: false,
        service: "",
        now: UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
    }
}

fn name(text: &str) -> DoNai {
    DoNai::parse(text).unwrap()
}

#[test]
fn a_path_and_the_wanted_name() {
    let root = authority("Root", |_| {});
    let validator = trusting(&[(None, root.der())]);
    let chain = [leaf(&root, &["www.example.com", "example.com"], |_| {})];
    let validated = validator.check(&ask(&chain, Some(&name("example.com")))).unwrap();
    assert_eq!(validated.identity, name("example.com"));
    assert_eq!(validated.others, [name("www.example.com")]);
    assert_eq!(validated.how, Some(How::Exact));
    assert_eq!(validator.check(&ask(&chain, None)).unwrap().identity, name("www.example.com"));
    let refusal = validator.check(&ask(&chain, Some(&name("bank.example")))).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the peer is not bank.example: its certificate is for www.example.com, example.com"
    );
    assert_eq!(validator.check(&ask(&[], None)), Err(Refusal::NoCertificate));
}

#[test]
fn intermediates_and_other_algorithms() {
    let root = authority("Root", |_| {});
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Between");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let between = CertifiedIssuer::signed_by(params, key, &root).unwrap();
    let params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let leaf = params.signed_by(&key, &between).unwrap().der().clone();
    let validator = trusting(&[(None, root.der())]);
    let chain = [leaf.clone(), between.der().clone()];
    assert!(validator.check(&ask(&chain, Some(&name("a.example")))).is_ok());
    // Without the intermediate there is no path, and the text names who is missing.
    let refusal = validator.check(&ask(&[leaf], None)).unwrap_err();
    assert!(refusal.to_string().contains("Between"), "{refusal}");
    assert_eq!(refusal.alert(), 48);
}

#[test]
fn wildcards_match_but_name_nobody() {
    let root = authority("Root", |_| {});
    let validator = trusting(&[(None, root.der())]);
    let chain = [leaf(&root, &["*.example.com"], |_| {})];
    let wanted = name("www.example.com");
    let validated = validator.check(&ask(&chain, Some(&wanted))).unwrap();
    assert_eq!((validated.identity, validated.how), (wanted, Some(How::Wildcard)));
    let refusal = validator.check(&ask(&chain, None)).unwrap_err();
    assert!(matches!(&refusal, Refusal::NoName { ignored } if ignored.len() == 1), "{refusal}");
}

#[test]
fn a_domain_for_its_user_if_permitted() {
    let root = authority("Root", |_| {});
    let validator = trusting(&[(None, root.der())]);
    let chain = [leaf(&root, &["example.com"], |_| {})];
    let wanted = name("john@example.com");
    let mut question = ask(&chain, Some(&wanted));
    assert!(matches!(validator.check(&question), Err(Refusal::WrongName { .. })));
    question.domain_represents_user = true;
    let validated = validator.check(&question).unwrap();
    assert_eq!(validated.identity, name("example.com"));
    assert_eq!(validated.how, Some(How::DomainForUser));
}

#[test]
fn time() {
    let root = authority("Root", |_| {});
    let validator = trusting(&[(None, root.der())]);
    let late = leaf(&root, &["a.example"], |p| p.not_before = rcgen::date_time_ymd(2031, 1, 1));
    let early = leaf(&root, &["a.example"], |p| p.not_after = rcgen::date_time_ymd(2029, 1, 1));
    assert!(matches!(validator.check(&ask(&[late], None)), Err(Refusal::NotYetValid(_))));
    let refusal = validator.check(&ask(&[early], None)).unwrap_err();
    assert!(refusal.to_string().contains("2029"), "{refusal}");
}

#[test]
fn usage() {
    let root = authority("Root", |_| {});
    let validator = trusting(&[(None, root.der())]);
    for (eku, server, client) in [
        (vec![], true, true),
        (vec![Eku::ServerAuth], true, false),
        (vec![Eku::ClientAuth], false, true),
        (vec![Eku::CodeSigning], false, false),
    ] {
        let chain = [leaf(&root, &["a.example"], |p| p.extended_key_usages.clone_from(&eku))];
        for (peer, good) in [(Peer::Server, server), (Peer::Client, client)] {
            let result = validator.check(&Question { peer, ..ask(&chain, None) });
            assert_eq!(result.is_ok(), good, "{eku:?} {peer:?}");
            assert!(good || matches!(result, Err(Refusal::WrongUsage(_))));
        }
    }
}

#[test]
fn other_issuers_and_forged_signatures() {
    let root = authority("Root", |_| {});
    let evil = authority("Root", |_| {});
    let validator = trusting(&[(None, root.der())]);
    let forged = leaf(&evil, &["a.example"], |_| {});
    let result = validator.check(&ask(&[forged], None));
    assert!(matches!(result, Err(Refusal::BadSignature | Refusal::UnknownIssuer { .. })));
    let nobody = trusting(&[]);
    let good = [leaf(&root, &["a.example"], |_| {})];
    assert!(matches!(nobody.check(&ask(&good, None)), Err(Refusal::UnknownIssuer { .. })));
    nobody.replace(Arc::new(
        TrustAnchors::load(
            &SystemAnchors::default(),
            [TableAnchor { service: None, certificate: root.der() }],
        )
        .unwrap()
        .anchors,
    ));
    assert!(nobody.check(&ask(&good, None)).is_ok());
    let own = [root.der().clone()];
    let stranger = trusting(&[(None, evil.der())]);
    assert!(matches!(stranger.check(&ask(&own, None)), Err(Refusal::AuthorityAsPeer)));
}

#[test]
fn a_service_with_anchors_of_its_own_trusts_only_these() {
    let public = authority("Public", |_| {});
    let private = authority("Private", |_| {});
    let validator = trusting(&[(None, public.der()), (Some("imap"), private.der())]);
    let by_public = [leaf(&public, &["a.example"], |_| {})];
    let by_private = [leaf(&private, &["a.example"], |_| {})];
    let good = |chain, service| validator.check(&Question { service, ..ask(chain, None) }).is_ok();
    assert!(good(&by_public, "http") && !good(&by_public, "imap"));
    assert!(good(&by_private, "imap") && !good(&by_private, "http"));
}

#[test]
fn an_exact_certificate_is_trusted_and_issues_nothing() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["john.example".to_owned()]).unwrap();
    let john = CertifiedIssuer::self_signed(params, key).unwrap();
    let validator = trusting(&[(None, john.der())]);
    let own = [john.der().clone()];
    assert_eq!(validator.check(&ask(&own, None)).unwrap().identity, name("john.example"));
    let forged = [leaf(&john, &["bank.example"], |_| {}), john.der().clone()];
    assert!(validator.check(&ask(&forged, None)).is_err());
    // Its time and usage count all the same.
    let expired = self_signed("a.example", |p| p.not_after = rcgen::date_time_ymd(2029, 1, 1));
    let validator = trusting(&[(None, &expired)]);
    let expired = [expired.clone()];
    assert!(matches!(validator.check(&ask(&expired, None)), Err(Refusal::Expired(_))));
    let client = self_signed("a.example", |p| p.extended_key_usages = vec![Eku::ClientAuth]);
    let validator = trusting(&[(None, &client)]);
    let client = [client.clone()];
    assert!(matches!(validator.check(&ask(&client, None)), Err(Refusal::WrongUsage("server"))));
}

#[test]
fn name_constraints_cannot_be_evaded() {
    let root = authority("Root", |p| {
        p.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.com".to_owned())],
            excluded_subtrees: vec![],
        });
    });
    let validator = trusting(&[(None, root.der())]);
    let good = [leaf(&root, &["www.example.com"], |_| {})];
    assert!(validator.check(&ask(&good, None)).is_ok());
    let outside = [leaf(&root, &["bank.example"], |_| {})];
    assert!(matches!(validator.check(&ask(&outside, None)), Err(Refusal::Constrained(_))));
    // In the subject the constraint does not reach it, so it is not believed.
    let legacy = PkixValidator::new(Arc::clone(&validator.anchors.read().unwrap()), Legacy::Accept);
    let around =
        [leaf(&root, &[], |p| p.distinguished_name.push(DnType::CommonName, "bank.example"))];
    assert!(matches!(legacy.check(&ask(&around, None)), Err(Refusal::NoName { .. })));
    let free = authority("Free", |_| {});
    let anchors = TrustAnchors::load(
        &SystemAnchors::default(),
        [TableAnchor { service: None, certificate: free.der() }],
    );
    legacy.replace(Arc::new(anchors.unwrap().anchors));
    let named =
        [leaf(&free, &[], |p| p.distinguished_name.push(DnType::CommonName, "bank.example"))];
    assert_eq!(legacy.check(&ask(&named, None)).unwrap().identity, name("bank.example"));
}

#[test]
fn rubbish_is_refused() {
    let root = authority("Root", |_| {});
    let validator = trusting(&[(None, root.der())]);
    let good = leaf(&root, &["a.example"], |_| {});
    for cut in 0..good.len() {
        let chain = [CertificateDer::from(&good[..cut])];
        assert!(validator.check(&ask(&chain, None)).is_err());
    }
}

#[test]
fn anchors_from_files() {
    let paths = |path| SystemAnchors { native: false, paths: vec![path] };
    let folder = tempfile::tempdir().unwrap();
    let root = authority("Root", |_| {});
    let file = folder.path().join("root.pem");
    std::fs::write(&file, root.pem()).unwrap();
    std::fs::write(folder.path().join("again.pem"), root.pem()).unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    for path in [file, folder.path().to_owned()] {
        let loaded = TrustAnchors::load(&paths(path), []).unwrap();
        assert_eq!(loaded.anchors.len(), 1);
    }
    for path in ["sub", "missing"] {
        assert!(TrustAnchors::load(&paths(folder.path().join(path)), []).is_err());
    }
    let native = SystemAnchors { native: true, paths: vec![] };
    let native = TrustAnchors::load(&native, []).unwrap();
    assert_eq!(native.anchors.is_empty(), !native.warnings.is_empty());
}
