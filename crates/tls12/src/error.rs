//! What can go wrong with a connection, and what the peer is told about it.
//!
//! Every fault of the peer has an [`Alert`]; [`Error::alert`] chooses it in one place.

use std::fmt;

/// An alert description (RFC 5246 section 7.2, RFC 6066 section 9, RFC 7301 section 3.2, RFC 7507).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Alert(pub u8);

macro_rules! alerts {
    ($($name:ident = $code:literal, $words:literal;)*) => {
        #[allow(missing_docs)]
        impl Alert {
            $(pub const $name: Self = Self($code);)*

            fn words(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some($words),)*
                    _ => None,
                }
            }
        }
    };
}

alerts! {
    CLOSE_NOTIFY = 0, "close_notify";
    UNEXPECTED_MESSAGE = 10, "unexpected_message";
    BAD_RECORD_MAC = 20, "bad_record_mac";
    RECORD_OVERFLOW = 22, "record_overflow";
    HANDSHAKE_FAILURE = 40, "handshake_failure";
    BAD_CERTIFICATE = 42, "bad_certificate";
    UNSUPPORTED_CERTIFICATE = 43, "unsupported_certificate";
    CERTIFICATE_REVOKED = 44, "certificate_revoked";
    CERTIFICATE_EXPIRED = 45, "certificate_expired";
    CERTIFICATE_UNKNOWN = 46, "certificate_unknown";
    ILLEGAL_PARAMETER = 47, "illegal_parameter";
    UNKNOWN_CA = 48, "unknown_ca";
    ACCESS_DENIED = 49, "access_denied";
    DECODE_ERROR = 50, "decode_error";
    DECRYPT_ERROR = 51, "decrypt_error";
    PROTOCOL_VERSION = 70, "protocol_version";
    INSUFFICIENT_SECURITY = 71, "insufficient_security";
    INTERNAL_ERROR = 80, "internal_error";
    INAPPROPRIATE_FALLBACK = 86, "inappropriate_fallback";
    USER_CANCELED = 90, "user_canceled";
    NO_RENEGOTIATION = 100, "no_renegotiation";
    UNSUPPORTED_EXTENSION = 110, "unsupported_extension";
    CERTIFICATE_UNOBTAINABLE = 111, "certificate_unobtainable";
    UNRECOGNIZED_NAME = 112, "unrecognized_name";
    NO_APPLICATION_PROTOCOL = 120, "no_application_protocol";
}

