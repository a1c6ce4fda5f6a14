//! OpenPGP servers such as no pool is one: the certificate of one has expired in its hands and was extended in the
//! directory of its domain; another shows but the fingerprint of its certificate (RFC 6091 section 3.3). The server
//! here is the engine `tls12` alone.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::signature::Ed25519KeyPair;
use tls12::{
    CertificateType, Common, Connection, Credential, Output, PeerCertificate, ServerConfig,
    SignatureScheme,
};
use tlspool_client::{StarttlsFlags as Flags, StarttlsRequest};
use tlspool_identity::DoNai;
use tlspool_openpgp::make::{Reason, Wanted, create};
use tlspool_openpgp::{Certificate, Hash, RemoteError, RemoteKey};
use tlspool_tests::app::{accept, call};
use tlspool_tests::net::limit;
use tlspool_tests::zones::{Signing, ZoneSet, Zones};
use tlspool_tests::{Daemon, Entries, House, Slapd};

use crate::{dns, tlsa};

const NAME: &str = "example.com";
const BASE: &str = "dc=example,dc=com";
const DAY: Duration = Duration::from_hours(24);

/// A key in memory, which certifies and signs handshakes.
struct Key {
    pair: Ed25519KeyPair,
    spki: Vec<u8>,
}

impl Key {
    fn new() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
        Self { pair: Ed25519KeyPair::from_pkcs8(&pair.serialize_der()).unwrap(), spki }
    }
}

impl RemoteKey for Key {
    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign_digest(&mut self, _hash: Hash, digest: &[u8]) -> Result<Vec<u8>, RemoteError> {
        Ok(self.pair.sign(digest).as_ref().to_vec())
    }
}

/// The ID of the primary key, which signs handshakes too.
fn key_id(certificate: &Certificate) -> [u8; 8] {
    certificate.fingerprint().as_bytes()[12..].try_into().unwrap()
}

/// The whole of it, as a server shows it.
fn whole(certificate: &Certificate) -> PeerCertificate {
    let key_id = key_id(certificate);
    PeerCertificate::OpenPgp { key_id, certificate: certificate.to_bytes() }
}

/// Only its fingerprint.
fn fingerprint(certificate: &Certificate) -> PeerCertificate {
    let fingerprint = certificate.fingerprint().as_bytes().try_into().unwrap();
    PeerCertificate::OpenPgpFingerprint { key_id: key_id(certificate), fingerprint }
}

/// A server that shows `shown`, for as long as the client is there.
fn serve(mut tcp: TcpStream, key: &Key, shown: PeerCertificate) {
    let credential = Arc::new(Credential {
        id: 0,
        certificate: shown,
        schemes: vec![SignatureScheme::Ed25519],
        fingerprint: [1; 32],
    });
    let types = vec![CertificateType::OpenPgp];
    let common = Common { certificate_types: types, ..Common::default() };
    let config = ServerConfig { common, ..ServerConfig::default() };
    let mut connection = Connection::server(Arc::new(config));
    let (mut sent, mut buffer) = (Vec::new(), [0; 16_384]);
    loop {
        let output = connection.poll_output(&mut sent);
        // A client that is gone shows when reading.
        let _ = tcp.write_all(&sent);
        sent.clear();
        match output {
            Output::ChooseCredential(_) => connection.chosen(Ok(Some(credential.clone()))),
            Output::Sign(request) => {
                connection.signed(Some(key.pair.sign(&request.message).as_ref().to_vec()));
            }
            Output::Closed(_) => return,
            Output::Idle | Output::WaitUntil(_) => match tcp.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => connection.handle_input(&buffer[..n], Instant::now()),
            },
            _ => {}
        }
    }
}

/// A pool, and the directory of `example.com`, which lists what it is told to.
struct World {
    house: House,
    daemon: Daemon,
    slapd: Slapd,
    entry: String,
    _zones: Zones,
}

