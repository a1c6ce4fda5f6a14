//! Asking the key process, from an async network worker.
//!
//! One [`KeyClient`] for each worker, cheap to clone. A request is written straight from the task
//! that asks; one task per client reads the answers. When the key process dies, the client waits
//! for [`KeyClient::set_channel`]: what was in flight is sent once more, because signing twice
//! harms nobody, and fails with [`KeyError::Restarted`] if the key process dies on it again.
//!
//! Programs share the key process ([`KeyClient::for_program`]).
//!
//! A key that the key process no longer knows (it was restarted, or had too many open) is opened
//! again without the caller's help.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::net::UnixDatagram;
use tokio::sync::{Notify, broadcast, oneshot};
use zeroize::Zeroizing;

use crate::ipc::{
    self, Answer, Event, MAX_MESSAGE, MAX_SIGN, Message, PinPrompt, Request, RequestFrame,
};
use crate::pin::Pin;
use crate::{KeyError, KeyId, KeyInfo, SignScheme, TokenStatus};

/// How long a request may take unless [`KeyClient::with_timeout`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// The key process says itself what was not ready in time; it gets this much longer to do so.
const GRACE: Duration = Duration::from_millis(500);
/// Signatures of one program with one key that are on their way at once: enough to keep a token busy with which the
/// pool has as many sessions as it does by default. The key process takes what comes in the order in which it comes; a
/// program that has begun a thousand handshakes must not have a thousand signatures made before another's one.
const ON_THEIR_WAY: usize = 12;
/// No longer does a signature wait for others of its program and key. A key for which this matters is slow or waits for
/// its PIN; the key process knows, and says so in time.
const PATIENCE: Duration = Duration::from_secs(1);
/// Events that a slow listener may fall behind.
const EVENTS: usize = 64;

/// A connection to the key process.
#[derive(Clone)]
pub struct KeyClient {
    shared: Arc<Shared>,
    timeout: Duration,
    program: u64,
    /// Ends the reading task with the last clone.
    _reader: Arc<AbortOnDrop>,
}

/// A question for a PIN, or the end of one.
pub type PinEvent = Event;

struct Shared {
    state: Mutex<State>,
    /// A new channel, or something to write.
    changed: Notify,
    events: broadcast::Sender<PinEvent>,
}

#[derive(Default)]
struct State {
    channel: Option<Arc<UnixDatagram>>,
    last_id: u32,
    pending: HashMap<u32, Pending>,
    /// Requests that could not be written at once.
    unsent: VecDeque<u32>,
    /// Where anything is on its way.
    lines: HashMap<Line, Waiting>,
    prompts: Vec<PinPrompt>,
}

/// A program, and a key that signs for it.
type Line = (u64, KeyId);

/// What a program wants of a key.
#[derive(Default)]
struct Waiting {
    on_their_way: usize,
    /// Longest first. One that is not pending any more is gone.
    requests: VecDeque<u32>,
}

struct Pending {
    line: Option<Line>,
    /// It is on its way, and not in the queue of its line.
    counted: bool,
    /// Wiped, because it may hold a PIN.
    datagram: Zeroizing<Vec<u8>>,
    deadline: Instant,
    reply: oneshot::Sender<Reply>,
    /// It was written to the channel.
    sent: bool,
    /// It was written to an earlier channel too.
    retried: bool,
    /// Sending it again is harmless. A PIN answers a question of one key process only.
    again: bool,
}

/// What became of a request.
struct Reply {
    /// It was sent to two key processes.
    retried: bool,
    answer: Result<Owned, KeyError>,
}

