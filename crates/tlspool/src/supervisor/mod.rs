//! The supervisor: the process that the others are children of.
//!
//! It reads the configuration, binds the sockets, owns the PID file, hears signals, hands over to its
//! successor (`-k`) and starts a key or look-up process again that died. It talks to no program and to no peer, and
//! holds neither keys nor PINs. One thread.
//!
//! ```text
//!             ┌────────── Failed, ended ──────────► end, exit status 1
//!   starting ─┴─ Ready ─► serving ─── TERM ───────► draining ── drained, time over, TERM ──► end
//!                          │  ▲  └── Commit by -k ─► draining (sockets and files are the successor's)
//!                          └──┘ HUP, key or look-up process restarted
//! ```

pub mod children;
pub mod control;
mod helper;
pub mod message;
pub mod pidfile;
pub mod pin_memory;
mod reload;
mod running;
pub mod sockets;
mod successor;
pub mod systemd;
pub mod takeover;

use crate::config::{Config, ConfigError, Log, LogTarget};
use crate::confine;
use crate::logging;
use crate::net::Listener;
use crate::users::{self, UserError};
use children::Process;
use control::ControlSocket;
use helper::Helper;
use message::{Account, Channel, FromNetwork, ToFront, ToNetwork};
use pidfile::PidFileError;
use running::Supervisor;
use sockets::{FormerAccess, Place, SocketError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use systemd::Notifier;
use takeover::{Inheritance, Start};

/// How long the network process may take to be ready.
const START_TIME: Duration = Duration::from_mins(1);

/// How the daemon was called.
pub struct Options {
    /// The configuration file; the default one if `None`.
    pub config_file: Option<PathBuf>,
    /// Replace a running daemon (`-k`).
    pub replace: bool,
    /// Where to tell that the start is over; in the foreground nobody waits.
    pub front: Option<Channel>,
}

/// Why the daemon does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The PID file, most often of a daemon that runs.
    #[error(transparent)]
    PidFile(#[from] PidFileError),
    /// A user or group.
    #[error(transparent)]
    User(#[from] UserError),
    /// A listening socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The log.
    #[error(transparent)]
    Log(#[from] logging::LogError),
    /// The runtime folder belongs to somebody else.
    #[error(
        "{0} belongs to another user or can be written to by others, who could put themselves between; \
         remove it, or set runtime_dir to another folder"
    )]
    UnsafeFolder(PathBuf),
    /// The network process did not come up, or ended.
    #[error("the network process {0}")]
    Network(String),
    /// The start was interrupted by a signal.
    #[error("interrupted by a signal while starting")]
    Interrupted,
    /// The system refused.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Why.
        source: io::Error,
    },
}

/// For `map_err`: what was tried.
pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> SupervisorError {
    let what = what.into();
    move |source| SupervisorError::System { what, source }
}

/// Runs the daemon until its end.
pub fn run(mut options: Options) -> ExitCode {
    // Before the file is replaced by an upgrade; the successor is started from the same place.
    let program = std::env::current_exe().ok();
    let foreground = options.front.is_none();
    let mut front = options.front.take();
    let end = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))
        .and_then(|runtime| runtime.block_on(daemon(&options, foreground, &mut front, program)));
    let code = match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if let Some(front) = front {
                let _ = front.send(&ToFront::Failed { problem: error.to_string() }, &[]);
            }
            if foreground {
                eprintln!("tlspool: {error}");
            }
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    };
    logging::flush();
    code
}

