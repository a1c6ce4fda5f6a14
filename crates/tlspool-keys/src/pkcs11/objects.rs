//! Finding keys and certificates on a token, and what they say about themselves.

use cryptoki::object::{
    Attribute, AttributeType, CertificateType, KeyType, ObjectClass, ObjectHandle,
};
use cryptoki::session::Session;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Fault;
use crate::uri::{self, Pkcs11Uri};
use crate::{KeyAlgorithm, KeyError, der};

/// A chain longer than this is no chain.
const MAX_CHAIN: usize = 10;
/// Certificates looked at for one URI.
const MAX_CERTIFICATES: usize = 64;

/// The template that selects what the URI's `id` and `object` say.
pub(super) fn template(class: ObjectClass, uri: &Pkcs11Uri) -> Vec<Attribute> {
    // Not our own copies: see `token::Open`.
    let mut template = vec![Attribute::Class(class), Attribute::Token(true)];
    if let Some(id) = &uri.id {
        template.push(Attribute::Id(id.clone()));
    }
    if let Some(label) = &uri.object {
        template.push(Attribute::Label(label.clone().into_bytes()));
    }
    template
}

/// The one private key that the URI means.
pub(super) fn private_key(session: &Session, uri: &Pkcs11Uri) -> Result<ObjectHandle, Fault> {
    if uri.class.is_some_and(|class| class != uri::ObjectClass::Private) {
        return Err(KeyError::BadUri(format!("{uri}: a private key has type=private")).into());
    }
    let found = session.find_objects(&template(ObjectClass::PRIVATE_KEY, uri))?;
    match found.as_slice() {
        [key] => Ok(*key),
        [] => Err(KeyError::NotFound(uri.to_string()).into()),
        _ => {
            let n = found.len();
            let text = format!("{uri} matches {n} private keys: add id= or object=");
            Err(KeyError::Ambiguous(text).into())
        }
    }
}

/// The public half of a private key: from its own attributes, from the public key object beside
/// it, or from a certificate with the same id.
pub(super) fn public_key(
    session: &Session,
    key: ObjectHandle,
    uri: &Pkcs11Uri,
) -> Result<(Vec<u8>, KeyAlgorithm), Fault> {
    let wanted = [
        AttributeType::KeyType,
        AttributeType::Id,
        AttributeType::Label,
        AttributeType::Modulus,
        AttributeType::PublicExponent,
        AttributeType::EcParams,
        AttributeType::EcPoint,
    ];
    let own = session.get_attributes(key, &wanted)?;
    if let Some(found) = from_attributes(&own) {
        return Ok(found);
    }
    for partner in partners(&own) {
        let mut template =
            vec![Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Token(true), partner];
        template.extend(own.iter().find(|a| matches!(a, Attribute::KeyType(_))).cloned());
        template.extend(own.iter().find(|a| matches!(a, Attribute::Modulus(_))).cloned());
        for public in session.find_objects(&template)? {
            if let Some(found) = from_attributes(&session.get_attributes(public, &wanted)?) {
                return Ok(found);
            }
        }
    }
    for partner in partners(&own) {
        let template = [Attribute::Class(ObjectClass::CERTIFICATE), partner];
        for certificate in session.find_objects(&template)? {
            let Some(certificate) = value(session, certificate)? else { continue };
            if let Some(found) = from_certificate(&certificate) {
                return Ok(found);
            }
        }
    }
    let text = format!(
        "{uri}: nothing on the token tells its public key, or it is not RSA, P-256, P-384 or Ed25519"
    );
    Err(KeyError::Unsupported(text).into())
}

/// Whether the key wants its PIN for every signature.
pub(super) fn is_guarded(session: &Session, key: ObjectHandle) -> Result<bool, Fault> {
    let found = session.get_attributes(key, &[AttributeType::AlwaysAuthenticate])?;
    Ok(found.contains(&Attribute::AlwaysAuthenticate(true)))
}

/// How the public key and certificate that belong to a private key are found: by id, else by label.
fn partners(own: &[Attribute]) -> Vec<Attribute> {
    let id = own.iter().find(|a| matches!(a, Attribute::Id(id) if !id.is_empty()));
    let label = own.iter().find(|a| matches!(a, Attribute::Label(l) if !l.is_empty()));
    id.or(label).cloned().into_iter().collect()
}

