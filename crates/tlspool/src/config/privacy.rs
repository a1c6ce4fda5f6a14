//! What is hidden from observers of the wire, and which kinds of certificates are offered: the sections
//! `[privacy]` and `[openpgp]`.

use serde::{Deserialize, Serialize};
use tlspool_identity::{DoNai, Selector};

use super::values::{TextValue, text_serde};

/// `[privacy]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Privacy {
    /// What holds where no rule says otherwise.
    pub mode: PrivacyMode,
    /// The first that fits decides.
    #[serde(rename = "rule")]
    pub rules: Vec<PrivacyRule>,
}

/// Whether certificates are hidden from who watches the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PrivacyMode {
    /// No more than TLS 1.3 does by itself.
    #[default]
    Off,
    /// If the peer can.
    Attempt,
    /// Or there is no connection.
    Require,
}

/// One `[[privacy.rule]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyRule {
    /// Which peers; a server does not know them yet, so only rules for all (`.` and `@.`) fit there.
    #[serde(default)]
    pub remote: Option<PeerSelector>,
    /// Which service; any if empty.
    #[serde(default)]
    pub service: String,
    /// What holds for them.
    pub mode: PrivacyMode,
}

/// `[openpgp]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpenPgp {
    /// How OpenPGP certificates are framed on the wire.
    pub framing: OpenPgpFraming,
    /// What is sent of ours.
    pub descriptor: OpenPgpDescriptor,
    /// Servers to which a client offers OpenPGP though it has no such identity of its own.
    pub remotes: Vec<PeerSelector>,
}

/// How OpenPGP certificates are framed; both forms are always understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenPgpFraming {
    /// As programs in the field do it.
    #[default]
    Deployed,
    /// As RFC 6091 section 3.3 has it.
    Rfc6091,
}

/// What is sent of an OpenPGP certificate of ours (RFC 6091 section 3.3); peers may send either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpenPgpDescriptor {
    /// All of it.
    #[default]
    Certificate,
    /// Its fingerprint: the peer must have the certificate, or find it in our directory.
    Fingerprint,
}

/// A selector of names, as text in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerSelector(pub Selector);

impl TextValue for PeerSelector {
    const EXPECTED: &'static str = "a name or a selector, such as \"example.com\", \".example.com\", \"@example.com\" or \".\"";

    fn from_text(text: &str) -> Option<Self> {
        Selector::parse(text).ok().map(Self)
    }

    fn to_text(&self) -> String {
        self.0.as_str().to_owned()
    }
}

text_serde!(PeerSelector);

impl Privacy {
    /// What holds for a peer, if it is known, and a service.
    pub fn mode_for(&self, remote: Option<&DoNai>, service: &str) -> PrivacyMode {
        let fits = |rule: &&PrivacyRule| {
            let peer = match (&rule.remote, remote) {
                (None, _) => true,
                (Some(selector), Some(remote)) => selector.0.matches(remote),
                (Some(selector), None) => matches!(selector.0.as_str(), "." | "@."),
            };
            peer && (rule.service.is_empty() || rule.service == service)
        };
        self.rules.iter().find(fits).map_or(self.mode, |rule| rule.mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privacy(text: &str) -> Privacy {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let privacy = privacy(
            "mode = \"attempt\"\n\
             [[rule]]\nremote = \".example.com\"\nservice = \"smtp\"\nmode = \"require\"\n\
             [[rule]]\nremote = \".example.com\"\nmode = \"off\"\n",
        );
        let name = DoNai::parse("mail.example.com").unwrap();
        assert_eq!(privacy.mode_for(Some(&name), "smtp"), PrivacyMode::Require);
        assert_eq!(privacy.mode_for(Some(&name), "imap"), PrivacyMode::Off);
        assert_eq!(privacy.mode_for(None, "smtp"), PrivacyMode::Attempt);
        let other = DoNai::parse("example.org").unwrap();
        assert_eq!(privacy.mode_for(Some(&other), "smtp"), PrivacyMode::Attempt);
    }

    #[test]
    fn a_selector_that_is_none_is_refused() {
        let refused = toml::from_str::<OpenPgp>("remotes = [\"a b\"]").unwrap_err().to_string();
        assert!(refused.contains("a name or a selector"), "{refused}");
    }
}
