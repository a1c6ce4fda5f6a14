//! The asynchronous client against a scripted pool, which has threads of its own.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

use tempfile::TempDir;
use tlspool_wire::packet::ErrorReply;
use tlspool_wire::{Body, CtlKey, Facilities, Packet, PoolError, Text};

use super::{Plaintext, Pool};
use crate::fake::FakePool;
use crate::{Error, StarttlsRequest};

fn place() -> (TempDir, PathBuf, FakePool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    let fake = FakePool::bind(&path).unwrap();
    (dir, path, fake)
}

fn socket() -> OwnedFd {
    UnixStream::pair().unwrap().0.into()
}

fn client() -> StarttlsRequest {
    StarttlsRequest::client("example.com").unwrap()
}

#[tokio::test]
async fn names_and_plaintext_come_back() {
    let (_dir, path, fake) = place();
    fake.relay("me@example.net", "anonymous");
    let pool = Pool::at(path);
    let session = pool.starttls(client(), socket(), crate::Plaintext::pair()).await.unwrap();
    assert_eq!((session.localid(), session.remoteid()), ("me@example.net", "example.com"));
    assert!(session.plaintext.is_some());

    let connected = Plaintext::connect(|established| async move {
        tokio::task::yield_now().await;
        assert_eq!(established.remoteid.as_str(), "example.com");
        Ok(socket())
    });
    assert!(pool.starttls(client(), socket(), connected).await.unwrap().plaintext.is_none());

    let key = CtlKey([1; 16]);
    pool.detach(key).await.unwrap();
    pool.reattach(key).await.unwrap();
    let mut material = [0; 20];
    pool.prng(key, "EXPERIMENTAL", None, &mut material).await.unwrap();
    assert_eq!(pool.info(key, 1).await.unwrap(), b"fact");
    assert_eq!(pool.check_info(key, 1, b"fact").await.unwrap(), b"fact");
}

#[tokio::test]
async fn many_in_flight_answered_backwards() {
    const REQUESTS: usize = 300;
    let (_dir, path, fake) = place();
    let served = thread::spawn(move || {
        let mut client = fake.accept().unwrap();
        let mut held: Vec<_> = (0..REQUESTS).map(|_| client.receive().unwrap().0).collect();
        while let Some(request) = held.pop() {
            client.answer(&request, request.body.clone()).unwrap();
        }
    });
    let pool = Pool::at(path);
    let asked: Vec<_> = (0..REQUESTS)
        .map(|n| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let name = n.to_string();
                let pong = pool.ping(&name, Facilities::STARTTLS).await.unwrap();
                assert_eq!(pong.identity.as_str(), name);
            })
        })
        .collect();
    for task in asked {
        task.await.unwrap();
    }
    served.join().unwrap();
}

#[tokio::test]
async fn restart_drain_and_loss() {
    let (_dir, path, fake) = place();
    let served = thread::spawn(move || {
        // The pool refuses, with no notice before.
        let mut oldest = fake.accept().unwrap();
        let (request, cipher) = oldest.receive().unwrap();
        assert!(cipher.is_some());
        let code = PoolError::Draining.code();
        oldest.answer(&request, Body::Error(ErrorReply { code, message: Text::EMPTY })).unwrap();
        // The notice comes in time.
        let mut old = fake.accept().unwrap();
        let (request, cipher) = old.receive().unwrap();
        assert!(cipher.is_some());
        old.send(&Packet { reqid: 0, cbid: 0, body: Body::Draining }).unwrap();
        old.answer(&request, request.body.clone()).unwrap();
        let mut new = fake.accept().unwrap();
        let (request, _) = new.receive().unwrap();
        new.answer(&request, request.body.clone()).unwrap();
        // Lost without an answer.
        new.receive().unwrap();
        drop(new);
        let mut newest = fake.accept().unwrap();
        let (request, _) = newest.receive().unwrap();
        newest.answer(&request, request.body.clone()).unwrap();
    });
    let pool = Pool::at(path);
    let first = pool.starttls(client(), socket(), crate::Plaintext::pair()).await.unwrap();
    pool.starttls(client(), socket(), crate::Plaintext::pair()).await.unwrap();
    let lost = pool.starttls(client(), socket(), crate::Plaintext::pair()).await.unwrap_err();
    assert!(matches!(lost, Error::Lost), "{lost}");
    pool.starttls(client(), socket(), crate::Plaintext::pair()).await.unwrap();
    served.join().unwrap();
    drop(first);
}

