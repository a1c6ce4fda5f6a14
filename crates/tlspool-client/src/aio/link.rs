//! One connection to the pool, read by a task of its own.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tlspool_wire::{Assembler, Body, Packet, PoolError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

use rustix::io::Errno;

use crate::exchange::{Dispatch, NotStarted, Requests, is_callback};
use crate::io::{self, Passed, Received};
use crate::{Error, Refusal};

/// A connection; its reading task ends with it.
#[derive(Debug)]
pub(super) struct Link {
    shared: Arc<Shared>,
    reader: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    /// Registered for reading only: a UNIX socket signals room to write whenever the other end has
    /// read, which would wake us for nothing after each record.
    socket: AsyncFd<OwnedFd>,
    requests: Mutex<Requests<UnboundedSender<Packet>>>,
    ended: AtomicBool,
}

/// A request in flight.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) link: Arc<Link>,
    reqid: u16,
    inbox: UnboundedReceiver<Packet>,
    sent: bool,
    finished: bool,
    /// The callback that was taken out and is not answered yet; 0 is none.
    owed: u16,
    /// The pool got the second descriptor.
    pub(super) along: bool,
}

impl Link {
    /// Takes over a connected socket, and sends the greeting that asks for notices.
    pub(super) async fn new(socket: OwnedFd) -> Result<Self, NotStarted> {
        let socket = rustix::io::ioctl_fionbio(&socket, true)
            .map_err(std::io::Error::from)
            .and_then(|()| watch(socket, Interest::READABLE))
            .map_err(|e| NotStarted::Failed(e.into()))?;
        let mut requests = Requests::default();
        let hello = requests.hello().map_err(NotStarted::Failed)?;
        let shared = Arc::new(Shared {
            socket,
            requests: Mutex::new(requests),
            ended: AtomicBool::new(false),
        });
        if let Err(error) = shared.deliver(&hello, [None, None]).await {
            return Err(shared.explained(error));
        }
        let reader = tokio::spawn(Arc::clone(&shared).read()).abort_handle();
        Ok(Self { shared, reader })
    }

    /// Whether new requests may go here.
    pub(super) fn is_usable(&self) -> bool {
        !self.shared.ended.load(Ordering::Acquire) && !self.shared.requests().draining
    }

    /// What the pool said of the connection as a whole, if it did.
    pub(super) fn parting(&self) -> Option<Error> {
        self.shared.requests().parting()
    }

    /// Whether no session can live on this connection any more.
    pub(super) fn is_hung_up(&self) -> bool {
        io::is_hung_up(&self.shared.socket)
    }

    /// Sends a request; its second descriptor only if the pool takes one.
    pub(super) async fn start(
        self: &Arc<Self>,
        body: Body,
        passed: Passed<'_>,
    ) -> Result<Ticket, NotStarted> {
        self.start_after(&[], body, passed).await
    }

    /// The same, with records that go ahead of the request and have no answer.
    pub(super) async fn start_after(
        self: &Arc<Self>,
        ahead: &[Body],
        body: Body,
        [descriptor, along]: Passed<'_>,
    ) -> Result<Ticket, NotStarted> {
        let (outbox, inbox) = unbounded_channel();
        let (reqid, along) = {
            let mut requests = self.shared.requests();
            let reqid = requests.enter(outbox).map_err(NotStarted::Failed)?;
            (reqid, along.filter(|_| requests.takes_plaintext))
        };
        let mut ticket = Ticket {
            link: Arc::clone(self),
            reqid,
            inbox,
            sent: false,
            finished: false,
            owed: 0,
            along: along.is_some(),
        };
        if self.shared.ended.load(Ordering::Acquire) {
            return Err(NotStarted::Gone);
        }
        for body in ahead {
            let packet = Packet { reqid, cbid: 0, body: body.clone() };
            self.shared.deliver(&packet, [None, None]).await?;
        }
        self.shared.deliver(&Packet { reqid, cbid: 0, body }, [descriptor, along]).await?;
        ticket.sent = true;
        Ok(ticket)
    }
}

