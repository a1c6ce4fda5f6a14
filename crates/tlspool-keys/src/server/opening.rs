//! The threads that open keys: loading a module or searching slots must not hold up signatures.

use std::collections::VecDeque;

use parking_lot::{Condvar, Mutex};

/// Requests that may wait here.
const MAX_WAITING: usize = 4096;

type Task = Box<dyn FnOnce() + Send>;

/// A bounded queue of things to do.
#[derive(Default)]
pub(super) struct Opening {
    inner: Mutex<Inner>,
    ready: Condvar,
}

#[derive(Default)]
struct Inner {
    tasks: VecDeque<Task>,
    closed: bool,
}

impl Opening {
    /// Queues a task; false if too many wait.
    pub(super) fn push(&self, task: Task) -> bool {
        let mut inner = self.inner.lock();
        if inner.tasks.len() >= MAX_WAITING {
            return false;
        }
        inner.tasks.push_back(task);
        self.ready.notify_one();
        true
    }

    /// A thread of the queue: returns when it is closed.
    pub(super) fn serve(&self) {
        loop {
            let task = {
                let mut inner = self.inner.lock();
                loop {
                    if inner.closed {
                        return;
                    }
                    match inner.tasks.pop_front() {
                        Some(task) => break task,
                        None => self.ready.wait(&mut inner),
                    }
                }
            };
            task();
        }
    }

    /// Ends the threads.
    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.ready.notify_all();
    }
}
