//! A folder with a configuration, a database and a SoftHSM2 token, and the program run in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

pub(crate) const PIN: &str = "271828";

pub(crate) struct Bench {
    folder: tempfile::TempDir,
}

/// What a run of the program said.
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Bench {
    /// Without a token.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bench = Self { folder };
        let tokens = bench.path("tokens");
        std::fs::create_dir(&tokens).unwrap();
        let softhsm = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
        std::fs::write(bench.path("softhsm2.conf"), softhsm).unwrap();
        std::fs::write(bench.path("pin"), format!("{PIN}\n")).unwrap();
        bench.configure("pool.db");
        bench
    }

    /// With an initialised token called `test`; none if this machine has no SoftHSM2.
    pub(crate) fn with_token() -> Option<Self> {
        let bench = Self::new();
        module()?;
        let init = ["--init-token", "--free", "--label", "test", "--so-pin", "1234", "--pin", PIN];
        let mut command = Command::new("softhsm2-util");
        let output = command.args(init).env("SOFTHSM2_CONF", bench.path("softhsm2.conf")).output();
        assert!(output.unwrap().status.success());
        Some(bench)
    }

    /// Uses the database `name` from now on.
    pub(crate) fn configure(&self, name: &str) {
        let module = module().map_or_else(String::new, |module| {
            format!("[[keys.module]]\npath = \"{}\"\n", module.display())
        });
        let text = format!("version = 1\ndatabase = \"{}\"\n{module}", self.path(name).display());
        std::fs::write(self.path("tlspool.toml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// The token's URI, with its PIN.
    pub(crate) fn token(&self) -> String {
        format!("pkcs11:token=test?pin-source=file:{}", self.text("pin"))
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        // Without a terminal: nobody can be asked for a PIN.
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(env!("CARGO_BIN_EXE_tlspool"));
        command.arg("-c").arg(self.path("tlspool.toml")).args(args);
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf")).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Said {
        said(self.command(args).output().unwrap())
    }

    /// Runs it and returns what it printed; it must succeed.
    pub(crate) fn good(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert!(said.ok, "{args:?}: {}", said.err);
        said.out
    }

    /// As `good`, for output in JSON lines.
    pub(crate) fn json(&self, args: &[&str]) -> Vec<serde_json::Value> {
        let lines = self.good(args);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Runs it and returns its error text; it must fail.
    pub(crate) fn bad(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert!(!said.ok, "{args:?} succeeded: {}", said.out);
        said.err
    }
}

pub(crate) fn said(output: Output) -> Said {
    Said {
        ok: output.status.success(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs openssl in the folder; it must succeed.
pub(crate) fn openssl(bench: &Bench, args: &[&str]) -> String {
    let output = Command::new("openssl").args(args).current_dir(bench.path("")).output().unwrap();
    let said = said(output);
    assert!(said.ok, "openssl {args:?}: {}", said.err);
    said.out
}

/// SoftHSM2's module.
pub(crate) fn module() -> Option<PathBuf> {
    let places = [
        "/usr/lib/softhsm/libsofthsm2.so",
        "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib64/softhsm/libsofthsm2.so",
    ];
    let found = places.iter().map(Path::new).find(|path| path.exists()).map(Path::to_path_buf);
    if found.is_none() {
        eprintln!("SKIPPED: SoftHSM2 is not installed");
    }
    found
}
