//! A pool in a temporary folder: configuration, database, tokens, authority, daemon.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io};

use rustix::process::Signal;
use tempfile::TempDir;
use tlspool_client::Pool;

use crate::authority::{Authority, Leaf};
use crate::binaries::program;
use crate::process::{Process, Said, run};
use crate::{LIMIT, is_root};

/// PIN of the tokens that tests make.
pub const PIN: &str = "271828";

/// The module of SoftHSM2.
pub const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";

/// The folder of one pool, with its own authority, which the pool trusts, and nobody else's.
#[derive(Debug)]
pub struct House {
    dir: TempDir,
    authority: Arc<Authority>,
    notified: AtomicUsize,
}

impl Default for House {
    fn default() -> Self {
        Self::new()
    }
}

impl House {
    /// With SoftHSM2 as its module, and no identities.
    pub fn new() -> Self {
        Self::with("")
    }

    /// With lines added to the configuration, as in [`Self::configure`].
    pub fn with(more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        // The network process is another user, if we are root.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("our folder");
        for folder in ["tokens", "pki"] {
            fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        let authority = Arc::new(Authority::new(&dir.path().join("pki"), "authority"));
        let house = Self { dir, authority, notified: AtomicUsize::new(0) };
        let softhsm = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            house.text("tokens")
        );
        house.write("softhsm2.conf", &softhsm);
        house.write("pin", PIN);
        house.write("tlspool.conf", &format!("socket_name {}\n", house.text("run/sock")));
        house.configure(more);
        house.good(&["trust", "add", house.authority.certificate()]);
        house
    }

    /// Writes the configuration. `more` are tables beside `[trust]` and `[[keys.module]]`; the keys of
    /// the top level that every test shares stand before it.
    pub fn configure(&self, more: &str) {
        let uid = rustix::process::geteuid().as_raw().to_string();
        let user = if is_root() { "nobody".into() } else { uid.clone() };
        let text = format!(
            "version = 1\nuser = \"{user}\"\nkey_user = \"{}\"\nlookup_user = \"{user}\"\nworkers = 2\n\
             runtime_dir = \"{}\"\ndatabase = \"{}\"\n\
             socket = [{{ path = \"{}\", mode = \"0666\" }}]\n\
             {more}\n[trust]\nsystem = false\n[[keys.module]]\npath = \"{SOFTHSM}\"\n",
            uid,
            self.text("run"),
            self.text("state/tlspool.db"),
            self.text("run/sock"),
        );
        self.write("tlspool.toml", &text);
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path in the folder, as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a file in the folder and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("a file in our folder");
        path
    }

    /// The authority that the pool trusts.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The same, for a thread of its own.
    pub fn shared_authority(&self) -> Arc<Authority> {
        self.authority.clone()
    }

    /// The path of the authority's certificate.
    pub fn anchor(&self) -> &str {
        self.authority.certificate()
    }

