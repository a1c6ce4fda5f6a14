//! DTLS: client against server in memory, through bad weather and with a clock of the test's own.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use support::*;
use tls12::dtls::{Cookies, Mode, Verdict};
use tls12::*;

fn client() -> ClientConfig {
    ClientConfig { server_name: Some("localhost".into()), ..ClientConfig::default() }
}

fn server() -> ServerConfig {
    ServerConfig { client_auth: ClientAuth::Required, ..ServerConfig::default() }
}

fn settings(mode: Mode) -> dtls::Config {
    dtls::Config { mode, ..dtls::Config::default() }
}

fn pair_over(mode: Mode, client: ClientConfig, server: ServerConfig) -> Pair {
    let now = Instant::now();
    let credentials = || vec![credential(1, Shape::X509)];
    let client = Connection::datagram_client(&Arc::new(client), settings(mode), now).unwrap();
    let server = Connection::datagram_server(Arc::new(server), settings(mode), None, now);
    let mut pair =
        Pair { client: Side::new(client, credentials()), server: Side::new(server, credentials()) };
    (pair.client.now, pair.server.now) = (now, now);
    pair
}

fn pair(client: ClientConfig, server: ServerConfig) -> Pair {
    pair_over(Mode::Udp, client, server)
}

#[track_caller]
fn check_open(pair: &mut Pair) {
    assert_eq!((pair.client.error(), pair.server.error()), (None, None));
    assert!(pair.client.established && pair.server.established);
    assert!(pair.client.connection.is_datagram() && pair.server.connection.is_datagram());
    for up in [true, false] {
        let (from, to) = if up {
            (&mut pair.client, &mut pair.server)
        } else {
            (&mut pair.server, &mut pair.client)
        };
        from.connection.send(b"hello").unwrap();
        from.act();
        for packet in std::mem::take(&mut from.packets) {
            to.input(&packet);
        }
        assert_eq!(std::mem::take(&mut to.data), b"hello");
    }
    let exporters = [&pair.client, &pair.server].map(|side| side.connection.exporter().unwrap());
    assert_eq!(exporters[0].tls_exporter(), exporters[1].tls_exporter());
    assert_eq!(exporters[0].tls_unique(), exporters[1].tls_unique());
}

#[test]
fn every_suite_and_key() {
    for suite in SUITES.iter().filter(|suite| !suite.is_anonymous()) {
        let keys: &[usize] =
            if suite.authentication == Authentication::Rsa { &[0] } else { &[1, 2] };
        for key in keys {
            for mode in [Mode::Udp, Mode::Sctp] {
                let mut offer = client();
                offer.common.suites = vec![suite];
                let mut pair = pair_over(mode, offer, server());
                pair.server.credentials = vec![credential(*key, Shape::X509)];
                pair.run_datagrams(FAIR, &mut Dice(1));
                check_open(&mut pair);
            }
        }
    }
}

#[test]
fn a_cookie_first() {
    let now = Instant::now();
    let mut cookies = Cookies::new(Duration::from_mins(1), now).unwrap();
    let config = Arc::new(client());
    let connection = Connection::datagram_client(&config, settings(Mode::Udp), now).unwrap();
    let mut client = Side::new(connection, vec![credential(1, Shape::X509)]);
    client.now = now;
    let mut out = [0; 2048];
    client.act();
    let hello = client.packets.pop().unwrap();
    let Verdict::Challenge(n) = cookies.respond(&hello, b"here", now, &mut out) else { panic!() };
    assert!(n <= hello.len());
    client.input(&out[..n]);
    let hello = client.packets.pop().unwrap();
    let Verdict::Valid(start) = cookies.respond(&hello, b"here", now, &mut out) else { panic!() };
    let connection =
        Connection::datagram_server(Arc::new(server()), settings(Mode::Udp), Some(start), now);
    let mut server = Side::new(connection, vec![credential(1, Shape::X509)]);
    server.now = now;
    server.input(&hello);
    let mut pair = Pair { client, server };
    pair.run_datagrams(FAIR, &mut Dice(1));
    check_open(&mut pair);
}

#[test]
fn a_server_that_asks_for_cookies_without_end() {
    let now = Instant::now();
    let config = Arc::new(client());
    let connection = Connection::datagram_client(&config, settings(Mode::Udp), now).unwrap();
    let mut client = Side::new(connection, vec![]);
    for seq in 0..10u8 {
        client.act();
        let mut request = vec![22, 254, 255, 0, 0, 0, 0, 0, 0, 0, seq, 0, 12 + 4];
        request.extend([3, 0, 0, 4, 0, seq, 0, 0, 0, 0, 0, 4, 254, 255, 1, seq]);
        client.input(&request);
        // Keys of cookies may change once or twice while it asks.
        assert_eq!(client.error(), (seq >= 3).then_some(&Error::Flood), "{seq}");
    }
}

