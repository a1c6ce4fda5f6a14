//! Client against server in memory: everything that can be negotiated.

mod support;

use std::sync::Arc;
use std::time::Duration;

use support::*;
use tls12::*;

fn client() -> ClientConfig {
    ClientConfig { server_name: Some("localhost".into()), ..ClientConfig::default() }
}

fn server() -> ServerConfig {
    ServerConfig::default()
}

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
fn a_client_that_wants_no_session_gets_none() {
    let answer = ServerConfig { tickets: Some(tickets()), ..server() };
    let mut pair = Pair::new(client(), answer);
    pair.run();
    pair.check_open();
    assert!(pair.client.session.is_none());
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
fn openpgp_in_both_framings_and_descriptors() {
    for framing in [Framing::Deployed, Framing::Rfc6091] {
        for shape in [Shape::OpenPgp, Shape::Fingerprint] {
            for key in 0..3 {
                let mut offer = client();
                offer.common.certificate_types = openpgp_first();
                offer.common.framing = framing;
                let mut answer = ServerConfig { client_auth: ClientAuth::Required, ..server() };
                answer.common.certificate_types = openpgp_first();
                answer.common.framing = framing;
                let both = || vec![credential(1, Shape::X509), credential(key, shape)];
                let shown = vec![credential(key, shape), credential(1, Shape::X509)];
                let mut pair = Pair::with(offer, both(), answer, shown);
                pair.run();
                pair.check_open();
                for side in [&pair.client, &pair.server] {
                    let peer = side.connection.summary().unwrap().peer.as_ref().unwrap();
                    assert_eq!(*peer, credential(key, shape).certificate);
                }
            }
        }
    }
}

#[test]
fn openpgp_falls_back_to_x509_or_fails() {
    let mut offer = client();
    offer.common.certificate_types = openpgp_first();
    let mut pair = Pair::new(offer.clone(), server());
    pair.run();
    pair.check_open();
    offer.common.certificate_types = vec![CertificateType::OpenPgp];
    let mut pair = Pair::new(offer, server());
    pair.run();
    assert!(matches!(pair.server.error(), Some(Error::UnsupportedCertificate(_))));
    let alert = Error::PeerAlert(Alert::UNSUPPORTED_CERTIFICATE);
    assert_eq!(pair.client.error(), Some(&alert));
}

/// RFC 6091 section 3: a server says which type it has chosen, if it is OpenPGP; for X.509, and where nobody shows
/// anything, it says nothing.
#[test]
fn cert_type_on_the_wire() {
    const CHOSEN: [u8; 5] = [0, 9, 0, 1, 1];
    let offer = |types: &[CertificateType]| {
        let mut offer = client();
        offer.common.certificate_types = types.to_vec();
        offer
    };
    let mut answer = server();
    answer.common.certificate_types = openpgp_first();
    let x509 = || credential(1, Shape::X509);
    for (types, offered, shown, says) in [
        (openpgp_first(), &[0, 9, 0, 3, 2, 1, 0][..], credential(1, Shape::OpenPgp), true),
        (openpgp_first(), &[0, 9, 0, 3, 2, 1, 0], x509(), false),
        (vec![CertificateType::OpenPgp], &[0, 9, 0, 2, 1, 1], credential(1, Shape::OpenPgp), true),
    ] {
        let mut pair = Pair::with(offer(&types), vec![], answer.clone(), vec![shown]);
        pair.run();
        pair.check_open();
        assert!(contains(&pair.client.wire, offered));
        assert_eq!(contains(&pair.server.wire, &CHOSEN), says, "{types:?}");
        // Neither does it say X.509 in so many words.
        assert!(!contains(&pair.server.wire, &[0, 9, 0, 1, 0]));
    }
    // With X.509 alone the extension stays out.
    let mut pair = Pair::with(client(), vec![], answer.clone(), vec![x509()]);
    pair.run();
    assert!(!contains(&pair.client.wire, &[0, 9, 0, 2, 1, 0]));
    // One that takes OpenPGP only, and stays anonymous.
    let mut anonymous = offer(&[CertificateType::OpenPgp]);
    anonymous.common.anonymous = Anonymous::Final;
    answer.common.anonymous = Anonymous::Final;
    let mut pair = Pair::with(anonymous, vec![], answer, vec![]);
    pair.run();
    pair.check_open();
    assert!(pair.client.connection.summary().unwrap().suite.is_anonymous());
    assert!(contains(&pair.client.wire, &[0, 9, 0, 2, 1, 1]));
    assert!(!contains(&pair.server.wire, &CHOSEN));
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

fn precursor_pair(client_mode: Anonymous, server_mode: Anonymous) -> Pair {
    let mut offer = ClientConfig { conceal_name: true, ..client() };
    offer.common.anonymous = client_mode;
    let mut answer = ServerConfig { client_auth: ClientAuth::Required, ..server() };
    answer.common.anonymous = server_mode;
    Pair::new(offer, answer)
}

fn contains(wire: &[u8], needle: &[u8]) -> bool {
    wire.windows(needle.len()).any(|window| window == needle)
}

#[test]
fn precursor_hides_certificates_and_name() {
    use Anonymous::{Precursor, RequiredPrecursor};
    for modes in [(Precursor, Precursor), (RequiredPrecursor, RequiredPrecursor)] {
        for piece in [usize::MAX, 1] {
            let mut pair = precursor_pair(modes.0, modes.1);
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
    use Anonymous::{Never, Precursor, RequiredPrecursor};
    for modes in [(Precursor, Never), (Never, Precursor)] {
        let mut pair = precursor_pair(modes.0, modes.1);
        pair.run();
        pair.check_open();
        assert!(!pair.client.connection.summary().unwrap().private);
    }
    let mut pair = precursor_pair(Never, RequiredPrecursor);
    pair.run();
    assert_eq!(pair.server.error(), Some(&Error::NoPrecursor));
    let mut pair = precursor_pair(RequiredPrecursor, Never);
    pair.run();
    assert!(matches!(pair.server.error(), Some(Error::Insufficient(_))));
    let alert = Error::PeerAlert(Alert::INSUFFICIENT_SECURITY);
    assert_eq!(pair.client.error(), Some(&alert));
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

#[test]
fn half_close_and_clean_end() {
    let mut pair = Pair::new(client(), server());
    pair.run();
    pair.client.connection.close();
    pair.client.connection.close();
    pair.run();
    assert!(pair.server.peer_closed && pair.server.closed.is_none());
    pair.server.connection.send(b"the rest").unwrap();
    pair.run();
    assert_eq!(pair.client.data, b"the rest");
    assert!(pair.client.connection.send(b"x").is_err());
    pair.server.connection.close();
    pair.run();
    for side in [&pair.client, &pair.server] {
        assert_eq!(side.closed, Some(Closed::Cleanly));
    }
}

#[test]
fn an_end_without_close_notify_is_a_truncation() {
    let mut pair = Pair::new(client(), server());
    pair.run();
    pair.client.connection.handle_end();
    pair.client.act();
    assert_eq!(pair.client.error(), Some(&Error::Truncated));
    // After close_notify it is none.
    pair.server.connection.close();
    pair.server.act();
    let mut other = Pair::new(client(), server());
    other.run();
    other.server.connection.close();
    other.run();
    other.client.connection.handle_end();
    other.client.act();
    assert_eq!(other.client.closed, None);
    other.client.connection.close();
    other.client.act();
    assert_eq!(other.client.closed, Some(Closed::Cleanly));
}

#[test]
fn closing_or_aborting_early() {
    let mut pair = Pair::new(client(), server());
    pair.client.connection.close();
    pair.run();
    assert_eq!(pair.server.error(), Some(&Error::PeerAlert(Alert::CLOSE_NOTIFY)));
    let mut pair = Pair::new(client(), server());
    pair.run();
    pair.server.connection.abort(Alert::ACCESS_DENIED);
    pair.run();
    assert_eq!(pair.client.error(), Some(&Error::PeerAlert(Alert::ACCESS_DENIED)));
}

#[test]
fn a_relay_seals_and_opens_in_place() {
    let mut pair = Pair::new(client(), server());
    pair.run();
    let (from, to) = (&mut pair.client, &mut pair.server);
    let prefix = from.connection.prefix();
    let mut room = vec![0; MAX_RECORD];
    for length in [1, 100, MAX_PLAINTEXT] {
        room[prefix..prefix + length].fill(7);
        let sealed = from.connection.seal(&mut room, length).unwrap();
        assert_eq!(sealed, prefix + length + from.connection.suffix());
        assert_eq!(to.connection.record_length(&room), Ok(Some(sealed)));
        let now = to.now;
        let plain = to.connection.open(&mut room[..sealed], now).unwrap().unwrap();
        assert!(plain.len() == length && room[plain].iter().all(|byte| *byte == 7));
    }
    assert!(from.connection.seal(&mut room[..20], 10).is_err());
    // A renegotiation through the relay's eyes: a record that is no data, then input until it is over.
    from.connection.renegotiate(None).unwrap();
    assert!(from.connection.seal(&mut room, 1).is_err());
    from.act();
    let mut hello = std::mem::take(&mut from.sent);
    assert_eq!(to.connection.open(&mut hello, to.now), Ok(None));
    assert!(to.connection.is_handshaking());
    assert!(matches!(to.connection.open(&mut room, to.now), Err(Error::Misuse(_))));
    pair.run();
    pair.check_open();
    // A forged record ends it.
    let mut record = vec![23, 3, 3, 0, 40];
    record.resize(45, 0);
    let server = &mut pair.server;
    assert_eq!(server.connection.open(&mut record, server.now), Err(Error::BadRecord));
    pair.run();
    assert_eq!(pair.client.error(), Some(&Error::PeerAlert(Alert::BAD_RECORD_MAC)));
}

#[test]
fn unread_bytes_pass_to_the_relay() {
    let mut pair = Pair::new(client(), server());
    pair.run();
    pair.client.connection.send(&[1; 50]).unwrap();
    pair.client.act();
    let record = std::mem::take(&mut pair.client.sent);
    pair.server.input(&record[..20]);
    assert_eq!(pair.server.connection.take_unread(), &record[..20]);
}

#[test]
fn a_server_beside_tls13_says_so() {
    let mut pair = Pair::new(client(), ServerConfig { serves_tls13: true, ..server() });
    pair.run();
    pair.check_open();
    assert!(contains(&pair.server.wire, b"DOWNGRD\x01"));
}

#[test]
fn answers_that_nobody_asked_for() {
    for answer in 0..3 {
        let mut pair = Pair::new(client(), server());
        pair.run();
        match answer {
            0 => pair.client.connection.chosen(Ok(None)),
            1 => pair.client.connection.signed(Some(vec![])),
            _ => pair.client.connection.verified(Ok(vec![])),
        }
        pair.client.act();
        assert!(matches!(pair.client.error(), Some(Error::Misuse(_))));
    }
}

#[test]
fn a_key_that_does_not_sign() {
    let mut pair = Pair::new(client(), server());
    pair.client.act();
    let hello = std::mem::take(&mut pair.client.sent);
    let server = &mut pair.server.connection;
    server.handle_input(&hello, pair.server.now);
    let mut out = Vec::new();
    assert!(matches!(server.poll_output(&mut out), Output::ChooseCredential(_)));
    server.chosen(Ok(Some(credential(1, Shape::X509))));
    loop {
        match server.poll_output(&mut out) {
            Output::Sign(request) => {
                assert!(request.digest().is_some());
                break;
            }
            Output::Send => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(server.is_asking());
    server.signed(None);
    pair.run();
    assert_eq!(pair.server.error(), Some(&Error::NoSignature));
}

#[test]
fn large_data_is_cut_into_records() {
    let mut pair = Pair::new(client(), server());
    pair.run();
    let data: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    pair.client.connection.send(&data).unwrap();
    pair.run();
    assert_eq!(pair.server.data, data);
}
