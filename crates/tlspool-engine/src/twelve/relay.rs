//! Moves data between a peer and a program while `tls12` has the keys, and renegotiates meanwhile.
//!
//! ```text
//!            up:   peer ──records──► Connection ──plaintext──► application
//!          down:   peer ◄─records─── Connection ◄─plaintext─── application
//! ```
//! Each direction ends by itself. On streams an end without `close_notify` is a truncation. On datagrams a
//! message is a record: one that is lost is lost, one that does not fit is dropped and counted, and a peer that
//! has been silent for too long is taken to be gone. Over SCTP, where nothing is lost, a message keeps its stream,
//! and what does not fit ends the session; see [`super::association`].
//!
//! Buffers belong to the thread; a session keeps what could not be written, and no more is read before that
//! is gone.

mod downward;
#[cfg(test)]
mod tests;
mod upward;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tls12::{Alert, Anonymous, Closed, Connection, NewConfig, Output, Renegotiated};
use tlspool_sctp::Info;
use tokio::time::{Sleep, sleep_until};

use super::association::{Framing, Parts};
use super::shake::Errand;
use super::{Session, Wishes, client_config, server_config};
use crate::ask::{Credential, Host, PeerCredential};
use crate::binding::Exporter;
use crate::config::PeerAuthentication;
use crate::handshake::{HandshakeError, Job, Role, Summary};
use crate::linger::{Left, Linger, Watch};
use crate::relay::{Cancel, End, Ended, STANDS_STILL};
use crate::socket::Socket;
use crate::tickets::Scope;

/// Most plaintext in a record.
const RECORD: usize = tls12::MAX_PLAINTEXT;
/// Room of the thread's buffers: some records with what surrounds them, or the largest datagram.
const BUFFER: usize = 8 * tls12::MAX_RECORD;
/// Answers that the peer has not taken; with as many, what it says next waits.
const ANSWERS: usize = 16;
/// Datagrams that wait for room; beyond them they are lost, as on any path.
const DATAGRAMS: usize = 64;

/// A renegotiation that the local application wants.
pub struct Order<H> {
    /// Answers what the handshake asks.
    pub host: H,
    /// What is wanted of it.
    pub terms: Terms,
    /// When it must be done. A session that is in the middle of it then ends.
    pub deadline: Option<Instant>,
    /// Called with what came of it; dropped if the session, or a side of it, ends before its turn comes.
    #[allow(clippy::type_complexity)] // a function that is called once
    pub done: Box<dyn FnOnce(H, Result<Outcome, HandshakeError>)>,
}

/// What is wanted of a renegotiation.
#[derive(Debug, Clone)]
pub struct Terms {
    /// A client's: the server's domain, if it is to be sent.
    pub server: Option<String>,
    /// What is demanded of the peer.
    pub authentication: PeerAuthentication,
    /// Which certificates are taken.
    pub wishes: Wishes,
    /// What comes of it is resumed only within this.
    pub scope: Scope,
}

/// What came of a renegotiation.
pub struct Outcome {
    /// What the peer shows now.
    pub peer: Option<PeerCredential>,
    /// What we show now.
    pub shown: Option<Arc<Credential>>,
    /// Computes keying material from now on.
    pub exporter: Option<Exporter>,
    /// What was agreed.
    pub summary: Option<Summary>,
}

/// Where the application's wishes come from.
pub trait Orders<H> {
    /// The next wish. Never ends if there is none. A call that is given up loses none.
    fn next(&mut self) -> impl Future<Output = Order<H>>;

    /// The peer has renegotiated, and is still who it was.
    fn renegotiated(&mut self, outcome: Outcome);
}

/// How a session is relayed.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Our role.
    pub client: bool,
    /// What is demanded of the peer in a renegotiation.
    pub authentication: PeerAuthentication,
    /// Datagrams: how long a silent session lasts.
    pub idle: Option<Duration>,
    /// DTLS over SCTP: the stream of an application that knows none, or
    /// [`tlspool_wire::message::EVERY_STREAM`].
    pub stream: u16,
}

