//! Programs in C and in Python over SCTP, with each other through two pools.

use tlspool_tests::{Process, Program, run};

use super::messages::Two;

const PROGRAM: Program = Program { folder: "tests/tests/vm/programs", name: "messages" };

#[test]
#[ignore = "in the VM"]
fn clients_and_servers_in_c_and_in_python() {
    let two = Two::new("");
    PROGRAM.compile(&two.servers);
    PROGRAM.compile(&two.clients);
    for (how, expected) in [
        ("client", "example.com said hello on stream 3 with PPID 47\n"),
        ("simple", "example.com said hello\n"),
        ("stream", "example.com said hello\n"),
    ] {
        for server_in_python in [false, true] {
            let mut server =
                PROGRAM.inhabitant(&two.servers, server_in_python, &["server", "example.com", how]);
            let server = Process::start(&mut server);
            let ready = server
                .await_that("its port", |said| said.contains("ready ") && said.ends_with('\n'));
            let port = ready.trim().rsplit(' ').next().unwrap().to_owned();
            let arguments = [how, &port, "example.com"];
            let said = run(&mut PROGRAM.inhabitant(&two.clients, !server_in_python, &arguments));
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
