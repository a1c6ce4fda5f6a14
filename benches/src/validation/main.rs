//! What live validation costs: a client pool's handshakes with a server that its domain vouches for, in the DNS and in
//! its directory, cold, from memcached and from the process's own memory, beside one that knows trust anchors only;
//! and a thousand users whom a slow directory holds up.
//!
//! Developer's tool: `make bench` runs it. The servers are those of the tests; nothing is resumed.
#![forbid(unsafe_code)]
#![allow(clippy::cast_precision_loss)] // counts of a few seconds are far below 2^52

#[path = "../../../tests/tests/live/crowd.rs"]
mod crowd;
#[path = "../../../tests/tests/lookup/fake.rs"]
#[allow(dead_code)] // shared with tests
mod fake;
#[path = "../../../tests/tests/robust/raw.rs"]
#[allow(dead_code)]
mod raw;
mod thousand;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde_json::Value;
use tlspool_client::{Plaintext, StarttlsFlags, StarttlsRequest};
use tlspool_tests::net::dial;
use tlspool_tests::zones::{Signing, ZoneSet, Zones, dns, tlsa};
use tlspool_tests::{Daemon, Entries, House, Memcached, Slapd};

const NAME: &str = "example.com";

#[derive(Debug, Parser)]
#[command(version, about)]
struct Options {
    /// Few handshakes and rounds: shows that everything works
    #[arg(long)]
    quick: bool,
    /// So many rounds of the handshakes
    #[arg(long)]
    rounds: Option<usize>,
    /// Handshakes in this way alone, for a profile: `pkix`, `memory`, `memcached` or `cold`
    #[arg(long)]
    only: Option<Way>,
    /// The thousand users alone
    #[arg(long)]
    thousand: bool,
}

/// How a client pool comes to believe the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// By trust anchors; nothing is looked up.
    Pkix,
    /// By DNS and directory, as remembered in the network process.
    Memory,
    /// The same, as remembered by memcached.
    Memcached,
    /// The same, asked anew each time.
    Cold,
}

const WAYS: [Way; 4] = [Way::Pkix, Way::Memory, Way::Memcached, Way::Cold];

impl Way {
    fn title(self) -> &'static str {
        match self {
            Self::Pkix => "`pkix` only, nothing looked up",
            Self::Memory => "DNS and directory, from the process's memory",
            Self::Memcached => "DNS and directory, from memcached",
            Self::Cold => "DNS and directory, asked each time",
        }
    }
}

/// One client pool.
struct Caller {
    way: Way,
    house: House,
    daemon: Daemon,
    pids: Vec<u64>,
    rounds: Vec<Round>,
    /// Of all rounds.
    times: Vec<f64>,
}

/// What one round came to, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Round {
    median: f64,
    cpu: f64,
}

/// The server's pool, which takes every connection.
fn serve(house: &House) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its number");
    let pool = house.pool();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let request = StarttlsRequest::server().localid(NAME).expect("a name");
            let request = request.flags(StarttlsFlags::IGNORE_REMOTEID);
            // What the client makes of it is measured there.
            drop(pool.starttls(request, stream.into(), Plaintext::pair()));
        }
    });
    address
}

impl Caller {
    fn new(way: Way, anchor: &str, zones: &Zones, memcached: &Memcached) -> Self {
        let house = House::new();
        house.good(&["trust", "add", anchor]);
        let mut text = String::from("[tls]\ntickets = 0\nclient_cache = 0\n");
        if way != Way::Pkix {
            text += &dns(zones);
        }
        if way == Way::Memcached {
            let key = house.write("cache.key", "0123456789abcdef0123456789abcdef");
            std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .expect("a file of ours");
            if tlspool_tests::is_root() {
                let mut chown = std::process::Command::new("chown");
                let said = tlspool_tests::run(chown.arg("nobody").arg(&key));
                assert!(said.ok, "{}", said.err);
            }
            let (server, key) = (&memcached.server, key.display());
            let _ = writeln!(text, "[cache]\nservers = [\"{server}\"]\nkey_file = \"{key}\"");
        }
        house.configure(&text);
        let daemon = house.start();
        let status = house.status();
        let pid = |name: &str| status.pointer(name).and_then(Value::as_u64);
        let pids = ["/daemon/network_pid", "/daemon/lookup_process_pid"];
        let pids = pids.into_iter().filter_map(pid).filter(|pid| *pid > 0).collect();
        Self { way, house, daemon, pids, rounds: Vec::new(), times: Vec::new() }
    }

