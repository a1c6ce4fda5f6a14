//! Live validation through the whole daemon: its look-up process against real and slow servers, with its
//! caches, and killed again and again.

#[path = "../robust/counter.rs"]
#[allow(dead_code)] // shared with other test programs
mod counter;
#[path = "../lookup/fake.rs"]
#[allow(dead_code)]
mod fake;
#[path = "../robust/load.rs"]
#[allow(dead_code)]
mod load;
#[path = "../robust/raw.rs"]
#[allow(dead_code)]
mod raw;
#[path = "../robust/streams.rs"]
#[allow(dead_code)]
mod streams;

mod caches;
mod crash;
mod crowd;
mod mission;
mod openpgp;
mod predicates;
mod publish;
mod slow;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tlspool_tests::zones::{dns, tlsa};
use tlspool_tests::{House, Memcached, is_root, run};

/// `[cache]` with this memcached, whose values are under this key.
fn cache(house: &House, memcached: &Memcached, key: &str) -> String {
    let file = house.write("cache.key", key);
    // Readable to the look-up process, and nobody else.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    if is_root() {
        let said = run(Command::new("chown").arg("nobody").arg(&file));
        assert!(said.ok, "{}", said.err);
    }
    // More patient than by default: what memcached has is to be seen, on a busy machine too.
    format!(
        "[cache]\nservers = [\"{}\"]\nkey_file = \"{}\"\ntimeout = \"5s\"\n",
        memcached.server,
        file.display()
    )
}

/// A number of the status, seen from the whole.
fn number(status: &serde_json::Value, pointer: &str) -> u64 {
    status
        .pointer(pointer)
        .and_then(serde_json::Value::as_u64)
        .unwrap_or_else(|| panic!("{pointer}: {status:#}"))
}
