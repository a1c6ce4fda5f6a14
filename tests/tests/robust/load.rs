//! Established sessions that carry data all the time, every byte of which is checked.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tlspool_tests::app::noise;

use crate::counter::Counter;
use crate::raw::Pair;

/// Bytes each way in a round; no divisor of anything.
const CHUNK: usize = 2999;
/// What they are cut from.
const NOISE: usize = 1 << 17;
const THREADS: usize = 4;

/// Sessions under load.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    /// Rounds that each thread has made.
    rounds: Vec<Counter>,
    threads: Vec<JoinHandle<Vec<Pair>>>,
}

impl Load {
    /// Puts load on them. A wrong or lost byte panics in [`Self::stop`].
    pub(crate) fn on(mut pairs: Vec<Pair>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let share = pairs.len().div_ceil(THREADS).max(1);
        let (mut rounds, mut threads) = (Vec::new(), Vec::new());
        while !pairs.is_empty() {
            let mine: Vec<Pair> = pairs.drain(..share.min(pairs.len())).collect();
            let (stop, done) = (stop.clone(), Counter::default());
            rounds.push(done.clone());
            threads.push(std::thread::spawn(move || carry(mine, &stop, &done)));
        }
        Self { stop, rounds, threads }
    }

    /// Waits until every session has carried `more` rounds from now.
    pub(crate) fn await_rounds(&self, more: u64) {
        for (done, thread) in self.rounds.iter().zip(&self.threads) {
            let broken = || if thread.is_finished() { "a session is broken" } else { "they hang" };
            assert!(done.reaches(done.now() + more), "{} rounds, then {}", done.now(), broken());
        }
    }

    /// Ends the load; the sessions still stand.
    pub(crate) fn stop(self) -> Vec<Pair> {
        self.stop.store(true, Ordering::Release);
        self.threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no byte is lost"))
            .collect()
    }
}

fn carry(mut pairs: Vec<Pair>, stop: &AtomicBool, done: &Counter) -> Vec<Pair> {
    let bytes = noise(NOISE);
    while !stop.load(Ordering::Acquire) {
        let round = done.now() as usize;
        let piece = |n: usize| {
            let start = (n * 131 + round * 977) % (NOISE - CHUNK);
            &bytes[start..start + CHUNK]
        };
        // Both ways at once, all sessions at once: something is always on its way.
        for (n, pair) in pairs.iter_mut().enumerate() {
            pair.near.write_all(piece(2 * n)).expect("the session stands");
            pair.far.write_all(piece(2 * n + 1)).expect("the session stands");
        }
        let mut heard = [0; CHUNK];
        for (n, pair) in pairs.iter_mut().enumerate() {
            pair.far.read_exact(&mut heard).expect("the session stands");
            assert!(heard == piece(2 * n), "wrong bytes");
            pair.near.read_exact(&mut heard).expect("the session stands");
            assert!(heard == piece(2 * n + 1), "wrong bytes");
        }
        done.add();
    }
    pairs
}

impl Pair {
    /// Sends something both ways.
    pub(crate) fn exchange(&mut self) -> std::io::Result<()> {
        let mut heard = [0; 11];
        self.near.write_all(b"from client")?;
        self.far.read_exact(&mut heard)?;
        assert_eq!(&heard, b"from client");
        self.far.write_all(b"from server")?;
        self.near.read_exact(&mut heard)?;
        assert_eq!(&heard, b"from server");
        Ok(())
    }
}
