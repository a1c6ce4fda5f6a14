//! The child processes: starting them and noticing their end.
//!
//! A child is this very program, run again (`/proc/self/exe`, so also when the file was replaced by an
//! upgrade). It gets one descriptor, a channel as its standard input; everything else follows over that.

use super::message::{self, Account, AsyncChannel, KeydStart, LookupStart, NetworkStart};
use crate::cli::{KEYD_COMMAND, LOOKUP_COMMAND, NETWORK_COMMAND};
use crate::config::{Config, Log, LogTarget};
use crate::net::Listener;
use crate::watched::Watched;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Environment variables that children which talk to others keep; the rest stays with the supervisor.
const PLAIN_ENVIRONMENT: [&str; 3] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "RUST_BACKTRACE"];

/// What belongs to the supervisor and would confuse a child.
const SUPERVISOR_ENVIRONMENT: [&str; 4] =
    ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// What belongs to the sockets that systemd passes, to the one process that it started.
pub(super) const OF_SYSTEMD_SOCKETS: [&str; 3] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// A running child process. Dropping it kills it.
pub struct Process {
    /// The channel to it.
    pub channel: AsyncChannel,
    /// Its life.
    pub life: Life,
}

/// What notices and brings the end of a process.
pub struct Life {
    child: Child,
    pidfd: Watched,
}

impl Process {
    fn spawn(mut command: Command, log: &Log) -> io::Result<Self> {
        let (ours, theirs) = message::pair()?;
        // Nothing of a terminal or pipe that started the daemon stays open, unless the log goes there.
        if log.target != LogTarget::Stderr {
            command.stderr(Stdio::null());
        }
        let child = command.stdin(theirs).stdout(Stdio::null()).spawn()?;
        let pid = Pid::from_child(&child);
        let pidfd = Watched::as_is(pidfd_open(pid, PidfdFlags::empty())?)?;
        Ok(Self { channel: AsyncChannel::new(ours)?, life: Life { child, pidfd } })
    }
}

impl Life {
    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end. May be cancelled.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        // A pidfd is readable from the end of its process on.
        let _ = self.pidfd.readable().await?;
        self.child.wait()
    }

    /// Ends it at once.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

/// How a process ended, for the log.
pub fn describe(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("ended with status {code}"),
            (None, Some(libc::SIGSYS)) => {
                "was killed by its system call filter (SIGSYS): an attack, or a call the filter should know"
                    .into()
            }
            (None, Some(signal)) => {
                let core = if status.core_dumped() { ", core dumped" } else { "" };
                format!("was killed by signal {signal}{core}")
            }
            (None, None) => "ended".into(),
        },
        Err(e) => format!("ended, its status is unknown: {e}"),
    }
}

/// This program as a child without an environment.
fn plain_command(name: &str, subcommand: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).arg(subcommand).env_clear();
    for name in PLAIN_ENVIRONMENT {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command
}

/// One channel for each worker, the express worker included: the network's ends, and the others.
fn worker_channels(config: &Config) -> io::Result<(Vec<OwnedFd>, Vec<OwnedFd>)> {
    (0..=config.worker_count()).map(|_| message::pair()).collect()
}

/// Starts the network process and gives it what it needs.
pub async fn start_network(
    config: &Config,
    listeners: &[Listener],
    key_channels: &[OwnedFd],
    become_user: Option<Account>,
    log: &Log,
) -> io::Result<Process> {
    let process = Process::spawn(plain_command("tlspool: network", NETWORK_COMMAND), log)?;
    let start = NetworkStart {
        config: config.clone(),
        listeners: listeners.iter().map(|l| l.path.clone()).collect(),
        become_user,
        log: log.clone(),
    };
    let fds: Vec<BorrowedFd<'_>> = listeners
        .iter()
        .map(|l| l.fd.as_fd())
        .chain(key_channels.iter().map(AsFd::as_fd))
        .collect();
    process.channel.send(&start, &fds).await?;
    Ok(process)
}

/// Starts the key process; the second part of the answer is the network's ends of its channels, one for
/// each worker.
pub async fn start_keyd(
    config: &Config,
    pin_memory: &OwnedFd,
    become_user: Option<Account>,
    log: &Log,
) -> io::Result<(Process, Vec<OwnedFd>)> {
    let (network_ends, keyd_ends) = worker_channels(config)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("tlspool-keyd").arg(KEYD_COMMAND);
    // Modules are told things by variables of their own (SOFTHSM2_CONF), so the rest is kept.
    for name in SUPERVISOR_ENVIRONMENT {
        command.env_remove(name);
    }
    let process = Process::spawn(command, log)?;
    let start = KeydStart { config: config.clone(), become_user, log: log.clone() };
    let fds: Vec<BorrowedFd<'_>> =
        std::iter::once(pin_memory.as_fd()).chain(keyd_ends.iter().map(AsFd::as_fd)).collect();
    process.channel.send(&start, &fds).await?;
    Ok((process, network_ends))
}

/// Starts the look-up process; the second part of the answer is the network's ends of its channels, one for
/// each worker.
pub async fn start_lookup(
    config: &Config,
    become_user: Option<Account>,
    log: &Log,
) -> io::Result<(Process, Vec<OwnedFd>)> {
    let (network_ends, lookup_ends) = worker_channels(config)?;
    let process = Process::spawn(plain_command("tlspool: lookup", LOOKUP_COMMAND), log)?;
    let start = LookupStart { config: config.clone(), become_user, log: log.clone() };
    let fds: Vec<BorrowedFd<'_>> = lookup_ends.iter().map(AsFd::as_fd).collect();
    process.channel.send(&start, &fds).await?;
    Ok((process, network_ends))
}
