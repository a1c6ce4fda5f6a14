//! Revocation lists and OCSP responses made here, and by OpenSSL.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use der::asn1::{BitString, GeneralizedTime};
use der::{Decode, Encode};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    CrlDistributionPoint, DnType, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair,
    RevokedCertParams, SerialNumber, SigningKey,
};
use rustls_pki_types::CertificateDer;
use x509_ocsp::{
    BasicOcspResponse, CertStatus, OcspGeneralizedTime, OcspRequest, OcspResponse, ResponderId,
    ResponseData, RevokedInfo, SingleResponse, Version,
};

use crate::policy::Predicate;
use crate::sources::{Answer, Caches, Found, Looking, Options, Origin, Outcome, Query, Sources};
use crate::trace::Truth;
use crate::validator::tests::{
    Authority, NOW, Rows, World, absent, anchors, authority, everything_on, failed, inquiry, name,
};
use crate::{Legacy, PolicySettings, PolicyValidator, RevocationLists};

const SERIAL: u64 = 4711;
const DAY: u64 = 86_400;

fn time(seconds: u64) -> GeneralizedTime {
    GeneralizedTime::from_unix_duration(Duration::from_secs(seconds)).unwrap()
}

/// A leaf with a number that tests revoke; names a list if so wished.
fn leaf(issuer: &Authority, crl: Option<&str>) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(vec!["example.com".to_owned()]).unwrap();
    params.serial_number = Some(SerialNumber::from(SERIAL));
    params.crl_distribution_points =
        crl.map(|url| CrlDistributionPoint { uris: vec![url.to_owned()] }).into_iter().collect();
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
}

/// The year in which a list ends; all begin a week before [`NOW`].
const LATER: i32 = 2031;
const EARLIER: i32 = 2029;

fn list(issuer: &Authority, revoked: &[u64], until: i32) -> Vec<u8> {
    let params = CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2029, 12, 25),
        next_update: rcgen::date_time_ymd(until, 12, 30),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked
            .iter()
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from(*serial),
                revocation_time: rcgen::date_time_ymd(2029, 12, 26),
                reason_code: None,
                invalidity_date: None,
            })
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().der().to_vec()
}

fn validator(root: &Authority) -> PolicyValidator {
    PolicyValidator::new(anchors(root), Legacy::Refuse, everything_on())
}

