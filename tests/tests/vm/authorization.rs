//! Who may have a session, over SCTP: as messages (DTLS) and as a byte stream (TLS).

use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::thread;

use tlspool_client::{Error, Plaintext, Pool, PoolError, Session, StarttlsRequest};
use tlspool_tests::House;
use tlspool_tests::app::{Outcome, datagrams, plaintext};
use tlspool_tests::sctp::{Kind, pair};

use super::messages::Two;

/// How an association is used.
#[derive(Debug, Clone, Copy)]
enum Way {
    Messages,
    Bytes,
}

impl Way {
    fn request(self, request: StarttlsRequest) -> StarttlsRequest {
        let request = request.service("diameter").unwrap();
        match self {
            Self::Messages => request.sctp_messages(3),
            Self::Bytes => request.sctp(3),
        }
    }

    fn begin(self, pool: &Pool, request: StarttlsRequest, socket: OwnedFd) -> Outcome<Session> {
        pool.starttls(self.request(request), socket, Plaintext::pair())
    }

    /// Sends `words`, if there are any, and returns what comes; nothing if the session has ended.
    fn exchange(self, session: &mut Session, words: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 100];
        let got = match self {
            Self::Messages => {
                let socket = datagrams(session);
                let sent = if words.is_empty() { Ok(0) } else { socket.send(words) };
                let got = sent.and_then(|_| socket.recv(&mut buffer));
                if words.is_empty() {
                    got.and_then(|n| socket.send(&buffer[..n]).map(|_| n))
                } else {
                    got
                }
            }
            Self::Bytes => {
                let mut socket = plaintext(session);
                let got = socket.write_all(words).and_then(|()| socket.read(&mut buffer));
                if words.is_empty() {
                    got.and_then(|n| socket.write_all(&buffer[..n]).map(|()| n))
                } else {
                    got
                }
            }
        };
        match got {
            Ok(n) => buffer[..n].to_vec(),
            Err(error)
                if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) =>
            {
                Vec::new()
            }
            Err(error) => panic!("{self:?}: {error}"),
        }
    }

    /// A client that says hello to a server that repeats it: what the client got, and the server.
    fn meet(self, two: &Two) -> (Outcome<Vec<u8>>, Outcome<Vec<u8>>) {
        let kind = match self {
            Self::Messages => Kind::Authenticated,
            Self::Bytes => Kind::Plain,
        };
        let (near, far) = pair(kind);
        let pool = two.servers.pool();
        let server = thread::spawn(move || {
            let mut session = self.begin(&pool, StarttlsRequest::server(), far)?;
            Ok(self.exchange(&mut session, b""))
        });
        let request = StarttlsRequest::client("example.com").unwrap();
        let request = request.localid("john@example.org").unwrap();
        let called = self.begin(&two.clients.pool(), request, near);
        let called = called.map(|mut session| self.exchange(&mut session, b"hello"));
        (called, server.join().unwrap())
    }
}

fn rule(house: &House, rule: &[&str]) -> String {
    house.good(&[&["authorize", "add"], rule].concat()).trim_end().to_owned()
}

fn assert_denied(error: &Error, words: &str) {
    assert_eq!(error.pool_error(), Some(PoolError::NotAuthorized), "{error}");
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
#[ignore = "in the VM"]
fn rules_of_either_side() {
    let two = Two::new("");
    for way in [Way::Messages, Way::Bytes] {
        let allowed = || {
            let (called, served) = way.meet(&two);
            let called = called.unwrap_or_else(|error| panic!("{way:?}: {error}\n{}", two.logs()));
            assert_eq!(
                (called.as_slice(), served.unwrap().as_slice()),
                (&b"hello"[..], &b"hello"[..])
            );
        };
        allowed();
        let no = rule(&two.servers, &["deny", "john@example.org", "--service", "diameter"]);
        let (called, served) = way.meet(&two);
        let words = format!("john@example.org is not authorized, by rule {no}");
        assert_denied(&served.unwrap_err(), &words);
        // It may have been told that it is done before the server said no.
        assert_eq!(called.unwrap_or_default(), b"", "{way:?}");
        two.servers.good(&["authorize", "remove", &no]);
        let no = rule(&two.clients, &["deny", "example.com", "--role", "client"]);
        let (called, served) = way.meet(&two);
        assert_denied(
            &called.unwrap_err(),
            &format!("example.com is not authorized, by rule {no}"),
        );
        // A session that is resumed is complete for the server first; and it may still write when the client has left.
        match served {
            Ok(said) => assert_eq!(said, b"", "{way:?}"),
            Err(error) => {
                let told = error.to_string();
                let gone = ["Broken pipe", "the peer closed the connection"];
                let reasons = ["access denied", "access_denied", gone[0], gone[1]];
                assert!(reasons.iter().any(|reason| told.contains(reason)), "{told}");
            }
        }
        two.clients.good(&["authorize", "remove", &no]);
        allowed();
    }
    let log = two.stop();
    assert!(log.contains("DTLSv1.2") && log.contains("TLSv1.3"), "{log}");
}
