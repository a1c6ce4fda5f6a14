//! What has no place in a state: messages, records, alerts, and answers of the caller's.

use super::*;
use crate::codec::CertificateRequest;
use crate::crypto::{Group, SignatureScheme};
use crate::record::{MAX_IDLE, content};

fn with_liar(mut pair: Pair, liar: Liar) -> Pair {
    pair.server.connection.core.liar = Some(liar);
    pair.run();
    pair
}

#[test]
fn an_anonymous_server_may_not_ask_who_we_are() {
    let mut offer = client_config();
    offer.common.anonymous = Anonymous::Final;
    let mut answer = server_config();
    answer.common.anonymous = Anonymous::Final;
    let request = CertificateRequest::new(CertificateType::X509, vec![0x0403]).encode();
    let asks: Liar = Box::new(move |said, body| {
        let mut all = vec![(said, body.to_vec())];
        if said == kind::SERVER_HELLO_DONE {
            all.insert(0, (kind::CERTIFICATE_REQUEST, request.clone()));
        }
        all
    });
    let pair = with_liar(Pair::with(offer, vec![], answer, vec![]), asks);
    assert_eq!(pair.client.error().and_then(Error::alert), Some(Alert::HANDSHAKE_FAILURE));
    assert!(!pair.client.established);
}

#[test]
fn a_server_without_the_only_type_that_the_client_takes() {
    let mut offer = client_config();
    offer.common.certificate_types = vec![CertificateType::OpenPgp];
    let mut answer = server_config();
    answer.common.certificate_types = openpgp_first();
    let pair = Pair::with(offer, vec![], answer, vec![credential(1, Shape::OpenPgp)]);
    let pair = with_liar(pair, alter_server_hello(|hello| hello.extensions.cert_type = None));
    assert!(matches!(pair.client.error(), Some(Error::UnsupportedCertificate(_))));
}

#[test]
fn a_session_is_resumed_with_its_own_suite_or_not_at_all() {
    let current = Arc::new(crate::TicketKey::generate().unwrap());
    let tickets = crate::TicketKeys { current, previous: vec![], lifetime: 600 };
    let answer = ServerConfig { tickets: Some(Arc::new(tickets)), ..ServerConfig::default() };
    let offer = ClientConfig { wants_session: true, ..client_config() };
    let mut pair = pair_of(offer.clone(), answer.clone());
    pair.run();
    let session = pair.client.session.take();
    let suite = pair.client.connection.summary().unwrap().suite;
    let other = offer.common.suites.iter().find(|other| **other != suite).unwrap().code;
    let pair = pair_of(ClientConfig { session, ..offer }, answer);
    let pair = with_liar(pair, alter_server_hello(move |hello| hello.suite = other));
    let expected = Error::Illegal("another cipher suite for a resumed session");
    assert_eq!(pair.client.error(), Some(&expected));
}

#[test]
fn a_session_is_offered_only_where_it_fits() {
    let current = Arc::new(crate::TicketKey::generate().unwrap());
    let tickets = crate::TicketKeys { current, previous: vec![], lifetime: 600 };
    let answer = ServerConfig { tickets: Some(Arc::new(tickets)), ..ServerConfig::default() };
    let mut pair = pair_of(ClientConfig { wants_session: true, ..client_config() }, answer.clone());
    pair.run();
    let session = pair.client.session.take();
    let suite = pair.client.connection.summary().unwrap().suite;
    let offers = |connection: &Connection| {
        let Some(Step::Client(handshake)) = &connection.handshake else { panic!() };
        !handshake.hello_for_tests().session_id.is_empty()
    };
    let fits = ClientConfig { session, ..client_config() };
    assert!(offers(&Connection::client(&Arc::new(fits.clone())).unwrap()));
    let changes: [&dyn Fn(&mut Common); 3] = [
        &|common| common.anonymous = Anonymous::Precursor,
        &|common| common.suites.retain(|other| *other != suite),
        &|common| common.certificate_types = vec![CertificateType::OpenPgp],
    ];
    for change in changes {
        let mut other = fits.clone();
        change(&mut other.common);
        assert!(!offers(&Connection::client(&Arc::new(other)).unwrap()));
    }
    // Without a session id the server could not say whether it resumes.
    let mut pair = pair_of(fits.clone(), answer.clone());
    lying_client(&mut pair, fits.clone(), alter_client_hello(|hello| hello.session_id.clear()));
    pair.run();
    pair.check_open();
    assert!(!pair.client.connection.summary().unwrap().resumed);
    let mut pair = pair_of(fits, answer);
    pair.run();
    assert!(pair.client.connection.summary().unwrap().resumed);
    pair.client.connection.renegotiate(None).unwrap();
    assert!(!offers(&pair.client.connection));
}

