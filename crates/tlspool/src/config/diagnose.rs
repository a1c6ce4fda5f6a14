//! Errors of the configuration file, in the words of somebody who has to mend it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// Why a configuration file cannot be used.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    Wrong {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// The key with the tables it stands in, such as `limits.clients`; empty if the text is no TOML.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, source } => {
                write!(f, "{}: {source}; name a file that can be read with -c", file.display())
            }
            Self::Wrong { file, line, column, key, problem } => {
                write!(f, "{}:{line}:{column}: ", file.display())?;
                if !key.is_empty() {
                    write!(f, "{key}: ")?;
                }
                f.write_str(problem)
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable { source, .. } => Some(source),
            Self::Wrong { .. } => None,
        }
    }
}

/// An error of the TOML reader, with place, key and a better word for a key that is not known.
pub(super) fn explain(error: &toml::de::Error, text: &str, file: &Path) -> ConfigError {
    let offset = error.span().map_or(0, |span| span.start);
    let key = DeTable::parse(text).map(|table| key_at(table.get_ref(), offset)).unwrap_or_default();
    wrong(file, text, offset, key, explain_message(error.message()))
}

/// An error about the value of `key` (dotted, numbers index arrays), which the reader let pass.
pub(super) fn about(key: &str, problem: String, text: &str, file: &Path) -> ConfigError {
    let offset = DeTable::parse(text)
        .ok()
        .and_then(|table| offset_of(table.get_ref(), key))
        .unwrap_or_default();
    wrong(file, text, offset, key.to_owned(), problem)
}

fn wrong(file: &Path, text: &str, offset: usize, key: String, problem: String) -> ConfigError {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |n| n + 1);
    ConfigError::Wrong {
        file: file.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[line_start..].chars().count() + 1,
        key,
        problem,
    }
}

fn explain_message(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    match quoted.next() {
        Some(name) if message.starts_with("unknown field") => {
            let known: Vec<&str> = quoted.collect();
            match closest(name, &known) {
                Some(near) => format!("there is no such key; did you mean `{near}`?"),
                None => format!("there is no such key; the keys here are {}", known.join(", ")),
            }
        }
        Some(name) if message.starts_with("unknown variant") => {
            let known: Vec<String> = quoted.map(|name| format!("\"{name}\"")).collect();
            format!("\"{name}\" is none of {}", known.join(", "))
        }
        Some(name) if message.starts_with("missing field") => {
            format!("the key `{name}` is missing in this section; add it")
        }
        _ => message.trim_end().replace('\n', ", "),
    }
}

/// The word that `name` was probably meant to be.
fn closest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let (near, distance) = known
        .iter()
        .map(|word| (*word, edits(&name.to_lowercase().replace('-', "_"), word)))
        .min_by_key(|(_, distance)| *distance)?;
    (distance <= 1 + name.len() / 4).then_some(near)
}

/// Levenshtein distance in bytes: keys are ASCII and short.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

/// The dotted name of what stands at `offset`.
fn key_at(table: &DeTable<'_>, offset: usize) -> String {
    for (name, value) in table {
        let (name_span, value_span) = (name.span(), value.span());
        if name_span.contains(&offset) {
            return name.get_ref().to_string();
        }
        let inner = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, offset),
            DeValue::Array(items) => items.iter().map(|item| item_at(item, offset)).collect(),
            _ => String::new(),
        };
        if !inner.is_empty() {
            return format!("{}.{inner}", name.get_ref());
        }
        if value_span.contains(&offset) {
            return name.get_ref().to_string();
        }
    }
    String::new()
}

fn item_at(item: &toml::Spanned<DeValue<'_>>, offset: usize) -> String {
    match item.get_ref() {
        DeValue::Table(inner) => key_at(inner, offset),
        _ => String::new(),
    }
}

/// Where the value of the dotted `key` stands.
fn offset_of(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let (first, mut rest) = key.split_once('.').unwrap_or((key, ""));
    let mut value = table.iter().find(|(name, _)| name.get_ref() == first)?.1;
    if let DeValue::Array(items) = value.get_ref() {
        let (index, after) = rest.split_once('.').unwrap_or((rest, ""));
        if let Some(item) = index.parse().ok().and_then(|n: usize| items.get(n)) {
            (value, rest) = (item, after);
        }
    }
    let span: Range<usize> = value.span();
    match value.get_ref() {
        DeValue::Table(inner) if !rest.is_empty() => offset_of(inner, rest).or(Some(span.start)),
        _ => Some(span.start),
    }
}
