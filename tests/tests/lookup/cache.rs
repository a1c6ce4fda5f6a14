//! The cache, with memcached as it is, and in the hands of others.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use tlspool_lookup::cache::seal::Sealer;
use tlspool_lookup::cache::{Cached, Key, Settings};
use tlspool_tests::{LIMIT, Memcached};
use tlspool_validate::sources::{
    Answer, Caches, Found, Looking, Options, Origin, Outcome, Query, Sources,
};

use crate::table::{find, on_runtime, until, within, x509};

/// Sources that answer every question with bytes of their own, and count, modulo 256.
#[derive(Debug, Default)]
struct Origins {
    asked: Cell<u8>,
    length: usize,
    lasts: Option<Duration>,
}

impl Sources for Origins {
    fn look_up<'a>(&'a self, _query: &'a Query, _options: Options) -> Looking<'a> {
        self.asked.set(self.asked.get().wrapping_add(1));
        let bytes = vec![self.asked.get(); 1 + self.length];
        let outcome = Outcome::Present(Answer::OpenPgpKey(bytes));
        let (elapsed, lasts, steps) = (Duration::ZERO, self.lasts, Vec::new());
        let found = Found { outcome, origin: Origin::Live, elapsed, lasts, steps };
        Box::pin(async { found })
    }
}

/// How long memcached is waited for. More patient than by default: these tests share the machine, and a memcached that is
/// late is not asked again for a while.
const PATIENCE: Duration = Duration::from_secs(20);

fn key(byte: u8) -> Key {
    Key::new(&[byte; 32]).expect("a key")
}

/// A pool that uses this memcached.
fn pool(memcached: &Memcached, key_byte: u8) -> Cached<Origins> {
    pool_with(memcached, key_byte, 0)
}

fn pool_with(memcached: &Memcached, key_byte: u8, length: usize) -> Cached<Origins> {
    let server = memcached.server.parse().expect("a server");
    let shared = Some((vec![server], key(key_byte)));
    let settings = Settings { shared, wait: PATIENCE, ..Settings::default() };
    Cached::new(Origins { length, ..Origins::default() }, settings)
}

#[test]
fn memcached_forgets_when_the_source_says() {
    let memcached = Memcached::tcp();
    on_runtime(async {
        let seven = Duration::from_secs(7);
        let shared = Some((vec![memcached.server.parse().expect("a server")], key(1)));
        let settings = Settings { shared, wait: PATIENCE, ..Settings::default() };
        let origins = Origins { lasts: Some(seven), ..Origins::default() };
        let pool = Cached::new(origins, settings);
        let query = x509("john@example.com");
        find(&pool, &query).await;
        let left = async || {
            pool.recall(std::slice::from_ref(&query), Instant::now() + LIMIT).await[0].left
        };
        until("remembered", async || !left().await.is_zero()).await;
        assert!(left().await <= seven);
    });
}

fn first(found: &Found) -> u8 {
    match &found.outcome {
        Outcome::Present(Answer::OpenPgpKey(bytes)) => bytes[0],
        other => panic!("{other:?}"),
    }
}

/// Speaks with memcached by hand, as anybody may.
fn by_hand(server: &str, request: &[u8]) -> Vec<u8> {
    fn speak(mut stream: impl Read + Write, request: &[u8]) -> Vec<u8> {
        stream.write_all(request).expect("it reads");
        let mut from = BufReader::new(stream);
        let mut answer = Vec::new();
        loop {
            let start = answer.len();
            from.read_until(b'\n', &mut answer).expect("it answers");
            let line = answer[start..].to_vec();
            if let Some(rest) = line.strip_prefix(b"VALUE ") {
                let rest = String::from_utf8_lossy(rest);
                let length: usize = rest.trim().rsplit(' ').next().unwrap().parse().unwrap();
                let mut value = vec![0; length + 7];
                from.read_exact(&mut value).expect("a value");
                value.truncate(length);
                return value;
            }
            if [&b"END\r\n"[..], b"STORED\r\n", b"OK\r\n", b"ERROR\r\n"].contains(&&*line) {
                return Vec::new();
            }
            assert!(!line.is_empty(), "it hung up");
        }
    }
    match server.strip_prefix("unix:") {
        Some(path) => speak(UnixStream::connect(path).expect("a connection"), request),
        None => speak(TcpStream::connect(server).expect("a connection"), request),
    }
}

fn read(memcached: &Memcached, name: &str) -> Vec<u8> {
    by_hand(&memcached.server, format!("get {name}\r\n").as_bytes())
}

fn write(memcached: &Memcached, name: &str, value: &[u8]) {
    let head = format!("set {name} 0 0 {}\r\n", value.len());
    by_hand(&memcached.server, &[head.as_bytes(), value, b"\r\n"].concat());
}

