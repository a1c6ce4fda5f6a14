//! Shares a worker's thread out among programs. A handshake is a few hundred microseconds of arithmetic, in steps
//! between which it waits for the peer, a key or a look-up; a program that has begun a thousand must not make the one
//! handshake of another wait for a thousand steps, again and again.
//!
//! A handshake that is woken waits here for its turn. One takes a step at a time; when nothing else is left to do on
//! this thread, the next one is chosen: of the program that has had the least time, the one that has waited longest
//! (start-time fair queueing). Who asks for less than its share is served at once for that reason, however many steps
//! it takes; a program that had nothing to do begins with as much time as the one whose turn it was last, since time
//! not used is not saved up. With nobody else there, a turn comes at once.
//!
//! Reading a few records of a program is a step too: what it asks for in excess of what is done stays in its socket.
//! Relays, and answers of the other processes, are short and do not wait.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// No step is charged more: one that took longer was most likely interrupted, and the processor did something else.
const LONGEST: Duration = Duration::from_millis(1);
/// Accounts of programs with nothing to do are looked for when there are so many more than of those that wait.
const SPARE: usize = 64;

/// What waits on one thread, by the program `P` that it is for.
pub(crate) struct Fairness<P> {
    queues: RefCell<Queues<P>>,
    /// Told when something waits.
    wanted: Notify,
    /// What the time is.
    clock: fn() -> Instant,
}

struct Queues<P> {
    accounts: HashMap<P, Account>,
    /// The programs of which something waits, by the time they had.
    order: BTreeSet<(Duration, P)>,
    /// The time that the program had whose turn was last, or if nobody waits what it has now. It never goes back.
    now: Duration,
}

/// Of one program.
#[derive(Default)]
struct Account {
    /// The time it had. Only differences between programs mean anything.
    had: Duration,
    /// Longest first.
    waiting: VecDeque<Rc<Ticket>>,
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

impl<P: Copy + Eq + Hash + Ord> Fairness<P> {
    pub(crate) fn new() -> Self {
        Self::with_clock(Instant::now)
    }

    fn with_clock(clock: fn() -> Instant) -> Self {
        let queues =
            Queues { accounts: HashMap::new(), order: BTreeSet::new(), now: Duration::ZERO };
        Self { queues: RefCell::new(queues), wanted: Notify::new(), clock }
    }

