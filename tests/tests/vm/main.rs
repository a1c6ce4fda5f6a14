//! What needs a kernel with SCTP and bad weather: on one of Debian's, in user mode.
//!
//! The tests below run this very program in it, with all tests that are marked as ignored, which are those
//! in the modules. The guest sees the file system of this machine; what it writes goes nowhere.

mod auth;
mod authorization;
mod interop;
mod libssl;
mod messages;
mod plain;
mod programs;
mod tunnel;
mod weather;

use std::process::{Command, Stdio};

use tlspool_tests::binaries::{program, workspace};

/// The whole life of the guest, in seconds: as long as the weather may hold up the last handshake, and the last message.
const LIFE: &str = "1500";

#[test]
fn everything_but_weather_in_the_guest() {
    let mut only = vec!["--skip", "weather::"];
    let name = asked();
    only.extend(name.as_deref());
    run(&only);
}

/// In a guest of its own, at the same time: most of it is waiting.
#[test]
fn weather_in_the_guest() {
    if asked().is_none_or(|name| name.contains("weather")) {
        run(&["weather::"]);
    }
}

/// One test may be asked for by its name.
fn asked() -> Option<String> {
    std::env::var("TLSPOOL_VM_TEST").ok()
}

/// Runs tests of this program in a guest.
fn run(only: &[&str]) {
    let programs = program("tlspool");
    let programs = programs.parent().expect("a folder").display();
    let me = std::env::current_exe().expect("the name of this test");
    let mut command = Command::new(workspace().join("scripts/run-in-vm.sh"));
    command.args(["--hostfs", "--timeout", LIFE, "--mem", "1024", "--module", "sch_netem"]);
    command.arg("--env").arg(format!("TLSPOOL_TEST_PROGRAMS={programs}"));
    command.arg("--").arg(me).args(["--ignored", "--test-threads=1", "--show-output"]);
    command.args(only);
    let status = command.stdin(Stdio::null()).status().expect("bash");
    assert!(status.success(), "in the guest: {status}; 3 is a missing package: make setup");
}
