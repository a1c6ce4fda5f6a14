//! A line of the log and the three ways to write it.
//!
//! Everything from outside (names, errors of peers) may stand in a line, so control characters are
//! escaped: nobody can forge a line by putting a line break into a name.

use std::fmt::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::Level;

use super::lines::Line;

impl Line<'_> {
    /// Adds the message with its fields, on one line.
    fn put_text(&self, text: &mut String) {
        put_escaped(text, self.message());
        for (name, value) in self.fields() {
            let quoted = value.is_empty() || value.contains([' ', '"', '=']);
            text.extend([" ", name, "="]);
            if quoted {
                text.push('"');
                for (n, part) in value.split('"').enumerate() {
                    text.push_str(if n > 0 { "\\\"" } else { "" });
                    put_escaped(text, part);
                }
                text.push('"');
            } else {
                put_escaped(text, value);
            }
        }
    }

    /// The message with its fields, on one line.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        self.put_text(&mut text);
        text
    }

    /// Adds it for standard error: time in UTC, level, text.
    pub(super) fn put_for_stderr(&self, out: &mut String, name: &str, pid: u32) {
        // A String takes everything.
        let _ = write!(out, "{} {:<5} {name}[{pid}] ", Rfc3339(self.time), self.level.as_str());
        self.put_text(out);
        out.push('\n');
    }

    /// For `/dev/log` (RFC 3164 without the time, which the log's daemon knows better), facility daemon.
    pub(super) fn for_syslog(&self, name: &str, pid: u32) -> Vec<u8> {
        format!("<{}>{name}[{pid}]: {}", (3 << 3) | self.priority(), self.text()).into_bytes()
    }

    /// For the journal, in its native protocol: one field each.
    pub(super) fn for_journald(&self, name: &str, pid: u32) -> Vec<u8> {
        let mut entry = Vec::new();
        field(&mut entry, "MESSAGE", &self.text());
        field(&mut entry, "PRIORITY", &self.priority().to_string());
        field(&mut entry, "SYSLOG_IDENTIFIER", name);
        field(&mut entry, "SYSLOG_PID", &pid.to_string());
        for (name, value) in self.fields() {
            let name = name.to_uppercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
            field(&mut entry, &format!("TLSPOOL_{name}"), value);
        }
        entry
    }

    /// The severity in syslog's numbers.
    fn priority(&self) -> u8 {
        match self.level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        }
    }
}

/// A field with its length, the form that allows any bytes in the value.
fn field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

fn put_escaped(out: &mut String, text: &str) {
    for part in text.split_inclusive(char::is_control) {
        let end = part.char_indices().next_back().filter(|(_, c)| c.is_control());
        match end {
            Some((at, control)) => {
                out.push_str(&part[..at]);
                out.extend(control.escape_default());
            }
            None => out.push_str(part),
        }
    }
}

/// `2026-01-31T12:00:00.123Z`
struct Rfc3339(SystemTime);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // Days to a date, with years that begin in March (H. Hinnant, "chrono-compatible low-level date
        // algorithms").
        let z = days + 719_468;
        let (era, day_of_era) = (z / 146_097, z % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            since.subsec_millis()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::lines::{Lines, MESSAGE};
    use std::time::Duration;

    fn lines(message: &str, fields: &[(&'static str, &str)]) -> Lines {
        let time = UNIX_EPOCH + Duration::from_millis(1_709_208_000_123);
        Lines::line(time, Level::INFO, &[fields, &[(MESSAGE, message)]].concat())
    }

    fn only(lines: &Lines) -> Line<'_> {
        lines.iter().next().unwrap()
    }

    #[test]
    fn lines_show_time_level_and_fields() {
        let fields = [("remote", "a.example"), ("outcome", "no route"), ("said", "a\"b\"\"")];
        let mut text = String::from("before\n");
        only(&lines("handshake", &fields)).put_for_stderr(&mut text, "tlspool", 7);
        assert_eq!(
            text,
            "before\n2024-02-29T12:00:00.123Z INFO  tlspool[7] handshake remote=a.example outcome=\"no route\" \
             said=\"a\\\"b\\\"\\\"\"\n"
        );
    }

    #[test]
    fn nobody_forges_a_line() {
        let lines = lines("x\ny", &[("name", "evil\n<0>kernel: \u{1b}[31m"), ("end", "\r")]);
        let line = only(&lines);
        assert_eq!(line.text(), "x\\ny name=\"evil\\n<0>kernel: \\u{1b}[31m\" end=\\r");
        assert!(!line.for_syslog("tlspool", 7).contains(&b'\n'));
        assert!(line.for_syslog("tlspool", 7).starts_with(b"<30>tlspool[7]: x\\ny"));
    }

    #[test]
    fn the_journal_gets_fields() {
        let lines = lines("m", &[("tls-version", "1.3")]);
        let entry = only(&lines).for_journald("tlspool", 7);
        let expected = b"TLSPOOL_TLS_VERSION\n\x03\0\0\0\0\0\0\x001.3\n";
        assert!(entry.windows(expected.len()).any(|part| part == expected));
    }
}
