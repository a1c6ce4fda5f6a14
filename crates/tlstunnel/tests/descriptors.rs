//! The tunnel and the limits of open descriptors that it is started with.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tlspool_client::fake::{FakeClient, FakePool};
use tlspool_client::wire::Packet;

const LIMIT: Duration = Duration::from_mins(1);

struct Tunnel(Child);

impl Drop for Tunnel {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a client with limits for its descriptors, and connects `programs` to it, which all arrive at `remote`.
fn start(folder: &Path, limits: &str, programs: usize) -> (Tunnel, Vec<UnixStream>, FakeClient) {
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let pool = FakePool::bind(&folder.join("pool")).unwrap();
    let remote = TcpListener::bind("127.0.0.1:0").unwrap();
    let remote_at = remote.local_addr().unwrap().to_string();
    std::thread::spawn(move || remote.incoming().collect::<Vec<_>>());
    let child = Command::new("sh")
        .args(["-c", &format!("ulimit {limits}; exec \"$0\" \"$@\"")])
        .arg(env!("CARGO_BIN_EXE_tlstunnel"))
        .args(["-c", "-R", "example.com", "-r", &remote_at])
        .args(["-S", &at("pool"), "-l", &at("front")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let tunnel = Tunnel(child);
    let deadline = Instant::now() + LIMIT;
    let connect = || loop {
        match UnixStream::connect(at("front")) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::yield_now();
    };
    let programs = (0..programs).map(|_| connect()).collect();
    let client = pool.accept().unwrap();
    (tunnel, programs, client)
}

fn request(client: &mut FakeClient) -> io::Result<(Packet, std::os::fd::OwnedFd)> {
    let (packet, cipher) = client.receive()?;
    Ok((packet, cipher.unwrap()))
}

/// Two for each connection, of which there are more than the soft limit permits.
#[test]
fn the_soft_limit_is_raised() {
    let folder = tempfile::tempdir().unwrap();
    let (_tunnel, programs, mut client) = start(folder.path(), "-S -n 64", 100);
    let held: Vec<_> = (0..100).map(|_| request(&mut client).unwrap()).collect();
    for (packet, _) in &held {
        client.answer(packet, packet.body.clone()).unwrap();
    }
    drop(programs);
}

/// Where the hard limit leaves room for few handshakes at a time, connections wait.
#[test]
fn connections_wait_for_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let (_tunnel, programs, mut client) = start(folder.path(), "-n 96", 60);
    // All that may be under way, then another for each that is over.
    let mut held: Vec<_> = (0..16).map(|_| request(&mut client).unwrap()).collect();
    for _ in 16..60 {
        let (packet, _) = held.remove(0);
        client.answer(&packet, packet.body.clone()).unwrap();
        held.push(request(&mut client).unwrap());
    }
    drop(programs);
}