/// The whole life. `front` is taken when the start is over.
async fn daemon(
    options: &Options,
    foreground: bool,
    front: &mut Option<Channel>,
    program: Option<PathBuf>,
) -> Result<(), SupervisorError> {
    let activated =
        systemd::listen_fds().map_err(system("take the sockets that systemd passes"))?;
    let mut notifier = Notifier::from_env();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let mut config = Config::load(options.config_file.as_deref())?;
    config.fix_workers();
    let target = logging::resolve(config.log.target, foreground);
    let log = Log { target, level: config.log.level };
    logging::init(&log, "tlspool")?;
    raise_descriptor_limit();
    let accounts = Accounts::find(&config)?;
    make_runtime_folder(&config)?;

    let (pid_file, inheritance) = match takeover::begin(&config, options.replace)? {
        Start::Alone(pid_file) => (Some(pid_file), None),
        Start::From(inheritance) => (None, Some(*inheritance)),
    };
    make_database_folder(&config, accounts.network.as_ref())?;
    let (inherited, pin_memory, inheritance) = match inheritance {
        Some(mut from) => {
            // Also if PINs are to be forgotten: it says what tokens have refused.
            let memory = pin_memory::copy_of(from.pin_memory.as_fd());
            (std::mem::take(&mut from.listeners), memory, Some(from))
        }
        None => (Vec::new(), pin_memory::create(), None),
    };
    let pin_memory = pin_memory.map_err(system("make memory for PINs"))?;
    let mut from_systemd = !activated.is_empty();
    let inherited = if from_systemd { activated } else { inherited };
    if let Some(from) = &inheritance {
        if let Some(text) = from.leaves_unit() {
            tracing::warn!("{text}");
            match front {
                Some(front) => drop(front.send(&ToFront::Note { text }, &[])),
                None => eprintln!("tlspool: {text}"),
            }
        }
        from_systemd |= from.from_systemd;
        if let (None, Some(name)) = (notifier.name(), &from.notify_socket) {
            notifier = Notifier::at(name.into());
        }
    }
    sockets::check_owners(&config)?;
    for (anchor, folder) in confine::open_homes(&config) {
        tracing::warn!(
            anchor = %anchor.display(), folder = %folder.display(),
            "the network process can read all of a home because of this anchor or revocation list: put it in a folder of \
             its own"
        );
    }
    let before: Vec<PathBuf> = inherited.iter().map(|listener| listener.path.clone()).collect();
    let (listeners, unwanted) = sockets::listeners(&config, inherited, from_systemd)?;
    // What the file system shows of us goes again, unless it is systemd's or another daemon's.
    let own = listeners.iter().filter(|l| !from_systemd && !before.contains(&l.path));
    let owned = own.map(|listener| Place::of(&listener.path)).collect();

    let signals = running::Signals::new().map_err(system("listen for signals"))?;
    let (keyd, key_channels) =
        children::start_keyd(&config, &pin_memory, accounts.keyd.clone(), &log)
            .await
            .map_err(system("start the key process"))?;
    let network =
        children::start_network(&config, &listeners, &key_channels, accounts.network.clone(), &log)
            .await
            .map_err(system("start the network process"))?;
    drop(key_channels);
    let lookup = start_lookup(&config, &network, &accounts, &log).await?;
    let mut supervisor = Supervisor {
        config_file: options.config_file.clone(),
        log,
        accounts,
        program,
        owned,
        from_systemd,
        listeners,
        pin_memory,
        network,
        keyd: Helper::first(keyd),
        lookup,
        control: None,
        pid_file,
        notifier,
        signals,
        state: running::State::Serving,
        successor: None,
        reloads: running::Reloads::default(),
        status: running::StatusRequests::default(),
        started: std::time::SystemTime::now(),
        config,
    };
    let begun = match ready(&mut supervisor.network, &mut supervisor.signals).await {
        Ok(()) => supervisor.take_office(inheritance, unwanted),
        Err(error) => Err(error),
    };
    if let Err(error) = begun {
        // A successor that fails leaves the old daemon what is the old daemon's.
        supervisor.remove_traces();
        return Err(error);
    }
    if let Some(front) = front.take() {
        let _ = front.send(&ToFront::Ready, &[]);
        leave_terminal(&supervisor.log).map_err(system("leave the terminal"))?;
    }
    supervisor.serve().await
}

/// Starts the look-up process, if the configuration wants one. Its channels follow to the network
/// process in a message of their own: all together might be more than one message can carry.
async fn start_lookup(
    config: &Config,
    network: &Process,
    accounts: &Accounts,
    log: &Log,
) -> Result<Helper, SupervisorError> {
    if !config.looks_up() {
        return Ok(Helper::none());
    }
    let (process, channels) = children::start_lookup(config, accounts.lookup.clone(), log)
        .await
        .map_err(system("start the look-up process"))?;
    let fds: Vec<_> = channels.iter().map(AsFd::as_fd).collect();
    let sent = network.channel.send(&ToNetwork::LookupChannels, &fds).await;
    sent.map_err(system("give the network process its look-up channels"))?;
    Ok(Helper::first(process))
}

/// Waits for the network process to be ready.
async fn ready(
    network: &mut Process,
    signals: &mut running::Signals,
) -> Result<(), SupervisorError> {
    let received = tokio::select! {
        received = tokio::time::timeout(START_TIME, network.channel.recv::<FromNetwork>()) => received,
        () = signals.terminate() => return Err(SupervisorError::Interrupted),
    };
    let problem = match received {
        Ok(Ok(Some((FromNetwork::Ready, _)))) => return Ok(()),
        Ok(Ok(Some((FromNetwork::Failed { problem }, _)))) => format!("cannot start: {problem}"),
        Ok(Ok(Some(_))) => "speaks out of turn".into(),
        Ok(Ok(None) | Err(_)) => {
            format!("did not get ready: it {}", children::describe(network.life.ended().await))
        }
        Err(_) => format!("was not ready within {} seconds", START_TIME.as_secs()),
    };
    Err(SupervisorError::Network(problem))
}

