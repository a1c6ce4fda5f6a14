//! What is compared with the pool itself: keys on tokens with PEM keys, and many identities with
//! few. Rounds are interleaved here too.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::backend::Backend;
use crate::candidates::{Key, P256, Running, Setting, issue};
use crate::error::{BenchError, During, Result};
use crate::figures::{Series, digits, percentile};
use crate::load::{self, Figures, Load, Window, Work};
use crate::pool::{self, Shape};
use crate::procs::run;
use crate::token;

/// Where Debian's softhsm2 package keeps its module.
const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// PIN of every token made here.
const PIN: &str = "1234";
/// Identities that must cost no more than the few.
const MANY: usize = 100_000;
/// Connections that wait for the slow token.
const SLOW_CONNECTIONS: usize = 16;
/// Pause between two messages of each relayed connection: the machine must have CPU time left, or
/// everything waits for that.
const PACE: Duration = Duration::from_millis(10);
/// Threads that make handshakes with another key, and the pause of each between two: some hundred
/// a second, so that a percentile means something.
const OTHERS: usize = 4;
const OTHERS_PACE: Duration = Duration::from_millis(6);
/// Windows of a round in which those are timed, as many without the slow token as with it, in turn.
const TURNS: usize = 3;

/// Results of these comparisons.
#[derive(Debug, Default)]
pub(crate) struct Own {
    pem: Cost,
    softhsm: Cost,
    few: Cost,
    many: Cost,
    few_resumed: Cost,
    many_resumed: Cost,
    token_rate: Series,
    slow_rate: Series,
    other_alone_p99: Series,
    other_beside_quick_p99: Series,
    other_beside_p99: Series,
}

/// Of handshakes.
#[derive(Debug, Default)]
struct Cost {
    rate: Series,
    cpu_us: Series,
}

impl Cost {
    fn push(&mut self, what: &str, figures: &Figures) {
        let (rate, cpu) = (digits(figures.rate), digits(figures.cpu_us));
        let parts = parts(figures);
        eprintln!("  {what:24} {rate:>7}/s {cpu:>6} µs ({parts})");
        self.rate.push(figures.rate);
        self.cpu_us.push(figures.cpu_us);
    }

    fn row(&self, what: &str) -> String {
        format!("| {what} | {} | {} |\n", self.rate.show(), self.cpu_us.show())
    }
}

/// CPU time by process, in words.
fn parts(figures: &Figures) -> String {
    let used = figures.cpu_us_of.iter().filter(|(_, us)| **us > 0.0);
    let mut parts: Vec<String> = used.map(|(name, us)| format!("{name} {}", digits(*us))).collect();
    parts.sort();
    parts.join(", ")
}

/// Median over median.
fn ratio(a: &Series, b: &Series) -> Option<f64> {
    Some(a.median()? / b.median()?)
}

impl Own {
    /// A key on SoftHSM2 beside the same key in a file.
    pub(crate) fn tokens(
        &mut self,
        setting: &Setting<'_>,
        rounds: usize,
        window: Window,
        backend: &Backend,
    ) -> Result<()> {
        let shape = softhsm(setting)?;
        for round in 1..=rounds {
            eprintln!("keys, round {round} of {rounds}");
            let in_file = pool::start(setting, &Shape::default())?;
            let on_token = pool::start(setting, &shape)?;
            // Twice in each round, the second time in the opposite order: what slows the machine
            // down for a while must not fall on one of them.
            for token in [false, true, true, false] {
                if token {
                    let figures = handshakes(Work::Full, &on_token, window, backend)?;
                    self.softhsm.push("SoftHSM2", &figures);
                } else {
                    self.pem.push("PEM", &handshakes(Work::Full, &in_file, window, backend)?);
                }
            }
        }
        Ok(())
    }

