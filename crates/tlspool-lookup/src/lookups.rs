//! All sources together: each question goes to whoever can answer it.

use std::rc::Rc;

use tlspool_validate::sources::{Looking, Options, Query, Sources};

use crate::directory::{self, Directories};
use crate::dns::{DnsSettings, Resolver, SettingsError};
use crate::http::{self, Http};

/// How to look up.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Names.
    pub dns: DnsSettings,
    /// Directories.
    pub directories: directory::Settings,
    /// Revocation.
    pub http: http::Settings,
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
    resolver: Rc<Resolver>,
    directories: Directories<Resolver>,
    http: Http<Resolver>,
}

impl Lookups {
    /// Makes the sources, and reads the files that the settings name; later no file is read.
    /// To be used within a local tokio runtime.
    pub fn new(settings: Settings) -> Result<Self, SetupError> {
        let resolver = Rc::new(Resolver::new(&settings.dns)?);
        let directories = Directories::new(resolver.clone(), settings.directories);
        let http = Http::new(resolver.clone(), settings.http);
        Ok(Self { resolver, directories, http })
    }

    /// The resolver, for those who ask the DNS for other things.
    pub fn resolver(&self) -> &Rc<Resolver> {
        &self.resolver
    }
}

impl Sources for Lookups {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        let deadline = options.deadline;
        match query {
            Query::ServerTlsa { host, port, transport, service } => Box::pin(async move {
                self.resolver.server_tlsa(host, *port, *transport, service, deadline).await
            }),
            Query::ClientTlsa { domain, service } => {
                Box::pin(async move { self.resolver.client_tlsa(domain, service, deadline).await })
            }
            Query::Directory { .. } | Query::OpenPgpKey { .. } => {
                self.directories.look_up(query, options)
            }
            Query::Ocsp { .. } | Query::Crl { .. } => self.http.look_up(query, options),
        }
    }
}
