//! RADIUS servers decide: FreeRADIUS, and one that lies.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;

use tlspool_client::StarttlsRequest;
use tlspool_lookup::authorize::radius::packet::{self, Secret};
use tlspool_tests::House;
use tlspool_tests::app::{Greeted, Outcome, call};
use tlspool_tests::freeradius::{FreeRadius, SECRET};
use tlspool_tests::net::free_udp_port;

use crate::openssl_client::{VERSIONS, greeting, open};
use crate::{assert_denied, authorize, s_server, shown};

const USERS: &str = "\
john@example.org Called-Station-Id == \"example.com\", NAS-Port-Id == \"imap\", \
Service-Type == Call-Check, NAS-Identifier == \"the pool\", Connect-Info == \"server\", \
Auth-Type := Accept
\tReply-Message = \"welcome\"

www.example.net Called-Station-Id == \"jane@example.org\", Connect-Info == \"client\", \
Auth-Type := Accept

challenge@example.org Auth-Type := Accept, Response-Packet-Type := Access-Challenge

DEFAULT Auth-Type := Reject
\tReply-Message = \"not on the list\"
";

/// Time for servers that answer, however busy the machine is, and for those that do not.
const PATIENT: &str = "10s";
const QUICK: &str = "1s";

/// `[authorization.radius]`, with the secret in a file.
fn configuration(
    house: &House,
    servers: &[&str],
    secret: &str,
    timeout: &str,
    more: &str,
) -> String {
    let file = house.write("radius.secret", secret);
    // The look-up process may be another user; its group is the one of this file only if we are not root.
    let owner = std::os::unix::fs::chown(&file, Some(65534), None);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert!(owner.is_ok() || !tlspool_tests::is_root());
    format!(
        "{more}\n[authorization.radius]\nservers = {servers:?}\nsecret_file = \"{}\"\n\
         nas_identifier = \"the pool\"\ntimeout = \"{timeout}\"\nattempts = 2\n",
        file.display()
    )
}

fn imap() -> StarttlsRequest {
    StarttlsRequest::server().service("imap").unwrap()
}

fn refused((good, said, outcome): (bool, String, Outcome<Greeted>), words: &str) {
    assert!(!good && !said.contains("you are"), "{said}");
    assert!(said.contains("alert access denied"), "{said}");
    assert_denied(&outcome.unwrap_err(), words);
}

#[test]
fn freeradius_accepts_rejects_and_challenges() {
    let mut radius = FreeRadius::start(USERS);
    let house = House::new();
    let log = "log = { level = \"debug\" }";
    house.configure(&configuration(&house, &[&radius.address], SECRET, PATIENT, log));
    house.identity("example.com");
    house.identity("jane@example.org");
    let [john, jane, challenged] = ["john", "jane", "challenge"]
        .map(|user| house.authority().leaf(&format!("{user}@example.org")));
    let daemon = house.start();
    for (option, _) in VERSIONS {
        let go = |request, more: &[&str]| {
            greeting(&house, request, "example.com", &[&[option], more].concat())
        };
        let greeted = go(imap(), &shown(&john)).2;
        let greeted = greeted.unwrap_or_else(|error| panic!("{error}: {}", radius.log()));
        assert_eq!(greeted.remoteid, "john@example.org");
        let by = format!("by RADIUS server {}", radius.address);
        daemon.await_log(&format!("authorization: allow, {by}: welcome"));
        refused(go(imap(), &shown(&jane)), &format!("{by}: not on the list"));
        refused(go(imap().service("pop3").unwrap(), &shown(&john)), &by);
        let challenge = go(imap(), &shown(&challenged));
        radius.await_log("Sent Access-Challenge");
        refused(challenge, &by);
        daemon.await_log("it wants to ask the peer something");
        refused(go(open(), &[]), &by);
        // A rule comes first.
        let rule = authorize(&house, &["add", "deny", "john@example.org"]);
        refused(go(imap(), &shown(&john)), &format!("by rule {rule}"));
        authorize(&house, &["remove", &rule]);
        // As a client.
        let leaf = house.authority().leaf("www.example.net");
        let (_server, address) = s_server(&house, &leaf, &[option]);
        let request = StarttlsRequest::client("www.example.net").unwrap();
        let ours = request.clone().localid("jane@example.org").unwrap();
        drop(call(&house.pool(), ours, &address).unwrap());
        assert_denied(&call(&house.pool(), request, &address).map(drop).unwrap_err(), &by);
    }
    let check = ["authorize", "check", "john@example.org", "--service", "imap", "--local"];
    let said = house.good(&[&check[..], &["example.com"]].concat());
    assert!(said.contains("allow, by RADIUS server"), "{said}");
    assert!(house.bad(&[&check[..], &["example.net"]].concat()).contains("not on the list"));
    // Nobody was taken for another, and the question had its tag.
    let log = radius.log();
    assert!(!log.contains("Message-Authenticator is invalid"), "{log}");
    radius.kill();
    refused(greeting(&house, imap(), "example.com", &shown(&john)), "john@example.org is not");
    daemon.await_log("unreachable: ");
    daemon.stop();
}

