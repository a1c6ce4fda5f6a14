//! Renegotiation of a session that stands, on the program's wish.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use tlspool_client::{
    CtlKey, Error, Pool, PoolError, Session, StarttlsFlags as Flags, StarttlsRequest,
};
use tlspool_tests::app::{Server, accept, call, read_all};
use tlspool_tests::net::{dial, listen};
use tlspool_tests::{House, LIMIT};

#[test]
fn a_client_shows_itself_later() {
    let more = "[privacy]\nmode = \"attempt\"";
    let (servers, clients) = (House::with(more), House::with(more));
    servers.identity("example.com");
    clients.identity("john@example.org");
    clients.good(&["trust", "add", servers.anchor()]);
    servers.good(&["trust", "add", clients.anchor()]);
    let (serving, calling) = (servers.start(), clients.start());
    let request = StarttlsRequest::server().service("smtp").unwrap().flags(Flags::REQUEST_REMOTEID);
    let server = Server::start(servers.pool(), request, |session, plaintext| {
        let first = session.remoteid().to_owned();
        let mut reader = BufReader::new(plaintext.try_clone().unwrap());
        for _ in 0..2 {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            plaintext.write_all(line.as_bytes()).unwrap();
        }
        first
    });
    let key = CtlKey([7; 16]);
    let request = StarttlsRequest::client("example.com").unwrap().service("smtp").unwrap();
    let pool = clients.pool();
    let (session, mut plaintext) = call(&pool, request.clone().ctlkey(key), server.at())
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", serving.log(), calling.log()));
    assert_eq!((session.localid(), session.remoteid()), ("", "example.com"));
    let echo = |plaintext: &mut std::os::unix::net::UnixStream| {
        plaintext.write_all(b"line\n").unwrap();
        let mut line = String::new();
        BufReader::new(&*plaintext).read_line(&mut line).unwrap();
        assert_eq!(line, "line\n");
    };
    echo(&mut plaintext);
    let wish = request.localid("john@example.org").unwrap().ctlkey(key);
    let renegotiated = pool.renegotiate(wish.clone()).unwrap_or_else(|error| {
        panic!("{error}\n{}\n{}", serving.log(), calling.log());
    });
    assert_eq!(renegotiated.localid.as_str(), "john@example.org");
    assert_eq!(renegotiated.remoteid.as_str(), "example.com");
    echo(&mut plaintext);
    let other = wish.ctlkey(CtlKey([8; 16]));
    let error = pool.renegotiate(other).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::RenegotiateNotFound), "{error}");
    drop(plaintext);
    server.outcome().unwrap();
    calling.stop();
    serving.stop();
}

/// Holds the database of a pool, so that nobody can write to it.
struct Locked(Child);

