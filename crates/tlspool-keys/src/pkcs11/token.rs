//! One token: its lanes (sessions), its queue, its worker threads, and how it heals.
//!
//! ```text
//! submit ──► queue ──► worker thread + lane ──► reply
//!              ▲                 │ needs a PIN
//!              └── pin_arrived ── parked
//! ```
//!
//! A person may take longer than those who wait. The question stays for a while when they have given up, and the
//! answer unlocks the token for whoever comes next ([`Work::Unlock`]).
//!
//! A lane is a session and the objects found in it. Whoever works takes one out of the idle list
//! and puts it back: a worker thread, a caller of the synchronous interface, or the thread that
//! received a request when the token is known to be fast ([`Token::sign_now`]), which saves two
//! context switches.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::guarded::Guarded;
use super::load::{Found, Module};
use super::login::{Attempts, Wanted};
use super::watch::{Caller, Watch};
use super::work::{Done, Job, PinWanted, Work};
use super::{Fault, objects, sign};
use crate::algorithm::Payload;
use crate::files::Files;
use crate::pin::{PinMemory, PinSource};
use crate::uri::Pkcs11Uri;
use crate::{KeyError, KeyId, KeyInfo, SignScheme, TokenName, TokenStatus};

/// Objects a lane remembers; beyond that they are searched again.
const MAX_HANDLES: usize = 1024;
/// Copies in one lane; further keys are used where they are.
const MAX_COPIES: usize = 64;
/// How often a copied key is looked for on the token: one that was destroyed there stops signing.
const CHECK_COPY: Duration = Duration::from_mins(1);
/// How long a person may still answer when those who waited for the PIN have given up.
const STILL_ASKED: Duration = Duration::from_mins(10);
/// Signatures faster than this are made on the thread that received the request; one with a large
/// RSA key in a file takes as long.
const FAST_MICROS: u32 = 1500;

/// A token, wherever it is plugged in at the moment.
pub(crate) struct Token {
    name: TokenName,
    module: Arc<Module>,
    pins: Arc<dyn PinSource>,
    memory: Arc<PinMemory>,
    watch: Arc<Watch>,
    max_lanes: usize,
    max_queue: usize,
    /// How often a person is asked before those who wait are told that it is locked.
    prompts: u32,
    files: Files,
    login: Mutex<Attempts>,
    /// Held while objects are searched or copied.
    objects: Mutex<()>,
    logged_in: AtomicBool,
    /// By a person at its own keypad, who would have to do it again.
    at_keypad: AtomicBool,
    /// The token said, when last asked, that a wrong PIN was tried.
    counted_low: AtomicBool,
    state: Mutex<State>,
    work: Condvar,
    lane_free: Condvar,
    /// About the least time a signature took lately; at first unknown, which counts as slow. The
    /// average would rise when the machine is busy, which says nothing about the token.
    micros: AtomicU32,
    signatures: AtomicU64,
    failures: AtomicU64,
    last_error: Mutex<String>,
}

#[derive(Default)]
struct State {
    idle: Vec<Lane>,
    lanes: usize,
    queue: VecDeque<Job>,
    parked: Vec<Job>,
    /// Jobs that worker threads are at: neither queued nor parked.
    running: usize,
    /// Until then the answer of a person unlocks the token, although nobody waits for it any more.
    still_asked: Option<Instant>,
    threads: usize,
    resting: usize,
    answers: Answers,
    closed: bool,
}

/// Counts what came in answer to questions for a PIN, so that nothing is missed between a failed
/// login and parking.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Answers {
    pins: u64,
    denials: u64,
}

struct Lane {
    session: Option<Open>,
    caller: Arc<Caller>,
}

