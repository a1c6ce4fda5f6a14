//! The daemon as a process: start, refusal, handover, signals. Nothing here sleeps.

mod database;
mod handover;
mod house;

use house::{House, await_status, of_process, signal_pid, silent_peer, text};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use tlspool_client::{Facilities, Plaintext, Pool, StarttlsRequest};

#[test]
fn starts_serves_and_leaves_nothing_behind() {
    let house = House::new();
    fs::create_dir(house.path("run")).unwrap();
    fs::write(house.path("run/tlspool.pid"), "4194304\n").unwrap();
    let daemon = house.start(&[]);
    assert_eq!(house.pid_in_file(), daemon.pid().to_string());
    house.connect().unwrap();
    let mode = |name| fs::metadata(house.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("run/sock"), 0o600);
    assert_eq!(mode("run/control.sock"), 0o600);
    let status = house.status();
    assert_eq!(status["daemon"]["pid"], daemon.pid());
    assert_eq!(status["daemon"]["state"], "serving");
    let table = text(&house.output(&["status"]).stdout);
    assert!(table.contains(&format!("pid                      {}", daemon.pid())), "{table}");

    daemon.signal(rustix::process::Signal::TERM);
    let (good, log) = daemon.end();
    assert!(good, "{log}");
    assert!(log.contains("drained") && !log.contains("ERROR"), "{log}");
    assert_eq!(fs::read_dir(house.path("run")).unwrap().count(), 0);
    let error = text(&house.output(&["status"]).stderr);
    assert!(error.contains("is it running"), "{error}");
}

#[test]
fn a_second_daemon_is_refused() {
    let house = House::new();
    let daemon = house.start(&[]);
    for arguments in [&["-f"][..], &[]] {
        let second = house.output(arguments);
        let error = text(&second.stderr);
        assert!(!second.status.success());
        assert!(error.contains(&format!("with PID {}", daemon.pid())), "{error}");
        assert!(error.contains("`tlspool -k`"), "{error}");
    }
    house.connect().unwrap();
}

#[test]
fn the_terminal_gets_its_prompt_when_the_daemon_serves() {
    let house = House::new();
    // The log may go to standard error, so a pipe there would stay open.
    let log = fs::File::create(house.path("log")).unwrap();
    assert!(house.command(&[]).stderr(log).status().unwrap().success());
    house.connect().unwrap();
    let pid: u32 = house.pid_in_file().parse().unwrap();
    assert_ne!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), house.dir.path());
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    // A daemon of ours in the foreground ends the one in the background.
    let second = house.start(&["-k"]);
    assert_eq!(house.pid_in_file(), second.pid().to_string());
}

#[test]
fn what_prevents_the_start_is_told_on_the_terminal() {
    let house = House::new();
    fs::create_dir(house.path("run")).unwrap();
    fs::write(house.path("run/sock"), "precious").unwrap();
    for arguments in [&[][..], &["-f"]] {
        let output = house.output(arguments);
        let error = text(&output.stderr);
        assert!(!output.status.success());
        assert!(error.contains("run/sock is there and is no socket"), "{error}");
    }
    house.configure("[limits]\nsesions = 5\n");
    for arguments in [&[][..], &["-f"], &["check"]] {
        let error = text(&house.output(arguments).stderr);
        assert!(error.contains("tlspool.toml:9:1: limits.sesions:"), "{error}");
        assert!(error.contains("did you mean `sessions`?"), "{error}");
    }
}

#[test]
fn a_key_process_that_dies_is_started_again() {
    let house = House::new();
    let _daemon = house.start(&[]);
    let before = house.status();
    let pid = before["daemon"]["key_process_pid"].as_u64().unwrap();
    signal_pid(u32::try_from(pid).unwrap(), rustix::process::Signal::KILL);
    let status = await_status(&house, |status| status["daemon"]["key_process_restarts"] == 1);
    assert_ne!(status["daemon"]["key_process_pid"], pid);
    assert_eq!(status["daemon"]["network_pid"], before["daemon"]["network_pid"]);
}

