//! Requests in flight on one connection, without I/O: who waits for which request id.

use std::collections::HashMap;

use tlspool_wire::packet::ErrorReply;
use tlspool_wire::{Body, Facilities, PROTOCOL_IDENTITY, Packet, Ping, PoolError, Text};

use crate::Error;

/// How often a request that was certainly not acted on is sent again: a pool that is replaced
/// may be replaced again, but hardly more often while we look.
pub(crate) const ATTEMPTS: usize = 4;

/// The requests of one connection; `T` is where a waiting request's records go.
#[derive(Debug)]
pub(crate) struct Requests<T> {
    entries: HashMap<u16, Entry<T>>,
    next: u16,
    /// New requests belong on another connection.
    pub(crate) draining: bool,
    /// The pool takes the plaintext socket along with STARTTLS.
    pub(crate) takes_plaintext: bool,
    /// What the pool said of the connection as a whole before it closed it.
    parting: Option<ErrorReply>,
}

#[derive(Debug)]
enum Entry<T> {
    Waiting(T),
    /// Nobody waits any more, but the pool still owes an answer: the id is not free.
    Abandoned,
    /// The greeting, whose answer is ours.
    Hello,
}

/// Why a request could not be started.
#[derive(Debug)]
pub(crate) enum NotStarted {
    /// The connection is gone and the request was not delivered: use another.
    Gone,
    /// Another connection would not help.
    Failed(Error),
}

impl NotStarted {
    /// For those who cannot use another connection.
    pub(crate) fn into_lost(self) -> Error {
        match self {
            Self::Gone => Error::Lost,
            Self::Failed(error) => error,
        }
    }
}

/// What to do with a record that came in.
#[derive(Debug)]
pub(crate) enum Dispatch<T> {
    /// Hand it to this request, which waits for more.
    Callback(T, Packet),
    /// Hand it to this request; it was the last.
    Final(T, Packet),
    /// Send this back: a callback that nobody will answer.
    Refuse(Packet),
    /// Nothing.
    Nothing,
}

impl<T> Default for Requests<T> {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            next: 0,
            draining: false,
            takes_plaintext: false,
            parting: None,
        }
    }
}

impl<T: Clone> Requests<T> {
    /// Takes a free request id for `waiter`.
    pub(crate) fn enter(&mut self, waiter: T) -> Result<u16, Error> {
        let id = self.free_id()?;
        self.entries.insert(id, Entry::Waiting(waiter));
        Ok(id)
    }

    /// The PING that every connection starts with, to ask for [`Body::Draining`] notices and
    /// whether STARTTLS may bring the plaintext socket. Nobody waits for its answer: requests that
    /// are sent before it came do without.
    pub(crate) fn hello(&mut self) -> Result<Packet, Error> {
        let reqid = self.free_id()?;
        self.entries.insert(reqid, Entry::Hello);
        let facilities =
            Facilities::ALL_CURRENT | Facilities::DRAIN_NOTICE | Facilities::PLAINTEXT_ALONG;
        let ping = Ping { identity: Text::cut(PROTOCOL_IDENTITY), facilities: facilities.0 };
        Ok(Packet { reqid, cbid: 0, body: Body::Ping(ping) })
    }

    fn free_id(&mut self) -> Result<u16, Error> {
        if self.entries.len() >= usize::from(u16::MAX) {
            return Err(Error::TooManyRequests);
        }
        loop {
            self.next = self.next.wrapping_add(1);
            if !self.entries.contains_key(&self.next) {
                return Ok(self.next);
            }
        }
    }

    /// The request was never sent: its id is free again.
    pub(crate) fn forget(&mut self, id: u16) {
        self.entries.remove(&id);
    }

    /// Nobody waits for `id` any more. Its id stays taken until the answer comes.
    pub(crate) fn abandon(&mut self, id: u16) {
        if let Some(entry) = self.entries.get_mut(&id) {
            *entry = Entry::Abandoned;
        }
    }

    /// The one who waits for `id`.
    pub(crate) fn waiter(&self, id: u16) -> Option<&T> {
        match self.entries.get(&id) {
            Some(Entry::Waiting(waiter)) => Some(waiter),
            _ => None,
        }
    }

    /// Everyone who waits.
    pub(crate) fn waiters(&self) -> impl Iterator<Item = &T> {
        self.entries.values().filter_map(|entry| match entry {
            Entry::Waiting(waiter) => Some(waiter),
            Entry::Abandoned | Entry::Hello => None,
        })
    }

