//! `ocsp`: the online certificate status protocol (RFC 6960), stapled by the peer or asked of a responder.

use aws_lc_rs::digest;
use der::asn1::{Null, ObjectIdentifier, OctetString};
use der::{Decode, Encode};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_ocsp::{
    BasicOcspResponse, CertId, CertStatus, OcspRequest, OcspResponse, OcspResponseStatus, Request,
    ResponderId, SingleResponse, TbsRequest, Version,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::crl::UNKNOWN_ISSUER;
use super::{Issuer, Signed, element, ocsp_url};
use crate::Refusal;
use crate::evaluate::{Evaluation, Step, Why};
use crate::policy::Verdict;
use crate::predicates::nothing;
use crate::sources::Query;

/// How far clocks may differ, in seconds.
const SKEW: u64 = 300;
/// An answer that says nothing of its end is good for this long, in seconds.
const MAX_AGE: u64 = 24 * 3600;
/// More certificates and single answers than any response has.
const MAX_PARTS: usize = 16;
/// Longest response that is read.
const MAX_RESPONSE: usize = 64 * 1024;
/// `id-sha1`, by which responders find certificates; nothing rests on its strength.
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");
/// `id-pkix-ocsp-basic`
const BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");
/// `id-kp-OCSPSigning`, 1.3.6.1.5.5.7.3.9, in DER.
const OCSP_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09];

/// What a response says.
enum Status {
    Good,
    Revoked,
}

/// By the stapled response, else by the configured responder, else by the one that the certificate names.
pub(crate) fn begin(evaluation: &Evaluation<'_>, leaf: &CertificateDer<'_>) -> Step {
    let settings = evaluation.validator.settings();
    let stapled = evaluation.inquiry.stapled_ocsp;
    let url = match &settings.ocsp_responder {
        _ if !settings.revocation => None,
        Some(url) => Some(url.clone()),
        None => ocsp_url(leaf),
    };
    if stapled.is_empty() && url.is_none() {
        return nothing("the peer stapled no response, and there is no responder to ask");
    }
    let Some(issuer) = Issuer::of(evaluation) else {
        return Step::Done(Verdict::Failed, Why::Fixed(UNKNOWN_ISSUER));
    };
    let Some(id) = certificate_id(leaf, &issuer) else {
        return Step::Done(Verdict::Failed, Why::Fixed("the certificate cannot be read"));
    };
    if !stapled.is_empty() {
        let (verdict, why) = verdict(stapled, &id, &issuer, evaluation.inquiry.now, "the peer");
        // What is stale or broken in it, a responder may mend.
        if verdict != Verdict::Failed || url.is_none() {
            return Step::Done(verdict, why);
        }
    }
    match (url, request(id)) {
        (Some(url), Some(request)) => Step::LookUp(Query::Ocsp { url, request }),
        _ => Step::Done(Verdict::Failed, Why::Fixed("the request cannot be made")),
    }
}

/// By a response that was fetched.
pub(crate) fn judge(evaluation: &Evaluation<'_>, der: &[u8]) -> (Verdict, Why) {
    let id = Issuer::of(evaluation).and_then(|issuer| {
        let id = certificate_id(evaluation.leaf()?, &issuer)?;
        Some((issuer, id))
    });
    match id {
        Some((issuer, id)) => verdict(der, &id, &issuer, evaluation.inquiry.now, "the responder"),
        None => (Verdict::Failed, Why::Fixed(UNKNOWN_ISSUER)),
    }
}

fn verdict(
    der: &[u8],
    id: &CertId,
    issuer: &Issuer,
    now: UnixTime,
    who: &'static str,
) -> (Verdict, Why) {
    match status(der, id, issuer, now) {
        Ok(Status::Good) => {
            (Verdict::True, Why::Text(format!("{who} shows that it is not revoked")))
        }
        Ok(Status::Revoked) => (Verdict::False, Why::Refusal(Refusal::Revoked("OCSP".into()))),
        Err(why) => (Verdict::Failed, Why::Text(format!("the OCSP response of {who} {why}"))),
    }
}

/// The certificate's number under its issuer's name and key (RFC 6960 section 4.1.1).
fn certificate_id(leaf: &CertificateDer<'_>, issuer: &Issuer) -> Option<CertId> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let sha1 = |bytes: &[u8]| {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
        OctetString::new(digest.as_ref()).ok()
    };
    Some(CertId {
        hash_algorithm: spki::AlgorithmIdentifierOwned { oid: SHA1, parameters: Some(Null.into()) },
        issuer_name_hash: sha1(certificate.tbs_certificate.issuer.as_raw())?,
        issuer_key_hash: sha1(&key_bits(&issuer.key)?)?,
        // Der keeps the sign; a number that is not minimal is refused here.
        serial_number: x509_cert::serial_number::SerialNumber::new(certificate.raw_serial())
            .ok()?,
    })
}

