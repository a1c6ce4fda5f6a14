//! An open connection: data, the relay, its end; and callers that err.

use tls12::*;

use crate::support::*;
use crate::{client, server};

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
    assert!(!from.connection.is_handshaking() && !to.connection.is_handshaking());
    assert!(!from.connection.is_datagram());
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
