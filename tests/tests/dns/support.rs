//! A resolver for zones that a test serves, and short questions to it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tlspool_lookup::dns::{
    AnchorSource, DnsSettings, Forwarder, Protocol, Resolver, UpstreamSettings,
};
use tlspool_lookup::names::{Lasting, LookupFailure, Names, Proven, TlsaSet};
use tlspool_tests::LIMIT;
use tlspool_tests::zones::Zones;
use tlspool_validate::sources::{Answer, Found, Outcome, Transport};

/// A digest for records.
pub(crate) const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// Settings that ask `address`.
pub(crate) fn settings(address: SocketAddr, anchor: PathBuf) -> DnsSettings {
    let forwarder = Forwarder { address, protocol: Protocol::UdpTcp };
    DnsSettings {
        upstream: UpstreamSettings::Forwarders(vec![forwarder]),
        anchors: AnchorSource::File(anchor),
        // The machine that runs tests may be busy.
        attempt: Duration::from_secs(20),
        ..DnsSettings::default()
    }
}

/// A resolver that asks the server of `zones`.
pub(crate) fn resolver(zones: &Zones) -> Resolver {
    Resolver::new(&settings(zones.address(), zones.anchor())).unwrap()
}

pub(crate) fn deadline() -> Instant {
    Instant::now() + LIMIT
}

/// The TLSA records of `host` at TCP port 443.
pub(crate) async fn tlsa(
    resolver: &Resolver,
    host: &str,
) -> Result<Proven<TlsaSet>, LookupFailure> {
    proven(resolver.tlsa(host, 443, Transport::Tcp, deadline()).await)
}

/// What is proven, for however long.
pub(crate) fn proven<T>(result: Result<Lasting<T>, LookupFailure>) -> Result<T, LookupFailure> {
    result.map(|lasting| lasting.value)
}

#[track_caller]
pub(crate) fn secure(result: &Result<Proven<TlsaSet>, LookupFailure>) -> &TlsaSet {
    match result {
        Ok(Proven::Secure(set)) => set,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub(crate) fn absent(result: &Result<Proven<TlsaSet>, LookupFailure>, expected: &str) {
    match result {
        Ok(Proven::Absent(why)) => assert!(why.contains(expected), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
pub(crate) fn bogus(result: &Result<Proven<TlsaSet>, LookupFailure>, expected: &str) {
    match result {
        Err(LookupFailure::Bogus { why, .. }) => assert!(why.contains(expected), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// How many records were found, and the reference names.
#[track_caller]
pub(crate) fn present(found: &Found) -> (usize, Vec<String>) {
    match &found.outcome {
        Outcome::Present(Answer::Tlsa { records, reference_names }) => {
            (records.len(), reference_names.clone())
        }
        other => panic!("{other:?}, {:?}", found.steps),
    }
}

#[track_caller]
pub(crate) fn nothing(found: &Found) -> &str {
    match &found.outcome {
        Outcome::Absent(why) => why,
        other => panic!("{other:?}, {:?}", found.steps),
    }
}

#[track_caller]
pub(crate) fn failed(found: &Found) -> &str {
    match &found.outcome {
        Outcome::Failed(why) => why,
        other => panic!("{other:?}, {:?}", found.steps),
    }
}