#[test]
fn a_look_up_process_is_there_if_it_is_configured() {
    let house = House::new();
    let daemon = house.start(&[]);
    let status = house.status();
    assert_eq!(status["daemon"]["lookup_process_pid"], Value::Null);
    assert_eq!(status["look_ups"], Value::Null);
    // HUP starts it,
    house.configure("[dns]\n");
    let reload = || {
        daemon.signal(rustix::process::Signal::HUP);
        assert!(daemon.hear().starts_with("RELOADING=1\n"));
        assert!(daemon.hear().starts_with("READY=1\n"));
    };
    reload();
    let before = await_status(&house, |status| status["look_ups"]["queries"] == 0);
    let pid = before["daemon"]["lookup_process_pid"].as_u64().unwrap();
    // and makes it read its files again,
    reload();
    let next = await_status(&house, |status| status["look_ups"]["queries"] == 0);
    let pid = {
        assert_ne!(next["daemon"]["lookup_process_pid"], pid);
        next["daemon"]["lookup_process_pid"].as_u64().unwrap()
    };
    // a death does not stay,
    let restarts = next["daemon"]["lookup_process_restarts"].as_u64().unwrap();
    signal_pid(u32::try_from(pid).unwrap(), rustix::process::Signal::KILL);
    let after = await_status(&house, |status| {
        status["daemon"]["lookup_process_restarts"].as_u64() > Some(restarts)
            && status["look_ups"]["queries"] == 0
    });
    assert_ne!(after["daemon"]["lookup_process_pid"], pid);
    assert_eq!(after["daemon"]["network_pid"], before["daemon"]["network_pid"]);
    assert!(daemon.log().contains("the look-up process was killed by signal 9"));
    // and HUP ends it.
    house.configure("");
    reload();
    let pid = &house.status()["daemon"]["lookup_process_pid"];
    assert_eq!(*pid, Value::Null);
    await_status(&house, |status| status["look_ups"] == Value::Null);
    daemon.signal(rustix::process::Signal::TERM);
    assert!(daemon.end().0);
}

#[test]
fn without_a_network_process_the_daemon_ends_and_says_why() {
    let house = House::new();
    let daemon = house.start(&[]);
    let pid = house.status()["daemon"]["network_pid"].as_u64().unwrap();
    signal_pid(u32::try_from(pid).unwrap(), rustix::process::Signal::KILL);
    let (good, log) = daemon.end();
    assert!(!good);
    assert!(log.contains("the network process was killed by signal 9"), "{log}");
    assert_eq!(fs::read_dir(house.path("run")).unwrap().count(), 0);
}

