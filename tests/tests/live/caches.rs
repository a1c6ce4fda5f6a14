//! Two pools: the client's believes the server's by DANE, first from the DNS, then from what it remembers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use tlspool_client::{StarttlsFlags, StarttlsRequest};
use tlspool_tests::app::{Server, call};
use tlspool_tests::zones::{Signing, ZoneSet, Zones};
use tlspool_tests::{Authority, Daemon, House, LIMIT, Memcached};

use crate::{cache, dns, number, tlsa};

/// A server pool whose certificate only the DNS vouches for, and the zones that do.
struct There {
    house: Arc<House>,
    _daemon: Daemon,
    zones: Zones,
}

fn there() -> There {
    let house = Arc::new(House::new());
    let stranger = Authority::new(&house.path("pki"), "stranger");
    let leaf = stranger.leaf("www.example.com");
    house.add("www.example.com", &leaf);
    // Whatever the port: those of this test are the kernel's choice.
    let record = format!("*._tcp.www TLSA {}", tlsa(&leaf));
    let zones =
        ZoneSet::new().zone("example.com", Signing::Nsec, &["www A 127.0.0.1", &record]).serve();
    let daemon = house.start();
    There { house, _daemon: daemon, zones }
}

impl There {
    /// A handshake; the client's answers to each must be the same, so they are at one port.
    fn meet(&self, here: &House, port: &mut Option<std::net::TcpListener>, flags: StarttlsFlags) {
        let listener =
            port.take().unwrap_or_else(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let address = listener.local_addr().unwrap();
        let request = StarttlsRequest::server().localid("www.example.com").unwrap();
        let request = request.flags(StarttlsFlags::IGNORE_REMOTEID);
        let pool = self.house.pool();
        let server = std::thread::spawn(move || {
            let tcp = tlspool_tests::app::accept(&listener);
            let plaintext = tlspool_client::Plaintext::pair();
            pool.starttls(request, tcp, plaintext).map(|_| listener)
        });
        let request = StarttlsRequest::client("www.example.com").unwrap().flags(flags);
        let (session, _plaintext) = call(&here.pool(), request, address).expect("DANE vouches");
        assert_eq!(session.remoteid(), "www.example.com");
        *port = Some(server.join().unwrap().expect("the server does not ask who comes"));
    }
}

const NONE: StarttlsFlags = StarttlsFlags(0);

#[test]
fn without_memcached_the_network_process_remembers() {
    let there = there();
    let here = House::with(&format!("{}[tls]\nclient_cache = 0\n", dns(&there.zones)));
    let daemon = here.start();
    let mut port = None;
    there.meet(&here, &mut port, NONE);
    let first = here.status();
    let asked = number(&first, "/look_ups/queries");
    assert!(asked > 0 && number(&first, "/look_ups/remembered") > 0, "{first:#}");
    assert_eq!(number(&first, "/look_ups/from_memory"), 0, "{first:#}");
    // What one worker has learnt, the other knows.
    for _ in 0..4 {
        there.meet(&here, &mut port, NONE);
    }
    let second = here.status();
    assert_eq!(number(&second, "/look_ups/queries"), asked, "{second:#}");
    assert!(number(&second, "/look_ups/from_memory") >= 4, "{second:#}");
    // Who wants to know for sure asks again.
    there.meet(&here, &mut port, StarttlsFlags::IGNORE_CACHES);
    assert!(number(&here.status(), "/look_ups/queries") > asked);
    // HUP forgets.
    daemon.reload();
    here.await_section("look_ups/queries", |queries| queries.as_u64() == Some(0));
    there.meet(&here, &mut port, NONE);
    let third = here.status();
    assert!(number(&third, "/look_ups/queries") > 0, "{third:#}");
    daemon.stop();
}

#[test]
fn memcached_remembers_for_all_who_have_its_key() {
    let there = there();
    let mut memcached = Memcached::tcp();
    let house = |key: &str| {
        let house = House::new();
        let cache = cache(&house, &memcached, key);
        house.configure(&format!("{}[tls]\nclient_cache = 0\n{cache}", dns(&there.zones)));
        house
    };
    let (secret, other) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
    let (one, two, three) = (house(secret), house(secret), house(other));
    let daemons = [one.start(), two.start(), three.start()];
    let mut port = None;
    let hits = |house: &House| number(&house.status(), "/look_ups/from_memcached");
    there.meet(&one, &mut port, NONE);
    assert_eq!(hits(&one), 0);
    // Values are written while the handshake goes on.
    memcached.await_stored(1);
    there.meet(&one, &mut port, NONE);
    assert!(hits(&one) > 0, "{:#}", one.status());
    there.meet(&two, &mut port, NONE);
    assert!(hits(&two) > 0, "{:#}", two.status());
    // Another secret, another world.
    there.meet(&three, &mut port, NONE);
    assert_eq!(hits(&three), 0);
    let before = hits(&one);
    there.meet(&one, &mut port, StarttlsFlags::IGNORE_CACHES);
    assert_eq!(hits(&one), before);
    // It may be gone, or hang.
    memcached.stall();
    there.meet(&one, &mut port, NONE);
    memcached.go_on();
    memcached.kill();
    there.meet(&two, &mut port, NONE);
    for daemon in daemons {
        daemon.stop();
    }
}

/// Asks memcached for something by hand, so that its log says when that was.
fn mark(memcached: &Memcached, marker: &str) {
    let mut stream = TcpStream::connect(&memcached.server).unwrap();
    stream.write_all(format!("get {marker}\r\n").as_bytes()).unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"END\r\n");
}

