//! Why the tunnel does not start, or a connection ends before it stands.

use std::io;
use std::time::Duration;

use crate::address::Address;

/// An error of the tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// Cannot listen.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// Cannot connect.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
    /// A client must know whom it talks to.
    #[error("-r names no host; give -R NAME, which the server must prove, or --peer ignore")]
    NoRemoteid,
    /// The pool did not come back in time.
    #[error("gave up after {} s: {error}", waited.as_secs())]
    PoolGone {
        /// How long the connection waited.
        waited: Duration,
        /// The last attempt.
        error: tlspool_client::Error,
    },
    /// The pool said no, or the handshake failed.
    #[error(transparent)]
    Pool(#[from] tlspool_client::Error),
    /// The runtime did not start, or signals cannot be had.
    #[error("cannot start: {0}")]
    Start(io::Error),
}
