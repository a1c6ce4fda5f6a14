//! One program's connection, as the tasks that work for it see it: who it is, how to answer, how
//! to call back, and what ends with it. Shared between workers.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use tlspool_engine::Cancel;
use tlspool_wire::packet::{DatagramPiece, MAX_FIRST_DATAGRAM};
use tlspool_wire::{Body, Packet, PoolError, RECORD_LEN};
use tokio::sync::{Notify, OnceCell, oneshot};
use zeroize::{Zeroize, Zeroizing};

use super::limits::{InUse, Uid};
use super::pace::Pacer;
use super::peer::Peer;

/// Answers that a program has not read yet; one that lets more pile up is disconnected. While any
/// wait, its requests are not read, so this many can only come from those in flight.
const OUTBOX_LIMIT: usize = 2048 * RECORD_LEN;

/// Identifies a connection for as long as the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ClientId(u64);

impl ClientId {
    /// Not 0.
    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// One program's connection.
pub(crate) struct Client {
    pub(crate) id: ClientId,
    pub(crate) peer: Peer,
    /// Its program's file, once that was asked for; see [`super::program`].
    pub(crate) program: OnceCell<Option<PathBuf>>,
    outbox: Mutex<Outbox>,
    /// Told when the outbox has something, or the connection is to end.
    pub(crate) attention: Notify,
    callbacks: Mutex<Callbacks>,
    in_flight: AtomicU32,
    /// Asked when the connection is gone: ends its unfinished requests.
    pub(crate) gone: Cancel,
    sessions: Mutex<HashMap<u64, Cancel>>,
    /// Its connection waits for it to become idle, and wants to be told.
    pub(crate) awaits_idle: AtomicBool,
    /// We take no more requests.
    stopped: AtomicBool,
    /// It pinged with `DRAIN_NOTICE`.
    pub(crate) wants_drain_notice: AtomicBool,
    /// It pinged with `PLAINTEXT_ALONG`.
    pub(crate) brings_plaintext: AtomicBool,
    /// How fast it asks for sessions.
    pub(crate) pacer: Pacer,
    /// First datagrams of DTLS sessions to come, by their requests.
    datagrams: Mutex<HashMap<u16, FirstDatagram>>,
    _counted: InUse,
}

/// A datagram as it comes in, in pieces.
struct FirstDatagram {
    bytes: Vec<u8>,
    total: usize,
}

/// First datagrams that may wait for their STARTTLS on one connection.
const FIRST_DATAGRAMS: usize = 64;

struct Outbox {
    /// `None` once the connection is gone, so that it is closed though tasks remember the client.
    socket: Option<Arc<OwnedFd>>,
    bytes: VecDeque<u8>,
}

#[derive(Default)]
struct Callbacks {
    latest: u16,
    waiting: HashMap<u16, Callback>,
}

struct Callback {
    reqid: u16,
    answer: oneshot::Sender<Answer>,
}

/// A program's answer to a callback.
pub(crate) struct Answer {
    pub(crate) body: Body,
    pub(crate) descriptor: Option<OwnedFd>,
}

/// Why a callback brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallbackFailure {
    /// The connection is gone.
    Gone,
    /// The program took too long.
    Late,
    /// Too many callbacks wait.
    Full,
}

