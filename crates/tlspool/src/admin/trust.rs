//! `tlspool trust`: trust anchors beside those of the system.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tlspool_keys::KeyUri;
use tlspool_store::{Kind, NewTrustAnchor, Store, StoreError, TrustAnchorRow};

use super::describe::Description;
use super::exchange::chain_of_pem;
use super::openpgp::{self, OpenPgpDescription};
use super::output::{self, note};
use super::rows;
use super::{AdminContext, AdminError};

/// Arguments of `tlspool trust`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
An anchor for a service is trusted by that service only, and a service with anchors of its own trusts \
nobody else, not even the system's authorities. An anchor for all services is trusted beside the \
system's. A certificate that is no authority (CA:TRUE) is trusted as this very certificate: it can \
issue no others. An OpenPGP key vouches for itself and for the user IDs that it has certified.")]
pub struct TrustArgs {
    #[command(subcommand)]
    command: TrustCommand,
}

#[derive(Debug, Subcommand)]
enum TrustCommand {
    /// List trust anchors
    List {
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
    /// Trust the certificates in a file
    Add {
        /// PEM or DER; all certificates in it are added
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// The files hold OpenPGP keys, armored or binary, one each
        #[arg(long)]
        openpgp: bool,
        /// Only for this service, as programs name it in their requests
        #[arg(long)]
        service: Option<String>,
    },
    /// Show a trust anchor
    Show {
        /// Its number, as `list` shows it
        id: i64,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove trust anchors
    Remove {
        /// The numbers, as `list` shows them
        #[arg(required = true)]
        ids: Vec<i64>,
    },
    /// Write the anchors as JSON lines
    Export,
    /// Read anchors as `export` writes them: all or none
    Import {
        /// The file; - is standard input
        file: PathBuf,
    },
}

/// An anchor as `export` writes it and `import` reads it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    kind: String,
    certificate: String,
}

/// An anchor for `--json`.
#[derive(Debug, Serialize)]
struct Shown {
    id: i64,
    #[serde(flatten)]
    row: Exported,
    #[serde(flatten)]
    certified: Certified,
}

/// What an anchor says.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Certified {
    X509(Description),
    OpenPgp(OpenPgpDescription),
}

impl Certified {
    fn of(row: &TrustAnchorRow) -> Result<Self, AdminError> {
        Ok(match row.kind {
            Kind::X509 => Self::X509(Description::of(&row.certificate)?),
            Kind::OpenPgp => {
                let certificate = openpgp::read_stored(&row.certificate)?;
                Self::OpenPgp(OpenPgpDescription::of(&certificate))
            }
        })
    }

    /// In one word.
    fn trusted_as(&self) -> &'static str {
        match self {
            Self::X509(certified) if certified.authority => "authority",
            Self::X509(_) => "exact",
            Self::OpenPgp(_) => "openpgp",
        }
    }
}

pub(super) fn run(
    args: &TrustArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    match &args.command {
        TrustCommand::List { json } => list(&context.store_to_read()?, *json, out),
        TrustCommand::Add { files, openpgp: true, service } => {
            let added = openpgp::trust(&mut context.store()?, files, service.as_deref())?;
            for (id, label) in added {
                writeln!(out, "{id}  {label}: trusted, with the user IDs that it has certified")
                    .map_err(AdminError::Output)?;
            }
            note("a running pool sees it at once");
            Ok(())
        }
        TrustCommand::Add { files, service, .. } => {
            add(&mut context.store()?, files, service.as_deref(), context, out)
        }
        TrustCommand::Show { id, json } => show(&context.store_to_read()?, *id, *json, out),
        TrustCommand::Remove { ids } => rows::remove(context, ids, Store::remove_trust_anchor),
        TrustCommand::Export => {
            let rows = context.store_to_read()?.trust_anchors()?;
            rows.iter().try_for_each(|row| output::json(out, &exported(row)?))
        }
        TrustCommand::Import { file } => {
            rows::import(context, file, "trust anchors", |store, row| import(store, &row))
        }
    }
}