/// The contents of the bit string in a SubjectPublicKeyInfo, without the count of unused bits.
fn key_bits(key: &[u8]) -> Option<Vec<u8>> {
    let (_, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der(key).ok()?;
    Some(info.subject_public_key.data.to_vec())
}

fn request(id: CertId) -> Option<Vec<u8>> {
    // No nonce: a response may then come from a cache, and its times bound a replay.
    let request = OcspRequest {
        tbs_request: TbsRequest {
            version: Version::V1,
            requestor_name: None,
            request_list: vec![Request { req_cert: id, single_request_extensions: None }],
            request_extensions: None,
        },
        optional_signature: None,
    };
    request.to_der().ok()
}

/// Reads and verifies a response (RFC 6960 section 3.2); an error continues "the response of …".
fn status(der: &[u8], id: &CertId, issuer: &Issuer, now: UnixTime) -> Result<Status, String> {
    if der.len() > MAX_RESPONSE {
        return Err("is too long".to_owned());
    }
    let unreadable = |_| "cannot be read".to_owned();
    let response = OcspResponse::from_der(der).map_err(unreadable)?;
    let bytes = match (response.response_status, response.response_bytes) {
        (OcspResponseStatus::Successful, Some(bytes)) if bytes.response_type == BASIC => bytes,
        (OcspResponseStatus::Successful, _) => return Err("is of an unknown kind".to_owned()),
        (other, _) => return Err(format!("is no answer but {other:?}")),
    };
    let raw = bytes.response.as_bytes();
    let basic = BasicOcspResponse::from_der(raw).map_err(unreadable)?;
    let single = basic
        .tbs_response_data
        .responses
        .iter()
        .take(MAX_PARTS)
        .find(|single| same(&single.cert_id, id))
        .ok_or("is about other certificates")?;
    in_time(single, now)?;
    is_signed(raw, &basic, issuer, now)?;
    match single.cert_status {
        CertStatus::Good(_) => Ok(Status::Good),
        CertStatus::Revoked(_) => Ok(Status::Revoked),
        CertStatus::Unknown(_) => Err("says that it does not know the certificate".to_owned()),
    }
}

/// Whether two mean the same certificate. Responders may leave out the NULL of the hash algorithm.
fn same(a: &CertId, b: &CertId) -> bool {
    a.hash_algorithm.oid == b.hash_algorithm.oid
        && a.issuer_name_hash == b.issuer_name_hash
        && a.issuer_key_hash == b.issuer_key_hash
        && a.serial_number == b.serial_number
}

fn in_time(single: &SingleResponse, now: UnixTime) -> Result<(), String> {
    let now = now.as_secs();
    let this = single.this_update.0.to_unix_duration().as_secs();
    if this > now + SKEW {
        return Err("is from the future; check the clocks".to_owned());
    }
    let end = match &single.next_update {
        Some(next) => next.0.to_unix_duration().as_secs(),
        None => this + MAX_AGE,
    };
    if now > end + SKEW { Err("is out of date".to_owned()) } else { Ok(()) }
}

/// Whether the issuer signed it, or somebody whom the issuer has certified to do so (RFC 6960 section
/// 4.2.2.2).
fn is_signed(
    raw: &[u8],
    basic: &BasicOcspResponse,
    issuer: &Issuer,
    now: UnixTime,
) -> Result<(), String> {
    // The signature is over the bytes as they came, not as we would write them.
    let damaged = || "cannot be read".to_owned();
    let (_, inner) = element(raw).ok_or_else(damaged)?;
    let (message, _) = element(inner).ok_or_else(damaged)?;
    let algorithm = basic.signature_algorithm.to_der().map_err(|_| damaged())?;
    let signature = basic.signature.as_bytes().ok_or_else(damaged)?;
    let signed = Signed { message, algorithm: &algorithm, signature };
    if signed.is_by(&issuer.key) {
        return Ok(());
    }
    let anchor = issuer.anchor().ok_or_else(damaged)?;
    for certificate in basic.certs.iter().flatten().take(MAX_PARTS) {
        let key = certificate.tbs_certificate.subject_public_key_info.to_der();
        let Ok(key) = key else { continue };
        if !signed.is_by(&key) {
            continue;
        }
        if !is_responder(basic, certificate, &key) {
            return Err("is signed by another than it says".to_owned());
        }
        let der = CertificateDer::from(certificate.to_der().map_err(|_| damaged())?);
        let refused = |error| format!("is signed by a responder without the right to: {error}");
        let end_entity = EndEntityCert::try_from(&der).map_err(refused)?;
        let usage = KeyUsage::required(OCSP_SIGNING);
        let algorithms = webpki::ALL_VERIFICATION_ALGS;
        return end_entity
            .verify_for_usage(algorithms, &[anchor], &[], now, usage, None, None)
            .map(|_| ())
            .map_err(refused);
    }
    Err("is signed by nobody who may".to_owned())
}

fn is_responder(
    basic: &BasicOcspResponse,
    certificate: &x509_cert::Certificate,
    key: &[u8],
) -> bool {
    match &basic.tbs_response_data.responder_id {
        ResponderId::ByName(name) => *name == certificate.tbs_certificate.subject,
        ResponderId::ByKey(hash) => key_bits(key).is_some_and(|bits| {
            let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &bits);
            hash.as_bytes() == digest.as_ref()
        }),
    }
}
