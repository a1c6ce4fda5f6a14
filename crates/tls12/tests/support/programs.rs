//! Other people's programs on loopback TCP, and one of our sides against them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tls12::dtls::{self, Cookies, Verdict};
use tls12::{Connection, ServerConfig};

use super::{Shape, Side, credential, keys};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A running program, ended with the test. Its output is read by a thread, so it never blocks.
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<Vec<u8>>,
    pub seen: String,
}

impl Program {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, lines) = channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                loop {
                    let mut line = Vec::new();
                    match reader.read_until(b'\n', &mut line) {
                        Ok(n) if n > 0 && sender.send(line).is_ok() => {}
                        _ => return,
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Self { child, stdin, lines, seen: String::new() }
    }

    /// Waits until it has said this.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.seen.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("{text:?} is not in: {}", self.seen);
            };
            self.seen.push_str(&String::from_utf8_lossy(&line));
        }
    }

    pub fn say(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Everything it has said by its end.
    pub fn finish(&mut self) -> String {
        self.stdin = None;
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push_str(&String::from_utf8_lossy(&line));
        }
        self.seen.clone()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files with our keys, for programs.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (n, key) in keys().iter().enumerate() {
            std::fs::write(folder.path().join(format!("{n}.key")), &key.key_pem).unwrap();
            std::fs::write(folder.path().join(format!("{n}.crt")), &key.certificate_pem).unwrap();
        }
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn key(&self, n: usize) -> [PathBuf; 2] {
        [self.path(&format!("{n}.key")), self.path(&format!("{n}.crt"))]
    }

    pub fn group(&self) -> PathBuf {
        let path = self.path("group.pem");
        if !path.exists() {
            let made = Command::new("openssl")
                .args(["genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048"])
                .arg("-out")
                .arg(&path)
                .output()
                .unwrap();
            assert!(made.status.success());
        }
        path
    }
}

/// A port that is free, for programs which cannot choose one and say so. It is none of those that the kernel gives to
/// others (those are above), and no other call in this process returns it.
pub fn free_port() -> u16 {
    const LOWEST: u16 = 10_000;
    const PORTS: u32 = 22_000;
    static CALLS: AtomicU32 = AtomicU32::new(0);
    loop {
        let call = std::process::id() * 11 + CALLS.fetch_add(1, Ordering::Relaxed);
        let port = LOWEST + (call % PORTS) as u16;
        let place = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(place).is_ok() && UdpSocket::bind(place).is_ok() {
            return port;
        }
    }
}

/// Connects as soon as somebody listens.
pub fn connect(port: u16) -> TcpStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(stream) => return stream,
            Err(error) => {
                assert!(Instant::now() < end, "nobody listens: {error}");
                std::thread::yield_now();
            }
        }
    }
}

/// The first to connect.
#[track_caller]
pub fn accept(listener: &TcpListener, program: &mut Program) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let end = Instant::now() + PATIENCE;
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            return stream;
        }
        let over = Instant::now() > end || program.has_ended();
        assert!(!over, "nobody connects: {}", program.finish());
        std::thread::yield_now();
    }
}

/// One of our sides on a socket.
pub struct Live {
    pub side: Side,
    pub stream: TcpStream,
}

impl Live {
    pub fn new(side: Side, stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { side, stream }
    }

    /// Carries bytes until `done`, or the connection is over.
    #[track_caller]
    pub fn run_until(&mut self, done: impl Fn(&Side) -> bool) {
        let mut buffer = [0; 16384];
        loop {
            self.flush();
            if done(&self.side) || self.side.closed.is_some() {
                return;
            }
            let n = self.stream.read(&mut buffer).expect("the peer says nothing");
            self.side.now = Instant::now();
            if n == 0 {
                self.side.connection.handle_end();
                self.flush();
                return;
            }
            self.side.input(&buffer[..n]);
        }
    }

    pub fn flush(&mut self) {
        self.side.act();
        self.side.packets.clear();
        let sent = std::mem::take(&mut self.side.sent);
        // A peer that is gone shows when reading.
        let _ = self.stream.write_all(&sent);
    }

