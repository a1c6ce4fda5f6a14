//! Against a server that says what the test tells it, and against OpenSSL's OCSP responder.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::spawn_local;

use super::*;
use crate::names::{Lasting, LocalBoxFuture, LookupFailure, Proven, Srv, TlsaSet};
use tlspool_validate::sources::{Caches, Transport};

/// Everybody lives at these addresses.
struct Hosts(Vec<IpAddr>);

impl Names for Hosts {
    fn srv<'a>(
        &'a self,
        _: &'a str,
        _: Instant,
    ) -> LocalBoxFuture<'a, Result<Lasting<Proven<Vec<Srv>>>, LookupFailure>> {
        unreachable!()
    }

    fn tlsa<'a>(
        &'a self,
        _: &'a str,
        _: u16,
        _: Transport,
        _: Instant,
    ) -> LocalBoxFuture<'a, Result<Lasting<Proven<TlsaSet>>, LookupFailure>> {
        unreachable!()
    }

    fn addresses<'a>(
        &'a self,
        host: &'a str,
        _: Instant,
    ) -> LocalBoxFuture<'a, Result<Vec<IpAddr>, LookupFailure>> {
        let unknown = LookupFailure::TimedOut(host.to_owned());
        let found = if host == "unknown.example" { Err(unknown) } else { Ok(self.0.clone()) };
        Box::pin(std::future::ready(found))
    }
}

fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default());
    runtime.unwrap().block_on(async {
        timeout(Duration::from_mins(1), test).await.expect("the test is over in time");
    });
}

