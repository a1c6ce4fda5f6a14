//! Two transports and the network between them, with a fake clock. The handshakes are shapes: messages of the
//! right kinds in the right order, with nothing in them.

mod repetition;
mod world;

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use super::*;
use world::Step::Message;
use world::{Dice, FAIR, FOUL, Side, Weather, World, asked, full, key, resumed};

fn config() -> Config {
    Config::default()
}

#[test]
fn handshakes_in_fair_weather_need_no_repetition() {
    for script in [full(4_000), resumed()] {
        let mut world = World::new(FAIR, 1, &config());
        world.handshake(&script);
        world.handshake(&script);
        world.handshake(&asked(script.clone()));
        world.handshake(&resumed());
        for peer in [&world.client, &world.server] {
            let counters = peer.transport.counters();
            assert_eq!(Counters { records: 0, ..counters }, Counters::default(), "{:?}", peer.side);
        }
        let before = world.server.transport.counters().records;
        world.say(Side::Client, b"hello").unwrap();
        world.say(Side::Server, b"").unwrap();
        assert!(world.run());
        assert_eq!(world.server.transport.counters().records, before + 1);
        assert_eq!(world.server.data, [b"hello"]);
        assert_eq!(world.client.data, [b""]);
    }
}

/// 1,000 of 1,000, and each with what comes later: handshakes by either side, full and short.
#[test]
fn handshakes_in_foul_weather_complete() {
    let (mut longest, mut all) = (Duration::ZERO, Duration::ZERO);
    for seed in 0..1_000 {
        let mut world = World::new(FOUL, seed, &config());
        let script = if seed % 4 == 0 { resumed() } else { full(6_000) };
        world.handshake(&script);
        longest = longest.max(world.now - world.began);
        all += world.now - world.began;
        if seed % 5 == 0 {
            world.handshake(&full(3_000));
            world.handshake(&resumed());
        }
    }
    println!("a handshake took {:?}, the longest {longest:?}", all / 1_000);
}

#[test]
fn damaged_records_after_the_handshake_are_dropped() {
    let mut world = World::new(FAIR, 1, &config());
    world.handshake(&full(1_000));
    world.weather = Weather { damaged: 50, ..FOUL };
    for n in 0..1_000_u32 {
        world.say(Side::Client, &n.to_be_bytes()).unwrap();
        world.run();
    }
    let all: HashSet<Vec<u8>> = (0..1_000_u32).map(|n| n.to_be_bytes().to_vec()).collect();
    assert!(world.server.data.iter().all(|message| all.contains(message)));
    let counters = world.server.transport.counters();
    assert!(counters.forged > 100 && counters.malformed > 0 && counters.other_epoch > 0);
    // And a handshake comes through, now that its messages are protected.
    world.handshake(&full(1_000));
}

/// Each message arrives whole, once or not at all, also while handshakes go on.
#[test]
fn messages_arrive_whole_and_once() {
    let mut world = World::new(FOUL, 7, &config());
    world.handshake(&full(1_000));
    let mut arrived = HashSet::new();
    for n in 0..100_000_u32 {
        let length = 4 + world.dice.roll(60) as usize;
        let mut message = n.to_be_bytes().to_vec();
        message.resize(length, n as u8);
        let from = if n % 3 == 0 { Side::Server } else { Side::Client };
        world.say(from, &message).unwrap();
        if n % 20_000 == 19_999 {
            world.handshake(&full(1_000));
        } else if n % 20 == 19 {
            world.run();
        }
        for side in [Side::Client, Side::Server] {
            for message in std::mem::take(&mut world.peer(side).data) {
                let (number, rest) = message.split_first_chunk::<4>().unwrap();
                let number = u32::from_be_bytes(*number);
                assert!(number <= n);
                assert!(rest.len() < 60 && rest.iter().all(|byte| *byte == number as u8));
                assert_eq!(side == Side::Client, number % 3 == 0, "came back");
                assert!(arrived.insert(number), "{number} came twice");
            }
        }
    }
    // 4 of 5, and of those that were lost some in their second copy.
    assert!((78_000..86_000).contains(&arrived.len()), "{}", arrived.len());
}

