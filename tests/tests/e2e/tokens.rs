//! Keys on a second PKCS #11 module, and tokens that wait for a PIN.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tlspool_client::PoolError;
use tlspool_tests::app::Server;
use tlspool_tests::binaries::program;
use tlspool_tests::{Daemon, House, PIN, Process, run};

use crate::openssl_client::{VERSIONS, greeted, open, s_client};

fn softokn() -> PathBuf {
    let folders =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let names = ["nss/libsoftokn3.so", "libsoftokn3.so"];
    let paths = folders.iter().flat_map(|dir| names.map(|name| Path::new(dir).join(name)));
    paths.into_iter().find(|path| path.exists()).expect("NSS softokn (package libnss3)")
}

#[test]
fn nss_softokn_beside_softhsm() {
    let house = House::new();
    std::fs::create_dir(house.path("nss")).unwrap();
    let database = format!("sql:{}", house.text("nss"));
    let args =
        format!("configdir='{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=");
    house.configure(&format!("[[keys.module]]\npath = {:?}\nargs = \"{args}\"\n", softokn()));
    let pin = house.write("nss-pin", "nss-pin-1234");
    let made = run(Command::new("certutil").args(["-N", "-d", &database, "-f"]).arg(&pin));
    assert!(made.ok, "{}", made.err);

    let nss = format!("pkcs11:token=NSS%20Certificate%20DB?pin-source=file:{}", pin.display());
    let kinds = ["rsa2048", "p256", "p384"];
    for kind in kinds {
        house.token_identity(&format!("{kind}.nss.example"), kind, &nss);
    }
    let soft = house.token("vault");
    house.token_identity("p256.softhsm.example", "p256", &soft);
    let _daemon = house.start();
    for (option, version) in VERSIONS {
        for name in kinds.map(|kind| format!("{kind}.nss.example")) {
            let (said, met) = greeted(&house, open(), &name, &[option]);
            assert!(said.contains(&format!("New, {version}")), "{said}");
            assert_eq!(met.localid, name);
        }
        greeted(&house, open(), "p256.softhsm.example", &[option]);
    }
}

/// An identity on a token whose PIN only a person knows.
fn locked(house: &House) {
    let token = house.token("vault");
    let key = house.token_identity("example.com", "p256", &token);
    let key = key.split_once('?').unwrap().0;
    let certificate = house.text("pki/example.com.pem");
    let add = ["identity", "add", "example.com", "--certificate", &certificate, "--key", key];
    house.good(&["identity", "remove", "example.com"]);
    house.good(&[&add[..], &["--no-check"]].concat());
}

#[test]
fn what_a_token_refused_outlives_key_process_and_daemon_where_pins_do_not() {
    let house = House::with("[keys]\nremember_pins = false\n");
    let token = house.token("vault");
    house.token_identity("example.com", "p256", &token);
    house.write("pin", "314159\n");
    let old = house.start();
    let refused = |daemon: &Daemon, times: usize| {
        let server = Server::greeter(house.pool(), open());
        let peer = Process::start(&mut s_client(&house, &server.at(), "example.com", &[]));
        server.outcome().unwrap_err();
        assert!(!peer.end().0.success());
        // Not that a person must give one.
        let told = |log: &str| log.matches("is not tried again until").count() == times;
        daemon.await_log_that("what the token refused", told);
    };
    refused(&old, 1);
    let keyd = house.status()["daemon"]["key_process_pid"].as_i64().unwrap();
    let keyd = Pid::from_raw(i32::try_from(keyd).unwrap()).unwrap();
    kill_process(keyd, Signal::KILL).unwrap();
    house.await_status("daemon/key_process_restarts", 1);
    refused(&old, 2);
    let new = house.start_with(&["-k"]);
    let (_, log) = old.end();
    refused(&new, 1);
    let tried = |log: &str| log.matches("the token refused a PIN").count();
    assert_eq!((tried(&log), tried(&new.stop())), (1, 0));
}