#[test]
fn a_server_that_asks_for_what_the_client_cannot_sign() {
    // It takes no scheme of our key: then we show nothing, which it does not take either.
    let request = || {
        alter(kind::CERTIFICATE_REQUEST, |body| {
            *body = CertificateRequest::new(CertificateType::X509, vec![0x0804]).encode();
        })
    };
    let pair = with_liar(pair_of(client_config(), server_config()), request());
    assert_eq!(pair.server.error(), Some(&Error::NoCertificate));
    assert!(pair.client.signatures == 0);
}

#[test]
fn a_server_that_takes_one_kind_of_key() {
    for (key_type, takes) in
        [(1, SignatureScheme::RsaPssRsaeSha256), (64, SignatureScheme::EcdsaSecp256r1Sha256)]
    {
        let mut request = CertificateRequest::new(CertificateType::X509, vec![0x0804, 0x0403]);
        request.key_types = vec![key_type];
        let asks = alter(kind::CERTIFICATE_REQUEST, move |body| *body = request.encode());
        let pair = with_liar(pair_of(client_config(), server_config()), asks);
        assert_eq!(pair.client.chosen[0].schemes, [takes]);
    }
}

#[test]
fn answers_of_the_wrong_type_end_the_connection() {
    let mut server = Side::server(ServerConfig::default(), vec![]);
    let mut client = Side::client(client_config(), vec![]);
    client.act();
    let hello = std::mem::take(&mut client.sent);
    server.connection.handle_input(&hello, server.now);
    let mut out = Vec::new();
    assert!(matches!(server.connection.poll_output(&mut out), Output::ChooseCredential(_)));
    assert!(server.connection.is_asking());
    server.connection.chosen(Ok(Some(credential(1, Shape::OpenPgp))));
    server.act();
    assert!(matches!(server.error(), Some(Error::Misuse(_))));
    // A client's.
    let mut pair = pair_of(client_config(), server_config());
    pair.client.act();
    pair.server.input(&std::mem::take(&mut pair.client.sent));
    let flight = std::mem::take(&mut pair.server.sent);
    let client = &mut pair.client;
    client.connection.handle_input(&flight, client.now);
    assert!(matches!(client.connection.poll_output(&mut out), Output::Verify(_)));
    client.connection.verified(Ok(P256.spki.clone()));
    assert!(matches!(client.connection.poll_output(&mut out), Output::ChooseCredential(_)));
    client.connection.chosen(Ok(Some(credential(1, Shape::OpenPgp))));
    client.act();
    assert!(matches!(client.error(), Some(Error::Misuse(_))));
    // After the end nothing matters.
    client.connection.chosen(Ok(None));
    client.connection.signed(None);
    client.connection.verified(Ok(vec![]));
    client.connection.handle_input(b"x", client.now);
    client.connection.handle_timeout(client.now);
    client.connection.handle_end();
    client.connection.close();
    client.connection.abort(Alert::ACCESS_DENIED);
    client.act();
}

#[test]
fn answers_to_another_question() {
    let asked = |auth| {
        let mut server =
            Side::server(ServerConfig { client_auth: auth, ..ServerConfig::default() }, vec![]);
        let mut client = Side::client(client_config(), vec![]);
        client.act();
        let hello = std::mem::take(&mut client.sent);
        server.connection.handle_input(&hello, server.now);
        server
    };
    for answer in 0..2 {
        let mut server = asked(ClientAuth::None);
        match answer {
            0 => server.connection.signed(Some(vec![1])),
            _ => server.connection.verified(Ok(vec![1])),
        }
        server.act();
        assert!(matches!(server.error(), Some(Error::Misuse(_))), "{answer}");
    }
    for answer in 0..2 {
        let mut pair = pair_of(client_config(), server_config());
        pair.client.act();
        pair.server.input(&std::mem::take(&mut pair.client.sent));
        let flight = std::mem::take(&mut pair.server.sent);
        let client = &mut pair.client;
        client.connection.handle_input(&flight, client.now);
        match answer {
            0 => client.connection.signed(Some(vec![1])),
            _ => client.connection.chosen(Ok(None)),
        }
        client.act();
        assert!(matches!(client.error(), Some(Error::Misuse(_))), "{answer}");
    }
}

