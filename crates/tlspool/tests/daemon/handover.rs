//! `-k`: a daemon takes the place of another.

use super::house::{House, LIMIT, await_status, of_process, signal_pid, text};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tlspool_client::{Facilities, Pool};
use tlspoold::config::AbsolutePath;
use tlspoold::supervisor::control::{ControlClient, ControlError};
use tlspoold::supervisor::message::{Channel, ControlReply, ControlRequest};
use tlspoold::supervisor::pidfile::PidFile;
use tlspoold::supervisor::pin_memory;

#[test]
fn a_handover_loses_no_connect() {
    let house = House::new();
    let old = house.start(&[]);
    let stop = Arc::new(AtomicBool::new(false));
    let client = {
        let (stop, path) = (stop.clone(), house.path("run/sock"));
        std::thread::spawn(move || {
            let mut pings = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // A new connection each time.
                Pool::at(&path).ping("20260101test@example.com", Facilities::STARTTLS).unwrap();
                pings += 1;
            }
            pings
        })
    };
    let mut daemon = old;
    for _ in 0..3 {
        let new = house.start(&["-k"]);
        assert_eq!(daemon.hear(), format!("MAINPID={}", new.pid()));
        let (good, log) = daemon.end();
        assert!(good, "{log}");
        assert_eq!(house.pid_in_file(), new.pid().to_string());
        assert_eq!(house.status()["daemon"]["pid"], new.pid());
        daemon = new;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(client.join().unwrap() > 0);
}

#[test]
fn a_successor_that_cannot_start_changes_nothing() {
    let house = House::new();
    let daemon = house.start(&[]);
    fs::write(house.path("occupied"), "").unwrap();
    let second = house.path("occupied");
    let config = fs::read_to_string(house.path("tlspool.toml")).unwrap();
    let broken =
        config.replace("socket = [", &format!("socket = [{{ path = \"{}\" }}, ", second.display()));
    fs::write(house.path("tlspool.toml"), broken).unwrap();
    let output = house.output(&["-f", "-k"]);
    assert!(!output.status.success());
    house.connect().unwrap();
    assert_eq!(house.pid_in_file(), daemon.pid().to_string());
    assert_eq!(house.status()["daemon"]["state"], "serving");
    house.configure("");
    let new = house.start(&["-k"]);
    assert!(daemon.end().0);
    assert_eq!(house.pid_in_file(), new.pid().to_string());
}

#[test]
fn a_successor_takes_away_the_socket_that_it_does_not_want() {
    let house = House::new();
    let config = fs::read_to_string(house.path("tlspool.toml")).unwrap();
    let more = house.path("run/more");
    let two = format!("socket = [{{ path = \"{}\", mode = \"0600\" }}, ", more.display());
    fs::write(house.path("tlspool.toml"), config.replace("socket = [", &two)).unwrap();
    let daemon = house.start(&[]);
    UnixStream::connect(&more).unwrap();
    fs::write(house.path("tlspool.toml"), config).unwrap();
    let new = house.start(&["-k"]);
    assert!(daemon.end().0);
    assert!(!more.exists());
    assert_eq!(house.pid_in_file(), new.pid().to_string());
}

#[test]
fn a_daemon_that_does_not_talk_gets_term() {
    let house = House::new();
    let old = house.start(&[]);
    fs::remove_file(house.path("run/control.sock")).unwrap();
    let new = house.start(&["-k"]);
    assert!(new.log().contains("it is sent TERM"), "{}", new.log());
    assert!(old.end().0);
    house.connect().unwrap();
    assert_eq!(house.pid_in_file(), new.pid().to_string());
}

