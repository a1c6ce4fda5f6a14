//! Facts about a session: keying material (PRNG) and INFO.

use std::sync::Arc;

use tlspool_engine::binding::{SignatureHash, tls_server_end_point};
use tlspool_wire::packet::{INFO_BUFFER, PRNG_BUFFER, PrngQuestion};
use tlspool_wire::{Body, Info, InfoKind, PoolError, Prng};
use x509_parser::oid_registry::{
    OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA384,
    OID_SIG_ECDSA_WITH_SHA512,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::registry::Facts;

/// Labels that applications may use (IANA, TLS Exporter Labels); besides them anything that
/// begins with `EXPERIMENTAL` (RFC 5705 section 4).
const LABELS: &[&str] = &[
    "client EAP encryption",
    "ttls keying material",
    "ttls challenge",
    "EXTRACTOR-dtls_srtp",
    "EXPORTER_DTLS_OVER_SCTP",
    "EXPORTER-ETSI-TC-M2M-Service",
    "EXPORTER-ETSI-TC-M2M-Connection",
    "TLS_MK_Extr",
    "EXPORTER_GBA_Digest",
    "EXPORTER: teap session key seed",
    "EXPORTER-oneM2M-Bootstrap",
    "EXPORTER-oneM2M-Connection",
    "EXPORTER-Token-Binding",
    "EXPORTER_EAP_TLS_Key_Material",
    "EXPORTER_EAP_TLS_Method-Id",
    "EXPORTER-network-time-security",
    "EXPORTER-Channel-Binding",
    "EXPORTER-ACE-MQTT-Sign-Challenge",
    "EXPORTER-HTTP-Signature-Authentication",
];

/// An error and its text.
type Failure = (PoolError, &'static str);

/// Answers PRNG.
pub(crate) fn keying_material(facts: &Facts, question: &PrngQuestion<'_>) -> Result<Body, Failure> {
    let label = std::str::from_utf8(question.label).unwrap_or_default();
    if !(LABELS.contains(&label) || label.starts_with("EXPERIMENTAL")) {
        const TEXT: &str = "this label is neither registered for exporters nor EXPERIMENTAL";
        return Err((PoolError::PrngUnavailable, TEXT));
    }
    let exporter = facts
        .exporter
        .as_ref()
        .ok_or((PoolError::PrngUnavailable, "this session has no keying material"))?;
    let mut buffer = [0; PRNG_BUFFER];
    exporter
        .export(question.label, question.context, &mut buffer[..question.wanted])
        .map_err(|_| (PoolError::PrngUnavailable, "the label or the context is too long"))?;
    let prng_len = question.wanted as i16;
    Ok(Body::Prng(Prng { in1_len: -1, in2_len: -1, prng_len, buffer }))
}

/// Answers INFO: a query with the information, a check with the request itself.
pub(crate) fn information(facts: &Arc<Facts>, request: &Info) -> Result<Body, Failure> {
    const MISSING: Failure = (PoolError::InfoNotFound, "this session has no such information");
    let kind = InfoKind::from_number(request.kind)
        .ok_or((PoolError::InfokindUnknown, "this pool knows no such kind of information"))?;
    let given =
        request.given().map_err(|_| (PoolError::RecordMalformed, "the length is out of range"))?;
    let peer = || facts.peer_certificate.as_deref().and_then(certificate).ok_or(MISSING);
    let mine = || facts.my_certificate.as_deref().and_then(certificate).ok_or(MISSING);
    let exporter = || facts.exporter.as_ref().ok_or(MISSING);
    let value = match kind {
        InfoKind::PeerCertSubject => peer()?.subject().as_raw().to_vec(),
        InfoKind::PeerCertIssuer => peer()?.issuer().as_raw().to_vec(),
        InfoKind::MyCertSubject => mine()?.subject().as_raw().to_vec(),
        InfoKind::MyCertIssuer => mine()?.issuer().as_raw().to_vec(),
        InfoKind::PeerCertSubjectAltName | InfoKind::MyCertSubjectAltName => {
            let mut cert = if kind == InfoKind::PeerCertSubjectAltName { peer()? } else { mine()? };
            let name = given.ok_or((PoolError::InfoNotFound, "this kind can only be checked"))?;
            return if has_general_name(&mut cert, name) {
                Ok(Body::Info(request.clone()))
            } else {
                Err((PoolError::InfoNotFound, "the certificate does not carry this name"))
            };
        }
        InfoKind::TlsUnique => exporter()?.tls_unique().ok_or(MISSING)?.to_vec(),
        InfoKind::TlsExporter => exporter()?.tls_exporter().map_err(|_| MISSING)?.to_vec(),
        InfoKind::TlsServerEndPoint => {
            let der = if facts.serving { &facts.my_certificate } else { &facts.peer_certificate };
            let der = der.as_deref().ok_or(MISSING)?;
            tls_server_end_point(der, signature_hash(&certificate(der).ok_or(MISSING)?))
        }
    };
    match given {
        Some(given) if given == value => Ok(Body::Info(request.clone())),
        Some(_) => Err((PoolError::InfoNotFound, "the information differs")),
        None if value.len() > INFO_BUFFER => {
            Err((PoolError::InfoNotFound, "the information does not fit a record; check it"))
        }
        None => {
            let mut buffer = [0; INFO_BUFFER];
            buffer[..value.len()].copy_from_slice(&value);
            let len = value.len() as u16;
            Ok(Body::Info(Info { ctlkey: request.ctlkey, kind: request.kind, len, buffer }))
        }
    }
}

fn certificate(der: &[u8]) -> Option<X509Certificate<'_>> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)
}

/// Whether the DER GeneralName occurs among the subject alternative names.
fn has_general_name(certificate: &mut X509Certificate<'_>, name: &[u8]) -> bool {
    use x509_parser::der_parser::asn1_rs::{Any, Sequence};
    use x509_parser::oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME;
    let Ok(Some(extension)) = certificate.get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
    else {
        return false;
    };
    let Ok((_, names)) = Sequence::from_der(extension.value) else { return false };
    let mut rest: &[u8] = &names.content;
    while !rest.is_empty() {
        let Ok((after, _)) = Any::from_der(rest) else { return false };
        if &rest[..rest.len() - after.len()] == name {
            return true;
        }
        rest = after;
    }
    false
}

/// The hash that RFC 5929 section 4.1 takes for tls-server-end-point.
fn signature_hash(certificate: &X509Certificate<'_>) -> SignatureHash {
    let oid = &certificate.signature_algorithm.algorithm;
    if *oid == OID_PKCS1_SHA384WITHRSA || *oid == OID_SIG_ECDSA_WITH_SHA384 {
        SignatureHash::Sha384
    } else if *oid == OID_PKCS1_SHA512WITHRSA || *oid == OID_SIG_ECDSA_WITH_SHA512 {
        SignatureHash::Sha512
    } else {
        SignatureHash::Sha256
    }
}
