//! Two peers, the network between them and the time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;
use crate::crypto::{Aead, RecordKey};

/// Numbers that are always the same (xorshift64*).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// What the network does to datagrams, in percent.
#[derive(Clone, Copy)]
pub(super) struct Weather {
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) damaged: u64,
    /// Datagrams take up to this many milliseconds, each another number of them.
    pub(super) delay: u64,
    /// Longer datagrams never arrive.
    pub(super) mtu: usize,
}

pub(super) const FAIR: Weather = Weather { lost: 0, doubled: 0, damaged: 0, delay: 0, mtu: 65_535 };
pub(super) const FOUL: Weather =
    Weather { lost: 20, doubled: 10, damaged: 0, delay: 80, mtu: 65_535 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Kind, and length of the body.
    Message(u8, usize),
    /// Who receives this knows the keys from here on.
    KeysKnown,
    ChangeCipherSpec,
}

use Step::{ChangeCipherSpec as Change, KeysKnown, Message};

pub(super) type Script = Vec<(Side, Vec<Step>)>;

pub(super) fn full(certificate: usize) -> Script {
    vec![
        (Side::Client, vec![Message(1, 200)]),
        (
            Side::Server,
            vec![
                Message(2, 90),
                Message(11, certificate),
                Message(12, 330),
                Message(13, 40),
                Message(14, 0),
            ],
        ),
        (
            Side::Client,
            vec![
                Message(11, certificate / 2),
                Message(16, 66),
                KeysKnown,
                Message(15, 260),
                Change,
                Message(20, 12),
            ],
        ),
        (Side::Server, vec![Message(4, 200), Change, Message(20, 12)]),
    ]
}

pub(super) fn resumed() -> Script {
    vec![
        (Side::Client, vec![Message(1, 400)]),
        (Side::Server, vec![Message(2, 90), KeysKnown, Change, Message(20, 12)]),
        (Side::Client, vec![Change, Message(20, 12)]),
    ]
}

/// Asked for by the server.
pub(super) fn asked(mut script: Script) -> Script {
    script.insert(0, (Side::Server, vec![Message(0, 0)]));
    script
}

pub(super) struct Peer {
    pub(super) side: Side,
    pub(super) transport: Transport,
    pub(super) script: Script,
    pub(super) flight: usize,
    /// Steps of the peer's flight that came.
    pub(super) step: usize,
    pub(super) epoch: u8,
    pub(super) prepared: bool,
    pub(super) changed: bool,
    pub(super) done: bool,
    pub(super) gave_up: bool,
    pub(super) alerts: Vec<[u8; 2]>,
    pub(super) data: Vec<Vec<u8>>,
    pub(super) transcript: Vec<u8>,
}

pub(super) fn key(writer: Side, epoch: u8) -> RecordKey {
    RecordKey::new(Aead::Aes128Gcm, &[writer as u8 + 1; 16], &[epoch; 4]).unwrap()
}

impl Peer {
    pub(super) fn new(side: Side, transport: Transport) -> Self {
        Self {
            side,
            transport,
            script: Vec::new(),
            flight: 0,
            step: 0,
            epoch: 0,
            prepared: false,
            changed: false,
            done: true,
            gave_up: false,
            alerts: Vec::new(),
            data: Vec::new(),
            transcript: Vec::new(),
        }
    }

    pub(super) fn begin(&mut self, script: &Script, now: Instant) {
        self.script.clone_from(script);
        self.flight = 0;
        self.step = 0;
        self.done = false;
        self.prepared = false;
        self.changed = false;
        self.transcript.clear();
        self.speak(now);
    }

    /// Sends the flights that are ours to send.
    pub(super) fn speak(&mut self, now: Instant) {
        while let Some((side, steps)) = self.script.get(self.flight).cloned() {
            if side != self.side {
                return;
            }
            for step in &steps {
                match *step {
                    Message(kind, length) => {
                        let body = vec![kind; length];
                        let raw = self.transport.push_message(kind, &body);
                        self.transcript.extend_from_slice(raw);
                    }
                    KeysKnown => {}
                    Change => {
                        self.prepare(now);
                        let key = key(self.side, self.epoch + 1);
                        self.transport.push_change_cipher_spec(key).unwrap();
                    }
                }
            }
            self.flight += 1;
            let request = matches!(steps[..], [Message(0, _)]);
            let end = if self.flight == self.script.len() {
                FlightEnd::Last
            } else if request {
                FlightEnd::Unanswered
            } else {
                FlightEnd::Awaited
            };
            self.transport.end_flight(end, now);
        }
        self.complete();
    }

