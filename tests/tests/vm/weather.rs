//! DTLS over UDP through bad weather, which netem makes: a fifth of all packets is lost, a tenth comes twice, others
//! come in another order. (A thousand handshakes through the same, in memory, are in the crate tls12.)

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use tlspool_client::{Plaintext, Session, StarttlsRequest};
use tlspool_tests::run;

use super::messages::Two;

/// Handshakes; all at a time they take about a minute, most of it waiting.
const HANDSHAKES: usize = 150;
/// So many of the sessions then carry messages.
const SPEAKING: usize = 20;
/// Messages of each of these.
const MESSAGES: u32 = 400;
/// All of it; a handshake that has bad luck waits for seconds more than once.
const PATIENCE: Duration = Duration::from_mins(4);

/// What netem is told.
const FOUL: &str = "delay 5ms 2ms loss 20% duplicate 10% reorder 25% 50%";

/// Weather on the loopback interface, until it is dropped.
pub(crate) struct Weather;

impl Weather {
    pub(crate) fn begin(how: &str) -> Self {
        let how: Vec<_> = how.split(' ').collect();
        Self::tc(&[&["add", "dev", "lo", "root", "netem", "limit", "100000"], &how[..]].concat());
        Self
    }

    fn tc(arguments: &[&str]) {
        let said = run(Command::new("tc").arg("qdisc").args(arguments));
        assert!(said.ok, "tc: {}", said.err);
    }
}

impl Drop for Weather {
    fn drop(&mut self) {
        // If it was never there, that was told before.
        run(Command::new("tc").args(["qdisc", "del", "dev", "lo", "root"]));
    }
}

fn udp_pair() -> (UdpSocket, UdpSocket) {
    let near = UdpSocket::bind("127.0.0.1:0").unwrap();
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    near.connect(far.local_addr().unwrap()).unwrap();
    far.connect(near.local_addr().unwrap()).unwrap();
    (near, far)
}

fn plaintext(session: &mut Session) -> UnixDatagram {
    UnixDatagram::from(session.plaintext.take().unwrap())
}

/// A message that shows whether it is whole, and which one it is.
fn message(session: usize, n: u32) -> Vec<u8> {
    let length = 8 + (n as usize * 37) % 1100;
    let mut message = vec![n as u8 ^ session as u8; length];
    message[..4].copy_from_slice(&(session as u32).to_be_bytes());
    message[4..8].copy_from_slice(&n.to_be_bytes());
    message
}

/// The number of the message after the last one.
const LAST: u32 = MESSAGES;

/// Sends all messages, and then the last one until the other side has seen it.
fn send_all(to: &UnixDatagram, session: usize) {
    for n in 0..MESSAGES {
        to.send(&message(session, n)).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    let mut patience = Duration::from_millis(500);
    loop {
        assert!(Instant::now() < deadline, "the last message of {session} does not arrive");
        to.send(&message(session, LAST)).unwrap();
        to.set_read_timeout(Some(patience)).unwrap();
        if to.recv(&mut [0; 4000]).is_ok() {
            return;
        }
        patience *= 2;
    }
}

/// Receives until the sender knows that all is over, and what was overtaken by that; returns how many came.
fn count(from: &UnixDatagram, session: usize, over: &AtomicBool) -> usize {
    from.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut seen = [false; MESSAGES as usize];
    let mut buffer = [0; 4000];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let was_over = over.load(Ordering::Acquire);
        let length = match from.recv(&mut buffer) {
            Ok(0) => panic!("session {session} has ended"),
            Ok(length) => length,
            Err(_) if was_over => break,
            Err(error) => {
                assert!(Instant::now() < deadline, "the last message of {session}: {error}");
                continue;
            }
        };
        let n = u32::from_be_bytes(buffer[4..8].try_into().unwrap());
        assert_eq!(buffer[..length], message(session, n), "not whole, or another's");
        if n == LAST {
            // Sent again until this arrives.
            from.send(&buffer[..length]).unwrap();
        } else {
            assert!(!std::mem::replace(&mut seen[n as usize], true), "{n} came twice");
        }
    }
    seen.iter().filter(|seen| **seen).count()
}

#[test]
#[ignore = "in the VM"]
fn handshakes_complete_and_messages_come_whole_once_or_not_at_all() {
    // For us, and the pools inherit it.
    let most = Some(1 << 16);
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let two = Two::new("[limits]\nhandshake_timeout = \"5m\"");
    let weather = Weather::begin(FOUL);
    let begun = Instant::now();
    let sessions: Vec<_> = (0..HANDSHAKES)
        .map(|number| {
            let (near, far) = udp_pair();
            let (servers, clients) = (two.servers.pool(), two.clients.pool());
            let server = thread::spawn(move || {
                let request = StarttlsRequest::server().datagrams();
                let mut session = servers.starttls(request, far.into(), Plaintext::pair())?;
                Ok::<_, tlspool_client::Error>((plaintext(&mut session), session))
            });
            let client = thread::spawn(move || {
                let request = StarttlsRequest::client("example.com").unwrap().datagrams();
                let request = request.localid("john@example.org").unwrap();
                let mut session = clients.starttls(request, near.into(), Plaintext::pair())?;
                Ok::<_, tlspool_client::Error>((plaintext(&mut session), session))
            });
            (number, server, client)
        })
        .collect();
    let mut failures = Vec::new();
    let mut open = Vec::new();
    for (number, server, client) in sessions {
        match (server.join().unwrap(), client.join().unwrap()) {
            (Ok(server), Ok(client)) => open.push((number, server, client)),
            (server, client) => failures.push((number, server.err(), client.err())),
        }
    }
    assert!(failures.is_empty(), "{failures:?}\n{}", two.logs());
    assert!(begun.elapsed() < PATIENCE);
    println!("{HANDSHAKES} of {HANDSHAKES} handshakes in {:?}", begun.elapsed());
    let silent = open.split_off(SPEAKING);
    let speaking: Vec<_> = open
        .into_iter()
        .map(|(number, server, client)| {
            let over = Arc::new(AtomicBool::new(false));
            let is_over = Arc::clone(&over);
            let sending = thread::spawn(move || {
                send_all(&client.0, number);
                is_over.store(true, Ordering::Release);
                client
            });
            let counting = thread::spawn(move || (count(&server.0, number, &over), server));
            (sending, counting)
        })
        .collect();
    let mut came = 0;
    let mut open = Vec::new();
    for (sending, counting) in speaking {
        let counted = counting.join();
        let (count, server) = counted.unwrap_or_else(|_| panic!("{}", two.logs()));
        came += count;
        let sent = sending.join().unwrap_or_else(|_| panic!("{}", two.logs()));
        open.push((sent, server));
    }
    drop(weather);
    let all = SPEAKING * MESSAGES as usize;
    println!("{came} of {all} messages came");
    // A fifth is lost, of what came twice less; and what a buffer of the kernel's has no room for, when this
    // machine is busy.
    assert!((all / 4..all).contains(&came), "{came} of {all}");
    drop((open, silent));
    two.stop();
}
