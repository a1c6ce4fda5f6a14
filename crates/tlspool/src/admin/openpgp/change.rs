//! `tlspool identity renew` and `revoke`: new signatures by the key that certifies.

use std::io::Write;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use tlspool_keys::{KeyError, KeyInfo, KeyStore, KeyUri};
use tlspool_openpgp::make::Reason;
use tlspool_openpgp::{Certificate, RemoteKey};
use tlspool_store::{CertificateSource, LocalIdentity, Store};

use super::key::StoreKey;
use super::{now, only, publish};
use crate::admin::identity::{find, parse_key_uri, show_rows};
use crate::admin::output::note;
use crate::admin::{AdminContext, AdminError};

/// Moves the end of an OpenPGP certificate: its keys stay the same
///
/// For X.509 make or get a new certificate: tlspool identity create --existing-key, or add --replace.
#[derive(Debug, Args)]
pub(in crate::admin) struct RenewArgs {
    /// The name, or the number of a row
    name: String,
    /// How many days the certificate is good from now on
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36500))]
    days: u32,
    #[command(flatten)]
    certify: CertifyArgs,
}

/// Revokes an OpenPGP certificate for good
///
/// The revocation is written to standard output, to import with gpg or to give to a directory; the
/// identity is of no use afterwards. With --prepare it is only written, to be kept in a safe place for
/// the day that the key is lost.
#[derive(Debug, Args)]
pub(in crate::admin) struct RevokeArgs {
    /// The name, or the number of a row
    name: String,
    /// Why
    #[arg(long, value_enum, default_value_t = ReasonArg::Unspecified)]
    reason: ReasonArg,
    /// A word to those who wonder
    #[arg(long, value_name = "TEXT", default_value = "")]
    text: String,
    /// Write the revocation, but leave the identity as it is
    #[arg(long)]
    prepare: bool,
    #[command(flatten)]
    certify: CertifyArgs,
}

/// The key that certifies.
#[derive(Debug, Args)]
struct CertifyArgs {
    /// Where the key is that certifies, if the database does not know
    #[arg(long, value_name = "URI", value_parser = parse_key_uri)]
    certify_key: Option<KeyUri>,
}

/// Why, as the command line writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReasonArg {
    /// No reason: what the key signed in the past becomes void too
    Unspecified,
    /// Another key takes its place
    Superseded,
    /// Others may know the key: what it signed in the past becomes void too
    Compromised,
    /// It is not used any more
    Retired,
}

impl From<ReasonArg> for Reason {
    fn from(reason: ReasonArg) -> Self {
        match reason {
            ReasonArg::Unspecified => Self::Unspecified,
            ReasonArg::Superseded => Self::Superseded,
            ReasonArg::Compromised => Self::Compromised,
            ReasonArg::Retired => Self::Retired,
        }
    }
}

pub(in crate::admin) fn renew(
    args: &RenewArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let store = context.store_to_change()?;
    let keys = context.key_store();
    let rows = find(&store, &args.name)?;
    let (row, certificate) = only(&rows, &args.name)?;
    let until: SystemTime = now() + Duration::from_secs(u64::from(args.days) * 86_400);
    let tls_key = keys.open(&uri(&row.key_uri)?)?;
    let renewed = if certificate.primary_spki().as_ref() == Some(&tls_key.spki_der) {
        let mut primary = StoreKey { store: &keys, key: &tls_key };
        certificate.renew(&mut primary, None, now(), Some(until))?
    } else {
        let primary = certifying_key(row, &args.certify, &keys, &certificate)?;
        let mut primary = StoreKey { store: &keys, key: &primary };
        let mut subkey = StoreKey { store: &keys, key: &tls_key };
        let subkey: &mut dyn RemoteKey = &mut subkey;
        certificate.renew(&mut primary, Some(subkey), now(), Some(until))?
    };
    replace(&store, row, &args.certify, &renewed)?;
    publish(row.name.as_str());
    show_rows(&store, &store.identity(row.id)?.into_iter().collect::<Vec<_>>(), out)
}

pub(in crate::admin) fn revoke(
    args: &RevokeArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let store = context.store_to_change()?;
    let keys = context.key_store();
    let rows = find(&store, &args.name)?;
    let (row, certificate) = only(&rows, &args.name)?;
    let primary = certifying_key(row, &args.certify, &keys, &certificate)?;
    let mut primary = StoreKey { store: &keys, key: &primary };
    let revoked = certificate.revoke(&mut primary, now(), args.reason.into(), &args.text)?;
    if args.prepare {
        note("keep this in a safe place: whoever has it can revoke the certificate");
    } else {
        replace(&store, row, &args.certify, &revoked.certificate)?;
        note("no peer will accept the identity once it knows; publish the revocation");
    }
    out.write_all(revoked.armored.as_bytes()).map_err(AdminError::Output)
}

/// Puts the changed certificate into the row, and remembers the key that changed it.
fn replace(
    store: &Store,
    row: &LocalIdentity,
    certify: &CertifyArgs,
    certificate: &Certificate,
) -> Result<(), AdminError> {
    let source = CertificateSource::OpenPgp(certificate.to_bytes());
    store.set_certificate(row.id, &source)?;
    if let Some(uri) = &certify.certify_key {
        store.set_certifying_key(row.id, &uri.to_string())?;
    }
    Ok(())
}

/// The primary key of the certificate: the one given, the one known, or that of TLS itself.
fn certifying_key(
    row: &LocalIdentity,
    certify: &CertifyArgs,
    keys: &KeyStore,
    certificate: &Certificate,
) -> Result<KeyInfo, AdminError> {
    let known = match (&certify.certify_key, &row.certify_uri) {
        (Some(given), _) => given.clone(),
        (None, Some(known)) => uri(known)?,
        (None, None) => uri(&row.key_uri)?,
    };
    let key = keys.open(&known)?;
    if certificate.primary_spki().as_ref() == Some(&key.spki_der) {
        return Ok(key);
    }
    Err(AdminError::Usage(format!(
        "{known} is not the key that certifies {}; give it with --certify-key, or change the \
         certificate where that key is (gpg --edit-key {}) and add it again: tlspool identity add {} \
         --openpgp FILE --key URI --replace",
        row.name,
        certificate.fingerprint(),
        row.name
    )))
}

fn uri(text: &str) -> Result<KeyUri, AdminError> {
    Ok(KeyUri::parse(text).map_err(KeyError::from)?)
}
