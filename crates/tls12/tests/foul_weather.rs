//! DTLS through a network that loses, doubles, delays and damages, from the first hello without a cookie on, with a
//! clock of the test's own. What the issue asks for: 1,000 of 1,000 handshakes, and 100,000 messages each whole,
//! once or not at all.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use support::{Dice, Shape, Side, Weather, credential};
use tls12::dtls::{self, Cookies, Verdict};
use tls12::*;

const FOUL: Weather = Weather { loss: 20, duplication: 10, reordering: 50, corruption: 0 };

/// A client, a server that is there from the first valid cookie on, and what is under way between them.
struct World {
    now: Instant,
    dice: Dice,
    weather: Weather,
    client: Side,
    server: Option<Side>,
    server_config: Arc<ServerConfig>,
    cookies: Cookies,
    /// By the time of arrival; true: to the server.
    wire: BTreeMap<(Instant, u64), (bool, Vec<u8>)>,
    sent: u64,
    came: usize,
    answered: usize,
}

impl World {
    fn new(client: ClientConfig, server: ServerConfig, weather: Weather, seed: u64) -> Self {
        let now = Instant::now();
        let settings = dtls::Config::default();
        let connection = Connection::datagram_client(&Arc::new(client), settings, now).unwrap();
        let mut client = Side::new(connection, vec![credential(1, Shape::X509)]);
        client.now = now;
        Self {
            now,
            dice: Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1),
            weather,
            client,
            server: None,
            server_config: Arc::new(server),
            cookies: Cookies::new(Duration::from_mins(1), now).unwrap(),
            wire: BTreeMap::new(),
            sent: 0,
            came: 0,
            answered: 0,
        }
    }

    fn put(&mut self, up: bool, datagram: &[u8]) {
        let weather = self.weather;
        let copies = 1 + u32::from(self.dice.below(100) < weather.duplication);
        for _ in 0..copies {
            if self.dice.below(100) < weather.loss {
                continue;
            }
            let mut datagram = datagram.to_vec();
            if self.dice.below(100) < weather.corruption {
                let at = self.dice.below(datagram.len() as u32) as usize;
                datagram[at] ^= 1 << self.dice.below(8);
            }
            let mut takes = 5;
            if self.dice.below(100) < weather.reordering {
                takes += u64::from(self.dice.below(100));
            }
            self.sent += 1;
            let at = (self.now + Duration::from_millis(takes), self.sent);
            self.wire.insert(at, (up, datagram));
        }
    }

    fn flush(&mut self) {
        self.client.act();
        self.client.sent.clear();
        for datagram in std::mem::take(&mut self.client.packets) {
            self.put(true, &datagram);
        }
        let Some(server) = &mut self.server else { return };
        server.act();
        server.sent.clear();
        for datagram in std::mem::take(&mut server.packets) {
            self.put(false, &datagram);
        }
    }

    fn deliver(&mut self, up: bool, datagram: &[u8]) {
        if !up {
            self.client.now = self.now;
            self.client.input(datagram);
            return;
        }
        if self.server.is_none() {
            let mut out = [0; 256];
            self.came += datagram.len();
            match self.cookies.respond(datagram, b"client", self.now, &mut out) {
                Verdict::Ignore => return,
                Verdict::Challenge(n) => {
                    self.answered += n;
                    return self.put(false, &out[..n]);
                }
                Verdict::Valid(start) => {
                    let connection = Connection::datagram_server(
                        self.server_config.clone(),
                        dtls::Config::default(),
                        Some(start),
                        self.now,
                    );
                    self.server = Some(Side::new(connection, vec![credential(1, Shape::X509)]));
                }
            }
        }
        let server = self.server.as_mut().unwrap();
        server.now = self.now;
        server.input(datagram);
    }

    /// Until nothing is under way and nobody waits.
    fn run(&mut self) {
        loop {
            self.flush();
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let sides = || [Some(&self.client), self.server.as_ref()].into_iter().flatten();
            let timer = sides().filter_map(|side| side.wait_until).min();
            match (arrival, timer) {
                (None, None) => return,
                (Some(at), timer) if timer.is_none_or(|timer| at <= timer) => {
                    self.now = at;
                    let (_, (up, datagram)) = self.wire.pop_first().unwrap();
                    self.deliver(up, &datagram);
                }
                (_, timer) => {
                    self.now = timer.unwrap();
                    for side in [Some(&mut self.client), self.server.as_mut()].into_iter().flatten()
                    {
                        side.now = self.now;
                        side.connection.handle_timeout(self.now);
                    }
                }
            }
        }
    }

    fn server(&mut self) -> &mut Side {
        self.server.as_mut().expect("a server")
    }
}