    /// A handshake; how long it took in microseconds.
    fn handshake(&self, pool: &tlspool_client::Pool, address: SocketAddr) -> f64 {
        let mut request = StarttlsRequest::client(NAME).expect("a name");
        if self.way == Way::Cold {
            request = request.flags(StarttlsFlags::IGNORE_CACHES);
        }
        let tcp = dial(address).expect("the server listens");
        let begun = Instant::now();
        let session =
            pool.starttls(request, tcp.into(), Plaintext::pair()).expect("it is believed");
        let took = begun.elapsed();
        assert_eq!(session.remoteid(), NAME);
        took.as_secs_f64() * 1e6
    }

    /// Many, one after the other.
    fn round(&mut self, count: usize, address: SocketAddr) {
        let pool = self.house.pool();
        for _ in 0..count / 5 {
            self.handshake(&pool, address);
        }
        let before = cpu(&self.pids);
        let mut times: Vec<f64> = (0..count).map(|_| self.handshake(&pool, address)).collect();
        let cpu = cpu(&self.pids).saturating_sub(before).as_secs_f64() * 1e6 / count as f64;
        times.sort_by(f64::total_cmp);
        self.rounds.push(Round { median: times[count / 2], cpu });
        self.times.append(&mut times);
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of).collect())
    }

    /// How many times as much as another, in the same round of both: what slows the machine down for a while
    /// slows both down.
    fn beside(&self, other: &Self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().zip(&other.rounds).map(|(a, b)| of(a) / of(b)).collect())
    }

    /// How much longer it takes than another, in the same round of both; in microseconds.
    fn later(&self, other: &Self) -> f64 {
        let pairs = self.rounds.iter().zip(&other.rounds);
        median(pairs.map(|(a, b)| a.median - b.median).collect())
    }

    fn p99(&self) -> f64 {
        let mut times = self.times.clone();
        times.sort_by(f64::total_cmp);
        times[times.len() * 99 / 100]
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Processor time of these processes, all threads together.
fn cpu(pids: &[u64]) -> Duration {
    let threads = pids.iter().flat_map(|pid| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
        tasks.into_iter().flatten().flatten()
    });
    // The first number of schedstat is the time on a processor in nanoseconds.
    let times = threads.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(times.sum())
}