#[test]
fn hup_reads_the_file_again() {
    let house = House::new();
    let daemon = house.start(&[]);
    house.configure("[log]\nlevel = \"debug\"\n[debug]\ncore_dumps = true\n");
    daemon.signal(rustix::process::Signal::HUP);
    assert!(daemon.hear().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(daemon.hear().starts_with("READY=1\n"));
    house.configure("[log]\nlevel = \"loud\"\n");
    daemon.signal(rustix::process::Signal::HUP);
    assert!(daemon.hear().starts_with("RELOADING=1\n"));
    assert!(daemon.hear().starts_with("READY=1\n"));
    house.connect().unwrap();
    daemon.signal(rustix::process::Signal::INT);
    let (good, log) = daemon.end();
    assert!(good, "{log}");
    assert!(log.contains("only `tlspool -k` makes it so key=debug"), "{log}");
    assert!(log.contains("the old configuration stays"), "{log}");
    assert!(
        log.contains("log.level: \\\"loud\\\" is none of") || log.contains("\"loud\" is none of"),
        "{log}"
    );
}

#[test]
fn systemd_may_open_the_sockets() {
    let house = House::new();
    fs::create_dir(house.path("run")).unwrap();
    let listener = UnixListener::bind(house.path("run/sock")).unwrap();
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(
        "exec 3<&0 </dev/null; LISTEN_PID=$$; LISTEN_FDS=1; export LISTEN_PID LISTEN_FDS; exec \"$@\"",
    );
    shell.arg("sh").arg(env!("CARGO_BIN_EXE_tlspool"));
    shell.args(["-f", "-c"]).arg(house.path("tlspool.toml"));
    shell.stdin(OwnedFd::from(listener));
    let daemon = House::start_command(shell);
    house.connect().unwrap();
    daemon.signal(rustix::process::Signal::TERM);
    let (good, log) = daemon.end();
    assert!(good, "{log}");
    // The socket is systemd's and stays.
    assert!(house.path("run/sock").exists());
}

#[test]
fn children_have_no_privileges() {
    let house = House::new();
    let root = rustix::process::geteuid().is_root();
    if root {
        // Users that every system has; the folder lets them pass.
        fs::set_permissions(house.dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let config = fs::read_to_string(house.path("tlspool.toml")).unwrap();
        let config = config
            .replace("\nkey_user = \"0\"", "\nkey_user = \"daemon\"")
            .replace("\nlookup_user = \"0\"", "\nlookup_user = \"bin\"")
            .replace("user = \"0\"", "user = \"nobody\"");
        fs::write(house.path("tlspool.toml"), config).unwrap();
    }
    let config = fs::read_to_string(house.path("tlspool.toml")).unwrap();
    fs::write(house.path("tlspool.toml"), config + "[dns]\n").unwrap();
    let _daemon = house.start(&[]);
    // Whoever is looked up for waits until the process is what it is to be.
    let status = await_status(&house, |status| status["look_ups"]["queries"] == 0);
    for (process, user) in
        [("network_pid", "nobody"), ("key_process_pid", "daemon"), ("lookup_process_pid", "bin")]
    {
        let pid = &status["daemon"][process];
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(of_process(pid, set), "0000000000000000", "{process} {set}");
        }
        assert_eq!(of_process(pid, "NoNewPrivs"), "1", "{process}");
        if root {
            let user = tlspoold::users::user(user).unwrap();
            assert_eq!(of_process(pid, "Uid"), vec![user.uid.to_string(); 4].join(" "));
            assert_eq!(of_process(pid, "Gid"), vec![user.gid.to_string(); 4].join(" "));
            assert_eq!(of_process(pid, "CapBnd"), "0000000000000000", "{process}");
        }
    }
    assert_eq!(of_process(&status["daemon"]["network_pid"], "Seccomp"), "2");
    assert_eq!(of_process(&status["daemon"]["lookup_process_pid"], "Seccomp"), "2");
    Pool::at(house.path("run/sock"))
        .ping("20260101test@example.com", Facilities::STARTTLS)
        .unwrap();
}

#[test]
fn more_handshakes_are_permitted_by_hup() {
    let house = House::new();
    house.configure("[limits]\nhandshakes = 1\n");
    let daemon = house.start(&[]);
    let begin = |near: std::net::TcpStream| {
        let pool = Pool::at(house.path("run/sock"));
        std::thread::spawn(move || {
            let request = StarttlsRequest::client("example.com").unwrap();
            pool.starttls(request, OwnedFd::from(near), Plaintext::pair()).unwrap_err()
        })
    };
    let ((near, mut one), (second, mut other)) = (silent_peer(), silent_peer());
    let mut under_way = vec![begin(near)];
    one.read_exact(&mut [0]).unwrap();
    // The first has the only turn.
    under_way.push(begin(second));
    await_status(&house, |status| status["sessions"] == 2);
    house.configure("[limits]\nhandshakes = 10\n");
    daemon.signal(rustix::process::Signal::HUP);
    assert!(daemon.hear().starts_with("RELOADING=1\n"));
    assert!(daemon.hear().starts_with("READY=1\n"));
    other.read_exact(&mut [0]).unwrap();
    assert!(!daemon.log().contains("only `tlspool -k`"), "{}", daemon.log());
    drop((one, other));
    for thread in under_way {
        drop(thread.join().unwrap());
    }
}

#[test]
fn children_are_not_for_people() {
    let house = House::new();
    for command in ["network-process", "key-process", "lookup-process", "background"] {
        let output = house.output(&[command]);
        assert!(!output.status.success());
        assert!(text(&output.stderr).contains("by hand"), "{}", text(&output.stderr));
    }
}

#[test]
fn children_hold_no_descriptor_that_is_not_theirs() {
    let house = House::new();
    house.configure("[dns]\n");
    let _daemon = house.start(&[]);
    let status = await_status(&house, |status| status["look_ups"]["queries"] == 0);
    for process in ["network_pid", "key_process_pid", "lookup_process_pid"] {
        let pid = status["daemon"][process].as_u64().unwrap();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let has_pins = process == "key_process_pid";
        assert_eq!(maps.contains("tlspool-pins"), has_pins, "{process}: {maps}");
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            // It may have been closed meanwhile.
            let Ok(target) = fs::read_link(fd.unwrap().path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            assert!(!target.contains("tlspool.pid"), "{process}: {target}");
            assert!(has_pins || !target.contains("tlspool-pins"), "{process}: {target}");
            assert!(!has_pins || !target.contains("run/"), "{process}: {target}");
        }
    }
}
