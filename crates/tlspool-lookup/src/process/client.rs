//! Asking the look-up process, from a network worker.
//!
//! One [`LookupClient`] for each worker, cheap to clone. A request is written straight from the task
//! that asks; one task per client reads the answers. When the look-up process dies, the client waits
//! for [`LookupClient::connect`]: what was in flight is sent once more, and fails if the process dies
//! on it again. If no process comes for a while, everything fails at once until one does.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use tlspool_validate::sources::{Found, Looking, Options, Query, Recalled, Recalling, Sources};
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

use super::message::{self, Answer, Assembly, CHUNK, Counters, MAX_RECALL, Request, RequestFrame};
use super::socket::Socket;

/// How long a restart of the look-up process may take before look-ups fail for want of it.
pub(super) const AWAY: Duration = Duration::from_secs(5);
/// Requests that may wait for answers, beyond what the process serves at once.
const MAX_PENDING: usize = 65_536;

const OFF: &str =
    "look-ups are not configured: there is no [dns] section, nor an authorizer in [authorization]";
const GONE: &str = "the look-up process is not running; see the log of the daemon";
const DIED_TWICE: &str =
    "the look-up process ended twice during this look-up; see the log of the daemon";

/// A worker's connection to the look-up process.
#[derive(Clone)]
pub struct LookupClient {
    shared: Rc<Shared>,
    /// Ends the reading task with the last clone.
    _reader: Rc<AbortOnDrop>,
}

#[derive(Default)]
struct Shared {
    state: RefCell<State>,
    /// A new channel, or something to write.
    changed: Notify,
    last_id: Cell<u32>,
}

#[derive(Default)]
struct State {
    link: Link,
    pending: HashMap<u32, Pending>,
    /// What could not be written at once: requests, and cancellations of requests no longer pending.
    unsent: VecDeque<u32>,
}

/// The way to the process.
#[derive(Default)]
enum Link {
    /// There is none, and none is wanted.
    #[default]
    Off,
    /// It is being started.
    Away,
    /// It was away too long.
    Gone,
    /// There it is.
    There(Rc<Socket>),
}

struct Pending {
    datagram: Vec<u8>,
    deadline: Instant,
    reply: oneshot::Sender<Result<Answer, &'static str>>,
    /// It was written to the channel.
    sent: bool,
    /// It was written to an earlier channel too.
    retried: bool,
}

impl LookupClient {
    /// A client without a process: every look-up fails until [`connect`](Self::connect) or
    /// [`expect`](Self::expect). Must be called within a local tokio runtime.
    pub fn off() -> Self {
        let shared = Rc::<Shared>::default();
        let reader = spawn_local(read(shared.clone())).abort_handle();
        Self { shared, _reader: Rc::new(AbortOnDrop(reader)) }
    }

    /// A process will be there soon: look-ups wait for it.
    pub fn expect(&self) {
        let mut state = self.shared.state.borrow_mut();
        if !matches!(state.link, Link::There(_)) {
            state.link = Link::Away;
            self.shared.changed.notify_one();
        }
    }

