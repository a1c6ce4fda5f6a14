//! The blocking client against a scripted pool.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;

use tempfile::TempDir;
use tlspool_wire::packet::ErrorReply;
use tlspool_wire::{
    Body, CtlKey, Facilities, Lidentry, Packet, Pinentry, PoolError, Starttls, StarttlsFlags, Text,
};

use crate::fake::{FakeClient, FakePool};
use crate::{Cancel, Error, LocalidAnswer, Plaintext, Pool, StarttlsRequest};

fn place() -> (TempDir, PathBuf, FakePool) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pool");
    let fake = FakePool::bind(&path).unwrap();
    (dir, path, fake)
}

fn socket() -> OwnedFd {
    UnixStream::pair().unwrap().0.into()
}

fn error(code: PoolError) -> Body {
    Body::Error(ErrorReply { code: code.code(), message: Text::EMPTY })
}

fn client() -> StarttlsRequest {
    StarttlsRequest::client("example.com").unwrap()
}

/// Finishes a STARTTLS without asking for the plaintext side.
fn establish(pool: &mut FakeClient) -> Packet {
    let (request, cipher) = pool.receive().unwrap();
    assert!(cipher.is_some());
    pool.answer(&request, request.body.clone()).unwrap();
    request
}

#[test]
fn names_and_plaintext_come_back() {
    let (_dir, path, fake) = place();
    fake.relay("me@example.net", "anonymous");
    let (cipher, mut peer) = UnixStream::pair().unwrap();
    let pool = Pool::at(path);
    let session = pool.starttls(client(), cipher.into(), Plaintext::pair()).unwrap();
    assert_eq!((session.localid(), session.remoteid()), ("me@example.net", "example.com"));
    assert!(!session.ctlkey().is_none());
    let mut plain = UnixStream::from(session.plaintext.unwrap());
    plain.write_all(b"over").unwrap();
    let mut buffer = [0; 4];
    peer.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"over");
    drop(peer);
    assert_eq!(plain.read(&mut buffer).unwrap(), 0);

    let key = CtlKey([1; 16]);
    pool.detach(key).unwrap();
    pool.reattach(key).unwrap();
    let mut material = [0; 20];
    pool.prng(key, "EXPERIMENTAL", None, &mut material).unwrap();
    assert_eq!(material, [b'r'; 20]);
    assert_eq!(pool.info(key, 1).unwrap(), b"fact");
    assert_eq!(pool.check_info(key, 1, b"fact").unwrap(), b"fact");
    assert!(matches!(pool.check_info(key, 1, &[0; 335]), Err(Error::TooLong(_))));
    assert_eq!(pool.ping("20260101me", Facilities::ALL_CURRENT).unwrap().facilities, 1);
}

#[test]
fn no_pool_names_the_socket() {
    let error = Pool::at("/nowhere/pool").connect().unwrap_err();
    assert!(error.to_string().contains("/nowhere/pool"), "{error}");
    assert_eq!(error.number(), rustix::io::Errno::NOENT.raw_os_error());
}

#[test]
fn records_in_pieces_and_glued() {
    let (_dir, path, fake) = place();
    let pools = [Pool::at(&path), Pool::at(&path)];
    let pool = thread::spawn(move || {
        let mut client = fake.accept().unwrap();
        for split in [1, 8, 200, 387] {
            let (request, _) = client.receive().unwrap();
            let raw = request.encode();
            // Rubbish for a request nobody made is glued in front, and cut elsewhere.
            let stray = Packet { reqid: 9999, cbid: 0, body: Body::Success }.encode();
            let glued = [&stray[..], &raw[..]].concat();
            client.send_bytes(&glued[..388 + split]).unwrap();
            client.send_bytes(&glued[388 + split..]).unwrap();
        }
    });
    for _ in 0..4 {
        assert!(pools[0].ping("20260101me", Facilities::STARTTLS).is_ok());
    }
    pool.join().unwrap();
}

