//! `tlstunnel`: TLS in front of a plaintext service, or behind a plaintext client.
//!
//! For each connection it hands both sockets to the TLS Pool, which relays straight between them.
#![forbid(unsafe_code)]

mod address;
mod datagrams;
mod descriptors;
mod error;
mod options;
mod pool;
mod sources;
mod transport;
mod tunnel;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::datagrams::Datagrams;
use crate::error::TunnelError;
use crate::options::Options;
use crate::tunnel::Tunnel;

/// Time for handshakes under way after TERM; the pool has its own, shorter or not.
const GRACE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = EnvFilter::try_from_env("TLSTUNNEL_LOG").unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    descriptors::raise();
    let started = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = started.map_err(TunnelError::Start).and_then(|runtime| {
        let outcome = runtime.block_on(run(&options));
        // A look-up of a host's name may still hold a thread.
        runtime.shutdown_background();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tlstunnel: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), TunnelError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(TunnelError::Start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(TunnelError::Start)?;
    if options.udp {
        let tunnel = Datagrams::open(options).await?;
        info!(listen = %tunnel.listens_at(), remote = %options.remote, "ready");
        tokio::select! {
            ended = tunnel.run() => return ended,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => return Ok(()),
        }
        info!("finishing handshakes");
        tokio::select! {
            () = tunnel.finish() => {}
            () = tokio::time::sleep(GRACE) => {}
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        return Ok(());
    }
    let tunnel = Tunnel::open(options).await?;
    info!(listen = %tunnel.listens_at(), remote = %options.remote, "ready");
    tokio::select! {
        () = tunnel.run() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => return Ok(()),
    }
    info!("finishing handshakes");
    tokio::select! {
        () = tunnel.finish() => {}
        () = tokio::time::sleep(GRACE) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
