//! How long an end may take: a relay that has nothing more to say waits by this for what it said to arrive.
//!
//! ```text
//!   something is on its way:  60 s from the latest progress, 10 minutes in all
//!   the peer has everything:  2 s for it to end its side
//!   the session is cut:       2 s
//! ```
//! To close a socket that still gets bytes of the peer is to reset it, and with that goes what the peer's stack has not
//! acknowledged. So what counts is the socket's queue, not what the socket has taken.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// How long a peer that has everything may take to end its side, and a session that is cut to be over.
pub(crate) const MOMENT: Duration = Duration::from_secs(2);
/// How long nothing of what is on its way may move.
pub(crate) const STANDSTILL: Duration = Duration::from_mins(1);
/// How long it may be on its way.
pub(crate) const AT_MOST: Duration = Duration::from_mins(10);
/// How soon, and then how often, a socket's queue is looked at: nobody tells when it gets shorter.
const FIRST_LOOK: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(500);

/// What is still to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// What is on its way, in bytes or the like; 0: nothing.
    pub(crate) waiting: u64,
    /// What has got on its way so far.
    pub(crate) moved: u64,
    /// It is to be over in a moment, whatever is on its way.
    pub(crate) cut: bool,
}

/// How often it is looked whether an application is still there whose bytes the peer does not take.
const WATCH: Duration = Duration::from_secs(30);

/// Looks now and then whether an application has gone that has left something unread: nobody tells.
#[derive(Default)]
pub(crate) struct Watch(Option<Pin<Box<Sleep>>>);

impl Watch {
    /// Whether it `has_gone` while what it said is `held` up by the peer.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        held: bool,
        has_gone: impl FnOnce() -> bool,
    ) -> bool {
        if !held {
            // The timer is kept: in a session that moves much, this comes and goes all the time.
            return false;
        }
        let timer = self.0.get_or_insert_with(|| Box::pin(sleep(WATCH)));
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        timer.as_mut().reset(Instant::now() + WATCH);
        if timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        has_gone()
    }
}

/// The wait.
pub(crate) struct Linger {
    begun: Instant,
    /// What was left when it was looked at, and since when it is that.
    left: Left,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Linger {
    /// Ready when there was time enough. Begins the wait, if it has not begun.
    pub(crate) fn poll(
        linger: &mut Option<Box<Self>>,
        cx: &mut Context<'_>,
        left: Left,
    ) -> Poll<()> {
        let now = Instant::now();
        let linger = linger.get_or_insert_with(|| {
            Box::new(Self { begun: now, left, since: now, timer: Box::pin(sleep_until(now)) })
        });
        linger.see(left, now);
        let ends = linger.ends();
        if ends <= now {
            return Poll::Ready(());
        }
        let look = (now - linger.since + FIRST_LOOK).min(LOOK);
        let next = if left.waiting > 0 { ends.min(now + look) } else { ends };
        linger.timer.as_mut().reset(next);
        if linger.timer.as_mut().poll(cx).is_ready() {
            // Its caller looks again.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn see(&mut self, left: Left, now: Instant) {
        let known = self.left;
        self.left = left;
        // Of what is cut, nothing counts as progress.
        if left != known && !(left.cut && known.cut) {
            self.since = now;
        }
    }

    fn ends(&self) -> Instant {
        let arrived = self.left.cut || self.left.waiting == 0;
        let patience = if arrived { MOMENT } else { STANDSTILL };
        (self.since + patience).min(self.begun + AT_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(waiting: u64, moved: u64) -> Left {
        Left { waiting, moved, cut: false }
    }

    /// When it ends after what was seen in these seconds. Within a runtime, for the timer.
    fn ends(seen: &[(u64, Left)]) -> u64 {
        let begun = Instant::now();
        let timer = Box::pin(sleep_until(begun));
        let mut linger = Linger { begun, left: seen[0].1, since: begun, timer };
        for (at, left) in seen {
            linger.see(*left, begun + Duration::from_secs(*at));
        }
        (linger.ends() - begun).as_secs()
    }

    #[tokio::test]
    async fn progress_gives_time() {
        assert_eq!(ends(&[(0, left(9, 0))]), 60);
        // The relay gets rid of some, or the kernel does.
        assert_eq!(ends(&[(0, left(9, 0)), (50, left(9, 1))]), 110);
        assert_eq!(ends(&[(0, left(9, 0)), (50, left(8, 0)), (59, left(8, 0))]), 110);
        // All has arrived.
        assert_eq!(ends(&[(0, left(9, 0)), (50, left(0, 0)), (51, left(0, 0))]), 52);
        assert_eq!(ends(&[(0, left(9, 0)), (590, left(8, 0))]), 600);
    }

    #[tokio::test]
    async fn what_is_cut_has_no_time() {
        let cut = |waiting| Left { waiting, moved: 0, cut: true };
        assert_eq!(ends(&[(0, cut(9)), (1, cut(8))]), 2);
        assert_eq!(ends(&[(0, left(9, 0)), (30, cut(8)), (31, cut(7))]), 32);
    }
}
