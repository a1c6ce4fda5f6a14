//! Directories that mean harm, or are merely slow or broken: the outcome is the safe one, it comes in
//! time, and it says why.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tlspool_lookup::directory::{Directories, Settings};
use tlspool_tests::{Authority, LIMIT, Leaf};
use tlspool_validate::sources::Sources;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::fake::{
    Act, Asked, BIND, DONE, EXTENDED, Fake, done, element, entry, message, reference,
};
use crate::table::{Table, failure, find, lists, on_runtime, openpgp, within, x509};

const JOHN: &str = "john@example.com";
const NAME: &[u8] = b"uid=john,dc=example,dc=com";
const CERTIFICATE: &[u8] = b"\x30\x03\x02\x01\x07";

fn leaf() -> (Leaf, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let leaf = Authority::new(dir.path(), "authority").leaf("ldap.example.com");
    (leaf, dir)
}

fn directories(fake: &Fake, leaf: &Leaf, settings: Settings) -> Directories<Table> {
    let table = Rc::new(Table::default());
    table.directory("_ldap", "ldap.example.com", fake.port, &leaf.certificate);
    table.directories(settings)
}

/// Looks `john` up at a directory that answers searches so.
fn against(play: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static, check: impl Fn(&str)) {
    let (leaf, _dir) = leaf();
    on_runtime(async {
        let fake = Fake::searching(&leaf, play).await;
        let settings = Settings { time_limit: Duration::from_secs(20), ..Settings::default() };
        let directories = directories(&fake, &leaf, settings);
        let found = find(&directories, &x509(JOHN)).await;
        check(failure(&found));
        assert!(found.steps.last().expect("steps").contains("ldap.example.com"), "{found:#?}");
    });
}

fn good(id: u8) -> Vec<u8> {
    [entry(id, NAME, b"userCertificate;binary", &[CERTIFICATE]), done(id, DONE, 0)].concat()
}

#[test]
fn the_fake_can_be_good() {
    let (leaf, _dir) = leaf();
    on_runtime(async {
        let fake = Fake::searching(&leaf, |asked| vec![Act::Send(good(asked.id))]).await;
        let directories = directories(&fake, &leaf, Settings::default());
        lists(&find(&directories, &x509(JOHN)).await, &[CERTIFICATE]);
    });
}

#[test]
fn referrals_are_not_followed() {
    // As the answer, in place of entries, and beside entries of others. Who listens there would see it.
    on_runtime(async {
        let (leaf, _dir) = leaf();
        let elsewhere = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("ldap://{}/dc=example,dc=com", elsewhere.local_addr().expect("it"));
        let hint = url.clone();
        let instead = Fake::searching(&leaf, move |asked| {
            let id = asked.id;
            let urls = element(0xa3, &element(4, hint.as_bytes()));
            let parts = [vec![0x0a, 1, 10], element(4, b""), element(4, b""), urls];
            vec![Act::Send(message(id, DONE, &parts))]
        });
        let instead = instead.await;
        let hint = url.clone();
        let within_results = Fake::searching(&leaf, move |asked| {
            let id = asked.id;
            vec![Act::Send([reference(id, &hint), done(id, DONE, 0)].concat())]
        });
        let within_results = within_results.await;
        for fake in [&instead, &within_results] {
            let directories = directories(fake, &leaf, Settings::default());
            let found = find(&directories, &x509(JOHN)).await;
            assert!(failure(&found).contains("referrals are not followed"), "{found:?}");
        }
        // What is listed here counts, whatever there is elsewhere.
        let beside = Fake::searching(&leaf, move |asked| {
            vec![Act::Send([reference(asked.id, &url), good(asked.id)].concat())]
        });
        let beside = beside.await;
        let directories = directories(&beside, &leaf, Settings::default());
        lists(&find(&directories, &x509(JOHN)).await, &[CERTIFICATE]);
        let called = elsewhere.accept();
        tokio::select! {
            biased;
            _ = called => panic!("the other directory was asked"),
            () = async {} => {}
        }
    });
}

