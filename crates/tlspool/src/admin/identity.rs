//! `tlspool identity`: the table of local identities.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use tlspool_identity::{DoNai, Selector};
use tlspool_keys::{KeyError, KeyStore, KeyUri};
use tlspool_store::{CertificateSource, Kind, LocalIdentity, NewIdentity, Roles, Store};

use super::describe::{Description, objections, spki};
use super::exchange::{exported, import, shown};
use super::openpgp::{self, OpenPgpDescription};
use super::output::{self, note};
use super::{AdminContext, AdminError, create, publish, rows};

/// Arguments of `tlspool identity`.
#[derive(Debug, Args)]
pub struct IdentityArgs {
    #[command(subcommand)]
    command: IdentityCommand,
}

#[derive(Debug, Subcommand)]
enum IdentityCommand {
    /// List local identities
    List {
        /// Only the names this selector matches: example.com, @example.com, .example.com, @.
        selector: Option<Selector>,
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
    /// Show all about one identity
    Show {
        /// The name, or the number of a row
        name: String,
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
    Create(Box<create::CreateArgs>),
    Add(Box<AddArgs>),
    /// Remove an identity; its key stays where it is
    Remove {
        /// The name, or the number of a row
        name: String,
        /// Remove all rows of the name
        #[arg(long)]
        all: bool,
    },
    Renew(openpgp::RenewArgs),
    Revoke(openpgp::RevokeArgs),
    Publish(Box<publish::PublishArgs>),
    Check(publish::CheckArgs),
    /// Write identities as JSON lines, without private keys; or one OpenPGP certificate
    Export {
        /// Only the names this selector matches; with --armor or --binary the name, or the number of
        /// a row
        #[arg(required_if_eq_any = [("armor", "true"), ("binary", "true")])]
        selector: Option<String>,
        /// Only the OpenPGP certificate, in ASCII armor, to publish
        #[arg(long, conflicts_with = "binary")]
        armor: bool,
        /// Only the OpenPGP certificate, in binary
        #[arg(long)]
        binary: bool,
    },
    /// Read identities as `export` writes them: all or none
    Import {
        /// The file; - is standard input
        file: PathBuf,
    },
}

/// Adds an identity whose key and certificate exist
#[derive(Debug, Args)]
struct AddArgs {
    /// The name: example.com or john@example.com
    name: DoNai,
    /// A PEM or DER file with the chain, leaf first, to store; or a URI (file:/path is read again at
    /// HUP, pkcs11:… from the token)
    #[arg(long, value_name = "FILE|URI", required_unless_present = "openpgp")]
    certificate: Option<String>,
    /// Instead, an OpenPGP certificate (transferable public key), armored or binary; - is standard
    /// input
    #[arg(long, value_name = "FILE", conflicts_with = "certificate")]
    openpgp: Option<PathBuf>,
    /// Where the key is that certifies the OpenPGP certificate, so that the pool can renew it
    #[arg(long, value_name = "URI", value_parser = parse_key_uri, requires = "openpgp")]
    certify_key: Option<KeyUri>,
    /// The private key: pkcs11:… or file:/path; of OpenPGP certificates that of the subkey for TLS
    #[arg(long, value_name = "URI", value_parser = parse_key_uri)]
    key: KeyUri,
    /// Replace the certificates this name has with this key, as after a renewal
    #[arg(long)]
    replace: bool,
    /// Do not open the key to see whether it belongs to the certificate
    #[arg(long)]
    no_check: bool,
    #[command(flatten)]
    properties: Properties,
}

/// What `add` and `create` have in common.
#[derive(Debug, Args)]
pub(super) struct Properties {
    /// What the identity may be used for
    #[arg(long, value_enum, default_value_t = RoleArg::Both)]
    pub(super) role: RoleArg,
    /// Among several of one name, the lowest is offered first
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub(super) preference: i32,
    /// Use it when neither the program nor the peer names an identity
    #[arg(long)]
    pub(super) default: bool,
}

/// Roles, as the command line and exports write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RoleArg {
    Client,
    Server,
    Both,
}

impl From<RoleArg> for Roles {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Client => Self::Client,
            RoleArg::Server => Self::Server,
            RoleArg::Both => Self::Both,
        }
    }
}

impl From<Roles> for RoleArg {
    fn from(roles: Roles) -> Self {
        match roles {
            Roles::Client => Self::Client,
            Roles::Server => Self::Server,
            Roles::Both => Self::Both,
        }
    }
}

/// A key URI as people type it: a bare absolute path counts as `file:`.
pub(super) fn parse_key_uri(text: &str) -> Result<KeyUri, String> {
    let uri =
        if text.starts_with('/') { Ok(KeyUri::File(text.into())) } else { KeyUri::parse(text) };
    uri.map_err(|error| error.to_string())
}

