use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UdpSocket, UnixListener};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::sleep;

use super::program::read_line;
use super::radius::packet::{self, Secret};
use super::*;
use tlspool_validate::sources::Caches;

const LONG: Duration = Duration::from_secs(20);
/// For who does not answer; who does has to be as quick.
const SHORT: Duration = Duration::from_millis(400);

fn local<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(LocalSet::new().run_until(future))
}

fn query(authorizer: Authorizer) -> Query {
    Query::Authorize {
        authorizer,
        remote: "john@example.org".into(),
        local: String::new(),
        service: "imap".into(),
        server: true,
    }
}

async fn ask(authorizers: &Authorizers, authorizer: Authorizer) -> Outcome {
    let options = Options { deadline: Instant::now() + LONG, caches: Caches::Use };
    authorizers.look_up(&query(authorizer), options).await.outcome
}

fn opinion(outcome: &Outcome) -> (Opinion, &str) {
    match outcome {
        Outcome::Present(Answer::Authorization { opinion, why, .. }) => (*opinion, why),
        other => panic!("{other:?}"),
    }
}

fn program(path: PathBuf, timeout: Duration, questions: usize) -> Authorizers {
    let program = program::Settings { path, timeout, questions };
    Authorizers::new(Settings { program: Some(program), radius: None })
}

/// A program that reads a line and answers this, and the lines that it read.
fn answering(path: &Path, answer: &'static [u8]) -> Rc<RefCell<Vec<String>>> {
    let listener = UnixListener::bind(path).unwrap();
    let lines = Rc::<RefCell<Vec<String>>>::default();
    let heard = lines.clone();
    spawn_local(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut line = vec![0; 4096];
            let length = stream.read(&mut line).await.unwrap();
            heard.borrow_mut().push(String::from_utf8_lossy(&line[..length]).into_owned());
            let _ = stream.write_all(answer).await;
        }
    });
    lines
}

#[test]
fn a_line_each_way() {
    local(async {
        let folder = tempfile::tempdir().unwrap();
        for (number, (answer, expected)) in [
            (&b"{\"allow\":true}\n"[..], Ok((Opinion::Allow, ""))),
            (b"{\"allow\":false,\"reason\":\"no \\u001b[1m!\"}\n", Ok((Opinion::Deny, "no ?[1m!"))),
            (b"{\"allow\":true,\"more\":[1]}\n{\"allow\":false}\n", Ok((Opinion::Allow, ""))),
            (
                b"{\"allow\":true}",
                Ok((Opinion::Unreachable, "it hung up in the middle of its answer")),
            ),
            (b"", Ok((Opinion::Unreachable, "it hung up without an answer"))),
            (b"{\"allow\":null}\n", Err("has no opinion")),
            (b"{}\n", Err("missing field")),
            (b"yes\n", Err("its answer is none")),
            (b"\n", Err("its answer is none")),
            (b"{\"allow\":\"true\"}\n", Err("its answer is none")),
            (b"{\"allow\":true,\"allow\":false}\n", Err("duplicate field")),
            (&[b' '; 6000], Err("more than 4096 bytes")),
        ]
        .into_iter()
        .enumerate()
        {
            let path = folder.path().join(number.to_string());
            let lines = answering(&path, answer);
            let outcome = ask(&program(path, LONG, 1), Authorizer::Program).await;
            match expected {
                Ok(expected) => assert_eq!(opinion(&outcome), expected),
                Err(words) => {
                    let (Outcome::Absent(why) | Outcome::Failed(why)) = &outcome else {
                        panic!("{outcome:?}")
                    };
                    assert!(why.contains(words), "{why}");
                    assert_eq!(matches!(outcome, Outcome::Absent(_)), words.contains("opinion"));
                }
            }
            let asked = "{\"version\":1,\"role\":\"server\",\"remote\":\"john@example.org\",\
                         \"local\":null,\"service\":\"imap\"}\n";
            assert_eq!(*lines.borrow(), [asked]);
        }
    });
}

#[test]
fn who_is_not_there_or_hangs_is_unreachable() {
    local(async {
        let folder = tempfile::tempdir().unwrap();
        let absent = program(folder.path().join("absent"), LONG, 1);
        let outcome = ask(&absent, Authorizer::Program).await;
        assert_eq!(opinion(&outcome).0, Opinion::Unreachable);
        // It accepts by the kernel's grace, and never answers.
        let path = folder.path().join("hangs");
        let _listener = StdListener::bind(&path).unwrap();
        let hanging = program(path, SHORT, 1);
        let outcome = ask(&hanging, Authorizer::Program).await;
        assert_eq!(opinion(&outcome), (Opinion::Unreachable, "no answer within 400ms"));
        // The place is free again.
        assert_eq!(opinion(&ask(&hanging, Authorizer::Program).await).0, Opinion::Unreachable);
        let unknown = ask(&hanging, Authorizer::Radius).await;
        assert!(matches!(unknown, Outcome::Failed(why) if why.contains("not configured")));
    });
}