/// An answer that has left its datagram.
enum Owned {
    Opened(KeyInfo),
    Bytes(Vec<u8>),
    Certificates(Vec<Vec<u8>>),
    Done,
    Status(Vec<TokenStatus>),
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl KeyClient {
    /// Takes this worker's end of the channel. Must be called inside a tokio runtime.
    pub fn new(channel: OwnedFd) -> std::io::Result<Self> {
        let client = Self::disconnected();
        client.set_channel(channel)?;
        Ok(client)
    }

    /// A client whose key process is not there yet: requests wait for
    /// [`set_channel`](Self::set_channel).
    pub fn disconnected() -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Notify::new(),
            events: broadcast::channel(EVENTS).0,
        });
        let reader = tokio::spawn(read(shared.clone())).abort_handle();
        let reader = Arc::new(AbortOnDrop(reader));
        Self { shared, timeout: DEFAULT_TIMEOUT, program: 0, _reader: reader }
    }

    /// The same client with another time limit for its requests; it includes waiting for a PIN.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same client for a program, which is any number. Programs share the key process: of each only a few
    /// signatures with a key are made before those of others.
    #[must_use]
    pub fn for_program(&self, program: u64) -> Self {
        Self { program, ..self.clone() }
    }

    /// The key process was restarted: this is the new channel to it.
    pub fn set_channel(&self, channel: OwnedFd) -> std::io::Result<()> {
        // Datagrams over a connection is what both socket types do; only the kernel sees that it
        // is SEQPACKET, which tells us when the other end is closed.
        let channel = std::os::unix::net::UnixDatagram::from(channel);
        channel.set_nonblocking(true)?;
        let channel = Arc::new(UnixDatagram::from_std(channel)?);
        let mut state = self.shared.state.lock();
        let prompts = state.lost();
        state.channel = Some(channel);
        drop(state);
        self.shared.withdraw(prompts);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Opens a private key. The caller keeps the result; opening is not cheap.
    pub async fn open(&self, uri: &str) -> Result<KeyInfo, KeyError> {
        match self.ask(Request::Open { uri }).await? {
            Owned::Opened(info) => Ok(KeyInfo { uri: uri.to_owned(), ..info }),
            _ => Err(other_answer()),
        }
    }

    /// Signs `message`, not hashed, with an opened key.
    ///
    /// [`KeyError::KeyChanged`] means that the URI leads to another key now: open it again, and
    /// read its certificates again.
    pub async fn sign(
        &self,
        key: &KeyInfo,
        scheme: SignScheme,
        message: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        if message.len() > MAX_SIGN {
            return Err(KeyError::Unsupported(format!("a message over {MAX_SIGN} bytes")));
        }
        let scheme = scheme.number();
        let ask = |uri| Request::Sign { key: key.id, scheme, uri, message };
        let mut reply = self.ask_once(ask(""), false).await;
        if matches!(reply.answer, Err(KeyError::UnknownKey)) {
            reply = self.ask_once(ask(&key.uri), reply.retried).await;
        }
        match reply.answer? {
            Owned::Bytes(signature) => Ok(signature),
            _ => Err(other_answer()),
        }
    }

    /// Reads certificates (DER), leaf first, from a file or a token.
    pub async fn certificates(&self, uri: &str) -> Result<Vec<Vec<u8>>, KeyError> {
        match self.ask(Request::Certificates { uri }).await? {
            Owned::Certificates(chain) => Ok(chain),
            _ => Err(other_answer()),
        }
    }

    /// The state of the tokens that were used so far.
    pub async fn status(&self) -> Result<Vec<TokenStatus>, KeyError> {
        match self.ask(Request::Status).await? {
            Owned::Status(tokens) => Ok(tokens),
            _ => Err(other_answer()),
        }
    }

    /// Questions for PINs from now on. Every worker hears of each; see also
    /// [`prompts`](Self::prompts).
    pub fn events(&self) -> broadcast::Receiver<PinEvent> {
        self.shared.events.subscribe()
    }

    /// The questions that are open now, for a PIN program that has just come.
    pub fn prompts(&self) -> Vec<PinPrompt> {
        self.shared.state.lock().prompts.clone()
    }

    /// Answers a question; `None`: the person refuses. Answering one that is no longer open does
    /// nothing.
    pub async fn submit_pin(&self, prompt: u32, pin: Option<&Pin>) -> Result<(), KeyError> {
        self.shared.state.lock().prompts.retain(|open| open.prompt != prompt);
        match self.ask(Request::Pin { prompt, pin: pin.map(Pin::reveal) }).await? {
            Owned::Done => Ok(()),
            _ => Err(other_answer()),
        }
    }

    async fn ask(&self, request: Request<'_>) -> Result<Owned, KeyError> {
        self.ask_once(request, false).await.answer
    }

    /// Asks; `retried` when this is the second half of something that was sent twice already.
    async fn ask_once(&self, request: Request<'_>, retried: bool) -> Reply {
        let (reply, replied) = oneshot::channel();
        let deadline = Instant::now() + self.timeout;
        let deadline_ms = u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX);
        let again = !matches!(request, Request::Pin { .. });
        let line = match &request {
            Request::Sign { key, .. } => Some((self.program, *key)),
            _ => None,
        };
        // Room enough that a PIN is never copied by growing.
        let mut datagram = Zeroizing::new(Vec::with_capacity(256));
        let (id, counted) = {
            let mut state = self.shared.state.lock();
            let id = state.new_id();
            RequestFrame { id, deadline_ms, request }.encode(&mut datagram);
            if datagram.len() > MAX_MESSAGE {
                let text = format!("a request over {MAX_MESSAGE} bytes");
                return Reply { retried, answer: Err(KeyError::Unsupported(text)) };
            }
            let counted = line.is_none_or(|line| state.begin(line, id));
            // What cannot be written now is left to the reading task.
            let channel = state.channel.as_ref().filter(|_| counted);
            let sent = channel.is_some_and(|channel| channel.try_send(&datagram).is_ok());
            let pending =
                Pending { line, counted, datagram, deadline, reply, sent, retried, again };
            state.pending.insert(id, pending);
            if counted && !sent {
                state.unsent.push_back(id);
                self.shared.changed.notify_one();
            }
            (id, counted)
        };
        let _forget = Forget { shared: &self.shared, id };
        let mut replied = pin!(replied);
        let limit = self.timeout + GRACE;
        let patience = if counted { limit } else { limit.min(PATIENCE) };
        let mut outcome = tokio::time::timeout(patience, replied.as_mut()).await;
        if outcome.is_err() && patience < limit {
            self.shared.send_anyhow(id);
            outcome = tokio::time::timeout(limit.saturating_sub(patience), replied).await;
        }
        match outcome {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Reply { retried, answer: Err(KeyError::Restarted) },
            Err(_) => {
                let text = "the key process did not answer".to_owned();
                Reply { retried, answer: Err(KeyError::Timeout(text)) }
            }
        }
    }
}

