//! Does a credential carry the name that was wanted?

use crate::donai::DoNai;
use crate::x509::{CertificateNames, NameSource};

/// How a credential carries a wanted name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It says this very name.
    Exact,
    /// A wildcard covers it.
    Wildcard,
    /// It says the domain of the wanted user, exactly or by a wildcard, and that was permitted
    /// (DOMAIN_REPRESENTS_USER). The freedom was used: the flag is returned set.
    DomainForUser,
}

/// A wanted name that a credential carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// What is authenticated: the wanted name; with [`How::DomainForUser`] only its domain. Never a
    /// wildcard.
    pub identity: DoNai,
    /// How.
    pub how: How,
    /// Where in the credential.
    pub source: NameSource,
}

/// Looks for `wanted` among `names`; `domain_represents_user` lets the domain answer for its user.
pub fn matches(
    wanted: &DoNai,
    names: &CertificateNames,
    domain_represents_user: bool,
) -> Option<Match> {
    if let Some((how, source)) = find(wanted, names) {
        return Some(Match { identity: wanted.clone(), how, source });
    }
    if !domain_represents_user || wanted.user().is_none() {
        return None;
    }
    let identity = wanted.domain_name();
    let (_, source) = find(&identity, names)?;
    Some(Match { identity, how: How::DomainForUser, source })
}

fn find(wanted: &DoNai, names: &CertificateNames) -> Option<(How, NameSource)> {
    if let Some(exact) = names.identities.iter().find(|certified| certified.name == *wanted) {
        return Some((How::Exact, exact.source));
    }
    if wanted.user().is_some() {
        return None;
    }
    let (_, parent) = wanted.domain().split_once('.')?;
    let wildcard = names.wildcards.iter().find(|wildcard| wildcard.parent.as_str() == parent)?;
    Some((How::Wildcard, wildcard.source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::{CertifiedName, Wildcard};

    fn name(text: &str) -> DoNai {
        DoNai::parse(text).unwrap()
    }

    fn carrying(identities: &[&str], wildcards: &[&str]) -> CertificateNames {
        let source = NameSource::DnsName;
        CertificateNames {
            identities: identities
                .iter()
                .map(|n| CertifiedName { name: name(n), source })
                .collect(),
            wildcards: wildcards.iter().map(|n| Wildcard { parent: name(n), source }).collect(),
            ignored: Vec::new(),
        }
    }

    fn how(wanted: &str, names: &CertificateNames, freedom: bool) -> Option<(String, How)> {
        matches(&name(wanted), names, freedom).map(|m| (m.identity.to_string(), m.how))
    }

    #[test]
    fn exact_and_wildcard() {
        let names = carrying(&["example.com", "john@example.com"], &["example.com"]);
        assert_eq!(how("example.com", &names, false), Some(("example.com".into(), How::Exact)));
        assert_eq!(
            how("John@example.com", &names, false),
            Some(("john@example.com".into(), How::Exact))
        );
        assert_eq!(
            how("www.example.com", &names, false),
            Some(("www.example.com".into(), How::Wildcard))
        );
        for wanted in ["a.b.example.com", "com", "badexample.com", "mary@www.example.com"] {
            assert_eq!(how(wanted, &names, false), None, "{wanted}");
        }
    }

    #[test]
    fn a_domain_answers_for_its_user_only_if_permitted() {
        let names = carrying(&["example.com"], &["example.com"]);
        assert_eq!(how("john@example.com", &names, false), None);
        assert_eq!(
            how("john@example.com", &names, true),
            Some(("example.com".into(), How::DomainForUser))
        );
        assert_eq!(
            how("john@cs.example.com", &names, true),
            Some(("cs.example.com".into(), How::DomainForUser))
        );
        assert_eq!(how("john@example.org", &names, true), None);
        // Never the other way around.
        assert_eq!(how("example.org", &carrying(&["john@example.org"], &[]), true), None);
    }
}
