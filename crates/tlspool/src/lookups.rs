//! What the configuration means to whoever looks up: the look-up process, and commands that look up by
//! themselves.

use crate::config::{
    AbsolutePath, Authorization, Cache, CacheServer, Config, Dns, Forwarder, ForwarderTls, Radius,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::time::Duration;
use tlspool_lookup::authorize::{self, radius::packet::Secret};
use tlspool_lookup::cache::{self, Cached, Key};
use tlspool_lookup::dns::{self, AnchorSource, DnsSettings, Protocol, TlsServer, UpstreamSettings};
use tlspool_lookup::{Lookups, Settings, directory, http};
use tlspool_validate::sources::{Found, Looking, Options, Origin, Outcome, Query, Sources};

/// The sources that the configuration names, with what memcached remembers of them. Reads the files that it
/// needs, and none later; an error says which and why. To be used within a local tokio runtime.
pub(crate) fn sources(config: &Config) -> Result<Cached<Lookups>, String> {
    if !config.looks_up() {
        return Err("look-ups are not configured: there is no [dns] section".to_owned());
    }
    let (ldap, web) = (&config.ldap, &config.http);
    let settings = Settings {
        dns: config.dns.as_ref().map(dns_settings).transpose()?,
        directories: directory::Settings {
            look_ups: ldap.look_ups as usize,
            per_directory: ldap.per_directory as usize,
            connections: ldap.connections as usize,
            time_limit: ldap.timeout,
            connect_limit: ldap.connect_timeout,
            idle: ldap.idle,
            entries: ldap.entries as usize,
            answer_bytes: ldap.answer_bytes as usize,
            internal: ldap.internal,
        },
        http: http::Settings {
            time_limit: web.timeout,
            connect_limit: web.connect_timeout,
            per_host: web.per_host as usize,
            ocsp_bytes: web.ocsp_bytes as usize,
            crl_bytes: web.crl_bytes as usize,
            internal: web.internal,
            chosen: config.validation.ocsp_responder.iter().map(|url| url.0.clone()).collect(),
        },
        authorizers: authorizers(&config.authorization)?,
    };
    let lookups = Lookups::new(settings).map_err(|error| error.to_string())?;
    Ok(Cached::new(lookups, cache_settings(config)?))
}

/// Does what a command has to ask of others, in this process.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default());
    runtime.map_err(|error| error.to_string())?.block_on(work)
}

/// The look-ups of a command that looks up by itself; every one fails if none are configured.
pub(crate) struct OwnLookUps(Option<Cached<Lookups>>);

impl OwnLookUps {
    /// As [`sources`].
    pub(crate) fn new(config: &Config) -> Result<Self, String> {
        Ok(Self(if config.looks_up() { Some(sources(config)?) } else { None }))
    }
}

impl Sources for OwnLookUps {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        if let Some(sources) = &self.0 {
            return sources.look_up(query, options);
        }
        Box::pin(async {
            let outcome = Outcome::Failed("look-ups are not configured".to_owned());
            let (elapsed, steps) = (Duration::ZERO, Vec::new());
            Found { outcome, origin: Origin::Live, elapsed, lasts: None, steps }
        })
    }
}

fn authorizers(config: &Authorization) -> Result<authorize::Settings, String> {
    let program = config.program.as_ref().map(|program| authorize::program::Settings {
        path: program.socket.to_path_buf(),
        timeout: program.timeout,
        questions: program.questions as usize,
    });
    let radius = |radius: &Radius| {
        let file = &radius.secret_file;
        Ok::<_, String>(authorize::radius::Settings {
            servers: radius.servers.iter().map(|server| server.0).collect(),
            secret: Secret::load(file)
                .map_err(|error| format!("authorization.radius.secret_file: {file} {error}"))?,
            nas_identifier: radius.nas_identifier.clone(),
            timeout: radius.timeout,
            attempts: radius.attempts as usize,
            require_message_authenticator: radius.require_message_authenticator,
            questions: radius.questions as usize,
        })
    };
    let radius = config.radius.as_ref().map(radius).transpose()?;
    Ok(authorize::Settings { program, radius })
}

/// Whether answers are remembered in the network process: everywhere it would be too much.
pub(crate) fn in_memory(config: &Config) -> bool {
    config.cache.servers.is_empty()
}

