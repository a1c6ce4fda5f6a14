//! Lines on their way to the thread that writes them.
//!
//! They lie one behind the other in memory that whoever logs and the thread that writes take turns with. So a line costs no
//! memory of its own, and above all none that another thread gives back: for that it would wait until the one whose
//! memory it was has done with the allocator, and the other way round.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::sync::mpsc::SyncSender;
use std::time::SystemTime;

use parking_lot::{Condvar, Mutex};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

/// What tracing calls the text of an event.
pub(super) const MESSAGE: &str = "message";
/// Most that waits, in bytes of text.
const MOST_TEXT: usize = 4 << 20;
/// Memory for so much text is kept while nothing is logged.
const KEPT: usize = 256 << 10;

/// Lines in the order in which they were logged.
#[derive(Debug, Default)]
pub(super) struct Lines {
    heads: Vec<Head>,
    /// Names, and where in the text the values end.
    fields: Vec<(&'static str, usize)>,
    text: String,
}

/// Of one line.
#[derive(Debug, Clone, Copy)]
struct Head {
    time: SystemTime,
    level: Level,
    /// Where its fields end.
    fields: usize,
}

/// One event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    lines: &'a Lines,
    first: usize,
    end: usize,
}

impl Lines {
    fn add(&mut self, event: &Event<'_>) {
        event.record(self);
        self.end_line(SystemTime::now(), *event.metadata().level());
    }

    /// All fields since the line before are one.
    fn end_line(&mut self, time: SystemTime, level: Level) {
        self.heads.push(Head { time, level, fields: self.fields.len() });
    }

    fn put(&mut self, name: &'static str, value: fmt::Arguments<'_>) {
        // What a `Display` fails to say is missing; a String takes everything.
        let _ = self.text.write_fmt(value);
        self.fields.push((name, self.text.len()));
    }

    /// One line.
    pub(super) fn line(time: SystemTime, level: Level, fields: &[(&'static str, &str)]) -> Self {
        let mut lines = Self::default();
        for (name, value) in fields {
            lines.put(name, format_args!("{value}"));
        }
        lines.end_line(time, level);
        lines
    }

    fn append(&mut self, other: &Self) {
        let (fields, text) = (self.fields.len(), self.text.len());
        self.text.push_str(&other.text);
        self.fields.extend(other.fields.iter().map(|(name, end)| (*name, text + end)));
        self.heads
            .extend(other.heads.iter().map(|head| Head { fields: fields + head.fields, ..*head }));
    }

    fn clear(&mut self) {
        if self.text.capacity() > KEPT {
            *self = Self::default();
        }
        self.heads.clear();
        self.fields.clear();
        self.text.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Line<'_>> {
        self.heads.iter().enumerate().map(|(n, head)| {
            let first = n.checked_sub(1).map_or(0, |before| self.heads[before].fields);
            let Head { time, level, fields: end } = *head;
            Line { time, level, lines: self, first, end }
        })
    }
}

impl Visit for Lines {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format_args!("{value:?}"));
    }
}

impl<'a> Line<'a> {
    /// What it says.
    pub(super) fn message(&self) -> &'a str {
        let message = self.all().find(|(name, _)| *name == MESSAGE);
        message.map_or("", |(_, message)| message)
    }

    /// And besides.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a> {
        self.all().filter(|(name, _)| *name != MESSAGE)
    }

    fn all(&self) -> impl Iterator<Item = (&'static str, &'a str)> + use<'a> {
        let Self { lines, first, end, .. } = *self;
        (first..end).map(|n| {
            let begin = n.checked_sub(1).map_or(0, |before| lines.fields[before].1);
            let (name, end) = lines.fields[n];
            (name, &lines.text[begin..end])
        })
    }
}

/// Lines that wait for the thread that writes.
#[derive(Debug)]
pub(super) struct Queue {
    most: usize,
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Lines,
    flushes: Vec<SyncSender<()>>,
    /// The thread that writes sleeps until there is something.
    sleeps: bool,
}

thread_local! {
    /// A line that is being made.
    static SCRATCH: RefCell<Lines> = RefCell::default();
}

