//! DTLS over UDP through bad weather, which netem makes: a fifth of all packets is lost, a tenth comes twice, others
//! come in another order. (The same in memory is in the crate tls12.)

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, setrlimit};
use tlspool_client::{Plaintext, Session, StarttlsRequest};
use tlspool_tests::run;

use super::messages::Two;

/// Handshakes.
const HANDSHAKES: usize = 1000;
/// So many begin at a time.
const AT_A_TIME: usize = 250;
/// So many of the sessions then carry messages.
const SPEAKING: usize = 20;
/// Messages of each of these.
const MESSAGES: u32 = 5000;
/// So many of them leave at a time; then their sender waits until the other side has seen their end. More than the
/// replay window holds, or a buffer of the kernel's, would be lost for another reason than the weather.
const BURST: u32 = 16;
/// What a socket's buffer holds, in bytes: some bursts, as netem makes of it what it likes.
const BUFFER: usize = 1 << 20;
/// All of one session's messages; a mark that has bad luck waits for seconds more than once.
const PATIENCE: Duration = Duration::from_mins(8);

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
    for end in [&near, &far] {
        sockopt::set_socket_recv_buffer_size_force(end, BUFFER).unwrap();
    }
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

/// Sends all messages; after each burst a mark, which has a number from [`MESSAGES`] on, until the other side has
/// seen it.
fn send_all(to: &UnixDatagram, session: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = [0; 4000];
    for first in (0..MESSAGES).step_by(BURST as usize) {
        for n in first..MESSAGES.min(first + BURST) {
            to.send(&message(session, n)).unwrap();
        }
        let mark = message(session, MESSAGES + first);
        let mut patience = Duration::from_millis(50);
        'sent: loop {
            assert!(Instant::now() < deadline, "{first} of {session} is not answered");
            to.send(&mark).unwrap();
            let until = Instant::now() + patience;
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                to.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
                // It may be the answer to the mark before, which came twice or was overtaken.
                match to.recv(&mut buffer) {
                    Ok(length) if buffer[..length] == mark => break 'sent,
                    Ok(0) => panic!("session {session} has ended"),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            patience = (patience * 2).min(Duration::from_secs(5));
        }
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
        match seen.get_mut(n as usize) {
            Some(seen) => assert!(!std::mem::replace(seen, true), "{n} came twice"),
            // A mark, which comes again until this arrives.
            None => drop(from.send(&buffer[..length]).unwrap()),
        }
    }
    seen.iter().filter(|seen| **seen).count()
}

/// An end of a session: the plaintext, and what it is tied to.
type End = (UnixDatagram, Session);

/// One handshake between two pools, from both sides at the same time.
fn shake(two: &Two) -> Result<(End, End), String> {
    let (near, far) = udp_pair();
    let (servers, clients) = (two.servers.pool(), two.clients.pool());
    let server = thread::spawn(move || {
        let request = StarttlsRequest::server().datagrams();
        let mut session = servers.starttls(request, far.into(), Plaintext::pair())?;
        Ok::<_, tlspool_client::Error>((plaintext(&mut session), session))
    });
    let request = StarttlsRequest::client("example.com").unwrap().datagrams();
    let request = request.localid("john@example.org").unwrap();
    let client = clients.starttls(request, near.into(), Plaintext::pair());
    let client = client.map(|mut session| (plaintext(&mut session), session));
    match (server.join().unwrap(), client) {
        (Ok(server), Ok(client)) => Ok((server, client)),
        (server, client) => Err(format!("server {:?}, client {:?}", server.err(), client.err())),
    }
}

/// All handshakes, some at a time; ends of the first sessions.
fn shake_all(two: &Two) -> Vec<(End, End)> {
    let next = AtomicUsize::new(0);
    let open = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= HANDSHAKES {
                        return;
                    }
                    let ends = shake(two)
                        .unwrap_or_else(|error| panic!("{number}: {error}\n{}", two.logs()));
                    let mut open = open.lock().unwrap();
                    if open.len() < SPEAKING {
                        open.push(ends);
                    }
                }
            });
        }
    });
    open.into_inner().unwrap()
}

#[test]
#[ignore = "in the VM"]
fn handshakes_complete_and_messages_come_whole_once_or_not_at_all() {
    // For us, and the pools inherit it.
    let most = Some(1 << 16);
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    // The sessions that speak are among the first, and silent until the last handshake is done.
    let two = Two::new(
        "[limits]\nhandshake_timeout = \"12m\"\ncallback_timeout = \"2m\"\ndatagram_idle_timeout = \"15m\"",
    );
    let weather = Weather::begin(FOUL);
    let begun = Instant::now();
    let open = shake_all(&two);
    println!("{HANDSHAKES} of {HANDSHAKES} handshakes in {:?}", begun.elapsed());
    let begun = Instant::now();
    let speaking: Vec<_> = open
        .into_iter()
        .enumerate()
        .map(|(number, (server, client))| {
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
    println!("{came} of {all} messages came in {:?}", begun.elapsed());
    // A fifth is lost, of what came twice less; and some to a machine that is busy.
    assert!((all * 60 / 100..all).contains(&came), "{came} of {all}");
    drop(open);
    two.stop();
}
