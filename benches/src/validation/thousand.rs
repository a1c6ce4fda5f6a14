//! A thousand users are validated at once by a directory that answers after two seconds, while others make
//! handshakes that need no directory; and the same with a directory that answers at once, and without the thousand.
//!
//! The others begin a handshake every few milliseconds whatever became of those before, and their time counts from
//! when they were due: if one waited for the other, a pool that stops for a second would cost one sample. They are
//! measured for the same time in all cases. The thousand's handshakes cost processor time whatever their
//! directory does, and both ends of all handshakes, programs and directory share the machine, where the thousand's
//! programs and the directory stand back (nice 10). What says whether others wait *because a directory is slow* is the
//! comparison with the quick one, and the time in which all of the thousand wait. What says whether they wait because
//! the thousand have *the same pool*, and not the same processors, is the comparison with others that have a pool of
//! their own.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tlspool_tests::{Daemon, House};
use tokio::sync::Semaphore;

use crate::crowd::{Crowd, PROGRAMS, stand_back};
use crate::fake::Act;
use crate::median;
use crate::raw::{Paced, Raw, client, server};

/// How long the directory takes.
const DELAY: Duration = Duration::from_secs(2);
/// How long others are measured, from the moment at which the thousand come.
const WINDOW: Duration = Duration::from_secs(4);
/// How often the others begin a handshake.
const EVERY: Duration = Duration::from_millis(10);
/// Handshakes before anything is measured: the first ones open keys and read tables.
const WARM: usize = 200;

/// As many descriptors as a rush has, and more.
const DESCRIPTORS: u64 = 65_536;

/// What is beside the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// The users, whose directory is slow.
    Slow,
    /// The users, whose directory answers at once.
    Quick,
    /// The users, whose directory is slow, in a pool of their own.
    Apart,
}

const CASES: [Case; 3] = [Case::Slow, Case::Quick, Case::Apart];

/// Handshakes of the others until `end`.
fn others(raw: &Raw, end: Instant) -> Vec<Paced> {
    let pair = (client("other.example.org"), server("other.example.org"));
    raw.paced(&pair, EVERY, end).expect("they are believed")
}

/// In milliseconds; none of none.
fn p99<'a>(of: impl Iterator<Item = &'a Paced>) -> Option<f64> {
    let mut times: Vec<Duration> = of.map(|paced| paced.took).collect();
    times.sort();
    times.get(times.len() * 99 / 100).map(|time| time.as_secs_f64() * 1e3)
}

/// What so many users at once come to.
#[derive(Debug)]
struct Rush {
    case: Case,
    /// Until all sessions stand, in seconds.
    took: f64,
    /// p99 of the others, in milliseconds: without the users,
    alone: f64,
    /// beside them,
    beside: f64,
    /// and while all of them wait for the directory, if there was such a time.
    waiting: Option<f64>,
}

/// The others alone, then beside the users: in their daemon, which remembers nothing, or in that of `elsewhere`.
fn rush(crowd: &Crowd, elsewhere: &House, case: Case) -> Rush {
    let house = &crowd.house;
    let daemon = house.start();
    let theirs = (case == Case::Apart).then(|| elsewhere.start());
    let socket = if case == Case::Apart { elsewhere.socket() } else { house.socket() };
    let raw = Raw::connect(&socket).expect("the pool listens");
    let pair = [(client("other.example.org"), server("other.example.org"))];
    for _ in 0..WARM {
        drop(raw.batch(&pair).expect("they are believed"));
    }
    let alone = p99(others(&raw, Instant::now() + WINDOW).iter()).expect("some");
    let requests = crowd.requests();
    let before = crowd.directory.searches.load(Ordering::Relaxed);
    let asked = || crowd.directory.searches.load(Ordering::Relaxed) - before;
    let rush = std::thread::scope(|scope| {
        let begun = Instant::now();
        let end = begun + WINDOW;
        let others = scope.spawn(move || others(&raw, end));
        let programs: Vec<_> = requests
            .chunks(requests.len().div_ceil(PROGRAMS))
            .map(|requests| {
                let raw = Raw::connect(&house.socket()).expect("the pool listens");
                scope.spawn(move || {
                    stand_back();
                    raw.batch(requests).map(|pairs| (raw, pairs))
                })
            })
            .collect();
        while asked() < requests.len() && begun.elapsed() < WINDOW {
            std::thread::sleep(Duration::from_millis(1));
        }
        let all_wait = Instant::now();
        let done: Vec<_> = programs
            .into_iter()
            .map(|program| program.join().expect("a thread of ours").expect("all are believed"))
            .collect();
        let took = begun.elapsed().as_secs_f64();
        let others = others.join().expect("a thread of ours");
        drop(done);
        let answered = begun + DELAY;
        let waiting = others.iter().filter(|other| {
            case != Case::Quick && other.due >= all_wait && other.due + other.took < answered
        });
        let (beside, waiting) = (p99(others.iter()).expect("some"), p99(waiting));
        Rush { case, took, alone, beside, waiting }
    });
    daemon.stop();
    theirs.map(Daemon::stop);
    rush
}

