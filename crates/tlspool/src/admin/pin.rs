//! `tlspool pin`: the fingerprints that peers must have.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Args, Subcommand};
use serde::{Deserialize, Serialize};
use tlspool_identity::DoNai;
use tlspool_keys::KeyUri;
use tlspool_store::{Kind, PinRow, Store, fingerprint};
use tlspool_validate::{OpenPgpCertificate, OpenPgpLimits};
use x509_parser::prelude::ASN1Time;

use super::identity::parse_name;
use super::output::{self, note};
use super::rows::{self, Numbered};
use super::{AdminContext, AdminError};
use crate::config;

/// Arguments of `tlspool pin`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
A policy with the word pin believes a peer whose fingerprint is here, under exactly its name. With pin? it \
also believes, and pins, a peer for which nothing is here. Of an X.509 certificate, the fingerprint is its \
SHA-256; of an OpenPGP certificate, that of its primary key.")]
pub struct PinArgs {
    #[command(subcommand)]
    command: PinCommand,
}

#[derive(Debug, Subcommand)]
enum PinCommand {
    /// List the pins
    List {
        /// One JSON document per line
        #[arg(long)]
        json: bool,
    },
    /// Pin what a peer must show; several pins for a name are alternatives
    Add {
        /// The peer's name
        name: DoNai,
        #[command(flatten)]
        what: WhatArgs,
        /// For so long only, such as 90d; for ever if left out
        #[arg(long = "for", value_name = "DURATION", value_parser = config::parse_duration)]
        lifetime: Option<Duration>,
    },
    /// Show one pin
    Show {
        /// Its number, as `list` shows it
        id: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove pins
    Remove {
        /// The numbers, as `list` shows them
        #[arg(required = true)]
        ids: Vec<i64>,
    },
    /// Write all pins as JSON, one document per line
    Export,
    /// Add pins from such a file (`-`: standard input); all or none
    Import {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["fingerprint", "certificate"]))]
struct WhatArgs {
    /// In hexadecimal, colons allowed; 64 digits are taken for X.509, 40 for OpenPGP
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// A file with the certificate
    #[arg(long, value_name = "FILE")]
    certificate: Option<PathBuf>,
    /// A fingerprint of 64 digits is of an OpenPGP key
    #[arg(long, requires = "fingerprint")]
    openpgp: bool,
}

/// A pin as `export` writes it and `import` reads it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exported {
    name: String,
    kind: String,
    fingerprint: String,
    /// Seconds since 1970.
    #[serde(default)]
    expires: Option<i64>,
}

pub(super) fn run(
    args: &PinArgs,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    match &args.command {
        PinCommand::List { json } => list(&context.store_to_read()?, *json, out),
        PinCommand::Add { name, what, lifetime } => {
            let (kind, fingerprint) = what.read(context)?;
            let end = lifetime.map(|lifetime| seconds(SystemTime::now() + lifetime));
            let pin = PinRow { id: 0, name: name.clone(), kind, fingerprint, expires: end };
            let id = context.store()?.add_pin(&pin)?;
            writeln!(out, "{id}").map_err(AdminError::Output)?;
            note("a running pool sees it at once");
            Ok(())
        }
        PinCommand::Show { id, json } => show(&context.store_to_read()?, *id, *json, out),
        PinCommand::Remove { ids } => rows::remove(context, ids, Store::remove_pin),
        PinCommand::Export => {
            rows::export(out, context.store_to_read()?.pins()?, |pin| exported(&pin))
        }
        PinCommand::Import { file } => {
            rows::import(context, file, "pins", |store, row| import(store, &row))
        }
    }
}

