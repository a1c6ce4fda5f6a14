//! What can stop a comparison, in words that say what to do.

use std::io;

/// Shorthand of this program.
pub(crate) type Result<T> = std::result::Result<T, BenchError>;

/// Why the comparison stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// A system call or file failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// How it failed.
        source: io::Error,
    },
    /// The load generator's TLS failed.
    #[error("TLS of the load generator: {0}")]
    Tls(#[from] rustls::Error),
    /// A program ended or did not listen in time.
    #[error("{name} does not accept TLS on {address} ({last}); its messages:\n{messages}")]
    NotReady {
        /// The program.
        name: String,
        /// Where it should listen.
        address: String,
        /// The last attempt's error.
        last: String,
        /// The last of what it said.
        messages: String,
    },
    /// A helper program said no.
    #[error("{command} failed: {output}")]
    Command {
        /// The command line.
        command: String,
        /// What it said.
        output: String,
    },
    /// The pool's database could not be filled.
    #[error(transparent)]
    Store(#[from] tlspool_store::StoreError),
    /// Anything else that makes figures worthless.
    #[error("{0}")]
    Invalid(String),
}

/// Adds what was being done to an I/O error.
pub(crate) trait During<T> {
    /// `what` was being done.
    fn during(self, what: impl Into<String>) -> Result<T>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| BenchError::Io { what: what.into(), source })
    }
}

impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| BenchError::Io { what: what.into(), source: e.into() })
    }
}
