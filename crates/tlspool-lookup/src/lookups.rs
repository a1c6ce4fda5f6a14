//! All sources together: each question goes to whoever can answer it.

use std::rc::Rc;

use std::time::Duration;

use tlspool_validate::sources::{Found, Looking, Options, Origin, Outcome, Query, Sources};

use crate::authorize::{self, Authorizers};
use crate::directory::{self, Directories};
use crate::dns::{DnsSettings, Resolver, SettingsError};
use crate::http::{self, Http};

/// What is said where nothing that is published is looked up.
const NO_DNS: &str = "look-ups are not configured: there is no [dns] section";

/// How to look up.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Names. Without them neither directories nor revocation are looked up.
    pub dns: Option<DnsSettings>,
    /// Directories.
    pub directories: directory::Settings,
    /// Revocation.
    pub http: http::Settings,
    /// Decisions.
    pub authorizers: authorize::Settings,
}

/// Why look-ups cannot be made at all.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The resolver.
    #[error(transparent)]
    Dns(#[from] SettingsError),
}

/// Looks everything up.
#[derive(Debug)]
pub struct Lookups {
    public: Option<Public>,
    authorizers: Authorizers,
}

/// What is published.
#[derive(Debug)]
struct Public {
    resolver: Rc<Resolver>,
    directories: Directories<Resolver>,
    http: Http<Resolver>,
}

impl Lookups {
    /// Makes the sources, and reads the files that the settings name; later no file is read.
    /// To be used within a local tokio runtime.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let Settings { dns, directories, http, authorizers } = settings;
        let public = match dns {
            None => None,
            Some(dns) => {
                let resolver = Rc::new(Resolver::new(&dns)?);
                let directories = Directories::new(resolver.clone(), directories);
                let http = Http::new(resolver.clone(), http);
                Some(Public { resolver, directories, http })
            }
        };
        Ok(Self { public, authorizers: Authorizers::new(authorizers) })
    }
}

impl Sources for Lookups {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        if let Query::Authorize { .. } = query {
            return self.authorizers.look_up(query, options);
        }
        let Some(Public { resolver, directories, http }) = &self.public else {
            return Box::pin(async {
                let outcome = Outcome::Failed(NO_DNS.to_owned());
                let (elapsed, steps) = (Duration::ZERO, Vec::new());
                Found { outcome, origin: Origin::Live, elapsed, lasts: None, steps }
            });
        };
        let deadline = options.deadline;
        match query {
            Query::ServerTlsa { host, port, transport, service } => Box::pin(async move {
                resolver.server_tlsa(host, *port, *transport, service, deadline).await
            }),
            Query::ClientTlsa { domain, service } => {
                Box::pin(async move { resolver.client_tlsa(domain, service, deadline).await })
            }
            Query::Ocsp { .. } | Query::Crl { .. } => http.look_up(query, options),
            Query::Directory { .. } | Query::OpenPgpKey { .. } | Query::Authorize { .. } => {
                directories.look_up(query, options)
            }
        }
    }
}
