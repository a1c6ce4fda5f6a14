//! The network process: serves the socket protocol and speaks TLS with peers.
//!
//! Started by [`crate::child`] with everything it needs as open descriptors, already confined. It holds
//! no private key and no PIN and opens no key file; signatures come over `key_channels`.
//!
//! ```text
//! front (this thread): accepts programs, talks to the supervisor
//!   └─ worker 0..=n: connection ─► starttls ─► handshake (host answers) ─► relay
//! ```

pub(crate) mod authorization;
mod chooser;
mod client;
mod connection;
mod database;
mod disclosure;
pub(crate) mod explain;
mod fairness;
mod fingerprint;
mod foresight;
mod host;
mod identities;
mod info;
mod keys;
mod limits;
mod lookups;
mod on_the_fly;
mod pace;
mod peer;
mod pin;
mod placement;
mod policies;
mod privacy;
mod program;
mod registry;
mod settings;
mod shared;
mod starttls;
mod status;
pub(crate) mod stranger;
mod trust;
mod turns;
mod worker;

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::{SocketFlags, accept_with};
use rustix::process::{Resource, getrlimit};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use crate::config::Config;
use crate::supervisor::message::{AsyncChannel, FromNetwork, ToNetwork};
use crate::watched::Watched;
use connection::Arrival;
use limits::{Exceeded, Totals};
use peer::Peer;
use program::{ProgramDesk, Question};
use settings::Settings;
use shared::Shared;
use worker::{Start, Task, WorkerHandle};

/// What sessions get to end in when they are cut; less than the supervisor waits besides.
const CUT_TIME: std::time::Duration = std::time::Duration::from_secs(3);

/// So many descriptors have room from the start; a session has two. The table takes half a megabyte of the kernel's memory.
const DESCRIPTORS: RawFd = 1 << 16;

/// What the supervisor gives the network process.
pub struct NetworkBoot {
    /// The whole configuration.
    pub config: Config,
    /// Sockets that listen; the order is that of `config.sockets`, then what systemd passed besides.
    pub listeners: Vec<Listener>,
    /// Channel to the supervisor, for [`crate::supervisor::message::Channel`]. Its end means that the
    /// supervisor is gone: then drain as if told to.
    pub supervisor: OwnedFd,
    /// One SOCK_SEQPACKET channel to the key process for each worker, the express worker included.
    pub key_channels: Vec<OwnedFd>,
}

/// A UNIX stream socket that listens, non-blocking.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub fd: OwnedFd,
    /// Where it stands.
    pub path: PathBuf,
}

/// Has the kernel make this process's table of descriptors as large as many sessions need.
///
/// It grows by itself, but in a process with several threads whoever opens the descriptor that is too many waits until
/// all processors have been elsewhere, and so does everybody who opens another meanwhile: tens of milliseconds on a busy
/// machine, and again each time that their number has doubled.
fn make_room_for_descriptors(any: &OwnedFd) {
    let limit = getrlimit(Resource::Nofile).current.and_then(|limit| RawFd::try_from(limit).ok());
    let last = limit.map_or(DESCRIPTORS, |limit| limit.min(DESCRIPTORS)) - 1;
    // The table has room for a descriptor's number from the first time that there is one of it.
    if let Err(error) = fcntl_dupfd_cloexec(any, last) {
        tracing::debug!(last, "no room for descriptors ahead of time: {error}");
    }
}