/// A server that reads a request to the end of its body and says `answer`, over and over; what it heard.
async fn server(answer: &'static [u8]) -> (u16, Rc<RefCell<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Rc::<RefCell<Vec<String>>>::default();
    let hears = heard.clone();
    spawn_local(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let hears = hears.clone();
            spawn_local(async move {
                let mut request = Vec::new();
                while !is_whole(&request) {
                    assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
                }
                hears.borrow_mut().push(String::from_utf8(request).unwrap());
                // The client may have heard enough.
                let _ = stream.write_all(answer).await;
            });
        }
    });
    (port, heard)
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((header, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = header.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

fn http(settings: Settings) -> Http<Hosts> {
    // The first address refuses connections on any port that is free.
    Http::new(
        Rc::new(Hosts(vec!["127.0.0.2".parse().unwrap(), "127.0.0.1".parse().unwrap()])),
        settings,
    )
}

fn internal() -> Settings {
    Settings { internal: true, ..Settings::default() }
}

async fn fetch(http: &Http<Hosts>, url: &str) -> Found {
    let deadline = Instant::now() + Duration::from_secs(20);
    let query = Query::Crl { url: url.into() };
    http.look_up(&query, Options { deadline, caches: Caches::Use }).await
}

fn failure(found: &Found) -> &str {
    match &found.outcome {
        Outcome::Failed(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn urls_that_are_fetched_and_those_that_are_not() {
    let place = Place::parse("http://CRL.example.com:8080/a/b?c=d").unwrap();
    assert_eq!((place.port, &*place.path), (8080, "/a/b?c=d"));
    assert_eq!(place.authority, "crl.example.com:8080");
    assert_eq!(place.host, Host::Name("crl.example.com".into()));
    assert_eq!(Place::parse("http://example.com").unwrap().path, "/");
    assert_eq!(
        Place::parse("http://[2001:db8::1]/x").unwrap().host,
        Host::Address("2001:db8::1".parse().unwrap())
    );
    for url in [
        "",
        "/path",
        "https://example.com/",
        "ldap://example.com/",
        "file:///etc/passwd",
        "http://",
        "http:///x",
        "http://user@example.com/",
        "http://example.com:0x50/",
        "http://example.com:99999/",
        "http://example.com:/",
        "http://[::1/",
        "http://[example.com]/",
        "http://exa mple.com/",
        "http://example.com/\r\nX: y",
        "http://example.com\0.org/",
    ] {
        assert!(Place::parse(url).is_err(), "{url:?}");
    }
    assert!(Place::parse(&format!("http://example.com/{}", "a".repeat(MAX_URL))).is_err());
}

#[test]
fn a_list_is_fetched_from_the_first_address_that_answers() {
    run(async {
        let (port, heard) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlist").await;
        let found = fetch(&http(internal()), &format!("http://crl.example.com:{port}/x?y")).await;
        assert_eq!(found.outcome, Outcome::Present(Answer::Crl(b"list".to_vec())));
        assert!(found.steps[0].contains("127.0.0.2"), "{found:?}");
        assert!(found.steps[1].contains("4 bytes"), "{found:?}");
        let heard = heard.borrow();
        assert!(heard[0].starts_with("GET /x?y HTTP/1.1\r\n"), "{heard:?}");
        assert!(heard[0].contains(&format!("host: crl.example.com:{port}\r\n")), "{heard:?}");
    });
}

#[test]
fn an_answer_in_chunks_or_to_the_end_of_the_connection_is_one_too() {
    run(async {
        for answer in [
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nli\r\n2\r\nst\r\n0\r\n\r\n"[..],
            b"HTTP/1.0 200 OK\r\n\r\nlist",
        ] {
            let (port, _) = server(answer).await;
            let found = fetch(&http(internal()), &format!("http://h.example:{port}/")).await;
            assert_eq!(found.outcome, Outcome::Present(Answer::Crl(b"list".to_vec())));
        }
    });
}

#[test]
fn whatever_else_a_server_says_is_a_failure() {
    run(async {
        for (answer, why) in [
            (&b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"[..], "404"),
            (
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n",
                "302",
            ),
            (b"HTTP/1.1 204 No Content\r\n\r\n", "204"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlist", "too early"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n", "too early"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nli", "too early"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nli", "too early"),
            (b"SSH-2.0-nonsense\r\n", "HTTP"),
            (b"", "HTTP"),
        ] {
            let (port, _) = server(answer).await;
            let found = fetch(&http(internal()), &format!("http://h.example:{port}/")).await;
            assert!(failure(&found).contains(why), "{answer:?}: {found:?}");
        }
        let found = fetch(&http(internal()), "http://unknown.example/").await;
        assert!(failure(&found).contains("unknown.example"), "{found:?}");
    });
}

#[test]
fn answers_without_end_are_cut() {
    run(async {
        let crl_bytes = 1000;
        let settings = Settings { crl_bytes, ..internal() };
        let body = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[b'x'; 1001]].concat();
        let (port, _) = server(Vec::leak(body)).await;
        let found = fetch(&http(settings), &format!("http://h.example:{port}/")).await;
        assert!(failure(&found).contains("more than 1000 bytes"), "{found:?}");
        // A header without end.
        let header = [&b"HTTP/1.1 200 OK\r\n"[..], &b"A: b\r\n".repeat(100_000)].concat();
        let (port, _) = server(Vec::leak(header)).await;
        let found = fetch(&http(internal()), &format!("http://h.example:{port}/")).await;
        assert!(failure(&found).contains("HTTP"), "{found:?}");
    });
}

#[test]
fn a_server_that_hangs_is_given_up() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let settings = Settings { time_limit: Duration::from_millis(200), ..internal() };
        let found = fetch(&http(settings), &format!("http://h.example:{port}/")).await;
        assert!(failure(&found).contains("200ms"), "{found:?}");
        let http = http(internal());
        let query = Query::Crl { url: format!("http://h.example:{port}/") };
        let deadline = Instant::now() + Duration::from_millis(100);
        let found = http.look_up(&query, Options { deadline, caches: Caches::Use }).await;
        assert!(failure(&found).contains("deadline"), "{found:?}");
    });
}

#[test]
fn strangers_lead_us_to_no_internal_network() {
    run(async {
        let (port, heard) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        for host in ["crl.example.com", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1"] {
            let url = format!("http://{host}:{port}/");
            let found = fetch(&http(Settings::default()), &url).await;
            assert!(failure(&found).contains("internal"), "{host}: {found:?}");
        }
        assert!(heard.borrow().is_empty());
        // But an administrator may.
        let url = format!("http://127.0.0.1:{port}/ocsp");
        let http = http(Settings { chosen: vec![url.clone()], ..Settings::default() });
        let found = fetch(&http, &url).await;
        assert_eq!(found.outcome, Outcome::Present(Answer::Crl(Vec::new())));
        failure(&fetch(&http, &format!("{url}?")).await);
    });
}

#[test]
fn one_host_is_asked_so_many_things_at_once_and_equal_ones_once() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let http = Rc::new(http(Settings { per_host: 2, ..internal() }));
        let ask = |path: &str| {
            let (http, url) = (http.clone(), format!("http://h.example:{port}/{path}"));
            spawn_local(async move { fetch(&http, &url).await })
        };
        let asking = [ask("a"), ask("b"), ask("b")];
        let (mut first, _) = listener.accept().await.unwrap();
        let (mut second, _) = listener.accept().await.unwrap();
        let refused = ask("c").await.unwrap();
        assert!(failure(&refused).contains("2 look-ups are under way"), "{refused:?}");
        for stream in [&mut first, &mut second] {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
            stream.write_all(answer).await.unwrap();
        }
        for asking in asking {
            let found = asking.await.unwrap();
            assert_eq!(found.outcome, Outcome::Present(Answer::Crl(b"x".to_vec())));
        }
        assert!(http.shared.under_way.borrow().is_empty());
    });
}

