//! The engine `tls12`.

use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, RSA_PSS_SHA256, RsaKeyPair,
};
use tls12::{
    ClientConfig, Common, Connection, Credential, Group, Output, PeerCertificate, ServerConfig,
    SignatureScheme, Suite, dtls,
};

use super::{Carrier, Key, Library, Material, Session};

enum Signer {
    P256(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

pub(crate) struct Own {
    carrier: Carrier,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    credential: Arc<Credential>,
    signer: Signer,
    spki: Vec<u8>,
}

impl Own {
    pub(crate) fn new(carrier: Carrier, material: &Material, key: Key) -> Self {
        let (signer, scheme, code) = match key {
            Key::P256 => {
                let form = &ECDSA_P256_SHA256_ASN1_SIGNING;
                let pair = EcdsaKeyPair::from_pkcs8(form, &material.key).expect("a key");
                (Signer::P256(pair), SignatureScheme::EcdsaSecp256r1Sha256, 0xC02B)
            }
            Key::Rsa2048 => {
                let pair = RsaKeyPair::from_pkcs8(&material.key).expect("a key");
                (Signer::Rsa(pair), SignatureScheme::RsaPssRsaeSha256, 0xC02F)
            }
        };
        let common = Common {
            suites: vec![Suite::from_code(code).expect("a suite")],
            groups: vec![Group::X25519],
            ..Common::default()
        };
        Self {
            carrier,
            client: Arc::new(ClientConfig { common: common.clone(), ..ClientConfig::default() }),
            server: Arc::new(ServerConfig { common, ..ServerConfig::default() }),
            credential: Arc::new(Credential {
                id: 0,
                certificate: PeerCertificate::X509(vec![material.certificate.clone()]),
                schemes: vec![scheme],
                fingerprint: [0; 32],
            }),
            signer,
            spki: material.spki.clone(),
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::P256(key) => key.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Signer::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PSS_SHA256, &random, message, &mut signature).expect("a signature");
                signature
            }
        }
    }

    /// Does what the connection asks for, and brings what it sends to the other. True when nothing is left.
    fn act(&self, one: &mut Connection, other: &mut Connection, buf: &mut Vec<u8>) -> bool {
        let mut quiet = true;
        loop {
            match one.poll_output(buf) {
                Output::Send => {
                    quiet = false;
                    other.handle_input(buf, Instant::now());
                    buf.clear();
                }
                Output::ChooseCredential(_) => one.chosen(Ok(Some(self.credential.clone()))),
                Output::Sign(request) => one.signed(Some(self.sign(&request.message))),
                Output::Verify(_) => one.verified(Ok(self.spki.clone())),
                Output::Idle | Output::WaitUntil(_) => return quiet,
                Output::Closed(how) => panic!("{how:?}"),
                _ => {}
            }
        }
    }
}

impl Library for Own {
    fn handshake(&self) -> Box<dyn Session> {
        let (mut client, mut server) = match self.carrier {
            Carrier::Stream => (
                Connection::client(&self.client).expect("a client"),
                Connection::server(self.server.clone()),
            ),
            Carrier::Datagrams => {
                let now = Instant::now();
                let settings = dtls::Config::default();
                (
                    Connection::datagram_client(&self.client, settings.clone(), now)
                        .expect("a client"),
                    Connection::datagram_server(self.server.clone(), settings, None, now),
                )
            }
        };
        let mut buf = Vec::new();
        loop {
            let quiet = self.act(&mut client, &mut server, &mut buf);
            if self.act(&mut server, &mut client, &mut buf) && quiet {
                break;
            }
        }
        assert!(client.may_send() && server.may_send());
        Box::new(Connected { carrier: self.carrier, client, server, room: vec![0; 20_000] })
    }
}

struct Connected {
    carrier: Carrier,
    client: Connection,
    server: Connection,
    room: Vec<u8>,
}

impl Session for Connected {
    fn carry(&mut self, message: &[u8]) {
        let prefix = self.client.prefix();
        self.room[prefix..prefix + message.len()].copy_from_slice(message);
        let sealed = self.client.seal(&mut self.room, message.len()).expect("a record");
        let record = &mut self.room[..sealed];
        let now = Instant::now();
        let plain = match self.carrier {
            Carrier::Stream => {
                assert_eq!(self.server.record_length(record), Ok(Some(sealed)));
                self.server.open(record, now)
            }
            Carrier::Datagrams => self.server.open_datagram(record, &mut 0, now),
        };
        let plain = plain.expect("a good record").expect("data");
        assert_eq!(plain.len(), message.len());
    }
}
