//! Going to the background. The process on the terminal starts the daemon as a process of its own and ends
//! when that is ready, or says why it is not.

use crate::child::take_stdin;
use crate::cli::{BACKGROUND_COMMAND, Cli};
use crate::supervisor::message::{self, Channel, ToFront};
use crate::supervisor::{self, Options};
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

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
    let mut command = Command::new("/proc/self/exe");
    command.arg0("tlspool").args(arguments(cli)?).stdin(theirs);
    let mut daemon = command.spawn()?;
    // The command holds the other end; without it, the end of the daemon ends the channel.
    drop(command);
    match Channel::new(ours).recv::<ToFront>()? {
        Some((ToFront::Ready, _)) => Ok(()),
        Some((ToFront::Failed { problem }, _)) => {
            let _ = daemon.wait();
            Err(BackgroundError::Failed(problem))
        }
        None => Err(BackgroundError::Silent),
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