/// How many keys each `get` has that came between two markers.
fn gets_between(memcached: &Memcached, begin: &str, end: &str) -> Vec<usize> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let log = memcached.log();
        let gets: Vec<&str> = log
            .lines()
            .filter_map(|line| line.split_once(" get ").map(|(_, keys)| keys.trim()))
            .collect();
        let place = |marker| gets.iter().position(|keys| *keys == marker);
        if let (Some(begin), Some(end)) = (place(begin), place(end)) {
            return gets[begin + 1..end].iter().map(|keys| keys.split(' ').count()).collect();
        }
        assert!(Instant::now() < deadline, "{log}");
        std::thread::yield_now();
    }
}

#[test]
fn all_that_a_handshake_wants_of_memcached_is_one_journey() {
    let there = there();
    let memcached = Memcached::tcp();
    let here = House::new();
    let cache = cache(&here, &memcached, "0123456789abcdef0123456789abcdef");
    here.configure(&format!("{}[tls]\nclient_cache = 0\n{cache}", dns(&there.zones)));
    let daemon = here.start();
    let mut port = None;
    there.meet(&here, &mut port, NONE);
    // What the DNS says, and that there is no directory.
    memcached.await_stored(2);
    let hits = || number(&here.status(), "/look_ups/from_memcached");
    let mut marks = 0;
    let mut meet = |flags| {
        let (begin, end) = (format!("begin{marks}"), format!("end{marks}"));
        marks += 1;
        mark(&memcached, &begin);
        there.meet(&here, &mut port, flags);
        mark(&memcached, &end);
        gets_between(&memcached, &begin, &end)
    };
    assert_eq!(meet(NONE), [2], "one command for both questions");
    assert_eq!(hits(), 2);
    // Who does not want to know what is remembered does not read it, and writes what is found.
    assert!(meet(StarttlsFlags::IGNORE_CACHES).is_empty());
    memcached.await_stored(4);
    assert_eq!(hits(), 2);
    // What the policy does not need is not read.
    here.good(&["policy", "add", "www.example.com", "dane"]);
    assert_eq!(meet(NONE), [1]);
    assert_eq!(hits(), 3);
    here.good(&["policy", "remove", "1"]);
    here.good(&["policy", "add", "www.example.com", "client"]);
    assert!(meet(NONE).is_empty());
    daemon.stop();
}

#[test]
fn nobody_but_memcached_is_asked_about_a_peer_that_says_nothing() {
    let there = there();
    let memcached = Memcached::tcp();
    let here = House::new();
    let cache = cache(&here, &memcached, "0123456789abcdef0123456789abcdef");
    here.configure(&format!("{}[tls]\nclient_cache = 0\n{cache}", dns(&there.zones)));
    let daemon = here.start();
    let (listener, address) = tlspool_tests::net::listen();
    let pool = here.pool();
    mark(&memcached, "begin");
    let client = std::thread::spawn(move || {
        let request = StarttlsRequest::client("www.example.com").unwrap();
        call(&pool, request, address).map(drop)
    });
    // The hello has come, and memcached was asked; the policy has nobody to judge yet.
    let mut silent = TcpStream::from(tlspool_tests::app::accept(&listener));
    silent.read_exact(&mut [0; 5]).unwrap();
    let deadline = Instant::now() + LIMIT;
    while !memcached.log().lines().any(|line| line.contains(" get tlspool1:")) {
        assert!(Instant::now() < deadline, "{}", memcached.log());
        std::thread::yield_now();
    }
    mark(&memcached, "end");
    assert_eq!(gets_between(&memcached, "begin", "end"), [2]);
    let status = here.status();
    let counts =
        ["queries", "under_way"].map(|count| number(&status, &format!("/look_ups/{count}")));
    assert_eq!(counts, [0, 0], "{status:#}");
    drop(silent);
    client.join().unwrap().unwrap_err();
    // Nor are they asked later; nothing was learnt.
    let status = here.status();
    assert_eq!(number(&status, "/look_ups/queries"), 0, "{status:#}");
    mark(&memcached, "after");
    assert!(gets_between(&memcached, "end", "after").is_empty());
    assert!(!memcached.log().contains(" set tlspool1:"));
    daemon.stop();
}

#[test]
fn who_is_not_published_is_not_believed() {
    let there = there();
    let impostor = House::new();
    let stranger = Authority::new(&impostor.path("pki"), "another");
    impostor.add("www.example.com", &stranger.leaf("www.example.com"));
    let _daemon = impostor.start();
    let here = House::with(&dns(&there.zones));
    let daemon = here.start();
    let request = StarttlsRequest::server().localid("www.example.com").unwrap();
    let request = request.flags(StarttlsFlags::IGNORE_REMOTEID);
    let server = Server::start(impostor.pool(), request, |_, _| ());
    let request = StarttlsRequest::client("www.example.com").unwrap();
    let refused = call(&here.pool(), request, server.address).map(drop).unwrap_err().to_string();
    assert!(refused.contains("dane is false"), "{refused}");
    assert!(server.outcome().is_err(), "the client says so before anything moves");
    daemon.stop();
}
