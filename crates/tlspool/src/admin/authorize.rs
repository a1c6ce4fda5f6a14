//! `tlspool authorize`: which peers, once they have proved who they are, may meet which of our names.

use std::io::Write;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use tlspool_identity::{DoNai, Selector};
use tlspool_store::{
    AuthorizationRow, DEFAULT_POSITION, Effect, Peers, Role, Roles, Store, StoreError,
};

use super::identity::parse_selector;
use super::output::{self, note};
use super::rows::{self, Numbered};
use super::{AdminContext, AdminError};
use crate::config::Ruling;
use crate::net::authorization::{self, Meeting};

/// Arguments of `tlspool authorize`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
The policy says who a peer is (tlspool policy); authorization says whether that one may have a session. Of the \
rules that match, the first decides: that of the lowest position; then that of the most concrete selector of \
the peer (john@example.com, @example.com, john@.com, @.com, john@., @.), then one for peers without a name, \
then one for anyone; then the same by our own name; then one for the service before one for any; then one for \
our role before one for both. If none matches, authorization.default in the configuration holds.")]
pub struct AuthorizeArgs {
    #[command(subcommand)]
    command: AuthorizeCommand,
}

#[derive(Debug, Subcommand)]
enum AuthorizeCommand {
    /// List the rules
    List {
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
    /// Allow or deny sessions with the peers that a selector matches
    Add(AddArgs),
    /// Show a rule
    Show {
        /// Its number, as `list` shows it
        id: i64,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove rules
    Remove {
        /// The numbers, as `list` shows them
        #[arg(required = true)]
        ids: Vec<i64>,
    },
    /// Write the rules as JSON lines
    Export,
    /// Read rules as `export` writes them: all or none
    Import {
        /// The file; - is standard input
        file: PathBuf,
    },
    /// Tell what would be decided about a peer, and by whom
    Check(CheckArgs),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("who").required(true))]
struct AddArgs {
    /// What the rule says
    #[arg(value_enum)]
    effect: EffectArg,
    /// Peers: example.com, john@example.com, @example.com, .example.com, . (any domain), @. (any user)
    #[arg(group = "who")]
    remote: Option<Selector>,
    /// All peers, with or without a name
    #[arg(long, group = "who")]
    anyone: bool,
    /// Peers that show no name
    #[arg(long, group = "who")]
    nameless: bool,
    /// Only with those of our names that this selector matches
    #[arg(long, value_name = "SELECTOR")]
    local: Option<Selector>,
    /// Only for this service, as programs name it in their requests
    #[arg(long)]
    service: Option<String>,
    /// Only where this is our role
    #[arg(long, value_enum)]
    role: Option<RoleArg>,
    /// The lowest decides, whatever the selectors
    #[arg(long, default_value_t = DEFAULT_POSITION, allow_negative_numbers = true)]
    position: i32,
    /// A word for people: who asked for it, until when
    #[arg(long, default_value = "")]
    comment: String,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("peer").required(true))]
struct CheckArgs {
    /// The name that the peer has proved
    #[arg(group = "peer")]
    remote: Option<DoNai>,
    /// A peer that shows no name
    #[arg(long, group = "peer")]
    nameless: bool,
    /// Our name
    #[arg(long, value_name = "NAME")]
    local: Option<DoNai>,
    /// The service, as programs name it in their requests
    #[arg(long, default_value = "")]
    service: String,
    /// Our role
    #[arg(long, value_enum, default_value = "server")]
    role: RoleArg,
    /// JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum EffectArg {
    /// They may
    Allow,
    /// They may not
    Deny,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleArg {
    /// We open
    Client,
    /// We answer
    Server,
}

/// A rule as `export` writes it and `import` reads it. `remote` is `*` for anyone, and empty for peers without
/// a name.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    effect: String,
    remote: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    #[serde(default = "both")]
    roles: String,
    #[serde(default = "default_position")]
    position: i32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    comment: String,
}

fn both() -> String {
    Roles::Both.as_str().to_owned()
}

fn default_position() -> i32 {
    DEFAULT_POSITION
}

pub(super) fn run(
    args: &AuthorizeArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    match &args.command {
        AuthorizeCommand::List { json } => list(&context.store_to_read()?, *json, out),
        AuthorizeCommand::Add(args) => add(args, context, out),
        AuthorizeCommand::Show { id, json } => show(&context.store_to_read()?, *id, *json, out),
        AuthorizeCommand::Remove { ids } => rows::remove(context, ids, Store::remove_authorization),
        AuthorizeCommand::Export => {
            rows::export(out, context.store_to_read()?.authorizations()?, exported)
        }
        AuthorizeCommand::Import { file } => rows::import(context, file, "rules", import),
        AuthorizeCommand::Check(args) => check(args, context, out),
    }
}

