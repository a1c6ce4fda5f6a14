//! A worker: one thread with its own runtime, its own channel to the key process and its own
//! database connection. Programs' connections and TLS sessions live on workers; on which, says [`super::placement`].

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tlspool_engine::Cancel;
use tlspool_identity::DoNai;
use tlspool_keys::TokenStatus;
use tlspool_lookup::process::Counters;
use tlspool_openpgp::Certificate;
use tlspool_validate::sources::{Query, Sources};
use tlspool_validate::{Expected, Inquiry, Refused, Validated};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::client::ClientId;
use super::connection::{self, Arrival};
use super::fairness::{BETWEEN_LOOKS, Fairness, Sight};
use super::identities::Identities;
use super::keys::Keys;
use super::lookups::Lookups;
use super::on_the_fly::Workshop;
use super::pace::Pace;
use super::placement::{self, ToDo};
use super::policies::{PolicyDigest, WorkerTables};
use super::settings::Settings;
use super::shared::Shared;
use super::starttls::{self, Request};
use super::trust::{Trust, TrustDigest};

/// What a worker is given to do.
pub(crate) enum Task {
    /// Serve a program's connection.
    Client(Box<Arrival>),
    /// Perform a handshake, and relay after it.
    Starttls(Box<Request>),
    /// The key process was started anew.
    KeyChannel(OwnedFd),
    /// The look-up process was started; without a channel: there is none any more.
    LookupChannel(Option<OwnedFd>),
    /// The settings have changed. To be answered when this worker goes by them.
    Reload(oneshot::Sender<()>),
    /// The time to drain is over: the sessions that are left end now.
    Cut,
    /// What does the key process say of its tokens?
    Tokens(oneshot::Sender<Vec<TokenStatus>>),
    /// What has the look-up process done?
    LookUps(oneshot::Sender<Option<Counters>>),
}

/// How others reach a worker.
pub(crate) struct WorkerHandle {
    tasks: UnboundedSender<Task>,
    seen: Seen,
}

/// What others see of a worker.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// Sessions and handshakes on it.
    load: Arc<AtomicU32>,
    /// Steps that wait.
    sight: Sight,
}

/// A worker's own things, shared by its tasks.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) keys: Keys,
    pub(crate) lookups: Lookups,
    pub(crate) identities: RefCell<Identities>,
    pub(crate) workshop: RefCell<Workshop>,
    /// Whose handshake is next.
    pub(crate) fairness: Fairness<ClientId>,
    settings: RefCell<Arc<Settings>>,
    trust: Trust,
    seen: Seen,
    relays: RefCell<HashMap<u64, Cancel>>,
}

/// A session counted on its worker.
pub(crate) struct Loaded(Arc<AtomicU32>);

impl WorkerHandle {
    /// A handle, what the worker's thread receives by it, and what is to be seen of it.
    pub(crate) fn new() -> (Self, UnboundedReceiver<Task>, Seen) {
        let (tasks, received) = unbounded_channel();
        let seen = Seen::default();
        (Self { tasks, seen: seen.clone() }, received, seen)
    }

    /// Gives the worker something to do; `false` if it has ended.
    pub(crate) fn give(&self, task: Task) -> bool {
        self.tasks.send(task).is_ok()
    }

    /// What it has to do.
    pub(crate) fn to_do(&self) -> ToDo {
        let Seen { load, sight } = &self.seen;
        ToDo { waiting: sight.waiting(), sessions: load.load(Ordering::Relaxed) }
    }
}

