//! Files of `tlspool identity|access|trust|policy|authorize|disclosure import`: a JSON document on each line.
#![no_main]

use std::os::fd::AsRawFd;
use std::sync::LazyLock;

use clap::Parser;
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use tlspoold::admin::{AdminContext, run_to};
use tlspoold::cli::{Cli, Command};
use tlspoold::config::{AbsolutePath, Config};

static CONTEXT: LazyLock<AdminContext> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let mut config = Config::defaults();
    config.database = AbsolutePath::new(folder.join("fuzz.db")).expect("an absolute path");
    (config.user, config.group, config.key_user, config.key_group) = (None, None, None, None);
    AdminContext::of(&config)
});

fuzz_target!(|data: &[u8]| {
    let Some((&which, text)) = data.split_first() else { return };
    let tables = ["identity", "access", "trust", "policy", "authorize", "disclosure"];
    let table = tables[usize::from(which % 6)];
    let file = memfd_create("import", MemfdFlags::CLOEXEC).expect("a memory file");
    rustix::io::write(&file, text).expect("room");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let cli = Cli::parse_from(["tlspool", table, "import", &path]);
    let Some(Command::Admin(command)) = cli.command else { unreachable!("it is a command") };
    if let Err(error) = run_to(&command, &CONTEXT, &mut Vec::new()) {
        drop(error.to_string());
        return;
    }
    // What was imported can be exported, and imported again.
    let cli = Cli::parse_from(["tlspool", table, "export"]);
    let Some(Command::Admin(command)) = cli.command else { unreachable!("it is a command") };
    let mut exported = Vec::new();
    run_to(&command, &CONTEXT, &mut exported).expect("what is stored can be written");
    let _ = std::fs::remove_file(&CONTEXT.database);
    for suffix in ["-wal", "-shm"] {
        let mut path = CONTEXT.database.clone().into_os_string();
        path.push(suffix);
        let _ = std::fs::remove_file(path);
    }
});
