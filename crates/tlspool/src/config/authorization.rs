//! The section `[authorization]`: which peers may have a session, beside what `tlspool authorize` says.

use serde::{Deserialize, Serialize};

/// `[authorization]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authorization {
    /// What holds for those of whom no rule has a word.
    pub default: Ruling,
}

/// Whether a peer may have a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ruling {
    /// It may.
    #[default]
    Allow,
    /// It may not.
    Deny,
}
