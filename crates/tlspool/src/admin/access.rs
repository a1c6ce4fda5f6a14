//! `tlspool access`: who may use which local identities.

use std::io::Write;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use serde::{Deserialize, Serialize};
use tlspool_identity::{DoNai, Selector};
use tlspool_store::{AccessRule, Caller, Store, Subject};

use super::accounts::{gid, group_name, uid, user_name};
use super::identity::parse_selector;
use super::output::{self, note};
use super::rows;
use super::{AdminContext, AdminError};
use crate::users;

/// Arguments of `tlspool access`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Root and the owner of the database may use every local identity. Anyone else needs a rule. The \
selectors of a name are tried from concrete to general (john@cs.example.com, @cs.example.com, \
john@.example.com, @.example.com, and so on up to @.), and the first that has any rule decides: a \
rule for one name takes it out of the rules for many.")]
pub struct AccessArgs {
    #[command(subcommand)]
    command: AccessCommand,
}

#[derive(Debug, Subcommand)]
enum AccessCommand {
    /// List the rules
    List {
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
    /// Permit a user, a group or everyone to use the identities that a selector matches
    Add {
        /// example.com, john@example.com, @example.com, .example.com, . (any domain), @. (any user)
        selector: Selector,
        #[command(flatten)]
        subject: SubjectArgs,
    },
    /// Show which rules decide about a name, and whether a user may use it
    Show {
        /// The local name
        name: DoNai,
        /// The user, by name or uid
        #[arg(long)]
        user: Option<String>,
        /// The program it runs
        #[arg(long, value_name = "PATH")]
        program: Option<PathBuf>,
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
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("subject").required(true).args(["user", "group", "anyone"]))]
struct SubjectArgs {
    /// The user, by name or uid
    #[arg(long)]
    user: Option<String>,
    /// The group, by name or gid
    #[arg(long)]
    group: Option<String>,
    /// Everyone who can connect to the pool
    #[arg(long)]
    anyone: bool,
    /// Only with this program (absolute path of the executable)
    #[arg(long, value_name = "PATH")]
    program: Option<String>,
}

/// A rule as `export` writes it and `import` reads it. Users and groups are written by number.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    selector: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<u32>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    anyone: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    program: Option<String>,
}

/// A rule for `--json`.
#[derive(Debug, Serialize)]
struct Shown {
    id: i64,
    #[serde(flatten)]
    rule: Exported,
    name: String,
}

pub(super) fn run(
    args: &AccessArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    match &args.command {
        AccessCommand::List { json } => list(&context.store_to_read()?, *json, out),
        AccessCommand::Add { selector, subject } => {
            add(&context.store()?, selector, subject, context, out)
        }
        AccessCommand::Show { name, user, program } => {
            show(&context.store_to_read()?, name, user.as_deref(), program.as_ref(), out)
        }
        AccessCommand::Remove { ids } => rows::remove(context, ids, Store::remove_access_rule),
        AccessCommand::Export => {
            rows::export(out, context.store_to_read()?.all_access_rules()?, exported)
        }
        AccessCommand::Import { file } => rows::import(context, file, "rules", import),
    }
}

fn list(store: &Store, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let rules = store.all_access_rules()?;
    if json {
        return rules.into_iter().try_for_each(|rule| {
            let (id, name) = (rule.id, subject_text(rule.subject));
            output::json(out, &Shown { id, rule: exported(rule), name })
        });
    }
    let rows: Vec<Vec<String>> = rules
        .into_iter()
        .map(|rule| {
            let program = rule.program.unwrap_or_else(|| "any".to_owned());
            vec![
                rule.id.to_string(),
                rule.selector.to_string(),
                subject_text(rule.subject),
                program,
            ]
        })
        .collect();
    output::table(out, &["ID", "SELECTOR", "WHO", "PROGRAM"], &rows)
}