/// Runs the network process until it has drained.
pub fn run(boot: NetworkBoot) -> ExitCode {
    make_room_for_descriptors(&boot.supervisor);
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    match runtime {
        Ok(runtime) => runtime.block_on(front(boot)),
        Err(error) => {
            tracing::error!("the network process cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn front(boot: NetworkBoot) -> ExitCode {
    let channel = match AsyncChannel::new(boot.supervisor) {
        Ok(channel) => Rc::new(channel),
        Err(error) => {
            tracing::error!("the supervisor cannot be reached: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (unattended, waiting) = mpsc::unbounded_channel();
    let (programs, questions) = ProgramDesk::new();
    let shared = match start_workers(boot.config, boot.key_channels, unattended, programs) {
        Ok(shared) => shared,
        Err(problem) => {
            tracing::error!("the network process cannot start: {problem}");
            // If the supervisor is gone, the log line has to do.
            let _ = channel.send(&FromNetwork::Failed { problem }, &[]).await;
            return ExitCode::FAILURE;
        }
    };
    for listener in boot.listeners {
        match Watched::new(listener.fd) {
            Ok(socket) => {
                tokio::task::spawn_local(accept(shared.clone(), socket, listener.path));
            }
            Err(error) => {
                tracing::error!("{}: cannot be watched: {error}", listener.path.display());
            }
        }
    }
    tokio::task::spawn_local(report_unattended(channel.clone(), waiting));
    tokio::task::spawn_local(ask_programs(channel.clone(), questions));
    if channel.send(&FromNetwork::Ready, &[]).await.is_err() {
        return ExitCode::FAILURE;
    }
    obey(&channel, &shared).await;
    ExitCode::SUCCESS
}

fn start_workers(
    config: Config,
    key_channels: Vec<OwnedFd>,
    unattended: mpsc::UnboundedSender<String>,
    programs: ProgramDesk,
) -> Result<Arc<Shared>, String> {
    let settings = Settings::new(config, None)?;
    if key_channels.len() < 2 {
        return Err("the supervisor passed too few channels to the key process".to_owned());
    }
    let (mut handles, mut starts) = (Vec::new(), Vec::new());
    for channel in key_channels {
        let (handle, tasks, seen) = WorkerHandle::new();
        handles.push(handle);
        starts.push((channel, tasks, seen));
    }
    let shared = Arc::new(Shared::new(settings, handles, unattended, programs));
    for (index, (key_channel, tasks, seen)) in starts.into_iter().enumerate() {
        let start = Start { index, shared: shared.clone(), key_channel, tasks, seen };
        let named = thread::Builder::new().name(format!("worker {index}"));
        named
            .spawn(move || {
                if let Err(error) = worker::run(start) {
                    tracing::error!(index, "a worker has ended: {error}");
                }
            })
            .map_err(|error| format!("no thread for a worker: {error}"))?;
    }
    Ok(shared)
}

/// Accepts programs until the daemon drains.
async fn accept(shared: Arc<Shared>, listener: Watched, path: PathBuf) {
    loop {
        let ready = tokio::select! {
            () = shared.drain.requested() => return,
            ready = listener.readable() => ready,
        };
        let Ok(mut ready) = ready else { return };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match accept_with(listener.as_fd(), flags) {
            Ok(socket) => take_in(&shared, socket),
            Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
            Err(rustix::io::Errno::CONNABORTED | rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!("{}: no program can connect: {error}", path.display());
                // Out of descriptors, most likely: wait until something has ended.
                let pause = tokio::time::sleep(std::time::Duration::from_millis(100));
                pause.await;
            }
        }
    }
}

fn take_in(shared: &Shared, socket: OwnedFd) {
    let peer = match Peer::of(socket.as_fd()) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!("a program left before it was known: {error}");
            return;
        }
    };
    let limits = &shared.settings().config.limits;
    match shared.clients.take(peer.uid, limits.clients, limits.clients_per_user) {
        Ok(counted) => {
            let arrival = Arrival::new(shared, socket, peer, counted);
            shared.workers[placement::express(shared.workers.len())]
                .give(Task::Client(Box::new(arrival)));
        }
        Err(exceeded) => {
            Totals::count(&shared.totals.refused);
            let (limit, n) = match exceeded {
                Exceeded::All(n) => ("limits.clients", n),
                Exceeded::User(n) => ("limits.clients_per_user", n),
            };
            tracing::warn!(client = %peer, "not served: {limit} is {n}");
            let text = format!("the pool serves {n} connections already; see {limit}");
            let packet =
                tlspool_wire::Packet::error(0, tlspool_wire::PoolError::LimitReached, &text);
            let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
            // A program that cannot even be told sees the connection close.
            let _ = rustix::net::send(&socket, &packet.encode(), flags);
        }
    }
}

/// Tells the supervisor of tokens that wait while nobody enters PINs.
async fn report_unattended(channel: Rc<AsyncChannel>, mut tokens: mpsc::UnboundedReceiver<String>) {
    while let Some(token) = tokens.recv().await {
        if channel.send(&FromNetwork::PinWaiting { token }, &[]).await.is_err() {
            return;
        }
    }
}

/// Asks the supervisor which programs have connected.
async fn ask_programs(channel: Rc<AsyncChannel>, mut questions: mpsc::UnboundedReceiver<Question>) {
    while let Some(Question { id, pid, uid }) = questions.recv().await {
        if channel.send(&FromNetwork::WhichProgram { id, pid, uid }, &[]).await.is_err() {
            return;
        }
    }
}

/// Does what the supervisor says, until all is drained.
async fn obey(channel: &Rc<AsyncChannel>, shared: &Arc<Shared>) {
    let mut drain_ends = None;
    let mut orphaned = false;
    let mut cut = false;
    loop {
        if drain_ends.is_some() && shared.is_drained() {
            break;
        }
        let out_of_time = async {
            match drain_ends {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let message = tokio::select! {
            message = channel.recv::<ToNetwork>(), if !orphaned => message,
            () = shared.one_ended() => continue,
            () = out_of_time => {
                if cut {
                    break;
                }
                tracing::warn!(sessions = shared.sessions.in_use(), "drain_timeout has passed");
                // Cut sessions must not look like sessions that the peer has ended.
                cut = true;
                for worker in &shared.workers {
                    worker.give(Task::Cut);
                }
                drain_ends = Some(tokio::time::Instant::now() + CUT_TIME);
                continue;
            }
        };
        let drain = |drain_ends: &mut Option<tokio::time::Instant>| {
            shared.begin_draining();
            shared.pins.drain();
            let limit = shared.settings().config.limits.drain_timeout;
            drain_ends.get_or_insert_with(|| tokio::time::Instant::now() + limit);
        };
        match message {
            Ok(Some((ToNetwork::StopAccepting | ToNetwork::Drain, _))) => drain(&mut drain_ends),
            Ok(Some((ToNetwork::Reload { id, config }, _))) => {
                let heard = reload(shared, *config);
                let channel = channel.clone();
                tokio::task::spawn_local(async move {
                    for one in heard {
                        // A worker that has ended goes by nothing.
                        let _ = one.await;
                    }
                    let _ = channel.send(&FromNetwork::Reloaded { id }, &[]).await;
                });
            }
            Ok(Some((ToNetwork::KeyChannels, channels))) => {
                for (worker, channel) in shared.workers.iter().zip(channels) {
                    worker.give(Task::KeyChannel(channel));
                }
            }
            Ok(Some((ToNetwork::LookupChannels, channels))) => {
                let mut channels = channels.into_iter();
                for worker in &shared.workers {
                    worker.give(Task::LookupChannel(channels.next()));
                }
            }
            Ok(Some((ToNetwork::Status { id }, _))) => {
                let status = status::status(shared).await;
                // If the supervisor is gone, the next turn sees it.
                let _ = channel.send(&FromNetwork::Status { id, status }, &[]).await;
            }
            Ok(Some((ToNetwork::Program { id, program }, _))) => {
                shared.programs.answer(id, program);
            }
            Ok(None) | Err(_) => {
                tracing::error!("the supervisor is gone; draining");
                orphaned = true;
                drain(&mut drain_ends);
            }
        }
    }
    // If the supervisor is gone, nobody needs to know.
    let _ = channel.send(&FromNetwork::Drained, &[]).await;
}

/// Puts a new configuration in force; returns what the workers answer to when they go by it.
fn reload(shared: &Arc<Shared>, config: Config) -> Vec<oneshot::Receiver<()>> {
    match Settings::new(config, Some(&shared.settings())) {
        Ok(settings) => {
            shared.replace_settings(settings);
            let tell = |worker: &WorkerHandle| {
                let (done, heard) = oneshot::channel();
                worker.give(Task::Reload(done));
                heard
            };
            shared.workers.iter().map(tell).collect()
        }
        Err(problem) => {
            tracing::error!("the configuration stays as it was: {problem}");
            Vec::new()
        }
    }
}
