//! LDIF (RFC 2849): entries of a directory with certificates, as the look-up of peers finds them.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tlspool_identity::DoNai;
use tlspool_lookup::directory::{base_of, escape, key_id};
use tlspool_openpgp::Certificate;

use crate::admin::openpgp::now;

/// Lines are folded after so many characters; a space goes before those that continue one.
const WIDTH: usize = 75;

/// X.509 certificates, in DER (RFC 4523 section 2.1).
const CERTIFICATE: &str = "userCertificate;binary";

/// Text that grows.
#[derive(Debug, Default)]
pub(super) struct Ldif(String);

impl Ldif {
    /// All of it.
    pub(super) fn into_text(self) -> String {
        self.0
    }

    /// The X.509 certificates of a name: in the entry of the domain, or of the user (`entry`, else one made
    /// for that).
    pub(super) fn x509(
        &mut self,
        name: &DoNai,
        certificates: &[&[u8]],
        entry: Option<&str>,
        replace: bool,
    ) {
        let base = base_of(name.domain());
        let Some(user) = name.user() else {
            self.comment("The entry of the domain, which is in its directory already.");
            self.attribute("dn", base.as_bytes());
            self.attribute("changetype", b"modify");
            if !replace {
                self.attribute("add", b"objectClass");
                self.attribute("objectClass", b"pkiUser");
                self.0.push_str("-\n");
            }
            return self.replacing(CERTIFICATE, certificates);
        };
        let new = format!("uid={},{base}", escape(user));
        if replace || entry.is_some() {
            self.comment("The entry of the user, of a class like inetOrgPerson or pkiUser.");
            self.attribute("dn", entry.unwrap_or(&new).as_bytes());
            self.attribute("changetype", b"modify");
            return self.replacing(CERTIFICATE, certificates);
        }
        self.comment("The entry of the user. If there is one already, say which: --entry DN");
        self.attribute("dn", new.as_bytes());
        self.attribute("changetype", b"add");
        self.attribute("objectClass", b"inetOrgPerson");
        for attribute in ["uid", "cn", "sn"] {
            self.attribute(attribute, user.as_bytes());
        }
        self.attribute("mail", name.as_str().as_bytes());
        for certificate in certificates {
            self.attribute(CERTIFICATE, certificate);
        }
        self.0.push('\n');
    }

    /// An OpenPGP certificate, in an entry of its own below `space`.
    pub(super) fn openpgp(&mut self, certificate: &Certificate, space: &str, replace: bool) {
        // Of the lengths that fingerprints have, all have an ID.
        let Some(id) = key_id(certificate.fingerprint().as_bytes()) else { return };
        let user_ids = certificate.user_ids(now());
        let good = user_ids.iter().filter(|user_id| user_id.fault.is_none());
        let user_ids: Vec<&[u8]> = good.map(|user_id| user_id.text.as_bytes()).collect();
        let armored = certificate.to_armored();
        let key = [armored.as_bytes()];
        self.comment("An OpenPGP key; the directory needs the schema of PGP key servers.");
        self.attribute("dn", format!("pgpCertID={id},{space}").as_bytes());
        if replace {
            self.attribute("changetype", b"modify");
            self.attribute("replace", b"pgpKey");
            self.attribute("pgpKey", key[0]);
            self.0.push_str("-\n");
            // Without any that count, those that are there stay: by them the key is found.
            if user_ids.is_empty() {
                self.0.push('\n');
                return;
            }
            return self.replacing("pgpUserID", &user_ids);
        }
        self.attribute("changetype", b"add");
        self.attribute("objectClass", b"pgpKeyInfo");
        self.attribute("pgpCertID", id.as_bytes());
        for user_id in user_ids {
            self.attribute("pgpUserID", user_id);
        }
        self.attribute("pgpKey", key[0]);
        self.0.push('\n');
    }

    /// The last of the changes of an entry.
    fn replacing(&mut self, attribute: &str, values: &[&[u8]]) {
        self.attribute("replace", attribute.as_bytes());
        for value in values {
            self.attribute(attribute, value);
        }
        self.0.push_str("-\n\n");
    }

    fn comment(&mut self, text: &str) {
        self.0.push_str("# ");
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn attribute(&mut self, name: &str, value: &[u8]) {
        let line = match std::str::from_utf8(value).ok().filter(|_| is_safe(value)) {
            Some(text) => format!("{name}: {text}"),
            None => format!("{name}:: {}", BASE64_STANDARD.encode(value)),
        };
        // It is all ASCII.
        for (number, start) in (0..line.len()).step_by(WIDTH).enumerate() {
            if number > 0 {
                self.0.push_str("\n ");
            }
            self.0.push_str(&line[start..line.len().min(start + WIDTH)]);
        }
        self.0.push('\n');
    }
}

/// Whether a value can stand as it is (SAFE-STRING of RFC 2849), and people can read it.
fn is_safe(value: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    value.iter().all(plain)
        && !matches!(value.first(), Some(b' ' | b':' | b'<'))
        && value.last() != Some(&b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_plain_where_they_can_be() {
        let mut ldif = Ldif::default();
        for value in ["", "a b", " a", "a ", ":a", "<a", "ä", "a\nb", "a\0"] {
            ldif.attribute("x", value.as_bytes());
        }
        let lines: Vec<&str> = ldif.0.lines().collect();
        let expected = [
            "x: ", "x: a b", "x:: IGE=", "x:: YSA=", "x:: OmE=", "x:: PGE=", "x:: w6Q=",
            "x:: YQpi", "x:: YQA=",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn long_lines_are_folded() {
        let mut ldif = Ldif::default();
        ldif.attribute("x", "a".repeat(200).as_bytes());
        let lines: Vec<&str> = ldif.0.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].len(), WIDTH);
        assert!(lines[1..].iter().all(|line| line.starts_with(' ')));
        assert_eq!(ldif.0.replace("\n ", ""), format!("x: {}\n", "a".repeat(200)));
    }

    #[test]
    fn names_stay_values() {
        let mut ldif = Ldif::default();
        let name = DoNai::parse("o=x,dc=evil@example.com").unwrap();
        ldif.x509(&name, &[b"\x30\x00"], None, false);
        assert!(ldif.0.contains("dn: uid=o\\=x\\,dc\\=evil,dc=example,dc=com\n"), "{}", ldif.0);
    }
}