/// What `predicate` comes to.
async fn truth(
    validator: &PolicyValidator,
    chain: &[CertificateDer<'_>],
    stapled: &[u8],
    predicate: Predicate,
    world: &dyn Sources,
) -> (Truth, String) {
    let wanted = name("example.com");
    let mut inquiry = inquiry(chain, Some(&wanted));
    inquiry.stapled_ocsp = stapled;
    let rows = Rows::remote(predicate.as_str());
    let trace = match validator.validate(&inquiry, &rows, world).await {
        Ok(validated) => validated.trace,
        Err(refused) => refused.trace,
    };
    let trace = trace.unwrap();
    let asked = trace.asked(predicate).unwrap();
    (asked.truth, asked.why.clone())
}

#[tokio::test(start_paused = true)]
async fn lists_in_files() {
    let root = authority("Root");
    let stranger = authority("Stranger");
    let chain = [leaf(&root, None)];
    let folder = tempfile::tempdir().unwrap();
    let twin = authority("Root");
    for (list, expected) in [
        (list(&root, &[1, 2], LATER), Truth::True),
        (list(&root, &[SERIAL], LATER), Truth::False),
        (list(&root, &[1], EARLIER), Truth::Failed),
        // Of the same name, but by another key.
        (list(&twin, &[1], LATER), Truth::Failed),
        (list(&stranger, &[SERIAL], LATER), Truth::Absent),
    ] {
        let path = folder.path().join("list");
        std::fs::write(&path, list).unwrap();
        let lists = RevocationLists::load(&[folder.path().to_owned()]).unwrap();
        assert_eq!(lists.len(), 1);
        let validator = validator(&root).with_revocation_lists(Arc::new(lists));
        let (found, why) = truth(&validator, &chain, &[], Predicate::Crl, &World::default()).await;
        assert_eq!(found, expected, "{why}");
    }
    std::fs::write(folder.path().join("list"), b"no list").unwrap();
    assert!(RevocationLists::load(&[folder.path().to_owned()]).is_err());
    let (found, _) = truth(&validator(&root), &chain, &[], Predicate::Crl, &World::default()).await;
    assert_eq!(found, Truth::Absent);
}

#[tokio::test(start_paused = true)]
async fn lists_that_are_fetched() {
    let root = authority("Root");
    let chain = [leaf(&root, Some("http://crl.example.com/root.crl"))];
    let validator = validator(&root);
    let present = |der| Outcome::Present(Answer::Crl(der));
    for (outcome, expected) in [
        (present(list(&root, &[1], LATER)), Truth::True),
        (present(list(&root, &[SERIAL], LATER)), Truth::False),
        (present(list(&authority("Other"), &[], LATER)), Truth::Failed),
        (present(b"junk".to_vec()), Truth::Failed),
        (absent(), Truth::Absent),
        (failed(), Truth::Failed),
    ] {
        let world = World::default().with("crl", 5, outcome);
        let (found, why) = truth(&validator, &chain, &[], Predicate::Crl, &world).await;
        assert_eq!(found, expected, "{why}");
        let url = "http://crl.example.com/root.crl".to_owned();
        assert_eq!(world.asked.borrow()[0].0, Query::Crl { url });
    }
    // Not fetched if that is not configured, nor from elsewhere than HTTP, nor for who knows whom.
    let off = PolicyValidator::new(anchors(&root), Legacy::Refuse, PolicySettings::default());
    let world = World::default();
    assert_eq!(truth(&off, &chain, &[], Predicate::Crl, &world).await.0, Truth::Absent);
    let odd = [leaf(&root, Some("ldap://example.com/"))];
    assert_eq!(truth(&validator, &odd, &[], Predicate::Crl, &world).await.0, Truth::Absent);
    let unknown = [leaf(&authority("Unknown"), Some("http://10.0.0.1/"))];
    assert_eq!(truth(&validator, &unknown, &[], Predicate::Crl, &world).await.0, Truth::Failed);
}

/// A world of which something is remembered: here, or farther away.
struct Remembering {
    remembered: Outcome,
    here: bool,
    world: World,
}

impl Remembering {
    fn found(&self) -> Found {
        let origin = if self.here { Origin::Memory } else { Origin::Memcached };
        let (elapsed, steps) = (Duration::ZERO, Vec::new());
        Found { outcome: self.remembered.clone(), origin, elapsed, lasts: None, steps }
    }

    /// What the sources themselves were asked.
    fn asked(&self) -> usize {
        self.world.asked.borrow().len()
    }
}

impl Sources for Remembering {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        if options.caches == Caches::Ignore {
            return self.world.look_up(query, options);
        }
        Box::pin(std::future::ready(self.found()))
    }

    fn at_hand(&self, _: &Query, options: Options) -> Option<Found> {
        (self.here && options.caches == Caches::Use).then(|| self.found())
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_and_no_good_is_fetched_once_more() {
    let root = authority("Root");
    let chain = [leaf(&root, Some("http://crl.example.com/root.crl"))];
    let validator = validator(&root);
    let present = |der| Outcome::Present(Answer::Crl(der));
    let good = || present(list(&root, &[1], LATER));
    let revoked = || present(list(&root, &[SERIAL], LATER));
    let expired = || present(list(&root, &[1], EARLIER));
    let forged = present(list(&authority("Other"), &[], LATER));
    let junk = present(b"junk".to_vec());
    for here in [false, true] {
        for (remembered, now, expected, asked) in [
            (good(), junk.clone(), Truth::True, 0),
            (revoked(), good(), Truth::False, 0),
            (absent(), good(), Truth::Absent, 0),
            (expired(), good(), Truth::True, 1),
            (forged.clone(), revoked(), Truth::False, 1),
            (junk.clone(), absent(), Truth::Absent, 1),
            // It is no better: once is enough.
            (expired(), expired(), Truth::Failed, 1),
            (expired(), failed(), Truth::Failed, 1),
        ] {
            let world = World::default().with("crl", 5, now);
            let world = Remembering { remembered, here, world };
            let (found, why) = truth(&validator, &chain, &[], Predicate::Crl, &world).await;
            assert_eq!((found, world.asked()), (expected, asked), "{why}");
        }
    }
    // Within the same time limit.
    let begun = tokio::time::Instant::now();
    let limit = validator.settings().timeout;
    let world = World::default().with("crl", 3_600_000, good());
    let world = Remembering { remembered: expired(), here: true, world };
    let (found, why) = truth(&validator, &chain, &[], Predicate::Crl, &world).await;
    assert_eq!((found, why.as_str()), (Truth::Failed, "there was no answer in time"));
    assert!(begun.elapsed() <= limit + Duration::from_secs(1));
}

/// A peer of whom nobody said who it is may have several names: its list is fetched once more for all of them.
#[tokio::test(start_paused = true)]
async fn it_is_fetched_once_more_for_all_names_of_a_peer() {
    let root = authority("Root");
    let mut params = CertificateParams::new(vec!["a.example.com".into(), "b.example.com".into()]);
    let params = params.as_mut().unwrap();
    let uris = vec!["http://crl.example.com/root.crl".to_owned()];
    params.crl_distribution_points = vec![CrlDistributionPoint { uris }];
    let chain = [params.signed_by(&KeyPair::generate().unwrap(), &root).unwrap().der().clone()];
    let expired = || Outcome::Present(Answer::Crl(list(&root, &[1], EARLIER)));
    let world = World::default().with("crl", 5, expired());
    let world = Remembering { remembered: expired(), here: true, world };
    let rows = Rows::remote("crl");
    let inquiry = inquiry(&chain, None);
    assert!(validator(&root).validate(&inquiry, &rows, &world).await.is_err());
    assert_eq!(world.asked(), 1);
}

/// The number of an authority between.
const BETWEEN: u64 = 815;

/// An authority of `issuer`, until the end of a year.
fn between(
    issuer: &Authority,
    name: &str,
    key: KeyPair,
    serial: u64,
    until: i32,
) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.serial_number = Some(SerialNumber::from(serial));
    params.not_after = rcgen::date_time_ymd(until, 12, 30);
    CertifiedIssuer::signed_by(params, key, issuer).unwrap()
}

/// A key twice.
fn twice(key: &KeyPair) -> KeyPair {
    KeyPair::from_pem(&key.serialize_pem()).unwrap()
}

fn from_files(lists: &[Vec<u8>]) -> Arc<RevocationLists> {
    let folder = tempfile::tempdir().unwrap();
    for (n, list) in lists.iter().enumerate() {
        std::fs::write(folder.path().join(n.to_string()), list).unwrap();
    }
    Arc::new(RevocationLists::load(&[folder.path().to_owned()]).unwrap())
}

/// Who holds the key of a revoked authority cannot make up for it: neither by a list of his own, nor by
/// naming none, nor by other certificates that he sends along.
#[tokio::test(start_paused = true)]
async fn revoked_authorities() {
    let root = authority("Root");
    let key = KeyPair::generate().unwrap();
    let stolen = between(&root, "Between", twice(&key), BETWEEN, LATER);
    let renewed = between(&root, "Between", twice(&key), BETWEEN + 1, LATER);
    let own = |key| between(&authority("Root"), "Between", key, 1, LATER);
    let unsigned = own(KeyPair::generate().unwrap());
    let expired = between(&root, "Between", twice(&key), 1, EARLIER);
    let naming = leaf(&stolen, Some("http://crl.example.com/between.crl"));
    let silent = leaf(&stolen, None);
    let chain = |leaf: &CertificateDer<'static>, others: &[&Authority]| {
        let others = others.iter().map(|other| other.der().clone());
        std::iter::once(leaf.clone()).chain(others).collect::<Vec<_>>()
    };
    let clean = || Outcome::Present(Answer::Crl(list(&stolen, &[], LATER)));
    let revokes = list(&root, &[BETWEEN], LATER);
    let old = list(&root, &[BETWEEN], EARLIER);
    let other = list(&root, &[], LATER);
    let both = [revokes.clone(), list(&stolen, &[], LATER)];
    let many: Vec<&Authority> =
        std::iter::once(&stolen).chain(std::iter::repeat_n(&unsigned, 150)).collect();
    for (what, lists, chain, fetched, expected) in [
        ("fine", vec![other.clone()], chain(&naming, &[&stolen]), Some(clean()), Truth::True),
        ("fine", vec![], chain(&naming, &[&stolen]), Some(clean()), Truth::True),
        ("fine", vec![other.clone()], chain(&silent, &[&stolen]), None, Truth::Absent),
        ("his list", vec![revokes.clone()], chain(&naming, &[&stolen]), None, Truth::False),
        ("no list", vec![revokes.clone()], chain(&silent, &[&stolen]), None, Truth::False),
        ("a list here", both.to_vec(), chain(&silent, &[&stolen]), None, Truth::False),
        ("out of date", vec![old], chain(&silent, &[&stolen]), None, Truth::Failed),
        ("hidden", both.to_vec(), chain(&silent, &[&stolen, &expired]), None, Truth::Failed),
        ("hidden", both.to_vec(), chain(&silent, &[&expired, &stolen]), None, Truth::Failed),
        ("exhausted", both.to_vec(), chain(&silent, &many), None, Truth::Failed),
        // The authority has been certified anew since, and that stands.
        ("renewed", both.to_vec(), chain(&silent, &[&stolen, &renewed]), None, Truth::True),
    ] {
        let validator = validator(&root).with_revocation_lists(from_files(&lists));
        // Nobody is asked if it is known here.
        let mut world = World::default();
        if let Some(fetched) = fetched {
            world = world.with("crl", 5, fetched);
        }
        let (found, why) = truth(&validator, &chain, &[], Predicate::Crl, &world).await;
        assert_eq!(found, expected, "{what}: {why}");
    }
}

