//! Addresses of streams and associations: host and port, or the path of a UNIX socket. Listening, accepting and
//! connecting without blocking.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    SocketAddrAny, SocketAddrUnix, acceptfrom_with, bind, connect, getpeername, listen, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;
use tracing::warn;

use crate::transport::{FLAGS, Transport};

/// Connections that the kernel keeps until they are accepted; it lowers this to its own limit.
const BACKLOG: i32 = 4096;
/// First pause before trying again a UNIX socket whose queue is full; doubles.
const QUEUE_FULL: Duration = Duration::from_millis(2);

/// An attempt to connect that has no answer for so long is joined by one to the next address (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Of the addresses of a host, so many are tried.
const MOST_ADDRESSES: usize = 8;

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Both numeric.
    Tcp(SocketAddr),
    /// Only a port: every address of this machine.
    Every(u16),
    /// A host that must be looked up.
    Named {
        /// Its name.
        host: String,
        /// Port.
        port: u16,
    },
    /// A path.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Ok(Self::Unix(text.into()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Tcp(address));
        }
        let wanted = "use host:port, [v6]:port, or a path that contains a slash";
        let (host, port) = text.rsplit_once(':').ok_or(wanted)?;
        let port = port.parse().map_err(|_| format!("{port:?} is not a port number; {wanted}"))?;
        match host {
            "" => Ok(Self::Every(port)),
            host if host.contains([':', '[', ']']) => Err(format!(
                "{host:?} is not a host; an IPv6 address is written in brackets; {wanted}"
            )),
            host => Ok(Self::Named { host: host.into(), port }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Every(port) => write!(f, ":{port}"),
            Self::Named { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    /// The host's name, if it is known by one.
    pub(crate) fn host(&self) -> Option<&str> {
        match self {
            Self::Named { host, .. } => Some(host),
            _ => None,
        }
    }

    /// The addresses it stands for, the best first.
    pub(crate) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Tcp(address) => Ok(vec![*address]),
            Self::Every(port) => Ok(vec![every(*port)]),
            Self::Named { host, port } => {
                let mut addresses = Vec::new();
                for address in tokio::net::lookup_host((host.as_str(), *port)).await? {
                    if addresses.len() < MOST_ADDRESSES && !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                if addresses.is_empty() {
                    return Err(io::Error::other("the host has no address"));
                }
                Ok(addresses)
            }
            Self::Unix(_) => Err(io::Error::other("a path; use host:port or [v6]:port")),
        }
    }

    /// Connects within `time`, over SCTP with `streams` of our own; of several addresses of a host, the first that
    /// answers.
    pub(crate) async fn connect(
        &self,
        transport: Transport,
        streams: u16,
        time: Duration,
    ) -> io::Result<OwnedFd> {
        // A numeric address on this machine is connected at once: no timer for it.
        if let Self::Tcp(address) = self {
            let socket = begin(transport, streams, address)?;
            if getpeername(&socket).is_ok() {
                return Ok(socket);
            }
            return in_time(time, finish(socket)).await;
        }
        in_time(time, self.connect_slowly(transport, streams)).await
    }

    async fn connect_slowly(&self, transport: Transport, streams: u16) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(_) | Self::Every(_) | Self::Named { .. } => {
                connect_any(self.resolve().await?, transport, streams).await
            }
            Self::Unix(path) => {
                let socket = transport.unix()?;
                let address = SocketAddrUnix::new(path.as_path())?;
                let mut pause = QUEUE_FULL;
                loop {
                    match connect(&socket, &address) {
                        Ok(()) => return Ok(socket),
                        Err(Errno::AGAIN) => tokio::time::sleep(pause).await,
                        Err(error) => return Err(error.into()),
                    }
                    pause *= 2;
                }
            }
        }
    }
}

/// Every address of this machine, of both families if it has both.
fn every(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

/// Connects to the first of these that answers. One that says nothing does not keep the next from being tried.
async fn connect_any(
    addresses: Vec<SocketAddr>,
    transport: Transport,
    streams: u16,
) -> io::Result<OwnedFd> {
    let mut addresses = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut last = io::Error::other("the host has no address");
    loop {
        if let Some(address) = addresses.next() {
            attempts.spawn(async move { finish(begin(transport, streams, &address)?).await });
        }
        let more = addresses.len() > 0;
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(socket))) => return Ok(socket),
                Some(Ok(Err(error))) => last = error,
                Some(Err(error)) => last = io::Error::other(error),
                None => return Err(last),
            },
            () = tokio::time::sleep(STAGGER), if more => {}
        }
    }
}

async fn in_time<T>(time: Duration, attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::time::timeout(time, attempt).await.map_err(late)?
}

