//! One face for the record layers, so that the state machine is the same over streams and datagrams.

use std::ops::Range;

use crate::crypto::RecordKey;
use crate::error::{Alert, Error};
use crate::record::{Incoming, Protection, Stream};

/// What carries records.
#[derive(Debug)]
pub(crate) enum Transport {
    /// TLS over a stream.
    Stream(Stream),
}

impl Transport {
    pub(crate) const fn is_datagram(&self) -> bool {
        match self {
            Self::Stream(_) => false,
        }
    }

    /// What hellos say.
    pub(crate) const fn version(&self) -> [u8; 2] {
        match self {
            Self::Stream(_) => [3, 3],
        }
    }

    /// Does a client that says this speak what we speak?
    pub(crate) fn check_version(&self, version: [u8; 2]) -> Result<(), Error> {
        let speaks = match self {
            Self::Stream(_) => version[0] == 3 && version[1] >= 3,
        };
        if speaks { Ok(()) } else { Err(Error::Version) }
    }

    /// A handshake begins.
    pub(crate) fn begin(&mut self, _renegotiation: bool) {
        match self {
            Self::Stream(_) => {}
        }
    }

    /// Our flight is whole: it is the peer's turn.
    pub(crate) fn end_flight(&mut self) {
        match self {
            Self::Stream(_) => {}
        }
    }

    pub(crate) fn version_agreed(&mut self) {
        match self {
            Self::Stream(stream) => stream.version_agreed(),
        }
    }

    pub(crate) fn queue(&mut self, kind: u8, body: &[u8]) -> Vec<u8> {
        match self {
            Self::Stream(stream) => stream.queue(kind, body),
        }
    }

    pub(crate) fn change_tx(&mut self, next: RecordKey) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.change_tx(Protection::new(next)),
        }
    }

    pub(crate) fn change_rx(&mut self, next: RecordKey) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.change_rx(Protection::new(next)),
        }
    }

    pub(crate) fn queue_alert(&mut self, alert: Alert) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.queue_alert(alert),
        }
    }

    pub(crate) fn queue_data(&mut self, data: &[u8]) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.queue_data(data),
        }
    }

    pub(crate) fn next(&mut self) -> Result<Option<Incoming>, Error> {
        match self {
            Self::Stream(stream) => stream.next(),
        }
    }

    pub(crate) fn output(&mut self, buf: &mut Vec<u8>) -> Result<bool, Error> {
        match self {
            Self::Stream(stream) => stream.output(buf),
        }
    }

    pub(crate) fn has_output(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.has_output(),
        }
    }

    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self {
            Self::Stream(stream) => stream.receive(bytes),
        }
    }

    pub(crate) fn fragment(&mut self, kind: u8, plain: &[u8]) -> Result<Option<Incoming>, Error> {
        match self {
            Self::Stream(stream) => stream.fragment(kind, plain),
        }
    }

    pub(crate) fn take_unread(&mut self) -> Vec<u8> {
        match self {
            Self::Stream(stream) => stream.take_unread(),
        }
    }

    pub(crate) fn may_seal(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.may_seal(),
        }
    }

    pub(crate) fn prefix(&self) -> usize {
        match self {
            Self::Stream(stream) => stream.prefix(),
        }
    }

    pub(crate) fn suffix(&self) -> usize {
        match self {
            Self::Stream(stream) => stream.suffix(),
        }
    }

    pub(crate) fn seal(
        &mut self,
        kind: u8,
        room: &mut [u8],
        length: usize,
    ) -> Result<usize, Error> {
        match self {
            Self::Stream(stream) => stream.seal(kind, room, length),
        }
    }

    pub(crate) fn record_length(&self, bytes: &[u8]) -> Result<Option<usize>, Error> {
        match self {
            Self::Stream(stream) => stream.record_length(bytes),
        }
    }

    pub(crate) fn open(&mut self, record: &mut [u8]) -> Result<(u8, Range<usize>), Error> {
        match self {
            Self::Stream(stream) => stream.open(record),
        }
    }
}
