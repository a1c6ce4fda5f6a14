//! The serving loop of the look-up process: one thread, many look-ups at once.
//!
//! Each channel has a task that reads requests, and each request a task that looks up and writes the
//! answer. What is under way on one channel is bounded, and a request counts until its answer is
//! written, so a worker that does not read its answers holds up only itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tlspool_validate::sources::{Found, Options, Origin, Outcome, Query, Recalled, Sources};
use tokio::sync::Mutex;
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tokio::time::timeout;

use super::message::{
    Answer, Counters, MAX_RECALL, MAX_REQUEST, Request, RequestFrame, encode_answer,
};
use super::socket::Socket;

/// No look-up takes longer, whatever its asker says.
const MAX_WAIT: Duration = Duration::from_mins(10);
/// A source that does not keep to its deadline is cut off this much later.
const GRACE: Duration = Duration::from_millis(20);

/// The bounds of serving.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Look-ups under way on one channel.
    pub per_channel: usize,
}

/// Serves the channels from `sources` until the other end of each is closed. Must be called within a
/// local tokio runtime.
pub async fn serve<S: Sources + 'static>(
    channels: Vec<OwnedFd>,
    sources: Rc<S>,
    limits: Limits,
) -> io::Result<()> {
    let server = Rc::new(Server { sources, limits, counters: Cell::default() });
    let mut serving = JoinSet::new();
    for channel in channels {
        let socket = Socket::new(channel)?;
        let channel = Channel { socket, writing: Mutex::new(()), under_way: RefCell::default() };
        serving.spawn_local(server.clone().receive(Rc::new(channel)));
    }
    // A channel whose task panicked is closed, which its worker sees.
    while serving.join_next().await.is_some() {}
    Ok(())
}

struct Server<S> {
    sources: Rc<S>,
    limits: Limits,
    counters: Cell<Counters>,
}

/// The socket to one network worker.
struct Channel {
    socket: Socket,
    /// The datagrams of an answer follow each other.
    writing: Mutex<()>,
    under_way: RefCell<HashMap<u32, AbortHandle>>,
}