#[tokio::test]
async fn a_dropped_request_is_refused_further_on() {
    let (_dir, path, fake) = place();
    let (sent, arrived) = tokio::sync::oneshot::channel();
    let served = thread::spawn(move || {
        let mut client = fake.accept().unwrap();
        let (request, _) = client.receive().unwrap();
        sent.send(()).unwrap();
        let (ping, _) = client.receive().unwrap();
        let Body::Starttls(s) = &request.body else { panic!() };
        client.call_back(&request, 3, Body::PlaintextConnect(s.clone())).unwrap();
        let (refusal, _) = client.receive().unwrap();
        assert_eq!((refusal.reqid, refusal.cbid), (request.reqid, 3));
        assert!(matches!(refusal.body, Body::Error(_)));
        client.answer(&ping, ping.body.clone()).unwrap();
    });
    let pool = Pool::at(path);
    tokio::select! {
        _ = pool.starttls(client(), socket(), crate::Plaintext::pair()) => panic!(),
        _ = arrived => {}
    }
    pool.ping("20260101me", Facilities::STARTTLS).await.unwrap();
    served.join().unwrap();
}

#[tokio::test]
async fn the_plaintext_goes_along_when_the_pool_takes_it() {
    let (_dir, path, fake) = place();
    let served = thread::spawn(move || {
        let mut client = fake.accept().unwrap();
        client.take_plaintext();
        let (question, _) = client.receive().unwrap();
        client.answer(&question, question.body.clone()).unwrap();
        let (request, cipher) = client.receive().unwrap();
        assert!(cipher.is_some() && client.second().is_some());
        client.answer(&request, request.body.clone()).unwrap();
        // A socket that is only made when the names are known cannot.
        let (request, _) = client.receive().unwrap();
        assert!(client.second().is_none());
        client.answer(&request, request.body.clone()).unwrap();
    });
    let pool = Pool::at(path);
    pool.ping("20260101me", Facilities::STARTTLS).await.unwrap();
    let given = crate::Plaintext::given(socket());
    pool.starttls(client(), socket(), given).await.unwrap();
    let connected = Plaintext::connect(|_| async { Ok(socket()) });
    pool.starttls(client(), socket(), connected).await.unwrap();
    served.join().unwrap();
}

/// Given up while the answer to the pool's question is being found, which the pool must not wait for.
#[tokio::test]
async fn a_callback_that_was_taken_out_is_refused_when_its_request_is_dropped() {
    let (_dir, path, fake) = place();
    let served = thread::spawn(move || {
        let mut client = fake.accept().unwrap();
        let (request, _) = client.receive().unwrap();
        let Body::Starttls(s) = &request.body else { panic!() };
        client.call_back(&request, 3, Body::PlaintextConnect(s.clone())).unwrap();
        let (refusal, _) = client.receive().unwrap();
        assert_eq!((refusal.reqid, refusal.cbid), (request.reqid, 3));
        assert!(matches!(refusal.body, Body::Error(_)));
    });
    let pool = Pool::at(path);
    let (asked, is_asked) = tokio::sync::oneshot::channel();
    let mut asked = Some(asked);
    let plaintext = Plaintext::connect(|_| {
        asked.take().unwrap().send(()).unwrap();
        std::future::pending()
    });
    tokio::select! {
        _ = pool.starttls(client(), socket(), plaintext) => panic!(),
        _ = is_asked => {}
    }
    tokio::task::spawn_blocking(move || served.join().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_pool_that_is_full_says_so() {
    let (_dir, path, fake) = place();
    let served = thread::spawn(move || {
        fake.accept().unwrap().part(PoolError::LimitReached, "see limits.clients").unwrap();
        let mut late = fake.accept().unwrap();
        late.receive().unwrap();
        late.part(PoolError::LimitReached, "see limits.clients").unwrap();
    });
    for _ in 0..2 {
        let pool = Pool::at(&path);
        let full = pool.starttls(client(), socket(), crate::Plaintext::pair()).await.unwrap_err();
        assert_eq!(full.pool_error(), Some(PoolError::LimitReached), "{full}");
        assert_eq!(full.to_string(), "see limits.clients");
    }
    served.join().unwrap();
}

#[tokio::test]
async fn without_a_pool_the_sockets_are_still_there() {
    let (dir, path, fake) = place();
    drop((fake, std::fs::remove_file(&path)));
    let pool = Pool::at(&path);
    let mut cipher = Some(socket());
    for mut plaintext in [
        Plaintext::from(crate::Plaintext::pair()),
        Plaintext::from(crate::Plaintext::given(socket())),
    ] {
        let asked = pool.starttls_with(client(), &mut cipher, &mut plaintext).await;
        assert!(matches!(asked, Err(Error::NoPool { .. })), "{asked:?}");
        let fake = FakePool::bind(&path).unwrap();
        let served = thread::spawn(move || {
            let mut client = fake.accept().unwrap();
            let (request, cipher) = client.receive().unwrap();
            assert!(cipher.is_some());
            let Body::Starttls(s) = &request.body else { panic!() };
            client.call_back(&request, 3, Body::PlaintextConnect(s.clone())).unwrap();
            let (_, plaintext) = client.receive().unwrap();
            assert!(plaintext.is_some());
            client.answer(&request, request.body.clone()).unwrap();
            plaintext
        });
        pool.starttls_with(client(), &mut cipher, &mut plaintext).await.unwrap();
        assert!(cipher.is_none());
        cipher = Some(socket());
        served.join().unwrap();
        std::fs::remove_file(&path).unwrap();
    }
    drop(dir);
}
