//! Shares a worker's thread out among programs. A handshake is a few hundred microseconds of arithmetic, in steps
//! between which it waits for the peer, a key or a look-up; a program that has begun a thousand must not make the one
//! handshake of another wait for a thousand steps, again and again.
//!
//! A handshake that is woken waits here for its turn. One takes a step at a time; when nothing else is left to do on
//! this thread, the next one is chosen: of the program whose turn it is, the one that has waited longest. Programs
//! take turns, and those that have only just begun to wait come first, but not more often than every other time, so
//! that nobody waits for ever. With nobody else there, a turn comes at once.
//!
//! Reading a few records of a program is a step too: what it asks for in excess of what is done stays in its socket.
//! Relays, and answers of the other processes, are short and do not wait.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

/// What waits on one thread, by the program `P` that it is for.
pub(crate) struct Fairness<P> {
    queues: RefCell<Queues<P>>,
    /// Told when something waits.
    wanted: Notify,
}

struct Queues<P> {
    /// By program, longest first; none is empty.
    waiting: HashMap<P, VecDeque<Rc<Ticket>>>,
    /// The programs of which something waits, in the order of their turns: those that had no turn since they began
    /// to wait, and the others.
    fresh: VecDeque<P>,
    others: VecDeque<P>,
    /// The latest turn was a fresh one's.
    was_fresh: bool,
}

/// The right to a step, of a handshake or of the reading of records.
#[derive(Default)]
struct Ticket {
    state: Cell<State>,
    /// Of its task.
    waker: RefCell<Option<Waker>>,
}

/// ```text
/// Idle ──(woken)──► Waiting ──(its turn)──► Granted ──(takes a step)──► Idle
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Waiting,
    Granted,
}

impl<P: Copy + Eq + Hash> Fairness<P> {
    pub(crate) fn new() -> Self {
        let queues = Queues {
            waiting: HashMap::new(),
            fresh: VecDeque::new(),
            others: VecDeque::new(),
            was_fresh: false,
        };
        Self { queues: RefCell::new(queues), wanted: Notify::new() }
    }

    /// Runs `future` in turns with those of other programs. Nothing happens without a task for
    /// [`share_out`](Self::share_out).
    pub(crate) async fn run<F: Future>(&self, program: P, future: F) -> F::Output {
        let mut future = pin!(future);
        let ticket = Rc::<Ticket>::default();
        poll_fn(|cx| {
            if self.may_run(program, &ticket, cx) {
                future.as_mut().poll(cx)
            } else {
                Poll::Pending
            }
        })
        .await
    }

    fn may_run(&self, program: P, ticket: &Rc<Ticket>, cx: &Context<'_>) -> bool {
        let state = ticket.state.get();
        if state == State::Granted {
            ticket.state.set(State::Idle);
            return true;
        }
        match &mut *ticket.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if state == State::Idle {
            ticket.state.set(State::Waiting);
            self.queues.borrow_mut().push(program, ticket.clone());
            self.wanted.notify_one();
        }
        false
    }

    /// Gives turns for ever.
    pub(crate) async fn share_out(&self) {
        loop {
            let next = self.queues.borrow_mut().pop();
            let Some((ticket, more)) = next else {
                self.wanted.notified().await;
                continue;
            };
            ticket.grant();
            if more {
                // Comes back when all else is done, and sockets were looked at.
                tokio::task::yield_now().await;
            }
        }
    }
}

impl<P: Copy + Eq + Hash> Queues<P> {
    fn push(&mut self, program: P, ticket: Rc<Ticket>) {
        let queue = self.waiting.entry(program).or_default();
        if queue.is_empty() {
            self.fresh.push_back(program);
        }
        queue.push_back(ticket);
    }