thread_local! {
    static ROOM: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Relays until the session has ended; consumes both sockets. `host` answers what a renegotiation of the
/// peer's asks.
pub async fn run<H: Host, O: Orders<H>>(
    peer: Socket,
    application: Socket,
    session: Box<Session>,
    manner: Manner,
    mut host: H,
    mut orders: O,
    cancel: &Cancel,
) -> Ended {
    let mut relay = Relay::new(peer, application, session, manner);
    let (mut cancelled, mut cut) = (pin!(cancel.requested()), pin!(cancel.is_cut()));
    let mut asked = false;
    // The wish that is being carried out, or else the next one, which waits until the session is at rest.
    let (mut ordered, mut waiting): (Option<Order<H>>, Option<Order<H>>) = (None, None);
    let end = loop {
        if relay.is_ending() {
            waiting = None;
        } else if relay.is_at_rest()
            && let Some(order) = waiting.take()
        {
            match relay.begin(&order.terms) {
                Ok(()) => ordered = Some(order),
                Err(error) => (order.done)(order.host, Err(HandshakeError::Twelve(error))),
            }
        }
        let deadline = ordered.as_ref().or(waiting.as_ref()).and_then(|order| order.deadline);
        let waits = waiting.is_some();
        let turn = tokio::select! {
            biased;
            () = &mut cancelled, if !asked => {
                asked = true;
                relay.cancelled = true;
                continue;
            }
            () = &mut cut, if asked && !relay.cut => {
                relay.cut = true;
                continue;
            }
            turn = std::future::poll_fn(|cx| match relay.poll(cx) {
                Poll::Pending if waits && (relay.is_ending() || relay.is_at_rest()) => {
                    Poll::Ready(Turn::Rest)
                }
                turn => turn,
            }) => turn,
            () = passed(deadline) => {
                let text = "the renegotiation took too long".to_owned();
                if ordered.is_some() && relay.session.connection.is_handshaking() {
                    relay.give_up(Alert::USER_CANCELED, text.clone());
                }
                if let Some(order) = ordered.take().or_else(|| waiting.take()) {
                    (order.done)(order.host, Err(HandshakeError::Refused(text)));
                }
                continue;
            }
            order = orders.next(), if ordered.is_none() && !waits => {
                waiting = Some(order);
                continue;
            }
        };
        match turn {
            Turn::Question(question) => {
                let host = ordered.as_mut().map_or(&mut host, |order| &mut order.host);
                tokio::select! {
                    biased;
                    () = &mut cancelled, if !asked => {
                        asked = true;
                        relay.cancelled = true;
                        relay.give_up(Alert::USER_CANCELED, "the session is cut".to_owned());
                    }
                    () = relay.answer(question, host) => {}
                }
            }
            // The application believes to speak with somebody else. (One that believes to speak with
            // nobody in particular is not deceived by a peer that shows who it is.)
            Turn::Renegotiated(changed)
                if ordered.is_none() && changed.peer_changed && relay.named =>
            {
                let text = "the peer renegotiated as somebody else".to_owned();
                relay.give_up(Alert::ACCESS_DENIED, text);
            }
            Turn::Renegotiated(_) => {
                let shown = relay.session.shown();
                let host = ordered.as_mut().map_or(&mut host, |order| &mut order.host);
                // Nothing moves until this is known.
                let authorized = tokio::select! {
                    biased;
                    () = &mut cancelled, if !asked => {
                        asked = true;
                        relay.cancelled = true;
                        Err("the session is cut".to_owned())
                    }
                    authorized = host.authorize(shown.as_deref()) => {
                        authorized.map_err(|refusal| refusal.text)
                    }
                };
                relay.named = relay.session.peer().is_some();
                match (authorized, ordered.take()) {
                    (Ok(()), Some(order)) => (order.done)(order.host, Ok(relay.outcome())),
                    (Ok(()), None) => orders.renegotiated(relay.outcome()),
                    (Err(text), order) => {
                        relay.give_up(Alert::ACCESS_DENIED, text.clone());
                        if let Some(order) = order {
                            (order.done)(order.host, Err(HandshakeError::Refused(text)));
                        }
                    }
                }
            }
            Turn::Refused => {
                if let Some(order) = ordered.take() {
                    let text = "the peer does not renegotiate".to_owned();
                    (order.done)(order.host, Err(HandshakeError::Alert(text)));
                }
            }
            Turn::Rest => {}
            Turn::End(end) => break end,
        }
    };
    if let Some(order) = ordered.take() {
        let failure = relay.failure.take().unwrap_or_else(|| match &end {
            End::Refused(text) => HandshakeError::Refused(text.clone()),
            _ => HandshakeError::PeerClosed,
        });
        (order.done)(order.host, Err(failure));
    }
    if !matches!(end, End::Closed | End::ApplicationClosed) {
        relay.application.abort_on_close();
        if matches!(end, End::PeerLost(_)) {
            relay.peer.abort_on_close();
        }
    }
    Ended { end, received: relay.received, sent: relay.sent, dropped: relay.dropped }
}

/// Waits until `deadline`, or for ever.
async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Why the relay stops moving for a moment, or for good.
enum Turn {
    Question(Output),
    Renegotiated(Renegotiated),
    Refused,
    /// A renegotiation may begin, or never will.
    Rest,
    End(End),
}

/// Something for the peer.
struct Outgoing {
    bytes: Vec<u8>,
    info: Info,
    /// It is none of the application's.
    control: bool,
}

/// Whether the peer's stack has everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dry {
    Unasked,
    Asked,
    Yes,
}

