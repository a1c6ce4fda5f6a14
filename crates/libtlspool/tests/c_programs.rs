//! C programs compile against the headers, link with the library, and work with a pool.

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use common::{Scratch, compile, compile_with, manifest};
use tlspool_client::fake::FakePool;
use tlspool_client::wire::packet::ErrorReply;
use tlspool_client::{Lidentry, LidentryFlags, Pinentry, PoolError, Text, wire::Body};

/// A program that must print "ok" in the end.
fn run(scratch: &Scratch, program: &Path, arguments: &[&str]) -> String {
    let output = scratch.command(program).args(arguments).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {words}{errors}", program.display());
    words
}

/// Compiles and runs `tests/c/NAME.c` against a pool that relays.
fn passes(name: &str) {
    let scratch = Scratch::new();
    FakePool::bind(&scratch.socket()).unwrap().relay("me.example", "peer.example");
    let program = compile(&scratch, &manifest(&format!("tests/c/{name}.c")), name);
    assert_eq!(run(&scratch, &program, &[]), "ok\n");
}

#[test]
fn structs_have_the_layout_of_the_protocol() {
    let scratch = Scratch::new();
    compile(&scratch, &manifest("tests/c/layout.c"), "layout");
}

#[test]
fn headers_are_fine_for_cplusplus() {
    let source = "#include <tlspool/async.h>\n#include <tlspool/starttls.h>\n";
    let Ok(mut compiler) = Command::new("c++")
        .args(["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-x", "c++", "-"])
        .arg("-I")
        .arg(manifest("include"))
        .stdin(Stdio::piped())
        .spawn()
    else {
        return; // no C++ compiler on this machine
    };
    compiler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success());
}

#[test]
fn programs_for_the_existing_library_work() {
    passes("blocking");
}

#[test]
fn the_older_pair_works_from_threads() {
    passes("simple");
}

/// With the libraries that `tlspool.pc` lists for static linking.
#[test]
fn the_static_library_links() {
    let scratch = Scratch::new();
    FakePool::bind(&scratch.socket()).unwrap().relay("me.example", "peer.example");
    let program = compile_static(&scratch, "simple");
    assert_eq!(run(&scratch, &program, &[]), "ok\n");
}

/// Compiles `tests/c/NAME.c` with the static library, and what `tlspool.pc` lists for it.
fn compile_static(scratch: &Scratch, name: &str) -> PathBuf {
    let description = std::fs::read_to_string(manifest("tlspool.pc.in")).unwrap();
    let private = description.lines().find_map(|l| l.strip_prefix("Libs.private: ")).unwrap();
    let mut libraries = vec!["-l:libtlspool.a"];
    libraries.extend(private.split(' '));
    compile_with(scratch, &manifest(&format!("tests/c/{name}.c")), "static", &libraries)
}

/// As programs for the existing library end theirs: while it waits for the pool, or in its callback.
#[test]
fn a_service_ends_with_its_thread() {
    let scratch = Scratch::new();
    let programs = [
        compile(&scratch, &manifest("tests/c/cancelled.c"), "cancelled"),
        compile_static(&scratch, "cancelled"),
    ];
    let fake = FakePool::bind(&scratch.socket()).unwrap();
    let at = scratch.socket();
    for program in &programs {
        for service in ["pin", "localid"] {
            for place in ["waits", "asked"] {
                let mut child = scratch
                    .command(program)
                    .args([service, at.to_str().unwrap(), place])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut pool = fake.accept().unwrap();
                let (register, _) = pool.receive().unwrap();
                if place == "asked" {
                    let question = match &register.body {
                        Body::Pinentry(_) => Body::Pinentry(Pinentry::default()),
                        _ => Body::LidentryCallback(Lidentry::default()),
                    };
                    pool.call_back(&register, 1, question).unwrap();
                }
                let mut orders = child.stdin.take().unwrap();
                let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
                orders.write_all(b"1").unwrap();
                assert_eq!(said.next().unwrap().unwrap(), "cancelled", "{service} {place}");
                // With the thread, not with the program.
                assert!(pool.receive().is_err());
                orders.write_all(b"1").unwrap();
                assert_eq!(said.next().unwrap().unwrap(), "ok");
                assert!(child.wait().unwrap().success());
            }
        }
    }
}

#[test]
fn the_asynchronous_family_works() {
    passes("async");
}

#[test]
fn a_full_pool_is_told_apart_from_one_that_is_gone() {
    let scratch = Scratch::new();
    let program = compile(&scratch, &manifest("tests/c/full.c"), "full");
    let fake = FakePool::bind(&scratch.socket()).unwrap();
    let pool = thread::spawn(move || {
        for _ in 0..3 {
            let client = fake.accept().unwrap();
            client.part(PoolError::LimitReached, "see limits.clients").unwrap();
        }
    });
    for how in ["simple", "greeting", "bare"] {
        assert_eq!(run(&scratch, &program, &[how]), "ok\n");
    }
    pool.join().unwrap();
}