#[test]
fn a_small_path_is_found_by_trying() {
    let mut world = World::new(Weather { mtu: 300, ..FAIR }, 3, &config());
    world.handshake(&full(5_000));
    assert!(world.server.transport.counters().shrunk >= 2);
    // Told of it, nobody has to try.
    let mut world = World::new(Weather { mtu: 300, ..FAIR }, 3, &config());
    world.client.transport.set_mtu(300);
    world.server.transport.set_mtu(300);
    world.handshake(&full(5_000));
    assert_eq!(world.server.transport.counters().resent, 0);
}

#[test]
fn a_smaller_mtu_sends_what_is_under_way_again() {
    let mut world = World::new(FAIR, 3, &config());
    let now = world.now;
    let mut script = full(100);
    script[0].1 = vec![Message(1, 2_000)];
    world.client.begin(&script, now);
    let mut buf = [0; 2_000];
    let transport = &mut world.client.transport;
    assert_eq!(transport.poll_transmit(&mut buf).unwrap().unwrap().len, 1_400);
    transport.set_mtu(700); // EMSGSIZE
    let mut sizes = Vec::new();
    while let Some(transmit) = transport.poll_transmit(&mut buf).unwrap() {
        sizes.push(transmit.len);
    }
    // 2,000 bytes and the headers of three records with a fragment each.
    assert_eq!(sizes, [700, 700, 675]);
}

#[test]
fn nobody_answers() {
    let settings = Config { max_sendings: 4, ..config() };
    let mut world = World::new(Weather { lost: 100, ..FAIR }, 1, &settings);
    let now = world.now;
    world.client.begin(&full(100), now);
    assert!(!world.run());
    assert_eq!(world.now - world.began, Duration::from_secs(1 + 2 + 4 + 8));
    assert_eq!(world.client.transport.counters().resent, 3);
    assert_eq!(world.client.transport.poll_timeout(), None);
}

#[test]
fn the_last_flight_is_sent_again_when_the_peer_asks() {
    let mut world = World::new(FAIR, 1, &config());
    let script = full(500);
    let now = world.now;
    world.client.begin(&script, now);
    world.server.begin(&script, now);
    // Everything arrives but the last flight.
    while !world.server.done {
        world.flush();
        let Some((_, (to, mut datagram))) = world.wire.pop_first() else { break };
        world.peer(to).hear(&mut datagram, now);
    }
    let mut buf = [0; 2_000];
    while world.server.transport.poll_transmit(&mut buf).unwrap().is_some() {}
    assert!(world.server.done && !world.client.done);
    // A renegotiation that the server asks for does not make it forget.
    world.server.begin(&asked(full(500)), now);
    while world.server.transport.poll_transmit(&mut buf).unwrap().is_some() {}
    assert!(world.run());
    assert!(world.client.done);
    assert_eq!(world.server.transport.counters().resent, 1);
}

#[test]
fn data_that_overtakes_the_last_message_waits_for_it() {
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
    world.say(Side::Server, b"early").unwrap();
    let (_, (_, mut datagram)) = world.wire.pop_first().unwrap();
    let mut twice = datagram.clone();
    world.client.hear(&mut datagram, now);
    world.client.hear(&mut twice, now);
    assert!(world.client.data.is_empty());
    assert!(world.run());
    assert_eq!(world.client.data, [b"early"]);
}

#[test]
fn records_that_come_before_their_key_wait_within_bounds() {
    let mut world = World::new(FAIR, 1, &config());
    let now = world.now;
    let script = resumed();
    world.client.begin(&script, now);
    world.server.begin(&script, now);
    world.flush();
    let (_, (_, mut hello)) = world.wire.pop_first().unwrap();
    world.server.hear(&mut hello, now);
    world.flush();
    let (_, (_, mut flight)) = world.wire.pop_first().unwrap();
    // ServerHello, ChangeCipherSpec and Finished: Finished first, and others that nobody sent.
    let finished = flight.len() - (13 + 8 + 12 + 12 + 16);
    let (rest, finished) = flight.split_at_mut(finished);
    world.client.hear(finished, now);
    assert_eq!(world.client.transport.counters().early, 0);
    for _ in 0..1_000 {
        let mut forged = finished.to_vec();
        forged[10] ^= 1; // another number
        world.client.hear(&mut forged, now);
    }
    assert_eq!(world.client.transport.counters().early, 1_000 - 63);
    world.client.hear(rest, now);
    assert!(world.client.done);
    assert_eq!(world.client.transport.counters().forged, 63);
    assert!(world.run());
    assert!(world.server.done);
}

