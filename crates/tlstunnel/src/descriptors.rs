//! How many descriptors there are, and how many handshakes they suffice for.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Of a handshake under way: both sockets of the connection, and one more to wait for room towards the pool. One
/// connection more waits for its turn.
const EACH: u64 = 4;
/// What there is beside: listeners, links to the pool, the runtime, a look-up of a name.
const OTHERS: u64 = 32;

/// As many as the system permits. The limit that shells and services begin with is a thousand, which also bounds
/// those that are on their way to the pool.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(%error, "cannot raise the limit of open descriptors");
    }
}

/// Handshakes that may be under way at a time, if `wanted` are wished for. What is beyond waits, and is not lost
/// for want of descriptors.
pub(crate) fn handshakes(wanted: u16) -> u16 {
    let limit = getrlimit(Resource::Nofile).current;
    let possible = possible(wanted, limit);
    if possible < wanted {
        warn!(limit, wanted, possible, "fewer handshakes at a time: too few open descriptors");
    }
    possible
}

fn possible(wanted: u16, limit: Option<u64>) -> u16 {
    let enough = limit.map_or(u64::MAX, |limit| limit.saturating_sub(OTHERS) / EACH);
    wanted.max(1).min(u16::try_from(enough).unwrap_or(u16::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pending_handshakes_fit_the_descriptors() {
        assert_eq!(possible(512, None), 512);
        assert_eq!(possible(512, Some(1 << 20)), 512);
        assert_eq!(possible(512, Some(1024)), 248);
        assert_eq!(possible(512, Some(10)), 1);
        assert_eq!(possible(0, None), 1);
    }
}
