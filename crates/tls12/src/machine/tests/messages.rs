//! Messages and records: left out, doubled, cut, out of their place, or not what they say.

use super::*;

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
