//! Going to the background. The process on the terminal starts the daemon as a process of its own and ends
//! when that is ready, or says why it is not.

use crate::child::take_stdin;
use crate::cli::{BACKGROUND_COMMAND, Cli};
use crate::supervisor::message::{self, Channel, ToFront};
use crate::supervisor::{self, Options};
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
    command.arg0("tlspool").arg(BACKGROUND_COMMAND).stdin(theirs);
    if let Some(file) = &cli.config {
        command.arg("-c").arg(absolute(file)?);
    }
    if cli.replace {
        command.arg("-k");
    }
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
