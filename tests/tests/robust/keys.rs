//! The key process dies, a module crashes, a module hangs: established sessions do not notice, new
//! handshakes recover, and nobody types the PIN again.

use std::path::PathBuf;
use std::process::Command;
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tlspool_client::{Cancel, Starttls, Text};
use tlspool_tests::{Daemon, House, run};

use crate::alone;
use crate::counter::Counter;
use crate::load::Load;
use crate::raw::{Pair, Raw, client, server, tcp};
use crate::streams::Stream;

/// Established sessions; each is two of the pool.
const ESTABLISHED: usize = 50;

/// Configuration by which every handshake needs a signature.
pub(crate) const NO_RESUMPTION: &str = "[tls]\ntickets = 0\nclient_cache = 0\n";

/// The test module that stands before SoftHSM2.
fn mock() -> PathBuf {
    assert!(!p11mock::linked().is_null());
    let exe = std::env::current_exe().unwrap();
    let found = exe.ancestors().map(|dir| dir.join("libp11mock.so")).find(|path| path.exists());
    found.expect("libp11mock.so beside the test")
}

/// Makes a token with a PIN that only a person knows, and on it the key of a new identity.
pub(crate) fn identity_on_token(
    house: &House,
    name: &str,
    pin: &str,
    more: &str,
) -> tlspool_tests::Leaf {
    let leaf = house.authority().leaf(name);
    let softhsm = |arguments: &[&str]| {
        let said = run(house.outfit(Command::new("softhsm2-util").args(arguments)));
        assert!(said.ok, "softhsm2-util: {}{}", said.out, said.err);
    };
    softhsm(&["--init-token", "--free", "--label", "safe", "--so-pin", "1234", "--pin", pin]);
    let key = ["--import", leaf.key(), "--label", "key", "--id", "01"];
    softhsm(&[&key[..], &["--token", "safe", "--pin", pin]].concat());
    let uri = format!("pkcs11:token=safe;object=key{more}");
    let add = ["identity", "add", name, "--no-check", "--certificate", leaf.certificate()];
    house.good(&[&add[..], &["--key", &uri]].concat());
    leaf
}

/// A program that enters the PIN whenever it is asked, and counts.
pub(crate) struct Person {
    pub(crate) asked: Counter,
    cancel: Cancel,
    thread: JoinHandle<()>,
}

impl Person {
    pub(crate) fn who_knows(house: &House, pin: &'static str) -> Self {
        let (asked, cancel, pool) = (Counter::default(), Cancel::new(), house.pool());
        let (counter, stop) = (asked.clone(), cancel.clone());
        let thread = std::thread::spawn(move || {
            // It returns when it is cancelled.
            let _ = pool.pin_service(0, 60_000_000, &stop, |entry| {
                counter.add();
                *entry.pin = Text::cut(pin);
            });
        });
        Self { asked, cancel, thread }
    }

    /// Leaves.
    pub(crate) fn leave(self) {
        self.cancel.cancel();
        self.thread.join().unwrap();
    }
}

/// Sessions under load, and handshakes with a key in a file and with one on a token.
struct Scene {
    house: House,
    daemon: Daemon,
    person: Person,
    load: Load,
    file: Stream,
    token: Stream,
    raw: Raw,
}

const PIN: &str = "only-typed-8161";

impl Scene {
    /// With this time for a call of a module: a busy machine makes those slow that are not to hang.
    fn new(module_timeout: &str) -> Self {
        let mock = mock();
        let config = format!(
            "{NO_RESUMPTION}[keys]\nmodule_timeout = \"{module_timeout}\"\n[[keys.module]]\npath = \"{}\"",
            mock.display()
        );
        let house = House::with(&config);
        house.identity("file.example.com");
        let module = format!("?module-path={}", mock.display());
        identity_on_token(&house, "token.example.com", PIN, &module);
        let mut command = house.command(&["-f"]);
        command.env("P11MOCK_MODULE", tlspool_tests::SOFTHSM);
        command.env("P11MOCK_CONTROL", house.path("control"));
        let daemon = house.launch_command(command);
        let said = daemon.hear();
        assert!(said.starts_with("READY=1"), "{said}: {}", daemon.log());

        let person = Person::who_knows(&house, PIN);
        let raw = Raw::connect(&house.socket()).unwrap();
        let mut pairs = Vec::new();
        for name in ["file.example.com", "token.example.com"] {
            pairs.extend(raw.pairs(ESTABLISHED / 2, &client(name), &server(name)).unwrap());
        }
        let stream = |name| Stream::of_raw(house.socket(), client(name), server(name));
        let scene = Self {
            person,
            load: Load::on(pairs),
            file: stream("file.example.com"),
            token: stream("token.example.com"),
            raw,
            house,
            daemon,
        };
        scene.all_go_on();
        scene
    }

    fn all_go_on(&self) {
        self.load.await_rounds(2);
        self.file.await_more(4);
        self.token.await_more(4);
    }

