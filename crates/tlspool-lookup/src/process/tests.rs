//! Client and server over real channels, in one thread, with sources made for the purpose.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tlspool_validate::sources::{
    Answer, Caches, Found, Looking, Options, Origin, Outcome, Query, Recalled, Recalling, Sources,
};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::message::MAX_RECALL;
use super::{Limits, LookupClient, serve};

const LONG: Duration = Duration::from_mins(1);

/// Answers by the URL: "echo:…" at once, "wait:…" when told, "never:…", "panic:…", "big:BYTES".
#[derive(Default)]
struct Fake {
    asked: RefCell<HashMap<String, u32>>,
    given_up: Cell<u32>,
    changed: Notify,
    go: Notify,
    ignored_caches: Cell<bool>,
}

struct GivenUp<'a>(Option<&'a Fake>);

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(fake) = self.0 {
            fake.given_up.set(fake.given_up.get() + 1);
            fake.changed.notify_waiters();
        }
    }
}

impl Fake {
    async fn find(&self, query: &Query, options: Options) -> Found {
        let Query::Crl { url } = query else { unreachable!() };
        *self.asked.borrow_mut().entry(url.clone()).or_default() += 1;
        self.changed.notify_waiters();
        self.ignored_caches.set(options.caches == Caches::Ignore);
        let mut guard = GivenUp(Some(self));
        let (kind, argument) = url.split_once(':').unwrap();
        let mut bytes = url.clone().into_bytes();
        match kind {
            "echo" => {}
            "wait" => self.go.notified().await,
            "never" => std::future::pending().await,
            "panic" => panic!("a fault in a source, for the test"),
            "big" => bytes = vec![7; argument.parse().unwrap()],
            _ => unreachable!(),
        }
        guard.0 = None;
        Found {
            outcome: Outcome::Present(Answer::Crl(bytes)),
            origin: Origin::Memory,
            elapsed: Duration::from_millis(3),
            lasts: None,
            steps: vec!["a step".into()],
        }
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(self) {
                return;
            }
            changed.await;
        }
    }

    fn times(&self, url: &str) -> u32 {
        self.asked.borrow().get(url).copied().unwrap_or(0)
    }
}

impl Sources for Fake {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        Box::pin(self.find(query, options))
    }

    /// Remembers what it would answer; "gone:…" is not remembered.
    fn recall<'a>(&'a self, queries: &'a [Query], deadline: Instant) -> Recalling<'a> {
        Box::pin(async move {
            let mut recalled = Vec::new();
            for query in queries {
                let Query::Crl { url } = query else { unreachable!() };
                if url.starts_with("gone:") {
                    recalled.push(Recalled::default());
                    continue;
                }
                let options = Options { deadline, caches: Caches::Use };
                let Found { outcome, elapsed, steps, .. } = self.find(query, options).await;
                recalled.push(Recalled { outcome: Some(outcome), left: LONG, elapsed, steps });
            }
            recalled
        })
    }
}

fn pair() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// A process: what it looks up with, and what serves. Aborting that is its death.
fn process(client: &LookupClient, per_channel: usize) -> (Rc<Fake>, JoinHandle<()>) {
    let (ours, theirs) = pair();
    let fake = Rc::<Fake>::default();
    let sources = fake.clone();
    let serving = spawn_local(async move {
        serve(vec![theirs], sources, Limits { per_channel }).await.unwrap();
    });
    client.connect(ours).unwrap();
    (fake, serving)
}

fn within(time: Duration) -> Options {
    Options { deadline: Instant::now() + time, caches: Caches::Use }
}

fn crl(url: &str) -> Query {
    Query::Crl { url: url.into() }
}

fn asking(client: &LookupClient, url: &str, options: Options) -> JoinHandle<Found> {
    let (client, query) = (client.clone(), crl(url));
    spawn_local(async move { client.look_up(&query, options).await })
}

async fn ask(client: &LookupClient, url: &str) -> Found {
    client.look_up(&crl(url), within(LONG)).await
}

