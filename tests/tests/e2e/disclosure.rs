//! Whom a client shows to a server of OpenSSL when its program names nobody: by the table, by a person on a
//! terminal, by programs in C and Python, and for other users.

use std::path::Path;
use std::process::Command;

use tlspool_client::{PoolError, StarttlsRequest};
use tlspool_tests::app::call;
use tlspool_tests::binaries::workspace;
use tlspool_tests::{House, Leaf, Process, Terminal, is_root, run};

use crate::client::s_server;
use crate::programs::{compile, inhabitant};

const ASK: [&str; 2] = ["-verify", "1"];

/// A pool with two users, and the certificate of a server.
fn inhabited() -> (House, Leaf) {
    let house = House::new();
    for name in ["john@example.org", "jane@example.org"] {
        house.identity(name);
    }
    let leaf = house.authority().leaf("www.example.com");
    (house, leaf)
}

fn client() -> StarttlsRequest {
    StarttlsRequest::client("www.example.com").unwrap()
}

/// Whom OpenSSL sees in a handshake of this protocol version; empty: nobody.
fn seen(house: &House, leaf: &Leaf, request: StarttlsRequest, version: &str) -> String {
    let (server, address) = s_server(house, leaf, &[&ASK[..], &[version]].concat());
    let (session, plaintext) = call(&house.pool(), request, &address).unwrap();
    drop(plaintext);
    let said = server.await_words("CONNECTION CLOSED");
    let name = session.localid();
    assert_eq!(said.contains("Peer certificate: CN"), !name.is_empty(), "{said}");
    assert!(said.contains(name), "{said}");
    name.to_owned()
}

#[test]
fn rows_of_the_table_seen_by_openssl() {
    let (house, leaf) = inhabited();
    let daemon = house.start();
    for version in ["-tls1_2", "-tls1_3"] {
        let seen = |request| seen(&house, &leaf, request, version);
        assert_eq!(seen(client()), "");
        let general = house.good(&["disclosure", "add", ".com", "john@example.org"]);
        assert_eq!(seen(client()), "john@example.org");
        let concrete = house.good(&["disclosure", "add", "www.example.com", "jane@example.org"]);
        assert_eq!(seen(client()), "jane@example.org");
        let shown = house.good(&["disclosure", "show", "www.example.com"]);
        assert!(shown.contains("shown:      jane@example.org"), "{shown}");
        assert_eq!(seen(client().localid("john@example.org").unwrap()), "john@example.org");
        house.good(&["disclosure", "remove", concrete.trim()]);
        let nobody = house.good(&["disclosure", "add", "www.example.com", "--nobody"]);
        assert_eq!(seen(client()), "");
        house.good(&["disclosure", "remove", nobody.trim(), general.trim()]);
        assert_eq!(seen(client()), "");
    }
    daemon.stop();
}

/// A server that insists meets nobody, and says so.
#[test]
fn without_a_row_a_server_that_insists_is_not_met() {
    let (house, leaf) = inhabited();
    let _daemon = house.start();
    let ask = ["-Verify", "1", "-verify_return_error", "-tls1_2"];
    let (server, address) = s_server(&house, &leaf, &ask);
    let error = call(&house.pool(), client(), &address).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::StirredNotShaken), "{error}");
    server.await_words("peer did not return a certificate");
}

/// The policies for our own name hold also when it is found only after the server was judged.
#[test]
fn the_policy_of_a_name_that_is_found_holds() {
    let (house, leaf) = inhabited();
    house.good(&["disclosure", "add", ".", "john@example.org"]);
    house.good(&["policy", "add", "--side", "local", "john@example.org", "pin"]);
    let daemon = house.start();
    for version in ["-tls1_2", "-tls1_3"] {
        let (server, address) = s_server(&house, &leaf, &[&ASK[..], &[version]].concat());
        let error = call(&house.pool(), client(), &address).unwrap_err();
        assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
        let said = server.await_words("access denied");
        assert!(!said.contains("Peer certificate: CN"), "{said}");
    }
    daemon.stop();
}

/// A program that wants to show nobody does, with STARTTLS_LOCAL_NONE of the C library.
#[test]
fn a_program_may_insist_on_nobody() {
    let (house, leaf) = inhabited();
    house.good(&["disclosure", "add", ".", "john@example.org"]);
    let echo = compile(&house, "echo-client");
    let _daemon = house.start();
    for version in ["-tls1_2", "-tls1_3"] {
        let (server, address) = s_server(&house, &leaf, &[&ASK[..], &[version]].concat());
        let mut command = inhabitant(&house, &echo);
        let said = run(command.args([&address, "www.example.com", "", "abc\n"]));
        assert!(said.ok, "{said:?}");
        let said = server.await_words("CONNECTION CLOSED");
        assert!(!said.contains("Peer certificate: CN"), "{said}");
    }
}