fn record(kind: u8, epoch: u8, seq: u8, plain: &[u8]) -> Vec<u8> {
    let mut out = vec![kind, 254, 253, 0, epoch, 0, 0, 0, 0, 0, seq];
    out.extend_from_slice(&(plain.len() as u16).to_be_bytes());
    out.extend_from_slice(plain);
    out
}

#[test]
fn what_anybody_can_send_ends_nothing() {
    let mut world = World::new(FAIR, 1, &config());
    let now = world.now;
    let script = full(500);
    world.client.begin(&script, now);
    world.server.begin(&script, now);
    for datagram in [
        record(21, 0, 0, &[2, 40]),                                   // fatal
        record(21, 0, 0, &[1, 0]),                                    // close_notify
        record(21, 0, 0, &[2]),                                       // too short
        record(20, 0, 0, &[1]),                                       // ChangeCipherSpec
        record(23, 0, 0, b"data"),                                    // without protection
        record(22, 0, 0, &[20, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1, 9]), // Finished, likewise
        record(22, 0, 0, &[2, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 9, 9]),  // lies
        record(22, 0, 0, &[2, 0, 0, 1, 0, 20, 0, 0, 0, 0, 0, 1, 9]),  // far ahead
        record(22, 0, 0, &[]),
        record(22, 5, 0, b"far"),
        record(99, 0, 0, b"unknown"),
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        vec![],
    ] {
        world.client.hear(&mut datagram.clone(), now);
        world.server.hear(&mut datagram.clone(), now);
    }
    assert!(world.run());
    assert!(world.client.done && world.server.done);
    assert!(world.client.alerts.is_empty() && world.server.alerts.is_empty());
    assert!(world.client.data.is_empty() && world.server.data.is_empty());
    let counters = world.client.transport.counters();
    assert_eq!((counters.malformed, counters.other_epoch, counters.resent), (1, 1, 0));
    assert_eq!((counters.senseless, counters.repeated), (7, 0));
}

#[test]
fn an_alert_that_may_be_forged_counts_if_nothing_else_comes() {
    let mut world = World::new(Weather { lost: 100, ..FAIR }, 1, &config());
    let now = world.now;
    world.client.begin(&full(500), now);
    world.client.hear(&mut record(21, 0, 0, &[2, 40]), now);
    assert!(world.client.alerts.is_empty());
    world.flush();
    let deadline = world.client.transport.poll_timeout().unwrap();
    assert_eq!(deadline, now + Duration::from_secs(1));
    assert_eq!(world.client.transport.handle_timeout(deadline), Timeout::Fine);
    assert_eq!(world.client.transport.next_alert(), Some([2, 40]));
}

#[test]
fn alerts_are_sent_in_their_epoch_and_end_a_flight() {
    let mut world = World::new(FAIR, 1, &config());
    world.handshake(&resumed());
    let now = world.now;
    world.client.begin(&full(500), now);
    world.client.transport.push_alert(2, 40);
    assert_eq!(world.client.transport.next_transmit(), Some(Content::Alert));
    world.flush();
    assert_eq!(world.client.transport.poll_timeout(), None);
    assert_eq!(world.wire.len(), 1);
    let (_, (_, mut datagram)) = world.wire.pop_first().unwrap();
    assert_eq!((datagram[0], datagram[4]), (21, 1));
    world.server.hear(&mut datagram, now);
    assert_eq!(world.server.alerts, [[2, 40]]);
    // Not more of them than somebody will read.
    for _ in 0..100 {
        world.server.transport.push_alert(1, 90);
    }
    world.flush();
    assert_eq!(world.wire.len(), 8);
}

