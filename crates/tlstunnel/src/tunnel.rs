//! Accepts connections and has the pool join them to the other side.
//!
//! The tunnel holds a connection's descriptors only until the pool has them; it never reads or
//! writes a byte of a connection.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::SocketAddrAny;
use tlspool_client::aio::{Plaintext, Pool};
use tlspool_client::{Refusal, Session, StarttlsRequest};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::address::{Address, Listener};
use crate::error::TunnelError;
use crate::options::Options;
use crate::pool::Way;
use crate::sources::{Admission, Source, Sources};
use crate::transport::{STREAMS, Transport, streams_beside};

/// Pause after the system had no descriptor or memory for a new connection.
const SHORTAGE: Duration = Duration::from_millis(100);

/// A tunnel that listens.
#[derive(Debug)]
pub(crate) struct Tunnel {
    listener: Listener,
    side: Arc<Side>,
    pending: Arc<Semaphore>,
    most_pending: u32,
    /// Of a server; the peers of a client are programs nearby, of which all may have one address.
    sources: Option<Arc<Sources<Arrived>>>,
}

/// A connection, and who made it.
type Arrived = (OwnedFd, Option<SocketAddrAny>);

/// Among whom a connection counts.
type Turn = (Arc<Sources<Arrived>>, Source);

/// What all connections have in common.
#[derive(Debug)]
struct Side {
    way: Way,
    request: StarttlsRequest,
    remote: Address,
    /// What leads to `remote`.
    transport: Transport,
    /// Streams that an association with it has at least.
    streams: u16,
    connect_time: Duration,
    server: bool,
}

impl Tunnel {
    /// Listens as the options say. The pool need not be there yet.
    pub(crate) async fn open(options: &Options) -> Result<Self, TunnelError> {
        let request = options.request()?.nameless();
        let (tls, plain) = options.transports();
        let (near, transport) = if options.server { (tls, plain) } else { (plain, tls) };
        let streams = options.streams();
        let listener = Listener::open(&options.listen, near, streams.max(STREAMS))
            .await
            .map_err(|source| TunnelError::Listen { address: options.listen.clone(), source })?;
        let pool = match &options.socket {
            Some(path) => Pool::at(path),
            None => Pool::new(),
        };
        let side = Arc::new(Side {
            way: Way::new(pool, options.pool_time()),
            request,
            remote: options.remote.clone(),
            transport,
            streams,
            connect_time: options.connect_time(),
            server: options.server,
        });
        let most_pending = options.most_pending();
        let pending = Arc::new(Semaphore::new(most_pending.into()));
        let sources = options.server.then(|| {
            let share = options.most_pending_of_one(most_pending);
            Arc::new(Sources::new(share, most_pending.into()))
        });
        Ok(Self { listener, side, pending, most_pending: most_pending.into(), sources })
    }

    /// Where it listens, in words.
    pub(crate) fn listens_at(&self) -> String {
        self.listener.to_string()
    }

    /// Accepts connections for ever.
    pub(crate) async fn run(&self) {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&self.pending).acquire_owned().await else { return };
            let arrived = match self.listener.accept().await {
                Ok(arrived) => arrived,
                Err(error) => {
                    warn!(%error, "cannot accept");
                    tokio::time::sleep(SHORTAGE).await;
                    continue;
                }
            };
            let Some((arrived, turn)) = self.admit(arrived) else { continue };
            let side = Arc::clone(&self.side);
            tokio::spawn(async move {
                let mut next = Some(arrived);
                while let Some((socket, peer)) = next {
                    side.connection(socket, peer).await;
                    next = turn.as_ref().and_then(|(sources, source)| sources.next(*source));
                }
                drop(permit);
            });
        }
    }

    /// The connection, if its handshake may begin, and whose turn it uses.
    fn admit(&self, arrived: Arrived) -> Option<(Arrived, Option<Turn>)> {
        let address = arrived.1.clone().and_then(|peer| SocketAddr::try_from(peer).ok());
        let (Some(sources), Some(peer)) = (&self.sources, address) else {
            return Some((arrived, None));
        };
        let source = Source::from(peer.ip());
        match sources.arrive(source, arrived) {
            Admission::Begin(arrived) => Some((arrived, Some((Arc::clone(sources), source)))),
            Admission::Waits => None,
            Admission::Refused { first } => {
                if first {
                    warn!(%peer, "too many connections from there");
                }
                None
            }
        }
    }

    /// Stops listening and waits for handshakes under way.
    pub(crate) async fn finish(self) {
        drop(self.listener);
        let _ = self.pending.acquire_many(self.most_pending).await;
    }
}

impl Side {
    /// One connection, until the pool has it.
    async fn connection(&self, socket: OwnedFd, peer: Option<SocketAddrAny>) {
        let since = Instant::now();
        let outcome = if self.server { self.serve(socket).await } else { self.call(socket).await };
        let ms = since.elapsed().as_millis() as u64;
        let peer = Peer(peer);
        match outcome {
            Ok(session) => {
                info!(%peer, localid = session.localid(), remoteid = session.remoteid(), ms, "open");
            }
            Err(error) => warn!(%peer, %error, ms, "failed"),
        }
    }

    /// TLS came in; plaintext goes out once the peer has proven who it is.
    async fn serve(&self, socket: OwnedFd) -> Result<Session, TunnelError> {
        let streams = streams_beside(&socket).max(self.streams);
        let plaintext = Plaintext::connect(async |_| {
            let connected = self.remote.connect(self.transport, streams, self.connect_time);
            connected.await.map_err(|source| {
                let code = source.raw_os_error();
                let error = TunnelError::Connect { address: self.remote.clone(), source };
                let code = code.unwrap_or(rustix::io::Errno::HOSTUNREACH.raw_os_error());
                Refusal { code, message: error.to_string() }
            })
        });
        self.way.starttls(self.request.clone(), socket, plaintext).await
    }

    /// Plaintext came in; TLS goes out.
    async fn call(&self, socket: OwnedFd) -> Result<Session, TunnelError> {
        // Without a pool there is no need to bother the other side.
        self.way.wait().await?;
        let streams = streams_beside(&socket).max(self.streams);
        let cipher = self
            .remote
            .connect(self.transport, streams, self.connect_time)
            .await
            .map_err(|source| TunnelError::Connect { address: self.remote.clone(), source })?;
        let plaintext = tlspool_client::Plaintext::given(socket);
        self.way.starttls(self.request.clone(), cipher, plaintext).await
    }
}

/// Who connected, in words.
struct Peer(Option<SocketAddrAny>);

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_ref().map(|any| SocketAddr::try_from(any.clone())) {
            Some(Ok(address)) => address.fmt(f),
            _ => f.write_str("local"),
        }
    }
}

#[cfg(test)]
mod tests;