    /// Many identities beside few.
    pub(crate) fn identities(
        &mut self,
        setting: &Setting<'_>,
        rounds: usize,
        window: Window,
        backend: &Backend,
    ) -> Result<()> {
        let few = pool::start(setting, &Shape { more: 8, ..Shape::default() })?;
        let many = pool::start(setting, &Shape { more: MANY - 2, ..Shape::default() })?;
        for round in 1..=rounds {
            eprintln!("identities, round {round} of {rounds}");
            // As with the tokens' keys, twice.
            for has_many in [false, true, true, false] {
                let (pool, full, resumed, title) = if has_many {
                    (&many, &mut self.many, &mut self.many_resumed, "100000 identities")
                } else {
                    (&few, &mut self.few, &mut self.few_resumed, "10 identities")
                };
                full.push(title, &handshakes(Work::Full, pool, window, backend)?);
                resumed.push("resumed", &handshakes(Work::Resumed, pool, window, backend)?);
            }
        }
        Ok(())
    }

    /// A slow token while others work.
    pub(crate) fn slow_token(
        &mut self,
        setting: &Setting<'_>,
        rounds: usize,
        window: Window,
        backend: &Backend,
    ) -> Result<()> {
        let shape = slow(setting)?;
        let running = pool::start(setting, &shape)?;
        let (quick, slow) = (running.target(Key::P256)?, running.target(Key::Rsa)?);
        let relayed = Load::paced(Work::RoundTrip, 64, &quick, PACE)?;
        let other = Load::paced(Work::Full, OTHERS, &quick, OTHERS_PACE)?;
        for round in 1..=rounds {
            eprintln!("slow token, round {round} of {rounds}");
            let own = token::own_rate(&shape.modules[0], PIN, &shape.env, window.count)?;
            let (mut rates, mut alone, mut beside) = (Series::default(), Vec::new(), Vec::new());
            let mut beside_quick = Vec::new();
            // As many handshakes a second as the token makes cost CPU time, whatever their key.
            let pause = Duration::from_secs_f64(SLOW_CONNECTIONS as f64 / own);
            for _ in 0..TURNS {
                alone.extend(other.count(window, &running.programs, backend)?.times_us);
                let as_many = Load::paced(Work::Full, SLOW_CONNECTIONS, &quick, pause)?;
                beside_quick.extend(other.count(window, &running.programs, backend)?.times_us);
                as_many.stop();
                let waiting = Load::start(Work::Full, SLOW_CONNECTIONS, &slow)?;
                let counted = std::thread::scope(|scope| {
                    let waited = scope.spawn(|| waiting.count(window, &running.programs, backend));
                    let others = other.count(window, &running.programs, backend);
                    (waited.join(), others)
                });
                waiting.stop();
                let died = |_| BenchError::Invalid("a thread that counts died".into());
                rates.push(counted.0.map_err(died)??.rate);
                beside.extend(counted.1?.times_us);
            }
            let rate = rates.median().unwrap_or_default();
            let (alone, beside) = (percentile(alone, 0.99), percentile(beside, 0.99));
            let beside_quick = percentile(beside_quick, 0.99);
            eprintln!(
                "  {}/s of {}/s; other keys' p99 {} µs alone, {} µs beside a quick key, {} µs beside it",
                digits(rate),
                digits(own),
                digits(alone),
                digits(beside_quick),
                digits(beside),
            );
            self.token_rate.push(own);
            self.slow_rate.push(rate / own);
            self.other_alone_p99.push(alone);
            self.other_beside_quick_p99.push(beside_quick);
            self.other_beside_p99.push(beside);
        }
        other.stop();
        relayed.stop();
        Ok(())
    }

    /// What to reach: words, whether at least (or at most), limit, found.
    pub(crate) fn goals(&self) -> Vec<(&'static str, bool, f64, Option<f64>)> {
        let most = |what, limit, a: &Series, b: &Series| (what, false, limit, ratio(a, b));
        let (pem, token) = (&self.pem.cpu_us, &self.softhsm.cpu_us);
        let (few, many) = (&self.few.cpu_us, &self.many.cpu_us);
        let (quick, slow) = (&self.other_beside_quick_p99, &self.other_beside_p99);
        vec![
            most("CPU per handshake with a key on SoftHSM2, × PEM key", 1.2, token, pem),
            (
                "Slow token: rate while relaying, × its own rate",
                true,
                0.97,
                self.slow_rate.median(),
            ),
            most(
                "Slow token: p99 of handshakes with other keys, × beside as many with a quick key",
                1.2,
                slow,
                quick,
            ),
            most("CPU per handshake with 100,000 identities, × ten", 1.05, many, few),
        ]
    }