#[test]
fn bad_weather_stops_no_handshake() {
    let weather = Weather { loss: 20, duplication: 10, reordering: 30, corruption: 0 };
    for seed in 1..=150u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut pair = pair(client(), server());
        pair.run_datagrams(weather, &mut dice);
        assert!(pair.client.established && pair.server.established, "seed {seed}");
        check_open(&mut pair);
    }
}

#[test]
fn bad_weather_through_precursor_and_renegotiation() {
    let weather = Weather { loss: 15, duplication: 10, reordering: 30, corruption: 0 };
    for seed in 1..=60u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut offer = ClientConfig { conceal_name: true, ..client() };
        offer.common.anonymous = Anonymous::Precursor;
        offer.common.private = true;
        let mut answer = server();
        answer.common.anonymous = Anonymous::Precursor;
        answer.common.private = true;
        let mut pair = pair(offer, answer);
        pair.run_datagrams(weather, &mut dice);
        check_open(&mut pair);
        assert!(pair.client.connection.summary().unwrap().private);
        pair.client.connection.renegotiate(None).unwrap();
        pair.run_datagrams(weather, &mut dice);
        check_open(&mut pair);
        assert_eq!(pair.client.renegotiated.len(), 1, "seed {seed}");
        pair.server.connection.renegotiate(None).unwrap();
        pair.later(Duration::from_mins(1));
        pair.run_datagrams(FAIR, &mut dice);
        check_open(&mut pair);
        assert_eq!(pair.server.renegotiated.len(), 2, "seed {seed}");
    }
}

#[test]
fn resumption_through_bad_weather() {
    let current = Arc::new(TicketKey::generate().unwrap());
    let tickets = Some(Arc::new(TicketKeys { current, previous: vec![], lifetime: 600 }));
    let answer = ServerConfig { tickets, ..server() };
    let mut first = pair(ClientConfig { wants_session: true, ..client() }, answer.clone());
    first.run_datagrams(FAIR, &mut Dice(1));
    let session = first.client.session.take();
    assert!(session.is_some());
    let weather = Weather { loss: 20, duplication: 10, reordering: 30, corruption: 0 };
    for seed in 1..=60u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let again = ClientConfig { session: session.clone(), ..client() };
        let mut pair = pair(again, answer.clone());
        pair.run_datagrams(weather, &mut dice);
        check_open(&mut pair);
        assert!(pair.client.connection.summary().unwrap().resumed);
    }
}

#[test]
fn messages_arrive_whole_once_or_not_at_all() {
    let weather = Weather { loss: 10, duplication: 10, reordering: 50, corruption: 10 };
    let mut pair = pair(client(), server());
    let mut dice = Dice(3);
    pair.run_datagrams(FAIR, &mut dice);
    for n in 0..2000u32 {
        pair.client.connection.send(&n.to_be_bytes()).unwrap();
        if n % 8 == 7 {
            pair.run_datagrams(weather, &mut dice);
        }
    }
    check_open_but_data(&pair);
    let (numbers, rest) = pair.server.data.as_chunks::<4>();
    let mut numbers: Vec<_> = numbers.iter().map(|n| u32::from_be_bytes(*n)).collect();
    numbers.sort_unstable();
    let all = numbers.len();
    numbers.dedup();
    assert!(rest.is_empty() && numbers.len() == all && all > 1000 && all < 2000, "{all}");
    assert!(numbers.iter().all(|n| *n < 2000));
}

fn check_open_but_data(pair: &Pair) {
    assert_eq!((pair.client.error(), pair.server.error()), (None, None));
}

#[test]
fn openpgp_over_datagrams() {
    let mut offer = client();
    offer.common.certificate_types = openpgp_first();
    let mut answer = server();
    answer.common.certificate_types = openpgp_first();
    let mut pair = pair(offer, answer);
    pair.client.credentials = vec![credential(1, Shape::OpenPgp)];
    pair.server.credentials = vec![credential(2, Shape::Fingerprint)];
    pair.run_datagrams(FAIR, &mut Dice(1));
    check_open(&mut pair);
}

