//! `tlspool identity create --openpgp`: one or two keys, and a certificate signed by them.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tlspool_identity::DoNai;
use tlspool_keys::{KeyInfo, KeyStore, KeyUri};
use tlspool_openpgp::RemoteKey;
use tlspool_openpgp::make::{self, Wanted};
use tlspool_store::{CertificateSource, Kind, NewIdentity, Store};

use super::key::StoreKey;
use super::{now, publish};
use crate::admin::create::{CreateArgs, discard, make_key, show};
use crate::admin::identity::parse_key_uri;
use crate::admin::signer::CLOCK_SKEW;
use crate::admin::{AdminContext, AdminError};

/// What only OpenPGP certificates have.
#[derive(Debug, Args)]
pub(in crate::admin) struct OpenPgpArgs {
    /// Make an OpenPGP certificate: a key that certifies, and a subkey that signs and authenticates
    #[arg(long, conflicts_with_all = ["csr", "self_signed"])]
    pub(in crate::admin) openpgp: bool,
    /// Make one key for everything, instead of two
    #[arg(long, requires = "openpgp", conflicts_with = "certify_key")]
    one_key: bool,
    /// Where to make the key that certifies, or where it is with --existing-key; by default beside
    /// the other key
    #[arg(long, value_name = "URI", value_parser = parse_key_uri, requires = "openpgp")]
    certify_key: Option<KeyUri>,
    /// What stands before the names in the user IDs, for people
    #[arg(long, value_name = "TEXT", requires = "openpgp", default_value = "")]
    display_name: String,
}

/// Makes the keys and the certificate, and adds the identity. `uri` is for the key of TLS.
pub(in crate::admin) fn create(
    args: &CreateArgs,
    uri: &KeyUri,
    (store, keys): (&mut Store, &KeyStore),
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let options = &args.openpgp;
    let certify_uri = match (&options.certify_key, options.one_key) {
        (_, true) => None,
        (Some(given), false) => Some(given.clone()),
        (None, false) if args.existing_key => {
            return Err(AdminError::Usage(
                "which key certifies? Give --certify-key URI, or --one-key".to_owned(),
            ));
        }
        (None, false) => Some(beside(uri)),
    };
    if args.existing_key {
        let key = keys.open(uri)?;
        let certify = certify_uri.map(|uri| keys.open(&uri)).transpose()?;
        let id = certified(args, store, keys, &key, certify.as_ref())?;
        return show(store, Some(id), out);
    }
    let key = make_key(keys, uri, args.algorithm, context)?;
    let result = match certify_uri {
        None => certified(args, store, keys, &key, None),
        Some(uri) => make_key(keys, &uri, args.algorithm, context).and_then(|certify| {
            certified(args, store, keys, &key, Some(&certify))
                .inspect_err(|_| discard(keys, &certify))
        }),
    };
    let id = result.inspect_err(|_| discard(keys, &key))?;
    show(store, Some(id), out)
}

/// The place for the key that certifies, beside the key of TLS.
fn beside(uri: &KeyUri) -> KeyUri {
    match uri {
        KeyUri::Pkcs11(uri) => {
            let mut uri = uri.clone();
            uri.id = None;
            uri.class = None;
            let object = uri.object.take().unwrap_or_default();
            uri.object = Some(format!("{object} certify"));
            KeyUri::Pkcs11(uri)
        }
        KeyUri::File(path) => {
            let mut path = path.clone().into_os_string();
            path.push(".certify");
            KeyUri::File(PathBuf::from(path))
        }
    }
}

/// Makes the certificate and adds the identity; returns its number.
fn certified(
    args: &CreateArgs,
    store: &mut Store,
    keys: &KeyStore,
    key: &KeyInfo,
    certify: Option<&KeyInfo>,
) -> Result<i64, AdminError> {
    let names: Vec<&DoNai> = std::iter::once(&args.name).chain(&args.alt).collect();
    let validity = Duration::from_secs(u64::from(args.days) * 86_400);
    let wanted = Wanted {
        names: &names,
        display_name: &args.openpgp.display_name,
        // Peers whose clocks are behind ours should not have to wait.
        created: now() - CLOCK_SKEW,
        validity: Some(validity + CLOCK_SKEW),
    };
    let mut tls_key = StoreKey { store: keys, key };
    let certificate = match certify {
        None => make::create(&mut tls_key, None, &wanted)?,
        Some(certify) => {
            let mut certify = StoreKey { store: keys, key: certify };
            let tls_key: &mut dyn RemoteKey = &mut tls_key;
            make::create(&mut certify, Some(tls_key), &wanted)?
        }
    };
    let new = NewIdentity {
        name: &args.name,
        roles: args.properties.role.into(),
        kind: Kind::OpenPgp,
        certificate: CertificateSource::OpenPgp(certificate.to_bytes()),
        key_uri: &key.uri,
        preference: args.properties.preference,
        is_default: args.properties.default,
    };
    let id = store.transaction(|store| {
        let id = store.add_identity(&new)?;
        if let Some(certify) = certify {
            store.set_certifying_key(id, &certify.uri)?;
        }
        Ok::<_, AdminError>(id)
    })?;
    publish(args.name.as_str());
    Ok(id)
}
