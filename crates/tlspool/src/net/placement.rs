//! Which worker does what.
//!
//! A session lives on the worker that has the fewest, and never moves. The last worker is the *express* worker: what slow
//! programs ask for is read there, and their sessions begin there unless another worker has less to do. So it has mostly nothing to
//! do, and the kernel gives a processor to a thread that has mostly nothing to do at once; one that computes all the
//! time has to wait for the others that do, at each step of a handshake.

use super::pace::Pace;

/// A session may go to a worker other than the one that reads its request if that has so many fewer: passing one on costs
/// two wake-ups.
const TOLERANCE: u32 = 8;

/// What a worker has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ToDo {
    /// Steps of handshakes that wait for their turn.
    pub(crate) waiting: u32,
    /// Sessions and handshakes.
    pub(crate) sessions: u32,
}

/// The number of the express worker among so many.
pub(crate) fn express(workers: usize) -> usize {
    workers.saturating_sub(1)
}

/// What there is to do on all workers.
pub(crate) trait Workload {
    /// How many there are, the express worker included; at least two.
    fn workers(&self) -> usize;

    /// What there is to do on one of them.
    fn to_do(&self, worker: usize) -> ToDo;
}

/// The number of the worker that should take a session of a program with this pace, which the worker `own` has been
/// asked for.
pub(crate) fn of_session(load: &impl Workload, own: usize, pace: Pace) -> usize {
    let (express, mut best) = (express(load.workers()), least(load));
    if own != express && load.to_do(own).sessions <= load.to_do(best).sessions + TOLERANCE {
        best = own;
    }
    let sooner = pace == Pace::Slow && load.to_do(express) <= load.to_do(best);
    if sooner { express } else { best }
}

/// The number of the worker on which the connection of a program should live, if that is another than `own`.
pub(crate) fn of_connection(load: &impl Workload, own: usize, pace: Pace) -> Option<usize> {
    let express = express(load.workers());
    match pace {
        Pace::Slow => (own != express).then_some(express),
        Pace::Quick => (own == express).then(|| least(load)),
    }
}

/// The number of the ordinary worker with the fewest sessions.
fn least(load: &impl Workload) -> usize {
    let ordinary = 0..express(load.workers());
    ordinary.min_by_key(|worker| load.to_do(*worker).sessions).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<const N: usize> Workload for [(u32, u32); N] {
        fn workers(&self) -> usize {
            N
        }

        fn to_do(&self, worker: usize) -> ToDo {
            let (waiting, sessions) = self[worker];
            ToDo { waiting, sessions }
        }
    }

    #[test]
    fn sessions_are_spread_over_the_ordinary_workers() {
        let busy = [(9, 100), (9, 80), (0, 0)];
        assert_eq!(of_session(&busy, 0, Pace::Quick), 1);
        assert_eq!(of_session(&busy, 1, Pace::Quick), 1);
        assert_eq!(
            of_session(&busy, 2, Pace::Quick),
            1,
            "asked on the express worker before it was known"
        );
        let even = [(9, 88), (9, 80), (0, 0)];
        assert_eq!(of_session(&even, 0, Pace::Quick), 0, "it is not worth while");
    }

    #[test]
    fn a_slow_program_does_not_wait_behind_others() {
        let busy = [(1, 10), (1, 10), (0, 50)];
        assert_eq!(of_session(&busy, 2, Pace::Slow), 2);
        assert_eq!(of_session(&busy, 0, Pace::Slow), 2);
        // Many such programs are spread over all workers.
        let all_busy = [(3, 10), (1, 9), (2, 50)];
        assert_eq!(of_session(&all_busy, 2, Pace::Slow), 1);
        // While nobody waits, sessions are spread evenly.
        let idle = [(0, 7), (0, 8), (0, 7)];
        assert_eq!(of_session(&idle, 2, Pace::Slow), 2);
        let idle = [(0, 7), (0, 8), (0, 8)];
        assert_eq!(of_session(&idle, 2, Pace::Slow), 0);
    }

    #[test]
    fn connections_of_slow_programs_live_on_the_express_worker() {
        let some = [(0, 7), (0, 6), (0, 0)];
        assert_eq!(of_connection(&some, 2, Pace::Slow), None);
        assert_eq!(of_connection(&some, 2, Pace::Quick), Some(1));
        assert_eq!(of_connection(&some, 0, Pace::Quick), None);
        assert_eq!(of_connection(&some, 0, Pace::Slow), Some(2));
    }
}