#[test]
fn ten_thousand_entries_are_too_many() {
    let entries = |id| (0..10_000).map(move |_| entry(id, NAME, b"uid", &[b"john"]));
    against(
        move |asked| vec![Act::Send(entries(asked.id).flatten().collect())],
        |why| assert!(why.contains("lists more than 32 entries"), "{why}"),
    );
}

#[test]
fn an_endless_answer_ends() {
    // One entry that grows; one message that claims to be longer than anything may be; endless noise
    // to a question that nobody asked.
    let big = vec![7; 1 << 16];
    against(
        move |asked| vec![Act::Send(entry(asked.id, NAME, b"x", &[&big[..]; 40]))],
        |why| assert!(why.contains("sends more than 1048576 bytes"), "{why}"),
    );
    against(
        |_| vec![Act::Send(vec![0x30, 0x84, 0x7f, 0xff, 0xff, 0xff, 2, 1])],
        |why| assert!(why.contains("sends more than 1048576 bytes"), "{why}"),
    );
    let big = vec![7; 1 << 16];
    against(
        move |_| vec![Act::Send(entry(99, NAME, b"x", &[&big])); 40],
        |why| assert!(why.contains("sends more than 1048576 bytes"), "{why}"),
    );
}

#[test]
fn what_is_not_ldap_is_refused() {
    // Some thousand levels deep, each of the right length: what a decoder that recurses would not survive.
    let mut deep = vec![0x04, 0];
    while deep.len() < 50_000 {
        deep = element(0x30, &deep);
    }
    for bytes in [
        b"HTTP/1.1 200 OK\r\n\r\n".to_vec(),
        vec![0x30, 0x80, 0, 0],
        vec![0xff; 100],
        element(0x30, b""),
        message(3, 0x42, &[]),
        message(3, DONE, &[]),
        deep,
    ] {
        against(
            move |_| vec![Act::Send(bytes.clone())],
            |why| assert!(why.contains("sends what is not LDAP"), "{why}"),
        );
    }
}

#[test]
fn binary_where_text_belongs_is_tolerated_and_shown_tamed() {
    let (leaf, _dir) = leaf();
    on_runtime(async {
        let fake = Fake::searching(&leaf, |asked| {
            let id = asked.id;
            let binary = entry(id, &[0xff, 0, 0x1b], &[0xfe], &[&[0; 9]]);
            let junk = entry(id, &[0xc3], b"userCertificate;binary", &[b"\x00\xff", b"text"]);
            vec![Act::Send([binary, junk, good(id)].concat())]
        });
        let fake = fake.await;
        let directories = directories(&fake, &leaf, Settings::default());
        let found = find(&directories, &x509(JOHN)).await;
        lists(&found, &[CERTIFICATE]);
        let step = found.steps.last().expect("steps");
        assert!(step.contains("3 entries, 1 credentials, 0 anchors, 2 unreadable"), "{step}");
        // A key space that is no name, and keys that are none.
        let fake = Fake::searching(&leaf, |asked| {
            let id = asked.id;
            let info = entry(id, b"cn=PGPServerInfo", b"pgpBaseKeySpaceDN", &[&[0xff, 0xfe]]);
            let junk = entry(id, NAME, b"pgpKey", &[&[0xff; 40], b"no armor"]);
            let is_info = asked.bytes.windows(13).any(|window| window == b"PGPServerInfo");
            let entries = if is_info { info } else { junk };
            vec![Act::Send([entries, done(id, DONE, 0)].concat())]
        });
        let fake = fake.await;
        let directories = self::directories(&fake, &leaf, Settings::default());
        let found = find(&directories, &openpgp(JOHN)).await;
        assert!(failure(&found).contains("lists for john@example.com is unreadable"), "{found:?}");
    });
    // Its words are shown, without what would harm a terminal.
    against(
        |asked| {
            let words = element(4, b"\x1b[2J\xff\nhaha");
            let parts = [vec![0x0a, 1, 80], element(4, b""), words];
            vec![Act::Send(message(asked.id, DONE, &parts))]
        },
        |why| {
            assert!(why.contains("error (80)") && why.contains("haha"), "{why}");
            assert!(!why.contains('\x1b') && !why.contains('\n'), "{why:?}");
        },
    );
}

