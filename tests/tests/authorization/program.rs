//! A program behind a UNIX socket decides: one that behaves, one that does not, and the example.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use tlspool_client::StarttlsRequest;
use tlspool_tests::app::{Greeted, Outcome, Server, call};
use tlspool_tests::binaries::workspace;
use tlspool_tests::{House, LIMIT, Leaf, Process};

use crate::openssl_client::{VERSIONS, greeting, open, s_client};
use crate::{assert_denied, authorize, s_server, shown};

/// What the program does with a connection, once it has read the line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Does {
    Say(&'static str),
    /// Answers nothing until the test is over.
    Hang,
    /// Closes the connection.
    Die,
}

/// A program of this test.
pub(crate) struct Program {
    does: Arc<Mutex<Does>>,
    pub(crate) lines: Receiver<String>,
    held: Arc<Mutex<Vec<UnixStream>>>,
}

impl Program {
    pub(crate) fn start(house: &House) -> Self {
        let path = house.path("authorizer.sock");
        let listener = UnixListener::bind(&path).unwrap();
        // The look-up process is another user, if we are root.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let (does, held) = (Arc::new(Mutex::new(Does::Hang)), Arc::<Mutex<Vec<_>>>::default());
        let (heard, lines) = channel();
        let program = Self { does: does.clone(), lines, held: held.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                let what = *does.lock().unwrap();
                match what {
                    Does::Say(words) => stream.write_all(words.as_bytes()).unwrap_or_default(),
                    Does::Hang => held.lock().unwrap().push(stream),
                    Does::Die => drop(stream),
                }
                // Only now, so that who waits for the line finds the stream held.
                if heard.send(line).is_err() {
                    return;
                }
            }
        });
        program
    }

    pub(crate) fn now(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    /// The next question.
    pub(crate) fn asked(&self) -> serde_json::Value {
        let line = self.lines.recv_timeout(LIMIT).expect("it is asked");
        assert!(line.ends_with('\n'), "{line:?}");
        serde_json::from_str(&line).unwrap()
    }

    /// Answers all who wait.
    pub(crate) fn release(&self, words: &str) {
        for mut stream in self.held.lock().unwrap().drain(..) {
            stream.write_all(words.as_bytes()).unwrap();
        }
    }
}

/// `[authorization]` with a program at `authorizer.sock`.
pub(crate) fn configuration(house: &House, more: &str, program: &str) -> String {
    format!(
        "[authorization]\n{more}\n[authorization.program]\nsocket = \"{}\"\n{program}\n",
        house.text("authorizer.sock")
    )
}

fn imap() -> StarttlsRequest {
    StarttlsRequest::server().service("imap").unwrap()
}

fn refused((good, said, outcome): (bool, String, Outcome<Greeted>), words: &str) {
    assert!(!good && !said.contains("you are"), "{said}");
    assert!(said.contains("alert access denied"), "{said}");
    assert_denied(&outcome.unwrap_err(), words);
}

pub(crate) const NO: &str = "{\"allow\":false,\"reason\":\"not on a Sunday\"}\n";
pub(crate) const YES: &str = "{\"allow\":true}\n";

