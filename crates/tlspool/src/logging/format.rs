//! A line of the log and the three ways to write it.
//!
//! Everything from outside (names, errors of peers) may stand in a line, so control characters are
//! escaped: nobody can forge a line by putting a line break into a name.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// One event.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, String)>,
}

impl Line {
    pub(super) fn of(event: &Event<'_>) -> Self {
        let mut line = Self {
            time: SystemTime::now(),
            level: *event.metadata().level(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut line);
        line
    }

    fn put(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.push((field.name(), text));
        }
    }

    /// The message with its fields, on one line.
    pub(super) fn text(&self) -> String {
        let mut text = escaped(&self.message);
        for (name, value) in &self.fields {
            let value = escaped(value);
            let quoted = value.is_empty() || value.contains([' ', '"', '=']);
            let _ = if quoted {
                write!(text, " {name}=\"{}\"", value.replace('"', "\\\""))
            } else {
                write!(text, " {name}={value}")
            };
        }
        text
    }

    /// For standard error: time in UTC, level, text.
    pub(super) fn for_stderr(&self, name: &str, pid: u32) -> String {
        format!("{} {:<5} {name}[{pid}] {}\n", rfc3339(self.time), self.level.as_str(), self.text())
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
        for (name, value) in &self.fields {
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

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}"));
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

fn escaped(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars()
        .flat_map(|c| {
            let (plain, escape) =
                if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
            plain.into_iter().chain(escape.into_iter().flatten())
        })
        .collect()
}

/// `2026-01-31T12:00:00.123Z`
fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
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
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn line(message: &str, fields: &[(&'static str, &str)]) -> Line {
        Line {
            time: UNIX_EPOCH + Duration::from_millis(1_709_208_000_123),
            level: Level::INFO,
            message: message.into(),
            fields: fields.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
        }
    }

    #[test]
    fn lines_show_time_level_and_fields() {
        let text = line("handshake", &[("remote", "a.example"), ("outcome", "no route")])
            .for_stderr("tlspool", 7);
        assert_eq!(
            text,
            "2024-02-29T12:00:00.123Z INFO  tlspool[7] handshake remote=a.example outcome=\"no route\"\n"
        );
    }

    #[test]
    fn nobody_forges_a_line() {
        let line = line("x\ny", &[("name", "evil\n<0>kernel: \u{1b}[31m")]);
        assert!(!line.text().contains(['\n', '\u{1b}']));
        assert!(!line.for_syslog("tlspool", 7).contains(&b'\n'));
        assert!(line.for_syslog("tlspool", 7).starts_with(b"<30>tlspool[7]: x\\ny"));
    }

    #[test]
    fn the_journal_gets_fields() {
        let entry = line("m", &[("tls-version", "1.3")]).for_journald("tlspool", 7);
        let expected = b"TLSPOOL_TLS_VERSION\n\x03\0\0\0\0\0\0\x001.3\n";
        assert!(entry.windows(expected.len()).any(|part| part == expected));
    }
}