/// Waits until memcached holds something under this name: writing is not waited for.
async fn stored(memcached: &Memcached, name: &str) -> Vec<u8> {
    until("memcached holds it", async || !read(memcached, name).is_empty()).await;
    read(memcached, name)
}

#[test]
fn pools_with_the_same_key_share_what_they_found() {
    for memcached in [Memcached::tcp(), Memcached::unix()] {
        on_runtime(async {
            let query = x509("john@example.com");
            let name = Sealer::new(&key(1)).name(&query).key();
            let (one, two, stranger) =
                (pool(&memcached, 1), pool(&memcached, 1), pool(&memcached, 2));
            assert_eq!(find(&one, &query).await.origin, Origin::Live);
            let value = stored(&memcached, &name).await;
            for pool in [&one, &two] {
                let found = find(pool, &query).await;
                assert_eq!((found.origin, first(&found)), (Origin::Memcached, 1));
                let step = found.steps.last().expect("steps");
                assert!(step.contains("remembered for another"), "{step}");
            }
            assert_eq!(two.sources().asked.get(), 0);
            assert_eq!(find(&stranger, &query).await.origin, Origin::Live);
            // Nobody who looks on learns about whom it is.
            let seen = [memcached.log().into_bytes(), value].concat();
            for word in [&b"john"[..], b"example"] {
                assert!(!seen.windows(word.len()).any(|window| window == word));
            }
            // Ignoring caches reads nothing, and writes what it finds.
            let ignoring = Options { caches: Caches::Ignore, ..within(LIMIT) };
            let before = stored(&memcached, &name).await;
            let fresh = pool(&memcached, 1);
            let found = fresh.look_up(&query, ignoring).await;
            assert_eq!(found.origin, Origin::Live);
            until("it is written anew", async || read(&memcached, &name) != before).await;
            assert_eq!(find(&two, &query).await.origin, Origin::Memcached);
        });
    }
}

#[test]
fn several_questions_are_read_by_one_command() {
    let servers = [Memcached::tcp(), Memcached::unix()];
    on_runtime(async {
        let queries: Vec<Query> =
            (0..6).map(|number| x509(&format!("user{number}@example.com"))).collect();
        let until = || Instant::now() + LIMIT;
        // One server, then two that share the names.
        for servers in [&servers[..1], &servers[..]] {
            let all = servers.iter().map(|memcached| memcached.server.parse().unwrap()).collect();
            let shared = Some((all, key(servers.len() as u8)));
            let settings = Settings { shared, wait: PATIENCE, ..Settings::default() };
            let pool = Cached::new(Origins::default(), settings);
            let nothing = pool.recall(&queries, until()).await;
            assert_eq!(nothing.len(), queries.len());
            for recalled in nothing {
                assert_eq!(recalled.outcome, None);
                assert!(recalled.steps[0].contains("not remembered"), "{:?}", recalled.steps);
            }
            assert_eq!(pool.sources().asked.get(), 0, "nobody is asked");
            // All but the last.
            for query in &queries[..5] {
                find(&pool, query).await;
            }
            let begin = Instant::now();
            let recalled = loop {
                for memcached in servers {
                    read(memcached, "begin");
                }
                let recalled = pool.recall(&queries, until()).await;
                for memcached in servers {
                    read(memcached, "end");
                }
                // Writing is not waited for.
                if recalled[..5].iter().all(|recalled| recalled.outcome.is_some()) {
                    break recalled;
                }
                assert!(begin.elapsed() < LIMIT, "{recalled:?}");
            };
            for (number, recalled) in recalled[..5].iter().enumerate() {
                let bytes = vec![number as u8 + 1];
                let there = Outcome::Present(Answer::OpenPgpKey(bytes));
                assert_eq!(recalled.outcome, Some(there));
                assert!(recalled.left > Duration::from_mins(4), "{:?}", recalled.left);
            }
            assert_eq!(recalled[5].outcome, None);
            assert_eq!(pool.sources().asked.get(), 5);
            let sealer = Sealer::new(&key(servers.len() as u8));
            let names: Vec<String> = queries.iter().map(|query| sealer.name(query).key()).collect();
            let asked: Vec<Vec<String>> = servers.iter().flat_map(asked_between).collect();
            assert_eq!(asked.len(), servers.len(), "one command for each server");
            let mut asked = asked.concat();
            asked.sort();
            let mut sorted = names.clone();
            sorted.sort();
            assert_eq!(asked, sorted);
        }
        // The same question twice, and one that is never remembered.
        let pool = pool(&servers[0], 1);
        let authorize = Query::Authorize {
            authorizer: tlspool_validate::sources::Authorizer::Program,
            remote: "user0@example.com".into(),
            local: String::new(),
            service: String::new(),
            server: true,
        };
        let odd = [queries[0].clone(), authorize, queries[0].clone()];
        let recalled = pool.recall(&odd, until()).await;
        let there = recalled.iter().map(|recalled| recalled.outcome.is_some());
        assert_eq!(there.collect::<Vec<_>>(), [true, false, true]);
        // What was altered does not count, and takes nothing else with it.
        let sealer = Sealer::new(&key(1));
        write(&servers[0], &sealer.name(&queries[1]).key(), b"eve was here");
        let recalled = pool.recall(&queries[..3], until()).await;
        let there = recalled.iter().map(|recalled| recalled.outcome.is_some());
        assert_eq!(there.collect::<Vec<_>>(), [true, false, true]);
        assert!(recalled[1].steps[0].contains("does not count"), "{:?}", recalled[1].steps);
        // Whoever has read so looks up without reading again, and has what is found remembered.
        let options = Options { caches: Caches::Missed, ..within(LIMIT) };
        assert_eq!(pool.look_up(&queries[0], options).await.origin, Origin::Live);
    });
}