fn add(
    store: &Store,
    selector: &Selector,
    subject: &SubjectArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let rule = AccessRule {
        id: 0,
        selector: selector.clone(),
        subject: match (&subject.user, &subject.group) {
            (Some(user), _) => Subject::User(uid(user)?),
            (None, Some(group)) => Subject::Group(gid(group)?),
            (None, None) => Subject::Anyone,
        },
        program: subject.program.clone(),
    };
    let id = store.add_access_rule(&rule)?;
    writeln!(out, "{id}").map_err(AdminError::Output)?;
    let known = match selector.as_name() {
        Some(name) => store.has_identity(&name)?,
        None => true,
    };
    if !known {
        note(format_args!(
            "{} has no local identity {selector} yet; see: tlspool identity create --help",
            context.database.display()
        ));
    }
    Ok(())
}

/// The rules that decide about a name: those of the first selector that has any.
fn deciding(store: &Store, name: &DoNai) -> Result<Vec<AccessRule>, AdminError> {
    for selector in name.lookup_order() {
        let rules = store.access_rules(&selector)?;
        if !rules.is_empty() {
            return Ok(rules);
        }
    }
    Ok(Vec::new())
}

/// Who may use `name`, in a line.
pub(super) fn who_may(store: &Store, name: &DoNai) -> Result<String, AdminError> {
    let always = match store.owner() {
        0 => "root".to_owned(),
        owner => format!("root, {}", user_name(owner)),
    };
    let rules = deciding(store, name)?.into_iter().map(|rule| {
        let with = rule.program.map_or_else(String::new, |program| format!(" with {program}"));
        format!("{}{with}", subject_text(rule.subject))
    });
    Ok(std::iter::once(always).chain(rules).collect::<Vec<_>>().join(", "))
}

fn show(
    store: &Store,
    name: &DoNai,
    user: Option<&str>,
    program: Option<&PathBuf>,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let rules = deciding(store, name)?;
    let by = rules.first().map_or_else(
        || "no rule".to_owned(),
        |rule| format!("{} ({} rules)", rule.selector, rules.len()),
    );
    let mut fields =
        vec![("name", name.to_string()), ("decided by", by), ("usable by", who_may(store, name)?)];
    if let Some(user) = user {
        let user = users::user(user)
            .ok_or_else(|| AdminError::Usage(format!("there is no user {user:?}")))?;
        let gids = users::groups_of(&user);
        let caller = Caller { uid: user.uid, gids: &gids, program: program.map(PathBuf::as_path) };
        let verdict = match store.check_access(&caller, name) {
            Ok(()) => "yes".to_owned(),
            Err(denied) => format!("no: {denied}"),
        };
        fields.push(("permitted", verdict));
    }
    output::fields(out, &fields)
}

fn subject_text(subject: Subject) -> String {
    match subject {
        Subject::User(uid) => format!("user {}", user_name(uid)),
        Subject::Group(gid) => format!("group {}", group_name(gid)),
        Subject::Anyone => "anyone".to_owned(),
    }
}

fn exported(rule: AccessRule) -> Exported {
    let (user, group) = match rule.subject {
        Subject::User(uid) => (Some(uid), None),
        Subject::Group(gid) => (None, Some(gid)),
        Subject::Anyone => (None, None),
    };
    Exported {
        selector: rule.selector.to_string(),
        user,
        group,
        anyone: rule.subject == Subject::Anyone,
        program: rule.program,
    }
}

fn import(store: &Store, row: Exported) -> Result<(), AdminError> {
    let subject = match (row.user, row.group, row.anyone) {
        (Some(uid), None, false) => Subject::User(uid),
        (None, Some(gid), false) => Subject::Group(gid),
        (None, None, true) => Subject::Anyone,
        _ => {
            let text = "give one of user, group, and anyone (true)";
            return Err(AdminError::Usage(text.to_owned()));
        }
    };
    let selector = parse_selector(&row.selector)?;
    let rule = AccessRule { id: 0, selector, subject, program: row.program };
    store.add_access_rule(&rule)?;
    Ok(())
}
