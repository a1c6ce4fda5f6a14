//! Puts one kind of work on a candidate and counts over a window of steady state.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;

use crate::backend::{Backend, ECHO, ONE, SINK, SOURCE};
use crate::client::{self, BULK, Client, Got};
use crate::error::{BenchError, During, Result};
use crate::figures::percentile;
use crate::interrupt;
use crate::procs::Programs;

/// Bytes of a round trip's message.
const MESSAGE: usize = 1024;
/// Threads that open idle sessions.
const OPENERS: usize = 4;
/// Time for the connections of one load to be opened.
const STANDING_TIME: Duration = Duration::from_secs(30);
/// More failures than this share make the figure worthless.
const FAILURES: f64 = 0.01;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Full handshakes, each with one byte to and from the backend and an orderly end.
    Full,
    /// The same, resumed by ticket.
    Resumed,
    /// Messages of 1 KiB there and back on open connections.
    RoundTrip,
    /// Bulk data to the backend.
    Up,
    /// Bulk data from the backend.
    Down,
}

/// Where the candidate listens and under which name.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// TLS side.
    pub(crate) address: SocketAddr,
    /// Server name indication.
    pub(crate) name: ServerName<'static>,
}

/// How long to warm up and to count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Before counting.
    pub(crate) warm: Duration,
    /// Counting.
    pub(crate) count: Duration,
}

/// What was counted in one window. An operation is a handshake, a round trip or a MiB.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    /// Operations per second.
    pub(crate) rate: f64,
    /// Microseconds of CPU time of all the candidate's processes per operation.
    pub(crate) cpu_us: f64,
    /// The same for each process.
    pub(crate) cpu_us_of: HashMap<String, f64>,
    /// Median time of an operation, in microseconds (not for bulk data).
    pub(crate) p50_us: f64,
    /// 99th percentile.
    pub(crate) p99_us: f64,
    /// All these times.
    pub(crate) times_us: Vec<u32>,
    /// Share of handshakes that were resumed.
    pub(crate) resumed: f64,
}

/// What the threads of one load share.
#[derive(Debug, Default)]
struct Shared {
    /// Pause after each operation.
    pace: Duration,
    stop: AtomicBool,
    counting: AtomicBool,
    /// Connections that stand and do their work (of round trips and bulk data).
    standing: AtomicU64,
    operations: AtomicU64,
    bytes: AtomicU64,
    resumed: AtomicU64,
    failures: AtomicU64,
    first_failure: Mutex<Option<String>>,
    times_us: Mutex<Vec<u32>>,
}

/// Work in progress; [`Load::stop`] ends it.
#[derive(Debug)]
pub(crate) struct Load {
    work: Work,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// Counters at one moment.
struct Snapshot {
    at: Instant,
    cpu: HashMap<String, Duration>,
    done: u64,
    resumed: u64,
}

impl Load {
    /// Starts `threads` threads, each with one connection at a time.
    pub(crate) fn start(work: Work, threads: usize, target: &Target) -> Result<Self> {
        Self::paced(work, threads, target, Duration::ZERO)
    }

    /// The same, with a pause after each handshake or round trip, so that there is CPU time left.
    pub(crate) fn paced(
        work: Work,
        threads: usize,
        target: &Target,
        pace: Duration,
    ) -> Result<Self> {
        let shared = Arc::new(Shared { pace, ..Shared::default() });
        let threads = (0..threads)
            .map(|_| {
                let (target, shared) = (target.clone(), Arc::clone(&shared));
                let config = client::config(work == Work::Resumed)?;
                std::thread::Builder::new()
                    .name("load".into())
                    .stack_size(256 * 1024)
                    .spawn(move || worker(work, &target, &config, &shared))
                    .during("thread")
            })
            .collect::<Result<_>>()?;
        Ok(Self { work, shared, threads })
    }

