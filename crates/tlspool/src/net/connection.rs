//! Reads one program's records and sees to each of them.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tlspool_wire::assemble::Assembled;
use tlspool_wire::{Assembler, Body, Facilities, PROTOCOL_IDENTITY, Packet, Ping, PoolError, Text};
use tokio::io::unix::AsyncFdReadyGuard;
use tokio::time::Instant;
use zeroize::Zeroize;

use super::chooser::ChooserDesk;
use super::client::{Answer, Client};
use super::info;
use super::limits::{InUse, Totals};
use super::peer::Peer;
use super::pin::PinDesk;
use super::shared::Shared;
use super::starttls;
use super::worker::{Task, Worker};
use crate::watched::Watched;

/// Descriptors taken from one message; the kernel closes what does not fit.
const DESCRIPTORS: usize = 4;

/// When draining begins, a program that does not know of that may have connected and be about to send its
/// request. Only after this time its connection is closed when nothing is under way.
const GRACE: Duration = Duration::from_secs(2);

/// Records dealt with before others get their turn.
const TURN: usize = 4;

/// A program's connection on its way to the worker on which it is to live.
pub(crate) struct Arrival {
    client: Arc<Client>,
    socket: Arc<OwnedFd>,
    assembler: Assembler<OwnedFd>,
    ends: Ends,
}

impl Arrival {
    /// A new connection.
    pub(crate) fn new(shared: &Shared, socket: OwnedFd, peer: Peer, counted: InUse) -> Self {
        let socket = Arc::new(socket);
        let client = Client::new(socket.clone(), peer, counted);
        let ends = Ends {
            client: client.clone(),
            pins: shared.pins.clone(),
            choosers: shared.choosers.clone(),
        };
        Totals::count(&shared.totals.clients);
        tracing::debug!(client = %client.peer, "connected");
        Self { client, socket, assembler: Assembler::default(), ends }
    }
}

/// Serves a connection until the program closes it, or the drained daemon does, or another worker is to serve it.
pub(crate) async fn serve(worker: Rc<Worker>, arrival: Arrival) {
    let Arrival { client, socket, assembler, ends } = arrival;
    let Ok(watched) = Watched::shared(socket.clone()) else {
        tracing::error!("a program's connection cannot be watched; out of memory?");
        return;
    };
    let mut connection = Connection {
        worker: worker.clone(),
        client: client.clone(),
        watched,
        assembler,
        room: None,
    };
    let moves_to = worker.fairness.run(client.id, connection.run()).await;
    if let Some(other) = moves_to {
        tracing::debug!(client = %client.peer, from = worker.index, to = other, "moves to another worker");
        let Connection { assembler, .. } = connection;
        let arrival = Box::new(Arrival { client, socket, assembler, ends });
        // A worker that has ended ends the connection.
        worker.shared.workers[other].give(Task::Client(arrival));
    }
}

/// What ends with a connection, on every way out: also if the task that serves it panics.
struct Ends {
    client: Arc<Client>,
    pins: Arc<PinDesk>,
    choosers: Arc<ChooserDesk>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.client.left();
        self.pins.client_left(&self.client);
        self.choosers.client_left(&self.client);
        tracing::debug!(client = %self.client.peer, "disconnected");
    }
}

struct Connection {
    worker: Rc<Worker>,
    client: Arc<Client>,
    watched: Watched<Arc<OwnedFd>>,
    assembler: Assembler<OwnedFd>,
    /// To wait for room to write; only while that matters.
    room: Option<Watched>,
}

/// What a turn of reading came to.
enum Turn {
    /// There may be more.
    More,
    /// Nothing to read now.
    Empty,
    /// The stream has ended.
    End,
}

