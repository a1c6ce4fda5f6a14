//! `tlspool -p` with a SoftHSM2 token: a wrong PIN is told, the right one opens the key for the handshakes
//! that wait, and the key process may die without anybody being asked again.

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use tlspool_client::{Error, Plaintext, Pool, Session, StarttlsFlags, StarttlsRequest};

const PIN: &str = "736251";
const NAME: &str = "pin.example.com";

struct House {
    dir: tempfile::TempDir,
}

impl Drop for House {
    fn drop(&mut self) {
        if let Ok(text) = fs::read_to_string(self.path("run/tlspool.pid"))
            && let Some(pid) = text.trim().parse().ok().and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

impl House {
    /// A running daemon with an identity whose key is on a token, with no PIN anywhere.
    fn new() -> Self {
        let house = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(house.path("tokens")).unwrap();
        let tokens = house.path("tokens");
        let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
        fs::write(house.path("softhsm2.conf"), text).unwrap();
        let mut softhsm = Command::new("softhsm2-util");
        softhsm.args(["--init-token", "--free", "--label", "pins", "--so-pin", "12345678"]);
        let made = softhsm.args(["--pin", PIN]).env("SOFTHSM2_CONF", house.path("softhsm2.conf"));
        let made = made.output().expect("softhsm2-util is there (scripts/setup-debian.sh)");
        assert!(made.status.success(), "{made:?}");

        let uid = rustix::process::geteuid().as_raw();
        let (dir, module) = (house.dir.path().display(), module().display().to_string());
        let text = format!(
            "user = \"{uid}\"\nkey_user = \"{uid}\"\nworkers = 1\nruntime_dir = \"{dir}/run\"\n\
             database = \"{dir}/db\"\nsocket = [{{ path = \"{dir}/sock\" }}]\n\
             [[keys.module]]\npath = \"{module}\"\n[trust]\nsystem = false\n"
        );
        fs::write(house.path("tlspool.toml"), text).unwrap();

        // The key is made with the PIN at hand, and then known without it.
        fs::write(house.path("pin"), PIN).unwrap();
        let token = format!("pkcs11:token=pins?pin-source=file:{dir}/pin");
        house.good(&["identity", "create", NAME, "--token", &token]);
        let exported = house.good(&["identity", "export"]);
        fs::remove_file(house.path("pin")).unwrap();
        let without = exported.replace(&format!("?pin-source=file:{dir}/pin"), "");
        assert_ne!(without, exported);
        fs::write(house.path("export"), without).unwrap();
        house.good(&["identity", "remove", NAME]);
        house.good(&["identity", "import", &house.path("export").display().to_string()]);

        let log = fs::File::create(house.path("log")).unwrap();
        assert!(house.tlspool(&[]).stderr(log).status().unwrap().success(), "{}", house.log());
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn tlspool(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tlspool"));
        command.arg("-c").arg(self.path("tlspool.toml")).args(arguments);
        command.env("SOFTHSM2_CONF", self.path("softhsm2.conf")).stdin(Stdio::null());
        command
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.tlspool(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.good(&["status", "--json"])).unwrap()
    }

    /// Waits until the status is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        let end = Instant::now() + Duration::from_mins(1);
        loop {
            let status = self.status();
            if wanted(&status) {
                return;
            }
            assert!(Instant::now() < end, "never {what}: {status:#}\n{}", self.log());
        }
    }

    /// A handshake with ourselves, with the key on the token.
    fn shake(&self) -> (Result<Session, Error>, Result<Session, Error>) {
        let pool = Pool::at(self.path("sock"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        let ignore = StarttlsFlags::IGNORE_REMOTEID;
        let client = StarttlsRequest::client(NAME).unwrap().flags(ignore);
        let server = StarttlsRequest::server().localid(NAME).unwrap().flags(ignore);
        thread::scope(|scope| {
            let pool = &pool;
            let serving =
                scope.spawn(move || pool.starttls(server, OwnedFd::from(far), Plaintext::pair()));
            let connected = pool.starttls(client, OwnedFd::from(near), Plaintext::pair());
            (connected, serving.join().unwrap())
        })
    }

    /// `tlspool -p` with these lines as its input.
    fn pins(&self, arguments: &[&str], lines: &str) -> Child {
        let mut command = self.tlspool(&["-p"]);
        command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        child
    }
}

fn module() -> PathBuf {
    let places = ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"];
    let place = places.iter().map(Path::new).find(|place| place.exists());
    place.expect("SoftHSM2 is there (scripts/setup-debian.sh)").to_owned()
}

fn good(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn handshakes_wait_for_the_person_and_a_new_key_process_asks_nobody() {
    let house = House::new();
    thread::scope(|scope| {
        let shaking = scope.spawn(|| house.shake());
        house.until("a token waits", |status| {
            status["tokens_waiting_for_pin"].as_array().is_some_and(|tokens| !tokens.is_empty())
        });
        let output = good(house.pins(&["--once"], &format!("000000\n{PIN}\n")));
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.matches("PIN of token pins").count(), 2, "{said}");
        assert_eq!(said.matches("Wrong PIN").count(), 1, "{said}");
        assert!(!said.contains(PIN));
        let (connected, serving) = shaking.join().unwrap();
        connected.unwrap();
        assert_eq!(serving.unwrap().localid(), NAME);
    });

    let before = house.status()["daemon"]["key_process_pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(before).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    house.until("restarted", |status| status["daemon"]["key_process_restarts"] == 1);
    let (connected, serving) = house.shake();
    connected.unwrap();
    serving.unwrap();
    assert!(!house.log().contains(PIN));

    // The successor has the PIN too.
    let log = fs::File::options().append(true).open(house.path("log")).unwrap();
    assert!(house.tlspool(&["-k"]).stderr(log).status().unwrap().success());
    let (connected, serving) = house.shake();
    connected.unwrap();
    serving.unwrap();
}