impl<S: Sources + 'static> Server<S> {
    async fn receive(self: Rc<Self>, channel: Rc<Channel>) {
        let _end = EndAll(&channel);
        // One byte more, so that a datagram that is too large shows.
        let mut buffer = vec![0; MAX_REQUEST + 1];
        loop {
            match channel.socket.recv(&mut buffer).await {
                Ok(0) => return,
                Ok(length) => match RequestFrame::decode(&buffer[..length]) {
                    Ok(frame) => self.handle(&channel, frame).await,
                    Err(malformed) => tracing::warn!("{malformed}"),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(%error, "a look-up channel ended");
                    return;
                }
            }
        }
    }

    async fn handle(self: &Rc<Self>, channel: &Rc<Channel>, frame: RequestFrame) {
        let RequestFrame { id, remaining_ms, request } = frame;
        let deadline = Instant::now() + Duration::from_millis(remaining_ms.into()).min(MAX_WAIT);
        match request {
            Request::Ask { query, caches } => {
                let under_way = channel.under_way.borrow().len();
                if under_way >= self.limits.per_channel {
                    self.count(|counters| counters.refused += 1);
                    let text = format!("{under_way} look-ups are under way, which is the limit");
                    // Written here: who asks more than it reads waits.
                    channel.answer(id, &Answer::Found(Found::failed(text, Duration::ZERO))).await;
                    return;
                }
                let options = Options { deadline, caches };
                let task = spawn_local(self.clone().look_up(channel.clone(), id, query, options));
                channel.began(id, task.abort_handle());
            }
            Request::Recall { queries } => {
                let under_way = channel.under_way.borrow().len();
                if under_way >= self.limits.per_channel || queries.len() > MAX_RECALL {
                    // The bound is told when they are looked up.
                    let nothing = vec![Recalled::default(); queries.len().min(MAX_RECALL)];
                    channel.answer(id, &Answer::Recalled(nothing)).await;
                    return;
                }
                let task = spawn_local(self.clone().recall(channel.clone(), id, queries, deadline));
                channel.began(id, task.abort_handle());
            }
            Request::Cancel => {
                let task = channel.under_way.borrow_mut().remove(&id);
                if let Some(task) = task {
                    task.abort();
                    self.count(|counters| counters.cancelled += 1);
                }
            }
            Request::Status => channel.answer(id, &Answer::Status(self.counters.get())).await,
        }
    }

    /// Looks one thing up and answers.
    async fn look_up(
        self: Rc<Self>,
        channel: Rc<Channel>,
        id: u32,
        query: Query,
        options: Options,
    ) {
        let _counted = Counted::new(&self.counters);
        let begun = Instant::now();
        // A task of its own, so that a fault in a source is a failed look-up and no more.
        let mut task = JoinSet::new();
        let sources = self.sources.clone();
        task.spawn_local(async move { sources.look_up(&query, options).await });
        let wait = options.deadline.saturating_duration_since(begun) + GRACE;
        let found = match timeout(wait, task.join_next()).await {
            Ok(Some(Ok(found))) => found,
            Ok(Some(Err(_)) | None) => {
                tracing::error!("a look-up ended with a fault of the program");
                Found::failed("a fault in the look-up process; see its log", begun.elapsed())
            }
            Err(_) => Found::failed("no answer in time", begun.elapsed()),
        };
        self.count_outcome(&found.outcome, found.origin);
        channel.answer(id, &Answer::Found(found)).await;
        channel.under_way.borrow_mut().remove(&id);
    }

    /// Says what is remembered. Less is done for it than for a look-up, as it is done for most handshakes: no
    /// task more, and no timer, because a cache keeps to its deadline.
    async fn recall(
        self: Rc<Self>,
        channel: Rc<Channel>,
        id: u32,
        queries: Vec<Query>,
        deadline: Instant,
    ) {
        let _counted = Counted::new(&self.counters);
        let recalling = AssertUnwindSafe(self.sources.recall(&queries, deadline)).catch_unwind();
        let recalled = recalling.await.unwrap_or_else(|_| {
            tracing::error!("reading a cache ended with a fault of the program");
            vec![Recalled::default(); queries.len()]
        });
        for outcome in recalled.iter().filter_map(|recalled| recalled.outcome.as_ref()) {
            self.count_outcome(outcome, Origin::Memcached);
        }
        channel.answer(id, &Answer::Recalled(recalled)).await;
        channel.under_way.borrow_mut().remove(&id);
    }

    fn count_outcome(&self, outcome: &Outcome, origin: Origin) {
        self.count(|counters| {
            counters.queries += 1;
            match outcome {
                Outcome::Present(_) => counters.present += 1,
                Outcome::Absent(_) => counters.absent += 1,
                Outcome::Failed(_) => counters.failed += 1,
            }
            match origin {
                Origin::Live => {}
                Origin::Memory => counters.from_memory += 1,
                Origin::Memcached => counters.from_memcached += 1,
            }
        });
    }

    fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }
}

impl Channel {
    /// A request is under way, and ends if nobody waits for it.
    fn began(&self, id: u32, task: AbortHandle) {
        if let Some(before) = self.under_way.borrow_mut().insert(id, task) {
            tracing::warn!("a number was used for two look-ups at once");
            before.abort();
        }
    }

    async fn answer(&self, id: u32, answer: &Answer) {
        let _writing = self.writing.lock().await;
        for datagram in encode_answer(id, answer) {
            if let Err(error) = self.socket.send(&datagram).await {
                tracing::debug!(%error, "an answer of the look-up process was lost");
                return;
            }
        }
    }
}

/// Ends what is under way on a channel that is closed.
struct EndAll<'a>(&'a Channel);

impl Drop for EndAll<'_> {
    fn drop(&mut self) {
        for (_, task) in self.0.under_way.borrow_mut().drain() {
            task.abort();
        }
    }
}

/// One look-up under way, whatever way it ends.
struct Counted<'a>(&'a Cell<Counters>);

impl<'a> Counted<'a> {
    fn new(counters: &'a Cell<Counters>) -> Self {
        counters.update(|counters| Counters { under_way: counters.under_way + 1, ..counters });
        Self(counters)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.update(|counters| Counters { under_way: counters.under_way - 1, ..counters });
    }
}
