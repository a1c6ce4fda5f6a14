//! The programs under test. Cargo does not tell a test where the programs of other packages are, nor
//! does it build them for it; so the first test that asks builds them, into the folder and profile that
//! it was built with itself. That is quick when they are up to date.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Folder of programs that are ready, for those who built them otherwise.
const READY: &str = "TLSPOOL_TEST_PROGRAMS";

/// A program or library of this workspace: `tlspool`, `tlstunnel`, `libtlspool.so`.
pub fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let path = FOLDER.get_or_init(folder).join(name);
    assert!(path.exists(), "{} is not there; run `cargo build` first", path.display());
    path
}

fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(READY) {
        return folder.into();
    }
    // target/debug/deps/this-test
    let test = std::env::current_exe().expect("the name of this test");
    let folder = test.ancestors().nth(2).expect("a folder of cargo's").to_owned();
    let target = folder.parent().expect("a target folder");
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        // All of it: with fewer packages, dependencies would be built again with fewer features.
        .args(["build", "--quiet", "--workspace"])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(workspace())
        .status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "cannot build the programs ({status:?}); build them and name their folder in {READY}"
    );
    folder
}

/// The root of the sources.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ stands in the workspace")
}
