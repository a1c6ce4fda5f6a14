//! What a handshake asks for, who answers, and the objects through which rustls asks.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CertificateError, CommonState, DigitallySignedStruct, DistinguishedName, Error, NamedGroup,
    ProtocolVersion, SignatureAlgorithm, SignatureScheme,
};

use crate::config::PeerAuthentication;
use crate::coroutine::{ask, context};

pub use tls12::CertificateType;

/// Answers what handshakes ask; implemented by the network process.
pub trait Host {
    /// Which certificate does this server show to a client that asks for `sni`, can check
    /// signatures of these schemes, and takes certificates of these types, best first?
    fn server_credential(
        &mut self,
        sni: Option<&str>,
        schemes: &[SignatureScheme],
        types: &[CertificateType],
    ) -> impl Future<Output = Result<Arc<Credential>, Refusal>>;

    /// Which certificate of this type does this client show, if any? It leaves, and a signature is
    /// asked for, only after the server was verified; in TLS 1.3 the choice is made before.
    fn client_credential(
        &mut self,
        kind: CertificateType,
    ) -> impl Future<Output = Result<Option<Arc<Credential>>, Refusal>>;

    /// Does this server have an OpenPGP certificate to show to a client that asks for `sni`?
    fn has_openpgp(&mut self, sni: Option<&str>) -> impl Future<Output = bool>;

    /// The signature of `message` by the private key of `credential`.
    fn sign(
        &mut self,
        credential: &Credential,
        scheme: SignatureScheme,
        message: &[u8],
    ) -> impl Future<Output = Result<Vec<u8>, SignatureFailure>>;

    /// Is this peer acceptable? If so, with which key (SubjectPublicKeyInfo, DER) does it sign: that of
    /// an OpenPGP certificate is known to the host alone; for X.509 the answer is not used.
    fn verify(
        &mut self,
        peer: ShownByPeer,
    ) -> impl Future<Output = Result<Option<Vec<u8>>, Refusal>>;

    /// May there be a session with this peer? Asked when a handshake is complete, so that the peer has proved
    /// what it shows or has shown nothing, and before any data moves: after a first handshake, one that
    /// resumes, and one that renegotiates. `shown` is what we have shown, also in the session that was resumed.
    fn authorize(
        &mut self,
        shown: Option<&Credential>,
    ) -> impl Future<Output = Result<(), Refusal>>;

    /// The handshake waits for the peer, whom everything was sent that there is to say: what will be wanted
    /// later can be begun now, and costs no time. Told before each wait.
    fn peer_is_next(&mut self) {}
}

/// What a peer shows of itself, and what was agreed with it before it did.
#[derive(Debug, Clone)]
pub struct ShownByPeer {
    /// Its certificate.
    pub credential: PeerCredential,
    /// The OCSP response that a server stapled (RFC 6066 section 8); empty if none.
    pub ocsp: Vec<u8>,
    /// What was agreed.
    pub agreed: Agreed,
}

/// The properties of a session that a policy may demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Certificates are encrypted (TLS 1.3).
    pub private: bool,
    /// The key exchange resists quantum computers.
    pub post_quantum: bool,
    /// The key exchange is ephemeral.
    pub forward_secrecy: bool,
}

impl Agreed {
    /// What the connection has agreed on so far. A client that verifies a server and does not know the
    /// version yet speaks TLS 1.2: there alone the certificate may come with the ServerHello.
    pub(crate) fn of(common: &CommonState) -> Self {
        let group =
            common.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
        Self {
            private: common.protocol_version() == Some(ProtocolVersion::TLSv1_3),
            post_quantum: matches!(
                group,
                Some(
                    NamedGroup::X25519MLKEM768
                        | NamedGroup::secp256r1MLKEM768
                        | NamedGroup::MLKEM512
                        | NamedGroup::MLKEM768
                        | NamedGroup::MLKEM1024
                )
            ),
            // rustls has no suite without, and resumes TLS 1.3 sessions with a new exchange only.
            forward_secrecy: true,
        }
    }
}

/// What a peer shows of itself. Nothing of it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerCredential {
    /// Its X.509 certificates, leaf first.
    X509(Vec<CertificateDer<'static>>),
    /// An OpenPGP certificate (RFC 6091), binary.
    OpenPgp {
        /// The key in it that signs.
        key_id: [u8; 8],
        /// The transferable public key.
        certificate: Vec<u8>,
    },
    /// The fingerprint of one, to be fetched from where the name is at home.
    OpenPgpFingerprint {
        /// The key in it that signs.
        key_id: [u8; 8],
        /// Of the primary key.
        fingerprint: [u8; 20],
    },
}

/// What we show of ourselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// X.509 certificates, leaf first.
    X509(Vec<CertificateDer<'static>>),
    /// An OpenPGP certificate.
    OpenPgp {
        /// The key in it that signs.
        key_id: [u8; 8],
        /// The transferable public key, binary.
        certificate: Vec<u8>,
        /// SubjectPublicKeyInfo of the key that signs, DER.
        key: Vec<u8>,
        /// Of the primary key, if it is one that RFC 6091 can carry.
        fingerprint: Option<[u8; 20]>,
    },
}

