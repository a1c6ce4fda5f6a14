//! From the application to the peer.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll};

use tls12::Alert;
use tlspool_sctp::Info;

use super::{DATAGRAMS, Dry, End, Outgoing, RECORD, ROOM, Relay};
use crate::socket::Arrived;
use crate::twelve::association::{Framing, no_stream};
use crate::twelve::shake::is_noise;

impl Relay {
    pub(super) fn queue(&mut self, bytes: Vec<u8>) {
        if !self.peer.is_lossy() || self.out.len() < DATAGRAMS {
            self.out.push_back(Outgoing { bytes, info: Info::default(), control: true });
        }
    }

    /// The association did not do what it must.
    pub(super) fn check(&mut self, done: io::Result<()>) {
        if let Err(error) = done {
            self.dying.get_or_insert(End::PeerLost(error));
        }
    }

    /// Over SCTP: does what waits until the peer has everything (RFC 6083 sections 4.7 to 4.9).
    pub(super) fn poll_dry(&mut self, cx: &mut Context<'_>) -> bool {
        if self.change.is_none() && !self.closing || !self.out.is_empty() || self.dying.is_some() {
            return false;
        }
        match self.dry {
            Dry::Unasked => {
                self.dry = Dry::Asked;
                let asked = tlspool_sctp::tell_dryness(self.peer.sctp());
                self.check(asked.map_err(io::Error::from));
                return true;
            }
            Dry::Asked => return false,
            Dry::Yes => {}
        }
        if let Some(change) = self.change.take() {
            match self.peer.poll_send_message(cx, &change, Info::default(), true) {
                Poll::Pending => {
                    self.change = Some(change);
                    return false;
                }
                Poll::Ready(sent) => {
                    let done = sent.and_then(|_| self.session.change_sent(&self.peer));
                    self.check(done);
                }
            }
        } else {
            self.closing = false;
            self.connection().close();
        }
        self.dry = Dry::Unasked;
        true
    }

    /// The application says no more.
    pub(super) fn close(&mut self) {
        if self.framing.is_some() {
            self.closing = true;
        } else {
            self.connection().close();
        }
    }

    /// The application did what cannot be carried out over SCTP, where nothing may be lost, or its socket failed.
    pub(super) fn cannot(&mut self, error: io::Error) {
        self.change = None;
        self.connection().abort(Alert::INTERNAL_ERROR);
        self.dying.get_or_insert(End::ApplicationLost(error));
    }

