//! TLS with a directory. Who it is, DANE says and nobody else: its certificate must match the secure TLSA
//! records of its own host and port. Records that need a trust anchor of ours (PKIX-TA, PKIX-EE) are
//! not usable here, as RFC 7672 section 3.1.3 has it for mail servers: an answer of a directory counts as
//! the word of its domain, and the domain alone decides who may give it.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tlspool_identity::DoNai;
use tlspool_validate::dane::{self, Verdict};
use tlspool_validate::{Peer, Question};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connection::Trouble;
use crate::names::TlsaSet;

/// Whether `chain`, shown by `host`, is what its TLSA records say; a line for a trace.
pub(crate) fn vouch(
    chain: &[CertificateDer<'_>],
    host: &str,
    tlsa: &TlsaSet,
    now: UnixTime,
) -> Result<String, String> {
    let wanted = DoNai::parse(host).map_err(|error| format!("its host {host:?}: {error}"))?;
    let question = Question {
        chain,
        peer: Peer::Server,
        wanted: Some(&wanted),
        domain_represents_user: false,
        service: "ldap",
        now,
    };
    match dane::check(&question, &tlsa.records, &tlsa.reference_names, None) {
        Verdict::Match(matched) => Ok(matched.text),
        verdict => Err(verdict.to_string()),
    }
}

/// How to begin TLS with one host.
#[derive(Debug)]
pub(crate) struct Tls {
    host: String,
    verifier: Arc<Verifier>,
    config: Arc<ClientConfig>,
}

impl Tls {
    pub(crate) fn new(provider: &Arc<CryptoProvider>, host: &str, tlsa: TlsaSet) -> Self {
        let verifier = Arc::new(Verifier {
            host: host.to_owned(),
            tlsa,
            provider: Arc::clone(provider),
            verdict: Mutex::new(Ok(String::new())),
        });
        let mut config = ClientConfig::builder_with_details(
            Arc::clone(provider),
            Arc::new(rustls::time_provider::DefaultTimeProvider),
        )
        .with_safe_default_protocol_versions()
        .expect("the provider has cipher suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
        .with_no_client_auth();
        // A resumed session shows no certificate.
        config.resumption = Resumption::disabled();
        Self { host: host.to_owned(), verifier, config: Arc::new(config) }
    }

    /// Does the handshake; with it comes a line for a trace.
    pub(crate) async fn begin(
        &self,
        tcp: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, String), Trouble> {
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| Trouble::Tls(format!("{:?} is no host name", self.host)))?;
        let stream = TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await;
        match (stream, self.verifier.verdict()) {
            (_, Err(why)) => Err(Trouble::Impostor(why)),
            (Err(error), _) => Err(Trouble::Tls(error.to_string())),
            (Ok(stream), Ok(why)) => {
                let version = match stream.get_ref().1.protocol_version() {
                    Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
                    _ => "TLS 1.2",
                };
                Ok((stream, format!("{version}, {why}")))
            }
        }
    }
}

/// Lets a certificate pass that matches the TLSA records, and remembers why.
#[derive(Debug)]
struct Verifier {
    host: String,
    tlsa: TlsaSet,
    provider: Arc<CryptoProvider>,
    verdict: Mutex<Result<String, String>>,
}

impl Verifier {
    fn verdict(&self) -> Result<String, String> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut chain = vec![end_entity.clone()];
        chain.extend_from_slice(intermediates);
        let verdict = vouch(&chain, &self.host, &self.tlsa, now);
        let passes = verdict.is_ok();
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
        if passes {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