fn list(store: &Store, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let anchors = store.trust_anchors()?;
    if json {
        return anchors.iter().try_for_each(|row| output::json(out, &shown(row)?));
    }
    let mut rows = Vec::new();
    for anchor in anchors {
        let certified = Certified::of(&anchor)?;
        let trusted_as = certified.trusted_as().to_owned();
        let (not_after, fingerprint) = match certified {
            Certified::X509(certified) => (certified.not_after, certified.fingerprint),
            Certified::OpenPgp(certified) => (certified.not_after, certified.fingerprint),
        };
        rows.push(vec![
            anchor.id.to_string(),
            anchor.service.unwrap_or_else(|| "all".to_owned()),
            trusted_as,
            not_after,
            fingerprint.chars().take(16).collect(),
            anchor.label,
        ]);
    }
    let headings = ["ID", "SERVICE", "TRUSTED AS", "VALID UNTIL", "FINGERPRINT", "SUBJECT"];
    output::table(out, &headings, &rows)
}

fn add(
    store: &mut Store,
    files: &[PathBuf],
    service: Option<&str>,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let keys = context.key_store();
    let mut added = Vec::new();
    for file in files {
        let path = std::path::absolute(file).map_err(|error| AdminError::reading(file, error))?;
        added.extend(keys.certificates(&KeyUri::File(path))?);
    }
    let ids: Vec<i64> = store.transaction(|store| {
        added
            .iter()
            .map(|certificate| add_one(store, certificate, service))
            .collect::<Result<_, AdminError>>()
    })?;
    for (id, certificate) in ids.into_iter().zip(&added) {
        let certified = Description::of(certificate)?;
        let trusted = if certified.authority {
            "trusted as an authority"
        } else {
            "trusted as this very certificate, it issues no others"
        };
        writeln!(out, "{id}  {}: {trusted}", certified.subject).map_err(AdminError::Output)?;
    }
    note("a running pool sees it at once");
    Ok(())
}

fn add_one(store: &Store, certificate: &[u8], service: Option<&str>) -> Result<i64, AdminError> {
    let certified = Description::of(certificate)?;
    Ok(store.add_trust_anchor(&NewTrustAnchor {
        kind: Kind::X509,
        service,
        certificate,
        label: &certified.subject,
    })?)
}

fn show(store: &Store, id: i64, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let Some(row) = store.trust_anchor(id)? else {
        return Err(StoreError::NotFound { what: format!("trust anchor number {id}") }.into());
    };
    if json {
        return output::json(out, &shown(&row)?);
    }
    let certified = Certified::of(&row)?;
    let mut fields = vec![
        ("number", row.id.to_string()),
        ("service", row.service.clone().unwrap_or_else(|| "all".to_owned())),
        ("trusted as", certified.trusted_as().to_owned()),
    ];
    fields.extend(match &certified {
        Certified::X509(certified) => certified.fields(),
        Certified::OpenPgp(certified) => certified.fields(),
    });
    output::fields(out, &fields)?;
    out.write_all(armored(&row)?.as_bytes()).map_err(AdminError::Output)
}

/// The row as it is exported; an error if it cannot be read, as then nobody could import it.
fn exported(row: &TrustAnchorRow) -> Result<Exported, AdminError> {
    let certificate = armored(row).map_err(|error| {
        AdminError::Usage(format!(
            "anchor number {} cannot be exported: {error}; remove it",
            row.id
        ))
    })?;
    Ok(Exported { service: row.service.clone(), kind: row.kind.to_string(), certificate })
}

/// The certificate as text, PEM or ASCII armor.
fn armored(row: &TrustAnchorRow) -> Result<String, AdminError> {
    match row.kind {
        Kind::X509 => Ok(output::pem([row.certificate.as_slice()])),
        Kind::OpenPgp => Ok(openpgp::read_stored(&row.certificate)?.to_armored()),
    }
}

fn shown(row: &TrustAnchorRow) -> Result<Shown, AdminError> {
    let certified = Certified::of(row)?;
    Ok(Shown { id: row.id, row: exported(row)?, certified })
}

fn import(store: &Store, row: &Exported) -> Result<(), AdminError> {
    let service = row.service.as_deref();
    match row.kind.as_str() {
        "x509" => chain_of_pem(&row.certificate)?
            .iter()
            .try_for_each(|certificate| add_one(store, certificate, service).map(drop)),
        "openpgp" => {
            let certificate = openpgp::read_trusted(&row.certificate)?;
            openpgp::trust_one(store, &certificate, service).map(drop)
        }
        kind => Err(AdminError::Usage(format!("kind {kind:?} is not supported"))),
    }
}
