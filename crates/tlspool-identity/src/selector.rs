//! Patterns over names, and the order in which tables are asked for them.

use std::fmt;
use std::str::FromStr;

use crate::domain;
use crate::donai::{DoNai, MAX_LEN, NameError, check_characters, fold_user, split_user};

/// A pattern over names.
///
/// | selector | matches |
/// | --- | --- |
/// | `example.com`, `john@example.com` | that name |
/// | `@example.com` | any user at that domain |
/// | `.example.com` | any domain below it, however deep, but not itself |
/// | `@.example.com`, `john@.example.com` | any user, or John, at any of those |
/// | `.` | any domain |
/// | `@.`, `john@.` | any user, or John, anywhere |
///
/// A selector without `@` matches no user, and one with `@` no bare domain.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    text: Box<str>,
    /// Where the domain part starts in `text`; 0 without an `@`.
    domain_at: u8,
}

/// What a selector says about the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserPart<'a> {
    /// There must be none.
    None,
    /// There must be one, whichever.
    Any,
    /// There must be this one.
    Is(&'a str),
}

/// What a selector says about the domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DomainPart<'a> {
    /// This domain.
    Is(&'a str),
    /// Any domain below this one (written without the leading dot here).
    Below(&'a str),
    /// Any domain.
    Any,
}

impl Selector {
    /// Reads a selector as a person writes it.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        check_characters(text)?;
        let (user, domain) = split_user(text)?;
        let mut canonical = match user {
            None => String::new(),
            Some(user) => fold_user(user)? + "@",
        };
        let domain_at = canonical.len();
        match domain.strip_prefix('.') {
            Some("") => canonical.push('.'),
            Some(parent) => {
                canonical.push('.');
                canonical += &domain::canonical(parent.strip_suffix('.').unwrap_or(parent))?;
            }
            None => canonical += &domain::canonical(domain.strip_suffix('.').unwrap_or(domain))?,
        }
        Self::build(canonical, domain_at)
    }

    fn build(text: String, domain_at: usize) -> Result<Self, NameError> {
        // One byte more than a name, for the leading dot of a pattern over a name of full length.
        if text.len() > MAX_LEN + 1 {
            return Err(NameError::TooLong(text.len()));
        }
        Ok(Self { text: text.into_boxed_str(), domain_at: domain_at as u8 })
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it says about the user.
    pub fn user(&self) -> UserPart<'_> {
        match usize::from(self.domain_at) {
            0 => UserPart::None,
            1 => UserPart::Any,
            at => UserPart::Is(&self.text[..at - 1]),
        }
    }

    /// What it says about the domain.
    pub fn domain(&self) -> DomainPart<'_> {
        let domain = &self.text[usize::from(self.domain_at)..];
        match domain.strip_prefix('.') {
            Some("") => DomainPart::Any,
            Some(parent) => DomainPart::Below(parent),
            None => DomainPart::Is(domain),
        }
    }

    /// The one name it matches, if it is not a pattern.
    pub fn as_name(&self) -> Option<DoNai> {
        match (self.user(), self.domain()) {
            (UserPart::Any, _) | (_, DomainPart::Below(_) | DomainPart::Any) => None,
            _ => DoNai::parse_strict(&self.text).ok(),
        }
    }

    /// Whether it matches `name`.
    pub fn matches(&self, name: &DoNai) -> bool {
        let user = match (self.user(), name.user()) {
            (UserPart::None, None) | (UserPart::Any, Some(_)) => true,
            (UserPart::Is(wanted), Some(user)) => wanted == user,
            _ => false,
        };
        user && match self.domain() {
            DomainPart::Any => true,
            DomainPart::Is(domain) => domain == name.domain(),
            DomainPart::Below(parent) => name
                .domain()
                .strip_suffix(parent)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        }
    }
}

impl From<&DoNai> for Selector {
    fn from(name: &DoNai) -> Self {
        let domain_at = (name.as_str().len() - name.domain().len()) as u8;
        Self { text: name.as_str().into(), domain_at }
    }
}

impl From<DoNai> for Selector {
    fn from(name: DoNai) -> Self {
        Self::from(&name)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({})", self.text)
    }
}

impl AsRef<str> for Selector {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl FromStr for Selector {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

/// The selectors of a name, from concrete to general: at each step first with the user, then with
/// any user, then one label up. LIDENTRY's `maxlevels` counts these steps, the concrete name being 0.
#[derive(Debug, Clone)]
pub struct LookupOrder<'a> {
    name: &'a DoNai,
    /// The domain part of the next step; empty when all are done.
    domain: &'a str,
    /// The step with the user is done, the one with any user comes next.
    user_done: bool,
}

impl<'a> LookupOrder<'a> {
    pub(crate) fn new(name: &'a DoNai) -> Self {
        Self { name, domain: name.domain(), user_done: false }
    }

    /// The domain part one label up: `cs.example.com`, `.example.com`, `.com`, `.`, then nothing.
    fn one_up(domain: &str) -> &str {
        if domain == "." {
            return "";
        }
        let own = domain.strip_prefix('.').unwrap_or(domain);
        own.find('.').map_or(".", |dot| &own[dot..])
    }
}

impl Iterator for LookupOrder<'_> {
    type Item = Selector;