/// A responder of OpenSSL, which ends after one request.
struct Responder {
    child: std::process::Child,
    folder: tempfile::TempDir,
}

impl Drop for Responder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn openssl(folder: &std::path::Path, arguments: &str) {
    let mut command = std::process::Command::new("openssl");
    let output = command.args(arguments.split(' ')).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Responder {
    fn start() -> (Self, u16) {
        use std::io::BufRead;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
        openssl(path, &format!("{new} -keyout ca.key -out ca.pem -subj /CN=ca"));
        openssl(
            path,
            &format!(
                "{new} -keyout leaf.key -out leaf.pem -subj /CN=leaf -CA ca.pem -CAkey ca.key -set_serial 7"
            ),
        );
        std::fs::write(path.join("index.txt"), "V\t491231235959Z\t\t07\tunknown\t/CN=leaf\n")
            .unwrap();
        openssl(path, "ocsp -issuer ca.pem -cert leaf.pem -no_nonce -reqout request.der");
        let mut command = std::process::Command::new("openssl");
        command.args(
            "ocsp -port 0 -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -nmin 5"
                .split(' '),
        );
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let mut child = command.current_dir(path).spawn().unwrap();
        // "ACCEPT 0.0.0.0:35415 PID=7"
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().nth(1).and_then(|word| word.rsplit(':').next());
        let port = address.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("{line:?}"));
        (Self { child, folder }, port)
    }
}

#[test]
fn a_responder_of_openssl_answers() {
    run(async {
        let (responder, port) = Responder::start();
        let path = responder.folder.path();
        let request = std::fs::read(path.join("request.der")).unwrap();
        let query = Query::Ocsp { url: format!("http://127.0.0.1:{port}"), request };
        let deadline = Instant::now() + Duration::from_secs(20);
        let found =
            http(internal()).look_up(&query, Options { deadline, caches: Caches::Use }).await;
        let Outcome::Present(Answer::Ocsp(response)) = &found.outcome else { panic!("{found:?}") };
        std::fs::write(path.join("response.der"), response).unwrap();
        openssl(
            path,
            "ocsp -respin response.der -issuer ca.pem -cert leaf.pem -CAfile ca.pem -no_nonce",
        );
    });
}
