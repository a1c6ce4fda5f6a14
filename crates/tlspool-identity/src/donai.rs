//! One name: a domain (`example.com`) or a user at a domain (`john@example.com`).

use std::fmt;
use std::str::FromStr;

use crate::domain;
use crate::selector::LookupOrder;

/// Longest name in bytes: what a 128-byte field of the socket protocol holds beside its NUL.
pub const MAX_LEN: usize = 127;

/// A domain or network access identifier in canonical form.
///
/// The domain is in A-labels and lower case (U-labels are converted when parsed). The user is UTF-8;
/// names are compared in lower case, so letters are folded, except where a letter outside ASCII
/// would become one inside it (the Kelvin sign does not pass for a `k`). An IP address is not a
/// name: hosts given by address have no DoNAI and are refused with [`NameError::IpAddress`].
///
/// Two equal identities are equal byte by byte: compare, hash, sort and store them as text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DoNai {
    text: Box<str>,
    /// Where the domain starts in `text`: 0 without a user.
    domain_at: u8,
}

/// Why a text is not a name (or not a selector).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name is empty")]
    Empty,
    /// More than [`MAX_LEN`] bytes.
    #[error("the name has {0} bytes in its A-label form; at most {MAX_LEN} fit")]
    TooLong(usize),
    /// A NUL or another control character, or an invisible one.
    #[error("the name contains an invisible or control character (U+{0:04X})")]
    Control(u32),
    /// More than one `@`.
    #[error("the name has more than one @; write user@domain")]
    ManyAts,
    /// `@domain` where one name is needed.
    #[error("there is no user before the @: that is a selector of all users, not a name")]
    NoUser,
    /// White space in the user, or a quoted user.
    #[error("the user part contains white space or quotes")]
    BadUser,
    /// `user@`.
    #[error("there is no domain; write example.com or user@example.com")]
    NoDomain,
    /// Two dots in a row, or a dot at the start.
    #[error("the domain has an empty label (a dot too many)")]
    EmptyLabel,
    /// A label of more than 63 bytes.
    #[error("a label of the domain is longer than 63 bytes")]
    LongLabel,
    /// Something other than letters, digits, `-` and `_`, or a hyphen at the edge of a label.
    #[error("the domain has {0:?} where only letters, digits and inner hyphens may be")]
    BadCharacter(char),
    /// Not a valid internationalised domain name (UTS 46).
    #[error("the domain is not a valid internationalised name")]
    BadIdn,
    /// An IP address.
    #[error("an IP address is not a name that can be authenticated; use the host's domain name")]
    IpAddress,
}

impl DoNai {
    /// Reads a name as a person or a program writes it. One trailing dot is tolerated.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        Self::parse_strict(text.strip_suffix('.').unwrap_or(text))
    }

    /// Reads a name out of a credential: as [`DoNai::parse`], but tolerates nothing.
    pub fn parse_strict(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        check_characters(text)?;
        match split_user(text)? {
            (None, domain) => Self::build(None, &domain::canonical(domain)?),
            (Some(""), _) => Err(NameError::NoUser),
            (Some(user), domain) => {
                Self::build(Some(&fold_user(user)?), &domain::canonical(domain)?)
            }
        }
    }

    /// Puts together canonical parts.
    fn build(user: Option<&str>, domain: &str) -> Result<Self, NameError> {
        let text = match user {
            Some(user) => format!("{user}@{domain}"),
            None => domain.to_owned(),
        };
        if text.len() > MAX_LEN {
            return Err(NameError::TooLong(text.len()));
        }
        let domain_at = (text.len() - domain.len()) as u8;
        Ok(Self { text: text.into_boxed_str(), domain_at })
    }

    /// `user@domain` out of two texts, for credentials that hold them apart.
    pub fn from_parts(user: Option<&str>, domain: &str) -> Result<Self, NameError> {
        if let Some(user) = user {
            check_characters(user)?;
            if user.contains('@') {
                return Err(NameError::ManyAts);
            }
        }
        check_characters(domain)?;
        let domain = domain::canonical(domain)?;
        match user {
            None => Self::build(None, &domain),
            Some("") => Err(NameError::NoUser),
            Some(user) => Self::build(Some(&fold_user(user)?), &domain),
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The domain, in A-labels.
    pub fn domain(&self) -> &str {
        &self.text[usize::from(self.domain_at)..]
    }

    /// The user, if the name has one.
    pub fn user(&self) -> Option<&str> {
        usize::from(self.domain_at).checked_sub(1).map(|end| &self.text[..end])
    }

    /// The name of the domain alone: what may stand in for its user, and what goes out as SNI.
    #[must_use]
    pub fn domain_name(&self) -> Self {
        Self { text: self.domain().into(), domain_at: 0 }
    }

    /// The selectors that match this name, from the concrete one to the most general. The first
    /// that a table knows decides.
    pub fn lookup_order(&self) -> LookupOrder<'_> {
        LookupOrder::new(self)
    }
}

