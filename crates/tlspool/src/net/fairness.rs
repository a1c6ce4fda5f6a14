//! Shares a worker's thread out among programs. A handshake is a few hundred microseconds of arithmetic, in steps
//! between which it waits for the peer, a key or a look-up; a program that has begun a thousand must not make the one
//! handshake of another wait for a thousand steps, again and again.
//!
//! A handshake that is woken waits here for its turn. One takes a step at a time; when nothing else is left to do on
//! this thread, the next one is chosen: of the program that has had the least time, the one that has waited longest
//! (start-time fair queueing). Who asks for less than its share is served at once for that reason, however many steps
//! it takes; a program that had nothing to do begins with as much time as the one whose turn it was last, since time
//! not used is not saved up.
//!
//! With nobody else there nothing waits: the first that is woken after the thread has slept takes its step at once. The
//! others that were woken with it have to be known before one of them is chosen.
//!
//! Reading a few records of a program is a step too: what it asks for in excess of what is done stays in its socket.
//! Relays, and answers of the other processes, are short and do not wait.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Tasks that the thread goes on with before it looks at its sockets again, for `event_interval` of its runtime: about a
/// millisecond of steps. A program of which nothing waits is not seen before.
pub(crate) const BETWEEN_LOOKS: u32 = 4;
/// No step is charged more: one that took longer was most likely interrupted, and the processor did something else.
const LONGEST: Duration = Duration::from_millis(1);
/// Accounts of programs with nothing to do are looked for when there are so many more than of those that wait.
const SPARE: usize = 64;

/// What waits on one thread, by the program `P` that it is for.
pub(crate) struct Fairness<P> {
    queues: RefCell<Queues<P>>,
    /// Somebody has a turn, and gives it on at its end.
    taken: Cell<bool>,
    /// Told when something waits and nobody has a turn.
    wanted: Notify,
    sight: Sight,
    /// What the time is.
    clock: fn() -> Instant,
}

/// What is to be seen of a thread that is shared out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sight {
    /// So many wait for their turn.
    waiting: Arc<AtomicU32>,
    /// It had nothing to do, and nobody had a turn without waiting since.
    slept: Arc<AtomicBool>,
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
/// Idle ──(woken)──► Waiting ──(its turn)──► Granted ──(takes a step)──► Idle ──► Gone
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Waiting,
    Granted,
    /// Nobody is there to take a step.
    Gone,
}

impl Sight {
    /// How many wait for their turn.
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// To be called when the thread has nothing to do and goes to sleep.
    pub(crate) fn sleeps(&self) {
        self.slept.store(true, Ordering::Relaxed);
    }
}

impl<P: Copy + Eq + Hash + Ord> Fairness<P> {
    pub(crate) fn new(sight: Sight) -> Self {
        Self::with_clock(sight, Instant::now)
    }

    fn with_clock(sight: Sight, clock: fn() -> Instant) -> Self {
        let queues =
            Queues { accounts: HashMap::new(), order: BTreeSet::new(), now: Duration::ZERO };
        Self {
            queues: RefCell::new(queues),
            taken: Cell::new(false),
            wanted: Notify::new(),
            sight,
            clock,
        }
    }

    /// Runs `future` in turns with those of other programs. Whoever has to wait gets no turn without a task for
    /// [`share_out`](Self::share_out).
    pub(crate) async fn run<F: Future>(&self, program: P, future: F) -> F::Output {
        let mut future = pin!(future);
        let place = Place { fairness: self, ticket: Rc::default() };
        poll_fn(|cx| {
            if !self.may_run(program, &place.ticket, cx) {
                return Poll::Pending;
            }
            let _turn = Turn { fairness: self, program, begun: (self.clock)() };
            future.as_mut().poll(cx)
        })
        .await
    }

    fn may_run(&self, program: P, ticket: &Rc<Ticket>, cx: &Context<'_>) -> bool {
        match ticket.state.get() {
            State::Granted => {
                ticket.state.set(State::Idle);
                return true;
            }
            State::Idle if self.take_at_once(program) => return true,
            _ => {}
        }
        match &mut *ticket.waker.borrow_mut() {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        if ticket.state.get() == State::Idle {
            ticket.state.set(State::Waiting);
            self.queues.borrow_mut().push(program, ticket.clone());
            self.sight.waiting.fetch_add(1, Ordering::Relaxed);
            if !self.taken.get() {
                self.wanted.notify_one();
            }
        }
        false
    }

    /// A turn for a program without waiting, if nobody waits and nobody else may have been woken with it.
    fn take_at_once(&self, program: P) -> bool {
        let mut queues = self.queues.borrow_mut();
        let slept = &self.sight.slept;
        if self.taken.get() || !queues.order.is_empty() || !slept.swap(false, Ordering::Relaxed) {
            return false;
        }
        queues.enter(program);
        self.taken.set(true);
        true
    }

    /// Gives the first turn, for ever, where many were woken at once; each turn gives the next.
    pub(crate) async fn share_out(&self) {
        loop {
            self.wanted.notified().await;
            if !self.taken.get() {
                self.give_next();
            }
        }
    }

    /// Gives the next turn, if anybody wants one. It is taken when all else is done that is to be done now.
    fn give_next(&self) {
        loop {
            let next = self.queues.borrow_mut().pop();
            self.taken.set(next.is_some());
            let Some(ticket) = next else { return };
            self.sight.waiting.fetch_sub(1, Ordering::Relaxed);
            if ticket.grant() {
                return;
            }
        }
    }
}

/// A turn that somebody has.
struct Turn<'a, P: Copy + Eq + Hash + Ord> {
    fairness: &'a Fairness<P>,
    program: P,
    begun: Instant,
}