#[test]
fn a_server_without_message_authenticator_must_be_permitted() {
    let radius = FreeRadius::old(USERS);
    let house = House::new();
    let lax = "require_message_authenticator = false\n";
    house.configure(&(configuration(&house, &[&radius.address], SECRET, PATIENT, "") + lax));
    house.identity("example.com");
    let john = house.authority().leaf("john@example.org");
    let daemon = house.start();
    let go = || greeting(&house, imap(), "example.com", &shown(&john));
    assert_eq!(go().2.unwrap().remoteid, "john@example.org");
    // Debian's is one of these, or was: its remedied version sends the tag by itself.
    if !radius.sends_tags() {
        house.configure(&configuration(&house, &[&radius.address], SECRET, QUICK, ""));
        daemon.reload();
        refused(go(), "john@example.org is not authorized");
    }
    daemon.stop();
}

#[test]
fn a_second_server_stands_in_for_the_first() {
    let radius = FreeRadius::start(USERS);
    let house = House::new();
    let nobody = format!("127.0.0.1:{}", free_udp_port());
    house.configure(&configuration(&house, &[&nobody, &radius.address], SECRET, PATIENT, ""));
    house.identity("example.com");
    let john = house.authority().leaf("john@example.org");
    let _daemon = house.start();
    let go = || greeting(&house, imap(), "example.com", &shown(&john)).2;
    assert_eq!(go().unwrap().remoteid, "john@example.org");
    assert_eq!(go().unwrap().remoteid, "john@example.org");
}

#[test]
fn who_does_not_answer_denies_unless_that_is_set() {
    let radius = FreeRadius::start(USERS);
    // It hears everything, and says nothing.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().unwrap().to_string();
    for unreachable in ["deny", "allow"] {
        // A secret that FreeRADIUS does not know: it drops the question.
        for (server, secret) in [(&silent, SECRET), (&radius.address, "another secret")] {
            let house = House::new();
            let more = format!("[authorization]\nunreachable = \"{unreachable}\"");
            house.configure(&configuration(&house, &[server], secret, QUICK, &more));
            house.identity("example.com");
            let john = house.authority().leaf("john@example.org");
            let daemon = house.start();
            let outcome = greeting(&house, imap(), "example.com", &shown(&john));
            if unreachable == "allow" {
                assert_eq!(outcome.2.unwrap().remoteid, "john@example.org");
            } else {
                refused(outcome, "john@example.org is not authorized");
                daemon.await_log("no answer within 1s (2 times)");
            }
            daemon.stop();
        }
    }
}

/// A server that answers each request with these, as made of it.
fn liar(make: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { return };
            for reply in make(&buffer[..length]) {
                let _ = socket.send_to(&reply, from);
            }
        }
    });
    address
}

#[test]
fn forged_replies_let_nobody_in() {
    let secret = || Secret::new(SECRET.as_bytes()).unwrap();
    // Accepts of who does not know the secret, or by a Response Authenticator alone, or of another question.
    let server = liar(move |request| {
        let guessed = Secret::new(b"guessed it").unwrap();
        let accept = |secret: &Secret| packet::reply(request, packet::ACCESS_ACCEPT, &[], secret);
        let mut altered = packet::reply(request, packet::ACCESS_REJECT, &[], &secret()).unwrap();
        altered[0] = packet::ACCESS_ACCEPT;
        let mut untagged = request[..20].to_vec();
        untagged[0] = packet::ACCESS_ACCEPT;
        untagged[2..4].copy_from_slice(&[0, 20]);
        packet::sign(&mut untagged, &secret());
        let mut other = request.to_vec();
        other[1] ^= 1;
        let other = packet::reply(&other, packet::ACCESS_ACCEPT, &[], &secret()).unwrap();
        vec![accept(&guessed).unwrap(), altered, untagged, other, Vec::new(), vec![2; 5000]]
    });
    let house = House::new();
    house.configure(&configuration(&house, &[&server], SECRET, QUICK, ""));
    house.identity("example.com");
    let john = house.authority().leaf("john@example.org");
    let daemon = house.start();
    let go = || greeting(&house, imap(), "example.com", &shown(&john));
    refused(go(), "john@example.org is not authorized");
    daemon.await_log("no answer within 1s (2 times)");
    // An old server has no Message-Authenticator; that it counts must be said.
    let more = "require_message_authenticator = false\n";
    house.configure(&(configuration(&house, &[&server], SECRET, PATIENT, "") + more));
    daemon.reload();
    assert_eq!(go().2.unwrap().remoteid, "john@example.org");
    daemon.stop();
}

#[test]
fn a_secret_that_everybody_can_read_is_refused() {
    let house = House::new();
    house.configure(&configuration(&house, &["127.0.0.1"], SECRET, QUICK, ""));
    let file = house.path("radius.secret");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = house.bad(&["check"]);
    assert!(error.contains("radius.secret is open to everybody"), "{error}");
}
