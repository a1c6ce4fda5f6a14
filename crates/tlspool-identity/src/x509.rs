//! Names out of X.509 certificates.
//!
//! Only reads what the certificate says; that it may say so is for `tlspool-validate`. The rules, in
//! order:
//! 1. The subjectAltName's `rfc822Name` and SmtpUTF8Mailbox (RFC 9598) name a user, its `dNSName` a
//!    domain.
//! 2. Without any of these, the subject's `uid` above a row of `dc` at the root (RFC 4519, RFC 2247)
//!    names a user, and that row alone a domain.
//! 3. Without a subjectAltName extension and if the caller permits it ([`Legacy::Accept`]), the
//!    subject's `emailAddress` or `commonName`.
//!
//! A wildcard is matched, never reported. A name that is no DoNAI (an address, too long, an odd
//! character) is put aside with its reason. A name with a NUL or another hidden character makes
//! the whole certificate unreadable: it was made to deceive.

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_DOMAIN_COMPONENT, OID_PKCS9_EMAIL_ADDRESS, OID_USERID, OID_X509_COMMON_NAME,
    OID_X509_EXT_SUBJECT_ALT_NAME, Oid,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::donai::{DoNai, NameError, check_characters};

/// `id-on-SmtpUTF8Mailbox`, 1.3.6.1.5.5.7.8.9, in DER.
const SMTP_UTF8_MAILBOX: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x08, 0x09];

/// Whether `commonName` and `emailAddress` of the subject count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Legacy {
    /// They do not.
    #[default]
    Refuse,
    /// They do, in certificates with no subjectAltName.
    Accept,
}

/// The part of the certificate that a name stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameSource {
    /// subjectAltName `dNSName`.
    DnsName,
    /// subjectAltName `rfc822Name`.
    Rfc822Name,
    /// subjectAltName SmtpUTF8Mailbox.
    SmtpUtf8Mailbox,
    /// `uid` and `dc`, or `dc` alone, of the subject.
    SubjectDc,
    /// `emailAddress` of the subject.
    EmailAddress,
    /// `commonName` of the subject.
    CommonName,
    /// A user ID of an OpenPGP certificate.
    UserId,
}

impl NameSource {
    /// Whether path validation applies name constraints (RFC 5280 4.2.1.10) to names that stand
    /// here. Where it does not, such a name must not be believed from a constrained issuer.
    pub fn is_constrained(self) -> bool {
        matches!(self, Self::DnsName | Self::Rfc822Name)
    }
}

/// One name that a certificate carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertifiedName {
    /// The name.
    pub name: DoNai,
    /// Where it stands.
    pub source: NameSource,
}

/// A wildcard for exactly one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wildcard {
    /// The domain below which one label may stand: `example.com` for `*.example.com`.
    pub parent: DoNai,
    /// Where it stands.
    pub source: NameSource,
}

/// A name that was put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// The text, made printable and cut.
    pub text: String,
    /// Why it is no name.
    pub why: IgnoredBecause,
}

/// Why a name was put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IgnoredBecause {
    /// No DoNAI.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `*` elsewhere than alone in the left-most label.
    #[error("a wildcard may only be the whole left-most label")]
    PartialWildcard,
    /// `*.com`.
    #[error("a wildcard directly below a top-level domain would be anybody's name")]
    TopWildcard,
    /// A user ID of an OpenPGP certificate with no name between angle brackets, or with several.
    #[error("a user ID names somebody in one pair of angle brackets: <user@domain> or <domain>")]
    NoBrackets,
    /// A user ID that is no UTF-8.
    #[error("the user ID is not UTF-8")]
    NotUtf8,
    /// A wildcard in a user ID.
    #[error("OpenPGP certificates have no wildcards")]
    WildcardUserId,
}

/// What a certificate says about its holder's names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateNames {
    /// The names, in the certificate's order.
    pub identities: Vec<CertifiedName>,
    /// Wildcards, to match only.
    pub wildcards: Vec<Wildcard>,
    /// What was put aside.
    pub ignored: Vec<Ignored>,
}