fn await_chooser(house: &House) {
    house.await_section("chooser", |chooser| chooser == true);
}

#[test]
fn a_person_chooses_on_the_terminal_and_it_is_remembered() {
    let (house, leaf) = inhabited();
    house.good(&["disclosure", "add", ".com", "john@example.org"]);
    let daemon = house.start();
    let mut terminal = Terminal::start(&house.command(&["choose", "--all"]));
    await_chooser(&house);
    let meet = |terminal: &mut Terminal, times: usize, answers: [&str; 2]| {
        let (server, address) = s_server(&house, &leaf, &ASK);
        std::thread::scope(|scope| {
            let calling = scope.spawn(|| call(&house.pool(), client(), &address));
            let said = terminal.await_words("empty to refuse: ", times);
            assert!(said.contains("Who shall we be for www.example.com?"), "{said}");
            terminal.keys(answers[0]);
            if answers[0].trim().is_empty() {
                let error = calling.join().unwrap().unwrap_err();
                assert_eq!(error.pool_error(), Some(PoolError::LocalidRefused), "{error}");
                assert!(error.to_string().contains("the person refused"), "{error}");
                return String::new();
            }
            terminal.await_words("empty for 0: ", times);
            terminal.keys(answers[1]);
            let (session, plaintext) = calling.join().unwrap().unwrap();
            drop(plaintext);
            let said = server.await_words("CONNECTION CLOSED");
            assert!(said.contains(session.localid()), "{said}");
            session.localid().to_owned()
        })
    };
    // The row, the other identity; chosen by its number, for once.
    assert_eq!(meet(&mut terminal, 1, ["2\n", "\n"]), "jane@example.org");
    let said = terminal.await_words("jane@example.org", 1);
    assert!(said.contains("1  john@example.org  (remembered for .com)"), "{said}");
    assert_eq!(house.good(&["disclosure", "list", "--json"]).lines().count(), 1);
    // Nonsense is asked again; by name, and for all hosts there.
    terminal.await_words("empty for 0: ", 1);
    {
        let (server, address) = s_server(&house, &leaf, &ASK);
        std::thread::scope(|scope| {
            let calling = scope.spawn(|| call(&house.pool(), client(), &address));
            terminal.await_words("empty to refuse: ", 2);
            terminal.keys("17\n");
            terminal.await_words("17 is none of these.", 1);
            terminal.await_words("empty to refuse: ", 3);
            terminal.keys("jane@example.org\n");
            let said = terminal.await_words("empty for 0: ", 2);
            assert!(said.contains("2  .example.com  (any host below)"), "{said}");
            terminal.keys("2\n");
            assert_eq!(calling.join().unwrap().unwrap().0.localid(), "jane@example.org");
        });
        server.await_words("Peer certificate: CN");
    }
    house.await_rows(2);
    let rows = house.good(&["disclosure", "list"]);
    assert!(rows.lines().any(|row| {
        let words: Vec<_> = row.split_whitespace().collect();
        words.get(1) == Some(&".example.com") && words.last() == Some(&"jane@example.org")
    }));
    // A refusal.
    assert_eq!(meet(&mut terminal, 4, ["\n", ""]), "");
    // Control-C in the middle of a question refuses too, and ends it.
    let (_server, address) = s_server(&house, &leaf, &ASK);
    std::thread::scope(|scope| {
        let calling = scope.spawn(|| call(&house.pool(), client(), &address));
        terminal.await_words("empty to refuse: ", 5);
        terminal.keys("\x03");
        let error = calling.join().unwrap().unwrap_err();
        assert_eq!(error.pool_error(), Some(PoolError::LocalidRefused), "{error}");
    });
    assert!(!terminal.end().0.success());
    // What was remembered holds without it, and with one that asks about the unknown only.
    assert_eq!(seen(&house, &leaf, client(), "-tls1_3"), "jane@example.org");
    let terminal = Terminal::start(&house.command(&["choose"]));
    await_chooser(&house);
    assert_eq!(seen(&house, &leaf, client(), "-tls1_2"), "jane@example.org");
    assert!(!terminal.await_words("", 0).contains("Who shall we be"));
    daemon.stop();
}

