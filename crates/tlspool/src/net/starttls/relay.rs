//! A session after its handshake: relays until it ends, counts, and tells its owner.

use std::rc::Rc;
use std::sync::Weak;
use std::sync::atomic::Ordering;

use tlspool_engine::record::Traffic;
use tlspool_engine::relay::{self, End};
use tlspool_engine::{Cancel, Ended, Socket, twelve};

use super::renegotiate::{Part, SessionOrders};

use crate::net::client::Client;
use crate::net::limits::InUse;
use crate::net::registry::Registered;
use crate::net::worker::{Loaded, Worker};

/// A session that relays.
pub(super) struct Relay {
    pub(super) worker: Rc<Worker>,
    pub(super) client: Weak<Client>,
    pub(super) number: u64,
    pub(super) registered: Option<Rc<Registered>>,
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
        self.ended(&ended);
    }

    /// The same for a session of the engine `tls12`.
    pub(super) async fn run_twelve(
        self,
        peer: Socket,
        application: Socket,
        part: Part,
        cancel: Cancel,
    ) {
        self.worker.began(self.number, &cancel);
        let Part { session, manner, host, wishes } = part;
        let orders = SessionOrders::new(&host, &self, wishes);
        let ended = twelve::run(peer, application, session, manner, host, orders, &cancel).await;
        self.ended(&ended);
    }

    fn ended(self, ended: &Ended) {
        self.worker.ended(self.number);
        let totals = &self.worker.shared.totals;
        totals.bytes_received.fetch_add(ended.received, Ordering::Relaxed);
        totals.bytes_sent.fetch_add(ended.sent, Ordering::Relaxed);
        let (session, received, sent) = (self.number, ended.received, ended.sent);
        if ended.dropped > 0 {
            tracing::info!(session, dropped = ended.dropped, "messages did not fit a datagram");
        }
        match &ended.end {
            End::Closed | End::ApplicationClosed | End::Cancelled | End::Idle => {
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
    }
}