#[test]
fn it_is_asked_and_obeyed() {
    let house = House::new();
    house.configure(&configuration(&house, "", ""));
    house.identity("example.com");
    house.identity("jane@example.org");
    let john = house.authority().leaf("john@example.org");
    let program = Program::start(&house);
    let daemon = house.start();
    for (option, _) in VERSIONS {
        let go = |request, more: &[&str]| {
            greeting(&house, request, "example.com", &[&[option], more].concat())
        };
        program.now(Does::Say(YES));
        assert_eq!(go(imap(), &shown(&john)).2.unwrap().remoteid, "john@example.org");
        assert_eq!(
            program.asked(),
            serde_json::json!({"version": 1, "role": "server", "remote": "john@example.org",
                "local": "example.com", "service": "imap"})
        );
        assert_eq!(go(open(), &[]).2.unwrap().remoteid, "");
        let question = program.asked();
        assert!(question["remote"].is_null() && question["service"].is_null(), "{question}");
        program.now(Does::Say(NO));
        let words = format!("by {}: not on a Sunday", house.text("authorizer.sock"));
        let outcome = go(imap(), &shown(&john));
        program.asked();
        let error = outcome.2.as_ref().unwrap_err().to_string();
        // The message has 127 bytes; the log has it all.
        assert!(words.starts_with("by ") && error.contains("is not authorized, by /"), "{error}");
        refused(outcome, "john@example.org is not authorized, by /");
        daemon.await_log(&words);
        // A rule denies without it, and one that allows does not overrule it.
        let rule = authorize(&house, &["add", "deny", "john@example.org"]);
        refused(go(imap(), &shown(&john)), &format!("by rule {rule}"));
        authorize(&house, &["remove", &rule]);
        let rule = authorize(&house, &["add", "allow", "john@example.org"]);
        refused(go(imap(), &shown(&john)), "is not authorized, by /");
        program.asked();
        authorize(&house, &["remove", &rule]);
        // As a client, before anything of ours leaves.
        let leaf = house.authority().leaf("www.example.net");
        let (server, address) = s_server(&house, &leaf, &["-Verify", "1", option]);
        let request = StarttlsRequest::client("www.example.net").unwrap();
        let request = request.localid("jane@example.org").unwrap().service("https").unwrap();
        let error = call(&house.pool(), request.clone(), &address).map(drop).unwrap_err();
        assert_denied(&error, "www.example.net is not authorized");
        assert_eq!(
            program.asked(),
            serde_json::json!({"version": 1, "role": "client", "remote": "www.example.net",
                "local": "jane@example.org", "service": "https"})
        );
        let said = server.await_words("alert access denied");
        assert!(!said.contains("Peer certificate: "), "our certificate left: {said}");
        program.now(Does::Say(YES));
        drop(call(&house.pool(), request, &address).unwrap());
        program.asked();
        assert!(program.lines.try_recv().is_err(), "once for each handshake");
    }
    daemon.stop();
}

#[test]
fn one_that_misbehaves_denies() {
    for unreachable in ["deny", "allow"] {
        let house = House::new();
        let more = format!("unreachable = \"{unreachable}\"");
        house.configure(&configuration(&house, &more, "timeout = \"50s\""));
        house.identity("example.com");
        let john = house.authority().leaf("john@example.org");
        let daemon = house.start();
        let go = || greeting(&house, imap(), "example.com", &shown(&john));
        let tried = |may_pass: bool, words: &str| {
            if may_pass && unreachable == "allow" {
                assert_eq!(go().2.unwrap().remoteid, "john@example.org", "{words}");
            } else {
                refused(go(), "john@example.org is not authorized");
                daemon.await_log(words);
            }
        };
        tried(true, "unreachable: No such file");
        let program = Program::start(&house);
        for (does, may_pass, words) in [
            (Does::Say("yes\n"), false, "its answer is none"),
            (Does::Say("{\"allow\":\"yes\"}\n"), false, "invalid type"),
            (Does::Say("{}\n"), false, "missing field `allow`"),
            (Does::Die, true, "it hung up without an answer"),
            (Does::Say("{\"allow\":true}"), true, "in the middle of its answer"),
        ] {
            program.now(does);
            tried(may_pass, words);
        }
        let long: &'static str = Box::leak(format!("{}\n", " ".repeat(100_000)).into_boxed_str());
        program.now(Does::Say(long));
        tried(false, "its answer has more than 4096 bytes");
        // Nothing to say is no denial.
        program.now(Does::Say("{\"allow\":null}\n"));
        assert_eq!(go().2.unwrap().remoteid, "john@example.org");
        house.configure(&configuration(&house, &more, "timeout = \"500ms\""));
        daemon.reload();
        program.now(Does::Hang);
        tried(true, "no answer within 500ms");
        daemon.stop();
    }
}

/// A handshake whose decision is waited for: its two ends.
fn waiting(house: &House, leaf: &Leaf) -> (Server<Greeted>, Process) {
    let server = Server::greeter(house.pool(), imap());
    let mut peer = Process::start(&mut s_client(house, &server.at(), "example.com", &shown(leaf)));
    peer.tell("hello\n");
    (server, peer)
}