    #[track_caller]
    pub fn establish(&mut self) {
        self.run_until(|side| side.established);
        assert_eq!(self.side.closed, None);
        assert!(self.side.established, "{:?}", self.side.error());
    }

    /// Sends a line and waits for `answer`.
    #[track_caller]
    pub fn converse(&mut self, line: &[u8], answer: &[u8]) {
        self.side.connection.send(line).unwrap();
        self.wait_for(answer);
    }

    #[track_caller]
    pub fn wait_for(&mut self, text: &[u8]) {
        let found = |side: &Side| side.data.windows(text.len()).any(|window| window == text);
        self.run_until(found);
        let data = String::from_utf8_lossy(&self.side.data);
        assert!(found(&self.side), "{:?} after {data:?}", self.side.closed);
        self.side.data.clear();
    }
}

/// One of our sides on a connected socket of UDP.
pub struct LiveDatagrams {
    pub side: Side,
    pub socket: UdpSocket,
}

impl LiveDatagrams {
    /// Carries datagrams until `done`, or the connection is over.
    #[track_caller]
    pub fn run_until(&mut self, done: impl Fn(&Side) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut buffer = [0; 2048];
        loop {
            self.flush();
            if done(&self.side) || self.side.closed.is_some() {
                return;
            }
            let now = Instant::now();
            assert!(now < end, "the peer says nothing");
            let wake = self.side.wait_until.map_or(end, |wake| wake.min(end));
            let patience = wake.saturating_duration_since(now).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(patience)).unwrap();
            // A peer that is not there yet, or no longer, shows as an error too.
            let received = self.socket.recv(&mut buffer);
            self.side.now = Instant::now();
            match received {
                Ok(n) => self.side.input(&buffer[..n]),
                Err(_) => self.side.connection.handle_timeout(self.side.now),
            }
        }
    }

    pub fn flush(&mut self) {
        self.side.act();
        self.side.sent.clear();
        for datagram in std::mem::take(&mut self.side.packets) {
            let _ = self.socket.send(&datagram);
        }
    }

    #[track_caller]
    pub fn establish(&mut self) {
        self.run_until(|side| side.established);
        assert!(self.side.established, "{:?}", self.side.closed);
    }

    /// Waits until data has come that contains this.
    #[track_caller]
    pub fn wait_for(&mut self, text: &[u8]) {
        let found = |side: &Side| side.data.windows(text.len()).any(|window| window == text);
        self.run_until(found);
        let data = String::from_utf8_lossy(&self.side.data);
        assert!(found(&self.side), "{:?} after {data:?}", self.side.closed);
        self.side.data.clear();
    }

    pub fn send(&mut self, text: &[u8]) {
        self.side.connection.send(text).unwrap();
        self.flush();
    }
}

/// The next client that shows a good cookie; the socket is connected to it.
#[track_caller]
pub fn accept_datagrams(
    config: &Arc<ServerConfig>,
    key: usize,
    socket: &UdpSocket,
) -> LiveDatagrams {
    let mut cookies = Cookies::new(Duration::from_mins(1), Instant::now()).unwrap();
    let (mut datagram, mut out) = ([0; 2048], [0; 256]);
    loop {
        let (n, peer) = socket.recv_from(&mut datagram).expect("nobody comes");
        let now = Instant::now();
        let address = peer.to_string();
        match cookies.respond(&datagram[..n], address.as_bytes(), now, &mut out) {
            Verdict::Ignore => {}
            Verdict::Challenge(answer) => {
                assert!(answer <= n);
                socket.send_to(&out[..answer], peer).unwrap();
            }
            Verdict::Valid(start) => {
                let socket = socket.try_clone().unwrap();
                socket.connect(peer).unwrap();
                let settings = dtls::Config::default();
                let connection =
                    Connection::datagram_server(config.clone(), settings, Some(start), now);
                let mut side = Side::new(connection, vec![credential(key, Shape::X509)]);
                side.input(&datagram[..n]);
                return LiveDatagrams { side, socket };
            }
        }
    }
}
