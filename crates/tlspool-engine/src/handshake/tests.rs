//! Handshakes without sockets, for tests of what comes after them.

use rustls::SupportedProtocolVersion;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

use super::*;

/// Believes everybody.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// The keys of a client and of a server that have shaken hands.
pub(crate) fn traffic(version: &'static SupportedProtocolVersion) -> (Traffic, Traffic) {
    let certified = rcgen::generate_simple_self_signed(["example.com".to_owned()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let mut server = ServerConfig::builder_with_protocol_versions(&[version])
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())
        .unwrap();
    server.send_tls13_tickets = 0;
    server.enable_secret_extraction = true;
    let mut client = ClientConfig::builder_with_provider(default_provider().into())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    let name = ServerName::try_from("example.com").unwrap();
    let client = UnbufferedClientConnection::new(Arc::new(client), name).unwrap();
    let server = UnbufferedServerConnection::new(Arc::new(server)).unwrap();
    let machine = |connection| {
        Box::new(Machine {
            connection,
            incoming: Incoming::default(),
            outgoing: Vec::new(),
            early: Vec::new(),
            peer_closed: false,
            transcript: None,
        })
    };
    let mut client = machine(Connection::Client(client));
    let mut server = machine(Connection::Server(server));
    for _ in 0..3 {
        client.advance().unwrap();
        server.incoming.bytes.append(&mut client.outgoing);
        server.advance().unwrap();
        client.incoming.bytes.append(&mut server.outgoing);
    }
    let keys = |machine: Box<Machine>| {
        let context = Rc::new(Context::new([0; 32], false));
        match machine.finish(&context).unwrap().carrier {
            Carrier::Rustls(traffic) => *traffic,
            Carrier::Twelve(_) => unreachable!(),
        }
    };
    (keys(client), keys(server))
}