#[test]
fn a_handover_makes_a_new_look_up_process() {
    let house = House::new();
    house.configure("[dns]\n");
    let old = house.start(&[]);
    let first = house.status()["daemon"]["lookup_process_pid"].as_u64().unwrap();
    let new = house.start(&["-k"]);
    let (good, log) = old.end();
    assert!(good && !log.contains("ERROR"), "{log}");
    // It has ended with the network process that it served.
    assert!(!Path::new(&format!("/proc/{first}")).exists());
    let status = await_status(&house, |status| status["look_ups"]["queries"] == 0);
    assert_ne!(status["daemon"]["lookup_process_pid"], first);
    new.signal(rustix::process::Signal::TERM);
    let (good, log) = new.end();
    assert!(good && !log.contains("ERROR"), "{log}");
}

/// A thread whose children have a system call filter more than we, as the parts of a daemon have.
fn confined<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
    let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let calls = [(libc::SYS_reboot, vec![])].into();
    let filter = SeccompFilter::new(calls, SeccompAction::Allow, SeccompAction::Log, arch).unwrap();
    let thread = std::thread::spawn(move || {
        rustix::thread::set_no_new_privs(true).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        what()
    });
    thread.join().unwrap()
}

#[test]
fn a_confined_process_gets_no_pins() {
    let house = House::new();
    let daemon = house.start(&[]);
    let (mut replace, mut look) = (house.command(&["-f", "-k"]), house.command(&["status"]));
    replace.stderr(fs::File::create(house.path("refused")).unwrap());
    let (mut refused, looked) =
        confined(move || (replace.spawn().unwrap(), look.output().unwrap()));
    let end = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = refused.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            refused.kill().unwrap();
        }
        std::thread::yield_now();
    };
    let error = fs::read_to_string(house.path("refused")).unwrap();
    assert!(!status.success());
    assert!(
        error.contains("the running tlspool refuses") && error.contains("is confined"),
        "{error}"
    );
    assert!(looked.status.success(), "{}", text(&looked.stderr));
    // It was not sent TERM either.
    assert_eq!(house.status()["daemon"]["state"], "serving");
    assert_eq!(house.pid_in_file(), daemon.pid().to_string());
    assert!(daemon.log().contains("by who may not"), "{}", daemon.log());
}

/// A daemon's control socket, as a new daemon uses it.
fn control(house: &House) -> ControlClient {
    let path = AbsolutePath::new(house.path("run/control.sock")).unwrap();
    ControlClient::connect(&path).unwrap()
}

fn take_over(house: &House) -> Result<(ControlClient, Vec<OwnedFd>), ControlError> {
    let mut client = control(house);
    let request = ControlRequest::TakeOver { pid: rustix::process::getpid().as_raw_pid() };
    client.ask(&request).map(|(_, fds)| (client, fds))
}

#[test]
fn one_successor_at_a_time() {
    let house = House::new();
    let daemon = house.start(&[]);
    let first = take_over(&house).unwrap();
    let ControlError::Refused(problem) = take_over(&house).err().unwrap() else {
        panic!("another answer")
    };
    assert!(problem.contains(&format!("PID {}", std::process::id())), "{problem}");
    let second = house.output(&["-f", "-k"]);
    assert!(text(&second.stderr).contains("takes over already"), "{}", text(&second.stderr));
    // Who was not given anything cannot send the daemon away.
    let commit = control(&house).ask(&ControlRequest::Commit).err().unwrap();
    assert!(matches!(commit, ControlError::Refused(_)), "{commit}");
    assert_eq!(house.status()["daemon"]["state"], "serving");
    drop(first);
    // When the first has failed, the next one may.
    await_status(&house, |status| status["daemon"]["successor_pid"] == Value::Null);
    drop(take_over(&house).unwrap());
    assert_eq!(house.pid_in_file(), daemon.pid().to_string());
}