    /// Counts for one window.
    pub(crate) fn count(
        &self,
        window: Window,
        programs: &Programs,
        backend: &Backend,
    ) -> Result<Figures> {
        self.wait_until_standing()?;
        std::thread::sleep(window.warm);
        self.shared.counting.store(true, Ordering::Relaxed);
        let before = self.snapshot(programs, backend)?;
        std::thread::sleep(window.count);
        interrupt::check()?;
        let after = self.snapshot(programs, backend)?;
        self.shared.counting.store(false, Ordering::Relaxed);
        let failures = self.shared.failures.load(Ordering::Relaxed);
        let total = self.shared.operations.load(Ordering::Relaxed);
        let done = after.done - before.done;
        if done == 0 || failures as f64 > FAILURES * total as f64 {
            let first = self.shared.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
            let first = first.as_deref().unwrap_or("nothing was done");
            return Err(BenchError::Invalid(format!("{failures} of {total} failed: {first}")));
        }
        let unit = match self.work {
            Work::Up | Work::Down => 1024.0 * 1024.0,
            _ => 1.0,
        };
        let operations = done as f64 / unit;
        let times_us = std::mem::take(
            &mut *self.shared.times_us.lock().unwrap_or_else(PoisonError::into_inner),
        );
        let cpu_us_of: HashMap<String, f64> = after
            .cpu
            .iter()
            .map(|(name, cpu)| {
                let used = cpu.saturating_sub(before.cpu.get(name).copied().unwrap_or_default());
                (name.clone(), used.as_secs_f64() * 1e6 / operations)
            })
            .collect();
        Ok(Figures {
            rate: operations / (after.at - before.at).as_secs_f64(),
            cpu_us: cpu_us_of.values().sum(),
            cpu_us_of,
            p50_us: percentile(times_us.clone(), 0.5),
            p99_us: percentile(times_us.clone(), 0.99),
            times_us,
            resumed: (after.resumed - before.resumed) as f64 / operations,
        })
    }