fn from_attributes(attributes: &[Attribute]) -> Option<(Vec<u8>, KeyAlgorithm)> {
    let (mut kind, mut modulus, mut exponent, mut params, mut point) =
        (None, None, None, None, None);
    for attribute in attributes {
        match attribute {
            Attribute::KeyType(k) => kind = Some(*k),
            Attribute::Modulus(v) if !v.is_empty() => modulus = Some(v),
            Attribute::PublicExponent(v) if !v.is_empty() => exponent = Some(v),
            Attribute::EcParams(v) => params = Some(v),
            Attribute::EcPoint(v) => point = Some(v),
            _ => {}
        }
    }
    match kind? {
        KeyType::RSA => Some(der::rsa_spki(modulus?, exponent?)),
        KeyType::EC | KeyType::EC_EDWARDS => der::ec_spki(params?, point?),
        _ => None,
    }
}

fn from_certificate(certificate: &[u8]) -> Option<(Vec<u8>, KeyAlgorithm)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let spki = parsed.public_key().raw.to_vec();
    let algorithm = der::spki_algorithm(&spki)?;
    Some((spki, algorithm))
}

/// The kind of a key object, for listings.
pub(super) fn algorithm_of(session: &Session, object: ObjectHandle) -> Option<KeyAlgorithm> {
    let wanted = [AttributeType::KeyType, AttributeType::Modulus, AttributeType::EcParams];
    let attributes = session.get_attributes(object, &wanted).ok()?;
    let mut found = None;
    for attribute in &attributes {
        match attribute {
            Attribute::Modulus(m) if !m.is_empty() => found = Some(der::rsa_spki(m, &[3]).1),
            Attribute::EcParams(p) => match p.as_slice() {
                der::OID_P256 => found = Some(KeyAlgorithm::P256),
                der::OID_P384 => found = Some(KeyAlgorithm::P384),
                der::OID_ED25519 | der::NAME_ED25519 => found = Some(KeyAlgorithm::Ed25519),
                _ => {}
            },
            _ => {}
        }
    }
    found
}

/// The certificates that the URI selects, leaf first, followed by those issuers that the token
/// also holds.
pub(super) fn certificates(session: &Session, uri: &Pkcs11Uri) -> Result<Vec<Vec<u8>>, Fault> {
    let mut template = template(ObjectClass::CERTIFICATE, uri);
    template.push(Attribute::CertificateType(CertificateType::X_509));
    let mut selected = values(session, &template)?;
    if selected.is_empty() {
        return Ok(selected);
    }
    let leaf = leaf_of(&selected);
    let mut chain = vec![selected.swap_remove(leaf)];
    while chain.len() < MAX_CHAIN {
        let Some(issuer) = chain.last().and_then(|last| issuer_to_find(last)) else { break };
        let next = match selected.iter().position(|c| subject(c).as_deref() == Some(&issuer[..])) {
            Some(at) => Some(selected.swap_remove(at)),
            None => values(
                session,
                &[Attribute::Class(ObjectClass::CERTIFICATE), Attribute::Subject(issuer)],
            )?
            .pop(),
        };
        match next {
            Some(next) if !chain.contains(&next) => chain.push(next),
            _ => break,
        }
    }
    Ok(chain)
}

/// The certificate that no other of them was issued by.
fn leaf_of(certificates: &[Vec<u8>]) -> usize {
    let issues_none = |at: &usize| {
        let name = subject(&certificates[*at]);
        let mut others = certificates.iter().enumerate().filter(|(other, _)| other != at);
        !others.any(|(_, other)| issuer_to_find(other) == name)
    };
    (0..certificates.len()).find(issues_none).unwrap_or(0)
}

fn subject(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Some(parsed.subject().as_raw().to_vec())
}

/// The issuer's name, unless the certificate is its own issuer.
fn issuer_to_find(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let (issuer, subject) = (parsed.issuer().as_raw(), parsed.subject().as_raw());
    (issuer != subject).then(|| issuer.to_vec())
}

fn values(session: &Session, template: &[Attribute]) -> Result<Vec<Vec<u8>>, Fault> {
    let mut found = Vec::new();
    for object in session.find_objects(template)?.into_iter().take(MAX_CERTIFICATES) {
        found.extend(value(session, object)?);
    }
    Ok(found)
}

fn value(session: &Session, object: ObjectHandle) -> Result<Option<Vec<u8>>, Fault> {
    let attributes = session.get_attributes(object, &[AttributeType::Value])?;
    Ok(attributes.into_iter().find_map(|attribute| match attribute {
        Attribute::Value(value) if !value.is_empty() => Some(value),
        _ => None,
    }))
}