/// The keys of each `get` between those of "begin" and "end" by hand, the last of each.
fn asked_between(memcached: &Memcached) -> Vec<Vec<String>> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let log = memcached.log();
        let gets: Vec<Vec<String>> = log
            .lines()
            .filter_map(|line| line.split_once(" get "))
            .map(|(_, keys)| keys.split_whitespace().map(str::to_owned).collect())
            .collect();
        let last = |marker: &str| gets.iter().rposition(|keys| keys.as_slice() == [marker]);
        if let (Some(begin), Some(end)) = (last("begin"), last("end"))
            && begin < end
        {
            return gets[begin + 1..end].to_vec();
        }
        assert!(Instant::now() < deadline, "{log}");
        std::thread::yield_now();
    }
}

#[test]
fn who_can_write_to_memcached_vouches_for_nobody() {
    let memcached = Memcached::tcp();
    on_runtime(async {
        let pool = pool(&memcached, 1);
        let sealer = Sealer::new(&key(1));
        let (john, eve) = (x509("john@example.com"), x509("eve@example.com"));
        let (johns, eves) = (sealer.name(&john).key(), sealer.name(&eve).key());
        find(&pool, &john).await;
        find(&pool, &eve).await;
        let value = stored(&memcached, &johns).await;
        let other = stored(&memcached, &eves).await;

        let mut altered = value.clone();
        *altered.last_mut().unwrap() ^= 1;
        // The time at which it expires, put off.
        let mut longer = value.clone();
        longer[7] ^= 0x40;
        let stranger = Sealer::new(&key(2));
        let soon = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let outcome = Outcome::Present(Answer::OpenPgpKey(vec![99]));
        let expires = soon + Duration::from_mins(1);
        let forged = stranger.seal(&sealer.name(&john), &outcome, expires).unwrap();
        // What was good an hour ago, as one who kept it would bring it back.
        let past = soon.checked_sub(Duration::from_hours(1)).unwrap();
        let stale = sealer.seal(&sealer.name(&john), &outcome, past).unwrap();
        let mut asked = pool.sources().asked.get();
        for (what, why) in [
            (&altered, "altered"),
            (&longer, "altered"),
            (&other, "another question"),
            (&forged, "another key"),
            (&stale, "its time is over"),
            (&value[..value.len() - 1].to_vec(), "altered"),
            (&value[..20].to_vec(), "not as we write"),
            (&Vec::new(), "not as we write"),
            (&vec![0x30; 5000], "not as we write"),
        ] {
            write(&memcached, &johns, what);
            let found = find(&pool, &john).await;
            asked += 1;
            assert_eq!((found.origin, first(&found)), (Origin::Live, asked), "{why}");
            let step = found.steps.last().expect("steps");
            assert!(step.contains("does not count") && step.contains(why), "{step}");
            // It is put right.
            until("it is put right", async || &read(&memcached, &johns) != what).await;
            assert_eq!(find(&pool, &john).await.origin, Origin::Memcached);
        }
    });
}

#[test]
fn a_memcached_that_dies_costs_no_answer() {
    for mut memcached in [Memcached::tcp(), Memcached::unix()] {
        on_runtime(async {
            let pool = pool(&memcached, 1);
            let query = x509("john@example.com");
            let name = Sealer::new(&key(1)).name(&query).key();
            find(&pool, &query).await;
            stored(&memcached, &name).await;
            assert_eq!(find(&pool, &query).await.origin, Origin::Memcached);
            memcached.kill();
            // Nor do these wait for it: together they would take more than the test has.
            for _ in 0..100 {
                let found = find(&pool, &query).await;
                assert_eq!(found.origin, Origin::Live);
                assert!(found.steps[0].contains("memcached"), "{:?}", found.steps);
            }
            // It comes back, empty, and is used again.
            memcached.restart();
            until("it is used again", async || {
                find(&pool, &query).await.origin == Origin::Memcached
            })
            .await;
        });
    }
}

