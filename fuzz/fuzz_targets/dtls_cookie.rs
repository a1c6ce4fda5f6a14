//! Datagrams of strangers, to whom a stateless cookie answers: never with more bytes than came.
//!
//! Input: seconds between two datagrams, then the datagram.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tls12::dtls::{Cookies, Verdict};

fuzz_target!(|data: &[u8]| {
    let Some((&seconds, datagram)) = data.split_first() else { return };
    let mut now = Instant::now();
    let mut cookies = Cookies::new(Duration::from_mins(1), now).expect("random bytes");
    let mut out = [0; 100];
    let Verdict::Challenge(len) = cookies.respond(datagram, b"here", now, &mut out) else {
        return;
    };
    assert!(len <= datagram.len());
    assert_eq!(out[..3], [22, 254, 255]);
    // With the cookie in it, the same hello is valid as long as the cookie lives.
    let cookie = &out[len - 20..len];
    let session = usize::from(datagram[59]);
    let old = usize::from(datagram[60 + session]);
    let (head, rest) = datagram.split_at(60 + session);
    let mut again = [head, &[20], cookie, &rest[1 + old..]].concat();
    for at in [11, 15, 23] {
        let length = usize::from(u16::from_be_bytes([again[at], again[at + 1]])) + 20 - old;
        // It would carry over into the byte in front, or the record be too long.
        let Some(length) = u16::try_from(length).ok().filter(|_| again.len() < 16_000) else {
            return;
        };
        again[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    now += Duration::from_secs(seconds.into());
    let verdict = cookies.respond(&again, b"here", now, &mut out);
    assert_eq!(matches!(verdict, Verdict::Valid(_)), seconds < 120, "{verdict:?}");
    assert!(!matches!(cookies.respond(&again, b"there", now, &mut out), Verdict::Valid(_)));
});
