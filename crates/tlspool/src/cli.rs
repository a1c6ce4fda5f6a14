//! The command line, as types. The manual page tlspool(8) is checked against it.

use crate::admin::AdminCommand;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Hidden subcommand: the supervisor, started by the process on the terminal.
pub const BACKGROUND_COMMAND: &str = "background";
/// Hidden subcommand: starts the supervisor for one that it replaces, and ends.
pub const SUCCESSOR_COMMAND: &str = "successor";
/// Hidden subcommand: the network process, started by the supervisor.
pub const NETWORK_COMMAND: &str = "network-process";
/// Hidden subcommand: the key process, started by the supervisor.
pub const KEYD_COMMAND: &str = "key-process";
/// Hidden subcommand: the look-up process, started by the supervisor.
pub const LOOKUP_COMMAND: &str = "lookup-process";

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

    /// Choose on the terminal whom clients show to whom, when their programs name nobody
    Choose(ChooseArgs),

    /// The commands that look after the database and the tokens.
    #[command(flatten)]
    Admin(AdminCommand),

    /// The daemon in the background
    #[command(name = BACKGROUND_COMMAND, hide = true)]
    Background,

    /// The daemon in the background, started by the one that it replaces
    #[command(name = SUCCESSOR_COMMAND, hide = true)]
    Successor,

    /// The network process
    #[command(name = NETWORK_COMMAND, hide = true)]
    NetworkProcess,

    /// The key process
    #[command(name = KEYD_COMMAND, hide = true)]
    KeyProcess,

    /// The look-up process
    #[command(name = LOOKUP_COMMAND, hide = true)]
    LookupProcess,
}

/// Arguments of `tlspool choose`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
It is asked about the programs of its own user; root's is asked about those of every user who has none. For \
each remote it shows the local identities that the program may use, and asks for one, or for nobody, and \
whether to remember that. With standard input not a terminal, the answers are its lines.")]
pub struct ChooseArgs {
    /// Ask also where a disclosure says already whom to show
    #[arg(long)]
    pub all: bool,

    /// End when one question is answered
    #[arg(long)]
    pub once: bool,

    /// How long the pool waits for an answer, in seconds; a handshake may end before
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u32,

    /// The daemon's socket [default: the first of the configuration]
    #[arg(short = 'S', long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    const MANUAL: &str = include_str!("../../../man/tlspool.8");

    /// Whether the manual has these words in a row, whatever punctuation is around them.
    fn mentioned(words: &str) -> bool {
        let plain = |line: &str| {
            format!(
                " {} ",
                line.replace([',', '|'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
            )
        };
        MANUAL
            .lines()
            .any(|line| plain(line.trim_start_matches('.')).contains(&format!(" {words} ")))
    }

    fn check(command: &clap::Command, path: &str, missing: &mut Vec<String>) {
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            let short = argument.get_short().map(|short| format!("Fl {short}"));
            let long = argument.get_long().map(|long| format!("Fl -{long}"));
            // Within the long form the name follows the short one: ".It Fl c , Fl -config".
            let named = [short, long].into_iter().flatten().filter(|name| !mentioned(name));
            missing.extend(named.map(|name| format!("{path}: {name}")));
        }
        for inner in command
            .get_subcommands()
            .filter(|inner| !inner.is_hide_set() && inner.get_name() != "help")
        {
            let path = format!("{path} {}", inner.get_name()).trim().to_owned();
            let leaf = inner.get_subcommands().next().is_none();
            if leaf && !mentioned(&path) {
                missing.push(path.clone());
            }
            check(inner, &path, missing);
        }
    }

    #[test]
    fn the_default_policy_is_the_same_wherever_it_is_told() {
        use tlspool_validate::policy::DEFAULT_FOR_REMOTES;
        let mut command = Cli::command();
        command.build();
        let policy = command.find_subcommand_mut("policy").unwrap();
        let help = policy.render_long_help().to_string();
        let guide = include_str!("../../../docs/administration.md");
        for (place, text) in
            [("--help", &*help), ("tlspool(8)", MANUAL), ("administration.md", guide)]
        {
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(text.contains(DEFAULT_FOR_REMOTES), "{place}: {DEFAULT_FOR_REMOTES}");
        }
    }

    #[test]
    fn the_manual_has_every_command_and_option() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        let mut missing = Vec::new();
        check(&command, "", &mut missing);
        missing.sort();
        missing.dedup();
        assert!(missing.is_empty(), "not in man/tlspool.8: {missing:#?}");
    }
}
