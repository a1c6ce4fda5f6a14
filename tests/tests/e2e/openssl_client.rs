//! `openssl s_client`, and a server of ours for it.

use std::process::Command;

use tlspool_client::{StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::{Greeted, Outcome, Server};
use tlspool_tests::{House, Process};

/// A server that does not ask for a certificate, and leaves its name to SNI.
pub(crate) fn open() -> StarttlsRequest {
    StarttlsRequest::server().flags(Flags::IGNORE_REMOTEID)
}

pub(crate) fn s_client(house: &House, address: &str, name: &str, more: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-ign_eof", "-connect", address, "-CAfile", house.anchor()]);
    command.args(["-verify_hostname", name, "-verify_return_error"]).args(more);
    if !more.contains(&"-noservername") {
        command.args(["-servername", name]);
    }
    command
}

/// Has `s_client` say "hello" to a greeter: what it printed, and whom the greeter met.
pub(crate) fn greeting(
    house: &House,
    request: StarttlsRequest,
    name: &str,
    more: &[&str],
) -> (bool, String, Outcome<Greeted>) {
    let server = Server::greeter(house.pool(), request);
    let mut peer = Process::start(&mut s_client(house, &server.at(), name, more));
    peer.tell("hello\n");
    let (status, said) = peer.end();
    (status.success(), said, server.outcome())
}

/// As [`greeting`]; it must work.
pub(crate) fn greeted(
    house: &House,
    request: StarttlsRequest,
    name: &str,
    more: &[&str],
) -> (String, Greeted) {
    let (good, said, outcome) = greeting(house, request, name, more);
    let greeted = outcome.unwrap_or_else(|error| panic!("{name} {more:?}: {error}\n{said}"));
    assert!(good, "{name} {more:?}: {said}");
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    assert!(said.contains(&format!("you are {}: hello", greeted.remoteid)), "{said}");
    assert_eq!(greeted.line, "hello");
    (said, greeted)
}

pub(crate) const VERSIONS: [(&str, &str); 2] = [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")];
