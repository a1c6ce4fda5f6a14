//! A thousand users are validated at once by a directory that answers after two seconds, while others make
//! handshakes that need no directory.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, KeyPair, SanType};
use tlspool_client::{Starttls, StarttlsFlags as Flags, Text};
use tlspool_tests::zones::{Signing, ZoneSet};
use tlspool_tests::{House, Leaf};

use crate::fake::{Act, DONE, Fake, done, entry};
use crate::raw::{Raw, client, server};
use crate::{dns, tlsa};

/// How long the directory takes.
const DELAY: Duration = Duration::from_secs(2);
/// A connection of a program has fewer than 1024 requests in flight.
const PROGRAMS: usize = 4;

/// A user's certificate, of the key that all of them have.
fn certificate(name: &str, key: &KeyPair) -> (String, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::Rfc822Name(name.try_into().expect("ASCII"))];
    let certificate = params.self_signed(key).expect("a certificate");
    (certificate.pem(), certificate.der().to_vec())
}

fn directory(leaf: &Leaf, users: HashMap<String, Vec<u8>>) -> Fake {
    let (started, fake) = mpsc::channel();
    let leaf = leaf.clone();
    std::thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime").block_on(async {
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
                vec![Act::After(DELAY, [found, done(asked.id, DONE, 0)].concat())]
            });
            started.send(fake.await).expect("somebody waits");
            std::future::pending::<()>().await;
        });
    });
    fake.recv().expect("it starts")
}

/// Handshakes one after the other until told to stop; how long each took, in microseconds.
fn others(house: &House, stop: &AtomicBool, least: usize) -> Vec<f64> {
    let raw = Raw::connect(&house.socket()).expect("the pool listens");
    let pair = [(client("other.example.org"), server("other.example.org"))];
    let mut times = Vec::new();
    while times.len() < least || !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        drop(raw.batch(&pair).expect("they are believed"));
        times.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times
}

fn p99(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() * 99 / 100]
}

/// Measures, with so many users; a section of the report.
pub(crate) fn run(users: usize) -> String {
    let house = House::new();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("our own limit");
    house.identity("server.example.org");
    house.identity("other.example.org");
    let key = KeyPair::generate().expect("a key");
    let key_file = house.write("users.key", &key.serialize_pem());
    let (mut known, mut rows) = (HashMap::new(), String::new());
    for number in 0..users {
        let name = format!("user{number}@example.com");
        let (pem, der) = certificate(&name, &key);
        known.insert(number.to_string(), der);
        let row = serde_json::json!({
            "name": name, "role": "client", "kind": "x509", "certificate": pem,
            "key": format!("file:{}", key_file.display()),
        });
        let _ = writeln!(rows, "{row}");
    }
    let rows = house.write("users", &rows);
    house.good(&["identity", "import", rows.to_str().expect("temporary paths are text")]);
    house.good(&["policy", "add", ".example.org", "pkix"]);
    house.good(&["policy", "add", "@example.com", "identity", "and", "ldap"]);
    let leaf = house.authority().leaf("ldap.example.com");
    let fake = directory(&leaf, known);
    let port = fake.port;
    let srv = format!("_ldap._tcp SRV 0 0 {port} ldap");
    let record = format!("_{port}._tcp.ldap TLSA {}", tlsa(&leaf));
    let records = ["ldap A 127.0.0.1", &srv, &record];
    let zones = ZoneSet::new().zone("example.com", Signing::Nsec, &records).serve();
    house.configure(&format!("{}[tls]\ntickets = 0\nclient_cache = 0\n", dns(&zones)));
    let daemon = house.start();

    let stop = Arc::new(AtomicBool::new(true));
    let alone = p99(others(&house, &stop, 300));
    stop.store(false, Ordering::Relaxed);
    let requests: Vec<(Starttls, Starttls)> = (0..users)
        .map(|number| {
            let localid = Text::cut(&format!("user{number}@example.com"));
            let asks = server("server.example.org");
            let asks = Starttls { flags: asks.flags.without(Flags::IGNORE_REMOTEID), ..asks };
            (Starttls { localid, ..client("server.example.org") }, asks)
        })
        .collect();
    let (took, beside) = std::thread::scope(|scope| {
        let others = scope.spawn(|| others(&house, &stop, 1));
        let begun = Instant::now();
        let programs: Vec<_> = requests
            .chunks(users.div_ceil(PROGRAMS))
            .map(|requests| {
                let raw = Raw::connect(&house.socket()).expect("the pool listens");
                scope.spawn(move || raw.batch(requests).map(|pairs| (raw, pairs)))
            })
            .collect();
        let done: Vec<_> = programs
            .into_iter()
            .map(|program| program.join().expect("a thread of ours").expect("all are believed"))
            .collect();
        let took = begun.elapsed();
        stop.store(true, Ordering::Relaxed);
        drop(done);
        (took, p99(others.join().expect("a thread of ours")))
    });
    let searches = fake.searches.load(Ordering::Relaxed);
    daemon.stop();
    format!(
        "\n{users} users at once, whose directory answers after {} s: all sessions stand after {:.2} s ({searches} \
         searches). Beside them, handshakes that need no directory: p99 {:.1} ms, and {:.1} ms alone.\n",
        DELAY.as_secs(),
        took.as_secs_f64(),
        beside / 1e3,
        alone / 1e3
    )
}