/// The time of a question to memcached and back, in microseconds: the median of many.
fn memcached_round_trip(memcached: &Memcached, count: usize) -> f64 {
    let mut stream = TcpStream::connect(&memcached.server).expect("memcached listens");
    stream.set_nodelay(true).expect("a socket");
    let times = (0..count)
        .map(|_| {
            let begun = Instant::now();
            stream.write_all(b"get nothing\r\n").expect("it reads");
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).expect("it answers");
            begun.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    median(times)
}

fn main() {
    let options = Options::parse();
    let (rounds, count) = if options.quick { (3, 20) } else { (60, 50) };
    let rounds = options.rounds.unwrap_or(rounds);
    if options.thousand {
        print!("{}", thousand::run(1000, rounds));
        return;
    }
    let there = House::new();
    let leaf = there.identity(NAME);
    let der = pem::parse(std::fs::read(&leaf.certificate).expect("a file")).expect("PEM");
    let directory_leaf = there.authority().leaf("ldap.example.com");
    let entries = Entries::new(NAME, &[der.contents()], &[]);
    let directory = Slapd::start(&directory_leaf, &[&entries]);
    let port = directory.port;
    let records = [
        format!("*._tcp TLSA {}", tlsa(&leaf)),
        "ldap A 127.0.0.1".to_owned(),
        format!("_ldap._tcp SRV 0 0 {port} ldap"),
        format!("_{port}._tcp.ldap TLSA {}", tlsa(&directory_leaf)),
    ];
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let zones = Arc::new(ZoneSet::new().zone(NAME, Signing::Nsec, &records).serve());
    there.configure("[tls]\ntickets = 0\n");
    let server = there.start();
    let address = serve(&there);
    let memcached = Memcached::tcp();
    let mut callers: Vec<Caller> =
        WAYS.iter().map(|way| Caller::new(*way, there.anchor(), &zones, &memcached)).collect();
    if let Some(only) = options.only {
        for caller in callers.iter_mut().filter(|caller| caller.way == only) {
            eprintln!("{only:?}: processes {:?}", caller.pids);
            (0..rounds).for_each(|_| caller.round(count, address));
            let (median, cpu) = (caller.median(|r| r.median), caller.median(|r| r.cpu));
            eprintln!("{only:?}: {median:.0} µs, {cpu:.0} µs CPU");
        }
        return;
    }
    // In turn, so that what slows the machine down for a while does not fall on one of them; and in changing order,
    // because who comes after another finds that one's data in the processor's caches.
    let mut trips = Vec::with_capacity(rounds);
    for round in 0..rounds {
        if round % 2 == 0 {
            callers.rotate_left(1);
        } else {
            callers.reverse();
        }
        for caller in &mut callers {
            caller.round(count, address);
        }
        trips.push(memcached_round_trip(&memcached, count));
    }
    callers.sort_by_key(|caller| WAYS.iter().position(|way| *way == caller.way));
    print!("{}", report(&callers, median(trips), rounds, count));
    for caller in callers {
        caller.daemon.stop();
    }
    server.stop();
    let (users, rounds) = if options.quick { (50, 1) } else { (1000, 9) };
    print!("{}", thousand::run(users, rounds));
}

fn report(callers: &[Caller], round_trip: f64, rounds: usize, count: usize) -> String {
    let mut text = format!(
        "# Live validation\n\n\
         Made by `make bench` (`validation-bench`); do not edit. Full handshakes of a client pool, one after the\n\
         other, with a server pool on the same machine, whose certificate a trust anchor and its domain's DNS\n\
         (DNSSEC) and directory vouch for, under the default policy. Time is from the program's request to the\n\
         pool's answer; CPU is that of the client pool's network and look-up processes. Median of {rounds} rounds of {count},\n\
         the ways in turn; p99 of all of them; in parentheses, beside `pkix` only in the same round.\n\n\
         | | median, µs | p99, µs | CPU, µs |\n| --- | ---: | ---: | ---: |\n"
    );
    let base = callers.iter().find(|caller| caller.way == Way::Pkix);
    for caller in callers {
        let [time, cpu] = [|round: &Round| round.median, |round: &Round| round.cpu].map(|of| {
            let beside = base.map_or(1.0, |base| caller.beside(base, of));
            format!("{:.0} ({beside:.2})", caller.median(of))
        });
        let (title, p99) = (caller.way.title(), caller.p99());
        let _ = writeln!(text, "| {title} | {time} | {p99:.0} | {cpu} |");
    }
    let later = base.zip(callers.iter().find(|caller| caller.way == Way::Memcached));
    let later = later.map_or(0.0, |(base, caller)| caller.later(base));
    let _ = writeln!(
        text,
        "\nA question to memcached and back takes {round_trip:.0} µs (median of the rounds); a handshake with what memcached\n\
         remembers takes {later:.0} µs more than one with `pkix` only in the same round.\n\n\
         Wanted: what is remembered costs at most 1.05 times the CPU of `pkix` only, and at most the time of one\n\
         question to memcached more."
    );
    text
}
