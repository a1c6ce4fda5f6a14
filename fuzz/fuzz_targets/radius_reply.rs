//! What comes from a RADIUS server: any datagram, and attributes of one that knows the secret.
//!
//! Input: a code, whether it is signed, the attributes or the whole datagram.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_lookup::authorize::Meeting;
use tlspool_lookup::authorize::radius::packet::{self, Request, Secret, Verdict};

fuzz_target!(|data: &[u8]| {
    let [code, signed, rest @ ..] = data else { return };
    let secret = Secret::new(b"correct horse").expect("long enough");
    let (remote, local, service) = ("john@example.org", "example.com", "imap");
    let meeting = Meeting { remote, local, service, server: true };
    let request = Request::with(7, [9; 16], &meeting, "fuzz", &secret).expect("it fits");
    let tagged = packet::reply(request.bytes(), *code, rest, &secret);
    let datagram = match signed % 3 {
        0 => rest.to_vec(),
        // Only the Response Authenticator is right.
        1 => {
            let mut datagram = request.bytes()[..20].to_vec();
            datagram[0] = *code;
            datagram.extend_from_slice(rest);
            let length = (datagram.len().min(4096) as u16).to_be_bytes();
            datagram[2..4].copy_from_slice(&length);
            packet::sign(&mut datagram, &secret);
            datagram
        }
        _ => tagged.unwrap_or_default(),
    };
    let opened = request.open(&datagram, &secret, true);
    if let Verdict::Reply(reply) = &opened {
        assert!(signed % 3 == 2, "a forged reply is believed");
        assert!(reply.message.len() <= 200 && !reply.message.chars().any(char::is_control));
    }
    if let Verdict::Reply(reply) = request.open(&datagram, &secret, false) {
        assert!(signed % 3 != 0, "a forged reply is believed");
        assert!(matches!(reply.code, 2 | 3 | 11));
    }
});
