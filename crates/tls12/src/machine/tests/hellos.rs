//! Hellos that offer less, or choose what was not offered, and renegotiations that are not bound to what went before.

use super::*;
use crate::codec::ServerExtensions;
use crate::suite::{EMPTY_RENEGOTIATION_INFO_SCSV, FALLBACK_SCSV};

#[test]
fn hellos_that_offer_less() {
    type Lie = fn(&mut ClientHello);
    let lies: [(Lie, Alert); 9] = [
        (|h| h.version = [3, 2], Alert::PROTOCOL_VERSION),
        (|h| h.version = [2, 0], Alert::PROTOCOL_VERSION),
        (|h| h.extensions.extended_master_secret = false, Alert::INSUFFICIENT_SECURITY),
        (|h| h.extensions.renegotiation_info = None, Alert::INSUFFICIENT_SECURITY),
        (|h| h.extensions.renegotiation_info = Some(vec![1; 12]), Alert::HANDSHAKE_FAILURE),
        (|h| h.suites = vec![0x002F, 0xC013], Alert::INSUFFICIENT_SECURITY),
        (|h| h.extensions.groups = Some(vec![25]), Alert::HANDSHAKE_FAILURE),
        (|h| h.extensions.schemes = Some(vec![0x0201]), Alert::INSUFFICIENT_SECURITY),
        (|h| h.extensions.point_formats = Some(vec![1]), Alert::ILLEGAL_PARAMETER),
    ];
    for (lie, alert) in lies {
        server_refuses(client_config(), alter_client_hello(lie), alert);
    }
    // The signal stands for the extension.
    let mut pair = pair_of(client_config(), server_config());
    let signal = alter_client_hello(|h| {
        h.extensions.renegotiation_info = None;
        h.suites.push(EMPTY_RENEGOTIATION_INFO_SCSV);
    });
    lying_client(&mut pair, client_config(), signal);
    pair.run();
    pair.check_open();
    let mut pair = pair_of(client_config(), ServerConfig { serves_tls13: true, ..server_config() });
    let fallback = alter_client_hello(|h| h.suites.push(FALLBACK_SCSV));
    lying_client(&mut pair, client_config(), fallback);
    refused_by_server(&mut pair, Alert::INAPPROPRIATE_FALLBACK);
}

#[test]
fn server_hellos_that_choose_what_was_not_offered() {
    type Lie = fn(&mut ServerHello);
    let lies: [(Lie, Alert); 11] = [
        (|h| h.version = [3, 2], Alert::PROTOCOL_VERSION),
        (|h| h.version = [3, 4], Alert::PROTOCOL_VERSION),
        (|h| h.suite = 0x00A7, Alert::ILLEGAL_PARAMETER),
        (|h| h.suite = 0x002F, Alert::ILLEGAL_PARAMETER),
        (|h| h.extensions.extended_master_secret = false, Alert::INSUFFICIENT_SECURITY),
        (|h| h.extensions.renegotiation_info = None, Alert::INSUFFICIENT_SECURITY),
        (|h| h.extensions.renegotiation_info = Some(vec![0; 24]), Alert::HANDSHAKE_FAILURE),
        (|h| h.extensions.cert_type = Some(1), Alert::UNSUPPORTED_EXTENSION),
        (|h| h.extensions.alpn = Some(vec![1]), Alert::UNSUPPORTED_EXTENSION),
        (|h| h.extensions.ticket = true, Alert::UNSUPPORTED_EXTENSION),
        (|h| h.extensions.point_formats = Some(vec![2]), Alert::ILLEGAL_PARAMETER),
    ];
    for (lie, alert) in lies {
        client_refuses(client_config(), alter_server_hello(lie), alert);
    }
    let mut config = client_config();
    config.common.alpn = vec![b"h2".to_vec()];
    let lie = alter_server_hello(|h| h.extensions.alpn = Some(b"h3".to_vec()));
    client_refuses(config, lie, Alert::ILLEGAL_PARAMETER);
    for code in [2, 0] {
        let mut config = client_config();
        config.common.certificate_types = vec![CertificateType::OpenPgp];
        let lie = alter_server_hello(move |h| h.extensions.cert_type = Some(code));
        let mut server = server_config();
        server.common.certificate_types = openpgp_first();
        let mut pair = Pair::with(config, vec![], server, vec![credential(1, Shape::OpenPgp)]);
        pair.server.connection.core.liar = Some(lie);
        pair.run();
        assert!(matches!(pair.client.error(), Some(Error::Illegal(_))));
    }
}

