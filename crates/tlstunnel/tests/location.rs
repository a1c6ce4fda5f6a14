//! The tunnel finds a pool that starts after it, at a place that was not known before.

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tlspool_client::fake::FakePool;

#[test]
fn a_pool_that_starts_later_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let (config, socket) = (folder.path().join("tlspool.conf"), folder.path().join("pool"));
    std::fs::write(&config, "socket_name /nowhere/pool\n").unwrap();
    let remote = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut tunnel = Command::new(env!("CARGO_BIN_EXE_tlstunnel"))
        .args(["-s", "-l", "127.0.0.1:0", "-r", &remote.local_addr().unwrap().to_string()])
        .env("TLSPOOL_CONFIG_FILE", &config)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ready = BufReader::new(tunnel.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    let listen = ready.split_once("listen=").unwrap().1.split(' ').next().unwrap();
    let _peer = TcpStream::connect(listen).unwrap();
    // The connection waits for a pool. That of this user starts now.
    let pool = FakePool::bind(&socket).unwrap();
    std::fs::write(&config, format!("socket_name {}\n", socket.display())).unwrap();
    let (found, is_found) = mpsc::channel();
    thread::spawn(move || found.send(pool.accept().unwrap().receive().unwrap().1.is_some()));
    assert!(is_found.recv_timeout(Duration::from_mins(1)).unwrap());
    tunnel.kill().unwrap();
    tunnel.wait().unwrap();
}
