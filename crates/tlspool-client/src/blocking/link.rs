//! One connection to the pool, with many requests in flight and no thread of its own.
//!
//! Of the threads that wait for an answer, one reads and hands each record to the request it
//! belongs to; when it has its own, another takes over. So nobody pays for a thread or a switch
//! that a lone caller does not need.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use tlspool_wire::{Assembler, Body, Packet};

use crate::Error;
use crate::exchange::{Dispatch, NotStarted, Requests};
use crate::io::{self, Passed, Received};

/// A connection.
#[derive(Debug)]
pub(crate) struct Link {
    socket: OwnedFd,
    /// Readable when the thread that reads should look up: its request was cancelled.
    wake: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    requests: Requests<Arc<Mailbox>>,
    /// Gone while a thread reads.
    assembler: Option<Assembler<OwnedFd>>,
    ended: bool,
}

/// Where the records of one request arrive.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    bell: Condvar,
    letters: Mutex<VecDeque<Packet>>,
    waiting: AtomicBool,
    cancelled: AtomicBool,
}

/// A request in flight.
#[derive(Debug)]
pub(crate) struct Ticket {
    link: Arc<Link>,
    reqid: u16,
    mailbox: Arc<Mailbox>,
    open: bool,
    /// The second descriptor was sent.
    along: bool,
}

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> Result<Self, Error> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(std::io::Error::from)?;
        let state = State {
            requests: Requests::default(),
            assembler: Some(Assembler::default()),
            ended: false,
        };
        Ok(Self { socket, wake, state: Mutex::new(state) })
    }

    /// Asks the pool to tell when it drains. Its answer is not waited for.
    pub(crate) fn hello(&self) -> Result<(), NotStarted> {
        let packet = self.state().requests.hello().map_err(NotStarted::Failed)?;
        self.deliver(&packet, [None, None]).map_err(|error| self.explained(error))
    }

    /// Why it is gone, if the pool has said so.
    fn explained(&self, error: NotStarted) -> NotStarted {
        if matches!(error, NotStarted::Gone) {
            // Reads what has arrived.
            self.is_usable();
            if let Some(error) = self.state().requests.parting() {
                return NotStarted::Failed(error);
            }
        }
        error
    }

    /// Whether new requests may go here, after reading what has already arrived.
    pub(crate) fn is_usable(&self) -> bool {
        let mut state = self.state();
        if let Some(mut assembler) = state.assembler.take() {
            loop {
                match io::receive(self.socket.as_fd(), &mut assembler) {
                    Received::Partial => {}
                    Received::WouldBlock => break,
                    other => {
                        if !self.take_in(&mut state, other) {
                            break;
                        }
                    }
                }
            }
            state.assembler = Some(assembler);
        }
        !state.ended && !state.requests.draining
    }

    /// Whether no session can live on this connection any more.
    pub(crate) fn is_hung_up(&self) -> bool {
        io::is_hung_up(&self.socket)
    }

    /// Sends a request; its second descriptor only if the pool takes one.
    pub(crate) fn start(
        self: &Arc<Self>,
        body: Body,
        passed: Passed<'_>,
    ) -> Result<Ticket, NotStarted> {
        self.start_after(&[], body, passed)
    }

    /// The same, with records that go ahead of the request and have no answer.
    pub(crate) fn start_after(
        self: &Arc<Self>,
        ahead: &[Body],
        body: Body,
        [descriptor, along]: Passed<'_>,
    ) -> Result<Ticket, NotStarted> {
        let mailbox = Arc::new(Mailbox::default());
        let (reqid, along) = {
            let requests = &mut self.state().requests;
            let reqid = requests.enter(Arc::clone(&mailbox)).map_err(NotStarted::Failed)?;
            (reqid, along.filter(|_| requests.takes_plaintext))
        };
        let of = |body| Packet { reqid, cbid: 0, body };
        let sent = ahead
            .iter()
            .try_for_each(|body| self.deliver(&of(body.clone()), [None, None]))
            .and_then(|()| self.deliver(&of(body), [descriptor, along]));
        match sent {
            Ok(()) => Ok(Ticket {
                link: Arc::clone(self),
                reqid,
                mailbox,
                open: true,
                along: along.is_some(),
            }),
            Err(error) => {
                self.state().requests.forget(reqid);
                Err(self.explained(error))
            }
        }
    }

    fn deliver(&self, packet: &Packet, descriptors: Passed<'_>) -> Result<(), NotStarted> {
        match io::send(self.socket.as_fd(), packet, descriptors) {
            Ok(()) => Ok(()),
            Err(error) if io::is_gone(error) => {
                // Of the other direction this says nothing: what was sent before may still be answered.
                self.state().requests.draining = true;
                Err(NotStarted::Gone)
            }
            Err(error) => Err(NotStarted::Failed(std::io::Error::from(error).into())),
        }
    }

    fn cancel(&self, reqid: u16) {
        let state = self.state();
        let Some(mailbox) = state.requests.waiter(reqid) else { return };
        mailbox.cancelled.store(true, Ordering::Relaxed);
        mailbox.bell.notify_all();
        if state.assembler.is_none() {
            // A full counter wakes just as well, so the outcome does not matter.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks until `mailbox` has a letter.
    fn wait(&self, mailbox: &Mailbox) -> Result<Packet, Error> {
        let mut state = self.state();
        loop {
            if let Some(packet) = mailbox.pop() {
                state.appoint_reader();
                return Ok(packet);
            }
            if mailbox.cancelled.load(Ordering::Relaxed) {
                state.appoint_reader();
                return Err(Error::Cancelled);
            }
            if state.ended {
                return Err(state.requests.lost());
            }
            let Some(mut assembler) = state.assembler.take() else {
                mailbox.waiting.store(true, Ordering::Relaxed);
                state = mailbox.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
                mailbox.waiting.store(false, Ordering::Relaxed);
                continue;
            };
            drop(state);
            let received = self.read(&mut assembler);
            state = self.state();
            state.assembler = Some(assembler);
            self.take_in(&mut state, received);
        }
    }

    /// What has arrived for `mailbox`, if anything has, or that there will be nothing.
    fn poll(&self, mailbox: &Mailbox) -> Option<Result<Packet, Error>> {
        // Reads.
        self.is_usable();
        let state = self.state();
        match mailbox.pop() {
            Some(packet) => Some(Ok(packet)),
            None => state.ended.then(|| Err(state.requests.lost())),
        }
    }

    /// What to poll.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Blocks until something arrives, or `wake`.
    fn read(&self, assembler: &mut Assembler<OwnedFd>) -> Received {
        let mut fds =
            [PollFd::new(&self.socket, PollFlags::IN), PollFd::new(&self.wake, PollFlags::IN)];
        if poll(&mut fds, None).is_ok() && fds[1].revents().contains(PollFlags::IN) {
            // Nobody else empties it, and an empty one is fine too.
            let _ = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        }
        io::receive(self.socket.as_fd(), assembler)
    }

    /// Hands a record out; false if there will be no more.
    fn take_in(&self, state: &mut State, received: Received) -> bool {
        let packet = match received {
            Received::Partial | Received::WouldBlock => return true,
            Received::Record(Ok(packet)) => packet,
            Received::Record(Err(_)) | Received::Ended => {
                state.ended = true;
                state.requests.waiters().for_each(|w| w.bell.notify_all());
                return false;
            }
        };
        match state.requests.dispatch(packet) {
            Dispatch::Callback(mailbox, packet) | Dispatch::Final(mailbox, packet) => {
                mailbox.push(packet);
            }
            Dispatch::Refuse(packet) => {
                // If the connection is gone, reading will tell.
                let _ = io::send(self.socket.as_fd(), &packet, [None, None]);
            }
            Dispatch::Nothing => {}
        }
        true
    }
}

impl State {
    /// If nobody reads, wakes one of those who wait.
    fn appoint_reader(&self) {
        if self.assembler.is_some()
            && let Some(next) = self.requests.waiters().find(|w| w.waiting.load(Ordering::Relaxed))
        {
            next.bell.notify_all();
        }
    }
}

impl Mailbox {
    fn push(&self, packet: Packet) {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).push_back(packet);
        self.bell.notify_all();
    }

    fn pop(&self) -> Option<Packet> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

impl Ticket {
    /// The next record for this request, a callback or the last.
    pub(crate) fn wait(&mut self) -> Result<Packet, Error> {
        self.link.wait(&self.mailbox)
    }

    /// The next record, if it is there, without waiting.
    pub(crate) fn poll(&mut self) -> Option<Result<Packet, Error>> {
        self.link.poll(&self.mailbox)
    }

    /// Answers a callback.
    pub(crate) fn answer(
        &self,
        cbid: u16,
        body: Body,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), Error> {
        let packet = Packet { reqid: self.reqid, cbid, body };
        let sent = self.link.deliver(&packet, [descriptor.as_ref().map(AsFd::as_fd), None]);
        drop(descriptor); // the pool has its own by now; ours would hide its hang-ups
        sent.map_err(NotStarted::into_lost)
    }

    /// The request has its final answer.
    pub(crate) fn finish(&mut self) {
        self.open = false;
    }

    /// Whether the pool got the second descriptor.
    pub(crate) fn went_along(&self) -> bool {
        self.along
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// For [`crate::Cancel`].
    pub(crate) fn canceller(&self) -> impl Fn() + Send + Sync + 'static {
        let (link, reqid) = (Arc::downgrade(&self.link), self.reqid);
        move || {
            if let Some(link) = link.upgrade() {
                link.cancel(reqid);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.open {
            let mut state = self.link.state();
            state.requests.abandon(self.reqid);
        }
        // Callbacks that arrived and were not answered are refused, so that the pool can go on.
        while let Some(packet) = self.mailbox.pop() {
            if packet.cbid != 0 {
                let refusal = crate::Refusal::from(tlspool_wire::PoolError::ClientRefusesCallback);
                let _ = self.answer(packet.cbid, refusal.into_body(), None);
            }
        }
    }
}
