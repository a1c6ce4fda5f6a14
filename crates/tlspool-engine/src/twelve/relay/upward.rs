//! From the peer to the application.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll};
use std::time::Instant;

use tls12::Output;
use tlspool_sctp::Info;

use super::{ANSWERS, Dry, End, ROOM, Relay};
use crate::relay::LAST_WORDS;
use crate::socket::Arrived;
use crate::twelve::association::no_stream;
use crate::twelve::shake::is_noise;

impl Relay {
    /// Keeps data that the connection held back.
    pub(super) fn keep(&mut self, data: Vec<u8>, info: Info) {
        if self.muted {
            return;
        }
        self.received += data.len() as u64;
        if self.deserted || !self.admits(info) {
            return;
        }
        let data = match self.framing.and_then(|framing| framing.header(info)) {
            Some(header) => [&header[..], &data].concat(),
            None => data,
        };
        // A program would take it for the end.
        if !data.is_empty() {
            self.up.push_back((data, info));
        }
    }

    /// Whether a message on this stream is for the application.
    pub(super) fn admits(&mut self, info: Info) -> bool {
        let admits = self.framing.is_none_or(|framing| framing.admits(info.stream));
        if !admits {
            self.dropped += 1;
        }
        admits
    }

    /// Gives the application what it has not taken yet.
    pub(super) fn poll_deliver(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some((first, info)) = self.up.front() {
            let bytes = &first[self.up_taken..];
            match self.application.poll_send_message(cx, bytes, *info, false) {
                Poll::Pending => return moved,
                Poll::Ready(Ok(n)) if !self.application.is_packets() && n < bytes.len() => {
                    self.up_taken += n;
                }
                Poll::Ready(Ok(_)) => {
                    self.up_taken = 0;
                    self.up.pop_front();
                }
                Poll::Ready(Err(error)) => {
                    let stream = info.stream;
                    self.application_refuses(error, stream);
                }
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

    /// The application's socket did not take a message.
    pub(super) fn application_refuses(&mut self, error: io::Error, stream: u16) {
        let invalid = error.kind() == io::ErrorKind::InvalidInput;
        if invalid && self.application.is_sctp_messages() {
            return self.cannot(no_stream(stream));
        }
        self.application_gone(error);
    }

    /// The application does not read any more; what it still has to say matters.
    pub(super) fn application_gone(&mut self, error: io::Error) {
        self.reset |= self.application.was_reset(&error);
        self.up.clear();
        self.up_taken = 0;
        match error.kind() {
            io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotConnected => self.deserted = true,
            _ => self.cannot(error),
        }
    }

    /// Receives from the peer once, unless the application has not taken what came before, or the peer itself
    /// does not take what answers it.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> bool {
        let unread = !self.peer.is_lossy() && self.out.len() >= ANSWERS;
        let pauses = !self.up.is_empty() || self.up_ended && !self.datagrams && !self.deserted;
        if self.peer_ended || pauses || unread {
            return false;
        }
        if self.partial.is_empty() && !self.session.connection.is_handshaking() {
            // What came behind the last message of a renegotiation.
            self.partial = self.connection().take_unread();
        }
        ROOM.with_borrow_mut(|room| {
            let have = self.partial.len();
            room[..have].copy_from_slice(&self.partial);
            match self.peer.poll_recv_message(cx, &mut [IoSliceMut::new(&mut room[have..])]) {
                Poll::Pending => false,
                Poll::Ready(Ok(Arrived::Dry)) => {
                    if self.dry == Dry::Asked {
                        self.dry = Dry::Yes;
                        let done = tlspool_sctp::forget_dryness(self.peer.sctp());
                        self.check(done.map_err(io::Error::from));
                    }
                    true
                }
                Poll::Ready(Ok(Arrived::End)) => {
                    self.peer_ended = true;
                    // Nobody will tell that the peer has everything.
                    self.change = None;
                    self.connection().handle_end();
                    true
                }
                Poll::Ready(Ok(Arrived::Bytes { length, info, whole, .. })) => {
                    self.heard = Instant::now();
                    let now = self.heard;
                    // More than a record is none: of what is longer, no more is kept than shows that.
                    let filled = have + length;
                    let filled = if whole { filled } else { filled.min(tls12::MAX_RECORD + 1) };
                    self.partial.clear();
                    if !whole {
                        self.partial.extend_from_slice(&room[..filled]);
                    } else if self.datagrams {
                        self.open_datagram(cx, &mut room[..filled], info, now);
                    } else {
                        self.open(cx, &mut room[..filled], now);
                    }
                    true
                }
                Poll::Ready(Err(error)) if self.peer.is_lossy() && is_noise(&error) => true,
                Poll::Ready(Err(error)) => {
                    self.lose(error);
                    true
                }
            }
        })
    }

    /// The connection to the peer failed. What it had said before on a stream is still there.
    pub(super) fn lose(&mut self, error: io::Error) {
        self.out.clear();
        self.out_taken = 0;
        if self.dying.is_none() {
            self.dying = Some(End::PeerLost(error));
            self.last_words = (!self.datagrams).then_some(0);
        }
    }

    /// Reads what a peer that is lost had said before, an alert perhaps, and has the application get what any peer
    /// said before its end. (What is closed with a reset loses what has not arrived.) `true`: it is done.
    pub(super) fn poll_last_words(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(read) = self.last_words {
            self.poll_deliver(cx);
            if !self.up.is_empty() {
                return false;
            }
            self.receive_last(cx, read);
        }
        if !self.is_ended_by_peer() {
            return true;
        }
        self.poll_deliver(cx);
        self.owes_application() == 0
    }

    /// Reads once of what is left.
    fn receive_last(&mut self, cx: &mut Context<'_>, read: usize) {
        self.last_words = ROOM.with_borrow_mut(|room| {
            let have = self.partial.len();
            room[..have].copy_from_slice(&self.partial);
            let n = self.peer.recv_now(&mut room[have..]).unwrap_or(0);
            if n == 0 || read >= LAST_WORDS {
                return None;
            }
            self.partial.clear();
            self.open(cx, &mut room[..have + n], Instant::now());
            Some(read + n)
        });
        // It is answered no more.
        loop {
            match self.connection().poll_output(&mut Vec::new()) {
                Output::Data(data) => self.keep(data, Info::default()),
                Output::PeerClosed => self.up_ended = true,
                Output::Closed(how) => {
                    self.closed(how);
                    self.last_words = None;
                    return;
                }
                Output::Idle | Output::WaitUntil(_) => return,
                Output::Send | Output::RenegotiationRefused => {}
                // A renegotiation comes to nothing.
                _ => {
                    self.last_words = None;
                    return;
                }
            }
        }
    }

    /// Whether the session ends by what the peer did on a stream, which the application learns after what the peer
    /// said.
    pub(super) const fn is_ended_by_peer(&self) -> bool {
        let ended =
            matches!(self.dying, Some(End::PeerAlert(_) | End::PeerLost(_) | End::Truncated));
        ended && !self.datagrams
    }

    /// Bytes that the application does not have yet.
    pub(super) fn owes_application(&self) -> u64 {
        if self.deserted || self.application.is_hung_up() {
            return 0;
        }
        let pending: usize = self.up.iter().map(|(data, _)| data.len()).sum();
        pending.saturating_sub(self.up_taken) as u64 + self.application.unacknowledged()
    }

    /// Opens the records of a datagram where they lie.
    pub(super) fn open_datagram(
        &mut self,
        cx: &mut Context<'_>,
        datagram: &mut [u8],
        info: Info,
        now: Instant,
    ) {
        self.session.connection.set_tag(info.to_bits());
        let mut cursor = 0;
        while let Ok(Some(plain)) =
            self.session.connection.open_datagram(datagram, &mut cursor, now)
        {
            self.received += plain.len() as u64;
            if !self.admits(info) {
                continue;
            }
            let mut start = plain.start;
            if let Some(header) = self.framing.and_then(|framing| framing.header(info)) {
                // In the place of the record's header, which is longer.
                start -= header.len();
                datagram[start..plain.start].copy_from_slice(&header);
            }
            self.deliver(cx, &datagram[start..plain.end], info);
        }
    }

    /// Opens the whole records of a stream where they lie.
    pub(super) fn open(&mut self, cx: &mut Context<'_>, bytes: &mut [u8], now: Instant) {
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
                    self.deliver(cx, plain, Info::default());
                }
                Ok(None) => {}
                Err(_) => return,
            }
            used += length;
        }
        self.partial.extend_from_slice(&bytes[used..]);
    }

    /// Gives plaintext to the application at once if it takes it, and else keeps it.
    pub(super) fn deliver(&mut self, cx: &mut Context<'_>, plain: &[u8], info: Info) {
        if self.deserted || self.muted || plain.is_empty() {
            return;
        }
        let mut taken = 0;
        if self.up.is_empty() {
            match self.application.poll_send_message(cx, plain, info, false) {
                Poll::Ready(Ok(_)) if self.application.is_packets() => return,
                Poll::Ready(Ok(n)) => taken = n,
                Poll::Ready(Err(error)) => return self.application_refuses(error, info.stream),
                Poll::Pending => {}
            }
        }
        if taken < plain.len() {
            self.up.push_back((plain[taken..].to_vec(), info));
        }
    }
}