    /// Handshakes are no part of round trips and bulk data.
    fn wait_until_standing(&self) -> Result<()> {
        if matches!(self.work, Work::Full | Work::Resumed) {
            return Ok(());
        }
        let deadline = Instant::now() + STANDING_TIME;
        while self.shared.standing.load(Ordering::Relaxed) < self.threads.len() as u64 {
            interrupt::check()?;
            if Instant::now() > deadline {
                let standing = self.shared.standing.load(Ordering::Relaxed);
                let all = self.threads.len();
                return Err(BenchError::Invalid(format!("only {standing} of {all} connections")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn snapshot(&self, programs: &Programs, backend: &Backend) -> Result<Snapshot> {
        Ok(Snapshot {
            at: Instant::now(),
            cpu: programs.cpu()?,
            done: match self.work {
                Work::Up => backend.swallowed.load(Ordering::Relaxed),
                Work::Down => self.shared.bytes.load(Ordering::Relaxed),
                _ => self.shared.operations.load(Ordering::Relaxed),
            },
            resumed: self.shared.resumed.load(Ordering::Relaxed),
        })
    }

    /// Ends the work and waits for its threads.
    pub(crate) fn stop(self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A thread that panicked has counted nothing more; the figures stand.
            let _ = thread.join();
        }
    }
}

/// Starts, counts, stops.
pub(crate) fn run(
    work: Work,
    threads: usize,
    target: &Target,
    window: Window,
    programs: &Programs,
    backend: &Backend,
) -> Result<Figures> {
    let load = Load::start(work, threads, target)?;
    let figures = load.count(window, programs, backend);
    load.stop();
    figures
}

/// One thread: works until told to stop, and starts anew after a failure.
fn worker(work: Work, target: &Target, config: &Arc<ClientConfig>, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        let outcome = match work {
            Work::Full | Work::Resumed => handshakes(target, config, shared),
            Work::RoundTrip => round_trips(target, config, shared),
            Work::Up => up(target, config, shared),
            Work::Down => down(target, config, shared),
        };
        if let Err(error) = outcome {
            shared.failures.fetch_add(1, Ordering::Relaxed);
            shared
                .first_failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert_with(|| error.to_string());
            // A candidate that refuses everything must not make this a busy loop.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Counts an operation that began at `since`, and pauses.
fn record(shared: &Shared, since: Instant) {
    shared.operations.fetch_add(1, Ordering::Relaxed);
    if shared.counting.load(Ordering::Relaxed) {
        let us = since.elapsed().as_micros() as u32;
        shared.times_us.lock().unwrap_or_else(PoisonError::into_inner).push(us);
    }
    if !shared.pace.is_zero() {
        std::thread::sleep(shared.pace);
    }
}

fn handshakes(target: &Target, config: &Arc<ClientConfig>, shared: &Shared) -> Result<()> {
    while !shared.stop.load(Ordering::Relaxed) {
        let since = Instant::now();
        let mut client = Client::connect(config, target.address, &target.name)?;
        once(&mut client)?;
        if client.resumed() {
            shared.resumed.fetch_add(1, Ordering::Relaxed);
        }
        record(shared, since);
    }
    Ok(())
}

/// One byte to the backend and back, then its end.
fn once(client: &mut Client) -> Result<()> {
    client.write(&[ONE])?;
    loop {
        if client.read()? == Got::End {
            return Ok(());
        }
    }
}

fn round_trips(target: &Target, config: &Arc<ClientConfig>, shared: &Shared) -> Result<()> {
    let mut client = Client::connect(config, target.address, &target.name)?;
    client.write(&[ECHO])?;
    shared.standing.fetch_add(1, Ordering::Relaxed);
    let message = [b'm'; MESSAGE];
    while !shared.stop.load(Ordering::Relaxed) {
        let since = Instant::now();
        client.round_trip(&message)?;
        record(shared, since);
    }
    Ok(())
}

fn up(target: &Target, config: &Arc<ClientConfig>, shared: &Shared) -> Result<()> {
    let mut client = Client::connect(config, target.address, &target.name)?;
    client.grow();
    client.write(&[SINK])?;
    shared.standing.fetch_add(1, Ordering::Relaxed);
    let data = vec![b'u'; BULK];
    while !shared.stop.load(Ordering::Relaxed) {
        client.write(&data)?;
        shared.operations.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn down(target: &Target, config: &Arc<ClientConfig>, shared: &Shared) -> Result<()> {
    let mut client = Client::connect(config, target.address, &target.name)?;
    client.grow();
    client.write(&[SOURCE])?;
    shared.standing.fetch_add(1, Ordering::Relaxed);
    while !shared.stop.load(Ordering::Relaxed) {
        let Got::Bytes(n) = client.read()? else {
            return Err(BenchError::Invalid("the source ended".into()));
        };
        shared.bytes.fetch_add(n as u64, Ordering::Relaxed);
        shared.operations.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// One full handshake and an echo: proves that the candidate is ready.
pub(crate) fn probe(target: &Target) -> Result<()> {
    let mut client = Client::connect(&client::config(false)?, target.address, &target.name)?;
    once(&mut client)
}

/// Opens `count` sessions that are relayed and then idle.
pub(crate) fn idle(target: &Target, count: usize) -> Result<Vec<TcpStream>> {
    let open = |count: usize| -> Result<Vec<TcpStream>> {
        let config = client::config(false)?;
        (0..count)
            .map(|_| {
                let mut client = Client::connect(&config, target.address, &target.name)?;
                client.write(&[ECHO])?;
                client.round_trip(b"there?")?;
                Ok(client.into_socket())
            })
            .collect()
    };
    std::thread::scope(|scope| {
        let openers: Vec<_> = (0..OPENERS).map(|_| scope.spawn(|| open(count / OPENERS))).collect();
        let mut sockets = Vec::with_capacity(count);
        for opener in openers {
            let opened = opener
                .join()
                .map_err(|_| BenchError::Invalid("a thread that opens sessions died".into()))?;
            sockets.extend(opened?);
        }
        Ok(sockets)
    })
}
