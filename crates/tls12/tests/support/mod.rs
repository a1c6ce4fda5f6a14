//! Drives connections for tests: keys that sign, a side that answers what it is asked, two sides in memory.
#![allow(dead_code, missing_docs, unreachable_pub)]

pub mod programs;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use rcgen::{CertificateParams, KeyPair, PublicKeyData};
use tls12::{
    Alert, CertificateType, ClientConfig, ClientSession, Closed, Connection, Credential, Error,
    Output, PeerCertificate, Renegotiated, Role, ServerConfig, SignatureScheme, Verify,
};

/// A key with a self-signed certificate.
pub struct TestKey {
    pub pkcs8: Vec<u8>,
    pub key_pem: String,
    pub certificate: Vec<u8>,
    pub certificate_pem: String,
    pub spki: Vec<u8>,
    pub schemes: Vec<SignatureScheme>,
    signer: Signer,
}

enum Signer {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl TestKey {
    fn new(algorithm: &'static rcgen::SignatureAlgorithm) -> Self {
        let pair = KeyPair::generate_for(algorithm).unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let certificate = params.self_signed(&pair).unwrap();
        let pkcs8 = pair.serialize_der();
        let (signer, schemes) = if algorithm == &rcgen::PKCS_RSA_SHA256 {
            let schemes = vec![
                SignatureScheme::RsaPssRsaeSha256,
                SignatureScheme::RsaPssRsaeSha384,
                SignatureScheme::RsaPkcs1Sha256,
                SignatureScheme::RsaPkcs1Sha512,
            ];
            (Signer::Rsa(RsaKeyPair::from_pkcs8(&pkcs8).unwrap()), schemes)
        } else if algorithm == &rcgen::PKCS_ECDSA_P256_SHA256 {
            let form = &signature::ECDSA_P256_SHA256_ASN1_SIGNING;
            let key = EcdsaKeyPair::from_pkcs8(form, &pkcs8).unwrap();
            (Signer::P256(key), vec![SignatureScheme::EcdsaSecp256r1Sha256])
        } else {
            let key = Ed25519KeyPair::from_pkcs8(&pkcs8).unwrap();
            (Signer::Ed25519(key), vec![SignatureScheme::Ed25519])
        };
        Self {
            key_pem: pem::encode(&pem::Pem::new("PRIVATE KEY", for_openssl(&pkcs8))),
            certificate: certificate.der().to_vec(),
            certificate_pem: certificate.pem(),
            spki: pair.subject_public_key_info(),
            pkcs8,
            schemes,
            signer,
        }
    }

