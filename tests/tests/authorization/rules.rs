//! Rules, with OpenSSL as the peer.

use std::io::{BufRead, BufReader, Write};

use tlspool_client::{Error, LocalidAnswer, StarttlsFlags as Flags, StarttlsRequest, Text};
use tlspool_tests::House;
use tlspool_tests::app::{Greeted, Outcome, call};

use crate::openssl_client::{VERSIONS, greeting, open};
use crate::{assert_denied, authorize, s_server, shown};

fn imap() -> StarttlsRequest {
    StarttlsRequest::server().service("imap").unwrap()
}

/// Denied, and the peer was told so, and nothing was said to it.
fn assert_refused((good, said, outcome): (bool, String, Outcome<Greeted>), words: &str) {
    assert!(!good && !said.contains("you are"), "{said}");
    assert!(said.contains("alert access denied"), "{said}");
    assert_denied(&outcome.unwrap_err(), words);
}

#[test]
fn a_server_admits_whom_the_rules_allow() {
    let house = House::with("log = { level = \"debug\" }\n");
    house.identity("example.com");
    let john = house.authority().leaf("john@example.org");
    let jane = house.authority().leaf("jane@example.org");
    let daemon = house.start();
    for (option, _) in VERSIONS {
        let go = |request, leaf| {
            greeting(&house, request, "example.com", &[&[option], &shown(leaf)[..]].concat())
        };
        // Without rules, whoever has proved who it is.
        assert_eq!(go(imap(), &john).2.unwrap().remoteid, "john@example.org");
        let comment = ["--comment", "left in May"];
        let deny = authorize(&house, &[&["add", "deny", "@example.org"], &comment[..]].concat());
        let words =
            format!("john@example.org is not authorized, by rule {deny}: deny @example.org");
        assert_refused(go(imap(), &john), &words);
        daemon.await_log_that("the comment", |log| {
            log.split_once(&words).is_some_and(|(_, rest)| rest.contains("(left in May)"))
        });
        // The more concrete rule decides.
        let allow = ["add", "allow", "john@example.org", "--service", "imap", "--role", "server"];
        let allow = authorize(&house, &allow);
        assert_eq!(go(imap(), &john).2.unwrap().remoteid, "john@example.org");
        daemon.await_log(&format!("authorization: allow, by rule {allow}"));
        assert_refused(go(imap().service("pop3").unwrap(), &john), "by rule");
        assert_refused(go(imap(), &jane), "jane@example.org is not authorized");
        // By our own name, and by our role.
        let local = ["add", "deny", "john@example.org", "--local", "example.com"];
        let local = authorize(&house, &local);
        assert_refused(
            go(imap(), &john),
            &format!("by rule {local}: deny john@example.org to example.com"),
        );
        let client = ["add", "deny", "john@example.org", "--role", "client", "--position", "1"];
        let client = authorize(&house, &client);
        authorize(&house, &["remove", &local]);
        assert_eq!(go(imap(), &john).2.unwrap().remoteid, "john@example.org");
        authorize(&house, &["remove", &client, &deny, &allow]);
    }
    daemon.stop();
}

#[test]
fn silence_falls_to_the_default() {
    let house = House::with("authorization = { default = \"deny\" }\n");
    house.identity("example.com");
    let john = house.authority().leaf("john@example.org");
    let daemon = house.start();
    let go = |request, more: &[&str]| greeting(&house, request, "example.com", more);
    assert_refused(go(imap(), &shown(&john)), "by authorization.default");
    assert_refused(go(open(), &[]), "a peer without a name is not authorized");
    authorize(&house, &["add", "allow", "@example.org", "--service", "imap"]);
    assert_eq!(go(imap(), &shown(&john)).2.unwrap().remoteid, "john@example.org");
    assert_refused(go(open(), &[]), "a peer without a name is not authorized");
    house.configure("authorization = { default = \"allow\" }\n");
    daemon.reload();
    assert_eq!(go(open(), &[]).2.unwrap().remoteid, "");
    daemon.stop();
}