#[test]
fn change_cipher_spec_out_of_place() {
    const CHANGE: [u8; 6] = [20, 3, 3, 0, 1, 1];
    let unexpected = Some(Error::Unexpected("ChangeCipherSpec"));
    // A client before it has heard anything, and in the middle of the flight.
    let mut client = Side::client(client_config(), vec![]);
    client.input(&CHANGE);
    assert_eq!(client.error().cloned(), unexpected);
    let mut pair = pair_of(client_config(), server_config());
    pair.client.act();
    let hello = std::mem::take(&mut pair.client.sent);
    pair.server.input(&hello);
    // The flight, without its last message.
    let flight = std::mem::take(&mut pair.server.sent);
    let mut last = 0;
    while let [_, _, _, high, low, ..] = flight[last..] {
        let end = last + 5 + usize::from(u16::from_be_bytes([high, low]));
        if end == flight.len() {
            break;
        }
        last = end;
    }
    let mut cut = flight[..flight.len() - 4].to_vec();
    let length = cut.len().saturating_sub(last + 5) as u16;
    cut[last + 3..last + 5].copy_from_slice(&length.to_be_bytes());
    if length == 0 {
        cut.truncate(last);
    }
    pair.client.input(&cut);
    pair.client.input(&CHANGE);
    assert_eq!(pair.client.error().cloned(), unexpected);
    // A server in the place of the client's messages, and an open connection on both sides.
    pair.server.input(&CHANGE);
    assert_eq!(pair.server.error().cloned(), unexpected);
    for by_client in [true, false] {
        let mut pair = pair_of(client_config(), server_config());
        pair.run();
        let (from, to) = if by_client {
            (&mut pair.client, &mut pair.server)
        } else {
            (&mut pair.server, &mut pair.client)
        };
        let mut room = vec![0; from.connection.prefix() + 1 + from.connection.suffix()];
        let Transport::Stream(stream) = &mut from.connection.core.transport else { panic!() };
        let prefix = stream.prefix();
        room[prefix] = 1;
        let n = stream.seal(crate::record::content::CHANGE_CIPHER_SPEC, &mut room, 1).unwrap();
        to.input(&room[..n]);
        assert_eq!(to.error().cloned(), unexpected);
    }
}

#[test]
fn data_within_a_renegotiation_that_the_peer_has_joined() {
    for by_client in [true, false] {
        let mut pair = pair_of(client_config(), server_config());
        pair.run();
        pair.client.connection.renegotiate(None).unwrap();
        pair.client.act();
        let hello = std::mem::take(&mut pair.client.sent);
        pair.server.input(&hello);
        let side = if by_client { &mut pair.client } else { &mut pair.server };
        // Behind what it has said so far.
        side.connection.core.transport.queue_data(b"late").unwrap();
        pair.run();
        let side = if by_client { &pair.server } else { &pair.client };
        assert_eq!(side.error(), Some(&Error::Unexpected("application data")), "{by_client}");
        assert!(side.data.is_empty());
    }
}

#[test]
fn warnings_change_nothing_but_not_without_end() {
    for alert in [Alert::NO_RENEGOTIATION, Alert::USER_CANCELED] {
        for by_client in [true, false] {
            let mut pair = pair_of(client_config(), server_config());
            pair.run();
            for n in 0..=MAX_IDLE {
                let side = if by_client { &mut pair.client } else { &mut pair.server };
                if side.closed.is_none() {
                    side.connection.core.transport.queue_alert(alert).unwrap();
                }
                pair.run();
                let side = if by_client { &pair.server } else { &pair.client };
                if n < MAX_IDLE / 2 {
                    assert_eq!(side.error(), None, "{alert:?} {n}");
                } else if n == MAX_IDLE {
                    assert_eq!(side.error(), Some(&Error::Flood), "{alert:?}");
                }
                assert!(!side.refused);
            }
        }
    }
}

#[test]
fn no_renegotiation_is_fatal_if_it_says_so() {
    let mut pair = pair_of(client_config(), server_config());
    pair.run();
    let prefix = pair.server.connection.prefix();
    let mut record = vec![0; 64];
    record[prefix..prefix + 2].copy_from_slice(&[2, Alert::NO_RENEGOTIATION.0]);
    let sealed = pair.server.connection.core.transport.seal(content::ALERT, &mut record, 2);
    pair.client.input(&record[..sealed.unwrap()]);
    assert_eq!(pair.client.error(), Some(&Error::PeerAlert(Alert::NO_RENEGOTIATION)));
}

