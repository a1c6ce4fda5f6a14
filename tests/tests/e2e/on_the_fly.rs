//! Identities made on the fly, by an authority whose key is on a token: seen by OpenSSL as client and as
//! server, and what is refused.

use std::net::TcpListener;
use std::path::Path;

use tlspool_client::{PoolError, StarttlsFlags as Flags, StarttlsRequest};
use tlspool_tests::app::{Server, call};
use tlspool_tests::{House, Leaf, Process, is_root, openssl, run};

use crate::client::s_server;
use crate::openssl_client::{VERSIONS, greeted, open};
use crate::programs::inhabitant;

/// An authority below that of the house.
struct Fly {
    certificate: String,
    key: String,
}

impl Fly {
    /// With its key on a token.
    fn on_token(house: &House, algorithm: &str, extensions: &str) -> Self {
        let token = house.token("fly");
        let name = "fly.example";
        let key = house.token_identity(name, algorithm, &token);
        house.good(&["identity", "remove", name, "--all"]);
        let certificate = house.text("pki/fly.pem");
        let extensions = house.write("pki/fly.ext", extensions);
        openssl(&[
            "x509",
            "-req",
            "-in",
            &house.text("pki/fly.example.csr"),
            "-CA",
            house.anchor(),
            "-CAkey",
            house.authority().key(),
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            extensions.to_str().unwrap(),
            "-out",
            &certificate,
        ]);
        Self { certificate, key }
    }

    fn configure(&self, house: &House, identity_key: &str) {
        house.configure(&format!(
            "[on_the_fly]\ncertificate = \"file:{}\"\nkey = \"{}\"\nidentity_key = \"{identity_key}\"\n\
             lifetime = \"2h\"\n",
            self.certificate, self.key
        ));
    }
}

const AUTHORITY: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n\
                         subjectKeyIdentifier=hash\n";

/// A pool that makes identities.
fn making(algorithm: &str) -> House {
    let house = House::new();
    let fly = Fly::on_token(&house, algorithm, AUTHORITY);
    let leaf = house.authority().leaf("nobody.example");
    fly.configure(&house, &format!("file:{}", leaf.key()));
    house
}

fn fly() -> StarttlsRequest {
    open().flags(Flags::LOCALID_ONTHEFLY)
}

#[test]
fn openssl_meets_names_that_were_never_made() {
    for algorithm in ["p256", "rsa2048"] {
        let house = making(algorithm);
        let daemon = house.start();
        for (option, _) in VERSIONS {
            // By SNI, and by the program's word.
            for (request, name) in [
                (fly(), "one.example"),
                (fly().localid("two.example").unwrap(), "two.example"),
                (
                    fly(),
                    "a.very.long.name.that.fits.no.common.name.of.a.certificate.any.more.example",
                ),
            ] {
                let (said, met) = greeted(&house, request, name, &[option]);
                assert_eq!(met.localid, name);
                assert!(
                    said.contains("CN = fly.example") || said.contains("CN=fly.example"),
                    "{said}"
                );
            }
        }
        assert!(house.good(&["identity", "list", "--json"]).is_empty());
        let log = daemon.stop();
        // Each once on each worker at the most: they are kept for a while.
        assert!(log.matches("made an identity on the fly").count() <= 6, "{log}");
        assert!(log.contains("made an identity on the fly"), "{log}");
    }
}

/// The freedom is reported only if it was used, and what was made is no other's.
#[test]
fn the_answer_says_whether_it_was_made() {
    let house = making("p256");
    house.identity("www.example.com");
    let _daemon = house.start();
    for (request, made) in [(fly(), true), (open(), false)] {
        let server = Server::start(house.pool(), request, move |session, _| {
            assert_eq!(session.answer.flags.contains(Flags::LOCALID_ONTHEFLY), made);
        });
        let client = StarttlsRequest::client("www.example.com").unwrap();
        let (session, plaintext) = call(&house.pool(), client, server.at()).unwrap();
        assert_eq!(session.remoteid(), "www.example.com");
        drop(plaintext);
        server.outcome().unwrap();
    }
}

#[test]
fn a_client_is_made_too_by_its_program_or_by_who_chooses() {
    let house = making("p256");
    let leaf = house.authority().leaf("www.example.com");
    let _daemon = house.start();
    let client = || StarttlsRequest::client("www.example.com").unwrap();
    let shown = |leaf: &Leaf, request: StarttlsRequest| {
        let ask = ["-Verify", "2", "-verify_return_error"];
        let (server, address) = s_server(&house, leaf, &ask);
        let (session, plaintext) = call(&house.pool(), request, &address).unwrap();
        drop(plaintext);
        let said = server.await_words("CONNECTION CLOSED");
        assert!(said.contains(session.localid()), "{said}");
        session.localid().to_owned()
    };
    let named = client().localid("temp@example.org").unwrap().flags(Flags::LOCALID_ONTHEFLY);
    assert_eq!(shown(&leaf, named), "temp@example.org");
    let script = "\
import tlspool
from tlspool import LidentryFlag as F
tlspool.localid_service(lambda entry: entry._replace(localid='made@example.org', flags=F.ONTHEFLY), flags=0)";
    let mut command = inhabitant(&house, Path::new("python3"));
    let _chooser = Process::start(command.args(["-c", script]));
    house.await_section("chooser", |chooser| chooser == true);
    assert_eq!(shown(&leaf, client()), "made@example.org");
}

