//! Moves data between a peer and a program while `tls12` has the keys, and renegotiates meanwhile.
//!
//! ```text
//!            up:   peer ──records──► Connection ──plaintext──► application
//!          down:   peer ◄─records─── Connection ◄─plaintext─── application
//! ```
//! Each direction ends by itself. On streams an end without `close_notify` is a truncation. On datagrams a
//! message is a record: one that is lost is lost, one that does not fit is dropped and counted, and a peer that
//! has been silent for too long is taken to be gone.
//!
//! Buffers belong to the thread; a session keeps what could not be written, and no more is read before that
//! is gone.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tls12::{Alert, Anonymous, Closed, Connection, NewConfig, Output, Renegotiated};
use tokio::time::{Sleep, sleep_until};

use super::shake::{Errand, is_noise};
use super::{Session, Wishes, client_config, server_config};
use crate::ask::{Credential, Host, PeerCredential};
use crate::binding::Exporter;
use crate::config::PeerAuthentication;
use crate::handshake::{HandshakeError, Job, Role, Summary};
use crate::relay::{Cancel, End, Ended};
use crate::socket::Socket;
use crate::tickets::Scope;

/// Most plaintext in a record.
const RECORD: usize = tls12::MAX_PLAINTEXT;
/// Room of the thread's buffers: some records with what surrounds them, or the largest datagram.
const BUFFER: usize = 8 * tls12::MAX_RECORD;
/// How long a peer may take to end its side after the application is gone.
const LINGER: Duration = Duration::from_secs(2);
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
    /// Called with what came of it.
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
    /// The next wish. Never ends if there is none.
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
    let mut cancelled = pin!(cancel.requested());
    let mut asked = false;
    let mut ordered: Option<Order<H>> = None;
    let end = loop {
        let deadline = ordered.as_ref().and_then(|order| order.deadline);
        let turn = tokio::select! {
            biased;
            () = &mut cancelled, if !asked => {
                asked = true;
                relay.cancelled = true;
                continue;
            }
            turn = std::future::poll_fn(|cx| relay.poll(cx)) => turn,
            () = passed(deadline) => {
                if let Some(order) = ordered.take() {
                    let text = "the renegotiation took too long".to_owned();
                    (order.done)(order.host, Err(HandshakeError::Refused(text.clone())));
                    if relay.session.connection.is_handshaking() {
                        relay.give_up(Alert::USER_CANCELED, text);
                    }
                }
                continue;
            }
            order = orders.next(), if ordered.is_none() && relay.is_at_rest() => {
                match relay.begin(&order.terms) {
                    Ok(()) => ordered = Some(order),
                    Err(error) => (order.done)(order.host, Err(HandshakeError::Twelve(error))),
                }
                continue;
            }
        };
        match turn {
            Turn::Question(question) => {
                let host = ordered.as_mut().map_or(&mut host, |order| &mut order.host);
                relay.answer(question, host).await;
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
    End(End),
}

struct Relay {
    peer: Socket,
    application: Socket,
    session: Box<Session>,
    manner: Manner,
    /// The peer has shown who it is.
    named: bool,
    datagrams: bool,
    /// Ciphertext that the peer has not taken; of datagrams one an element.
    out: VecDeque<Vec<u8>>,
    out_taken: usize,
    /// Plaintext that the application has not taken; one a record.
    up: VecDeque<Vec<u8>>,
    up_taken: usize,
    /// A record's beginning.
    partial: Vec<u8>,
    /// The peer sends no more data; the application knows.
    up_ended: bool,
    up_told: bool,
    /// The application sends no more.
    down_ended: bool,
    /// The application is gone.
    deserted: bool,
    /// What the peer says no longer counts.
    muted: bool,
    cancelled: bool,
    /// It is over, once what is in `out` has left.
    dying: Option<End>,
    failure: Option<HandshakeError>,
    linger: Option<Pin<Box<Sleep>>>,
    silence: Option<Pin<Box<Sleep>>>,
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
    heard: Instant,
    received: u64,
    sent: u64,
    dropped: u64,
}

impl Relay {
    fn new(peer: Socket, application: Socket, mut session: Box<Session>, manner: Manner) -> Self {
        let datagrams = session.connection.is_datagram();
        let up = std::mem::take(&mut session.early);
        let received = up.iter().map(|data| data.len() as u64).sum();
        let partial = session.connection.take_unread();
        let up_ended = session.peer_closed;
        let named = session.peer().is_some();
        Self {
            peer,
            application,
            session,
            manner,
            named,
            datagrams,
            out: VecDeque::new(),
            out_taken: 0,
            up,
            up_taken: 0,
            partial,
            up_ended,
            up_told: false,
            down_ended: false,
            deserted: false,
            muted: false,
            cancelled: false,
            dying: None,
            failure: None,
            linger: None,
            silence: None,
            timer: None,
            heard: Instant::now(),
            received,
            sent: 0,
            dropped: 0,
        }
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
        self.session.connection.abort(alert);
    }

    fn connection(&mut self) -> &mut Connection {
        &mut self.session.connection
    }

    /// Whether a renegotiation may begin.
    fn is_at_rest(&self) -> bool {
        self.dying.is_none()
            && !self.down_ended
            && !self.up_ended
            && !self.session.connection.is_handshaking()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        loop {
            let mut moved = false;
            if let Some(turn) = self.poll_outputs() {
                return Poll::Ready(turn);
            }
            moved |= self.poll_send(cx);
            if self.out.is_empty()
                && let Some(end) = self.dying.take()
            {
                return Poll::Ready(Turn::End(end));
            }
            moved |= self.poll_deliver(cx);
            if self.dying.is_none() {
                moved |= self.poll_receive(cx);
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
        loop {
            match self.session.connection.poll_output(&mut buffer) {
                Output::Send | Output::SendChangeOfKeys => self.queue(std::mem::take(&mut buffer)),
                Output::Data(_) if self.muted => {}
                Output::Data(data) => {
                    self.received += data.len() as u64;
                    if !self.deserted {
                        self.up.push_back(data);
                    }
                }
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
    }

    fn queue(&mut self, bytes: Vec<u8>) {
        if !self.datagrams || self.out.len() < DATAGRAMS {
            self.out.push_back(bytes);
        }
    }

    fn closed(&mut self, how: Closed) {
        if self.dying.is_some() {
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

    /// Sends what waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(first) = self.out.front() {
            match self.peer.poll_send(cx, &first[self.out_taken..]) {
                Poll::Pending => return moved,
                Poll::Ready(Ok(n)) if !self.datagrams && self.out_taken + n < first.len() => {
                    self.out_taken += n;
                }
                Poll::Ready(Ok(_)) => {
                    self.out_taken = 0;
                    self.out.pop_front();
                }
                Poll::Ready(Err(error)) if self.datagrams && is_noise(&error) => {
                    let size = first.len();
                    self.out.pop_front();
                    self.lost(&error, size);
                }
                Poll::Ready(Err(error)) => {
                    self.out.clear();
                    self.out_taken = 0;
                    self.dying.get_or_insert(End::PeerLost(error));
                }
            }
            moved = true;
        }
        moved
    }

    /// A datagram could not be sent. If it was too long for the path, the next ones are shorter.
    fn lost(&mut self, error: &io::Error, size: usize) {
        use rustix::io::Errno;
        if Errno::from_io_error(error) == Some(Errno::MSGSIZE) {
            self.dropped += 1;
            if let Some(datagrams) = self.session.connection.datagrams() {
                datagrams.set_mtu(size * 3 / 4);
            }
        }
    }

    /// Gives the application what it has not taken yet.
    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(first) = self.up.front() {
            match self.application.poll_send(cx, &first[self.up_taken..]) {
                Poll::Pending => return moved,
                Poll::Ready(Ok(n))
                    if !self.application.is_packets() && self.up_taken + n < first.len() =>
                {
                    self.up_taken += n;
                }
                Poll::Ready(Ok(_)) => {
                    self.up_taken = 0;
                    self.up.pop_front();
                }
                Poll::Ready(Err(error)) => self.application_gone(error),
            }
            moved = true;
        }
        if self.up_ended && !self.up_told {
            self.up_told = true;
            if !self.deserted {
                self.application.shutdown_write();
            }
            if self.datagrams {
                // There is no half of a datagram session.
                self.connection().close();
            }
            moved = true;
        }
        moved
    }

    /// The application does not read any more; what it still has to say matters.
    fn application_gone(&mut self, error: io::Error) {
        self.up.clear();
        self.up_taken = 0;
        match error.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected => self.deserted = true,
            _ => {
                self.connection().abort(Alert::INTERNAL_ERROR);
                self.dying.get_or_insert(End::ApplicationLost(error));
            }
        }
    }

    /// Receives from the peer once, unless the application has not taken what came before.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.up.is_empty() || self.up_ended && !self.datagrams && !self.deserted {
            return false;
        }
        ROOM.with_borrow_mut(|room| {
            let have = self.partial.len();
            room[..have].copy_from_slice(&self.partial);
            match self.peer.poll_recv(cx, &mut room[have..]) {
                Poll::Pending => false,
                Poll::Ready(Ok(0)) if !self.datagrams => {
                    self.connection().handle_end();
                    true
                }
                Poll::Ready(Ok(n)) => {
                    self.heard = Instant::now();
                    self.partial.clear();
                    let now = self.heard;
                    if self.datagrams {
                        self.open_datagram(cx, &mut room[..n], now);
                    } else {
                        self.open(cx, &mut room[..have + n], now);
                    }
                    true
                }
                Poll::Ready(Err(error)) if self.datagrams && is_noise(&error) => true,
                Poll::Ready(Err(error)) => {
                    self.out.clear();
                    self.dying.get_or_insert(End::PeerLost(error));
                    true
                }
            }
        })
    }

    /// Opens the records of a datagram where they lie.
    fn open_datagram(&mut self, cx: &mut Context<'_>, datagram: &mut [u8], now: Instant) {
        let mut cursor = 0;
        while let Ok(Some(plain)) =
            self.session.connection.open_datagram(datagram, &mut cursor, now)
        {
            self.received += plain.len() as u64;
            self.deliver(cx, &datagram[plain]);
        }
    }

    /// Opens the whole records of a stream where they lie.
    fn open(&mut self, cx: &mut Context<'_>, bytes: &mut [u8], now: Instant) {
        let mut used = 0;
        while used < bytes.len() {
            if self.session.connection.is_handshaking() {
                return self.connection().handle_input(&bytes[used..], now);
            }
            let length = match self.session.connection.record_length(&bytes[used..]) {
                Ok(Some(length)) if used + length <= bytes.len() => length,
                Ok(_) => break,
                // It says so itself when it gets them.
                Err(_) => return self.connection().handle_input(&bytes[used..], now),
            };
            let record = &mut bytes[used..used + length];
            match self.session.connection.open(record, now) {
                Ok(Some(plain)) => {
                    let plain = &record[plain];
                    self.received += plain.len() as u64;
                    self.deliver(cx, plain);
                }
                Ok(None) => {}
                Err(_) => return,
            }
            used += length;
        }
        self.partial.extend_from_slice(&bytes[used..]);
    }

    /// Gives plaintext to the application at once if it takes it, and else keeps it.
    fn deliver(&mut self, cx: &mut Context<'_>, plain: &[u8]) {
        if self.deserted || self.muted || plain.is_empty() {
            return;
        }
        let mut taken = 0;
        if self.up.is_empty() {
            match self.application.poll_send(cx, plain) {
                Poll::Ready(Ok(_)) if self.application.is_packets() => return,
                Poll::Ready(Ok(n)) => taken = n,
                Poll::Ready(Err(error)) => return self.application_gone(error),
                Poll::Pending => {}
            }
        }
        if taken < plain.len() {
            self.up.push_back(plain[taken..].to_vec());
        }
    }

    /// Takes data of the application's, unless the peer has not taken what went before.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.out.is_empty() || self.down_ended || !self.session.connection.may_send() {
            return false;
        }
        let packets = self.application.is_packets();
        let most = match self.session.connection.datagrams() {
            Some(datagrams) => datagrams.max_data().min(RECORD),
            None => RECORD,
        };
        ROOM.with_borrow_mut(|room| {
            let (prefix, suffix) =
                (self.session.connection.prefix(), self.session.connection.suffix());
            let (record, spill) = room.split_at_mut(prefix + most + suffix);
            let mut buffers = [
                IoSliceMut::new(&mut record[prefix..prefix + most]),
                // Of a message that is too long for a datagram, to see that it is; else one record more.
                IoSliceMut::new(&mut spill[..1]),
            ];
            let buffers = if packets { &mut buffers[..] } else { &mut buffers[..1] };
            match self.application.poll_recv_vectored(cx, buffers) {
                Poll::Pending => false,
                Poll::Ready(Ok((0, _))) if !packets || self.application.is_read_closed() => {
                    self.down_ended = true;
                    if self.application.is_hung_up() {
                        self.deserted = true;
                    }
                    self.connection().close();
                    true
                }
                Poll::Ready(Ok((n, _))) if n > most => {
                    self.dropped += 1;
                    true
                }
                Poll::Ready(Ok((n, _))) => {
                    self.send_record(cx, record, n);
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.down_ended = true;
                    self.application_gone(error);
                    self.connection().close();
                    true
                }
            }
        })
    }

    fn send_record(&mut self, cx: &mut Context<'_>, record: &mut [u8], length: usize) {
        let sealed = match self.session.connection.seal(record, length) {
            Ok(sealed) => sealed,
            Err(error) => {
                self.connection().abort(Alert::INTERNAL_ERROR);
                self.dying.get_or_insert(End::Refused(error.to_string()));
                return;
            }
        };
        self.sent += length as u64;
        match self.peer.poll_send(cx, &record[..sealed]) {
            Poll::Ready(Ok(n)) if n < sealed && !self.datagrams => {
                self.out.push_back(record[n..sealed].to_vec());
            }
            Poll::Ready(Ok(_)) => {}
            Poll::Pending => self.out.push_back(record[..sealed].to_vec()),
            Poll::Ready(Err(error)) if self.datagrams && is_noise(&error) => {
                self.lost(&error, sealed);
            }
            Poll::Ready(Err(error)) => {
                self.dying.get_or_insert(End::PeerLost(error));
            }
        }
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

    /// Limits the time that an ended session may take to be over, and that a silent one lasts.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let leaving = self.dying.is_some()
            || self.cancelled
            || self.down_ended && (self.deserted || self.datagrams);
        if leaving {
            let linger = self
                .linger
                .get_or_insert_with(|| Box::pin(sleep_until((Instant::now() + LINGER).into())));
            if linger.as_mut().poll(cx).is_ready() {
                return Poll::Ready(match self.dying.take() {
                    Some(end) => end,
                    None if self.cancelled => End::Cancelled,
                    None => End::ApplicationClosed,
                });
            }
        }
        let Some(limit) = self.manner.idle.filter(|_| self.datagrams) else {
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
                self.connection().close();
                return Poll::Ready(End::Idle);
            }
        }
    }
}
