//! What can go wrong with a key, as a person can act on it.
//!
//! The same enum is used in the key process, on the channel and in the network process, so that
//! the text an operator reads names the token or file that failed. No variant carries a secret.

/// Why a key could not be opened or used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No such key or certificate on the token or in the file.
    #[error("no such key: {0}")]
    NotFound(String),
    /// No configured module has the token; insert it, or check the module and the URI.
    #[error("token not present: {0}")]
    TokenAbsent(String),
    /// The token needs its PIN and nobody gave it in time; run `tlspool -p`.
    #[error("token is locked: {0}; enter its PIN with tlspool -p")]
    Locked(String),
    /// The PIN from an unattended source was refused; it is not tried again until it changes.
    #[error("wrong PIN: {0}")]
    PinWrong(String),
    /// The token refuses every PIN until its security officer unlocks it.
    #[error("the PIN of the token is locked: {0}; its security officer must unlock it")]
    PinLocked(String),
    /// The module or the token reported an error.
    #[error("PKCS #11 module failed: {0}")]
    ModuleFailed(String),
    /// The key process died twice while it worked on this request.
    #[error("the key process was restarted twice during this request")]
    Restarted,
    /// The key or the token cannot do what was asked.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// No answer before the deadline of the request.
    #[error("timed out: {0}")]
    Timeout(String),
    /// The queue of the token is full: it signs slower than requests arrive.
    #[error("too many requests wait for the token: {0}")]
    Busy(String),
    /// The URI matches more than one token or key; add attributes.
    #[error("ambiguous: {0}")]
    Ambiguous(String),
    /// The URI cannot be understood.
    #[error("bad key URI: {0}")]
    BadUri(String),
    /// A key, certificate or PIN file cannot be read or understood.
    #[error("{0}")]
    File(String),
    /// The URI now leads to another key than the one that was opened: open it again, and read its
    /// certificates again.
    #[error("the key behind {0} was replaced; its certificate must be read again")]
    KeyChanged(String),
    /// The key process does not know this key (any more). [`KeyClient`](crate::client::KeyClient)
    /// opens it again by itself; callers do not see this.
    #[error("the key process does not know this key")]
    UnknownKey,
    /// The key process and its client do not understand each other.
    #[error("internal error on the key channel: {0}")]
    Protocol(String),
}

impl KeyError {
    /// The number and text under which the error crosses the channel.
    pub(crate) fn encode(&self) -> (u8, &str) {
        match self {
            Self::NotFound(s) => (1, s),
            Self::TokenAbsent(s) => (2, s),
            Self::Locked(s) => (3, s),
            Self::PinWrong(s) => (4, s),
            Self::PinLocked(s) => (5, s),
            Self::ModuleFailed(s) => (6, s),
            Self::Restarted => (7, ""),
            Self::Unsupported(s) => (8, s),
            Self::Timeout(s) => (9, s),
            Self::Busy(s) => (10, s),
            Self::Ambiguous(s) => (11, s),
            Self::BadUri(s) => (12, s),
            Self::File(s) => (13, s),
            Self::KeyChanged(s) => (14, s),
            Self::UnknownKey => (15, ""),
            Self::Protocol(s) => (16, s),
        }
    }

    /// The inverse of [`encode`](Self::encode); `None` for a number this version does not know.
    pub(crate) fn decode(code: u8, text: &str) -> Option<Self> {
        let s = || text.to_owned();
        Some(match code {
            1 => Self::NotFound(s()),
            2 => Self::TokenAbsent(s()),
            3 => Self::Locked(s()),
            4 => Self::PinWrong(s()),
            5 => Self::PinLocked(s()),
            6 => Self::ModuleFailed(s()),
            7 => Self::Restarted,
            8 => Self::Unsupported(s()),
            9 => Self::Timeout(s()),
            10 => Self::Busy(s()),
            11 => Self::Ambiguous(s()),
            12 => Self::BadUri(s()),
            13 => Self::File(s()),
            14 => Self::KeyChanged(s()),
            15 => Self::UnknownKey,
            16 => Self::Protocol(s()),
            _ => return None,
        })
    }
}

impl From<crate::uri::UriError> for KeyError {
    fn from(error: crate::uri::UriError) -> Self {
        Self::BadUri(error.to_string())
    }
}
