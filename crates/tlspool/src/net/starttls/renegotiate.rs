//! Renegotiation: a program's wish for a session that it has (STARTTLS with RENEGOTIATE and its control
//! key), and what a peer's own renegotiation changes. Only sessions of the engine `tls12` can.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tlspool_engine::twelve::{Manner, Order, Orders, Outcome as Renegotiated, Session, Terms};
use tlspool_engine::{HandshakeError, PeerAuthentication};
use tlspool_identity::DoNai;
use tlspool_store::Role;
use tlspool_wire::{Body, Packet, PoolError, Starttls, StarttlsFlags as Flags};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::relay::Relay;
use super::{Failure, NO_LIMIT, rules};
use crate::net::client::{Client, InFlight};
use crate::net::disclosure::{self, Disclosure};
use crate::net::foresight::Foresight;
use crate::net::host::{Outcome, RequestHost};
use crate::net::identities::Asker;
use crate::net::limits::Totals;
use crate::net::privacy::{self, Case};
use crate::net::program;
use crate::net::registry::{Facts, Registered};
use crate::net::worker::Worker;

/// A program's wish to renegotiate. It has exactly one final response, wherever it is when its session ends.
pub(crate) struct Wish {
    pub(crate) client: Arc<Client>,
    pub(crate) starttls: Starttls,
    reqid: u16,
    /// Its time limit counts from here, also while it waits for its turn.
    begun: Instant,
    answered: bool,
    _in_flight: InFlight,
}

impl Wish {
    pub(super) fn new(
        client: Arc<Client>,
        reqid: u16,
        starttls: Starttls,
        in_flight: InFlight,
    ) -> Self {
        let begun = Instant::now();
        Self { client, starttls, reqid, begun, answered: false, _in_flight: in_flight }
    }

    fn grant(mut self: Box<Self>, reply: Starttls) {
        self.answered = true;
        self.client.send(&Packet { reqid: self.reqid, cbid: 0, body: Body::Starttls(reply) });
    }

    fn refuse(mut self: Box<Self>, error: PoolError, text: &str) {
        self.answered = true;
        self.client.send_error(self.reqid, error, text);
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        if !self.answered {
            let text = "the session has ended, or one of its sides has";
            self.client.send_error(self.reqid, PoolError::RenegotiateNotFound, text);
        }
    }
}

/// What the engine needs of a session beside its sockets.
pub(super) struct Part {
    pub(super) session: Box<Session>,
    pub(super) manner: Manner,
    /// Answers what a renegotiation of the peer's asks.
    pub(super) host: RequestHost,
    pub(super) wishes: Option<mpsc::UnboundedReceiver<Box<Wish>>>,
}

/// Takes a wish in.
pub(super) fn begin(worker: &Worker, wish: Wish, descriptors: &[Option<OwnedFd>; 2]) {
    let wish = Box::new(wish);
    let refused = if descriptors.iter().any(Option::is_some) {
        let text = "a renegotiation takes no socket: the control key says which session";
        Some((PoolError::SuperfluousSocket, text, wish))
    } else {
        worker.shared.registry.renegotiate(wish).err().map(|(error, wish)| {
            let text = match error {
                PoolError::CtlkeyNotYours => "the session belongs to another connection",
                PoolError::CtlkeyDetached => "the session is detached; take it over first",
                PoolError::RenegotiateNotInterruptable => {
                    "this session does not renegotiate: it is TLS 1.3, or began as ordinary TLS 1.2"
                }
                _ => "there is no session with this control key",
            };
            (error, text, wish)
        })
    };
    if let Some((error, text, wish)) = refused {
        Totals::count(&worker.shared.totals.refused);
        tracing::warn!(client = %wish.client.peer, reqid = wish.reqid, %error, "refused: {text}");
        wish.refuse(error, text);
    }
}

/// A session's wishes, and who is told what comes of them.
pub(super) struct SessionOrders {
    worker: Rc<Worker>,
    role: Role,
    endpoint: Option<tlspool_validate::Endpoint>,
    number: u64,
    registered: Option<Rc<Registered>>,
    wishes: Option<mpsc::UnboundedReceiver<Box<Wish>>>,
    /// The one that is about to become an order.
    next: Option<Box<Wish>>,
}

impl SessionOrders {
    pub(super) fn new(
        host: &RequestHost,
        relay: &Relay,
        wishes: Option<mpsc::UnboundedReceiver<Box<Wish>>>,
    ) -> Self {
        Self {
            worker: host.worker.clone(),
            role: host.role,
            endpoint: host.endpoint,
            number: relay.number,
            registered: relay.registered.clone(),
            wishes,
            next: None,
        }
    }

