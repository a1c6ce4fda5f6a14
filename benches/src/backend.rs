//! The plaintext server behind every candidate. The first byte of a connection says what it does.
//!
//! Its CPU time is the harness's, and the same for all candidates.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::error::{During, Result};

/// One byte back, then close: ends a connection so that no ephemeral port is left in TIME_WAIT on
/// the connecting side, neither the load generator's nor the candidate's.
pub(crate) const ONE: u8 = b'1';
/// Everything comes back.
pub(crate) const ECHO: u8 = b'E';
/// Everything is swallowed and counted.
pub(crate) const SINK: u8 = b'S';
/// Zeros without end.
pub(crate) const SOURCE: u8 = b'Z';

/// Bytes per read or write of bulk data.
const CHUNK: usize = 64 * 1024;

/// A running backend; it lives as long as this process.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Bytes its sinks swallowed.
    pub(crate) swallowed: Arc<AtomicU64>,
}

impl Backend {
    /// Starts it on a free port of the loopback.
    pub(crate) fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").during("backend")?;
        // The backlog of `bind` is 128; a burst of handshakes must not overflow it.
        rustix::net::listen(&listener, 4096).during("backend")?;
        listener.set_nonblocking(true).during("backend")?;
        let address = listener.local_addr().during("backend")?;
        let swallowed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&swallowed);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().during("backend")?;
        std::thread::Builder::new()
            .name("backend".into())
            .spawn(move || runtime.block_on(serve(listener, counter)))
            .during("backend")?;
        Ok(Self { address, swallowed })
    }
}

async fn serve(listener: std::net::TcpListener, swallowed: Arc<AtomicU64>) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            let swallowed = Arc::clone(&swallowed);
            // A candidate that closes early is seen, and counted, by the load generator.
            tokio::spawn(async move { _ = connection(stream, &swallowed).await });
        }
    }
}

async fn connection(mut stream: TcpStream, swallowed: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut mode = [0; 1];
    stream.read_exact(&mut mode).await?;
    match mode[0] {
        ECHO => {
            let mut buffer = [0; 2048];
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..n]).await?;
            }
        }
        SINK => {
            let mut buffer = vec![0; CHUNK];
            loop {
                let n = stream.read(&mut buffer).await?;
                if n == 0 {
                    return Ok(());
                }
                swallowed.fetch_add(n as u64, Ordering::Relaxed);
            }
        }
        SOURCE => {
            let buffer = vec![0; CHUNK];
            loop {
                stream.write_all(&buffer).await?;
            }
        }
        _ => stream.write_all(&[mode[0]]).await,
    }
}