impl Connection {
    /// Returns the worker on which the connection lives from now on, if it has not ended.
    async fn run(&mut self) -> Option<usize> {
        let drain = self.worker.shared.drain.clone();
        let mut told = false;
        let mut noticed = false;
        let mut grace_ends = None;
        let mut ended = false;
        let mut patience_ends = None;
        loop {
            if drain.is_requested() && !told {
                told = true;
                grace_ends = Some(Instant::now() + GRACE);
                self.client.awaits_idle.store(true, Ordering::Release);
                self.worker.shared.choosers.dismiss(&self.client);
            }
            if told && !noticed && self.client.wants_drain_notice.load(Ordering::Relaxed) {
                noticed = true;
                self.client.send(&Packet { reqid: 0, cbid: 0, body: Body::Draining });
            }
            let owed = !noticed && grace_ends.is_some_and(|end| Instant::now() < end);
            if told && !self.client.has_stopped() && !owed && self.client.is_idle() {
                self.client.stop_reading();
            }
            if ended && self.client.is_idle() {
                return None;
            }
            // Room to write, and that the program hung up after we stopped reading, matter rarely.
            // Always waiting for both would wake us each time the program has read an answer.
            let unsent = self.client.has_unsent();
            if !told && !unsent {
                let better = self.worker.better_for(self.client.pacer.pace());
                if better.is_some() {
                    return better;
                }
            }
            let writing = unsent || ended;
            let room = match (writing, self.room.take()) {
                (false, _) => None,
                (true, Some(room)) => Some(room),
                (true, None) => {
                    match self.watched.get_ref().try_clone().and_then(Watched::to_write) {
                        Ok(room) => Some(room),
                        Err(_) => return None,
                    }
                }
            };
            self.room = room;
            if unsent {
                let patience = self.worker.settings().config.limits.callback_timeout;
                patience_ends.get_or_insert_with(|| Instant::now() + patience);
            } else {
                patience_ends = None;
            }
            tokio::select! {
                // A program that does not read its answers may not ask more.
                ready = self.watched.readable(), if !ended && !unsent => {
                    let Ok(mut ready) = ready else { return None };
                    match read(&mut self.assembler, &self.watched, &self.worker, &self.client) {
                        Turn::More => tokio::task::yield_now().await,
                        Turn::Empty => ready.clear_ready(),
                        Turn::End if self.client.has_stopped() && !self.is_hung_up() => ended = true,
                        Turn::End => break,
                    }
                }
                ready = room_in(self.room.as_ref()), if writing => {
                    let Ok(mut ready) = ready else { return None };
                    if self.is_hung_up() {
                        break;
                    }
                    match self.client.flush() {
                        Ok(taken) => {
                            if taken > 0 {
                                patience_ends = None;
                            }
                            ready.clear_ready();
                        }
                        Err(_) => break,
                    }
                }
                () = at(patience_ends) => {
                    tracing::warn!(client = %self.client.peer, "disconnected: it does not read its answers");
                    break;
                }
                () = at(grace_ends), if told && !self.client.has_stopped() && owed => {}
                () = self.client.attention.notified() => {}
                () = drain.requested(), if !told => {}
            }
        }
        if self.assembler.is_partial() {
            tracing::warn!(client = %self.client.peer, "it left in the middle of a record");
        }
        None
    }

    fn is_hung_up(&self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut fds = [PollFd::new(&self.watched, PollFlags::empty())];
        poll(&mut fds, Some(&now)).is_ok()
            && fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }
}

/// Waits until there is room to write, or the other end hung up.
async fn room_in(room: Option<&Watched>) -> std::io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match room {
        Some(room) => room.writable().await,
        None => std::future::pending().await,
    }
}

/// Waits for ever if there is nothing to wait for.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Reads and sees to what has come, for one turn.
fn read(
    assembler: &mut Assembler<OwnedFd>,
    socket: &Watched<Arc<OwnedFd>>,
    worker: &Rc<Worker>,
    client: &Arc<Client>,
) -> Turn {
    for _ in 0..TURN {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let mut buffers = [IoSliceMut::new(assembler.wanted())];
        let received = match recvmsg(socket.as_fd(), &mut buffers, &mut control, flags) {
            Ok(message) => message.bytes,
            Err(Errno::AGAIN) => return Turn::Empty,
            Err(Errno::INTR) => continue,
            Err(_) => return Turn::End,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                descriptors.for_each(|descriptor| assembler.take_descriptor(descriptor));
            }
        }
        if received == 0 {
            return Turn::End;
        }
        if let Some(mut record) = assembler.advance(received) {
            dispatch(worker, client, &mut record);
            record.bytes.zeroize();
        }
    }
    Turn::More
}

