//! Renegotiation (RFC 5746) by either side.

use std::sync::Arc;
use std::time::Duration;

use tls12::*;

use crate::support::*;
use crate::{client, server};

#[test]
fn renegotiation_by_either_side() {
    for who in [Role::Client, Role::Server] {
        let mut pair =
            Pair::new(client(), ServerConfig { client_auth: ClientAuth::Required, ..server() });
        pair.run();
        pair.check_open();
        for _ in 0..3 {
            let side = if who == Role::Client { &mut pair.client } else { &mut pair.server };
            side.connection.renegotiate(None).unwrap();
            pair.later(Duration::from_mins(1));
            pair.run();
            pair.check_open();
        }
        for (side, role) in [(&pair.client, Role::Client), (&pair.server, Role::Server)] {
            let expected =
                Renegotiated { requested: role == who, peer_changed: false, shown_changed: false };
            assert_eq!(side.renegotiated, vec![expected; 3], "{who:?}");
            assert!(side.verified.last().unwrap().renegotiation);
        }
    }
}

#[test]
fn renegotiation_changes_identities_visibly() {
    let mut pair = Pair::new(client(), server());
    pair.run();
    pair.check_open();
    pair.client.credentials = vec![credential(3, Shape::X509)];
    pair.server.credentials = vec![credential(3, Shape::X509)];
    let asks = ServerConfig { client_auth: ClientAuth::Required, ..server() };
    pair.server.connection.renegotiate(Some(NewConfig::Server(Arc::new(asks)))).unwrap();
    pair.run();
    pair.check_open();
    let seen = Renegotiated { requested: false, peer_changed: true, shown_changed: true };
    assert_eq!(pair.client.renegotiated, [seen]);
    assert_eq!(pair.server.renegotiated, [Renegotiated { requested: true, ..seen }]);
}

#[test]
fn renegotiation_is_bounded_or_refused() {
    let mut pair = Pair::new(client(), server());
    pair.run();
    pair.check_open();
    pair.client.connection.renegotiate(None).unwrap();
    pair.run();
    pair.check_open();
    pair.client.connection.renegotiate(None).unwrap();
    pair.run();
    assert!(pair.client.refused);
    pair.check_open();
    pair.later(Duration::from_secs(11));
    pair.client.connection.renegotiate(None).unwrap();
    pair.run();
    pair.check_open();
    assert_eq!(pair.client.renegotiated.len(), 2);

    let mut stubborn = client();
    stubborn.common.renegotiation = Renegotiation::Refuse;
    let mut pair = Pair::new(stubborn, server());
    pair.run();
    pair.server.connection.renegotiate(None).unwrap();
    pair.run();
    assert!(pair.server.refused);
    pair.check_open();
    // A peer that insists without end is a nuisance.
    for _ in 0..40 {
        if pair.server.closed.is_none() {
            pair.server.connection.renegotiate(None).unwrap();
            pair.run();
        }
    }
    assert_eq!(pair.client.error(), Some(&Error::Flood));
}

#[test]
fn data_on_its_way_when_a_renegotiation_begins_arrives() {
    let mut pair = Pair::new(client(), server());
    pair.run();
    pair.client.connection.renegotiate(None).unwrap();
    assert!(!pair.client.connection.may_send());
    assert!(pair.client.connection.send(b"x").is_err());
    pair.server.connection.send(b"late").unwrap();
    pair.run();
    assert_eq!(std::mem::take(&mut pair.client.data), b"late");
    pair.check_open();
    pair.server.connection.renegotiate(None).unwrap();
    pair.client.connection.send(b"late too").unwrap();
    pair.run();
    assert_eq!(std::mem::take(&mut pair.server.data), b"late too");
    pair.check_open();
}