    pub(super) fn prepare(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.prepared, true) {
            let key = key(self.side.other(), self.epoch + 1);
            self.transport.prepare_reading(key, now).unwrap();
        }
    }

    pub(super) fn complete(&mut self) {
        if self.flight == self.script.len() && !self.done {
            assert!(self.prepared && self.changed);
            self.done = true;
            self.epoch += 1;
            self.transport.handshake_completed();
        }
    }

    pub(super) fn hear(&mut self, datagram: &mut [u8], now: Instant) {
        let mut cursor = 0;
        while let Some(data) = self.transport.receive(datagram, &mut cursor, now) {
            self.data.push(datagram[data].to_vec());
        }
        self.alerts.extend(std::iter::from_fn(|| self.transport.next_alert()));
        while let Some(incoming) = self.transport.next_message() {
            self.incoming(incoming, now);
        }
        self.data
            .extend(std::iter::from_fn(|| self.transport.next_held_data().map(|(data, _)| data)));
    }

    pub(super) fn incoming(&mut self, incoming: Incoming, now: Instant) {
        let (side, steps) = &self.script[self.flight];
        assert_ne!(*side, self.side, "{incoming:?}");
        let step = steps[self.step];
        self.step += 1;
        let last = self.step == steps.len();
        let key_is_next = matches!(steps.get(self.step), Some(KeysKnown));
        match (step, incoming) {
            (Message(kind, length), Incoming::Handshake(raw)) => {
                assert_eq!((raw[0], raw.len()), (kind, 12 + length));
                assert_eq!(raw[6..9], [0; 3]);
                assert_eq!(raw[1..4], raw[9..12]);
                assert!(raw[12..].iter().all(|byte| *byte == kind));
                self.transcript.extend_from_slice(&raw);
                if kind == 20 {
                    self.transport.reading_confirmed();
                }
            }
            (Change, Incoming::ChangeCipherSpec) => self.changed = true,
            other => panic!("{other:?}"),
        }
        if key_is_next {
            self.step += 1;
            self.prepare(now);
        }
        if last {
            self.step = 0;
            self.flight += 1;
            self.transport.flight_answered();
            self.complete();
            self.speak(now);
        }
    }
}

/// The two peers, what is between them, and the time.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) began: Instant,
    pub(super) dice: Dice,
    pub(super) weather: Weather,
    /// What is on its way, by the time at which it arrives.
    pub(super) wire: BTreeMap<(Instant, u64), (Side, Vec<u8>)>,
    pub(super) sent: u64,
    pub(super) client: Peer,
    pub(super) server: Peer,
}

impl World {
    pub(super) fn new(weather: Weather, seed: u64, config: &Config) -> Self {
        let now = Instant::now();
        let transport = || Transport::new(config.clone());
        Self {
            now,
            began: now,
            dice: Dice::new(seed),
            weather,
            wire: BTreeMap::new(),
            sent: 0,
            client: Peer::new(Side::Client, transport()),
            server: Peer::new(Side::Server, transport()),
        }
    }

    pub(super) fn peer(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    pub(super) fn put(&mut self, to: Side, datagram: &[u8]) {
        let copies = 1 + u64::from(self.dice.roll(100) < self.weather.doubled);
        for _ in 0..copies {
            let late = self.dice.roll(self.weather.delay + 1);
            if self.dice.roll(100) < self.weather.lost || datagram.len() > self.weather.mtu {
                continue;
            }
            let mut datagram = datagram.to_vec();
            if self.dice.roll(100) < self.weather.damaged {
                let at = self.dice.roll(datagram.len() as u64) as usize;
                datagram[at] ^= 1 << self.dice.roll(8);
            }
            self.sent += 1;
            let at = (self.now + Duration::from_millis(1 + late), self.sent);
            self.wire.insert(at, (to, datagram));
        }
    }

    pub(super) fn flush(&mut self) {
        let mut buf = vec![0; 20_000];
        for side in [Side::Client, Side::Server] {
            while let Some(transmit) = self.peer(side).transport.poll_transmit(&mut buf).unwrap() {
                assert!(transmit.len <= self.peer(side).transport.mtu().max(17_000));
                self.put(side.other(), &buf[..transmit.len]);
            }
        }
    }

    /// Until nothing happens any more. False if a peer gave up.
    pub(super) fn run(&mut self) -> bool {
        loop {
            self.flush();
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let deadline = [&self.client, &self.server]
                .iter()
                .filter_map(|peer| peer.transport.poll_timeout())
                .min();
            match (arrival, deadline) {
                (None, None) => return !self.client.gave_up && !self.server.gave_up,
                (Some(at), other) if other.is_none_or(|deadline| at <= deadline) => {
                    self.now = at;
                    let (_, (to, mut datagram)) = self.wire.pop_first().unwrap();
                    let now = self.now;
                    self.peer(to).hear(&mut datagram, now);
                }
                (_, deadline) => {
                    self.now = deadline.unwrap();
                    for side in [Side::Client, Side::Server] {
                        let now = self.now;
                        let peer = self.peer(side);
                        let timeout = peer.transport.handle_timeout(now);
                        peer.gave_up |= timeout == Timeout::GaveUp;
                        peer.alerts.extend(std::iter::from_fn(|| peer.transport.next_alert()));
                    }
                }
            }
        }
    }

    pub(super) fn handshake(&mut self, script: &Script) {
        let now = self.now;
        self.client.begin(script, now);
        self.server.begin(script, now);
        assert!(self.run(), "gave up after {:?}", self.now - self.began);
        assert!(self.client.done && self.server.done);
        assert_eq!(self.client.transcript, self.server.transcript);
    }

    pub(super) fn say(&mut self, from: Side, data: &[u8]) -> Result<(), SealError> {
        let transport = &mut self.peer(from).transport;
        let (prefix, suffix) = transport.data_room();
        let mut datagram = vec![0; prefix];
        datagram.extend_from_slice(data);
        datagram.resize(datagram.len() + suffix, 0);
        transport.seal_data(&mut datagram)?;
        self.put(from.other(), &datagram);
        Ok(())
    }
}
