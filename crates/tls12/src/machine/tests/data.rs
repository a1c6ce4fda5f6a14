//! The data path of a relay that does what it may not, and alerts over datagrams.

use std::time::Instant;

use super::*;
use crate::dtls::{self, Mode};
use crate::record::{MAX_IDLE, MAX_RECORD};

/// Client and server of DTLS.
fn datagram_pair(mode: Mode, now: Instant) -> Pair {
    let settings = dtls::Config { mode, ..dtls::Config::default() };
    let client = Connection::datagram_client(&Arc::new(client_config()), settings.clone(), now);
    let server = Connection::datagram_server(Arc::new(server_config()), settings, None, now);
    let side = |connection| Side::new(connection, vec![credential(1, Shape::X509)]);
    let mut pair = Pair { client: side(client.unwrap()), server: side(server) };
    (pair.client.now, pair.server.now) = (now, now);
    pair
}

/// The same, open.
fn datagrams(mode: Mode) -> Pair {
    let mut pair = datagram_pair(mode, Instant::now());
    pair.run_datagrams(FAIR, &mut Dice(1));
    assert!(pair.client.established && pair.server.established);
    pair
}

#[test]
fn nothing_is_sealed_while_something_else_waits_or_nothing_may_be() {
    let no = Err(Error::Misuse("no data can be sealed now"));
    let mut room = vec![0; MAX_RECORD];
    let mut pair = pair_of(client_config(), server_config());
    assert_eq!(pair.server.connection.seal(&mut room, 1), no);
    pair.run();
    // HelloRequest waits; data after it is fine once it is out.
    let server = &mut pair.server;
    server.connection.renegotiate(None).unwrap();
    assert!(server.connection.may_send());
    assert_eq!(server.connection.seal(&mut room, 1), no);
    server.act();
    assert!(server.connection.seal(&mut room, 1).is_ok());
    server.connection.close();
    server.act();
    assert_eq!(server.connection.seal(&mut room, 1), no);
}

#[test]
fn a_record_shorter_than_its_header_is_none() {
    for length in 0..5 {
        let mut pair = pair_of(client_config(), server_config());
        pair.run();
        let server = &mut pair.server;
        let mut record = [23, 3, 3, 0, 0];
        let opened = server.connection.open(&mut record[..length], server.now);
        assert_eq!(opened, Err(Error::BadRecord));
    }
}

#[test]
fn alerts_over_datagrams_are_what_their_level_says() {
    for mode in [Mode::Udp, Mode::Sctp] {
        let mut pair = datagrams(mode);
        pair.server.connection.core.transport.queue_alert(Alert::USER_CANCELED).unwrap();
        pair.run_datagrams(FAIR, &mut Dice(1));
        assert_eq!((pair.client.error(), pair.server.error()), (None, None));
        pair.server.connection.abort(Alert::ACCESS_DENIED);
        pair.run_datagrams(FAIR, &mut Dice(1));
        assert_eq!(pair.client.error(), Some(&Error::PeerAlert(Alert::ACCESS_DENIED)));
    }
}

#[test]
fn warnings_over_datagrams_are_counted() {
    let mut pair = datagrams(Mode::Sctp);
    for n in 0..=MAX_IDLE {
        assert_eq!(pair.client.error(), None, "{n}");
        pair.server.connection.core.transport.queue_alert(Alert::USER_CANCELED).unwrap();
        pair.run_datagrams(FAIR, &mut Dice(1));
    }
    assert_eq!(pair.client.error(), Some(&Error::Flood));
}

#[test]
fn over_sctp_the_old_key_is_kept_until_the_peer_is_done() {
    let now = Instant::now();
    let mut pair = datagram_pair(Mode::Sctp, now);
    let pass = |from: &mut Side, to: &mut Side| {
        from.act();
        for packet in std::mem::take(&mut from.packets) {
            to.input(&packet);
        }
    };
    pass(&mut pair.client, &mut pair.server);
    pass(&mut pair.server, &mut pair.client);
    pass(&mut pair.client, &mut pair.server);
    assert_eq!(pair.client.keys, ["new", "change"]);
    assert_eq!(pair.server.keys, ["new", "change", "done"]);
    pass(&mut pair.server, &mut pair.client);
    assert_eq!(pair.client.keys, ["new", "change", "done"]);
    assert!(pair.client.established && pair.server.established);
}

