//! Compares `tlstunnel` and the pool with hitch, haproxy, stunnel and nginx on this machine.
//!
//! Developer's tool: `make bench` runs it. It starts every program itself, ends only those, and
//! writes what it found to `docs/benchmarks.md`.
#![forbid(unsafe_code)]

mod backend;
mod candidates;
mod client;
mod error;
mod load;
mod pool;
mod procs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::backend::Backend;
use crate::candidates::{Candidate, Credentials, Key, Setting};
use crate::error::{During, Result};
use crate::load::{Window, Work};

#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// Only programs whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Folder of the release build
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
}

fn main() -> ExitCode {
    match compare(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tlspool-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir().during("temporary folder")?;
    let credentials = Credentials::make(folder.path())?;
    let backend = Backend::start()?;
    let setting = Setting {
        folder: folder.path(),
        credentials: &credentials,
        backend: backend.address,
        programs: &options.programs,
    };
    let w = Window { warm: Duration::from_millis(300), count: Duration::from_secs(1) };
    for c in Candidate::ALL {
        if !options.only.as_deref().is_none_or(|o| c.name().contains(o)) { continue; }
        println!("{}", c.version(&options.programs));
        let running = match c.start(&setting) { Ok(r) => r, Err(e) => { println!("{e}"); continue } };
        for (work, n, key) in [(Work::Full, 16, Key::P256), (Work::Full, 16, Key::Rsa), (Work::Resumed, 16, Key::P256), (Work::RoundTrip, 64, Key::P256), (Work::Up, 1, Key::P256), (Work::Up, 16, Key::P256), (Work::Down, 1, Key::P256), (Work::Down, 16, Key::P256)] {
            println!("{} {work:?} {n} {key:?}: {:?}", c.name(), load::run(work, n, &running.target(key)?, w, &running.programs, &backend));
        }
        let before = running.programs.pss_kib()?;
        let s = load::idle(&running.target(Key::P256)?, 400)?;
        std::thread::sleep(Duration::from_secs(1));
        println!("idle {}", (running.programs.pss_kib()? - before) as f64 / s.len() as f64);
    }
    Ok(())
}
