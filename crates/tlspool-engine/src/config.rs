//! The rustls configurations: one per role and mode, shared by every session of the daemon.
//!
//! Nothing in them depends on an identity; what does is asked of the host during the handshake.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConfig, KeyLog, ServerConfig, SupportedProtocolVersion, version};

use crate::ask::{AskAboutPeer, AskForCredential};
use crate::coroutine::context;
use crate::tickets::{ClientSessions, Ticketer};
use crate::twelve::Store;

/// What is demanded of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerAuthentication {
    /// A certificate that the host accepts.
    Required,
    /// The same, but a TLS client may also show none.
    Requested,
    /// None is asked for, and a server's is not looked at.
    Ignored,
}

/// Settings that hold for all sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineOptions {
    /// Whether TLS 1.2 is spoken besides 1.3.
    pub tls12: bool,
    /// TLS 1.3 tickets sent per full handshake; 0 turns resumption off on the server side.
    pub tickets: usize,
    /// How long a ticket may be used.
    pub ticket_lifetime: Duration,
    /// How many scopes' sessions are kept for resumption as a client; `None` keeps none.
    pub client_sessions: Option<NonZeroUsize>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            tls12: true,
            tickets: 2,
            ticket_lifetime: Duration::from_hours(12),
            client_sessions: NonZeroUsize::new(4096),
        }
    }
}

/// TLS configurations for every kind of handshake; cheap to clone, shared by all workers.
#[derive(Debug, Clone)]
pub struct Engine {
    /// By what is demanded of the client, and whether it is TLS 1.3 only.
    servers: [[Arc<ServerConfig>; 2]; 3],
    clients: [[[Arc<ClientConfig>; 2]; 2]; 2],
    pub(crate) twelve: Arc<Store>,
}

/// Which TLS hides certificates by itself.
const ONLY_TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];

impl Engine {
    /// Builds the configurations.
    pub fn new(options: &EngineOptions) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions: &[&SupportedProtocolVersion] =
            if options.tls12 { &[&version::TLS13, &version::TLS12] } else { ONLY_TLS13 };
        let ticketer = Ticketer::new(options.ticket_lifetime)
            .map(Arc::new)
            .ok_or(rustls::Error::FailedToGetRandomBytes)?;
        let sessions = options.client_sessions.map(ClientSessions::new);

        let versions_for = |only_tls13| if only_tls13 { ONLY_TLS13 } else { versions };
        let server = |authentication, only_tls13| {
            let verifier = AskAboutPeer {
                algorithms: provider.signature_verification_algorithms,
                authentication,
            };
            let mut config = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions_for(only_tls13))?
                .with_client_cert_verifier(Arc::new(verifier))
                .with_cert_resolver(Arc::new(AskForCredential));
            config.session_storage = Arc::new(NoServerSessionStorage {});
            if options.tickets > 0 {
                config.ticketer = ticketer.clone();
            }
            config.send_tls13_tickets = options.tickets;
            config.enable_secret_extraction = true;
            config.key_log = Arc::new(CaptureSecrets);
            Ok::<_, rustls::Error>(Arc::new(config))
        };
        let twelve =
            Store::new(options.tickets > 0, options.ticket_lifetime, options.client_sessions)
                .map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
        let client = |authentication, sni, only_tls13| {
            let versions = versions_for(only_tls13);
            let mut config = client_config(&provider, versions, authentication)?;
            config.enable_sni = sni;
            config.resumption = match &sessions {
                Some(sessions) => Resumption::store(sessions.clone()),
                None => Resumption::disabled(),
            };
            config.enable_secret_extraction = true;
            config.key_log = Arc::new(CaptureSecrets);
            Ok::<_, rustls::Error>(Arc::new(config))
        };
        let both = |authentication, only_tls13| {
            let client = |sni| client(authentication, sni, only_tls13);
            Ok::<_, rustls::Error>([client(false)?, client(true)?])
        };
        let servers = |authentication| {
            Ok::<_, rustls::Error>([server(authentication, false)?, server(authentication, true)?])
        };
        let all = |authentication| {
            Ok::<_, rustls::Error>([both(authentication, false)?, both(authentication, true)?])
        };
        Ok(Self {
            servers: [
                servers(PeerAuthentication::Required)?,
                servers(PeerAuthentication::Requested)?,
                servers(PeerAuthentication::Ignored)?,
            ],
            clients: [all(PeerAuthentication::Required)?, all(PeerAuthentication::Ignored)?],
            twelve: Arc::new(twelve),
        })
    }

    pub(crate) fn server(
        &self,
        authentication: PeerAuthentication,
        only_tls13: bool,
    ) -> Arc<ServerConfig> {
        let at = match authentication {
            PeerAuthentication::Required => 0,
            PeerAuthentication::Requested => 1,
            PeerAuthentication::Ignored => 2,
        };
        self.servers[at][usize::from(only_tls13)].clone()
    }

    /// A TLS server always shows a certificate, so there is no third mode here.
    pub(crate) fn client(
        &self,
        authentication: PeerAuthentication,
        sni: bool,
        only_tls13: bool,
    ) -> Arc<ClientConfig> {
        let at = usize::from(authentication == PeerAuthentication::Ignored);
        self.clients[at][usize::from(only_tls13)][usize::from(sni)].clone()
    }
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    authentication: PeerAuthentication,
) -> Result<ClientConfig, rustls::Error> {
    let verifier =
        AskAboutPeer { algorithms: provider.signature_verification_algorithms, authentication };
    Ok(ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)?
        .dangerous() // rustls's word for any verifier of one's own; ours asks the host
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(AskForCredential)))
}

/// Keeps the secrets from which exporters are computed, for sessions that may be asked for them.
#[derive(Debug)]
struct CaptureSecrets;

impl KeyLog for CaptureSecrets {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        // The labels of the TLS 1.3 exporter secret and of the TLS 1.2 master secret.
        if matches!(label, "EXPORTER_SECRET" | "CLIENT_RANDOM")
            && let Some(context) = context()
        {
            context.keep_secret(secret);
        }
    }

    fn will_log(&self, _label: &str) -> bool {
        context().is_some_and(|context| context.keeps_secrets())
    }
}
