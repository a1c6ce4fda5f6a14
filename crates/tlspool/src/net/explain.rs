//! Judges a peer as the network process does, for `tlspool policy explain`: the same tables, validator and
//! TLS engine, but in the command's own process, with look-ups of its own and a trace.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{CertificateError, SignatureScheme};
use rustls_pki_types::UnixTime;
use tlspool_engine::twelve::Wishes;
use tlspool_engine::{
    CertificateType, Credential, Host, Job, PeerAuthentication, PeerCredential, Refusal, Role,
    ShownByPeer, SignatureFailure, Socket, handshake,
};
use tlspool_identity::DoNai;
use tlspool_validate::policy::Expression;
use tlspool_validate::sources::{Caches, Options, Transport};
use tlspool_validate::{
    Applicable, Endpoint, Inquiry, KeyId, Negotiated, OpenPgpCertificate, OpenPgpLimits, Peer,
    PolicyValidator, Refused, Side, Tables, Validated,
};

use super::authorization::{self, Decision, Meeting};
use super::fingerprint;
use super::identities::Identities;
use super::policies::WorkerTables;
use super::settings::Settings;
use super::trust::{SharedAnchors, Trust};
use crate::config::Config;
use crate::lookups::{OwnLookUps, block_on};

/// Whom to ask about, and how.
pub(crate) struct Question<'a> {
    /// The peer, a server.
    pub(crate) remote: &'a DoNai,
    /// Our own name, whose policies apply too.
    pub(crate) local: Option<&'a DoNai>,
    /// The service; empty if none was named.
    pub(crate) service: &'a str,
    /// Where it is: `HOST:PORT`.
    pub(crate) connect: &'a str,
    /// What was remembered does not count.
    pub(crate) ignore_caches: bool,
    /// Ask for an OpenPGP certificate (RFC 6091).
    pub(crate) openpgp: bool,
    /// The domain may answer for its user.
    pub(crate) domain_represents_user: bool,
}

/// What came out.
pub(crate) struct Explained {
    /// The address that was connected to.
    pub(crate) address: SocketAddr,
    /// Whether the peer is believed, with the trace.
    pub(crate) result: Result<Validated, Refused>,
    /// If it is: whether it may have a session.
    pub(crate) authorization: Option<Decision>,
}

/// The expressions that apply between two names, and whether each is the default.
pub(crate) fn applicable(
    config: &Config,
    remote: &DoNai,
    local: Option<&DoNai>,
    service: &str,
) -> Result<Vec<(Side, Applicable, bool)>, String> {
    let identities = RefCell::new(Identities::new(config.database.to_path_buf()));
    let tables = WorkerTables(&identities);
    let mut found = Vec::new();
    if let Some(applicable) = tables.policy(Side::Remote, remote, service)? {
        found.push((Side::Remote, (*applicable).clone(), false));
    } else {
        let expression = Expression::default_for_remotes().clone();
        let default = Applicable { selector: String::new(), service: None, expression };
        found.push((Side::Remote, default, true));
    }
    let ours = local.map(|local| tables.policy(Side::Local, local, service)).transpose()?;
    if let Some(applicable) = ours.flatten() {
        found.push((Side::Local, (*applicable).clone(), false));
    }
    Ok(found)
}

/// Connects, and judges who answers.
pub(crate) fn explain(config: &Config, question: &Question<'_>) -> Result<Explained, String> {
    let settings = Settings::new(config.clone(), None)?;
    let (stream, address) = connect(question.connect, config.limits.handshake_timeout)?;
    block_on(judge(&settings, question, stream, address))
}

/// The first address of `place` that takes a connection.
fn connect(place: &str, limit: Duration) -> Result<(TcpStream, SocketAddr), String> {
    let failed = |why: String| format!("cannot connect to {place}: {why}");
    let addresses = place.to_socket_addrs().map_err(|error| failed(error.to_string()))?;
    let mut problem = "it has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => problem = error.to_string(),
        }
    }
    Err(failed(problem))
}

async fn judge(
    settings: &Settings,
    question: &Question<'_>,
    stream: TcpStream,
    address: SocketAddr,
) -> Result<Explained, String> {
    let identities = RefCell::new(Identities::new(settings.config.database.to_path_buf()));
    let trust = Trust::new();
    trust.digest(settings, &identities, &SharedAnchors::default());
    let look_ups = OwnLookUps::new(&settings.config)?;
    let validator = trust.validator();
    let limit = settings.config.limits.handshake_timeout;
    let mut host = ExplainingHost {
        question,
        validator: &validator,
        tables: WorkerTables(&identities),
        sources: &look_ups,
        address,
        deadline: Instant::now() + limit,
        result: None,
    };
    let socket = Socket::stream(stream.into()).map_err(|error| error.to_string())?;
    let server = question.remote.domain();
    let job = Job {
        role: Role::Client { server: Some(server), sni: true },
        authentication: PeerAuthentication::Required,
        scope: [0; 32],
        exporter: false,
        twelve: Wishes { insist: question.openpgp, openpgp: question.openpgp, ..Wishes::default() },
        first: None,
    };
    let handshake = handshake::run(&settings.engine, &socket, job, &mut host);
    let ended = tokio::time::timeout(limit, handshake).await;
    // Once the server is judged it does not matter how the handshake went on: it may want a certificate
    // of ours.
    match (host.result, ended) {
        (Some(result), _) => {
            let mut authorization = None;
            if let Ok(validated) = &result {
                let meeting = Meeting {
                    role: tlspool_store::Role::Client,
                    remote: Some(validated.identity.clone()),
                    local: question.local.cloned(),
                    service: question.service.into(),
                };
                let config = &settings.config.authorization;
                let until = Instant::now() + limit;
                let decision =
                    authorization::decide(config, &identities, &look_ups, &meeting, until);
                authorization = Some(decision.await);
            }
            Ok(Explained { address, result, authorization })
        }
        (None, Ok(Err(error))) => Err(format!("no TLS with {address}: {error}")),
        (None, Ok(Ok(_))) => Err(format!("{address} showed no certificate")),
        (None, Err(_)) => Err(format!("no TLS with {address}: it took too long")),
    }
}

