//! Tables for people, JSON for programs, PEM for everybody.

use std::io::{Read, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::AdminError;

/// Largest file that is imported.
const MAX_IMPORT: u64 = 1 << 30;

/// Text that may be somebody else's, such as the label of a token, for one line of a terminal: without control
/// characters, which would drive it.
pub fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The same for text of several lines.
pub fn lines(text: &str) -> String {
    let drives = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    text.chars().map(|c| if drives(c) { '\u{fffd}' } else { c }).collect()
}

/// Writes rows under headings, in columns as wide as they need to be.
pub fn table(
    out: &mut dyn Write,
    headings: &[&str],
    rows: &[Vec<String>],
) -> Result<(), AdminError> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([headings[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let headings = headings.iter().map(ToString::to_string).collect();
    for row in std::iter::once(&headings).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}  "));
        let cells: String = cells.collect();
        writeln!(out, "{}", line(cells.trim_end())).map_err(AdminError::Output)?;
    }
    Ok(())
}

/// Writes one JSON document on one line.
pub fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), AdminError> {
    let text = serde_json::to_string(value)
        .map_err(|error| AdminError::Output(std::io::Error::other(error)))?;
    writeln!(out, "{text}").map_err(AdminError::Output)
}

/// Writes `label: value` lines.
pub fn fields(out: &mut dyn Write, fields: &[(&str, String)]) -> Result<(), AdminError> {
    let width = fields.iter().map(|(label, _)| label.len()).max().unwrap_or(0) + 2;
    for (label, value) in fields {
        let value = lines(value);
        writeln!(out, "{:width$}{value}", format!("{label}:")).map_err(AdminError::Output)?;
    }
    Ok(())
}

/// Certificates in PEM.
pub fn pem<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    certificates.into_iter().map(|der| to_pem("CERTIFICATE", der)).collect()
}

/// Anything in PEM.
pub fn to_pem(tag: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}

/// Reads a file to import, or standard input if it is `-`.
pub fn read(path: &Path) -> Result<String, AdminError> {
    let mut text = String::new();
    let result = if path == Path::new("-") {
        std::io::stdin().lock().take(MAX_IMPORT).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_IMPORT).read_to_string(&mut text))
    };
    result.map_err(|error| AdminError::reading(path, error))?;
    Ok(text)
}

/// Calls `each` with the JSON document on every line that is neither empty nor a comment (`#`), and
/// returns how many there were.
pub fn each_line<T: DeserializeOwned>(
    text: &str,
    mut each: impl FnMut(T) -> Result<(), AdminError>,
) -> Result<usize, AdminError> {
    let mut count = 0;
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: String| AdminError::Line { line: index + 1, why };
        let value = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        each(value).map_err(|error| wrong(error.to_string()))?;
        count += 1;
    }
    Ok(count)
}

/// Says something to the person beside the result.
pub fn note(text: impl std::fmt::Display) {
    eprintln!("tlspool: {}", lines(&text.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut out = Vec::new();
        let rows = [vec!["1".to_owned(), "é".to_owned()], vec!["1000".to_owned(), "b".to_owned()]];
        table(&mut out, &["ID", "NAME"], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "ID    NAME\n1     é\n1000  b\n");
    }

    #[test]
    fn nothing_drives_the_terminal() {
        let label = "web\x1b]0;x\x07\x1b[2J\r\n\u{9b}31m\ttoken".to_owned();
        let mut out = Vec::new();
        table(&mut out, &["TOKEN"], &[vec![label.clone()]]).unwrap();
        let shown = String::from_utf8(out).unwrap();
        assert_eq!(shown.lines().count(), 2);
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
        let mut out = Vec::new();
        fields(&mut out, &[("label", label)]).unwrap();
        let shown = String::from_utf8(out).unwrap();
        let plain = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
        assert!(shown.chars().all(plain), "{shown:?}");
    }

    #[test]
    fn lines_with_their_number() {
        let mut seen = Vec::new();
        let mut each = |number: u32| {
            seen.push(number);
            Ok(())
        };
        assert_eq!(each_line("# three\n3\n\n4\n", &mut each).unwrap(), 2);
        let error = each_line("3\nx\n", &mut each).unwrap_err();
        assert!(matches!(error, AdminError::Line { line: 2, .. }));
        assert_eq!(seen, [3, 4, 3]);
    }
}