impl Worker {
    /// A worker of this thread's, and what it is given to do.
    pub(crate) fn new(start: Start) -> std::io::Result<(Rc<Self>, UnboundedReceiver<Task>)> {
        let Start { index, shared, key_channel, tasks, seen } = start;
        let settings = shared.settings();
        let worker = Self {
            index,
            keys: Keys::new(key_channel)?,
            lookups: Lookups::new(&settings),
            identities: RefCell::new(Identities::one_of(
                settings.config.database.to_path_buf(),
                shared.database.clone(),
            )),
            workshop: RefCell::default(),
            fairness: Fairness::new(seen.sight.clone()),
            settings: RefCell::new(settings),
            trust: Trust::new(),
            shared,
            seen,
            relays: RefCell::default(),
        };
        Ok((Rc::new(worker), tasks))
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// Identifies the trust anchors in force, after a look whether they have changed.
    pub(crate) fn trust_digest(&self) -> TrustDigest {
        self.trust.digest(&self.settings.borrow(), &self.identities, &self.shared.anchors)
    }

    /// Identifies the policies that are known to apply to a session between these names.
    pub(crate) fn policy_digest(
        &self,
        remote: Option<&DoNai>,
        local: Option<&DoNai>,
        service: &str,
    ) -> PolicyDigest {
        WorkerTables(&self.identities).digest(remote, local, service)
    }

    /// Is this peer believed? By the anchors that were in force at the latest
    /// [`Self::trust_digest`], and the policies of now.
    pub(crate) async fn validate(
        &self,
        inquiry: &Inquiry<'_>,
        sources: &dyn Sources,
    ) -> Result<Validated, Refused> {
        let validator = self.trust.validator();
        validator.validate(inquiry, &WorkerTables(&self.identities), sources).await
    }

    /// What validation will most probably look up about a peer.
    pub(crate) fn foresee(&self, expected: &Expected<'_>) -> Vec<Query> {
        self.trust.validator().foresee(expected, &WorkerTables(&self.identities))
    }

    /// The trusted OpenPGP key with this fingerprint, if there is one for the service.
    pub(crate) fn trusted_openpgp(&self, service: &str, fingerprint: &[u8]) -> Option<Certificate> {
        self.trust.validator().openpgp_trust().find(service, fingerprint).cloned()
    }

    /// A session relays; by `cancel` it is cut.
    pub(crate) fn began(&self, session: u64, cancel: &Cancel) {
        self.relays.borrow_mut().insert(session, cancel.clone());
    }

    /// It relays no longer.
    pub(crate) fn ended(&self, session: u64) {
        self.relays.borrow_mut().remove(&session);
    }

    /// Counts a session in.
    pub(crate) fn load(&self) -> Loaded {
        self.seen.load.fetch_add(1, Ordering::Relaxed);
        Loaded(self.seen.load.clone())
    }

    /// The worker that should take the next session of a program.
    pub(crate) fn best(&self, pace: Pace) -> usize {
        placement::of_session(&*self.shared, self.index, pace)
    }

    /// The worker on which the connection of a program should live, if it is another.
    pub(crate) fn better_for(&self, pace: Pace) -> Option<usize> {
        placement::of_connection(&*self.shared, self.index, pace)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a worker's thread starts with.
pub(crate) struct Start {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) key_channel: OwnedFd,
    pub(crate) tasks: UnboundedReceiver<Task>,
    pub(crate) seen: Seen,
}

/// Runs a worker on this thread until its handle is dropped or the process ends.
pub(crate) fn run(start: Start) -> std::io::Result<()> {
    let sight = start.seen.sight.clone();
    let runtime = Builder::new_current_thread()
        .enable_all()
        .event_interval(BETWEEN_LOOKS)
        .on_thread_park(move || sight.sleeps())
        .build_local(LocalOptions::default())?;
    runtime.block_on(work(start))
}

async fn work(start: Start) -> std::io::Result<()> {
    let (worker, mut tasks) = Worker::new(start)?;
    let sharing = worker.clone();
    tokio::task::spawn_local(async move { sharing.fairness.share_out().await });
    // Whether there is a database is known, and told, from the start: one that goes missing later is missed.
    if let Err(error) = worker.identities.borrow_mut().changes() {
        tracing::error!("{error}");
    }
    if worker.index == 0 {
        worker.keys.serve_pins(&worker.shared);
    }
    while let Some(task) = tasks.recv().await {
        match task {
            Task::Client(arrival) => {
                tokio::task::spawn_local(connection::serve(worker.clone(), *arrival));
            }
            Task::Starttls(request) => starttls::perform(worker.clone(), *request),
            Task::Tokens(answer) => {
                let worker = worker.clone();
                tokio::task::spawn_local(async move {
                    // Without a key process there are none; the supervisor knows about that.
                    let _ = answer.send(worker.keys.tokens().await.unwrap_or_default());
                });
            }
            Task::LookUps(answer) => {
                let lookups = worker.lookups.clone();
                tokio::task::spawn_local(async move {
                    let _ = answer.send(lookups.counters().await);
                });
            }
            Task::LookupChannel(channel) => worker.lookups.restarted(channel),
            Task::KeyChannel(channel) => worker.keys.restarted(channel),
            Task::Cut => worker.relays.borrow().values().for_each(Cancel::cut),
            Task::Reload(done) => {
                worker.settings.replace(worker.shared.settings());
                worker.lookups.reload(&worker.settings());
                worker.identities.borrow_mut().forget();
                worker.workshop.borrow_mut().forget();
                worker.keys.forget();
                let _ = done.send(());
            }
        }
    }
    Ok(())
}
