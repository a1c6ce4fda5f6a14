//! Writes what was found as Markdown.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::candidates::{Candidate, WORKERS};
use crate::client::Suite;
use crate::figures::{Results, SCENARIOS, Scenario, digits};
use crate::load::{Figures, Work};
use crate::own::Own;
use crate::procs::run;

/// How it was measured.
#[derive(Debug)]
pub(crate) struct Method {
    /// Rounds.
    pub(crate) rounds: usize,
    /// Seconds counted per candidate, kind of work and round.
    pub(crate) seconds: f64,
    /// Idle sessions.
    pub(crate) idle_sessions: usize,
    /// Cipher suite.
    pub(crate) suite: Suite,
    /// A quick run, whose figures prove little.
    pub(crate) quick: bool,
}

/// A figure to reach.
struct Goal {
    what: &'static str,
    /// `at most 0.8`, `at least 1.2`.
    limit: Limit,
    found: Option<f64>,
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn show(self) -> String {
        match self {
            Self::AtMost(x) => format!("at most {x}"),
            Self::AtLeast(x) => format!("at least {x}"),
        }
    }

    fn reached(self, found: f64) -> bool {
        match self {
            Self::AtMost(x) => found <= x,
            Self::AtLeast(x) => found >= x,
        }
    }
}

/// The whole report.
pub(crate) fn write(results: &Results, own: &Own, method: &Method, programs: &Path) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = header(&mut out, method, programs);
    let _ = goals(&mut out, results, own);
    for scenario in &SCENARIOS {
        let _ = table(&mut out, results, scenario);
    }
    let _ = idle(&mut out, results, method);
    out.push_str(&own.show());
    out
}

fn header(out: &mut String, method: &Method, programs: &Path) -> std::fmt::Result {
    let Method { rounds, seconds, .. } = method;
    let suite = match method.suite {
        Suite::Aes128 => "TLS_AES_128_GCM_SHA256",
        Suite::Aes256 => "TLS_AES_256_GCM_SHA384",
    };
    writeln!(
        out,
        "# Benchmarks\n\nWritten by `make bench`. Do not edit: run it again.\n\n\
         `tlstunnel -s` with the pool beside other TLS proxies, each with {WORKERS} workers \
         (stunnel has a thread per connection instead; the pool has its express worker besides), the same certificates, TLS 1.3 with \
         {suite} and X25519, tickets on, and the same plaintext backend. Load \
         generator, candidates and backend share the cores, so the CPU time of all the \
         candidate's processes per operation is the fair measure, and the rate says what is \
         left of the cores. {rounds} interleaved rounds: every kind of work visits all \
         candidates in turn, {seconds} s each. Figures are medians over the rounds, with least \
         and most.\n"
    )?;
    if method.quick {
        writeln!(out, "**A quick run: windows are too short for these figures to mean much.**\n")?;
    }
    let command: Vec<String> = std::env::args().collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    writeln!(
        out,
        "| | |\n| --- | --- |\n| command | `{}` |\n| processor | {} |\n| cores | {cores} |\n\
         | kernel | {} |",
        command.join(" "),
        processor(),
        run(Command::new("uname").arg("-sr")).unwrap_or_default().trim(),
    )?;
    for candidate in Candidate::ALL {
        writeln!(out, "| {} | {} |", candidate.name(), candidate.version(programs))?;
    }
    writeln!(
        out,
        "\nA handshake includes connecting, one byte to the backend and back, and an orderly \
         end of both connections. CPU time is utime + stime of every process of the candidate, \
         descendants included; it contains what the kernel does for them on the loopback.\n"
    )
}

