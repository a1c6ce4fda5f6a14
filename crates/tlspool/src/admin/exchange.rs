//! Identities as JSON: what `tlspool identity export` writes, `import` reads, and `--json` shows.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use tlspool_keys::{KeyError, KeyUri};
use tlspool_store::{
    CertificateSource, Kind, LocalIdentity, NewIdentity, Store, StoreError, check_stored_uri,
};

use super::AdminError;
use super::describe::Description;
use super::identity::{RoleArg, parse_name};
use super::openpgp::{self, OpenPgpDescription};
use super::output;

/// A row as `export` writes it and `import` reads it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exported {
    name: String,
    role: RoleArg,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_uri: Option<String>,
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certify_key: Option<String>,
    #[serde(default = "usual_preference")]
    preference: i32,
    #[serde(default)]
    default: bool,
}

fn usual_preference() -> i32 {
    100
}

/// A row for `--json`: what is exported, and what can be told from it.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    id: i64,
    #[serde(flatten)]
    row: Exported,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaf: Option<Description>,
    #[serde(skip_serializing_if = "Option::is_none")]
    openpgp: Option<OpenPgpDescription>,
}

/// The row as it is exported; an error if nobody could import it.
pub(super) fn exported(row: LocalIdentity) -> Result<Exported, AdminError> {
    if let CertificateSource::OpenPgp(bytes) = &row.certificate {
        openpgp::read_stored(bytes).map_err(|error| {
            let (name, id) = (&row.name, row.id);
            AdminError::Usage(format!(
                "identity number {id}, {name}, cannot be exported: {error}; remove it"
            ))
        })?;
    }
    Ok(written(row))
}

/// The row as it is written.
fn written(row: LocalIdentity) -> Exported {
    let (certificate, certificate_uri) = match row.certificate {
        CertificateSource::Chain(chain) => {
            (Some(output::pem(chain.iter().map(Vec::as_slice))), None)
        }
        CertificateSource::Uri(uri) => (None, Some(uri)),
        // One that cannot be read is shown without.
        CertificateSource::OpenPgp(bytes) => {
            (openpgp::read_stored(&bytes).ok().map(|certificate| certificate.to_armored()), None)
        }
    };
    Exported {
        name: row.name.to_string(),
        role: row.roles.into(),
        kind: row.kind.to_string(),
        certificate,
        certificate_uri,
        key: row.key_uri,
        certify_key: row.certify_uri,
        preference: row.preference,
        default: row.is_default,
    }
}

/// The row as it is shown.
pub(super) fn shown(row: LocalIdentity) -> Shown {
    let leaf = match &row.certificate {
        CertificateSource::Chain(chain) => {
            chain.first().and_then(|leaf| Description::of(leaf).ok())
        }
        _ => None,
    };
    let openpgp = match &row.certificate {
        CertificateSource::OpenPgp(bytes) => {
            openpgp::read_stored(bytes).ok().map(|pgp| OpenPgpDescription::of(&pgp))
        }
        _ => None,
    };
    Shown { id: row.id, leaf, openpgp, row: written(row) }
}

/// Adds an identity as it was exported.
pub(super) fn import(store: &Store, row: &Exported) -> Result<(), AdminError> {
    let (kind, certificate) = match (row.kind.as_str(), &row.certificate, &row.certificate_uri) {
        ("x509", Some(pem), None) => (Kind::X509, CertificateSource::Chain(chain_of_pem(pem)?)),
        ("x509", None, Some(uri)) => (Kind::X509, CertificateSource::Uri(uri.clone())),
        ("openpgp", Some(armored), None) => {
            let certificate = openpgp::read_text(armored)?;
            (Kind::OpenPgp, CertificateSource::OpenPgp(certificate.to_bytes()))
        }
        ("x509" | "openpgp", ..) => {
            let text = "give either certificate or, for x509, certificate_uri";
            return Err(AdminError::Usage(text.to_owned()));
        }
        (kind, ..) => return Err(AdminError::Usage(format!("kind {kind:?} is not supported"))),
    };
    check_stored_uri(&row.key)?;
    let key = KeyUri::parse(&row.key).map_err(KeyError::from)?;
    let id = store.add_identity(&NewIdentity {
        name: &parse_name(&row.name)?,
        roles: row.role.into(),
        kind,
        certificate,
        key_uri: &key.to_string(),
        preference: row.preference,
        is_default: row.default,
    })?;
    if let Some(uri) = &row.certify_key {
        let uri = KeyUri::parse(uri).map_err(KeyError::from)?;
        store.set_certifying_key(id, &uri.to_string())?;
    }
    Ok(())
}

/// The certificates in PEM text, each of which must be one.
pub(super) fn chain_of_pem(pem: &str) -> Result<Vec<Vec<u8>>, AdminError> {
    let chain: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .map(|der| der.map(|der| der.to_vec()))
        .collect::<Result<_, _>>()
        .map_err(|error| AdminError::Usage(format!("the certificate is no PEM: {error}")))?;
    for der in &chain {
        super::describe::parse(der)?;
    }
    if chain.is_empty() {
        return Err(StoreError::Refused("there is no BEGIN CERTIFICATE".to_owned()).into());
    }
    Ok(chain)
}
