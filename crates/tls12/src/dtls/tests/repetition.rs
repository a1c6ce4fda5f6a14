//! What is sent again and when, what is counted, and how much of anything is kept: exactly.

use super::*;

/// When a flight may be sent again because the peer asks, and just before.
const LATER: Duration = Duration::from_millis(500);
const EARLY: Duration = Duration::from_millis(499);

/// All datagrams that this side has to send.
fn datagrams(peer: &mut world::Peer) -> Vec<Vec<u8>> {
    let mut buf = [0; 2_000];
    let mut all = Vec::new();
    while let Some(transmit) = peer.transport.poll_transmit(&mut buf).unwrap() {
        all.push(buf[..transmit.len].to_vec());
    }
    all
}

/// The server is done, and nothing of its last flight has left it.
fn before_the_last_flight() -> World {
    let mut world = World::new(FAIR, 1, &config());
    let script = full(500);
    let now = world.now;
    world.client.begin(&script, now);
    world.server.begin(&script, now);
    while !world.server.done {
        world.flush();
        let Some((_, (to, mut datagram))) = world.wire.pop_first() else { break };
        world.peer(to).hear(&mut datagram, now);
    }
    assert!(world.server.done && !world.client.done);
    world
}

#[test]
fn a_first_flight_is_not_repeated_at_once() {
    let mut world = World::new(FAIR, 1, &config());
    let (now, script) = (world.now, full(500));
    world.client.begin(&script, now);
    world.server.begin(&script, now);
    let hello = datagrams(&mut world.client).remove(0);
    world.server.hear(&mut hello.clone(), now);
    let first = datagrams(&mut world.server);
    let early = now + EARLY;
    for (at, repeated, resent) in [(early, 1, 0), (now + LATER, 2, 1), (early + LATER, 3, 1)] {
        world.server.hear(&mut hello.clone(), at);
        let counters = world.server.transport.counters();
        assert_eq!((counters.repeated, counters.resent), (repeated, resent));
        let sent = datagrams(&mut world.server);
        assert_eq!(sent.len(), if at == now + LATER { first.len() } else { 0 });
    }
}

#[test]
fn a_last_flight_is_not_repeated_at_once() {
    let mut world = before_the_last_flight();
    let now = world.now;
    let last = datagrams(&mut world.server);
    let mut flights = [1, 3, 7].map(|seconds| {
        world.client.transport.handle_timeout(now + Duration::from_secs(seconds));
        datagrams(&mut world.client)
    });
    let mut hear = |world: &mut World, flight: usize, at: Instant| {
        for datagram in &mut flights[flight] {
            world.server.hear(datagram, at);
        }
        (world.server.transport.counters().resent, datagrams(&mut world.server).len())
    };
    let early = now + EARLY;
    assert_eq!(hear(&mut world, 0, early), (0, 0));
    assert_eq!(hear(&mut world, 1, now + LATER), (1, last.len()));
    // From then on the time counts anew.
    assert_eq!(hear(&mut world, 2, early + LATER), (1, 0));
    assert!(world.server.transport.counters().repeated >= 3);
}

#[test]
fn who_was_not_the_last_has_nothing_to_repeat() {
    let mut world = before_the_last_flight();
    let now = world.now;
    let first = datagrams(&mut world.server);
    world.client.transport.handle_timeout(now + Duration::from_secs(1));
    for mut datagram in datagrams(&mut world.client) {
        world.server.hear(&mut datagram, now + Duration::from_secs(1));
    }
    let second = datagrams(&mut world.server);
    assert_eq!(first.len(), second.len());
    for mut datagram in first.into_iter().chain(second) {
        world.client.hear(&mut datagram, now + Duration::from_secs(1));
    }
    assert!(world.client.done);
    let counters = world.client.transport.counters();
    // Once because of its own timer.
    assert_eq!((counters.repeated, counters.resent), (1, 1));
    assert!(datagrams(&mut world.client).is_empty());
}

#[test]
fn alerts_in_the_epoch_that_begins_are_told() {
    let mut world = before_the_last_flight();
    let now = world.now;
    let mut last = datagrams(&mut world.server);
    world.server.transport.push_alert(1, 90);
    for mut datagram in datagrams(&mut world.server) {
        world.client.hear(&mut datagram, now);
    }
    assert_eq!(world.client.alerts, [[1, 90]]);
    for datagram in &mut last {
        world.client.hear(datagram, now);
    }
    assert!(world.client.done);
    // No more of them than there is room for.
    let mut many = Vec::new();
    for _ in 0..9 {
        world.server.transport.push_alert(1, 90);
        many.extend(datagrams(&mut world.server).concat());
    }
    world.client.alerts.clear();
    world.client.hear(&mut many, now);
    assert_eq!(world.client.alerts.len(), 8);
}