/// `tlspool -p` on a terminal of its own.
fn person(house: &House) -> Process {
    let inner = format!("{} -c {} -p", program("tlspool").display(), house.text("tlspool.toml"));
    // It ends with its terminal, also where the tests run with hanging up ignored.
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP,INT,QUIT", "script", "-qefc", &inner, "/dev/null"]);
    Process::start(house.outfit(&mut command))
}

/// The question, to its end.
const QUESTION: &str = "empty to refuse: ";

#[test]
fn a_handshake_waits_for_the_pin() {
    let house = House::new();
    locked(&house);
    let daemon = house.start();
    let server = Server::greeter(house.pool(), open());
    let mut peer = Process::start(&mut s_client(&house, &server.at(), "example.com", &[]));
    peer.tell("hello\n");
    house.await_section("tokens_waiting_for_pin", |waiting| waiting.to_string().contains("vault"));
    let mut person = person(&house);
    let asks = |times: usize| move |said: &str| said.matches(QUESTION).count() == times;
    let said = person.await_that(QUESTION, asks(1));
    assert!(said.contains("vault") && !said.to_lowercase().contains("wrong"), "{said}");
    assert!(!peer.said().contains("you are"), "{}", peer.said());
    person.tell("314159\n");
    let said = person.await_that("the question again", asks(2));
    assert!(said.to_lowercase().contains("wrong"), "{said}");
    person.tell(format!("{PIN}\n"));
    let (status, said) = peer.end();
    assert!(status.success() && said.contains("you are : hello"), "{said}");
    assert_eq!(server.outcome().unwrap().localid, "example.com");
    // Once it is known, nobody is asked again.
    greeted(&house, open(), "example.com", &[]);
    assert!(asks(2)(&person.said()), "{}", person.said());
    let screen = person.said();
    drop(person);
    let log = daemon.stop();
    for secret in [PIN, "314159"] {
        assert!(!log.contains(secret), "the log knows the PIN: {log}");
        assert!(!screen.contains(secret), "the terminal shows the PIN: {screen}");
    }
}

#[test]
fn a_person_may_refuse_and_handshakes_do_not_wait_for_ever() {
    let house = House::new();
    locked(&house);
    let daemon = house.start();
    let mut person = person(&house);
    let server = Server::greeter(house.pool(), open());
    let peer = Process::start(&mut s_client(&house, &server.at(), "example.com", &[]));
    person.await_words(QUESTION);
    person.tell("\n");
    let error = server.outcome().unwrap_err();
    assert!(error.to_string().contains("PIN"), "{error}");
    assert!(!peer.end().0.success());
    drop(person);
    // Nobody is there to be asked.
    house.await_section("pin_program", |there| there == false);
    let server = Server::greeter(house.pool(), open().timeout_ms(500));
    let peer = Process::start(&mut s_client(&house, &server.at(), "example.com", &[]));
    let error = server.outcome().unwrap_err();
    let number = error.pool_error();
    assert!(
        number == Some(PoolError::Timeout) || error.to_string().contains("PIN"),
        "{number:?} {error}"
    );
    assert!(!peer.end().0.success());
    daemon.stop();
}

/// Has a locked token serve once more; the person is asked for the `times`th time.
fn unlocked(house: &House, person: &mut Process, times: usize) {
    let server = Server::greeter(house.pool(), open());
    let mut peer = Process::start(&mut s_client(house, &server.at(), "example.com", &[]));
    peer.tell("hello\n");
    let asked = move |said: &str| said.matches(QUESTION).count() == times;
    person.await_that("the question", asked);
    person.tell(format!("{PIN}\n"));
    let (status, said) = peer.end();
    assert!(status.success() && said.contains("you are : hello"), "{said}");
    server.outcome().unwrap();
    assert!(asked(&person.said()), "{}", person.said());
}

