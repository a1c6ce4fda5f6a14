//! `tlspool status`: what the running daemon says about itself, for people or as JSON.
//!
//! The daemon decides what there is to know; this only lays it out. Lists of things with the same
//! fields become tables.

use crate::config::{Config, ConfigError};
use crate::supervisor::control::{ControlClient, ControlError};
use crate::supervisor::message::{ControlReply, ControlRequest};
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub(super) enum StatusError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("the running tlspool does not tell its status")]
    Nonsense,
}

pub(super) fn run(file: Option<&Path>, json: bool) -> Result<(), StatusError> {
    let config = Config::load(file)?;
    let mut client = ControlClient::connect(&config.control_socket())?;
    let (ControlReply::Status { status }, _) = client.ask(&ControlRequest::Status)? else {
        return Err(StatusError::Nonsense);
    };
    let text = if json { format!("{status:#}\n") } else { table(&status) };
    // A reader that has seen enough (`| head`) is no error.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(())
}

/// The whole for people.
fn table(status: &Value) -> String {
    let mut text = String::new();
    if let Value::Object(map) = status {
        section(&mut text, map, 0);
    }
    text
}

fn section(text: &mut String, map: &Map<String, Value>, depth: usize) {
    let indent = "  ".repeat(depth);
    let is_plain = |value: &&Value| !matches!(value, Value::Object(_)) && rows(value).is_none();
    let widest = map.iter().filter(|(_, v)| is_plain(v)).map(|(k, _)| k.len()).max().unwrap_or(0);
    for (name, value) in map {
        let name = name.replace('_', " ");
        if let Value::Object(inner) = value {
            let _ = writeln!(text, "{indent}{name}:");
            section(text, inner, depth + 1);
        } else if let Some(rows) = rows(value) {
            let _ = writeln!(text, "{indent}{name}:");
            grid(text, &rows, &format!("{indent}  "));
        } else {
            let _ = writeln!(text, "{indent}{name:widest$}  {}", plain(value));
        }
    }
}

/// The rows of a table, if the value is a list of objects.
fn rows(value: &Value) -> Option<Vec<&Map<String, Value>>> {
    let items = value.as_array()?;
    if items.is_empty() { None } else { items.iter().map(Value::as_object).collect() }
}

fn grid(text: &mut String, rows: &[&Map<String, Value>], indent: &str) {
    let mut columns: Vec<&str> = Vec::new();
    for row in rows {
        columns.extend(
            row.keys().map(String::as_str).filter(|k| !columns.contains(k)).collect::<Vec<_>>(),
        );
    }
    let cell =
        |row: &Map<String, Value>, column: &str| row.get(column).map(plain).unwrap_or_default();
    let widths: Vec<usize> = columns
        .iter()
        .map(|column| {
            let cells = rows.iter().map(|row| cell(row, column).chars().count());
            cells.chain([column.len()]).max().unwrap_or(0)
        })
        .collect();
    let mut line = |cells: Vec<String>| {
        let mut out = String::new();
        for (cell, width) in cells.iter().zip(&widths) {
            let _ = write!(out, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{indent}{}", out.trim_end());
    };
    line(columns.iter().map(|column| column.replace('_', " ").to_uppercase()).collect());
    for row in rows {
        line(columns.iter().map(|column| cell(row, column)).collect());
    }
}

/// A value in a line. Names of peers may stand in it, so control characters are escaped.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".into(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            map.iter().map(|(k, v)| format!("{k} {}", plain(v))).collect::<Vec<_>>().join(", ")
        }
        Value::Number(number) => match number.as_f64() {
            Some(float) if !number.is_u64() && !number.is_i64() => format!("{float:.2}"),
            _ => number.to_string(),
        },
    };
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_sections_and_tables() {
        let status = json!({
            "daemon": { "pid": 7, "sockets": ["/a", "/b"] },
            "rates": { "handshakes": 1.5 },
            "tokens": [
                { "label": "one", "state": "ready" },
                { "label": "second\u{1b}[31m", "state": "waits for PIN" },
            ],
            "errors": [],
        });
        assert_eq!(
            table(&status),
            "daemon:\n  pid      7\n  sockets  /a, /b\nerrors  none\nrates:\n  handshakes  1.50\ntokens:\n  \
             LABEL        STATE\n  one          ready\n  second\u{fffd}[31m  waits for PIN\n"
        );
    }
}
