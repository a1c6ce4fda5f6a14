//! DTLS: datagrams instead of connections.
//!
//! ```text
//!  server:  peers ══UDP══► listener ─cookie right?─► a connected socket for this peer ─► pool ◄══UDP══► service
//!  client:  senders ══UDP══► listener ══pair══► pool ◄══UDP══► server
//! ```
//! A server answers a peer whose cookie is missing without keeping anything of it (RFC 6347 section 4.2.1). Once it is
//! right, the peer gets a socket of its own, bound to the same address and connected to it, which the pool takes; the
//! tunnel sees no datagram of it any more. A client has nothing that would tell its senders apart but their
//! address, and its first datagram is read before there is a session, so it copies.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, socketpair, sockopt,
};
use tls12::dtls::{Cookies, Start, Verdict};
use tlspool_client::aio::{Plaintext, Pool};
use tlspool_client::{Refusal, Session, StarttlsRequest};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tracing::{debug, info, warn};

use crate::address::{Address, open_at};
use crate::error::TunnelError;
use crate::options::Options;
use crate::pool::Way;
use crate::sources::Source;

mod listens;

/// Largest datagram.
const DATAGRAM: usize = 1 << 16;
/// How long a cookie is good.
const COOKIE: Duration = Duration::from_mins(1);
/// A client's sender that has been silent, and heard nothing, for so long is forgotten.
const IDLE: Duration = Duration::from_mins(5);
/// Datagrams of one sender that wait for its session.
const WAITING: usize = 64;
/// All sockets are made like this.
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// A tunnel of datagrams that listens.
pub(crate) struct Datagrams {
    listener: Arc<UdpSocket>,
    side: Arc<Side>,
    pending: Arc<Semaphore>,
    most_pending: u32,
    server: bool,
}

/// What all sessions have in common.
struct Side {
    way: Way,
    request: StarttlsRequest,
    remote: Address,
    local: SocketAddr,
    per_source: u32,
    begun: Mutex<HashMap<Source, Begun>>,
    /// Peers whose sockets are being made: as many at most as handshakes may be under way.
    beginning: Mutex<HashSet<SocketAddr>>,
}

/// The sessions of one source.
#[derive(Default)]
struct Begun {
    /// When they began; what is older than [`IDLE`] does not count.
    begun: Vec<Instant>,
    /// It was said that they are too many.
    told: bool,
}

/// A peer for which a session is being made, until it stands or has failed.
struct Beginning {
    side: Arc<Side>,
    peer: SocketAddr,
}

impl Drop for Beginning {
    fn drop(&mut self) {
        self.side.beginning().remove(&self.peer);
    }
}

impl Datagrams {
    /// Listens as the options say. The pool need not be there yet.
    pub(crate) async fn open(options: &Options) -> Result<Self, TunnelError> {
        let request = options.request()?.nameless().datagrams();
        let listen = |source| TunnelError::Listen { address: options.listen.clone(), source };
        let local = resolve(&options.listen).await.map_err(listen)?[0];
        let every = matches!(options.listen, Address::Every(_));
        let listener = listener(local, every, options.server).and_then(watch).map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        // A remote address that is none is told now.
        resolve(&options.remote)
            .await
            .map_err(|source| TunnelError::Connect { address: options.remote.clone(), source })?;
        let pool = options.socket.as_ref().map_or_else(Pool::new, Pool::at);
        let side = Arc::new(Side {
            way: Way::new(pool, options.pool_time()),
            request,
            remote: options.remote.clone(),
            local,
            per_source: options.sessions_of_one(),
            begun: Mutex::default(),
            beginning: Mutex::default(),
        });
        let most_pending = u32::from(options.most_pending());
        let pending = Arc::new(Semaphore::new(most_pending as usize));
        let listener = Arc::new(listener);
        Ok(Self { listener, side, pending, most_pending, server: options.server })
    }

    /// Where it listens, in words.
    pub(crate) fn listens_at(&self) -> String {
        self.side.local.to_string()
    }

    /// Takes datagrams for ever.
    pub(crate) async fn run(&self) -> Result<(), TunnelError> {
        if self.server { self.serve().await } else { self.call().await }
    }

    /// Waits for handshakes under way.
    pub(crate) async fn finish(self) {
        let _ = self.pending.acquire_many(self.most_pending).await;
    }

    async fn receive(&self, buffer: &mut [u8]) -> (usize, SocketAddr) {
        loop {
            match self.listener.recv_from(buffer).await {
                Ok(received) => return received,
                // An ICMP message about an answer of ours, which anybody can forge.
                Err(error) => debug!(%error, "cannot receive"),
            }
        }
    }

