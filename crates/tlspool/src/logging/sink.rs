//! Where lines end: standard error, or the datagram socket of journald or syslog.

use super::lines::Line;
use crate::config::LogTarget;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

const JOURNALD: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";

/// The log's daemon is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot log to {name} at {path}: {source}; set log.target to another one, such as \"stderr\""
)]
pub struct SinkError {
    name: &'static str,
    path: &'static str,
    source: io::Error,
}

pub(super) enum Sink {
    Stderr { name: &'static str, pid: u32, unwritten: String },
    Socket { socket: UnixDatagram, daemon: Daemon, name: &'static str, pid: u32 },
}

/// Who takes the lines, and where.
#[derive(Clone, Copy)]
pub(super) struct Daemon {
    journald: bool,
    path: &'static str,
}

pub(super) fn journald_runs() -> bool {
    Path::new(JOURNALD).exists()
}

pub(super) fn syslog_runs() -> bool {
    Path::new(SYSLOG).exists()
}

impl Sink {
    pub(super) fn open(target: LogTarget, name: &'static str) -> Result<Self, SinkError> {
        let pid = std::process::id();
        let daemon = match target {
            LogTarget::Auto | LogTarget::Stderr => {
                return Ok(Self::Stderr { name, pid, unwritten: String::new() });
            }
            LogTarget::Journald => Daemon { journald: true, path: JOURNALD },
            LogTarget::Syslog => Daemon { journald: false, path: SYSLOG },
        };
        Self::to(daemon, name, pid)
    }

    fn to(daemon: Daemon, name: &'static str, pid: u32) -> Result<Self, SinkError> {
        let Daemon { journald, path } = daemon;
        let connected = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(path)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => Ok(Self::Socket { socket, daemon, name, pid }),
            Err(source) => {
                let name = if journald { "journald" } else { "syslog" };
                Err(SinkError { name, path, source })
            }
        }
    }

    /// Writes a line, to standard error with the next [`Self::flush`], and waits as long as that takes:
    /// this is the log's own thread. A line that cannot be written is lost; there is nobody to tell.
    pub(super) fn write(&mut self, line: &Line<'_>) {
        match self {
            Self::Stderr { name, pid, unwritten } => {
                line.put_for_stderr(unwritten, name, *pid);
            }
            Self::Socket { socket, daemon, name, pid } => {
                let entry = if daemon.journald {
                    line.for_journald(name, *pid)
                } else {
                    line.for_syslog(name, *pid)
                };
                // A log daemon that was restarted has a new socket at the same place.
                if socket.send(&entry).is_err() && socket.connect(daemon.path).is_ok() {
                    let _ = socket.send(&entry);
                }
            }
        }
    }

    /// Writes what was gathered.
    pub(super) fn flush(&mut self) {
        if let Self::Stderr { unwritten, .. } = self
            && !unwritten.is_empty()
        {
            let _ = io::stderr().write_all(unwritten.as_bytes());
            unwritten.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::lines::{Lines, MESSAGE};
    use std::time::{Duration, UNIX_EPOCH};
    use tracing::Level;

    /// What a daemon's socket got.
    fn heard(socket: &UnixDatagram) -> String {
        let mut datagram = [0; 512];
        let n = socket.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..n].to_vec()).unwrap()
    }

    #[test]
    fn datagrams_reach_a_daemon_also_after_its_restart() {
        let folder = tempfile::tempdir().unwrap();
        for journald in [false, true] {
            let path = folder.path().join(if journald { "journal" } else { "log" });
            // The program's own paths are constants.
            let daemon = Daemon { journald, path: path.display().to_string().leak() };
            let error = Sink::to(daemon, "tlspool", 7).err().unwrap().to_string();
            assert!(error.contains("log.target"), "{error}");
            let listen = || {
                let socket = UnixDatagram::bind(&path).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                socket
            };
            let socket = listen();
            let mut sink = Sink::to(daemon, "tlspool", 7).unwrap();
            let fields = [(MESSAGE, "met"), ("remote", "a.example")];
            let lines = Lines::line(UNIX_EPOCH, Level::WARN, &fields);
            let line = lines.iter().next().unwrap();
            let expected =
                if journald { "TLSPOOL_REMOTE\n" } else { "<28>tlspool[7]: met remote=" };
            sink.write(&line);
            let first = heard(&socket);
            assert!(first.contains(expected), "{first}");
            drop(socket);
            sink.write(&line); // lost: nobody listens
            std::fs::remove_file(&path).unwrap();
            let socket = listen();
            sink.write(&line);
            assert_eq!(heard(&socket), first);
        }
    }
}