/// Registers a socket. (The function that replaces `with_interest` is unsafe because it trusts
/// `AsRawFd`; an `OwnedFd` can be trusted.)
#[allow(deprecated)]
fn watch(socket: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, interest)
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Shared {
    fn requests(&self) -> MutexGuard<'_, Requests<UnboundedSender<Packet>>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn deliver(&self, packet: &Packet, descriptors: Passed<'_>) -> Result<(), NotStarted> {
        let mut room = None;
        loop {
            let error = match io::send(self.socket.as_fd(), packet, descriptors) {
                Ok(()) => return Ok(()),
                Err(Errno::AGAIN) => match self.wait_for_room(&mut room).await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Err(errno) if io::is_gone(errno) => {
                    self.ended.store(true, Ordering::Release);
                    return Err(NotStarted::Gone);
                }
                Err(errno) => errno.into(),
            };
            return Err(NotStarted::Failed(error.into()));
        }
    }

    /// Why a new connection is gone that nobody reads yet, if the pool has said so.
    fn explained(&self, error: NotStarted) -> NotStarted {
        if matches!(error, NotStarted::Failed(_)) {
            return error;
        }
        let mut assembler = Assembler::default();
        loop {
            match io::receive(self.socket.as_fd(), &mut assembler) {
                Received::Partial => {}
                Received::Record(Ok(packet)) => {
                    self.requests().dispatch(packet);
                }
                Received::Record(Err(_)) | Received::WouldBlock | Received::Ended => break,
            }
        }
        self.requests().parting().map_or(error, NotStarted::Failed)
    }

    /// Waits until the pool has read; `room` is made when it is first needed.
    async fn wait_for_room(&self, room: &mut Option<AsyncFd<OwnedFd>>) -> std::io::Result<()> {
        let room = match room {
            Some(room) => room,
            none => none.insert(watch(self.socket.get_ref().try_clone()?, Interest::WRITABLE)?),
        };
        room.writable().await?.clear_ready();
        Ok(())
    }

    /// Gives a record to the one who waits; returns what to send back if that is nobody.
    fn hand_out(&self, packet: Packet) -> Option<Packet> {
        // Under the lock: who gives up after this finds the record, and refuses.
        let mut requests = self.requests();
        match requests.dispatch(packet) {
            Dispatch::Callback(to, packet) | Dispatch::Final(to, packet) => {
                let _ = to.send(packet);
                None
            }
            Dispatch::Refuse(packet) => Some(packet),
            Dispatch::Nothing => None,
        }
    }

    /// The reading task.
    async fn read(self: Arc<Self>) {
        let mut assembler = Assembler::default();
        loop {
            let receive = |socket: &OwnedFd| match io::receive(socket.as_fd(), &mut assembler) {
                Received::WouldBlock => Err(std::io::ErrorKind::WouldBlock.into()),
                other => Ok(other),
            };
            match self.socket.async_io(Interest::READABLE, receive).await {
                Ok(Received::Partial | Received::WouldBlock) => {}
                Err(_) | Ok(Received::Ended | Received::Record(Err(_))) => break,
                Ok(Received::Record(Ok(packet))) => {
                    if let Some(refusal) = self.hand_out(packet) {
                        let _ = self.deliver(&refusal, [None, None]).await;
                    }
                }
            }
        }
        self.ended.store(true, Ordering::Release);
        self.requests().clear();
    }
}

impl Ticket {
    /// The next record for this request, a callback or the last.
    pub(super) async fn wait(&mut self) -> Result<Packet, Error> {
        let Some(packet) = self.inbox.recv().await else {
            return Err(self.link.shared.requests().lost());
        };
        self.owed = if is_callback(&packet) { packet.cbid } else { 0 };
        Ok(packet)
    }

    /// Answers a callback.
    pub(super) async fn answer(
        &mut self,
        cbid: u16,
        body: Body,
        descriptor: Option<OwnedFd>,
    ) -> Result<(), Error> {
        let packet = Packet { reqid: self.reqid, cbid, body };
        let passed = [descriptor.as_ref().map(AsFd::as_fd), None];
        let sent = self.link.shared.deliver(&packet, passed).await;
        self.owed = 0;
        sent.map_err(NotStarted::into_lost)
    }

    /// The request has its final answer.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut requests = self.link.shared.requests();
        if !self.sent {
            return requests.forget(self.reqid);
        }
        requests.abandon(self.reqid);
        drop(requests);
        let refuse = |cbid| {
            let body = Refusal::from(PoolError::ClientRefusesCallback).into_body();
            let refusal = Packet { reqid: self.reqid, cbid, body };
            // The buffer is all but empty; if not, the pool's own time limit ends it.
            let _ = io::send(self.link.shared.socket.as_fd(), &refusal, [None, None]);
        };
        if self.owed != 0 {
            refuse(self.owed);
        }
        while let Ok(packet) = self.inbox.try_recv() {
            if is_callback(&packet) {
                refuse(packet.cbid);
            }
        }
    }
}
