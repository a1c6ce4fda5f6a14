//! How fast a program asks for sessions. One that asks slowly is listened to by the express worker, and has its sessions
//! there while the others are busy.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A slow program asks for a session once in this time, by and by;
const EACH: Duration = Duration::from_millis(3);
/// for so many at once,
const AT_ONCE: u32 = 16;
/// for so many at once as long as it has not asked for any more slowly,
const AT_FIRST: u32 = 4;
/// and has no more under way. Handshakes that are held up by a busy machine are no reason to hold the next ones up as well,
/// so this is more than a slow program has even then.
const UNDER_WAY: u32 = 32;
/// and when it was quick, it is slow again after as long as these take.
const REMEMBERED: u32 = 64;

/// Whether a program asks for more than a slow one does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Pace {
    #[default]
    Slow,
    Quick,
}

/// Watches the pace of one program.
#[derive(Debug, Default)]
pub(crate) struct Pacer(Mutex<Watch>);

#[derive(Debug, Default)]
struct Watch {
    /// When a slow program would ask for the next one, after all that this one has asked for. None for a new one,
    /// which begins ahead of that: there may be many of them, and what all ask for first is much.
    next: Option<Instant>,
    pace: Pace,
}

impl Pacer {
    /// The program asks for a session now, and so many of its requests are under way.
    pub(crate) fn ask(&self, now: Instant, under_way: u32) -> Pace {
        let mut watch = self.0.lock();
        let ahead = watch
            .next
            .map_or(EACH * (AT_ONCE - AT_FIRST), |next| next.saturating_duration_since(now));
        watch.next = Some(now + (ahead + EACH).min(EACH * REMEMBERED));
        // Not to and fro about one figure.
        watch.pace = match watch.pace {
            Pace::Slow if ahead >= EACH * AT_ONCE || under_way > UNDER_WAY => Pace::Quick,
            Pace::Quick if ahead < EACH && under_way <= UNDER_WAY / 2 => Pace::Slow,
            same => same,
        };
        watch.pace
    }

    /// Its pace when it asked for the latest one.
    pub(crate) fn pace(&self) -> Pace {
        self.0.lock().pace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `n` requests, one after each `interval`, are those of a slow program.
    fn slow(pacer: &Pacer, begin: Instant, n: u32, interval: Duration) -> u32 {
        let asked = (0..n).map(|n| pacer.ask(begin + interval * n, 1));
        asked.map(|pace| u32::from(pace == Pace::Slow)).sum()
    }

    #[test]
    fn who_asks_slowly_or_seldom_is_slow() {
        let begin = Instant::now();
        assert_eq!(slow(&Pacer::default(), begin, 1000, EACH), 1000);
        let known = Pacer::default();
        assert_eq!(slow(&known, begin, 1000, EACH * 2), 1000);
        let later = begin + EACH * 2000;
        assert_eq!(slow(&known, later, 1000, Duration::ZERO), AT_ONCE);
    }

    #[test]
    fn of_who_is_new_less_at_once_is_slow() {
        let begin = Instant::now();
        assert_eq!(slow(&Pacer::default(), begin, AT_FIRST, Duration::ZERO), AT_FIRST);
        assert_eq!(slow(&Pacer::default(), begin, 1000, Duration::ZERO), AT_FIRST);
    }

    #[test]
    fn who_asks_for_more_is_quick_for_as_long_as_it_does_and_a_moment_longer() {
        let (begin, pacer) = (Instant::now(), Pacer::default());
        let early = slow(&pacer, begin, 1000, EACH / 2);
        assert!(early < 3 * AT_ONCE, "{early} before it was known");
        let later = begin + EACH * 500;
        assert_eq!(slow(&pacer, later, 1000, EACH / 2), 0, "it goes on");
        let later = later + EACH * 500;
        assert_eq!(pacer.ask(later + EACH, 1), Pace::Quick);
        assert_eq!(pacer.pace(), Pace::Quick);
        assert_eq!(pacer.ask(later + EACH * 2 * REMEMBERED, 1), Pace::Slow);
    }

    #[test]
    fn who_has_much_under_way_is_quick_however_seldom_it_asks() {
        let (begin, pacer) = (Instant::now(), Pacer::default());
        let asks = |n, under_way| pacer.ask(begin + EACH * REMEMBERED * n, under_way);
        assert_eq!(asks(0, UNDER_WAY), Pace::Slow);
        assert_eq!(asks(1, UNDER_WAY + 1), Pace::Quick);
        assert_eq!(asks(2, UNDER_WAY), Pace::Quick, "it is not slow again at once");
        assert_eq!(asks(3, UNDER_WAY / 2), Pace::Slow);
    }
}