    /// This is the channel to the process, which was started just now.
    pub fn connect(&self, channel: OwnedFd) -> std::io::Result<()> {
        let channel = Socket::new(channel)?;
        let mut state = self.shared.state.borrow_mut();
        state.lost();
        state.link = Link::There(Rc::new(channel));
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Look-ups are not wanted any more.
    pub fn disconnect(&self) {
        let mut state = self.shared.state.borrow_mut();
        state.lost();
        state.fail_all(OFF);
        state.link = Link::Off;
        self.shared.changed.notify_one();
    }

    /// What the process has done so far; an error if it is not there or does not answer by `wait`.
    pub async fn status(&self, wait: Duration) -> Result<Counters, String> {
        match self.ask(Request::Status, Instant::now() + wait).await? {
            Answer::Status(counters) => Ok(counters),
            Answer::Found(_) | Answer::Recalled(_) => Err(OTHER_ANSWER.into()),
        }
    }

    async fn find(&self, query: &Query, options: Options) -> Found {
        let begun = Instant::now();
        let Options { deadline, caches } = options;
        let request = Request::Ask { query: query.clone(), caches };
        match self.ask(request, deadline).await {
            Ok(Answer::Found(found)) => found,
            Ok(_) => Found::failed(OTHER_ANSWER, begun.elapsed()),
            Err(why) => Found::failed(why, begun.elapsed()),
        }
    }

    /// What is remembered of `queries`, in their order. They are sent now, and the answer can wait to be wanted;
    /// dropping what is returned takes them back. If the process cannot be asked, nothing is remembered.
    pub fn recalling(
        &self,
        queries: &[Query],
        deadline: Instant,
    ) -> impl Future<Output = Vec<Recalled>> + use<> {
        let count = queries.len();
        let request = Request::Recall { queries: queries.to_vec() };
        let begun = if count > MAX_RECALL {
            Err(format!("{count} questions are too many at once"))
        } else {
            self.begin(request, deadline)
        };
        async move {
            let answer = match begun {
                Ok(asked) => asked.answer().await,
                Err(why) => Err(why),
            };
            let why = match answer {
                Ok(Answer::Recalled(recalled)) if recalled.len() == count => return recalled,
                Ok(_) => OTHER_ANSWER.to_owned(),
                Err(why) => why,
            };
            vec![Recalled { steps: vec![why], ..Recalled::default() }; count]
        }
    }

    async fn ask(&self, request: Request, deadline: Instant) -> Result<Answer, String> {
        self.begin(request, deadline)?.answer().await
    }

    fn begin(&self, request: Request, deadline: Instant) -> Result<Asked, String> {
        let (id, replied) = self.shared.begin(request, deadline)?;
        let forget = Forget { shared: self.shared.clone(), id };
        Ok(Asked { replied, deadline, _forget: forget })
    }
}

/// A request that was sent. Dropping it takes it back.
struct Asked {
    replied: oneshot::Receiver<Result<Answer, &'static str>>,
    deadline: Instant,
    _forget: Forget,
}

impl Asked {
    async fn answer(self) -> Result<Answer, String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match timeout(left, self.replied).await {
            Ok(Ok(answer)) => answer.map_err(str::to_owned),
            Ok(Err(_)) => Err(GONE.into()),
            Err(_) => Err("the look-up process did not answer in time".into()),
        }
    }
}

const OTHER_ANSWER: &str = "the look-up process answers another question";

impl Sources for LookupClient {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        Box::pin(self.find(query, options))
    }

    fn recall<'a>(&'a self, queries: &'a [Query], deadline: Instant) -> Recalling<'a> {
        Box::pin(self.recalling(queries, deadline))
    }
}

impl std::fmt::Debug for LookupClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LookupClient").finish_non_exhaustive()
    }
}

/// What the process is told of the time left: less, so that its own words on the matter get here.
fn remaining(deadline: Instant) -> u32 {
    let left = deadline.saturating_duration_since(Instant::now());
    let margin = (left / 10).min(Duration::from_millis(50));
    u32::try_from(left.saturating_sub(margin).as_millis()).unwrap_or(u32::MAX)
}

impl Shared {
    /// Sends a request, or leaves that to the reading task.
    #[allow(clippy::type_complexity)]
    fn begin(
        &self,
        request: Request,
        deadline: Instant,
    ) -> Result<(u32, oneshot::Receiver<Result<Answer, &'static str>>), String> {
        let mut state = self.state.borrow_mut();
        match state.link {
            Link::Off => return Err(OFF.into()),
            Link::Gone => return Err(GONE.into()),
            Link::Away | Link::There(_) => {}
        }
        if state.pending.len() >= MAX_PENDING {
            return Err(format!("{MAX_PENDING} look-ups wait for answers, which is the limit"));
        }
        let id = self.new_id(&state);
        let frame = RequestFrame { id, remaining_ms: remaining(deadline), request };
        let datagram = frame
            .encode()
            .map_err(|_| format!("the question is larger than {} bytes", message::MAX_REQUEST))?;
        let sent = match &state.link {
            Link::There(channel) => channel.try_send(&datagram).is_ok(),
            _ => false,
        };
        let (reply, replied) = oneshot::channel();
        state.pending.insert(id, Pending { datagram, deadline, reply, sent, retried: false });
        if !sent {
            state.unsent.push_back(id);
            self.changed.notify_one();
        }
        Ok((id, replied))
    }

    fn new_id(&self, state: &State) -> u32 {
        loop {
            let id = self.last_id.get().wrapping_add(1);
            self.last_id.set(id);
            if !state.pending.contains_key(&id) {
                return id;
            }
        }
    }

    /// Whether this is still the channel, and not one that was connected in the meantime.
    fn is_current(&self, channel: &Rc<Socket>) -> bool {
        matches!(&self.state.borrow().link, Link::There(now) if Rc::ptr_eq(now, channel))
    }

    /// The channel has ended by itself.
    fn ended(&self, channel: &Rc<Socket>) {
        if self.is_current(channel) {
            let mut state = self.state.borrow_mut();
            state.lost();
            state.link = Link::Away;
        }
    }