/// Why a certificate's names cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not one DER certificate.
    #[error("not an X.509 certificate in DER")]
    NotX509,
    /// More bytes after the certificate.
    #[error("{0} bytes stand after the certificate")]
    TrailingBytes(usize),
    /// Malformed or doubled subjectAltName.
    #[error("the certificate's subjectAltName is malformed or stands there twice")]
    BadSubjectAltName,
    /// A NUL or another hidden character in a name.
    #[error("the certificate carries a name with a hidden character (U+{0:04X})")]
    HiddenCharacter(u32),
}

/// The names in the DER certificate `der`.
pub fn names(der: &[u8], legacy: Legacy) -> Result<CertificateNames, CertificateError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| CertificateError::NotX509)?;
    if !rest.is_empty() {
        return Err(CertificateError::TrailingBytes(rest.len()));
    }
    names_of(&certificate, legacy)
}

/// As [`names`], of a certificate already parsed.
pub fn names_of(
    certificate: &X509Certificate<'_>,
    legacy: Legacy,
) -> Result<CertificateNames, CertificateError> {
    let mut found = CertificateNames::default();
    let alt_name = certificate
        .get_extension_unique(&OID_X509_EXT_SUBJECT_ALT_NAME)
        .map_err(|_| CertificateError::BadSubjectAltName)?;
    let mut names_in_san = false;
    if let Some(extension) = alt_name {
        let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else {
            return Err(CertificateError::BadSubjectAltName);
        };
        for name in &san.general_names {
            names_in_san |= found.add_general_name(name)?;
        }
    }
    if !names_in_san {
        found.add_subject_dc(certificate.subject())?;
        if alt_name.is_none() && found.identities.is_empty() && legacy == Legacy::Accept {
            found.add_legacy(certificate.subject())?;
        }
    }
    Ok(found)
}

impl CertificateNames {
    /// The names without where they stood.
    pub fn identities(&self) -> impl Iterator<Item = &DoNai> {
        self.identities.iter().map(|certified| &certified.name)
    }

