//! Programs in C and in Python over SCTP, with each other through two pools.

use std::path::PathBuf;
use std::process::Command;

use tlspool_tests::binaries::{program, workspace};
use tlspool_tests::{House, Process, run};

use super::messages::Two;

fn source(name: &str) -> PathBuf {
    workspace().join("tests/tests/vm/programs").join(name)
}

/// The program in C, in the house's folder.
fn compile(house: &House) {
    for link in ["libtlspool.so", "libtlspool.so.0"] {
        std::fs::copy(program("libtlspool.so"), house.path(link)).unwrap();
    }
    let mut command = Command::new("cc");
    command.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o"]);
    command.arg(house.path("messages")).arg(source("messages.c")).arg("-I");
    command.arg(workspace().join("crates/libtlspool/include")).arg("-L").arg(house.path(""));
    let said = run(command.arg("-ltlspool"));
    assert!(said.ok, "{}", said.err);
}

/// A program in the house.
fn inhabitant(house: &House, python: bool, arguments: &[&str]) -> Command {
    let mut command = if python {
        let mut command = Command::new("python3");
        command.arg(source("messages.py")).env("PYTHONPATH", workspace().join("python"));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    } else {
        Command::new(house.path("messages"))
    };
    house.outfit(&mut command).env("LD_LIBRARY_PATH", house.path("")).args(arguments);
    command
}

#[test]
#[ignore = "in the VM"]
fn clients_and_servers_in_c_and_in_python() {
    let two = Two::new("");
    compile(&two.servers);
    compile(&two.clients);
    for (how, expected) in [
        ("client", "example.com said hello on stream 3 with PPID 47\n"),
        ("simple", "example.com said hello\n"),
        ("stream", "example.com said hello\n"),
    ] {
        for server_in_python in [false, true] {
            let mut server =
                inhabitant(&two.servers, server_in_python, &["server", "example.com", how]);
            let server = Process::start(&mut server);
            let ready = server
                .await_that("its port", |said| said.contains("ready ") && said.ends_with('\n'));
            let port = ready.trim().rsplit(' ').next().unwrap().to_owned();
            let arguments = [how, &port, "example.com"];
            let said = run(&mut inhabitant(&two.clients, !server_in_python, &arguments));
            assert_eq!(
                said.out,
                expected,
                "{how}: {}\n{}\n{}",
                said.err,
                server.said(),
                two.logs()
            );
            let (status, said) = server.end();
            assert!(status.success() && said.ends_with("ended\n"), "{how}: {said}");
        }
    }
    two.stop();
}