pub(super) fn run(
    args: &IdentityArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    match &args.command {
        IdentityCommand::List { selector, json } => {
            list(&context.store_to_read()?, selector.as_ref(), *json, out)
        }
        IdentityCommand::Show { name, json } => {
            let store = context.store_to_read()?;
            let rows = find(&store, name)?;
            if *json {
                return rows.into_iter().try_for_each(|row| output::json(out, &shown(row)));
            }
            show_rows(&store, &rows, out)
        }
        IdentityCommand::Create(args) => create::run(args, context, out),
        IdentityCommand::Add(args) => add(args, context, out),
        IdentityCommand::Remove { name, all } => {
            remove(&mut context.store_to_change()?, name, *all)
        }
        IdentityCommand::Renew(args) => openpgp::renew(args, context, out),
        IdentityCommand::Revoke(args) => openpgp::revoke(args, context, out),
        IdentityCommand::Publish(args) => publish::publish(args, context, out),
        IdentityCommand::Check(args) => publish::check(args, context, out),
        IdentityCommand::Export { selector: Some(name), armor, binary } if *armor || *binary => {
            openpgp::export(&find(&context.store_to_read()?, name)?, name, *binary, out)
        }
        IdentityCommand::Export { selector, .. } => {
            let selector = selector.as_deref().map(parse_selector).transpose()?;
            let store = context.store_to_read()?;
            store.for_each_identity(selector.as_ref(), |row| output::json(out, &exported(row)?))
        }
        IdentityCommand::Import { file } => {
            rows::import(context, file, "identities", |store, row| import(store, &row))
        }
    }
}

fn list(
    store: &Store,
    selector: Option<&Selector>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    if json {
        return store.for_each_identity(selector, |row| output::json(out, &shown(row)));
    }
    let mut rows = Vec::new();
    store.for_each_identity(selector, |row| {
        let default = if row.is_default { " (default)" } else { "" };
        let until = match &row.certificate {
            CertificateSource::Chain(chain) => chain
                .first()
                .map_or(Ok(String::new()), |leaf| Description::of(leaf).map(|leaf| leaf.not_after)),
            CertificateSource::Uri(uri) => Ok(uri.clone()),
            CertificateSource::OpenPgp(bytes) => openpgp::read_stored(bytes)
                .map(|certificate| OpenPgpDescription::of(&certificate).not_after),
        };
        rows.push(vec![
            row.id.to_string(),
            format!("{}{default}", row.name),
            row.kind.to_string(),
            row.roles.to_string(),
            row.preference.to_string(),
            until.unwrap_or_else(|error| error.to_string()),
            row.key_uri,
        ]);
        Ok::<(), AdminError>(())
    })?;
    output::table(out, &["ID", "NAME", "KIND", "ROLE", "PREFERENCE", "VALID UNTIL", "KEY"], &rows)
}

/// All about some rows, for people.
pub(super) fn show_rows(
    store: &Store,
    rows: &[LocalIdentity],
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            writeln!(out).map_err(AdminError::Output)?;
        }
        let mut fields = vec![
            ("name", row.name.to_string()),
            ("number", row.id.to_string()),
            ("kind", row.kind.to_string()),
            ("role", row.roles.to_string()),
            ("preference", row.preference.to_string()),
            ("default", if row.is_default { "yes" } else { "no" }.to_owned()),
            ("key", row.key_uri.clone()),
        ];
        let mut armored = String::new();
        match &row.certificate {
            CertificateSource::Uri(uri) => fields.push(("certificate", uri.clone())),
            CertificateSource::OpenPgp(bytes) => {
                if let Some(uri) = &row.certify_uri {
                    fields.push(("certifying key", uri.clone()));
                }
                let certificate = openpgp::read_stored(bytes)?;
                fields.extend(OpenPgpDescription::of(&certificate).fields());
                armored = certificate.to_armored();
            }
            CertificateSource::Chain(chain) => {
                if let Some(leaf) = chain.first() {
                    fields.extend(Description::of(leaf)?.fields());
                    fields.push(("chain", format!("{} certificates", chain.len())));
                }
                armored = output::pem(chain.iter().map(Vec::as_slice));
            }
        }
        let rules = super::access::who_may(store, &row.name)?;
        fields.push(("usable by", rules));
        output::fields(out, &fields)?;
        out.write_all(armored.as_bytes()).map_err(AdminError::Output)?;
    }
    Ok(())
}