impl Queue {
    /// For so many lines.
    pub(super) fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default(), news: Condvar::new() }
    }

    /// Puts a line in; `false` if there is no room. Never waits for the log.
    pub(super) fn put(&self, event: &Event<'_>) -> bool {
        // A value that logs something itself while it is written here finds none, and that is as good.
        let mut line = SCRATCH.try_with(RefCell::take).unwrap_or_default();
        line.clear();
        line.add(event);
        let put = self.put_line(&line);
        // There is no keeping it at the end of the thread.
        let _ = SCRATCH.try_with(|scratch| scratch.replace(line));
        put
    }

    fn put_line(&self, line: &Lines) -> bool {
        let mut waiting = self.waiting.lock();
        let lines = &mut waiting.lines;
        if lines.heads.len() >= self.most || lines.text.len() + line.text.len() > MOST_TEXT {
            return false;
        }
        lines.append(line);
        self.tell(waiting);
        true
    }

    /// Has `written` called when all that waits is written.
    pub(super) fn flush(&self, written: SyncSender<()>) {
        let mut waiting = self.waiting.lock();
        waiting.flushes.push(written);
        self.tell(waiting);
    }

    fn tell(&self, mut waiting: parking_lot::MutexGuard<'_, Waiting>) {
        let slept = std::mem::take(&mut waiting.sleeps);
        drop(waiting);
        if slept {
            self.news.notify_one();
        }
    }

    /// Waits until there is something. `lines` were written and are forgotten; they become those that waited. Returns who
    /// wants to be told when these are written.
    pub(super) fn take(&self, lines: &mut Lines) -> Vec<SyncSender<()>> {
        lines.clear();
        let mut waiting = self.waiting.lock();
        while waiting.lines.heads.is_empty() && waiting.flushes.is_empty() {
            waiting.sleeps = true;
            self.news.wait(&mut waiting);
        }
        std::mem::swap(&mut waiting.lines, lines);
        std::mem::take(&mut waiting.flushes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn line(n: usize) -> Lines {
        let value = "v".repeat(n);
        Lines::line(UNIX_EPOCH, Level::INFO, &[("a", &value), (MESSAGE, "says"), ("b", "")])
    }

    #[test]
    fn lines_come_as_they_went_and_their_memory_comes_back() {
        let queue = Queue::new(10);
        let mut lines = Lines::default();
        for round in 0..3 {
            (0..5).for_each(|n| assert!(queue.put_line(&line(n + round))));
            assert!(queue.take(&mut lines).is_empty());
            let mut n = round;
            for line in lines.iter() {
                assert_eq!((line.message(), line.level), ("says", Level::INFO));
                let value = "v".repeat(n);
                assert_eq!(line.fields().collect::<Vec<_>>(), [("a", value.as_str()), ("b", "")]);
                n += 1;
            }
            assert_eq!(n, round + 5);
        }
    }

    #[test]
    fn what_waits_has_bounds() {
        let queue = Queue::new(3);
        assert_eq!((0..5).filter(|n| queue.put_line(&line(*n))).count(), 3);
        let queue = Queue::new(1000);
        let mut lines = Lines::default();
        for _ in 0..2 {
            let taken = (0..10).filter(|_| queue.put_line(&line(1 << 20))).count();
            assert_eq!(taken, 3, "and their few other bytes");
            queue.take(&mut lines);
        }
        lines.clear();
        assert!(lines.text.capacity() <= KEPT);
    }

    #[test]
    fn who_sleeps_is_woken_by_a_line_and_by_a_flush() {
        let queue = Queue::new(10);
        std::thread::scope(|scope| {
            let (told, tell) = sync_channel(1);
            let queue = &queue;
            scope.spawn(move || {
                let mut lines = Lines::default();
                loop {
                    let flushes = queue.take(&mut lines);
                    told.send(lines.iter().count()).unwrap();
                    if let Some(flush) = flushes.first() {
                        return flush.send(()).unwrap();
                    }
                }
            });
            let asleep = || {
                while !queue.waiting.lock().sleeps {
                    std::thread::yield_now();
                }
            };
            asleep();
            assert!(queue.put_line(&line(1)));
            assert_eq!(tell.recv(), Ok(1));
            asleep();
            let (written, flushed) = sync_channel(1);
            queue.flush(written);
            assert_eq!(tell.recv(), Ok(0));
            flushed.recv().unwrap();
        });
    }
}
