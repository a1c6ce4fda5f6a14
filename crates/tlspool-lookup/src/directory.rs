//! Directories: what the domain of a name lists for it in LDAP.
//!
//! [`Directories`] answers [`Query::Directory`] and [`Query::OpenPgpKey`]. It finds the domain's directory in
//! the DNS, connects with TLS that DANE vouches for, and searches. What a directory says counts only
//! because its own certificate matches its own secure TLSA records; without these nothing is asked of it.
//! Referrals are not followed: they would lead to someone for whom nobody vouches.
//!
//! Everything from outside is bounded, and each wait. Equal questions under way at the same time are
//! asked once. Runs on one thread, within a tokio runtime.

mod ber;
mod connection;
mod credentials;
mod filter;
mod locate;
mod message;
mod pool;
mod verify;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tlspool_identity::DoNai;
use tlspool_validate::sources::{
    Answer, CredentialKind, Found, Looking, Options, Origin, Outcome, Query, Sources,
};
use tokio::time::timeout_at;

use self::connection::Trouble;
use self::credentials::fingerprint;
use self::filter::{Filter, is_of_subdomain};
use self::locate::{Candidate, Located, Whereabouts, locate};
use self::message::{Message, Scope, Search};
use self::pool::{Lease, Pool};
use crate::flights::{Flights, Trace};
use crate::names::Names;

pub use self::credentials::{Listed, key_id};
pub use self::filter::{base_of, escape};
pub use self::message::Entry;

/// Where the keys of a domain are, by the convention of PGP key servers in LDAP.
const PGP_SERVER_INFO: &str = "cn=PGPServerInfo";

/// A distinguished name that is longer than this is not taken from a directory, in bytes.
const MAX_DN: usize = 1024;

/// Bounds, all of them settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Look-ups that may be under way at all directories together.
    pub look_ups: usize,
    /// Look-ups that may be under way at one directory.
    pub per_directory: usize,
    /// Connections to all directories together.
    pub connections: usize,
    /// How long a look-up may take.
    pub time_limit: Duration,
    /// How long it may take to connect, with TLS and bind.
    pub connect_limit: Duration,
    /// How long an unused connection stays open.
    pub idle: Duration,
    /// Entries in one answer.
    pub entries: usize,
    /// Bytes of one answer.
    pub answer_bytes: usize,
    /// Whether directories may be in internal networks: at loopback, private and link-local addresses.
    pub internal: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            look_ups: 8192,
            per_directory: 2048,
            connections: 512,
            time_limit: Duration::from_secs(10),
            connect_limit: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            entries: 32,
            answer_bytes: 1 << 20,
            internal: true,
        }
    }
}

/// What concerns one connection.
#[derive(Debug, Clone)]
struct Limits {
    connect: Duration,
    idle: Duration,
    entries: usize,
    answer_bytes: usize,
    internal: bool,
}

impl From<&Settings> for Limits {
    fn from(settings: &Settings) -> Self {
        Self {
            connect: settings.connect_limit,
            idle: settings.idle,
            entries: settings.entries,
            answer_bytes: settings.answer_bytes,
            internal: settings.internal,
        }
    }
}

/// Looks up what directories list.
#[derive(Debug)]
pub struct Directories<N> {
    shared: Rc<Shared<N>>,
    look_ups: Flights<Query, (Outcome, Duration)>,
    under_way: Cell<usize>,
}

/// What look-ups share.
#[derive(Debug)]
struct Shared<N> {
    names: Rc<N>,
    settings: Settings,
    pool: Pool,
    locations: Flights<(String, CredentialKind), Rc<Located>>,
}

impl<N: Names + 'static> Directories<N> {
    /// With `names` to find them.
    pub fn new(names: Rc<N>, settings: Settings) -> Self {
        let pool = Pool::new(settings.clone());
        let locations = Flights::default();
        let shared = Rc::new(Shared { names, settings, pool, locations });
        Self { shared, look_ups: Flights::default(), under_way: Cell::new(0) }
    }

    /// The outcome, how long it may be remembered, and steps.
    async fn find(&self, query: &Query, deadline: Instant) -> (Outcome, Duration, Vec<String>) {
        let failed = |why, steps| (Outcome::Failed(why), Duration::ZERO, steps);
        let limit = self.shared.settings.look_ups;
        if self.under_way.get() >= limit {
            let why = format!("{limit} look-ups in directories are under way, which is the limit");
            return failed(why, Vec::new());
        }
        self.under_way.set(self.under_way.get() + 1);
        let _under_way = Decrement(&self.under_way);
        let question = match Question::new(query) {
            Ok(question) => question,
            Err(why) => return failed(why, Vec::new()),
        };
        let (flight, trace) = self.look_ups.join(query.clone(), |trace| {
            let shared = Rc::clone(&self.shared);
            async move { shared.look_up(&question, &trace).await }
        });
        if let Ok((outcome, lasts)) = timeout_at(deadline.into(), flight).await {
            return (outcome, lasts, trace.steps());
        }
        let steps = trace.steps();
        let after = steps.last().map(|step| format!("; the last step was: {step}"));
        let why = format!("no answer before the deadline{}", after.unwrap_or_default());
        failed(why, steps)
    }
}

