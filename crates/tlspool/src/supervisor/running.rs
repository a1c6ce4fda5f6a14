//! The supervisor's loop: what happens, one event at a time, and what is done about it.

use super::children::{self, Process};
use super::control::{self, ANSWER_TIME, Answer, Asked, ControlSocket};
use super::helper::Helper;
use super::message::{ControlReply, ControlRequest, FromNetwork, ToNetwork};
use super::pidfile::PidFile;
use super::sockets::Place;
use super::successor::Successor;
use super::systemd::Notifier;
use super::{Accounts, SupervisorError, reload};
use crate::config::{Config, Log};
use crate::logging;
use crate::net::Listener;
use rustix::net::UCred;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The network process ends by itself when its `drain_timeout` is over; after this much more it is ended.
const DRAIN_GRACE: Duration = Duration::from_secs(5);
/// The signals of a daemon.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// TERM or INT.
    pub(super) async fn terminate(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

#[derive(Debug, PartialEq)]
pub(super) enum State {
    Serving,
    Draining { until: Instant },
}

/// Questions to the network process that wait for their answers.
#[derive(Default)]
pub(super) struct StatusRequests {
    last: u64,
    waiting: HashMap<u64, (Instant, Answer)>,
}

/// Configurations that were given to the network process.
#[derive(Debug, Default)]
pub(super) struct Reloads {
    latest: u64,
    /// When the answer to the latest is due.
    due: Option<Instant>,
}

impl Reloads {
    /// The number of the next one.
    fn begin(&mut self) -> u64 {
        self.latest += 1;
        self.due = Some(Instant::now() + ANSWER_TIME);
        self.latest
    }

    /// One is in force; whether that was the latest, and is news.
    fn end(&mut self, id: u64) -> bool {
        id == self.latest && self.due.take().is_some()
    }

    fn is_under_way(&self) -> bool {
        self.due.is_some()
    }

    fn latest(&self) -> u64 {
        self.latest
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// Everything the supervisor has.
pub(super) struct Supervisor {
    pub(super) config: Config,
    pub(super) config_file: Option<PathBuf>,
    pub(super) log: Log,
    pub(super) accounts: Accounts,
    pub(super) listeners: Vec<Listener>,
    /// The file of this program.
    pub(super) program: Option<PathBuf>,
    /// What goes from the file system with us.
    pub(super) owned: Vec<Place>,
    pub(super) from_systemd: bool,
    pub(super) pin_memory: OwnedFd,
    pub(super) network: Process,
    pub(super) keyd: Helper,
    /// Without a process if look-ups are not configured.
    pub(super) lookup: Helper,
    pub(super) control: Option<ControlSocket>,
    pub(super) pid_file: Option<PidFile>,
    pub(super) notifier: Notifier,
    pub(super) signals: Signals,
    pub(super) state: State,
    /// Who takes over.
    pub(super) successor: Option<Successor>,
    pub(super) reloads: Reloads,
    pub(super) status: StatusRequests,
    pub(super) started: SystemTime,
}

enum Event {
    Terminate,
    Reload,
    FromNetwork(FromNetwork),
    NetworkBroken(io::Error),
    NetworkEnded(io::Result<ExitStatus>),
    KeydEnded(io::Result<ExitStatus>),
    KeydDue,
    LookupEnded(io::Result<ExitStatus>),
    LookupDue,
    DrainOver,
    ReloadLate,
    Asked(Asked),
    ControlBroken(io::Error),
}

/// Waits for ever if there is nothing to wait for.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn control_error(
    control: Option<&ControlSocket>,
    requests: &mpsc::Sender<Asked>,
) -> io::Error {
    match control {
        Some(control) => match control.serve(requests).await {
            Ok(()) => io::ErrorKind::UnexpectedEof.into(),
            Err(e) => e,
        },
        None => std::future::pending().await,
    }
}

impl Supervisor {
    /// Serves until the end.
    pub(super) async fn serve(mut self) -> Result<(), SupervisorError> {
        let (requests, mut asked) = mpsc::channel(16);
        let mut network_speaks = true;
        loop {
            let event = self.next(&requests, &mut asked, network_speaks).await;
            match event {
                Event::Terminate => match self.state {
                    State::Serving => self.drain().await,
                    State::Draining { .. } => {
                        tracing::info!("ending at once");
                        self.network.life.kill();
                        return Ok(());
                    }
                },
                Event::Reload => self.reload().await,
                Event::FromNetwork(message) => self.hear(message).await,
                Event::NetworkBroken(error) => {
                    // Its end follows; a message that makes no sense does not get another chance.
                    if error.kind() != io::ErrorKind::UnexpectedEof {
                        tracing::error!(%error, "the network process talks nonsense and is ended");
                        self.network.life.kill();
                    }
                    network_speaks = false;
                }
                Event::NetworkEnded(status) => return self.network_ended(status),
                // Their channels are closed: the network process is at its end.
                Event::KeydEnded(Ok(status)) if self.is_draining() && status.success() => {
                    self.keyd.stop();
                }
                Event::LookupEnded(Ok(status)) if self.is_draining() && status.success() => {
                    self.lookup.stop();
                }
                Event::KeydEnded(status) => {
                    let again = self.keyd.died().as_millis();
                    let how = children::describe(status);
                    tracing::error!("the key process {how}; it is started again in {again} ms");
                }
                Event::KeydDue => self.restart_keyd().await,
                Event::LookupEnded(status) => {
                    let again = self.lookup.died().as_millis();
                    let how = children::describe(status);
                    tracing::error!("the look-up process {how}; it is started again in {again} ms");
                }
                Event::LookupDue => self.restart_lookup().await,
                Event::DrainOver => {
                    tracing::warn!("drain_timeout is over; the remaining sessions are cut");
                    self.network.life.kill();
                    return Ok(());
                }
                Event::ReloadLate => {
                    tracing::error!("the network process does not confirm the new configuration");
                    self.reloaded(self.reloads.latest());
                }
                Event::Asked(asked) => self.answer(asked).await,
                Event::ControlBroken(error) => {
                    tracing::error!(%error, "the control socket failed: no status, no -k");
                    self.control = None;
                }
            }
        }
    }

    async fn next(
        &mut self,
        requests: &mpsc::Sender<Asked>,
        asked: &mut mpsc::Receiver<Asked>,
        network_speaks: bool,
    ) -> Event {
        let drain_over = match self.state {
            State::Serving => None,
            State::Draining { until } => Some(until),
        };
        let Process { channel, life } = &mut self.network;
        tokio::select! {
            // The last words of a process are heard before its end.
            biased;
            Some(()) = self.signals.term.recv() => Event::Terminate,
            Some(()) = self.signals.int.recv() => Event::Terminate,
            Some(()) = self.signals.hup.recv() => Event::Reload,
            message = channel.recv::<FromNetwork>(), if network_speaks => match message {
                Ok(Some((message, _))) => Event::FromNetwork(message),
                Ok(None) => Event::NetworkBroken(io::ErrorKind::UnexpectedEof.into()),
                Err(e) => Event::NetworkBroken(e),
            },
            status = life.ended() => Event::NetworkEnded(status),
            () = at(self.keyd.due()) => Event::KeydDue,
            () = at(self.lookup.due()) => Event::LookupDue,
            status = self.keyd.ended() => Event::KeydEnded(status),
            status = self.lookup.ended() => Event::LookupEnded(status),
            () = at(drain_over) => Event::DrainOver,
            () = at(self.reloads.due()) => Event::ReloadLate,
            Some(asked) = asked.recv() => Event::Asked(asked),
            error = control_error(self.control.as_ref(), requests) => Event::ControlBroken(error),
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }

    /// TERM: nobody new gets in, sessions go on until they end.
    async fn drain(&mut self) {
        tracing::info!(limit = ?self.config.limits.drain_timeout, "draining: sessions may end");
        self.notifier.tell("STOPPING=1\nSTATUS=draining");
        self.remove_traces();
        self.listeners.clear();
        self.send(&ToNetwork::Drain, &[]).await;
        self.begin_to_end();
    }

    /// From now on the time runs. Another daemon may start: PID file and control socket are free.
    pub(super) fn begin_to_end(&mut self) {
        let until = Instant::now() + self.config.limits.drain_timeout + DRAIN_GRACE;
        self.state = State::Draining { until };
    }

    /// Takes what the file system shows of us away; the lock of the PID file last.
    pub(super) fn remove_traces(&mut self) {
        if self.successor.as_ref().is_some_and(Successor::is_alive) {
            tracing::info!("what the new daemon was given is left to it");
            return self.let_go();
        }
        for place in self.owned.drain(..) {
            place.remove();
        }
        if let Some(control) = self.control.take() {
            control.remove();
        }
        if let Some(pid_file) = self.pid_file.take() {
            pid_file.remove();
        }
    }

    /// What the file system shows of us is somebody else's.
    pub(super) fn let_go(&mut self) {
        self.owned.clear();
        self.control = None;
        self.pid_file = None;
    }

    fn network_ended(&mut self, status: io::Result<ExitStatus>) -> Result<(), SupervisorError> {
        if let (State::Draining { .. }, Ok(true)) =
            (&self.state, status.as_ref().map(ExitStatus::success))
        {
            tracing::info!("drained");
            return Ok(());
        }
        self.remove_traces();
        Err(SupervisorError::Network(children::describe(status)))
    }

    /// HUP.
    async fn reload(&mut self) {
        if self.is_draining() {
            return;
        }
        self.notifier.reloading();
        match Config::load(self.config_file.as_deref()) {
            Ok(new) => {
                let (new, kept) = reload::merge(&self.config, new);
                for key in kept {
                    tracing::warn!(key, "changed in the file, but only `tlspool -k` makes it so");
                }
                let keys_changed = new.keys != self.config.keys;
                self.config = new;
                logging::reload(&self.config.log);
                self.log.level = self.config.log.level;
                let config = Box::new(self.config.clone());
                let id = self.reloads.begin();
                self.send(&ToNetwork::Reload { id, config }, &[]).await;
                if keys_changed {
                    self.restart_keyd().await;
                }
                // It reads its files at its start only.
                self.restart_lookup().await;
                tracing::info!("configuration, certificates and trust anchors are read again");
                // systemd hears that when the workers go by it, see `reloaded`.
            }
            Err(error) => {
                tracing::error!("the old configuration stays: {error}");
                if !self.reloads.is_under_way() {
                    self.notifier.ready();
                }
            }
        }
    }

    /// The network process goes by the configuration with this number, or is not heard of.
    fn reloaded(&mut self, id: u64) {
        if self.reloads.end(id) && !self.is_draining() {
            self.notifier.ready();
        }
    }

    /// Starts a new key process and gives the network process its channels.
    async fn restart_keyd(&mut self) {
        self.keyd.stop();
        let account = self.accounts.keyd.clone();
        let started =
            children::start_keyd(&self.config, &self.pin_memory, account, &self.log).await;
        match started {
            Ok((process, channels)) => {
                self.keyd.next(process);
                let fds: Vec<_> = channels.iter().map(AsFd::as_fd).collect();
                self.send(&ToNetwork::KeyChannels, &fds).await;
            }
            Err(error) => {
                self.keyd.died();
                tracing::error!(%error, "cannot start the key process; trying again");
            }
        }
    }

    /// Starts a new look-up process, if the configuration wants one, and gives the network process its
    /// channels.
    async fn restart_lookup(&mut self) {
        let there_was_one = self.lookup.pid().is_some() || self.lookup.due().is_some();
        self.lookup.stop();
        if !self.config.looks_up() {
            if there_was_one {
                self.send(&ToNetwork::LookupChannels, &[]).await;
            }
            return;
        }
        // The section may be new, and with it the user.
        let started = match super::lookup_account(&self.config) {
            Ok(account) => children::start_lookup(&self.config, account, &self.log).await,
            Err(error) => Err(io::Error::other(error)),
        };
        match started {
            Ok((process, channels)) => {
                self.lookup.next(process);
                let fds: Vec<_> = channels.iter().map(AsFd::as_fd).collect();
                self.send(&ToNetwork::LookupChannels, &fds).await;
            }
            Err(error) => {
                self.lookup.died();
                tracing::error!(%error, "cannot start the look-up process; trying again");
            }
        }
    }

    pub(super) async fn send(&self, message: &ToNetwork, fds: &[std::os::fd::BorrowedFd<'_>]) {
        let sent = tokio::time::timeout(ANSWER_TIME, self.network.channel.send(message, fds)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::error!("the network process does not listen to the supervisor");
        }
    }

    async fn hear(&mut self, message: FromNetwork) {
        match message {
            FromNetwork::Status { id, status } => {
                let now = Instant::now();
                self.status.waiting.retain(|_, (asked, _)| now - *asked < ANSWER_TIME);
                if let Some((_, answer)) = self.status.waiting.remove(&id) {
                    let status = self.add_own_status(status);
                    let _ = answer.send((ControlReply::Status { status }, Vec::new()));
                }
            }
            FromNetwork::WhichProgram { id, pid, uid } => {
                self.send(&ToNetwork::Program { id, program: program_of(pid, uid) }, &[]).await;
            }
            FromNetwork::PinWaiting { token } => {
                tracing::warn!(token, "a token waits for its PIN: run `tlspool -p`");
            }
            FromNetwork::Reloaded { id } => self.reloaded(id),
            // What follows is the end of the process.
            FromNetwork::Drained | FromNetwork::Ready => {}
            FromNetwork::Failed { problem } => {
                tracing::error!("the network process fails: {problem}");
            }
        }
    }

    async fn answer(&mut self, asked: Asked) {
        let Asked { request, fds, peer, connection, answer } = asked;
        if let Err(problem) = self.may_ask(&peer, &request) {
            tracing::error!("the control socket was asked for something by who may not: {problem}");
            let _ = answer.send((ControlReply::Refused { problem }, Vec::new()));
            return;
        }
        let reply = match request {
            ControlRequest::Status => {
                self.status.last += 1;
                let id = self.status.last;
                self.status.waiting.insert(id, (Instant::now(), answer));
                return self.send(&ToNetwork::Status { id }, &[]).await;
            }
            ControlRequest::TakeOver { pid } => self.take_over(pid, connection),
            ControlRequest::Commit => (self.commit(&connection).await, Vec::new()),
            ControlRequest::Replace { program, config } => {
                (self.replace(&program, config.as_deref(), fds), Vec::new())
            }
        };
        let _ = answer.send(reply);
    }

    /// Our children may ask nothing, and who is more confined than we are, such as those of a daemon before us, no more
    /// than how things are.
    fn may_ask(&self, peer: &UCred, request: &ControlRequest) -> Result<(), String> {
        let pid = peer.pid.as_raw_nonzero().get();
        let children = [Some(self.network.life.pid()), self.keyd.pid(), self.lookup.pid()];
        if children.into_iter().flatten().any(|child| i64::from(child) == i64::from(pid)) {
            return Err(format!("process {pid} is a child of the daemon"));
        }
        match request {
            ControlRequest::Status => Ok(()),
            _ => control::may_succeed(peer),
        }
    }

    fn add_own_status(&self, mut status: serde_json::Value) -> serde_json::Value {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let own = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state": if self.state == State::Serving { "serving" } else { "draining" },
            "started": started,
            "pid": std::process::id(),
            "successor_pid": self.successor.as_ref().and_then(Successor::pid),
            "network_pid": self.network.life.pid(),
            "key_process_pid": self.keyd.pid(),
            "key_process_restarts": self.keyd.restarts(),
            "lookup_process_pid": self.lookup.pid(),
            "lookup_process_restarts": self.lookup.restarts(),
            "sockets": self.listeners.iter().map(|l| l.path.display().to_string()).collect::<Vec<_>>(),
            "log_lines_dropped": logging::dropped_lines(),
        });
        match &mut status {
            serde_json::Value::Object(map) => {
                map.insert("daemon".into(), own);
                status
            }
            other => serde_json::json!({ "daemon": own, "network": other }),
        }
    }
}

/// The file of the program that a process runs, if it is still a process of that user. (One that the kernel
/// protects, such as a set-user-ID program, belongs to root here, and has no answer.)
fn program_of(pid: i32, uid: u32) -> Option<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let program = std::fs::read_link(process.join("exe")).ok()?;
    let owner = std::fs::metadata(process).ok()?.uid();
    (owner == uid && program.to_str().is_some()).then_some(program)
}
