//! Every predicate, true, false, absent and failed, through the daemon: real peers, a real directory, signed zones,
//! lists and OCSP over HTTP.
//!
//! A row is a peer and what one predicate makes of it. For each row there are three meetings, under the policies
//! `X`, `not X` and `X?`, which together tell the four truths apart:
//!
//! | truth | `X` | `not X` | `X?` |
//! | --- | --- | --- | --- |
//! | true | believed | refused | believed |
//! | false | refused | believed | refused |
//! | absent | refused | refused | believed |
//! | failed | refused | refused | refused |
//!
//! Which predicate has which outcome here, besides those that nothing can bring about:
//!
//! | predicate | true | false | absent | failed |
//! | --- | --- | --- | --- | --- |
//! | `identity` | exact, wildcard, user | another name ([`names`]) | - it is about what is shown | - |
//! | `pkix` | our authority | a stranger's, expired | OpenPGP | - it asks nobody |
//! | `dane` | all of [`dane`] | wrong, old, usage 2 without its certificate | none, unusable, unsigned zone, user, OpenPGP | bogus zone |
//! | `ldap` | X.509 and OpenPGP, users and domains | lists another | lists nothing, no directory | directory without DANE |
//! | `pin` | pinned | another pinned | none | - it asks nobody |
//! | `openpgp` | trusted key | nobody's | X.509 | - it asks nobody |
//! | `crl` | fetched, not on it | fetched, on it | none named, OpenPGP | no server |
//! | `ocsp` | good | revoked | none named, OpenPGP | no responder |
//! | `forward-secrecy` | always | - no suite without it | - | - |
//! | `private` | TLS 1.3 | TLS 1.2 | - | - |
//! | `pq` | another pool | OpenSSL 3.0 | - | - |
//! | `client`, `server` | our role | the other | - | - |
//!
//! Lists in files and stapled responses are in `e2e/policy.rs`, all outcomes with the clock and the sources of a
//! test in `tlspool-validate`.

mod dane;
mod names;
mod world;

use std::fmt::Write as _;

use tlspool_client::PoolError;
use tlspool_tests::House;
use tlspool_tests::app::Outcome;

use self::world::{Meet, World};

/// What a predicate comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    True,
    False,
    Absent,
    Failed,
}

use Truth::{Absent, Failed, False, True};

impl Truth {
    /// Whether the peer is believed under `X`, `not X` and `X?`.
    fn believed(self) -> [bool; 3] {
        [self == True, self == False, matches!(self, True | Absent)]
    }

    /// What a refusal for it says. Where a predicate is false, its own words tell what is wrong.
    fn words(self, predicate: &str) -> String {
        match self {
            True => format!("{predicate} is true"),
            False => String::new(),
            Absent => format!("{predicate} is absent"),
            Failed => format!("{predicate} is failed"),
        }
    }
}

/// The predicates, each with what must hold beside `not X` for a peer of another name to be believed.
const PREDICATES: [(&str, &str); 13] = [
    ("identity", " and pin"),
    ("pkix", ""),
    ("dane", ""),
    ("ldap", ""),
    ("pin", ""),
    ("openpgp", ""),
    ("crl", ""),
    ("ocsp", ""),
    ("forward-secrecy", ""),
    ("private", ""),
    ("pq", ""),
    ("client", ""),
    ("server", ""),
];

/// Services that stand for the policies of `predicate`, in the order of [`Truth::believed`]. A service has up to 15
/// bytes.
fn services(predicate: &str) -> [String; 3] {
    ["", "-not", "-opt"].map(|end| format!("{predicate:.11}{end}"))
}

/// Adds the policies of all predicates.
fn policies(house: &House) {
    let mut rows = String::new();
    for (predicate, beside) in PREDICATES {
        let expressions =
            [predicate.to_owned(), format!("not {predicate}{beside}"), format!("{predicate}?")];
        for (service, expression) in services(predicate).iter().zip(&expressions) {
            for selector in [".", "@."] {
                let row = serde_json::json!({
                    "side": "remote", "selector": selector, "service": service,
                    "expression": expression,
                });
                let _ = writeln!(rows, "{row}");
            }
        }
    }
    let file = house.write("policies", &rows);
    house.good(&["policy", "import", file.to_str().unwrap()]);
}

/// One row of the table.
struct Row {
    predicate: &'static str,
    truth: Truth,
    /// The name that is wanted of the peer.
    name: String,
    meet: Meet,
}

fn row(predicate: &'static str, truth: Truth, name: &str, meet: Meet) -> Row {
    Row { predicate, truth, name: name.to_owned(), meet }
}

/// Whether a meeting came out as it should. Who is not believed is refused for that, in these words.
fn is_as_told(result: &Outcome<()>, believed: bool, words: &str) -> bool {
    match result {
        Ok(()) => believed,
        Err(error) => {
            let number = error.pool_error();
            let refused = number == Some(PoolError::RemoteidRefused);
            !believed && refused && error.to_string().contains(words)
        }
    }
}

