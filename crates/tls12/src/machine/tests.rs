//! Peers that lie: our own machine with a mouth that says something else, against our own machine.

#[path = "../../tests/support/mod.rs"]
mod support;

mod data;
mod hellos;
mod messages;
mod proofs;
mod states;

use std::sync::Arc;

use support::*;

use super::*;
use crate::codec::{ClientHello, ServerHello, kind};
use crate::config::{Anonymous, ClientAuth};
use crate::error::Alert;

/// What is said instead of a message.
pub(crate) type Liar = Box<dyn FnMut(u8, &[u8]) -> Vec<(u8, Vec<u8>)>>;

fn client_config() -> ClientConfig {
    ClientConfig { server_name: Some("localhost".into()), ..ClientConfig::default() }
}

fn server_config() -> ServerConfig {
    ServerConfig { client_auth: ClientAuth::Required, ..ServerConfig::default() }
}

fn pair_of(client: ClientConfig, server: ServerConfig) -> Pair {
    Pair::new(client, server)
}

/// Alters the body of one kind of message.
fn alter(kind: u8, mut with: impl FnMut(&mut Vec<u8>) + 'static) -> Liar {
    Box::new(move |said, body| {
        let mut body = body.to_vec();
        if said == kind {
            with(&mut body);
        }
        vec![(said, body)]
    })
}

fn alter_client_hello(mut with: impl FnMut(&mut ClientHello) + 'static) -> Liar {
    alter(kind::CLIENT_HELLO, move |body| {
        let mut hello = ClientHello::decode(body, false).unwrap();
        with(&mut hello);
        *body = hello.encode();
    })
}

/// What a client of ours offers, so that a ServerHello of ours can be read.
fn offered() -> crate::codec::ClientExtensions {
    crate::codec::ClientExtensions {
        server_name: Some(String::new()),
        point_formats: Some(vec![]),
        alpn: vec![vec![1]],
        cert_types: Some(vec![1]),
        extended_master_secret: true,
        ticket: Some(vec![]),
        ..Default::default()
    }
}

fn alter_server_hello(mut with: impl FnMut(&mut ServerHello) + 'static) -> Liar {
    alter(kind::SERVER_HELLO, move |body| {
        let mut hello = ServerHello::decode(body, &offered()).unwrap();
        with(&mut hello);
        *body = hello.encode();
    })
}

/// The first message of `hello`'s client waits already: it begins anew with the lie.
fn lying_client(pair: &mut Pair, config: ClientConfig, liar: Liar) {
    let config = Arc::new(config);
    let transport = Transport::Stream(Stream::default());
    let mut connection = Connection::new(Config::Client(config.clone()), transport);
    connection.core.liar = Some(liar);
    connection.say_hello(&config, true).unwrap();
    pair.client.connection = connection;
}

#[track_caller]
fn server_refuses(config: ClientConfig, liar: Liar, alert: Alert) {
    let mut pair = pair_of(config.clone(), server_config());
    lying_client(&mut pair, config, liar);
    refused_by_server(&mut pair, alert);
}

#[track_caller]
fn refused_by_server(pair: &mut Pair, alert: Alert) {
    pair.run();
    let error = pair.server.error().cloned();
    assert_eq!(error.as_ref().and_then(Error::alert), Some(alert), "{error:?}");
    assert_eq!(pair.client.error(), Some(&Error::PeerAlert(alert)), "{error:?}");
    assert!(!pair.server.established);
}

#[track_caller]
fn client_refuses(config: ClientConfig, liar: Liar, alert: Alert) {
    let mut pair = pair_of(config, server_config());
    pair.server.connection.core.liar = Some(liar);
    pair.run();
    let error = pair.client.error().cloned();
    assert_eq!(error.as_ref().and_then(Error::alert), Some(alert), "{error:?}");
    assert_eq!(pair.server.error(), Some(&Error::PeerAlert(alert)), "{error:?}");
    assert!(!pair.client.established);
}