    /// The pool's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("run/sock")
    }

    /// A new connection of a program to the pool.
    pub fn pool(&self) -> Pool {
        Pool::at(self.socket())
    }

    /// A command in the environment of this pool: SoftHSM2 and programs with libtlspool find it.
    pub fn outfit<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("SOFTHSM2_CONF", self.path("softhsm2.conf"))
            .env("TLSPOOL_CONFIG_FILE", self.path("tlspool.conf"))
            .env_remove("NOTIFY_SOCKET")
    }

    /// `tlspool -c …`.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("tlspool"));
        command.arg("-c").arg(self.path("tlspool.toml")).args(arguments);
        self.outfit(&mut command);
        command
    }

    /// Runs a command of `tlspool` to its end.
    pub fn run(&self, arguments: &[&str]) -> Said {
        run(&mut self.command(arguments))
    }

    /// As [`Self::run`]; it must succeed. Returns its output.
    pub fn good(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert!(said.ok, "tlspool {arguments:?}: {}", said.err);
        said.out
    }

    /// As [`Self::run`]; it must fail. Returns its complaint.
    pub fn bad(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert!(!said.ok, "tlspool {arguments:?} succeeded: {}", said.out);
        said.err
    }

    /// `tlspool status --json`.
    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.good(&["status", "--json"])).expect("JSON")
    }

    /// Adds an identity, with a certificate of the authority and a P-256 key in a file.
    pub fn identity(&self, name: &str) -> Leaf {
        let leaf = self.authority.leaf(name);
        self.add(name, &leaf);
        leaf
    }

    /// Adds an identity from files.
    pub fn add(&self, name: &str, leaf: &Leaf) {
        let key = format!("file:{}", leaf.key());
        self.good(&["identity", "add", name, "--certificate", leaf.certificate(), "--key", &key]);
    }

    /// Makes a SoftHSM2 token and returns its URI, with the source of its PIN.
    pub fn token(&self, label: &str) -> String {
        let init = ["--init-token", "--free", "--label", label, "--so-pin", "1234", "--pin", PIN];
        let said = run(self.outfit(Command::new("softhsm2-util").args(init)));
        assert!(said.ok, "softhsm2-util: {}{}", said.out, said.err);
        format!("pkcs11:token={label}?pin-source=file:{}", self.text("pin"))
    }

    /// Makes a key on `token`, an authority's certificate with it, and an identity of both. `algorithm`
    /// is as `tlspool identity create` has it. Returns the key's URI.
    pub fn token_identity(&self, name: &str, algorithm: &str, token: &str) -> String {
        let request = self.text(&format!("pki/{name}.csr"));
        let create = ["identity", "create", name, "--algorithm", algorithm, "--csr", &request];
        let said = self.run(&[&create[..], &["--token", token]].concat());
        assert!(said.ok, "{}", said.err);
        // What to do next is told, with the key's URI in quotes.
        let key = said.err.split('\'').nth(1).unwrap_or_else(|| panic!("{}", said.err));
        let certificate = self.authority.sign(Path::new(&request));
        let certificate = certificate.display().to_string();
        self.good(&["identity", "add", name, "--certificate", &certificate, "--key", key]);
        key.to_owned()
    }

    /// Starts the daemon in the foreground, and returns when it is ready.
    pub fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    /// As [`Self::start`], with arguments such as `-k`.
    pub fn start_with(&self, arguments: &[&str]) -> Daemon {
        let daemon = self.launch(arguments);
        let said = daemon.hear();
        assert!(said.starts_with("READY=1\n"), "{said}\n{}", daemon.log());
        daemon
    }

    /// Starts the daemon in the foreground, ready or not.
    pub fn launch(&self, arguments: &[&str]) -> Daemon {
        let mut command = self.command(&["-f"]);
        command.args(arguments);
        self.launch_command(command)
    }

    /// Starts the daemon by a command that was altered.
    pub fn launch_command(&self, mut command: Command) -> Daemon {
        let number = self.notified.fetch_add(1, Ordering::Relaxed);
        let path = self.path(&format!("notify-{number}"));
        let systemd = UnixDatagram::bind(&path).expect("a socket in our folder");
        systemd.set_read_timeout(Some(LIMIT)).expect("a time limit");
        let process = Process::start(command.env("NOTIFY_SOCKET", &path));
        Daemon { process, systemd }
    }

    /// Waits until `tlspool status` shows `value` under a path like `sessions` or `totals/handshakes` of
    /// the network process's part.
    pub fn await_status(&self, pointer: &str, value: u64) {
        self.await_section(pointer, |now| now.as_u64() == Some(value));
    }

    /// Waits until what `tlspool status` shows under a path satisfies `condition`.
    pub fn await_section(&self, pointer: &str, condition: impl Fn(&serde_json::Value) -> bool) {
        let deadline = std::time::Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if find(&status, pointer).is_some_and(&condition) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{pointer} is not as awaited: {status}");
        }
    }
}

/// The first value under `pointer`, seen from the whole or from one of its sections.
fn find<'v>(status: &'v serde_json::Value, pointer: &str) -> Option<&'v serde_json::Value> {
    let pointer = format!("/{pointer}");
    let sections = status.as_object().into_iter().flat_map(|sections| sections.values());
    status.pointer(&pointer).or_else(|| sections.into_iter().find_map(|s| s.pointer(&pointer)))
}

/// A daemon in the foreground.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    systemd: UnixDatagram,
}

impl Daemon {
    /// The PID of the supervisor.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The next word to systemd, waited for.
    pub fn hear(&self) -> String {
        let mut buffer = [0; 500];
        loop {
            match self.systemd.recv(&mut buffer) {
                Ok(length) => return String::from_utf8_lossy(&buffer[..length]).into_owned(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("the daemon says nothing ({error}): {}", self.log()),
            }
        }
    }

    /// Sends HUP and waits until everything is reread.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
        let said = self.hear();
        assert!(said.starts_with("RELOADING=1"), "{said}");
        let said = self.hear();
        assert!(said.starts_with("READY=1"), "{said}");
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.said()
    }

    /// Waits until the log holds `words`; returns the log.
    pub fn await_log(&self, words: &str) -> String {
        self.process.await_words(words)
    }

    /// Waits until the log satisfies `condition`; returns the log.
    pub fn await_log_that(
        &self,
        what: impl std::fmt::Debug,
        condition: impl Fn(&str) -> bool,
    ) -> String {
        self.process.await_that(what, condition)
    }

    /// Sends a signal to the supervisor.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits for its end, and returns the log.
    pub fn end(self) -> (ExitStatus, String) {
        self.process.end()
    }

    /// Asks it to end, which it must do in peace; returns the log.
    pub fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.end();
        assert!(status.success(), "{status}: {log}");
        log
    }
}
