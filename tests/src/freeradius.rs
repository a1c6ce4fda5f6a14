//! `freeradius`, on a free port of 127.0.0.1, with a list of users.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::net::free_udp_port;
use crate::process::Process;

/// What it shares with its clients.
pub const SECRET: &str = "correct horse battery";

/// A FreeRADIUS that runs.
#[derive(Debug)]
pub struct FreeRadius {
    /// Where it listens.
    pub address: String,
    process: Process,
    _dir: TempDir,
}

impl FreeRadius {
    /// With this list of users, as users(5) has it.
    pub fn start(users: &str) -> Self {
        // Newer versions put it into every reply by themselves.
        let tag = "update reply {\n &Message-Authenticator := 0x00\n }\n";
        let refusing = ["REJECT", "Challenge"];
        let refusing = refusing.map(|what| format!("Post-Auth-Type {what} {{\n {tag} }}\n"));
        Self::with(users, &format!("{tag}{}", refusing.concat()))
    }

    /// The same, but its replies have no Message-Authenticator if the version is older than the remedy
    /// against forged replies.
    pub fn old(users: &str) -> Self {
        Self::with(users, "")
    }

    fn with(users: &str, afterwards: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let port = free_udp_port();
        let path = dir.path().display().to_string();
        let configuration = format!(
            "name = freeradius\nconfdir = {path}\nrun_dir = {path}\nlogdir = {path}\n\
             libdir = /usr/lib/freeradius\npidfile = {path}/pid\nmax_request_time = 30\n\
             cleanup_delay = 0\nmax_requests = 4096\nproxy_requests = no\n\
             log {{\n destination = stdout\n auth = yes\n}}\n\
             security {{\n allow_vulnerable_openssl = yes\n reject_delay = 0\n status_server = no\n}}\n\
             thread pool {{\n start_servers = 2\n max_servers = 4\n min_spare_servers = 1\n \
             max_spare_servers = 2\n max_requests_per_server = 0\n}}\n\
             client pool {{\n ipaddr = 127.0.0.1\n secret = \"{SECRET}\"\n \
             require_message_authenticator = yes\n}}\n\
             modules {{\n files {{\n  filename = {path}/users\n }}\n}}\n\
             server default {{\n listen {{\n  type = auth\n  ipaddr = 127.0.0.1\n  port = {port}\n }}\n \
             authorize {{\n  files\n }}\n authenticate {{\n }}\n \
             post-auth {{\n {afterwards} }}\n}}\n"
        );
        for (name, text) in
            [("radiusd.conf", configuration.as_str()), ("users", users), ("dictionary", "")]
        {
            fs::write(dir.path().join(name), text).expect("a file");
        }
        let mut command = Command::new("/usr/sbin/freeradius");
        // In the foreground, and it says whom it is asked about.
        command.args(["-fxx", "-l", "stdout", "-d", &path]);
        let process = Process::start(&mut command);
        process.await_words("Ready to process requests");
        Self { address: format!("127.0.0.1:{port}"), process, _dir: dir }
    }

    /// What it was asked and answered so far.
    pub fn log(&self) -> String {
        self.process.said()
    }

    /// Waits until its log has `words`: it is read beside the test, and what it answers may come first.
    pub fn await_log(&self, words: &str) -> String {
        self.process.await_words(words)
    }

    /// Whether its replies have a Message-Authenticator, once it has sent one.
    pub fn sends_tags(&self) -> bool {
        let whole = |log: &str| {
            log.split_once("Sent Access-")
                .is_some_and(|(_, rest)| rest.contains("Finished request"))
        };
        let log = self.process.await_that("a whole reply", whole);
        let sent = log.split("Sent Access-").skip(1);
        sent.into_iter().any(|reply| {
            let lines = reply.lines().skip(1).take_while(|line| line.contains(" = "));
            lines.into_iter().any(|line| line.contains("Message-Authenticator"))
        })
    }

    /// Ends it. Where it listened, nobody listens then.
    pub fn kill(&mut self) {
        self.process.signal(rustix::process::Signal::KILL);
        self.process.wait();
    }
}
