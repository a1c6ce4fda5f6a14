//! What a certificate says, for people and for `--json`.

use serde::Serialize;
use tlspool_identity::x509::{self, Legacy};
use tlspool_identity::{DoNai, matches};
use tlspool_store::fingerprint;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::AdminError;

/// The parts of a certificate that an administrator looks at.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Description {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) names: Vec<String>,
    pub(super) not_before: String,
    pub(super) not_after: String,
    pub(super) fingerprint: String,
    pub(super) authority: bool,
}

impl Description {
    pub(super) fn of(der: &[u8]) -> Result<Self, AdminError> {
        let certificate = parse(der)?;
        let names = match x509::names_of(&certificate, Legacy::Accept) {
            Ok(names) => {
                let wildcards =
                    names.wildcards.iter().map(|wildcard| format!("*.{}", wildcard.parent));
                names.identities().map(ToString::to_string).chain(wildcards).collect()
            }
            Err(error) => vec![error.to_string()],
        };
        Ok(Self {
            subject: printable(&certificate.subject().to_string()),
            issuer: printable(&certificate.issuer().to_string()),
            names,
            not_before: certificate.validity().not_before.to_string(),
            not_after: certificate.validity().not_after.to_string(),
            fingerprint: fingerprint(der).to_string(),
            authority: tlspool_validate::is_authority(der).unwrap_or(false),
        })
    }

    /// For [`super::output::fields`].
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("subject", self.subject.clone()),
            ("issuer", self.issuer.clone()),
            ("names", self.names.join(", ")),
            ("valid from", self.not_before.clone()),
            ("valid until", self.not_after.clone()),
            ("SHA-256", self.fingerprint.clone()),
        ]
    }
}

pub(super) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, AdminError> {
    match X509Certificate::from_der(der) {
        Ok((&[], certificate)) => Ok(certificate),
        _ => Err(AdminError::Usage("this is no X.509 certificate".to_owned())),
    }
}

/// The public key in a certificate, as DER of SubjectPublicKeyInfo.
pub(super) fn spki(der: &[u8]) -> Result<Vec<u8>, AdminError> {
    Ok(parse(der)?.public_key().raw.to_vec())
}

/// What a peer will object to when `name` shows the certificate `der`.
pub(super) fn objections(name: &DoNai, der: &[u8]) -> Vec<String> {
    let Ok(certificate) = parse(der) else { return Vec::new() };
    let mut objections = Vec::new();
    match x509::names_of(&certificate, Legacy::Refuse) {
        Ok(names) if matches(name, &names, false).is_none() => {
            let carried: Vec<&str> = names.identities().map(DoNai::as_str).collect();
            objections.push(format!("the certificate is not for {name} but for {carried:?}"));
        }
        Ok(_) => {}
        Err(error) => objections.push(error.to_string()),
    }
    if !certificate.validity().is_valid() {
        let validity = certificate.validity();
        objections.push(format!(
            "the certificate is valid from {} until {} only",
            validity.not_before, validity.not_after
        ));
    }
    objections
}

/// Text out of a certificate, without what drives a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}