#[test]
fn nobody_answers() {
    let now = Instant::now();
    let config = Arc::new(client());
    let connection = Connection::datagram_client(&config, settings(Mode::Udp), now).unwrap();
    let mut client = Side::new(connection, vec![]);
    client.act();
    let mut sent = 0;
    while let Some(time) = client.wait_until.filter(|_| client.closed.is_none()) {
        sent += client.packets.len();
        client.packets.clear();
        client.connection.handle_timeout(time);
        client.act();
    }
    assert_eq!(client.error(), Some(&Error::TimedOut));
    assert!(sent >= 5, "{sent}");
}

#[test]
fn noise_is_no_error() {
    let mut pair = pair(client(), server());
    let mut dice = Dice(7);
    for _ in 0..200 {
        let length = dice.below(100) as usize;
        let noise: Vec<u8> = (0..length).map(|_| dice.below(256) as u8).collect();
        pair.client.input(&noise);
        pair.server.input(&noise);
    }
    pair.run_datagrams(FAIR, &mut dice);
    check_open(&mut pair);
}

#[test]
fn data_of_the_anonymous_phase_is_fatal() {
    let mut offer = client();
    offer.common.anonymous = Anonymous::Final;
    let mut answer = server();
    answer.common.anonymous = Anonymous::Precursor;
    let mut pair = pair(offer, answer);
    pair.run_datagrams(FAIR, &mut Dice(1));
    assert!(pair.client.established && !pair.server.established);
    pair.client.connection.send(b"secret").unwrap();
    pair.run_datagrams(FAIR, &mut Dice(1));
    assert_eq!(pair.server.error(), Some(&Error::DataInAnonymousPhase));
    assert!(pair.server.data.is_empty());
}

#[test]
fn a_relay_opens_datagrams_in_place() {
    let mut pair = pair(client(), server());
    pair.run_datagrams(FAIR, &mut Dice(1));
    let (from, to) = (&mut pair.client, &mut pair.server);
    let prefix = from.connection.prefix();
    let mut room = vec![0; 2000];
    room[prefix..prefix + 100].fill(9);
    let n = from.connection.seal(&mut room, 100).unwrap();
    let mut cursor = 0;
    let now = to.now;
    let plain = to.connection.open_datagram(&mut room[..n], &mut cursor, now).unwrap().unwrap();
    assert!(plain.len() == 100 && room[plain].iter().all(|byte| *byte == 9));
    assert_eq!(to.connection.open_datagram(&mut room[..n], &mut cursor, now), Ok(None));
    // What is too long says so, and harms nothing.
    let limit = from.connection.datagrams().unwrap().max_data();
    let too_long = from.connection.send(&vec![0; limit + 1]);
    assert_eq!(too_long, Err(Error::MessageTooLong { limit }));
    // A renegotiation comes through the same door.
    from.connection.renegotiate(None).unwrap();
    from.act();
    for mut packet in std::mem::take(&mut from.packets) {
        let mut cursor = 0;
        assert_eq!(to.connection.open_datagram(&mut packet, &mut cursor, now), Ok(None));
    }
    pair.run_datagrams(FAIR, &mut Dice(1));
    check_open(&mut pair);
    assert_eq!(pair.client.renegotiated.len(), 1);
}

#[test]
fn sctp_exports_before_it_changes_keys() {
    let now = Instant::now();
    let config = Arc::new(client());
    let mut client = Connection::datagram_client(&config, settings(Mode::Sctp), now).unwrap();
    let connection =
        Connection::datagram_server(Arc::new(server()), settings(Mode::Sctp), None, now);
    let mut server = Side::new(connection, vec![credential(1, Shape::X509)]);
    server.credentials = vec![credential(1, Shape::X509)];
    let mut exported = None;
    let mut quiet = 0;
    while quiet < 2 {
        let mut buf = Vec::new();
        match client.poll_output(&mut buf) {
            Output::Send => server.input(&buf),
            Output::NewKeys => {
                let mut key = [0; 64];
                let exporter = client.next_exporter().unwrap();
                exporter.export(b"EXPORTER_DTLS_OVER_SCTP", None, &mut key).unwrap();
                exported = Some(key);
            }
            Output::SendChangeOfKeys => {
                assert!(exported.is_some(), "keys change that are not known");
                server.input(&buf);
            }
            Output::Verify(question) => client.verified(Ok(spki_of(&question.peer.unwrap()))),
            Output::ChooseCredential(_) => client.chosen(Ok(Some(credential(1, Shape::X509)))),
            Output::Sign(request) => {
                client.signed(Some(keys()[1].sign(request.scheme, &request.message)));
            }
            Output::Idle => {
                quiet += 1;
                for packet in std::mem::take(&mut server.packets) {
                    client.handle_input(&packet, now);
                    quiet = 0;
                }
            }
            _ => {}
        }
    }
    assert!(server.established);
    let mut key = [0; 64];
    let exporter = server.connection.exporter().unwrap();
    exporter.export(b"EXPORTER_DTLS_OVER_SCTP", None, &mut key).unwrap();
    assert_eq!(exported, Some(key));
}