fn cache_settings(config: &Config) -> Result<cache::Settings, String> {
    let Cache { servers, key_file, lifetime, timeout, .. } = &config.cache;
    if in_memory(config) {
        return Ok(cache::Settings { timeout: Duration::ZERO, ..cache::Settings::default() });
    }
    let path = key_file.as_ref().ok_or("cache.key_file is missing")?;
    let key = Key::load(path).map_err(|error| format!("cache.key_file: {path}: {error}"))?;
    let server = |server: &CacheServer| match server {
        CacheServer::Tcp(address) => cache::Server::Tcp(*address),
        CacheServer::Unix(path) => cache::Server::Unix(path.to_path_buf()),
    };
    Ok(cache::Settings {
        shared: Some((servers.iter().map(server).collect(), key)),
        timeout: *lifetime,
        wait: *timeout,
        ..cache::Settings::default()
    })
}

fn dns_settings(dns: &Dns) -> Result<DnsSettings, String> {
    let upstream = if dns.forwarders.is_empty() {
        match UpstreamSettings::root() {
            UpstreamSettings::Root { .. } if !dns.root_servers.is_empty() => {
                UpstreamSettings::Root { hints: dns.root_servers.clone(), port: dns.port }
            }
            UpstreamSettings::Root { hints, .. } => {
                UpstreamSettings::Root { hints, port: dns.port }
            }
            other @ UpstreamSettings::Forwarders(_) => other,
        }
    } else {
        let roots = dns.tls_anchors.as_ref().map(certificates).transpose()?;
        let forwarders = dns.forwarders.iter().map(|server| forwarder(server, roots.as_ref()));
        UpstreamSettings::Forwarders(forwarders.collect())
    };
    Ok(DnsSettings {
        upstream,
        anchors: match &dns.root_anchor {
            Some(path) => AnchorSource::File(path.to_path_buf()),
            None => AnchorSource::Iana,
        },
        attempt: dns.timeout,
        attempts: dns.attempts as usize,
        per_target: dns.per_domain as usize,
        questions: dns.questions as usize,
        zones: dns.zones as usize,
    })
}

fn forwarder(server: &Forwarder, roots: Option<&Vec<CertificateDer<'static>>>) -> dns::Forwarder {
    let protocol = match &server.tls {
        Some(ForwarderTls::Name(name)) => {
            Protocol::Tls(TlsServer::Name { name: name.clone(), roots: roots.cloned() })
        }
        Some(ForwarderTls::Pin(pin)) => Protocol::Tls(TlsServer::Pin(*pin)),
        None if server.tcp => Protocol::Tcp,
        None => Protocol::UdpTcp,
    };
    dns::Forwarder { address: server.address, protocol }
}

fn certificates(path: &AbsolutePath) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error| format!("dns.tls_anchors: {path}: {error}");
    let file = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
    let found: Vec<_> =
        file.collect::<Result<_, _>>().map_err(|error| failed(error.to_string()))?;
    if found.is_empty() {
        return Err(failed("there is no certificate in it".into()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_dns_nothing_is_looked_up_and_with_it_the_files_are_read() {
        let mut config = Config::defaults();
        assert!(sources(&config).unwrap_err().contains("[dns]"));
        config.dns = Some(Dns::default());
        sources(&config).unwrap();
        let absent = AbsolutePath::new("/nonexistent/root.key");
        config.dns = Some(Dns { root_anchor: absent, ..Dns::default() });
        assert!(sources(&config).unwrap_err().contains("/nonexistent/root.key"));
        let forwarders = vec![Forwarder {
            address: "127.0.0.1:853".parse().unwrap(),
            tcp: false,
            tls: Some(ForwarderTls::Name("dns.example.net".into())),
        }];
        let tls_anchors = AbsolutePath::new("/nonexistent/dns.pem");
        config.dns = Some(Dns { forwarders, tls_anchors, ..Dns::default() });
        assert!(sources(&config).unwrap_err().contains("dns.tls_anchors: /nonexistent/dns.pem"));
        config.dns = Some(Dns::default());
        config.cache.servers.push(CacheServer::Unix(AbsolutePath::new("/m.sock").unwrap()));
        config.cache.key_file = AbsolutePath::new("/nonexistent/cache.key");
        assert!(sources(&config).unwrap_err().contains("cache.key_file: /nonexistent/cache.key"));
    }

    #[test]
    fn who_authorizes_needs_no_dns_and_a_secret() {
        use crate::config::{AuthorizingProgram, RadiusServer};
        let path = |text: &str| AbsolutePath::new(text).unwrap();
        let mut config = Config::defaults();
        config.authorization.program = Some(AuthorizingProgram::at(path("/nonexistent.sock")));
        sources(&config).unwrap();
        let server = RadiusServer("127.0.0.1:1812".parse().unwrap());
        config.authorization.radius = Some(Radius::with(vec![server], path("/nonexistent/secret")));
        let error = sources(&config).unwrap_err();
        assert!(error.contains("authorization.radius.secret_file: /nonexistent/secret"), "{error}");
    }
}