impl std::fmt::Debug for KeyClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyClient").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

impl State {
    fn new_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if self.last_id != 0 && !self.pending.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// A request of this line; returns whether it may go on its way, or waits in the line.
    fn begin(&mut self, line: Line, id: u32) -> bool {
        let waiting = self.lines.entry(line).or_default();
        let goes = waiting.on_their_way < ON_THEIR_WAY;
        if goes {
            waiting.on_their_way += 1;
        } else {
            waiting.requests.push_back(id);
        }
        goes
    }

    /// This is not on its way any more: the next of its line is to be sent.
    fn end(&mut self, request: &Pending) {
        let (Some(line), true) = (request.line, request.counted) else { return };
        let Some(waiting) = self.lines.get_mut(&line) else { return };
        waiting.on_their_way -= 1;
        while waiting.on_their_way < ON_THEIR_WAY
            && let Some(next) = waiting.requests.pop_front()
        {
            if let Some(pending) = self.pending.get_mut(&next).filter(|pending| !pending.counted) {
                pending.counted = true;
                waiting.on_their_way += 1;
                self.unsent.push_back(next);
            }
        }
        if waiting.on_their_way == 0 {
            self.lines.remove(&line);
        }
    }

    /// Takes a request out; returns it, and whether others are to be sent for it.
    fn remove(&mut self, id: u32) -> (Option<Pending>, bool) {
        let removed = self.pending.remove(&id);
        let unsent = self.unsent.len();
        if let Some(request) = &removed {
            self.end(request);
        }
        (removed, self.unsent.len() > unsent)
    }

    /// The channel is gone: decides what becomes of each request. Returns the questions that the
    /// dead key process had put.
    fn lost(&mut self) -> Vec<PinPrompt> {
        self.channel = None;
        let sent: Vec<u32> =
            self.pending.iter().filter(|(_, request)| request.sent).map(|(id, _)| *id).collect();
        for id in sent {
            let Some(request) = self.pending.get_mut(&id) else { continue };
            if !request.retried && request.again {
                request.sent = false;
                request.retried = true;
                self.unsent.push_back(id);
            } else if let (Some(request), _) = self.remove(id) {
                let answer = Err(KeyError::Restarted);
                let _ = request.reply.send(Reply { retried: true, answer });
            }
        }
        std::mem::take(&mut self.prompts)
    }

    /// Writes what waits; returns whether it is worth while to wait for room for the rest.
    fn flush(&mut self, channel: &UnixDatagram) -> bool {
        while let Some(id) = self.unsent.pop_front() {
            let Some(request) = self.pending.get_mut(&id) else { continue };
            let left = request.deadline.saturating_duration_since(Instant::now());
            let left = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
            ipc::patch_deadline(&mut request.datagram, left);
            match channel.try_send(&request.datagram) {
                Ok(_) => request.sent = true,
                Err(error) => {
                    self.unsent.push_front(id);
                    // With any other error the channel is dead, which reading it will show.
                    return error.kind() == ErrorKind::WouldBlock;
                }
            }
        }
        false
    }
}

