//! Synchronous code that can wait: one step of a handshake on a stack of its own.
//!
//! rustls calls its signer, verifier and certificate resolvers synchronously. [`Step`] runs the
//! call into rustls on a separate stack; [`ask`], called from inside, suspends that stack and
//! hands a question to whoever drives the step, who resumes it with the answer. Everything stays
//! on one thread. The crate's other unsafe code is one call in [`crate::socket`].

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
use std::rc::Rc;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};

use crate::ask::{Answer, Question};
use crate::handshake::Context;

/// Bytes of a stack. Post-quantum key exchange needs about 30 KiB; pages are touched on use only.
const STACK_BYTES: usize = 256 * 1024;

/// Stacks kept for reuse, per thread.
const STACKS_KEPT: usize = 32;

type Suspender = Yielder<Answer, Question>;

thread_local! {
    /// The running coroutine's way out; lives on that coroutine's stack.
    static SUSPENDER: Cell<Option<NonNull<Suspender>>> = const { Cell::new(None) };
    /// What the running handshake is about.
    static CONTEXT: RefCell<Option<Rc<Context>>> = const { RefCell::new(None) };
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

/// A step of a handshake: runs until it asks or is done.
pub(crate) struct Step<R: 'static> {
    /// `None` only once the stack was given back.
    coroutine: Option<Coroutine<Answer, Question, R, DefaultStack>>,
}

/// How far a step came.
pub(crate) enum Progress<R> {
    /// It waits for an answer.
    Asked(Question),
    /// It is done.
    Done(R),
}

impl<R: 'static> Step<R> {
    /// Prepares `work`; nothing runs before [`Self::resume`].
    pub(crate) fn new(
        context: Rc<Context>,
        work: impl FnOnce() -> R + 'static,
    ) -> std::io::Result<Self> {
        let stack = match STACKS.with_borrow_mut(Vec::pop) {
            Some(stack) => stack,
            None => DefaultStack::new(STACK_BYTES)?,
        };
        let coroutine = Coroutine::with_stack(stack, move |yielder: &Suspender, _first| {
            let _entered = Entered::new(yielder, context);
            work()
        });
        Ok(Self { coroutine: Some(coroutine) })
    }

    /// Runs on, with the answer to what was asked ([`Answer::Begin`] at first).
    ///
    /// # Panics
    /// After it was done, which is an error of the caller.
    pub(crate) fn resume(&mut self, answer: Answer) -> Progress<R> {
        let coroutine = self.coroutine.as_mut().expect("a step that is done is not resumed");
        match coroutine.resume(answer) {
            CoroutineResult::Yield(question) => Progress::Asked(question),
            CoroutineResult::Return(result) => {
                self.give_stack_back();
                Progress::Done(result)
            }
        }
    }

    fn give_stack_back(&mut self) {
        let Some(mut coroutine) = self.coroutine.take() else { return };
        if !coroutine.done() {
            // Never resumed, or suspended in a question: unwinds what is on the stack.
            coroutine.force_unwind();
        }
        let stack = coroutine.into_stack();
        STACKS.with_borrow_mut(|stacks| {
            if stacks.len() < STACKS_KEPT {
                stacks.push(stack);
            }
        });
    }
}

impl<R: 'static> Drop for Step<R> {
    fn drop(&mut self) {
        self.give_stack_back();
    }
}

/// Marks the running coroutine as current; unmarks it when its work ends, also by unwinding.
struct Entered;

impl Entered {
    fn new(yielder: &Suspender, context: Rc<Context>) -> Self {
        SUSPENDER.set(Some(NonNull::from(yielder)));
        CONTEXT.set(Some(context));
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        SUSPENDER.set(None);
        CONTEXT.set(None);
    }
}

/// Suspends the running step with `question`. `None` outside of any step.
pub(crate) fn ask(question: Question) -> Option<Answer> {
    // Taken out while suspended, so that no other step on this thread sees them.
    let suspender = SUSPENDER.take()?;
    let context = CONTEXT.take();
    // SAFETY: `suspender` was set by `Entered::new` of the coroutine that runs right now: it is
    // cleared when that coroutine's work ends and absent while that coroutine is suspended. The
    // yielder lives on that coroutine's stack until its function returns, after `work`.
    let answer = unsafe { suspender.as_ref() }.suspend(question);
    SUSPENDER.set(Some(suspender));
    CONTEXT.set(context);
    Some(answer)
}

/// What the running handshake is about. `None` outside of any step and of [`within`].
pub(crate) fn context() -> Option<Rc<Context>> {
    CONTEXT.with_borrow(Clone::clone)
}

/// Runs `work`, which asks nothing, for the handshake that `context` was about.
pub(crate) fn within<R>(context: Rc<Context>, work: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            CONTEXT.set(None);
        }
    }
    CONTEXT.set(Some(context));
    let _leave = Leave;
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Rc<Context> {
        Rc::new(Context::new([0; 32], false))
    }

    fn question() -> Question {
        Question::ClientCredential { schemes: Vec::new() }
    }

    #[test]
    fn two_steps_interleave() {
        let work = || {
            let answer = ask(question());
            matches!(answer, Some(Answer::Credential(None)))
        };
        let mut a = Step::new(context(), work).unwrap();
        let mut b = Step::new(context(), work).unwrap();
        assert!(matches!(a.resume(Answer::Begin), Progress::Asked(_)));
        assert!(super::context().is_none(), "a suspended step leaves nothing behind");
        assert!(matches!(b.resume(Answer::Begin), Progress::Asked(_)));
        assert!(matches!(a.resume(Answer::Credential(None)), Progress::Done(true)));
        assert!(matches!(b.resume(Answer::Credential(None)), Progress::Done(true)));
    }

    #[test]
    fn dropping_a_waiting_step_drops_what_it_holds() {
        let held = Rc::new(());
        let inside = held.clone();
        let mut step = Step::new(context(), move || {
            ask(question());
            drop(inside);
        })
        .unwrap();
        assert!(matches!(step.resume(Answer::Begin), Progress::Asked(_)));
        assert_eq!(Rc::strong_count(&held), 2);
        drop(step);
        assert_eq!(Rc::strong_count(&held), 1);
        let unstarted = held.clone();
        drop(Step::new(context(), move || drop(unstarted)));
        assert_eq!(Rc::strong_count(&held), 1);
    }

    #[test]
    fn nobody_to_ask_outside() {
        assert!(ask(question()).is_none());
    }
}
