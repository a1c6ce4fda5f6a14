//! A thousand users are validated at once by a directory that takes its time, while others go about their
//! business.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, SanType};
use tlspool_client::{Starttls, StarttlsFlags as Flags, Text};
use tlspool_tests::zones::{Signing, ZoneSet};
use tlspool_tests::{House, LIMIT, Leaf};
use tokio::sync::Semaphore;

use crate::fake::{Act, DONE, Fake, done, entry};
use crate::raw::{Raw, client, server};
use crate::streams::Stream;
use crate::{dns, number, tlsa};

const USERS: usize = 1000;
/// A connection of a program has fewer than 1024 requests in flight.
const PROGRAMS: usize = 4;

/// A user's certificate, of the key that all of them have: making a thousand would take longer than the
/// test.
fn certificate(name: &str, key: &KeyPair) -> (String, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::Rfc822Name(name.try_into().unwrap())];
    let certificate = params.self_signed(key).unwrap();
    (certificate.pem(), certificate.der().to_vec())
}

/// A directory that answers about users when there are permits.
fn directory(leaf: &Leaf, users: HashMap<String, Vec<u8>>, gate: Arc<Semaphore>) -> Fake {
    let (started, fake) = mpsc::channel();
    let leaf = leaf.clone();
    std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(async {
            let fake = Fake::searching(&leaf, move |asked| {
                let text = String::from_utf8_lossy(&asked.bytes);
                let user: String = text
                    .split_once("user")
                    .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect())
                    .unwrap_or_default();
                let Some(der) = users.get(&user) else {
                    return vec![Act::Send(done(asked.id, DONE, 0))];
                };
                let name = format!("uid=user{user},dc=example,dc=com");
                let found =
                    entry(asked.id, name.as_bytes(), b"userCertificate;binary", &[der.as_slice()]);
                let answer = [found, done(asked.id, DONE, 0)].concat();
                vec![Act::When(gate.clone(), answer)]
            });
            started.send(fake.await).unwrap();
            std::future::pending::<()>().await;
        });
    });
    fake.recv().unwrap()
}

#[test]
fn a_thousand_wait_for_a_slow_directory_and_nobody_else_does() {
    let house = House::new();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    house.identity("server.example.org");
    house.identity("other.example.org");
    let key = KeyPair::generate().unwrap();
    let key_file = house.write("users.key", &key.serialize_pem());
    let (mut users, mut rows) = (HashMap::new(), String::new());
    for number in 0..USERS {
        let name = format!("user{number}@example.com");
        let (pem, der) = certificate(&name, &key);
        users.insert(number.to_string(), der);
        let row = serde_json::json!({
            "name": name, "role": "client", "kind": "x509", "certificate": pem,
            "key": format!("file:{}", key_file.display()),
        });
        let _ = writeln!(rows, "{row}");
    }
    let rows = house.write("users", &rows);
    house.good(&["identity", "import", rows.to_str().unwrap()]);
    house.good(&["policy", "add", ".example.org", "pkix"]);
    house.good(&["policy", "add", "@example.com", "identity", "and", "ldap"]);

    let leaf = house.authority().leaf("ldap.example.com");
    let gate = Arc::new(Semaphore::new(0));
    let fake = directory(&leaf, users, gate.clone());
    let port = fake.port;
    let srv = format!("_ldap._tcp SRV 0 0 {port} ldap");
    let record = format!("_{port}._tcp.ldap TLSA {}", tlsa(&leaf));
    let records = ["ldap A 127.0.0.1", &srv, &record];
    let zones = ZoneSet::new().zone("example.com", Signing::Nsec, &records).serve();
    // The machine that runs tests may be busy; what is to be seen is that nobody waits for others.
    house.configure(&format!(
        "{}[ldap]\ntimeout = \"50s\"\n[validation]\ntimeout = \"50s\"\n[limits]\nhandshake_timeout = \"55s\"\n\
         [tls]\ntickets = 0\nclient_cache = 0\n",
        dns(&zones)
    ));
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
    let requests: Vec<(Starttls, Starttls)> = (0..USERS)
        .map(|number| {
            let localid = Text::cut(&format!("user{number}@example.com"));
            let asks = server("server.example.org");
            // Who comes must say who it is.
            let asks = Starttls { flags: asks.flags.without(Flags::IGNORE_REMOTEID), ..asks };
            (Starttls { localid, ..client("server.example.org") }, asks)
        })
        .collect();
    let programs: Vec<_> = requests
        .chunks(USERS / PROGRAMS)
        .map(|requests| {
            let (raw, requests) = (Raw::connect(&house.socket()).unwrap(), requests.to_vec());
            std::thread::spawn(move || raw.batch(&requests).map(|pairs| (raw, pairs)))
        })
        .collect();
    let deadline = Instant::now() + LIMIT;
    while fake.searches.load(Ordering::Relaxed) < USERS {
        assert!(Instant::now() < deadline, "{:?} searches: {:#}", fake.searches, house.status());
        std::thread::yield_now();
    }
    eprintln!("{USERS} wait for the directory after {:?}", begin.elapsed());
    assert_eq!(number(&house.status(), "/look_ups/under_way"), USERS as u64);
    // Meanwhile, at other places.
    let among = others();
    eprintln!("50 others took {among:?}, and {alone:?} before");
    assert!(among < alone * 3 + Duration::from_secs(1), "they waited for the thousand");
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
