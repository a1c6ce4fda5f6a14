//! Peers that lie: our own machine with a mouth that says something else, against our own machine.

#[path = "../../tests/support/mod.rs"]
mod support;

mod states;

use std::sync::Arc;

use support::*;

use super::*;
use crate::codec::{ClientHello, Params, ServerHello, ServerKeyExchange, decode_certificate};
use crate::config::ClientAuth;
use crate::suite::{EMPTY_RENEGOTIATION_INFO_SCSV, FALLBACK_SCSV};

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

fn dhe() -> ClientConfig {
    let mut config = client_config();
    config.common.suites = vec![Suite::from_code(0x009E).unwrap()];
    config.common.groups = vec![Group::Ffdhe2048];
    config
}

/// Messages of the client's side and of the server's, with client authentication.
const CLIENT_SAYS: [u8; 5] = [
    kind::CLIENT_HELLO,
    kind::CERTIFICATE,
    kind::CLIENT_KEY_EXCHANGE,
    kind::CERTIFICATE_VERIFY,
    kind::FINISHED,
];
const SERVER_SAYS: [u8; 6] = [
    kind::SERVER_HELLO,
    kind::CERTIFICATE,
    kind::SERVER_KEY_EXCHANGE,
    kind::CERTIFICATE_REQUEST,
    kind::SERVER_HELLO_DONE,
    kind::FINISHED,
];

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
fn every_message_left_out_doubled_cut_longer_or_empty() {
    for (says, by_client) in [(&CLIENT_SAYS[..], true), (&SERVER_SAYS[..], false)] {
        for victim in says.iter().copied() {
            for lie in 0..5 {
                let liar: Liar = Box::new(move |said, body| {
                    let whole = (said, body.to_vec());
                    match lie {
                        _ if said != victim => vec![whole],
                        0 => vec![],
                        1 => vec![whole.clone(), whole],
                        2 => vec![(said, body[..body.len().saturating_sub(1)].to_vec())],
                        4 => vec![(said, vec![])],
                        _ => vec![(said, [body, &[0]].concat())],
                    }
                });
                let mut pair = pair_of(client_config(), server_config());
                if by_client {
                    lying_client(&mut pair, client_config(), liar);
                } else {
                    pair.server.connection.core.liar = Some(liar);
                }
                pair.run();
                let victim_side = if by_client { &pair.server } else { &pair.client };
                let alert = victim_side.error().and_then(Error::alert);
                let name = crate::codec::name(victim);
                match lie {
                    // Nothing follows the first and the last message until it is there.
                    0 if matches!(victim, kind::CLIENT_HELLO | kind::FINISHED) => {
                        assert_eq!(alert, None, "{name}");
                        assert!(!victim_side.established);
                    }
                    // Optional, but then what follows does not fit.
                    0 if victim == kind::CERTIFICATE_REQUEST => {
                        assert!(!victim_side.established || !pair.server.established, "{name}");
                    }
                    0 if victim == kind::SERVER_HELLO_DONE => assert!(!victim_side.established),
                    0 | 1 => assert_eq!(alert, Some(Alert::UNEXPECTED_MESSAGE), "{name} {lie}"),
                    // An empty ServerHelloDone cannot be cut.
                    2 | 4 if victim == kind::SERVER_HELLO_DONE => assert_eq!(alert, None),
                    _ => assert_eq!(alert, Some(Alert::DECODE_ERROR), "{name} {lie}"),
                }
            }
        }
    }
}

#[test]
fn every_message_at_every_place() {
    // In place of each message, each kind that exists or not.
    for (says, by_client) in [(&CLIENT_SAYS[..], true), (&SERVER_SAYS[..], false)] {
        for victim in says.iter().copied() {
            for instead in [0, 1, 2, 3, 4, 11, 12, 13, 14, 15, 16, 20, 21, 99] {
                if instead == victim {
                    continue;
                }
                let liar: Liar = Box::new(move |said, body| {
                    vec![if said == victim { (instead, vec![]) } else { (said, body.to_vec()) }]
                });
                let mut pair = pair_of(client_config(), server_config());
                if by_client {
                    lying_client(&mut pair, client_config(), liar);
                } else {
                    pair.server.connection.core.liar = Some(liar);
                }
                pair.run();
                let side = if by_client { &pair.server } else { &pair.client };
                let error = side.error().and_then(Error::alert);
                let ignored = !by_client && instead == kind::HELLO_REQUEST;
                let optional = (victim, instead) == (kind::CERTIFICATE_REQUEST, 14);
                if !ignored && !optional {
                    assert_eq!(error, Some(Alert::UNEXPECTED_MESSAGE), "{victim} {instead}");
                }
                assert!(!side.established);
            }
        }
    }
}

