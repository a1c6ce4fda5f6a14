//! The section `[validation]`: how peers are judged, beside what the tables of policies and pins say.

use super::values::duration;
use super::{AbsolutePath, HttpUrl};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tlspool_validate::{LdapMatch, PolicySettings};

/// `[validation]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Validation {
    /// Time for all look-ups that one peer's policy needs.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// When the entry of a directory is the peer's credential.
    pub ldap_match: DirectoryMatch,
    /// Revocation lists, or folders of them.
    pub crls: Vec<AbsolutePath>,
    /// The OCSP responder to ask, instead of those that certificates name.
    pub ocsp_responder: Option<HttpUrl>,
}

/// When the entry of a directory is the peer's credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DirectoryMatch {
    /// It is the very certificate.
    #[default]
    Certificate,
    /// It has the same key.
    Key,
}

impl Default for Validation {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            ldap_match: DirectoryMatch::Certificate,
            crls: Vec::new(),
            ocsp_responder: None,
        }
    }
}

impl Validation {
    /// The same, as the crate that judges wants it; `look_ups` says whether anything is looked up.
    pub(crate) fn policy_settings(&self, look_ups: bool) -> PolicySettings {
        PolicySettings {
            dns: look_ups,
            directory: look_ups,
            revocation: look_ups,
            timeout: self.timeout,
            ldap_match: match self.ldap_match {
                DirectoryMatch::Certificate => LdapMatch::Certificate,
                DirectoryMatch::Key => LdapMatch::Key,
            },
            ocsp_responder: self.ocsp_responder.as_ref().map(|url| url.0.clone()),
        }
    }
}