/// A list by who is said to have issued the certificate is not passed over because the peer left out the
/// certificate that would show the key.
#[tokio::test(start_paused = true)]
async fn issuers_that_are_left_out() {
    let (root, other) = (authority("Root"), authority("Other"));
    let own = leaf(&other, None);
    for (lists, chain, expected) in [
        (vec![list(&other, &[SERIAL], LATER)], vec![own.clone()], Truth::Failed),
        (
            vec![list(&other, &[SERIAL], LATER)],
            vec![own.clone(), other.der().clone()],
            Truth::False,
        ),
        (vec![list(&root, &[SERIAL], LATER)], vec![own.clone()], Truth::Absent),
    ] {
        let validator = validator(&root).with_revocation_lists(from_files(&lists));
        let world = World::default();
        let (found, why) = truth(&validator, &chain, &[], Predicate::Crl, &world).await;
        assert_eq!(found, expected, "{why}");
    }
}

/// How to make an OCSP response.
struct Response<'a> {
    request: &'a [u8],
    status: CertStatus,
    from: u64,
    until: Option<u64>,
    signer: &'a KeyPair,
    responder: &'a CertificateDer<'a>,
    enclosed: Option<&'a CertificateDer<'a>>,
}

impl Response<'_> {
    fn der(self) -> Vec<u8> {
        let request = OcspRequest::from_der(self.request).unwrap();
        let id = request.tbs_request.request_list[0].req_cert.clone();
        let responder = x509_cert::Certificate::from_der(self.responder).unwrap();
        let data = ResponseData {
            version: Version::V1,
            responder_id: ResponderId::ByName(responder.tbs_certificate.subject),
            produced_at: OcspGeneralizedTime(time(self.from)),
            responses: vec![SingleResponse {
                cert_id: id,
                cert_status: self.status,
                this_update: OcspGeneralizedTime(time(self.from)),
                next_update: self.until.map(|until| OcspGeneralizedTime(time(until))),
                single_extensions: None,
            }],
            response_extensions: None,
        };
        let signature = self.signer.sign(&data.to_der().unwrap()).unwrap();
        // ecdsa-with-SHA256, rcgen's default.
        let oid = der::asn1::ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
        let basic = BasicOcspResponse {
            tbs_response_data: data,
            signature_algorithm: spki::AlgorithmIdentifierOwned { oid, parameters: None },
            signature: BitString::from_bytes(&signature).unwrap(),
            certs: self.enclosed.map(|der| vec![x509_cert::Certificate::from_der(der).unwrap()]),
        };
        OcspResponse::successful(basic).unwrap().to_der().unwrap()
    }
}