#[test]
fn a_memcached_that_stalls_is_waited_for_once() {
    let memcached = Memcached::tcp();
    on_runtime(async {
        let server = memcached.server.parse().expect("a server");
        let shared = Some((vec![server], key(1)));
        let query = x509("john@example.com");
        let name = Sealer::new(&key(1)).name(&query).key();
        // Who is patient puts something there, for one who is not.
        let patient = self::pool(&memcached, 1);
        find(&patient, &query).await;
        stored(&memcached, &name).await;
        memcached.stall();
        let pool = Cached::new(Origins::default(), Settings { shared, ..Settings::default() });
        let begin = Instant::now();
        let found = find(&pool, &query).await;
        assert_eq!(found.origin, Origin::Live);
        assert!(found.steps[0].contains("no answer within 100 ms"), "{:?}", found.steps);
        assert!(begin.elapsed() >= Duration::from_millis(100), "{:?}", begin.elapsed());
        // From then on it is not asked for a while; unless that is over, on a machine that was busy.
        let mut asked = 0;
        for _ in 0..50 {
            let found = find(&pool, &query).await;
            assert_eq!(found.origin, Origin::Live);
            asked += usize::from(!found.steps[0].contains("not asked for another"));
        }
        assert!(asked < 10, "{asked} of 50 have waited for it");
        // One whose time is up does not wait for it at all, and does not hold it against the server.
        let other = self::pool(&memcached, 1);
        let found = other.look_up(&query, within(Duration::from_millis(10))).await;
        assert!(found.steps[0].contains("before the deadline"), "{:?}", found.steps);
        memcached.go_on();
        until("it is used again", async || find(&pool, &query).await.origin == Origin::Memcached)
            .await;
    });
}

#[test]
fn a_memcached_that_is_full_or_strict_loses_values_only() {
    // No room for more (-M: it says so instead of forgetting), and none for what is large.
    let full = Memcached::tcp_with(&["-M", "-m", "2", "-I", "1m"]);
    let strict = Memcached::tcp_with(&["-I", "512k"]);
    on_runtime(async {
        for (memcached, length) in [(&full, 500_000), (&strict, 700_000)] {
            let large = pool_with(memcached, 1, length);
            for number in 0..30 {
                let found = find(&large, &x509(&format!("user{number}@example.com"))).await;
                assert_eq!(found.origin, Origin::Live);
                assert!(found.steps[0].contains("not remembered"), "{:?}", found.steps);
            }
            memcached.await_log(&["SERVER_ERROR", "out of memory"]);
        }
        // What has room is remembered, over the same connection.
        let pool = pool(&strict, 1);
        let query = x509("john@example.com");
        find(&pool, &query).await;
        stored(&strict, &Sealer::new(&key(1)).name(&query).key()).await;
        assert_eq!(find(&pool, &query).await.origin, Origin::Memcached);
    });
}

#[test]
fn what_is_remembered_is_forgotten_in_time() {
    let memcached = Memcached::tcp();
    on_runtime(async {
        let server = memcached.server.parse().expect("a server");
        let timeout = Duration::from_secs(2);
        for shared in [None, Some((vec![server], key(1)))] {
            let settings = Settings { shared, timeout, wait: PATIENCE, ..Settings::default() };
            let pool = Cached::new(Origins::default(), settings);
            let query = x509("john@example.com");
            let begin = Instant::now();
            find(&pool, &query).await;
            let mut remembered = 0;
            loop {
                let found = find(&pool, &query).await;
                if found.origin == Origin::Live && remembered > 0 {
                    break;
                }
                remembered += u32::from(found.origin != Origin::Live);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            assert!(begin.elapsed() + Duration::from_secs(1) > timeout, "{:?}", begin.elapsed());
        }
    });
}

#[test]
fn many_questions_share_a_connection() {
    let memcached = Memcached::unix();
    let local = tokio::task::LocalSet::new();
    on_runtime(local.run_until(async {
        let pool = std::rc::Rc::new(pool_with(&memcached, 1, 2000));
        for origin in [Origin::Live, Origin::Memcached] {
            let mut all = tokio::task::JoinSet::new();
            for number in 0..200 {
                let pool = std::rc::Rc::clone(&pool);
                let query = x509(&format!("user{number}@example.com"));
                all.spawn_local(async move { (query.clone(), find(&*pool, &query).await) });
            }
            while let Some(done) = all.join_next().await {
                let (query, found) = done.expect("it ends");
                assert_eq!(found.origin, origin, "{:?}", found.steps);
                stored(&memcached, &Sealer::new(&key(1)).name(&query).key()).await;
            }
        }
    }));
}
