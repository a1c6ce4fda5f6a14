//! Programs in C and in Python over UDP: with OpenSSL, and with each other through a second pool; and the session
//! renegotiated by its control key.

use std::process::Command;

use tlspool_tests::net::free_udp_port;
use tlspool_tests::{House, Process, Program, run};

const PROGRAM: Program = Program { folder: "tests/tests/tls12/programs", name: "datagrams" };

/// A program in the house, in C or in Python.
fn inhabitant(house: &House, python: bool, arguments: &[&str]) -> Command {
    if !python {
        PROGRAM.compile(house);
    }
    PROGRAM.inhabitant(house, python, arguments)
}

/// A client's house, and a server's whose authorities trust each other.
fn houses() -> (House, House) {
    let (servers, clients) = (House::new(), House::new());
    servers.identity("example.com");
    clients.identity("john@example.org");
    clients.good(&["trust", "add", servers.anchor()]);
    servers.good(&["trust", "add", clients.anchor()]);
    (servers, clients)
}

const SAID: &str = "server is example.com, we are ()\ngot first\n\
                    server is example.com, we are (john@example.org)\ngot second\nok\n";

#[test]
fn clients_and_servers_through_two_pools() {
    let (servers, clients) = houses();
    let (serving, calling) = (servers.start(), clients.start());
    for (server_in_python, client_in_python) in [(false, false), (false, true), (true, false)] {
        let mut server = inhabitant(&servers, server_in_python, &["server", "example.com"]);
        let server = Process::start(&mut server);
        let ready =
            server.await_that("its port", |said| said.contains("ready ") && said.ends_with('\n'));
        let port = ready.trim().rsplit(' ').next().unwrap().to_owned();
        let arguments = ["client", &port, "example.com", "john@example.org"];
        let said = run(&mut inhabitant(&clients, client_in_python, &arguments));
        let logs = || format!("{}\n{}", serving.log(), calling.log());
        assert_eq!(said.out, SAID, "{}\n{}\n{}", said.err, server.said(), logs());
        // The end of the client's session is that of the server's.
        let (status, said) = server.end();
        assert!(status.success() && said.ends_with("client is ()\nok\n"), "{said}");
    }
    clients.await_status("sessions", 0);
    servers.await_status("sessions", 0);
    calling.stop();
    serving.stop();
}

#[test]
fn clients_of_openssl() {
    let (servers, clients) = houses();
    let calling = clients.start();
    let leaf = servers.authority().leaf("example.com");
    for (python, simple) in [(false, false), (true, false), (false, true)] {
        let port = free_udp_port().to_string();
        let mut command = Command::new("openssl");
        command.args(["s_server", "-dtls1_2", "-accept", &format!("127.0.0.1:{port}")]);
        command.args(["-cert", leaf.certificate(), "-key", leaf.key()]);
        command.args(["-client_renegotiation"]);
        let mut server = Process::start(&mut command);
        server.await_words("ACCEPT");
        let mut arguments = vec!["client", &port, "example.com"];
        if simple {
            arguments[0] = "simple";
        } else {
            arguments.push("john@example.org");
        }
        let client = Process::start(&mut inhabitant(&clients, python, &arguments));
        server.await_words("first");
        server.tell("first\n");
        if !simple {
            server.await_words("second");
            server.tell("second\n");
        }
        let (status, said) = client.end();
        let expected = if simple {
            "server is example.com\ngot first\nok\n".to_owned()
        } else {
            // It does not ask who comes.
            SAID.replace("(john@example.org)", "()")
        };
        assert!(
            status.success() && said == expected,
            "{said}\n{}\n{}",
            server.said(),
            calling.log()
        );
    }
    clients.await_status("sessions", 0);
    calling.stop();
}
