//! The command line, as types. The manual page tlspool(8) is checked against it.

use crate::admin::AdminCommand;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Hidden subcommand: the supervisor, started by the process on the terminal.
pub const BACKGROUND_COMMAND: &str = "background";
/// Hidden subcommand: the network process, started by the supervisor.
pub const NETWORK_COMMAND: &str = "network-process";
/// Hidden subcommand: the key process, started by the supervisor.
pub const KEYD_COMMAND: &str = "key-process";

/// The TLS Pool: a daemon that does TLS for programs, with keys they never see.
///
/// Without a command it starts the daemon.
#[derive(Debug, Parser)]
#[command(name = "tlspool", version, args_conflicts_with_subcommands = false)]
pub struct Cli {
    /// Configuration file [default: /etc/tlspool/tlspool.toml, or tlspool/tlspool.toml in your XDG
    /// configuration folder]
    #[arg(short = 'c', long = "config", value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Take the place of the running daemon; no connect fails, no session is cut
    #[arg(short = 'k', long)]
    pub replace: bool,

    /// Stay in the foreground, and log to standard error unless the configuration says otherwise
    #[arg(short = 'f', long)]
    pub foreground: bool,

    /// Ask for the PINs that tokens wait for, on the terminal, until interrupted
    #[arg(short = 'p', long, conflicts_with_all = ["replace", "foreground"])]
    pub pin: bool,

    /// With -p: end when no token waits any longer
    #[arg(long, requires = "pin")]
    pub once: bool,

    /// With -p: the daemon's socket [default: the first of the configuration]
    #[arg(short = 'S', long, value_name = "PATH", requires = "pin")]
    pub socket: Option<PathBuf>,

    /// What to do instead of starting the daemon
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Commands beside the daemon itself.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read the configuration and say what is wrong with it
    Check,

    /// Show sessions, rates, tokens and errors of the running daemon
    Status {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },

    #[command(flatten)]
    Admin(AdminCommand),

    /// The daemon in the background
    #[command(name = BACKGROUND_COMMAND, hide = true)]
    Background,

    /// The network process
    #[command(name = NETWORK_COMMAND, hide = true)]
    NetworkProcess,

    /// The key process
    #[command(name = KEYD_COMMAND, hide = true)]
    KeyProcess,
}