/// An open session, and the keys found in it.
///
/// A software token that keeps its objects in files (SoftHSM2) opens and locks them for every
/// signature, a third of the cost. There the key is copied into the memory of the session, if the
/// token permits: the copy is as sensitive as the original and goes with the session. Making it
/// excludes searching ([`Token::objects`]), because SoftHSM2 shows copies half made; and it is kept
/// as long as the session, because SoftHSM2 never frees the memory of objects.
struct Open {
    session: Session,
    generation: u64,
    in_software: bool,
    /// A signature was begun in it and not finished: it is good for nothing but to be closed.
    begun: bool,
    handles: HashMap<KeyId, Handle>,
}

#[derive(Clone, Copy)]
struct Handle {
    object: ObjectHandle,
    /// When the original of a copy was last seen.
    copied: Option<Instant>,
    /// It wants its PIN for every signature.
    guarded: bool,
}

/// A private key on a token.
pub(crate) struct TokenKey {
    pub(crate) token: Arc<Token>,
    pub(crate) info: KeyInfo,
    pub(crate) uri: Pkcs11Uri,
}

/// What a token needs from the store it belongs to.
pub(crate) struct Surroundings {
    pub(crate) pins: Arc<dyn PinSource>,
    pub(crate) memory: Arc<PinMemory>,
    pub(crate) watch: Arc<Watch>,
    pub(crate) sessions: usize,
    pub(crate) queue: usize,
    pub(crate) prompts: u32,
    pub(crate) files: Files,
}

