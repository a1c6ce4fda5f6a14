//! What goes wrong with an administrator's command.

use std::path::{Path, PathBuf};

use tlspool_keys::KeyError;
use tlspool_openpgp::ReadError;
use tlspool_openpgp::make::MakeError;
use tlspool_store::StoreError;

/// An error of an administrator's command, in words that say what to do.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key, token or certificate.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// `read` or `write`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of a file to import.
    #[error("line {line}: {why}; nothing was imported")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        why: String,
    },
    /// The command as given makes no sense here.
    #[error("{0}")]
    Usage(String),
    /// Certificates could not be made.
    #[error("cannot make the certificate: {0}")]
    Certificate(String),
    /// A file is no OpenPGP certificate.
    #[error("{}: {why}", path.display())]
    OpenPgp {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: ReadError,
    },
    /// Nothing answers to a name.
    #[error("there is no {0}")]
    NotFound(String),
    /// `policy explain`: the outcome.
    #[error("not believed: {0}")]
    NotBelieved(String),
    /// `authorize check`: the outcome.
    #[error("{0}")]
    NotAuthorized(String),
    /// Standard output.
    #[error("cannot write the result: {0}")]
    Output(std::io::Error),
}

impl From<MakeError> for AdminError {
    fn from(error: MakeError) -> Self {
        match error {
            // The key store says better what to do.
            MakeError::Key(cause) => match cause.downcast::<KeyError>() {
                Ok(error) => Self::Key(*error),
                Err(other) => Self::Certificate(other.to_string()),
            },
            other => Self::Certificate(other.to_string()),
        }
    }
}

impl AdminError {
    pub(super) fn reading(path: &Path, source: std::io::Error) -> Self {
        Self::File { what: "read", path: path.to_owned(), source }
    }

    pub(super) fn writing(path: &Path, source: std::io::Error) -> Self {
        Self::File { what: "write", path: path.to_owned(), source }
    }
}
