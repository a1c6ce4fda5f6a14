//! What an administrator does with a token: list, generate, import, destroy.

use aws_lc_rs::digest;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, CertificateType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::token::Token;
use super::{Fault, objects};
use crate::provider::ObjectInfo;
use crate::uri::{self, Pkcs11Uri};
use crate::{KeyAlgorithm, KeyError, der};

impl Token {
    /// Makes a key pair on the token, sensitive and not extractable, and returns its URI.
    pub(crate) fn generate(
        &self,
        uri: &Pkcs11Uri,
        algorithm: KeyAlgorithm,
    ) -> Result<Pkcs11Uri, KeyError> {
        let Some(label) = uri.object.clone() else {
            let text = format!("{uri}: give the new key a name with object=");
            return Err(KeyError::BadUri(text));
        };
        let id = uri.id.clone().unwrap_or_else(|| new_id(self, &label));
        let made = Pkcs11Uri {
            object: Some(label.clone()),
            id: Some(id.clone()),
            class: Some(uri::ObjectClass::Private),
            module_path: uri.module_path.clone(),
            module_name: uri.module_name.clone(),
            pin_source: uri.pin_source.clone(),
            ..self.name().uri()
        };
        self.with_rw_session(uri.pin_source.as_deref(), |session| {
            for taken in [Attribute::Label(label.clone().into_bytes()), Attribute::Id(id.clone())] {
                let template =
                    [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Token(true), taken];
                if !session.find_objects(&template)?.is_empty() {
                    let text = format!("{made}: the token already has a key of this name or id");
                    return Err(KeyError::Ambiguous(text).into());
                }
            }
            generate_pair(session, algorithm, &label, &id)
        })?;
        Ok(made)
    }

    /// Writes a certificate beside its key.
    pub(crate) fn import(&self, uri: &Pkcs11Uri, certificate: &[u8]) -> Result<(), KeyError> {
        let bad = |_| KeyError::File("not an X.509 certificate in DER".into());
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(bad)?;
        let mut template = vec![
            Attribute::Class(ObjectClass::CERTIFICATE),
            Attribute::CertificateType(CertificateType::X_509),
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Subject(parsed.subject().as_raw().to_vec()),
            Attribute::Issuer(parsed.issuer().as_raw().to_vec()),
            Attribute::SerialNumber(der::tlv(2, &[parsed.raw_serial()])),
            Attribute::Value(certificate.to_vec()),
        ];
        template.extend(uri.id.clone().map(Attribute::Id));
        template.extend(uri.object.clone().map(|label| Attribute::Label(label.into_bytes())));
        self.with_rw_session(uri.pin_source.as_deref(), |session| {
            session.create_object(&template)?;
            Ok(())
        })
    }

    /// Destroys the objects that the URI selects; returns how many.
    pub(crate) fn destroy(&self, uri: &Pkcs11Uri) -> Result<usize, KeyError> {
        if uri.id.is_none() && uri.object.is_none() {
            let text = format!("{uri}: say what to destroy with id= or object=");
            return Err(KeyError::BadUri(text));
        }
        let classes = match uri.class {
            Some(class) => vec![class_of(class)],
            None => {
                vec![ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY, ObjectClass::CERTIFICATE]
            }
        };
        self.with_rw_session(uri.pin_source.as_deref(), |session| {
            let mut destroyed = 0;
            for class in classes {
                for object in session.find_objects(&objects::template(class, uri))? {
                    session.destroy_object(object)?;
                    destroyed += 1;
                }
            }
            Ok(destroyed)
        })
    }

    /// Keys and certificates that the URI selects; private ones only if the token is unlocked.
    pub(crate) fn objects(&self, uri: &Pkcs11Uri) -> Result<Vec<ObjectInfo>, KeyError> {
        let classes =
            [uri::ObjectClass::Private, uri::ObjectClass::Public, uri::ObjectClass::Certificate];
        let wanted = |class: &uri::ObjectClass| uri.class.is_none_or(|only| only == *class);
        self.with_listing_session(uri.pin_source.as_deref(), |session| {
            let mut listed = Vec::new();
            for class in classes.into_iter().filter(wanted) {
                for object in session.find_objects(&objects::template(class_of(class), uri))? {
                    listed.push(self.describe(session, object, class)?);
                }
            }
            Ok(listed)
        })
    }

    fn describe(
        &self,
        session: &Session,
        object: ObjectHandle,
        class: uri::ObjectClass,
    ) -> Result<ObjectInfo, Fault> {
        let mut uri = Pkcs11Uri { class: Some(class), ..self.name().uri() };
        for attribute in
            session.get_attributes(object, &[AttributeType::Id, AttributeType::Label])?
        {
            match attribute {
                Attribute::Id(id) if !id.is_empty() => uri.id = Some(id),
                Attribute::Label(label) if !label.is_empty() => {
                    uri.object = String::from_utf8(label).ok();
                }
                _ => {}
            }
        }
        Ok(ObjectInfo { uri, class, algorithm: objects::algorithm_of(session, object) })
    }
}

fn class_of(class: uri::ObjectClass) -> ObjectClass {
    match class {
        uri::ObjectClass::Private => ObjectClass::PRIVATE_KEY,
        uri::ObjectClass::Public => ObjectClass::PUBLIC_KEY,
        uri::ObjectClass::Certificate => ObjectClass::CERTIFICATE,
        uri::ObjectClass::SecretKey => ObjectClass::SECRET_KEY,
        uri::ObjectClass::Data => ObjectClass::DATA,
    }
}

/// An id that differs by token, name and moment.
fn new_id(token: &Token, label: &str) -> Vec<u8> {
    let now = std::time::SystemTime::now();
    let seed = format!("{} {label} {now:?}", token.name());
    digest::digest(&digest::SHA256, seed.as_bytes()).as_ref()[..16].to_vec()
}

fn generate_pair(
    session: &Session,
    algorithm: KeyAlgorithm,
    label: &str,
    id: &[u8],
) -> Result<(), Fault> {
    let name = [Attribute::Label(label.as_bytes().to_vec()), Attribute::Id(id.to_vec())];
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ];
    private.extend(name.clone());
    let make = |mechanism: &Mechanism, kind: Vec<Attribute>| {
        let mut public = vec![Attribute::Token(true), Attribute::Verify(true)];
        public.extend(name.clone());
        public.extend(kind);
        session.generate_key_pair(mechanism, &public, &private).map(drop)
    };
    match algorithm {
        KeyAlgorithm::Rsa { bits } => make(
            &Mechanism::RsaPkcsKeyPairGen,
            vec![
                Attribute::ModulusBits(cryptoki::types::Ulong::new(bits.into())),
                Attribute::PublicExponent(vec![1, 0, 1]),
            ],
        )?,
        KeyAlgorithm::P256 => {
            make(&Mechanism::EccKeyPairGen, vec![Attribute::EcParams(der::OID_P256.to_vec())])?;
        }
        KeyAlgorithm::P384 => {
            make(&Mechanism::EccKeyPairGen, vec![Attribute::EcParams(der::OID_P384.to_vec())])?;
        }
        KeyAlgorithm::Ed25519 => {
            let by = |params: &[u8]| vec![Attribute::EcParams(params.to_vec())];
            // Tokens differ in whether they take the object identifier or the curve name.
            make(&Mechanism::EccEdwardsKeyPairGen, by(der::OID_ED25519))
                .or_else(|_| make(&Mechanism::EccEdwardsKeyPairGen, by(der::NAME_ED25519)))?;
        }
    }
    Ok(())
}