/// Whom the children run as.
#[derive(Clone, Debug)]
pub(crate) struct Accounts {
    pub(crate) network: Option<Account>,
    pub(crate) keyd: Option<Account>,
    /// `None` as well if there is no look-up process.
    pub(crate) lookup: Option<Account>,
}

impl Accounts {
    pub(crate) fn find(config: &Config) -> Result<Self, UserError> {
        Ok(Self {
            network: users::account(config.user.as_ref(), config.group.as_ref())?,
            keyd: users::account(config.key_user.as_ref(), config.key_group.as_ref())?,
            lookup: lookup_account(config)?,
        })
    }
}

/// Whom the look-up process runs as, if there is one.
fn lookup_account(config: &Config) -> Result<Option<Account>, UserError> {
    if !config.looks_up() {
        return Ok(None);
    }
    users::account(config.lookup_user.as_ref(), config.lookup_group.as_ref())
}

/// As many descriptors as the system permits: each session has two.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}

/// Makes the runtime folder.
fn make_runtime_folder(config: &Config) -> Result<(), SupervisorError> {
    let folder = &*config.runtime_dir;
    make_folder(folder, 0o755).map_err(system(format!("make {}", folder.display())))?;
    let there = std::fs::symlink_metadata(folder)
        .map_err(system(format!("look at {}", folder.display())))?;
    let ours = there.uid() == 0 || there.uid() == rustix::process::geteuid().as_raw();
    if !there.is_dir() || !ours || there.permissions().mode() & 0o022 != 0 {
        return Err(SupervisorError::UnsafeFolder(folder.to_owned()));
    }
    Ok(())
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Makes the folder of the database for the one who needs it. The database itself is never made here: its absence is
/// told, and one that was lost must not be replaced by an empty one.
fn make_database_folder(config: &Config, network: Option<&Account>) -> Result<(), SupervisorError> {
    let Some(folder) = config.database.parent().filter(|folder| !folder.exists()) else {
        return Ok(());
    };
    let what = || system(format!("make the folder of the database {}", config.database));
    make_folder(folder, 0o750).map_err(what())?;
    tracing::warn!(
        folder = %folder.display(),
        "the folder of the database was not there and is made; is a file system not mounted?"
    );
    if let Some(account) = network {
        std::os::unix::fs::chown(folder, Some(account.uid), Some(account.gid)).map_err(what())?;
    }
    Ok(())
}

/// The daemon is in the background now: nothing of the terminal stays open, except standard error if the
/// log was told to go there.
fn leave_terminal(log: &Log) -> io::Result<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    if log.target != LogTarget::Stderr {
        rustix::stdio::dup2_stderr(&null)?;
    }
    Ok(())
}

impl Supervisor {
    /// Control socket, PID file, and the word to whoever was there before and to systemd.
    fn take_office(
        &mut self,
        inheritance: Option<Inheritance>,
        unwanted: Vec<Listener>,
    ) -> Result<(), SupervisorError> {
        let former = if inheritance.is_some() && !self.from_systemd {
            sockets::set_access(&self.config)?
        } else {
            FormerAccess::default()
        };
        let control = self.config.control_socket();
        match ControlSocket::bind(&control) {
            Ok(socket) => self.control = Some(socket),
            Err(error) => {
                former.restore();
                return Err(system(format!("make the control socket {control}"))(error));
            }
        }
        match inheritance {
            Some(inheritance) => self.succeed(inheritance, unwanted)?,
            None => {
                if let Some(pid_file) = &self.pid_file {
                    pid_file.write()?;
                }
            }
        }
        self.notifier.ready();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            sockets = self.listeners.len(),
            workers = self.config.worker_count(),
            "serving"
        );
        Ok(())
    }

    /// From the word to the old daemon on, what it handed over is ours.
    fn succeed(
        &mut self,
        inheritance: Inheritance,
        unwanted: Vec<Listener>,
    ) -> Result<(), SupervisorError> {
        let old = inheritance.old_pid;
        let (pid_file, problem) = inheritance.commit()?;
        if let Some(problem) = problem {
            tracing::warn!(%problem, old, "the old daemon does not confirm; it may be gone");
        }
        // Until now the file had the old daemon's PID, which served. We serve, whether or not ours can be written.
        if let Err(error) = pid_file.write() {
            tracing::error!("{error}");
        }
        self.pid_file = Some(pid_file);
        if !self.from_systemd {
            self.owned = self.listeners.iter().map(|listener| Place::of(&listener.path)).collect();
        }
        tracing::info!(old, "took over from the old daemon, which drains");
        // It has stopped accepting, and nobody else serves these.
        for listener in unwanted {
            let _ = std::fs::remove_file(listener.path);
        }
        Ok(())
    }
}