#[test]
fn records_of_no_known_type_in_the_epoch_that_begins_are_counted() {
    let mut world = before_the_last_flight();
    let mut writer = super::super::record::Writer::new(1, Some(key(Side::Server, 1)), 100);
    for counted in 1..=2 {
        let mut datagram = vec![0; 13 + 8 + 5 + 16];
        writer.seal(99, [254, 253], &mut datagram).unwrap();
        world.client.hear(&mut datagram, world.now);
        assert_eq!(world.client.transport.counters().senseless, counted);
    }
}

#[test]
fn warnings_that_anybody_can_send_mean_nothing_but_the_end() {
    for (alert, told) in [([1, 0], true), ([2, 0], true), ([2, 90], true), ([1, 90], false)] {
        let mut world = World::new(Weather { lost: 100, ..FAIR }, 1, &config());
        let now = world.now;
        world.client.begin(&full(500), now);
        world.client.hear(&mut record(21, 0, 0, &alert), now);
        world.flush();
        world.client.transport.handle_timeout(now + Duration::from_secs(1));
        assert_eq!(world.client.transport.next_alert(), told.then_some(alert));
    }
}

#[test]
fn an_alert_goes_out_with_the_key_it_was_queued_under() {
    let now = Instant::now();
    let mut transport = Transport::new(config());
    transport.push_alert(1, 90);
    transport.push_message(1, &[0; 10]);
    transport.push_change_cipher_spec(key(Side::Client, 1)).unwrap();
    transport.push_message(20, &[0; 12]);
    transport.end_flight(FlightEnd::Awaited, now);
    transport.flight_answered();
    transport.push_message(1, &[0; 10]);
    transport.end_flight(FlightEnd::Awaited, now);
    let mut buf = [0; 1_400];
    let mut epochs = Vec::new();
    while let Some(transmit) = transport.poll_transmit(&mut buf).unwrap() {
        epochs.push((transmit.content, buf[4], transmit.len));
    }
    let hello = 13 + 8 + 12 + 10 + 16;
    assert_eq!(epochs, [(Content::Handshake, 1, hello), (Content::Alert, 0, 13 + 2)]);
}

#[test]
fn a_last_flight_is_whole_before_the_next_one() {
    let now = Instant::now();
    let mut transport = Transport::new(Config { mtu: 1_410, ..config() });
    // Of a datagram of 1,400 bytes the ticket and ChangeCipherSpec leave 55: less than Finished, more than
    // HelloRequest.
    transport.push_message(4, &[0; 1_306]);
    transport.push_change_cipher_spec(key(Side::Server, 1)).unwrap();
    transport.push_message(20, &[0; 12]);
    transport.end_flight(FlightEnd::Last, now);
    let mut buf = [0; 1_410];
    while transport.poll_transmit(&mut buf).unwrap().is_some() {}
    transport.handshake_completed();
    // Only a shorter one than before has something sent again.
    for mtu in [1_410, 1_500, 1_500] {
        transport.set_mtu(mtu);
        assert_eq!((transport.counters().shrunk, transport.next_transmit()), (0, None));
    }
    transport.set_mtu(1_400);
    assert_eq!(transport.counters().shrunk, 1);
    transport.push_message(0, &[]);
    transport.end_flight(FlightEnd::Unanswered, now);
    let mut sizes = Vec::new();
    while let Some(transmit) = transport.poll_transmit(&mut buf).unwrap() {
        sizes.push(transmit.len);
    }
    let (finished, request) = (37 + 12 + 12, 37 + 12);
    assert_eq!(sizes, [13 + 12 + 1_306 + 14, finished + request]);
}

#[test]
fn over_udp_a_change_of_keys_is_no_event() {
    let mut transport = Transport::new(config());
    transport.push_change_cipher_spec(key(Side::Server, 1)).unwrap();
    transport.push_message(20, &[0; 12]);
    transport.end_flight(FlightEnd::Last, Instant::now());
    assert_eq!(transport.next_transmit(), Some(Content::Handshake));
}