fn client() -> ClientConfig {
    ClientConfig { server_name: Some("localhost".into()), ..ClientConfig::default() }
}

fn server() -> ServerConfig {
    ServerConfig { client_auth: ClientAuth::Required, ..ServerConfig::default() }
}

#[test]
fn a_thousand_of_a_thousand_handshakes() {
    let (mut all, mut longest) = (Duration::ZERO, Duration::ZERO);
    for seed in 0..1_000 {
        let mut world = World::new(client(), server(), FOUL, seed);
        let began = world.now;
        world.run();
        let client = &world.client;
        let server = world.server.as_ref().expect("a server");
        assert_eq!((client.error(), server.error()), (None, None), "seed {seed}");
        assert!(client.established && server.established, "seed {seed}");
        assert!(world.answered <= world.came);
        let unique = |side: &Side| *side.connection.exporter().unwrap().tls_unique();
        assert_eq!(unique(client), unique(server));
        all += world.now - began;
        longest = longest.max(world.now - began);
    }
    println!("a handshake took {:?}, the longest {longest:?}", all / 1_000);
}

/// Also while the two renegotiate, and though one datagram in twenty is damaged.
#[test]
fn a_hundred_thousand_messages() {
    let weather = Weather { corruption: 0, ..FOUL };
    let mut world = World::new(client(), server(), weather, 5);
    world.run();
    world.weather.corruption = 5;
    let mut arrived = HashSet::new();
    let mut renegotiations = 0;
    for n in 0..100_000_u32 {
        let mut message = n.to_be_bytes().to_vec();
        message.resize(8 + world.dice.below(50) as usize, n as u8);
        let length = message.len() as u32;
        message[4..8].copy_from_slice(&length.to_be_bytes());
        let up = n % 3 != 0;
        let from = if up { &mut world.client } else { world.server() };
        from.connection.send(&message).unwrap();
        world.flush();
        if n % 25_000 == 24_999 {
            renegotiations += 1;
            let by = if renegotiations % 2 == 0 { &mut world.client } else { world.server() };
            by.connection.renegotiate(None).unwrap();
            world.run();
            let sides = [&world.client, world.server.as_ref().unwrap()];
            for side in sides {
                assert_eq!(side.error(), None);
                assert_eq!(side.renegotiated.len(), renegotiations);
            }
            // Renegotiations that the peer asks for are limited.
            world.now += Duration::from_mins(1);
        } else if n % 10 == 9 {
            world.run();
        }
        for up in [true, false] {
            let to = if up { world.server() } else { &mut world.client };
            let mut data = &std::mem::take(&mut to.data)[..];
            while let Some((head, _)) = data.split_first_chunk::<8>() {
                let number = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
                let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
                let (message, rest) = data.split_at(length);
                data = rest;
                assert!(number <= n && length < 58);
                assert!(message[8..].iter().all(|byte| *byte == number as u8));
                assert_eq!(up, number % 3 != 0, "came back");
                assert!(arrived.insert(number), "{number} came twice");
            }
            assert!(data.is_empty());
        }
    }
    assert!((75_000..86_000).contains(&arrived.len()), "{}", arrived.len());
}
