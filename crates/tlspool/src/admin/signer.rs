//! Certificates and signing requests whose signature a key store makes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    OtherNameValue, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
    string::Ia5String,
};
use tlspool_identity::DoNai;
use tlspool_keys::{KeyAlgorithm, KeyError, KeyInfo, KeyStore, SignScheme};
use tlspool_store::{Role, Roles};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};

use super::AdminError;

/// Most characters of a common name (RFC 5280, ub-common-name).
pub(crate) const MAX_COMMON_NAME: usize = 64;

/// How far the clocks of peers may be behind ours.
pub(super) const CLOCK_SKEW: Duration = Duration::from_hours(1);

/// A key in a key store, in the form that rcgen signs with.
pub(super) struct StoreSigner<'a> {
    store: &'a KeyStore,
    key: &'a KeyInfo,
    public: Vec<u8>,
    /// rcgen has no place for a reason, so it waits here.
    failure: Mutex<Option<KeyError>>,
}

impl<'a> StoreSigner<'a> {
    pub(super) fn new(store: &'a KeyStore, key: &'a KeyInfo) -> Result<Self, AdminError> {
        let (_, spki) = SubjectPublicKeyInfo::from_der(&key.spki_der)
            .map_err(|error| AdminError::Certificate(format!("the public key: {error}")))?;
        let public = spki.subject_public_key.data.to_vec();
        Ok(Self { store, key, public, failure: Mutex::default() })
    }

    /// The reason of the key store, if it had one, else rcgen's.
    fn explain(&self, error: &rcgen::Error) -> AdminError {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or_else(|| AdminError::Certificate(error.to_string()), AdminError::from)
    }

    fn algorithms(&self) -> (&'static SignatureAlgorithm, SignScheme) {
        match self.key.algorithm {
            KeyAlgorithm::Rsa { .. } => (&rcgen::PKCS_RSA_SHA256, SignScheme::RsaPkcs1Sha256),
            KeyAlgorithm::P256 => (&rcgen::PKCS_ECDSA_P256_SHA256, SignScheme::EcdsaP256Sha256),
            KeyAlgorithm::P384 => (&rcgen::PKCS_ECDSA_P384_SHA384, SignScheme::EcdsaP384Sha384),
            KeyAlgorithm::Ed25519 => (&rcgen::PKCS_ED25519, SignScheme::Ed25519),
        }
    }
}

impl PublicKeyData for StoreSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithms().0
    }
}

impl SigningKey for StoreSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let (_, scheme) = self.algorithms();
        self.store.sign(&self.key.id, scheme, message).map_err(|error| {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            rcgen::Error::RemoteKeyError
        })
    }
}

/// What a certificate or request is to say.
pub(super) struct Wanted<'a> {
    pub(super) name: &'a DoNai,
    pub(super) others: &'a [DoNai],
    pub(super) roles: Roles,
}

impl Wanted<'_> {
    /// A self-signed certificate in DER, good for `days`.
    pub(super) fn self_signed(
        &self,
        signer: &StoreSigner<'_>,
        days: u32,
    ) -> Result<Vec<u8>, AdminError> {
        let mut params = self.params()?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
        params.not_after = epoch + now + Duration::from_secs(u64::from(days) * 86_400);
        // Different for each certificate of one key, or else some peers take them for the same.
        params.serial_number = Some(SerialNumber::from(now.as_nanos() as u64));
        params.use_authority_key_identifier_extension = false;
        let certificate = params.self_signed(signer).map_err(|error| signer.explain(&error))?;
        Ok(certificate.der().to_vec())
    }

    /// A signing request (PKCS #10) in PEM.
    pub(super) fn request(&self, signer: &StoreSigner<'_>) -> Result<String, AdminError> {
        let request = self.params()?.serialize_request(signer);
        request.and_then(|request| request.pem()).map_err(|error| signer.explain(&error))
    }

    fn params(&self) -> Result<CertificateParams, AdminError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let name = self.name.as_str();
        let common = if name.len() <= MAX_COMMON_NAME { name } else { "TLS Pool identity" };
        params.distinguished_name.push(DnType::CommonName, common);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        for (role, usage) in [
            (Role::Server, ExtendedKeyUsagePurpose::ServerAuth),
            (Role::Client, ExtendedKeyUsagePurpose::ClientAuth),
        ] {
            if self.roles.include(role) {
                params.extended_key_usages.push(usage);
            }
        }
        for name in std::iter::once(self.name).chain(self.others) {
            params.subject_alt_names.push(alternative_name(name)?);
        }
        Ok(params)
    }
}

/// The subjectAltName of a name.
pub(crate) fn alternative_name(name: &DoNai) -> Result<SanType, AdminError> {
    let text = name.as_str();
    if !text.is_ascii() {
        // RFC 9598: only the user can be outside ASCII.
        let mailbox = OtherNameValue::Utf8String(text.to_owned());
        return Ok(SanType::OtherName((vec![1, 3, 6, 1, 5, 5, 7, 8, 9], mailbox)));
    }
    let ascii = Ia5String::try_from(text)
        .map_err(|error| AdminError::Certificate(format!("{name}: {error}")))?;
    Ok(match name.user() {
        Some(_) => SanType::Rfc822Name(ascii),
        None => SanType::DnsName(ascii),
    })
}