    /// The connection ended: nobody needs to wait.
    #[cfg(feature = "tokio")]
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
    }

    /// What the pool said of the connection as a whole, if it did: then no request on it was acted on, and
    /// another connection would fare no better.
    pub(crate) fn parting(&self) -> Option<Error> {
        self.parting.as_ref().map(Error::from_reply)
    }

    /// Why a request has no answer, once the connection has ended.
    pub(crate) fn lost(&self) -> Error {
        self.parting().unwrap_or(Error::Lost)
    }

    /// Decides on a record from the pool.
    pub(crate) fn dispatch(&mut self, packet: Packet) -> Dispatch<T> {
        if matches!(packet.body, Body::Draining) {
            self.draining = true;
            return Dispatch::Nothing;
        }
        if is_callback(&packet) {
            return match self.entries.get(&packet.reqid) {
                Some(Entry::Waiting(waiter)) => Dispatch::Callback(waiter.clone(), packet),
                _ => Dispatch::Refuse(refusal(&packet)),
            };
        }
        match self.entries.remove(&packet.reqid) {
            Some(Entry::Waiting(waiter)) => Dispatch::Final(waiter, packet),
            Some(Entry::Hello) => {
                if let Body::Ping(pong) = packet.body {
                    let granted = Facilities(pong.facilities);
                    self.takes_plaintext = granted.contains(Facilities::PLAINTEXT_ALONG);
                }
                Dispatch::Nothing
            }
            Some(Entry::Abandoned) => Dispatch::Nothing,
            None => {
                if let (0, Body::Error(reply)) = (packet.reqid, packet.body) {
                    self.parting = Some(reply);
                }
                Dispatch::Nothing
            }
        }
    }
}

/// Whether the pool wants an answer to this record. A final response may carry a cbid left over
/// from the callback before it.
pub(crate) fn is_callback(packet: &Packet) -> bool {
    let may_call_back = matches!(
        packet.body,
        Body::StarttlsLocalid(_)
            | Body::PlaintextConnect(_)
            | Body::Pinentry(_)
            | Body::LidentryCallback(_)
    );
    packet.cbid != 0 && may_call_back
}

fn refusal(callback: &Packet) -> Packet {
    let error = PoolError::ClientRefusesCallback;
    let reply = ErrorReply { code: error.code(), message: Text::cut(&error.to_string()) };
    Packet { reqid: callback.reqid, cbid: callback.cbid, body: Body::Error(reply) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tlspool_wire::Starttls;

    #[test]
    fn ids_stay_taken_until_answered() {
        let mut requests = Requests::<&str>::default();
        let a = requests.enter("a").unwrap();
        let b = requests.enter("b").unwrap();
        assert_ne!(a, b);
        requests.abandon(a);
        let callback =
            Packet { reqid: a, cbid: 9, body: Body::PlaintextConnect(Starttls::default()) };
        let Dispatch::Refuse(reply) = requests.dispatch(callback) else { panic!() };
        assert_eq!((reply.reqid, reply.cbid), (a, 9));
        requests.next = a.wrapping_sub(1);
        assert_ne!(requests.enter("c").unwrap(), a);
        let answer = Packet { reqid: a, cbid: 0, body: Body::Success };
        assert!(matches!(requests.dispatch(answer), Dispatch::Nothing));
        requests.next = a.wrapping_sub(1);
        assert_eq!(requests.enter("d").unwrap(), a);
        let answer = Packet { reqid: b, cbid: 7, body: Body::Success };
        assert!(matches!(requests.dispatch(answer), Dispatch::Final("b", _)));
    }

    #[test]
    fn what_the_pool_said_of_the_connection_is_the_reason() {
        let mut requests = Requests::<()>::default();
        let id = requests.enter(()).unwrap();
        let reply = ErrorReply { code: PoolError::LimitReached.code(), message: Text::cut("full") };
        let error = |reqid| Packet { reqid, cbid: 0, body: Body::Error(reply.clone()) };
        requests.abandon(id);
        requests.dispatch(error(id));
        requests.dispatch(error(77));
        assert!(matches!(requests.lost(), Error::Lost), "these are of requests");
        requests.dispatch(error(0));
        assert_eq!(requests.lost().to_string(), "full");
    }

    #[test]
    fn draining_is_remembered() {
        let mut requests = Requests::<()>::default();
        requests.dispatch(Packet { reqid: 0, cbid: 0, body: Body::Draining });
        assert!(requests.draining);
    }
}
