//! Streams of new connections that run beside a test: each makes one after the other until it is
//! stopped, and none may fail.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tlspool_client::{Plaintext, Pool, Session, Starttls, StarttlsRequest};
use tlspool_tests::app::plaintext;
use tlspool_tests::net::{dial, tcp_pair};

use crate::counter::Counter;
use crate::raw::{Pair, Raw};

/// More failures than this end a stream.
const MANY: usize = 200;

/// A stream of new connections.
pub(crate) struct Stream {
    what: &'static str,
    stop: Arc<AtomicBool>,
    good: Counter,
    failures: Arc<std::sync::Mutex<Vec<String>>>,
    thread: JoinHandle<()>,
}

impl Stream {
    /// Calls `connect` over and over.
    pub(crate) fn of(
        what: &'static str,
        mut connect: impl FnMut() -> Result<(), String> + Send + 'static,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let good = Counter::default();
        let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
        let thread = {
            let (stop, good, failures) = (stop.clone(), good.clone(), failures.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    match connect() {
                        Ok(()) => good.add(),
                        Err(error) => {
                            let mut failures = failures.lock().unwrap();
                            failures.push(error);
                            if failures.len() > MANY {
                                return;
                            }
                        }
                    }
                }
            })
        };
        Self { what, stop, good, failures, thread }
    }

    /// Programs that keep a connection to the pool.
    pub(crate) fn of_pool(pool: Pool, client: StarttlsRequest, server: StarttlsRequest) -> Self {
        Self::of("a lasting connection to the pool", move || {
            let (mut near, mut far) =
                both(&pool, client.clone(), server.clone()).map_err(|e| e.to_string())?;
            let mut pair = Pair { near: plaintext(&mut near), far: plaintext(&mut far) };
            pair.exchange().map_err(|e| e.to_string())
        })
    }

    /// Programs that connect to the pool anew each time.
    pub(crate) fn of_raw(socket: PathBuf, client: Starttls, server: Starttls) -> Self {
        Self::of("a connection to the pool each", move || {
            let raw = Raw::connect(&socket).map_err(|e| e.to_string())?;
            for pair in &mut raw.pairs(1, &client, &server)? {
                pair.exchange().map_err(|e| e.to_string())?;
            }
            Ok(())
        })
    }

    /// Through an address where something echoes.
    pub(crate) fn of_echoes(what: &'static str, address: String) -> Self {
        Self::of(what, move || {
            let mut stream = dial(&address).map_err(|e| e.to_string())?;
            let mut heard = [0; 4];
            stream.write_all(b"ping").map_err(|e| format!("write: {e}"))?;
            stream.read_exact(&mut heard).map_err(|e| format!("read: {e}"))?;
            if &heard == b"ping" { Ok(()) } else { Err(format!("{heard:?}")) }
        })
    }

    /// Waits until `more` have succeeded from now.
    pub(crate) fn await_more(&self, more: u64) {
        if !self.good.reaches(self.good.now() + more) {
            let failures = self.failures.lock().unwrap().clone();
            let (many, last) = (failures.len(), failures.last());
            panic!("{}: stands still: {many} failures, the last {last:?}", self.what);
        }
    }

    /// Ends it: how many succeeded, and what failed.
    pub(crate) fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().expect("it does not panic");
        let failures = self.failures.lock().unwrap().clone();
        (self.good.now(), failures)
    }

    /// Ends it; nothing may have failed.
    pub(crate) fn stop_good(self) -> u64 {
        let what = self.what;
        let (good, failures) = self.stop();
        assert!(failures.is_empty(), "{what}: {good} were good, but: {failures:#?}");
        good
    }
}

/// Both ends of a TLS connection through one pool.
pub(crate) fn both(
    pool: &Pool,
    client: StarttlsRequest,
    server: StarttlsRequest,
) -> Result<(Session, Session), tlspool_client::Error> {
    let (near, far) = tcp_pair();
    std::thread::scope(|scope| {
        let serving =
            scope.spawn(move || pool.starttls(server, OwnedFd::from(far), Plaintext::pair()));
        let connected = pool.starttls(client, OwnedFd::from(near), Plaintext::pair());
        let serving = serving.join().expect("it does not panic");
        Ok((connected?, serving?))
    })
}
