//! Moves bytes between a TLS socket and a plaintext socket until both directions have ended.
//!
//! ```text
//!            up:   peer ──ciphertext──► open in place ──plaintext──► application
//!          down:   peer ◄─ciphertext─── seal in place ◄─plaintext─── application
//! ```
//! Each direction ends by itself (half-close): `close_notify` from the peer becomes an end of
//! stream for the application, and the reverse. An end of the TCP stream without `close_notify`
//! is a truncation, which must not look like a clean end.
//!
//! Buffers belong to the thread: bytes are read, transformed and written within one poll. Only
//! what cannot be written at once, or is not a whole record yet, is kept per session, so an idle
//! session has none.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, ready};

pub use crate::cancel::Cancel;
use crate::linger::{Left, Linger, Watch};
use crate::record::{Event, Fault, HEADER, MAX_PLAINTEXT, MAX_RECORD, Traffic, alert, content};
use crate::socket::Socket;

/// Records handled per system call.
const BATCH: usize = 8;

/// Bytes of the thread's buffer for a stream.
const STREAM_BUFFER: usize = BATCH * MAX_RECORD;

/// Bytes of the thread's buffer for packets: more than the kernel lets a UNIX socket send in one.
const PACKET_BUFFER: usize = 32 * MAX_RECORD;

/// Why a session ends whose peer takes nothing.
pub(crate) const STANDS_STILL: &str = "it does not take what the application has said last";

/// Plaintext shorter than this is moved next to its predecessor; longer is sent from where it is.
const WORTH_A_SEGMENT: usize = 2048;

/// Most bytes that are read of a peer which takes nothing any more: more than a receive buffer holds.
pub(crate) const LAST_WORDS: usize = 1 << 26;

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// Both sides closed cleanly.
    Closed,
    /// The application closed, and the peer did not answer in time, or had nothing to add.
    ApplicationClosed,
    /// The peer's stream ended without `close_notify`: data may be missing.
    Truncated,
    /// The peer ended the session with this alert.
    PeerAlert(u8),
    /// The peer broke the protocol.
    Fault(Fault),
    /// The same in a session of `tls12`, or a renegotiation failed; why.
    Refused(String),
    /// The peer of a datagram session was silent for too long.
    Idle,
    /// The connection to the peer failed.
    PeerLost(io::Error),
    /// The connection to the application failed.
    ApplicationLost(io::Error),
    /// It was asked to end.
    Cancelled,
}

/// What there is to say of a session that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub end: End,
    /// Plaintext bytes to the application.
    pub received: u64,
    /// Plaintext bytes to the peer.
    pub sent: u64,
    /// Messages that no datagram could carry, or that found no room on their way.
    pub dropped: u64,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("closed"),
            Self::ApplicationClosed => f.write_str("closed by the application"),
            Self::Truncated => f.write_str("truncated: the peer ended without close_notify"),
            Self::PeerAlert(description) => {
                let words =
                    crate::handshake::alert_words(rustls::AlertDescription::from(*description));
                write!(f, "ended by the peer: {words}")
            }
            Self::Fault(fault) => write!(f, "{fault}"),
            Self::Refused(why) => f.write_str(why),
            Self::Idle => f.write_str("ended: the peer has been silent for too long"),
            Self::PeerLost(error) => write!(f, "connection to the peer lost: {error}"),
            Self::ApplicationLost(error) => {
                write!(f, "connection to the application lost: {error}")
            }
            Self::Cancelled => f.write_str("ended on request"),
        }
    }
}

/// Relays until the session has ended; consumes both sockets.
pub async fn run(peer: Socket, application: Socket, traffic: Traffic, cancel: &Cancel) -> Ended {
    let mut relay = Box::new(Relay::new(peer, application, traffic));
    let (mut cancelled, mut cut) = (pin!(cancel.requested()), pin!(cancel.is_cut()));
    let end = std::future::poll_fn(|cx| {
        if !relay.cancelled && cancelled.as_mut().poll(cx).is_ready() {
            relay.cancelled = true;
        }
        if relay.cancelled && !relay.cut && cut.as_mut().poll(cx).is_ready() {
            relay.cut = true;
        }
        relay.poll(cx)
    })
    .await;
    if !matches!(end, End::Closed | End::ApplicationClosed) {
        relay.application.abort_on_close();
        relay.peer.abort_on_close_if_unsent(&end);
    }
    Ended { end, received: relay.up.bytes, sent: relay.down.bytes, dropped: 0 }
}

