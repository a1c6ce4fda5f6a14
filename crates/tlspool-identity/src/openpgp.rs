//! Names out of OpenPGP user IDs: `John Doe <john@example.org>`, `<example.com>`.
//!
//! A name stands between angle brackets, of which there is one pair. A user ID that holds none, or
//! several, is put aside: `John <john@example.org> <mary@example.org>` would be whoever the reader
//! prefers. There are no wildcards. That the user ID belongs to the key and counts is for
//! `tlspool-openpgp`.

use crate::donai::{DoNai, NameError};
use crate::x509::{CertificateError, CertificateNames, IgnoredBecause, NameSource};

impl CertificateNames {
    /// Adds the name in a user ID. Fails if a hidden character stands in it, as in a certificate.
    pub fn add_user_id(&mut self, user_id: &[u8]) -> Result<(), CertificateError> {
        let Ok(text) = std::str::from_utf8(user_id) else {
            self.ignore(&String::from_utf8_lossy(user_id), IgnoredBecause::NotUtf8);
            return Ok(());
        };
        let Some(name) = bracketed(text) else {
            self.ignore(text, IgnoredBecause::NoBrackets);
            return Ok(());
        };
        // A trailing dot and the like are no part of a name in a credential.
        let parsed = DoNai::parse_strict(name);
        if parsed == Err(NameError::BadCharacter('*')) {
            self.ignore(text, IgnoredBecause::WildcardUserId);
            return Ok(());
        }
        self.add(text, parsed, NameSource::UserId)
    }
}

/// What stands in the only pair of angle brackets.
fn bracketed(text: &str) -> Option<&str> {
    let (before, rest) = text.split_once('<')?;
    let (name, after) = rest.split_once('>')?;
    let alone = ![before, name, after].iter().any(|part| part.contains(['<', '>']));
    alone.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(user_ids: &[&[u8]]) -> Result<(Vec<String>, Vec<IgnoredBecause>), CertificateError> {
        let mut names = CertificateNames::default();
        user_ids.iter().try_for_each(|user_id| names.add_user_id(user_id))?;
        assert!(names.wildcards.is_empty());
        assert!(names.identities.iter().all(|name| name.source == NameSource::UserId));
        let identities = names.identities().map(ToString::to_string).collect();
        Ok((identities, names.ignored.iter().map(|ignored| ignored.why).collect()))
    }

    #[test]
    fn users_and_domains() {
        let (identities, ignored) = names(&[
            b"John Doe <John@Example.org>",
            b"<example.com>",
            "Émile <émile@bücher.example> (work)".as_bytes(),
            b"again <john@example.org>",
        ])
        .unwrap();
        assert_eq!(identities, ["john@example.org", "example.com", "émile@xn--bcher-kva.example"]);
        assert!(ignored.is_empty());
    }

    #[test]
    fn what_is_no_name_is_put_aside() {
        use IgnoredBecause::{Name, NoBrackets, NotUtf8, WildcardUserId};
        for (user_id, why) in [
            (&b"john@example.org"[..], NoBrackets),
            (b"", NoBrackets),
            (b"John <john@example.org", NoBrackets),
            (b"John >john@example.org<", NoBrackets),
            (b"John <john@example.org> <mary@example.org>", NoBrackets),
            (b"John <<john@example.org>>", NoBrackets),
            (b"> John <john@example.org>", NoBrackets),
            (b"John <john@example.org>>", NoBrackets),
            (b"\xff <john@example.org>", NotUtf8),
            (b"<*.example.org>", WildcardUserId),
            (b"<*@example.org.*>", WildcardUserId),
            (b"<>", Name(NameError::Empty)),
            (b"<@example.org>", Name(NameError::NoUser)),
            (b"< john@example.org >", Name(NameError::BadUser)),
            (b"<john@example.org.>", Name(NameError::EmptyLabel)),
            (b"<john@192.0.2.1>", Name(NameError::IpAddress)),
            (b"<a@b@example.org>", Name(NameError::ManyAts)),
        ] {
            let text = String::from_utf8_lossy(user_id);
            assert_eq!(names(&[user_id]).unwrap(), (vec![], vec![why]), "{text}");
        }
    }

    #[test]
    fn hidden_characters_deceive() {
        let error = names(&[b"<example.com>", b"<example.com\0.evil.example>"]);
        assert_eq!(error, Err(CertificateError::HiddenCharacter(0)));
        let error = names(&["<exam\u{200b}ple.com>".as_bytes()]);
        assert_eq!(error, Err(CertificateError::HiddenCharacter(0x200b)));
        // In the part for people they are merely ugly.
        assert_eq!(names(&["\u{200d} <a@b.example>".as_bytes()]).unwrap().0, ["a@b.example"]);
    }
}
