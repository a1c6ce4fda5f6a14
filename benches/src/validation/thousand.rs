//! A thousand users are validated at once by a directory that answers after two seconds, while others make
//! handshakes that need no directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tlspool_tests::House;

use crate::crowd::{Crowd, PROGRAMS};
use crate::fake::Act;
use crate::raw::{Raw, client, server};

/// How long the directory takes.
const DELAY: Duration = Duration::from_secs(2);
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

/// Ends the handshakes of [`others`] when it is dropped, also if something fails beside them.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Measures, with so many users; a section of the report.
pub(crate) fn run(users: usize) -> String {
    let settings = "[tls]\ntickets = 0\nclient_cache = 0\n";
    let crowd = Crowd::new(users, settings, |found| Act::After(DELAY, found));
    let house = &crowd.house;
    let daemon = house.start();

    let stop = Arc::new(AtomicBool::new(true));
    let alone = p99(others(house, &stop, 300));
    stop.store(false, Ordering::Relaxed);
    let requests = crowd.requests();
    let (took, beside) = std::thread::scope(|scope| {
        let others = scope.spawn(|| others(house, &stop, 1));
        let stopping = Stopping(&stop);
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
        drop(stopping);
        drop(done);
        (took, p99(others.join().expect("a thread of ours")))
    });
    let searches = crowd.directory.searches.load(Ordering::Relaxed);
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
