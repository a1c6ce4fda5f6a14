//! Whose handshake's turn it is: `limits.handshakes` of them are under way, the others wait.
//!
//! A handshake keeps its turn while it waits for a peer, a PIN or a look-up, so whoever has slow ones, or peers that say nothing,
//! could keep everybody out. Therefore a user has at most as many turns as are free for the others: half of them if nobody
//! else has any, a third beside another such user. Whoever has the fewest comes first, and within a user who came first.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::limits::Uid;

/// Who has a turn, and who waits for one.
#[derive(Debug)]
pub(crate) struct Turns(Mutex<State>);

#[derive(Debug)]
struct State {
    size: u32,
    held: u32,
    users: HashMap<Uid, User>,
    /// Of who comes next.
    number: u64,
}

#[derive(Debug, Default)]
struct User {
    held: u32,
    /// By number, so who came first is first.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One handshake's turn, or its place among those who wait.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    user: Uid,
    number: u64,
}

impl Turns {
    pub(crate) fn new(size: u32) -> Self {
        Self(Mutex::new(State { size, held: 0, users: HashMap::new(), number: 0 }))
    }

    /// Waits for a turn of this user's. Who gives up waiting leaves nothing behind.
    pub(crate) async fn wait(&self, user: Uid) -> Turn<'_> {
        let (turn, called) = self.enter(user);
        if let Some(called) = called {
            // Whoever may call us is in the table until we leave it.
            let _ = called.await;
        }
        turn
    }

    fn enter(&self, user: Uid) -> (Turn<'_>, Option<oneshot::Receiver<()>>) {
        let mut state = self.0.lock();
        let number = state.number;
        state.number += 1;
        let turn = Turn { turns: self, user, number };
        let free = state.free();
        let entry = state.users.entry(user).or_default();
        // Nobody waits who might have it: he would have it already.
        if entry.waiting.is_empty() && entry.held < free {
            entry.held += 1;
            state.held += 1;
            return (turn, None);
        }
        let (call, called) = oneshot::channel();
        entry.waiting.insert(number, call);
        (turn, Some(called))
    }

    /// From now on so many at a time. Those under way go on.
    pub(crate) fn resize(&self, size: u32) {
        let mut state = self.0.lock();
        state.size = size;
        state.call();
    }
}

impl State {
    fn free(&self) -> u32 {
        self.size.saturating_sub(self.held)
    }

    /// Gives turns to who may have one.
    fn call(&mut self) {
        loop {
            let free = self.free();
            let waiting = self.users.values_mut().filter(|user| !user.waiting.is_empty());
            let next = waiting.min_by_key(|user| (user.held, user.waiting.keys().next().copied()));
            let Some(user) = next.filter(|user| user.held < free) else { return };
            let Some((_, call)) = user.waiting.pop_first() else { return };
            user.held += 1;
            self.held += 1;
            // Who has just given up gives it back.
            let _ = call.send(());
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.0.lock();
        let Some(user) = state.users.get_mut(&self.user) else { return };
        let had_turn = user.waiting.remove(&self.number).is_none();
        user.held -= u32::from(had_turn);
        if user.held == 0 && user.waiting.is_empty() {
            state.users.remove(&self.user);
        }
        if had_turn {
            state.held -= 1;
            state.call();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn that was had at once.
    fn at_once(turns: &Turns, user: Uid) -> Option<Turn<'_>> {
        let (turn, called) = turns.enter(user);
        called.is_none().then_some(turn)
    }

    /// Turns of this user, until it has to wait.
    fn all_of(turns: &Turns, user: Uid) -> Vec<Turn<'_>> {
        std::iter::from_fn(|| at_once(turns, user)).collect()
    }

    #[test]
    fn a_user_leaves_as_many_as_it_has() {
        let turns = Turns::new(12);
        let one = all_of(&turns, 1);
        assert_eq!(one.len(), 6);
        let two = all_of(&turns, 2);
        assert_eq!(two.len(), 3);
        assert_eq!(all_of(&turns, 3).len(), 2, "and it gave them back");
        drop(one);
        assert_eq!(all_of(&turns, 3).len(), 5);
        drop(two);
        assert!(turns.0.lock().users.is_empty(), "nothing is left of who has left");
        assert_eq!(all_of(&Turns::new(1), 1).len(), 1);
        assert_eq!(all_of(&Turns::new(3), 1).len(), 2);
    }

    #[test]
    fn who_has_fewest_is_called_first_and_in_order() {
        let turns = Turns::new(2);
        let held = at_once(&turns, 1).unwrap();
        let (first, mut first_called) = turns.enter(1);
        let (second, mut second_called) = turns.enter(1);
        let is_called =
            |which: &mut Option<oneshot::Receiver<()>>| which.as_mut().unwrap().try_recv().is_ok();
        let other = at_once(&turns, 2).expect("the other half is another user's");
        let (third, mut third_called) = turns.enter(3);
        drop(other);
        assert!(is_called(&mut third_called), "it has none yet");
        assert!(!is_called(&mut first_called));
        drop(held);
        assert!(is_called(&mut first_called) && !is_called(&mut second_called));
        drop((first, third));
        assert!(is_called(&mut second_called));
        drop(second);
        assert!(turns.0.lock().users.is_empty());
        assert_eq!(turns.0.lock().held, 0);
    }

    #[test]
    fn who_gives_up_leaves_nothing_behind() {
        let turns = Turns::new(1);
        let held = at_once(&turns, 1).unwrap();
        for _ in 0..10 {
            drop(turns.enter(1));
            drop(turns.enter(2));
        }
        assert_eq!(turns.0.lock().users.len(), 1);
        assert!(turns.0.lock().users[&1].waiting.is_empty());
        // Called, and gone before it heard of it.
        let (late, called) = turns.enter(2);
        drop((called, held));
        assert!(at_once(&turns, 3).is_none());
        drop(late);
        assert!(at_once(&turns, 3).is_some());
    }

    #[tokio::test]
    async fn turns_follow_their_number() {
        let turns = Turns::new(2);
        let (one, two) = (turns.wait(1).await, turns.wait(2).await);
        assert!(at_once(&turns, 3).is_none());
        turns.resize(1);
        drop(one);
        assert!(at_once(&turns, 3).is_none(), "one is all");
        let waits = turns.wait(3);
        turns.resize(2);
        let three = waits.await;
        assert!(at_once(&turns, 4).is_none());
        drop((two, three));
        assert!(at_once(&turns, 4).is_some());
    }
}
