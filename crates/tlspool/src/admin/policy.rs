//! `tlspool policy`: what must hold of peers before they are believed.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use tlspool_identity::{DoNai, Selector};
use tlspool_store::{PolicyRow, PolicySide, Store, StoreError};
use tlspool_validate::policy::{DEFAULT_FOR_REMOTES, Expression};
use tlspool_validate::trace::Trace;

use super::identity::parse_selector;
use super::output::{self, note};
use super::rows::{self, Numbered};
use super::{AdminContext, AdminError};
use crate::net::authorization::Decision;
use crate::net::explain::{self, Question};

/// Arguments of `tlspool policy`.
#[derive(Debug, Args)]
#[command(after_long_help = format!("\
An expression has the words identity, pkix, dane, ldap, pin, openpgp, crl, ocsp, forward-secrecy, private, \
pq, client, server, true and false, joined by and, or, not, and parentheses. Each is true, false, or absent: \
its source provably has nothing to say. name? also accepts absence. A look-up that fails never makes an \
expression hold.

The policy for a peer is the one of the first selector in the look-up order of its name (john@example.com, \
@example.com, john@.com, @.com, john@., @.) that has any: one for the service, else one for any service. \
The same for our own name. Both must hold. A peer for which there is none must satisfy: {DEFAULT_FOR_REMOTES}."))]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// List the policies
    List {
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
    /// Demand something of the peers that a selector matches
    Add {
        /// example.com, john@example.com, @example.com, .example.com, . (any domain), @. (any user)
        selector: Selector,
        /// What must hold, such as: identity and (dane or pkix)
        #[arg(required = true)]
        expression: Vec<String>,
        /// By whose name it is found
        #[arg(long, value_enum, default_value = "remote")]
        side: SideArg,
        /// Only for this service, as programs name it in their requests
        #[arg(long)]
        service: Option<String>,
    },
    /// Show a policy
    Show {
        /// Its number, as `list` shows it
        id: i64,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove policies
    Remove {
        /// The numbers, as `list` shows them
        #[arg(required = true)]
        ids: Vec<i64>,
    },
    /// Write the policies as JSON lines
    Export,
    /// Read policies as `export` writes them, or with expressions in the one-letter postfix form of earlier
    /// pools: all or none
    Import {
        /// The file; - is standard input
        file: PathBuf,
    },
    /// Connect to a server and show what the policy makes of it, and why
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
struct ExplainArgs {
    /// The name that the server should have
    remote: DoNai,
    /// The service, as programs name it in their requests
    #[arg(long, default_value = "")]
    service: String,
    /// Where it is; without it, at its domain and the port of the service, or 443. TLS must be spoken from
    /// the first byte
    #[arg(long, value_name = "HOST:PORT")]
    connect: Option<String>,
    /// Our own name, whose policies apply too
    #[arg(long)]
    local: Option<DoNai>,
    /// The domain may answer for its user (DOMAIN_REPRESENTS_USER)
    #[arg(long)]
    domain_represents_user: bool,
    /// Ask for an OpenPGP certificate (RFC 6091)
    #[arg(long)]
    openpgp: bool,
    /// Believe nothing that was remembered (IGNORE_CACHES)
    #[arg(long)]
    ignore_caches: bool,
    /// Connect to nobody: show only which policies apply
    #[arg(long, conflicts_with = "connect")]
    offline: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SideArg {
    /// The peer's
    Remote,
    /// Ours
    Local,
}

/// A policy as `export` writes it and `import` reads it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    side: String,
    selector: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<String>,
    expression: String,
}

/// What `explain --json` prints.
#[derive(Debug, Serialize)]
struct ExplainedJson<'a> {
    address: String,
    believed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<String>,
    trace: Option<&'a Trace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorization: Option<&'a Decision>,
}

pub(super) fn run(
    args: &PolicyArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    match &args.command {
        PolicyCommand::List { json } => list(&context.store_to_read()?, *json, out),
        PolicyCommand::Add { selector, expression, side, service } => {
            let row = PolicyRow {
                id: 0,
                side: match side {
                    SideArg::Remote => PolicySide::Remote,
                    SideArg::Local => PolicySide::Local,
                },
                selector: selector.clone(),
                service: service.clone(),
                expression: typed(&expression.join(" "))?.to_string(),
            };
            let id = context.store()?.add_policy(&row)?;
            writeln!(out, "{id}").map_err(AdminError::Output)?;
            note("a running pool sees it at once");
            Ok(())
        }
        PolicyCommand::Show { id, json } => show(&context.store_to_read()?, *id, *json, out),
        PolicyCommand::Remove { ids } => rows::remove(context, ids, Store::remove_policy),
        PolicyCommand::Export => rows::export(out, context.store_to_read()?.policies()?, exported),
        PolicyCommand::Import { file } => rows::import(context, file, "policies", import),
        PolicyCommand::Explain(args) => explain(args, context, out),
    }
}

/// An expression from the command line.
fn typed(text: &str) -> Result<Expression, AdminError> {
    Expression::parse(text).map_err(|error| {
        let mut message = format!("{error}\n{}", error.pointed(text));
        if let (true, Ok(meant)) = (Expression::is_postfix(text), Expression::import(text)) {
            message = format!("this is the older postfix form; in words it is: {meant}");
        }
        AdminError::Usage(message)
    })
}

fn list(store: &Store, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let policies = store.policies()?;
    if json {
        return policies
            .into_iter()
            .try_for_each(|row| output::json(out, &Numbered { id: row.id, row: exported(row) }));
    }
    let rows: Vec<Vec<String>> = policies
        .into_iter()
        .map(|row| {
            vec![
                row.id.to_string(),
                row.side.to_string(),
                row.selector.to_string(),
                row.service.unwrap_or_else(|| "any".to_owned()),
                row.expression,
            ]
        })
        .collect();
    output::table(out, &["ID", "SIDE", "SELECTOR", "SERVICE", "EXPRESSION"], &rows)
}

fn show(store: &Store, id: i64, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let Some(row) = store.policy(id)? else {
        return Err(StoreError::NotFound { what: format!("policy number {id}") }.into());
    };
    if json {
        return output::json(out, &Numbered { id, row: exported(row) });
    }
    let usable = match Expression::parse(&row.expression) {
        Ok(_) => "yes".to_owned(),
        Err(error) => format!("no, so no peer is believed: {error}"),
    };
    let fields = [
        ("number", row.id.to_string()),
        ("side", row.side.to_string()),
        ("selector", row.selector.to_string()),
        ("service", row.service.unwrap_or_else(|| "any".to_owned())),
        ("expression", row.expression),
        ("usable", usable),
    ];
    output::fields(out, &fields)
}

fn exported(row: PolicyRow) -> Exported {
    Exported {
        side: row.side.to_string(),
        selector: row.selector.to_string(),
        service: row.service,
        expression: row.expression,
    }
}

fn import(store: &Store, row: Exported) -> Result<(), AdminError> {
    let usage = |why: String| AdminError::Usage(why);
    let side = match row.side.as_str() {
        "remote" => PolicySide::Remote,
        "local" => PolicySide::Local,
        other => return Err(usage(format!("side {other:?} is neither remote nor local"))),
    };
    let selector = parse_selector(&row.selector)?;
    let expression = Expression::import(&row.expression)
        .map_err(|error| usage(format!("{:?}: {error}", row.expression)))?;
    let service = row.service.filter(|service| !service.is_empty());
    let expression = expression.to_string();
    store.add_policy(&PolicyRow { id: 0, side, selector, service, expression })?;
    Ok(())
}

fn explain(
    args: &ExplainArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    if args.offline {
        return explain_offline(args, context, out);
    }
    let place = match &args.connect {
        Some(place) => place.clone(),
        None => format!("{}:{}", args.remote.domain(), port(&args.service)?),
    };
    let question = Question {
        remote: &args.remote,
        local: args.local.as_ref(),
        service: &args.service,
        connect: &place,
        openpgp: args.openpgp,
        ignore_caches: args.ignore_caches,
        domain_represents_user: args.domain_represents_user,
    };
    let explained = explain::explain(&context.config, &question).map_err(AdminError::Usage)?;
    let (trace, refusal) = match &explained.result {
        Ok(validated) => (validated.trace.as_deref(), None),
        Err(refused) => (refused.trace.as_deref(), Some(refused.refusal.to_string())),
    };
    let validated = explained.result.as_ref().ok();
    if args.json {
        let json = ExplainedJson {
            address: explained.address.to_string(),
            believed: validated.is_some(),
            identity: validated.map(|validated| validated.identity.as_str()),
            source: validated.map(|validated| validated.source),
            refusal: refusal.clone(),
            trace,
            authorization: explained.authorization.as_ref(),
        };
        output::json(out, &json)?;
    } else {
        let text = trace.map_or_else(String::new, ToString::to_string);
        write!(out, "connected to {}\n{text}", explained.address).map_err(AdminError::Output)?;
        if let Some(validated) = validated {
            let (identity, source) = (&validated.identity, validated.source);
            let pins = match validated.commits.first() {
                Some(tlspool_validate::Commit::Pin { .. }) => {
                    "; a session would pin it, this did not"
                }
                None => "",
            };
            writeln!(out, "believed: {identity} ({source}){pins}").map_err(AdminError::Output)?;
        }
        if let Some(decision) = &explained.authorization {
            write!(out, "{decision}").map_err(AdminError::Output)?;
        }
    }
    refusal.map_or(Ok(()), |refusal| Err(AdminError::NotBelieved(refusal)))
}

fn explain_offline(
    args: &ExplainArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let (local, config) = (args.local.as_ref(), &context.config);
    let found = explain::applicable(config, &args.remote, local, &args.service);
    for (side, applicable, default) in found.map_err(AdminError::Usage)? {
        let selector = if default { "the default" } else { &applicable.selector };
        if args.json {
            let row = Exported {
                side: side.to_string(),
                selector: selector.to_owned(),
                service: applicable.service,
                expression: applicable.expression.to_string(),
            };
            output::json(out, &row)?;
        } else {
            writeln!(out, "{side}, {selector}: {}", applicable.expression)
                .map_err(AdminError::Output)?;
        }
    }
    Ok(())
}

/// The port of a service, as services(5) says; that of HTTPS without one.
fn port(service: &str) -> Result<u16, AdminError> {
    if service.is_empty() {
        return Ok(443);
    }
    let services = std::fs::read_to_string("/etc/services").unwrap_or_default();
    let ports = services.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let name = words.next()?;
        let (port, protocol) = words.next()?.split_once('/')?;
        let named = name == service || words.any(|alias| alias == service);
        (named && protocol == "tcp").then(|| port.parse().ok())?
    });
    ports.into_iter().next().ok_or_else(|| {
        let text = format!("/etc/services has no port for {service:?}; say: --connect HOST:PORT");
        AdminError::Usage(text)
    })
}