#[test]
fn term_in_the_middle_of_a_handover_leaves_the_successor_what_it_has() {
    let house = House::new();
    let daemon = house.start(&[]);
    let (mut client, fds) = take_over(&house).unwrap();
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.hear(), "STOPPING=1\nSTATUS=draining");
    client.ask(&ControlRequest::Commit).unwrap();
    let (good, log) = daemon.end();
    assert!(good && log.contains("is left to it"), "{log}");
    // The socket is where programs look for it, and the lock is the successor's.
    house.connect().unwrap();
    assert!(house.path("run/tlspool.pid").exists());
    let other = house.output(&["-f"]);
    assert!(text(&other.stderr).contains("is running already"), "{}", text(&other.stderr));
    drop(fds);
    // One that ends without a successor leaves nothing.
    let daemon = house.start(&[]);
    drop(take_over(&house).unwrap());
    await_status(&house, |status| status["daemon"]["successor_pid"] == Value::Null);
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.end().0);
    assert_eq!(fs::read_dir(house.path("run")).unwrap().count(), 0);
}

/// In the place of a daemon that is to be replaced.
struct Old {
    pid_file: PidFile,
    listener: UnixListener,
    control: OwnedFd,
}

impl Old {
    fn of(house: &House) -> Self {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
        fs::create_dir(house.path("run")).unwrap();
        let pid_file = AbsolutePath::new(house.path("run/tlspool.pid")).unwrap();
        let pid_file = PidFile::lock(&pid_file).unwrap();
        pid_file.write().unwrap();
        let listener = UnixListener::bind(house.path("run/sock")).unwrap();
        fs::set_permissions(house.path("run/sock"), fs::Permissions::from_mode(0o600)).unwrap();
        let control = socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let path = house.path("run/control.sock");
        bind(&control, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&control, 4).unwrap();
        Self { pid_file, listener, control }
    }

    /// Hands over to the next one that wants it.
    fn hand_over(&self, house: &House) -> Channel {
        let mut channel = Channel::new(rustix::net::accept(&self.control).unwrap());
        let (asked, _) = channel.recv::<ControlRequest>().unwrap().unwrap();
        assert!(matches!(asked, ControlRequest::TakeOver { .. }), "{asked:?}");
        let reply = ControlReply::Handover {
            listeners: vec![house.path("run/sock")],
            pid: rustix::process::getpid().as_raw_pid(),
            from_systemd: false,
            notify_socket: None,
        };
        let pins = pin_memory::create().unwrap();
        let fds = [self.pid_file.as_fd(), pins.as_fd(), self.listener.as_fd()];
        channel.send(&reply, &fds).unwrap();
        channel
    }
}