fn present(found: &Found) -> &[u8] {
    match &found.outcome {
        Outcome::Present(Answer::Crl(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

fn failure(found: &Found) -> &str {
    match &found.outcome {
        Outcome::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default());
    runtime.unwrap().block_on(async {
        tokio::time::timeout(LONG, test).await.expect("the test is over in time");
    });
}

#[test]
fn answers_come_in_any_order_with_all_they_say() {
    run(async {
        let client = LookupClient::off();
        let (fake, _serving) = process(&client, 100);
        let slow = asking(&client, "wait:1", within(LONG));
        fake.until(|fake| fake.times("wait:1") == 1).await;
        let found = ask(&client, "echo:2").await;
        assert_eq!(present(&found), b"echo:2");
        assert_eq!((found.origin, found.steps), (Origin::Memory, vec!["a step".to_owned()]));
        assert_eq!(found.elapsed, Duration::from_millis(3));
        assert!(!fake.ignored_caches.get());
        client.look_up(&crl("echo:3"), Options { caches: Caches::Ignore, ..within(LONG) }).await;
        assert!(fake.ignored_caches.get());
        fake.go.notify_one();
        assert_eq!(present(&slow.await.unwrap()), b"wait:1");
        let counters = client.status(LONG).await.unwrap();
        assert_eq!((counters.queries, counters.present, counters.from_memory), (3, 3, 3));
        assert_eq!(counters.under_way, 0);
    });
}

#[test]
fn thousands_at_once_and_large_answers_all_arrive() {
    run(async {
        let client = LookupClient::off();
        let (_fake, _serving) = process(&client, 10_000);
        let small: Vec<_> =
            (0..5000).map(|n| asking(&client, &format!("echo:{n}"), within(LONG))).collect();
        let sizes = [0, 1, 59_990, 60_000, 1 << 20, 8 << 20];
        let large = sizes.map(|size| asking(&client, &format!("big:{size}"), within(LONG)));
        for (n, asking) in small.into_iter().enumerate() {
            assert_eq!(present(&asking.await.unwrap()), format!("echo:{n}").as_bytes());
        }
        for (size, asking) in sizes.into_iter().zip(large) {
            assert_eq!(present(&asking.await.unwrap()).len(), size);
        }
    });
}

#[test]
fn what_is_under_way_is_bounded_and_the_bound_is_the_error() {
    run(async {
        let client = LookupClient::off();
        let (fake, _serving) = process(&client, 3);
        let slow: Vec<_> =
            (0..3).map(|n| asking(&client, &format!("wait:{n}"), within(LONG))).collect();
        fake.until(|fake| fake.asked.borrow().len() == 3).await;
        let refused = ask(&client, "echo:4").await;
        assert!(failure(&refused).contains("3 look-ups are under way"), "{refused:?}");
        fake.go.notify_waiters();
        for asking in slow {
            present(&asking.await.unwrap());
        }
        present(&ask(&client, "echo:5").await);
        assert_eq!(client.status(LONG).await.unwrap().refused, 1);
    });
}

#[test]
fn a_deadline_ends_what_has_no_end() {
    run(async {
        let client = LookupClient::off();
        let (fake, _serving) = process(&client, 100);
        let found = client.look_up(&crl("never:1"), within(Duration::from_millis(300))).await;
        assert!(failure(&found).contains("in time"), "{found:?}");
        fake.until(|fake| fake.given_up.get() == 1).await;
    });
}

#[test]
fn who_gives_up_ends_the_look_up() {
    run(async {
        let client = LookupClient::off();
        let (fake, _serving) = process(&client, 100);
        let asking = asking(&client, "never:1", within(LONG));
        fake.until(|fake| fake.times("never:1") == 1).await;
        asking.abort();
        fake.until(|fake| fake.given_up.get() == 1).await;
        assert_eq!(client.status(LONG).await.unwrap().cancelled, 1);
        // The same for all of a worker that is gone.
        let gone = LookupClient::off();
        let (fake, serving) = process(&gone, 100);
        let asking = self::asking(&gone, "never:2", within(LONG));
        fake.until(|fake| fake.times("never:2") == 1).await;
        gone.disconnect();
        assert!(failure(&asking.await.unwrap()).contains("not configured"));
        fake.until(|fake| fake.given_up.get() == 1).await;
        serving.await.unwrap();
    });
}

/// Which of these are remembered.
async fn remembered(client: &LookupClient, urls: &[&str]) -> Vec<bool> {
    let queries: Vec<Query> = urls.iter().map(|url| crl(url)).collect();
    let recalled = client.recall(&queries, Instant::now() + LONG).await;
    recalled.iter().map(|recalled| recalled.outcome.is_some()).collect()
}

#[test]
fn what_is_remembered_comes_in_one_answer() {
    run(async {
        let client = LookupClient::off();
        assert_eq!(remembered(&client, &["echo:1", "echo:2"]).await, [false; 2]);
        let (fake, _serving) = process(&client, 3);
        assert_eq!(remembered(&client, &["echo:1", "gone:2", "echo:3"]).await, [true, false, true]);
        let counters = client.status(LONG).await.unwrap();
        let counted = (counters.queries, counters.present, counters.from_memcached);
        assert_eq!((counted, counters.under_way), ((2, 2, 2), 0));
        // The answer waits until it is wanted.
        let early = client.recalling(&[crl("echo:early")], Instant::now() + LONG);
        present(&ask(&client, "echo:late").await);
        assert_eq!(fake.times("echo:early"), 1);
        assert!(early.await[0].outcome.is_some());
        // A fault of the program is one of the process, not of who asks.
        assert_eq!(remembered(&client, &["panic:1", "echo:4"]).await, [false; 2]);
        // What is under way is bounded, and so is the number of questions.
        let slow: Vec<_> =
            (0..3).map(|n| asking(&client, &format!("wait:{n}"), within(LONG))).collect();
        fake.until(|fake| fake.times("wait:2") == 1).await;
        assert_eq!(remembered(&client, &["echo:5"]).await, [false]);
        fake.go.notify_waiters();
        for asking in slow {
            present(&asking.await.unwrap());
        }
        let many = ["echo:6"; MAX_RECALL + 1];
        assert_eq!(remembered(&client, &many).await, [false; MAX_RECALL + 1]);
        assert_eq!(remembered(&client, &many[1..]).await, [true; MAX_RECALL]);
    });
}

#[test]
fn who_does_not_want_to_know_any_more_takes_the_questions_back() {
    run(async {
        let client = LookupClient::off();
        let (fake, serving) = process(&client, 100);
        // Even if it has never waited for the answer.
        let recalling = client.recalling(&[crl("never:1")], Instant::now() + LONG);
        fake.until(|fake| fake.times("never:1") == 1).await;
        drop(recalling);
        fake.until(|fake| fake.given_up.get() == 1).await;
        assert_eq!(client.status(LONG).await.unwrap().cancelled, 1);
        // A process that dies is asked again when it is back.
        let recalling = client.recalling(&[crl("wait:1")], Instant::now() + LONG);
        fake.until(|fake| fake.times("wait:1") == 1).await;
        serving.abort();
        let _ = serving.await;
        yield_now().await;
        let (fake, _serving) = process(&client, 100);
        fake.until(|fake| fake.times("wait:1") == 1).await;
        fake.go.notify_one();
        assert!(recalling.await[0].outcome.is_some());
    });
}

#[test]
fn a_fault_in_a_source_fails_one_look_up() {
    run(async {
        let client = LookupClient::off();
        let (_fake, _serving) = process(&client, 100);
        assert!(failure(&ask(&client, "panic:1").await).contains("fault"));
        present(&ask(&client, "echo:1").await);
    });
}

#[test]
fn a_restart_is_not_noticed_and_a_second_one_is() {
    run(async {
        let client = LookupClient::off();
        let (fake, serving) = process(&client, 100);
        let asking = asking(&client, "wait:1", within(LONG));
        fake.until(|fake| fake.times("wait:1") == 1).await;
        serving.abort();
        let _ = serving.await;
        // While it is away, new questions wait too.
        yield_now().await;
        let late = self::asking(&client, "echo:late", within(LONG));
        yield_now().await;
        let (fake, serving) = process(&client, 100);
        fake.until(|fake| fake.times("wait:1") == 1).await;
        assert_eq!(present(&late.await.unwrap()), b"echo:late");
        serving.abort();
        let _ = serving.await;
        let _process = process(&client, 100);
        assert!(failure(&asking.await.unwrap()).contains("twice"));
        present(&ask(&client, "echo:1").await);
    });
}

#[test]
fn without_a_process_look_ups_fail() {
    run(async {
        let client = LookupClient::off();
        assert!(failure(&ask(&client, "echo:1").await).contains("[dns]"));
        tokio::time::pause();
        client.expect();
        let begun = tokio::time::Instant::now();
        assert!(failure(&ask(&client, "echo:2").await).contains("not running"));
        assert!(begun.elapsed() >= super::client::AWAY);
        // From now on at once.
        let begun = tokio::time::Instant::now();
        assert!(failure(&ask(&client, "echo:3").await).contains("not running"));
        assert!(begun.elapsed() < super::client::AWAY);
        tokio::time::resume();
        let _process = process(&client, 100);
        present(&ask(&client, "echo:4").await);
    });
}

#[test]
fn a_worker_that_does_not_read_holds_up_itself_only() {
    run(async {
        let (ours, theirs) = pair();
        let (other, others) = pair();
        let fake = Rc::<Fake>::default();
        let serving = serve(vec![theirs, others], fake, Limits { per_channel: 5 });
        let serving = spawn_local(serving);
        let deaf = std::os::unix::net::UnixDatagram::from(ours);
        deaf.set_nonblocking(true).unwrap();
        let deaf = tokio::net::UnixDatagram::from_std(deaf).unwrap();
        deaf.writable().await.unwrap();
        // As many questions as the channel holds, with answers that it does not hold.
        for id in 1.. {
            let query = crl("big:100000");
            let request = super::message::Request::Ask { query, caches: Caches::Use };
            let frame = super::message::RequestFrame { id, remaining_ms: 60_000, request };
            if deaf.try_send(&frame.encode().unwrap()).is_err() {
                assert!(id > 10, "the channel holds too few for this test");
                break;
            }
        }
        let client = LookupClient::off();
        client.connect(other).unwrap();
        present(&ask(&client, "echo:1").await);
        drop((deaf, client));
        serving.await.unwrap().unwrap();
    });
}