#[test]
fn too_long_is_refused() {
    let mut world = World::new(FAIR, 1, &config());
    assert_eq!(world.say(Side::Client, b"x"), Err(SealError::NoKey));
    world.handshake(&resumed());
    let limit = 1_400 - 13 - 8 - 16;
    assert_eq!(world.client.transport.max_data(), limit);
    assert_eq!(world.say(Side::Client, &vec![1; limit + 1]), Err(SealError::TooLong { limit }));
    world.say(Side::Client, &vec![1; limit]).unwrap();
    world.client.transport.set_mtu(60_000);
    assert_eq!(world.client.transport.max_data(), 1 << 14);
    world.say(Side::Client, &vec![1; 1 << 14]).unwrap();
    world.client.transport.set_mtu(0);
    assert_eq!(world.client.transport.mtu(), MIN_MTU);
    assert!(world.run());
    assert_eq!(world.server.data.iter().map(Vec::len).collect::<Vec<_>>(), [limit, 1 << 14]);
    let transport = &mut world.client.transport;
    assert_eq!(transport.seal_data(&mut [0; 36]), Err(SealError::NoRoom));
    transport.push_message(1, &[0; 100]);
    transport.end_flight(FlightEnd::Awaited, world.now);
    assert_eq!(transport.poll_transmit(&mut [0; 20]), Err(SealError::NoRoom));
}

#[test]
fn what_came_before_the_last_handshake_is_not_taken() {
    let mut world = World::new(FAIR, 1, &config());
    world.handshake(&full(500));
    world.say(Side::Client, b"of the first identity").unwrap();
    let old = world.wire.pop_first().unwrap();
    world.handshake(&full(500));
    world.wire.insert(old.0, old.1);
    world.say(Side::Client, b"of the second").unwrap();
    assert!(world.run());
    assert_eq!(world.server.data, [b"of the second"]);
    assert_eq!(world.server.transport.counters().other_epoch, 1);
}

#[test]
fn over_sctp_each_record_goes_alone_and_nothing_is_repeated() {
    let settings = Config { mode: Mode::Sctp, mtu: 0, ..config() };
    let mut world = World::new(FAIR, 1, &settings);
    world.handshake(&full(40_000));
    for peer in [&world.client, &world.server] {
        let counters = peer.transport.counters();
        assert_eq!(Counters { records: 0, ..counters }, Counters::default());
        assert_eq!(peer.transport.poll_timeout(), None);
        assert_eq!(peer.transport.max_data(), 1 << 14);
    }
    world.say(Side::Client, &vec![1; 1 << 14]).unwrap();
    let (at, (to, datagram)) = world.wire.pop_first().unwrap();
    world.wire.insert(at, (to, datagram.clone()));
    world.wire.insert((at.0, at.1 + 1), (to, datagram));
    assert!(world.run());
    // SCTP delivers once; numbers are not looked at.
    assert_eq!(world.server.data, [vec![1; 1 << 14], vec![1; 1 << 14]]);
    // The caller sees a ChangeCipherSpec before it is sent.
    let now = world.now;
    let transport = &mut world.client.transport;
    transport.push_message(16, &[0; 60]);
    transport.push_change_cipher_spec(key(Side::Client, 2)).unwrap();
    transport.push_message(20, &[0; 12]);
    transport.end_flight(FlightEnd::Awaited, now);
    let mut buf = vec![0; 20_000];
    let mut contents = Vec::new();
    while let Some(content) = transport.next_transmit() {
        let transmit = transport.poll_transmit(&mut buf).unwrap().unwrap();
        assert_eq!(transmit.content, content);
        contents.push((content, buf[0], buf[4]));
    }
    let expected = [
        (Content::Handshake, 22, 1),
        (Content::ChangeCipherSpec, 20, 1),
        (Content::Handshake, 22, 2),
    ];
    assert_eq!(contents, expected);
}