    pub fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match scheme {
                    SignatureScheme::RsaPssRsaeSha256 => &signature::RSA_PSS_SHA256,
                    SignatureScheme::RsaPssRsaeSha384 => &signature::RSA_PSS_SHA384,
                    SignatureScheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
                    SignatureScheme::RsaPkcs1Sha512 => &signature::RSA_PKCS1_SHA512,
                    other => panic!("{other:?}"),
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Signer::P256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Signer::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}

/// Ed25519 keys in the older form (RFC 5208), without the public key: OpenSSL 3.0 reads no other.
fn for_openssl(pkcs8: &[u8]) -> Vec<u8> {
    const BEGIN: &[u8] = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
    match pkcs8.strip_prefix(b"\x30\x51\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20") {
        Some(rest) => [BEGIN, &rest[..32]].concat(),
        None => pkcs8.to_vec(),
    }
}

pub static RSA: LazyLock<TestKey> = LazyLock::new(|| TestKey::new(&rcgen::PKCS_RSA_SHA256));
pub static P256: LazyLock<TestKey> = LazyLock::new(|| TestKey::new(&rcgen::PKCS_ECDSA_P256_SHA256));
pub static ED25519: LazyLock<TestKey> = LazyLock::new(|| TestKey::new(&rcgen::PKCS_ED25519));
/// A second one, for identities that change.
pub static OTHER: LazyLock<TestKey> =
    LazyLock::new(|| TestKey::new(&rcgen::PKCS_ECDSA_P256_SHA256));

pub fn keys() -> [&'static TestKey; 4] {
    [&RSA, &P256, &ED25519, &OTHER]
}

pub const FINGERPRINT: [u8; 20] = [0xF1; 20];

/// What a key shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    X509,
    OpenPgp,
    Fingerprint,
}

/// The id of a credential is the place of its key in [`keys`].
pub fn credential(key: usize, shape: Shape) -> Arc<Credential> {
    let id = key as u64;
    let key = keys()[key];
    let certificate = match shape {
        Shape::X509 => PeerCertificate::X509(vec![key.certificate.clone()]),
        // The engine reads nothing of it, so the certificate stands for packets.
        Shape::OpenPgp => {
            PeerCertificate::OpenPgp { key_id: [id as u8; 8], certificate: key.certificate.clone() }
        }
        Shape::Fingerprint => {
            PeerCertificate::OpenPgpFingerprint { key_id: [id as u8; 8], fingerprint: FINGERPRINT }
        }
    };
    Arc::new(Credential {
        id,
        certificate,
        schemes: key.schemes.clone(),
        fingerprint: [id as u8; 32],
    })
}

/// The public key of what a peer shows.
pub fn spki_of(peer: &PeerCertificate) -> Vec<u8> {
    let at = match peer {
        PeerCertificate::X509(chain) => keys().iter().position(|k| k.certificate == chain[0]),
        PeerCertificate::OpenPgp { certificate, .. } => {
            keys().iter().position(|k| k.certificate == *certificate)
        }
        PeerCertificate::OpenPgpFingerprint { key_id, .. } => Some(usize::from(key_id[0])),
    };
    keys()[at.expect("a certificate of ours")].spki.clone()
}

/// One side, with what it has to show and what has happened to it.
pub struct Side {
    pub connection: Connection,
    pub credentials: Vec<Arc<Credential>>,
    pub now: Instant,
    pub refuse: Option<Alert>,
    pub sent: Vec<u8>,
    /// The same, datagram by datagram.
    pub packets: Vec<Vec<u8>>,
    pub wait_until: Option<Instant>,
    pub data: Vec<u8>,
    pub verified: Vec<Verify>,
    pub chosen: Vec<tls12::ChooseCredential>,
    pub signatures: usize,
    pub established: bool,
    pub renegotiated: Vec<Renegotiated>,
    pub refused: bool,
    pub peer_closed: bool,
    pub session: Option<ClientSession>,
    pub closed: Option<Closed>,
    /// Answers of a foreign peer's verification; else keys of ours are looked up.
    pub trust: Option<Vec<u8>>,
    /// What each flight looked like on the wire.
    pub wire: Vec<u8>,
    /// Over SCTP: what was said of keys, in order.
    pub keys: Vec<&'static str>,
    /// Over SCTP: data that came out of the connection, with its tag.
    pub messages: Vec<(Vec<u8>, u64)>,
}

impl Side {
    pub fn new(connection: Connection, credentials: Vec<Arc<Credential>>) -> Self {
        Self {
            connection,
            credentials,
            now: Instant::now(),
            refuse: None,
            sent: Vec::new(),
            packets: Vec::new(),
            wait_until: None,
            data: Vec::new(),
            verified: Vec::new(),
            chosen: Vec::new(),
            signatures: 0,
            established: false,
            renegotiated: Vec::new(),
            refused: false,
            peer_closed: false,
            session: None,
            closed: None,
            trust: None,
            wire: Vec::new(),
            keys: Vec::new(),
            messages: Vec::new(),
        }
    }

    pub fn client(config: ClientConfig, credentials: Vec<Arc<Credential>>) -> Self {
        Self::new(Connection::client(&Arc::new(config)).unwrap(), credentials)
    }

    pub fn server(config: ServerConfig, credentials: Vec<Arc<Credential>>) -> Self {
        Self::new(Connection::server(Arc::new(config)), credentials)
    }