    // ---- server

    async fn serve(&self) -> Result<(), TunnelError> {
        let failed = |_| TunnelError::Start(io::Error::other("no random bytes"));
        let mut cookies = Cookies::new(COOKIE, Instant::now()).map_err(failed)?;
        let mut buffer = vec![0; DATAGRAM];
        let mut answer = [0; 256];
        loop {
            let (n, peer) = self.receive(&mut buffer).await;
            let now = Instant::now();
            let address = peer.to_string();
            match cookies.respond(&buffer[..n], address.as_bytes(), now, &mut answer) {
                Verdict::Ignore => {}
                Verdict::Challenge(n) => {
                    // One that is lost is asked for again.
                    let _ = self.listener.try_send_to(&answer[..n], peer);
                }
                Verdict::Valid(start) => {
                    self.begin(peer, start, &buffer[..n]);
                }
            }
        }
    }

    fn begin(&self, peer: SocketAddr, _start: Start, hello: &[u8]) {
        // The same hello once more, while its socket is being made.
        if self.side.beginning().contains(&peer) {
            return;
        }
        // A client that is not served now asks again.
        let Ok(permit) = Arc::clone(&self.pending).try_acquire_owned() else { return };
        if !self.side.admits(peer) {
            return;
        }
        self.side.beginning().insert(peer);
        let beginning = Beginning { side: Arc::clone(&self.side), peer };
        let hello = hello.to_vec();
        tokio::spawn(async move {
            let since = Instant::now();
            tell(peer, beginning.side.serve(peer, &hello).await, since);
            drop((beginning, permit));
        });
    }

    // ---- client

    async fn call(&self) -> Result<(), TunnelError> {
        let mut senders: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (n, sender) = self.receive(&mut buffer).await;
            let datagram = buffer[..n].to_vec();
            let Some(datagram) = offer(&senders, sender, datagram) else { continue };
            senders.retain(|_, queue| !queue.is_closed());
            let Ok(permit) = Arc::clone(&self.pending).try_acquire_owned() else { continue };
            if !self.side.admits(sender) {
                continue;
            }
            let (queue, queued) = mpsc::channel(WAITING);
            // The queue is empty, and has room.
            let _ = queue.try_send(datagram);
            senders.insert(sender, queue);
            let (side, listener) = (Arc::clone(&self.side), Arc::clone(&self.listener));
            tokio::spawn(async move {
                let since = Instant::now();
                let (session, ours) = match side.call().await {
                    Ok(called) => called,
                    Err(error) => return tell(sender, Err(error), since),
                };
                info!(peer = %sender, localid = session.localid(), remoteid = session.remoteid(), "open");
                drop(permit);
                copy(&listener, sender, queued, &ours).await;
                debug!(peer = %sender, "forgotten");
                drop(session);
            });
        }
    }
}

/// Gives a datagram to its sender's session; returns it if there is none.
fn offer(
    senders: &HashMap<SocketAddr, mpsc::Sender<Vec<u8>>>,
    sender: SocketAddr,
    datagram: Vec<u8>,
) -> Option<Vec<u8>> {
    let Some(queue) = senders.get(&sender) else { return Some(datagram) };
    match queue.try_send(datagram) {
        // One too many is lost, as on any path.
        Ok(()) | Err(mpsc::error::TrySendError::Full(_)) => None,
        Err(mpsc::error::TrySendError::Closed(datagram)) => Some(datagram),
    }
}

/// Copies between a sender and its session until one of them is gone.
async fn copy(
    listener: &UdpSocket,
    sender: SocketAddr,
    mut queued: mpsc::Receiver<Vec<u8>>,
    ours: &AsyncFd<OwnedFd>,
) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            datagram = queued.recv() => {
                let Some(datagram) = datagram else { return };
                let send = |socket: &OwnedFd| Ok(rustix::io::write(socket, &datagram)?);
                match ours.async_io(Interest::WRITABLE, send).await {
                    Ok(_) => {}
                    Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {}
                    Err(_) => return,
                }
            }
            received = ours.async_io(Interest::READABLE, |socket| Ok(rustix::io::read(socket, &mut buffer)?)) => {
                match received {
                    Ok(0) | Err(_) => return,
                    Ok(n) => { let _ = listener.send_to(&buffer[..n], sender).await; }
                }
            }
            () = tokio::time::sleep(IDLE) => return,
        }
    }
}