/// With lines instead of a terminal, once.
#[test]
fn a_script_chooses() {
    let (house, leaf) = inhabited();
    let _daemon = house.start();
    let mut chooser = Process::start(&mut house.command(&["choose", "--once"]));
    await_chooser(&house);
    let second = house.bad(&["choose"]);
    assert!(second.contains("another program"), "{second}");
    chooser.tell("john@example.org\n1\n");
    assert_eq!(seen(&house, &leaf, client(), "-tls1_3"), "john@example.org");
    let (status, said) = chooser.end();
    assert!(status.success(), "{said}");
    assert_eq!(seen(&house, &leaf, client(), "-tls1_3"), "john@example.org");
}

/// A refusal ends the handshake with a server that would do without a certificate too, and the server is
/// told by an alert.
#[test]
fn a_refusal_is_told_to_the_server() {
    let (house, leaf) = inhabited();
    let daemon = house.start();
    let mut chooser = Process::start(&mut house.command(&["choose"]));
    await_chooser(&house);
    for version in ["-tls1_2", "-tls1_3"] {
        let (server, address) = s_server(&house, &leaf, &[&ASK[..], &[version]].concat());
        chooser.tell("\n");
        let error = call(&house.pool(), client(), &address).unwrap_err();
        assert_eq!(error.pool_error(), Some(PoolError::LocalidRefused), "{error}");
        server.await_words("access denied");
    }
    let log = daemon.stop();
    assert_eq!(log.matches("handshake failed").count(), 2, "{log}");
}

/// The end of its input is a refusal.
#[test]
fn nobody_at_the_keyboard_refuses() {
    let (house, leaf) = inhabited();
    house.good(&["disclosure", "add", ".", "john@example.org"]);
    let _daemon = house.start();
    let mut chooser = Process::start(&mut house.command(&["choose", "--all"]));
    await_chooser(&house);
    chooser.close_stdin();
    let (_server, address) = s_server(&house, &leaf, &ASK);
    let error = call(&house.pool(), client(), &address).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::LocalidRefused), "{error}");
    assert!(chooser.wait().success());
}

#[test]
fn a_c_program_chooses() {
    let (house, leaf) = inhabited();
    let choose = compile(&house, "choose-localid");
    let _daemon = house.start();
    let mut command = inhabitant(&house, &choose);
    let chooser = Process::start(command.args(["jane@example.org", "example.com"]));
    await_chooser(&house);
    assert_eq!(seen(&house, &leaf, client(), "-tls1_2"), "jane@example.org");
    chooser.await_words("jane@example.org for www.example.com");
    house.await_rows(1);
    // It asked to be spared what is in the table.
    assert_eq!(seen(&house, &leaf, client(), "-tls1_3"), "jane@example.org");
    let other = house.authority().leaf("www.example.net");
    let net = StarttlsRequest::client("www.example.net").unwrap();
    assert_eq!(seen(&house, &other, net, "-tls1_3"), "");
    let said = chooser.await_words("nobody for www.example.net");
    assert_eq!(said.matches("jane@example.org for").count(), 1, "{said}");
    let second = run(inhabitant(&house, &choose).arg("john@example.org"));
    assert!(second.err.contains("another program"), "{second:?}");
}

#[test]
fn a_python_program_chooses() {
    let (house, leaf) = inhabited();
    let _daemon = house.start();
    let script = "\
import tlspool
from tlspool import LidentryFlag as F
def choose(entry):
    if entry.remoteid.endswith('.net'):
        return None
    return entry._replace(localid='john@example.org', remoteid='.example.com', flags=F.DBAPPEND)
tlspool.localid_service(choose, flags=F.SKIP_DBENTRY | F.WANT_CANDIDATES,
                        show=lambda entry: print('could be', entry.localid, flush=True))
";
    let mut command = inhabitant(&house, Path::new("python3"));
    let chooser = Process::start(command.args(["-c", script]));
    await_chooser(&house);
    assert_eq!(seen(&house, &leaf, client(), "-tls1_3"), "john@example.org");
    chooser.await_words("could be jane@example.org");
    house.await_rows(1);
    let net = StarttlsRequest::client("www.example.net").unwrap();
    let other = house.authority().leaf("www.example.net");
    let (_server, address) = s_server(&house, &other, &ASK);
    let error = call(&house.pool(), net, &address).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::LocalidRefused), "{error}");
}