#[test]
fn shares_that_are_none() {
    // Points off the curve, of another length, and X25519's zero.
    type Lie = fn(&mut Vec<u8>);
    let points: [(Group, Lie); 5] = [
        (Group::Secp256r1, |p| *p.last_mut().unwrap() ^= 1),
        (Group::Secp256r1, |p| p.truncate(33)),
        (Group::Secp384r1, |p| p[5] ^= 1),
        (Group::X25519, |p| p.fill(0)),
        (Group::X25519, |p| p.truncate(31)),
    ];
    for (group, lie) in points {
        let mut config = client_config();
        config.common.groups = vec![group];
        let by_client = alter(kind::CLIENT_KEY_EXCHANGE, move |body| {
            let mut point = body[1..].to_vec();
            lie(&mut point);
            *body = vec![point.len() as u8];
            body.extend(point);
        });
        server_refuses(config.clone(), by_client, Alert::ILLEGAL_PARAMETER);
    }
    let (p, _) = Group::Ffdhe2048.dh_params().unwrap();
    let mut last = p.clone();
    *last.last_mut().unwrap() -= 1;
    for y in
        [vec![0; 256], vec![1], [vec![0; 255], vec![1]].concat(), last, p.clone(), vec![255; 256]]
    {
        let lie = alter(kind::CLIENT_KEY_EXCHANGE, move |body| {
            *body = (y.len() as u16).to_be_bytes().to_vec();
            body.extend(&y);
        });
        let mut pair = Pair::with(
            dhe(),
            vec![credential(0, Shape::X509)],
            server_config(),
            vec![credential(0, Shape::X509)],
        );
        lying_client(&mut pair, dhe(), lie);
        refused_by_server(&mut pair, Alert::ILLEGAL_PARAMETER);
    }
}

/// A server that replaces its share, and signs what it says.
fn server_with(config: ClientConfig, key: usize, lie: fn(&mut Params)) -> Option<Error> {
    let suite = config.common.suites[0];
    let credentials = || vec![credential(key, Shape::X509)];
    let mut pair = Pair::with(config, credentials(), ServerConfig::default(), credentials());
    let randoms = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    pair.client.act();
    let hello = &pair.client.sent[9..];
    randoms.borrow_mut().extend_from_slice(&hello[2..34]);
    pair.server.connection.core.liar = Some(Box::new(move |said, body| {
        let mut body = body.to_vec();
        if said == kind::SERVER_HELLO {
            randoms.borrow_mut().extend_from_slice(&body[2..34]);
        }
        if said == kind::SERVER_KEY_EXCHANGE {
            let mut exchange = ServerKeyExchange::decode(&body, suite.exchange, false).unwrap();
            lie(&mut exchange.params);
            exchange.encoded = exchange.params.encode();
            let message = [&randoms.borrow()[..], &exchange.encoded].concat();
            let signed = exchange.signed.as_mut().unwrap();
            let scheme = SignatureScheme::from_code_point(signed.scheme).unwrap();
            signed.signature = keys()[key].sign(scheme, &message);
            body = exchange.encode();
        }
        vec![(said, body)]
    }));
    pair.run();
    assert!(!pair.client.established);
    pair.client.error().cloned()
}

#[test]
fn servers_with_wrong_groups_and_shares() {
    let ecdhe = || {
        let mut config = client_config();
        config.common.suites = vec![Suite::from_code(0xC02B).unwrap()];
        config.common.groups = vec![Group::Secp256r1];
        config
    };
    let not_offered = Some(Error::Illegal("a group that was not offered"));
    let lies: [fn(&mut Params); 2] = [
        |params| {
            let Params::Named { group, .. } = params else { panic!() };
            *group = 29;
        },
        |params| {
            let Params::Named { group, .. } = params else { panic!() };
            *group = 256;
        },
    ];
    for lie in lies {
        assert_eq!(server_with(ecdhe(), 1, lie), not_offered);
    }
    let off_curve = server_with(ecdhe(), 1, |params| {
        let Params::Named { public, .. } = params else { panic!() };
        public[40] ^= 1;
    });
    assert_eq!(off_curve, Some(Error::Illegal("a key share that is none")));
    let unsound = server_with(dhe(), 0, |params| {
        let Params::Finite { p, .. } = params else { panic!() };
        p[100] ^= 1;
    });
    assert!(matches!(unsound, Some(Error::Insufficient(_))));
    let lies: [fn(&mut Params); 2] = [
        |params| {
            let Params::Finite { public, .. } = params else { panic!() };
            *public = vec![0];
        },
        |params| {
            let Params::Finite { public, .. } = params else { panic!() };
            *public = vec![1];
        },
    ];
    for lie in lies {
        assert_eq!(server_with(dhe(), 0, lie), Some(Error::Illegal("a key share that is none")));
    }
}

