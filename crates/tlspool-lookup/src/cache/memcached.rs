//! memcached, as much of its text protocol as a cache needs: `get` and `set`, over TCP or a UNIX socket.
//!
//! Every wait is short, and a server that failed is left alone for a while: it may cost time, never an
//! answer. What it sends is bounded. The crate `async-memcached` was not taken: it reads answers of any
//! size, connects to IPv4 only, and does not pipeline, so that one slow answer would hold up all others.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Debug, Display, Formatter};
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::str::FromStr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use futures_util::FutureExt;
use futures_util::future::{Shared, join_all};
use tokio::time::timeout_at;

use self::link::{Link, Values, open};
use super::seal::{Name, Unsealed};

mod link;

/// Where memcached listens if nothing is said.
const PORT: u16 = 11211;

/// How long a server that failed is left alone: at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Server {
    /// At an address.
    Tcp(SocketAddr),
    /// At a UNIX socket.
    Unix(PathBuf),
}

/// Why text names no server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no memcached server; write an IP address with or without a port, or `unix:` and a path"
)]
pub struct ServerError(String);

impl FromStr for Server {
    type Err = ServerError;

    fn from_str(text: &str) -> Result<Self, ServerError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let absolute = path.starts_with('/');
            return if absolute {
                Ok(Self::Unix(path.into()))
            } else {
                Err(ServerError(text.into()))
            };
        }
        let address = text.parse().or_else(|_| {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
            bare.unwrap_or(text).parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT))
        });
        address.map(Self::Tcp).map_err(|_| ServerError(text.into()))
    }
}

impl Display for Server {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(to, "{address}"),
            Self::Unix(path) => write!(to, "unix:{}", path.display()),
        }
    }
}

/// What came of a `get`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    Hit(Vec<u8>),
    Miss,
    /// The server could not be asked; why.
    Down(String),
}

/// All servers. Each name belongs to one of them.
#[derive(Debug)]
pub(super) struct Cluster {
    peers: Vec<Rc<Peer>>,
    wait: Duration,
}

impl Cluster {
    /// With at least one server.
    pub(super) fn new(servers: Vec<Server>, wait: Duration) -> Self {
        let peers = servers.into_iter().map(|server| Rc::new(Peer::new(server, wait))).collect();
        Self { peers, wait }
    }

    /// The server of a name: the same one for every pool, in whatever order it lists the servers, and
    /// with one server less only the names of that one move (rendezvous hashing).
    fn peer(&self, name: &Name) -> &Rc<Peer> {
        if let [only] = &self.peers[..] {
            return only;
        }
        let weight = |peer: &&Rc<Peer>| {
            let both = [name.bytes(), peer.title.as_bytes()].concat();
            digest::digest(&digest::SHA256, &both).as_ref().to_vec()
        };
        self.peers.iter().max_by_key(weight).expect("a cluster has servers")
    }

    /// The values under `names`, in their order, and which server was asked for each. Each server is asked once for
    /// all of its own.
    pub(super) async fn get(&self, names: &[Name], deadline: Instant) -> Vec<(&str, Read)> {
        let mut shares: Vec<(&Rc<Peer>, Vec<usize>)> = Vec::with_capacity(1);
        for (place, name) in names.iter().enumerate() {
            let peer = self.peer(name);
            match shares.iter_mut().find(|(other, _)| Rc::ptr_eq(other, peer)) {
                Some((_, places)) => places.push(place),
                None => shares.push((peer, vec![place])),
            }
        }
        let asking = shares.iter().map(|(peer, places)| {
            let keys = places.iter().map(|place| names[*place].key()).collect();
            self.get_from(peer, keys, deadline)
        });
        let answers = join_all(asking).await;
        let mut found: Vec<(&str, Read)> = names.iter().map(|_| ("", Read::Miss)).collect();
        for ((peer, places), answer) in shares.iter().zip(answers) {
            match answer {
                Ok(values) => {
                    for (place, value) in places.iter().zip(values) {
                        found[*place] = (&peer.title, value.map_or(Read::Miss, Read::Hit));
                    }
                }
                Err(why) => {
                    for place in places {
                        found[*place] = (&peer.title, Read::Down(why.clone()));
                    }
                }
            }
        }
        found
    }

    /// What one server has under `keys`.
    async fn get_from(&self, peer: &Peer, keys: Vec<String>, deadline: Instant) -> Values {
        if Instant::now() + self.wait <= deadline {
            // Opening and reading watch the time by themselves.
            return peer.get(keys).await;
        }
        let late = |_| Err("no answer before the deadline".to_owned());
        timeout_at(deadline.into(), peer.get(keys)).await.unwrap_or_else(late)
    }

    /// Has `name` remembered. Waits for a connection, not for an answer.
    pub(super) async fn set(
        &self,
        name: Name,
        lifetime: Duration,
        value: Vec<u8>,
        deadline: Instant,
    ) {
        let peer = self.peer(&name);
        let patience = deadline.min(Instant::now() + self.wait);
        if let Ok(Ok(link)) = timeout_at(patience.into(), peer.link()).await {
            link.set(name.key(), lifetime.as_secs(), value);
        }
    }