/// Sends it when the time is over, while other requests are served.
fn late(found: Vec<u8>) -> Act {
    let gate = Arc::new(Semaphore::new(0));
    let opened = gate.clone();
    tokio::spawn(async move {
        tokio::time::sleep(DELAY).await;
        opened.add_permits(1);
    });
    Act::When(gate, found)
}

/// Lets the kernel's table of this process have room for all descriptors of a rush. Otherwise the kernel doubles it
/// whenever it is full, and lets every thread that wants a descriptor wait meanwhile, those of the other program as well.
fn make_room_for_descriptors() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let last = limit.map_or(DESCRIPTORS, |limit| limit.min(DESCRIPTORS)) - 1;
    let last = i32::try_from(last).expect("it is small");
    drop(rustix::io::fcntl_dupfd_cloexec(std::io::stderr(), last).expect("it is below the limit"));
}

/// Measures, with so many users, so many times; a section of the report.
pub(crate) fn run(users: usize, rounds: usize) -> String {
    const NEVER_RESUMED: &str = "[tls]\ntickets = 0\nclient_cache = 0\n";
    let settings = format!("{NEVER_RESUMED}[cache]\nlifetime = \"0s\"\n");
    let slow = Arc::new(AtomicBool::new(true));
    let answers = slow.clone();
    let crowd = Crowd::new(users, &settings, move |found| {
        if answers.load(Ordering::Relaxed) { late(found) } else { Act::Send(found) }
    });
    let elsewhere = House::new();
    elsewhere.identity("other.example.org");
    elsewhere.good(&["policy", "add", ".example.org", "pkix"]);
    elsewhere.configure(NEVER_RESUMED);
    make_room_for_descriptors();
    let mut rushes = Vec::new();
    for round in 0..rounds {
        let mut order = CASES;
        order.rotate_left(round % CASES.len());
        for case in order {
            slow.store(case != Case::Quick, Ordering::Relaxed);
            let rush = rush(&crowd, &elsewhere, case);
            eprintln!("{rush:.2?}");
            rushes.push(rush);
        }
    }
    report(users, rounds, &rushes)
}

fn report(users: usize, rounds: usize, rushes: &[Rush]) -> String {
    let of = |case, what: fn(&Rush) -> Option<f64>| {
        let values = rushes.iter().filter(|rush| rush.case == case).filter_map(what);
        let values: Vec<f64> = values.collect();
        (!values.is_empty()).then(|| median(values))
    };
    let p99 = |case, what: fn(&Rush) -> Option<f64>, beside_alone: fn(&Rush) -> Option<f64>| match (
        of(case, what),
        of(case, beside_alone),
    ) {
        (Some(time), Some(times)) => format!("{time:.1} | {times:.2}"),
        _ => "- | -".to_owned(),
    };
    let took = |case| of(case, |rush| Some(rush.took)).unwrap_or_default();
    let (delay, window, every) = (DELAY.as_secs(), WINDOW.as_secs(), EVERY.as_millis());
    let mut text = format!(
        "\n## {users} users at once\n\n\
         They all come at the same moment, and each is validated by a search in a directory that answers after {delay} s.\n\
         Nothing is remembered. Beside them another program makes handshakes that need no directory, one every {every} ms\n\
         for {window} s from that moment, whatever became of those before; their time counts from when they were due.\n\
         Both ends of all handshakes are in one daemon but for the last line. Programs, directory and daemon share this\n\
         machine, where the users' programs and the directory, which in life are elsewhere, stand back (nice 10). Median\n\
         of {rounds} rounds, the cases in turn, each with a daemon of its own.\n\n\
         Until all sessions stand: {:.2} s, and {:.2} s if the directory answers at once.\n\n\
         | the other program's handshakes | p99, ms | beside alone |\n| --- | ---: | ---: |\n",
        took(Case::Slow),
        took(Case::Quick),
    );
    let alone = median(rushes.iter().map(|rush| rush.alone).collect());
    let _ = writeln!(text, "| alone | {alone:.1} | 1.00 |");
    for (title, numbers) in [
        (
            "while all users wait for the directory",
            p99(Case::Slow, |r| r.waiting, |r| Some(r.waiting? / r.alone)),
        ),
        (
            "beside the users, whose directory is slow",
            p99(Case::Slow, |r| Some(r.beside), |r| Some(r.beside / r.alone)),
        ),
        (
            "beside as many whose directory answers at once",
            p99(Case::Quick, |r| Some(r.beside), |r| Some(r.beside / r.alone)),
        ),
        (
            "beside the users, whose directory is slow, and who have a pool of their own",
            p99(Case::Apart, |r| Some(r.beside), |r| Some(r.beside / r.alone)),
        ),
    ] {
        let _ = writeln!(text, "| {title} | {numbers} |");
    }
    let _ = writeln!(
        text,
        "\nWanted: less than 4 s, while other handshakes keep their p99. Handshakes that wait for a directory cost no\n\
         processor time, and those beside them should be as quick as alone. To begin and to end {users} handshakes costs\n\
         processor time whatever the directory does, of which there is only so much: what the others feel of that should\n\
         be no more than beside as many users whose directory is quick, and than if they had a pool of their own on the\n\
         same machine."
    );
    text
}