/// Meets all peers, and fails with all rows that are not as they should be.
#[track_caller]
fn check(world: &World, rows: &[Row]) {
    let mut wrong = Vec::new();
    for Row { predicate, truth, name, meet } in rows {
        let services = services(predicate);
        // The last of them may pin.
        for (service, should) in services.iter().zip(truth.believed()) {
            let result = world.meet(*meet, name, service);
            if !is_as_told(&result, should, &truth.words(predicate)) {
                wrong.push(format!("{service} of {name} by {meet:?}, {truth:?}: {result:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), world.judge_log());
}

#[test]
fn every_predicate_in_every_state() {
    let world = World::new();
    let openssl = |predicate, truth, name, port| row(predicate, truth, name, Meet::Openssl(port));
    let pool = |predicate, truth, name| row(predicate, truth, name, Meet::Pool);
    let caller = |predicate, truth, name| row(predicate, truth, name, Meet::Caller);
    let rows = [
        openssl("identity", True, "www.example.com", world.trusted),
        openssl("identity", True, "listed.example", world.domains),
        caller("identity", True, "john@listed.example"),
        openssl("identity", False, "pinned.example.org", world.trusted),
        openssl("pkix", True, "www.example.com", world.trusted),
        openssl("pkix", False, "www.example.com", world.stranger),
        openssl("pkix", False, "www.example.com", world.expired),
        pool("pkix", Absent, "listed.pgp.example"),
        // More of it in its own test.
        caller("dane", True, "client.example.com"),
        caller("dane", False, "other-client.example.com"),
        caller("dane", Absent, "none.example"),
        caller("dane", Failed, "client.bogus.example"),
        caller("dane", Absent, "john@listed.example"),
        pool("dane", Absent, "listed.pgp.example"),
        openssl("ldap", True, "listed.example", world.domains),
        openssl("ldap", False, "contradicted.example", world.domains),
        openssl("ldap", Absent, "empty.example", world.domains),
        openssl("ldap", Absent, "none.example", world.domains),
        openssl("ldap", Failed, "careless.example", world.domains),
        pool("ldap", True, "listed.pgp.example"),
        pool("ldap", False, "contradicted.pgp.example"),
        pool("ldap", Absent, "empty.pgp.example"),
        pool("ldap", Absent, "none.pgp.example"),
        pool("ldap", Failed, "careless.pgp.example"),
        caller("ldap", True, "john@listed.example"),
        caller("ldap", False, "mary@listed.example"),
        caller("ldap", Absent, "nobody@listed.example"),
        caller("ldap", Absent, "john@none.example"),
        caller("ldap", Failed, "john@careless.example"),
        caller("ldap", True, "john@listed.pgp.example"),
        caller("ldap", False, "mary@listed.pgp.example"),
        caller("ldap", Absent, "nobody@listed.pgp.example"),
        caller("ldap", Absent, "john@none.pgp.example"),
        caller("ldap", Failed, "john@careless.pgp.example"),
        openssl("pin", True, "pinned.example.com", world.trusted),
        openssl("pin", False, "pinned.example.com", world.stranger),
        openssl("pin", Absent, "first-sight.example.com", world.trusted),
        caller("pin", True, "john@listed.pgp.example"),
        caller("pin", False, "mary@listed.pgp.example"),
        caller("pin", Absent, "nobody@listed.pgp.example"),
        pool("openpgp", True, "listed.pgp.example"),
        pool("openpgp", False, "contradicted.pgp.example"),
        caller("openpgp", True, "john@listed.pgp.example"),
        caller("openpgp", False, "mary@listed.pgp.example"),
        openssl("openpgp", Absent, "www.example.com", world.trusted),
        openssl("crl", True, "www.example.com", world.good),
        openssl("crl", False, "www.example.com", world.revoked),
        openssl("crl", Absent, "www.example.com", world.trusted),
        openssl("crl", Failed, "www.example.com", world.forsaken),
        pool("crl", Absent, "listed.pgp.example"),
        openssl("ocsp", True, "www.example.com", world.good),
        openssl("ocsp", False, "www.example.com", world.revoked),
        openssl("ocsp", Absent, "www.example.com", world.trusted),
        openssl("ocsp", Failed, "www.example.com", world.forsaken),
        pool("ocsp", Absent, "listed.pgp.example"),
        openssl("forward-secrecy", True, "www.example.com", world.old),
        openssl("private", True, "www.example.com", world.trusted),
        openssl("private", False, "www.example.com", world.old),
        pool("pq", True, "pool.example.com"),
        openssl("pq", False, "www.example.com", world.trusted),
        openssl("client", True, "www.example.com", world.trusted),
        caller("client", False, "john@listed.example"),
        caller("server", True, "john@listed.example"),
        openssl("server", False, "www.example.com", world.trusted),
    ];
    for (predicate, _) in PREDICATES {
        for truth in [True, False, Absent, Failed] {
            let possible = match truth {
                True => true,
                False => predicate != "forward-secrecy",
                Absent => {
                    matches!(
                        predicate,
                        "pkix" | "dane" | "ldap" | "pin" | "openpgp" | "crl" | "ocsp"
                    )
                }
                Failed => matches!(predicate, "dane" | "ldap" | "crl" | "ocsp"),
            };
            let is_there = rows.iter().any(|row| (row.predicate, row.truth) == (predicate, truth));
            assert_eq!(is_there, possible, "{predicate} {truth:?}");
        }
    }
    check(&world, &rows);
    world.end();
}
