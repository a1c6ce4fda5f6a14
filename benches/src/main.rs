//! Compares `tlstunnel` and the pool with hitch, haproxy, stunnel and nginx on this machine.
//!
//! Developer's tool: `make bench` runs it. It starts every program itself, ends only those, and
//! writes what it found to `docs/benchmarks.md`.
#![forbid(unsafe_code)]
#![allow(clippy::cast_precision_loss)] // counts of a few seconds are far below 2^52

mod backend;
mod candidates;
mod client;
mod error;
mod figures;
mod interrupt;
mod load;
mod own;
mod pool;
mod procs;
mod report;
mod token;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Resource, Rlimit};

use crate::backend::Backend;
use crate::candidates::{Candidate, Credentials, Key, Setting};
use crate::client::Suite;
use crate::error::{BenchError, During, Result};
use crate::figures::{Results, SCENARIOS, Scenario, digits};
use crate::load::Window;
use crate::own::Own;
use crate::report::Method;

/// Memory hardly differs between rounds, and these take long.
const IDLE_ROUNDS: usize = 2;

/// Time for a candidate with idle sessions to give memory back.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// Short windows, two rounds, few idle sessions: shows that everything works
    #[arg(long)]
    quick: bool,
    /// Rounds
    #[arg(long)]
    rounds: Option<usize>,
    /// Milliseconds counted per candidate, kind of work and round
    #[arg(long)]
    window_ms: Option<u64>,
    /// Only these candidates (comma-separated)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these kinds of work (comma-separated): full-p256, full-rsa, resumed, up-1, up-16,
    /// down-1, down-16, round-trip, idle, tokens, identities, slow-token
    #[arg(long, value_delimiter = ',')]
    work: Vec<String>,
    /// Cipher suite
    #[arg(long, value_enum, default_value = "aes128")]
    suite: Suite,
    /// Folder of the release build
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// For this program itself: signs on a token for the time of a window, and says how often
    #[arg(long, hide = true)]
    token_rate: Option<PathBuf>,
    #[arg(long, hide = true, default_value = "")]
    token_pin: String,
    /// Where to write the report; without it, standard output
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Options {
    fn candidates(&self) -> Vec<Candidate> {
        let wanted =
            |c: &Candidate| self.only.is_empty() || self.only.iter().any(|o| o == c.name());
        Candidate::ALL.into_iter().filter(wanted).collect()
    }

    fn wants(&self, id: &str) -> bool {
        self.work.is_empty() || self.work.iter().any(|w| w == id)
    }
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
    let default_window = if options.quick { 400 } else { 1200 };
    let count = Duration::from_millis(options.window_ms.unwrap_or(default_window));
    if let Some(module) = &options.token_rate {
        println!("{}", token::measure(module, &options.token_pin, count)?);
        return Ok(());
    }
    let begun = Instant::now();
    options.suite.choose();
    raise_limits()?;
    interrupt::watch()?;
    let folder = tempfile::tempdir().during("temporary folder")?;
    open_to_all(folder.path())?;
    let credentials = Credentials::make(folder.path())?;
    let backend = Backend::start()?;
    let setting = Setting {
        folder: folder.path(),
        credentials: &credentials,
        backend: backend.address,
        programs: &options.programs,
    };
    let window = Window { warm: count / 5 + Duration::from_millis(100), count };
    let method = Method {
        rounds: options.rounds.unwrap_or(if options.quick { 2 } else { 5 }),
        seconds: window.count.as_secs_f64(),
        idle_sessions: if options.quick { 200 } else { 2000 },
        quick: options.quick,
        suite: options.suite,
    };
    let candidates = options.candidates();
    let scenarios: Vec<&Scenario> = SCENARIOS.iter().filter(|s| options.wants(s.id)).collect();
    let mut results = Results::default();
    for round in 1..=method.rounds {
        eprintln!("round {round} of {}, {} s", method.rounds, begun.elapsed().as_secs());
        if !scenarios.is_empty() {
            work_round(&candidates, &scenarios, &setting, window, &backend, &mut results)?;
        }
        if options.wants("idle") && round <= IDLE_ROUNDS {
            idle_round(&candidates, &setting, method.idle_sessions, &mut results)?;
        }
    }
    let mut own = Own::default();
    if candidates.contains(&Candidate::Tlspool) {
        if options.wants("tokens") {
            own.tokens(&setting, method.rounds, window, &backend)?;
        }
        if options.wants("identities") {
            own.identities(&setting, method.rounds, window, &backend)?;
        }
        if options.wants("slow-token") {
            own.slow_token(&setting, method.rounds, window, &backend)?;
        }
    }
    eprintln!("done after {} s", begun.elapsed().as_secs());
    let report = report::write(&results, &own, &method, &options.programs);
    if let Some(path) = &options.out {
        return std::fs::write(path, report).during(format!("writing {}", path.display()));
    }
    print!("{report}");
    Ok(())
}

/// All candidates stand ready; each kind of work visits them in turn.
fn work_round(
    candidates: &[Candidate],
    scenarios: &[&Scenario],
    setting: &Setting<'_>,
    window: Window,
    backend: &Backend,
    results: &mut Results,
) -> Result<()> {
    let running = candidates
        .iter()
        .map(|candidate| Ok((*candidate, candidate.start(setting)?)))
        .collect::<Result<Vec<_>>>()?;
    for scenario in scenarios {
        for (candidate, running) in &running {
            let target = running.target(scenario.key)?;
            let figures = load::run(
                scenario.work,
                scenario.connections,
                &target,
                window,
                &running.programs,
                backend,
            )
            .map_err(|e| {
                BenchError::Invalid(format!("{}: {}: {e}", candidate.name(), scenario.id))
            })?;
            let (rate, cpu) = (digits(figures.rate), digits(figures.cpu_us));
            eprintln!("  {:10} {:8} {rate:>7}/s {cpu:>6} µs", scenario.id, candidate.name());
            results.add(scenario, *candidate, figures);
        }
    }
    Ok(())
}

/// One candidate at a time, freshly started.
fn idle_round(
    candidates: &[Candidate],
    setting: &Setting<'_>,
    sessions: usize,
    results: &mut Results,
) -> Result<()> {
    for candidate in candidates {
        let running = candidate.start(setting)?;
        let before = running.programs.pss_kib()?;
        let open = load::idle(&running.target(Key::P256)?, sessions)?;
        std::thread::sleep(SETTLE);
        let after = running.programs.pss_kib()?;
        let kib = after.saturating_sub(before) as f64 / open.len() as f64;
        eprintln!("  idle       {:8} {:>7} KiB", candidate.name(), digits(kib));
        results.add_idle(*candidate, kib);
    }
    Ok(())
}

/// As many descriptors as we may have, for us and the programs we start.
fn raise_limits() -> Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, raised).during("raising the limit of descriptors")
}

/// Candidates started by root become somebody else, who must reach sockets in the folder.
fn open_to_all(folder: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let all = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(folder, all).during("temporary folder")
}