    fn order(&self, wish: Box<Wish>) -> Result<Order<RequestHost>, (Box<Wish>, Failure)> {
        let name = |text: &str, field: &str| match text {
            "" => Ok(None),
            name => DoNai::parse(name).map(Some).map_err(|error| {
                Failure::new(PoolError::RecordMalformed, format!("{field}: {error}"))
            }),
        };
        let local = name(wish.starttls.localid.as_str(), "localid");
        let remote = name(wish.starttls.remoteid.as_str(), "remoteid");
        let (local, remote) = match (local, remote) {
            (Ok(local), Ok(remote)) => (local, remote),
            (Err(failure), _) | (_, Err(failure)) => return Err((wish, failure)),
        };
        let worker = &self.worker;
        let settings = worker.settings();
        let authentication = rules::authentication(wish.starttls.flags);
        let limit = match wish.starttls.timeout_ms {
            0 => Some(settings.config.limits.handshake_timeout),
            NO_LIMIT => None,
            millis => Some(Duration::from_millis(millis.into())),
        };
        let deadline = limit.map(|limit| wish.begun + limit);
        let asker = Asker {
            id: wish.client.id,
            peer: wish.client.peer.clone(),
            program: wish.client.program.get().cloned().flatten(),
        };
        let mut host = RequestHost {
            worker: worker.clone(),
            client: Some(wish.client.clone()),
            asker: Rc::new(asker),
            reqid: wish.reqid,
            request: wish.starttls.clone(),
            role: self.role,
            local,
            remote,
            disclosure: Disclosure::default(),
            callback_timeout: settings.config.limits.callback_timeout,
            deadline,
            endpoint: self.endpoint,
            foresight: Foresight::new(worker.lookups.clone()),
            judged_early: None,
            renegotiates: true,
            outcome: Outcome::default(),
        };
        let rows = match host.prepare_disclosure() {
            Ok(rows) => rows,
            Err(refusal) => {
                let error = host.outcome.error.unwrap_or(PoolError::LocalidUnknown);
                return Err((wish, Failure::new(error, refusal.text)));
            }
        };
        let names = (host.remote.as_ref(), host.local.as_ref());
        let (uid, starttls) = (wish.client.uid(), &wish.starttls);
        let shows = &host.disclosure;
        let scope = rules::scope(worker, uid, starttls, self.role, authentication, names, shows);
        let case = Case {
            role: self.role,
            remote: host.remote.as_ref(),
            service: wish.starttls.service.as_str(),
            nameless: false,
            rows: &rows,
        };
        let sni = !wish.starttls.flags.contains(Flags::WITHOUT_SNI);
        let terms = Terms {
            server: host.remote.as_ref().filter(|_| sni).map(|name| name.domain().to_owned()),
            authentication,
            wishes: privacy::wishes(&settings.config, &case),
            scope,
        };
        Ok(Order {
            host,
            terms,
            deadline: deadline.map(Instant::into_std),
            done: self.answer(wish, authentication),
        })
    }

    /// What is done when a renegotiation is over.
    fn answer(
        &self,
        wish: Box<Wish>,
        authentication: PeerAuthentication,
    ) -> Box<dyn FnOnce(RequestHost, Result<Renegotiated, HandshakeError>)> {
        let (number, registered, role) = (self.number, self.registered.clone(), self.role);
        Box::new(move |mut host, result| match result {
            Ok(renegotiated) => {
                let mut outcome = std::mem::take(&mut host.outcome);
                if let Some(shown) = &renegotiated.shown {
                    outcome.credential.get_or_insert_with(|| shown.clone());
                }
                let remember = outcome.remember.take();
                tell_renegotiated(number, &outcome, authentication);
                let reply = rules::reply(&wish.starttls, &outcome);
                enter(registered.as_deref(), role, renegotiated);
                let worker = host.worker.clone();
                tokio::task::spawn_local(async move {
                    let uid = wish.client.uid();
                    disclosure::remember(&worker.identities, uid, remember).await;
                    wish.grant(reply);
                });
            }
            Err(error) => {
                let failure = rules::explain(&error, &host.outcome);
                tracing::warn!(session = number, "renegotiation failed: {}", failure.text);
                wish.refuse(failure.error, &failure.text);
            }
        })
    }
}

/// One line for the log.
fn tell_renegotiated(session: u64, outcome: &Outcome, authentication: PeerAuthentication) {
    let local = outcome.credential.as_ref().map_or("", |credential| &credential.name);
    let remote = outcome.validated.as_ref().map_or("", |validated| validated.identity.as_str());
    tracing::info!(session, local, remote, ?authentication, "renegotiated");
}

/// What may be asked about the session is what the new handshake agreed on.
fn enter(registered: Option<&Registered>, role: Role, renegotiated: Renegotiated) {
    let Some(registered) = registered else { return };
    let Renegotiated { peer, shown, exporter, .. } = renegotiated;
    registered.renegotiated(Facts::new(role, peer.as_ref(), shown.as_deref(), exporter));
}

impl Orders<RequestHost> for SessionOrders {
    async fn next(&mut self) -> Order<RequestHost> {
        loop {
            if let (None, Some(wishes)) = (&self.next, &mut self.wishes) {
                self.next = wishes.recv().await;
            }
            let Some(wish) = &self.next else { return std::future::pending().await };
            // It stays where it is meanwhile: whoever waits here may do something else first.
            program::learn(&self.worker, &wish.client).await;
            let Some(wish) = self.next.take() else { continue };
            match self.order(wish) {
                Ok(order) => return order,
                Err((wish, failure)) => {
                    Totals::count(&self.worker.shared.totals.refused);
                    wish.refuse(failure.error, &failure.text);
                }
            }
        }
    }

    fn renegotiated(&mut self, outcome: Renegotiated) {
        tracing::info!(session = self.number, "the peer has renegotiated");
        enter(self.registered.as_deref(), self.role, outcome);
    }
}
