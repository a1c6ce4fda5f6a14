//! Who may have how many handshakes under way: a bound by the peer's address, so that one who connects and says
//! nothing does not use up the turns of all.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An address that connections come from. Of IPv6 it is the network of 64 bits, of which whoever has one address
/// usually has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(IpAddr);

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !0 << 64).into(),
            address @ IpAddr::V4(_) => address,
        })
    }
}

/// The handshakes under way of each source, and the connections `T` that wait because it has its share.
#[derive(Debug)]
pub(crate) struct Sources<T> {
    share: usize,
    room: usize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    sources: HashMap<Source, Entry<T>>,
    waiting: usize,
}

#[derive(Debug)]
struct Entry<T> {
    under_way: usize,
    waiting: VecDeque<T>,
    told: bool,
}

/// What becomes of a connection that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission<T> {
    /// Its handshake begins; [`Sources::next`] when it is over.
    Begin(T),
    /// It is kept until one of the same source is over.
    Waits,
    /// There is no room for it either.
    Refused {
        /// This is the first such since the source was last served.
        first: bool,
    },
}

impl<T> Sources<T> {
    /// At most `share` handshakes of one source; `room` connections at most wait, of all sources.
    pub(crate) fn new(share: usize, room: usize) -> Self {
        let state = State { sources: HashMap::new(), waiting: 0 };
        Self { share, room, state: Mutex::new(state) }
    }

    /// A connection from `source`.
    pub(crate) fn arrive(&self, source: Source, connection: T) -> Admission<T> {
        let State { sources, waiting } = &mut *self.state();
        let entry = sources.entry(source).or_insert_with(|| Entry {
            under_way: 0,
            waiting: VecDeque::new(),
            told: false,
        });
        if entry.under_way < self.share {
            entry.under_way += 1;
            return Admission::Begin(connection);
        }
        if *waiting < self.room {
            *waiting += 1;
            entry.waiting.push_back(connection);
            return Admission::Waits;
        }
        Admission::Refused { first: !std::mem::replace(&mut entry.told, true) }
    }

    /// A handshake of `source` is over: the connection whose turn it is now, which counts as begun.
    pub(crate) fn next(&self, source: Source) -> Option<T> {
        let State { sources, waiting } = &mut *self.state();
        let entry = sources.get_mut(&source)?;
        let next = entry.waiting.pop_front();
        if next.is_some() {
            *waiting -= 1;
        } else {
            entry.told = false;
            entry.under_way -= 1;
            if entry.under_way == 0 {
                sources.remove(&source);
            }
        }
        next
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn who_has_an_address_has_its_network() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
    }

    #[test]
    fn a_share_then_a_queue_then_nothing() {
        let sources = Sources::new(2, 3);
        let (one, other) = (source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(sources.arrive(one, 1), Admission::Begin(1));
        assert_eq!(sources.arrive(one, 2), Admission::Begin(2));
        for n in 3..6 {
            assert_eq!(sources.arrive(one, n), Admission::Waits);
        }
        assert_eq!(sources.arrive(one, 6), Admission::Refused { first: true });
        assert_eq!(sources.arrive(one, 7), Admission::Refused { first: false });
        assert_eq!(sources.arrive(other, 8), Admission::Begin(8));
        // In the order in which they came, and no more at a time.
        for n in 3..6 {
            assert_eq!(sources.next(one), Some(n));
        }
        assert_eq!(sources.arrive(one, 9), Admission::Waits);
        assert_eq!(sources.next(one), Some(9));
        for _ in 0..2 {
            assert_eq!(sources.next(one), None);
        }
        assert_eq!(sources.next(other), None);
        assert!(sources.state().sources.is_empty() && sources.state().waiting == 0);
    }
}