impl World {
    fn new(listed: &Certificate) -> Self {
        let house = House::new();
        let leaf = house.authority().leaf("ldap.example.com");
        let mut entries = Entries::new(NAME, &[], &[]);
        let id = &listed.fingerprint().to_string()[24..];
        entries.key("People", id, &["<example.com>"], listed.to_armored().as_bytes());
        let slapd = Slapd::start(&leaf, &[&entries]);
        let port = slapd.port;
        let records = [
            "ldap A 127.0.0.1".to_owned(),
            format!("_ldap._tcp SRV 0 0 {port} ldap"),
            format!("_{port}._tcp.ldap TLSA {}", tlsa(&leaf)),
        ];
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        let zones = ZoneSet::new().zone(NAME, Signing::Nsec, &records).serve();
        house.configure(&format!("[openpgp]\nremotes = [\"{NAME}\"]\n{}", dns(&zones)));
        let daemon = house.start();
        let entry = format!("pgpCertID={id},ou=People,{BASE}");
        Self { house, daemon, slapd, entry, _zones: zones }
    }

    fn publish(&self, certificate: &Certificate) {
        let armored = certificate.to_armored();
        self.slapd.replace(BASE, &self.entry, "pgpKey", &[armored.as_bytes()]);
    }

    /// A meeting of the pool with a server that shows `shown`.
    fn meet(&self, key: &Key, shown: PeerCertificate) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let tcp = TcpStream::from(accept(&listener));
                limit(&tcp).unwrap();
                serve(tcp, key, shown);
            });
            let request = StarttlsRequest::client(NAME).unwrap().flags(Flags::IGNORE_CACHES);
            let called = call(&self.house.pool(), request, address);
            called.map(drop).map_err(|error| error.to_string())
        })
    }

    #[track_caller]
    fn believe(&self, key: &Key, shown: PeerCertificate) {
        let met = self.meet(key, shown);
        met.unwrap_or_else(|error| panic!("{error}\n{}", self.daemon.log()));
    }

    #[track_caller]
    fn refuse(&self, key: &Key, shown: PeerCertificate, why: &str) {
        let error = self.meet(key, shown).unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}

/// Now, in the whole seconds that OpenPGP counts.
fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// A certificate made so many days ago, for so many.
fn made(key: &mut Key, ago: u32, days: u32) -> Certificate {
    let name = DoNai::parse(NAME).unwrap();
    let wanted = Wanted {
        names: &[&name],
        display_name: "",
        created: now() - ago * DAY,
        validity: Some(days * DAY),
    };
    create(key, None, &wanted).unwrap()
}

#[test]
fn a_certificate_that_only_its_directory_has_extended() {
    let mut key = Key::new();
    let expired = made(&mut key, 100, 50);
    let extended = expired.renew(&mut key, None, now() - 60 * DAY, Some(now() + DAY)).unwrap();
    assert!(expired.check(now()).is_err() && extended.check(now()).is_ok());
    let world = World::new(&expired);
    world.refuse(&key, whole(&expired), "has expired");
    world.publish(&extended);
    world.believe(&key, whole(&expired));
    world.believe(&key, whole(&extended));
    // Nor does it count that a policy does not care: its key signs nothing any more.
    world.house.good(&["policy", "add", NAME, "true"]);
    world.refuse(&key, whole(&expired), "has expired");
    world.daemon.stop();
}

#[test]
fn a_fingerprint_for_which_the_directory_has_the_rest() {
    let mut key = Key::new();
    let certificate = made(&mut key, 10, 50);
    let world = World::new(&certificate);
    world.believe(&key, fingerprint(&certificate));
    // Another's key does not fit, though it shows the same fingerprint.
    let mut other_key = Key::new();
    world.meet(&other_key, fingerprint(&certificate)).unwrap_err();
    // Of this one the directory has nothing.
    let other = made(&mut other_key, 10, 50);
    world.refuse(&other_key, fingerprint(&other), "it is but a fingerprint");
    let revoked = certificate.revoke(&mut key, now(), Reason::Compromised, "gone").unwrap();
    world.publish(&revoked.certificate);
    world.refuse(&key, fingerprint(&certificate), "was revoked");
    // The directory may be wrong about itself: another certificate under this ID.
    world.publish(&other);
    world.refuse(&key, fingerprint(&certificate), "it is but a fingerprint");
    world.daemon.stop();
}
