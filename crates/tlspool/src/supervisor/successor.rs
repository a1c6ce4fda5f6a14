//! What the supervisor does for the daemon that takes its place (`-k`): it hands over, steps down, and starts it where that
//! is to stay within the unit of systemd. The other side is in [`super::takeover`].

use super::children;
use super::control::Connection;
use super::message::{ControlReply, ToNetwork};
use super::running::{State, Supervisor};
use crate::cli::SUCCESSOR_COMMAND;
use crate::watched::Watched;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Who has been given what a daemon needs, and serves soon.
pub(super) struct Successor {
    pid: i32,
    /// Open until it serves or fails.
    connection: Connection,
}

impl Successor {
    /// Whether it may yet serve.
    pub(super) fn is_alive(&self) -> bool {
        self.connection.is_open()
    }

    /// Its PID, while it may yet serve.
    pub(super) fn pid(&self) -> Option<i32> {
        self.is_alive().then_some(self.pid)
    }
}

impl Supervisor {
    /// A new daemon asks for everything; only one at a time gets it.
    pub(super) fn take_over(
        &mut self,
        pid: i32,
        connection: Connection,
    ) -> (ControlReply, Vec<OwnedFd>) {
        let other = self.successor.as_ref().filter(|successor| successor.is_alive());
        if let Some(Successor { pid, .. }) = other.filter(|other| !other.connection.is(&connection))
        {
            return refused(format!("another daemon, with PID {pid}, takes over already"));
        }
        tracing::info!(pid, "a new daemon takes over");
        match self.hand_over() {
            Ok(reply) => {
                self.successor = Some(Successor { pid, connection });
                reply
            }
            Err(error) => refused(format!("nothing to hand over: {error}")),
        }
    }

    /// Copies of all that the successor needs.
    fn hand_over(&self) -> io::Result<(ControlReply, Vec<OwnedFd>)> {
        let pid_file = self.pid_file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut fds = vec![pid_file.as_fd().try_clone_to_owned()?, self.pin_memory.try_clone()?];
        for listener in &self.listeners {
            fds.push(listener.fd.try_clone()?);
        }
        let listeners = self.listeners.iter().map(|l| l.path.clone()).collect();
        let pid = rustix::process::getpid().as_raw_pid();
        let (from_systemd, notify_socket) = (self.from_systemd, self.notifier.name());
        Ok((ControlReply::Handover { listeners, pid, from_systemd, notify_socket }, fds))
    }

    /// The successor serves. If we were told to end meanwhile, it has what we left.
    pub(super) async fn commit(&mut self, connection: &Connection) -> ControlReply {
        let Some(pid) =
            self.successor.as_ref().filter(|s| s.connection.is(connection)).map(|s| s.pid)
        else {
            return refused("nothing was handed over to this one".into()).0;
        };
        if self.state == State::Serving {
            self.step_down(pid).await;
        }
        ControlReply::Done
    }

    /// Sockets, PID file and control socket are the successor's now.
    async fn step_down(&mut self, successor: i32) {
        tracing::info!("the new daemon serves; this one drains");
        self.notifier.tell(&format!("MAINPID={successor}"));
        self.send(&ToNetwork::StopAccepting, &[]).await;
        self.listeners.clear();
        self.let_go();
        self.begin_to_end();
    }

    /// Starts the successor, in the surroundings of our unit.
    pub(super) fn replace(
        &self,
        asker: &Path,
        config: Option<&Path>,
        mut fds: Vec<OwnedFd>,
    ) -> ControlReply {
        if self.notifier.name().is_none() {
            return ControlReply::NoUnit;
        }
        let (Some(front), true) = (fds.pop(), fds.is_empty()) else {
            return refused("one descriptor must come along".into()).0;
        };
        let program = match &self.program {
            Some(program) if program == asker => program,
            Some(program) => {
                let program = program.display();
                return refused(format!(
                    "the unit's program is {program}, not {}",
                    asker.display()
                ))
                .0;
            }
            None => return refused("the unit's program is not known".into()).0,
        };
        if self.is_draining() {
            return refused("it drains already".into()).0;
        }
        match start(program, config, front) {
            Ok(()) => {
                tracing::info!(program = %program.display(), "starting the new daemon");
                ControlReply::Done
            }
            Err(error) => refused(format!("cannot start {}: {error}", program.display())).0,
        }
    }
}

fn refused(problem: String) -> (ControlReply, Vec<OwnedFd>) {
    (ControlReply::Refused { problem }, Vec::new())
}

/// Starts a process that starts the new daemon and ends at once, so that the daemon is nobody's child but the first
/// process's, which for systemd is systemd.
fn start(program: &Path, config: Option<&Path>, front: OwnedFd) -> io::Result<()> {
    let mut command = Command::new(program);
    command.arg0("tlspool");
    if let Some(file) = config {
        command.arg("-c").arg(file);
    }
    command.args(["-k", SUCCESSOR_COMMAND]).stdin(front).stdout(Stdio::null());
    for name in children::OF_SYSTEMD_SOCKETS {
        command.env_remove(name);
    }
    let mut child = command.spawn()?;
    let life = Watched::as_is(pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?)?;
    tokio::spawn(async move {
        let _ = life.readable().await;
        let _ = child.wait();
    });
    Ok(())
}