#[test]
fn peers_without_a_name_have_rules_of_their_own() {
    let house = House::new();
    house.identity("example.com");
    let john = house.authority().leaf("john@example.org");
    let daemon = house.start();
    let requested = || StarttlsRequest::server().flags(Flags::REQUEST_REMOTEID);
    for (option, _) in VERSIONS {
        let go = |request, more: &[&str]| {
            greeting(&house, request, "example.com", &[&[option], more].concat())
        };
        let nameless = authorize(&house, &["add", "deny", "--nameless"]);
        assert_refused(go(requested(), &[]), &format!("by rule {nameless}: deny (no name)"));
        assert_eq!(go(requested(), &shown(&john)).2.unwrap().remoteid, "john@example.org");
        // Who is not looked at has no name here, whatever it shows.
        assert_refused(go(open(), &shown(&john)), "a peer without a name");
        // A rule for anyone is for them too, and comes second.
        let anyone = authorize(&house, &["add", "deny", "--anyone"]);
        authorize(&house, &["remove", &nameless]);
        assert_refused(go(requested(), &[]), &format!("by rule {anyone}: deny (anyone)"));
        let nameless = authorize(&house, &["add", "allow", "--nameless"]);
        assert_eq!(go(requested(), &[]).2.unwrap().remoteid, "");
        assert_refused(go(requested(), &shown(&john)), "john@example.org is not authorized");
        authorize(&house, &["remove", &nameless, &anyone]);
    }
    daemon.stop();
}

#[test]
fn a_ticket_evades_no_rule_that_was_added_since() {
    let house = House::new();
    house.identity("example.com");
    let john = house.authority().leaf("john@example.org");
    let daemon = house.start();
    for (number, (option, version)) in VERSIONS.into_iter().enumerate() {
        let file = house.text(&format!("session-{number}"));
        let go = |sessions: &str| {
            let more = [&[sessions, &file, option], &shown(&john)[..]].concat();
            greeting(&house, StarttlsRequest::server(), "example.com", &more)
        };
        assert_eq!(go("-sess_out").2.unwrap().remoteid, "john@example.org");
        let (_, said, outcome) = go("-sess_in");
        assert!(said.contains(&format!("Reused, {version}")), "{said}");
        assert_eq!(outcome.unwrap().remoteid, "john@example.org");
        let rule = authorize(&house, &["add", "deny", "john@example.org"]);
        let refused = go("-sess_in");
        assert!(refused.1.contains(&format!("Reused, {version}")), "{}", refused.1);
        assert_refused(refused, &format!("by rule {rule}"));
        authorize(&house, &["remove", &rule]);
        assert_eq!(go("-sess_in").2.unwrap().remoteid, "john@example.org");
    }
    daemon.stop();
}

fn refusal(house: &House, request: StarttlsRequest, address: &str) -> Error {
    call(&house.pool(), request, address).map(drop).unwrap_err()
}

#[test]
fn a_client_shows_nothing_to_whom_it_may_not_meet() {
    let house = House::new();
    house.identity("john@example.org");
    let leaf = house.authority().leaf("www.example.com");
    let daemon = house.start();
    let request = || {
        let request = StarttlsRequest::client("www.example.com").unwrap();
        request.localid("john@example.org").unwrap().service("https").unwrap()
    };
    for (option, _) in VERSIONS {
        let (server, address) = s_server(&house, &leaf, &["-Verify", "1", option]);
        let answer = |request| {
            let (session, mut plaintext) = call(&house.pool(), request, &address)?;
            plaintext.write_all(b"abc\n").unwrap();
            let mut line = String::new();
            BufReader::new(&plaintext).read_line(&mut line).unwrap();
            assert_eq!((line.as_str(), session.localid()), ("cba\n", "john@example.org"));
            Ok::<_, Error>(())
        };
        let local = ["--local", "@example.org", "--role", "client"];
        let rule = authorize(&house, &[&["add", "deny", ".example.com"], &local[..]].concat());
        let error = answer(request()).unwrap_err();
        assert_denied(&error, &format!("www.example.com is not authorized, by rule {rule}"));
        let said = server.await_words("alert access denied");
        assert!(!said.contains("Peer certificate: "), "our certificate left: {said}");
        // Under another name, or none, it may.
        let plain = StarttlsRequest::client("www.example.com").unwrap();
        let denied = refusal(&house, plain.clone().localid("x@example.org").unwrap(), &address);
        assert_ne!(denied.pool_error(), Some(tlspool_client::PoolError::NotAuthorized));
        authorize(&house, &["remove", &rule]);
        answer(request()).unwrap();
        let said = server.await_words("Peer certificate: ");
        assert!(said.contains("Peer certificate: "), "{said}");
        // A session that is resumed is asked about again.
        answer(request()).unwrap();
        let rule = authorize(&house, &["add", "deny", "www.example.com", "--service", "https"]);
        assert_denied(&answer(request()).unwrap_err(), &format!("by rule {rule}"));
        authorize(&house, &["remove", &rule]);
    }
    house.await_status("totals/resumed", 2);
    daemon.stop();
}