    fn keyd(&self) -> Pid {
        let pid = self.house.status()["daemon"]["key_process_pid"].as_i64().unwrap();
        Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
    }

    fn restarts(&self) -> u64 {
        self.house.status()["daemon"]["key_process_restarts"].as_u64().unwrap()
    }

    /// Tells the module what to do.
    fn control(&self, words: &str) {
        let new = self.house.write("control.new", words);
        std::fs::rename(new, self.house.path("control")).unwrap();
    }

    /// What failed of the handshakes with files and with the token.
    fn end(self) -> [Vec<String>; 2] {
        self.all_go_on();
        let failures = [self.file.stop().1, self.token.stop().1];
        eprintln!("failed meanwhile: {failures:?}");
        let mut pairs: Vec<Pair> = self.load.stop();
        assert_eq!(pairs.len(), ESTABLISHED);
        for pair in &mut pairs {
            pair.exchange().unwrap();
        }
        assert_eq!(self.person.asked.now(), 1, "the PIN was typed more than once");
        self.person.leave();
        drop((pairs, self.raw));
        self.house.await_status("sessions", 0);
        self.daemon.stop();
        failures
    }
}

#[test]
fn the_key_process_is_killed() {
    let _alone = alone();
    let scene = Scene::new("1m");
    for restarts in 1..=3 {
        kill_process(scene.keyd(), Signal::KILL).unwrap();
        scene.house.await_status("daemon/key_process_restarts", restarts);
        scene.all_go_on();
    }
    let failures = scene.end();
    assert!(failures.iter().all(Vec::is_empty), "one retry is enough: {failures:?}");
}

#[test]
fn a_module_crashes() {
    let _alone = alone();
    let scene = Scene::new("1m");
    scene.control("crash");
    scene.daemon.await_log("killed by signal 6");
    scene.control("");
    scene.all_go_on();
    assert!(scene.restarts() >= 1);
    // Who had bad luck twice was told so.
    for failure in scene.end().concat() {
        assert!(failure.contains("key process"), "{failure}");
    }
}

#[test]
fn a_module_lies() {
    let _alone = alone();
    let scene = Scene::new("1m");
    scene.control("lie_length");
    scene.daemon.await_log("the key process restarts");
    scene.control("");
    scene.all_go_on();
    assert!(scene.restarts() >= 1);
    for failure in scene.end().concat() {
        assert!(failure.contains("key process"), "{failure}");
    }
}

#[test]
fn a_module_hangs() {
    let _alone = alone();
    let scene = Scene::new("3s");
    scene.control("hang");
    scene.daemon.await_log_that("which module does not return", |log| {
        log.split_once("does not return").is_some_and(|(_, rest)| rest.contains("libp11mock.so"))
    });
    scene.control("");
    scene.all_go_on();
    assert!(scene.restarts() >= 1);
    for failure in scene.end().concat() {
        assert!(failure.contains("key process"), "{failure}");
    }
}

#[test]
fn the_key_process_stands_still() {
    let _alone = alone();
    let scene = Scene::new("1m");
    let keyd = scene.keyd();
    kill_process(keyd, Signal::STOP).unwrap();
    // Who waits too long is told; sessions go on.
    let raw = Raw::connect(&scene.house.socket()).unwrap();
    let (near, far) = tcp();
    let brief = Starttls { timeout_ms: 300, ..server("token.example.com") };
    raw.ask(1, brief, near).unwrap();
    raw.ask(2, client("token.example.com"), far.into()).unwrap();
    let (error, text) = raw.refusal();
    assert!(text.contains("too long") || text.contains("key"), "{error:?}: {text}");
    scene.load.await_rounds(2);
    kill_process(keyd, Signal::CONT).unwrap();
    scene.all_go_on();
    drop(raw);
    assert_eq!(scene.restarts(), 0);
    let failures = scene.end();
    assert!(failures.iter().all(Vec::is_empty), "{failures:?}");
}

#[test]
fn the_processors_become_fewer() {
    let _alone = alone();
    let house = House::with(NO_RESUMPTION);
    let text = std::fs::read_to_string(house.path("tlspool.toml")).unwrap();
    house.write("tlspool.toml", &text.replace("workers = 2\n", ""));
    house.identity("example.com");
    let daemon = house.start();
    let workers = house.status()["workers"].as_array().unwrap().len();
    // As `systemctl set-property CPUQuota` or an affinity leave it one.
    let pid = Pid::from_raw(i32::try_from(daemon.pid()).unwrap()).unwrap();
    let all = sched_getaffinity(Some(pid)).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
    sched_setaffinity(Some(pid), &one).unwrap();
    let keyd = house.status()["daemon"]["key_process_pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(i32::try_from(keyd).unwrap()).unwrap(), Signal::KILL).unwrap();
    house.await_status("daemon/key_process_restarts", 1);
    // So many at a time that each worker has some.
    let raw = Raw::connect(&house.socket()).unwrap();
    let pairs = raw.pairs(8 * workers, &client("example.com"), &server("example.com")).unwrap();
    drop((pairs, raw));
    daemon.stop();
}
