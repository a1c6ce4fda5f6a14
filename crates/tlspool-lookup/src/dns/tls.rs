//! TLS to forwarders (RFC 7858, RFC 8310): a name and trust anchors, or a pinned key.

use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs::default_provider};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::settings::{SettingsError, TlsServer};

/// The configuration for a forwarder, and the name to expect there.
pub(super) fn client(
    address: SocketAddr,
    server: &TlsServer,
) -> Result<(ServerName<'static>, Arc<ClientConfig>), SettingsError> {
    let failed = |why: String| SettingsError::Tls { address, why };
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(error.to_string()))?;
    let (name, mut config) = match server {
        TlsServer::Name { name, roots } => {
            let server_name = ServerName::try_from(name.clone())
                .map_err(|_| failed(format!("{name:?} is no name of a server")))?;
            let mut store = RootCertStore::empty();
            match roots {
                Some(roots) => store.add_parsable_certificates(roots.iter().cloned()),
                None => {
                    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)
                }
            };
            if store.is_empty() {
                return Err(failed("there are no trust anchors for its certificate".to_owned()));
            }
            (server_name, builder.with_root_certificates(store).with_no_client_auth())
        }
        TlsServer::Pin(pin) => {
            let verifier = Arc::new(Pinned { pin: *pin, provider });
            let config = builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
                .with_no_client_auth();
            (ServerName::IpAddress(address.ip().into()), config)
        }
    };
    config.alpn_protocols = vec![b"dot".to_vec()];
    Ok((name, Arc::new(config)))
}

/// Believes one public key.
#[derive(Debug)]
struct Pinned {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let wrong = |why: &str| Err(rustls::Error::General(why.to_owned()));
        let Ok((_, certificate)) = X509Certificate::from_der(end_entity) else {
            return wrong("the forwarder's certificate cannot be read");
        };
        let key = certificate.tbs_certificate.subject_pki.raw;
        if digest(&SHA256, key).as_ref() != self.pin {
            return wrong("the forwarder's key is not the pinned one");
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