impl<P: Copy + Eq + Hash + Ord> Drop for Turn<'_, P> {
    fn drop(&mut self) {
        let took = (self.fairness.clock)().saturating_duration_since(self.begun);
        self.fairness.queues.borrow_mut().charge(self.program, took.min(LONGEST));
        self.fairness.give_next();
    }
}

/// Somebody's ticket. Who is gone keeps no turn from others.
struct Place<'a, P: Copy + Eq + Hash + Ord> {
    fairness: &'a Fairness<P>,
    ticket: Rc<Ticket>,
}

impl<P: Copy + Eq + Hash + Ord> Drop for Place<'_, P> {
    fn drop(&mut self) {
        if self.ticket.state.replace(State::Gone) == State::Granted {
            self.fairness.give_next();
        }
    }
}

impl<P: Copy + Eq + Hash + Ord> Queues<P> {
    /// This program's account. If nothing of it waits, it has had no less time than anybody else.
    fn enter(&mut self, program: P) -> &mut Account {
        let account = self.accounts.entry(program).or_default();
        if account.waiting.is_empty() {
            account.had = account.had.max(self.now);
        }
        account
    }

    fn push(&mut self, program: P, ticket: Rc<Ticket>) {
        let account = self.enter(program);
        account.waiting.push_back(ticket);
        let had = account.had;
        self.order.insert((had, program));
    }

    /// Who is next.
    fn pop(&mut self) -> Option<Rc<Ticket>> {
        let (had, program) = *self.order.first()?;
        self.now = self.now.max(had);
        let account = self.accounts.get_mut(&program)?;
        let ticket = account.waiting.pop_front()?;
        if account.waiting.is_empty() {
            self.order.remove(&(had, program));
        }
        Some(ticket)
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
    /// Gives it the turn; `false` if nobody is there any more.
    fn grant(&self) -> bool {
        if self.state.get() == State::Gone {
            return false;
        }
        self.state.set(State::Granted);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
        true
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
            let sight = Sight::default();
            let fairness = Rc::new(Fairness::with_clock(sight, || NOW.get()));
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
        let mut builder = Builder::new_current_thread();
        let runtime = builder.event_interval(BETWEEN_LOOKS).build_local(LocalOptions::default());
        runtime.unwrap().block_on(async { test().await })
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
        assert!(done <= BETWEEN_LOOKS as usize * STEPS, "it was done after {done} steps");
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
            let fairness = Rc::new(Fairness::new(Sight::default()));
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

    /// Polls it once, as its task does when it is woken.
    fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_first_one_after_a_sleep_does_not_wait_but_the_next_one_does() {
        let sight = Sight::default();
        let fairness = Fairness::new(sight.clone());
        let run = |program| Box::pin(fairness.run(program, std::future::ready(())));
        sight.sleeps();
        assert!(poll_once(run(1).as_mut()).is_ready());
        let mut second = run(1);
        assert!(poll_once(second.as_mut()).is_pending(), "others may have been woken with it");
        assert_eq!(sight.waiting(), 1);
        sight.sleeps();
        assert!(poll_once(run(2).as_mut()).is_pending(), "somebody waits already");
        fairness.give_next();
        assert!(poll_once(second.as_mut()).is_ready());
    }

    #[test]
    fn who_is_gone_with_a_turn_leaves_it_to_the_next() {
        let fairness = Fairness::new(Sight::default());
        let run = |program| Box::pin(fairness.run(program, std::future::ready(())));
        let (mut first, mut second) = (run(1), run(2));
        assert!(poll_once(first.as_mut()).is_pending());
        assert!(poll_once(second.as_mut()).is_pending());
        fairness.give_next();
        drop(first);
        assert!(poll_once(second.as_mut()).is_ready());
        assert_eq!(fairness.sight.waiting(), 0);
        assert!(!fairness.taken.get());
    }
}
