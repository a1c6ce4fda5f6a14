//! The log: lines to standard error, to systemd's journal or to syslog.
//!
//! Each process calls [`init`] once. Whoever logs never waits: lines go through a bounded queue to a
//! thread of their own, and what does not fit is counted and told when there is room again.
//!
//! Never logged, at no level: PINs, keys, session secrets, application data.

mod format;
mod lines;
mod sink;

use crate::config::{Log, LogLevel, LogTarget};
use lines::{Lines, MESSAGE, Queue};
use sink::{Sink, SinkError};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait for a slow log.
const QUEUE: usize = 4096;

/// The log's thread rests this long between batches of lines.
const REST: Duration = Duration::from_millis(5);

/// At the end of a process, how long the log may still take.
const FLUSH_TIME: Duration = Duration::from_secs(2);

static WRITER: OnceLock<Arc<Queue>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);
static FILTER: OnceLock<reload::Handle<LevelFilter, tracing_subscriber::Registry>> =
    OnceLock::new();

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log's own daemon is not there.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The thread that writes cannot start.
    #[error("cannot start the thread that writes the log: {0}")]
    Thread(#[from] std::io::Error),
}

/// Opens the log; `name` is what lines are marked with. [`LogTarget::Auto`], which [`resolve`] should have
/// settled, is standard error.
pub fn init(log: &Log, name: &'static str) -> Result<(), LogError> {
    let sink = Sink::open(log.target, name)?;
    let queue = Arc::new(Queue::new(QUEUE));
    let (filter, handle) = reload::Layer::new(level_filter(log.level));
    let layer = QueueLayer { queue: queue.clone() }.with_filter(filter);
    if tracing_subscriber::registry().with(layer).try_init().is_ok() {
        let lines = queue.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || write_lines(sink, &lines))?;
        let _ = FILTER.set(handle);
        let _ = WRITER.set(queue);
        // Standard error may be closed.
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    }
    Ok(())
}

/// Takes over a level after the configuration was read again. The target stays.
pub fn reload(log: &Log) {
    if let Some(filter) = FILTER.get() {
        let _ = filter.reload(level_filter(log.level));
    }
}

/// Waits until everything is written, but no longer than a moment: for the end of a process.
pub fn flush() {
    if let Some(queue) = WRITER.get() {
        let (written, done) = sync_channel(1);
        queue.flush(written);
        let _ = done.recv_timeout(FLUSH_TIME);
    }
}

/// Lines that were dropped since the start because the log was too slow.
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// What [`LogTarget::Auto`] is here and now. The supervisor decides once for all its processes.
pub fn resolve(target: LogTarget, foreground: bool) -> LogTarget {
    // Standard error is the journal already: its own protocol keeps the fields apart.
    let journal = sink::journald_runs() && std::env::var_os("JOURNAL_STREAM").is_some();
    match target {
        LogTarget::Auto if foreground && !journal => LogTarget::Stderr,
        LogTarget::Auto if sink::journald_runs() => LogTarget::Journald,
        LogTarget::Auto if sink::syslog_runs() => LogTarget::Syslog,
        LogTarget::Auto => LogTarget::Stderr,
        named => named,
    }
}

fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn write_lines(mut sink: Sink, queue: &Queue) -> ! {
    let (mut told, mut lines) = (0, Lines::default());
    loop {
        let flushes = queue.take(&mut lines);
        lines.iter().for_each(|line| sink.write(&line));
        let dropped = dropped_lines();
        if dropped > told {
            let text = format!("{} log lines were dropped: the log is too slow", dropped - told);
            let line = Lines::line(SystemTime::now(), Level::WARN, &[(MESSAGE, &text)]);
            line.iter().for_each(|line| sink.write(&line));
            told = dropped;
        }
        sink.flush();
        for written in flushes {
            // Who has waited for too long is gone.
            let _ = written.try_send(());
        }
        // Whoever logs while this thread rests need not wake it, which would cost more than the line.
        std::thread::sleep(REST);
    }
}

/// Puts every event into the queue.
struct QueueLayer {
    queue: Arc<Queue>,
}

impl<S: Subscriber> Layer<S> for QueueLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if !self.queue.put(event) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_logs_never_waits() {
        let queue = Arc::new(Queue::new(1));
        let subscriber = tracing_subscriber::registry().with(QueueLayer { queue: queue.clone() });
        let before = dropped_lines();
        tracing::subscriber::with_default(subscriber, || {
            for n in 0..3 {
                tracing::info!(n, "a line");
            }
        });
        assert_eq!(dropped_lines() - before, 2);
        let mut lines = Lines::default();
        queue.take(&mut lines);
        let texts: Vec<_> = lines.iter().map(|line| line.text()).collect();
        assert_eq!(texts, ["a line n=0"]);
    }

    #[test]
    fn auto_finds_a_log_that_is_there() {
        assert!(Sink::open(resolve(LogTarget::Auto, true), "test").is_ok());
        assert!(Sink::open(resolve(LogTarget::Auto, false), "test").is_ok());
        assert_eq!(resolve(LogTarget::Syslog, true), LogTarget::Syslog);
    }
}