#[test]
fn a_directory_that_falls_silent_costs_no_more_than_the_deadline() {
    let (leaf, _dir) = leaf();
    // At each step in turn: the connection, StartTLS, TLS, bind, the search.
    for silent in 0..4 {
        on_runtime(async {
            let fake = Fake::start(&leaf, move |asked| match (asked.tag, silent) {
                (EXTENDED, 0) | (BIND, 2) => vec![],
                // It has promised TLS, and goes on in the clear.
                (EXTENDED, 1) => vec![Act::Send(done(asked.id, 0x78, 0))],
                (EXTENDED, _) => vec![Act::StartTls(done(asked.id, 0x78, 0))],
                (BIND, _) => vec![Act::Send(done(asked.id, 0x61, 0))],
                _ => vec![],
            });
            let fake = fake.await;
            let limit = Duration::from_millis(300);
            // By the deadline of who asks.
            let directories = self::directories(&fake, &leaf, Settings::default());
            let query = x509(JOHN);
            let found = directories.look_up(&query, within(limit)).await;
            assert!(failure(&found).contains("no answer before the deadline"), "{found:?}");
            // By the limits of the settings.
            let settings =
                Settings { time_limit: limit, connect_limit: limit, ..Settings::default() };
            let directories = self::directories(&fake, &leaf, settings);
            let found = find(&directories, &query).await;
            let why = failure(&found);
            assert!(why.contains("no answer within 0.3 s") || why.contains("longer than"), "{why}");
        });
    }
}

#[test]
fn a_silent_connection_is_not_used_again() {
    let (leaf, _dir) = leaf();
    on_runtime(async {
        // The first search is never answered, others are.
        let fake = Fake::searching(&leaf, {
            let first = std::sync::atomic::AtomicBool::new(true);
            move |asked| {
                let answer = vec![Act::Send(good(asked.id))];
                if first.swap(false, Ordering::Relaxed) { vec![] } else { answer }
            }
        });
        let fake = fake.await;
        let directories = directories(&fake, &leaf, Settings::default());
        let query = x509(JOHN);
        // Enough to be asked, on a busy machine too.
        let found = directories.look_up(&query, within(Duration::from_secs(3))).await;
        failure(&found);
        lists(&find(&directories, &query).await, &[CERTIFICATE]);
        assert_eq!(fake.connections.load(Ordering::Relaxed), 2);
    });
}

#[test]
fn what_is_sent_before_tls_does_not_count() {
    let (leaf, _dir) = leaf();
    on_runtime(async {
        // An answer to the bind, and to the search, put behind that to StartTLS by someone in between.
        let fake = Fake::start(&leaf, |asked| match asked.tag {
            EXTENDED => {
                let injected = [done(asked.id, 0x78, 0), done(2, 0x61, 0), good(3)].concat();
                vec![Act::StartTls(injected)]
            }
            _ => vec![],
        });
        let fake = fake.await;
        let found = find(&directories(&fake, &leaf, Settings::default()), &x509(JOHN)).await;
        assert!(failure(&found).contains("sends data before TLS"), "{found:?}");

        let fake = Fake::start(&leaf, |asked| vec![Act::Send(done(asked.id, 0x78, 2))]).await;
        let found = find(&directories(&fake, &leaf, Settings::default()), &x509(JOHN)).await;
        assert!(failure(&found).contains("refuses StartTLS: error (2)"), "{found:?}");
    });
}

#[test]
fn a_directory_that_hangs_up_is_a_failure() {
    against(|_| vec![Act::Close], |why| assert!(why.contains("ended the connection"), "{why}"));
    // With a notice of disconnection.
    against(
        |_| vec![Act::Send(done(0, 0x78, 52)), Act::Close],
        |why| assert!(why.contains("unavailable (52)"), "{why}"),
    );
    // In the middle of an entry.
    against(
        |asked| {
            let mut cut = good(asked.id);
            cut.truncate(20);
            vec![Act::Send(cut), Act::Close]
        },
        |why| assert!(why.contains("ended the connection"), "{why}"),
    );
}

