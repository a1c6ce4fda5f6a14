//! The names that a certificate carries: its user IDs.

use std::time::SystemTime;

use tlspool_identity::x509::{CertificateError, CertificateNames};

use sequoia_openpgp as openpgp;

use openpgp::cert::amalgamation::ValidAmalgamation;
use openpgp::cert::prelude::{ValidCert, ValidUserIDAmalgamation};

use crate::certificate::one_line;
use crate::standing::{revoked, strict, valid};
use crate::{Certificate, Fault, Part, Unfit};

/// A user ID, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserId {
    /// Its text, made printable.
    pub text: String,
    /// Why it does not count, if it does not.
    pub fault: Option<Fault>,
}

impl Certificate {
    /// The names in the user IDs that the certificate's owner holds up at `now`, the primary user ID
    /// first. Whether they are true is not theirs to say: see [`certified_by`](Self::certified_by).
    pub fn names(&self, now: SystemTime) -> Result<CertificateNames, Unfit> {
        let policy = strict(now);
        let cert = valid(&self.cert, &policy, now)?;
        let mut names = CertificateNames::default();
        for user_id in held(&cert) {
            names
                .add_user_id(user_id.userid().value())
                .map_err(|error| hidden(&user_id, &error))?;
        }
        Ok(names)
    }

    /// The primary user ID, made printable; without one that counts, any.
    pub fn label(&self, now: SystemTime) -> String {
        let policy = strict(now);
        let valid = self.cert.with_policy(&policy, now);
        let primary = valid.as_ref().ok().and_then(|cert| cert.primary_userid().ok());
        let any = || self.cert.userids().next().map(|user_id| user_id.userid().value().to_vec());
        let text = primary.map(|user_id| user_id.userid().value().to_vec()).or_else(any);
        text.map_or_else(String::new, |text| printable(&text))
    }

    /// All user IDs, whether they count or not; in no order that means anything.
    pub fn user_ids(&self, now: SystemTime) -> Vec<UserId> {
        let policy = strict(now);
        let describe = |user_id: openpgp::cert::prelude::UserIDAmalgamation<'_>| {
            let text = printable(user_id.userid().value());
            let fault = revoked(&user_id.revocation_status(&policy, now)).or_else(|| {
                let error = user_id.binding_signature(&policy, now).err()?;
                Some(Fault::Unsigned { why: one_line(&error) })
            });
            UserId { text, fault }
        };
        self.cert.userids().map(describe).collect()
    }
}

/// The user IDs of a good certificate that its owner has signed and not revoked, the primary first.
pub(crate) fn held<'a>(cert: &ValidCert<'a>) -> Vec<ValidUserIDAmalgamation<'a>> {
    let mut found: Vec<_> =
        cert.userids().filter(|user_id| revoked(&user_id.revocation_status()).is_none()).collect();
    let primary = cert.primary_userid().ok().map(|user_id| user_id.userid().clone());
    found.sort_by_key(|user_id| primary.as_ref() != Some(user_id.userid()));
    found
}

fn hidden(user_id: &ValidUserIDAmalgamation<'_>, error: &CertificateError) -> Unfit {
    let fault = match error {
        CertificateError::HiddenCharacter(c) => Fault::HiddenCharacter(*c),
        other => Fault::Unsigned { why: other.to_string() },
    };
    Unfit { part: Part::UserId(printable(user_id.userid().value())), fault }
}

/// Text for people, without what drives a terminal.
pub(crate) fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let escaped = text
        .chars()
        .take(200)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] });
    escaped.collect()
}
