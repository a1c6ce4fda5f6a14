//! Search filters and distinguished names.
//!
//! Filters travel as structure (RFC 4511 section 4.5.1.7), not as text, so a value from a peer cannot
//! become part of the filter, whatever characters it has. As text, escaped as RFC 4515 section 3 wants it,
//! they are shown in traces only. Distinguished names travel as text: values are escaped (RFC 4514).

use std::fmt::{self, Display, Formatter, Write};

use super::ber;

/// What entries a search is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Filter {
    /// All of these hold.
    And(Vec<Filter>),
    /// One of these holds.
    Or(Vec<Filter>),
    /// The attribute has this value.
    Equal(&'static str, String),
    /// The attribute has a value with this in it.
    Contains(&'static str, String),
    /// The attribute is there.
    Present(&'static str),
}

impl Filter {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let all = |filters: &[Filter]| filters.iter().map(Self::encode).collect::<Vec<_>>();
        match self {
            Self::And(filters) => ber::nest(0xa0, &all(filters)),
            Self::Or(filters) => ber::nest(0xa1, &all(filters)),
            Self::Equal(attribute, value) => {
                ber::nest(0xa3, &[ber::string(attribute), ber::string(value)])
            }
            Self::Contains(attribute, part) => {
                let any = ber::element(0x81, part.as_bytes());
                ber::nest(0xa4, &[ber::string(attribute), ber::nest(ber::SEQUENCE, &[any])])
            }
            Self::Present(attribute) => ber::element(0x87, attribute.as_bytes()),
        }
    }
}

impl Display for Filter {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::And(filters) | Self::Or(filters) => {
                to.write_str(if matches!(self, Self::And(_)) { "(&" } else { "(|" })?;
                filters.iter().try_for_each(|filter| filter.fmt(to))?;
                to.write_char(')')
            }
            Self::Equal(attribute, value) => write!(to, "({attribute}={})", Value(value)),
            Self::Contains(attribute, part) => write!(to, "({attribute}=*{}*)", Value(part)),
            Self::Present(attribute) => write!(to, "({attribute}=*)"),
        }
    }
}

/// A value, escaped as RFC 4515 section 3 says, and control characters too.
struct Value<'a>(&'a str);

impl Display for Value<'_> {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '*' | '(' | ')' | '\\' => write!(to, "\\{:02x}", character as u32)?,
                character if character.is_control() => {
                    let mut utf8 = [0; 4];
                    for byte in character.encode_utf8(&mut utf8).bytes() {
                        write!(to, "\\{byte:02x}")?;
                    }
                }
                character => to.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// The base entry of a domain: `dc=example,dc=com` (RFC 2247 section 4).
pub fn base_of(domain: &str) -> String {
    let labels = domain.split('.').map(|label| format!("dc={}", escape(label)));
    labels.collect::<Vec<_>>().join(",")
}

/// A value in a distinguished name (RFC 4514 section 2.4).
pub fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    let last = value.chars().count().wrapping_sub(1);
    for (at, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=' => escaped.extend(['\\', character]),
            ' ' if at == 0 || at == last => escaped.push_str("\\20"),
            '#' if at == 0 => escaped.push_str("\\23"),
            character if character.is_control() => {
                let mut utf8 = [0; 4];
                for byte in character.encode_utf8(&mut utf8).bytes() {
                    let _ = write!(escaped, "\\{byte:02x}");
                }
            }
            character => escaped.push(character),
        }
    }
    escaped
}

/// Whether the entry `name` lies below the entry of another domain than its search began at. `base` is
/// that of the search. `dc=cs,dc=example,dc=com` is a domain of its own; who is `john` there need not be
/// `john@example.com`.
pub(crate) fn is_of_subdomain(name: &str, base: &str) -> bool {
    let below = parts(name).len().saturating_sub(parts(base).len());
    parts(name).iter().take(below).any(|part| {
        part.split('+').any(|pair| {
            let attribute = pair.split('=').next().unwrap_or_default().trim();
            attribute.eq_ignore_ascii_case("dc")
                || attribute.eq_ignore_ascii_case("domainComponent")
                || attribute == "0.9.2342.19200300.100.1.25"
        })
    })
}

/// The parts of a distinguished name, split at commas that are not escaped.
fn parts(name: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped, mut quoted) = (0, false, false);
    for (at, character) in name.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&name[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !name.is_empty() {
        parts.push(&name[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_peers_stay_values() {
        let filter = Filter::Or(vec![
            Filter::Equal("uid", "*)(uid=root\\\0".into()),
            Filter::Contains("pgpUserID", "<a*b@example.com>".into()),
        ]);
        assert_eq!(
            filter.to_string(),
            r"(|(uid=\2a\29\28uid=root\5c\00)(pgpUserID=*<a\2ab@example.com>*))"
        );
        let encoded = Filter::Equal("uid", "*)(".into()).encode();
        assert_eq!(encoded, *b"\xa3\x0a\x04\x03uid\x04\x03*)(");
    }

    #[test]
    fn a_domain_has_a_base() {
        assert_eq!(base_of("cs.example.com"), "dc=cs,dc=example,dc=com");
        assert_eq!(base_of("a,dc=b.com"), r"dc=a\,dc\=b,dc=com");
        assert_eq!(escape(" #+\0 "), r"\20#\+\00\20");
        assert_eq!(escape("#x"), r"\23x");
    }

    #[test]
    fn entries_of_subdomains_are_seen() {
        let base = "dc=example,dc=com";
        assert!(!is_of_subdomain("uid=john,ou=People,dc=example,dc=com", base));
        assert!(!is_of_subdomain("dc=example,dc=com", base));
        assert!(is_of_subdomain("uid=john,DC=cs,dc=example,dc=com", base));
        assert!(is_of_subdomain("uid=john,ou=x+dc=cs,dc=example,dc=com", base));
        assert!(!is_of_subdomain(r"uid=a\,dc=cs,dc=example,dc=com", base));
        assert!(!is_of_subdomain("", base));
    }
}