#[test]
fn signatures_that_are_wrong() {
    let bend = |body: &mut Vec<u8>| *body.last_mut().unwrap() ^= 1;
    let offered_not = |body: &mut Vec<u8>| body[..2].copy_from_slice(&[2, 3]); // ecdsa_sha1
    let other_key = |body: &mut Vec<u8>| body[..2].copy_from_slice(&[8, 4]);
    server_refuses(client_config(), alter(15, bend), Alert::DECRYPT_ERROR);
    server_refuses(client_config(), alter(15, offered_not), Alert::ILLEGAL_PARAMETER);
    server_refuses(client_config(), alter(15, other_key), Alert::ILLEGAL_PARAMETER);
    client_refuses(client_config(), alter(12, bend), Alert::DECRYPT_ERROR);
    // The scheme stands behind the share of 32 bytes.
    let scheme = |with: [u8; 2]| {
        alter(12, move |body| {
            let at = 4 + usize::from(body[3]);
            body[at..at + 2].copy_from_slice(&with);
        })
    };
    client_refuses(client_config(), scheme([2, 3]), Alert::ILLEGAL_PARAMETER);
    client_refuses(client_config(), scheme([8, 4]), Alert::ILLEGAL_PARAMETER);
}

#[test]
fn finished_that_is_wrong() {
    let bend = |body: &mut Vec<u8>| body[0] ^= 1;
    server_refuses(client_config(), alter(20, bend), Alert::DECRYPT_ERROR);
    let mut pair = pair_of(client_config(), server_config());
    pair.server.connection.core.liar = Some(alter(20, bend));
    pair.run();
    assert_eq!(pair.client.error(), Some(&Error::Decrypt("Finished")));
    assert!(!pair.client.established);
}