fn goals(out: &mut String, results: &Results, own: &Own) -> std::fmt::Result {
    let cpu = |id| results.ratio(id, |f| f.cpu_us, f64::min);
    let rate = |id| results.ratio(id, |f| f.rate, f64::max);
    let (most, least) = (Limit::AtMost, Limit::AtLeast);
    let mut goals = vec![
        goal("CPU per full handshake, P-256, × best other", most(0.8), cpu("full-p256")),
        goal("Rate of full handshakes, P-256, × best other", least(1.2), rate("full-p256")),
        goal("CPU per full handshake, RSA-2048, × best other", most(0.9), cpu("full-rsa")),
        goal("CPU per MiB to the backend, 1 connection, × best other", most(0.9), cpu("up-1")),
        goal("CPU per MiB to the backend, 16 connections, × best other", most(0.9), cpu("up-16")),
        goal("CPU per MiB from the backend, 1 connection, × best other", most(0.9), cpu("down-1")),
        goal(
            "CPU per MiB from the backend, 16 connections, × best other",
            most(0.9),
            cpu("down-16"),
        ),
        goal("CPU per round trip, × best other", most(1.0), cpu("round-trip")),
        goal("KiB per idle session", most(16.0), results.idle(Candidate::Tlspool).median()),
    ];
    goals.extend(own.goals().into_iter().map(|(what, at_least, limit, found)| {
        goal(what, if at_least { least(limit) } else { most(limit) }, found)
    }));
    writeln!(out, "## Targets\n\n| target | limit | found | reached |\n| --- | --- | --- | --- |")?;
    for Goal { what, limit, found } in goals {
        let (shown, reached) = match found {
            Some(found) => (digits(found), if limit.reached(found) { "yes" } else { "**no**" }),
            None => ("not measured".into(), "–"),
        };
        writeln!(out, "| {what} | {} | {shown} | {reached} |", limit.show())?;
    }
    writeln!(out)
}

fn goal(what: &'static str, limit: Limit, found: Option<f64>) -> Goal {
    Goal { what, limit, found }
}

fn table(out: &mut String, results: &Results, scenario: &Scenario) -> std::fmt::Result {
    if !Candidate::ALL.into_iter().any(|c| results.has(scenario.id, c)) {
        return Ok(());
    }
    let (operation, rate) = match scenario.work {
        Work::Full | Work::Resumed => ("handshake", "handshakes/s"),
        Work::RoundTrip => ("round trip", "round trips/s"),
        Work::Up | Work::Down => ("MiB", "MiB/s"),
    };
    let timed = !matches!(scenario.work, Work::Up | Work::Down);
    let resumed = scenario.work == Work::Resumed;
    writeln!(out, "## {}\n", scenario.title)?;
    write!(out, "| | {rate} | CPU µs per {operation} |")?;
    write!(out, "{}", if timed { " p50 µs | p99 µs |" } else { "" })?;
    writeln!(out, "{}", if resumed { " resumed |" } else { "" })?;
    writeln!(out, "|{}", " --- |".repeat(3 + 2 * usize::from(timed) + usize::from(resumed)))?;
    for candidate in Candidate::ALL {
        let series =
            |quantity: fn(&Figures) -> f64| results.series(scenario.id, candidate, quantity);
        if !results.has(scenario.id, candidate) {
            continue;
        }
        write!(
            out,
            "| {} | {} | {} |",
            candidate.name(),
            series(|f| f.rate).show(),
            series(|f| f.cpu_us).show()
        )?;
        if timed {
            write!(out, " {} | {} |", series(|f| f.p50_us).show(), series(|f| f.p99_us).show())?;
        }
        if resumed {
            write!(out, " {:.0} % |", series(|f| f.resumed).median().unwrap_or(0.0) * 100.0)?;
        }
        writeln!(out)?;
    }
    let (rate, cpu) = (
        results.ratio(scenario.id, |f| f.rate, f64::max),
        results.ratio(scenario.id, |f| f.cpu_us, f64::min),
    );
    if let (Some(rate), Some(cpu)) = (rate, cpu) {
        let (rate, cpu) = (digits(rate), digits(cpu));
        writeln!(out, "\ntlspool against the best other: rate × {rate}, CPU × {cpu}.")?;
        let of = Candidate::Tlspool;
        let parts = results.processes(scenario.id, of).into_iter().filter_map(|name| {
            let us = |figures: &Figures| figures.cpu_us_of.get(&name).copied().unwrap_or_default();
            let median = results.series(scenario.id, of, us).median().filter(|us| *us > 0.0)?;
            Some(format!("{name} {}", digits(median)))
        });
        let parts: Vec<String> = parts.collect();
        writeln!(out, "Its CPU µs by process: {}.", parts.join(", "))?;
    }
    writeln!(out)
}

fn idle(out: &mut String, results: &Results, method: &Method) -> std::fmt::Result {
    writeln!(
        out,
        "## Memory of an idle session\n\nProportional set size of all processes of a freshly \
         started candidate with {} sessions that have relayed a few bytes, minus the same \
         before the first, per session.\n\n| | KiB |\n| --- | --- |",
        method.idle_sessions
    )?;
    for candidate in Candidate::ALL {
        let series = results.idle(candidate);
        if series.median().is_some() {
            writeln!(out, "| {} | {} |", candidate.name(), series.show())?;
        }
    }
    writeln!(out)
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name))
        .unwrap_or("unknown")
        .to_owned()
}
