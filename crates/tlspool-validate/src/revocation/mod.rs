//! Whether a certificate has been revoked: `crl` and `ocsp`.
//!
//! Both ask on behalf of who issued the peer's certificate. That is the first certificate in its path to a
//! trust anchor; without such a path (DANE, pins) the certificate that the peer sent with it and that
//! has verifiably signed it.

pub(crate) mod crl;
pub(crate) mod ocsp;
#[cfg(test)]
pub(crate) mod tests;

use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor};
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::evaluate::Evaluation;

/// Who issued a certificate.
pub(crate) struct Issuer {
    /// SubjectPublicKeyInfo in DER.
    pub(crate) key: Vec<u8>,
    /// The distinguished name in DER, without its outermost tag and length.
    name: Vec<u8>,
}

impl Issuer {
    /// The issuer of the peer's certificate, if one can be told for sure.
    pub(crate) fn of(evaluation: &Evaluation<'_>) -> Option<Self> {
        let question = evaluation.question();
        let [leaf, others @ ..] = question.chain else { return None };
        let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
        let name = issuer_name(leaf)?;
        if let Some(key) = evaluation.validator.pkix().issuer_key(&question) {
            return Some(Self { key: key.as_ref().to_vec(), name });
        }
        for other in others.iter().take(8) {
            let Ok((_, other)) = X509Certificate::from_der(other) else { continue };
            let tbs = &certificate.tbs_certificate;
            let key = other.public_key().raw;
            let signed = Signed {
                message: tbs.as_ref(),
                algorithm: &algorithm(leaf)?,
                signature: &certificate.signature_value.data,
            };
            if other.subject().as_raw() == tbs.issuer.as_raw() && signed.is_by(key) {
                return Some(Self { key: key.to_vec(), name });
            }
        }
        None
    }

    /// As what a path may end in.
    pub(crate) fn anchor(&self) -> Option<TrustAnchor<'_>> {
        Some(TrustAnchor {
            subject: self.name.as_slice().into(),
            subject_public_key_info: contents(&self.key)?.into(),
            name_constraints: None,
        })
    }
}

/// The distinguished name of who is said to have issued a certificate, in DER without its outermost tag and
/// length.
pub(crate) fn issuer_name(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(contents(certificate.tbs_certificate.issuer.as_raw())?.to_vec())
}

/// Bytes with a signature.
pub(crate) struct Signed<'a> {
    pub(crate) message: &'a [u8],
    /// The AlgorithmIdentifier in DER.
    pub(crate) algorithm: &'a [u8],
    pub(crate) signature: &'a [u8],
}

impl Signed<'_> {
    /// Whether the key (SubjectPublicKeyInfo in DER) has signed it, with an algorithm that is good enough.
    pub(crate) fn is_by(&self, key: &[u8]) -> bool {
        let key = SubjectPublicKeyInfoDer::from(key);
        let Ok(entity) = webpki::RawPublicKeyEntity::try_from(&key) else { return false };
        let Some(identifier) = contents(self.algorithm) else { return false };
        webpki::ALL_VERIFICATION_ALGS
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref() == identifier)
            .any(|algorithm| {
                entity.verify_signature(*algorithm, self.message, self.signature).is_ok()
            })
    }
}

/// The signatureAlgorithm of a certificate, in DER.
fn algorithm(certificate: &[u8]) -> Option<Vec<u8>> {
    // Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm, signatureValue }
    let (_, inner) = element(certificate)?;
    let (tbs, _) = element(inner)?;
    let (whole, _) = element(&inner[tbs.len()..])?;
    Some(whole.to_vec())
}

/// The first DER element of `bytes`, whole and its contents.
pub(crate) fn element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, any) = x509_parser::asn1_rs::Any::from_der(bytes).ok()?;
    let start = any.data.as_ptr() as usize - bytes.as_ptr() as usize;
    let end = start + any.data.len();
    Some((bytes.get(..end)?, bytes.get(start..end)?))
}

/// What is within the outermost DER element.
pub(crate) fn contents(der: &[u8]) -> Option<&[u8]> {
    element(der).map(|(_, inner)| inner)
}

/// The first `http:` URL of a CRL that a certificate names.
pub(crate) fn crl_url(der: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let points = certificate.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::CRLDistributionPoints(points) => Some(points),
        _ => None,
    })?;
    points.points.iter().find_map(|point| match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) => names.iter().find_map(http),
        _ => None,
    })
}

/// The first `http:` URL of an OCSP responder that a certificate names.
pub(crate) fn ocsp_url(der: &CertificateDer<'_>) -> Option<String> {
    /// `id-ad-ocsp`
    const ID_AD_OCSP: &str = "1.3.6.1.5.5.7.48.1";
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let access = certificate.extensions().iter().find_map(|e| match e.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => Some(access),
        _ => None,
    })?;
    let responders =
        access.accessdescs.iter().filter(|a| a.access_method.to_id_string() == ID_AD_OCSP);
    responders.map(|access| &access.access_location).find_map(http)
}

/// Longest URL that is followed.
const MAX_URL: usize = 1024;

fn http(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::URI(uri)
            if uri.len() <= MAX_URL
                && uri.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://"))
                && uri.bytes().all(|byte| byte.is_ascii_graphic()) =>
        {
            Some((*uri).to_owned())
        }
        _ => None,
    }
}