/// A certificate and the name of its private key.
#[derive(Clone)]
pub struct Credential {
    /// The local identity it belongs to.
    pub name: String,
    /// Where the private key is, as a URI.
    pub key_uri: Arc<str>,
    /// SHA-256 of the leaf, or of the OpenPGP certificate; separates session tickets.
    pub fingerprint: [u8; 32],
    /// Schemes the key can sign with, best first.
    pub schemes: Vec<SignatureScheme>,
    /// The certificate.
    pub shown: Shown,
}

impl Credential {
    /// Its X.509 certificates, leaf first; none if it is no X.509 credential.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        match &self.shown {
            Shown::X509(chain) => chain,
            Shown::OpenPgp { .. } => &[],
        }
    }

    /// Its type.
    pub fn certificate_type(&self) -> CertificateType {
        match &self.shown {
            Shown::X509(_) => CertificateType::X509,
            Shown::OpenPgp { .. } => CertificateType::OpenPgp,
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({})", self.name)
    }
}

/// The host refuses; what to tell the peer and what to tell people.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Selects the alert that the peer gets.
    pub certificate: CertificateError,
    /// For the application and the log.
    pub text: String,
}

/// A signature could not be made; the text is for the application and the log.
#[derive(Debug, Clone)]
pub struct SignatureFailure(pub String);

/// What a step of a handshake waits for.
pub(crate) enum Question {
    ServerCredential { sni: Option<String>, schemes: Vec<SignatureScheme> },
    ClientCredential { schemes: Vec<SignatureScheme> },
    Sign { credential: Arc<Credential>, scheme: SignatureScheme, message: Vec<u8> },
    Verify(ShownByPeer),
}

/// The answer.
pub(crate) enum Answer {
    /// There was no question yet.
    Begin,
    Credential(Option<Arc<Credential>>),
    Signature(Option<Vec<u8>>),
    Verified(Result<(), CertificateError>),
}

/// What is said where a question is asked outside of a handshake step: cannot happen.
fn outside() -> Error {
    Error::General("asked outside of a handshake step".into())
}

/// Stands for a private key elsewhere.
#[derive(Debug)]
struct DistantKey(Arc<Credential>);

#[derive(Debug)]
struct DistantSigner {
    credential: Arc<Credential>,
    scheme: SignatureScheme,
}

impl SigningKey for DistantKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.0.schemes.iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(DistantSigner { credential: self.0.clone(), scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.0.schemes.first() {
            Some(SignatureScheme::ED25519) => SignatureAlgorithm::ED25519,
            Some(
                SignatureScheme::ECDSA_NISTP256_SHA256 | SignatureScheme::ECDSA_NISTP384_SHA384,
            ) => SignatureAlgorithm::ECDSA,
            _ => SignatureAlgorithm::RSA,
        }
    }
}

impl Signer for DistantSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let question = Question::Sign {
            credential: self.credential.clone(),
            scheme: self.scheme,
            message: message.to_vec(),
        };
        match ask(question) {
            Some(Answer::Signature(Some(signature))) => Ok(signature),
            Some(_) => Err(Error::General("no signature by the private key".into())),
            None => Err(outside()),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

fn certified(credential: Arc<Credential>) -> Arc<CertifiedKey> {
    let chain = credential.chain().to_vec();
    Arc::new(CertifiedKey::new(chain, Arc::new(DistantKey(credential))))
}

/// Asks the host which certificate to show, in either role.
#[derive(Debug)]
pub(crate) struct AskForCredential;

impl ResolvesServerCert for AskForCredential {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let sni = hello.server_name().map(str::to_owned);
        let schemes = hello.signature_schemes().to_vec();
        match ask(Question::ServerCredential { sni, schemes })? {
            Answer::Credential(Some(credential)) => {
                if let Some(context) = context() {
                    context.narrow_scope(&credential.fingerprint);
                }
                Some(certified(credential))
            }
            _ => None,
        }
    }
}

impl ResolvesClientCert for AskForCredential {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        match ask(Question::ClientCredential { schemes: schemes.to_vec() })? {
            Answer::Credential(credential) => {
                if let Some(context) = context() {
                    context.choose(credential.clone());
                }
                credential.map(certified)
            }
            _ => None,
        }
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Asks the host about a peer; checks handshake signatures itself.
#[derive(Debug)]
pub(crate) struct AskAboutPeer {
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
    pub(crate) authentication: PeerAuthentication,
}

impl AskAboutPeer {
    fn ask(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        ocsp: &[u8],
    ) -> Result<(), Error> {
        if self.authentication == PeerAuthentication::Ignored {
            return Ok(());
        }
        let chain =
            std::iter::once(leaf).chain(rest).map(|c| c.clone().into_owned()).collect::<Vec<_>>();
        let agreed = context().ok_or_else(outside)?.agreed();
        let credential = PeerCredential::X509(chain);
        match ask(Question::Verify(ShownByPeer { credential, ocsp: ocsp.to_vec(), agreed })) {
            Some(Answer::Verified(result)) => result.map_err(Error::InvalidCertificate),
            _ => Err(outside()),
        }
    }
}

impl ServerCertVerifier for AskAboutPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.ask(end_entity, intermediates, ocsp_response)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for AskAboutPeer {
    fn offer_client_auth(&self) -> bool {
        self.authentication != PeerAuthentication::Ignored
    }

    fn client_auth_mandatory(&self) -> bool {
        self.authentication == PeerAuthentication::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.ask(end_entity, intermediates, &[])?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