#[test]
fn a_successor_that_cannot_serve_leaves_mode_and_pid_as_they_were() {
    let house = House::new();
    let config = fs::read_to_string(house.path("tlspool.toml")).unwrap();
    fs::write(house.path("tlspool.toml"), config.replace("0600", "0666")).unwrap();
    let old = Old::of(&house);
    let mut successor = house.command(&["-f", "-k"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut channel = old.hand_over(&house);
    // Where its control socket is to be, there is now something that it cannot replace.
    fs::remove_file(house.path("run/control.sock")).unwrap();
    fs::create_dir_all(house.path("run/control.sock/in/the/way")).unwrap();
    let mut error = String::new();
    successor.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(!successor.wait().unwrap().success());
    assert!(error.contains("make the control socket"), "{error}");
    assert!(channel.recv::<ControlRequest>().unwrap().is_none(), "it does not commit");
    assert_eq!(house.pid_in_file(), std::process::id().to_string());
    let mode = fs::metadata(house.path("run/sock")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert_eq!(fs::read_dir(house.path("run")).unwrap().count(), 3);
}

#[test]
fn a_successor_does_not_serve_where_nobody_can_connect() {
    let house = House::new();
    let old = Old::of(&house);
    let mut successor = house.command(&["-f", "-k"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut channel = old.hand_over(&house);
    let (asked, _) = channel.recv::<ControlRequest>().unwrap().unwrap();
    assert!(matches!(asked, ControlRequest::Commit), "{asked:?}");
    // A daemon that was told to end, and did not know better than to take all with it.
    fs::remove_file(house.path("run/sock")).unwrap();
    let problem = "it drains already".to_owned();
    channel.send(&ControlReply::Refused { problem }, &[]).unwrap();
    let mut error = String::new();
    successor.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(!successor.wait().unwrap().success());
    assert!(
        error.contains("was told to end meanwhile") && error.contains("run/sock is gone"),
        "{error}"
    );
    assert!(!house.path("run/control.sock").exists());
}

#[test]
fn a_successor_serves_when_the_old_daemon_dies_in_between() {
    let house = House::new();
    let old = Old::of(&house);
    let notify = tempfile::tempdir().unwrap();
    let systemd = UnixDatagram::bind(notify.path().join("notify")).unwrap();
    systemd.set_read_timeout(Some(LIMIT)).unwrap();
    let mut successor = house.command(&["-f", "-k"]);
    successor.env("NOTIFY_SOCKET", notify.path().join("notify")).stderr(Stdio::null());
    let mut successor = successor.spawn().unwrap();
    drop((old.hand_over(&house), old));
    let mut buffer = [0; 500];
    let length = systemd.recv(&mut buffer).unwrap();
    assert!(text(&buffer[..length]).starts_with("READY=1\n"));
    assert_eq!(house.pid_in_file(), successor.id().to_string());
    house.connect().unwrap();
    signal_pid(successor.id(), rustix::process::Signal::TERM);
    assert!(successor.wait().unwrap().success());
    assert_eq!(fs::read_dir(house.path("run")).unwrap().count(), 0);
}

/// A field of /proc/PID/limits: the soft one.
fn limit_of(pid: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().to_owned()
}

/// A process that is nobody's child, and ends with the test if it has not before.
struct Ends(i32);

impl Drop for Ends {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

#[test]
fn a_daemon_of_a_unit_starts_its_successor_within_it() {
    let house = House::new();
    // The surroundings of the unit, to be known by.
    let mut unit = Command::new("sh");
    unit.args(["-c", "ulimit -n 777; UNIT=mine exec \"$@\"", "sh", env!("CARGO_BIN_EXE_tlspool")]);
    unit.args(["-f", "-c"]).arg(house.path("tlspool.toml"));
    let old = House::start_command(unit);
    let asked = house.output(&["-k"]);
    assert!(asked.status.success(), "{}", text(&asked.stderr));
    let heard = old.hear();
    let new = heard.strip_prefix("MAINPID=").unwrap_or_else(|| panic!("{heard}"));
    let _ends = Ends(new.parse().unwrap());
    assert_eq!(house.pid_in_file(), new);
    assert!(old.hear().starts_with(&format!("READY=1\nMAINPID={new}")));
    assert_eq!(limit_of(new, "Max open files"), "777");
    let environment = text(&fs::read(format!("/proc/{new}/environ")).unwrap());
    assert!(environment.contains("UNIT=mine"), "{environment}");
    // It is not the old one's child, which systemd could not watch.
    let number = Value::from(new.parse::<u32>().unwrap());
    assert_ne!(of_process(&number, "PPid"), old.pid().to_string());
    house.connect().unwrap();
    // What is wrong with the next one is told where it was asked for; nothing changes.
    house.configure("[limits]\nsesions = 5\n");
    let asked = house.output(&["-k"]);
    assert!(!asked.status.success());
    assert!(text(&asked.stderr).contains("limits.sesions"), "{}", text(&asked.stderr));
    house.configure("[[keys.module]]\n");
    assert_eq!(house.pid_in_file(), new);
    signal_pid(new.parse().unwrap(), rustix::process::Signal::TERM);
    assert!(old.hear().starts_with("STOPPING=1"));
    let end = Instant::now() + LIMIT;
    while Path::new(&format!("/proc/{new}/ns")).exists() && house.path("run/sock").exists() {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    let (good, log) = old.end();
    assert!(good && log.contains("starting the new daemon"), "{log}");
}
