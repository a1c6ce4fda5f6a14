//! An OpenPGP certificate that has expired in the hands of its owner, and was extended in the directory of its
//! domain. No pool shows such a certificate, so the server here is the engine alone.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::Ed25519KeyPair;
use rustls::{CertificateError, SignatureScheme};
use tlspool_client::{StarttlsFlags as Flags, StarttlsRequest};
use tlspool_engine::twelve::Wishes;
use tlspool_engine::{
    CertificateType, Credential, Engine, EngineOptions, Host, Job, PeerAuthentication, Refusal,
    Role, Shown, ShownByPeer, SignatureFailure, Socket, handshake,
};
use tlspool_identity::DoNai;
use tlspool_openpgp::make::{Wanted, create};
use tlspool_openpgp::{Certificate, Hash, RemoteError, RemoteKey};
use tlspool_tests::app::call;
use tlspool_tests::zones::{Signing, ZoneSet};
use tlspool_tests::{Entries, House, Slapd};

use crate::{dns, tlsa};

const NAME: &str = "example.com";
const DAY: Duration = Duration::from_hours(24);

/// A key in memory, which certifies and signs handshakes.
#[derive(Clone)]
struct Key {
    pair: Arc<Ed25519KeyPair>,
    spki: Vec<u8>,
}

impl Key {
    fn new() -> Self {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&pair);
        Self { pair: Arc::new(Ed25519KeyPair::from_pkcs8(&pair.serialize_der()).unwrap()), spki }
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

/// A server that shows one certificate and asks nobody who it is.
struct Showing {
    key: Key,
    credential: Arc<Credential>,
}

impl Showing {
    fn new(key: &Key, certificate: &Certificate) -> Self {
        let fingerprint = certificate.fingerprint();
        let (_, id) = fingerprint.as_bytes().split_at(12);
        let credential = Credential {
            name: NAME.into(),
            key_uri: "test:".into(),
            fingerprint: [1; 32],
            schemes: vec![SignatureScheme::ED25519],
            shown: Shown::OpenPgp {
                key_id: id.try_into().unwrap(),
                certificate: certificate.to_bytes(),
                key: key.spki.clone(),
                fingerprint: fingerprint.as_bytes().try_into().ok(),
            },
        };
        Self { key: key.clone(), credential: Arc::new(credential) }
    }
}

impl Host for Showing {
    async fn server_credential(
        &mut self,
        _sni: Option<&str>,
        _schemes: &[SignatureScheme],
        _types: &[CertificateType],
    ) -> Result<Arc<Credential>, Refusal> {
        Ok(self.credential.clone())
    }

    async fn client_credential(
        &mut self,
        _kind: CertificateType,
    ) -> Result<Option<Arc<Credential>>, Refusal> {
        Ok(None)
    }

    async fn has_openpgp(&mut self, _sni: Option<&str>) -> bool {
        true
    }

    async fn sign(
        &mut self,
        _credential: &Credential,
        _scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, SignatureFailure> {
        Ok(self.key.pair.sign(message).as_ref().to_vec())
    }

    async fn verify(&mut self, _peer: ShownByPeer) -> Result<Option<Vec<u8>>, Refusal> {
        let certificate = CertificateError::ApplicationVerificationFailure;
        Err(Refusal { certificate, text: "nobody was asked".into() })
    }

    async fn authorize(&mut self, _shown: Option<&Credential>) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A meeting of the pool with a server that shows `certificate`.
fn meet(house: &House, key: &Key, certificate: &Certificate) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut host = Showing::new(key, certificate);
    let server = std::thread::spawn(move || {
        let tcp = tlspool_tests::app::accept(&listener);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let work = async {
            let socket = Socket::stream(tcp).unwrap();
            let engine = Engine::new(&EngineOptions::default()).unwrap();
            let job = Job {
                role: Role::Server,
                authentication: PeerAuthentication::Ignored,
                scope: [0; 32],
                exporter: false,
                twelve: Wishes { openpgp: true, ..Wishes::default() },
                first: None,
            };
            // Whether it comes to an end is for the client to say.
            drop(handshake::run(&engine, &socket, job, &mut host).await);
        };
        tokio::task::LocalSet::new().block_on(&runtime, work);
    });
    let request = StarttlsRequest::client(NAME).unwrap().flags(Flags::IGNORE_CACHES);
    let result = call(&house.pool(), request, address).map(drop).map_err(|error| error.to_string());
    server.join().unwrap();
    result
}

#[test]
fn a_certificate_that_only_its_directory_has_extended() {
    let mut key = Key::new();
    let name = DoNai::parse(NAME).unwrap();
    // Made a hundred days ago, for fifty; extended on the fortieth.
    let now = SystemTime::UNIX_EPOCH
        + Duration::from_secs(
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
        );
    let wanted = Wanted {
        names: &[&name],
        display_name: "",
        created: now - 100 * DAY,
        validity: Some(50 * DAY),
    };
    let expired = create(&mut key, None, &wanted).unwrap();
    let extended = expired.renew(&mut key, None, now - 60 * DAY, Some(now + DAY)).unwrap();
    assert!(expired.check(now).is_err() && extended.check(now).is_ok());

    let house = House::new();
    let leaf = house.authority().leaf("ldap.example.com");
    let mut entries = Entries::new(NAME, &[], &[]);
    let id = &expired.fingerprint().to_string()[24..];
    let armored = expired.to_armored();
    entries.key("People", id, &["<example.com>"], armored.as_bytes());
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
    let base = entries.base();
    let entry = format!("pgpCertID={id},ou=People,{base}");
    let publish = |certificate: &Certificate| {
        slapd.replace(base, &entry, "pgpKey", &[certificate.to_armored().as_bytes()]);
    };

    let refused = meet(&house, &key, &expired).unwrap_err();
    assert!(refused.contains("has expired"), "{refused}");
    publish(&extended);
    meet(&house, &key, &expired).unwrap_or_else(|error| panic!("{error}\n{}", daemon.log()));
    meet(&house, &key, &extended).unwrap();
    // Nor does it count that a policy does not care: its key signs nothing any more.
    house.good(&["policy", "add", NAME, "true"]);
    let refused = meet(&house, &key, &expired).unwrap_err();
    assert!(refused.contains("has expired"), "{refused}");
    daemon.stop();
}