#[test]
fn callbacks_check_names_and_connect() {
    let (_dir, path, fake) = place();
    let pool = thread::spawn(move || {
        let mut client = fake.accept().unwrap();
        let (request, _) = client.receive().unwrap();
        let Body::Starttls(asked) = &request.body else { panic!() };
        assert!(asked.flags.contains(StarttlsFlags::LOCALID_CHECK));
        for (cbid, name, answer) in
            [(5, "a.example", ""), (6, "b.example", "b.example"), (7, "c.example", "d.example")]
        {
            let proposal = Starttls { localid: Text::cut(name), ..asked.clone() };
            client.call_back(&request, cbid, Body::StarttlsLocalid(proposal)).unwrap();
            let (reply, descriptor) = client.receive().unwrap();
            assert_eq!((reply.reqid, reply.cbid), (request.reqid, cbid));
            let Body::StarttlsLocalid(s) = reply.body else { panic!("{reply:?}") };
            assert_eq!(s.localid.as_str(), answer);
            assert!(descriptor.is_none());
        }
        let established = Starttls { remoteid: Text::cut("peer"), ..asked.clone() };
        client.call_back(&request, 8, Body::PlaintextConnect(established)).unwrap();
        let (_, plaintext) = client.receive().unwrap();
        UnixStream::from(plaintext.unwrap()).write_all(b"hello").unwrap();
        client.answer(&request, request.body.clone()).unwrap();
    });
    let (mut ours, pools) = UnixStream::pair().unwrap();
    let mut pools = Some(pools);
    let plaintext = Plaintext::connect(|established| {
        assert_eq!(established.remoteid.as_str(), "peer");
        Ok(pools.take().unwrap().into())
    })
    .check_localid(|proposal| match proposal.localid.as_str() {
        "a.example" => LocalidAnswer::NotThis,
        "b.example" => LocalidAnswer::Accept,
        _ => LocalidAnswer::Instead(Text::cut("d.example")),
    });
    let session = Pool::at(path).starttls(StarttlsRequest::server(), socket(), plaintext).unwrap();
    assert!(session.plaintext.is_none());
    let mut words = String::new();
    ours.read_to_string(&mut words).unwrap();
    assert_eq!(words, "hello");
    pool.join().unwrap();
}

#[test]
fn a_refused_callback_ends_in_the_pools_error() {
    let (_dir, path, fake) = place();
    fake.relay("a", "b");
    let plaintext = Plaintext::connect(|_| {
        Err(std::io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error()).into())
    });
    let failed = Pool::at(path).starttls(client(), socket(), plaintext).unwrap_err();
    assert_eq!(failed.number(), rustix::io::Errno::CONNREFUSED.raw_os_error());
    assert!(failed.to_string().contains("refused"), "{failed}");
}

#[test]
fn many_in_flight_on_one_connection_answered_backwards() {
    const THREADS: usize = 64;
    let (_dir, path, fake) = place();
    let pool = Pool::at(path);
    pool.connect().unwrap();
    let served = thread::spawn(move || {
        let mut client = fake.accept().unwrap();
        for _round in 0..10 {
            let mut held: Vec<_> = (0..THREADS).map(|_| client.receive().unwrap().0).collect();
            while let Some(request) = held.pop() {
                client.answer(&request, request.body.clone()).unwrap();
            }
        }
    });
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let pool = pool.clone();
            scope.spawn(move || {
                for _round in 0..10 {
                    let name = format!("thread{thread}");
                    let pong = pool.ping(&name, Facilities::STARTTLS).unwrap();
                    assert_eq!(pong.identity.as_str(), name);
                }
            });
        }
    });
    served.join().unwrap();
}

#[test]
fn a_pool_that_was_restarted_is_found_again() {
    let (_dir, path, fake) = place();
    let pool = Pool::at(&path);
    pool.connect().unwrap();
    drop(fake.accept().unwrap());
    drop(fake);
    let fake = FakePool::bind(&path).unwrap();
    let served = thread::spawn(move || establish(&mut fake.accept().unwrap()));
    pool.starttls(client(), socket(), Plaintext::pair()).unwrap();
    served.join().unwrap();
}

#[test]
fn what_was_sent_and_lost_is_not_repeated() {
    let (_dir, path, fake) = place();
    let pool = Pool::at(&path);
    let served = thread::spawn(move || {
        let mut client = fake.accept().unwrap();
        client.receive().unwrap();
        drop(client);
        establish(&mut fake.accept().unwrap());
    });
    let lost = pool.starttls(client(), socket(), Plaintext::pair()).unwrap_err();
    assert!(matches!(lost, Error::Lost), "{lost}");
    assert_eq!(lost.number(), rustix::io::Errno::PIPE.raw_os_error());
    pool.starttls(client(), socket(), Plaintext::pair()).unwrap();
    served.join().unwrap();
}

