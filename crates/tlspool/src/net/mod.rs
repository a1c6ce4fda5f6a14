//! The network process: serves the socket protocol and speaks TLS with peers.
//!
//! Started by [`crate::child`] with everything it needs as open descriptors, already confined. It holds
//! no private key and no PIN and opens no key file; signatures come over `key_channels`.

use crate::config::Config;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

/// What the supervisor gives the network process.
pub struct NetworkBoot {
    /// The whole configuration.
    pub config: Config,
    /// Sockets that listen; the order is that of `config.sockets`, then what systemd passed besides.
    pub listeners: Vec<Listener>,
    /// Channel to the supervisor, for [`crate::supervisor::message::Channel`]. Its end means that the
    /// supervisor is gone: then drain as if told to.
    pub supervisor: OwnedFd,
    /// One SOCK_SEQPACKET channel to the key process for each worker.
    pub key_channels: Vec<OwnedFd>,
}

/// A UNIX stream socket that listens, non-blocking.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    /// Where it stands.
    pub path: PathBuf,
}

/// Runs the network process until it has drained.
pub fn run(boot: NetworkBoot) -> ExitCode {
    use crate::supervisor::message::{Channel, FromNetwork, ToNetwork};
    let mut supervisor = Channel::new(boot.supervisor);
    let _ = supervisor.send(&FromNetwork::Ready, &[]);
    while let Ok(Some((message, _))) = supervisor.recv::<ToNetwork>() {
        match message {
            ToNetwork::Status { id } => {
                let status = serde_json::json!({ "sessions": 0 });
                let _ = supervisor.send(&FromNetwork::Status { id, status }, &[]);
            }
            ToNetwork::StopAccepting | ToNetwork::Drain => break,
            ToNetwork::Reload { .. } | ToNetwork::KeyChannels => {}
        }
    }
    ExitCode::SUCCESS
}