/// The registration follows the daemon that takes over.
#[test]
fn a_new_daemon_asks_the_same_person() {
    let (house, leaf) = inhabited();
    let old = house.start();
    let mut chooser = Process::start(&mut house.command(&["choose", "--once"]));
    await_chooser(&house);
    let _new = house.start_with(&["-k"]);
    assert!(old.end().0.success());
    await_chooser(&house);
    chooser.tell("john@example.org\n\n");
    assert_eq!(seen(&house, &leaf, client(), "-tls1_3"), "john@example.org");
    assert!(chooser.wait().success());
}

/// The Python package where every user can read it: the house's folder.
pub(crate) fn copy_package(house: &House) {
    let package = house.path("tlspool");
    std::fs::create_dir(&package).unwrap();
    for file in std::fs::read_dir(workspace().join("python/tlspool")).unwrap() {
        let file = file.unwrap();
        if file.path().extension().is_some_and(|extension| extension == "py") {
            std::fs::copy(file.path(), package.join(file.file_name())).unwrap();
        }
    }
}

/// Everyone has a chooser and rows of their own; access rules hold whoever chooses.
#[test]
fn users_choose_for_themselves() {
    const OTHER: &str = "daemon";
    if !is_root() {
        eprintln!("SKIPPED: only root can run a program as another user");
        return;
    }
    let (house, leaf) = inhabited();
    let choose = compile(&house, "choose-localid");
    copy_package(&house);
    let client_script = "\
import socket, sys, tlspool
host, port = sys.argv[1].rsplit(':', 1)
sock = socket.create_connection((host, int(port)))
print('we are', tlspool.starttls_client(sock, 'www.example.com').localid or '(anonymous)')";
    let as_other = |program: &Path| -> Command {
        let mut command = inhabitant(&house, Path::new("setpriv"));
        command.args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups"]).arg(program);
        command
    };
    let _daemon = house.start();
    // What that user's programs show.
    let meet = || {
        let (_server, address) = s_server(&house, &leaf, &ASK);
        let mut command = as_other(Path::new("/usr/bin/python3"));
        command.env("PYTHONPATH", house.path("")).env("PYTHONDONTWRITEBYTECODE", "1");
        run(command.args(["-c", client_script, &address]))
    };
    let shows = |name: &str| {
        let said = meet();
        assert!(said.out.contains(&format!("we are {name}")), "{said:?}");
    };
    house.good(&["disclosure", "add", ".", "john@example.org"]);
    // The row is for everyone, but the name is not.
    shows("(anonymous)");
    house.good(&["access", "add", "jane@example.org", "--user", OTHER]);
    house.good(&["disclosure", "add", ".", "jane@example.org"]);
    shows("jane@example.org");
    let own = house.good(&["disclosure", "add", ".", "--nobody", "--user", OTHER]);
    shows("(anonymous)");
    assert_eq!(seen(&house, &leaf, client(), "-tls1_3"), "john@example.org");
    house.good(&["disclosure", "remove", own.trim()]);

    // Root's chooser is asked, until the user has one.
    let script = "\
import sys, tlspool
tlspool.localid_service(lambda entry: sys.argv[1], flags=0)";
    let mut command = inhabitant(&house, Path::new("python3"));
    let roots = Process::start(command.args(["-c", script, "john@example.org"]));
    await_chooser(&house);
    let said = meet();
    assert!(said.err.contains("may not use john@example.org"), "{said:?}");
    let mut command = as_other(&choose);
    let theirs = Process::start(command.args(["jane@example.org", "example.net"]));
    house.good(&["disclosure", "remove", "1", "2"]);
    let said = theirs_is_asked(&meet, &theirs);
    assert!(said.out.contains("we are (anonymous)"), "{said:?}");
    // Root's own requests are still root's.
    assert_eq!(seen(&house, &leaf, client(), "-tls1_3"), "john@example.org");
    drop(roots);
}

/// Repeats until the user's own program is registered and was asked.
fn theirs_is_asked(
    meet: &impl Fn() -> tlspool_tests::Said,
    theirs: &Process,
) -> tlspool_tests::Said {
    let deadline = std::time::Instant::now() + tlspool_tests::LIMIT;
    loop {
        let said = meet();
        if theirs.said().contains("nobody for www.example.com") {
            return said;
        }
        assert!(std::time::Instant::now() < deadline, "{said:?}");
    }
}

trait Rows {
    fn await_rows(&self, count: usize);
}

impl Rows for House {
    /// Waits until the table has so many rows: they are written when the handshake is over.
    fn await_rows(&self, count: usize) {
        let deadline = std::time::Instant::now() + tlspool_tests::LIMIT;
        loop {
            let rows = self.good(&["disclosure", "list", "--json"]);
            if rows.lines().count() == count {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "not {count} rows: {rows}");
        }
    }
}
