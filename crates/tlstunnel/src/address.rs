//! Addresses of streams and associations: host and port, or the path of a UNIX socket. Listening, accepting and
//! connecting without blocking.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    SocketAddrAny, SocketAddrUnix, acceptfrom_with, bind, connect, getpeername, listen, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::transport::{FLAGS, Transport};

/// Connections that the kernel keeps until they are accepted; it lowers this to its own limit.
const BACKLOG: i32 = 4096;
/// First pause before trying again a UNIX socket whose queue is full; doubles.
const QUEUE_FULL: Duration = Duration::from_millis(2);

/// Where a socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// Both numeric.
    Tcp(SocketAddr),
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
            "" => Ok(Self::Tcp(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port))),
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
            Self::Tcp(address) => finish(begin(transport, streams, address)?).await,
            Self::Named { host, port } => {
                let mut last = io::Error::other("the host has no address");
                for address in tokio::net::lookup_host((host.as_str(), *port)).await? {
                    let attempt = async { finish(begin(transport, streams, &address)?).await };
                    match attempt.await {
                        Ok(socket) => return Ok(socket),
                        Err(error) => last = error,
                    }
                }
                Err(last)
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

/// A listening socket; its path, if it has one, goes with it.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: AsyncFd<OwnedFd>,
    path: Option<PathBuf>,
}

impl Listener {
    /// Listens on `address`, over SCTP with `streams` of our own in each association.
    pub(crate) async fn open(
        address: &Address,
        transport: Transport,
        streams: u16,
    ) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => listen_at(*address, transport, streams),
            Address::Named { host, port } => {
                let mut addresses = tokio::net::lookup_host((host.as_str(), *port)).await?;
                let first = addresses.next();
                let first = first.ok_or_else(|| io::Error::other("the host has no address"))?;
                listen_at(first, transport, streams)
            }
            Address::Unix(path) => listen_unix(path, transport),
        }
    }

    /// The next connection, and who it is in words.
    pub(crate) async fn accept(&self) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
        let accept = |socket: &OwnedFd| Ok(acceptfrom_with(socket, FLAGS)?);
        self.socket.async_io(Interest::READABLE, accept).await
    }

    #[cfg(test)]
    pub(crate) fn local_address(&self) -> SocketAddr {
        rustix::net::getsockname(self.socket.get_ref()).unwrap().try_into().unwrap()
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

fn listen_at(address: SocketAddr, transport: Transport, streams: u16) -> io::Result<Listener> {
    let socket = transport.socket(&address, streams)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(Listener { socket: watch(socket, Interest::READABLE)?, path: None })
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
    let listener = Listener { socket: watch(socket, Interest::READABLE)?, path };
    listen(listener.socket.get_ref(), BACKLOG)?;
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
        assert_eq!(parse(":5").unwrap(), Address::Tcp("[::]:5".parse().unwrap()));
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