/// The rows that a name or number means: at least one.
pub(super) fn find(store: &Store, name: &str) -> Result<Vec<LocalIdentity>, AdminError> {
    let rows = match name.parse() {
        Ok(id) => store.identity(id)?.into_iter().collect(),
        Err(_) => store.identities_named(&parse_name(name)?)?,
    };
    if rows.is_empty() {
        return Err(AdminError::NotFound(format!(
            "local identity {name}; see: tlspool identity list"
        )));
    }
    Ok(rows)
}

pub(super) fn parse_selector(text: &str) -> Result<Selector, AdminError> {
    text.parse().map_err(|error| AdminError::Usage(format!("{text:?}: {error}")))
}

/// A name as people type it.
pub(super) fn parse_name(name: &str) -> Result<DoNai, AdminError> {
    DoNai::parse(name).map_err(|error| AdminError::Usage(format!("{name:?}: {error}")))
}

fn add(args: &AddArgs, context: &AdminContext, out: &mut dyn Write) -> Result<(), AdminError> {
    let mut store = context.store()?;
    let keys = context.key_store();
    let certificate = match (&args.openpgp, &args.certificate) {
        (Some(file), _) => {
            let key = (!args.no_check).then_some((&keys, &args.key));
            CertificateSource::OpenPgp(openpgp::add(&args.name, file, key)?.to_bytes())
        }
        (None, Some(certificate)) => checked_chain(args, certificate, &keys)?,
        (None, None) => return Err(AdminError::Usage("give --certificate or --openpgp".into())),
    };
    let key_uri = args.key.to_string();
    let new = NewIdentity {
        name: &args.name,
        roles: args.properties.role.into(),
        kind: if args.openpgp.is_some() { Kind::OpenPgp } else { Kind::X509 },
        certificate,
        key_uri: &key_uri,
        preference: args.properties.preference,
        is_default: args.properties.default,
    };
    let id = store.transaction(|store| {
        let mut certify = args.certify_key.as_ref().map(ToString::to_string);
        if args.replace {
            for old in store.identities_named(&args.name)? {
                if old.key_uri == key_uri && old.kind == new.kind {
                    store.remove_identity(old.id)?;
                    certify = certify.or(old.certify_uri);
                }
            }
        }
        let id = store.add_identity(&new)?;
        if let Some(uri) = certify {
            store.set_certifying_key(id, &uri)?;
        }
        Ok::<_, AdminError>(id)
    });
    let row = store.identity(id?)?;
    show_rows(&store, &row.into_iter().collect::<Vec<_>>(), out)
}

/// The chain of `--certificate`, once it is known to belong to the key.
fn checked_chain(
    args: &AddArgs,
    text: &str,
    keys: &KeyStore,
) -> Result<CertificateSource, AdminError> {
    let (certificate, chain) = certificate(text, keys)?;
    let [leaf, ..] = chain.as_slice() else {
        return Err(AdminError::Usage(format!("{text} holds no certificate")));
    };
    if args.no_check {
        note("the key was not opened: whether it belongs to the certificate is not known");
    } else {
        let key = keys.open(&args.key)?;
        if key.spki_der != spki(leaf)? {
            return Err(AdminError::Usage(format!(
                "the certificate {} belongs to another key than {}; is it the leaf, and the first in \
                 its file?",
                text, args.key
            )));
        }
    }
    for objection in objections(&args.name, leaf) {
        note(format_args!("peers will object: {objection}"));
    }
    Ok(certificate)
}

/// What to store of `--certificate`, and the chain it leads to now.
fn certificate(
    text: &str,
    keys: &KeyStore,
) -> Result<(CertificateSource, Vec<Vec<u8>>), AdminError> {
    if text.starts_with("pkcs11:") || text.starts_with("file:") {
        let uri = KeyUri::parse(text).map_err(KeyError::from)?;
        let chain = keys.certificates(&uri)?;
        return Ok((CertificateSource::Uri(uri.to_string()), chain));
    }
    let path =
        std::path::absolute(text).map_err(|error| AdminError::reading(text.as_ref(), error))?;
    let chain = keys.certificates(&KeyUri::File(path))?;
    Ok((CertificateSource::Chain(chain.clone()), chain))
}

fn remove(store: &mut Store, name: &str, all: bool) -> Result<(), AdminError> {
    let rows = find(store, name)?;
    if rows.len() > 1 && !all {
        let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
        return Err(AdminError::Usage(format!(
            "{name} has {} rows: give one of the numbers {}, or --all",
            rows.len(),
            ids.join(", ")
        )));
    }
    store.transaction(|store| rows.iter().try_for_each(|row| store.remove_identity(row.id)))?;
    for row in rows {
        note(format_args!("the key {} stays; remove it yourself if it is done with", row.key_uri));
    }
    Ok(())
}
