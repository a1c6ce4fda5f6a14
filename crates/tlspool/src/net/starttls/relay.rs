//! A session after its handshake: relays until it ends, counts, and tells its owner.

use std::rc::Rc;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use tlspool_engine::record::Traffic;
use tlspool_engine::relay::{self, End};
use tlspool_engine::{Cancel, Socket};

use crate::net::client::Client;
use crate::net::limits::InUse;
use crate::net::registry::Registered;
use crate::net::worker::{Loaded, Worker};

/// A session that relays.
pub(super) struct Relay {
    pub(super) worker: Rc<Worker>,
    pub(super) client: Weak<Client>,
    pub(super) number: u64,
    pub(super) registered: Option<Registered>,
    pub(super) _session: InUse,
    pub(super) _loaded: Loaded,
}

impl Relay {
    /// Relays; this is the session's task.
    pub(super) async fn run(
        self,
        peer: Socket,
        application: Socket,
        traffic: Traffic,
        cancel: Cancel,
    ) {
        self.worker.began(self.number, &cancel);
        let ended = relay::run(peer, application, traffic, &cancel).await;
        self.worker.ended(self.number);
        let totals = &self.worker.shared.totals;
        totals.bytes_received.fetch_add(ended.received, Ordering::Relaxed);
        totals.bytes_sent.fetch_add(ended.sent, Ordering::Relaxed);
        let (session, received, sent) = (self.number, ended.received, ended.sent);
        match &ended.end {
            End::Closed | End::ApplicationClosed | End::Cancelled => {
                tracing::debug!(session, received, sent, "session {}", ended.end);
            }
            end => tracing::info!(session, received, sent, "session {end}"),
        }
        // A session that was detached and taken over belongs to another connection by now.
        let owner = match &self.registered {
            Some(registered) => registered.owner(),
            None => self.client.upgrade(),
        };
        if let Some(client) = owner {
            client.release(self.number);
        }
        let shared = self.worker.shared.clone();
        drop(self);
        shared.one_ended();
    }
}