/// The task that reads answers, until the last client is dropped and aborts it.
async fn read(shared: Arc<Shared>) {
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let channel = shared.state.lock().channel.clone();
        let Some(channel) = channel else {
            shared.changed.notified().await;
            continue;
        };
        let full = shared.state.lock().flush(&channel);
        let alive = tokio::select! {
            biased;
            alive = receive(&shared, &channel, &mut buffer) => alive,
            () = shared.changed.notified() => true,
            _ = channel.writable(), if full => true,
        };
        if !alive {
            let mut state = shared.state.lock();
            // Unless somebody has set a new channel in the meantime.
            if state.channel.as_ref().is_some_and(|now| Arc::ptr_eq(now, &channel)) {
                let prompts = state.lost();
                drop(state);
                shared.withdraw(prompts);
            }
        }
    }
}

/// Reads until the channel ends: returns false.
async fn receive(shared: &Shared, channel: &UnixDatagram, buffer: &mut [u8]) -> bool {
    loop {
        match channel.try_recv(buffer) {
            Ok(0) => return false,
            Ok(len) => shared.dispatch(&buffer[..len]),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => {}
                ErrorKind::WouldBlock => {
                    if channel.readable().await.is_err() {
                        return false;
                    }
                }
                _ => return false,
            },
        }
    }
}

impl Shared {
    /// Tells listeners that the process that put these questions is gone.
    fn withdraw(&self, prompts: Vec<PinPrompt>) {
        for prompt in prompts {
            let done = Event::PinDone { prompt: prompt.prompt, accepted: false };
            let _ = self.events.send(done); // nobody may listen
        }
    }

    /// It has waited for others of its line for long enough.
    fn send_anyhow(&self, id: u32) {
        let mut state = self.state.lock();
        let State { pending, unsent, lines, .. } = &mut *state;
        let Some(request) = pending.get_mut(&id).filter(|request| !request.counted) else { return };
        request.counted = true;
        if let Some(line) = request.line {
            lines.entry(line).or_default().on_their_way += 1;
        }
        unsent.push_back(id);
        self.changed.notify_one();
    }

    fn dispatch(&self, datagram: &[u8]) {
        match ipc::decode_message(datagram) {
            Ok(Message::Answer { id, answer }) => {
                let (pending, more) = self.state.lock().remove(id);
                if more {
                    self.changed.notify_one();
                }
                if let Some(pending) = pending {
                    let answer = Owned::from_answer(answer);
                    let _ = pending.reply.send(Reply { retried: pending.retried, answer });
                }
            }
            Ok(Message::Event(event)) => {
                let mut state = self.state.lock();
                match &event {
                    Event::PinNeeded(prompt) => {
                        state.prompts.retain(|open| open.token != prompt.token);
                        state.prompts.push(prompt.clone());
                    }
                    Event::PinDone { prompt, .. } => {
                        state.prompts.retain(|open| open.prompt != *prompt);
                    }
                    Event::PinIdle { .. } => {}
                }
                drop(state);
                let _ = self.events.send(event); // nobody may listen
            }
            Err(malformed) => tracing::error!(%malformed, "the key process is of another version"),
        }
    }
}

impl Owned {
    fn from_answer(answer: Answer<'_>) -> Result<Self, KeyError> {
        Ok(match answer {
            Answer::Opened { key, algorithm, spki_der } => Self::Opened(KeyInfo {
                id: KeyId(key.0),
                uri: String::new(),
                spki_der: spki_der.to_vec(),
                algorithm,
            }),
            Answer::Signature(bytes) => Self::Bytes(bytes.to_vec()),
            Answer::Certificates(chain) => {
                Self::Certificates(chain.into_iter().map(<[u8]>::to_vec).collect())
            }
            Answer::Done => Self::Done,
            Answer::Status(tokens) => Self::Status(tokens),
            Answer::Failed(error) => return Err(error),
        })
    }
}

