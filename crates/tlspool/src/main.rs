//! The program `tlspool`: the daemon, its children, and its commands.

#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    tlspoold::commands::run(tlspoold::cli::Cli::parse())
}