impl Client {
    pub(crate) fn new(socket: Arc<OwnedFd>, peer: Peer, counted: InUse) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: ClientId(NEXT.fetch_add(1, Ordering::Relaxed)),
            peer,
            program: OnceCell::new(),
            outbox: Mutex::new(Outbox { socket: Some(socket), bytes: VecDeque::new() }),
            attention: Notify::new(),
            callbacks: Mutex::default(),
            in_flight: AtomicU32::new(0),
            gone: Cancel::default(),
            sessions: Mutex::default(),
            awaits_idle: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            wants_drain_notice: AtomicBool::new(false),
            brings_plaintext: AtomicBool::new(false),
            pacer: Pacer::default(),
            datagrams: Mutex::default(),
            _counted: counted,
        })
    }

    pub(crate) fn uid(&self) -> Uid {
        self.peer.uid
    }

    // ---- first datagrams

    /// Takes a piece of a first datagram in; `false` if it does not fit what came before.
    pub(crate) fn take_piece(&self, reqid: u16, piece: &DatagramPiece) -> bool {
        let mut datagrams = self.datagrams.lock();
        if piece.offset == 0 {
            if datagrams.len() >= FIRST_DATAGRAMS && !datagrams.contains_key(&reqid) {
                return false;
            }
            let total = usize::from(piece.total).min(MAX_FIRST_DATAGRAM);
            datagrams.insert(reqid, FirstDatagram { bytes: Vec::with_capacity(total), total });
        }
        let fits = datagrams.get_mut(&reqid).is_some_and(|first| {
            let fits = first.bytes.len() == usize::from(piece.offset)
                && usize::from(piece.total) == first.total
                && first.bytes.len() + piece.bytes.len() <= first.total;
            if fits {
                first.bytes.extend_from_slice(&piece.bytes);
            }
            fits
        });
        if !fits {
            datagrams.remove(&reqid);
        }
        fits
    }

    /// The first datagram for a request, if all of it is here.
    pub(crate) fn first_datagram(&self, reqid: u16) -> Option<Vec<u8>> {
        let first = self.datagrams.lock().remove(&reqid)?;
        (first.bytes.len() == first.total).then_some(first.bytes)
    }

    // ---- answers

    /// Sends a record, at once if the program has room, later if not.
    pub(crate) fn send(&self, packet: &Packet) {
        let record = Zeroizing::new(packet.encode());
        let mut outbox = self.outbox.lock();
        let Some(socket) = outbox.socket.clone() else { return };
        let mut rest = record.as_slice();
        if outbox.bytes.is_empty() {
            match send(socket, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => rest = &rest[n..],
                Err(Errno::AGAIN) => {}
                Err(_) => return, // it is gone, which its reader sees
            }
        }
        if rest.is_empty() {
            return;
        }
        if outbox.bytes.len() + rest.len() > OUTBOX_LIMIT {
            tracing::warn!(client = %self.peer, "disconnected: it does not read its answers");
            outbox.hang_up();
            return;
        }
        outbox.bytes.extend(rest);
        drop(outbox);
        self.attention.notify_one();
    }

    /// Sends an ERROR record.
    pub(crate) fn send_error(&self, reqid: u16, error: PoolError, text: &str) {
        self.send(&Packet::error(reqid, error, text));
    }

    /// Whether answers wait for room.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.outbox.lock().bytes.is_empty()
    }

    /// Sends what waits; returns how much the program has taken.
    pub(crate) fn flush(&self) -> rustix::io::Result<usize> {
        self.outbox.lock().flush()
    }

    /// Takes no more requests. A program that sends later gets EPIPE, and connects again; what it had sent just before
    /// is still read, and refused, because it could not answer a callback.
    pub(crate) fn stop_reading(&self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(socket) = &self.outbox.lock().socket {
            // It fails only if the connection has ended already.
            let _ = shutdown(socket, Shutdown::Read);
        }
    }

    /// Whether it takes no more requests.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    // ---- callbacks

    /// Sends `body` as a callback of request `reqid`, and waits for the answer.
    pub(crate) async fn call_back(
        &self,
        reqid: u16,
        body: Body,
        limit: Duration,
    ) -> Result<Answer, CallbackFailure> {
        let (answer, answered) = oneshot::channel();
        let cbid = self.callbacks.lock().enter(reqid, answer).ok_or(CallbackFailure::Full)?;
        self.send(&Packet { reqid, cbid, body });
        let outcome = tokio::select! {
            answer = answered => answer.map_err(|_| CallbackFailure::Gone),
            () = tokio::time::sleep(limit) => Err(CallbackFailure::Late),
        };
        if outcome.is_err() {
            self.callbacks.lock().waiting.remove(&cbid);
        }
        outcome
    }

    /// Hands an answer to whoever asked; `false` if nobody did. Who asked may have given up in the meantime, which is
    /// no fault of the program.
    pub(crate) fn answered(&self, reqid: u16, cbid: u16, answer: Answer) -> bool {
        let mut callbacks = self.callbacks.lock();
        match callbacks.waiting.get(&cbid) {
            Some(callback) if callback.reqid == reqid => {}
            _ => return false,
        }
        if let Some(callback) = callbacks.waiting.remove(&cbid) {
            let _ = callback.answer.send(answer);
        }
        true
    }

    // ---- requests and sessions

    /// Counts a request in, unless `limit` are in flight.
    pub(crate) fn begin(self: &Arc<Self>, limit: u32) -> Option<InFlight> {
        self.in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < limit).then_some(n + 1))
            .ok()
            .map(|_| InFlight(self.clone()))
    }

    /// Requests in flight.
    pub(crate) fn under_way(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Nothing is under way, nothing waits to be sent, no session depends on it.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
            && !self.has_unsent()
            && self.sessions.lock().is_empty()
    }

    fn maybe_idle(&self) {
        if self.awaits_idle.load(Ordering::Acquire) {
            self.attention.notify_one();
        }
    }

    /// Ties a session to this connection, which must not be gone.
    pub(crate) fn attach(&self, session: u64, cancel: Cancel) {
        let mut sessions = self.sessions.lock();
        if self.gone.is_requested() {
            cancel.request();
        }
        sessions.insert(session, cancel);
    }

    /// The session is not tied to this connection any more.
    pub(crate) fn release(&self, session: u64) {
        self.sessions.lock().remove(&session);
        self.maybe_idle();
    }

    /// The connection is gone: so are its requests, callbacks and sessions.
    pub(crate) fn left(&self) {
        self.outbox.lock().socket = None;
        self.gone.request();
        self.callbacks.lock().waiting.clear();
        let sessions = std::mem::take(&mut *self.sessions.lock());
        for cancel in sessions.into_values() {
            cancel.request();
        }
    }
}