    /// Runs `future` in turns with those of other programs. Nothing happens without a task for
    /// [`share_out`](Self::share_out).
    pub(crate) async fn run<F: Future>(&self, program: P, future: F) -> F::Output {
        let mut future = pin!(future);
        let ticket = Rc::<Ticket>::default();
        poll_fn(|cx| {
            if !self.may_run(program, &ticket, cx) {
                return Poll::Pending;
            }
            let begun = (self.clock)();
            let polled = future.as_mut().poll(cx);
            let took = (self.clock)().saturating_duration_since(begun);
            self.queues.borrow_mut().charge(program, took.min(LONGEST));
            polled
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

impl<P: Copy + Eq + Hash + Ord> Queues<P> {
    fn push(&mut self, program: P, ticket: Rc<Ticket>) {
        let account = self.accounts.entry(program).or_default();
        if account.waiting.is_empty() {
            account.had = account.had.max(self.now);
            self.order.insert((account.had, program));
        }
        account.waiting.push_back(ticket);
    }

    /// Who is next, and whether there are more.
    fn pop(&mut self) -> Option<(Rc<Ticket>, bool)> {
        let (had, program) = *self.order.first()?;
        self.now = self.now.max(had);
        let account = self.accounts.get_mut(&program)?;
        let ticket = account.waiting.pop_front()?;
        if account.waiting.is_empty() {
            self.order.remove(&(had, program));
        }
        Some((ticket, !self.order.is_empty()))
    }

    /// A step of `program` took so long.
    fn charge(&mut self, program: P, took: Duration) {
        let Some(account) = self.accounts.get_mut(&program) else { return };
        let before = account.had;
        account.had += took;
        if !account.waiting.is_empty() {
            self.order.remove(&(before, program));
            self.order.insert((account.had, program));
        } else if self.order.is_empty() {
            // Nobody is behind.
            self.now = self.now.max(account.had);
        }
        if self.accounts.len() > self.order.len() * 2 + SPARE {
            // Whoever had less than the others had by now begins anew like a stranger.
            let now = self.now;
            self.accounts.retain(|_, account| !account.waiting.is_empty() || account.had > now);
        }
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
    use tokio::task::{JoinHandle, spawn_local, yield_now};

    use super::*;

    thread_local!(static NOW: Cell<Instant> = Cell::new(Instant::now()));

    /// A step is taken, which is all that time passes by.
    fn pass(time: Duration) {
        NOW.set(NOW.get() + time);
    }

    /// A thread that is shared out, and for each step taken, in order, whose it was.
    #[derive(Clone)]
    struct Shared {
        fairness: Rc<Fairness<u32>>,
        taken: Rc<RefCell<Vec<u32>>>,
    }

    impl Shared {
        fn new() -> Self {
            let fairness = Rc::new(Fairness::with_clock(|| NOW.get()));
            let driver = fairness.clone();
            spawn_local(async move { driver.share_out().await });
            Self { fairness, taken: Rc::default() }
        }

        /// Begins a handshake of so many steps that take so long each.
        fn begin(&self, program: u32, steps: usize, each: Duration) -> JoinHandle<()> {
            let Self { fairness, taken } = self.clone();
            spawn_local(async move {
                let handshake = async {
                    for step in 0..steps {
                        taken.borrow_mut().push(program);
                        pass(each);
                        if step + 1 < steps {
                            yield_now().await;
                        }
                    }
                };
                fairness.run(program, handshake).await;
            })
        }
    }

    fn on_one_thread<F: Future>(test: impl FnOnce() -> F) -> F::Output {
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async { test().await })
    }

    async fn all(tasks: impl IntoIterator<Item = JoinHandle<()>>) {
        for task in tasks.into_iter().collect::<Vec<_>>() {
            task.await.unwrap();
        }
    }

    fn count(taken: &[u32], program: u32) -> usize {
        taken.iter().filter(|other| **other == program).count()
    }

    /// How many steps were taken until the last one of `program`.
    fn done_after(taken: &[u32], program: u32) -> usize {
        taken.iter().rposition(|other| *other == program).unwrap() + 1
    }

    /// Has `programs` make `handshakes` each, and then a last one a single one, of `STEPS` steps each.
    fn steps(programs: u32, handshakes: usize) -> Vec<u32> {
        on_one_thread(|| async {
            let shared = Shared::new();
            let begin = |program| shared.begin(program, STEPS, STEP);
            let busy: Vec<_> = (0..programs).flat_map(|p| vec![p; handshakes]).collect();
            all(busy.into_iter().chain([programs]).map(begin)).await;
            shared.taken.take()
        })
    }

    const STEPS: usize = 10;
    const STEP: Duration = Duration::from_millis(1);

    #[test]
    fn one_handshake_does_not_wait_for_those_of_another_program() {
        let taken = steps(1, 100);
        assert_eq!(taken.len(), 101 * STEPS);
        let done = done_after(&taken, 1);
        assert!(done <= 3 * STEPS, "it was done after {done} steps");
        // Nor do they wait for it.
        let between = count(&taken[..done], 0);
        assert!(between >= STEPS - 1, "{between} steps of the others beside it");
    }

    #[test]
    fn programs_that_are_busy_take_turns() {
        let taken = steps(20, 20);
        assert_eq!(taken.len(), (20 * 20 + 1) * STEPS);
        let done = done_after(&taken, 20);
        assert!(done <= (20 + 1) * STEPS + 20, "the last one was done after {done} steps");
        let half = &taken[..taken.len() / 2];
        for program in 0..20 {
            let share = count(half, program);
            assert!((90..=110).contains(&share), "{program} took {share} steps of 2000");
        }
    }

    #[test]
    fn what_is_shared_is_time_and_not_the_number_of_steps() {
        let taken = on_one_thread(|| async {
            let shared = Shared::new();
            let long = (0..20).map(|n| shared.begin(n % 4, 10, STEP));
            let long: Vec<_> = long.collect();
            let short = (0..4).map(|_| shared.begin(4, 10, STEP / 10));
            all(long.into_iter().chain(short)).await;
            shared.taken.take()
        });
        // All its steps take as long as four of the others, one of each: what it needs is at hand in five turns.
        let done = done_after(&taken, 4);
        let others = done - count(&taken[..done], 4);
        assert!(others <= 5 * 4, "{others} steps of the others first");
    }

    #[test]
    fn time_that_was_not_used_is_not_saved_up() {
        let taken = on_one_thread(|| async {
            let shared = Shared::new();
            all([shared.begin(1, 1, STEP)]).await;
            all((0..50).map(|_| shared.begin(0, STEPS, STEP))).await;
            shared.taken.borrow_mut().clear();
            all((0..100).map(|n| shared.begin(n % 2, STEPS, STEP))).await;
            shared.taken.take()
        });
        let share = count(&taken[..100], 1);
        assert!((45..=55).contains(&share), "{share} of 100 steps");
    }

    #[test]
    fn of_programs_that_are_gone_nothing_is_kept() {
        on_one_thread(|| async {
            let shared = Shared::new();
            for program in 0..1000 {
                all([shared.begin(program, 1, STEP)]).await;
            }
            let accounts = shared.fairness.queues.borrow().accounts.len();
            assert!(accounts <= SPARE + 2, "{accounts} accounts");
        });
    }

    #[test]
    fn who_is_woken_twice_takes_one_turn_and_who_is_gone_takes_none_from_others() {
        on_one_thread(|| async {
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
