//! Connections to directories, shared by look-ups.
//!
//! A directory gets one connection, and another for every [`SHARE`] look-ups beyond those; each is closed
//! when it has been idle. Look-ups at one directory are bounded, and connections to all of them; who comes
//! on top of that gets the bound as an error, at once. A connection serves only as long as its
//! certificate matches the TLSA records of the day.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::Shared;
use rustls::crypto::CryptoProvider;
use rustls_pki_types::UnixTime;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::connection::{Connection, Site, Trouble};
use super::locate::Candidate;
use super::verify::{Tls, vouch};
use super::{Limits, Settings};
use crate::names::{Names, TlsaSet};

/// Look-ups on one connection at once. Each has two searches at most; OpenLDAP ends an anonymous
/// connection on which more than 100 wait (`conn_max_pending`).
const SHARE: usize = 32;

/// How long idle connections may take to end, to make room for one that is needed.
const CLOSING: Duration = Duration::from_secs(1);

type Opening = Shared<Pin<Box<dyn Future<Output = Result<Rc<Connection>, Trouble>>>>>;

/// All connections.
#[derive(Debug)]
pub(crate) struct Pool {
    directories: RefCell<HashMap<Site, Rc<Directory>>>,
    connections: Arc<Semaphore>,
    provider: Arc<CryptoProvider>,
    settings: Settings,
}

/// One directory.
#[derive(Debug, Default)]
struct Directory {
    lines: RefCell<Vec<Rc<Line>>>,
    look_ups: Cell<usize>,
}

/// A connection that may still be opening.
#[derive(Debug)]
struct Line {
    opening: Opening,
    /// The records it was last seen to match.
    tlsa: RefCell<TlsaSet>,
    look_ups: Cell<usize>,
}

impl Line {
    /// What came of the opening, if it is over.
    fn opened(&self) -> Option<&Result<Rc<Connection>, Trouble>> {
        self.opening.peek()
    }

    fn is_usable(&self) -> bool {
        match self.opened() {
            Some(Ok(connection)) => connection.is_usable(),
            Some(Err(_)) => false,
            None => true,
        }
    }

    /// Whether its certificate is one that `tlsa` wants.
    fn matches(&self, host: &str, tlsa: &TlsaSet) -> bool {
        if *self.tlsa.borrow() == *tlsa {
            return true;
        }
        let Some(Ok(connection)) = self.opened() else { return false };
        let matches = vouch(&connection.chain, host, tlsa, UnixTime::now()).is_ok();
        if matches {
            *self.tlsa.borrow_mut() = tlsa.clone();
        }
        matches
    }
}

/// The right to search on a connection, for one look-up.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) connection: Rc<Connection>,
    /// Whether it was there before.
    pub(crate) reused: bool,
    _seat: Seat,
}

/// A place on a line; given back when dropped.
#[derive(Debug)]
struct Seat {
    line: Rc<Line>,
    directory: Rc<Directory>,
}

impl Seat {
    fn new(line: Rc<Line>, directory: Rc<Directory>) -> Self {
        line.look_ups.set(line.look_ups.get() + 1);
        directory.look_ups.set(directory.look_ups.get() + 1);
        Self { line, directory }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let left = self.line.look_ups.get() - 1;
        self.line.look_ups.set(left);
        self.directory.look_ups.set(self.directory.look_ups.get() - 1);
        // An opening that nobody drives any more would only grow old.
        if left == 0 && self.line.opened().is_none() {
            self.directory.lines.borrow_mut().retain(|line| !Rc::ptr_eq(line, &self.line));
        }
    }
}

impl Pool {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            directories: RefCell::default(),
            connections: Arc::new(Semaphore::new(settings.connections)),
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            settings,
        }
    }

    /// A connection to this directory, which serves this look-up.
    pub(crate) async fn lease<N: Names + 'static>(
        &self,
        names: &Rc<N>,
        candidate: &Candidate,
    ) -> Result<Lease, Trouble> {
        let Candidate { site, tlsa } = candidate;
        let directory = self.directory(site);
        let limit = self.settings.per_directory;
        if directory.look_ups.get() >= limit {
            return Err(Trouble::Busy { what: site.to_string(), limit, of: "look-ups" });
        }
        let line = directory.choose(&site.host, tlsa);
        let reused = line.as_ref().is_some_and(|line| line.opened().is_some());
        let line = match line {
            Some(line) => line,
            None => self.open(names, &directory, candidate),
        };
        let opening = line.opening.clone();
        let seat = Seat::new(line, directory);
        let connection = opening.await?;
        Ok(Lease { connection, reused, _seat: seat })
    }

    fn directory(&self, site: &Site) -> Rc<Directory> {
        let mut directories = self.directories.borrow_mut();
        if let Some(directory) = directories.get(site) {
            return Rc::clone(directory);
        }
        // The names come from outside: keep no entry that is not in use.
        directories.retain(|_, directory| {
            directory.look_ups.get() > 0
                || directory.lines.borrow().iter().any(|line| line.is_usable())
        });
        Rc::clone(directories.entry(site.clone()).or_default())
    }

    /// Begins to open another connection.
    fn open<N: Names + 'static>(
        &self,
        names: &Rc<N>,
        directory: &Directory,
        candidate: &Candidate,
    ) -> Rc<Line> {
        let connections = Arc::clone(&self.connections);
        if connections.available_permits() == 0 {
            self.close_idle();
        }
        let most = self.settings.connections;
        let names = Rc::clone(names);
        let Candidate { site, tlsa } = candidate.clone();
        let tls = Tls::new(&self.provider, &site.host, tlsa.clone());
        let limits = Limits::from(&self.settings);
        let limit = self.settings.connect_limit;
        let opening = async move {
            let Ok(Ok(permit)) = timeout(CLOSING, connections.acquire_owned()).await else {
                let what = "all directories together".to_owned();
                return Err(Trouble::Busy { what, limit: most, of: "connections" });
            };
            let opening = async {
                let addresses = names.addresses(&site.host, Instant::now() + limit).await;
                let addresses = addresses.map_err(|error| Trouble::Names(error.to_string()))?;
                Connection::open(&site, &addresses, &tls, &limits, permit).await
            };
            match timeout(limit, opening).await {
                Ok(opened) => opened.map(Rc::new),
                Err(_) => Err(Trouble::TimedOut { what: "connecting, TLS and bind".into(), limit }),
            }
        };
        let opening: Pin<Box<dyn Future<Output = _>>> = Box::pin(opening);
        let line = Rc::new(Line {
            opening: opening.shared(),
            tlsa: RefCell::new(tlsa),
            look_ups: Cell::new(0),
        });
        directory.lines.borrow_mut().push(Rc::clone(&line));
        line
    }

    /// Lets go of connections that serve nobody.
    fn close_idle(&self) {
        for directory in self.directories.borrow().values() {
            directory.lines.borrow_mut().retain(|line| line.look_ups.get() > 0);
        }
    }
}

impl Directory {
    /// A line with room whose certificate is right. Those that are of no more use are let go.
    fn choose(&self, host: &str, tlsa: &TlsaSet) -> Option<Rc<Line>> {
        let mut lines = self.lines.borrow_mut();
        lines.retain(|line| line.is_usable());
        let mut found =
            lines.iter().filter(|line| line.look_ups.get() < SHARE && line.matches(host, tlsa));
        found.next().map(Rc::clone)
    }
}