    /// Adds one name of the subjectAltName; true if it is of a kind that names users or domains.
    fn add_general_name(&mut self, name: &GeneralName<'_>) -> Result<bool, CertificateError> {
        match name {
            GeneralName::DNSName(text) => self.add_domain(text, NameSource::DnsName)?,
            GeneralName::RFC822Name(text) => self.add_mailbox(text, NameSource::Rfc822Name)?,
            GeneralName::OtherName(oid, value) if oid.as_bytes() == SMTP_UTF8_MAILBOX => {
                let text = utf8_mailbox(value).ok_or(CertificateError::BadSubjectAltName)?;
                self.add_mailbox(text, NameSource::SmtpUtf8Mailbox)?;
            }
            // A name that does not even fit its type: whatever it was meant to be, not this one.
            GeneralName::Invalid(tag, _) if tag.0 <= 2 => {
                return Err(CertificateError::BadSubjectAltName);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn add_domain(&mut self, text: &str, source: NameSource) -> Result<(), CertificateError> {
        if !text.contains('*') {
            return self.add(text, DoNai::from_parts(None, text), source);
        }
        let why = match text.strip_prefix("*.").map(|parent| DoNai::from_parts(None, parent)) {
            Some(Ok(parent)) if parent.domain().contains('.') => {
                self.wildcards.push(Wildcard { parent, source });
                return Ok(());
            }
            Some(Ok(_)) => IgnoredBecause::TopWildcard,
            Some(Err(NameError::Control(c))) => {
                return Err(CertificateError::HiddenCharacter(c));
            }
            Some(Err(NameError::BadCharacter('*'))) | None => IgnoredBecause::PartialWildcard,
            Some(Err(error)) => error.into(),
        };
        self.ignore(text, why);
        Ok(())
    }

    fn add_mailbox(&mut self, text: &str, source: NameSource) -> Result<(), CertificateError> {
        let name = match text.split_once('@') {
            Some((user, domain)) => DoNai::from_parts(Some(user), domain),
            // Without a user it would be a domain, which an rfc822Name does not name.
            None => check_characters(text).and(Err(NameError::NoUser)),
        };
        self.add(text, name, source)
    }

    /// `dc` at the root of the subject (first in DER), at least two, and the first `uid` above them.
    fn add_subject_dc(&mut self, subject: &X509Name<'_>) -> Result<(), CertificateError> {
        let mut labels = Vec::new();
        let mut user = None;
        let mut in_domain = true;
        for rdn in subject.iter_rdn() {
            let mut attributes = rdn.iter();
            let (Some(attribute), None) = (attributes.next(), attributes.next()) else {
                // Several attributes in one step of the tree: not the form that RFC 2247 gives.
                in_domain = false;
                continue;
            };
            let is = |oid: &Oid<'_>| attribute.attr_type() == oid;
            let value = attribute.as_str();
            if is(&OID_DOMAIN_COMPONENT) {
                match value {
                    Ok(label) if in_domain => labels.push(label),
                    // A second row of dc, or one that is no text: ambiguous, so no name at all.
                    _ => return Ok(()),
                }
            } else {
                in_domain = false;
                if is(&OID_USERID) && user.is_none() {
                    let Ok(value) = value else { return Ok(()) };
                    user = Some(value);
                }
            }
        }
        if labels.len() < 2 {
            return Ok(());
        }
        // A dc that holds a dot is not one label.
        if let Some(odd) = labels.iter().find(|l| l.contains(['.', '@'])) {
            self.ignore(odd, NameError::BadCharacter('.').into());
            return Ok(());
        }
        labels.reverse();
        let domain = labels.join(".");
        let text = user.map_or_else(|| domain.clone(), |user| format!("{user}@{domain}"));
        self.add(&text, DoNai::from_parts(user, &domain), NameSource::SubjectDc)
    }

    fn add_legacy(&mut self, subject: &X509Name<'_>) -> Result<(), CertificateError> {
        for attribute in subject.iter_by_oid(&OID_PKCS9_EMAIL_ADDRESS) {
            if let Ok(text) = attribute.as_str() {
                self.add_mailbox(text, NameSource::EmailAddress)?;
            }
        }
        for attribute in subject.iter_by_oid(&OID_X509_COMMON_NAME) {
            if let Ok(text) = attribute.as_str() {
                if text.contains('@') {
                    self.add_mailbox(text, NameSource::CommonName)?;
                } else {
                    self.add_domain(text, NameSource::CommonName)?;
                }
            }
        }
        Ok(())
    }

    /// Takes a parsed name in once, or puts it aside.
    pub(crate) fn add(
        &mut self,
        text: &str,
        name: Result<DoNai, NameError>,
        source: NameSource,
    ) -> Result<(), CertificateError> {
        match name {
            Ok(name) => {
                if !self.identities().any(|known| *known == name) {
                    self.identities.push(CertifiedName { name, source });
                }
            }
            Err(NameError::Control(c)) => return Err(CertificateError::HiddenCharacter(c)),
            Err(error) => self.ignore(text, error.into()),
        }
        Ok(())
    }

    pub(crate) fn ignore(&mut self, text: &str, why: IgnoredBecause) {
        let text = text.chars().take(80).flat_map(char::escape_debug).collect();
        self.ignored.push(Ignored { text, why });
    }
}

/// The UTF8String in the `[0]` of an otherName.
fn utf8_mailbox(value: &[u8]) -> Option<&str> {
    let content = tlv(value, 0xa0)?;
    std::str::from_utf8(tlv(content, 0x0c)?).ok()
}

/// The content of the one DER element that `bytes` must be.
fn tlv(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let (&[found, first], rest) = bytes.split_first_chunk::<2>()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => {
            let (len, rest) = rest.split_first()?;
            (usize::from(*len), rest)
        }
        // Longer than any name.
        _ => return None,
    };
    (found == tag && rest.len() == len).then_some(rest)
}

#[cfg(test)]
mod tests;