/// A server that begins with a cookie, and strangers who flood it.
#[test]
fn a_connection_begins_with_a_cookie() {
    let now = Instant::now();
    let mut cookies = Cookies::new(Duration::from_mins(1), now).unwrap();
    let mut client = Transport::new(config());
    let hello = |transport: &mut Transport, cookie: &[u8]| {
        let mut body = vec![254, 253];
        body.extend_from_slice(&[5; 33]);
        *body.last_mut().unwrap() = 0;
        body.push(cookie.len() as u8);
        body.extend_from_slice(cookie);
        body.extend_from_slice(&[0, 2, 0xc0, 0x2f, 1, 0]);
        // Extensions that need a second datagram.
        body.extend_from_slice(&[9; 2_000]);
        transport.push_message(1, &body);
        transport.end_flight(FlightEnd::Awaited, now);
        let mut datagrams = VecDeque::new();
        let mut buf = [0; 1_400];
        while let Some(transmit) = transport.poll_transmit(&mut buf).unwrap() {
            datagrams.push_back(buf[..transmit.len].to_vec());
        }
        datagrams
    };
    let mut answer = [0; 100];
    let first = hello(&mut client, &[]);
    let verdict = cookies.respond(&first[0], b"client", now, &mut answer);
    let Verdict::Challenge(len) = verdict else { panic!("{verdict:?}") };
    assert_eq!(cookies.respond(&first[1], b"client", now, &mut [0; 100]), Verdict::Ignore);
    assert_eq!(client.receive(&mut answer[..len], &mut 0, now), None);
    let Some(Incoming::Handshake(request)) = client.next_message() else { panic!("no request") };
    assert_eq!(request[0], 3);
    let mut second = hello(&mut client, &request[15..]);
    let verdict = cookies.respond(&second[0], b"client", now, &mut answer);
    let Verdict::Valid(start) = verdict else { panic!("{verdict:?}") };
    assert_eq!(start, Start { message_seq: 1, record_seq: 2 });
    let mut server = Transport::after_cookie(config(), start);
    for datagram in &mut second {
        assert_eq!(server.receive(datagram, &mut 0, now), None);
    }
    assert!(matches!(server.next_message(), Some(Incoming::Handshake(hello)) if hello[0] == 1));
    server.push_message(2, &[0; 70]);
    server.end_flight(FlightEnd::Awaited, now);
    let mut buf = [0; 1_400];
    let transmit = server.poll_transmit(&mut buf).unwrap().unwrap();
    assert_eq!(buf[10], 2, "the record's number goes on");
    client.receive(&mut buf[..transmit.len], &mut 0, now);
    assert!(matches!(client.next_message(), Some(Incoming::Handshake(hello)) if hello[5] == 1));
}

/// Whatever comes: no panic, no error, bounded memory.
#[test]
fn arbitrary_bytes_are_noise() {
    let mut dice = Dice::new(11);
    for seed in 0..300 {
        let mut world = World::new(FOUL, seed, &config());
        let now = world.now;
        let script = full(600);
        world.server.begin(&script, now);
        for _ in 0..50 {
            let length = dice.roll(200) as usize;
            let mut datagram: Vec<u8> = (0..length).map(|_| dice.roll(256) as u8).collect();
            if length > 40 && dice.roll(4) > 0 {
                let kind = [20, 21, 22, 22, 22, 23][dice.roll(6) as usize];
                let head = [kind, 254, 253, 0, dice.roll(2) as u8, 0, 0, 0, 0, 0, 1, 0];
                datagram[..12].copy_from_slice(&head);
                datagram[12] = (length - 13) as u8;
                // Further ahead than what the script would take, so that it only waits.
                datagram[17..19].copy_from_slice(&[0, 1 + dice.roll(9) as u8]);
                datagram[14] = 0;
                datagram[19] = 0;
                datagram[22..25].copy_from_slice(&[0, 0, dice.roll(30) as u8]);
            }
            let mut cursor = 0;
            let range: Option<Range<usize>> =
                world.server.transport.receive(&mut datagram, &mut cursor, now);
            assert_eq!((range, cursor), (None, length));
        }
    }
}