/// Sees to one record.
fn dispatch(worker: &Rc<Worker>, client: &Arc<Client>, record: &mut Assembled<OwnedFd>) {
    let shared = &worker.shared;
    Totals::count(&shared.totals.requests);
    let (reqid, cbid, _) = Packet::header(&record.bytes);
    let refuse = |error: PoolError, text: &str| {
        tracing::warn!(client = %client.peer, reqid, %error, "refused a record: {text}");
        client.send_error(reqid, error, text);
    };
    let (descriptor, second) = (record.descriptor.take(), record.second.take());
    if record.surplus.take().is_some() {
        return refuse(
            PoolError::SuperfluousSocket,
            "too many descriptors: at most one descriptor comes along, or two with STARTTLS",
        );
    }
    let packet = match Packet::decode(&record.bytes) {
        Ok(packet) => packet,
        Err(error) => return refuse(PoolError::RecordMalformed, &error.to_string()),
    };
    let two = cbid == 0
        && matches!(packet.body, Body::Starttls(_))
        && client.brings_plaintext.load(Ordering::Relaxed);
    if second.is_some() && !two {
        return refuse(PoolError::SuperfluousSocket, "at most one descriptor comes along");
    }
    if cbid != 0 {
        if !client.answered(reqid, cbid, Answer { body: packet.body, descriptor }) {
            let text = "no callback of this connection waits for this answer";
            refuse(PoolError::CommandBadCallbackResponse, text);
        }
        return;
    }
    if client.has_stopped() {
        return refuse(PoolError::Draining, "this pool is being replaced; connect again");
    }
    if let Body::Datagram(piece) = &packet.body {
        if descriptor.is_some() {
            refuse(PoolError::SuperfluousSocket, "this command takes no descriptor");
        } else if !client.take_piece(reqid, piece) {
            refuse(PoolError::RecordMalformed, "this piece does not fit the datagram before it");
        }
        return;
    }
    let limit = worker.settings().config.limits.requests_per_client;
    let Some(in_flight) = client.begin(limit) else {
        let text = format!("{limit} requests are in flight; see limits.requests_per_client");
        return refuse(PoolError::LimitReached, &text);
    };
    let reply = |body: Body| client.send(&Packet { reqid, cbid: 0, body });
    if descriptor.is_some() && !matches!(packet.body, Body::Starttls(_)) {
        return refuse(PoolError::SuperfluousSocket, "this command takes no descriptor");
    }
    match packet.body {
        Body::Ping(ping) => {
            let asked = Facilities(ping.facilities);
            let ours = Facilities::STARTTLS
                | Facilities::DRAIN_NOTICE
                | Facilities::PLAINTEXT_ALONG
                | Facilities::DATAGRAM_FIRST;
            if asked.contains(Facilities::PLAINTEXT_ALONG) {
                client.brings_plaintext.store(true, Ordering::Relaxed);
            }
            if asked.contains(Facilities::DRAIN_NOTICE) {
                client.wants_drain_notice.store(true, Ordering::Relaxed);
                client.attention.notify_one();
            }
            let identity = Text::cut(PROTOCOL_IDENTITY);
            reply(Body::Ping(Ping { identity, facilities: (asked & ours).0 }));
        }
        Body::Starttls(request) => {
            starttls::begin(worker, client, in_flight, reqid, request, [descriptor, second]);
        }
        Body::Pinentry(request) => {
            if !request.pin.is_empty() {
                return refuse(PoolError::CommandBadCallbackResponse, "nobody asked for a PIN");
            }
            if !worker.settings().may_enter_pins(client.uid()) {
                let text = "keys.pin_users of the pool does not name you";
                return refuse(PoolError::PinentryNotVacant, text);
            }
            if let Err(error) = shared.pins.register(client, reqid, &request, in_flight) {
                let text = match error {
                    PoolError::Draining => "this pool is being replaced; register again",
                    _ => "another program enters PINs; end it first",
                };
                refuse(error, text);
            }
        }
        Body::Prng(request) => {
            let answer = request
                .as_question()
                .map_err(|_| (PoolError::RecordMalformed, "a length is out of range"))
                .and_then(|question| {
                    let facts = shared.registry.facts(&question.ctlkey, client);
                    let facts = facts.map_err(|error| (error, "no such session of yours"))?;
                    info::keying_material(&facts, &question)
                });
            match answer {
                Ok(body) => reply(body),
                Err((error, text)) => refuse(error, text),
            }
        }
        Body::Info(request) => {
            let facts = shared.registry.facts(&request.ctlkey, client);
            let answer = facts
                .map_err(|error| (error, "no such session of yours"))
                .and_then(|facts| info::information(&facts, &request));
            match answer {
                Ok(body) => reply(body),
                Err((error, text)) => refuse(error, text),
            }
        }
        Body::ControlDetach(request) => match shared.registry.detach(&request.ctlkey, client) {
            Ok(()) => reply(Body::Success),
            Err(error) => refuse(error, &error.to_string()),
        },
        Body::ControlReattach(request) => match shared.registry.reattach(&request.ctlkey, client) {
            Ok(()) => reply(Body::Success),
            Err(error) => refuse(error, &error.to_string()),
        },
        Body::LidentryRegister(_) if shared.drain.is_requested() => {
            refuse(PoolError::Draining, "this pool is being replaced; register again");
        }
        Body::LidentryRegister(request) => {
            if let Err(error) = shared.choosers.register(client, reqid, &request) {
                refuse(error, "another program chooses local identities for you; end it first");
            }
        }
        Body::StarttlsLocalid(_) | Body::PlaintextConnect(_) | Body::LidentryCallback(_) => {
            refuse(
                PoolError::CommandBadCallbackResponse,
                "an answer must carry its callback's cbid",
            );
        }
        Body::Success | Body::Error(_) => {
            refuse(PoolError::CommandNeeded, "this is a response, not a command");
        }
        Body::Draining | Body::Datagram(_) | Body::Unknown(_) => {
            refuse(PoolError::CommandUnknown, "this pool does not know the command");
        }
    }
}

#[cfg(test)]
mod tests;
