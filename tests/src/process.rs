//! Programs that run beside a test, and what they say.

use std::fmt::Debug;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::LIMIT;

/// A program that was started, with everything it writes. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    said: Arc<Heard>,
}

/// What a process wrote so far, to both outputs.
#[derive(Debug, Default)]
struct Heard {
    words: Mutex<Words>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Words {
    bytes: Vec<u8>,
    /// Outputs that are still open.
    open: usize,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: &Arc<Self>, mut output: impl Read + Send + 'static) {
        self.lock().open += 1;
        let heard = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let length = output.read(&mut buffer).unwrap_or(0);
                let mut words = heard.lock();
                words.bytes.extend_from_slice(&buffer[..length]);
                words.open -= usize::from(length == 0);
                heard.more.notify_all();
                if length == 0 {
                    return;
                }
            }
        });
    }
}

impl Process {
    /// Starts `command`; its input and both outputs are ours.
    pub fn start(command: &mut Command) -> Self {
        let name = format!("{}", command.get_program().to_string_lossy());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {name}: {error}; is it installed?"));
        let said = Arc::new(Heard::default());
        said.listen(child.stdout.take().expect("was piped"));
        said.listen(child.stderr.take().expect("was piped"));
        Self { name, stdin: child.stdin.take(), child, said }
    }

    /// Its PID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&self.said.lock().bytes).into_owned()
    }

    /// As [`Self::said`], in bytes.
    pub fn said_bytes(&self) -> Vec<u8> {
        self.said.lock().bytes.clone()
    }

    /// Waits until it has written `words`, and returns everything it wrote.
    pub fn await_words(&self, words: &str) -> String {
        self.await_that(words, |said| said.contains(words))
    }

    /// Waits until what it wrote satisfies `condition`, and returns that.
    pub fn await_that(&self, what: impl Debug, condition: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut words = self.said.lock();
        loop {
            let said = String::from_utf8_lossy(&words.bytes).into_owned();
            if condition(&said) {
                return said;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let over = words.open == 0 || left.is_zero();
            assert!(!over, "{} did not say {what:?}, only: {said}", self.name);
            words =
                self.said.more.wait_timeout(words, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes to its input. One that has ended does not hear it, as its end and words show.
    pub fn tell(&mut self, words: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("its input was closed");
        match stdin.write_all(words.as_ref()).and_then(|()| stdin.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                panic!("{} does not read: {error}", self.name);
            }
            _ => {}
        }
    }

    /// Its input, to write from elsewhere.
    pub fn take_stdin(&mut self) -> ChildStdin {
        self.stdin.take().expect("its input was closed")
    }

    /// Ends its input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.raw_pid(), signal).expect("it runs");
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(self.pid() as i32).expect("a PID is positive")
    }

    /// Waits for its end, and for the end of what it wrote.
    pub fn end(mut self) -> (ExitStatus, String) {
        self.stdin = None;
        let status = self.wait();
        let deadline = Instant::now() + LIMIT;
        let mut words = self.said.lock();
        while words.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} left children that write", self.name);
            words =
                self.said.more.wait_timeout(words, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        (status, String::from_utf8_lossy(&words.bytes).into_owned())
    }

    /// Waits for its end, with its input open.
    pub fn wait(&mut self) -> ExitStatus {
        let ended = ends_in_time(&self.child);
        assert!(ended, "{} does not end; it said: {}", self.name, self.said());
        self.child.wait().expect("it is our child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a child has ended; `false` if it does not.
pub(crate) fn ends_in_time(child: &Child) -> bool {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("it was not waited for");
    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    let mut poll_fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    poll(&mut poll_fds, Some(&limit)).expect("poll works") > 0
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Said {
    /// Whether it succeeded.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program to its end, with no input.
pub fn run(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output();
    output.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}")).into()
}

/// Runs `openssl`, which must succeed, and returns its output.
pub fn openssl(arguments: &[&str]) -> String {
    let said = run(Command::new("openssl").args(arguments));
    assert!(said.ok, "openssl {arguments:?}: {}", said.err);
    said.out
}
