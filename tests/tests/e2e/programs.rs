//! Programs in C and Python, as their authors would build and run them.

use std::path::{Path, PathBuf};
use std::process::Command;

use tlspool_client::StarttlsRequest;
use tlspool_tests::app::{Server, call};
use tlspool_tests::binaries::{program, workspace};
use tlspool_tests::net::free_port;
use tlspool_tests::{House, Process, run};

use crate::openssl_client::s_client;

/// Compiles an example against libtlspool, in the house's folder, where it also finds the library.
pub(crate) fn compile(house: &House, name: &str) -> PathBuf {
    for link in ["libtlspool.so", "libtlspool.so.0"] {
        std::fs::copy(program("libtlspool.so"), house.path(link)).unwrap();
    }
    let output = house.path(name);
    let said = run(Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&output)
        .arg(workspace().join(format!("examples/{name}.c")))
        .arg("-I")
        .arg(workspace().join("crates/libtlspool/include"))
        .arg("-L")
        .arg(house.path(""))
        .args(["-ltlspool", "-lpthread"]));
    assert!(said.ok, "{}", said.err);
    output
}

/// A program of ours in the house.
pub(crate) fn inhabitant(house: &House, program: &Path) -> Command {
    let mut command = Command::new(program);
    house.outfit(&mut command).env("LD_LIBRARY_PATH", house.path(""));
    command.env("PYTHONPATH", workspace().join("python"));
    command
}

fn python(house: &House, script: &str) -> Command {
    let mut command = inhabitant(house, Path::new("python3"));
    command.arg(workspace().join("examples").join(script));
    command
}

fn inhabited() -> House {
    let house = House::new();
    house.identity("example.com");
    house.identity("john@example.org");
    house
}

/// A server and a client of the examples, in whatever language, with each other and with OpenSSL.
fn meet(house: &House, mut server: Command, mut client: Command) {
    let at = format!("127.0.0.1:{}", free_port());
    let server = Process::start(server.args([&at, "example.com"]));
    server.await_words("listening on");
    let said = run(client.args([&at, "example.com", "john@example.org", "round trip"]));
    assert!(said.ok, "{}", said.err);
    assert_eq!(said.out, "server is example.com, we are john@example.org\nround trip\n");
    server.await_words("client is john@example.org");
    let mut peer = Process::start(&mut s_client(house, &at, "example.com", &[]));
    peer.tell("through OpenSSL\n");
    // What it reads from us is not shown, so this is the echo.
    peer.await_words("through OpenSSL");
    server.await_words("client is (anonymous)");
}

#[test]
fn c_programs() {
    let house = inhabited();
    let (server, client) = (compile(&house, "echo-server"), compile(&house, "echo-client"));
    let _daemon = house.start();
    meet(&house, inhabitant(&house, &server), inhabitant(&house, &client));
    // What goes wrong is said.
    let at = format!("127.0.0.1:{}", free_port());
    let server = Process::start(inhabitant(&house, &server).args(["-r", &at, "example.com"]));
    server.await_words("listening on");
    let said = run(inhabitant(&house, &client).args([&at, "example.net", "john@example.org"]));
    assert!(!said.ok && said.err.contains("example.net"), "{}", said.err);
}

#[test]
fn python_programs() {
    let house = inhabited();
    let _daemon = house.start();
    meet(&house, python(&house, "echo_server.py"), python(&house, "echo_client.py"));
}

#[test]
fn c_and_python_speak_with_each_other() {
    let house = inhabited();
    let (server, client) = (compile(&house, "echo-server"), compile(&house, "echo-client"));
    let _daemon = house.start();
    meet(&house, inhabitant(&house, &server), python(&house, "echo_client.py"));
    meet(&house, python(&house, "echo_server.py"), inhabitant(&house, &client));
}

#[test]
fn the_unit_tests_of_the_python_package() {
    let mut command = Command::new("python3");
    command.args(["-m", "unittest", "discover", "-s", "tests", "-t", "."]);
    command.current_dir(workspace().join("python")).env("PYTHONDONTWRITEBYTECODE", "1");
    let said = run(&mut command);
    assert!(said.ok, "{}", said.err);
    assert!(said.err.contains("OK") && !said.err.contains("Ran 0 tests"), "{}", said.err);
}

/// A Rust program and the pool as client, with a C server: the names agree on both sides.
#[test]
fn a_rust_client_of_a_c_server() {
    let house = inhabited();
    let server = compile(&house, "echo-server");
    let _daemon = house.start();
    let at = format!("127.0.0.1:{}", free_port());
    let server = Process::start(inhabitant(&house, &server).args(["-r", &at, "example.com"]));
    server.await_words("listening on");
    let request = StarttlsRequest::client("example.com").unwrap();
    let pool = house.pool();
    let (session, _plaintext) =
        call(&pool, request.localid("john@example.org").unwrap(), &at).unwrap();
    assert_eq!(session.remoteid(), "example.com");
    server.await_words("client is john@example.org");
    // And a C client with a Rust server.
    let client = compile(&house, "echo-client");
    let greeter = Server::greeter(house.pool(), StarttlsRequest::server());
    let mut command = inhabitant(&house, &client);
    command.args([&greeter.at(), "example.com", "john@example.org", "hello\n"]);
    let said = run(&mut command);
    assert!(said.out.contains("you are john@example.org: hello"), "{said:?}");
    assert_eq!(greeter.outcome().unwrap().remoteid, "john@example.org");
}
