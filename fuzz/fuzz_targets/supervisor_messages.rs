//! What a process of the daemon that was taken over may send to the supervisor, or any program with
//! the daemon's user to the control socket.
//!
//! Input: datagrams with their lengths in front.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rustix::net::{SendFlags, send};
use tlspool_fuzz::Input;
use tlspoold::supervisor::message::{self, Channel, ControlRequest, FromNetwork, ToNetwork};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let kind = input.byte() % 3;
    let (ours, theirs) = message::pair().expect("a socket pair");
    let mut sent = 0;
    while !input.0.is_empty() && sent < 8 {
        if send(&theirs, input.piece(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL).is_err() {
            break;
        }
        sent += 1;
    }
    drop(theirs);
    let mut channel = Channel::new(ours);
    let now = Some(Duration::ZERO);
    for _ in 0..=sent {
        let over = match kind {
            0 => matches!(channel.recv_within::<FromNetwork>(now), Ok(None)),
            1 => matches!(channel.recv_within::<ToNetwork>(now), Ok(None)),
            _ => matches!(channel.recv_within::<ControlRequest>(now), Ok(None)),
        };
        if over {
            return;
        }
    }
});