/// Removes a request that nobody waits for any more.
struct Forget<'a> {
    shared: &'a Shared,
    id: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let (pending, more) = self.shared.state.lock().remove(self.id);
        drop(pending);
        if more {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn other_answer() -> KeyError {
    KeyError::Protocol("the answer is to another question".into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram as Blocking;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use tokio::task::{JoinHandle, yield_now};

    use super::*;
    use crate::ipc::decode_request;

    type Signed = Result<Vec<u8>, KeyError>;

    /// A client, and the other end of its channel.
    fn client() -> (KeyClient, Blocking) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (KeyClient::new(ours).unwrap(), theirs.into())
    }

    /// Asks for so many signatures for a program.
    fn ask(client: &KeyClient, program: u64, key: u8, count: usize) -> Vec<JoinHandle<Signed>> {
        let key = KeyInfo {
            id: KeyId([key; 16]),
            uri: String::new(),
            spki_der: Vec::new(),
            algorithm: crate::KeyAlgorithm::P256,
        };
        let client = client.for_program(program);
        let one = || {
            let (client, key) = (client.clone(), key.clone());
            let message = program.to_le_bytes();
            tokio::spawn(
                async move { client.sign(&key, SignScheme::EcdsaP256Sha256, &message).await },
            )
        };
        std::iter::repeat_with(one).take(count).collect()
    }

    /// What has come to the key process: numbers of requests, and of programs.
    async fn arrived(channel: &Blocking) -> Vec<(u32, u64)> {
        for _ in 0..1000 {
            yield_now().await;
        }
        let mut buffer = [0; 1024];
        let mut come = Vec::new();
        while let Ok(len) = channel.recv(&mut buffer) {
            let frame = decode_request(&buffer[..len]).unwrap();
            let Request::Sign { message, .. } = frame.request else { panic!("a signature") };
            come.push((frame.id, u64::from_le_bytes(message.try_into().unwrap())));
        }
        come
    }

    fn answer(channel: &Blocking, id: u32) {
        let mut datagram = Vec::new();
        Message::Answer { id, answer: Answer::Signature(b"signed") }.encode(&mut datagram);
        channel.send(&datagram).unwrap();
    }

    fn of(come: &[(u32, u64)], program: u64) -> usize {
        come.iter().filter(|(_, whose)| *whose == program).count()
    }

    #[tokio::test]
    async fn the_signature_of_one_program_does_not_wait_for_a_hundred_of_another() {
        let (client, channel) = client();
        let mut tasks = ask(&client, 1, 1, 100);
        let come = arrived(&channel).await;
        assert_eq!(come.len(), ON_THEIR_WAY);
        tasks.extend(ask(&client, 2, 1, 1));
        tasks.extend(ask(&client, 1, 2, 1));
        let more = arrived(&channel).await;
        assert_eq!((of(&more, 2), of(&more, 1)), (1, 1), "another program, and another key");
        let (mut open, mut all) = ([come, more].concat(), 102 - ON_THEIR_WAY - 2);
        while let Some((id, _)) = open.pop() {
            answer(&channel, id);
            let next = arrived(&channel).await;
            assert!(next.len() <= 1, "one follows another");
            all -= next.len();
            open.extend(next);
        }
        assert_eq!(all, 0);
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), b"signed");
        }
        assert!(client.shared.state.lock().lines.is_empty(), "nothing is kept");
    }

    #[tokio::test]
    async fn who_does_not_wait_any_more_gives_way() {
        let (client, channel) = client();
        let mut tasks = ask(&client, 1, 1, ON_THEIR_WAY + 10);
        assert_eq!(arrived(&channel).await.len(), ON_THEIR_WAY);
        // In the line, and on their way.
        let left = tasks.split_off(ON_THEIR_WAY);
        left[..5].iter().for_each(JoinHandle::abort);
        assert_eq!(arrived(&channel).await.len(), 0);
        tasks[..7].iter().for_each(JoinHandle::abort);
        assert_eq!(arrived(&channel).await.len(), 5);
        tasks.iter().chain(&left).for_each(JoinHandle::abort);
        assert_eq!(arrived(&channel).await.len(), 0);
        assert!(client.shared.state.lock().lines.is_empty(), "nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_key_is_for_the_key_process_to_judge() {
        let (client, channel) = client();
        let tasks = ask(&client, 1, 1, 3 * ON_THEIR_WAY);
        assert_eq!(arrived(&channel).await.len(), ON_THEIR_WAY);
        tokio::time::sleep(PATIENCE).await;
        let rest = arrived(&channel).await;
        assert_eq!(rest.len(), 2 * ON_THEIR_WAY);
        tasks.iter().for_each(JoinHandle::abort);
        assert_eq!(arrived(&channel).await.len(), 0);
        assert!(client.shared.state.lock().lines.is_empty(), "nothing is kept");
    }

    #[tokio::test]
    async fn what_waits_goes_to_the_next_key_process() {
        let (client, channel) = client();
        let tasks = ask(&client, 1, 1, 2 * ON_THEIR_WAY);
        assert_eq!(arrived(&channel).await.len(), ON_THEIR_WAY);
        drop(channel);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let channel = Blocking::from(theirs);
        client.set_channel(ours).unwrap();
        let mut done = 0;
        while done < tasks.len() {
            let come = arrived(&channel).await;
            assert!(!come.is_empty() && come.len() <= ON_THEIR_WAY, "{} after {done}", come.len());
            done += come.len();
            for (id, _) in come {
                answer(&channel, id);
            }
        }
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), b"signed");
        }
    }
}
