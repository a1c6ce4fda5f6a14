//! Whom we trust: the system's certificate authorities and those of the trust table.
//!
//! A service with anchors of its own trusts only these. Every other service trusts the system's and
//! the table's anchors for all services. A table row that is no certificate authority (CA:TRUE)
//! is trusted as that very certificate: it can prove its own names, and issue nothing.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Largest file of anchors that is read.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// Where anchors come from beside the trust table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SystemAnchors {
    /// Use those of the system, where it keeps them (also `SSL_CERT_FILE` and `SSL_CERT_DIR`).
    pub native: bool,
    /// PEM files, or folders of PEM files, with further ones.
    pub paths: Vec<PathBuf>,
}

/// A row of the trust table.
#[derive(Debug, Clone, Copy)]
pub struct TableAnchor<'a> {
    /// The service it is for; none: all.
    pub service: Option<&'a str>,
    /// The certificate in DER.
    pub certificate: &'a [u8],
}

/// Why anchors cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// A file or folder cannot be read.
    #[error("cannot read trust anchors from {}: {why}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Nothing in it.
    #[error("there is no PEM certificate in {}", .0.display())]
    Empty(PathBuf),
}

/// Anchors, and what was left out.
#[derive(Debug)]
pub struct Loaded {
    /// The anchors.
    pub anchors: TrustAnchors,
    /// One line for the log each.
    pub warnings: Vec<String>,
}

/// The anchors of all services. Build it when files or table change; share it in an `Arc`.
#[derive(Debug, Default)]
pub struct TrustAnchors {
    common: AnchorSet,
    services: HashMap<String, AnchorSet>,
}

/// The anchors that one service asks.
#[derive(Debug, Default)]
pub(crate) struct AnchorSet {
    /// Authorities.
    pub(crate) authorities: Vec<TrustAnchor<'static>>,
    /// Their certificates, in the same order: TLSA records may name one (RFC 6698, usage 0).
    certificates: Vec<CertificateDer<'static>>,
    /// Certificates trusted as they are.
    pub(crate) exact: Vec<CertificateDer<'static>>,
}

impl TrustAnchors {
    /// Reads the system's anchors and adds the table's.
    pub fn load<'a>(
        system: &SystemAnchors,
        table: impl IntoIterator<Item = TableAnchor<'a>>,
    ) -> Result<Loaded, AnchorError> {
        let mut warnings = Vec::new();
        let mut anchors = Self::default();
        for certificate in read_system(system, &mut warnings)? {
            anchors.common.add_authority(&certificate, &mut warnings);
        }
        for row in table {
            let set = match row.service.filter(|service| !service.is_empty()) {
                None => &mut anchors.common,
                Some(service) => anchors.services.entry(service.to_owned()).or_default(),
            };
            set.add_row(row.certificate, &mut warnings);
        }
        Ok(Loaded { anchors, warnings })
    }

    /// How many anchors there are, over all services.
    pub fn len(&self) -> usize {
        let sets = std::iter::once(&self.common).chain(self.services.values());
        sets.map(|set| set.authorities.len() + set.exact.len()).sum()
    }

    /// Whether there are none: nobody can be validated.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The set for `service`, and whether it is its own.
    pub(crate) fn of(&self, service: &str) -> (&AnchorSet, bool) {
        match self.services.get(service) {
            Some(own) => (own, true),
            None => (&self.common, false),
        }
    }
}

impl AnchorSet {
    /// The certificates that hold `anchor`; one that was renewed with its key gives several.
    pub(crate) fn certificates_of(
        &self,
        anchor: &TrustAnchor<'_>,
    ) -> impl Iterator<Item = &CertificateDer<'static>> {
        let pairs = self.authorities.iter().zip(&self.certificates);
        pairs.filter(move |(known, _)| *known == anchor).map(|(_, certificate)| certificate)
    }

    fn add_authority(&mut self, certificate: &CertificateDer<'_>, warnings: &mut Vec<String>) {
        match webpki::anchor_from_trusted_cert(certificate) {
            Ok(anchor) => {
                self.authorities.push(anchor.to_owned());
                self.certificates.push(certificate.clone().into_owned());
            }
            Err(error) => warnings.push(format!("a trust anchor is left out: {error}")),
        }
    }

    fn add_row(&mut self, der: &[u8], warnings: &mut Vec<String>) {
        let certificate = CertificateDer::from(der.to_vec());
        match is_authority(der) {
            None => warnings.push("a row of the trust table is no X.509 certificate".to_owned()),
            Some(authority) => {
                if authority {
                    self.add_authority(&certificate, warnings);
                }
                self.exact.push(certificate);
            }
        }
    }
}

/// Whether the certificate `der` may issue others (basicConstraints CA:TRUE); none if it is no
/// certificate.
pub fn is_authority(der: &[u8]) -> Option<bool> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.basic_constraints().ok()?.is_some_and(|extension| extension.value.ca))
}

fn read_system(
    system: &SystemAnchors,
    warnings: &mut Vec<String>,
) -> Result<Vec<CertificateDer<'static>>, AnchorError> {
    let mut certificates = Vec::new();
    if system.native {
        let found = rustls_native_certs::load_native_certs();
        warnings.extend(found.errors.iter().map(ToString::to_string));
        if found.certs.is_empty() {
            warnings.push("the system has no trust anchors (Debian: ca-certificates)".into());
        }
        certificates = found.certs;
    }
    for path in &system.paths {
        certificates.extend(read_path(path)?);
    }
    // The same one may be in several places, and a folder in the style of OpenSSL links each twice.
    certificates.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    certificates.dedup();
    Ok(certificates)
}

fn read_path(path: &Path) -> Result<Vec<CertificateDer<'static>>, AnchorError> {
    let failed =
        |error: std::io::Error| AnchorError::Read { path: path.to_owned(), why: error.to_string() };
    let mut certificates = Vec::new();
    if std::fs::metadata(path).map_err(failed)?.is_dir() {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            // A dangling link or a subfolder is no reason to trust nobody.
            if std::fs::metadata(&file).is_ok_and(|data| data.is_file()) {
                files.push(file);
            }
        }
        files.sort();
        for file in files {
            certificates.extend(read_file(&file)?);
        }
    } else {
        certificates = read_file(path)?;
    }
    if certificates.is_empty() {
        return Err(AnchorError::Empty(path.to_owned()));
    }
    Ok(certificates)
}

fn read_file(path: &Path) -> Result<Vec<CertificateDer<'static>>, AnchorError> {
    let failed = |why: String| AnchorError::Read { path: path.to_owned(), why };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_FILE {
        return Err(failed(format!("{size} bytes; at most {MAX_FILE} are read")));
    }
    let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| failed(error.to_string()))
}