#[test]
fn certificates_that_do_not_fit() {
    // A key that does not fit the suite.
    let mut pair = pair_of(client_config(), server_config());
    pair.client.trust = Some(RSA.spki.clone());
    pair.run();
    assert!(matches!(pair.client.error(), Some(Error::UnsupportedCertificate(_))));
    pair = pair_of(client_config(), server_config());
    pair.client.trust = Some(vec![0x30, 0]);
    pair.run();
    assert!(matches!(pair.client.error(), Some(Error::UnsupportedCertificate(_))));
    pair = pair_of(client_config(), server_config());
    pair.server.trust = Some(vec![0x30, 0]);
    pair.run();
    assert!(matches!(pair.server.error(), Some(Error::UnsupportedCertificate(_))));
    // None, and one of another type than was agreed.
    let none = || alter(11, |body| *body = vec![0, 0, 0]);
    client_refuses(client_config(), none(), Alert::DECODE_ERROR);
    let other = || alter(11, |body| *body = [&[2, 8][..], &[7; 8], &[0, 0, 2, 9, 9]].concat());
    client_refuses(client_config(), other(), Alert::DECODE_ERROR);
    server_refuses(client_config(), other(), Alert::DECODE_ERROR);
    assert!(decode_certificate(CertificateType::X509, &[0, 0, 1]).is_err());
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
    offer.common.anonymous = Anonymous::RequiredPrecursor;
    let mut answer = server_config();
    answer.common.anonymous = Anonymous::RequiredPrecursor;
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

#[test]
fn messages_that_have_no_place_in_an_open_connection() {
    for (says, by_client) in [([2, 4, 11, 12, 13, 14, 15, 16, 20, 99], true); 1] {
        for said in says {
            let mut pair = pair_of(client_config(), server_config());
            pair.run();
            let side = if by_client { &mut pair.client } else { &mut pair.server };
            side.connection.core.transport.queue(said, &[]);
            pair.run();
            assert!(matches!(pair.server.error(), Some(Error::Unexpected(_))), "{said}");
        }
    }
    for said in [1, 2, 4, 11, 20] {
        let mut pair = pair_of(client_config(), server_config());
        pair.run();
        pair.server.connection.core.transport.queue(said, &[]);
        pair.run();
        assert!(matches!(pair.client.error(), Some(Error::Unexpected(_))), "{said}");
    }
    let mut pair = pair_of(client_config(), server_config());
    pair.run();
    pair.client.connection.core.transport.queue(kind::HELLO_REQUEST, &[]);
    pair.run();
    assert_eq!(pair.server.error(), Some(&Error::Unexpected("HelloRequest")));
    let mut pair = pair_of(client_config(), server_config());
    pair.run();
    pair.server.connection.core.transport.queue(kind::HELLO_REQUEST, &[1]);
    pair.run();
    assert_eq!(pair.client.error(), Some(&Error::Malformed("HelloRequest")));
}

/// What the other side makes of these bytes as the very first.
fn first_bytes(bytes: &[u8]) -> Option<Error> {
    let mut side = Side::server(server_config(), vec![]);
    side.input(bytes);
    side.error().cloned()
}

#[test]
fn records_that_are_wrong() {
    for (bytes, error) in [
        (&b"GET / HTTP/1.1\r\n"[..], Error::NotTls),
        (&[22, 2, 0, 0, 5], Error::NotTls),
        (&[22, 3, 1, 0x40, 1], Error::RecordOverflow),
        (&[22, 3, 1, 0, 0], Error::Unexpected("an empty handshake record")),
        (&[20, 3, 3, 0, 1, 1], Error::Unexpected("ChangeCipherSpec")),
        (&[20, 3, 3, 0, 1, 2], Error::Malformed("ChangeCipherSpec")),
        (&[23, 3, 3, 0, 1, 1], Error::Unexpected("application data")),
        (&[21, 3, 3, 0, 1, 1], Error::Malformed("alert")),
        (&[21, 3, 3, 0, 2, 3, 1], Error::Illegal("the level of an alert")),
        (&[21, 3, 3, 0, 2, 2, 40], Error::PeerAlert(Alert::HANDSHAKE_FAILURE)),
        (&[22, 3, 1, 0, 4, 1, 1, 0, 1], Error::TooMuch("bytes in a handshake message")),
        (
            &[22, 3, 1, 0, 4, 1, 0, 0, 9, 23, 3, 3, 0, 1, 1],
            Error::Unexpected("another record within a handshake message"),
        ),
        (&[22, 3, 1, 0, 4, 16, 0, 0, 0], Error::Unexpected("ClientKeyExchange")),
    ] {
        assert_eq!(first_bytes(bytes), Some(error), "{bytes:?}");
    }
    assert_eq!(first_bytes(&[22, 3, 1, 0x40, 0]), None);
    assert_eq!(first_bytes(&[21, 3, 3, 0, 2, 1, 112].repeat(20)), None);
    assert_eq!(first_bytes(&[21, 3, 3, 0, 2, 1, 112].repeat(40)), Some(Error::Flood));
    let much = vec![22; 300 * 1024];
    assert_eq!(first_bytes(&much), Some(Error::TooMuch("bytes at once")));
}

#[test]
fn a_record_that_comes_twice_or_is_altered() {
    for lie in 0..3 {
        let mut pair = pair_of(client_config(), server_config());
        pair.run();
        pair.client.connection.send(b"x").unwrap();
        pair.client.act();
        let mut record = std::mem::take(&mut pair.client.sent);
        match lie {
            0 => record = [record.clone(), record].concat(),
            1 => *record.last_mut().unwrap() ^= 1,
            _ => record[0] = 22,
        }
        pair.server.input(&record);
        pair.run();
        assert_eq!(pair.server.error(), Some(&Error::BadRecord));
        assert_eq!(pair.client.error(), Some(&Error::PeerAlert(Alert::BAD_RECORD_MAC)));
    }
}

#[test]
fn empty_records_without_end() {
    let mut pair = pair_of(client_config(), server_config());
    pair.run();
    for _ in 0..40 {
        let prefix = pair.client.connection.prefix();
        let mut room = vec![0; prefix + 16];
        let n = pair.client.connection.seal(&mut room, 0).unwrap();
        pair.server.input(&room[..n]);
    }
    assert_eq!(pair.server.error(), Some(&Error::Flood));
}