impl Callbacks {
    /// A number that no other callback of this connection has; never 0.
    fn enter(&mut self, reqid: u16, answer: oneshot::Sender<Answer>) -> Option<u16> {
        if self.waiting.len() >= usize::from(u16::MAX) {
            return None;
        }
        loop {
            self.latest = self.latest.checked_add(1).unwrap_or(1);
            if !self.waiting.contains_key(&self.latest) {
                self.waiting.insert(self.latest, Callback { reqid, answer });
                return Some(self.latest);
            }
        }
    }
}

impl Outbox {
    /// Record by record: the kernel takes one whole or not at all, but of many perhaps a part of the last, and
    /// C libraries there are that take a part for a broken record.
    fn flush(&mut self) -> rustix::io::Result<usize> {
        let mut taken = 0;
        let Some(socket) = self.socket.clone() else { return Ok(taken) };
        let mut record = Zeroizing::new([0; RECORD_LEN]);
        while !self.bytes.is_empty() {
            let length = match self.bytes.len() % RECORD_LEN {
                0 => RECORD_LEN,
                rest => rest,
            };
            record.iter_mut().zip(&self.bytes).for_each(|(to, from)| *to = *from);
            match send(&socket, &record[..length], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => {
                    self.bytes.drain(..n);
                    taken += n;
                }
                Err(Errno::AGAIN) => return Ok(taken),
                Err(error) => return Err(error),
            }
        }
        self.bytes.shrink_to(0);
        Ok(taken)
    }

    /// Ends the connection: its reader sees the end of the stream.
    fn hang_up(&mut self) {
        if let Some(socket) = self.socket.take() {
            // It fails only if the connection has ended already.
            let _ = shutdown(socket, Shutdown::Both);
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.bytes.make_contiguous().zeroize();
    }
}

/// A request that is under way.
pub(crate) struct InFlight(Arc<Client>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.0.maybe_idle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

    #[test]
    fn a_program_that_comes_late_gets_each_record_in_one_piece() {
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.unwrap();
        let mut outbox = Outbox { socket: Some(Arc::new(ours)), bytes: VecDeque::new() };
        let records = OUTBOX_LIMIT / RECORD_LEN;
        // The ring begins in its middle.
        outbox.bytes.extend(vec![0; RECORD_LEN * records / 2]);
        outbox.bytes.drain(..);
        for number in 0..records {
            outbox.bytes.extend([number as u8; RECORD_LEN]);
        }
        let mut record = [0; RECORD_LEN];
        for number in 0..records {
            outbox.flush().unwrap();
            let (_, n) = recv(&theirs, &mut record[..], RecvFlags::DONTWAIT).unwrap();
            assert_eq!(n, RECORD_LEN, "record {number}");
            assert!(record.iter().all(|byte| *byte == number as u8), "record {number}");
        }
        assert!(outbox.bytes.is_empty());
    }
}
