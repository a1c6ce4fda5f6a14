//! How a child process of the supervisor begins: it takes its channel from standard input, hears what it
//! needs, gives up its privileges, and goes to work.

use crate::config::{Config, Keys};
use crate::net::{self, Listener, NetworkBoot};
use crate::supervisor::message::{Channel, FromNetwork, KeydStart, LookupStart, NetworkStart};
use crate::{confine, logging, lookups, users};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use tlspool_keys::server::{KeydBoot, run_key_process};
use tlspool_lookup::Lookups;
use tlspool_lookup::cache::Cached;
use tlspool_lookup::process::{self, Limits};

/// Takes the channel that is our standard input, and puts `/dev/null` in its place.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let stdin = io::stdin();
    // Fails on anything but a socket: somebody who tries a hidden command by hand.
    rustix::net::sockopt::socket_domain(&stdin)?;
    let channel = stdin.as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    Ok(channel)
}

/// The name in `ps` and `top`; after an exec of /proc/self/exe it is "exe".
fn name_process(name: &CStr) {
    let _ = rustix::thread::set_name(name);
}

/// No core dump, and no debugger of the same user, unless the configuration permits it.
fn set_dumpable(allowed: bool) -> io::Result<()> {
    let behavior = if allowed { DumpableBehavior::Dumpable } else { DumpableBehavior::NotDumpable };
    rustix::process::set_dumpable_behavior(behavior)?;
    let limit = if allowed { getrlimit(Resource::Core).maximum } else { Some(0) };
    setrlimit(Resource::Core, Rlimit { current: limit, maximum: limit })?;
    Ok(())
}

fn told<M: serde::de::DeserializeOwned>(
    channel: &mut Channel,
) -> Result<(M, Vec<OwnedFd>), String> {
    match channel.recv() {
        Ok(Some(start)) => Ok(start),
        Ok(None) => Err("the supervisor is gone".into()),
        Err(error) => Err(format!("the supervisor cannot be understood: {error}")),
    }
}

fn by_hand(error: &io::Error) -> ExitCode {
    eprintln!("tlspool: this command is for the daemon itself, not to be called by hand: {error}");
    ExitCode::FAILURE
}

/// The whole network process.
pub fn network_process() -> ExitCode {
    name_process(c"tlspool-network");
    let mut channel = match take_stdin() {
        Ok(channel) => Channel::new(channel),
        Err(error) => return by_hand(&error),
    };
    match prepare_network(&mut channel) {
        Ok((config, listeners, key_channels)) => {
            let supervisor = channel.into_fd();
            let code = net::run(NetworkBoot { config, listeners, supervisor, key_channels });
            logging::flush();
            code
        }
        Err(problem) => {
            let _ = channel.send(&FromNetwork::Failed { problem }, &[]);
            ExitCode::FAILURE
        }
    }
}

type NetworkParts = (Config, Vec<Listener>, Vec<OwnedFd>);

fn prepare_network(channel: &mut Channel) -> Result<NetworkParts, String> {
    let (start, fds) = told::<NetworkStart>(channel)?;
    let NetworkStart { config, listeners: paths, become_user, log } = start;
    let mut fds = fds.into_iter();
    let listeners: Vec<Listener> =
        paths.into_iter().zip(&mut fds).map(|(path, fd)| Listener { fd, path }).collect();
    let key_channels: Vec<OwnedFd> = fds.collect();
    users::drop_privileges(become_user.as_ref()).map_err(|e| e.to_string())?;
    set_dumpable(config.debug.core_dumps).map_err(|e| format!("cannot forbid core dumps: {e}"))?;
    let confined = confine::apply(&config, confine::Role::Network).map_err(|e| e.to_string())?;
    // After the confinement, so that the thread that writes the log is confined too.
    logging::init(&log, "tlspool").map_err(|e| e.to_string())?;
    tell_confinement("network", &confined);
    Ok((config, listeners, key_channels))
}

fn tell_confinement(process: &str, confined: &confine::Confined) {
    let full = |degree: &confine::Degree| *degree == confine::Degree::Full;
    let (landlock, seccomp) = (&confined.landlock, &confined.seccomp);
    if full(landlock) && full(seccomp) {
        tracing::info!(%landlock, %seccomp, "the {process} process is confined");
    } else {
        tracing::warn!(%landlock, %seccomp, "the {process} process is not fully confined");
    }
}

/// The whole key process.
pub fn key_process() -> ExitCode {
    name_process(c"tlspool-keyd");
    let mut channel = match take_stdin() {
        Ok(channel) => Channel::new(channel),
        Err(error) => return by_hand(&error),
    };
    let start = told::<KeydStart>(&mut channel).and_then(|(start, mut fds)| {
        if fds.is_empty() {
            return Err("the supervisor passed no descriptors".into());
        }
        let memory = fds.remove(0);
        users::drop_privileges(start.become_user.as_ref()).map_err(|e| e.to_string())?;
        set_dumpable(false).map_err(|e| format!("cannot forbid core dumps: {e}"))?;
        logging::init(&start.log, "tlspool-keyd").map_err(|e| e.to_string())?;
        Ok((start.config.keys, memory, fds))
    });
    let code = match start {
        Ok((keys, memory, channels)) => serve_keys(&keys, memory, channels),
        Err(problem) => {
            eprintln!("tlspool-keyd: {problem}");
            ExitCode::FAILURE
        }
    };
    logging::flush();
    code
}

fn serve_keys(keys: &Keys, pin_memory: OwnedFd, channels: Vec<OwnedFd>) -> ExitCode {
    let config = keys.store_config();
    run_key_process(KeydBoot { channels, config, pin_memory, flush_log: logging::flush })
}

/// The whole look-up process.
pub fn lookup_process() -> ExitCode {
    name_process(c"tlspool-lookup");
    let mut channel = match take_stdin() {
        Ok(channel) => Channel::new(channel),
        Err(error) => return by_hand(&error),
    };
    let prepared = told::<LookupStart>(&mut channel)
        .and_then(|(start, channels)| Ok((prepare_lookup(start)?, channels)));
    let code = match prepared {
        Ok(((config, sources), channels)) => match look_up(&config, sources, channels) {
            Ok(()) => ExitCode::SUCCESS,
            Err(problem) => {
                tracing::error!("nothing can be looked up: {problem}");
                ExitCode::FAILURE
            }
        },
        Err(problem) => {
            eprintln!("tlspool-lookup: {problem}");
            ExitCode::FAILURE
        }
    };
    logging::flush();
    code
}

type Sources = Result<Cached<Lookups>, String>;

fn prepare_lookup(start: LookupStart) -> Result<(Config, Sources), String> {
    let LookupStart { config, become_user, log } = start;
    users::drop_privileges(become_user.as_ref()).map_err(|e| e.to_string())?;
    set_dumpable(false).map_err(|e| format!("cannot forbid core dumps: {e}"))?;
    // What is to be read is read here; once confined, the process opens no file any more. Faults in it are
    // told when there is a log.
    let sources = lookups::sources(&config);
    let confined = confine::apply(&config, confine::Role::Lookup).map_err(|e| e.to_string())?;
    logging::init(&log, "tlspool-lookup").map_err(|e| e.to_string())?;
    tell_confinement("look-up", &confined);
    Ok((config, sources))
}

fn look_up(config: &Config, sources: Sources, channels: Vec<OwnedFd>) -> Result<(), String> {
    let limits = Limits { per_channel: config.limits.look_ups as usize };
    let sources = Rc::new(sources?);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .and_then(|runtime| runtime.block_on(process::serve(channels, sources, limits)))
        .map_err(|e| e.to_string())
}