    /// Says once that a server holds what does not count.
    pub(super) fn complain(&self, name: &Name, why: Unsealed) {
        let peer = self.peer(name);
        if why != Unsealed::Expired && !peer.complained.replace(true) {
            tracing::warn!(
                server = %peer.server,
                "memcached holds a value that does not count ({why}); do all pools have the same key?"
            );
        }
    }
}

type Opening = Shared<Pin<Box<dyn Future<Output = Result<Rc<Link>, String>>>>>;

/// One server, and how it does.
struct Peer {
    server: Server,
    /// As it is written.
    title: String,
    wait: Duration,
    state: RefCell<State>,
    /// How often it failed since it last answered.
    failures: Cell<u32>,
    complained: Cell<bool>,
}

impl Debug for Peer {
    fn fmt(&self, to: &mut Formatter<'_>) -> fmt::Result {
        Debug::fmt(&self.server, to)
    }
}

/// ```text
/// Idle ──► Opening ──► Open ──► Down ──(pause)──► Idle
///             └──────────────────▲
/// ```
enum State {
    Idle,
    Opening(Opening),
    Open(Rc<Link>),
    Down { until: Instant, why: String },
}

impl Peer {
    fn new(server: Server, wait: Duration) -> Self {
        let (failures, complained) = <(Cell<u32>, Cell<bool>)>::default();
        let (title, state) = (server.to_string(), RefCell::new(State::Idle));
        Self { server, title, wait, state, failures, complained }
    }

    /// The values under these keys.
    async fn get(&self, keys: Vec<String>) -> Values {
        let link = self.link().await?;
        let answer = match link.get(keys) {
            Ok(answer) => answer.await.unwrap_or_else(|_| Err("it hung up".to_owned())),
            Err(why) => return Err(why.to_owned()),
        };
        match &answer {
            Ok(_) => self.failures.set(0),
            Err(why) => self.fail_link(&link, why),
        }
        answer
    }

    /// The connection, which may have to be opened.
    async fn link(&self) -> Result<Rc<Link>, String> {
        let opening = {
            let state = &mut *self.state.borrow_mut();
            match state {
                State::Open(link) if !link.is_closed() => return Ok(Rc::clone(link)),
                State::Opening(opening) if opening.peek().is_none() => opening.clone(),
                State::Down { until, why } if *until > Instant::now() => {
                    let left = until.saturating_duration_since(Instant::now());
                    return Err(format!("{why}; not asked for another {} ms", left.as_millis()));
                }
                _ => {
                    let opening: Pin<Box<dyn Future<Output = _>>> =
                        Box::pin(open(self.server.clone(), self.wait));
                    let opening = opening.shared();
                    *state = State::Opening(opening.clone());
                    opening
                }
            }
        };
        let opened = opening.await;
        match &opened {
            Ok(link) => {
                let state = &mut *self.state.borrow_mut();
                if matches!(state, State::Opening(_)) {
                    *state = State::Open(Rc::clone(link));
                }
            }
            Err(why) => self.fail(why),
        }
        opened
    }

    /// Leaves this server alone for a while, longer each time.
    fn fail(&self, why: &str) {
        let state = &mut *self.state.borrow_mut();
        if matches!(state, State::Down { until, .. } if *until > Instant::now()) {
            return;
        }
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        if failures == 0 {
            tracing::warn!(server = %self.server, "memcached: {why}; answers are looked up without it");
        }
        let pause = PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
        *state = State::Down { until: Instant::now() + pause, why: why.to_owned() };
    }

    /// As [`Self::fail`], unless there is another connection already.
    fn fail_link(&self, link: &Rc<Link>, why: &str) {
        let current = matches!(&*self.state.borrow(), State::Open(open) if Rc::ptr_eq(open, link));
        if current {
            self.fail(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_written_as_people_write_them() {
        for (text, server) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("127.0.0.1", "127.0.0.1:11211"),
            ("[::1]:2", "[::1]:2"),
            ("[::1]", "[::1]:11211"),
            ("::1", "[::1]:11211"),
            ("unix:/run/memcached.sock", "unix:/run/memcached.sock"),
        ] {
            assert_eq!(text.parse::<Server>().unwrap().to_string(), server);
        }
        for text in ["", "memcached.example.com", "unix:", "unix:x", "1.2.3.4:99999", "/run/x"] {
            assert!(text.parse::<Server>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_are_spread_and_stay_where_they_are() {
        use tlspool_validate::sources::Query;

        use super::super::seal::{Key, Sealer};
        let sealer = Sealer::new(&Key::new(&[1; 32]).unwrap());
        let servers: Vec<Server> =
            (1..5).map(|n| format!("127.0.0.{n}").parse().unwrap()).collect();
        let wait = Duration::from_millis(1);
        let all = Cluster::new(servers.clone(), wait);
        let reversed = Cluster::new(servers.iter().rev().cloned().collect(), wait);
        let fewer = Cluster::new(servers[1..].to_vec(), wait);
        let mut counts = [0; 4];
        for number in 0..1000 {
            let name = sealer.name(&Query::Crl { url: number.to_string() });
            let server = all.peer(&name).server.clone();
            counts[servers.iter().position(|other| *other == server).unwrap()] += 1;
            assert_eq!(reversed.peer(&name).server, server);
            if server != servers[0] {
                assert_eq!(fewer.peer(&name).server, server);
            }
        }
        assert!(counts.iter().all(|count| *count > 150), "{counts:?}");
    }
}
