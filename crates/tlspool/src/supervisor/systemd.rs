//! What systemd and the daemon tell each other: sockets at the start, state while it runs.
//!
//! sd_listen_fds(3) and sd_notify(3), which are an environment variable and a datagram each.

#![allow(unsafe_code)]

use crate::net::Listener;
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketType, getsockname, sockopt};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;

/// First descriptor that systemd passes.
const FIRST_FD: i32 = 3;

/// The sockets that systemd listens on for us; none if it does not. Called once, at the start of the
/// process.
pub fn listen_fds() -> io::Result<Vec<Listener>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<i32>().ok());
    if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    let mut listeners = Vec::new();
    for raw in FIRST_FD..FIRST_FD.saturating_add(count) {
        // SAFETY: by the protocol of LISTEN_FDS these descriptors were opened for this process
        // (LISTEN_PID is ours) and nothing else in it has taken them: this is called once, before the
        // process opens any. `fcntl` below fails on one that is not open.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&fd, true)?;
        listeners.push(Listener { path: path_of(&fd)?, fd });
    }
    Ok(listeners)
}

fn path_of(fd: &OwnedFd) -> io::Result<PathBuf> {
    let wrong =
        || io::Error::new(io::ErrorKind::InvalidInput, "not a listening UNIX stream socket");
    if sockopt::socket_type(fd)? != SocketType::STREAM || !sockopt::socket_acceptconn(fd)? {
        return Err(wrong());
    }
    let address: SocketAddrAny = getsockname(fd)?;
    let address = SocketAddrUnix::try_from(address).map_err(|_| wrong())?;
    let path = address.path().ok_or_else(wrong)?;
    Ok(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}

/// Tells systemd about the state of the service.
#[derive(Debug, Default)]
pub struct Notifier {
    /// The socket, and its name for the daemon that takes over.
    socket: Option<(UnixDatagram, OsString)>,
}

impl Notifier {
    /// Finds whom to tell; nobody if we were not started by systemd.
    pub fn from_env() -> Self {
        std::env::var_os("NOTIFY_SOCKET").map(Self::at).unwrap_or_default()
    }

    /// Tells whoever listens at `name`, which may be abstract (`@…`).
    pub fn at(name: OsString) -> Self {
        Self { socket: connect(&name).ok().map(|socket| (socket, name)) }
    }

    /// Where systemd listens.
    pub fn name(&self) -> Option<String> {
        self.socket.as_ref().and_then(|(_, name)| name.to_str()).map(str::to_owned)
    }

    /// Sends assignments such as `READY=1`, one a line. Nobody waits for it, and a systemd that does not
    /// listen is no reason to fail.
    pub fn tell(&self, state: &str) {
        if let Some((socket, _)) = &self.socket {
            let _ = socket.send(state.as_bytes());
        }
    }

    /// `READY=1` and who we are.
    pub fn ready(&self) {
        self.tell(&format!("READY=1\nMAINPID={}\nSTATUS=serving", std::process::id()));
    }

    /// `RELOADING=1` with the time that systemd wants for `Type=notify-reload`.
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_hears_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::at(path.clone().into());
        notifier.ready();
        let mut buffer = [0; 200];
        let length = systemd.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        assert!(text.starts_with("READY=1\nMAINPID="), "{text}");
    }

    #[test]
    fn only_sockets_of_the_right_kind_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(path_of(&listener.into()).unwrap(), path);
        assert!(path_of(&UnixDatagram::unbound().unwrap().into()).is_err());
        assert!(path_of(&std::fs::File::open("/dev/null").unwrap().into()).is_err());
    }
}