#[test]
fn draining_moves_new_requests_and_keeps_old_sessions() {
    let (_dir, path, fake) = place();
    let pool = Pool::at(&path);
    let (go, wait) = mpsc::channel();
    let served = thread::spawn(move || {
        let mut old = fake.accept().unwrap();
        establish(&mut old);
        old.send(&Packet { reqid: 0, cbid: 0, body: Body::Draining }).unwrap();
        go.send(()).unwrap();
        let mut new = fake.accept().unwrap();
        establish(&mut new);
        // The first session's key is known on the old connection only.
        let (question, _) = new.receive().unwrap();
        new.answer(&question, error(PoolError::CtlkeyNotFound)).unwrap();
        let (question, _) = old.receive().unwrap();
        old.answer(&question, Body::Success).unwrap();
        // One that arrives at a draining pool all the same is sent again to the next.
        let (request, cipher) = new.receive().unwrap();
        assert!(cipher.is_some());
        new.answer(&request, error(PoolError::Draining)).unwrap();
        let mut newest = fake.accept().unwrap();
        establish(&mut newest);
        drop(old);
        drop(new);
        establish(&mut newest);
    });
    let first = pool.starttls(client(), socket(), Plaintext::pair()).unwrap();
    wait.recv().unwrap();
    pool.starttls(client(), socket(), Plaintext::pair()).unwrap();
    pool.detach(first.ctlkey()).unwrap();
    pool.starttls(client(), socket(), Plaintext::pair()).unwrap();
    pool.starttls(client(), socket(), Plaintext::pair()).unwrap();
    served.join().unwrap();
}

#[test]
fn cancelling_wakes_the_reader_and_refuses_callbacks() {
    let (_dir, path, fake) = place();
    let pool = Pool::at(&path);
    let cancel = Cancel::new();
    let served = thread::spawn({
        let cancel = cancel.clone();
        move || {
            let mut client = fake.accept().unwrap();
            let (request, _) = client.receive().unwrap();
            cancel.cancel();
            let (ping, _) = client.receive().unwrap();
            let Body::Starttls(s) = &request.body else { panic!() };
            client.call_back(&request, 3, Body::PlaintextConnect(s.clone())).unwrap();
            let (refusal, _) = client.receive().unwrap();
            client.answer(&ping, ping.body.clone()).unwrap();
            assert_eq!((refusal.reqid, refusal.cbid), (request.reqid, 3));
            assert!(matches!(refusal.body, Body::Error(_)));
        }
    });
    let failed =
        pool.starttls_cancellable(client(), socket(), Plaintext::pair(), &cancel).unwrap_err();
    assert!(matches!(failed, Error::Cancelled), "{failed}");
    pool.ping("20260101me", Facilities::STARTTLS).unwrap();
    served.join().unwrap();
}

#[test]
fn services_answer_until_the_pool_ends_them() {
    let (_dir, path, fake) = place();
    let (gone, is_gone) = std::sync::mpsc::channel();
    let served = thread::spawn(move || {
        let mut pins = fake.accept().unwrap();
        let (register, _) = pins.receive().unwrap();
        let asked = Pinentry { attempt: 1, token_label: Text::cut("disk"), ..Pinentry::default() };
        pins.call_back(&register, 4, Body::Pinentry(asked)).unwrap();
        let (answer, _) = pins.receive().unwrap();
        let Body::Pinentry(entry) = answer.body else { panic!() };
        assert_eq!((answer.cbid, entry.pin.as_str()), (4, "1234"));
        // A pool that is replaced sends it to its successor, also in the middle of a question.
        let asked = Pinentry { token_label: Text::cut("late"), ..Pinentry::default() };
        pins.call_back(&register, 5, Body::Pinentry(asked)).unwrap();
        pins.answer(&register, error(PoolError::Draining)).unwrap();
        drop(pins);
        gone.send(()).unwrap();
        let mut successor = fake.accept().unwrap();
        let (again, _) = successor.receive().unwrap();
        assert_eq!(again.body, register.body);
        successor.answer(&again, error(PoolError::PinentryNotVacant)).unwrap();

        let mut names = fake.accept().unwrap();
        let (register, _) = names.receive().unwrap();
        let asked = Lidentry { remoteid: Text::cut("example.com"), ..Lidentry::default() };
        names.call_back(&register, 5, Body::LidentryCallback(asked)).unwrap();
        let (answer, _) = names.receive().unwrap();
        let Body::LidentryCallback(entry) = answer.body else { panic!() };
        assert_eq!(entry.localid.as_str(), "me@example.com");

        // A pool that is replaced sends it to its successor.
        names.answer(&register, error(PoolError::Draining)).unwrap();
        let mut successor = fake.accept().unwrap();
        let (again, _) = successor.receive().unwrap();
        assert_eq!(again.body, register.body);
    });
    let pool = Pool::at(path);
    let ended = pool.pin_service(0, 1_000_000, &Cancel::new(), |entry| {
        if entry.token_label.as_str() == "late" {
            is_gone.recv().unwrap();
        }
        *entry.pin = Text::cut("1234");
    });
    assert_eq!(ended.pool_error(), Some(PoolError::PinentryNotVacant));
    let ended = pool.lidentry_service(Lidentry::default(), &Cancel::new(), |entry| {
        entry.localid = Text::new(&format!("me@{}", entry.remoteid)).unwrap();
        Ok(())
    });
    assert!(matches!(ended, Error::Lost), "{ended}");
    served.join().unwrap();
}

