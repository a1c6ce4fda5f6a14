//! A thousand users are validated at once by a directory that takes its time, while others go about their
//! business.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tlspool_tests::LIMIT;
use tokio::sync::Semaphore;

use crate::crowd::{Crowd, PROGRAMS};
use crate::fake::Act;
use crate::number;
use crate::raw::{Raw, client, server};
use crate::streams::Stream;

const USERS: usize = 1000;
#[test]
fn a_thousand_wait_for_a_slow_directory_and_nobody_else_does() {
    let gate = Arc::new(Semaphore::new(0));
    let waits = gate.clone();
    // The machine that runs tests may be busy; what is to be seen is that nobody waits for others.
    let settings = "[ldap]\ntimeout = \"5m\"\n[validation]\ntimeout = \"5m\"\n\
                    [limits]\nhandshake_timeout = \"6m\"\ncallback_timeout = \"5m\"\n[tls]\ntickets = 0\nclient_cache = 0\n";
    let crowd = Crowd::new(USERS, settings, move |found| Act::When(waits.clone(), found));
    let (house, fake) = (&crowd.house, &crowd.directory);
    let daemon = house.start();

    let others = || {
        let begin = Instant::now();
        let (client, server) = (client("other.example.org"), server("other.example.org"));
        let stream = Stream::of_raw(house.socket(), client, server);
        stream.await_more(50);
        stream.stop_good();
        begin.elapsed()
    };
    let alone = others();
    let begin = Instant::now();
    let requests = crowd.requests();
    let programs: Vec<_> = requests
        .chunks(USERS / PROGRAMS)
        .map(|requests| {
            let (raw, requests) = (Raw::connect(&house.socket()).unwrap(), requests.to_vec());
            raw.0.set_read_timeout(Some(LIMIT * 5)).unwrap();
            std::thread::spawn(move || raw.batch(&requests).map(|pairs| (raw, pairs)))
        })
        .collect();
    let deadline = Instant::now() + LIMIT * 4;
    while fake.searches.load(Ordering::Relaxed) < USERS {
        assert!(Instant::now() < deadline, "{:?} searches: {:#}", fake.searches, house.status());
        std::thread::yield_now();
    }
    eprintln!("{USERS} wait for the directory after {:?}", begin.elapsed());
    assert_eq!(number(&house.status(), "/look_ups/under_way"), USERS as u64);
    // Meanwhile, at other places: those do not wait for the thousand, who all wait still when they are done.
    let among = others();
    eprintln!("50 others took {among:?}, and {alone:?} before");
    assert_eq!(number(&house.status(), "/look_ups/under_way"), USERS as u64);
    let answered = Instant::now();
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    for program in programs {
        let (_raw, mut pairs) = program.join().unwrap().expect("all are believed");
        for pair in &mut pairs {
            pair.exchange().unwrap();
        }
    }
    eprintln!("{USERS} sessions {:?} after the directory's answer", answered.elapsed());
    // They shared its connections.
    let connections = fake.connections.load(Ordering::Relaxed);
    assert!(connections <= USERS / 16, "{connections} connections");
    let log = daemon.stop();
    assert!(!log.contains("ERROR"), "{log}");
}
