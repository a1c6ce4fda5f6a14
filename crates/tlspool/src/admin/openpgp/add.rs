//! OpenPGP certificates that exist already: of ours (`tlspool identity add --openpgp`), and of those we
//! trust (`tlspool trust add --openpgp`).

use std::path::{Path, PathBuf};

use tlspool_identity::DoNai;
use tlspool_keys::{KeyStore, KeyUri};
use tlspool_openpgp::{Certificate, Limits};
use tlspool_store::{Kind, NewTrustAnchor, Store, StoreError};

use super::describe::objections;
use super::{now, read_file, read_stored};
use crate::admin::AdminError;
use crate::admin::output::note;

/// Reads the certificate of an identity to add. `key`, unless it is not to be checked, is the private
/// key of the subkey of TLS.
pub(in crate::admin) fn add(
    name: &DoNai,
    file: &Path,
    key: Option<(&KeyStore, &KeyUri)>,
) -> Result<Certificate, AdminError> {
    let certificate = read_file(file, Limits::PEER)?;
    let signing = match key {
        None => {
            note("the key was not opened: whether it belongs to the certificate is not known");
            None
        }
        Some((keys, uri)) => {
            let spki = keys.open(uri)?.spki_der;
            let found = certificate.signing_key_by_spki(&spki, now());
            if found.is_none() && certificate.primary_spki().as_ref() != Some(&spki) {
                return Err(AdminError::Usage(format!(
                    "the OpenPGP certificate {} holds another key than {uri}; see: gpg --show-keys \
                     --with-keygrip {}",
                    file.display(),
                    file.display()
                )));
            }
            found
        }
    };
    for objection in objections(name, &certificate, signing.as_ref()) {
        note(format_args!("peers will object: {objection}"));
    }
    Ok(certificate)
}

/// Trusts the OpenPGP keys in files, one in each: they vouch for the user IDs that they certified.
pub(in crate::admin) fn trust(
    store: &mut Store,
    files: &[PathBuf],
    service: Option<&str>,
) -> Result<Vec<(i64, String)>, AdminError> {
    let mut certificates = Vec::new();
    for file in files {
        certificates.push(read_file(file, Limits::LARGE)?);
    }
    store.transaction(|store| {
        certificates.iter().map(|certificate| trust_one(store, certificate, service)).collect()
    })
}

/// Adds one trusted key; returns its number and what it is called.
pub(in crate::admin) fn trust_one(
    store: &Store,
    certificate: &Certificate,
    service: Option<&str>,
) -> Result<(i64, String), AdminError> {
    let fingerprint = certificate.fingerprint();
    let label = format!("{} {fingerprint}", certificate.label(now()));
    // Another copy of the same key is another row to the database, but not to a person.
    for row in store.trust_anchors_of(service)? {
        if row.kind == Kind::OpenPgp && read_stored(&row.certificate)?.fingerprint() == fingerprint
        {
            let what = format!("the OpenPGP key {label}, as number {},", row.id);
            return Err(StoreError::Exists { what }.into());
        }
    }
    if let Err(unfit) = certificate.check(now()) {
        note(format_args!("nothing it certified will count: {unfit}"));
    }
    let id = store.add_trust_anchor(&NewTrustAnchor {
        kind: Kind::OpenPgp,
        service,
        certificate: &certificate.to_bytes(),
        label: &certificate.label(now()),
    })?;
    Ok((id, label))
}