#[test]
fn one_that_hangs_holds_nobody_else() {
    const QUESTIONS: usize = 4;
    let house = House::new();
    let bound = format!("timeout = \"50s\"\nquestions = {QUESTIONS}");
    house.configure(&configuration(&house, "ask = \"undecided\"", &bound));
    house.identity("example.com");
    let [john, jane] = ["john@example.org", "jane@example.org"].map(|n| house.authority().leaf(n));
    authorize(&house, &["add", "allow", "jane@example.org"]);
    let program = Program::start(&house);
    let daemon = house.start();
    let pending: Vec<_> = (0..QUESTIONS).map(|_| waiting(&house, &john)).collect();
    for _ in 0..QUESTIONS {
        program.asked();
    }
    // Who needs no answer does not wait.
    for (option, _) in VERSIONS {
        let more = [&[option], &shown(&jane)[..]].concat();
        let (_, _, outcome) = greeting(&house, imap(), "example.com", &more);
        assert_eq!(outcome.unwrap().remoteid, "jane@example.org");
    }
    // Who comes on top of the bound is told so at once.
    refused(greeting(&house, imap(), "example.com", &shown(&john)), "john@example.org is not");
    daemon.await_log("4 questions are under way at");
    program.release(YES);
    for (server, peer) in pending {
        assert_eq!(server.outcome().unwrap().remoteid, "john@example.org");
        drop(peer);
    }
    daemon.stop();
}

#[test]
fn a_question_survives_the_end_of_the_look_up_process() {
    let house = House::new();
    house.configure(&configuration(&house, "", "timeout = \"50s\""));
    house.identity("example.com");
    let john = house.authority().leaf("john@example.org");
    let program = Program::start(&house);
    let daemon = house.start();
    let (server, _peer) = waiting(&house, &john);
    program.asked();
    let pid = house.status().pointer("/daemon/lookup_process_pid").unwrap().as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    program.now(Does::Say(YES));
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    program.asked();
    assert_eq!(server.outcome().unwrap().remoteid, "john@example.org");
    daemon.stop();
}

#[test]
fn the_example_decides_by_its_list() {
    let house = House::new();
    house.configure(&configuration(&house, "default = \"deny\"", ""));
    house.identity("example.com");
    let [john, jane] = ["john@example.org", "jane@example.org"].map(|n| house.authority().leaf(n));
    house.write("people", "# who\njohn@example.org imap smtp\n");
    let mut command = Command::new("python3");
    command.arg(workspace().join("examples/authorizer.py"));
    let example =
        Process::start(command.args([house.text("authorizer.sock"), house.text("people")]));
    example.await_words("ready");
    let daemon = house.start();
    let go = |request, more: &[&str]| greeting(&house, request, "example.com", more);
    let denied = |outcome: (bool, String, Outcome<Greeted>), why: &str| {
        refused(outcome, "is not authorized, by /");
        daemon.await_log(why);
    };
    assert_eq!(go(imap(), &shown(&john)).2.unwrap().remoteid, "john@example.org");
    denied(go(imap().service("pop3").unwrap(), &shown(&john)), "not for pop3");
    denied(go(imap(), &shown(&jane)), "not on the list");
    denied(go(open(), &[]), "show a certificate");
    // The command asks it too.
    let check = ["authorize", "check", "john@example.org", "--service", "imap"];
    let said = house.good(&check);
    assert!(
        said.contains("authorizer.sock") && said.ends_with("authorization: allowed\n"),
        "{said}"
    );
    house.write("people", "example.org\n");
    assert_eq!(go(imap(), &shown(&jane)).2.unwrap().remoteid, "jane@example.org");
    // Nonsense is no end of it.
    let mut stream = UnixStream::connect(house.path("authorizer.sock")).unwrap();
    stream.write_all(b"nonsense\n").unwrap();
    assert!(house.run(&check).ok);
    daemon.stop();
}
