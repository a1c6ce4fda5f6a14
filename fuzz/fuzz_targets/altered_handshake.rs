//! A real handshake with a rustls peer, whose bytes are altered on their way, both roles and both
//! versions; then the relay.
//!
//! Input: switches, then alterations (u16 offset, exclusive-or, what to do) of the peer's stream.
#![no_main]

use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use tlspool_engine::twelve::Wishes;
use tlspool_engine::{
    Engine, EngineOptions, Job, PeerAuthentication, Role, Socket, handshake, relay,
};
use tlspool_fuzz::{FuzzHost, Input, LEAF, ROOT, leaf_key, run, stream_pair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

static ENGINE: LazyLock<Engine> =
    LazyLock::new(|| Engine::new(&EngineOptions::default()).expect("an engine"));

type Versions = &'static [&'static rustls::SupportedProtocolVersion];
const VERSIONS: [Versions; 2] = [&[&rustls::version::TLS13], &[&rustls::version::TLS12]];

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

static CLIENTS: LazyLock<[Arc<ClientConfig>; 2]> = LazyLock::new(|| {
    VERSIONS.map(|versions| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ROOT)).expect("an anchor");
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![CertificateDer::from(LEAF)], leaf_key())
            .expect("a key");
        Arc::new(config)
    })
});

static SERVERS: LazyLock<[Arc<ServerConfig>; 2]> = LazyLock::new(|| {
    VERSIONS.map(|versions| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ROOT)).expect("an anchor");
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
            Arc::new(roots),
            provider(),
        )
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![CertificateDer::from(LEAF)], leaf_key())
            .expect("a key");
        Arc::new(config)
    })
});

/// How long the peer waits for an answer.
const PATIENCE: Duration = Duration::from_millis(50);

/// One change of the peer's stream.
#[derive(Clone, Copy)]
struct Alteration {
    at: usize,
    with: u8,
    what: u8,
}

/// Applies what falls into `bytes`, which begin at `from` of the stream.
fn alter(bytes: &mut Vec<u8>, from: usize, alterations: &[Alteration]) {
    let length = bytes.len();
    for change in alterations {
        let Some(at) = change.at.checked_sub(from).filter(|at| *at < length) else { continue };
        match change.what % 4 {
            0 | 1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= change.with;
                }
            }
            2 => bytes.truncate(at.max(bytes.len() / 2)),
            _ => bytes.insert(at.min(bytes.len()), change.with),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let switches = input.byte();
    let version = usize::from(switches & 1);
    let serves = switches & 2 == 0;
    let mut alterations = Vec::new();
    while !input.0.is_empty() && alterations.len() < 8 {
        let at = usize::from(input.short());
        alterations.push(Alteration { at, with: input.byte(), what: input.byte() });
    }
    let mut peer: Connection = if serves {
        let name = ServerName::try_from("example.com").expect("a name");
        ClientConnection::new(CLIENTS[version].clone(), name).expect("a client").into()
    } else {
        ServerConnection::new(SERVERS[version].clone()).expect("a server").into()
    };
    let role =
        if serves { Role::Server } else { Role::Client { server: Some("example.com"), sni: true } };
    let authentication = if switches & 4 == 0 {
        PeerAuthentication::Required
    } else {
        PeerAuthentication::Requested
    };
    run(async {
        let (near, far) = stream_pair();
        let engine = async {
            let socket = Socket::stream(near).expect("a socket");
            // Each scope has tickets of its own: some inputs resume, some do not.
            let job = Job { role, authentication, scope: [switches; 32], exporter: true, twelve: Wishes::default(), first: None };
            let mut host = FuzzHost::default();
            if let Ok(established) = handshake::run(&ENGINE, &socket, job, &mut host).await {
                assert!(host.asked, "no session without a look at the peer");
                let (plain, application) = stream_pair();
                rustix::io::write(&application, b"from the application").expect("room");
                drop(application);
                let plain = Socket::plaintext(plain).expect("a socket");
                relay::run(socket, plain, established.carrier.rustls().expect("rustls"), &relay::Cancel::default()).await;
            }
        };
        let talk = async {
            let far = std::os::unix::net::UnixStream::from(far);
            let mut far = tokio::net::UnixStream::from_std(far).expect("a socket");
            let (mut sent, mut written) = (0, false);
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let mut out = Vec::new();
                while peer.wants_write() && peer.write_tls(&mut out).is_ok() {}
                let length = out.len();
                alter(&mut out, sent, &alterations);
                sent += length;
                if !out.is_empty() && far.write_all(&out).await.is_err() {
                    return;
                }
                if !peer.is_handshaking() && !written {
                    written = true;
                    peer.writer().write_all(b"from the peer").expect("room");
                    if let Connection::Client(client) = &mut peer {
                        drop(client.refresh_traffic_keys());
                    }
                    peer.send_close_notify();
                    continue;
                }
                // A length that was altered may leave both sides waiting; time limits are the
                // caller's business, and here that is us.
                let n = match tokio::time::timeout(PATIENCE, far.read(&mut buffer)).await {
                    Ok(Ok(n @ 1..)) => n,
                    _ => return,
                };
                // A rustls peer that has said close_notify must not find an error any more.
                let mut got = if written { &[] } else { &buffer[..n] };
                while !got.is_empty() {
                    // It takes nothing more after a close_notify, and says so with 0, for ever.
                    if !matches!(peer.read_tls(&mut got), Ok(1..)) {
                        return;
                    }
                    if let Err(error) = peer.process_new_packets() {
                        // Without alterations nothing may go wrong.
                        assert!(!alterations.is_empty(), "the peer says: {error}");
                        // Its last word is an alert.
                        let mut out = Vec::new();
                        while peer.wants_write() && peer.write_tls(&mut out).is_ok() {}
                        drop(far.write_all(&out).await);
                        return;
                    }
                    let mut plain = Vec::new();
                    drop(peer.reader().read_to_end(&mut plain));
                }
            }
        };
        tokio::join!(engine, talk);
    });
});
