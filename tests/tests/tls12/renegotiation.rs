//! Renegotiation of a session that stands, on the program's wish.

use std::io::{BufRead, BufReader, Write};

use tlspool_client::{CtlKey, PoolError, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::House;
use tlspool_tests::app::{Server, call};

#[test]
fn a_client_shows_itself_later() {
    let more = "[privacy]\nmode = \"attempt\"";
    let (servers, clients) = (House::with(more), House::with(more));
    servers.identity("example.com");
    clients.identity("john@example.org");
    clients.good(&["trust", "add", servers.anchor()]);
    servers.good(&["trust", "add", clients.anchor()]);
    let (serving, calling) = (servers.start(), clients.start());
    let request = StarttlsRequest::server().service("smtp").unwrap().flags(Flags::REQUEST_REMOTEID);
    let server = Server::start(servers.pool(), request, |session, plaintext| {
        let first = session.remoteid().to_owned();
        let mut reader = BufReader::new(plaintext.try_clone().unwrap());
        for _ in 0..2 {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            plaintext.write_all(line.as_bytes()).unwrap();
        }
        first
    });
    let key = CtlKey([7; 16]);
    let request = StarttlsRequest::client("example.com").unwrap().service("smtp").unwrap();
    let pool = clients.pool();
    let (session, mut plaintext) = call(&pool, request.clone().ctlkey(key), server.at())
        .unwrap_or_else(|error| panic!("{error}\n{}\n{}", serving.log(), calling.log()));
    assert_eq!((session.localid(), session.remoteid()), ("", "example.com"));
    let echo = |plaintext: &mut std::os::unix::net::UnixStream| {
        plaintext.write_all(b"line\n").unwrap();
        let mut line = String::new();
        BufReader::new(&*plaintext).read_line(&mut line).unwrap();
        assert_eq!(line, "line\n");
    };
    echo(&mut plaintext);
    let wish = request.localid("john@example.org").unwrap().ctlkey(key);
    let renegotiated = pool.renegotiate(wish.clone()).unwrap_or_else(|error| {
        panic!("{error}\n{}\n{}", serving.log(), calling.log());
    });
    assert_eq!(renegotiated.localid.as_str(), "john@example.org");
    assert_eq!(renegotiated.remoteid.as_str(), "example.com");
    echo(&mut plaintext);
    let other = wish.ctlkey(CtlKey([8; 16]));
    let error = pool.renegotiate(other).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::RenegotiateNotFound), "{error}");
    drop(plaintext);
    server.outcome().unwrap();
    calling.stop();
    serving.stop();
}
