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
mod mission;
mod openpgp;
mod predicates;
mod publish;
mod slow;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tlspool_tests::zones::Zones;
use tlspool_tests::{House, Leaf, Memcached, is_root, openssl, run};

/// `[dns]` with these zones as the only server.
fn dns(zones: &Zones) -> String {
    format!(
        "[dns]\nforwarders = [\"{}\"]\nroot_anchor = \"{}\"\n",
        zones.address(),
        zones.anchor().display()
    )
}

/// `[cache]` with this memcached, whose values are under this key.
fn cache(house: &House, memcached: &Memcached, key: &str) -> String {
    let file = house.write("cache.key", key);
    // Readable to the look-up process, and nobody else.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    if is_root() {
        let said = run(Command::new("chown").arg("nobody").arg(&file));
        assert!(said.ok, "{}", said.err);
    }
    format!("[cache]\nservers = [\"{}\"]\nkey_file = \"{}\"\n", memcached.server, file.display())
}

/// The data of a TLSA record for the very certificate, by digest.
fn tlsa(leaf: &Leaf) -> String {
    let said = openssl(&["x509", "-in", leaf.certificate(), "-noout", "-fingerprint", "-sha256"]);
    format!("3 0 1 {}", said.split_once('=').expect("a digest").1.trim().replace(':', ""))
}

/// A number of the status, seen from the whole.
fn number(status: &serde_json::Value, pointer: &str) -> u64 {
    status
        .pointer(pointer)
        .and_then(serde_json::Value::as_u64)
        .unwrap_or_else(|| panic!("{pointer}: {status:#}"))
}