fn list(store: &Store, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let pins = store.pins()?;
    if json {
        return pins.into_iter().try_for_each(|pin| output::json(out, &numbered(&pin)));
    }
    let rows: Vec<Vec<String>> = pins
        .into_iter()
        .map(|pin| {
            vec![
                pin.id.to_string(),
                pin.name.to_string(),
                pin.kind.to_string(),
                until(&pin),
                hex(&pin.fingerprint),
            ]
        })
        .collect();
    output::table(out, &["ID", "NAME", "KIND", "UNTIL", "FINGERPRINT"], &rows)
}

fn show(store: &Store, id: i64, json: bool, out: &mut dyn Write) -> Result<(), AdminError> {
    let pin = store.pins()?.into_iter().find(|pin| pin.id == id);
    let pin = pin.ok_or_else(|| AdminError::NotFound(format!("pin number {id}")))?;
    if json {
        return output::json(out, &numbered(&pin));
    }
    let fields = [
        ("number", pin.id.to_string()),
        ("name", pin.name.to_string()),
        ("kind", pin.kind.to_string()),
        ("until", until(&pin)),
        ("fingerprint", hex(&pin.fingerprint)),
    ];
    output::fields(out, &fields)
}

fn numbered(pin: &PinRow) -> Numbered<Exported> {
    Numbered { id: pin.id, row: exported(pin) }
}

fn exported(pin: &PinRow) -> Exported {
    Exported {
        name: pin.name.to_string(),
        kind: pin.kind.to_string(),
        fingerprint: hex(&pin.fingerprint),
        expires: pin.expires,
    }
}

fn import(store: &Store, row: &Exported) -> Result<(), AdminError> {
    let usage = |text: String| AdminError::Usage(text);
    let kind = match row.kind.as_str() {
        "x509" => Kind::X509,
        "openpgp" => Kind::OpenPgp,
        other => return Err(usage(format!("kind {other:?} is not supported"))),
    };
    let fingerprint = unhex(&row.fingerprint)
        .ok_or_else(|| usage(format!("{:?} is no fingerprint in hexadecimal", row.fingerprint)))?;
    let name = parse_name(&row.name)?;
    store.add_pin(&PinRow { id: 0, name, kind, fingerprint, expires: row.expires })?;
    Ok(())
}

/// When a pin ends, for people.
fn until(pin: &PinRow) -> String {
    let Some(end) = pin.expires else { return "for ever".to_owned() };
    let date = ASN1Time::from_timestamp(end).map_or_else(|_| end.to_string(), |t| t.to_string());
    if end > seconds(SystemTime::now()) { date } else { format!("{date} (over)") }
}

impl WhatArgs {
    fn read(&self, context: &AdminContext) -> Result<(Kind, Vec<u8>), AdminError> {
        if let Some(file) = &self.certificate {
            return of_file(file, context);
        }
        let text = self.fingerprint.as_deref().unwrap_or_default();
        let bytes = unhex(text).ok_or_else(|| {
            AdminError::Usage(format!("{text:?} is no fingerprint in hexadecimal"))
        })?;
        let kind = match (bytes.len(), self.openpgp) {
            (20, _) | (32, true) => Kind::OpenPgp,
            _ => Kind::X509,
        };
        Ok((kind, bytes))
    }
}

fn of_file(file: &Path, context: &AdminContext) -> Result<(Kind, Vec<u8>), AdminError> {
    let bytes = std::fs::read(file).map_err(|error| AdminError::reading(file, error))?;
    if let Ok(certificate) = OpenPgpCertificate::read(&bytes, OpenPgpLimits::LARGE) {
        return Ok((Kind::OpenPgp, certificate.fingerprint().as_bytes().to_vec()));
    }
    let path = std::path::absolute(file).map_err(|error| AdminError::reading(file, error))?;
    let chain = context.key_store().certificates(&KeyUri::File(path))?;
    let leaf = chain
        .first()
        .ok_or_else(|| AdminError::NotFound(format!("certificate in {}", file.display())))?;
    Ok((Kind::X509, fingerprint(leaf).0.to_vec()))
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('?');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b':' | b' ')).collect();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}
