//! Which local user may use which identity. Another user takes root to become one.

use std::path::Path;

use tlspool_client::StarttlsRequest;
use tlspool_tests::app::Server;
use tlspool_tests::{House, Process, Said, is_root, run};

use crate::openssl_client::{greeted, open};
use crate::programs::{compile, inhabitant};

/// A user that every Debian has, who is not the one whom the network process runs as.
const OTHER: &str = "daemon";

/// The C client as another user; its message is answered if it is let in.
fn as_other(house: &House, client: &Path, localid: &str) -> Said {
    let server = Server::greeter(house.pool(), StarttlsRequest::server());
    let mut command = inhabitant(house, Path::new("setpriv"));
    command.args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups"]).arg(client);
    command.args([&server.at(), "example.com", localid, "hello\n"]);
    let said = run(&mut command);
    let _ = server.outcome();
    said
}

#[test]
fn another_user_needs_permission() {
    if !is_root() {
        eprintln!("SKIPPED: only root can run a program as another user");
        return;
    }
    let house = House::new();
    for name in ["example.com", "john@example.org", "jane@example.org"] {
        house.identity(name);
    }
    let client = compile(&house, "echo-client");
    let daemon = house.start();
    let refused = |name: &str| {
        let said = as_other(&house, &client, name);
        assert!(!said.ok, "{}", said.out);
        assert!(said.err.contains(name), "{}", said.err);
        assert!(!said.out.contains("you are"), "{}", said.out);
        said.err
    };
    let text = refused("john@example.org");
    assert!(text.contains("may not use"), "{text}");
    assert!(house.good(&["access", "show", "john@example.org", "--user", OTHER]).contains("no: "));

    // Seen by the running daemon at once, and for this name only.
    house.good(&["access", "add", "john@example.org", "--user", OTHER]);
    let said = as_other(&house, &client, "john@example.org");
    assert!(said.out.contains("you are john@example.org: hello"), "{said:?}");
    refused("jane@example.org");

    // By selector and group, and by program.
    let by_program = |path: &str| {
        house.good(&["access", "add", "@example.org", "--group", OTHER, "--program", path]);
    };
    by_program("/bin/true");
    refused("jane@example.org");
    by_program(client.to_str().unwrap());
    let said = as_other(&house, &client, "jane@example.org");
    assert!(said.out.contains("you are jane@example.org: hello"), "{said:?}");

    let rules = house.good(&["access", "list", "--json"]);
    for rule in rules.lines() {
        let rule: serde_json::Value = serde_json::from_str(rule).unwrap();
        house.good(&["access", "remove", &rule["id"].to_string()]);
    }
    refused("john@example.org");
    refused("jane@example.org");
    let log = daemon.stop();
    assert!(log.contains("jane@example.org"), "{log}");
}

/// A server of another user does not get a name that is not his, whatever the peer asks for.
#[test]
fn another_users_server_needs_permission() {
    if !is_root() {
        eprintln!("SKIPPED: only root can run a program as another user");
        return;
    }
    let house = House::new();
    house.identity("example.com");
    let server = compile(&house, "echo-server");
    let _daemon = house.start();
    let at = format!("127.0.0.1:{}", tlspool_tests::net::free_port());
    let mut command = inhabitant(&house, Path::new("setpriv"));
    command.args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups"]).arg(&server);
    let server = Process::start(command.args([&at, "example.com"]));
    server.await_words("listening on");
    let attempt = || {
        let mut peer = crate::openssl_client::s_client(&house, &at, "example.com", &[]);
        let mut peer = Process::start(&mut peer);
        peer.tell("hello\n");
        peer
    };
    let (status, said) = attempt().end();
    assert!(!status.success() && !said.contains("Certificate chain"), "{said}");
    server.await_words("may not use");
    house.good(&["access", "add", "example.com", "--user", OTHER]);
    let peer = attempt();
    peer.await_words("Verify return code: 0 (ok)");
    server.await_words("client is (anonymous)");
}

/// Rows of the tables that appear, change and go while the daemon runs.
#[test]
fn identities_are_seen_at_once() {
    let house = House::new();
    house.identity("example.com");
    let _daemon = house.start();
    greeted(&house, open(), "example.com", &[]);
    house.identity("new.example.com");
    greeted(&house, open(), "new.example.com", &[]);
    house.good(&["identity", "remove", "new.example.com"]);
    let (good, _, outcome) =
        crate::openssl_client::greeting(&house, open(), "new.example.com", &[]);
    assert!(!good && outcome.is_err());
}
