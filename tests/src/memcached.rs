//! `memcached`, on a free port or a UNIX socket.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::LIMIT;
use crate::is_root;
use crate::net::free_port;
use crate::process::Process;

/// A memcached that runs.
#[derive(Debug)]
pub struct Memcached {
    /// Where it listens, as the configuration has it: `127.0.0.1:PORT` or `unix:PATH`.
    pub server: String,
    process: Process,
    arguments: Vec<String>,
    _dir: TempDir,
}

impl Memcached {
    /// On a free port of 127.0.0.1.
    pub fn tcp() -> Self {
        Self::tcp_with(&[])
    }

    /// As [`Self::tcp`], with more arguments.
    pub fn tcp_with(more: &[&str]) -> Self {
        let port = free_port();
        let arguments = ["-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()].map(String::from);
        Self::start(format!("127.0.0.1:{port}"), &arguments, more, None)
    }

    /// On a UNIX socket in a temporary folder.
    pub fn unix() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path: PathBuf = dir.path().join("memcached.sock");
        let path = path.to_str().expect("temporary paths are text");
        Self::start(format!("unix:{path}"), &["-s", path].map(String::from), &[], Some(dir))
    }

    fn start(server: String, listen: &[String], more: &[&str], dir: Option<TempDir>) -> Self {
        let mut arguments = listen.to_vec();
        // It says what it does, which tells when it is ready.
        arguments.extend(["-vv", "-t", "1"].map(String::from));
        arguments.extend(more.iter().map(|more| (*more).to_owned()));
        if is_root() {
            arguments.extend(["-u", "root"].map(String::from));
        }
        let process = run(&arguments);
        let dir = dir.unwrap_or_else(|| tempfile::tempdir().expect("a temporary folder"));
        let memcached = Self { server, process, arguments, _dir: dir };
        memcached.await_ready();
        memcached
    }

    fn await_ready(&self) {
        self.process.await_words("server listening");
        let deadline = Instant::now() + LIMIT;
        // It says so a moment before it does.
        loop {
            let connected = match self.server.strip_prefix("unix:") {
                Some(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
                None => std::net::TcpStream::connect(&self.server).is_ok(),
            };
            if connected {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "memcached does not listen: {}",
                self.process.said()
            );
            std::thread::yield_now();
        }
    }

    /// Ends it. Where it listened, nobody listens then.
    pub fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
    }

    /// Starts it again after [`Self::kill`], empty.
    pub fn restart(&mut self) {
        if let Some(path) = self.server.strip_prefix("unix:") {
            let _ = std::fs::remove_file(path);
        }
        self.process = run(&self.arguments);
        self.await_ready();
    }

    /// Stops it in its tracks: connections are accepted by the kernel, and nothing is answered.
    pub fn stall(&self) {
        self.process.signal(Signal::STOP);
        let deadline = Instant::now() + LIMIT;
        while !self.is_stopped() {
            assert!(Instant::now() < deadline, "it does not stop");
            std::thread::yield_now();
        }
    }

    /// Whether all of its threads have come to a stop.
    fn is_stopped(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.pid()));
        tasks.expect("it runs").all(|task| {
            let stat = std::fs::read_to_string(task.expect("a thread").path().join("stat"));
            // PID (name) STATE
            stat.expect("it runs").rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
        })
    }

    /// Lets it go on after [`Self::stall`].
    pub fn go_on(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Waits until it has stored `count` values.
    pub fn await_stored(&self, count: usize) {
        let stored = |log: &str| log.matches(" STORED").count() >= count;
        self.process.await_that(format!("STORED, {count} times"), stored);
    }

    /// Waits until its log has one of these words.
    pub fn await_log(&self, words: &[&str]) -> String {
        self.process.await_that(words, |log| words.iter().any(|words| log.contains(words)))
    }

    /// What it was asked and answered so far.
    pub fn log(&self) -> String {
        self.process.said()
    }
}

fn run(arguments: &[String]) -> Process {
    Process::start(Command::new("memcached").args(arguments))
}