fn revoked() -> CertStatus {
    CertStatus::Revoked(RevokedInfo {
        revocation_time: OcspGeneralizedTime(time(NOW - DAY)),
        revocation_reason: None,
    })
}

/// The request that the validator makes for a chain.
async fn request(validator: &PolicyValidator, chain: &[CertificateDer<'_>]) -> Vec<u8> {
    let world = World::default().with("ocsp", 1, failed());
    truth(validator, chain, &[], Predicate::Ocsp, &world).await;
    let asked = world.asked.borrow()[0].0.clone();
    let Query::Ocsp { url, request } = asked else { panic!("{asked:?}") };
    assert_eq!(url, "http://127.0.0.1:1/ocsp");
    request
}

fn with_responder(root: &Authority) -> PolicyValidator {
    let ocsp_responder = Some("http://127.0.0.1:1/ocsp".to_owned());
    let settings = PolicySettings { ocsp_responder, ..everything_on() };
    PolicyValidator::new(anchors(root), Legacy::Refuse, settings)
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_remembered_and_out_of_date_is_fetched_once_more() {
    let root = authority("Root");
    let chain = [leaf(&root, None)];
    let validator = with_responder(&root);
    let request = request(&validator, &chain).await;
    let response = |until| {
        let response = Response {
            request: &request,
            status: CertStatus::good(),
            from: NOW - DAY,
            until: Some(until),
            signer: root.key(),
            responder: root.der(),
            enclosed: None,
        };
        Outcome::Present(Answer::Ocsp(response.der()))
    };
    for (remembered, expected, asked) in
        [(NOW + DAY, Truth::True, 0), (NOW - DAY / 2, Truth::True, 1)]
    {
        let world = World::default().with("ocsp", 5, response(NOW + DAY));
        let world = Remembering { remembered: response(remembered), here: true, world };
        let (found, why) = truth(&validator, &chain, &[], Predicate::Ocsp, &world).await;
        assert_eq!((found, world.asked()), (expected, asked), "{why}");
    }
}

#[tokio::test(start_paused = true)]
async fn ocsp_responses_fetched_and_stapled() {
    let root = authority("Root");
    let chain = [leaf(&root, None)];
    let validator = with_responder(&root);
    let request = request(&validator, &chain).await;
    let delegate_key = KeyPair::generate().unwrap();
    let delegate = |purpose: Option<ExtendedKeyUsagePurpose>| {
        let mut params = CertificateParams::new(vec!["ocsp.example.com".to_owned()]).unwrap();
        params.extended_key_usages = purpose.into_iter().collect();
        params.signed_by(&delegate_key, &root).unwrap().der().clone()
    };
    let good_delegate = delegate(Some(ExtendedKeyUsagePurpose::OcspSigning));
    let bad_delegate = delegate(Some(ExtendedKeyUsagePurpose::ServerAuth));
    let plain_delegate = delegate(None);
    let other = authority("Other");
    let other_request = self::request(&with_responder(&other), &[leaf(&other, None)]).await;
    let sound = || Response {
        request: &request,
        status: CertStatus::good(),
        from: NOW - 60,
        until: Some(NOW + DAY),
        signer: root.key(),
        responder: root.der(),
        enclosed: None,
    };
    let delegated = |certificate| Response {
        signer: &delegate_key,
        responder: certificate,
        enclosed: Some(certificate),
        ..sound()
    };
    let mut forged = sound().der();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for (what, der, expected) in [
        ("good", sound().der(), Truth::True),
        ("revoked", Response { status: revoked(), ..sound() }.der(), Truth::False),
        ("unknown", Response { status: CertStatus::unknown(), ..sound() }.der(), Truth::Failed),
        ("old", Response { until: Some(NOW - DAY), ..sound() }.der(), Truth::Failed),
        ("endless", Response { until: None, ..sound() }.der(), Truth::True),
        (
            "endless and old",
            Response { until: None, from: NOW - 2 * DAY, ..sound() }.der(),
            Truth::Failed,
        ),
        ("future", Response { from: NOW + 3600, ..sound() }.der(), Truth::Failed),
        ("another's", Response { request: &other_request, ..sound() }.der(), Truth::Failed),
        ("another signer", Response { signer: other.key(), ..sound() }.der(), Truth::Failed),
        ("delegated", delegated(&good_delegate).der(), Truth::True),
        ("not delegated", delegated(&bad_delegate).der(), Truth::Failed),
        ("without purpose", delegated(&plain_delegate).der(), Truth::Failed),
        (
            "posing",
            Response { responder: root.der(), ..delegated(&good_delegate) }.der(),
            Truth::Failed,
        ),
        ("forged", forged, Truth::Failed),
        ("try later", OcspResponse::try_later().to_der().unwrap(), Truth::Failed),
        ("junk", b"junk".to_vec(), Truth::Failed),
    ] {
        let world = World::default().with("ocsp", 1, Outcome::Present(Answer::Ocsp(der.clone())));
        let (found, why) = truth(&validator, &chain, &[], Predicate::Ocsp, &world).await;
        assert_eq!(found, expected, "{what}: {why}");
        // Stapled it means the same; what failed is asked of the responder, if there is one.
        let alone = self::validator(&root);
        let nobody = World::default();
        let (found, why) = truth(&alone, &chain, &der, Predicate::Ocsp, &nobody).await;
        assert_eq!(found, expected, "{what}: {why}");
        let mending =
            World::default().with("ocsp", 1, Outcome::Present(Answer::Ocsp(sound().der())));
        let (found, _) = truth(&validator, &chain, &der, Predicate::Ocsp, &mending).await;
        let asked = mending.asked.borrow().len();
        let mended = if expected == Truth::Failed { (Truth::True, 1) } else { (expected, 0) };
        assert_eq!((found, asked), mended, "{what}");
    }
    let (found, _) =
        truth(&self::validator(&root), &chain, &[], Predicate::Ocsp, &World::default()).await;
    assert_eq!(found, Truth::Absent);
    // A chain that no anchor knows, but whose issuer came with it.
    let chain = [leaf(&other, None), other.der().clone()];
    let der = Response {
        request: &other_request,
        signer: other.key(),
        responder: other.der(),
        ..sound()
    }
    .der();
    let world = World::default();
    let (found, why) = truth(&self::validator(&root), &chain, &der, Predicate::Ocsp, &world).await;
    assert_eq!(found, Truth::True, "{why}");
    let pretender = [leaf(&other, None), authority("Other").der().clone()];
    let (found, _) =
        truth(&self::validator(&root), &pretender, &der, Predicate::Ocsp, &world).await;
    assert_eq!(found, Truth::Failed);
}

/// `openssl ocsp` understands our request, and we its response.
#[tokio::test]
async fn ocsp_with_openssl() {
    let root = authority("Root");
    let chain = [leaf(&root, None)];
    let validator = with_responder(&root);
    let request = request(&validator, &chain).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let pem = pem::encode(&pem::Pem::new("CERTIFICATE", root.der().to_vec()));
    std::fs::write(file("ca.pem"), pem).unwrap();
    std::fs::write(file("ca.key"), root.key().serialize_pem()).unwrap();
    std::fs::write(file("request"), &request).unwrap();
    for (line, expected) in [
        (format!("V\t400101000000Z\t\t{SERIAL:X}\tunknown\t/CN=x\n"), Truth::True),
        (format!("R\t400101000000Z\t291231000000Z\t{SERIAL:X}\tunknown\t/CN=x\n"), Truth::False),
        (String::new(), Truth::Failed),
    ] {
        std::fs::write(file("index"), line).unwrap();
        let output = Command::new("openssl")
            .current_dir(folder.path())
            .args(["ocsp", "-index", "index", "-CA", "ca.pem", "-rsigner", "ca.pem"])
            .args(["-rkey", "ca.key", "-reqin", "request", "-respout", "response"])
            .args(["-ndays", "9999"])
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let response = std::fs::read(file("response")).unwrap();
        let world = World::default().with("ocsp", 1, Outcome::Present(Answer::Ocsp(response)));
        let (found, why) = truth(&validator, &chain, &[], Predicate::Ocsp, &world).await;
        assert_eq!(found, expected, "{why}");
    }
}
