//! A folder with a configuration, and daemons in it. Readiness comes over the socket that systemd would listen on, ends
//! come from waiting for processes.

use serde_json::Value;
use std::fs;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Nothing takes this long; a test that fails ends nevertheless.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// A folder with a configuration for a daemon of the user who runs the tests.
pub(crate) struct House {
    pub(crate) dir: tempfile::TempDir,
}

impl House {
    pub(crate) fn new() -> Self {
        let house = Self { dir: tempfile::tempdir().unwrap() };
        house.configure("");
        house
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn configure(&self, more: &str) {
        let uid = rustix::process::geteuid().as_raw();
        let dir = self.dir.path().display();
        let text = format!(
            "user = \"{uid}\"\nkey_user = \"{uid}\"\nlookup_user = \"{uid}\"\nworkers = 2\nruntime_dir = \"{dir}/run\"\n\
             database = \"{dir}/state/db\"\nsocket = [{{ path = \"{dir}/run/sock\", mode = \"0600\" }}]\n{more}"
        );
        fs::write(self.path("tlspool.toml"), text).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tlspool"));
        command.arg("-c").arg(self.path("tlspool.toml")).args(arguments);
        command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts a daemon in the foreground and waits until it is ready.
    pub(crate) fn start(&self, arguments: &[&str]) -> Daemon {
        let mut command = self.command(&["-f"]);
        command.args(arguments);
        Self::start_command(command)
    }

    pub(crate) fn start_command(mut command: Command) -> Daemon {
        let notify = tempfile::tempdir().unwrap();
        let path = notify.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_read_timeout(Some(LIMIT)).unwrap();
        let log = fs::File::create(notify.path().join("log")).unwrap();
        let child = command.env("NOTIFY_SOCKET", &path).stderr(log).spawn().unwrap();
        let daemon = Daemon { child, systemd, notify };
        let said = daemon.hear();
        assert!(said.starts_with("READY=1\n"), "{said}\n{}", daemon.log());
        daemon
    }

    pub(crate) fn connect(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(self.path("run/sock"))
    }

    pub(crate) fn status(&self) -> Value {
        let output = self.output(&["status", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn pid_in_file(&self) -> String {
        fs::read_to_string(self.path("run/tlspool.pid")).unwrap().trim().to_owned()
    }
}

pub(crate) struct Daemon {
    pub(crate) child: Child,
    systemd: UnixDatagram,
    notify: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next word to systemd.
    pub(crate) fn hear(&self) -> String {
        let mut buffer = [0; 500];
        let length =
            self.systemd.recv(&mut buffer).unwrap_or_else(|e| panic!("{e}: {}", self.log()));
        text(&buffer[..length])
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        signal_pid(self.pid(), signal);
    }

    /// Waits for the end: whether it was a good one, and the log.
    pub(crate) fn end(mut self) -> (bool, String) {
        let status = self.child.wait().unwrap();
        (status.success(), self.log())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.notify.path().join("log")).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn signal_pid(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until the status satisfies `condition`.
pub(crate) fn await_status(house: &House, condition: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + LIMIT;
    loop {
        let status = house.status();
        if condition(&status) {
            return status;
        }
        assert!(Instant::now() < end, "{status:#}");
    }
}

/// A field of /proc/PID/status.
pub(crate) fn of_process(pid: &Value, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The client's half of a connection whose other end says nothing, and that end.
pub(crate) fn silent_peer() -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    far.set_read_timeout(Some(LIMIT)).unwrap();
    (near, far)
}

/// Waits until the log has this.
pub(crate) fn await_log(daemon: &Daemon, words: &str) {
    let end = Instant::now() + LIMIT;
    while !daemon.log().contains(words) {
        assert!(Instant::now() < end, "{}", daemon.log());
        std::thread::yield_now();
    }
}