impl Token {
    pub(crate) fn new(module: Arc<Module>, found: &Found, around: &Surroundings) -> Self {
        let permitted = match found.info.max_session_count() {
            cryptoki::slot::Limit::Max(n) if n > 0 => usize::try_from(n).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        Self {
            name: found.name.clone(),
            module,
            pins: around.pins.clone(),
            memory: around.memory.clone(),
            watch: around.watch.clone(),
            max_lanes: around.sessions.clamp(1, permitted),
            max_queue: around.queue,
            prompts: around.prompts,
            files: around.files.clone(),
            login: Mutex::default(),
            objects: Mutex::new(()),
            logged_in: AtomicBool::new(false),
            at_keypad: AtomicBool::new(false),
            counted_low: AtomicBool::new(false),
            state: Mutex::default(),
            work: Condvar::new(),
            lane_free: Condvar::new(),
            micros: AtomicU32::new(u32::MAX),
            signatures: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &TokenName {
        &self.name
    }

    pub(crate) fn module(&self) -> &Arc<Module> {
        &self.module
    }

    pub(super) fn memory(&self) -> &PinMemory {
        &self.memory
    }

    pub(super) fn pins(&self) -> &dyn PinSource {
        &*self.pins
    }

    pub(super) fn prompts(&self) -> u32 {
        self.prompts
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    pub(super) fn login_lock(&self) -> MutexGuard<'_, Attempts> {
        self.login.lock()
    }

    pub(super) fn counted_low(&self) -> bool {
        self.counted_low.load(Ordering::Relaxed)
    }

    pub(super) fn set_counted_low(&self, yes: bool) {
        self.counted_low.store(yes, Ordering::Relaxed);
    }

    pub(super) fn set_at_keypad(&self) {
        self.at_keypad.store(true, Ordering::Relaxed);
    }

    pub(crate) fn logged_in_at_keypad(&self) -> bool {
        self.at_keypad.load(Ordering::Relaxed)
    }

    pub(super) fn set_logged_out(&self) {
        self.logged_in.store(false, Ordering::Relaxed);
    }

    /// The token is logged in to. If it was not before, what waits for a person goes on, whoever did it, and
    /// nobody need answer any more.
    pub(super) fn unlocked(&self) {
        if self.logged_in.swap(true, Ordering::Relaxed) {
            return;
        }
        self.pins.unlocked(&self.name);
        let mut state = self.state.lock();
        state.answers.pins += 1;
        state.still_asked = None;
        let parked = std::mem::take(&mut state.parked);
        // The threads that parked it are there.
        state.queue.extend(parked);
        drop(state);
        self.work.notify_all();
    }

    pub(super) fn caller(&self) -> Arc<Caller> {
        self.watch.caller(&self.module.name)
    }

    /// Queues work for a worker thread, starting one if all are busy.
    pub(crate) fn submit(self: &Arc<Self>, job: Job) {
        let mut state = self.state.lock();
        if state.queue.len() + state.parked.len() >= self.max_queue {
            drop(state);
            let busy = KeyError::Busy(format!("{}: {} requests", self.name, self.max_queue));
            self.note(&busy);
            (job.reply)(Err(busy));
            return;
        }
        state.queue.push_back(job);
        self.wake(&mut state);
    }

    fn wake(self: &Arc<Self>, state: &mut State) {
        if state.resting == 0 && state.threads < self.max_lanes {
            let token = self.clone();
            let name = "token".to_owned();
            match std::thread::Builder::new().name(name).spawn(move || token.serve()) {
                Ok(_) => state.threads += 1,
                Err(error) => tracing::error!(%error, "cannot start a thread for a token"),
            }
        }
        self.work.notify_one();
    }

    /// A worker thread.
    fn serve(self: Arc<Self>) {
        loop {
            let (job, mut lane, before) = {
                let mut state = self.state.lock();
                loop {
                    if state.closed {
                        return;
                    }
                    if !state.queue.is_empty()
                        && let Some(lane) = self.take_lane(&mut state)
                        && let Some(job) = state.queue.pop_front()
                    {
                        state.running += 1;
                        break (job, lane, state.answers);
                    }
                    state.resting += 1;
                    self.work.wait(&mut state);
                    state.resting -= 1;
                }
            };
            let result = if job.deadline <= Instant::now() {
                let text = format!("{}: waited in its queue", self.name);
                Err(KeyError::Timeout(text).into())
            } else {
                self.run(&mut lane, &job.work, Some(job.deadline))
            };
            self.put_back(lane);
            if let Err(Fault::WaitForPin(_)) = result {
                self.park(job, before);
                continue;
            }
            self.state.lock().running -= 1;
            (job.reply)(result.map_err(|fault| self.fail(fault)));
        }
    }

    /// Keeps a job until a PIN arrives, unless there was an answer since the job was taken.
    fn park(self: &Arc<Self>, job: Job, before: Answers) {
        let mut state = self.state.lock();
        state.running -= 1;
        if state.answers.denials != before.denials {
            drop(state);
            (job.reply)(Err(KeyError::Locked(self.name.to_string())));
        } else if state.answers.pins != before.pins {
            state.queue.push_back(job);
            self.wake(&mut state);
        } else if matches!(job.work, Work::Unlock) {
            state.still_asked = Some(job.deadline);
        } else {
            state.parked.push(job);
        }
    }

    /// A PIN arrived: everything that waits for it is tried again.
    pub(crate) fn pin_arrived(self: &Arc<Self>) {
        let mut state = self.state.lock();
        state.answers.pins += 1;
        let mut jobs = std::mem::take(&mut state.parked);
        let now = Instant::now();
        // Of those that wait all may be late, and would not take it.
        let late = (!jobs.is_empty()).then(|| now + STILL_ASKED);
        if let Some(deadline) = state.still_asked.take().or(late)
            && jobs.iter().all(|job| job.deadline <= now)
        {
            jobs.push(Job { work: Work::Unlock, deadline, reply: Box::new(drop) });
        }
        for job in jobs {
            state.queue.push_back(job);
            self.wake(&mut state);
        }
    }

    /// Nobody gives a PIN: fails everything that waits for it.
    pub(crate) fn pin_denied(&self) {
        let mut state = self.state.lock();
        state.answers.denials += 1;
        state.still_asked = None;
        let parked = std::mem::take(&mut state.parked);
        drop(state);
        for job in parked {
            (job.reply)(Err(KeyError::Locked(self.name.to_string())));
        }
    }

    /// Fails what waited for a PIN until its deadline. If nothing is left that waits, a person may still answer.
    pub(crate) fn expire(&self, now: Instant) {
        let mut expired = Vec::new();
        let mut state = self.state.lock();
        let mut at = 0;
        while at < state.parked.len() {
            if state.parked[at].deadline <= now {
                expired.push(state.parked.swap_remove(at));
            } else {
                at += 1;
            }
        }
        let logged_in = self.logged_in.load(Ordering::Relaxed);
        if !expired.is_empty() && state.parked.is_empty() && !logged_in {
            // Of a token that is unlocked only this one signature was to be permitted.
            state.still_asked.get_or_insert(now + STILL_ASKED);
        }
        state.still_asked.take_if(|until| *until <= now);
        drop(state);
        for job in expired {
            (job.reply)(Err(KeyError::Locked(self.name.to_string())));
        }
    }

    /// Who wants its PIN.
    pub(crate) fn pin_wanted(&self) -> PinWanted {
        let state = self.state.lock();
        match state.still_asked {
            // Who runs may have asked just now, and not be parked yet; who is queued may be about to take the answer.
            _ if state.running > 0 || !state.parked.is_empty() || !state.queue.is_empty() => {
                PinWanted::Now
            }
            Some(_) => PinWanted::Later,
            None => PinWanted::No,
        }
    }

    /// Does work on the caller's thread, waiting for a lane if all are taken.
    pub(crate) fn run_here(&self, work: &Work) -> Result<Done, KeyError> {
        let mut lane = {
            let mut state = self.state.lock();
            loop {
                if let Some(lane) = self.take_lane(&mut state) {
                    break lane;
                }
                self.lane_free.wait(&mut state);
            }
        };
        let result = self.run(&mut lane, work, None);
        self.put_back(lane);
        result.map_err(|fault| self.fail(fault))
    }

    /// Signs on the caller's thread if that is quick: a lane is open and idle, nobody queues, and
    /// the token usually answers fast. `None`: use the queue.
    pub(crate) fn sign_now(
        &self,
        key: &TokenKey,
        scheme: SignScheme,
        message: &[u8],
    ) -> Option<Result<Vec<u8>, KeyError>> {
        if self.micros.load(Ordering::Relaxed) > FAST_MICROS {
            return None;
        }
        let mut lane = {
            let mut state = self.state.lock();
            if !state.queue.is_empty() {
                return None;
            }
            // A key that wants its PIN may have to wait, and so may a search.
            let open =
                |lane: &mut Lane| lane.session.as_ref().is_some_and(|o| o.is_quick(&key.info.id));
            state.idle.pop_if(open)?
        };
        let result = self.sign(&mut lane, key, scheme, Payload::Message(message), None);
        self.put_back(lane);
        match result {
            Ok(signature) => Some(Ok(signature)),
            // Healing and logging in may take long: that is for the worker threads.
            Err(Fault::WaitForPin(_)) => None,
            Err(fault) if fault.heals() => None,
            Err(fault) => Some(Err(self.fail(fault))),
        }
    }

    pub(crate) fn status(&self) -> TokenStatus {
        let state = self.state.lock();
        let open = state.idle.iter().filter(|lane| lane.session.is_some()).count();
        let busy = state.lanes - state.idle.len();
        TokenStatus {
            uri: self.name.uri().to_string(),
            logged_in: self.logged_in.load(Ordering::Relaxed),
            sessions: (open + busy) as u16,
            waiting: (state.queue.len() + state.parked.len()) as u32,
            signatures: self.signatures.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            last_error: self.last_error.lock().clone(),
        }
    }

    /// Closes idle sessions and ends the worker threads when they have nothing to do.
    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.work.notify_all();
        self.drop_idle_sessions();
    }

    fn take_lane(&self, state: &mut State) -> Option<Lane> {
        // The most recently used first: its session is open and its caches are warm.
        if let Some(lane) = state.idle.pop() {
            return Some(lane);
        }
        if state.lanes >= self.max_lanes {
            return None;
        }
        state.lanes += 1;
        Some(Lane { session: None, caller: self.caller() })
    }

    fn put_back(&self, lane: Lane) {
        let mut state = self.state.lock();
        state.idle.push(lane);
        if !state.queue.is_empty() && state.resting > 0 {
            self.work.notify_one();
        }
        self.lane_free.notify_one();
    }

    /// Does work in a lane; what heals is tried again.
    fn run(&self, lane: &mut Lane, work: &Work, by: Option<Instant>) -> Result<Done, Fault> {
        let lost = |fault: &Fault| fault.heals() || fault.token_absent();
        let mut result = self.attempt(lane, work, by);
        // Each round takes a PIN from memory, from the file, or from a person who is asked so often.
        for _ in 0..self.prompts.saturating_add(2) {
            if !matches!(result, Err(Fault::PinRefused(_))) {
                break;
            }
            result = self.attempt(lane, work, by);
        }
        if let Err(fault) = &result
            && fault.heals()
        {
            tracing::info!(token = %self.name, ?fault, "opening a new session");
            self.close_session(lane);
            result = self.attempt(lane, work, by);
        }
        if result.as_ref().is_err_and(lost) {
            // Nothing of this token works any more. Once its sessions are gone the module may be
            // initialised again, which is how some modules notice that a token has returned.
            self.close_session(lane);
            self.drop_idle_sessions();
            if self.module.refresh(&lane.caller) {
                result = self.attempt(lane, work, by);
            }
        }
        result
    }

    fn attempt(&self, lane: &mut Lane, work: &Work, by: Option<Instant>) -> Result<Done, Fault> {
        match work {
            Work::Sign { key, scheme, message } => {
                self.sign(lane, key, *scheme, Payload::Message(message), by).map(Done::Signature)
            }
            Work::SignDigest { key, scheme, digest } => {
                self.sign(lane, key, *scheme, Payload::Digest(digest), by).map(Done::Signature)
            }
            Work::Open { uri, text } => self.with_session(lane, |token, pkcs11, open, caller| {
                token.login(pkcs11, &open.session, Wanted::of(uri, by), caller)?;
                let _searching = token.objects.lock();
                let _calling = caller.call();
                let key = objects::private_key(&open.session, uri)?;
                let (spki_der, algorithm) = objects::public_key(&open.session, key, uri)?;
                let id = KeyId::of(text, &spki_der);
                let guarded = objects::is_guarded(&open.session, key)?;
                open.remember(id, key, guarded);
                Ok(Done::Opened(KeyInfo { id, uri: text.clone(), spki_der, algorithm }))
            }),
            Work::Certificates { uri } => self.with_session(lane, |token, pkcs11, open, caller| {
                // Certificates are public as a rule: a locked token need not wait for its PIN.
                let find = |caller: &Caller| {
                    let _calling = caller.call();
                    objects::certificates(&open.session, uri)
                };
                let mut chain = find(caller)?;
                if chain.is_empty() {
                    token.login(pkcs11, &open.session, Wanted::of(uri, by), caller)?;
                    chain = find(caller)?;
                }
                if chain.is_empty() {
                    return Err(KeyError::NotFound(format!("certificate {uri}")).into());
                }
                Ok(Done::Certificates(chain))
            }),
            Work::Unlock => self.with_session(lane, |token, pkcs11, open, caller| {
                let wanted = Wanted { pin_source: None, deadline: by };
                token.login(pkcs11, &open.session, wanted, caller)?;
                Ok(Done::Unlocked)
            }),
        }
    }

    fn sign(
        &self,
        lane: &mut Lane,
        key: &TokenKey,
        scheme: SignScheme,
        payload: Payload<'_>,
        by: Option<Instant>,
    ) -> Result<Vec<u8>, Fault> {
        key.info.algorithm.check(scheme)?;
        let wanted = Wanted::of(&key.uri, by);
        self.with_session(lane, |token, pkcs11, open, caller| {
            let mut start = Instant::now();
            let handle = if let Some(handle) = open.handle(&key.info.id, start) {
                handle
            } else {
                let found = token.find_again(pkcs11, open, key, wanted, caller);
                if found.is_err() {
                    open.forget(&key.info.id);
                }
                let handle = found?;
                start = Instant::now();
                handle
            };
            let Open { session, begun, .. } = open;
            let signature = sign::sign(scheme, payload, |mechanism, data| {
                let key = handle.object;
                if handle.guarded {
                    let guarded = Guarded { token, pkcs11, session, begun, key, wanted, caller };
                    return guarded.sign(mechanism, data);
                }
                let _calling = caller.call();
                Ok(session.sign(mechanism, key, data)?)
            })?;
            token.signatures.fetch_add(1, Ordering::Relaxed);
            token.took(start.elapsed());
            Ok(signature)
        })
    }

    /// Finds the object of a key in a new session, and makes sure that it is still the same key.
    fn find_again(
        &self,
        pkcs11: &Pkcs11,
        open: &mut Open,
        key: &TokenKey,
        wanted: Wanted<'_>,
        caller: &Caller,
    ) -> Result<Handle, Fault> {
        self.login(pkcs11, &open.session, wanted, caller)?;
        let _searching = self.objects.lock();
        let _calling = caller.call();
        let object = objects::private_key(&open.session, &key.uri)?;
        let (spki_der, _) = objects::public_key(&open.session, object, &key.uri)?;
        if spki_der != key.info.spki_der {
            return Err(KeyError::KeyChanged(key.info.uri.clone()).into());
        }
        let guarded = objects::is_guarded(&open.session, object)?;
        Ok(open.remember(key.info.id, object, guarded))
    }

    /// Runs `act` in the session of the lane, opening it first if need be.
    fn with_session<T>(
        &self,
        lane: &mut Lane,
        act: impl FnOnce(&Self, &Pkcs11, &mut Open, &Caller) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        if lane.session.as_ref().is_some_and(|open| open.begun) {
            self.close_session(lane);
        }
        let context = self.module.context();
        if lane.session.as_ref().is_some_and(|open| open.generation != context.generation) {
            lane.session = None; // void since the module was initialised again; not closed
            self.module.sessions.fetch_sub(1, Ordering::Release);
        }
        let open = match &mut lane.session {
            Some(open) => open,
            none => {
                let _calling = lane.caller.call();
                let slot = self.find_slot(&context.pkcs11)?;
                // Sessions are closed by hand: see `close_session`.
                let in_software = !context.pkcs11.get_slot_info(slot)?.hardware_slot();
                let session = context.pkcs11.open_ro_session_no_drop(slot)?;
                self.module.sessions.fetch_add(1, Ordering::Acquire);
                let generation = context.generation;
                let handles = HashMap::new();
                none.insert(Open { session, generation, in_software, begun: false, handles })
            }
        };
        act(self, &context.pkcs11, open, &lane.caller)
    }

    /// The slot the token is in now.
    pub(super) fn find_slot(&self, pkcs11: &Pkcs11) -> Result<cryptoki::slot::Slot, Fault> {
        let mut found = Module::tokens(pkcs11)?.into_iter();
        let here = found.find(|found| found.name == self.name);
        here.map(|found| found.slot)
            .ok_or_else(|| KeyError::TokenAbsent(self.name.to_string()).into())
    }

    fn close_session(&self, lane: &mut Lane) {
        let Some(open) = lane.session.take() else { return };
        self.module.sessions.fetch_sub(1, Ordering::Release);
        let context = self.module.context();
        // After an initialisation the same number may name somebody else's session.
        if open.generation == context.generation {
            let _calling = lane.caller.call();
            let _ = open.session.close(); // it may be gone already
        }
    }

    fn drop_idle_sessions(&self) {
        let mut lanes = std::mem::take(&mut self.state.lock().idle);
        for lane in &mut lanes {
            self.close_session(lane);
        }
        for lane in lanes {
            self.put_back(lane);
        }
    }

    fn took(&self, time: Duration) {
        let now = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        let before = self.micros.load(Ordering::Relaxed);
        let estimate = now.min(before.saturating_add((now.saturating_sub(before)) / 64));
        self.micros.store(estimate, Ordering::Relaxed);
    }

    fn fail(&self, fault: Fault) -> KeyError {
        let error = fault.into_error(&self.name.to_string());
        self.note(&error);
        error
    }

    fn note(&self, error: &KeyError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.last_error.lock() = error.to_string();
    }

    /// A session of its own for work that writes; not pooled.
    pub(super) fn with_rw_session<T>(
        &self,
        pin_source: Option<&Path>,
        act: impl FnOnce(&Session) -> Result<T, Fault>,
    ) -> Result<T, KeyError> {
        let caller = self.caller();
        let run = || {
            let context = self.module.context();
            let session = {
                let _calling = caller.call();
                let slot = self.find_slot(&context.pkcs11)?;
                context.pkcs11.open_rw_session(slot)?
            };
            let wanted = Wanted { pin_source, deadline: None };
            self.login(&context.pkcs11, &session, wanted, &caller)?;
            // Generating a key on a slow card takes minutes.
            let _calling = caller.call_for(Duration::from_mins(10));
            act(&session)
        };
        run().map_err(|fault| self.fail(fault))
    }

    /// A read-only session that logs in only if a PIN is at hand, for listings.
    pub(super) fn with_listing_session<T>(
        &self,
        pin_source: Option<&Path>,
        act: impl FnOnce(&Session) -> Result<T, Fault>,
    ) -> Result<T, KeyError> {
        let caller = self.caller();
        let run = || {
            let context = self.module.context();
            let session = {
                let _calling = caller.call();
                let slot = self.find_slot(&context.pkcs11)?;
                context.pkcs11.open_ro_session(slot)?
            };
            let wanted = Wanted { pin_source, deadline: None };
            match self.login(&context.pkcs11, &session, wanted, &caller) {
                Ok(()) | Err(Fault::Key(KeyError::Locked(_)) | Fault::WaitForPin(_)) => {}
                Err(fault) => return Err(fault),
            }
            let _calling = caller.call();
            act(&session)
        };
        run().map_err(|fault| self.fail(fault))
    }
}

impl Open {
    /// Whether signing with this key needs neither a search nor a PIN.
    fn is_quick(&self, id: &KeyId) -> bool {
        !self.begun && self.handles.get(id).is_some_and(|handle| !handle.guarded)
    }

    /// What to sign with, if it is known.
    fn handle(&mut self, id: &KeyId, now: Instant) -> Option<Handle> {
        let handle = *self.handles.get(id)?;
        let fresh = |seen: Instant| now.duration_since(seen) < CHECK_COPY;
        handle.copied.is_none_or(fresh).then_some(handle)
    }

    /// The key is not on the token any more, or another one is.
    fn forget(&mut self, id: &KeyId) {
        if let Some(Handle { object, copied: Some(_), .. }) = self.handles.remove(id) {
            let _ = self.session.destroy_object(object); // or it goes with the session
        }
    }

    /// Remembers a key on the token, and returns what to sign with.
    fn remember(&mut self, id: KeyId, object: ObjectHandle, guarded: bool) -> Handle {
        if let Some(handle) = self.handles.get_mut(&id)
            && let Some(seen) = &mut handle.copied
        {
            *seen = Instant::now(); // the copy is still good
            return *handle;
        }
        if self.handles.len() >= MAX_HANDLES {
            self.handles.retain(|_, handle| handle.copied.is_some());
        }
        let copies = self.handles.values().filter(|handle| handle.copied.is_some()).count();
        let memory = [Attribute::Token(false)];
        let copy = (self.in_software && copies < MAX_COPIES)
            .then(|| self.session.copy_object(object, &memory).ok())
            .flatten();
        let handle = match copy {
            Some(object) => Handle { object, copied: Some(Instant::now()), guarded },
            None => Handle { object, copied: None, guarded },
        };
        self.handles.insert(id, handle);
        handle
    }
}
