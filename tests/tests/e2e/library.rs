//! The support library itself.

use tlspool_tests::{House, openssl};

#[test]
fn a_pool_starts_is_asked_and_stops() {
    let house = House::new();
    house.identity("example.com");
    let daemon = house.start();
    assert_eq!(house.status()["daemon"]["pid"], daemon.pid());
    daemon.reload();
    let log = daemon.stop();
    assert!(log.contains("drained"), "{log}");
    assert!(openssl(&["version"]).starts_with("OpenSSL 3"));
}