impl Socket {
    /// A session that was cut here must not look like a clean end to the peer either, but an
    /// alert that was sent must still arrive.
    fn abort_on_close_if_unsent(&self, end: &End) {
        if matches!(end, End::PeerLost(_)) {
            self.abort_on_close();
        }
    }
}

struct Relay {
    peer: Socket,
    application: Socket,
    traffic: Traffic,
    up: Up,
    down: Down,
    /// The application is gone: what the peer still sends is read and dropped.
    deserted: bool,
    /// It has reset its connection, and may have said more than arrived.
    reset: bool,
    /// It was asked to end.
    cancelled: bool,
    /// It was asked to end at once.
    cut: bool,
    /// Why the session ends once its last record is sent, and the peer's last data are delivered.
    dying: Option<End>,
    /// Nothing reaches the peer any more.
    mute: bool,
    /// So many bytes of what it had said before are read; none: it is not lost, or all of them are.
    last_words: Option<usize>,
    /// The application was found to have gone, though it is not read to its end.
    gone: bool,
    watch: Watch,
    linger: Option<Box<Linger>>,
}

/// Peer to application.
struct Up {
    /// The beginning of a record.
    partial: Vec<u8>,
    /// Plaintext that the application has not taken; one element per message if it wants those.
    pending: VecDeque<Vec<u8>>,
    /// Bytes of the first element already taken.
    taken: usize,
    /// The peer has said that it sends no more.
    ended: bool,
    done: bool,
    /// Length of the latest record, to read just so much that the next ends where a read ends.
    stride: usize,
    bytes: u64,
}

