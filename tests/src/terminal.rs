//! Programs on a terminal of their own, as a person would use them.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::LIMIT;
use crate::process::ends_in_time;

/// A program with a pseudo terminal as its controlling terminal. It is killed when dropped.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    ours: File,
    shown: Arc<Screen>,
}

/// What was shown so far.
#[derive(Debug, Default)]
struct Screen {
    text: Mutex<(String, bool)>,
    more: Condvar,
}

impl Terminal {
    /// Starts `command` by env(1) and setsid(1), so that `/dev/tty` is its terminal.
    pub fn start(command: &Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags).expect("a pseudo terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("our pseudo terminal");
        let path = ptsname(&ours, Vec::new()).expect("it has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(path, flags, Mode::empty()).expect("its other side");
        let end = || Stdio::from(theirs.try_clone().expect("a descriptor"));
        // Control-C and hanging up work on a terminal, also where the tests run with both ignored.
        let mut session = Command::new("env");
        session.args(["--default-signal=HUP,INT,QUIT", "setsid", "--ctty"]);
        session.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let child = session.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid(1)");
        let ours = File::from(ours);
        let shown = Arc::new(Screen::default());
        let (screen, mut from) = (shown.clone(), ours.try_clone().expect("a descriptor"));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                // Once the other side is closed, reading fails.
                let length = from.read(&mut buffer).unwrap_or(0);
                let mut text = screen.text.lock().unwrap_or_else(PoisonError::into_inner);
                text.0.push_str(&String::from_utf8_lossy(&buffer[..length]));
                text.1 = length == 0;
                screen.more.notify_all();
                if length == 0 {
                    return;
                }
            }
        });
        Self { child, ours, shown }
    }

    /// Waits until it has shown `words` so many times; returns all that it has shown.
    pub fn await_words(&self, words: &str, times: usize) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut text = self.shown.text.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if text.0.matches(words).count() >= times {
                return text.0.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!text.1 && !left.is_zero(), "no {words:?} {times} times: {}", text.0);
            let waited = self.shown.more.wait_timeout(text, left);
            text = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Types.
    pub fn keys(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).expect("a terminal");
    }

    /// Waits for its end.
    pub fn end(mut self) -> (ExitStatus, String) {
        let ended = ends_in_time(&self.child);
        let text = self.shown.text.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(ended, "it does not end: {}", text.0);
        // What it wrote last is read a moment later.
        let all = self.shown.more.wait_timeout_while(text, LIMIT, |text| !text.1);
        let text = all.unwrap_or_else(PoisonError::into_inner).0.0.clone();
        let status = self.child.wait().expect("it is our child");
        (status, text)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // setsid(1) has become the program.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
