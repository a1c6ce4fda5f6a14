//! The engine against plain rustls connections, and against itself, over loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{CertificateError, ClientConnection, ServerConnection, SignatureScheme};
use tlspool_engine::relay::{Cancel, End, Ended};
use tlspool_engine::twelve::Wishes;
use tlspool_engine::{
    Agreed, CertificateType, Credential, Engine, EngineOptions, Established, HandshakeError, Host,
    Job, PeerAuthentication, PeerCredential, Refusal, Role, Shown, ShownByPeer, SignatureFailure,
    Socket, handshake, relay,
};

/// A host with one P-256 key of its own, that accepts or refuses every peer.
struct TestHost {
    credential: Arc<Credential>,
    pkcs8: Vec<u8>,
    accepts: bool,
    authorizes: bool,
    serves: bool,
    verified: usize,
    authorized: usize,
    signed: usize,
    /// What it was shown last.
    shown: Option<ShownByPeer>,
}

impl TestHost {
    fn new() -> Self {
        let certified = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
        Self {
            credential: Arc::new(Credential {
                name: "example.com".into(),
                key_uri: "test:".into(),
                fingerprint: [1; 32],
                schemes: vec![SignatureScheme::ECDSA_NISTP256_SHA256],
                shown: Shown::X509(vec![certified.cert.der().clone()]),
            }),
            pkcs8: certified.signing_key.serialize_der(),
            accepts: true,
            authorizes: true,
            serves: false,
            verified: 0,
            authorized: 0,
            signed: 0,
            shown: None,
        }
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.clone()).into()
    }
}

impl Host for TestHost {
    async fn server_credential(
        &mut self,
        sni: Option<&str>,
        _schemes: &[SignatureScheme],
        _types: &[CertificateType],
    ) -> Result<Arc<Credential>, Refusal> {
        tokio::task::yield_now().await;
        assert!(sni.is_none_or(|sni| sni == "example.com"));
        Ok(self.credential.clone())
    }

    async fn client_credential(
        &mut self,
        _kind: CertificateType,
    ) -> Result<Option<Arc<Credential>>, Refusal> {
        Ok(Some(self.credential.clone()))
    }

    async fn has_openpgp(&mut self, _sni: Option<&str>) -> bool {
        false
    }

    async fn sign(
        &mut self,
        _credential: &Credential,
        _scheme: SignatureScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, SignatureFailure> {
        tokio::task::yield_now().await;
        assert!(self.serves || self.verified > 0, "verified before we show who we are");
        self.signed += 1;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.pkcs8).unwrap();
        Ok(key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec())
    }

    async fn verify(&mut self, peer: ShownByPeer) -> Result<Option<Vec<u8>>, Refusal> {
        tokio::task::yield_now().await;
        self.verified += 1;
        self.shown = Some(peer);
        if self.accepts {
            return Ok(None);
        }
        let certificate = CertificateError::ApplicationVerificationFailure;
        Err(Refusal { certificate, text: "not that one".into() })
    }

    async fn authorize(&mut self, _shown: Option<&Credential>) -> Result<(), Refusal> {
        assert!(self.shown.is_none() || self.verified > 0, "a peer that shows itself is verified");
        self.authorized += 1;
        if self.authorizes {
            return Ok(());
        }
        let certificate = CertificateError::ApplicationVerificationFailure;
        Err(Refusal { certificate, text: "not for that one".into() })
    }
}

fn engine() -> Engine {
    Engine::new(&EngineOptions::default()).unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

fn server_job(authentication: PeerAuthentication) -> Job<'static> {
    Job {
        role: Role::Server,
        authentication,
        scope: [0; 32],
        exporter: true,
        twelve: Wishes::default(),
        first: None,
    }
}

fn client_job() -> Job<'static> {
    let role = Role::Client { server: Some("example.com"), sni: true };
    Job {
        role,
        authentication: PeerAuthentication::Required,
        scope: [0; 32],
        exporter: true,
        twelve: Wishes::default(),
        first: None,
    }
}

/// A rustls client configuration that trusts the host's certificate.
fn rustls_client(host: &TestHost, tls12: bool) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(host.credential.chain()[0].clone()).unwrap();
    let versions =
        if tls12 { vec![&rustls::version::TLS12] } else { vec![&rustls::version::TLS13] };
    rustls::ClientConfig::builder_with_protocol_versions(&versions)
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// What a test wants of the rustls peer, in a thread of its own.
fn peer_thread<C, D, T: Send + 'static>(
    mut connection: C,
    mut socket: TcpStream,
    talk: impl FnOnce(&mut C, &mut TcpStream) -> T + Send + 'static,
) -> thread::JoinHandle<T>
where
    C: std::ops::DerefMut<Target = rustls::ConnectionCommon<D>> + Send + 'static,
{
    thread::spawn(move || talk(&mut connection, &mut socket))
}