/// Starts to connect.
fn begin(transport: Transport, streams: u16, address: &SocketAddr) -> io::Result<OwnedFd> {
    let socket = transport.socket(address, streams)?;
    match connect(&socket, address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Waits until a socket that [`begin`] made is connected.
async fn finish(socket: OwnedFd) -> io::Result<OwnedFd> {
    let socket = watch(socket, Interest::WRITABLE)?;
    loop {
        socket.writable().await?.clear_ready();
        sockopt::socket_error(socket.get_ref())??;
        match getpeername(socket.get_ref()) {
            Ok(_) => return Ok(socket.into_inner()),
            Err(Errno::NOTCONN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Watches a descriptor. The newer constructors are unsafe because a type may lie about its
/// descriptor; an `OwnedFd` cannot.
#[expect(deprecated, reason = "the safe constructor")]
fn watch(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, interest)
}

/// Listening sockets; the path, if there is one, goes with them.
#[derive(Debug)]
pub(crate) struct Listener {
    sockets: Vec<AsyncFd<OwnedFd>>,
    /// The socket that is asked first the next time.
    first: AtomicUsize,
    path: Option<PathBuf>,
}

impl Listener {
    /// Listens on `address`, over SCTP with `streams` of our own in each association; of a host, on all its
    /// addresses.
    pub(crate) async fn open(
        address: &Address,
        transport: Transport,
        streams: u16,
    ) -> io::Result<Self> {
        if let Address::Unix(path) = address {
            return listen_unix(path, transport);
        }
        let every = matches!(address, Address::Every(_));
        Self::at(&address.resolve().await?, every, transport, streams)
    }

    /// Listens at each of these that this machine has, or else says why not.
    fn at(
        addresses: &[SocketAddr],
        every: bool,
        transport: Transport,
        streams: u16,
    ) -> io::Result<Self> {
        let mut sockets = Vec::new();
        let mut missing = None;
        for &address in addresses {
            match listen_at(address, every, transport, streams) {
                Ok(socket) => sockets.push(socket),
                Err(error) if is_absent(&error) => {
                    if addresses.len() > 1 {
                        warn!(%address, %error, "does not listen there");
                    }
                    missing = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if sockets.is_empty() => Err(error),
            _ => Ok(Self { sockets, first: AtomicUsize::new(0), path: None }),
        }
    }

    /// The next connection, and who it is.
    pub(crate) async fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
        let accept = |socket: &AsyncFd<OwnedFd>| Ok(acceptfrom_with(socket.get_ref(), FLAGS)?);
        std::future::poll_fn(|context| {
            // Each socket in its turn, so that a busy one does not silence the others.
            let first = self.first.fetch_add(1, Ordering::Relaxed);
            for n in 0..self.sockets.len() {
                let socket = &self.sockets[first.wrapping_add(n) % self.sockets.len()];
                while let Poll::Ready(ready) = socket.poll_read_ready(context) {
                    match ready.map(|mut guard| guard.try_io(accept)) {
                        Ok(Ok(accepted)) => return Poll::Ready(accepted),
                        Ok(Err(_would_block)) => {}
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
            }
            Poll::Pending
        })
        .await
    }

    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let address = |socket: &AsyncFd<OwnedFd>| rustix::net::getsockname(socket.get_ref());
        self.sockets.iter().filter_map(move |socket| address(socket).ok()?.try_into().ok())
    }

    #[cfg(test)]
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.addresses().next().unwrap()
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            return path.display().fmt(f);
        }
        let addresses: Vec<_> = self.addresses().map(|address| address.to_string()).collect();
        f.write_str(&addresses.join(", "))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Somebody may have removed it before.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether this machine has no such address.
fn is_absent(error: &io::Error) -> bool {
    let absent = [Errno::ADDRNOTAVAIL, Errno::AFNOSUPPORT];
    absent.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// Makes a socket for `address`, or for `every` one of its port: then of both families, whatever this system's
/// default is, or of IPv4 if there is no IPv6. Returns where it is to be bound, too.
pub(crate) fn open_at(
    address: SocketAddr,
    every: bool,
    make: impl Fn(&SocketAddr) -> io::Result<OwnedFd>,
) -> io::Result<(OwnedFd, SocketAddr)> {
    match make(&address) {
        Ok(socket) => {
            if every && address.is_ipv6() {
                sockopt::set_ipv6_v6only(&socket, false)?;
            }
            Ok((socket, address))
        }
        Err(error) if every && is_absent(&error) => {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            Ok((make(&address)?, address))
        }
        Err(error) => Err(error),
    }
}

fn listen_at(
    address: SocketAddr,
    every: bool,
    transport: Transport,
    streams: u16,
) -> io::Result<AsyncFd<OwnedFd>> {
    let (socket, address) = open_at(address, every, |address| transport.socket(address, streams))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    watch(socket, Interest::READABLE)
}

fn listen_unix(path: &Path, transport: Transport) -> io::Result<Listener> {
    let address = SocketAddrUnix::new(path)?;
    let socket = transport.unix()?;
    match bind(&socket, &address) {
        Err(Errno::ADDRINUSE) if is_stale(path, &address, transport)? => {
            std::fs::remove_file(path)?;
            bind(&socket, &address)?;
        }
        other => other?,
    }
    let path = Some(path.to_owned());
    let sockets = vec![watch(socket, Interest::READABLE)?];
    let listener = Listener { sockets, first: AtomicUsize::new(0), path };
    listen(listener.sockets[0].get_ref(), BACKLOG)?;
    Ok(listener)
}

/// Whether this is a socket on which nobody listens.
fn is_stale(path: &Path, address: &SocketAddrUnix, transport: Transport) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = transport.unix()?;
    Ok(connect(probe.as_fd(), address) == Err(Errno::CONNREFUSED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| text.parse::<Address>();
        assert_eq!(parse("/run/x").unwrap(), Address::Unix("/run/x".into()));
        assert_eq!(parse("./x:1").unwrap(), Address::Unix("./x:1".into()));
        assert_eq!(parse("[::1]:5").unwrap(), Address::Tcp("[::1]:5".parse().unwrap()));
        assert_eq!(parse(":5").unwrap(), Address::Every(5));
        assert_eq!(parse("host:5").unwrap().host(), Some("host"));
        for bad in ["", "host", "host:", "host:http", "::1:5", "[::1]", "host:65536"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_stale_path_is_reused_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let address = Address::Unix(path.clone());
        let living = Listener::open(&address, Transport::Tcp, 1).await.unwrap();
        let error = Listener::open(&address, Transport::Tcp, 1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let _connected = address.connect(Transport::Tcp, 1, Duration::from_secs(5)).await.unwrap();
        drop(living);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(Listener::open(&address, Transport::Tcp, 1).await.is_err());
        assert!(path.exists());
    }

    /// A host's addresses: somewhere nobody answers, and where somebody listens.
    #[tokio::test]
    async fn an_address_that_says_nothing_does_not_keep_others_from_being_tried() {
        let listener =
            Listener::open(&"127.0.0.1:0".parse().unwrap(), Transport::Tcp, 1).await.unwrap();
        // Its queue is full, so that the kernel drops what comes.
        let silent = Transport::Tcp.socket(&"127.0.0.1:0".parse().unwrap(), 1).unwrap();
        bind(&silent, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        listen(&silent, 0).unwrap();
        let dead = SocketAddr::try_from(rustix::net::getsockname(&silent).unwrap()).unwrap();
        let filler = Address::Tcp(dead);
        let _filler = filler.connect(Transport::Tcp, 1, Duration::from_secs(5)).await.unwrap();
        let brief = filler.connect(Transport::Tcp, 1, Duration::from_millis(50)).await;
        assert_eq!(brief.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let addresses = vec![dead, listener.local_address()];
        let connected = connect_any(addresses, Transport::Tcp, 1);
        in_time(Duration::from_secs(10), connected).await.unwrap();
        listener.accept().await.unwrap();
        // One that refuses is passed over at once, and the last error is told.
        drop((silent, listener));
        let error = connect_any(vec![dead], Transport::Tcp, 1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn a_host_is_listened_for_at_all_its_addresses() {
        let addresses: Vec<SocketAddr> =
            ["127.0.0.1:0", "127.0.0.2:0", "192.0.2.1:0"].map(|a| a.parse().unwrap()).into();
        let listener = Listener::at(&addresses, false, Transport::Tcp, 1).unwrap();
        let there: Vec<_> = listener.addresses().collect();
        assert_eq!(there.len(), 2, "{there:?}");
        for _ in 0..2 {
            for &address in &there {
                let address = Address::Tcp(address);
                address.connect(Transport::Tcp, 1, Duration::from_secs(5)).await.unwrap();
                listener.accept().await.unwrap();
            }
        }
        assert_eq!(listener.to_string(), format!("{}, {}", there[0], there[1]));
        let nowhere = Listener::at(&addresses[2..], false, Transport::Tcp, 1).unwrap_err();
        assert_eq!(nowhere.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn every_address_is_of_both_families() {
        let every = every(0);
        let strict = |address: &SocketAddr| {
            let socket = Transport::Tcp.socket(address, 1)?;
            if address.is_ipv6() {
                // As where net.ipv6.bindv6only is 1.
                sockopt::set_ipv6_v6only(&socket, true)?;
            }
            Ok(socket)
        };
        let (socket, address) = open_at(every, true, strict).unwrap();
        assert!(address.is_ipv4() || !sockopt::ipv6_v6only(&socket).unwrap());
        // A machine without IPv6.
        let without = |address: &SocketAddr| match address {
            SocketAddr::V6(_) => Err(Errno::AFNOSUPPORT.into()),
            SocketAddr::V4(_) => Transport::Tcp.socket(address, 1),
        };
        let (_, address) = open_at(every, true, without).unwrap();
        assert_eq!(address, "0.0.0.0:0".parse().unwrap());
        assert!(open_at(every, false, without).is_err());
    }

    #[tokio::test]
    async fn nobody_there() {
        let listener =
            Listener::open(&"127.0.0.1:0".parse().unwrap(), Transport::Tcp, 1).await.unwrap();
        let address = Address::Tcp(listener.local_address());
        address.connect(Transport::Tcp, 1, Duration::from_secs(5)).await.unwrap();
        listener.accept().await.unwrap();
        drop(listener);
        let error = address.connect(Transport::Tcp, 1, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
