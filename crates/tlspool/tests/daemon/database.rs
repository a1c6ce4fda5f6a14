//! The database: who makes it, and who misses it.

use super::house::{House, LIMIT, await_log, silent_peer, text};
use std::fs;
use std::os::fd::OwnedFd;
use std::time::Instant;
use tlspool_client::{Plaintext, Pool, StarttlsRequest};

#[test]
fn a_database_is_made_by_who_writes_and_missed_by_who_had_it() {
    let house = House::new();
    let database = house.path("state/db");
    let daemon = house.start(&[]);
    let look = || {
        for arguments in [
            &["identity", "list"][..],
            &["policy", "export"],
            &["authorize", "check", "x.example"],
            &["policy", "remove", "1"],
            &["identity", "remove", "x.example"],
        ] {
            let told = text(&house.output(arguments).stderr);
            assert!(told.contains("there is no database"), "{arguments:?}: {told}");
        }
    };
    look();
    assert!(!house.output(&["-f"]).status.success(), "it is running already");
    assert!(!database.exists(), "who only looks makes none");
    await_log(&daemon, "no identity, policy, pin or rule of authorization is in force");
    assert!(house.output(&["identity", "import", "/dev/null"]).status.success());
    let ask = || {
        let (near, _far) = silent_peer();
        let request =
            StarttlsRequest::client("example.com").unwrap().localid("nobody.example").unwrap();
        let pool = Pool::at(house.path("run/sock"));
        pool.starttls(request, OwnedFd::from(near), Plaintext::pair()).unwrap_err().to_string()
    };
    await_answer(&ask, "nobody.example");
    for left_over in ["db-wal", "db-shm", "db"] {
        let _ = fs::remove_file(house.path("state").join(left_over));
    }
    await_answer(&ask, "is gone");
    look();
    assert!(!database.exists());
    // Nor is an empty file taken for one.
    fs::write(&database, "").unwrap();
    await_answer(&ask, "is gone");
    look();
    await_answer(&ask, "is gone");
    assert!(house.output(&["identity", "import", "/dev/null"]).status.success());
    await_answer(&ask, "nobody.example");
}

/// Waits until the answer has this: a worker looks at the database at most each 5 ms.
fn await_answer(ask: &dyn Fn() -> String, words: &str) {
    let end = Instant::now() + LIMIT;
    loop {
        let answer = ask();
        if answer.contains(words) {
            return;
        }
        assert!(Instant::now() < end, "{answer}");
    }
}

#[test]
fn an_empty_database_needs_nobody_to_prepare_it() {
    let house = House::new();
    let _daemon = house.start(&[]);
    let (near, _far) = silent_peer();
    let request =
        StarttlsRequest::client("example.com").unwrap().localid("nobody.example").unwrap();
    let refused = Pool::at(house.path("run/sock"))
        .starttls(request, OwnedFd::from(near), Plaintext::pair())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("nobody.example"), "{refused}");
}