#[test]
fn the_pin_program_goes_over_to_the_next_daemon() {
    let house = House::new();
    locked(&house);
    let old = house.start();
    let mut person = person(&house);
    house.await_section("pin_program", |there| there == true);
    let new = house.start_with(&["-k"]);
    // It holds the old one up no longer than it takes to tell.
    let (status, log) = old.end();
    assert!(status.success() && log.contains("drained"), "{status}: {log}");
    house.await_section("pin_program", |there| there == true);
    unlocked(&house, &mut person, 1);
    new.stop();
}

#[test]
fn a_daemon_that_drains_still_asks_for_its_own_tokens() {
    let house = House::new();
    locked(&house);
    let old = house.start();
    let mut person = person(&house);
    let server = Server::greeter(house.pool(), open());
    let mut peer = Process::start(&mut s_client(&house, &server.at(), "example.com", &[]));
    peer.tell("hello\n");
    person.await_words(QUESTION);
    let new = house.start_with(&["-k"]);
    old.await_log("this one drains");
    assert_eq!(house.status()["pin_program"], false, "it is asked yet by the old one");
    // Also if the first answer is wrong.
    person.tell("314159\n");
    person.await_that("the question again", |said| said.matches(QUESTION).count() == 2);
    person.tell(format!("{PIN}\n"));
    let (status, said) = peer.end();
    assert!(status.success() && said.contains("you are : hello"), "{said}");
    server.outcome().unwrap();
    let (status, log) = old.end();
    assert!(status.success() && log.contains("drained"), "{status}: {log}");
    // The new one does not know that PIN, and asks the same person.
    house.await_section("pin_program", |there| there == true);
    unlocked(&house, &mut person, 3);
    new.stop();
}

#[test]
fn an_answer_that_nobody_needs_any_more_is_no_end_either() {
    let house = House::new();
    locked(&house);
    let old = house.start();
    let mut person = person(&house);
    let server = Server::greeter(house.pool(), open());
    let peer = Process::start(&mut s_client(&house, &server.at(), "example.com", &[]));
    person.await_words(QUESTION);
    let new = house.start_with(&["-k"]);
    old.await_log("this one drains");
    // The handshake ends before the person answers.
    drop(peer);
    server.outcome().unwrap_err();
    let (status, log) = old.end();
    assert!(status.success() && log.contains("drained"), "{status}: {log}");
    person.tell("314159\n");
    house.await_section("pin_program", |there| there == true);
    unlocked(&house, &mut person, 2);
    new.stop();
}

#[test]
fn a_pin_that_is_late_for_its_handshake_unlocks_the_token_for_the_next() {
    let house = House::new();
    locked(&house);
    let daemon = house.start();
    let server = Server::greeter(house.pool(), open().timeout_ms(2000));
    let peer = Process::start(&mut s_client(&house, &server.at(), "example.com", &[]));
    server.outcome().unwrap_err();
    assert!(!peer.end().0.success());
    // Who comes to enter PINs only now is asked all the same, and again if it is wrong.
    let mut person = person(&house);
    person.await_words(QUESTION);
    person.tell("314159\n");
    let asked = |said: &str| said.matches(QUESTION).count() == 2;
    person.await_that("the question again", asked);
    person.tell(format!("{PIN}\n"));
    house.await_section("tokens_waiting_for_pin", |waiting| *waiting == serde_json::json!([]));
    greeted(&house, open(), "example.com", &[]);
    assert!(asked(&person.said()), "{}", person.said());
    daemon.stop();
}

#[test]
fn a_person_who_still_may_answer_is_let_go_when_the_daemon_is_replaced() {
    let house = House::new();
    locked(&house);
    let old = house.start();
    let mut person = person(&house);
    let server = Server::greeter(house.pool(), open().timeout_ms(2000));
    let peer = Process::start(&mut s_client(&house, &server.at(), "example.com", &[]));
    person.await_words(QUESTION);
    server.outcome().unwrap_err();
    assert!(!peer.end().0.success());
    let new = house.start_with(&["-k"]);
    let (status, log) = old.end();
    assert!(status.success() && log.contains("drained"), "{status}: {log}");
    person.tell("314159\n");
    house.await_section("pin_program", |there| there == true);
    unlocked(&house, &mut person, 2);
    new.stop();
}