fn tell(peer: SocketAddr, outcome: Result<Session, TunnelError>, since: Instant) {
    let ms = since.elapsed().as_millis() as u64;
    match outcome {
        Ok(session) => {
            info!(%peer, localid = session.localid(), remoteid = session.remoteid(), ms, "open");
        }
        Err(error) => warn!(%peer, %error, ms, "failed"),
    }
}

impl Side {
    /// May another session begin from there? If not, that is said once.
    fn admits(&self, peer: SocketAddr) -> bool {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.retain(|_, source| {
            source.begun.retain(|time| time.elapsed() < IDLE);
            !source.begun.is_empty()
        });
        let source = begun.entry(peer.ip().into()).or_default();
        let admitted = source.begun.len() < self.per_source as usize;
        if admitted {
            source.begun.push(Instant::now());
        } else if !source.told {
            warn!(%peer, limit = self.per_source, "too many sessions from there");
        }
        source.told = !admitted;
        admitted
    }

    fn beginning(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        self.beginning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, peer: SocketAddr, hello: &[u8]) -> Result<Session, TunnelError> {
        self.way.wait().await?;
        let socket = bound(self.local, Sharing::OneUser)
            .and_then(|socket| Ok(connect(&socket, &peer).map(|()| socket)?))
            .map_err(TunnelError::Start)?;
        let plaintext = Plaintext::connect(async |_| {
            self.reach().await.map_err(|error| Refusal {
                code: rustix::io::Errno::HOSTUNREACH.raw_os_error(),
                message: error.to_string(),
            })
        });
        let request = self.request.clone().first_datagram(hello);
        self.way.starttls(request, socket, plaintext).await
    }

    /// A session with the server, and our end of its plaintext.
    async fn call(&self) -> Result<(Session, AsyncFd<OwnedFd>), TunnelError> {
        self.way.wait().await?;
        let socket = self.reach().await?;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None);
        let (ours, pools) = pair.map_err(|error| TunnelError::Start(error.into()))?;
        let plaintext = tlspool_client::Plaintext::given(pools);
        let session = self.way.starttls(self.request.clone(), socket, plaintext).await?;
        #[expect(deprecated, reason = "the safe constructor")]
        let ours = AsyncFd::new(ours).map_err(TunnelError::Start)?;
        Ok((session, ours))
    }

    /// A socket that is connected to the remote address.
    async fn reach(&self) -> Result<OwnedFd, TunnelError> {
        let connected = async {
            let mut last = io::Error::other("the host has no address");
            // The first to which there is a way; whether somebody is there, nobody can know yet.
            for address in resolve(&self.remote).await? {
                let socket = unbound(&address).and_then(|socket| {
                    connect(&socket, &address)?;
                    Ok(socket)
                });
                match socket {
                    Ok(socket) => return Ok(socket),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        connected
            .await
            .map_err(|source| TunnelError::Connect { address: self.remote.clone(), source })
    }
}

async fn resolve(address: &Address) -> io::Result<Vec<SocketAddr>> {
    match address {
        Address::Unix(_) => {
            Err(io::Error::other("datagrams go over UDP: use host:port or [v6]:port"))
        }
        address => address.resolve().await,
    }
}

/// Who else may have a socket at the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Nobody,
    /// Sockets of this user. The kernel gives a datagram to the one that is connected to its sender, if there is one.
    /// (It is SO_REUSEPORT alone that asks whose they are: two sockets with SO_REUSEADDR may have one address
    /// whoever made them, and the one that came last gets the datagrams.)
    OneUser,
}

fn unbound(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(socket_with(family, SocketType::DGRAM, FLAGS, None)?)
}

fn bound(address: SocketAddr, sharing: Sharing) -> io::Result<OwnedFd> {
    bind_to(unbound(&address)?, address, sharing)
}

fn bind_to(socket: OwnedFd, address: SocketAddr, sharing: Sharing) -> io::Result<OwnedFd> {
    sockopt::set_socket_reuseport(&socket, sharing == Sharing::OneUser)?;
    bind(&socket, &address)?;
    Ok(socket)
}

/// The socket that listens; that of a server shares its address with those of its peers.
fn listener(address: SocketAddr, every: bool, server: bool) -> io::Result<OwnedFd> {
    let open = || open_at(address, every, unbound);
    let (socket, address) = open()?;
    if !server {
        return bind_to(socket, address, Sharing::Nobody);
    }
    // Another tunnel must not listen there already. Peers whose sessions outlive the one before may.
    match bind_to(open()?.0, address, Sharing::Nobody).map(drop) {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse || listens::anybody(address) => {
            Err(error)
        }
        _ => bind_to(socket, address, Sharing::OneUser),
    }
}

fn watch(socket: OwnedFd) -> io::Result<UdpSocket> {
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests;
