//! Domain names in their one canonical form: A-labels, lower case, no trailing dot.

use crate::NameError;

/// Longest label (RFC 1035 2.3.4).
const MAX_LABEL: usize = 63;

/// The canonical form of `text`, which may be written with U-labels or in upper case.
pub(crate) fn canonical(text: &str) -> Result<String, NameError> {
    let folded = if text.is_ascii() && !has_a_label(text) {
        text.to_ascii_lowercase()
    } else {
        idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::URL)
            .map_err(|_| NameError::BadIdn)?
            .into_owned()
    };
    check(&folded)?;
    Ok(folded)
}

/// Whether `text` (a domain in any case) has a label that claims to be Punycode.
fn has_a_label(text: &str) -> bool {
    text.split('.').any(|l| l.as_bytes().get(..4).is_some_and(|p| p.eq_ignore_ascii_case(b"xn--")))
}

/// Checks a lower-case domain in A-labels.
fn check(domain: &str) -> Result<(), NameError> {
    if domain.is_empty() {
        return Err(NameError::NoDomain);
    }
    if is_ip_address(domain) {
        return Err(NameError::IpAddress);
    }
    domain.split('.').try_for_each(check_label)
}

fn check_label(label: &str) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > MAX_LABEL {
        return Err(NameError::LongLabel);
    }
    // The underscore is no letter of host names, but is used in real ones (`_xmpp`, `my_host`).
    if let Some(odd) = label.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-' | '_')) {
        return Err(NameError::BadCharacter(odd));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err(NameError::BadCharacter('-'));
    }
    Ok(())
}

/// Whether this is an address rather than a name: IPv6 text, or a last label of digits only (which
/// no name can have, RFC 3696 2, and which includes the short and octal spellings of IPv4).
fn is_ip_address(domain: &str) -> bool {
    let bare = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')).unwrap_or(domain);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let last = domain.rsplit('.').next().unwrap_or(domain);
    !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_case_and_u_labels() {
        assert_eq!(canonical("Example.COM").unwrap(), "example.com");
        assert_eq!(canonical("bücher.example").unwrap(), "xn--bcher-kva.example");
        assert_eq!(canonical("BÜCHER.Example").unwrap(), "xn--bcher-kva.example");
        assert_eq!(canonical("XN--BCHER-KVA.example").unwrap(), "xn--bcher-kva.example");
        assert_eq!(canonical("_xmpp.example.com").unwrap(), "_xmpp.example.com");
    }

    #[test]
    fn refuses_what_is_no_domain() {
        for (text, error) in [
            ("", NameError::NoDomain),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("192.0.2.1", NameError::IpAddress),
            ("2130706433", NameError::IpAddress),
            ("::1", NameError::IpAddress),
            ("[2001:db8::1]", NameError::IpAddress),
            ("a b.com", NameError::BadCharacter(' ')),
            ("*.example.com", NameError::BadCharacter('*')),
            ("-a.com", NameError::BadCharacter('-')),
            ("xn--\u{0}.com", NameError::BadIdn),
            ("xn--999999999.com", NameError::BadIdn),
        ] {
            assert_eq!(canonical(text), Err(error), "{text}");
        }
        assert_eq!(canonical(&format!("{}.com", "a".repeat(64))), Err(NameError::LongLabel));
        assert!(canonical(&format!("{}.com", "a".repeat(63))).is_ok());
    }
}
