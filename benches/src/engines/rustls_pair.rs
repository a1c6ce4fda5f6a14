//! rustls, TLS 1.2 with aws-lc-rs, through its buffered face.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, version};

use super::{Library, Material, Session};
use crate::anybody::Anybody;

pub(crate) struct Rustls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    name: ServerName<'static>,
}

impl Rustls {
    pub(crate) fn new(material: &Material) -> Self {
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![
                aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            ],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        });
        let verifier = Anybody { provider: provider.clone(), required: false };
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS12])
            .expect("a version")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(material.key.clone()));
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS12])
            .expect("a version")
            .with_no_client_auth()
            .with_single_cert(vec![material.certificate.clone().into()], key)
            .expect("a certificate");
        server.session_storage = Arc::new(NoServerSessionStorage {});
        Self {
            client: Arc::new(client),
            server: Arc::new(server),
            name: ServerName::try_from("localhost").expect("a name"),
        }
    }
}

impl Library for Rustls {
    fn handshake(&self) -> Box<dyn Session> {
        let mut client =
            ClientConnection::new(self.client.clone(), self.name.clone()).expect("a client");
        let mut server = ServerConnection::new(self.server.clone()).expect("a server");
        let mut wire = Vec::new();
        while client.is_handshaking() || server.is_handshaking() {
            while client.wants_write() {
                client.write_tls(&mut wire).expect("memory");
            }
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).expect("memory");
                server.process_new_packets().expect("a good flight");
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).expect("memory");
            }
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).expect("memory");
                client.process_new_packets().expect("a good flight");
            }
            wire.clear();
        }
        Box::new(Connected { client, server, wire, room: vec![0; 20_000] })
    }
}

struct Connected {
    client: ClientConnection,
    server: ServerConnection,
    wire: Vec<u8>,
    room: Vec<u8>,
}

impl Session for Connected {
    fn carry(&mut self, message: &[u8]) {
        self.client.writer().write_all(message).expect("room");
        while self.client.wants_write() {
            self.client.write_tls(&mut self.wire).expect("memory");
        }
        let mut rest = self.wire.as_slice();
        let mut received = 0;
        while received < message.len() {
            self.server.read_tls(&mut rest).expect("memory");
            let state = self.server.process_new_packets().expect("good records");
            let n = state.plaintext_bytes_to_read();
            self.server.reader().read_exact(&mut self.room[..n]).expect("data");
            received += n;
        }
        assert_eq!(received, message.len());
        self.wire.clear();
    }
}
