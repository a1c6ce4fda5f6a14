//! `tlspool token`: PKCS #11 modules, tokens and what is on them.

use std::io::Write;

use clap::{Args, Subcommand};
use serde_json::json;
use tlspool_keys::{KeyStore, KeyUri};

use super::identity::parse_key_uri;
use super::output::{self, note};
use super::{AdminContext, AdminError};

/// Arguments of `tlspool token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// List the tokens in all slots
    List {
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
    /// List the keys and certificates on a token (asks for its PIN to see the private ones)
    Show {
        /// The token, or part of its URI; without it the only one
        #[arg(value_parser = parse_key_uri)]
        uri: Option<KeyUri>,
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
    /// List the configured modules
    Modules {
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(
    args: &TokenArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let keys = context.key_store();
    if context.keys.modules.is_empty() {
        note(
            "no PKCS #11 module is configured; name one in the configuration under [[keys.module]]",
        );
    }
    match &args.command {
        TokenCommand::List { json } => tokens(&keys, *json, out),
        TokenCommand::Show { uri, json } => objects(&keys, uri.as_ref(), *json, out),
        TokenCommand::Modules { json } => modules(&keys, *json, out),
    }
}

fn tokens(keys: &KeyStore, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let tokens = keys.tokens();
    if json {
        return tokens.iter().try_for_each(|token| {
            output::json(
                out,
                &json!({
                    "uri": token.uri,
                    "label": token.name.label,
                    "manufacturer": token.name.manufacturer,
                    "model": token.name.model,
                    "serial": token.name.serial,
                    "module": token.module,
                    "slot": token.slot_id,
                    "initialized": token.initialized,
                    "login_required": token.login_required,
                    "keypad": token.keypad,
                    "pin_count_low": token.pin_count_low,
                    "pin_final_try": token.pin_final_try,
                    "pin_locked": token.pin_locked,
                }),
            )
        });
    }
    let rows: Vec<Vec<String>> = tokens
        .iter()
        .map(|token| {
            let pin = match token {
                _ if !token.initialized => "blank",
                _ if token.pin_locked => "LOCKED",
                _ if token.pin_final_try => "one try left",
                _ if token.pin_count_low => "wrong PIN was tried",
                _ if token.keypad => "keypad",
                _ if token.login_required => "needed",
                _ => "none",
            };
            vec![token.name.label.clone(), pin.to_owned(), token.uri.clone()]
        })
        .collect();
    output::table(out, &["TOKEN", "PIN", "URI"], &rows)?;
    broken_modules(keys);
    Ok(())
}

/// Says which modules failed: their tokens are not in the list.
fn broken_modules(keys: &KeyStore) {
    for module in keys.modules() {
        if let Some(error) = module.error {
            note(format_args!("module {}: {error}", module.path.display()));
        }
    }
}

fn objects(
    keys: &KeyStore,
    uri: Option<&KeyUri>,
    json: bool,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let all = KeyUri::parse("pkcs11:").map_err(tlspool_keys::KeyError::from)?;
    let objects = keys.objects(uri.unwrap_or(&all))?;
    let algorithm =
        |algorithm: Option<tlspool_keys::KeyAlgorithm>| algorithm.map(|kind| kind.to_string());
    if json {
        return objects.iter().try_for_each(|object| {
            output::json(
                out,
                &json!({
                    "uri": object.uri.to_string(),
                    "class": object.class.as_str(),
                    "algorithm": algorithm(object.algorithm),
                    "label": object.uri.object,
                }),
            )
        });
    }
    let rows: Vec<Vec<String>> = objects
        .iter()
        .map(|object| {
            vec![
                object.uri.object.clone().unwrap_or_default(),
                object.class.as_str().to_owned(),
                algorithm(object.algorithm).unwrap_or_default(),
                object.uri.to_string(),
            ]
        })
        .collect();
    output::table(out, &["OBJECT", "TYPE", "ALGORITHM", "URI"], &rows)
}

fn modules(keys: &KeyStore, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let modules = keys.modules();
    if json {
        return modules.iter().try_for_each(|module| {
            output::json(
                out,
                &json!({
                    "path": module.path,
                    "uri": module.uri,
                    "manufacturer": module.manufacturer,
                    "description": module.description,
                    "version": module.version,
                    "error": module.error,
                }),
            )
        });
    }
    let rows: Vec<Vec<String>> = modules
        .into_iter()
        .map(|module| {
            vec![
                module.path.display().to_string(),
                module.version,
                module.error.unwrap_or(module.description),
                module.uri,
            ]
        })
        .collect();
    output::table(out, &["MODULE", "VERSION", "WHAT IT IS", "URI"], &rows)
}