/// Counts down when dropped.
struct Decrement<'a>(&'a Cell<usize>);

impl Drop for Decrement<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

impl<N: Names + 'static> Sources for Directories<N> {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        Box::pin(async move {
            let begin = Instant::now();
            let (outcome, lasts, steps) = self.find(query, options.deadline).await;
            let (elapsed, lasts) = (begin.elapsed(), Some(lasts));
            Found { outcome, origin: Origin::Live, elapsed, lasts, steps }
        })
    }
}

/// A query, taken apart.
#[derive(Debug)]
struct Question {
    name: DoNai,
    kind: CredentialKind,
    fingerprint: Option<Vec<u8>>,
}

impl Question {
    fn new(query: &Query) -> Result<Self, String> {
        let (name, kind, fingerprint) = match query {
            Query::Directory { name, kind } => (name, *kind, None),
            Query::OpenPgpKey { name, fingerprint } => {
                if !matches!(fingerprint.len(), 20 | 32) {
                    let length = fingerprint.len();
                    return Err(format!("a fingerprint has 20 or 32 bytes, not {length}"));
                }
                (name, CredentialKind::OpenPgp, Some(fingerprint.clone()))
            }
            _ => return Err("this is no question for a directory".into()),
        };
        let name = DoNai::parse_strict(name).map_err(|error| format!("{name:?}: {error}"))?;
        Ok(Self { name, kind, fingerprint })
    }

    /// The search for the credentials, below `base`.
    fn search(&self, base: String) -> Search {
        let domain = self.name.domain();
        match (self.kind, &self.fingerprint) {
            (CredentialKind::X509, _) => Search {
                base,
                scope: if self.name.user().is_some() { Scope::Subtree } else { Scope::Base },
                filter: match self.name.user() {
                    Some(user) => Filter::Or(vec![
                        Filter::Equal("uid", user.to_owned()),
                        Filter::Equal("mail", self.name.as_str().to_owned()),
                    ]),
                    None => Filter::Present("objectClass"),
                },
                attributes: &["userCertificate;binary", "cACertificate;binary"],
            },
            (CredentialKind::OpenPgp, fingerprint) => {
                let which = match fingerprint.as_deref().and_then(key_id) {
                    Some(id) => Filter::Equal("pgpCertID", id),
                    None if self.name.user().is_some() => {
                        Filter::Contains("pgpUserID", format!("<{}>", self.name.as_str()))
                    }
                    None => Filter::Contains("pgpUserID", format!("<{domain}>")),
                };
                let class = Filter::Equal("objectClass", "pgpKeyInfo".into());
                Search {
                    base,
                    scope: Scope::Subtree,
                    filter: Filter::And(vec![class, which]),
                    attributes: &["pgpKey"],
                }
            }
        }
    }
}

