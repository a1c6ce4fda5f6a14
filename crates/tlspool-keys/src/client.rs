//! Asking the key process, from an async network worker.
//!
//! One [`KeyClient`] for each worker, cheap to clone. A request is written straight from the task
//! that asks; one task per client reads the answers. When the key process dies, the client waits
//! for [`KeyClient::set_channel`]: what was in flight is sent once more, because signing twice
//! harms nobody, and fails with [`KeyError::Restarted`] if the key process dies on it again.
//!
//! A key that the key process no longer knows (it was restarted, or had too many open) is opened
//! again without the caller's help.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
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
/// Events that a slow listener may fall behind.
const EVENTS: usize = 64;

/// A connection to the key process.
#[derive(Clone)]
pub struct KeyClient {
    shared: Arc<Shared>,
    timeout: Duration,
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
    prompts: Vec<PinPrompt>,
}

struct Pending {
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
        Self { shared, timeout: DEFAULT_TIMEOUT, _reader: Arc::new(AbortOnDrop(reader)) }
    }

    /// The same client with another time limit for its requests; it includes waiting for a PIN.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
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
        // Room enough that a PIN is never copied by growing.
        let mut datagram = Zeroizing::new(Vec::with_capacity(256));
        let id = {
            let mut state = self.shared.state.lock();
            let id = state.new_id();
            RequestFrame { id, deadline_ms, request }.encode(&mut datagram);
            if datagram.len() > MAX_MESSAGE {
                let text = format!("a request over {MAX_MESSAGE} bytes");
                return Reply { retried, answer: Err(KeyError::Unsupported(text)) };
            }
            // What cannot be written now is left to the reading task.
            let channel = state.channel.as_ref();
            let sent = channel.is_some_and(|channel| channel.try_send(&datagram).is_ok());
            let pending = Pending { datagram, deadline, reply, sent, retried, again };
            state.pending.insert(id, pending);
            if !sent {
                state.unsent.push_back(id);
                self.shared.changed.notify_one();
            }
            id
        };
        let _forget = Forget { shared: &self.shared, id };
        match tokio::time::timeout(self.timeout + GRACE, replied).await {
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

    /// The channel is gone: decides what becomes of each request. Returns the questions that the
    /// dead key process had put.
    fn lost(&mut self) -> Vec<PinPrompt> {
        self.channel = None;
        let State { pending, unsent, .. } = self;
        let sent: Vec<u32> =
            pending.iter().filter(|(_, request)| request.sent).map(|(id, _)| *id).collect();
        for id in sent {
            let Some(mut request) = pending.remove(&id) else { continue };
            if request.retried || !request.again {
                let answer = Err(KeyError::Restarted);
                let _ = request.reply.send(Reply { retried: true, answer });
                continue;
            }
            request.sent = false;
            request.retried = true;
            pending.insert(id, request);
            unsent.push_back(id);
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

    fn dispatch(&self, datagram: &[u8]) {
        match ipc::decode_message(datagram) {
            Ok(Message::Answer { id, answer }) => {
                let pending = self.state.lock().pending.remove(&id);
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
        let pending = self.shared.state.lock().pending.remove(&self.id);
        drop(pending);
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
