//! Compiling C against the headers and the library that cargo just built.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// A folder for a pool's socket, its configuration and programs.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        let scratch = Self(tempfile::tempdir().unwrap());
        let dir = scratch.0.path().display();
        let config = format!("socket_name {dir}/pool.sock\ndaemon_pidfile {dir}/pool.pid\n");
        std::fs::write(scratch.path("tlspool.conf"), config).unwrap();
        std::fs::write(scratch.path("pool.pid"), "4711\n").unwrap();
        scratch
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    #[allow(dead_code)] // the manual pages are not run
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("pool.sock")
    }

    /// Runs a program that finds this folder's pool and library.
    #[allow(dead_code)] // as above
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("TLSPOOL_CONFIG_FILE", self.path("tlspool.conf"));
        command.env("LD_LIBRARY_PATH", self.0.path());
        command
    }
}

/// A file of this crate.
pub(crate) fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Compiles one C program, with no warning, and links it with the shared library.
pub(crate) fn compile(scratch: &Scratch, source: &Path, name: &str) -> PathBuf {
    compile_with(scratch, source, name, &["-ltlspool", "-lpthread"])
}

/// As [`compile`], linked with `libraries`.
pub(crate) fn compile_with(
    scratch: &Scratch,
    source: &Path,
    name: &str,
    libraries: &[&str],
) -> PathBuf {
    // Programs ask for the soname, which installing would make.
    for link in ["libtlspool.so", "libtlspool.so.0"] {
        let _ = std::os::unix::fs::symlink(library(), scratch.path(link));
    }
    let _ = std::os::unix::fs::symlink(library().with_extension("a"), scratch.path("libtlspool.a"));
    let program = scratch.path(name);
    let output = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-g", "-x", "c"])
        .arg(source)
        .args(["-x", "none"])
        .arg("-I")
        .arg(manifest("include"))
        .arg("-L")
        .arg(scratch.path(""))
        .args(libraries)
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", source.display());
    program
}

/// The shared library. Cargo does not build it for tests, as Rust cannot link to it, so they do.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // target/debug/deps/this-test
        let test = std::env::current_exe().unwrap();
        let target = test.ancestors().nth(3).unwrap();
        let status = Command::new(env!("CARGO"))
            // All of it: alone, dependencies would be built again with fewer features.
            .args(["build", "--quiet", "--workspace", "--target-dir"])
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .unwrap();
        assert!(status.success(), "the library does not build");
        target.join("debug/libtlspool.so")
    })
}