impl fmt::Display for DoNai {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for DoNai {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DoNai({})", self.text)
    }
}

impl AsRef<str> for DoNai {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl FromStr for DoNai {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// Splits at the `@`: the text before it (if there is one) and the domain.
pub(crate) fn split_user(text: &str) -> Result<(Option<&str>, &str), NameError> {
    match text.split_once('@') {
        None => Ok((None, text)),
        Some((_, domain)) if domain.contains('@') => Err(NameError::ManyAts),
        Some((user, domain)) => Ok((Some(user), domain)),
    }
}

/// Whether people cannot see the character, or it changes how others are shown: a NUL that ends a text for C
/// programs, line breaks that forge log lines, direction marks that make one name look like another.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// Refuses hidden characters.
pub(crate) fn check_characters(text: &str) -> Result<(), NameError> {
    text.chars().find(|c| is_hidden(*c)).map_or(Ok(()), |c| Err(NameError::Control(u32::from(c))))
}

/// The form in which users are compared.
pub(crate) fn fold_user(user: &str) -> Result<String, NameError> {
    if user.chars().any(|c| c.is_whitespace() || c == '"') {
        return Err(NameError::BadUser);
    }
    let mut folded = String::with_capacity(user.len());
    for c in user.chars() {
        if c.is_ascii() {
            folded.push(c.to_ascii_lowercase());
        } else if c.to_lowercase().any(|l| l.is_ascii()) {
            folded.push(c);
        } else {
            folded.extend(c.to_lowercase());
        }
    }
    Ok(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_folds() {
        let name = DoNai::parse("John@Example.COM.").unwrap();
        assert_eq!(name.as_str(), "john@example.com");
        assert_eq!((name.user(), name.domain()), (Some("john"), "example.com"));
        assert_eq!(name.domain_name(), DoNai::parse("example.com").unwrap());
        let name = DoNai::parse("localhost").unwrap();
        assert_eq!((name.user(), name.domain()), (None, "localhost"));
        assert_eq!(
            DoNai::parse("ÉMILE@bücher.example").unwrap().as_str(),
            "émile@xn--bcher-kva.example"
        );
    }

    #[test]
    fn folding_never_makes_ascii() {
        let kelvin = DoNai::parse("\u{212a}ate@example.com").unwrap();
        assert_ne!(kelvin, DoNai::parse("kate@example.com").unwrap());
    }

    #[test]
    fn refuses_what_is_no_name() {
        for (text, error) in [
            ("", NameError::Empty),
            (".", NameError::Empty),
            ("@example.com", NameError::NoUser),
            ("john@", NameError::NoDomain),
            ("a@b@c", NameError::ManyAts),
            ("a b@c", NameError::BadUser),
            ("\"a\"@c", NameError::BadUser),
            ("a\0@c", NameError::Control(0)),
            ("good.com\0.evil.com", NameError::Control(0)),
            ("a\u{202e}b@c", NameError::Control(0x202e)),
            (".example.com", NameError::EmptyLabel),
            ("example.com..", NameError::EmptyLabel),
            ("john@192.0.2.1", NameError::IpAddress),
            ("::1", NameError::IpAddress),
        ] {
            assert_eq!(DoNai::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(DoNai::parse_strict("example.com."), Err(NameError::EmptyLabel));
    }

    #[test]
    fn bound_is_a_field_of_the_protocol() {
        let user = "a".repeat(MAX_LEN - "@example.com".len());
        assert!(DoNai::parse(&format!("{user}@example.com")).is_ok());
        assert_eq!(DoNai::parse(&format!("{user}a@example.com")), Err(NameError::TooLong(128)));
    }
}