#[test]
fn the_bound_is_the_error_and_does_not_pass_for_unreachable() {
    local(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hangs");
        let _listener = StdListener::bind(&path).unwrap();
        let authorizers = program(path, SHORT, 3);
        let one = || ask(&authorizers, Authorizer::Program);
        let (a, b, c, full) = tokio::join!(one(), one(), one(), one());
        for outcome in [a, b, c] {
            assert_eq!(opinion(&outcome).0, Opinion::Unreachable);
        }
        assert!(matches!(full, Outcome::Failed(why) if why.contains("3 questions are under way")));
    });
}

#[test]
fn a_full_queue_is_waited_for() {
    local(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slow");
        let listener = UnixListener::bind(&path).unwrap();
        let backlog = rustix::net::listen(&listener, 1);
        backlog.unwrap();
        let authorizers = program(path, LONG, 64);
        let serve = async {
            for _ in 0..20 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut line = [0; 512];
                let _ = stream.read(&mut line).await.unwrap();
                stream.write_all(b"{\"allow\":true}\n").await.unwrap();
            }
        };
        let asking = futures_util::future::join_all(
            (0..20).map(|_| async { opinion(&ask(&authorizers, Authorizer::Program).await).0 }),
        );
        let ((), opinions) = tokio::join!(serve, asking);
        assert!(opinions.iter().all(|opinion| *opinion == Opinion::Allow), "{opinions:?}");
    });
}

#[test]
fn lines_of_any_length_are_read() {
    assert_eq!(read_line(b"{\"allow\":true}\r"), Asked::Opinion(true, String::new()));
    assert!(matches!(read_line(&[b'['; 4000]), Asked::Failed(_)));
    assert!(matches!(read_line(&[b' '; 5000]), Asked::Failed(_)));
    let long = format!("{{\"allow\":false,\"reason\":\"{}\"}}", "é".repeat(500));
    let Asked::Opinion(false, why) = read_line(long.as_bytes()) else { panic!() };
    assert_eq!(why.len(), MAX_REASON);
}

fn secret() -> Secret {
    Secret::new(b"testing123").unwrap()
}

fn radius(servers: Vec<SocketAddr>, timeout: Duration, attempts: usize) -> Authorizers {
    let radius = radius::Settings {
        servers,
        secret: secret(),
        nas_identifier: "test".into(),
        timeout,
        attempts,
        require_message_authenticator: true,
        questions: 8,
    };
    Authorizers::new(Settings { program: None, radius: Some(radius) })
}

async fn server() -> (Rc<UdpSocket>, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (Rc::new(socket), address)
}

/// A server that sends these replies to each request, as `make` makes them.
fn serve(
    socket: &Rc<UdpSocket>,
    make: impl Fn(usize, &[u8]) -> Vec<Vec<u8>> + 'static,
) -> Rc<Cell<usize>> {
    let (socket, count) = (socket.clone(), Rc::new(Cell::new(0)));
    let counted = count.clone();
    spawn_local(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            counted.set(counted.get() + 1);
            for reply in make(counted.get(), &buffer[..length]) {
                socket.send_to(&reply, from).await.unwrap();
            }
        }
    });
    count
}

fn reply(request: &[u8], code: u8) -> Vec<u8> {
    packet::reply(request, code, b"\x12\x06gone", &secret()).unwrap()
}

#[test]
fn radius_accepts_rejects_and_challenges() {
    local(async {
        for (code, expected) in [
            (packet::ACCESS_ACCEPT, (Opinion::Allow, "gone")),
            (packet::ACCESS_REJECT, (Opinion::Deny, "gone")),
            (
                packet::ACCESS_CHALLENGE,
                (Opinion::Deny, "it wants to ask the peer something, which cannot be done here"),
            ),
        ] {
            let (socket, address) = server().await;
            serve(&socket, move |_, request| vec![reply(request, code)]);
            let outcome = ask(&radius(vec![address], LONG, 1), Authorizer::Radius).await;
            assert_eq!(opinion(&outcome), expected);
            let Outcome::Present(Answer::Authorization { by, .. }) = outcome else { panic!() };
            assert_eq!(by, format!("RADIUS server {address}"));
        }
    });
}

