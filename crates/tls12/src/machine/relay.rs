//! The data path. For a relay that owns its buffers: records sealed and opened in place, nothing allocated.

use std::ops::Range;
use std::time::Instant;

use super::{Connection, Phase};
use crate::dtls;
use crate::error::Error;
use crate::keys::Exporter;
use crate::record::content;
use crate::transport::Transport;

impl Connection {
    /// Sends data. Only while [`Self::may_send`].
    pub fn send(&mut self, data: &[u8]) -> Result<(), Error> {
        if !self.may_send() {
            return Err(Error::Misuse("no data can be sent now"));
        }
        self.core.transport.queue_data(data)
    }

    /// Whether data can be sent now: the connection is open, no handshake runs, and the key is not used up.
    pub fn may_send(&self) -> bool {
        self.core.phase == Phase::Open
            && self.handshake.is_none()
            && !self.core.said_close
            && self.core.transport.may_seal()
    }

    /// Bytes in front of the plaintext of a record that we seal.
    pub fn prefix(&self) -> usize {
        self.core.transport.prefix()
    }

    /// Bytes behind it.
    pub fn suffix(&self) -> usize {
        self.core.transport.suffix()
    }

    /// Seals application data in `room`: prefix, `length` bytes of plaintext, suffix, and maybe more that is
    /// not touched. Returns the record's length. First send all that [`Self::poll_output`] has.
    pub fn seal(&mut self, room: &mut [u8], length: usize) -> Result<usize, Error> {
        if !self.may_send() || self.core.transport.has_output() {
            return Err(Error::Misuse("no data can be sealed now"));
        }
        self.core.transport.seal(content::APPLICATION_DATA, room, length)
    }

    /// Length of the record that begins with these bytes, header included; `None` if its header is not whole
    /// yet.
    pub fn record_length(&self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        self.core.transport.record_length(bytes)
    }

    /// Opens a whole record in place. `Some`: where its plaintext is. `None`: it was none of data; call
    /// [`Self::poll_output`], and while [`Self::is_handshaking`], bring bytes to [`Self::handle_input`]
    /// instead. An error has ended the connection; its alert waits in [`Self::poll_output`].
    pub fn open(&mut self, record: &mut [u8], now: Instant) -> Result<Option<Range<usize>>, Error> {
        if self.core.phase != Phase::Open || self.handshake.is_some() {
            return Err(Error::Misuse("a handshake runs: bring bytes to handle_input"));
        }
        self.now = Some(now);
        let opened = self.open_record(record);
        if let Err(error) = &opened {
            self.fail(error.clone());
        }
        opened
    }

    fn open_record(&mut self, record: &mut [u8]) -> Result<Option<Range<usize>>, Error> {
        let (kind, plain) = self.core.transport.open(record)?;
        if kind == content::APPLICATION_DATA {
            self.admit_data()?;
            return Ok(Some(plain));
        }
        if let Some(incoming) = self.core.transport.fragment(kind, &record[plain])? {
            self.incoming(incoming)?;
        }
        self.pump();
        Ok(None)
    }

    /// Opens a datagram in place. Returns where the next message of data lies in it, from `cursor` on, which is 0
    /// for a new one; with `None` the datagram is at its end: call [`Self::poll_output`]. May be used at any time,
    /// also while a handshake runs; then more data may come out of [`Self::poll_output`]. What is no good
    /// record is dropped. An error has ended the connection.
    pub fn open_datagram(
        &mut self,
        datagram: &mut [u8],
        cursor: &mut usize,
        now: Instant,
    ) -> Result<Option<Range<usize>>, Error> {
        self.now = Some(now);
        let opened = self.core.transport.open_datagram(datagram, cursor, now).and_then(|data| {
            if data.is_some() {
                self.admit_data()?;
            }
            Ok(data)
        });
        match &opened {
            Ok(Some(_)) => {}
            Ok(None) => self.pump(),
            Err(error) => self.fail(error.clone()),
        }
        opened
    }

    /// The record layer of DTLS, for its sizes and counters.
    pub fn datagrams(&mut self) -> Option<&mut dtls::Transport> {
        match &mut self.core.transport {
            Transport::Stream(_) => None,
            Transport::Datagram(datagram) => Some(&mut datagram.inner),
        }
    }

    /// Over SCTP: says something of the message that comes next (its stream, for instance), which comes back in
    /// [`Output::Message`] with data of it that had to wait.
    pub fn set_tag(&mut self, tag: u64) {
        if let Some(datagrams) = self.datagrams() {
            datagrams.set_tag(tag);
        }
    }

    /// Keying material of the handshake whose keys are about to be used, for [`Output::NewKeys`]. Its tls-unique is
    /// not known yet.
    pub fn next_exporter(&self) -> Option<Exporter> {
        self.core.next_keys.as_ref().map(|keys| keys.exporter.clone())
    }

    /// Bytes of a record that is not whole, once no handshake runs: a relay that took over goes on with them.
    pub fn take_unread(&mut self) -> Vec<u8> {
        self.core.transport.take_unread()
    }
}
