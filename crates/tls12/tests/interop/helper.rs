//! The peers: programs in C with libssl and with libgnutls, and a thread with rustls. Each says the same
//! lines; `peers/peer.h` has them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use crate::rustls_peer;
use crate::support::programs::{Files, PATIENCE};

/// Whose implementation it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Library {
    OpenSsl,
    GnuTls,
    Rustls,
}

impl Library {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "OpenSSL",
            Self::GnuTls => "GnuTLS",
            Self::Rustls => "rustls",
        }
    }
}

/// What a peer shall be.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) client: bool,
    pub(crate) datagrams: bool,
    /// Where to connect to, for a client.
    pub(crate) port: u16,
    pub(crate) key: Option<usize>,
    /// A server's: `request` or `require`.
    pub(crate) auth: Option<&'static str>,
    pub(crate) connections: usize,
    pub(crate) anonymous: bool,
}

/// The programs, compiled, and files with our keys.
pub(crate) struct Workshop {
    folder: tempfile::TempDir,
    files: Files,
}

impl Workshop {
    pub(crate) fn new() -> Self {
        let workshop = Self { folder: tempfile::tempdir().unwrap(), files: Files::new() };
        for (name, libraries) in
            [("openssl", &["-lssl", "-lcrypto"][..]), ("gnutls", &["-lgnutls"])]
        {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/peers");
            let said = Command::new("cc")
                .args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
                .arg(workshop.program(name))
                .arg(source.join(format!("{name}.c")))
                .args(libraries)
                .output()
                .unwrap();
            assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        }
        workshop
    }

    fn program(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn start(&self, library: Library, wanted: &Wanted) -> Peer {
        let program = match library {
            Library::OpenSsl => "openssl",
            Library::GnuTls => "gnutls",
            Library::Rustls => return Peer::new(None, rustls_peer::start(wanted)),
        };
        let mut command = Command::new(self.program(program));
        command.arg(if wanted.client { "client" } else { "server" });
        command.arg(if wanted.datagrams { "dtls" } else { "tls" });
        if let Some(key) = wanted.key {
            let [key, certificate] = self.files.key(key);
            command.arg(format!("key={}", key.display()));
            command.arg(format!("certificate={}", certificate.display()));
        }
        if wanted.client {
            command.arg(format!("port={}", wanted.port));
        }
        if let Some(auth) = wanted.auth {
            command.arg(format!("auth={auth}"));
        }
        if wanted.anonymous {
            command.arg("anonymous");
        }
        command.arg(format!("connections={}", wanted.connections.max(1)));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines() {
                if line.is_ok_and(|line| sender.send(line).is_err()) {
                    return;
                }
            }
        });
        Peer::new(Some(child), lines)
    }
}

/// A peer at work. A program ends with it; a thread, with its connection.
pub(crate) struct Peer {
    child: Option<Child>,
    lines: Receiver<String>,
    /// What it told about the latest session.
    pub(crate) facts: BTreeMap<String, String>,
}

impl Peer {
    fn new(child: Option<Child>, lines: Receiver<String>) -> Self {
        Self { child, lines, facts: BTreeMap::new() }
    }

    /// The words behind `word` in the first line that begins with it. Or the peer says that it fails, and why.
    pub(crate) fn hear(&mut self, word: &str) -> Result<String, String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the peer does not say {word:?}");
            };
            let (first, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match first {
                "fact" => {
                    let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
                    self.facts.insert(name.to_owned(), value.to_owned());
                }
                _ if first == word => return Ok(rest.to_owned()),
                "error" => return Err(rest.to_owned()),
                _ => {}
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