/// The error of a server that wants `request`, whose client asks for `name`.
fn refusal(house: &House, request: StarttlsRequest, name: &str) -> tlspool_client::Error {
    let server = Server::start(house.pool(), request, |_, _| {});
    let client = StarttlsRequest::client(name).unwrap();
    assert!(call(&house.pool(), client, server.at()).is_err());
    server.outcome().unwrap_err()
}

#[test]
fn what_cannot_be_made_is_refused() {
    let house = House::new();
    let daemon = house.start();
    let error = refusal(&house, fly(), "one.example");
    assert_eq!(error.pool_error(), Some(PoolError::LocalidUnknown), "{error}");
    assert!(error.to_string().contains("[on_the_fly]"), "{error}");

    // An authority that is none; its own key for everybody; one that is over; keys that are not there.
    let identity_key = format!("file:{}", house.authority().leaf("nobody.example").key());
    let leaf = house.authority().leaf("leaf.example");
    let fly_of = |certificate: &str, key: &str| Fly {
        certificate: certificate.into(),
        key: format!("file:{key}"),
    };
    let old = house.authority().expired("old.example");
    for (fly, identity_key, why) in [
        (fly_of(leaf.certificate(), leaf.key()), identity_key.as_str(), "not that of an authority"),
        (fly_of(old.certificate(), old.key()), &identity_key, "authority"),
        (fly_of(house.anchor(), leaf.key()), &identity_key, "does not belong"),
        (fly_of(house.anchor(), house.authority().key()), "file:/nowhere/key", "nowhere"),
        (fly_of("/nowhere/certificate", leaf.key()), &identity_key, "nowhere"),
    ] {
        fly.configure(&house, identity_key);
        daemon.reload();
        let error = refusal(&house, fly_request("one.example"), "one.example");
        assert_eq!(error.pool_error(), Some(PoolError::KeyUnavailable), "{error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    // The same key under two paths.
    let copy = house.text("pki/copy.key");
    std::fs::copy(house.authority().key(), &copy).unwrap();
    fly_of(house.anchor(), house.authority().key()).configure(&house, &format!("file:{copy}"));
    daemon.reload();
    let error = refusal(&house, fly(), "one.example");
    assert!(error.to_string().contains("must not be that of the identities"), "{error}");
    // No name at all.
    fly_of(house.anchor(), house.authority().key()).configure(&house, &identity_key);
    daemon.reload();
    let server = Server::start(house.pool(), fly(), |_, _| {});
    let client = StarttlsRequest::client("one.example").unwrap().flags(Flags::WITHOUT_SNI);
    assert!(call(&house.pool(), client, server.at()).is_err());
    let error = server.outcome().unwrap_err();
    assert_eq!(error.pool_error(), Some(PoolError::LocalidUnknown), "{error}");
    // And then it works.
    greeted(&house, fly(), "one.example", &[]);
    daemon.stop();
}

fn fly_request(name: &str) -> StarttlsRequest {
    fly().localid(name).unwrap()
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused() {
    let house = House::new();
    for (key, identity_key, why) in [
        ("file:/a", "file:/a", "must not be that of the identities"),
        ("pkcs11:token=a?pin-value=1", "file:/a", "without pin-value"),
        ("/a", "file:/b", "a URI"),
        ("file:b", "file:/b", "a URI"),
    ] {
        let fly = Fly { certificate: "/c".into(), key: key.into() };
        fly.configure(&house, identity_key);
        let error = house.bad(&["check"]);
        assert!(error.contains(why), "{error}");
    }
}

/// A user gets names made that access rules permit, and no others.
#[test]
fn names_of_others_are_not_made() {
    const OTHER: &str = "daemon";
    if !is_root() {
        eprintln!("SKIPPED: only root can run a program as another user");
        return;
    }
    let house = making("p256");
    crate::disclosure::copy_package(&house);
    let _daemon = house.start();
    let script = "\
import socket, sys, tlspool
host, port = sys.argv[1].rsplit(':', 1)
sock = socket.create_connection((host, int(port)))
conn = tlspool.starttls_server(sock, 'one.example', flags=tlspool.Flag.LOCALID_ONTHEFLY | tlspool.Flag.IGNORE_REMOTEID)
print('we are', conn.localid)";
    // It connects, and is the server all the same.
    let attempt = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap().to_string();
        let pool = house.pool();
        let meeting = std::thread::spawn(move || {
            let far = tlspool_tests::app::accept(&listener);
            let client = StarttlsRequest::client("one.example").unwrap();
            pool.starttls(client, far, tlspool_client::Plaintext::pair()).map(drop)
        });
        let mut command = inhabitant(&house, Path::new("setpriv"));
        command.args(["--reuid", OTHER, "--regid", OTHER, "--clear-groups", "/usr/bin/python3"]);
        command.env("PYTHONPATH", house.path("")).env("PYTHONDONTWRITEBYTECODE", "1");
        let said = run(command.args(["-c", script, &at]));
        let _ = meeting.join().unwrap();
        said
    };
    let said = attempt();
    assert!(!said.ok && said.err.contains("may not use one.example"), "{said:?}");
    house.good(&["access", "add", ".example", "--user", OTHER]);
    let said = attempt();
    assert!(said.out.contains("we are one.example"), "{said:?}");
}