impl Locked {
    fn new(house: &House) -> Self {
        let program = "import sqlite3, sys\n\
            database = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
            database.execute('BEGIN IMMEDIATE')\n\
            print('locked', flush=True)\n\
            sys.stdin.read()";
        let mut command = Command::new("python3");
        command.args(["-c", program, &house.text("state/tlspool.db")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        Self(child)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// A client shows itself in a renegotiation that its program wishes. `tables` prepares servers and clients; with what
/// came of the wish and both pools, `check` is called while the session is open.
fn shows_itself_later(
    remote: &str,
    tables: impl FnOnce(&House, &House),
    check: impl FnOnce(Result<(), Error>, &House, &House, &mut UnixStream),
) {
    let more = "[privacy]\nmode = \"attempt\"";
    let (servers, clients) = (House::with(more), House::with(more));
    servers.identity("example.com");
    servers.identity("www.example.com");
    clients.identity("john@example.org");
    clients.good(&["trust", "add", servers.anchor()]);
    tables(&servers, &clients);
    let (serving, calling) = (servers.start(), clients.start());
    let request = StarttlsRequest::server().service("smtp").unwrap().flags(Flags::REQUEST_REMOTEID);
    let server = Server::start(servers.pool(), request, |_, plaintext| {
        let mut reader = BufReader::new(plaintext.try_clone().unwrap());
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
            plaintext.write_all(line.as_bytes()).unwrap();
            line.clear();
        }
    });
    let key = CtlKey([7; 16]);
    let request =
        |name: &str| StarttlsRequest::client(name).unwrap().service("smtp").unwrap().ctlkey(key);
    let pool = clients.pool();
    let (_session, mut plaintext) = call(&pool, request("example.com"), server.at())
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", serving.log(), calling.log()));
    let locked = Locked::new(&clients);
    let result = pool.renegotiate(request(remote).localid("john@example.org").unwrap());
    drop(locked);
    check(result.map(drop), &servers, &clients, &mut plaintext);
    drop(plaintext);
    let _ = server.outcome();
    calling.stop();
    serving.stop();
}

#[test]
fn the_first_sight_of_a_peer_that_renegotiates_is_pinned() {
    let tables = |servers: &House, _: &House| {
        servers.good(&["policy", "add", "@.", "identity and pin?"]);
    };
    shows_itself_later("example.com", tables, |result, servers, _, plaintext| {
        result.unwrap();
        plaintext.write_all(b"line\n").unwrap();
        let mut line = String::new();
        BufReader::new(plaintext).read_line(&mut line).unwrap();
        assert_eq!(line, "line\n");
        let pins = servers.good(&["pin", "list", "--json"]);
        assert!(pins.lines().count() == 1 && pins.contains("john@example.org"), "{pins}");
    });
}

#[test]
fn a_renegotiation_whose_first_sight_cannot_be_pinned_is_refused() {
    let tables = |servers: &House, clients: &House| {
        servers.good(&["trust", "add", clients.anchor()]);
        clients.good(&["policy", "add", "www.example.com", "identity and pin?"]);
    };
    shows_itself_later("www.example.com", tables, |result, _, clients, plaintext| {
        let error = result.unwrap_err();
        assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
        assert!(error.to_string().contains("cannot be pinned"), "{error}");
        let mut rest = Vec::new();
        let _ = plaintext.read_to_end(&mut rest);
        assert!(rest.is_empty());
        assert_eq!(clients.good(&["pin", "list", "--json"]), "");
    });
}

/// What a wish brought, or a panic if it has no answer.
fn answer_to(answers: &mpsc::Receiver<Result<(), Error>>) -> Option<PoolError> {
    answers.recv_timeout(LIMIT).expect("an answer").unwrap_err().pool_error()
}

/// A wish in a thread of its own, because one that is not answered blocks its caller.
fn wish(pool: &Pool, request: StarttlsRequest, answers: &mpsc::Sender<Result<(), Error>>) {
    let (pool, answers) = (pool.clone(), answers.clone());
    thread::spawn(move || answers.send(pool.renegotiate(request).map(drop)));
}

#[test]
fn a_wish_in_a_session_that_is_half_closed_is_refused() {
    let house = House::with("[privacy]\nmode = \"attempt\"");
    house.identity("example.com");
    let daemon = house.start();
    let request = StarttlsRequest::server().service("smtp").unwrap().flags(Flags::REQUEST_REMOTEID);
    let pool = house.pool();
    let (answers, answer) = mpsc::channel();
    for ours in [false, true] {
        let server = Server::start(house.pool(), request.clone(), move |_, plaintext| {
            if !ours {
                plaintext.shutdown(Shutdown::Write).unwrap();
            }
            read_all(plaintext).unwrap()
        });
        let key = CtlKey([u8::from(ours) + 1; 16]);
        let request = StarttlsRequest::client("example.com").unwrap().service("smtp").unwrap();
        let request = request.ctlkey(key);
        let (_session, mut plaintext) = call(&pool, request.clone(), server.at()).unwrap();
        if ours {
            plaintext.write_all(b"all").unwrap();
            plaintext.shutdown(Shutdown::Write).unwrap();
        } else {
            assert_eq!(plaintext.read(&mut [0; 1]).unwrap(), 0);
        }
        wish(&pool, request, &answers);
        assert_eq!(answer_to(&answer), Some(PoolError::RenegotiateNotFound), "{ours}");
        if !ours {
            plaintext.write_all(b"all").unwrap();
        }
        drop(plaintext);
        assert_eq!(server.outcome().unwrap(), b"all");
    }
    daemon.stop();
}

/// Carries bytes between a client and `server`, as long as `carries`; then it swallows them.
fn between(server: SocketAddr, carries: &Arc<AtomicBool>) -> SocketAddr {
    fn carry(mut from: TcpStream, mut to: TcpStream, carries: &AtomicBool) {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if carries.load(Ordering::Acquire) && to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }
    let (listener, address) = listen();
    let (there, back) = (carries.clone(), carries.clone());
    thread::spawn(move || {
        let client = TcpStream::from(accept(&listener));
        let server = dial(server).unwrap();
        let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        thread::spawn(move || carry(from, to, &back));
        carry(client, server, &there);
    });
    address
}

#[test]
fn each_wish_is_answered_when_the_first_ends_the_session() {
    let house = House::with("[privacy]\nmode = \"attempt\"");
    house.identity("example.com");
    let daemon = house.start();
    let request = StarttlsRequest::server().service("smtp").unwrap().flags(Flags::REQUEST_REMOTEID);
    let greet = |_: &Session, plaintext: &mut std::os::unix::net::UnixStream| {
        plaintext.write_all(b"hello\n").unwrap();
        read_all(plaintext).ok();
    };
    let server = Server::start(house.pool(), request, greet);
    let carries = Arc::new(AtomicBool::new(true));
    let address = between(server.address, &carries);
    let request = StarttlsRequest::client("example.com").unwrap().service("smtp").unwrap();
    let request = request.ctlkey(CtlKey([3; 16]));
    let pool = house.pool();
    let (_session, plaintext) = call(&pool, request.clone(), address).unwrap();
    let mut line = String::new();
    BufReader::new(&plaintext).read_line(&mut line).unwrap();
    // From now on the peer is silent, so that the first one takes too long, which is the session's end.
    carries.store(false, Ordering::Release);
    let (answers, answer) = mpsc::channel();
    for _ in 0..3 {
        wish(&pool, request.clone().timeout_ms(1000), &answers);
    }
    let mut errors: Vec<_> = (0..3).map(|_| answer_to(&answer)).collect();
    errors.sort_by_key(|error| *error == Some(PoolError::RenegotiateNotFound));
    let late = Some(PoolError::StirredNotShaken);
    let ended = Some(PoolError::RenegotiateNotFound);
    assert_eq!(errors, [late, ended, ended]);
    drop(plaintext);
    drop(server);
    daemon.stop();
}
