//! What all workers share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use parking_lot::RwLock;
use tlspool_engine::Cancel;

use super::chooser::ChooserDesk;
use super::database::Sight;
use super::limits::{Failures, LastMinute, Meter, Totals};
use super::pin::PinDesk;
use super::placement::{ToDo, Workload};
use super::program::ProgramDesk;
use super::registry::Registry;
use super::settings::Settings;
use super::trust::SharedAnchors;
use super::turns::Turns;
use super::worker::WorkerHandle;

/// One per process.
pub(crate) struct Shared {
    settings: RwLock<Arc<Settings>>,
    /// At least two. The last one is the express worker.
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) pins: Arc<PinDesk>,
    /// Programs that choose local identities.
    pub(crate) choosers: Arc<ChooserDesk>,
    pub(crate) programs: ProgramDesk,
    pub(crate) anchors: SharedAnchors,
    /// Whether the database was ever there.
    pub(crate) database: Arc<Sight>,
    pub(crate) totals: Totals,
    pub(crate) failures: Failures,
    pub(crate) handshake_rate: LastMinute,
    pub(crate) failure_rate: LastMinute,
    /// Connections of programs.
    pub(crate) clients: Arc<Meter>,
    /// TLS sessions, from request to end.
    pub(crate) sessions: Arc<Meter>,
    /// A turn for each handshake that may be under way.
    pub(crate) handshakes: Turns,
    /// Asked when the daemon drains.
    pub(crate) drain: Cancel,
    pub(crate) next_session: AtomicU64,
    pub(crate) started: Instant,
    /// Tokens that wait for a PIN: the question's number and the token's label.
    pub(crate) waiting_tokens: parking_lot::Mutex<Vec<(u32, String)>>,
    /// The label of a token that waits while nobody enters PINs.
    pub(crate) unattended: tokio::sync::mpsc::UnboundedSender<String>,
}

impl Shared {
    pub(crate) fn new(
        settings: Settings,
        workers: Vec<WorkerHandle>,
        unattended: tokio::sync::mpsc::UnboundedSender<String>,
        programs: ProgramDesk,
    ) -> Self {
        let handshakes = Turns::new(settings.config.limits.handshakes);
        Self {
            settings: RwLock::new(Arc::new(settings)),
            workers,
            registry: Arc::default(),
            pins: Arc::default(),
            choosers: Arc::default(),
            programs,
            anchors: SharedAnchors::default(),
            database: Arc::default(),
            totals: Totals::default(),
            failures: Failures::default(),
            handshake_rate: LastMinute::default(),
            failure_rate: LastMinute::default(),
            clients: Arc::default(),
            sessions: Arc::default(),
            handshakes,
            drain: Cancel::default(),
            next_session: AtomicU64::new(1),
            started: Instant::now(),
            waiting_tokens: parking_lot::Mutex::default(),
            unattended,
        }
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.read().clone()
    }

    /// Nothing is under way any more: no session, no request, no program that is owed an answer.
    pub(crate) fn is_drained(&self) -> bool {
        self.sessions.in_use() == 0 && self.clients.in_use() == 0
    }

    /// From now on the end of everything is waited for.
    pub(crate) fn begin_draining(&self) {
        self.drain.request();
        self.sessions.watch();
        self.clients.watch();
    }

    /// Waits, of who drains, until a session or a connection has ended since the last time.
    pub(crate) async fn one_ended(&self) {
        tokio::select! {
            () = self.sessions.ended() => {}
            () = self.clients.ended() => {}
        }
    }

    /// Puts new settings in force; workers are told besides.
    pub(crate) fn replace_settings(&self, settings: Settings) {
        self.handshakes.resize(settings.config.limits.handshakes);
        *self.settings.write() = Arc::new(settings);
    }
}

impl Workload for Shared {
    fn workers(&self) -> usize {
        self.workers.len()
    }

    fn to_do(&self, worker: usize) -> ToDo {
        self.workers[worker].to_do()
    }
}
