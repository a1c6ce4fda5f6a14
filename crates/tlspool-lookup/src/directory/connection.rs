//! One connection to a directory: TLS that DANE vouches for, an anonymous bind, then searches side by
//! side. [`super::pool`] opens it and shares it among look-ups.
//!
//! Everything that the directory sends is bounded: the size of a message, entries and bytes of an answer,
//! what it sends unasked. A directory that goes beyond loses the connection.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout, timeout_at};
use tokio_rustls::client::TlsStream;

use super::Limits;
use super::ber;
use super::message::{self, Body, Ending, Entry, Message, Search, code};
use super::verify::Tls;
use crate::http::addresses::is_internal;

/// How long the first address may take before the next is tried beside it (RFC 8305 section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// How long a directory may refuse to read what we send.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// A directory that says nothing for so long, while an answer is due, may have died: nothing more is asked
/// on this connection.
const SILENCE: Duration = Duration::from_secs(1);

/// Numbers of the requests before the first search.
const START_TLS_ID: i32 = 1;
const BIND_ID: i32 = 2;
const FIRST_SEARCH_ID: i32 = 3;

/// Where a directory is, and how TLS begins there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Site {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) security: Security,
}

/// How TLS begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Security {
    /// After the extended operation StartTLS (RFC 4511 section 4.14).
    StartTls,
    /// At once: `ldaps`.
    Immediate,
}

