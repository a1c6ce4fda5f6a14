//! A process that the daemon can do without for a while: the key process, the look-up process. When it
//! dies, it is started again, soon at first, later if it goes on dying.

use super::children::Process;
use std::io;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::time::Instant;

/// First and longest wait before a process that died is started again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(30));
/// A process that lived this long has earned the short wait again.
const STABLE: Duration = Duration::from_mins(1);

/// The process, or the wait for the next one, or neither if none is wanted.
pub(super) struct Helper {
    process: Option<Process>,
    since: Instant,
    restart_at: Option<Instant>,
    backoff: Duration,
    restarts: u64,
}

impl Helper {
    /// No process, and none wanted.
    pub(super) fn none() -> Self {
        Self {
            process: None,
            since: Instant::now(),
            restart_at: None,
            backoff: BACKOFF.0,
            restarts: 0,
        }
    }

    /// The first process.
    pub(super) fn first(process: Process) -> Self {
        Self { process: Some(process), ..Self::none() }
    }

    /// The process is ended, if there is one, and none is wanted for now.
    pub(super) fn stop(&mut self) {
        self.restart_at = None;
        self.process = None;
    }

    /// The next process has been started.
    pub(super) fn next(&mut self, process: Process) {
        self.restart_at = None;
        self.process = Some(process);
        self.since = Instant::now();
        self.restarts += 1;
    }

    /// The process has ended, or could not be started. Returns when to start the next one.
    pub(super) fn died(&mut self) -> Duration {
        self.process = None;
        self.backoff = if self.since.elapsed() > STABLE {
            BACKOFF.0
        } else {
            (self.backoff * 2).min(BACKOFF.1)
        };
        self.restart_at = Some(Instant::now() + self.backoff);
        self.backoff
    }

    /// Waits for the end of the process. May be cancelled.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        match &mut self.process {
            Some(process) => process.life.ended().await,
            None => std::future::pending().await,
        }
    }

    /// When the next process is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.restart_at
    }

    /// The PID of the process, if there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.life.pid())
    }

    /// How often it was started again.
    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }
}