impl<N: Names + 'static> Shared<N> {
    /// The outcome, and how long it may be remembered.
    async fn look_up(&self, question: &Question, trace: &Trace) -> (Outcome, Duration) {
        let limit = self.settings.time_limit;
        tokio::time::timeout(limit, self.find(question, trace)).await.unwrap_or_else(|_| {
            let why = format!("the directory took longer than {:.1} s", limit.as_secs_f32());
            (Outcome::Failed(why), Duration::ZERO)
        })
    }

    async fn find(&self, question: &Question, trace: &Trace) -> (Outcome, Duration) {
        let domain = question.name.domain();
        let key = (domain.to_owned(), question.kind);
        let deadline = Instant::now() + self.settings.time_limit;
        let (location, _) = self.locations.join(key, |trace| {
            let names = Rc::clone(&self.names);
            locate(names, domain.to_owned(), question.kind, trace, deadline)
        });
        let located = location.await;
        trace.extend(&located.steps);
        // What a directory lists counts because the DNS vouches for it.
        let lasts = located.lasts;
        let candidates = match &located.outcome {
            Whereabouts::At(candidates) => candidates,
            Whereabouts::Nowhere(why) => return (Outcome::Absent(why.clone()), lasts),
            Whereabouts::Unknown(why) => return (Outcome::Failed(why.clone()), lasts),
        };
        let mut last = String::new();
        for candidate in candidates {
            match self.ask(candidate, question, trace).await {
                Ok(outcome) => return (outcome, lasts),
                Err(trouble) => {
                    last = format!("{}: {trouble}", candidate.site);
                    trace.step(last.clone());
                }
            }
        }
        (Outcome::Failed(last), lasts)
    }

    /// Asks one directory. A connection that was open already may just have been closed over there;
    /// then once more on a new one.
    async fn ask(
        &self,
        candidate: &Candidate,
        question: &Question,
        trace: &Trace,
    ) -> Result<Outcome, Trouble> {
        loop {
            let lease = self.pool.lease(&self.names, candidate).await?;
            let Lease { connection, reused, .. } = &lease;
            let how = if *reused { " (was open)" } else { "" };
            trace.step(format!("{}{how}", connection.description));
            match self.search(&lease, question, trace).await {
                Err(Trouble::Closed(_)) if *reused => {}
                Err(trouble) => return Err(trouble),
                Ok(found) => return Ok(outcome(question, &found)),
            }
        }
    }

    /// Searches for the credentials.
    async fn search(
        &self,
        lease: &Lease,
        question: &Question,
        trace: &Trace,
    ) -> Result<Harvest, Trouble> {
        let base = base_of(question.name.domain());
        let search = question.search(base.clone());
        if question.kind == CredentialKind::X509 {
            return self.gather(lease, question, search, trace).await;
        }
        // Keys may have a base of their own. Both questions at once: most often they do not, or it is
        // below the domain's.
        let info = Search {
            base: format!("{PGP_SERVER_INFO},{base}"),
            scope: Scope::Base,
            filter: Filter::Present("objectClass"),
            attributes: &["pgpBaseKeySpaceDN"],
        };
        let (info, found) = tokio::join!(
            lease.connection.search(&info, self.settings.time_limit),
            self.gather(lease, question, search, trace),
        );
        let Some(space) = key_space(&info?.entries) else { return found };
        trace.step(format!("pgpBaseKeySpaceDN: {space:?}"));
        let search = question.search(space);
        self.gather(lease, question, search, trace).await
    }

    /// Searches, and reads what was found.
    async fn gather(
        &self,
        lease: &Lease,
        question: &Question,
        search: Search,
        trace: &Trace,
    ) -> Result<Harvest, Trouble> {
        let begin = Instant::now();
        let answer = lease.connection.search(&search, self.settings.time_limit).await?;
        // A domain's name covers its users, not its subdomains and theirs.
        let entries: Vec<_> =
            answer.entries.iter().filter(|e| !is_of_subdomain(&e.name, &search.base)).collect();
        let listed = Listed::read(question.kind, entries.iter().copied());
        let scope = if search.scope == Scope::Base { "base" } else { "subtree" };
        trace.step(format!(
            "search {:?} {scope} {}: {} entries, {} credentials, {} anchors, {} unreadable{}, {} ms",
            search.base,
            search.filter,
            entries.len(),
            listed.credentials.len(),
            listed.anchors.len(),
            listed.unreadable,
            if answer.refers { ", refers elsewhere" } else { "" },
            begin.elapsed().as_millis()
        ));
        Ok(Harvest { listed, refers: answer.refers })
    }
}

/// What a search brought.
#[derive(Debug)]
struct Harvest {
    listed: Listed,
    refers: bool,
}

/// The base of the keys, if the directory names one.
fn key_space(entries: &[Entry]) -> Option<String> {
    let mut values = entries.iter().flat_map(|entry| entry.values("pgpBaseKeySpaceDN"));
    let value = values.next().filter(|value| value.len() <= MAX_DN)?;
    String::from_utf8(value.to_vec()).ok()
}

fn outcome(question: &Question, found: &Harvest) -> Outcome {
    let Harvest { listed, refers } = found;
    let Listed { credentials, anchors, unreadable } = listed.clone();
    // Something is listed, and it may be what was looked for.
    let garbled = unreadable > 0 && credentials.is_empty();
    let answer = match &question.fingerprint {
        Some(wanted) => credentials
            .into_iter()
            .find(|key| fingerprint(key).as_ref() == Some(wanted))
            .map(Answer::OpenPgpKey),
        // A user who is not listed is not, whatever anchors there are.
        None if credentials.is_empty() && question.name.user().is_some() => None,
        None if credentials.is_empty() && anchors.is_empty() => None,
        None => Some(Answer::Directory { credentials, anchors }),
    };
    match answer {
        Some(answer) => Outcome::Present(answer),
        // It may be there, but for that place nobody vouches.
        None if *refers => Outcome::Failed(Trouble::Referral.to_string()),
        None if garbled => {
            Outcome::Failed(format!("what the directory lists for {} is unreadable", question.name))
        }
        None => Outcome::Absent(format!("the directory lists nothing for {}", question.name)),
    }
}

/// Reads bytes of a directory as far as they are messages, and the credentials in them: all that happens
/// to an answer before it is compared. For fuzzing.
pub fn read_answer(mut bytes: &[u8], kind: CredentialKind) -> Listed {
    let mut entries = Vec::new();
    while let Ok(Some(length)) = ber::extent(bytes) {
        let Some((message, rest)) = bytes.split_at_checked(length) else { break };
        if let Ok(Message { body: message::Body::Entry(entry), .. }) = Message::decode(message) {
            entries.push(entry);
        }
        bytes = rest;
    }
    let _ = key_space(&entries);
    entries.retain(|entry| !is_of_subdomain(&entry.name, "dc=example,dc=com"));
    let listed = Listed::read(kind, &entries);
    let _: Vec<_> = listed.credentials.iter().map(|key| fingerprint(key)).collect();
    listed
}