#[test]
fn a_server_that_is_not_looked_at_has_no_name() {
    let house = House::new();
    let leaf = house.authority().leaf("www.example.com");
    let daemon = house.start();
    let (_server, address) = s_server(&house, &leaf, &[]);
    let request = || StarttlsRequest::client("www.example.com").unwrap();
    let ignoring = || request().flags(Flags::IGNORE_REMOTEID);
    // What the program hopes is no name that was proved.
    authorize(&house, &["add", "allow", "www.example.com"]);
    authorize(&house, &["add", "deny", "--anyone"]);
    call(&house.pool(), request(), &address).unwrap();
    assert_denied(&refusal(&house, ignoring(), &address), "a peer without a name");
    daemon.stop();
}

#[test]
fn a_name_that_is_chosen_late_is_asked_about_too() {
    let house = House::new();
    for name in ["john@example.org", "jane@example.org"] {
        house.identity(name);
    }
    let leaf = house.authority().leaf("www.example.com");
    let daemon = house.start();
    for (option, _) in VERSIONS {
        let (server, address) = s_server(&house, &leaf, &["-verify", "1", option]);
        let rule = ["add", "deny", "www.example.com", "--local", "jane@example.org"];
        let rule = authorize(&house, &rule);
        let choose = |name: &'static str| {
            let request = StarttlsRequest::client("www.example.com").unwrap();
            let tcp = tlspool_tests::net::dial(&address).unwrap();
            let plaintext = tlspool_client::Plaintext::pair();
            let plaintext = plaintext.check_localid(|_| LocalidAnswer::Instead(Text::cut(name)));
            let session = house.pool().starttls(request, tcp.into(), plaintext)?;
            Ok::<_, Error>(session.localid().to_owned())
        };
        let error = choose("jane@example.org").unwrap_err();
        assert_denied(&error, &format!("by rule {rule}"));
        let said = server.await_words("alert access denied");
        assert!(!said.contains("Peer certificate: "), "our certificate left: {said}");
        assert_eq!(choose("john@example.org").unwrap(), "john@example.org");
        authorize(&house, &["remove", &rule]);
    }
    daemon.stop();
}

#[test]
fn the_command_says_what_would_be_decided() {
    let house = House::new();
    let check = |more: &[&str]| house.run(&[&["authorize", "check"], more].concat());
    let said = check(&["john@example.org"]);
    assert!(said.ok && said.out.ends_with("allowed\n"), "{} {}", said.out, said.err);
    let rule = authorize(&house, &["add", "deny", "@example.org", "--service", "imap"]);
    let said = check(&["john@example.org", "--service", "imap", "--local", "example.com"]);
    assert!(!said.ok && said.out.ends_with("denied\n"), "{}", said.out);
    assert!(
        said.err.contains(&format!("by rule {rule}: deny @example.org for imap")),
        "{}",
        said.err
    );
    assert!(check(&["john@example.org"]).ok && check(&["--nameless"]).ok);
    let said = check(&["john@example.org", "--service", "imap", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&json["allowed"], &json["steps"][0]["says"]), (&false.into(), &"deny".into()));
}
