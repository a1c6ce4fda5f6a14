//! GnuPG with a folder of its own, and a clock that the test sets.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use tlspool_openpgp::{Certificate, KeyId, Limits};

/// The start of all tests: 2025-06-01 12:00:00 UTC.
const START: u64 = 1_748_779_200;
const DAY: u64 = 86_400;

/// `days` after the start.
pub(crate) fn day(days: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(START + days * DAY)
}

pub(crate) struct Gpg {
    home: TempDir,
}

impl Drop for Gpg {
    fn drop(&mut self) {
        // The agent that gpg has started for this folder.
        let mut command = Command::new("gpgconf");
        let _ = command.args(["--kill", "all"]).env("GNUPGHOME", self.home.path()).status();
    }
}

impl Gpg {
    pub(crate) fn new() -> Self {
        let gpg = Self { home: tempfile::tempdir().unwrap() };
        // Makes the trust database, which revocations are written to.
        gpg.run(0, &["--trust-model", "pgp", "--check-trustdb"]);
        gpg
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, days: u64) -> Command {
        let mut command = Command::new("gpg");
        command
            .env("GNUPGHOME", self.home.path())
            .env("LC_ALL", "C")
            .args(["--batch", "--no-tty", "--yes", "--pinentry-mode", "loopback"])
            .args(["--passphrase", "", "--no-auto-check-trustdb", "--trust-model", "always"])
            .arg(format!("--faked-system-time={}!", START + days * DAY));
        command
    }

    /// Runs gpg with its clock `days` after the start; it must succeed.
    pub(crate) fn run(&self, days: u64, arguments: &[&str]) -> String {
        let output = self.command(days).args(arguments).output().unwrap();
        said(&output, arguments)
    }

    /// As `run`, with text on standard input.
    pub(crate) fn run_with(&self, days: u64, arguments: &[&str], input: &[u8]) -> String {
        let mut child = self
            .command(days)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        said(&child.wait_with_output().unwrap(), arguments)
    }

    /// Dialogues such as revocations: each line answers one prompt.
    pub(crate) fn answer(&self, days: u64, arguments: &[&str], answers: &str) {
        let arguments =
            [&["--no-batch", "--command-fd", "0", "--status-fd", "2"], arguments].concat();
        self.run_with(days, &arguments, answers.as_bytes());
    }

    /// A primary key on day 0 for `user_id`; returns its fingerprint.
    pub(crate) fn key(&self, user_id: &str, algorithm: &str, usage: &str, expire: &str) -> String {
        self.run(0, &["--quick-gen-key", user_id, algorithm, usage, expire]);
        self.fingerprint(user_id)
    }

    pub(crate) fn fingerprint(&self, user_id: &str) -> String {
        let listing = self.run(0, &["--with-colons", "--list-keys", &format!("={user_id}")]);
        let line = listing.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    /// The IDs of the primary key and the subkeys.
    pub(crate) fn key_ids(&self, fingerprint: &str) -> Vec<KeyId> {
        let listing = self.run(0, &["--with-colons", "--list-keys", fingerprint]);
        let keys =
            listing.lines().filter(|line| line.starts_with("pub:") || line.starts_with("sub:"));
        keys.map(|line| key_id(line.split(':').nth(4).unwrap())).collect()
    }

    pub(crate) fn export(&self, fingerprint: &str) -> Vec<u8> {
        let file = self.path("exported");
        self.run(0, &["--output", file.to_str().unwrap(), "--export", fingerprint]);
        std::fs::read(&file).unwrap()
    }

    pub(crate) fn certificate(&self, fingerprint: &str) -> Certificate {
        let bytes = self.export(fingerprint);
        Certificate::read(&bytes, Limits::PEER).unwrap()
    }

    pub(crate) fn import(&self, days: u64, file: &Path) -> String {
        self.run(days, &["--import", file.to_str().unwrap()])
    }
}

pub(crate) fn key_id(text: &str) -> KeyId {
    let mut bytes = [0; 8];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    KeyId(bytes)
}

fn said(output: &Output, arguments: &[&str]) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "gpg {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &error
}