/// Whether an association whose keys follow can take the peer's Finished: it is made with the new key.
#[test]
fn sctp_keys_are_known_before_the_peer_uses_them() {
    let mut pair = pair_over(Mode::Sctp, client(), server());
    for _ in 0..20 {
        for up in [true, false] {
            let (from, to) = if up {
                (&mut pair.client, &mut pair.server)
            } else {
                (&mut pair.server, &mut pair.client)
            };
            from.act();
            for packet in std::mem::take(&mut from.packets) {
                // After a ChangeCipherSpec.
                let protected = packet[3..5] != [0, 0];
                assert!(!protected || to.keys.contains(&"new"), "the key comes too late");
                to.input(&packet);
            }
        }
    }
    check_open(&mut pair);
    for side in [&pair.client, &pair.server] {
        assert_eq!(side.keys, ["new", "change", "done"]);
    }
    pair.client.connection.renegotiate(None).unwrap();
    pair.run_datagrams(FAIR, &mut Dice(1));
    check_open(&mut pair);
    for side in [&pair.client, &pair.server] {
        assert_eq!(side.keys, ["new", "change", "done"].repeat(2));
    }
}

/// A renegotiation over SCTP up to the server's last flight, which is returned.
fn last_flight(pair: &mut Pair) -> Vec<Vec<u8>> {
    pair.client.connection.renegotiate(None).unwrap();
    loop {
        pair.client.act();
        for packet in std::mem::take(&mut pair.client.packets) {
            pair.server.input(&packet);
        }
        let packets = std::mem::take(&mut pair.server.packets);
        if !pair.server.renegotiated.is_empty() {
            return packets;
        }
        for packet in packets {
            pair.client.input(&packet);
        }
    }
}

#[test]
fn sctp_data_that_overtakes_finished_keeps_its_tag() {
    let mut pair = pair_over(Mode::Sctp, client(), server());
    pair.run_datagrams(FAIR, &mut Dice(1));
    let last = last_flight(&mut pair);
    for n in [1_u8, 2] {
        pair.server.connection.send(&[n]).unwrap();
        pair.server.act();
        let data = pair.server.packets.pop().unwrap();
        pair.client.connection.set_tag(u64::from(n) * 1000);
        pair.client.input(&data);
    }
    assert!(pair.client.messages.is_empty());
    for packet in last {
        pair.client.connection.set_tag(5);
        pair.client.input(&packet);
    }
    assert_eq!(pair.client.messages, [(vec![1], 1000), (vec![2], 2000)]);
    check_open_but_data(&pair);
}

/// Over SCTP nothing is lost: neither to a bound that honest peers stay below, nor in silence.
#[test]
fn sctp_data_that_overtakes_finished_is_bounded() {
    for (messages, outcome) in [(4096, None), (4097, Some(Error::TooMuch("before its time")))] {
        let mut pair = pair_over(Mode::Sctp, client(), server());
        pair.run_datagrams(FAIR, &mut Dice(1));
        let last = last_flight(&mut pair);
        for _ in 0..messages {
            pair.server.connection.send(b"x").unwrap();
        }
        pair.server.act();
        for packet in std::mem::take(&mut pair.server.packets).into_iter().chain(last) {
            pair.client.input(&packet);
        }
        assert_eq!(pair.client.error(), outcome.as_ref());
        let arrived = if outcome.is_none() { messages } else { 0 };
        assert_eq!(pair.client.data.len(), arrived);
    }
}

/// A record of `epoch` that holds `fragment`, as anybody can make it.
fn record(kind: u8, epoch: u8, fragment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
    let header = [kind, 254, 253, 0, epoch, 0, 0, 0, 0, 0, 0, length[0], length[1]];
    [&header[..], fragment].concat()
}

/// Of what nobody can read yet, a stranger gets but little kept.
#[test]
fn sctp_records_before_their_key_are_few() {
    let too_much = Error::TooMuch("before its time");
    for (length, fit) in [(1, 64), (1 << 14, 7)] {
        let mut pair = pair_over(Mode::Sctp, client(), server());
        let early = record(23, 1, &vec![0; length]);
        for _ in 0..fit {
            pair.server.input(&early);
        }
        assert_eq!(pair.server.error(), None);
        pair.server.input(&early);
        assert_eq!(pair.server.error(), Some(&too_much), "{length}");
    }
}

