//! memcached, as much of its text protocol as a cache needs: `get` and `set`, over TCP or a UNIX socket.
//!
//! Every wait is short, and a server that failed is left alone for a while: it may cost time, never an
//! answer. What it sends is bounded. The crate `async-memcached` was not taken: it reads answers of any
//! size, connects to IPv4 only, and does not pipeline, so that one slow answer would hold up all others.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Debug, Display, Formatter};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use futures_util::FutureExt;
use futures_util::future::Shared;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::timeout_at;

use super::seal::{MAX_VALUE, Name, Unsealed};

/// Where memcached listens if nothing is said.
const PORT: u16 = 11211;

/// Longest line of an answer, in bytes: `VALUE`, a key, two numbers; or words about an error.
const MAX_LINE: u64 = 1024;

/// A value with its seal.
const MAX_SEALED: usize = MAX_VALUE + 64;

/// How long a server that failed is left alone: at first, and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Commands and bytes of values that wait for one server; more are not remembered.
const MAX_WAITING: usize = 4096;
const MAX_WAITING_BYTES: usize = 8 << 20;

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
        let weight = |peer: &&Rc<Peer>| {
            let both = [name.bytes(), peer.server.to_string().as_bytes()].concat();
            digest::digest(&digest::SHA256, &both).as_ref().to_vec()
        };
        self.peers.iter().max_by_key(weight).expect("a cluster has servers")
    }

    /// The value under `name`, and which server was asked.
    pub(super) async fn get(&self, name: &Name, deadline: Instant) -> (String, Read) {
        let peer = self.peer(name);
        let patience = Instant::now() + self.wait;
        let read = match timeout_at(patience.min(deadline).into(), peer.get(name)).await {
            Ok(read) => read,
            Err(_) if deadline < patience => Read::Down("no answer before the deadline".into()),
            Err(_) => {
                let why = format!("no answer within {} ms", self.wait.as_millis());
                peer.fail(&why);
                Read::Down(why)
            }
        };
        (peer.server.to_string(), read)
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
        Self { server, wait, state: RefCell::new(State::Idle), failures, complained }
    }

    async fn get(&self, name: &Name) -> Read {
        let link = match self.link().await {
            Ok(link) => link,
            Err(why) => return Read::Down(why),
        };
        let (reply, answer) = oneshot::channel();
        if link.commands.try_send(Command::Get { key: name.key(), reply }).is_err() {
            let busy = !link.commands.is_closed();
            return Read::Down(if busy { "too many questions wait" } else { "it hung up" }.into());
        }
        match answer.await {
            Ok(Ok(value)) => {
                self.failures.set(0);
                value.map_or(Read::Miss, Read::Hit)
            }
            Ok(Err(why)) => {
                self.fail_link(&link, &why);
                Read::Down(why)
            }
            Err(_) => {
                let why = "it hung up".to_owned();
                self.fail_link(&link, &why);
                Read::Down(why)
            }
        }
    }

    /// The connection, which may have to be opened.
    async fn link(&self) -> Result<Rc<Link>, String> {
        let opening = {
            let state = &mut *self.state.borrow_mut();
            match state {
                State::Open(link) if !link.commands.is_closed() => return Ok(Rc::clone(link)),
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

/// A connection. Ends with its last owner.
#[derive(Debug)]
struct Link {
    commands: mpsc::Sender<Command>,
    /// Bytes of values that wait.
    waiting: Arc<AtomicUsize>,
    tasks: [AbortHandle; 2],
}

impl Link {
    fn set(&self, key: String, seconds: u64, value: Vec<u8>) {
        let size = value.len();
        if self.waiting.fetch_add(size, Ordering::Relaxed) + size > MAX_WAITING_BYTES
            || self.commands.try_send(Command::Set { key, seconds, value }).is_err()
        {
            // It will be looked up again; that is all.
            self.waiting.fetch_sub(size, Ordering::Relaxed);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

type Reply = oneshot::Sender<Result<Option<Vec<u8>>, String>>;

enum Command {
    Get { key: String, reply: Reply },
    Set { key: String, seconds: u64, value: Vec<u8> },
}

/// What an answer is to.
enum Due {
    Get { key: String, reply: Reply },
    Set,
}

async fn open(server: Server, wait: Duration) -> Result<Rc<Link>, String> {
    let deadline = tokio::time::Instant::now() + wait;
    let opened = async {
        Ok::<_, io::Error>(match &server {
            Server::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                let (from, to) = stream.into_split();
                link(from, to)
            }
            Server::Unix(path) => {
                let (from, to) = UnixStream::connect(path).await?.into_split();
                link(from, to)
            }
        })
    };
    match timeout_at(deadline, opened).await {
        Ok(Ok(link)) => Ok(Rc::new(link)),
        Ok(Err(error)) => Err(format!("cannot connect: {error}")),
        Err(_) => Err(format!("no connection within {} ms", wait.as_millis())),
    }
}

fn link<R, W>(from: R, to: W) -> Link
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (commands, inbox) = mpsc::channel(MAX_WAITING);
    let (due, expected) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let writer = tokio::spawn(write(to, inbox, due, Arc::clone(&waiting)));
    let reader = tokio::spawn(read(BufReader::new(from), expected, writer.abort_handle()));
    Link { commands, waiting, tasks: [writer.abort_handle(), reader.abort_handle()] }
}

/// Sends commands. What is due in answer is known to the reader before it can come.
async fn write<W: AsyncWrite + Unpin>(
    mut to: W,
    mut inbox: mpsc::Receiver<Command>,
    due: mpsc::UnboundedSender<Due>,
    waiting: Arc<AtomicUsize>,
) {
    while let Some(command) = inbox.recv().await {
        let (bytes, answer) = match command {
            Command::Get { key, reply } => {
                (format!("get {key}\r\n").into_bytes(), Due::Get { key, reply })
            }
            Command::Set { key, seconds, value } => {
                waiting.fetch_sub(value.len(), Ordering::Relaxed);
                let head = format!("set {key} 0 {seconds} {}\r\n", value.len());
                ([head.as_bytes(), &value, b"\r\n"].concat(), Due::Set)
            }
        };
        if due.send(answer).is_err() || to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Reads answers, which come in the order of the commands. Ends the connection at the first that is none.
async fn read<R: AsyncRead + Unpin>(
    mut from: BufReader<R>,
    mut expected: mpsc::UnboundedReceiver<Due>,
    writer: AbortHandle,
) {
    while let Some(due) = expected.recv().await {
        match due {
            Due::Set => {
                // Whether it was stored or there was no room does not matter; that it is one line does.
                if line(&mut from).await.is_err() {
                    break;
                }
            }
            Due::Get { key, reply } => {
                let value = value(&mut from, &key).await;
                let broken = value.is_err();
                let _ = reply.send(value.map_err(|error| error.to_string()));
                if broken {
                    break;
                }
            }
        }
    }
    // So that the next command finds the connection closed.
    writer.abort();
}

/// The answer to a `get` of one key.
async fn value<R: AsyncRead + Unpin>(
    from: &mut BufReader<R>,
    key: &str,
) -> io::Result<Option<Vec<u8>>> {
    let first = line(from).await?;
    if first == b"END" {
        return Ok(None);
    }
    let length = length(&first, key).ok_or_else(nonsense)?;
    let mut bytes = Vec::with_capacity(length.min(1 << 16));
    from.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !line(from).await?.is_empty() || line(from).await? != b"END" {
        return Err(nonsense());
    }
    Ok(Some(bytes))
}

/// The length out of `VALUE key flags length`.
fn length(line: &[u8], key: &str) -> Option<usize> {
    let line = std::str::from_utf8(line).ok()?;
    let (flags, length) =
        line.strip_prefix("VALUE ")?.strip_prefix(key)?.strip_prefix(' ')?.split_once(' ')?;
    flags.parse::<u32>().ok()?;
    length.parse().ok().filter(|length| *length <= MAX_SEALED)
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it answers what was not asked")
}

/// A line without its end.
async fn line<R: AsyncRead + Unpin>(from: &mut BufReader<R>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    match line.strip_suffix(b"\r\n") {
        Some(text) => Ok(text.to_vec()),
        None if line.is_empty() => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up")),
        None => Err(nonsense()),
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

    #[tokio::test]
    async fn answers_are_read_and_everything_else_is_refused() {
        async fn read(answer: &[u8]) -> Result<Option<Vec<u8>>, io::ErrorKind> {
            let value = value(&mut BufReader::new(answer), "key").await;
            value.map_err(|error| error.kind())
        }
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        assert_eq!(read(b"END\r\n").await, Ok(None));
        assert_eq!(read(b"VALUE key 0 4\r\na\r\nb\r\nEND\r\n").await, Ok(Some(b"a\r\nb".to_vec())));
        for (bad, why) in [
            (&b""[..], UnexpectedEof),
            (b"EN", InvalidData),
            (b"ERROR\r\n", InvalidData),
            (b"SERVER_ERROR out of memory\r\n", InvalidData),
            (b"VALUE other 0 1\r\na\r\nEND\r\n", InvalidData),
            (b"VALUE keys 0 1\r\na\r\nEND\r\n", InvalidData),
            (b"VALUE key 0 -1\r\n\r\nEND\r\n", InvalidData),
            (b"VALUE key 0 99999999\r\n", InvalidData),
            (b"VALUE key 0 99999999999999999999\r\n", InvalidData),
            (b"VALUE key 0 5\r\nabc", UnexpectedEof),
            (b"VALUE key 0 1\r\nabc\r\nEND\r\n", InvalidData),
            (b"VALUE key 0 1\r\na\r\nVALUE key 0 1\r\na\r\nEND\r\n", InvalidData),
            (&[b'x'; 5000], InvalidData),
        ] {
            assert_eq!(read(bad).await, Err(why), "{}", String::from_utf8_lossy(bad));
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