    fn dispatch(&self, id: u32, answer: Answer) {
        // Who asked may have given up.
        if let Some(pending) = self.state.borrow_mut().pending.remove(&id) {
            let _ = pending.reply.send(Ok(answer));
        }
    }
}

impl State {
    /// The channel is gone: decides what becomes of each request.
    fn lost(&mut self) {
        let State { pending, unsent, .. } = self;
        // Cancellations concern the old process only.
        unsent.retain(|id| pending.contains_key(id));
        let sent: Vec<u32> =
            pending.iter().filter(|(_, request)| request.sent).map(|(id, _)| *id).collect();
        for id in sent {
            let Some(mut request) = pending.remove(&id) else { continue };
            if request.retried {
                let _ = request.reply.send(Err(DIED_TWICE));
                continue;
            }
            (request.sent, request.retried) = (false, true);
            pending.insert(id, request);
            unsent.push_back(id);
        }
    }

    fn fail_all(&mut self, why: &'static str) {
        self.unsent.clear();
        for (_, request) in self.pending.drain() {
            let _ = request.reply.send(Err(why));
        }
    }

    /// Writes what waits; returns whether it is worth while to wait for room for the rest.
    fn flush(&mut self, channel: &Socket) -> bool {
        while let Some(id) = self.unsent.pop_front() {
            let written = if let Some(request) = self.pending.get_mut(&id) {
                message::patch_remaining(&mut request.datagram, remaining(request.deadline));
                let written = channel.try_send(&request.datagram);
                request.sent = written.is_ok();
                written
            } else {
                let cancel = RequestFrame { id, remaining_ms: 0, request: Request::Cancel };
                cancel.encode().map_or(Ok(()), |datagram| channel.try_send(&datagram))
            };
            if let Err(error) = written {
                self.unsent.push_front(id);
                // With any other error the channel is dead, which reading it will show.
                return error.kind() == ErrorKind::WouldBlock;
            }
        }
        false
    }
}

/// The task that reads answers, until the last client is dropped and aborts it.
async fn read(shared: Rc<Shared>) {
    // One byte more than a datagram has, so that one that is too large shows.
    let mut buffer = vec![0; CHUNK + 2];
    let mut assembly = (Weak::new(), Assembly::default());
    loop {
        let (channel, away) = match &shared.state.borrow().link {
            Link::There(channel) => (Some(channel.clone()), false),
            Link::Away => (None, true),
            Link::Off | Link::Gone => (None, false),
        };
        let Some(channel) = channel else {
            if !away {
                shared.changed.notified().await;
            } else if timeout(AWAY, still_away(&shared)).await.is_err() {
                let mut state = shared.state.borrow_mut();
                state.fail_all(GONE);
                state.link = Link::Gone;
            }
            continue;
        };
        // Half an answer of an old channel has no end on the new one.
        if assembly.0.as_ptr() != Rc::as_ptr(&channel) {
            assembly = (Rc::downgrade(&channel), Assembly::default());
        }
        let full = shared.state.borrow_mut().flush(&channel);
        let alive = tokio::select! {
            biased;
            alive = receive(&shared, &channel, &mut buffer, &mut assembly.1) => alive,
            () = shared.changed.notified() => true,
            () = channel.room(), if full => true,
        };
        if !alive {
            shared.ended(&channel);
        }
    }
}

/// Waits until the process is away no longer.
async fn still_away(shared: &Shared) {
    while matches!(shared.state.borrow().link, Link::Away) {
        shared.changed.notified().await;
    }
}

/// Reads until the channel ends: returns false.
async fn receive(
    shared: &Shared,
    channel: &Socket,
    buffer: &mut [u8],
    assembly: &mut Assembly,
) -> bool {
    loop {
        match channel.recv(buffer).await {
            Ok(0) => return false,
            Ok(length) => match assembly.take(&buffer[..length]) {
                Ok(Some((id, answer))) => shared.dispatch(id, answer),
                Ok(None) => {}
                Err(malformed) => {
                    tracing::error!(%malformed, "the look-up process cannot be understood");
                }
            },
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// Removes a request that nobody waits for any more, and says so to the process.
struct Forget {
    shared: Rc<Shared>,
    id: u32,
}

impl Drop for Forget {
    fn drop(&mut self) {
        let mut state = self.shared.state.borrow_mut();
        // One that still waits to be sent becomes a cancellation of nothing, which does no harm.
        if state.pending.remove(&self.id).is_some_and(|pending| pending.sent) {
            state.unsent.push_back(self.id);
            self.shared.changed.notify_one();
        }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
