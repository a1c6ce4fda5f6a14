//! What works.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::thread;

use tlspool_client::{
    CtlKey, InfoKind, Plaintext, PoolError, StarttlsFlags as Flags, StarttlsRequest,
};
use tlspoold::supervisor::message::{FromNetwork, ToNetwork};

use crate::house::{House, both, plaintext, tcp_pair};

fn client() -> StarttlsRequest {
    StarttlsRequest::client("example.com").unwrap().localid("john@example.org").unwrap()
}

fn server() -> StarttlsRequest {
    StarttlsRequest::server().localid("example.com").unwrap()
}

fn inhabited() -> House {
    let house = House::new();
    house.identity("example.com");
    house.identity("john@example.org");
    house
}

#[test]
fn both_ends_are_authenticated_and_bytes_flow() {
    let house = inhabited();
    let pool = house.pool();
    let (connected, serving) = both((&pool, client()), (&pool, server()));
    let (mut connected, mut serving) = (connected.unwrap(), serving.unwrap());
    assert_eq!((connected.localid(), connected.remoteid()), ("john@example.org", "example.com"));
    assert_eq!((serving.localid(), serving.remoteid()), ("example.com", "john@example.org"));
    let (mut near, mut far) = (plaintext(&mut connected), plaintext(&mut serving));
    let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let echo = thread::spawn(move || {
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        far.write_all(&all).unwrap();
    });
    near.write_all(&sent).unwrap();
    near.shutdown(Shutdown::Write).unwrap();
    let mut echoed = Vec::new();
    near.read_to_end(&mut echoed).unwrap();
    assert!(echoed == sent);
    echo.join().unwrap();
    drop(near);
    house.await_status("sessions", 0);
}

#[test]
fn a_resumed_session_has_the_same_names() {
    let house = inhabited();
    let pool = house.pool();
    for _ in 0..3 {
        let (connected, serving) = both((&pool, client()), (&pool, server()));
        let (mut connected, mut serving) = (connected.unwrap(), serving.unwrap());
        assert_eq!(connected.localid(), "john@example.org");
        assert_eq!(connected.remoteid(), "example.com");
        assert_eq!(serving.remoteid(), "john@example.org");
        // The ticket has arrived once data behind it has.
        let (mut near, mut far) = (plaintext(&mut connected), plaintext(&mut serving));
        far.write_all(b"x").unwrap();
        near.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn a_server_may_leave_the_name_to_sni_and_the_client_to_itself() {
    let house = inhabited();
    let pool = house.pool();
    let anonymous = StarttlsRequest::client("example.com").unwrap();
    let asking = StarttlsRequest::server().flags(Flags::REQUEST_REMOTEID);
    let (connected, serving) = both((&pool, anonymous), (&pool, asking));
    assert_eq!(connected.unwrap().remoteid(), "example.com");
    let serving = serving.unwrap();
    assert_eq!((serving.localid(), serving.remoteid()), ("example.com", ""));
    assert!(serving.answer.flags.contains(Flags::REQUEST_REMOTEID), "the freedom was used");
}

#[test]
fn an_unknown_local_name_and_a_wrong_peer_are_told() {
    let house = inhabited();
    let pool = house.pool();
    let stranger =
        StarttlsRequest::client("example.net").unwrap().localid("john@example.org").unwrap();
    let (connected, serving) = both((&pool, stranger), (&pool, server()));
    let error = connected.unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::RemoteidRefused), "{error}");
    assert!(error.to_string().contains("example.com"), "{error}");
    assert_eq!(serving.unwrap_err().pool_error(), Some(PoolError::StirredNotShaken));
    let nobody =
        StarttlsRequest::client("example.com").unwrap().localid("jane@example.org").unwrap();
    let (near, _far) = tcp_pair();
    let error = pool.starttls(nobody, OwnedFd::from(near), Plaintext::pair()).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::LocalidUnknown), "{error}");
}

#[test]
fn a_configuration_is_confirmed_when_the_workers_go_by_it() {
    let house = House::new();
    for (id, requests) in [(7, 1), (8, 10)] {
        let mut config = house.config.clone();
        config.limits.requests_per_client = requests;
        house.tell(&ToNetwork::Reload { id, config: Box::new(config) });
        let answer = house.hear();
        assert!(matches!(answer, FromNetwork::Reloaded { id: same } if same == id), "{answer:?}");
    }
    // One that cannot be used is confirmed too: nothing changes any more.
    let mut config = house.config.clone();
    config.keys.pin_users.push(tlspoold::config::UserName("no-such-user".into()));
    house.tell(&ToNetwork::Reload { id: 9, config: Box::new(config) });
    assert!(matches!(house.hear(), FromNetwork::Reloaded { id: 9 }));
}