struct Relay {
    peer: Socket,
    application: Socket,
    session: Box<Session>,
    manner: Manner,
    /// The peer has shown who it is.
    named: bool,
    datagrams: bool,
    /// DTLS over SCTP: how messages look to the application.
    framing: Option<Framing>,
    /// A ChangeCipherSpec that waits until the peer has everything that went before.
    change: Option<Vec<u8>>,
    /// So does the end of what the application says.
    closing: bool,
    dry: Dry,
    /// A message of the application's that is not whole.
    parts: Parts,
    /// Ciphertext that the peer has not taken; of datagrams one an element.
    out: VecDeque<Outgoing>,
    out_taken: usize,
    /// Plaintext that the application has not taken; one a record.
    up: VecDeque<(Vec<u8>, Info)>,
    up_taken: usize,
    /// A record's beginning.
    partial: Vec<u8>,
    /// The peer's socket is at its end, and would say so for ever.
    peer_ended: bool,
    /// The peer sends no more data; the application knows.
    up_ended: bool,
    up_told: bool,
    /// The application sends no more.
    down_ended: bool,
    /// The application is gone.
    deserted: bool,
    /// It has reset its connection, and may have said more than arrived.
    reset: bool,
    /// What the peer says no longer counts.
    muted: bool,
    /// It was asked to end.
    cancelled: bool,
    /// It was asked to end at once.
    cut: bool,
    /// It is over, once what is in `out` has left, and the peer's last data are delivered.
    dying: Option<End>,
    /// So many bytes are read of what a peer that is lost had said before; none: it is not lost, or all are.
    last_words: Option<usize>,
    failure: Option<HandshakeError>,
    /// The application was found to have gone, though it is not read to its end.
    gone: bool,
    watch: Watch,
    linger: Option<Box<Linger>>,
    silence: Option<Pin<Box<Sleep>>>,
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
    heard: Instant,
    received: u64,
    sent: u64,
    /// Bytes of records that the peer's socket has taken.
    moved: u64,
    dropped: u64,
}

impl Relay {
    fn new(peer: Socket, application: Socket, mut session: Box<Session>, manner: Manner) -> Self {
        let datagrams = session.connection.is_datagram();
        let early = std::mem::take(&mut session.early);
        let partial = session.connection.take_unread();
        let up_ended = session.peer_closed;
        let named = session.peer().is_some();
        let sctp = session.association.is_some();
        let framing = sctp.then(|| Framing::of(&application, manner.stream));
        let mut relay = Self {
            peer,
            application,
            session,
            manner,
            named,
            datagrams,
            framing,
            change: None,
            closing: false,
            dry: Dry::Unasked,
            parts: Parts::default(),
            out: VecDeque::new(),
            out_taken: 0,
            up: VecDeque::new(),
            up_taken: 0,
            partial,
            peer_ended: false,
            up_ended,
            up_told: false,
            down_ended: false,
            deserted: false,
            reset: false,
            muted: false,
            cancelled: false,
            cut: false,
            dying: None,
            last_words: None,
            failure: None,
            gone: false,
            watch: Watch::default(),
            linger: None,
            silence: None,
            timer: None,
            heard: Instant::now(),
            received: 0,
            sent: 0,
            moved: 0,
            dropped: 0,
        };
        for (data, info) in early {
            relay.keep(data, info);
        }
        relay
    }

