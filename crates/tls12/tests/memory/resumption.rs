//! Sessions that are resumed by tickets (RFC 5077).

use std::sync::Arc;

use tls12::*;

use crate::support::*;
use crate::{client, server};

#[test]
fn a_client_that_wants_no_session_gets_none() {
    let answer = ServerConfig { tickets: Some(tickets()), ..server() };
    let mut pair = Pair::new(client(), answer);
    pair.run();
    pair.check_open();
    assert!(pair.client.session.is_none());
}

fn tickets() -> Arc<TicketKeys> {
    let current = Arc::new(TicketKey::generate().unwrap());
    Arc::new(TicketKeys { current, previous: vec![], lifetime: 600 })
}

#[test]
fn resumption() {
    let answer =
        ServerConfig { tickets: Some(tickets()), client_auth: ClientAuth::Required, ..server() };
    let mut pair = Pair::new(ClientConfig { wants_session: true, ..client() }, answer.clone());
    pair.run();
    pair.check_open();
    let session = pair.client.session.take().unwrap();
    assert_eq!(session.lifetime(), 600);
    assert_eq!(session.peer(), Some(&credential(1, Shape::X509).certificate));
    assert!(session.shown().is_some());
    let again = ClientConfig { session: Some(session.clone()), wants_session: true, ..client() };
    let mut pair = Pair::new(again.clone(), answer.clone());
    pair.run();
    pair.check_open();
    for side in [&pair.client, &pair.server] {
        let summary = side.connection.summary().unwrap();
        assert!(summary.resumed && summary.peer.is_some() && side.signatures == 0);
        assert_eq!(summary.peer_key, P256.spki);
        // Trust may have changed since.
        assert!(side.verified.len() == 1 && side.verified[0].resumed);
    }
    // The new ticket works as well.
    let session = pair.client.session.take().unwrap();
    let mut pair = Pair::new(ClientConfig { session: Some(session), ..client() }, answer.clone());
    pair.run();
    pair.check_open();
    assert!(pair.client.connection.summary().unwrap().resumed);
    // Another scope, other keys, another name, another credential, no ticket at all: full handshakes.
    let mut elsewhere = answer.clone();
    elsewhere.scope = [1; 32];
    let other_keys = ServerConfig { tickets: Some(tickets()), ..answer.clone() };
    let no_tickets = ServerConfig { tickets: None, ..answer.clone() };
    for other in [elsewhere, other_keys, no_tickets] {
        let mut pair = Pair::new(again.clone(), other);
        pair.run();
        pair.check_open();
        assert!(!pair.client.connection.summary().unwrap().resumed);
    }
    let renamed = ClientConfig { server_name: Some("example.com".into()), ..again.clone() };
    let mut pair = Pair::new(renamed, answer.clone());
    pair.run();
    pair.check_open();
    assert!(!pair.client.connection.summary().unwrap().resumed);
    let shown = vec![credential(3, Shape::X509)];
    let mut pair =
        Pair::with(again.clone(), vec![credential(1, Shape::X509)], answer.clone(), shown);
    pair.run();
    pair.check_open();
    assert!(!pair.client.connection.summary().unwrap().resumed);
    // Refused today, on either side.
    for refuses in [Role::Client, Role::Server] {
        let mut pair = Pair::new(again.clone(), answer.clone());
        let side = if refuses == Role::Client { &mut pair.client } else { &mut pair.server };
        side.refuse = Some(Alert::CERTIFICATE_REVOKED);
        pair.run();
        let side = if refuses == Role::Client { &pair.client } else { &pair.server };
        assert_eq!(side.error(), Some(&Error::Refused(Alert::CERTIFICATE_REVOKED)));
        assert!(!pair.client.established && !pair.server.established);
    }
}

#[test]
fn resumption_does_not_forget_what_is_demanded() {
    let keys = Some(tickets());
    let lenient = ServerConfig { tickets: keys.clone(), ..server() };
    let mut pair = Pair::new(ClientConfig { wants_session: true, ..client() }, lenient);
    pair.run();
    let session = pair.client.session.take();
    assert!(session.is_some());
    let strict = ServerConfig { tickets: keys, client_auth: ClientAuth::Required, ..server() };
    let mut pair = Pair::new(ClientConfig { session, ..client() }, strict);
    pair.run();
    pair.check_open();
    let summary = pair.server.connection.summary().unwrap();
    assert!(!summary.resumed && summary.peer.is_some());
}