/// Application to peer.
struct Down {
    /// Ciphertext that the peer has not taken.
    pending: Vec<u8>,
    /// That many bytes of it, its beginning, need not leave before there is more.
    held: usize,
    taken: usize,
    ended: bool,
    done: bool,
    bytes: u64,
    /// Ciphertext bytes that the peer has taken.
    moved: u64,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; STREAM_BUFFER]);
    static PACKET: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Relay {
    fn new(peer: Socket, application: Socket, mut traffic: Traffic) -> Self {
        let early = std::mem::take(&mut traffic.early);
        let up = Up {
            partial: std::mem::take(&mut traffic.unread),
            taken: 0,
            ended: traffic.peer_closed,
            done: false,
            stride: 0,
            bytes: early.len() as u64,
            pending: if early.is_empty() { VecDeque::new() } else { VecDeque::from([early]) },
        };
        let pending = std::mem::take(&mut traffic.held);
        let held = pending.len();
        let down = Down { pending, held, taken: 0, ended: false, done: false, bytes: 0, moved: 0 };
        Self {
            peer,
            application,
            traffic,
            up,
            down,
            deserted: false,
            reset: false,
            cancelled: false,
            cut: false,
            dying: None,
            mute: false,
            last_words: None,
            gone: false,
            watch: Watch::default(),
            linger: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.dying.is_none() {
            // Down first: an application that has closed wants its last bytes delivered.
            if let Poll::Ready(Err(end)) = self.poll_down(cx) {
                self.die(end);
            }
        }
        if self.dying.is_none()
            && let Poll::Ready(Err(end)) = self.poll_up(cx)
        {
            self.die(end);
        }
        // What `up` put up for sending (an answer, an alert) leaves now.
        let mut sent = self.mute;
        if !self.mute {
            match self.poll_flush_down(cx) {
                Poll::Ready(Err(end)) => {
                    sent = true;
                    self.silence();
                    if self.dying.is_none() {
                        self.die(end);
                    }
                }
                Poll::Ready(Ok(())) => sent = true,
                Poll::Pending => {}
            }
        }
        if self.dying.is_some() {
            if self.poll_last_words(cx).is_ready()
                && sent
                && let Some(end) = self.dying.take()
            {
                return Poll::Ready(end);
            }
        } else if self.up.done && self.down.done {
            let end = if self.deserted { End::ApplicationClosed } else { End::Closed };
            return Poll::Ready(end);
        }
        self.poll_linger(cx)
    }

    /// The session ends with `end`; an alert may have to be sent first.
    fn die(&mut self, end: End) {
        let description = match &end {
            End::Fault(fault) => Some(fault.alert),
            End::ApplicationLost(_) => Some(alert::INTERNAL_ERROR),
            End::PeerLost(_) => {
                self.silence();
                self.last_words = Some(0);
                None
            }
            _ => None,
        };
        if let Some(description) = description {
            // Without the alert the peer sees a truncation, which is as much as can be said.
            let _ = self.traffic.seal_alert(description, &mut self.down.pending);
        }
        self.dying = Some(end);
    }

    /// Nothing can be said to the peer any more.
    fn silence(&mut self) {
        self.mute = true;
        self.down.pending = Vec::new();
        self.down.taken = 0;
        self.down.held = 0;
    }

    /// Reads what a peer that is lost had said before, an alert perhaps, and has the application get what any
    /// peer said before its end. (What is closed with a reset loses what has not arrived.)
    fn poll_last_words(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.last_words.is_some() {
            let heard = ready!(self.poll_up(cx));
            if let Err(end @ (End::PeerAlert(_) | End::Fault(_))) = heard {
                // It says why it is lost.
                self.dying = Some(end);
            }
            self.last_words = None;
        }
        if !self.is_ended_by_peer() {
            return Poll::Ready(());
        }
        // That the application has gone is no news by now.
        let _ = ready!(self.poll_flush_up(cx));
        if self.owes_application() == 0 { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether the session ends by what the peer did, which the application learns after what the peer said.
    const fn is_ended_by_peer(&self) -> bool {
        matches!(self.dying, Some(End::PeerAlert(_) | End::PeerLost(_) | End::Truncated))
    }

    /// Bytes that the application does not have yet.
    fn owes_application(&self) -> u64 {
        if self.deserted || self.application.is_hung_up() {
            return 0;
        }
        let pending = self.up.pending.iter().map(Vec::len).sum::<usize>();
        pending.saturating_sub(self.up.taken) as u64 + self.application.unacknowledged()
    }

    /// Limits the time that an ended session may take to be over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let held = self.down.pending.len() > self.down.held;
        self.gone |= self.watch.poll(cx, held, || self.application.is_hung_up());
        let leaving =
            self.dying.is_some() || self.cancelled || self.gone || self.deserted && self.down.ended;
        if !leaving {
            return Poll::Pending;
        }
        let left = self.left();
        ready!(Linger::poll(&mut self.linger, cx, left));
        Poll::Ready(match self.dying.take() {
            Some(end) => end,
            None if self.deserted && self.down.done => End::ApplicationClosed,
            None if !self.down.done && !self.cut && self.has_said_all() => {
                End::PeerLost(io::Error::new(io::ErrorKind::TimedOut, STANDS_STILL))
            }
            None => End::Cancelled,
        })
    }

    /// What there is to wait for at the end.
    fn left(&self) -> Left {
        let up = if self.is_ended_by_peer() { self.owes_application() } else { 0 };
        let down = self.down.pending.len().saturating_sub(self.down.taken);
        Left {
            waiting: up + down as u64 + self.peer.unacknowledged(),
            moved: self.down.moved,
            cut: self.cut
                || self.dying.is_some() && up == 0
                || self.cancelled && self.dying.is_none() && !self.has_said_all(),
        }
    }

    /// Whether what the application may still say is finite.
    fn has_said_all(&self) -> bool {
        self.down.ended || self.application.is_read_closed()
    }

    // ---- peer to application

    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            ready!(self.poll_flush_up(cx))?;
            if self.up.done {
                return Poll::Ready(Ok(()));
            }
            if self.up.ended {
                if !self.deserted {
                    self.application.shutdown_write();
                }
                self.up.done = true;
                return Poll::Ready(Ok(()));
            }
            ready!(BUFFER.with_borrow_mut(|buffer| self.poll_receive(cx, buffer)))?;
        }
    }

    /// Gives the application what it has not taken yet.
    fn poll_flush_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        while let Some(first) = self.up.pending.front() {
            if self.deserted {
                self.up.pending.clear();
                break;
            }
            match ready!(self.application.poll_send(cx, &first[self.up.taken..])) {
                Ok(n) => {
                    self.up.taken += n;
                    if self.up.taken >= first.len() {
                        self.up.taken = 0;
                        self.up.pending.pop_front();
                    }
                }
                Err(error) => self.application_gone(error)?,
            }
        }
        if self.up.pending.capacity() > 0 {
            self.up.pending = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }

    /// The application does not read any more. That is its right; only what it still has to say
    /// matters.
    fn application_gone(&mut self, error: io::Error) -> Result<(), End> {
        self.reset |= self.application.was_reset(&error);
        match error.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected => {
                self.deserted = true;
                Ok(())
            }
            _ => Err(End::ApplicationLost(error)),
        }
    }

    /// Receives once, and passes on every record that is whole.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<(), End>> {
        let have = self.up.partial.len();
        let mut filled = have;
        // What came with the handshake may hold whole records already.
        let unread = self.has_whole_record();
        if !unread {
            let room = self.room(buffer.len());
            let received = match &mut self.last_words {
                None => ready!(self.peer.poll_recv(cx, &mut buffer[have..room])),
                Some(read) if *read >= LAST_WORDS => Ok(0),
                Some(read) => self.peer.recv_now(&mut buffer[have..room]).inspect(|n| *read += n),
            };
            let received = match received {
                Ok(received) => received,
                Err(error) => return Poll::Ready(Err(self.peer_failed(error))),
            };
            if received == 0 {
                return Poll::Ready(self.stream_ended());
            }
            filled += received;
        }
        buffer[..have].copy_from_slice(&self.up.partial);
        self.up.partial = Vec::new();
        let opened = self.open_records(&mut buffer[..filled]);
        let (used, segments) = match opened {
            Ok(opened) => opened,
            Err(fault) => return Poll::Ready(Err(End::Fault(fault))),
        };
        if used < filled && !self.up.ended {
            self.up.partial = buffer[used..filled].to_vec();
        }
        let delivered = self.deliver(cx, buffer, &segments);
        if let Err(end) = delivered {
            return Poll::Ready(Err(end));
        }
        match segments.alert {
            Some(description) => Poll::Ready(Err(End::PeerAlert(description))),
            None => Poll::Ready(Ok(())),
        }
    }

    fn has_whole_record(&self) -> bool {
        let partial = &self.up.partial;
        match self.traffic.record_length(partial) {
            Ok(Some(length)) => partial.len() >= length,
            Ok(None) => false,
            Err(_) => true, // to be refused where it is opened
        }
    }

    /// How far to fill a buffer of `size` so that, if records keep their length, one ends there.
    fn room(&self, size: usize) -> usize {
        let stride = self.up.stride;
        if stride < MAX_PLAINTEXT / 2 {
            return size;
        }
        size - size % stride
    }

    /// Opens all whole records in `bytes` in place. Returns how many bytes they take, and where
    /// their plaintext is.
    fn open_records(&mut self, bytes: &mut [u8]) -> Result<(usize, Segments), Fault> {
        let messages = self.application.is_packets();
        let mut segments = Segments::default();
        let mut used = 0;
        while let Some(length) = self.traffic.record_length(&bytes[used..])?
            && used + length <= bytes.len()
        {
            let (kind, plain) = self.traffic.open(&mut bytes[used..used + length])?;
            let plain = used + plain.start..used + plain.end;
            used += length;
            self.up.stride = length;
            if kind == content::APPLICATION_DATA {
                self.up.bytes += plain.len() as u64;
                segments.add(bytes, plain, messages);
                continue;
            }
            let payload = bytes[plain].to_vec();
            match self.traffic.control(kind, &payload)? {
                Event::Nothing => {}
                Event::PeerClosed => {
                    self.up.ended = true;
                    break;
                }
                Event::PeerAlert(description) => {
                    segments.alert = Some(description);
                    break;
                }
            }
        }
        Ok((used, segments))
    }

    /// Writes plaintext to the application; what it does not take is kept.
    fn deliver(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        segments: &Segments,
    ) -> Result<(), End> {
        if self.deserted {
            return Ok(());
        }
        let mut rest = segments.ranges.as_slice();
        let mut offset = 0;
        while let Some(first) = rest.first() {
            let sent = if self.application.is_packets() || rest.len() == 1 {
                self.application.poll_send(cx, &bytes[first.start + offset..first.end])
            } else {
                let mut slices = [IoSlice::new(&[]); 64];
                let count = rest.len().min(slices.len());
                for (slice, range) in slices.iter_mut().zip(rest) {
                    *slice = IoSlice::new(&bytes[range.clone()]);
                }
                slices[0] = IoSlice::new(&bytes[first.start + offset..first.end]);
                self.application.poll_send_vectored(cx, &slices[..count])
            };
            match sent {
                Poll::Ready(Ok(mut n)) => {
                    while let Some(first) = rest.first() {
                        let left = first.len() - offset;
                        if n < left {
                            offset += n;
                            break;
                        }
                        n -= left;
                        offset = 0;
                        rest = &rest[1..];
                    }
                }
                Poll::Ready(Err(error)) => return self.application_gone(error),
                Poll::Pending => {
                    for range in rest {
                        self.up.pending.push_back(bytes[range.start + offset..range.end].to_vec());
                        offset = 0;
                    }
                    break;
                }
            }
        }
        Ok(())
    }

    /// The peer's TCP stream ended.
    fn stream_ended(&mut self) -> Result<(), End> {
        if self.deserted {
            self.up.ended = true;
            return Ok(());
        }
        Err(End::Truncated)
    }

    fn peer_failed(&self, error: io::Error) -> End {
        if self.deserted && self.down.done { End::ApplicationClosed } else { End::PeerLost(error) }
    }

    // ---- application to peer

    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        loop {
            ready!(self.poll_flush_down(cx))?;
            if self.down.done {
                return Poll::Ready(Ok(()));
            }
            if self.down.ended {
                self.peer.shutdown_write();
                self.down.done = true;
                return Poll::Ready(Ok(()));
            }
            let polled = if self.application.is_packets() {
                PACKET.with_borrow_mut(|buffer| {
                    buffer.resize(PACKET_BUFFER, 0);
                    self.poll_send_on(cx, buffer)
                })
            } else {
                BUFFER.with_borrow_mut(|buffer| self.poll_send_on(cx, buffer))
            };
            ready!(polled)?;
        }
    }

    /// Sends what waits, and answers the peer where it wants an answer at once.
    fn poll_flush_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if self.down.held > 0 && self.down.held == self.down.pending.len() {
            return Poll::Ready(Ok(()));
        }
        self.down.held = 0;
        loop {
            while self.down.taken < self.down.pending.len() {
                let rest = &self.down.pending[self.down.taken..];
                let n = ready!(self.peer.poll_send(cx, rest)).map_err(End::PeerLost)?;
                self.down.taken += n;
                self.down.moved += n as u64;
            }
            if self.down.taken > 0 {
                self.down.pending = Vec::new();
                self.down.taken = 0;
            }
            // Nothing is said after our end, nor after an alert.
            if !self.down.ended && self.dying.is_none() {
                self.traffic.refuse(&mut self.down.pending).map_err(End::Fault)?;
            }
            if self.down.pending.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes what the application sends, into the places where records want their plaintext,
    /// seals it there, and sends it.
    fn poll_send_on(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<(), End>> {
        let (prefix, suffix) = (self.traffic.prefix(), self.traffic.suffix());
        let stride = prefix + MAX_PLAINTEXT + suffix;
        let received = {
            let mut slices = [const { None }; PACKET_BUFFER / (HEADER + MAX_PLAINTEXT)];
            let mut count = 0;
            for (slice, record) in slices.iter_mut().zip(buffer.chunks_exact_mut(stride)) {
                *slice = Some(IoSliceMut::new(&mut record[prefix..prefix + MAX_PLAINTEXT]));
                count += 1;
            }
            let mut slices = slices.map(|slice| slice.unwrap_or(IoSliceMut::new(&mut [])));
            ready!(self.application.poll_recv_vectored(cx, &mut slices[..count]))
        };
        let (mut left, cut) = match received {
            Ok(received) => received,
            Err(error) if self.application_gone_reading(&error) => (0, false),
            Err(error) => return Poll::Ready(Err(End::ApplicationLost(error))),
        };
        if cut {
            let error = io::Error::other("its message is longer than this pool takes at once");
            return Poll::Ready(Err(End::ApplicationLost(error)));
        }
        if left == 0 {
            if self.application.is_packets() && !self.application.is_read_closed() {
                return Poll::Ready(Ok(())); // an empty message carries no bytes
            }
            return Poll::Ready(self.application_ended());
        }
        self.down.bytes += left as u64;
        let mut total = 0;
        let mut records = buffer.chunks_exact_mut(stride);
        while left > 0 {
            let Some(record) = records.next() else { break };
            let length = left.min(MAX_PLAINTEXT);
            let mut update = Vec::new();
            let sealed = self.traffic.refresh(&mut update).and_then(|()| {
                // A key update cannot be put between records that are in place already, so it
                // is kept rare and costs a copy.
                if update.is_empty() {
                    self.traffic.seal(content::APPLICATION_DATA, record, length)
                } else {
                    Ok(0)
                }
            });
            match sealed {
                Ok(0) => return self.seal_slowly(buffer, total, left, &update),
                Ok(n) => total += n,
                Err(fault) => return Poll::Ready(Err(End::Fault(fault))),
            }
            left -= length;
        }
        if self.down.held > 0 {
            // Once in a session: what was held leaves with the first data, to be sent by our caller.
            self.down.pending.extend_from_slice(&buffer[..total]);
            return Poll::Ready(Ok(()));
        }
        self.send_or_keep(cx, &buffer[..total])
    }

    /// Sends ciphertext; what is not taken is kept.
    fn send_or_keep(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> Poll<Result<(), End>> {
        while !bytes.is_empty() {
            match self.peer.poll_send(cx, bytes) {
                Poll::Ready(Ok(n)) => {
                    self.down.moved += n as u64;
                    bytes = &bytes[n..];
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(End::PeerLost(error))),
                Poll::Pending => {
                    self.down.pending = bytes.to_vec();
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Like the loop of [`Self::poll_send_on`], where a key update stands between records.
    fn seal_slowly(
        &mut self,
        buffer: &mut [u8],
        sealed: usize,
        mut left: usize,
        update: &[u8],
    ) -> Poll<Result<(), End>> {
        let stride = self.traffic.prefix() + MAX_PLAINTEXT + self.traffic.suffix();
        self.down.pending.extend_from_slice(&buffer[..sealed]);
        self.down.pending.extend_from_slice(update);
        for record in buffer.chunks_exact_mut(stride).skip(sealed / stride) {
            let length = left.min(MAX_PLAINTEXT);
            match self.traffic.seal(content::APPLICATION_DATA, record, length) {
                Ok(n) => self.down.pending.extend_from_slice(&record[..n]),
                Err(fault) => return Poll::Ready(Err(End::Fault(fault))),
            }
            left -= length;
            if left == 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn application_gone_reading(&mut self, error: &io::Error) -> bool {
        let unread =
            error.kind() == io::ErrorKind::ConnectionReset && !self.application.was_reset(error);
        if unread && self.application.is_hung_up() {
            self.deserted = true;
        }
        unread && self.deserted
    }

    fn application_ended(&mut self) -> Result<(), End> {
        // A TCP application that closes with unread data resets its connection, and what it said
        // last is lost: the peer must not take that for a clean end.
        if self.reset {
            return Err(End::ApplicationLost(io::ErrorKind::ConnectionReset.into()));
        }
        if self.application.is_hung_up() {
            self.deserted = true;
        }
        self.down.ended = true;
        self.traffic.seal_alert(alert::CLOSE_NOTIFY, &mut self.down.pending).map_err(End::Fault)
    }
}

/// Where the plaintext of a batch of records is.
#[derive(Default)]
struct Segments {
    ranges: Vec<Range<usize>>,
    alert: Option<u8>,
}

impl Segments {
    /// Adds plaintext. Short pieces move next to their predecessor, unless they are messages.
    fn add(&mut self, bytes: &mut [u8], plain: Range<usize>, messages: bool) {
        if plain.is_empty() {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if !messages && plain.len() < WORTH_A_SEGMENT => {
                let end = last.end;
                last.end += plain.len();
                bytes.copy_within(plain, end);
            }
            _ => self.ranges.push(plain),
        }
    }
}