impl std::fmt::Display for Site {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = match self.security {
            Security::StartTls => "ldap",
            Security::Immediate => "ldaps",
        };
        write!(to, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// Why a directory did not answer, or not so that it counts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("cannot connect: {0}")]
    Connect(String),
    #[error("the directory refuses StartTLS: {0}")]
    NoStartTls(Ending),
    #[error("the directory sends data before TLS that belongs after it")]
    EarlyData,
    #[error("no TLS: {0}")]
    Tls(String),
    /// Its certificate is not that of its TLSA records.
    #[error("this is not the directory: {0}")]
    Impostor(String),
    #[error("the directory refuses an anonymous bind: {0}")]
    NoBind(Ending),
    #[error("the directory ended the connection{0}")]
    Closed(String),
    #[error("{0}")]
    Malformed(#[from] ber::Malformed),
    #[error("the directory lists more than {0} entries")]
    TooManyEntries(usize),
    #[error("the directory sends more than {0} bytes")]
    TooManyBytes(usize),
    #[error("no answer within {:.1} s to {what}", .limit.as_secs_f32())]
    TimedOut { what: String, limit: Duration },
    #[error("the directory refers to another one; referrals are not followed")]
    Referral,
    #[error("the directory answers: {0}")]
    Refused(Ending),
    /// A bound of ours, which is a setting.
    #[error("{what}: {limit} {of} are under way already, which is the limit")]
    Busy { what: String, limit: usize, of: &'static str },
    #[error("{0}")]
    Names(String),
}

fn closed(error: &std::io::Error) -> Trouble {
    Trouble::Closed(format!(": {error}"))
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) entries: Vec<Entry>,
    /// The directory says that more may be elsewhere.
    pub(crate) refers: bool,
}

/// A request to the task that drives the connection.
enum Request {
    Search {
        id: i32,
        bytes: Vec<u8>,
        reply: Reply,
    },
    /// Nobody waits any more.
    Forget(i32),
}

type Reply = oneshot::Sender<Result<Answer, Trouble>>;

/// A connection. Ends with its last owner.
#[derive(Debug)]
pub(crate) struct Connection {
    requests: mpsc::UnboundedSender<Request>,
    next: Cell<i32>,
    retired: Cell<bool>,
    entries: i32,
    /// Messages that came so far.
    heard: Arc<AtomicU64>,
    /// What the directory showed, leaf first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// For a trace.
    pub(crate) description: String,
}

impl Connection {
    /// Connects, begins TLS and binds. The permit lives as long as the connection.
    pub(crate) async fn open(
        site: &Site,
        addresses: &[IpAddr],
        tls: &Tls,
        limits: &Limits,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, Trouble> {
        let begin = Instant::now();
        let addresses: Vec<_> =
            addresses.iter().map(|ip| SocketAddr::new(*ip, site.port)).collect();
        let tcp = connect(&addresses, limits).await?;
        let _ = tcp.set_nodelay(true);
        let at = tcp.peer_addr().map_or_else(|_| site.to_string(), |address| address.to_string());
        let tcp = match site.security {
            Security::StartTls => start_tls(tcp, limits).await?,
            Security::Immediate => tcp,
        };
        let (stream, how) = tls.begin(tcp).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        let mut line = Line::new(stream, limits.answer_bytes);
        line.send(&message::bind(BIND_ID)).await?;
        let ending = line.ending(BIND_ID).await?;
        if ending.code != code::SUCCESS {
            return Err(Trouble::NoBind(ending));
        }
        let (requests, inbox) = mpsc::unbounded_channel();
        let heard = Arc::new(AtomicU64::new(0));
        let driver = Driver {
            line,
            heard: Arc::clone(&heard),
            inbox,
            pending: HashMap::new(),
            limits: limits.clone(),
            unasked: 0,
            _permit: permit,
        };
        tokio::spawn(driver.run());
        let description = format!(
            "{site}: {at}, {how}, bound anonymously after {} ms",
            begin.elapsed().as_millis()
        );
        Ok(Self {
            requests,
            next: Cell::new(FIRST_SEARCH_ID),
            retired: Cell::new(false),
            entries: limits.entries as i32,
            heard,
            chain,
            description,
        })
    }

    /// Whether it can take another search.
    pub(crate) fn is_usable(&self) -> bool {
        !self.retired.get() && !self.requests.is_closed() && self.next.get() < i32::MAX
    }

    /// Takes no more searches; those under way end.
    fn retire(&self) {
        self.retired.set(true);
    }

    /// Searches; waits `limit` at most.
    pub(crate) async fn search(&self, search: &Search, limit: Duration) -> Result<Answer, Trouble> {
        let id = self.next.get();
        self.next.set(id.saturating_add(1));
        let bytes = search.encode(id, self.entries, limit.as_secs().max(1) as i32);
        let (reply, answer) = oneshot::channel();
        let gone = || Trouble::Closed(String::new());
        self.requests.send(Request::Search { id, bytes, reply }).map_err(|_| gone())?;
        let mut waiting =
            Waiting { id, connection: self, since: Instant::now(), heard: self.heard() };
        match timeout(limit, answer).await {
            Ok(answer) => {
                waiting.id = 0;
                answer.map_err(|_| gone())?
            }
            Err(_) => {
                Err(Trouble::TimedOut { what: format!("the search {}", search.filter), limit })
            }
        }
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

/// A search whose answer someone waits for.
struct Waiting<'a> {
    /// Its number; 0 once it is answered.
    id: i32,
    connection: &'a Connection,
    since: Instant,
    heard: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.id == 0 {
            return;
        }
        let _ = self.connection.requests.send(Request::Forget(self.id));
        if self.heard == self.connection.heard() && self.since.elapsed() >= SILENCE {
            self.connection.retire();
        }
    }
}

/// Tries the addresses, each a little after the one before; the first that answers wins.
async fn connect(addresses: &[SocketAddr], limits: &Limits) -> Result<TcpStream, Trouble> {
    let mut attempts = JoinSet::new();
    let refused = |address: &SocketAddr| !limits.internal && is_internal(address.ip());
    let why = if addresses.iter().any(refused) {
        "it is in an internal network, where no directory is asked; see ldap.internal"
    } else {
        "it has no address"
    };
    let mut last = Trouble::Connect(why.into());
    let addresses = addresses.iter().copied().filter(|address| !refused(address));
    let mut addresses = addresses.filter(|address| is_host(address.ip()));
    let mut next = addresses.next();
    let deadline = tokio::time::Instant::now() + limits.connect;
    loop {
        if let Some(address) = next.take() {
            let attempt = async move { (address, TcpStream::connect(address).await) };
            attempts.spawn(attempt);
            next = addresses.next();
        }
        let patience = if next.is_some() {
            deadline.min(tokio::time::Instant::now() + NEXT_ADDRESS)
        } else {
            deadline
        };
        match timeout_at(patience, attempts.join_next()).await {
            Ok(Some(Ok((_, Ok(stream))))) => return Ok(stream),
            Ok(Some(Ok((address, Err(error))))) => {
                last = Trouble::Connect(format!("{address}: {error}"));
            }
            Ok(Some(Err(error))) => last = Trouble::Connect(error.to_string()),
            Ok(None) if next.is_none() => return Err(last),
            Err(_) if tokio::time::Instant::now() >= deadline => {
                return Err(Trouble::Connect(format!(
                    "no answer within {:.1} s",
                    limits.connect.as_secs_f32()
                )));
            }
            // On to the next address.
            Ok(None) | Err(_) => {}
        }
    }
}

/// Whether this can be the address of one host.
fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

/// Asks for TLS. What comes after the answer must be TLS, so nothing may have come with the answer: it
/// would have been sent in the clear, by anyone, and be taken for protected later.
async fn start_tls(tcp: TcpStream, limits: &Limits) -> Result<TcpStream, Trouble> {
    let mut line = Line::new(tcp, limits.answer_bytes);
    line.send(&message::start_tls(START_TLS_ID)).await?;
    let ending = line.ending(START_TLS_ID).await?;
    if ending.code != code::SUCCESS {
        return Err(Trouble::NoStartTls(ending));
    }
    if line.has_more() { Err(Trouble::EarlyData) } else { Ok(line.stream) }
}

/// A stream of messages.
struct Line<S> {
    stream: S,
    buffer: Vec<u8>,
    /// How much of the buffer is done with.
    used: usize,
    limit: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    fn new(stream: S, limit: usize) -> Self {
        Self { stream, buffer: Vec::new(), used: 0, limit }
    }

    fn has_more(&self) -> bool {
        self.used < self.buffer.len()
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match timeout(WRITE_LIMIT, sending).await {
            Ok(sent) => sent.map_err(|error| closed(&error)),
            Err(_) => Err(Trouble::Closed(": it does not read what it is sent".into())),
        }
    }

    /// The next message and its size. Loses nothing if it is not waited for.
    async fn next(&mut self) -> Result<(Message, usize), Trouble> {
        loop {
            let unread = &self.buffer[self.used..];
            if unread.first().is_some_and(|tag| *tag != ber::SEQUENCE) {
                return Err(Trouble::Malformed(ber::Malformed));
            }
            match ber::extent(unread)? {
                Some(length) if length > self.limit => {
                    return Err(Trouble::TooManyBytes(self.limit));
                }
                Some(length) if length <= unread.len() => {
                    let message = Message::decode(&unread[..length])?;
                    self.used += length;
                    if self.used == self.buffer.len() {
                        // An idle connection keeps no memory for its largest answer.
                        self.buffer = Vec::new();
                        self.used = 0;
                    }
                    return Ok((message, length));
                }
                _ => {}
            }
            self.buffer.drain(..self.used);
            self.used = 0;
            self.buffer.reserve(4096);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(Trouble::Closed(String::new())),
                Ok(_) => {}
                Err(error) => return Err(closed(&error)),
            }
        }
    }

    /// The end of request `id`, which is the only one.
    async fn ending(&mut self, id: i32) -> Result<Ending, Trouble> {
        match self.next().await?.0 {
            Message { id: of, body: Body::Done(ending) } if of == id => Ok(ending),
            Message { id: 0, body: Body::Done(ending) } => {
                Err(Trouble::Closed(format!(": {ending}")))
            }
            _ => Err(Trouble::Malformed(ber::Malformed)),
        }
    }
}

/// A search that is under way.
struct Pending {
    answer: Answer,
    bytes: usize,
    reply: Reply,
}

/// Sends requests and hands answers out.
struct Driver {
    line: Line<TlsStream<TcpStream>>,
    inbox: mpsc::UnboundedReceiver<Request>,
    heard: Arc<AtomicU64>,
    pending: HashMap<i32, Pending>,
    limits: Limits,
    /// Bytes that came for searches that nobody waits for.
    unasked: usize,
    _permit: OwnedSemaphorePermit,
}

impl Driver {
    async fn run(mut self) {
        let trouble = self.serve().await;
        // Before those who wait hear of it, so that nobody takes this connection again.
        self.inbox.close();
        for (_, pending) in self.pending.drain() {
            let _ = pending.reply.send(Err(trouble.clone()));
        }
        while let Ok(request) = self.inbox.try_recv() {
            if let Request::Search { reply, .. } = request {
                let _ = reply.send(Err(trouble.clone()));
            }
        }
        let farewell = async {
            self.line.send(&message::unbind(i32::MAX)).await?;
            self.line.stream.shutdown().await.map_err(|error| closed(&error))
        };
        let _ = timeout(Duration::from_secs(1), farewell).await;
    }

    /// Serves until the connection is of no more use; says why.
    async fn serve(&mut self) -> Trouble {
        let mut active = Instant::now();
        loop {
            let over = sleep_until((active + self.limits.idle).into());
            let served = tokio::select! {
                request = self.inbox.recv() => match request {
                    Some(request) => self.send(request).await,
                    None => Err(Trouble::Closed(String::new())),
                },
                message = self.line.next() => message.and_then(|(message, size)| self.take(message, size)),
                () = over, if self.pending.is_empty() => Err(Trouble::Closed(": idle".into())),
            };
            if let Err(trouble) = served {
                return trouble;
            }
            active = Instant::now();
        }
    }

    /// Sends this request and those behind it.
    async fn send(&mut self, first: Request) -> Result<(), Trouble> {
        let mut bytes = Vec::new();
        let mut request = Some(first);
        while let Some(next) = request {
            match next {
                Request::Search { id, bytes: search, reply } => {
                    let pending = Pending { answer: Answer::default(), bytes: 0, reply };
                    self.pending.insert(id, pending);
                    bytes.extend_from_slice(&search);
                }
                Request::Forget(id) if self.pending.remove(&id).is_some() => {
                    bytes.extend_from_slice(&message::abandon(i32::MAX, id));
                }
                Request::Forget(_) => {}
            }
            request = self.inbox.try_recv().ok();
        }
        if bytes.is_empty() { Ok(()) } else { self.line.send(&bytes).await }
    }

    fn take(&mut self, message: Message, size: usize) -> Result<(), Trouble> {
        let Message { id, body } = message;
        self.heard.fetch_add(1, Ordering::Relaxed);
        if let (0, Body::Done(ending)) = (id, &body) {
            return Err(Trouble::Closed(format!(": {ending}"))); // a notice of disconnection
        }
        let Some(pending) = self.pending.get_mut(&id) else {
            self.unasked += size;
            let bounded = self.unasked <= self.limits.answer_bytes;
            return if bounded {
                Ok(())
            } else {
                Err(Trouble::TooManyBytes(self.limits.answer_bytes))
            };
        };
        pending.bytes += size;
        if pending.bytes > self.limits.answer_bytes {
            return Err(Trouble::TooManyBytes(self.limits.answer_bytes));
        }
        match body {
            Body::Entry(_) if pending.answer.entries.len() >= self.limits.entries => {
                return Err(Trouble::TooManyEntries(self.limits.entries));
            }
            Body::Entry(entry) => pending.answer.entries.push(entry),
            Body::Reference => pending.answer.refers = true,
            Body::Done(ending) => {
                let Some(pending) = self.pending.remove(&id) else { return Ok(()) };
                let _ = pending.reply.send(result(ending, pending.answer, &self.limits));
            }
        }
        Ok(())
    }
}

/// What the end of a search makes of its entries.
fn result(ending: Ending, answer: Answer, limits: &Limits) -> Result<Answer, Trouble> {
    match ending.code {
        code::SUCCESS => Ok(answer),
        // There is no such branch, so there is nothing in it.
        code::NO_SUCH_OBJECT if answer.entries.is_empty() => Ok(answer),
        code::REFERRAL => Err(Trouble::Referral),
        code::SIZE_LIMIT => Err(Trouble::TooManyEntries(limits.entries)),
        _ => Err(Trouble::Refused(ending)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn internal_networks_are_left_alone_if_that_is_set() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let settings = super::super::Settings::default();
        let limits =
            |internal| Limits::from(&super::super::Settings { internal, ..settings.clone() });
        connect(&[address], &limits(true)).await.unwrap();
        let mapped = "[::ffff:127.0.0.1]:389".parse().unwrap();
        for addresses in [&[address][..], &[mapped], &["10.0.0.1:389".parse().unwrap()]] {
            let refused = connect(addresses, &limits(false)).await.unwrap_err();
            assert!(refused.to_string().contains("see ldap.internal"), "{refused}");
        }
    }
}