    /// Begins a renegotiation of ours.
    fn begin(&mut self, terms: &Terms) -> Result<(), tls12::Error> {
        let role = if self.manner.client {
            let sni = terms.server.is_some();
            Role::Client { server: terms.server.as_deref(), sni }
        } else {
            Role::Server
        };
        let job = Job {
            role,
            authentication: terms.authentication,
            scope: terms.scope,
            exporter: true,
            // The certificates are hidden by the connection that stands.
            twelve: Wishes { anonymous: Anonymous::Never, ..terms.wishes },
            first: None,
        };
        let config = if self.manner.client {
            let mut config = client_config(&self.session.engine, &job).0;
            config.session = None;
            NewConfig::Client(Arc::new(config))
        } else {
            NewConfig::Server(Arc::new(server_config(&self.session.engine, &job)))
        };
        self.session.connection.renegotiate(Some(config))?;
        self.session.scope = terms.scope;
        self.manner.authentication = terms.authentication;
        Ok(())
    }

    async fn answer<H: Host>(&mut self, question: Output, host: &mut H) {
        let role = if self.manner.client {
            Role::Client { server: None, sni: false }
        } else {
            Role::Server
        };
        let mut errand = Errand::new(host, role, self.manner.authentication);
        self.session.answer(question, &mut errand).await;
        if let Some(failure) = errand.failure.take() {
            self.failure = Some(failure);
        }
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            peer: self.session.peer(),
            shown: self.session.shown(),
            exporter: self.session.exporter(),
            summary: self.session.summary(),
        }
    }

    /// Ends the session for a reason of ours.
    fn give_up(&mut self, alert: Alert, text: String) {
        self.failure = Some(HandshakeError::Refused(text));
        self.muted = true;
        self.change = None;
        self.session.connection.abort(alert);
    }

    fn connection(&mut self) -> &mut Connection {
        &mut self.session.connection
    }

    /// Whether it is over, or a side has ended: then no renegotiation begins any more.
    fn is_ending(&self) -> bool {
        self.dying.is_some() || self.muted || self.down_ended || self.up_ended || self.closing
    }

    /// Whether a renegotiation may begin.
    fn is_at_rest(&self) -> bool {
        !self.is_ending() && self.change.is_none() && !self.session.connection.is_handshaking()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            if self.last_words.is_none()
                && let Some(turn) = self.poll_outputs()
            {
                return Poll::Ready(turn);
            }
            if self.poll_dry(cx) {
                // What waited for it comes next, and before any data.
                continue;
            }
            let mut moved = self.poll_send(cx);
            if self.out.is_empty()
                && self.poll_last_words(cx)
                && let Some(end) = self.dying.take()
            {
                return Poll::Ready(Turn::End(end));
            }
            moved |= self.poll_deliver(cx);
            if self.dying.is_none() && self.poll_receive(cx) {
                moved = true;
                // Before any data of the application's: a renegotiation that is over is not authorized yet.
                if let Some(turn) = self.poll_outputs() {
                    return Poll::Ready(turn);
                }
            }
            if self.dying.is_none() {
                moved |= self.poll_take(cx);
                if self.up_told && self.down_ended && self.out.is_empty() && !self.datagrams {
                    let end = if self.deserted { End::ApplicationClosed } else { End::Closed };
                    return Poll::Ready(Turn::End(end));
                }
            }
            moved |= self.poll_time(cx);
            if !moved {
                return self.poll_linger(cx).map(Turn::End);
            }
        }
    }

    /// Does what the connection wants, but for what its caller must do.
    fn poll_outputs(&mut self) -> Option<Turn> {
        let mut buffer = Vec::new();
        // What comes after a change of keys waits as it does.
        while self.change.is_none() {
            match self.session.connection.poll_output(&mut buffer) {
                Output::Send => self.queue(std::mem::take(&mut buffer)),
                Output::SendChangeOfKeys => self.change = Some(std::mem::take(&mut buffer)),
                Output::NewKeys => {
                    let done = self.session.new_keys(&self.peer);
                    self.check(done);
                }
                Output::OldKeysDone => {
                    let done = self.session.old_keys_done(&self.peer);
                    self.check(done);
                }
                Output::Data(data) => self.keep(data, Info::default()),
                Output::Message { data, tag } => self.keep(data, Info::from_bits(tag)),
                Output::PeerClosed => self.up_ended = true,
                Output::Closed(how) => self.closed(how),
                Output::Renegotiated(changed) => return Some(Turn::Renegotiated(changed)),
                Output::RenegotiationRefused => return Some(Turn::Refused),
                Output::WaitUntil(time) => {
                    if self.timer.as_ref().is_none_or(|(set, _)| *set != time) {
                        self.timer = Some((time, Box::pin(sleep_until(time.into()))));
                    }
                    return None;
                }
                Output::Idle => {
                    self.timer = None;
                    return None;
                }
                Output::Established => {}
                question => return Some(Turn::Question(question)),
            }
        }
        None
    }

    fn closed(&mut self, how: Closed) {
        // A peer that is lost may have said why.
        let says_why = matches!(self.dying, Some(End::PeerLost(_)))
            && matches!(how, Closed::Failed(tls12::Error::PeerAlert(_)));
        if self.dying.is_some() && !says_why {
            return;
        }
        let failure = self.failure.take();
        self.dying = Some(match (how, failure) {
            (_, Some(failure)) => End::Refused(failure.to_string()),
            (Closed::Cleanly, _) if self.deserted => End::ApplicationClosed,
            (Closed::Cleanly, _) => End::Closed,
            (Closed::Failed(tls12::Error::Truncated), _) => End::Truncated,
            (Closed::Failed(tls12::Error::PeerAlert(alert)), _) => End::PeerAlert(alert.0),
            (Closed::Failed(error), _) => End::Refused(error.to_string()),
        });
    }

    /// Retransmission, and the end of a silent datagram session.
    fn poll_time(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        if let Some((_, timer)) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.timer = None;
            self.connection().handle_timeout(Instant::now());
            moved = true;
        }
        moved
    }

    /// What there is to wait for at the end.
    fn left(&self) -> Left {
        let up = if self.is_ended_by_peer() { self.owes_application() } else { 0 };
        Left {
            waiting: up + self.owes_peer() + self.peer.unacknowledged(),
            moved: self.moved,
            cut: self.cut
                || self.dying.is_some() && up == 0
                || self.cancelled && self.dying.is_none() && !self.has_said_all(),
        }
    }

    /// Whether what the application may still say is finite.
    fn has_said_all(&self) -> bool {
        self.down_ended || self.application.is_read_closed()
    }

    /// Bytes that the peer's socket has not taken; over SCTP one more until the peer has everything.
    fn owes_peer(&self) -> u64 {
        let out: usize = self.out.iter().map(|outgoing| outgoing.bytes.len()).sum();
        let out = if self.peer.is_lossy() { 0 } else { out.saturating_sub(self.out_taken) };
        out as u64 + u64::from(self.closing)
    }

    /// Limits the time that an ended session may take to be over, and that a silent one lasts.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let held = !self.out.is_empty() && !self.peer.is_lossy();
        self.gone |= self.watch.poll(cx, held, || self.application.is_hung_up());
        let leaving = self.dying.is_some()
            || self.cancelled
            || self.gone
            || self.down_ended && (self.deserted || self.datagrams);
        if leaving {
            let left = self.left();
            if Linger::poll(&mut self.linger, cx, left).is_ready() {
                let unsaid = self.owes_peer() > 0;
                return Poll::Ready(match self.dying.take() {
                    Some(end) => end,
                    None if unsaid && !self.cut && self.has_said_all() => {
                        End::PeerLost(io::Error::new(io::ErrorKind::TimedOut, STANDS_STILL))
                    }
                    None if self.cancelled => End::Cancelled,
                    None => End::ApplicationClosed,
                });
            }
        }
        let counts = self.peer.is_lossy() && self.dying.is_none();
        let Some(limit) = self.manner.idle.filter(|_| counts) else {
            return Poll::Pending;
        };
        loop {
            let ends = self.heard + limit;
            let silence = self.silence.get_or_insert_with(|| Box::pin(sleep_until(ends.into())));
            if silence.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.silence = None;
            if self.heard.elapsed() >= limit {
                self.dying = Some(End::Idle);
                self.connection().close();
                // The peer is told, should it be there after all.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}
