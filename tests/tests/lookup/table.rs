//! A DNS that is a table in the test, and what the tests of look-ups share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tlspool_lookup::directory::{Directories, Settings};
use tlspool_lookup::names::{Lasting, LocalBoxFuture, LookupFailure, Names, Proven, Srv, TlsaSet};
use tlspool_tests::LIMIT;
use tlspool_validate::sources::{
    Answer, Caches, CredentialKind, Found, Options, Outcome, Query, Sources, Tlsa, Transport,
};

/// What a question is answered with; what is not in the table is provably absent.
type Said<T> = Result<Proven<T>, LookupFailure>;

/// The DNS.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) srv: RefCell<HashMap<String, Said<Vec<Srv>>>>,
    pub(crate) tlsa: RefCell<HashMap<(String, u16), Said<TlsaSet>>>,
    pub(crate) addresses: RefCell<HashMap<String, IpAddr>>,
    pub(crate) questions: Cell<usize>,
    /// How long what it says counts.
    pub(crate) lasts: Cell<Option<Duration>>,
}

pub(crate) fn absent<T>() -> Proven<T> {
    Proven::Absent("it is not in the table".into())
}

pub(crate) fn bogus<T>(name: &str) -> Said<T> {
    Err(LookupFailure::Bogus { name: name.into(), why: "the signature is wrong".into() })
}

impl Names for Table {
    fn srv<'a>(
        &'a self,
        name: &'a str,
        _deadline: Instant,
    ) -> LocalBoxFuture<'a, Result<Lasting<Proven<Vec<Srv>>>, LookupFailure>> {
        self.questions.set(self.questions.get() + 1);
        let said = self.srv.borrow().get(name).cloned();
        Box::pin(async { self.lasting(said) })
    }

    fn tlsa<'a>(
        &'a self,
        host: &'a str,
        port: u16,
        transport: Transport,
        _deadline: Instant,
    ) -> LocalBoxFuture<'a, Result<Lasting<Proven<TlsaSet>>, LookupFailure>> {
        assert_eq!(transport, Transport::Tcp);
        self.questions.set(self.questions.get() + 1);
        let said = self.tlsa.borrow().get(&(host.to_owned(), port)).cloned();
        Box::pin(async { self.lasting(said) })
    }

    fn addresses<'a>(
        &'a self,
        host: &'a str,
        _deadline: Instant,
    ) -> LocalBoxFuture<'a, Result<Vec<IpAddr>, LookupFailure>> {
        self.questions.set(self.questions.get() + 1);
        let address = self.addresses.borrow().get(host).copied();
        let none = LookupFailure::Unanswered { name: host.into(), why: "no such host".into() };
        Box::pin(async move { address.map(|address| vec![address]).ok_or(none) })
    }
}

impl Table {
    fn lasting<T>(&self, said: Option<Said<T>>) -> Result<Lasting<Proven<T>>, LookupFailure> {
        let value = said.unwrap_or_else(|| Ok(absent()))?;
        Ok(Lasting { value, lasts: self.lasts.get().unwrap_or(Duration::MAX) })
    }

    /// A directory by SRV, on 127.0.0.1, which is to show the certificate in this file.
    pub(crate) fn directory(&self, service: &str, host: &str, port: u16, certificate: &Path) {
        let (_, domain) = host.split_once('.').expect("a host in a domain");
        let srv = Srv { priority: 0, weight: 0, port, target: host.into() };
        let name = format!("{service}._tcp.{domain}");
        match self.srv.borrow_mut().entry(name).or_insert_with(|| Ok(Proven::Secure(vec![]))) {
            Ok(Proven::Secure(records)) => records.push(srv),
            other => panic!("{other:?}"),
        }
        self.prove(host, port, &der(certificate));
    }

    /// Says that `host` shows this certificate (DANE-EE, the whole of it).
    pub(crate) fn prove(&self, host: &str, port: u16, certificate: &[u8]) {
        let record = Tlsa { usage: 3, selector: 0, matching: 0, data: certificate.to_vec() };
        let set = TlsaSet { records: vec![record], reference_names: vec![] };
        self.tlsa.borrow_mut().insert((host.into(), port), Ok(Proven::Secure(set)));
        self.addresses.borrow_mut().insert(host.into(), IpAddr::from([127, 0, 0, 1]));
    }

    pub(crate) fn directories(self: &Rc<Self>, settings: Settings) -> Directories<Self> {
        Directories::new(Rc::clone(self), settings)
    }
}

/// The certificate in a PEM file, in DER.
pub(crate) fn der(file: &Path) -> Vec<u8> {
    let text = std::fs::read(file).expect("a file");
    pem::parse(text).expect("PEM").into_contents()
}

/// Runs a test on a thread's own runtime, as the look-up process does.
pub(crate) fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(LIMIT, work).await.expect("the test ends in time") })
}

/// Looks until it is so: of what another program does, nobody tells us. [`on_runtime`] has the deadline.
pub(crate) async fn until(what: &str, so: impl AsyncFn() -> bool) {
    while !so().await {
        // The task that writes runs on this thread as well.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eprintln!("{what}");
}

pub(crate) fn within(limit: Duration) -> Options {
    Options { deadline: Instant::now() + limit, caches: Caches::Use }
}

pub(crate) fn x509(name: &str) -> Query {
    Query::Directory { name: name.into(), kind: CredentialKind::X509 }
}

pub(crate) fn openpgp(name: &str) -> Query {
    Query::Directory { name: name.into(), kind: CredentialKind::OpenPgp }
}

pub(crate) async fn find(sources: &impl Sources, query: &Query) -> Found {
    sources.look_up(query, within(LIMIT)).await
}

/// The credentials of an answer.
#[track_caller]
pub(crate) fn credentials(found: &Found) -> Vec<Vec<u8>> {
    match &found.outcome {
        Outcome::Present(Answer::Directory { credentials, .. }) => credentials.clone(),
        other => panic!("not present: {other:?}\n{:#?}", found.steps),
    }
}

/// Fails unless the answer lists exactly these.
#[track_caller]
pub(crate) fn lists(found: &Found, wanted: &[&[u8]]) {
    assert_eq!(credentials(found), wanted, "{:#?}", found.steps);
}

/// Why nothing is known.
#[track_caller]
pub(crate) fn failure(found: &Found) -> &str {
    match &found.outcome {
        Outcome::Failed(why) => why,
        other => panic!("it did not fail: {other:?}\n{:#?}", found.steps),
    }
}

/// Why it is known that there is nothing.
#[track_caller]
pub(crate) fn absence(found: &Found) -> &str {
    match &found.outcome {
        Outcome::Absent(why) => why,
        other => panic!("not absent: {other:?}\n{:#?}", found.steps),
    }
}
