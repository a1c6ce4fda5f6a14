//! `-k`: taking the place of the running daemon so that nobody notices.
//!
//! ```text
//!   new                                   old
//!    | TakeOver ────────────────────────►  | serves on
//!    | ◄──── PID file, PINs, listeners ─── | serves on
//!    | starts its children                 | serves on     (a new one that fails just ends)
//!    | serves as well                      | serves on
//!    | Commit ─────────────────────────►   | stops accepting
//!    | ◄───────────────────────── Done ─── | drains, ends
//! ```
//! Both accept from the same sockets for a moment, so no connect fails. One successor at a time is given anything. If the old
//! daemon ends or is told to end before Commit, it leaves to its successor what it has handed over.

use super::control::{ControlClient, ControlError};
use super::message::{ControlReply, ControlRequest};
use super::pidfile::{PidFile, PidFileError};
use super::sockets::Place;
use crate::config::Config;
use crate::net::Listener;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a daemon that does not answer gets to give up its sockets after TERM.
const TERM_TIME: Duration = Duration::from_secs(10);

/// What the old daemon hands over.
pub struct Inheritance {
    /// The PID file, locked.
    pub pid_file: PidFile,
    /// The old PIN memory.
    pub pin_memory: OwnedFd,
    /// The sockets.
    pub listeners: Vec<Listener>,
    /// The sockets are systemd's.
    pub from_systemd: bool,
    /// Where systemd hears about the service.
    pub notify_socket: Option<String>,
    /// The old daemon, which waits for [`Self::commit`].
    old: ControlClient,
    /// Its PID.
    pub old_pid: i32,
    /// Where its sockets were.
    places: Vec<Place>,
}

/// How we come to a locked PID file.
pub enum Start {
    /// Nobody was there.
    Alone(PidFile),
    /// Another daemon hands over.
    From(Box<Inheritance>),
}

/// Locks the PID file; with `replace` from whoever has it.
pub fn begin(config: &Config, replace: bool) -> Result<Start, PidFileError> {
    let path = config.pid_file();
    match PidFile::lock(&path) {
        Err(PidFileError::Running { pid }) if replace => match inherit(config) {
            Ok(inheritance) => Ok(Start::From(Box::new(inheritance))),
            Err(ControlError::Refused(problem)) => Err(PidFileError::Refused { problem }),
            Err(problem) => {
                tracing::warn!(
                    %problem,
                    old = pid,
                    "the old daemon hands nothing over: it is sent TERM and its sockets are made anew, \
                     connects fail until then"
                );
                terminate(pid, &path).map(Start::Alone)
            }
        },
        locked => locked.map(Start::Alone),
    }
}

fn inherit(config: &Config) -> Result<Inheritance, ControlError> {
    let path = config.control_socket();
    let mut old = ControlClient::connect(&path)?;
    let request = ControlRequest::TakeOver { pid: rustix::process::getpid().as_raw_pid() };
    let nonsense = |what: &str| ControlError::Mute {
        path: path.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, what),
    };
    let (reply, fds) = old.ask(&request)?;
    let ControlReply::Handover { listeners: paths, pid, from_systemd, notify_socket } = reply
    else {
        return Err(nonsense("not an answer to the question"));
    };
    let mut fds = fds.into_iter();
    let (Some(pid_file), Some(pin_memory)) = (fds.next(), fds.next()) else {
        return Err(nonsense("descriptors are missing"));
    };
    if fds.len() != paths.len() {
        return Err(nonsense("descriptors and paths do not match"));
    }
    let places = paths.iter().map(|path| Place::of(path)).collect();
    let listeners = paths.into_iter().zip(fds).map(|(path, fd)| Listener { fd, path }).collect();
    let pid_file = PidFile::inherited(pid_file, &config.pid_file());
    Ok(Inheritance {
        pid_file,
        pin_memory,
        listeners,
        from_systemd,
        notify_socket,
        old,
        old_pid: pid,
        places,
    })
}

impl Inheritance {
    /// We serve; the old daemon may stop accepting. The second part of the answer says why it did not confirm. Then it
    /// may be gone, which is as well; but if it has taken what it handed over with it, that is an error.
    pub fn commit(mut self) -> Result<(PidFile, Option<ControlError>), PidFileError> {
        let Err(problem) = self.old.ask(&ControlRequest::Commit) else {
            return Ok((self.pid_file, None));
        };
        let lost = self.places.iter().find(|place| !place.is_there()).map(Place::path);
        let lost = lost.or_else(|| (!self.pid_file.is_there()).then_some(self.pid_file.path()));
        match lost {
            None => Ok((self.pid_file, Some(problem))),
            Some(lost) => Err(PidFileError::Lost { path: lost.to_owned(), problem }),
        }
    }

    /// Whether the old daemon belongs to a unit of systemd and we do not, and the advice then.
    pub fn leaves_unit(&self) -> Option<String> {
        let same = cgroup_of("self") == cgroup_of(&self.old_pid.to_string());
        (self.notify_socket.is_some() && !same).then(|| {
            "the daemon before belongs to a unit of systemd, and this one is outside of it: without its \
             confinement, its limits and its restarts. `tlspool -k` without -f, of the program that the unit starts, \
             stays inside; `systemctl restart` gets back there, and ends sessions"
                .to_owned()
        })
    }
}

/// The control group of a process, as the kernel writes it.
fn cgroup_of(process: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()
}

/// Sends TERM to a daemon that does not talk, and waits until it unlocks the PID file.
fn terminate(
    pid: Option<i32>,
    path: &crate::config::AbsolutePath,
) -> Result<PidFile, PidFileError> {
    let running = || PidFileError::Running { pid };
    let old = pid.and_then(Pid::from_raw).ok_or_else(running)?;
    let Ok(handle) = pidfd_open(old, PidfdFlags::empty()) else {
        return PidFile::lock(path);
    };
    pidfd_send_signal(&handle, Signal::TERM)
        .map_err(|e| PidFileError::Unusable { path: path.clone(), source: e.into() })?;
    let end = Instant::now() + TERM_TIME;
    loop {
        match PidFile::lock(path) {
            Err(PidFileError::Running { .. }) if Instant::now() < end => {
                // The lock is given up before the process ends, and a lock cannot be polled.
                let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                let mut fds = [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)];
                let _ = rustix::event::poll(&mut fds, Some(&moment));
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AbsolutePath;

    #[test]
    fn nobody_is_sent_term_for_what_stood_in_the_file_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::defaults();
        config.runtime_dir = AbsolutePath::new(dir.path()).unwrap();
        let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        std::fs::write(config.pid_file(), format!("{}\n", stranger.id())).unwrap();
        // A daemon that has begun to start: it holds the lock, and has neither written its PID nor a control socket.
        let starting = PidFile::lock(&config.pid_file()).unwrap();
        let refused = begin(&config, true).err();
        assert!(matches!(refused, Some(PidFileError::Running { pid: None })), "{refused:?}");
        drop(starting);
        assert!(stranger.try_wait().unwrap().is_none(), "it was ended");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