#[test]
fn renegotiations_that_are_not_bound() {
    type Lie = fn(&mut ClientHello);
    let lies: [Lie; 5] = [
        |h| h.extensions.renegotiation_info = None,
        |h| h.extensions.renegotiation_info = Some(vec![]),
        |h| h.extensions.renegotiation_info = Some(vec![7; 12]),
        |h| h.extensions.renegotiation_info.as_mut().unwrap()[0] ^= 1,
        |h| h.suites.push(EMPTY_RENEGOTIATION_INFO_SCSV),
    ];
    for lie in lies {
        let mut pair = pair_of(client_config(), server_config());
        pair.run();
        pair.client.connection.core.liar = Some(alter_client_hello(lie));
        pair.client.connection.renegotiate(None).unwrap();
        pair.run();
        assert!(matches!(pair.server.error(), Some(Error::Renegotiation(_))));
        assert_eq!(pair.client.error(), Some(&Error::PeerAlert(Alert::HANDSHAKE_FAILURE)));
    }
    let lies: [fn(&mut ServerHello); 4] = [
        |h| h.extensions.renegotiation_info = None,
        |h| h.extensions.renegotiation_info = Some(vec![]),
        |h| h.extensions.renegotiation_info = Some(vec![7; 24]),
        |h| h.extensions.renegotiation_info.as_mut().unwrap()[23] ^= 1,
    ];
    for lie in lies {
        let mut pair = pair_of(client_config(), server_config());
        pair.run();
        pair.server.connection.core.liar = Some(alter_server_hello(lie));
        pair.client.connection.renegotiate(None).unwrap();
        pair.run();
        let error = pair.client.error();
        assert_eq!(error.and_then(Error::alert), Some(Alert::HANDSHAKE_FAILURE), "{error:?}");
    }
}

#[test]
fn a_man_in_the_middle_of_the_anonymous_phase_is_caught() {
    // He finishes an anonymous handshake with each side and passes on what is inside.
    let mut offer = client_config();
    offer.common.anonymous = Anonymous::Precursor;
    offer.common.private = true;
    let mut answer = server_config();
    answer.common.anonymous = Anonymous::Precursor;
    answer.common.private = true;
    let mut left = pair_of(offer.clone(), answer.clone());
    left.client.act();
    let up = std::mem::take(&mut left.client.sent);
    left.server.input(&up);
    let down = std::mem::take(&mut left.server.sent);
    left.client.input(&down);
    let up = std::mem::take(&mut left.client.sent);
    left.server.input(&up);
    let down = std::mem::take(&mut left.server.sent);
    // The victim now says the hello inside, which he reads.
    left.client.connection.handle_input(&down, left.client.now);
    let Some(Step::Client(victim)) = &left.client.connection.handshake else { panic!() };
    let inside = victim.hello_for_tests().encode();
    let mut right = pair_of(offer.clone(), answer);
    let mut hellos = 0;
    let liar: Liar = Box::new(move |said, body| {
        hellos += i32::from(said == kind::CLIENT_HELLO);
        let passes_on = said == kind::CLIENT_HELLO && hellos == 2;
        vec![(said, if passes_on { inside.clone() } else { body.to_vec() })]
    });
    lying_client(&mut right, offer, liar);
    right.run();
    assert_eq!(right.server.error(), Some(&Error::Renegotiation("wrong renegotiation_info")));
    assert!(!right.server.established);
}

/// The extensions of the first ServerHello.
fn answered(mut pair: Pair) -> (ServerExtensions, Pair) {
    let seen = std::rc::Rc::new(std::cell::RefCell::new(None));
    let keep = seen.clone();
    pair.server.connection.core.liar = Some(Box::new(move |said, body| {
        if said == kind::SERVER_HELLO {
            let hello = ServerHello::decode(body, &offered()).unwrap();
            keep.borrow_mut().get_or_insert(hello.extensions);
        }
        vec![(said, body.to_vec())]
    }));
    pair.run();
    pair.check_open();
    let extensions = seen.borrow_mut().take().unwrap();
    (extensions, pair)
}

#[test]
fn server_hellos_answer_what_was_asked_and_counts() {
    let current = Arc::new(crate::TicketKey::generate().unwrap());
    let tickets = crate::TicketKeys { current, previous: vec![], lifetime: 600 };
    let answer = ServerConfig { tickets: Some(Arc::new(tickets)), ..ServerConfig::default() };
    let asks = ClientConfig { wants_session: true, ..client_config() };
    let (full, mut pair) = answered(pair_of(asks.clone(), answer.clone()));
    assert!(full.server_name && full.ticket && full.point_formats.is_some());
    // RFC 6066 section 3: not in a resumed session.
    let session = pair.client.session.take();
    let (resumed, pair) = answered(pair_of(ClientConfig { session, ..asks }, answer));
    assert!(pair.client.connection.summary().unwrap().resumed);
    assert!(!resumed.server_name);
    // Points are of no use to finite fields.
    let credentials = vec![credential(0, Shape::X509)];
    let pair = Pair::with(proofs::dhe(), vec![], ServerConfig::default(), credentials);
    let (finite, _) = answered(pair);
    assert!(finite.server_name && finite.point_formats.is_none() && !finite.ticket);
    // Nor is a name to a server that shows nothing.
    let (mut offer, mut answer) = (client_config(), ServerConfig::default());
    offer.common.anonymous = Anonymous::Final;
    answer.common.anonymous = Anonymous::Final;
    let (anonymous, _) = answered(Pair::with(offer, vec![], answer, vec![]));
    assert!(!anonymous.server_name);
}