    pub fn input(&mut self, bytes: &[u8]) {
        self.connection.handle_input(bytes, self.now);
        self.act();
    }

    /// Does all that the connection wants; bytes to send gather in `sent`.
    pub fn act(&mut self) {
        loop {
            let before = self.sent.len();
            match self.connection.poll_output(&mut self.sent) {
                Output::Send => self.packets.push(self.sent[before..].to_vec()),
                Output::NewKeys => self.keys.push("new"),
                Output::SendChangeOfKeys => {
                    self.keys.push("change");
                    self.packets.push(self.sent[before..].to_vec());
                }
                Output::OldKeysDone => self.keys.push("done"),
                Output::Data(data) => self.data.extend(data),
                Output::Message { data, tag } => {
                    self.data.extend(&data);
                    self.messages.push((data, tag));
                }
                Output::ChooseCredential(question) => {
                    let fits = |c: &&Arc<Credential>| {
                        question.certificate_types.contains(&c.certificate.certificate_type())
                            && c.schemes.iter().any(|s| question.schemes.contains(s))
                    };
                    let choice = self.credentials.iter().find(fits).cloned();
                    self.chosen.push(*question);
                    self.connection.chosen(Ok(choice));
                }
                Output::Sign(request) => {
                    self.signatures += 1;
                    let key = keys()[request.credential.id as usize];
                    self.connection.signed(Some(key.sign(request.scheme, &request.message)));
                }
                Output::Verify(question) => {
                    let answer = match (self.refuse, &self.trust, &question.peer) {
                        (Some(alert), ..) => Err(alert),
                        (_, Some(spki), _) => Ok(spki.clone()),
                        (_, _, Some(peer)) => Ok(spki_of(peer)),
                        _ => Ok(Vec::new()),
                    };
                    self.verified.push(*question);
                    self.connection.verified(answer);
                }
                Output::Session(session) => self.session = Some(*session),
                Output::Established => {
                    assert!(self.connection.summary().is_some());
                    self.established = true;
                }
                Output::Renegotiated(what) => self.renegotiated.push(what),
                Output::RenegotiationRefused => self.refused = true,
                Output::PeerClosed => self.peer_closed = true,
                Output::Closed(how) => {
                    assert!(self.closed.is_none(), "closed twice");
                    self.closed = Some(how);
                }
                Output::WaitUntil(time) => {
                    self.wait_until = Some(time);
                    return;
                }
                Output::Idle => {
                    self.wait_until = None;
                    return;
                }
            }
        }
    }

    pub fn error(&self) -> Option<&Error> {
        match &self.closed {
            Some(Closed::Failed(error)) => Some(error),
            _ => None,
        }
    }
}

/// What happens to a datagram.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub loss: u32,
    pub duplication: u32,
    pub reordering: u32,
    pub corruption: u32,
}

pub const FAIR: Weather = Weather { loss: 0, duplication: 0, reordering: 0, corruption: 0 };

/// Small, fast and the same each time.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as u32 % bound
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.below(100) < chance
    }
}

/// A client and a server in memory.
pub struct Pair {
    pub client: Side,
    pub server: Side,
}

impl Pair {
    pub fn new(client: ClientConfig, server: ServerConfig) -> Self {
        let all = || vec![credential(1, Shape::X509)];
        Self::with(client, all(), server, all())
    }

    pub fn with(
        client: ClientConfig,
        client_credentials: Vec<Arc<Credential>>,
        server: ServerConfig,
        server_credentials: Vec<Arc<Credential>>,
    ) -> Self {
        Self {
            client: Side::client(client, client_credentials),
            server: Side::server(server, server_credentials),
        }
    }

    /// Carries bytes until both are quiet.
    pub fn run(&mut self) {
        self.run_in_pieces(usize::MAX);
    }