/// The first request may leave before the greeting is answered; a later one brings the socket
/// that the pool would ask for, and is not asked.
#[test]
fn the_plaintext_goes_along_when_the_pool_takes_it() {
    let (_dir, path, fake) = place();
    let served = thread::spawn(move || {
        let mut client = fake.accept().unwrap();
        client.take_plaintext();
        let (question, _) = client.receive().unwrap();
        client.answer(&question, question.body.clone()).unwrap();
        let (request, cipher) = client.receive().unwrap();
        assert!(cipher.is_some());
        let plaintext = client.second().expect("it came along");
        client.answer(&request, request.body.clone()).unwrap();
        UnixStream::from(plaintext).write_all(b"hello").unwrap();
        // Who wants to see the names first keeps it, and is asked.
        let (request, _) = client.receive().unwrap();
        assert!(client.second().is_none());
        let Body::Starttls(asked) = request.body.clone() else { panic!("{request:?}") };
        client.call_back(&request, 7, Body::PlaintextConnect(asked)).unwrap();
        let (answer, plaintext) = client.receive().unwrap();
        assert_eq!(answer.cbid, 7);
        assert!(plaintext.is_some());
        client.answer(&request, request.body.clone()).unwrap();
    });
    let pool = Pool::at(path);
    pool.ping("20260101me", Facilities::STARTTLS).unwrap();
    let session = pool.starttls(client(), socket(), Plaintext::pair()).unwrap();
    let mut words = String::new();
    let mut plain = UnixStream::from(session.plaintext.unwrap());
    // To the end: nobody else holds the pool's end.
    plain.read_to_string(&mut words).unwrap();
    assert_eq!(words, "hello");
    let wary = Plaintext::pair().accept_if(|_| Ok(()));
    assert!(pool.starttls(client(), socket(), wary).unwrap().plaintext.is_some());
    served.join().unwrap();
}

/// That no more requests can be sent says nothing of the answers to those that were.
#[test]
fn an_answer_on_its_way_arrives_although_sending_fails() {
    let (_dir, path, fake) = place();
    let pool = Pool::at(path);
    pool.connect().unwrap();
    let (go, wait) = mpsc::channel();
    let (moved, has_moved) = mpsc::channel();
    let served = thread::spawn(move || {
        let mut old = fake.accept().unwrap();
        let (request, cipher) = old.receive().unwrap();
        assert!(cipher.is_some());
        old.stop_receiving().unwrap();
        go.send(()).unwrap();
        // The other thread's question, which the old connection did not take.
        let mut new = fake.accept().unwrap();
        let (ping, _) = new.receive().unwrap();
        new.answer(&ping, ping.body.clone()).unwrap();
        has_moved.recv().unwrap();
        old.send(&Packet { reqid: 0, cbid: 0, body: Body::Draining }).unwrap();
        old.answer(&request, request.body.clone()).unwrap();
    });
    thread::scope(|scope| {
        let first = scope.spawn(|| pool.starttls(client(), socket(), Plaintext::pair()));
        wait.recv().unwrap();
        pool.ping("20260101me", Facilities::STARTTLS).unwrap();
        moved.send(()).unwrap();
        first.join().unwrap().unwrap();
    });
    served.join().unwrap();
}

#[test]
fn a_pool_that_is_full_says_so() {
    let (_dir, path, fake) = place();
    let served = thread::spawn(move || {
        // Before the greeting is there, or after the request is.
        fake.accept().unwrap().part(PoolError::LimitReached, "see limits.clients").unwrap();
        let mut late = fake.accept().unwrap();
        late.receive().unwrap();
        late.part(PoolError::LimitReached, "see limits.clients").unwrap();
        fake.accept().unwrap().part(PoolError::LimitReached, "see limits.clients").unwrap();
    });
    for _ in 0..2 {
        let full = Pool::at(&path).starttls(client(), socket(), Plaintext::pair()).unwrap_err();
        assert_eq!(full.pool_error(), Some(PoolError::LimitReached), "{full}");
        assert_eq!(full.to_string(), "see limits.clients");
    }
    let full = Pool::at(&path).pin_service(0, 0, &Cancel::new(), |_| ());
    assert_eq!(full.pool_error(), Some(PoolError::LimitReached), "{full}");
    served.join().unwrap();
}
