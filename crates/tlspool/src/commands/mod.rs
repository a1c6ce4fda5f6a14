//! What the program does when called: starts the daemon, or one of the commands.

mod background;
mod check;
mod choose;
mod pin;
mod status;

use crate::admin::{self, AdminCommand, AdminContext, output};
use crate::child;
use crate::cli::{Cli, Command};
use crate::config::{Config, ConfigError, Places};
use crate::supervisor::{self, Options};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Carries out the command line.
pub fn run(cli: Cli) -> ExitCode {
    match cli.command {
        None if cli.pin => tell(pin::run(&cli)),
        None if cli.foreground => {
            supervisor::run(Options { config_file: cli.config, replace: cli.replace, front: None })
        }
        None => tell(background::run(&cli)),
        Some(Command::Check) => tell(check::run(cli.config.as_deref())),
        Some(Command::Status { json }) => tell(status::run(cli.config.as_deref(), json)),
        Some(Command::Choose(wishes)) => tell(choose::run(cli.config.as_deref(), &wishes)),
        Some(Command::Admin(command)) => tell(administer(&command, cli.config.as_deref())),
        Some(Command::Background) => background::daemon(cli),
        Some(Command::Successor) => background::successor(&cli),
        Some(Command::NetworkProcess) => child::network_process(),
        Some(Command::KeyProcess) => child::key_process(),
        Some(Command::LookupProcess) => child::lookup_process(),
    }
}

fn administer(
    command: &AdminCommand,
    file: Option<&Path>,
) -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::load(file)?;
    Ok(admin::run(command, &AdminContext::of(&config))?)
}

/// Where the daemon listens: the socket that was named, else the first of the configuration.
fn socket(config: Option<&Path>, named: Option<&Path>) -> Result<PathBuf, ConfigError> {
    if let Some(path) = named {
        return Ok(path.to_owned());
    }
    if config.is_some() || Places::of_this_user().config.exists() {
        return Ok(Config::load(config)?.sockets[0].path.to_path_buf());
    }
    Ok(tlspool_client::socket_path(None))
}

/// A text of somebody else's without control characters, which must not reach the terminal.
fn visible(text: &str) -> String {
    output::line(text).trim().to_owned()
}

/// Says an error where the person is. Labels of tokens may stand in it.
fn tell<E: std::fmt::Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(error);
            ExitCode::FAILURE
        }
    }
}