impl Alert {
    /// Whether it is sent with the level "warning": the connection goes on.
    pub const fn is_warning(self) -> bool {
        matches!(self, Self::CLOSE_NOTIFY | Self::USER_CANCELED | Self::NO_RENEGOTIATION)
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            Some(words) => f.write_str(words),
            None => write!(f, "alert {}", self.0),
        }
    }
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first bytes are no TLS record.
    #[error("the peer sent something that is not TLS")]
    NotTls,
    /// A message whose lengths or contents do not hold together.
    #[error("the peer sent a malformed {0}")]
    Malformed(&'static str),
    /// A message, record or alert that has no place here.
    #[error("the peer sent {0} where it has no place")]
    Unexpected(&'static str),
    /// Application data before both sides were authenticated. Nothing of it is delivered.
    #[error("the peer sent data in the anonymous phase, before it was authenticated")]
    DataInAnonymousPhase,
    /// Records or messages that carry nothing, without end.
    #[error("the peer keeps sending what carries nothing")]
    Flood,
    /// More than its kind may hold.
    #[error("the peer sent more {0} than is allowed")]
    TooMuch(&'static str),
    /// A field holds what the protocol forbids.
    #[error("the peer sent a wrong value: {0}")]
    Illegal(&'static str),
    /// The peer answers what was not asked.
    #[error("the peer sent an extension that was not offered: number {0}")]
    UnsupportedExtension(u16),
    /// The peer does not speak TLS 1.2.
    #[error("the peer does not speak TLS 1.2")]
    Version,
    /// The peer offers less than the profile demands.
    #[error("the peer offers less security than is demanded: {0}")]
    Insufficient(&'static str),
    /// Nothing that both sides support.
    #[error("the peer and we have nothing in common: {0}")]
    NothingInCommon(&'static str),
    /// The client fell back to TLS 1.2 though it need not have (RFC 7507).
    #[error("the client fell back to an older version than both sides support")]
    InappropriateFallback,
    /// Neither side's application protocols fit (RFC 7301 section 3.2).
    #[error("no application protocol (ALPN) in common with the client")]
    NoApplicationProtocol,
    /// A record does not decrypt.
    #[error("a record was altered on its way")]
    BadRecord,
    /// A record is longer than the protocol allows.
    #[error("the peer sent a record that is too long")]
    RecordOverflow,
    /// The peer's signature, or what it computes over the handshake, is wrong.
    #[error("the peer's {0} is wrong")]
    Decrypt(&'static str),
    /// A certificate of a kind that was not negotiated, or with a key that does not fit the suite.
    #[error("the peer's certificate does not fit: {0}")]
    UnsupportedCertificate(&'static str),
    /// The client showed no certificate, and must.
    #[error("the client showed no certificate")]
    NoCertificate,
    /// The binding between a handshake and the connection it runs in is wrong (RFC 5746).
    #[error("the peer's renegotiation is not bound to this connection: {0}")]
    Renegotiation(&'static str),
    /// A first handshake would show certificates, and must not.
    #[error(
        "without TLS 1.3 or the anonymous precursor certificates would be visible, and they must not be"
    )]
    NotPrivate,
    /// The peer refused the renegotiation that should have authenticated it.
    #[error("the peer refuses to renegotiate, so it stays anonymous")]
    StaysAnonymous,
    /// The caller refused the peer, or has nothing to show it.
    #[error("refused: {0}")]
    Refused(Alert),
    /// The caller's key did not sign.
    #[error("the private key did not sign")]
    NoSignature,
    /// The caller broke the contract: an answer that was not asked for, or a credential without
    /// a scheme that fits.
    #[error("wrong use of the engine: {0}")]
    Misuse(&'static str),
    /// The cryptographic library failed, or a counter is used up.
    #[error("internal error: {0}")]
    Internal(&'static str),
    /// The peer ended the connection with this alert.
    #[error("the peer ended the connection: {0}")]
    PeerAlert(Alert),
    /// The stream ended without close_notify: data may be missing.
    #[error("the connection ended without close_notify")]
    Truncated,
    /// A message that does not fit into a record, or into a datagram (EMSGSIZE). The connection goes on.
    #[error("the message is longer than {limit} bytes")]
    MessageTooLong {
        /// Most bytes that fit.
        limit: usize,
    },
    /// No answer from the peer in the time that retransmission takes (DTLS only).
    #[error("the peer did not answer in time")]
    TimedOut,
}

impl Error {
    /// What the peer is told; `None` if there is nobody to tell.
    pub const fn alert(&self) -> Option<Alert> {
        Some(match self {
            Self::NotTls | Self::Unexpected(_) | Self::DataInAnonymousPhase | Self::Flood => {
                Alert::UNEXPECTED_MESSAGE
            }
            Self::Malformed(_) | Self::TooMuch(_) => Alert::DECODE_ERROR,
            Self::Illegal(_) => Alert::ILLEGAL_PARAMETER,
            Self::UnsupportedExtension(_) => Alert::UNSUPPORTED_EXTENSION,
            Self::Version => Alert::PROTOCOL_VERSION,
            Self::Insufficient(_) | Self::NotPrivate => Alert::INSUFFICIENT_SECURITY,
            Self::NothingInCommon(_)
            | Self::NoCertificate
            | Self::Renegotiation(_)
            | Self::StaysAnonymous => Alert::HANDSHAKE_FAILURE,
            Self::InappropriateFallback => Alert::INAPPROPRIATE_FALLBACK,
            Self::NoApplicationProtocol => Alert::NO_APPLICATION_PROTOCOL,
            Self::BadRecord => Alert::BAD_RECORD_MAC,
            Self::RecordOverflow => Alert::RECORD_OVERFLOW,
            Self::Decrypt(_) => Alert::DECRYPT_ERROR,
            Self::UnsupportedCertificate(_) => Alert::UNSUPPORTED_CERTIFICATE,
            Self::Refused(alert) => *alert,
            Self::NoSignature
            | Self::Misuse(_)
            | Self::Internal(_)
            | Self::MessageTooLong { .. } => Alert::INTERNAL_ERROR,
            Self::PeerAlert(_) | Self::Truncated | Self::TimedOut => return None,
        })
    }
}

impl From<crate::crypto::CryptoError> for Error {
    fn from(_: crate::crypto::CryptoError) -> Self {
        Self::Internal("the cryptographic library failed")
    }
}

impl From<crate::crypto::KxError> for Error {
    fn from(error: crate::crypto::KxError) -> Self {
        match error {
            crate::crypto::KxError::BadShare => Self::Illegal("a key share that is none"),
            crate::crypto::KxError::Crypto(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_words() {
        assert_eq!(Alert::INSUFFICIENT_SECURITY.to_string(), "insufficient_security");
        assert_eq!(Alert(200).to_string(), "alert 200");
        assert_eq!(format!("{:?}", Alert::ACCESS_DENIED), "access_denied");
        assert!(Alert::NO_RENEGOTIATION.is_warning() && !Alert::DECODE_ERROR.is_warning());
        assert_eq!(Error::PeerAlert(Alert::ACCESS_DENIED).alert(), None);
    }
}