    /// Sends what waits.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(first) = self.out.front() {
            let (bytes, info) = (&first.bytes[self.out_taken..], first.info);
            match self.peer.poll_send_message(cx, bytes, info, first.control) {
                Poll::Pending => return moved,
                Poll::Ready(Ok(n)) if !self.datagrams && n < bytes.len() => {
                    self.moved += n as u64;
                    self.out_taken += n;
                }
                Poll::Ready(Ok(n)) => {
                    self.moved += n as u64;
                    self.out_taken = 0;
                    self.out.pop_front();
                }
                Poll::Ready(Err(error)) if self.peer.is_lossy() && is_noise(&error) => {
                    let size = bytes.len();
                    self.out.pop_front();
                    self.lost(&error, size);
                }
                Poll::Ready(Err(error)) => self.lose(error),
            }
            moved = true;
        }
        moved
    }

    /// A datagram could not be sent. If it was too long for the path, the next ones are shorter.
    pub(super) fn lost(&mut self, error: &io::Error, size: usize) {
        use rustix::io::Errno;
        if Errno::from_io_error(error) == Some(Errno::MSGSIZE) {
            self.dropped += 1;
            if let Some(datagrams) = self.session.connection.datagrams() {
                datagrams.set_mtu(size * 3 / 4);
            }
        }
    }

    /// Takes data of the application's, unless the peer has not taken what went before.
    pub(super) fn poll_take(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.out.is_empty()
            || self.down_ended
            || self.change.is_some()
            || !self.session.connection.may_send()
        {
            return false;
        }
        let packets = self.application.is_packets();
        let header = self.framing.map_or(0, Framing::room);
        let most = match self.session.connection.datagrams() {
            Some(datagrams) => datagrams.max_data().min(RECORD),
            None => RECORD,
        };
        ROOM.with_borrow_mut(|room| {
            let (prefix, suffix) =
                (self.session.connection.prefix(), self.session.connection.suffix());
            let (record, spill) = room.split_at_mut(prefix + most + suffix);
            // A header lies where the record's, which is longer, will be.
            let start = prefix - header;
            let most = header + most;
            let mut buffers = [
                IoSliceMut::new(&mut record[start..start + most]),
                // Of a message that is too long for a datagram, to see that it is; else one record more.
                IoSliceMut::new(&mut spill[..1]),
            ];
            let buffers = if packets { &mut buffers[..] } else { &mut buffers[..1] };
            let (length, info) = match self.application.poll_recv_message(cx, buffers) {
                Poll::Pending => return false,
                Poll::Ready(Ok(Arrived::Dry)) => return true,
                Poll::Ready(Ok(Arrived::End)) => {
                    self.down_ended = true;
                    if self.application.is_hung_up() {
                        self.deserted = true;
                    }
                    if self.reset {
                        self.cannot(io::ErrorKind::ConnectionReset.into());
                    } else {
                        self.close();
                    }
                    return true;
                }
                Poll::Ready(Ok(Arrived::Bytes { length, info, whole, .. })) => {
                    if !whole || !self.parts.is_empty() {
                        // What went to `spill` is more than fits.
                        let part = &record[start..start + length.min(most)];
                        self.parts.add(part, most);
                        if length > most {
                            self.parts.add(&[0], most);
                        }
                    }
                    if !whole {
                        return true;
                    }
                    let message = self.parts.take();
                    if message.is_empty() {
                        (length, info)
                    } else {
                        if message.len() <= most {
                            record[start..start + message.len()].copy_from_slice(&message);
                        }
                        (message.len(), info)
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.down_ended = true;
                    if self.application.was_reset(&error) {
                        self.cannot(error);
                    } else {
                        self.application_gone(error);
                        self.close();
                    }
                    return true;
                }
            };
            let fits = length <= most;
            match self.framing {
                None if fits => self.send_record(cx, record, length, info),
                None => self.dropped += 1,
                Some(framing) if fits => {
                    let said = framing.read(&record[start..start + length], info);
                    match said {
                        Some(info) if self.has_stream(info.stream) => {
                            self.send_record(cx, record, length - header, info);
                        }
                        Some(info) => self.cannot(no_stream(info.stream)),
                        None => self.cannot(io::Error::other("a message lacks its header")),
                    }
                }
                Some(_) => self.cannot(io::Error::other(
                    "a message is longer than 16384 bytes, which is what DTLS over SCTP carries",
                )),
            }
            true
        })
    }

    pub(super) fn has_stream(&self, stream: u16) -> bool {
        let association = self.session.association.as_ref();
        association.is_none_or(|association| association.has(stream))
    }

    pub(super) fn send_record(
        &mut self,
        cx: &mut Context<'_>,
        record: &mut [u8],
        length: usize,
        info: Info,
    ) {
        let sealed = match self.session.connection.seal(record, length) {
            Ok(sealed) => sealed,
            Err(error) => {
                self.connection().abort(Alert::INTERNAL_ERROR);
                self.dying.get_or_insert(End::Refused(error.to_string()));
                return;
            }
        };
        self.sent += length as u64;
        let mut keep = |bytes: &[u8]| {
            self.out.push_back(Outgoing { bytes: bytes.to_vec(), info, control: false });
        };
        match self.peer.poll_send_message(cx, &record[..sealed], info, false) {
            Poll::Ready(Ok(n)) => {
                self.moved += n as u64;
                if n < sealed && !self.datagrams {
                    keep(&record[n..sealed]);
                }
            }
            Poll::Pending => keep(&record[..sealed]),
            Poll::Ready(Err(error)) if self.peer.is_lossy() && is_noise(&error) => {
                self.lost(&error, sealed);
            }
            Poll::Ready(Err(error)) => self.lose(error),
        }
    }
}