#[test]
fn forged_replies_are_ignored_and_the_true_one_counts() {
    local(async {
        let (socket, address) = server().await;
        serve(&socket, |_, request| {
            let other = Secret::new(b"guessed it").unwrap();
            let forged = packet::reply(request, packet::ACCESS_ACCEPT, &[], &other).unwrap();
            let mut altered = reply(request, packet::ACCESS_REJECT);
            altered[0] = packet::ACCESS_ACCEPT;
            vec![forged, altered, vec![], vec![2], reply(request, packet::ACCESS_REJECT)]
        });
        let authorizers = radius(vec![address], LONG, 1);
        let options = Options { deadline: Instant::now() + LONG, caches: Caches::Use };
        let found = authorizers.look_up(&query(Authorizer::Radius), options).await;
        assert_eq!(opinion(&found.outcome).0, Opinion::Deny);
        assert!(found.steps[0].contains("it is forged"), "{:?}", found.steps);
    });
}

#[test]
fn a_wrong_secret_is_no_answer() {
    local(async {
        let (socket, address) = server().await;
        let count = serve(&socket, |_, request| {
            let other = Secret::new(b"another one").unwrap();
            vec![packet::reply(request, packet::ACCESS_ACCEPT, &[], &other).unwrap()]
        });
        let outcome = ask(&radius(vec![address], SHORT, 2), Authorizer::Radius).await;
        let (opinion, why) = opinion(&outcome);
        assert_eq!(opinion, Opinion::Unreachable);
        assert!(why.contains("no answer within 400ms (2 times)"), "{why}");
        assert_eq!(count.get(), 2);
    });
}

#[test]
fn what_is_lost_is_sent_again_and_the_next_server_asked() {
    local(async {
        let (silent, first) = server().await;
        let asked_in_vain = serve(&silent, |_, _| Vec::new());
        let (socket, second) = server().await;
        let requests = Rc::<RefCell<Vec<Vec<u8>>>>::default();
        let seen = requests.clone();
        let count = serve(&socket, move |number, request| {
            seen.borrow_mut().push(request.to_vec());
            if number == 2 { vec![reply(request, packet::ACCESS_ACCEPT)] } else { Vec::new() }
        });
        let authorizers = radius(vec![first, second], SHORT, 2);
        let outcome = ask(&authorizers, Authorizer::Radius).await;
        assert_eq!(opinion(&outcome).0, Opinion::Allow);
        assert_eq!((asked_in_vain.get(), count.get()), (2, 2));
        assert_eq!(requests.borrow()[0], requests.borrow()[1], "the same packet");
        // The one that answered is asked first from now on; here it is silent again.
        let outcome = ask(&authorizers, Authorizer::Radius).await;
        assert_eq!(opinion(&outcome).0, Opinion::Unreachable);
        assert_eq!((asked_in_vain.get(), count.get()), (4, 4));
    });
}

#[test]
fn each_of_several_questions_asks_all_servers() {
    local(async {
        let (silent, first) = server().await;
        let again = Rc::new(tokio::sync::Notify::new());
        let told = again.clone();
        serve(&silent, move |number, _| {
            if number == 2 {
                told.notify_one();
            }
            Vec::new()
        });
        let (socket, second) = server().await;
        serve(&socket, |_, request| vec![reply(request, packet::ACCESS_ACCEPT)]);
        let authorizers = radius(vec![first, second], SHORT, 2);
        // The second question waits for the silent server while the first learns that the other answers.
        let (one, two) = tokio::join!(ask(&authorizers, Authorizer::Radius), async {
            again.notified().await;
            ask(&authorizers, Authorizer::Radius).await
        });
        assert_eq!((opinion(&one).0, opinion(&two).0), (Opinion::Allow, Opinion::Allow));
    });
}

#[test]
fn a_server_that_is_not_there_costs_no_time() {
    local(async {
        // It hears somebody else only; its port is nobody's else meanwhile.
        let (elsewhere, first) = server().await;
        elsewhere.connect("127.0.0.1:9").await.unwrap();
        let (socket, second) = server().await;
        serve(&socket, |_, request| vec![reply(request, packet::ACCESS_ACCEPT)]);
        let outcome = ask(&radius(vec![first, second], LONG, 1), Authorizer::Radius).await;
        assert_eq!(opinion(&outcome).0, Opinion::Allow);
        let outcome = ask(&radius(vec![first], LONG, 1), Authorizer::Radius).await;
        let (opinion, why) = opinion(&outcome);
        assert_eq!(opinion, Opinion::Unreachable);
        assert!(why.contains("refused"), "{why}");
    });
}

#[test]
fn the_handshakes_time_bounds_all() {
    local(async {
        let (_silent, address) = server().await;
        let authorizers = radius(vec![address], LONG, 3);
        let options = Options { deadline: Instant::now() + SHORT, caches: Caches::Use };
        let query = query(Authorizer::Radius);
        let looked = authorizers.look_up(&query, options);
        let outcome = tokio::select! {
            found = looked => found.outcome,
            () = sleep(LONG) => panic!("it waits on"),
        };
        assert_eq!(opinion(&outcome).0, Opinion::Unreachable);
    });
}
