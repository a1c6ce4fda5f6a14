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

    async fn ask(&self, peer: &Peer) -> Option<PathBuf> {
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting.lock();
            waiting.latest += 1;
            let id = waiting.latest;
            waiting.answers.insert(id, answer);
            id
        };
        let asked = self.questions.send(Question { id, pid: peer.pid, uid: peer.uid });
        let program = match asked {
            Ok(()) => tokio::time::timeout(ANSWER_TIME, answered).await.ok()?.ok()?,
            Err(_) => None,
        };
        self.waiting.lock().answers.remove(&id);
        program
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
            Some(program) => Some(program),
            None => worker.shared.programs.ask(&client.peer).await,
        };
        client.program.get_or_init(find).await;
    }
}