#[test]
fn a_pool_that_starts_later_is_found() {
    let scratch = Scratch::new();
    FakePool::bind(&scratch.socket()).unwrap().relay("me.example", "peer.example");
    let program = compile(&scratch, &manifest("tests/c/later.c"), "later");
    assert_eq!(run(&scratch, &program, &[scratch.socket().to_str().unwrap()]), "ok\n");
}

/// The user of a program must not have it hand its sockets to a pool of his making.
#[test]
fn a_program_with_capabilities_ignores_the_environment() {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt;
    // SAFETY: has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: only root can give a file capabilities");
        return;
    }
    let scratch = Scratch::new();
    let folder = CString::new(scratch.path("").as_os_str().as_bytes()).unwrap();
    // SAFETY: a string that ends, and a struct that the call fills; zeroes are valid for it.
    let flags = unsafe {
        let mut about: libc::statvfs = std::mem::zeroed();
        assert_eq!(libc::statvfs(folder.as_ptr(), &raw mut about), 0);
        about.f_flag
    };
    if flags & libc::ST_NOSUID != 0 {
        eprintln!("SKIPPED: files have no capabilities in {}", scratch.path("").display());
        return;
    }
    std::fs::set_permissions(scratch.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let program = compile_static(&scratch, "whose");
    let as_nobody = || {
        let mut command = scratch.command(Path::new("setpriv"));
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let ours = format!("{}\n", scratch.socket().display());
    assert_eq!(as_nobody(), ours);
    let given = Command::new("setcap").arg("cap_net_bind_service+ep").arg(&program).status();
    assert!(given.unwrap().success());
    assert_ne!(as_nobody(), ours);
}

#[test]
fn signals_do_not_keep_a_program_from_its_pool() {
    let scratch = Scratch::new();
    let program = compile(&scratch, &manifest("tests/c/interrupted.c"), "interrupted");
    let path = scratch.path("queue");
    assert_eq!(run(&scratch, &program, &[path.to_str().unwrap()]), "ok\n");
}

#[test]
fn services_answer_callbacks() {
    let scratch = Scratch::new();
    let program = compile(&scratch, &manifest("tests/c/services.c"), "services");
    let socket = scratch.socket();
    let fake = FakePool::bind(&socket).unwrap();
    let error =
        |error: PoolError| Body::Error(ErrorReply { code: error.code(), message: Text::EMPTY });
    let pool = thread::spawn(move || {
        let mut pins = fake.accept().unwrap();
        let (register, _) = pins.receive().unwrap();
        let Body::Pinentry(entry) = &register.body else { panic!() };
        assert_eq!(entry.timeout_us, 60_000_000);
        let asked = Pinentry { attempt: 2, token_label: Text::cut("disk"), ..Pinentry::default() };
        pins.call_back(&register, 1, Body::Pinentry(asked)).unwrap();
        let Body::Pinentry(answer) = pins.receive().unwrap().0.body else { panic!() };
        assert_eq!(answer.pin.as_str(), "1234");
        // Its successor is entered for as well.
        pins.answer(&register, error(PoolError::Draining)).unwrap();
        let mut pins = fake.accept().unwrap();
        let (again, _) = pins.receive().unwrap();
        assert_eq!(again.body, register.body);
        pins.answer(&again, error(PoolError::PinentryNotVacant)).unwrap();

        let mut names = fake.accept().unwrap();
        let (register, _) = names.receive().unwrap();
        for (cbid, remote) in [(1, "nobody.example"), (2, "example.com")] {
            let asked = Lidentry { remoteid: Text::cut(remote), ..Lidentry::default() };
            names.call_back(&register, cbid, Body::LidentryCallback(asked)).unwrap();
            match names.receive().unwrap().0.body {
                Body::Error(reply) => {
                    assert_eq!((reply.code, reply.message.as_str()), (2, "not for nobody"));
                }
                Body::LidentryCallback(answer) => {
                    assert_eq!(answer.localid.as_str(), "me@example.com");
                    assert!(answer.flags.contains(LidentryFlags::DBAPPEND));
                }
                other => panic!("{other:?}"),
            }
        }
        names.answer(&register, error(PoolError::LidentryNotVacant)).unwrap();
    });
    let at = socket.to_str().unwrap();
    assert_eq!(run(&scratch, &program, &["pin", at]), "disk 2\nok\n");
    assert_eq!(run(&scratch, &program, &["localid", at]), "ok\n");
    pool.join().unwrap();
}

#[test]
fn the_examples_talk_to_each_other() {
    let scratch = Scratch::new();
    FakePool::bind(&scratch.socket()).unwrap().relay("anonymous", "me@example.net");
    let server = compile(&scratch, &manifest("../../examples/echo-server.c"), "echo-server");
    let client = compile(&scratch, &manifest("../../examples/echo-client.c"), "echo-client");
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let at = free.to_string();
    let mut server =
        scratch.command(&server).args([&at, "srv.example"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(server.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), format!("listening on {at} as srv.example"));
    let words = run(&scratch, &client, &[&at, "srv.example", "me@example.net", "round trip"]);
    assert_eq!(words, "server is srv.example, we are me@example.net\nround trip\n");
    assert_eq!(said.next().unwrap().unwrap(), "client is me@example.net");
    server.kill().unwrap();
    server.wait().unwrap();
}