/// Answers what the handshake asks.
struct ExplainingHost<'a> {
    question: &'a Question<'a>,
    validator: &'a PolicyValidator,
    tables: WorkerTables<'a>,
    sources: &'a OwnLookUps,
    address: SocketAddr,
    deadline: Instant,
    result: Option<Result<Validated, Refused>>,
}

impl Host for ExplainingHost<'_> {
    async fn server_credential(
        &mut self,
        _sni: Option<&str>,
        _schemes: &[SignatureScheme],
        _types: &[CertificateType],
    ) -> Result<Arc<Credential>, Refusal> {
        Err(refusal("this is a client".to_owned()))
    }

    async fn client_credential(
        &mut self,
        _kind: CertificateType,
    ) -> Result<Option<Arc<Credential>>, Refusal> {
        Ok(None)
    }

    async fn has_openpgp(&mut self, _sni: Option<&str>) -> bool {
        false
    }

    async fn sign(
        &mut self,
        _credential: &Credential,
        _scheme: SignatureScheme,
        _message: &[u8],
    ) -> Result<Vec<u8>, SignatureFailure> {
        Err(SignatureFailure("nothing is signed here".to_owned()))
    }

    async fn verify(&mut self, peer: ShownByPeer) -> Result<Option<Vec<u8>>, Refusal> {
        let (key_id, certificate) = match &peer.credential {
            PeerCredential::X509(chain) => {
                let credential = tlspool_validate::Credential::X509(chain);
                return self.judge(&peer, credential).await.map(|()| None);
            }
            PeerCredential::OpenPgp { key_id, certificate } => (key_id, read_openpgp(certificate)?),
            PeerCredential::OpenPgpFingerprint { key_id, fingerprint } => {
                let key = KeyId(*key_id);
                (key_id, self.fetch(fingerprint::Shown { fingerprint, key }).await?)
            }
        };
        let key = Some(KeyId(*key_id));
        let credential = tlspool_validate::Credential::OpenPgp(&certificate, key);
        self.judge(&peer, credential).await?;
        let validated = self.result.as_ref().and_then(|result| result.as_ref().ok());
        match validated.and_then(|validated| validated.signing_key.as_ref()) {
            Some(signs) => Ok(Some(signs.spki.clone())),
            None => Err(unfit(&"nobody knows which key signs the handshake")),
        }
    }

    async fn authorize(&mut self, _shown: Option<&Credential>) -> Result<(), Refusal> {
        // Nobody has a session here.
        Ok(())
    }
}

fn unfit(why: &dyn std::fmt::Display) -> Refusal {
    refusal(format!("the peer's OpenPGP certificate: {why}"))
}

fn read_openpgp(bytes: &[u8]) -> Result<OpenPgpCertificate, Refusal> {
    OpenPgpCertificate::read(bytes, OpenPgpLimits::PEER).map_err(|error| unfit(&error))
}

impl ExplainingHost<'_> {
    /// The OpenPGP certificate of which the peer has shown but the fingerprint.
    async fn fetch(&self, shown: fingerprint::Shown<'_>) -> Result<OpenPgpCertificate, Refusal> {
        let trusted = self.validator.openpgp_trust();
        let known = trusted.find(self.question.service, shown.fingerprint).cloned();
        let caches = if self.question.ignore_caches { Caches::Ignore } else { Caches::Use };
        let options = Options { deadline: self.deadline, caches };
        fingerprint::find(&shown, known, Some(self.question.remote), self.sources, options)
            .await
            .map_err(|why| unfit(&why))
    }

    async fn judge(
        &mut self,
        peer: &ShownByPeer,
        credential: tlspool_validate::Credential<'_>,
    ) -> Result<(), Refusal> {
        let inquiry = Inquiry {
            credential,
            peer: Peer::Server,
            wanted: Some(self.question.remote),
            local: self.question.local,
            domain_represents_user: self.question.domain_represents_user,
            service: self.question.service,
            endpoint: Some(Endpoint { port: self.address.port(), transport: Transport::Tcp }),
            ignore_caches: self.question.ignore_caches,
            negotiated: Negotiated {
                private: peer.agreed.private,
                post_quantum: peer.agreed.post_quantum,
                forward_secrecy: peer.agreed.forward_secrecy,
            },
            stapled_ocsp: &peer.ocsp,
            now: UnixTime::now(),
            deadline: self.deadline,
            trace: true,
        };
        let result = self.validator.validate(&inquiry, &self.tables, self.sources).await;
        let told = match &result {
            Ok(_) => Ok(()),
            Err(refused) => Err(refusal(refused.refusal.to_string())),
        };
        self.result = Some(result);
        told
    }
}

fn refusal(text: String) -> Refusal {
    Refusal { certificate: CertificateError::ApplicationVerificationFailure, text }
}
