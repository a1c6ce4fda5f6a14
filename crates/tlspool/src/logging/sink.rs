//! Where lines end: standard error, or the datagram socket of journald or syslog.

use super::format::Line;
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
    Socket { socket: UnixDatagram, path: &'static str, name: &'static str, pid: u32 },
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
        let (daemon, path) = match target {
            LogTarget::Auto | LogTarget::Stderr => {
                return Ok(Self::Stderr { name, pid, unwritten: String::new() });
            }
            LogTarget::Journald => ("journald", JOURNALD),
            LogTarget::Syslog => ("syslog", SYSLOG),
        };
        let connected = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(path)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => Ok(Self::Socket { socket, path, name, pid }),
            Err(source) => Err(SinkError { name: daemon, path, source }),
        }
    }

    /// Writes a line, to standard error with the next [`Self::flush`], and waits as long as that takes:
    /// this is the log's own thread. A line that cannot be written is lost; there is nobody to tell.
    pub(super) fn write(&mut self, line: &Line) {
        match self {
            Self::Stderr { name, pid, unwritten } => {
                unwritten.push_str(&line.for_stderr(name, *pid));
            }
            Self::Socket { socket, path, name, pid } => {
                let entry = if *path == JOURNALD {
                    line.for_journald(name, *pid)
                } else {
                    line.for_syslog(name, *pid)
                };
                // A log daemon that was restarted has a new socket at the same place.
                if socket.send(&entry).is_err() && socket.connect(*path).is_ok() {
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