    fn next(&mut self) -> Option<Selector> {
        if self.domain.is_empty() {
            return None;
        }
        let domain = self.domain;
        let (text, domain_at) = match self.name.user() {
            Some(user) if !self.user_done => {
                self.user_done = true;
                (format!("{user}@{domain}"), user.len() + 1)
            }
            user => {
                self.user_done = false;
                self.domain = Self::one_up(domain);
                match user {
                    Some(_) => (format!("@{domain}"), 1),
                    None => (domain.to_owned(), 0),
                }
            }
        };
        // Longer than its name by at most nothing: a parent's dot stands where a label was.
        Some(Selector { text: text.into_boxed_str(), domain_at: domain_at as u8 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(name: &str) -> Vec<String> {
        DoNai::parse(name).unwrap().lookup_order().map(|s| s.to_string()).collect()
    }

    #[test]
    fn look_up_order_is_the_designs() {
        assert_eq!(
            order("john@cs.example.com"),
            [
                "john@cs.example.com",
                "@cs.example.com",
                "john@.example.com",
                "@.example.com",
                "john@.com",
                "@.com",
                "john@.",
                "@."
            ]
        );
        assert_eq!(order("cs.example.com"), ["cs.example.com", ".example.com", ".com", "."]);
        assert_eq!(order("localhost"), ["localhost", "."]);
    }

    #[test]
    fn every_step_matches_its_name_and_reads_back() {
        for name in ["john@cs.example.com", "a.b.c.d.e", "x@y", "q", "é@xn--bcher-kva.example"] {
            let name = DoNai::parse(name).unwrap();
            for selector in name.lookup_order() {
                assert!(selector.matches(&name), "{selector} {name}");
                assert_eq!(Selector::parse(selector.as_str()).unwrap(), selector);
            }
        }
    }

    #[test]
    fn a_selector_matches_exactly_the_names_whose_order_has_it() {
        let labels = ["a", "b", "com"];
        let mut domains: Vec<String> = labels.iter().map(ToString::to_string).collect();
        for _ in 0..2 {
            let longer: Vec<String> = domains
                .iter()
                .flat_map(|d| labels.iter().map(move |l| format!("{l}.{d}")))
                .collect();
            domains.extend(longer);
        }
        domains.sort();
        domains.dedup();
        let names: Vec<DoNai> = domains
            .iter()
            .flat_map(|d| [d.clone(), format!("u@{d}"), format!("v@{d}")])
            .map(|t| DoNai::parse(&t).unwrap())
            .collect();
        let selectors: Vec<Selector> = domains
            .iter()
            .flat_map(|d| [d.clone(), format!(".{d}")])
            .chain([".".to_owned()])
            .flat_map(|d| [d.clone(), format!("@{d}"), format!("u@{d}")])
            .map(|t| Selector::parse(&t).unwrap())
            .collect();
        for name in &names {
            let order: Vec<Selector> = name.lookup_order().collect();
            for selector in &selectors {
                assert_eq!(selector.matches(name), order.contains(selector), "{selector} {name}");
            }
        }
    }

    #[test]
    fn a_subdomain_is_not_a_suffix() {
        let below = Selector::parse(".example.com").unwrap();
        for (name, hit) in [
            ("www.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            ("badexample.com", false),
            ("john@www.example.com", false),
        ] {
            assert_eq!(below.matches(&DoNai::parse(name).unwrap()), hit, "{name}");
        }
    }

    #[test]
    fn reads_every_form() {
        let parse = |t: &str| Selector::parse(t).unwrap();
        assert_eq!(parse("John@.Example.COM").as_str(), "john@.example.com");
        assert_eq!(parse("@.").user(), UserPart::Any);
        assert_eq!(parse("@.").domain(), DomainPart::Any);
        assert_eq!(parse("john@.").user(), UserPart::Is("john"));
        assert_eq!(parse(".com").domain(), DomainPart::Below("com"));
        assert_eq!(parse("a.com").as_name(), DoNai::parse("a.com").ok());
        assert_eq!(parse("@a.com").as_name(), None);
        for text in ["", "@", "a@", "..", "a..b", "..com", "@@.", "*.com", "192.0.2.1", "a b@."] {
            assert!(Selector::parse(text).is_err(), "{text}");
        }
    }

    /// Texts put together from pieces that parsers stumble over, the same ones in every run.
    fn odd_texts() -> impl Iterator<Item = String> {
        const PIECES: [&str; 20] = [
            "a",
            "B",
            "com",
            ".",
            "..",
            "@",
            "-",
            "*",
            "xn--",
            "xn--bcher-kva",
            "é",
            "İ",
            "ß",
            "1",
            "127.0.0.1",
            "_",
            "\u{212a}",
            "．",
            " ",
            "\0",
        ];
        let mut state = 1_u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize
        };
        std::iter::repeat_with(move || {
            (0..next() % 7).map(|_| PIECES[next() % PIECES.len()]).collect()
        })
        .take(50_000)
    }

    #[test]
    fn what_parses_is_canonical() {
        let mut parsed = 0;
        for text in odd_texts() {
            if let Ok(name) = DoNai::parse(&text) {
                parsed += 1;
                assert_eq!(DoNai::parse_strict(name.as_str()).as_ref(), Ok(&name), "{text:?}");
                let own = Selector::from(&name);
                assert_eq!(Selector::parse(name.as_str()).as_ref(), Ok(&own), "{text:?}");
                assert_eq!(own.as_name(), Some(name.clone()));
                assert!(name.lookup_order().all(|selector| selector.matches(&name)), "{text:?}");
            }
            if let Ok(selector) = Selector::parse(&text) {
                assert_eq!(Selector::parse(selector.as_str()).as_ref(), Ok(&selector), "{text:?}");
            }
        }
        assert!(parsed > 1000, "{parsed}");
    }
}
