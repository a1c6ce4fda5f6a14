//! Which program has connected, for access rules that name one.
//!
//! The network process may not look at processes of other users, so it asks the supervisor, once a
//! connection, and only if some rule names a program at all.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::client::Client;
use super::peer::Peer;
use super::worker::Worker;

/// The supervisor reads a link; if that takes longer, the program counts as unknown.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// A question to the supervisor.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) id: u64,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
}

/// Questions that wait for the supervisor's answer.
pub(crate) struct ProgramDesk {
    questions: mpsc::UnboundedSender<Question>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    latest: u64,
    answers: HashMap<u64, oneshot::Sender<Option<PathBuf>>>,
}

impl ProgramDesk {
    /// A desk, and where its questions come out.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Question>) {
        let (questions, asked) = mpsc::unbounded_channel();
        (Self { questions, waiting: Mutex::default() }, asked)
    }

    /// The supervisor's answer.
    pub(crate) fn answer(&self, id: u64, program: Option<PathBuf>) {
        if let Some(answer) = self.waiting.lock().answers.remove(&id) {
            // Who asked may have given up.
            let _ = answer.send(program);
        }
    }

    /// Asks the supervisor; `None` if it does not answer within `limit`.
    async fn ask(&self, peer: &Peer, limit: Duration) -> Option<Option<PathBuf>> {
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting.lock();
            waiting.latest += 1;
            let id = waiting.latest;
            waiting.answers.insert(id, answer);
            id
        };
        let _forget = Forget { desk: self, id };
        self.questions.send(Question { id, pid: peer.pid, uid: peer.uid }).ok()?;
        tokio::time::timeout(limit, answered).await.ok()?.ok()
    }
}

/// A question that somebody waits for; until this is dropped.
struct Forget<'a> {
    desk: &'a ProgramDesk,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.desk.waiting.lock().answers.remove(&self.id);
    }
}

/// Finds out which program a connection belongs to, if any rule wants to know.
pub(crate) async fn learn(worker: &Worker, client: &Client) {
    if client.program.initialized() {
        return;
    }
    // A database that fails is told by the look-up that follows.
    let wanted = worker.identities.borrow_mut().rules_name_programs().unwrap_or(false);
    if wanted {
        let find = async || match client.peer.program() {
            Some(program) => Ok(Some(program)),
            None => worker.shared.programs.ask(&client.peer, ANSWER_TIME).await.ok_or(()),
        };
        // Without an answer it is unknown to this request only: the next one asks again.
        if client.program.get_or_try_init(find).await.is_err() {
            tracing::warn!("the supervisor does not say which program has connected");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn peer() -> Peer {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        Peer::of(ours.as_fd()).unwrap()
    }

    #[test]
    fn a_question_without_an_answer_leaves_nothing_behind() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (desk, mut questions) = ProgramDesk::new();
            assert_eq!(desk.ask(&peer(), Duration::ZERO).await, None);
            let late = questions.recv().await.unwrap();
            assert!(desk.waiting.lock().answers.is_empty());
            desk.answer(late.id, Some("/bin/late".into()));
            // Who asked went away.
            {
                let (peer, limit) = (peer(), Duration::from_mins(1));
                let asking = desk.ask(&peer, limit);
                tokio::select! {
                    biased;
                    _ = asking => panic!("nobody has answered"),
                    _ = questions.recv() => {}
                }
            }
            assert!(desk.waiting.lock().answers.is_empty());
            let (peer, limit) = (peer(), Duration::from_mins(1));
            let (program, ()) = tokio::join!(desk.ask(&peer, limit), async {
                let question = questions.recv().await.unwrap();
                desk.answer(question.id, Some("/bin/true".into()));
            });
            assert_eq!(program, Some(Some("/bin/true".into())));
        });
    }
}