#[test]
fn what_is_over_waits_for_nothing() {
    let mut pair = datagram_pair(Mode::Udp, Instant::now());
    pair.client.act();
    assert!(pair.client.wait_until.is_some());
    pair.client.connection.close();
    pair.client.act();
    assert_eq!(pair.client.error(), Some(&Error::Refused(Alert::USER_CANCELED)));
    assert_eq!(pair.client.wait_until, None);
}

#[test]
fn versions_of_hellos() {
    // Versions of DTLS count down, and none was called 1.1.
    let now = Instant::now();
    let datagrams = &datagram_pair(Mode::Udp, now).server.connection;
    let stream = &pair_of(client_config(), server_config()).server.connection;
    for (version, of_stream, of_datagrams) in [
        ([3, 1], false, false),
        ([3, 2], false, false),
        ([3, 3], true, false),
        ([3, 4], true, false),
        ([2, 3], false, false),
        ([4, 3], false, false),
        ([254, 255], false, false),
        ([254, 254], false, false),
        ([254, 253], false, true),
        ([254, 252], false, true),
        ([253, 253], false, false),
        ([255, 253], false, false),
    ] {
        let speaks =
            |connection: &Connection| connection.core.transport.check_version(version) == Ok(());
        assert_eq!((speaks(stream), speaks(datagrams)), (of_stream, of_datagrams), "{version:?}");
    }
}

#[test]
fn datagrams_that_were_read_make_room_for_others() {
    let mut pair = datagrams(Mode::Sctp);
    for _ in 0..400 {
        pair.client.connection.send(&[7; 1_000]).unwrap();
        pair.client.act();
        for packet in std::mem::take(&mut pair.client.packets) {
            pair.server.input(&packet);
        }
        assert_eq!(pair.server.error(), None);
    }
    assert_eq!(pair.server.data.len(), 400_000);
}

#[test]
fn keys_are_nobodys_business_but_over_sctp() {
    let mut pair = datagram_pair(Mode::Udp, Instant::now());
    assert!(!pair.client.connection.core.transport.may_seal());
    pair.run_datagrams(FAIR, &mut Dice(1));
    assert!(pair.client.established && pair.client.connection.core.transport.may_seal());
    assert!(pair.client.keys.is_empty() && pair.server.keys.is_empty());
    let mut pair = pair_of(client_config(), server_config());
    assert!(!pair.client.connection.core.transport.may_seal());
    pair.run();
    pair.check_open();
    assert!(pair.client.connection.core.transport.may_seal());
    assert!(pair.client.keys.is_empty() && pair.server.keys.is_empty());
}

#[test]
fn no_timer_runs_while_a_question_waits() {
    let mut pair = datagram_pair(Mode::Udp, Instant::now());
    pair.client.act();
    for packet in std::mem::take(&mut pair.client.packets) {
        pair.server.input(&packet);
    }
    let (client, now) = (&mut pair.client.connection, pair.client.now);
    assert!(matches!(client.poll_output(&mut Vec::new()), Output::WaitUntil(_)));
    for packet in std::mem::take(&mut pair.server.packets) {
        client.handle_input(&packet, now);
    }
    assert!(matches!(client.poll_output(&mut Vec::new()), Output::Verify(_)));
    assert!(client.is_asking());
    assert!(matches!(client.poll_output(&mut Vec::new()), Output::Idle));
}

#[test]
fn data_over_sctp_has_the_tag_of_its_message() {
    let mut pair = datagrams(Mode::Sctp);
    for tag in [7, 9] {
        pair.client.connection.send(b"x").unwrap();
        pair.client.act();
        pair.server.connection.set_tag(tag);
        for packet in std::mem::take(&mut pair.client.packets) {
            pair.server.input(&packet);
        }
    }
    assert_eq!(pair.server.messages, [(b"x".to_vec(), 7), (b"x".to_vec(), 9)]);
}