    /// Who is next, and whether there are more.
    fn pop(&mut self) -> Option<(Rc<Ticket>, bool)> {
        self.was_fresh = self.others.is_empty() || !(self.was_fresh || self.fresh.is_empty());
        let turn = if self.was_fresh { &mut self.fresh } else { &mut self.others };
        let program = turn.pop_front()?;
        let queue = self.waiting.get_mut(&program)?;
        let ticket = queue.pop_front()?;
        if queue.is_empty() {
            self.waiting.remove(&program);
        } else {
            self.others.push_back(program);
        }
        Some((ticket, !self.waiting.is_empty()))
    }
}

impl Ticket {
    fn grant(&self) {
        self.state.set(State::Granted);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{spawn_local, yield_now};

    use super::*;

    /// Has `programs` make `handshakes` each, and then a last one a single one, of `STEPS` steps each; returns for
    /// each step taken, in order, whose it was.
    fn steps(programs: u32, handshakes: u32) -> Vec<u32> {
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let fairness = Rc::new(Fairness::new());
            let taken = Rc::new(RefCell::new(Vec::new()));
            let driver = fairness.clone();
            spawn_local(async move { driver.share_out().await });
            let begin = |program| {
                let (fairness, taken) = (fairness.clone(), taken.clone());
                spawn_local(async move {
                    let handshake = async {
                        for step in 0..STEPS {
                            taken.borrow_mut().push(program);
                            if step + 1 < STEPS {
                                yield_now().await;
                            }
                        }
                    };
                    fairness.run(program, handshake).await;
                })
            };
            let mut tasks: Vec<_> =
                (0..programs).flat_map(|program| (0..handshakes).map(move |_| program)).collect();
            tasks.push(programs);
            for task in tasks.into_iter().map(begin).collect::<Vec<_>>() {
                task.await.unwrap();
            }
            taken.take()
        })
    }

    const STEPS: usize = 10;

    #[test]
    fn one_handshake_does_not_wait_for_those_of_another_program() {
        let taken = steps(1, 100);
        assert_eq!(taken.len(), 101 * STEPS);
        let last = taken.iter().rposition(|program| *program == 1).unwrap();
        assert!(last <= 3 * STEPS, "it was done after {last} steps");
        // Nor do they wait for it.
        let between = taken[..last].iter().filter(|program| **program == 0).count();
        assert!(between >= STEPS - 1, "{between} steps of the others beside it");
    }

    #[test]
    fn among_many_that_are_busy_one_that_comes_now_and_then_is_next() {
        let taken = steps(20, 20);
        assert_eq!(taken.len(), (20 * 20 + 1) * STEPS);
        let last = taken.iter().rposition(|program| *program == 20).unwrap();
        assert!(last <= 2 * 20 + 3 * STEPS, "it was done after {last} steps");
        // The busy ones take turns.
        let half = &taken[..taken.len() / 2];
        for program in 0..20 {
            let share = half.iter().filter(|other| **other == program).count();
            assert!((90..=110).contains(&share), "{program} took {share} steps of 2000");
        }
    }

    #[test]
    fn who_is_woken_twice_takes_one_turn_and_who_is_gone_takes_none_from_others() {
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let fairness = Rc::new(Fairness::new());
            let mut cx = Context::from_waker(Waker::noop());
            let polls = Cell::new(0);
            let counted = poll_fn(|_| {
                polls.set(polls.get() + 1);
                Poll::<()>::Pending
            });
            let mut waits = pin!(fairness.run(1, counted));
            let mut gone = Box::pin(fairness.run(2, std::future::pending::<()>()));
            assert!(gone.as_mut().poll(&mut cx).is_pending());
            drop(gone);
            assert!(waits.as_mut().poll(&mut cx).is_pending());
            assert!(waits.as_mut().poll(&mut cx).is_pending());
            assert_eq!(polls.get(), 0, "it is not its turn");
            let driver = fairness.clone();
            spawn_local(async move { driver.share_out().await });
            yield_now().await;
            yield_now().await;
            assert!(waits.as_mut().poll(&mut cx).is_pending());
            assert!(waits.as_mut().poll(&mut cx).is_pending());
            assert_eq!(polls.get(), 1, "one turn");
        });
    }
}
