//! `tlspool disclosure`: which local identities a client shows to whom, when its program names none.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use tlspool_identity::{DoNai, Selector};
use tlspool_store::{Caller, Disclosed, DisclosureRow, Place, Role, Store};

use super::accounts::{uid, user_name};
use super::identity::{parse_name, parse_selector};
use super::output::{self, note};
use super::rows::{self, Numbered};
use super::{AdminContext, AdminError};
use crate::users;

/// Arguments of `tlspool disclosure`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A client shows nobody unless its program names a local identity, or a row here does, or the person or \
program that chooses (tlspool choose). The selectors of the remote's name are tried from concrete to \
general (john@cs.example.com, @cs.example.com, john@.example.com, @.example.com, and so on up to @.), and \
the first that has a row for the user decides: rows for that user, else rows for everyone. Its names are \
tried in order; the first that the program may use (tlspool access) and that has a certificate of the kind \
that the server takes is shown.")]
pub struct DisclosureArgs {
    #[command(subcommand)]
    command: DisclosureCommand,
}

#[derive(Debug, Subcommand)]
enum DisclosureCommand {
    /// List the rows
    List {
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
    /// Let clients show local identities to the remotes that a selector matches
    Add {
        /// example.com, john@example.com, @example.com, .example.com, . (any domain), @. (any user)
        remote: Selector,
        /// The local names, in order
        #[arg(required_unless_present = "nobody", conflicts_with = "nobody")]
        locals: Vec<DoNai>,
        /// Show nobody there, whatever a more general selector says
        #[arg(long)]
        nobody: bool,
        /// Only for programs of this user, by name or uid
        #[arg(long)]
        user: Option<String>,
        /// Before the names that the selector has already
        #[arg(long)]
        first: bool,
    },
    /// Show which rows decide about a remote name, and whom a user's programs show
    Show {
        /// The remote's name
        remote: DoNai,
        /// The user, by name or uid [default: yourself]
        #[arg(long)]
        user: Option<String>,
    },
    /// Remove rows
    Remove {
        /// The numbers, as `list` shows them
        #[arg(required = true)]
        ids: Vec<i64>,
    },
    /// Write the rows as JSON lines
    Export,
    /// Read rows as `export` writes them: all or none
    Import {
        /// The file; - is standard input
        file: PathBuf,
    },
}

/// A row as `export` writes it and `import` reads it. Users are written by number; without a local
/// name, nobody is shown.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    remote: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local: Option<String>,
}

pub(super) fn run(
    args: &DisclosureArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    match &args.command {
        DisclosureCommand::List { json } => list(&context.store_to_read()?, *json, out),
        DisclosureCommand::Add { remote, locals, nobody: _, user, first } => {
            let user = user.as_deref().map(uid).transpose()?;
            add(&mut context.store()?, remote, locals, user, *first, out)
        }
        DisclosureCommand::Show { remote, user } => {
            show(&context.store_to_read()?, remote, user.as_deref(), out)
        }
        DisclosureCommand::Remove { ids } => rows::remove(context, ids, Store::remove_disclosure),
        DisclosureCommand::Export => {
            rows::export(out, context.store_to_read()?.disclosures()?, exported)
        }
        DisclosureCommand::Import { file } => {
            rows::import(context, file, "rows", |store, row| import(store, &row))
        }
    }
}

fn list(store: &Store, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let rows = store.disclosures()?;
    if json {
        return rows
            .into_iter()
            .try_for_each(|row| output::json(out, &Numbered { id: row.id, row: exported(row) }));
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|row| {
            vec![
                row.id.to_string(),
                row.remote.to_string(),
                row.user.map_or_else(|| "everyone".to_owned(), user_name),
                row.local.map_or_else(|| "nobody".to_owned(), |local| local.to_string()),
            ]
        })
        .collect();
    output::table(out, &["ID", "REMOTE", "USER", "SHOWN"], &rows)
}

fn add(
    store: &mut Store,
    remote: &Selector,
    locals: &[DoNai],
    user: Option<u32>,
    first: bool,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let place = if first { Place::First } else { Place::Last };
    let mut wanted: Vec<Option<DoNai>> = locals.iter().cloned().map(Some).collect();
    if wanted.is_empty() {
        wanted.push(None);
    }
    if first {
        // Each goes before the ones that went before it.
        wanted.reverse();
    }
    let mut ids = store.transaction(|store| {
        let rows = wanted.into_iter().map(|local| {
            let row = DisclosureRow { id: 0, remote: remote.clone(), user, local };
            store.add_disclosure(&row, place)
        });
        rows.collect::<Result<Vec<_>, _>>()
    })?;
    if first {
        ids.reverse();
    }
    for id in ids {
        writeln!(out, "{id}").map_err(AdminError::Output)?;
    }
    for local in locals {
        if store.local_identities(local, Role::Client)?.is_empty() {
            note(format_args!(
                "there is no local identity {local} for a client yet; see: tlspool identity create --help"
            ));
        }
    }
    Ok(())
}

fn show(
    store: &Store,
    remote: &DoNai,
    user: Option<&str>,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let own = rustix::process::geteuid().as_raw();
    let found = user.map_or_else(|| users::user_of(own), users::user);
    let user = found.ok_or_else(|| {
        let text = user.map_or_else(
            || format!("uid {own} has no name; give --user"),
            |name| format!("there is no user {name:?}"),
        );
        AdminError::Usage(text)
    })?;
    let disclosed = store.disclosed(remote, user.uid)?;
    let by = match disclosed.as_ref().and_then(|disclosed| disclosed.rows.first()) {
        None => "no row".to_owned(),
        Some(row) => format!(
            "{}, for {}",
            row.remote,
            row.user.map_or_else(|| "everyone".to_owned(), user_name)
        ),
    };
    let mut fields =
        vec![("remote", remote.to_string()), ("user", user.name.clone()), ("decided by", by)];
    let gids = users::groups_of(&user);
    let caller = Caller { uid: user.uid, gids: &gids, program: None };
    let mut shown = None;
    for row in disclosed.iter().flat_map(|Disclosed { rows, .. }| rows) {
        let Some(local) = &row.local else { break };
        let verdict = match store.candidates(&caller, local, Role::Client) {
            Ok(_) => {
                shown.get_or_insert_with(|| local.to_string());
                format!("{local}")
            }
            Err(error) => format!("{local}: passed over: {error}"),
        };
        fields.push(("candidate", verdict));
    }
    fields.push(("shown", shown.unwrap_or_else(|| "nobody".to_owned())));
    output::fields(out, &fields)
}

fn exported(row: DisclosureRow) -> Exported {
    Exported {
        remote: row.remote.to_string(),
        user: row.user,
        local: row.local.map(|local| local.to_string()),
    }
}

fn import(store: &Store, row: &Exported) -> Result<(), AdminError> {
    let remote = parse_selector(&row.remote)?;
    let local = row.local.as_deref().map(parse_name).transpose()?;
    let row = DisclosureRow { id: 0, remote, user: row.user, local };
    store.add_disclosure(&row, Place::Last)?;
    Ok(())
}