    pub fn run_in_pieces(&mut self, size: usize) {
        loop {
            self.client.act();
            self.server.act();
            self.client.packets.clear();
            self.server.packets.clear();
            let up = std::mem::take(&mut self.client.sent);
            let down = std::mem::take(&mut self.server.sent);
            if up.is_empty() && down.is_empty() {
                return;
            }
            self.client.wire.extend(&up);
            self.server.wire.extend(&down);
            up.chunks(size.min(up.len().max(1))).for_each(|piece| self.server.input(piece));
            down.chunks(size.min(down.len().max(1))).for_each(|piece| self.client.input(piece));
        }
    }

    /// Carries datagrams through `weather`, with a clock that jumps to the next timer, until both are quiet.
    pub fn run_datagrams(&mut self, weather: Weather, dice: &mut Dice) {
        for _ in 0..10_000 {
            let mut quiet = true;
            for up in [true, false] {
                let (from, to) = if up {
                    (&mut self.client, &mut self.server)
                } else {
                    (&mut self.server, &mut self.client)
                };
                from.act();
                from.sent.clear();
                let mut packets = std::mem::take(&mut from.packets);
                quiet &= packets.is_empty();
                if packets.len() > 1 && dice.percent(weather.reordering) {
                    let other = dice.below(packets.len() as u32) as usize;
                    packets.swap(0, other);
                }
                for mut packet in packets {
                    from.wire.extend(&packet);
                    if dice.percent(weather.loss) {
                        continue;
                    }
                    if dice.percent(weather.corruption) {
                        let at = dice.below(packet.len() as u32) as usize;
                        packet[at] ^= 1;
                    }
                    if dice.percent(weather.duplication) {
                        to.input(&packet);
                    }
                    to.input(&packet);
                }
            }
            if !quiet {
                continue;
            }
            let Some(next) =
                [self.client.wait_until, self.server.wait_until].into_iter().flatten().min()
            else {
                return;
            };
            for side in [&mut self.client, &mut self.server] {
                side.now = side.now.max(next);
                side.connection.handle_timeout(side.now);
            }
        }
        panic!("never quiet");
    }

    pub fn later(&mut self, by: Duration) {
        self.client.now += by;
        self.server.now += by;
    }

    /// Data passes in both directions, and both sides derive the same keys.
    #[track_caller]
    pub fn check_open(&mut self) {
        assert_eq!((self.client.error(), self.server.error()), (None, None));
        assert!(self.client.established && self.server.established);
        self.client.connection.send(b"ping").unwrap();
        self.server.connection.send(b"pong").unwrap();
        self.run();
        assert_eq!(std::mem::take(&mut self.server.data), b"ping");
        assert_eq!(std::mem::take(&mut self.client.data), b"pong");
        let exporters =
            [&self.client, &self.server].map(|side| side.connection.exporter().unwrap());
        assert_eq!(exporters[0].tls_unique(), exporters[1].tls_unique());
        assert_eq!(exporters[0].tls_exporter(), exporters[1].tls_exporter());
        let ends =
            [&self.client, &self.server].map(|side| side.connection.server_certificate().cloned());
        assert_eq!(ends[0], ends[1]);
        let (client, server) =
            (self.client.connection.summary().unwrap(), self.server.connection.summary().unwrap());
        assert_eq!(ends[0], client.peer);
        assert_eq!(client.suite, server.suite);
        assert_eq!(client.alpn, server.alpn);
        assert_eq!(client.private, server.private);
        for summary in [client, server] {
            assert_eq!(summary.peer_key, summary.peer.as_ref().map(spki_of).unwrap_or_default());
        }
        assert_eq!(client.peer, server.shown.as_ref().map(|c| c.certificate.clone()));
        assert_eq!(server.peer, client.shown.as_ref().map(|c| c.certificate.clone()));
        assert_eq!(self.client.connection.role(), Role::Client);
    }
}

pub fn openpgp_first() -> Vec<CertificateType> {
    vec![CertificateType::OpenPgp, CertificateType::X509]
}
