//! Through unbound: validating or not, over UDP, TCP and TLS.

use std::path::Path;
use std::process::Command;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;
use tlspool_lookup::dns::{
    DnsSettings, Forwarder, Protocol, Resolver, TlsServer, UpstreamSettings,
};
use tlspool_lookup::names::LookupFailure;
use tlspool_tests::net::free_udp_port;
use tlspool_tests::process::run;
use tlspool_tests::zones::{Signing, ZoneSet, Zones};
use tlspool_tests::{Authority, Leaf, Process};

use crate::support::{DIGEST, absent, secure, settings, tlsa};

/// unbound in front of `zones`.
struct Unbound {
    _process: Process,
    _folder: TempDir,
    leaf: Leaf,
    port: u16,
    tls_port: u16,
    authority: Authority,
}

impl Unbound {
    fn start(zones: &Zones, validating: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new(folder.path(), "resolvers");
        let leaf = authority.leaf("dns.example.com");
        let (port, tls_port) = (free_udp_port(), free_udp_port());
        let modules = if validating { "validator iterator" } else { "iterator" };
        let config = folder.path().join("unbound.conf");
        let text = format!(
            "server:\n interface: 127.0.0.1@{port}\n interface: 127.0.0.1@{tls_port}\n \
             tls-port: {tls_port}\n tls-service-key: \"{}\"\n tls-service-pem: \"{}\"\n \
             module-config: \"{modules}\"\n trust-anchor-file: \"{}\"\n username: \"\"\n \
             chroot: \"\"\n directory: \"{}\"\n pidfile: \"\"\n use-syslog: no\n logfile: \"\"\n \
             verbosity: 1\n do-not-query-localhost: no\n num-threads: 1\n do-daemonize: no\n \
             so-reuseport: no\n val-log-level: 2\n\
             remote-control:\n control-enable: no\n\
             forward-zone:\n name: \".\"\n forward-addr: {}@{}\n",
            leaf.key(),
            leaf.certificate(),
            zones.anchor().display(),
            folder.path().display(),
            zones.address().ip(),
            zones.address().port(),
        );
        std::fs::write(&config, text).unwrap();
        let config = config.to_str().unwrap();
        let process = Process::start(Command::new("/usr/sbin/unbound").args(["-d", "-c", config]));
        process.await_words("start of service");
        Self { _process: process, _folder: folder, leaf, port, tls_port, authority }
    }

    fn settings(&self, zones: &Zones, protocol: Protocol) -> DnsSettings {
        let port = if matches!(protocol, Protocol::Tls(_)) { self.tls_port } else { self.port };
        let address = ([127, 0, 0, 1], port).into();
        DnsSettings {
            upstream: UpstreamSettings::Forwarders(vec![Forwarder { address, protocol }]),
            attempts: 1,
            ..settings(zones.address(), zones.anchor())
        }
    }

    /// The digest of the key in its certificate.
    fn pin(&self) -> [u8; 32] {
        digest_of_key(&self.leaf.certificate)
    }
}

fn digest_of_key(certificate: &Path) -> [u8; 32] {
    let script = "openssl x509 -in \"$1\" -noout -pubkey | openssl pkey -pubin -outform der | \
                  sha256sum";
    let said = run(Command::new("sh").args(["-c", script, "sh"]).arg(certificate));
    assert!(said.ok, "{}", said.err);
    let mut digest = [0; 32];
    for (byte, hex) in digest.iter_mut().zip(said.out.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap();
    }
    digest
}

fn zones() -> Zones {
    let record = format!("_443._tcp TLSA 3 1 1 {DIGEST}");
    ZoneSet::new()
        .zone(
            "example.com",
            Signing::Nsec,
            &[
                &record,
                "@ A 127.0.0.1",
                "_443._tcp.alias CNAME _443._tcp.example.org.",
                "alias CNAME example.org.",
                "_443._tcp.lost CNAME _443._tcp.unsigned.org.",
                &format!("*.wild TLSA 3 1 1 {DIGEST}"),
            ],
        )
        .zone("example.org", Signing::Nsec3, &[&record, "@ A 127.0.0.1"])
        .zone("unsigned.org", Signing::None, &[&record, "@ A 127.0.0.1"])
        .zone("expired.org", Signing::Expired, &[&record, "@ A 127.0.0.1"])
        .serve()
}

async fn everything(resolver: &Resolver) {
    for host in ["example.com", "example.org", "a.wild.example.com"] {
        secure(&tlsa(resolver, host).await);
    }
    let result = tlsa(resolver, "alias.example.com").await;
    assert_eq!(secure(&result).reference_names, ["example.org"]);
    absent(&tlsa(resolver, "lost.example.com").await, "unsigned.org is not signed");
    absent(&tlsa(resolver, "unsigned.org").await, "unsigned.org is not signed");
    absent(&tlsa(resolver, "nobody.example.com").await, "there is no");
    absent(&tlsa(resolver, "nobody.example.org").await, "there is no");
    let result = tlsa(resolver, "expired.org").await;
    assert!(matches!(result, Err(LookupFailure::Bogus { .. })), "{result:?}");
}

type Error = Box<dyn std::error::Error>;

#[tokio::test]
async fn plain() {
    let zones = zones();
    for validating in [false, true] {
        let unbound = Unbound::start(&zones, validating);
        for protocol in [Protocol::UdpTcp, Protocol::Tcp] {
            everything(&Resolver::new(&unbound.settings(&zones, protocol)).unwrap()).await;
        }
    }
}

#[tokio::test]
async fn over_tls() {
    let zones = zones();
    let unbound = Unbound::start(&zones, false);
    let ask = |server| {
        let settings = unbound.settings(&zones, Protocol::Tls(server));
        async move { tlsa(&Resolver::new(&settings)?, "example.com").await.map_err(Into::into) }
    };
    let named = |name: &str, authority: &Authority| TlsServer::Name {
        name: name.to_owned(),
        roots: Some(vec![CertificateDer::from_pem_file(&authority.certificate).unwrap()]),
    };
    let settings =
        unbound.settings(&zones, Protocol::Tls(named("dns.example.com", &unbound.authority)));
    everything(&Resolver::new(&settings).unwrap()).await;
    let settings = unbound.settings(&zones, Protocol::Tls(TlsServer::Pin(unbound.pin())));
    everything(&Resolver::new(&settings).unwrap()).await;
    // Another name, another authority, another key: nothing is asked.
    let folder = TempDir::new().unwrap();
    let other = Authority::new(folder.path(), "others");
    for server in [
        named("dns.example.org", &unbound.authority),
        named("dns.example.com", &other),
        TlsServer::Pin([7; 32]),
    ] {
        let result: Result<_, Error> = ask(server).await;
        let error = result.unwrap_err().to_string();
        assert!(error.contains("127.0.0.1"), "{error}");
    }
    let nonsense = TlsServer::Name { name: "no name".to_owned(), roots: Some(vec![]) };
    let result: Result<_, Error> = ask(nonsense).await;
    assert!(result.unwrap_err().to_string().contains("is no name of a server"));
}
