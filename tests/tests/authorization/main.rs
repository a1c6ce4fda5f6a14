//! Who may have a session, once the policy has said who it is: the rules of the database, a program, RADIUS
//! servers, through the whole daemon, in both roles and with both engines.

mod chapter;
mod datagrams;
#[path = "../e2e/openssl_client.rs"]
#[allow(dead_code)] // shared with other test programs
mod openssl_client;
mod program;
mod radius;
mod rules;
mod twelve;

use std::process::Command;

use tlspool_client::{Error, PoolError};
use tlspool_tests::{House, Leaf, Process};

/// Asserts that it was denied, and that the words say by whom.
fn assert_denied(error: &Error, words: &str) {
    assert_eq!(error.pool_error(), Some(PoolError::NotAuthorized), "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

/// Arguments of `openssl s_client` and `s_server` for a certificate.
fn shown(leaf: &Leaf) -> [&str; 4] {
    ["-cert", leaf.certificate(), "-key", leaf.key()]
}

/// `openssl s_server`, which sends every line back in reverse, and its address.
fn s_server(house: &House, leaf: &Leaf, more: &[&str]) -> (Process, String) {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", "127.0.0.1:0", "-rev", "-CAfile", house.anchor()]);
    command.args(shown(leaf)).args(more);
    let server = Process::start(&mut command);
    let said = server.await_that("ACCEPT", |said| {
        said.split_once("ACCEPT 127.0.0.1:").is_some_and(|(_, port)| port.contains('\n'))
    });
    let port = said.split_once("ACCEPT 127.0.0.1:").unwrap().1.lines().next().unwrap();
    let address = format!("127.0.0.1:{}", port.trim());
    (server, address)
}

/// `tlspool authorize …`; what it printed, without its end.
fn authorize(house: &House, arguments: &[&str]) -> String {
    house.good(&[&["authorize"], arguments].concat()).trim_end().to_owned()
}
