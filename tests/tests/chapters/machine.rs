//! A machine that is as good as new: with its own /etc, /run and /var/lib, its own loopback network, and the users of
//! the TLS Pool, which runs with the configuration that comes with it.
//!
//! It is made of a mount and a network namespace, which root may make, and others in a user namespace of theirs if
//! they have more users than one to put into it (/etc/subuid, package uidmap). Nothing in it reaches the network or
//! changes what is outside its folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;
use tlspool_tests::binaries::{program, workspace};
use tlspool_tests::{LIMIT, Process, Said, Terminal, is_root, run};

/// What makes the machine; $0 is its folder, $1 the sources.
const SETUP: &str = r#"
set -e
# What others may not read is not needed.
cp -a /etc "$0/etc" 2>/dev/null || [ -e "$0/etc/passwd" ]
rm -rf "$0/etc/tlspool"
mount --bind "$0/etc" /etc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
ip link set lo up
# As the packages softhsm2 and tlspool do it.
install -d -m 2770 -g softhsm /var/lib/softhsm /var/lib/softhsm/tokens
systemd-sysusers "$1/systemd/tlspool-sysusers.conf"
systemd-tmpfiles --create "$1/systemd/tlspool-tmpfiles.conf"
install -d /etc/tlspool /run/tlspool
install -m 644 "$1/etc/tlspool.toml.example" /etc/tlspool/tlspool.toml
echo made
cat
"#;

/// The machine. It is gone when dropped.
pub(crate) struct Machine {
    // In this order: what runs on it ends before it.
    daemon: Option<Process>,
    holder: Process,
    folder: TempDir,
}

impl Machine {
    /// One on which the daemon runs.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Its other users have to reach files in it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        fs::create_dir(folder.path().join("home")).expect("a folder");
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user", "--map-auto"]);
        }
        command.args(["--mount", "--net", "--", "sh", "-c", SETUP]);
        let holder = Process::start(command.arg(folder.path()).arg(workspace()));
        holder.await_words("made");
        let mut machine = Self { daemon: None, holder, folder };
        let daemon = Process::start(&mut machine.command("exec tlspool -f"));
        machine.daemon = Some(daemon);
        machine.eventually("tlspool status", |said| said.ok);
        machine
    }

    /// A file of the working folder, where the commands are typed.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("home").join(name)
    }

    /// A file of its /etc.
    pub(crate) fn etc(&self, name: &str) -> PathBuf {
        self.folder.path().join("etc").join(name)
    }

    /// What runs a program in it.
    pub(crate) fn within(&self) -> Vec<String> {
        let target = format!("--target={}", self.holder.pid());
        let mut words = vec!["nsenter".to_owned(), target, "--mount".into(), "--net".into()];
        if !is_root() {
            words.push("--user".into());
        }
        words.push("--".into());
        words
    }

    /// A line for its shell.
    pub(crate) fn command(&self, line: &str) -> Command {
        let within = self.within();
        let mut command = Command::new(&within[0]);
        command.args(&within[1..]);
        let programs = program("tlspool");
        let programs = programs.parent().expect("a folder").display();
        let home = self.file("").display().to_string();
        let all = format!("cd {home} && PATH={programs}:$PATH && export PATH && {line}");
        command.args(["sh", "-c", &all]).env("HOME", &home).env_remove("SOFTHSM2_CONF");
        command.env_remove("NOTIFY_SOCKET").env_remove("TLSPOOL_CONFIG_FILE");
        command
    }

    /// Runs a line.
    pub(crate) fn run(&self, line: &str) -> Said {
        run(&mut self.command(line))
    }

    /// Runs a line, which must succeed.
    #[track_caller]
    pub(crate) fn good(&self, line: &str) -> String {
        let said = self.run(line);
        assert!(said.ok, "{line}: {}{}\n{}", said.out, said.err, self.log());
        said.out
    }

    /// Types a line at a terminal, and answers what is asked there: each question with its answer.
    #[track_caller]
    pub(crate) fn typed(&self, line: &str, answers: &[(&str, &str)]) -> String {
        let mut terminal = Terminal::start(&self.command(line));
        for (number, (question, answer)) in answers.iter().enumerate() {
            let times = answers[..=number].iter().filter(|(other, _)| other == question).count();
            terminal.await_words(question, times);
            terminal.keys(&format!("{answer}\n"));
        }
        let (status, said) = terminal.end();
        assert!(status.success(), "{line}: {said}\n{}", self.log());
        said
    }

    /// Repeats a line until what it says is as awaited.
    #[track_caller]
    pub(crate) fn eventually(&self, line: &str, condition: impl Fn(&Said) -> bool) -> Said {
        let deadline = Instant::now() + LIMIT;
        loop {
            let said = self.run(line);
            if condition(&said) {
                return said;
            }
            assert!(Instant::now() < deadline, "{line}: {}{}\n{}", said.out, said.err, self.log());
        }
    }

    /// Adds lines to the configuration.
    pub(crate) fn configure(&self, lines: &[String]) {
        let file = self.etc("tlspool/tlspool.toml");
        let text = fs::read_to_string(&file).expect("the configuration");
        fs::write(&file, text + "\n" + &lines.join("\n") + "\n").expect("the configuration");
        self.good("tlspool check");
    }

    /// As `systemctl reload tlspool` does it, and waits until that is done.
    pub(crate) fn reload(&self) {
        let daemon = self.daemon.as_ref().expect("it runs");
        let done = "certificates and trust anchors are read again";
        let times = daemon.said().matches(done).count();
        self.good("kill -HUP $(cat /run/tlspool/tlspool.pid)");
        daemon.await_that(done, |said| said.matches(done).count() > times);
    }

    /// The daemon's log.
    pub(crate) fn log(&self) -> String {
        self.daemon.as_ref().map(Process::said).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            // nsenter has become the shell, which has become the daemon.
            daemon.signal(rustix::process::Signal::TERM);
            daemon.end();
        }
        // What it mounted goes with its namespaces; the copy of /etc has files of other users.
        self.holder.close_stdin();
        self.holder.wait();
    }
}