#[test]
fn exporters_agree_and_belong_to_the_session() {
    let house = inhabited();
    let (here, there) = (house.pool(), house.pool());
    let (mine, yours) = (CtlKey([1; 16]), CtlKey([2; 16]));
    let (connected, serving) =
        both((&here, client().ctlkey(mine)), (&there, server().ctlkey(yours)));
    let (_connected, _serving) = (connected.unwrap(), serving.unwrap());
    let (mut a, mut b) = ([0; 32], [0; 32]);
    here.prng(mine, "EXPERIMENTAL test", Some(b"context"), &mut a).unwrap();
    there.prng(yours, "EXPERIMENTAL test", Some(b"context"), &mut b).unwrap();
    assert_eq!(a, b);
    assert_ne!(a, [0; 32]);
    here.prng(mine, "EXPERIMENTAL test", None, &mut []).unwrap();
    let error = there.prng(mine, "EXPERIMENTAL test", None, &mut b).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::CtlkeyNotYours));
    let error = here.prng(mine, "master secret", None, &mut b).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::PrngUnavailable));
    let binding = InfoKind::TlsServerEndPoint.number();
    assert_eq!(here.info(mine, binding).unwrap(), there.info(yours, binding).unwrap());
    let exporter = InfoKind::TlsExporter.number();
    assert_eq!(here.info(mine, exporter).unwrap(), there.info(yours, exporter).unwrap());
    let subject = here.info(mine, InfoKind::PeerCertSubject.number()).unwrap();
    assert_eq!(subject, there.info(yours, InfoKind::MyCertSubject.number()).unwrap());
    // GeneralName: dNSName [2] "example.com"
    let name = b"\x82\x0bexample.com";
    here.check_info(mine, InfoKind::PeerCertSubjectAltName.number(), name).unwrap();
    let error = here.check_info(mine, InfoKind::PeerCertSubjectAltName.number(), b"\x82\x03com");
    assert_eq!(error.unwrap_err().pool_error(), Some(PoolError::InfoNotFound));
    let error = here.info(mine, InfoKind::TlsUnique.number()).unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::InfoNotFound), "absent in TLS 1.3");
}

#[test]
fn a_session_is_detached_and_taken_over() {
    let house = inhabited();
    let (here, there) = (house.pool(), house.pool());
    let key = CtlKey([3; 16]);
    let (connected, serving) = both((&here, client().ctlkey(key)), (&there, server()));
    let (mut connected, mut serving) = (connected.unwrap(), serving.unwrap());
    let reused = both((&here, client().ctlkey(key)), (&there, server())).0.unwrap_err();
    assert_eq!(reused.pool_error(), Some(PoolError::CtlkeyRegistrationFailed));
    let other = house.pool();
    let attached = other.reattach(key).unwrap_err();
    assert_eq!(attached.pool_error(), Some(PoolError::CtlkeyAttached));
    here.detach(key).unwrap();
    let (mut near, mut far) = (plaintext(&mut connected), plaintext(&mut serving));
    drop((connected, here));
    house.await_status("clients", 2);
    near.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    far.read_exact(&mut heard).unwrap();
    other.reattach(key).unwrap();
    drop(other);
    // Attached again, the session ends with its connection.
    assert_eq!(near.read(&mut heard).unwrap_or(0), 0);
}

#[test]
fn a_session_ends_with_its_connection_unless_forked() {
    let house = inhabited();
    let (here, there) = (house.pool(), house.pool());
    let (connected, serving) = both((&here, client().flags(Flags::FORK)), (&there, server()));
    let (mut connected, mut serving) = (connected.unwrap(), serving.unwrap());
    let (mut near, mut far) = (plaintext(&mut connected), plaintext(&mut serving));
    drop((connected, here));
    house.await_status("clients", 1);
    near.write_all(b"forked").unwrap();
    let mut heard = [0; 6];
    far.read_exact(&mut heard).unwrap();
    drop((serving, there));
    assert_eq!(far.read(&mut heard).unwrap_or(0), 0);
    house.await_status("sessions", 0);
}

#[test]
fn draining_waits_for_the_last_session() {
    let house = inhabited();
    let pool = house.pool();
    let (connected, serving) = both((&pool, client()), (&pool, server()));
    let (mut connected, mut serving) = (connected.unwrap(), serving.unwrap());
    let (mut near, mut far) = (plaintext(&mut connected), plaintext(&mut serving));
    house.tell(&ToNetwork::Drain);
    near.write_all(b"undisturbed").unwrap();
    let mut heard = [0; 11];
    far.read_exact(&mut heard).unwrap();
    drop((near, far));
    assert!(matches!(house.hear(), FromNetwork::Drained));
    drop((connected, serving));
}