fn add(args: &AddArgs, context: &AdminContext, out: &mut dyn Write) -> Result<(), AdminError> {
    let remote = match &args.remote {
        Some(selector) => Peers::Named(selector.clone()),
        None if args.nameless => Peers::Nameless,
        None => Peers::Anyone,
    };
    let row = AuthorizationRow {
        id: 0,
        effect: match args.effect {
            EffectArg::Allow => Effect::Allow,
            EffectArg::Deny => Effect::Deny,
        },
        remote,
        local: args.local.clone(),
        service: args.service.clone().filter(|service| !service.is_empty()),
        roles: match args.role {
            None => Roles::Both,
            Some(RoleArg::Client) => Roles::Client,
            Some(RoleArg::Server) => Roles::Server,
        },
        position: args.position,
        comment: args.comment.clone(),
    };
    let store = context.store()?;
    let id = store.add_authorization(&row)?;
    writeln!(out, "{id}").map_err(AdminError::Output)?;
    note("a running pool sees it at once");
    let denies = || {
        Ok::<_, StoreError>(store.authorizations()?.iter().any(|row| row.effect == Effect::Deny))
    };
    if context.config.authorization.default == Ruling::Allow && !denies()? {
        note(
            "nobody is denied yet: see `tlspool authorize add deny --anyone`, or authorization.default \
             in the configuration",
        );
    }
    Ok(())
}

fn list(store: &Store, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let rows = store.authorizations()?;
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
                row.position.to_string(),
                row.effect.to_string(),
                row.remote.to_string(),
                row.local.map_or_else(|| "any".to_owned(), |local| local.to_string()),
                row.service.unwrap_or_else(|| "any".to_owned()),
                row.roles.to_string(),
                row.comment,
            ]
        })
        .collect();
    let headings = ["ID", "POSITION", "EFFECT", "REMOTE", "LOCAL", "SERVICE", "ROLES", "COMMENT"];
    output::table(out, &headings, &rows)
}

fn show(store: &Store, id: i64, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let Some(row) = store.authorization(id)? else {
        let what = format!("authorization rule number {id}");
        return Err(StoreError::NotFound { what }.into());
    };
    if json {
        return output::json(out, &Numbered { id, row: exported(row) });
    }
    let any = || "any".to_owned();
    let fields = [
        ("number", row.id.to_string()),
        ("position", row.position.to_string()),
        ("effect", row.effect.to_string()),
        ("remote", row.remote.to_string()),
        ("local", row.local.map_or_else(any, |local| local.to_string())),
        ("service", row.service.unwrap_or_else(any)),
        ("roles", row.roles.to_string()),
        ("comment", row.comment),
    ];
    output::fields(out, &fields)
}

fn exported(row: AuthorizationRow) -> Exported {
    Exported {
        effect: row.effect.to_string(),
        remote: row.remote.as_str().to_owned(),
        local: row.local.map(|local| local.to_string()),
        service: row.service,
        roles: row.roles.to_string(),
        position: row.position,
        comment: row.comment,
    }
}

fn import(store: &Store, row: Exported) -> Result<(), AdminError> {
    store.add_authorization(&imported(row)?)?;
    Ok(())
}

fn imported(row: Exported) -> Result<AuthorizationRow, AdminError> {
    let usage = |why: String| AdminError::Usage(why);
    Ok(AuthorizationRow {
        id: 0,
        effect: Effect::parse(&row.effect)
            .ok_or_else(|| usage(format!("effect {:?} is neither allow nor deny", row.effect)))?,
        remote: Peers::parse(&row.remote)
            .map_err(|error| usage(format!("{:?}: {error}", row.remote)))?,
        local: row.local.as_deref().map(parse_selector).transpose()?,
        service: row.service.filter(|service| !service.is_empty()),
        roles: Roles::parse(&row.roles).ok_or_else(|| {
            usage(format!("roles {:?} are neither client, server nor both", row.roles))
        })?,
        position: row.position,
        comment: row.comment,
    })
}

fn check(args: &CheckArgs, context: &AdminContext, out: &mut dyn Write) -> Result<(), AdminError> {
    let config = &context.config;
    let meeting = Meeting {
        role: match args.role {
            RoleArg::Client => Role::Client,
            RoleArg::Server => Role::Server,
        },
        remote: args.remote.clone(),
        local: args.local.clone(),
        service: args.service.as_str().into(),
    };
    // Says so where there is none.
    context.store_to_read()?;
    let decision = authorization::decide_here(config, &meeting).map_err(AdminError::Usage)?;
    if args.json {
        output::json(out, &decision)?;
    } else {
        write!(out, "{decision}").map_err(AdminError::Output)?;
    }
    if decision.allowed {
        Ok(())
    } else {
        Err(AdminError::NotAuthorized(decision.refusal(&meeting)))
    }
}