#[test]
fn no_renegotiation_refuses_only_what_we_asked_for_and_nothing_that_runs() {
    // The server asks for it, and refuses what it asked for: that means nothing.
    let mut pair = pair_of(client_config(), server_config());
    pair.run();
    pair.server.connection.renegotiate(None).unwrap();
    pair.server.act();
    pair.server.connection.core.transport.queue_alert(Alert::NO_RENEGOTIATION).unwrap();
    pair.run();
    assert!(!pair.client.refused && pair.client.renegotiated.len() == 1);
    // The server has joined already.
    let mut pair = pair_of(client_config(), server_config());
    pair.run();
    pair.client.connection.renegotiate(None).unwrap();
    pair.client.act();
    let hello = std::mem::take(&mut pair.client.sent);
    pair.server.input(&hello);
    pair.server.connection.core.transport.queue_alert(Alert::NO_RENEGOTIATION).unwrap();
    pair.run();
    assert!(!pair.client.refused && pair.client.renegotiated.len() == 1);
    pair.check_open();
}

#[test]
fn who_has_said_its_end_refuses_nothing_any_more() {
    let mut pair = pair_of(client_config(), server_config());
    pair.run();
    pair.client.connection.close();
    pair.run();
    pair.server.connection.renegotiate(None).unwrap();
    pair.run();
    assert!(!pair.server.refused);
    assert_eq!((pair.client.error(), pair.server.error()), (None, None));
}

#[test]
fn data_starts_the_count_of_warnings_anew() {
    let mut pair = pair_of(client_config(), server_config());
    pair.run();
    for _ in 0..4 * MAX_IDLE {
        pair.client.connection.core.transport.queue_alert(Alert::USER_CANCELED).unwrap();
        pair.client.connection.send(b"x").unwrap();
        pair.run();
    }
    assert_eq!(pair.server.error(), None);
    assert_eq!(pair.server.data.len(), 4 * MAX_IDLE as usize);
}

#[test]
fn data_after_close_notify_is_refused() {
    let mut pair = pair_of(client_config(), server_config());
    pair.run();
    pair.client.connection.close();
    pair.client.connection.core.transport.queue_data(b"more").unwrap();
    pair.run();
    assert_eq!(pair.server.error(), Some(&Error::Unexpected("application data")));
    assert!(pair.server.peer_closed && pair.server.data.is_empty());
}

#[test]
fn renegotiation_needs_an_open_connection_at_rest_and_its_own_role() {
    let refused = |result: Result<(), Error>| matches!(result, Err(Error::Misuse(_)));
    let mut pair = pair_of(client_config(), server_config());
    assert!(refused(pair.client.connection.renegotiate(None)));
    assert!(refused(pair.server.connection.renegotiate(None)));
    pair.run();
    let of_client = || NewConfig::Client(Arc::new(client_config()));
    let of_server = || NewConfig::Server(Arc::new(server_config()));
    assert!(refused(pair.client.connection.renegotiate(Some(of_server()))));
    assert!(refused(pair.server.connection.renegotiate(Some(of_client()))));
    pair.client.connection.renegotiate(Some(of_client())).unwrap();
    assert!(refused(pair.client.connection.renegotiate(None)));
    pair.run();
    pair.check_open();
    assert_eq!(pair.client.renegotiated.len(), 1);
    assert_eq!(pair.client.connection.role(), Role::Client);
    assert_eq!(pair.server.connection.role(), Role::Server);
    assert!(!pair.client.connection.is_datagram());
    pair.client.connection.close();
    assert!(refused(pair.client.connection.renegotiate(None)));
}

#[test]
fn what_is_shown_for_debugging_has_no_secrets() {
    let mut pair = pair_of(ClientConfig { wants_session: true, ..client_config() }, {
        let current = Arc::new(crate::TicketKey::generate().unwrap());
        let tickets = crate::TicketKeys { current, previous: vec![], lifetime: 600 };
        ServerConfig { tickets: Some(Arc::new(tickets)), ..server_config() }
    });
    pair.run();
    let session = pair.client.session.take().unwrap();
    let Config::Server(config) = &pair.server.connection.core.config else { panic!() };
    let tickets = config.tickets.as_ref().unwrap();
    let suite = pair.client.connection.summary().unwrap().suite.name;
    assert_eq!(format!("{session:?}"), format!("ClientSession({suite})"));
    assert_eq!(format!("{:?}", tickets.current), "TicketKey");
    assert_eq!(format!("{:?}", pair.client.connection.exporter().unwrap()), "Exporter");
    let shown = format!("{:?}", pair.client.connection);
    assert_eq!(shown, "Connection { role: Client, phase: Open, .. }");
}

#[test]
fn groups_have_names_of_their_own() {
    let names: std::collections::HashSet<_> = Group::NAMED.iter().map(|g| g.name()).collect();
    assert_eq!(names.len(), Group::NAMED.len());
    assert!(names.contains("X25519") && names.contains("ffdhe2048"), "{names:?}");
}