fn read_all<C, D>(connection: &mut C, socket: &mut TcpStream) -> std::io::Result<Vec<u8>>
where
    C: std::ops::DerefMut<Target = rustls::ConnectionCommon<D>>,
    D: rustls::SideData + 'static,
{
    let mut all = Vec::new();
    rustls::Stream::new(connection, socket).read_to_end(&mut all)?;
    Ok(all)
}

fn relayed(
    socket: Socket,
    established: Established,
) -> (UnixStream, tokio::task::JoinHandle<Ended>) {
    let (application, ours) = UnixStream::pair().unwrap();
    let plaintext = Socket::plaintext(OwnedFd::from(ours)).unwrap();
    let task = tokio::task::spawn_local(async move {
        relay::run(socket, plaintext, established.carrier.rustls().unwrap(), &Cancel::default())
            .await
    });
    (application, task)
}

/// Runs `work` with blocking calls on another thread, while the relay goes on here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = tokio::sync::oneshot::channel();
    thread::spawn(move || drop(done.send(work())));
    result.await.unwrap()
}

fn local<F: std::future::Future>(future: F) -> F::Output {
    tokio::task::LocalSet::new().block_on(&runtime(), future)
}

fn bulk() -> Vec<u8> {
    (0..3_000_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect()
}

fn serve_rustls_client(tls12: bool) {
    local(async move {
        let mut host = TestHost { serves: true, ..TestHost::new() };
        let (far, near) = tcp_pair();
        let config = Arc::new(rustls_client(&host, tls12));
        let name = ServerName::try_from("example.com").unwrap();
        let client = ClientConnection::new(config, name).unwrap();
        let peer = peer_thread(client, far, |client, socket| {
            let mut stream = rustls::Stream::new(client, socket);
            stream.write_all(&bulk()).unwrap();
            client.send_close_notify();
            client.write_tls(socket).unwrap();
            let echoed = read_all(client, socket).unwrap();
            assert!(echoed == bulk(), "half-close leaves the other direction open");
            let exported = client
                .export_keying_material([0; 40], b"EXPERIMENTAL test", Some(b"context"))
                .unwrap();
            let without = client.export_keying_material([0; 40], b"EXPERIMENTAL", None).unwrap();
            (exported, without)
        });
        let socket = Socket::stream(near.into()).unwrap();
        let established =
            handshake::run(&engine(), &socket, server_job(PeerAuthentication::Ignored), &mut host)
                .await
                .unwrap();
        assert_eq!(host.signed, 1);
        assert_eq!(established.summary.protocol, if tls12 { "TLSv1.2" } else { "TLSv1.3" });
        let exporter = established.exporter.as_ref().unwrap();
        let mut exported = ([0; 40], [0; 40]);
        exporter.export(b"EXPERIMENTAL test", Some(b"context"), &mut exported.0).unwrap();
        exporter.export(b"EXPERIMENTAL", None, &mut exported.1).unwrap();
        assert_eq!(exporter.tls_unique().is_some(), tls12);
        let (mut application, relay) = relayed(socket, established);
        blocking(move || {
            let mut all = Vec::new();
            application.read_to_end(&mut all).unwrap();
            application.write_all(&all).unwrap();
        })
        .await;
        let ended = relay.await.unwrap();
        assert_eq!((ended.received, ended.sent), (3_000_000, 3_000_000));
        assert!(matches!(ended.end, End::Closed | End::ApplicationClosed), "{:?}", ended.end);
        assert_eq!(peer.join().unwrap(), exported);
    });
}

#[test]
fn serves_tls13() {
    serve_rustls_client(false);
}

#[test]
fn serves_tls12() {
    serve_rustls_client(true);
}

#[test]
fn data_and_a_key_update_right_behind_the_handshake() {
    local(async {
        let mut host = TestHost { serves: true, ..TestHost::new() };
        let (far, near) = tcp_pair();
        let name = ServerName::try_from("example.com").unwrap();
        let client = ClientConnection::new(Arc::new(rustls_client(&host, false)), name).unwrap();
        let peer = peer_thread(client, far, |client, socket| {
            // Finished, data and KeyUpdate arrive in one piece.
            let mut out = Vec::new();
            loop {
                while client.wants_write() {
                    client.write_tls(&mut out).unwrap();
                }
                if !client.is_handshaking() {
                    break;
                }
                socket.write_all(&out).unwrap();
                out.clear();
                client.read_tls(socket).unwrap();
                client.process_new_packets().unwrap();
            }
            client.writer().write_all(b"before").unwrap();
            client.refresh_traffic_keys().unwrap();
            client.writer().write_all(b", after").unwrap();
            client.send_close_notify();
            while client.wants_write() {
                client.write_tls(&mut out).unwrap();
            }
            socket.write_all(&out).unwrap();
            read_all(client, socket).unwrap()
        });
        let socket = Socket::stream(near.into()).unwrap();
        let job = server_job(PeerAuthentication::Ignored);
        let established = handshake::run(&engine(), &socket, job, &mut host).await.unwrap();
        let (mut application, relay) = relayed(socket, established);
        let heard = blocking(move || {
            let mut heard = String::new();
            application.read_to_string(&mut heard).unwrap();
            application.write_all(b"answer").unwrap();
            heard
        })
        .await;
        assert_eq!(heard, "before, after");
        relay.await.unwrap();
        assert_eq!(peer.join().unwrap(), b"answer");
    });
}

fn rustls_server(host: &TestHost) -> Arc<rustls::ServerConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(host.credential.chain()[0].clone()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(host.credential.chain().to_vec(), host.key())
        .unwrap();
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    Arc::new(config)
}

#[test]
fn connects_shows_a_certificate_and_resumes() {
    local(async {
        let engine = engine();
        let mut host = TestHost::new();
        let config = rustls_server(&host);
        for resumed in [false, true] {
            host.verified = 0;
            host.authorized = 0;
            let (near, far) = tcp_pair();
            let server = ServerConnection::new(config.clone()).unwrap();
            let peer = peer_thread(server, far, |server, socket| {
                rustls::Stream::new(&mut *server, &mut *socket).write_all(b"hello").unwrap();
                server.refresh_traffic_keys().unwrap();
                let mut stream = rustls::Stream::new(&mut *server, &mut *socket);
                stream.write_all(b", again").unwrap();
                server.send_close_notify();
                server.write_tls(socket).unwrap();
                read_all(server, socket).unwrap()
            });
            let socket = Socket::stream(near.into()).unwrap();
            let established =
                handshake::run(&engine, &socket, client_job(), &mut host).await.unwrap();
            assert_eq!(established.summary.resumed, resumed);
            assert_eq!(host.verified, 1, "a resumed peer is verified again");
            assert_eq!(host.authorized, 1, "and authorized again");
            let agreed = Agreed { private: true, post_quantum: true, forward_secrecy: true };
            assert_eq!(host.shown.as_ref().unwrap().agreed, agreed, "resumed: {resumed}");
            assert!(
                matches!(&established.peer, Some(PeerCredential::X509(chain)) if chain.len() == 1)
            );
            assert_eq!(established.shown.as_ref().unwrap().name, "example.com");
            let (mut application, relay) = relayed(socket, established);
            let heard = blocking(move || {
                let mut heard = String::new();
                application.read_to_string(&mut heard).unwrap();
                application.write_all(b"bye").unwrap();
                heard
            })
            .await;
            assert_eq!(heard, "hello, again");
            relay.await.unwrap();
            assert_eq!(peer.join().unwrap(), b"bye");
        }
        assert_eq!(host.signed, 1, "once, in the full handshake");
    });
}

/// What a client knows of the session when it judges the server.
fn judged(
    version: &'static rustls::SupportedProtocolVersion,
    groups: &[rustls::NamedGroup],
) -> ShownByPeer {
    local(async {
        let mut host = TestHost { accepts: false, ..TestHost::new() };
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups.retain(|group| groups.contains(&group.name()));
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert_with_ocsp(
                host.credential.chain().to_vec(),
                host.key(),
                b"an OCSP response".to_vec(),
            )
            .unwrap();
        config.send_tls13_tickets = 0;
        let (near, far) = tcp_pair();
        let server = ServerConnection::new(Arc::new(config)).unwrap();
        let peer = peer_thread(server, far, |server, socket| read_all(server, socket).is_ok());
        let socket = Socket::stream(near.into()).unwrap();
        let refused = handshake::run(&engine(), &socket, client_job(), &mut host).await;
        assert!(matches!(refused, Err(HandshakeError::Refused(_))));
        drop(socket);
        assert!(!peer.join().unwrap());
        host.shown.unwrap()
    })
}

#[test]
fn a_client_knows_what_was_agreed_when_it_judges() {
    use rustls::NamedGroup::{X25519, X25519MLKEM768};
    use rustls::version::{TLS12, TLS13};
    let agreed = |private, post_quantum| Agreed { private, post_quantum, forward_secrecy: true };
    let shown = judged(&TLS13, &[X25519MLKEM768]);
    assert_eq!(shown.agreed, agreed(true, true));
    assert_eq!(shown.ocsp, b"an OCSP response");
    assert_eq!(judged(&TLS13, &[X25519]).agreed, agreed(true, false));
    let shown = judged(&TLS12, &[X25519]);
    assert_eq!(shown.agreed, agreed(false, false));
    assert_eq!(shown.ocsp, b"an OCSP response");
}

#[test]
fn a_refused_server_learns_it_and_gets_no_certificate() {
    local(async {
        let mut host = TestHost::new();
        host.accepts = false;
        let (near, far) = tcp_pair();
        let server = ServerConnection::new(rustls_server(&host)).unwrap();
        let peer = peer_thread(server, far, |server, socket| {
            while server.is_handshaking() {
                server.complete_io(socket)?;
            }
            Ok::<_, std::io::Error>(())
        });
        let socket = Socket::stream(near.into()).unwrap();
        let error =
            handshake::run(&engine(), &socket, client_job(), &mut host).await.err().unwrap();
        assert!(matches!(&error, HandshakeError::Refused(text) if text == "not that one"));
        assert_eq!(host.signed, 0);
        let seen = peer.join().unwrap().unwrap_err().to_string();
        assert!(seen.contains("AccessDenied"), "{seen}");
    });
}

#[test]
fn who_is_not_authorized_learns_it_and_no_data_moves() {
    for tls12 in [false, true] {
        local(async move {
            let mut host = TestHost { serves: true, authorizes: false, ..TestHost::new() };
            let (far, near) = tcp_pair();
            let config = Arc::new(rustls_client(&host, tls12));
            let name = ServerName::try_from("example.com").unwrap();
            let client = ClientConnection::new(config, name).unwrap();
            let peer = peer_thread(client, far, |client, socket| {
                while client.is_handshaking() {
                    client.complete_io(socket)?;
                }
                read_all(client, socket)
            });
            let socket = Socket::stream(near.into()).unwrap();
            let job = server_job(PeerAuthentication::Ignored);
            let error = handshake::run(&engine(), &socket, job, &mut host).await.err().unwrap();
            assert!(matches!(&error, HandshakeError::Refused(text) if text == "not for that one"));
            assert_eq!(host.authorized, 1);
            let seen = peer.join().unwrap().unwrap_err().to_string();
            assert!(seen.contains("AccessDenied"), "{seen}");
        });
    }
}

#[test]
fn not_tls_is_told_as_such() {
    local(async {
        let (mut far, near) = tcp_pair();
        far.write_all(b"EHLO example.com\r\n").unwrap();
        let socket = Socket::stream(near.into()).unwrap();
        let job = server_job(PeerAuthentication::Ignored);
        let error = handshake::run(&engine(), &socket, job, &mut TestHost::new()).await;
        assert!(matches!(error.err(), Some(HandshakeError::NotTls)));
        let mut alert = Vec::new();
        far.shutdown(std::net::Shutdown::Write).unwrap();
        drop(socket);
        far.read_to_end(&mut alert).ok();
        assert_eq!(alert.first(), Some(&21), "an alert record");
    });
}

#[test]
fn a_truncated_stream_is_no_clean_end() {
    local(async {
        let mut host = TestHost { serves: true, ..TestHost::new() };
        let (far, near) = tcp_pair();
        let name = ServerName::try_from("example.com").unwrap();
        let client = ClientConnection::new(Arc::new(rustls_client(&host, false)), name).unwrap();
        let peer = peer_thread(client, far, |client, socket| {
            rustls::Stream::new(client, &mut *socket).write_all(b"half a messa").unwrap();
            socket.shutdown(std::net::Shutdown::Write).unwrap();
            // Closing with unread tickets would be a reset instead of an end.
            drop(socket.read_to_end(&mut Vec::new()));
        });
        let socket = Socket::stream(near.into()).unwrap();
        let job = server_job(PeerAuthentication::Ignored);
        let established = handshake::run(&engine(), &socket, job, &mut host).await.unwrap();
        // TCP on the plaintext side, where a reset can be seen.
        let (mut application, ours) = tcp_pair();
        let plaintext = Socket::plaintext(ours.into()).unwrap();
        let ended = relay::run(
            socket,
            plaintext,
            established.carrier.rustls().unwrap(),
            &Cancel::default(),
        )
        .await;
        assert!(matches!(ended.end, End::Truncated), "{:?}", ended.end);
        peer.join().unwrap();
        let mut all = Vec::new();
        let error = application.read_to_end(&mut all).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}
