//! `tlstunnel`: an HTTP server behind it for curl, two of them in a chain, and a pool that is replaced.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use tlspool_tests::app::{noise, read_all};
use tlspool_tests::binaries::program;
use tlspool_tests::net::{dial, free_port, listen};
use tlspool_tests::{House, LIMIT, Process, run};

/// A tunnel that is ready.
fn tunnel(house: &House, arguments: &[&str]) -> Process {
    let mut command = Command::new(program("tlstunnel"));
    command.arg("-S").arg(house.socket()).args(arguments);
    let tunnel = Process::start(&mut command);
    tunnel.await_words("ready");
    tunnel
}

fn address() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Answers every request with what was in it, or with noise if nothing was.
fn http_server(listener: TcpListener, page: Vec<u8>) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, page) = (stream.unwrap(), page.clone());
            thread::spawn(move || http_request(&stream, &page));
        }
    });
}

fn http_request(mut stream: &std::net::TcpStream, page: &[u8]) {
    let mut reader = BufReader::new(stream);
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        } else if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let answer = if body.is_empty() { page } else { &body };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", answer.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(answer));
    let _ = stream.shutdown(Shutdown::Write);
    let _ = std::io::copy(&mut reader, &mut std::io::sink());
}

#[test]
fn curl_and_an_http_server() {
    let house = House::new();
    house.identity("example.com");
    let token = house.token("vault");
    house.token_identity("www.example.com", "p256", &token);
    let _daemon = house.start();
    let (listener, backend) = listen();
    let page = noise(5 << 20);
    http_server(listener, page.clone());
    let at = address();
    let _tunnel = tunnel(&house, &["-s", "-l", &at, "-r", &backend.to_string()]);
    let port = at.split_once(':').unwrap().1;
    std::fs::write(house.path("upload"), noise(3 << 20)).unwrap();
    for name in ["example.com", "www.example.com"] {
        let curl = |more: &[&str]| {
            let mut command = Command::new("curl");
            command.args(["-sS", "--fail", "--max-time", "60", "--cacert", house.anchor()]);
            command.args(["--resolve", &format!("{name}:{port}:127.0.0.1"), "-H", "Expect:"]);
            command.args(more).arg(format!("https://{name}:{port}/"));
            command.output().unwrap()
        };
        for version in [&["--tlsv1.3"][..], &["--tlsv1.2", "--tls-max", "1.2"]] {
            let output = curl(version);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == page);
            let upload = format!("@{}", house.text("upload"));
            let output = curl(&[version, &["--data-binary", &upload]].concat());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(output.stdout == std::fs::read(house.path("upload")).unwrap());
        }
    }
    let mut command = Command::new("curl");
    command.args(["-sS", "--cacert", house.anchor()]);
    command.args(["--resolve", &format!("example.net:{port}:127.0.0.1")]);
    let said = run(command.arg(format!("https://example.net:{port}/")));
    assert!(!said.ok, "{}", said.out);
}

/// Sends back what it gets, connection by connection.
fn echo(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut writer = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut stream, &mut writer);
                let _ = writer.shutdown(Shutdown::Write);
            });
        }
    });
}

/// Sends and reads at the same time; returns what came back.
fn through(address: &str, bytes: &[u8]) -> Vec<u8> {
    let stream = dial(address).unwrap();
    thread::scope(|scope| {
        let mut writer = stream.try_clone().unwrap();
        scope.spawn(move || {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        read_all(&stream).unwrap()
    })
}

#[test]
fn a_client_tunnel_to_a_server_tunnel() {
    let house = House::new();
    house.identity("example.com");
    house.identity("john@example.org");
    let daemon = house.start();
    let (listener, backend) = listen();
    echo(listener);
    let (middle, front) = (address(), address());
    let serve = ["-s", "-l", &middle, "-r", &backend.to_string(), "-L", "example.com"];
    let serving = tunnel(&house, &[&serve[..], &["-R", "john@example.org"]].concat());
    let call = ["-c", "-l", &front, "-r", &middle, "-R", "example.com"];
    let _calling = tunnel(&house, &[&call[..], &["-L", "john@example.org"]].concat());
    let bytes = noise(40 << 20);
    assert!(through(&front, &bytes) == bytes);
    // Several at once.
    thread::scope(|scope| {
        let (bytes, front) = (&bytes[..2 << 20], front.as_str());
        for _ in 0..8 {
            scope.spawn(move || assert!(through(front, bytes) == bytes));
        }
    });
    let said = serving.await_words("remoteid=\"john@example.org\"");
    assert!(said.contains("localid=\"example.com\""), "{said}");
    // Who is not John is kept out.
    let other = address();
    let call = ["-c", "-l", &other, "-r", &middle, "-R", "example.com"];
    let _nobody = tunnel(&house, &call);
    assert!(read_all(dial(&other).unwrap()).unwrap_or_default().is_empty());
    serving.await_words("failed");
    house.await_status("sessions", 0);
    daemon.stop();
}

#[test]
fn unix_sockets_on_the_plain_side() {
    let house = House::new();
    house.identity("example.com");
    let _daemon = house.start();
    let (backend, front) = (house.text("backend"), house.text("front"));
    let listener = UnixListener::bind(&backend).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let heard = read_all(&stream).unwrap();
            stream.write_all(&heard).unwrap();
        }
    });
    let middle = address();
    let _serving = tunnel(&house, &["-s", "-l", &middle, "-r", &backend]);
    let _calling = tunnel(&house, &["-c", "-l", &front, "-r", &middle, "-R", "example.com"]);
    let bytes = noise(1 << 20);
    for _ in 0..2 {
        let mut stream = std::os::unix::net::UnixStream::connect(&front).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(&stream).unwrap() == bytes);
    }
}

/// The pool is replaced while the tunnels run: what stood stands, and what comes goes to the new one.
#[test]
fn the_pool_is_replaced_under_a_running_tunnel() {
    let house = House::new();
    house.identity("example.com");
    let old = house.start();
    let (listener, backend) = listen();
    echo(listener);
    let (middle, front) = (address(), address());
    let _serving = tunnel(&house, &["-s", "-l", &middle, "-r", &backend.to_string()]);
    let _calling = tunnel(&house, &["-c", "-l", &front, "-r", &middle, "-R", "example.com"]);
    let mut standing = dial(&front).unwrap();
    let mut heard = [0; 6];
    standing.write_all(b"before").unwrap();
    standing.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"before");

    let new = house.start_with(&["-k"]);
    assert_eq!(house.status()["daemon"]["pid"], new.pid());
    assert_eq!(through(&front, b"new"), b"new");
    house.await_status("totals/handshakes", 2);
    standing.write_all(b"during").unwrap();
    standing.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"during");
    standing.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&standing).unwrap(), b"");
    // Its last session has ended, and so does the old one.
    let (status, log) = old.end();
    assert!(status.success(), "{log}");

    // A pool that is away for a while is waited for.
    let log = new.stop();
    assert!(log.contains("drained"), "{log}");
    let waiting = {
        let front = front.clone();
        thread::spawn(move || through(&front, b"patience"))
    };
    let _third = house.start();
    assert_eq!(waiting.join().unwrap(), b"patience");
}
