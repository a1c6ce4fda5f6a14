//! The anonymous precursor, and connections that stay anonymous.

use std::sync::Arc;

use tls12::*;

use crate::support::*;
use crate::{client, contains, server};

fn precursor_pair(client_mode: Anonymous, server_mode: Anonymous) -> Pair {
    perhaps_private((client_mode, false), (server_mode, false))
}

/// What each side does, and whether it must be private.
fn perhaps_private(client_mode: (Anonymous, bool), server_mode: (Anonymous, bool)) -> Pair {
    let mut offer = ClientConfig { conceal_name: true, ..client() };
    (offer.common.anonymous, offer.common.private) = client_mode;
    let mut answer = ServerConfig { client_auth: ClientAuth::Required, ..server() };
    (answer.common.anonymous, answer.common.private) = server_mode;
    Pair::new(offer, answer)
}

#[test]
fn precursor_hides_certificates_and_name() {
    for private in [false, true] {
        for piece in [usize::MAX, 1] {
            let mode = (Anonymous::Precursor, private);
            let mut pair = perhaps_private(mode, mode);
            pair.run_in_pieces(piece);
            pair.check_open();
            let summary = pair.server.connection.summary().unwrap();
            assert!(summary.private && !summary.suite.is_anonymous());
            assert_eq!(summary.server_name.as_deref(), Some("localhost"));
            for wire in [&pair.client.wire, &pair.server.wire] {
                assert!(!contains(wire, &P256.certificate));
                assert!(!contains(wire, b"localhost"));
            }
        }
    }
    // Without it both show.
    let mut pair = Pair::new(client(), server());
    pair.run();
    assert!(contains(&pair.server.wire, &P256.certificate));
    assert!(contains(&pair.client.wire, b"localhost"));
}

#[test]
fn precursor_when_one_side_does_not() {
    use Anonymous::{Never, Precursor};
    for modes in [(Precursor, Never), (Never, Precursor)] {
        let mut pair = precursor_pair(modes.0, modes.1);
        pair.run();
        pair.check_open();
        assert!(!pair.client.connection.summary().unwrap().private);
    }
    let mut pair = perhaps_private((Never, false), (Precursor, true));
    pair.run();
    assert_eq!(pair.server.error(), Some(&Error::NotPrivate));
    let mut pair = perhaps_private((Precursor, true), (Never, false));
    pair.run();
    assert!(matches!(pair.server.error(), Some(Error::Insufficient(_))));
    let alert = Error::PeerAlert(Alert::INSUFFICIENT_SECURITY);
    assert_eq!(pair.client.error(), Some(&alert));
}

#[test]
fn what_must_be_private_shows_nothing_without_a_precursor_either() {
    use Anonymous::{Final, Never};
    // There is nothing that such a client could offer.
    let mut config = client();
    config.common.private = true;
    assert_eq!(Connection::client(&Arc::new(config)).err(), Some(Error::NotPrivate));
    for mode in [Never, Final] {
        let mut pair = perhaps_private((Never, false), (mode, true));
        pair.run();
        assert_eq!(pair.server.error(), Some(&Error::NotPrivate));
        assert!(!contains(&pair.server.wire, &P256.certificate));
    }
    // Whom it does not matter who is there stays anonymous, though both could show something.
    for (client, server) in [(true, false), (false, true), (true, true)] {
        let mut pair = perhaps_private((Final, client), (Final, server));
        if !server {
            pair.server.credentials.clear();
        }
        pair.run();
        pair.check_open();
        assert!(pair.client.connection.summary().unwrap().suite.is_anonymous());
        assert!(!contains(&pair.server.wire, &P256.certificate));
    }
}

#[test]
fn precursor_with_openpgp() {
    let mut offer = ClientConfig { conceal_name: true, ..client() };
    offer.common.anonymous = Anonymous::Precursor;
    offer.common.certificate_types = vec![CertificateType::OpenPgp];
    let mut answer = ServerConfig { client_auth: ClientAuth::Required, ..server() };
    answer.common.anonymous = Anonymous::Precursor;
    answer.common.certificate_types = openpgp_first();
    let shown = || vec![credential(2, Shape::OpenPgp)];
    let mut pair = Pair::with(offer, shown(), answer, shown());
    pair.run();
    pair.check_open();
    assert!(pair.client.connection.summary().unwrap().private);
}

#[test]
fn anonymous_to_the_end_only_if_both_ignore_identities() {
    let mut pair = precursor_pair(Anonymous::Final, Anonymous::Final);
    pair.server.credentials.clear();
    pair.run();
    pair.check_open();
    let summary = pair.client.connection.summary().unwrap();
    assert!(summary.suite.is_anonymous() && !summary.private && summary.peer.is_none());
    // A server that has something to show shows it.
    let mut pair = precursor_pair(Anonymous::Final, Anonymous::Final);
    pair.run();
    pair.check_open();
    assert!(pair.client.connection.summary().unwrap().peer.is_some());
    // One that takes it for a precursor waits for more; data is fatal.
    let mut pair = precursor_pair(Anonymous::Final, Anonymous::Precursor);
    pair.run();
    assert!(pair.client.established && !pair.server.established);
    pair.client.connection.send(b"secret").unwrap();
    pair.run();
    assert_eq!(pair.server.error(), Some(&Error::DataInAnonymousPhase));
    assert!(pair.server.data.is_empty() && pair.server.connection.summary().is_none());
    assert_eq!(pair.client.error(), Some(&Error::PeerAlert(Alert::UNEXPECTED_MESSAGE)));
}

#[test]
fn data_from_the_server_in_the_anonymous_phase() {
    let mut pair = precursor_pair(Anonymous::Precursor, Anonymous::Final);
    pair.server.credentials.clear();
    pair.client.act();
    let hello = std::mem::take(&mut pair.client.sent);
    pair.server.input(&hello);
    let flight = std::mem::take(&mut pair.server.sent);
    pair.client.input(&flight);
    let finished = std::mem::take(&mut pair.client.sent);
    pair.server.input(&finished);
    assert!(pair.server.established);
    pair.server.connection.send(b"early").unwrap();
    pair.server.act();
    let all = std::mem::take(&mut pair.server.sent);
    pair.client.input(&all);
    assert_eq!(pair.client.error(), Some(&Error::DataInAnonymousPhase));
    assert!(pair.client.data.is_empty() && !pair.client.established);
}

#[test]
fn a_server_that_refuses_to_authenticate_later() {
    let mut pair = precursor_pair(Anonymous::Precursor, Anonymous::Final);
    pair.server.credentials.clear();
    let mut answer = server();
    answer.common.anonymous = Anonymous::Final;
    answer.common.renegotiation = Renegotiation::Refuse;
    pair.server = Side::server(answer, vec![]);
    pair.run();
    assert_eq!(pair.client.error(), Some(&Error::StaysAnonymous));
    assert!(!pair.client.established);
}
