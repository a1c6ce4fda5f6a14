//! What the configuration means to whoever looks up: the look-up process, and commands that look up by
//! themselves.

use crate::config::{AbsolutePath, Cache, CacheServer, Config, Dns, Forwarder, ForwarderTls};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::time::Duration;
use tlspool_lookup::cache::{self, Cached, Key};
use tlspool_lookup::dns::{self, AnchorSource, DnsSettings, Protocol, TlsServer, UpstreamSettings};
use tlspool_lookup::{Lookups, Settings, directory, http};

/// The sources that the configuration names, with what memcached remembers of them. Reads the files that it
/// needs, and none later; an error says which and why. To be used within a local tokio runtime.
pub(crate) fn sources(config: &Config) -> Result<Cached<Lookups>, String> {
    let dns =
        config.dns.as_ref().ok_or("look-ups are not configured: there is no [dns] section")?;
    let (ldap, web) = (&config.ldap, &config.http);
    let settings = Settings {
        dns: dns_settings(dns)?,
        directories: directory::Settings {
            look_ups: ldap.look_ups as usize,
            per_directory: ldap.per_directory as usize,
            connections: ldap.connections as usize,
            time_limit: ldap.timeout,
            connect_limit: ldap.connect_timeout,
            idle: ldap.idle,
            entries: ldap.entries as usize,
            answer_bytes: ldap.answer_bytes as usize,
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
    };
    let lookups = Lookups::new(settings).map_err(|error| error.to_string())?;
    Ok(Cached::new(lookups, cache_settings(config)?))
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
}