/// Makes a record into something else.
type Change = fn(&mut Vec<u8>);

/// What does not matter over UDP: over SCTP somebody has made it, and nothing else comes in its place.
#[test]
fn sctp_messages_that_are_no_records_end_the_connection() {
    let altered = |message: &mut Vec<u8>| *message.last_mut().unwrap() ^= 1;
    let longer = |message: &mut Vec<u8>| message.push(0);
    let shorter = |message: &mut Vec<u8>| message.truncate(message.len() - 1);
    let foreign = |message: &mut Vec<u8>| message[1] = 3;
    let long = |message: &mut Vec<u8>| *message = record(22, 1, &vec![0; (1 << 14) + 2049]);
    let changes: [(Change, _); 5] = [
        (altered, Error::BadRecord),
        (longer, Error::Malformed("record")),
        (shorter, Error::Malformed("record")),
        (foreign, Error::Malformed("record")),
        (long, Error::Malformed("record")),
    ];
    for (change, error) in changes {
        for mode in [Mode::Udp, Mode::Sctp] {
            for in_place in [false, true] {
                let mut pair = pair_over(mode, client(), server());
                pair.run_datagrams(FAIR, &mut Dice(1));
                pair.client.connection.send(b"hello").unwrap();
                pair.client.act();
                let mut message = pair.client.packets.pop().unwrap();
                change(&mut message);
                if in_place {
                    let (to, now) = (&mut pair.server.connection, pair.server.now);
                    let mut cursor = 0;
                    while let Ok(Some(_)) = to.open_datagram(&mut message, &mut cursor, now) {}
                    pair.server.act();
                } else {
                    pair.server.input(&message);
                }
                if mode == Mode::Udp {
                    pair.server.data.clear();
                    check_open(&mut pair);
                    continue;
                }
                assert_eq!(pair.server.error(), Some(&error));
                // The peer is told.
                let alert = pair.server.packets.pop().unwrap();
                pair.client.input(&alert);
                assert_eq!(pair.client.error(), error.alert().map(Error::PeerAlert).as_ref());
            }
        }
    }
    // More than a record may hold, where nothing is protected yet.
    let mut pair = pair_over(Mode::Sctp, client(), server());
    pair.server.input(&record(22, 0, &vec![0; (1 << 14) + 1]));
    assert_eq!(pair.server.error(), Some(&Error::Malformed("record")));
}

#[test]
fn closing_datagrams() {
    let mut pair = pair(client(), server());
    pair.run_datagrams(FAIR, &mut Dice(1));
    pair.client.connection.close();
    pair.run_datagrams(FAIR, &mut Dice(1));
    assert!(pair.server.peer_closed);
    pair.server.connection.close();
    pair.run_datagrams(FAIR, &mut Dice(1));
    assert_eq!(pair.client.closed, Some(Closed::Cleanly));
    assert_eq!(pair.server.closed, Some(Closed::Cleanly));
}

#[test]
fn data_that_comes_while_a_question_waits_is_bounded() {
    let mut pair = pair(client(), server());
    pair.run_datagrams(FAIR, &mut Dice(1));
    check_open(&mut pair);
    pair.client.connection.renegotiate(None).unwrap();
    pair.client.act();
    let hello = pair.client.packets.pop().unwrap();
    // More than will be kept is sealed before the server joins.
    pair.server.connection.datagrams().unwrap().set_mtu(20_000);
    for _ in 0..100 {
        pair.server.connection.send(&[7; 10_000]).unwrap();
    }
    pair.server.act();
    let data = std::mem::take(&mut pair.server.packets);
    pair.server.input(&hello);
    let mut waits = false;
    let mut buf = Vec::new();
    for datagram in &pair.server.packets {
        pair.client.connection.handle_input(datagram, pair.client.now);
    }
    loop {
        match pair.client.connection.poll_output(&mut buf) {
            Output::Verify(_) => waits = true,
            Output::Idle | Output::WaitUntil(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(waits);
    for datagram in &data {
        pair.client.connection.handle_input(datagram, pair.client.now);
    }
    pair.client.connection.verified(Ok(P256.spki.clone()));
    pair.client.act();
    assert_eq!(pair.client.error(), None);
    let kept = pair.client.data.len();
    assert!((200_000..256 * 1024).contains(&kept), "{kept}");
    assert!(pair.client.data.iter().all(|byte| *byte == 7));
}
