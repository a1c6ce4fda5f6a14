//! The section `[on_the_fly]`: by which authority identities are certified that programs ask for on the
//! fly (LOCALID_ONTHEFLY).

use super::values::{TextValue, duration, text_serde};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tlspool_keys::uri::KeyUri;

/// The longest that such an identity is good for: it is not renewed, and nobody revokes it.
const MAX_LIFETIME: Duration = Duration::from_hours(24 * 366);

/// `[on_the_fly]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnTheFly {
    /// The authority's certificate, and those above it that peers need.
    pub certificate: SafeUri,
    /// The authority's key.
    pub key: SafeUri,
    /// The key of all identities that are made. It is not the authority's.
    pub identity_key: SafeUri,
    /// How long an identity is good for.
    #[serde(default = "OnTheFly::default_lifetime", with = "duration")]
    pub lifetime: Duration,
}

impl OnTheFly {
    fn default_lifetime() -> Duration {
        Duration::from_hours(24)
    }

    /// The lifetime, as far as it makes sense.
    pub fn bounded_lifetime(&self) -> Duration {
        self.lifetime.clamp(Duration::from_mins(5), MAX_LIFETIME)
    }
}

/// A `pkcs11:` or `file:` URI without a PIN in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafeUri(pub String);

impl TextValue for SafeUri {
    const EXPECTED: &'static str =
        "a URI: pkcs11: (RFC 7512, without pin-value), or file: with an absolute path";

    fn from_text(text: &str) -> Option<Self> {
        KeyUri::parse(text).ok()?;
        tlspool_store::check_stored_uri(text).ok()?;
        Some(Self(text.to_owned()))
    }

    fn to_text(&self) -> String {
        self.0.clone()
    }
}

text_serde!(SafeUri);
