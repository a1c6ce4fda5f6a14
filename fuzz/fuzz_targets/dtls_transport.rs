//! A peer, or anybody, that sends any datagrams to a DTLS transport, before, during and after handshakes.
//!
//! Input: switches, then steps. A step is a datagram as it is, a record that the peer's keys protect, or
//! something that the state machine does.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tls12::crypto::{Aead, RecordKey};
use tls12::dtls::{Config, FlightEnd, Incoming, Mode, Start, Timeout, Transport};
use tlspool_fuzz::Input;

/// The key of an epoch, the same in both directions.
fn key(epoch: u8) -> RecordKey {
    RecordKey::new(Aead::Aes128Gcm, &[epoch; 16], &[epoch; 4]).expect("the lengths are right")
}

fn protected(kind: u8, epoch: u8, seq: u8, payload: &[u8]) -> Vec<u8> {
    let explicit = if epoch > 0 { 8 } else { 0 };
    let mut record = vec![kind, 254, 253, 0, epoch, 0, 0, 0, 0, 0, seq, 0, 0];
    record.resize(13 + explicit, 0);
    record.extend_from_slice(payload);
    if epoch > 0 {
        record.resize(record.len() + 16, 0);
        let seq64 = u64::from(epoch) << 48 | u64::from(seq);
        let fragment = &mut record[13..];
        key(epoch).seal_in_place(seq64, kind, [254, 253], fragment).expect("it has room");
    }
    let length = (record.len() - 13) as u16;
    record[11..13].copy_from_slice(&length.to_be_bytes());
    record
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let switches = input.byte();
    let mut now = Instant::now();
    let config = Config {
        mode: if switches & 1 == 0 { Mode::Udp } else { Mode::Sctp },
        mtu: usize::from(switches) * 8,
        max_message: 4_000,
        ..Config::default()
    };
    let udp = config.mode == Mode::Udp;
    let start = Start { message_seq: u16::from(switches >> 7), record_seq: 3 };
    let mut transport = Transport::after_cookie(config, start);
    let (mut reading, mut writing, mut prepared) = (0_u8, 0_u8, false);
    let mut buf = vec![0; 20_000];
    while !input.0.is_empty() {
        let step = input.byte();
        match step % 16 {
            0..4 => {
                let mut datagram = input.piece().to_vec();
                receive(&mut transport, &mut datagram, now);
            }
            4..10 => {
                let (kind, seq) = (18 + input.byte() % 8, input.byte());
                let mut datagram = protected(kind, reading + step / 16 % 3, seq, input.piece());
                receive(&mut transport, &mut datagram, now);
            }
            10 => {
                let kind = input.byte() % 24;
                let raw = transport.push_message(kind, input.piece());
                assert_eq!(raw[0], kind);
            }
            11 if writing < 200 => {
                writing += 1;
                transport.push_change_cipher_spec(key(writing)).expect("epochs are left");
            }
            12 if reading < 200 && !prepared => {
                prepared = true;
                transport.prepare_reading(key(reading + 1), now).expect("epochs are left");
            }
            13 => {
                let ends = [FlightEnd::Awaited, FlightEnd::Last, FlightEnd::Unanswered];
                transport.end_flight(ends[usize::from(step / 16) % 3], now);
            }
            14 => match step / 16 {
                0..4 => now += Duration::from_millis(u64::from(input.byte()) * 100),
                4..8 => transport.set_mtu(usize::from(input.byte()) * 16),
                8..12 => transport.push_alert(step / 16 % 3, input.byte()),
                _ => transport.handshake_completed(),
            },
            _ => {}
        }
        while let Some(incoming) = transport.next_message() {
            let Incoming::Handshake(raw) = incoming else {
                assert!(prepared, "a change without a key");
                continue;
            };
            let length = usize::from(u16::from_be_bytes([raw[2], raw[3]]));
            assert!(raw[1] == 0 && raw.len() == 12 + length && length <= 4_000);
            assert_eq!((raw[1..4].to_vec(), &raw[6..9]), (raw[9..12].to_vec(), &[0; 3][..]));
            if raw[0] == 20 {
                assert!(prepared, "Finished without protection");
                transport.reading_confirmed();
                (reading, prepared) = (reading + 1, false);
            }
        }
        while transport.next_alert().is_some() || transport.next_held_data().is_some() {}
        if transport.poll_timeout().is_some_and(|deadline| deadline <= now) {
            let gave_up = transport.handle_timeout(now) == Timeout::GaveUp;
            assert!(udp && (!gave_up || transport.poll_timeout().is_none()));
        }
        let limit = if udp { transport.mtu() } else { buf.len() };
        while let Some(expected) = transport.next_transmit() {
            let transmit = transport.poll_transmit(&mut buf).expect("the buffer is large enough");
            let Some(transmit) = transmit else { break };
            assert_eq!(transmit.content, expected);
            assert!((1..=limit).contains(&transmit.len));
            assert_eq!(buf[1], 254);
        }
    }
});

fn receive(transport: &mut Transport, datagram: &mut [u8], now: Instant) {
    let mut cursor = 0;
    while let Some(data) = transport.receive(datagram, &mut cursor, now) {
        assert!(data.start >= 13 && data.end <= cursor && cursor <= datagram.len());
    }
    assert_eq!(cursor, datagram.len());
}