/// What the project is to reach: a thousand at once, of a directory that answers when all of them wait.
#[test]
fn a_thousand_look_ups_wait_for_a_slow_directory_together() {
    let (leaf, _dir) = leaf();
    let local = tokio::task::LocalSet::new();
    on_runtime(local.run_until(async {
        let gate = Arc::new(Semaphore::new(0));
        let waits = gate.clone();
        let slow = move |asked: &Asked| vec![Act::When(waits.clone(), good(asked.id))];
        let fake = Fake::searching(&leaf, slow).await;
        let settings = Settings { time_limit: LIMIT, connect_limit: LIMIT, ..Settings::default() };
        let directories = Rc::new(directories(&fake, &leaf, settings));
        let begun = Rc::new(Cell::new(0));
        let mut all = JoinSet::new();
        for number in 0..1000 {
            let (directories, begun) = (Rc::clone(&directories), Rc::clone(&begun));
            let name = format!("user{number}@example.com");
            all.spawn_local(async move {
                begun.set(begun.get() + 1);
                let found = match number % 2 {
                    0 => find(&*directories, &x509(&name)).await,
                    // Half of them ask what others ask too.
                    _ => find(&*directories, &x509(JOHN)).await,
                };
                lists(&found, &[CERTIFICATE]);
            });
        }
        while begun.get() < 1000 || fake.searches.load(Ordering::Relaxed) < 501 {
            tokio::task::yield_now().await;
        }
        assert!(all.try_join_next().is_none(), "all of them wait");
        gate.add_permits(1);
        while let Some(done) = all.join_next().await {
            done.expect("it is found");
        }
        assert_eq!(fake.searches.load(Ordering::Relaxed), 501);
        assert!(fake.connections.load(Ordering::Relaxed) <= 32);
    }));
}

#[test]
fn the_bound_of_a_directory_is_its_error_and_others_are_not_held_up() {
    let (leaf, _dir) = leaf();
    let local = tokio::task::LocalSet::new();
    on_runtime(local.run_until(async {
        let stuck = Fake::searching(&leaf, |_| vec![]).await;
        let quick = Fake::searching(&leaf, |asked| vec![Act::Send(good(asked.id))]).await;
        let table = Rc::new(Table::default());
        table.directory("_ldap", "ldap.example.com", stuck.port, &leaf.certificate);
        table.directory("_ldap", "ldap.example.org", quick.port, &leaf.certificate);
        let settings = Settings { per_directory: 100, time_limit: LIMIT, ..Settings::default() };
        let directories = Rc::new(table.directories(settings));
        let mut waiting = JoinSet::new();
        for number in 0..100 {
            let directories = Rc::clone(&directories);
            let query = x509(&format!("user{number}@example.com"));
            waiting.spawn_local(async move { find(&*directories, &query).await });
        }
        while stuck.searches.load(Ordering::Relaxed) < 100 {
            tokio::task::yield_now().await;
        }
        let found = find(&*directories, &x509(JOHN)).await;
        let why = failure(&found);
        assert!(why.contains("100 look-ups are under way already, which is the limit"), "{why}");
        lists(&find(&*directories, &x509("john@example.org")).await, &[CERTIFICATE]);
        assert!(waiting.try_join_next().is_none(), "those still wait");
        waiting.shutdown().await;
        // All of its places are free again.
        let found = directories.look_up(&x509(JOHN), within(Duration::from_millis(1))).await;
        assert!(failure(&found).contains("deadline"), "{found:?}");
    }));
}

#[test]
fn connections_are_bounded_and_idle_ones_make_room() {
    let (leaf, _dir) = leaf();
    on_runtime(async {
        let fake = Fake::searching(&leaf, |asked| vec![Act::Send(good(asked.id))]).await;
        let table = Rc::new(Table::default());
        for number in 0..5 {
            let host = format!("ldap.example{number}.org");
            table.directory("_ldap", &host, fake.port, &leaf.certificate);
        }
        let directories = table.directories(Settings { connections: 2, ..Settings::default() });
        for number in 0..5 {
            let query = x509(&format!("john@example{number}.org"));
            lists(&find(&directories, &query).await, &[CERTIFICATE]);
        }
        let directories = table.directories(Settings { connections: 0, ..Settings::default() });
        let found = find(&directories, &x509("john@example0.org")).await;
        assert!(failure(&found).contains("0 connections are under way already"), "{found:?}");
    });
}
