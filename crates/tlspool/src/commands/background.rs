//! Going to the background. The process on the terminal starts the daemon as a process of its own and ends
//! when that is ready, or says why it is not. With `-k`, and a running daemon that belongs to a unit of systemd, that one
//! starts it instead, so that it stays within the unit.

use crate::child::take_stdin;
use crate::cli::{BACKGROUND_COMMAND, Cli, SUCCESSOR_COMMAND};
use crate::config::Config;
use crate::supervisor::control::{ControlClient, ControlError};
use crate::supervisor::message::{self, Channel, ControlReply, ControlRequest, ToFront};
use crate::supervisor::{self, Options};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};

/// Why the daemon is not in the background.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackgroundError {
    #[error("cannot start the daemon: {0}")]
    Spawn(#[from] io::Error),
    #[error("{0}")]
    Failed(String),
    #[error("the daemon ended without a word; its log may say why, or start it with -f")]
    Silent,
}

/// The part on the terminal.
pub(super) fn run(cli: &Cli) -> Result<(), BackgroundError> {
    let (ours, theirs) = message::pair()?;
    if cli.replace && within_unit(cli, &theirs)? {
        drop(theirs);
        return listen(Channel::new(ours));
    }
    let mut daemon = start(cli, theirs)?;
    let outcome = listen(Channel::new(ours));
    if matches!(outcome, Err(BackgroundError::Failed(_))) {
        let _ = daemon.wait();
    }
    outcome
}

/// Waits for the daemon to be ready.
fn listen(mut channel: Channel) -> Result<(), BackgroundError> {
    loop {
        match channel.recv::<ToFront>()? {
            Some((ToFront::Note { text }, _)) => eprintln!("tlspool: {text}"),
            Some((ToFront::Ready, _)) => return Ok(()),
            Some((ToFront::Failed { problem }, _)) => return Err(BackgroundError::Failed(problem)),
            None => return Err(BackgroundError::Silent),
        }
    }
}

/// Starts the daemon, which has `front` to say how it went.
fn start(cli: &Cli, front: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    // The command holds the other end; it goes with it, so that the end of the daemon ends the channel.
    command.arg0("tlspool").args(arguments(cli)?).stdin(front).spawn()
}

/// Has the running daemon start the new one, if it belongs to a unit of systemd and can.
fn within_unit(cli: &Cli, front: &OwnedFd) -> Result<bool, BackgroundError> {
    // What is wrong with the configuration, the new daemon says; and whether there is an old one.
    let Ok(config) = Config::load(cli.config.as_deref()) else { return Ok(false) };
    let Ok(mut running) = ControlClient::connect(&config.control_socket()) else {
        return Ok(false);
    };
    let request = ControlRequest::Replace {
        program: std::env::current_exe()?,
        config: cli.config.as_deref().map(absolute).transpose()?,
    };
    match running.ask_with(&request, &[front.as_fd()]) {
        Ok((ControlReply::Done, _)) => Ok(true),
        Err(ControlError::Refused(problem)) => {
            eprintln!("tlspool: the running daemon does not start the new one: {problem}");
            Ok(false)
        }
        // There is no unit, or it is of a version that knows nothing of this.
        _ => Ok(false),
    }
}

/// What a running daemon starts: the part that starts the new one, and leaves it to the first process.
pub(super) fn successor(cli: &Cli) -> ExitCode {
    let started = take_stdin().and_then(|front| start(cli, front));
    match started {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tlspool: {SUCCESSOR_COMMAND} is not to be called by hand: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The command line of the daemon: the one of this process, with the hidden command behind its options.
fn arguments(cli: &Cli) -> io::Result<Vec<OsString>> {
    let mut arguments = Vec::new();
    if let Some(file) = &cli.config {
        arguments.extend(["-c".into(), absolute(file)?.into_os_string()]);
    }
    if cli.replace {
        arguments.push("-k".into());
    }
    arguments.push(BACKGROUND_COMMAND.into());
    Ok(arguments)
}

/// The daemon will have `/` as its folder.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    std::path::absolute(path)
}

/// The part in the background.
pub(super) fn daemon(cli: Cli) -> ExitCode {
    let front = match take_stdin() {
        Ok(channel) => channel,
        Err(error) => {
            eprintln!("tlspool: {BACKGROUND_COMMAND} is not to be called by hand: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A session of its own: no terminal can end it. The folder it was started in can be unmounted.
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    supervisor::run(Options {
        config_file: cli.config,
        replace: cli.replace,
        front: Some(Channel::new(front)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use clap::Parser;

    #[test]
    fn the_daemon_understands_what_it_is_called_with() {
        let cli = Cli::parse_from(["tlspool", "-k", "-c", "/etc/x.toml"]);
        let called = std::iter::once("tlspool".into()).chain(arguments(&cli).unwrap());
        let daemon = Cli::try_parse_from(called).unwrap();
        assert!(daemon.replace);
        assert_eq!(daemon.config, cli.config);
        assert!(matches!(daemon.command, Some(Command::Background)));
    }
}
