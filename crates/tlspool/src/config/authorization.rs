//! The section `[authorization]`: which peers may have a session, beside what `tlspool authorize` says.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::values::{TextValue, at_least_one, duration, text_serde};
use super::{AbsolutePath, Config};

/// Most RADIUS servers.
const MAX_SERVERS: usize = 8;

/// `[authorization]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authorization {
    /// What holds for those of whom nobody has a word.
    pub default: Ruling,
    /// When those outside of the pool are asked.
    pub ask: Ask,
    /// What counts as the answer of one that cannot be asked or does not answer in time.
    pub unreachable: Ruling,
    /// A program that decides.
    pub program: Option<AuthorizingProgram>,
    /// RADIUS servers that decide.
    pub radius: Option<Radius>,
}

/// Whether a peer may have a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ruling {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// When those outside of the pool are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// Unless a rule denies.
    #[default]
    Always,
    /// If no rule matches.
    Undecided,
}

/// `[authorization.program]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizingProgram {
    /// Its UNIX socket.
    pub socket: AbsolutePath,
    /// Time for an answer.
    #[serde(with = "duration", default = "AuthorizingProgram::timeout")]
    pub timeout: Duration,
    /// Questions under way; those beyond fail.
    #[serde(deserialize_with = "at_least_one", default = "AuthorizingProgram::questions")]
    pub questions: u32,
}

/// `[authorization.radius]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Radius {
    /// The servers, in the order in which they are asked.
    pub servers: Vec<RadiusServer>,
    /// The file with the secret that is shared with them.
    pub secret_file: AbsolutePath,
    /// Who we are to them.
    #[serde(default = "Radius::nas_identifier")]
    pub nas_identifier: String,
    /// How long an answer is waited for before the question is sent again.
    #[serde(with = "duration", default = "Radius::timeout")]
    pub timeout: Duration,
    /// How often each server is sent a question.
    #[serde(deserialize_with = "at_least_one", default = "Radius::attempts")]
    pub attempts: u32,
    /// Whether an answer counts only with a Message-Authenticator.
    #[serde(default = "Radius::require_message_authenticator")]
    pub require_message_authenticator: bool,
    /// Questions under way; those beyond fail.
    #[serde(deserialize_with = "at_least_one", default = "Radius::questions")]
    pub questions: u32,
}

/// A RADIUS server: `"192.0.2.1"` or `"[2001:db8::1]:1645"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RadiusServer(pub SocketAddr);

impl TextValue for RadiusServer {
    const EXPECTED: &'static str = "an address such as \"192.0.2.1\" or \"[2001:db8::1]:1645\"";

    fn from_text(text: &str) -> Option<Self> {
        let address = text.parse().ok();
        address.or_else(|| Some(SocketAddr::new(text.parse().ok()?, 1812))).map(Self)
    }

    fn to_text(&self) -> String {
        self.0.to_string()
    }
}

text_serde!(RadiusServer);

impl Default for Authorization {
    fn default() -> Self {
        Self {
            default: Ruling::Allow,
            ask: Ask::Always,
            unreachable: Ruling::Deny,
            program: None,
            radius: None,
        }
    }
}

impl Authorization {
    /// Whether anybody outside of the pool decides.
    pub fn asks(&self) -> bool {
        self.program.is_some() || self.radius.is_some()
    }
}

impl AuthorizingProgram {
    fn timeout() -> Duration {
        Duration::from_secs(5)
    }

    fn questions() -> u32 {
        64
    }

    /// With the defaults.
    pub fn at(socket: AbsolutePath) -> Self {
        Self { socket, timeout: Self::timeout(), questions: Self::questions() }
    }
}

impl Radius {
    fn nas_identifier() -> String {
        "tlspool".to_owned()
    }

    fn timeout() -> Duration {
        Duration::from_secs(2)
    }

    fn attempts() -> u32 {
        3
    }

    fn require_message_authenticator() -> bool {
        true
    }

    fn questions() -> u32 {
        256
    }

    /// With the defaults.
    pub fn with(servers: Vec<RadiusServer>, secret_file: AbsolutePath) -> Self {
        Self {
            servers,
            secret_file,
            nas_identifier: Self::nas_identifier(),
            timeout: Self::timeout(),
            attempts: Self::attempts(),
            require_message_authenticator: Self::require_message_authenticator(),
            questions: Self::questions(),
        }
    }
}

/// What no single value shows: the key at fault and what to do.
pub(super) fn contradiction(config: &Config) -> Option<(String, String)> {
    let Authorization { program, radius, .. } = &config.authorization;
    // sockaddr_un holds 108 bytes, one of them the final NUL.
    if program.as_ref().is_some_and(|program| program.socket.as_os_str().len() > 107) {
        let text = "the path of a socket has at most 107 bytes; choose a shorter one";
        return Some(("authorization.program.socket".to_owned(), text.to_owned()));
    }
    let radius = radius.as_ref()?;
    if radius.servers.is_empty() || radius.servers.len() > MAX_SERVERS {
        let text = format!("there must be from 1 to {MAX_SERVERS} servers");
        return Some(("authorization.radius.servers".to_owned(), text));
    }
    if radius.nas_identifier.is_empty() || radius.nas_identifier.len() > 253 {
        let text = "from 1 to 253 bytes fit a RADIUS attribute".to_owned();
        return Some(("authorization.radius.nas_identifier".to_owned(), text));
    }
    None
}