    /// Its part of the report.
    pub(crate) fn show(&self) -> String {
        let mut out = String::from(
            "## Keys and identities\n\nThe pool beside itself: full handshakes on P-256.\n\n\
             | | handshakes/s | CPU µs per handshake |\n| --- | --- | --- |\n",
        );
        for (what, cost) in [
            ("key in a PEM file", &self.pem),
            ("key on SoftHSM2", &self.softhsm),
            ("10 identities", &self.few),
            ("100,000 identities", &self.many),
            ("10 identities, resumed", &self.few_resumed),
            ("100,000 identities, resumed", &self.many_resumed),
        ] {
            out += &cost.row(what);
        }
        // Writing to a String cannot fail.
        let _ = write!(
            out,
            "\nA token that takes 10 ms a signature, four at a time: four threads straight on its \
             module make {} signatures a second. With {SLOW_CONNECTIONS} connections waiting for it \
             in the pool while 64 connections are relayed: rate × {} of that. {OTHERS} connections \
             that shake hands with another key beside it: p99 {} µs. Beside as many connections that \
             shake hands at the token's rate with a quick key instead: {} µs; with neither: {} µs.\n",
            self.token_rate.show(),
            self.slow_rate.show(),
            self.other_beside_p99.show(),
            self.other_beside_quick_p99.show(),
            self.other_alone_p99.show(),
        );
        out
    }
}

fn handshakes(work: Work, running: &Running, window: Window, backend: &Backend) -> Result<Figures> {
    load::run(work, 16, &running.target(Key::P256)?, window, &running.programs, backend)
}

/// A SoftHSM2 token with the P-256 key of all candidates on it.
fn softhsm(setting: &Setting<'_>) -> Result<Shape> {
    let (key, certificate) =
        (setting.credentials.key(Key::P256), setting.credentials.certificate(Key::P256));
    let (uri, env) = token(&setting.folder.join("softhsm"), &key)?;
    Ok(Shape {
        keys: [Some((uri, certificate)), None],
        modules: vec![SOFTHSM.into()],
        env: vec![env],
        ..Shape::default()
    })
}

/// The slow token of the tests, in the place of the RSA key.
fn slow(setting: &Setting<'_>) -> Result<Shape> {
    let folder = setting.folder.join("slow");
    fs::create_dir_all(&folder).during("creating a folder")?;
    let (key, certificate) = (folder.join("key"), folder.join("certificate"));
    issue(Key::Rsa.name(), P256, &key, &certificate)?;
    let (uri, env) = token(&folder, &key)?;
    let control = folder.join("control");
    fs::write(&control, "delay_ms 10 parallel 4").during("writing the token's behaviour")?;
    let module = fs::canonicalize(setting.programs.join("libp11mock.so"));
    Ok(Shape {
        keys: [None, Some((uri, certificate))],
        modules: vec![module.during("the module of the slow token (cargo build -p p11mock)")?],
        env: vec![
            env,
            ("P11MOCK_MODULE", SOFTHSM.into()),
            ("P11MOCK_CONTROL", control.display().to_string()),
        ],
        ..Shape::default()
    })
}

/// A SoftHSM2 token with `key` on it: the key's URI, and the variable that leads to the token.
fn token(folder: &Path, key: &Path) -> Result<(String, (&'static str, String))> {
    fs::create_dir_all(folder.join("tokens")).during("creating a folder")?;
    let conf = folder.join("softhsm2.conf");
    let text = format!("directories.tokendir = {}/tokens\nlog.level = ERROR\n", folder.display());
    fs::write(&conf, text).during("writing a configuration")?;
    let env = ("SOFTHSM2_CONF", conf.display().to_string());
    let softhsm =
        |args: &[&str]| run(Command::new("softhsm2-util").args(args).env(env.0, &env.1)).map(drop);
    let key = key.display().to_string();
    softhsm(&["--init-token", "--free", "--label", "bench", "--so-pin", PIN, "--pin", PIN])?;
    softhsm(&["--import", &key, "--token", "bench", "--label", "key", "--id", "01", "--pin", PIN])?;
    let pin = folder.join("pin");
    fs::write(&pin, PIN).during("writing a PIN")?;
    let uri =
        format!("pkcs11:token=bench;object=key;type=private?pin-source=file:{}", pin.display());
    Ok((uri, env))
}
