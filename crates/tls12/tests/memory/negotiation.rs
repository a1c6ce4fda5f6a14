//! What is negotiated: suites, groups, keys, names and protocols, and who shows what.

use tls12::*;

use crate::support::*;
use crate::{client, contains, server};

#[test]
fn every_suite_with_every_key() {
    for suite in SUITES.iter().filter(|suite| !suite.is_anonymous()) {
        for key in 0..3 {
            let fits = matches!((key, suite.authentication), (0, Authentication::Rsa))
                || matches!((key, suite.authentication), (1 | 2, Authentication::Ecdsa));
            let mut offer = client();
            offer.common.suites = vec![suite];
            let credentials = vec![credential(key, Shape::X509)];
            let mut pair = Pair::with(offer, vec![], server(), credentials);
            pair.run();
            if fits {
                pair.check_open();
                assert_eq!(pair.client.connection.summary().unwrap().suite, suite);
                assert!(!pair.client.connection.summary().unwrap().private);
            } else {
                assert!(matches!(pair.server.error(), Some(Error::NothingInCommon(_))));
                let alert = Error::PeerAlert(Alert::HANDSHAKE_FAILURE);
                assert_eq!(pair.client.error(), Some(&alert));
            }
        }
    }
}

#[test]
fn every_group() {
    for group in Group::NAMED {
        let mut offer = client();
        offer.common.groups = vec![group];
        let mut pair = Pair::with(offer, vec![], server(), vec![credential(0, Shape::X509)]);
        pair.run();
        pair.check_open();
        assert_eq!(pair.client.connection.summary().unwrap().group, Some(group));
        assert_eq!(pair.server.connection.summary().unwrap().group, Some(group));
    }
}

#[test]
fn one_byte_at_a_time() {
    let mut pair =
        Pair::new(client(), ServerConfig { client_auth: ClientAuth::Required, ..server() });
    pair.run_in_pieces(1);
    pair.check_open();
}

#[test]
fn a_key_signs_in_the_way_that_the_peer_takes() {
    let mut offer = client();
    offer.common.schemes = vec![SignatureScheme::RsaPkcs1Sha256];
    let mut pair = Pair::with(offer, vec![], server(), vec![credential(0, Shape::X509)]);
    assert_eq!(RSA.schemes[0], SignatureScheme::RsaPssRsaeSha256);
    pair.run();
    pair.check_open();
}

#[test]
fn client_authentication() {
    for key in 0..3 {
        for auth in [ClientAuth::None, ClientAuth::Requested, ClientAuth::Required] {
            for shows in [true, false] {
                let credentials = if shows { vec![credential(key, Shape::X509)] } else { vec![] };
                let mut pair = Pair::with(
                    client(),
                    credentials,
                    ServerConfig { client_auth: auth, ..server() },
                    vec![credential(1, Shape::X509)],
                );
                pair.run();
                if auth == ClientAuth::Required && !shows {
                    assert_eq!(pair.server.error(), Some(&Error::NoCertificate));
                    continue;
                }
                pair.check_open();
                let seen = shows && auth != ClientAuth::None;
                assert_eq!(pair.server.connection.summary().unwrap().peer.is_some(), seen);
                // Somebody who shows nothing is judged, too.
                assert_eq!(pair.server.verified.len(), usize::from(auth != ClientAuth::None));
            }
        }
    }
}

#[test]
fn a_client_shows_nothing_to_a_server_it_does_not_accept() {
    let mut pair =
        Pair::new(client(), ServerConfig { client_auth: ClientAuth::Required, ..server() });
    pair.client.refuse = Some(Alert::UNKNOWN_CA);
    pair.run();
    assert_eq!(pair.client.error(), Some(&Error::Refused(Alert::UNKNOWN_CA)));
    assert_eq!(pair.server.error(), Some(&Error::PeerAlert(Alert::UNKNOWN_CA)));
    assert!(pair.client.chosen.is_empty() && pair.client.signatures == 0);
    assert!(pair.client.connection.summary().is_none());
}

#[test]
fn names_and_protocols() {
    let mut offer = client();
    offer.common.alpn = vec![b"imap".to_vec(), b"h2".to_vec()];
    let mut answer = server();
    answer.common.alpn = vec![b"h2".to_vec()];
    let mut pair = Pair::new(offer.clone(), answer.clone());
    pair.run();
    pair.check_open();
    assert_eq!(pair.client.connection.summary().unwrap().alpn.as_deref(), Some(&b"h2"[..]));
    assert_eq!(pair.server.chosen[0].server_name.as_deref(), Some("localhost"));
    answer.common.alpn = vec![b"pop3".to_vec()];
    let mut pair = Pair::new(offer, answer);
    pair.run();
    assert_eq!(pair.server.error(), Some(&Error::NoApplicationProtocol));
    let concealed = ClientConfig { conceal_name: true, ..client() };
    let mut pair = Pair::new(concealed, server());
    pair.run();
    pair.check_open();
    assert_eq!(pair.server.chosen[0].server_name, None);
}

#[test]
fn a_server_beside_tls13_says_so() {
    let mut pair = Pair::new(client(), ServerConfig { serves_tls13: true, ..server() });
    pair.run();
    pair.check_open();
    assert!(contains(&pair.server.wire, b"DOWNGRD\x01"));
}
