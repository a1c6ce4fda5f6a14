//! Values in memcached: as anybody may write them, and what would be in them if they were ours.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tlspool_lookup::cache::Key;
use tlspool_lookup::cache::seal::{Sealer, read_outcome};
use tlspool_validate::sources::Query;

static SEALER: LazyLock<Sealer> = LazyLock::new(|| Sealer::new(&Key::new(&[7; 32]).unwrap()));

fuzz_target!(|data: &[u8]| {
    let name = SEALER.name(&Query::Crl { url: String::new() });
    let (now, minute) = (Duration::from_hours(500_000), Duration::from_mins(1));
    assert!(SEALER.open(&name, data, now, minute).is_err());
    if let Some(outcome) = read_outcome(data) {
        let value = SEALER.seal(&name, &outcome, now + minute).unwrap();
        assert_eq!(SEALER.open(&name, &value, now, minute), Ok((outcome, minute)));
    }
});
