//! `tlspool identity`: the table of local identities.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use tlspool_identity::{DoNai, Selector};
use tlspool_keys::{KeyError, KeyStore, KeyUri};
use tlspool_store::{
    CertificateSource, Kind, LocalIdentity, NewIdentity, Roles, Store, StoreError, check_stored_uri,
};

use super::describe::{Description, objections, spki};
use super::output::{self, note};
use super::{AdminContext, AdminError, create};

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
    /// Write identities as JSON lines, without private keys
    Export {
        /// Only the names this selector matches
        selector: Option<Selector>,
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
    #[arg(long, value_name = "FILE|URI")]
    certificate: String,
    /// The private key: pkcs11:… or file:/path
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

/// A row as `export` writes it and `import` reads it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    name: String,
    role: RoleArg,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_uri: Option<String>,
    key: String,
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
struct Shown {
    id: i64,
    #[serde(flatten)]
    row: Exported,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaf: Option<Description>,
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
        IdentityCommand::Remove { name, all } => remove(&mut context.store()?, name, *all),
        IdentityCommand::Export { selector } => context
            .store_to_read()?
            .for_each_identity(selector.as_ref(), |row| output::json(out, &exported(row))),
        IdentityCommand::Import { file } => import(&mut context.store()?, &output::read(file)?),
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
        };
        rows.push(vec![
            row.id.to_string(),
            format!("{}{default}", row.name),
            row.roles.to_string(),
            row.preference.to_string(),
            until.unwrap_or_else(|error| error.to_string()),
            row.key_uri,
        ]);
        Ok::<(), AdminError>(())
    })?;
    output::table(out, &["ID", "NAME", "ROLE", "PREFERENCE", "VALID UNTIL", "KEY"], &rows)
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
            ("role", row.roles.to_string()),
            ("preference", row.preference.to_string()),
            ("default", if row.is_default { "yes" } else { "no" }.to_owned()),
            ("key", row.key_uri.clone()),
        ];
        match &row.certificate {
            CertificateSource::Uri(uri) => fields.push(("certificate", uri.clone())),
            CertificateSource::Chain(chain) => {
                if let Some(leaf) = chain.first() {
                    fields.extend(Description::of(leaf)?.fields());
                    fields.push(("chain", format!("{} certificates", chain.len())));
                }
            }
        }
        let rules = super::access::who_may(store, &row.name)?;
        fields.push(("usable by", rules));
        output::fields(out, &fields)?;
        if let CertificateSource::Chain(chain) = &row.certificate {
            let pem = output::pem(chain.iter().map(Vec::as_slice));
            out.write_all(pem.as_bytes()).map_err(AdminError::Output)?;
        }
    }
    Ok(())
}

/// The rows that a name or number means: at least one.
fn find(store: &Store, name: &str) -> Result<Vec<LocalIdentity>, AdminError> {
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

fn parse_name(name: &str) -> Result<DoNai, AdminError> {
    DoNai::parse(name).map_err(|error| AdminError::Usage(format!("{name:?}: {error}")))
}

fn add(args: &AddArgs, context: &AdminContext, out: &mut dyn Write) -> Result<(), AdminError> {
    let mut store = context.store()?;
    let keys = context.key_store();
    let (certificate, chain) = certificate(args, &keys)?;
    let [leaf, ..] = chain.as_slice() else {
        return Err(AdminError::Usage(format!("{} holds no certificate", args.certificate)));
    };
    if args.no_check {
        note("the key was not opened: whether it belongs to the certificate is not known");
    } else {
        let key = keys.open(&args.key)?;
        if key.spki_der != spki(leaf)? {
            return Err(AdminError::Usage(format!(
                "the certificate {} belongs to another key than {}; is it the leaf, and the first in \
                 its file?",
                args.certificate, args.key
            )));
        }
    }
    for objection in objections(&args.name, leaf) {
        note(format_args!("peers will object: {objection}"));
    }
    let key_uri = args.key.to_string();
    let new = NewIdentity {
        name: &args.name,
        roles: args.properties.role.into(),
        kind: Kind::X509,
        certificate,
        key_uri: &key_uri,
        preference: args.properties.preference,
        is_default: args.properties.default,
    };
    let id = store.transaction(|store| {
        if args.replace {
            for old in store.identities_named(&args.name)? {
                if old.key_uri == key_uri {
                    store.remove_identity(old.id)?;
                }
            }
        }
        store.add_identity(&new)
    });
    let row = store.identity(id?)?;
    show_rows(&store, &row.into_iter().collect::<Vec<_>>(), out)
}

/// What to store of `--certificate`, and the chain it leads to now.
fn certificate(
    args: &AddArgs,
    keys: &KeyStore,
) -> Result<(CertificateSource, Vec<Vec<u8>>), AdminError> {
    let text = &args.certificate;
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

fn exported(row: LocalIdentity) -> Exported {
    let (certificate, certificate_uri) = match row.certificate {
        CertificateSource::Chain(chain) => {
            (Some(output::pem(chain.iter().map(Vec::as_slice))), None)
        }
        CertificateSource::Uri(uri) => (None, Some(uri)),
    };
    Exported {
        name: row.name.to_string(),
        role: row.roles.into(),
        kind: row.kind.to_string(),
        certificate,
        certificate_uri,
        key: row.key_uri,
        preference: row.preference,
        default: row.is_default,
    }
}

fn shown(row: LocalIdentity) -> Shown {
    let leaf = match &row.certificate {
        CertificateSource::Chain(chain) => {
            chain.first().and_then(|leaf| Description::of(leaf).ok())
        }
        CertificateSource::Uri(_) => None,
    };
    Shown { id: row.id, leaf, row: exported(row) }
}

fn import(store: &mut Store, text: &str) -> Result<(), AdminError> {
    let count =
        store.transaction(|store| output::each_line(text, |row| import_row(store, &row)))?;
    note(format_args!("{count} identities imported"));
    Ok(())
}

fn import_row(store: &Store, row: &Exported) -> Result<(), AdminError> {
    if row.kind != Kind::X509.as_str() {
        return Err(AdminError::Usage(format!("kind {:?} is not supported", row.kind)));
    }
    let certificate = match (&row.certificate, &row.certificate_uri) {
        (Some(pem), None) => CertificateSource::Chain(chain_of_pem(pem)?),
        (None, Some(uri)) => CertificateSource::Uri(uri.clone()),
        _ => {
            let text = "give either certificate or certificate_uri";
            return Err(AdminError::Usage(text.to_owned()));
        }
    };
    check_stored_uri(&row.key)?;
    let key = KeyUri::parse(&row.key).map_err(KeyError::from)?;
    store.add_identity(&NewIdentity {
        name: &parse_name(&row.name)?,
        roles: row.role.into(),
        kind: Kind::X509,
        certificate,
        key_uri: &key.to_string(),
        preference: row.preference,
        is_default: row.default,
    })?;
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
