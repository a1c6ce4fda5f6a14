//! What can go wrong between an application and the pool, and what to do about it.

use std::io;
use std::path::PathBuf;

use tlspool_wire::PoolError;
use tlspool_wire::packet::ErrorReply;
use tlspool_wire::text::TextError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens: start the pool, or say where its socket is.
    #[error("no TLS Pool at {}: {source} (is it running, and may you use its socket?)", path.display())]
    NoPool {
        /// The socket that was tried.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The request was sent, then the connection ended. Whether the pool acted on it is unknown,
    /// so it was not repeated; a socket that was handed over is gone.
    #[error("the TLS Pool closed the connection before it answered")]
    Lost,
    /// The pool said no.
    #[error("{message}")]
    Pool {
        /// An errno (1–255) or the code of a [`PoolError`].
        code: i32,
        /// The pool's words, or ours if it had none.
        message: String,
    },
    /// A name or other text of the request does not fit the protocol.
    #[error("{field}: {error}")]
    Text {
        /// Which text.
        field: &'static str,
        /// What is wrong with it.
        error: TextError,
    },
    /// A request holds more bytes than a record carries.
    #[error("{0} is too long for a request")]
    TooLong(&'static str),
    /// The pool's answer does not fit the question: it speaks another protocol.
    #[error("the TLS Pool's answer makes no sense: {0}")]
    Protocol(&'static str),
    /// 65,535 requests are in flight on this connection already.
    #[error("too many requests in flight")]
    TooManyRequests,
    /// [`crate::Cancel::cancel`] was called.
    #[error("the request was cancelled")]
    Cancelled,
    /// A system call failed on our side.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// The pool's own error, if it is one.
    pub fn pool_error(&self) -> Option<PoolError> {
        match self {
            Self::Pool { code, .. } => PoolError::from_code(*code),
            _ => None,
        }
    }

    /// The number for C's `errno`: an errno, or the com_err number of a [`PoolError`].
    pub fn number(&self) -> i32 {
        use rustix::io::Errno;
        let errno = match self {
            Self::Pool { code, .. } => return *code,
            Self::NoPool { source, .. } | Self::Io(source) => {
                return source.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            }
            Self::Lost => Errno::PIPE,
            Self::Text { error: TextError::NotUtf8, .. } => Errno::ILSEQ,
            Self::Text { .. } => Errno::INVAL,
            Self::TooLong(_) => Errno::MSGSIZE,
            Self::Protocol(_) => Errno::PROTO,
            Self::TooManyRequests => Errno::BUSY,
            Self::Cancelled => Errno::CANCELED,
        };
        errno.raw_os_error()
    }

    pub(crate) fn from_reply(reply: &ErrorReply) -> Self {
        let message = match reply.message.as_str() {
            "" => match PoolError::from_code(reply.code) {
                Some(error) => error.to_string(),
                None => io::Error::from_raw_os_error(reply.code).to_string(),
            },
            text => text.to_owned(),
        };
        Self::Pool { code: reply.code, message }
    }

    /// The pool has certainly not acted on the request, because it is being replaced.
    pub(crate) fn is_draining(&self) -> bool {
        self.pool_error() == Some(PoolError::Draining)
    }

    /// This connection does not own the session; an older connection may.
    pub(crate) fn is_elsewhere(&self) -> bool {
        matches!(
            self.pool_error(),
            Some(
                PoolError::CtlkeyNotFound
                    | PoolError::CtlkeyNotYours
                    | PoolError::RenegotiateNotFound
                    | PoolError::Draining
            )
        ) || matches!(self, Self::Lost)
    }
}

/// Makes `Text::new(x)` errors name their field.
pub(crate) trait NameField<T> {
    fn named(self, field: &'static str) -> Result<T, Error>;
}

impl<T> NameField<T> for Result<T, TextError> {
    fn named(self, field: &'static str) -> Result<T, Error> {
        self.map_err(|error| Error::Text { field, error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tlspool_wire::Text;

    #[test]
    fn an_answer_without_words_gets_some() {
        let error = Error::from_reply(&ErrorReply {
            code: PoolError::CtlkeyNotFound.code(),
            message: Text::EMPTY,
        });
        assert_eq!(error.to_string(), "no session has this control key");
        assert_eq!(error.number(), PoolError::CtlkeyNotFound.code());
        assert!(error.is_elsewhere());
        let errno = Error::from_reply(&ErrorReply { code: 13, message: Text::EMPTY });
        assert!(errno.to_string().contains("Permission denied"));
    }
}
