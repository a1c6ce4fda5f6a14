//! Programs that choose local identities (LIDENTRY): who is registered for whom, and the questions that
//! they are asked, one at a time.
//!
//! A program registers for the requests of its own user, one program for each user; root's is for those of
//! all users who have none. The decision itself, and what access rules make of it, is in
//! [`super::disclosure`]; nothing here looks into a table.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tlspool_identity::{DoNai, Selector};
use tlspool_store::Place;
use tlspool_wire::{Body, Lidentry, LidentryFlags as Flags, PoolError, Text};
use tokio::sync::oneshot;

use super::client::{Answer, CallbackFailure, Client};
use super::disclosure::Listed;
use super::limits::{ROOT, Uid};

/// How long a registered program may take to answer when it did not say.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);

/// The longest time to answer that counts.
const MAX_TIMEOUT: Duration = Duration::from_hours(1);

/// An answer that is late is waited for without asking anything else, in pieces of this time.
const FAR: Duration = Duration::from_hours(24);

/// The programs that choose.
#[derive(Default)]
pub(crate) struct ChooserDesk {
    registrants: Mutex<HashMap<Uid, Registrant>>,
    latest: AtomicU64,
}

#[derive(Clone)]
struct Registrant {
    number: u64,
    client: Arc<Client>,
    reqid: u16,
    flags: Flags,
    timeout: Duration,
    state: Arc<State>,
}

/// What the questions to one registrant share.
#[derive(Default)]
struct State {
    /// One question at a time, so that a person sees one prompt.
    turn: tokio::sync::Mutex<()>,
    /// When the answer to the current question is due; after that, another program may take over, and
    /// nobody is asked.
    due: Mutex<Option<Instant>>,
    /// Questions under way, this one's too.
    questions: AtomicU32,
}

/// What is to be decided.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// Whose program made the request.
    pub(crate) uid: Uid,
    pub(crate) remote: DoNai,
    /// What that program proposes.
    pub(crate) proposed: Option<DoNai>,
    /// What the table has.
    pub(crate) listed: Option<Arc<Listed>>,
    /// Other names that the program may use.
    pub(crate) candidates: Vec<DoNai>,
    /// Questions that may wait for one program.
    pub(crate) limit: u32,
    /// When the request is over.
    pub(crate) deadline: Option<tokio::time::Instant>,
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Whom to show; none: nobody.
    pub(crate) local: Option<DoNai>,
    /// What to remember if the handshake succeeds.
    pub(crate) remember: Option<Remember>,
    /// The identity may come yet.
    pub(crate) is_new: bool,
    /// The identity is to be made.
    pub(crate) on_the_fly: bool,
}

/// A choice to be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remember {
    /// For which remotes.
    pub(crate) remote: Selector,
    /// Before or after the other names for these.
    pub(crate) place: Place,
    /// Also if it is remembered already.
    pub(crate) reorder: bool,
}

/// Why nothing was chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoChoice {
    /// No program chooses for this user now.
    #[error("no program chooses local identities")]
    Unattended,
    /// It refused.
    #[error("whoever chooses local identities refused: {0}")]
    Refused(String),
    /// It went away in the middle of the question, which may have been its way to refuse.
    #[error("the program that chooses local identities went away when it was asked")]
    Gone,
    /// It took too long.
    #[error("the program that chooses local identities did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// It answered something that no choice is.
    #[error("the answer of the program that chooses local identities does not fit: {0}")]
    Unfit(String),
    /// Too many questions wait for it.
    #[error("{0} requests wait for the program that chooses local identities")]
    Full(u32),
}

impl NoChoice {
    /// The number for the program that made the request.
    pub(crate) fn error(&self) -> PoolError {
        match self {
            Self::Late(_) => PoolError::Timeout,
            Self::Full(_) => PoolError::LimitReached,
            _ => PoolError::LocalidRefused,
        }
    }
}

impl ChooserDesk {
    /// Registers `client` as the program that chooses for its user.
    pub(crate) fn register(
        &self,
        client: &Arc<Client>,
        reqid: u16,
        request: &Lidentry,
    ) -> Result<(), PoolError> {
        let mut registrants = self.registrants.lock();
        if let Some(holder) = registrants.get(&client.uid()) {
            let replaces_itself = holder.client.id == client.id && holder.reqid == reqid;
            let late = holder.is_late();
            if !holder.client.gone.is_requested() && !late && !replaces_itself {
                return Err(PoolError::LidentryNotVacant);
            }
            if late && !replaces_itself {
                let text = "your answer came too late; another program chooses now";
                holder.client.send_error(holder.reqid, PoolError::LidentryNotVacant, text);
            }
        }
        let timeout = match request.timeout {
            0 | u32::MAX => DEFAULT_TIMEOUT,
            seconds => Duration::from_secs(seconds.into()).min(MAX_TIMEOUT),
        };
        let registrant = Registrant {
            number: self.latest.fetch_add(1, Ordering::Relaxed),
            client: client.clone(),
            reqid,
            flags: request.flags & Flags::REGFLAGS,
            timeout,
            state: Arc::default(),
        };
        registrants.insert(client.uid(), registrant);
        Ok(())
    }

    /// The connection is gone; if its program chose, the place is vacant.
    pub(crate) fn client_left(&self, client: &Client) {
        let mut registrants = self.registrants.lock();
        if registrants.get(&client.uid()).is_some_and(|holder| holder.client.id == client.id) {
            registrants.remove(&client.uid());
        }
    }

    /// The daemon drains: new requests go to its successor, and so must this registration. A question
    /// that is under way is answered yet.
    pub(crate) fn dismiss(self: &Arc<Self>, client: &Client) {
        let registrant = {
            let mut registrants = self.registrants.lock();
            match registrants.get(&client.uid()) {
                Some(holder) if holder.client.id == client.id => registrants.remove(&client.uid()),
                _ => None,
            }
        };
        if let Some(registrant) = registrant {
            tokio::task::spawn_local(async move {
                let _turn = registrant.state.turn.lock().await;
                let text = "this pool is being replaced; register again";
                registrant.client.send_error(registrant.reqid, PoolError::Draining, text);
            });
        }
    }

    /// Whether any program is registered.
    pub(crate) fn is_attended(&self) -> bool {
        let registrants = self.registrants.lock();
        registrants.values().any(|holder| !holder.client.gone.is_requested())
    }

    /// The flags of the registration of whoever is asked about requests of this user; none: nobody is.
    pub(crate) fn flags_for(&self, uid: Uid) -> Option<Flags> {
        self.registrant_for(uid).map(|registrant| registrant.flags)
    }

    fn registrant_for(&self, uid: Uid) -> Option<Registrant> {
        let registrants = self.registrants.lock();
        let attends =
            |holder: &&Registrant| !holder.client.gone.is_requested() && !holder.is_late();
        let own = registrants.get(&uid).filter(attends);
        own.or_else(|| registrants.get(&ROOT).filter(attends)).cloned()
    }

    /// Has a program choose. If the asker goes away, what was asked is still waited for, because a
    /// question cannot be taken back.
    pub(crate) async fn ask(self: &Arc<Self>, question: Question) -> Result<Choice, NoChoice> {
        let (answer, answered) = oneshot::channel();
        let desk = self.clone();
        tokio::task::spawn_local(async move { desk.put(question, answer).await });
        answered.await.unwrap_or(Err(NoChoice::Unattended))
    }

    async fn put(&self, question: Question, mut answer: oneshot::Sender<Result<Choice, NoChoice>>) {
        loop {
            let Some(registrant) = self.registrant_for(question.uid) else {
                let _ = answer.send(Err(NoChoice::Unattended));
                return;
            };
            let state = registrant.state.clone();
            let waiting = state.questions.fetch_add(1, Ordering::AcqRel);
            let _counted = Counted(&state.questions);
            if waiting >= question.limit {
                let _ = answer.send(Err(NoChoice::Full(question.limit)));
                return;
            }
            // Nobody needs to be bothered for a request that is over, nor does it keep others from waiting.
            let turn = tokio::select! {
                turn = state.turn.lock() => turn,
                () = answer.closed() => return,
            };
            // While it waited, the registrant may have gone, or be late with another answer.
            if self.registrant_for(question.uid).map(|now| now.number) != Some(registrant.number) {
                continue;
            }
            if answer.is_closed() {
                return;
            }
            // Its connection has something to do, so it is not closed when the daemon drains.
            let _busy = registrant.client.begin(u32::MAX);
            let mut late = None;
            let outcome = registrant.conduct(&question, &mut late).await;
            drop(turn);
            let _ = answer.send(outcome);
            if let Some(late) = late {
                // It may come yet, and puts the program back in its place if nobody took that.
                let _ = late.await;
                *state.due.lock() = None;
            }
            return;
        }
    }
}

/// Counts a question out.
struct Counted<'a>(&'a AtomicU32);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// An answer that did not come in time.
type LateAnswer = tokio::task::JoinHandle<Result<Answer, CallbackFailure>>;

impl Registrant {
    fn is_late(&self) -> bool {
        self.state.due.lock().is_some_and(|due| due < Instant::now())
    }

    /// Shows what it wants to see, then asks.
    async fn conduct(
        &self,
        question: &Question,
        late: &mut Option<LateAnswer>,
    ) -> Result<Choice, NoChoice> {
        for entry in shown_before(self.flags, question) {
            if let Body::Error(error) = self.call(entry, question, late).await?.body {
                return Err(NoChoice::Refused(error.message.to_string()));
            }
        }
        let steps = question.remote.lookup_order().count().saturating_sub(1);
        let entry = Lidentry {
            flags: self.flags,
            maxlevels: u16::try_from(steps).unwrap_or(u16::MAX),
            localid: Text::cut(question.proposed.as_ref().map_or("", DoNai::as_str)),
            remoteid: Text::cut(question.remote.as_str()),
            ..Lidentry::default()
        };
        let answer = self.call(entry, question, late).await?;
        if answer.descriptor.is_some() {
            return Err(NoChoice::Unfit("it brings a descriptor".into()));
        }
        match answer.body {
            Body::LidentryCallback(entry) => read_choice(&entry, &question.remote),
            Body::Error(error) => Err(NoChoice::Refused(error.message.to_string())),
            _ => Err(NoChoice::Unfit("it is another command".into())),
        }
    }

    async fn call(
        &self,
        entry: Lidentry,
        question: &Question,
        late: &mut Option<LateAnswer>,
    ) -> Result<Answer, NoChoice> {
        // The program may take longer than the request has; it should know.
        let left =
            question.deadline.map(|end| end.into_std().saturating_duration_since(Instant::now()));
        let told = left.map_or(self.timeout, |left| left.min(self.timeout)).as_secs().max(1);
        let seconds = u32::try_from(told).unwrap_or(u32::MAX);
        let body = Body::LidentryCallback(Lidentry { timeout: seconds, ..entry });
        *self.state.due.lock() = Some(Instant::now() + self.timeout);
        let (client, reqid) = (self.client.clone(), self.reqid);
        let mut call =
            tokio::task::spawn_local(async move { client.call_back(reqid, body, FAR).await });
        let answer = match tokio::time::timeout(self.timeout, &mut call).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(CallbackFailure::Gone),
            Err(_) => {
                tracing::warn!(client = %self.client.peer, "it did not choose a local identity in time");
                *late = Some(call);
                return Err(NoChoice::Late(self.timeout));
            }
        };
        *self.state.due.lock() = None;
        answer.map_err(|failure| match failure {
            CallbackFailure::Full => NoChoice::Full(u32::from(u16::MAX)),
            CallbackFailure::Gone | CallbackFailure::Late => NoChoice::Gone,
        })
    }
}

/// The entries that a registration with these flags wants to see before the question.
fn shown_before(flags: Flags, question: &Question) -> Vec<Lidentry> {
    let mut entries = Vec::new();
    if flags.contains(Flags::WANT_DBENTRY)
        && let Some(listed) = &question.listed
    {
        entries.extend(listed.names.iter().map(|name| Lidentry {
            flags: flags | Flags::DBENTRY,
            maxlevels: u16::try_from(listed.step).unwrap_or(u16::MAX),
            localid: Text::cut(name.as_ref().map_or("", DoNai::as_str)),
            remoteid: Text::cut(listed.selector.as_str()),
            ..Lidentry::default()
        }));
    }
    if flags.contains(Flags::WANT_CANDIDATES) {
        let listed = |name: &DoNai| {
            let names = question.listed.iter().flat_map(|listed| &listed.names);
            names.flatten().any(|listed| listed == name)
        };
        entries.extend(question.candidates.iter().filter(|name| !listed(name)).map(|name| {
            Lidentry {
                flags: flags | Flags::DBENTRY | Flags::CANDIDATE,
                localid: Text::cut(name.as_str()),
                remoteid: Text::cut(question.remote.as_str()),
                ..Lidentry::default()
            }
        }));
    }
    entries
}

/// Reads an answer, which is a program's and may be anything.
fn read_choice(entry: &Lidentry, remote: &DoNai) -> Result<Choice, NoChoice> {
    let unfit = |what: &str, why: String| NoChoice::Unfit(format!("its {what} {why}"));
    let local = match entry.localid.as_str() {
        "" => None,
        name => Some(
            DoNai::parse(name).map_err(|error| unfit("localid", format!("{name:?}: {error}")))?,
        ),
    };
    let selector = match entry.remoteid.as_str() {
        "" => Selector::from(remote),
        text => {
            let selector = Selector::parse(text)
                .map_err(|error| unfit("remoteid", format!("{text:?}: {error}")))?;
            if !remote.lookup_order().any(|step| step == selector) {
                return Err(unfit("remoteid", format!("{selector} is not above {remote}")));
            }
            selector
        }
    };
    let (first, last) =
        (entry.flags.contains(Flags::DBINSERT), entry.flags.contains(Flags::DBAPPEND));
    if first && last {
        return Err(unfit("flags", "ask to insert and to append".into()));
    }
    if entry.flags.contains(Flags::ONTHEFLY) && (first || last) {
        return Err(unfit(
            "flags",
            "ask to remember an identity that is made for one session".into(),
        ));
    }
    let place = if first { Place::First } else { Place::Last };
    let remember = (first || last).then(|| Remember {
        remote: selector,
        place,
        reorder: entry.flags.contains(Flags::DBREORDER),
    });
    Ok(Choice {
        local,
        remember,
        is_new: entry.flags.contains(Flags::NEW),
        on_the_fly: entry.flags.contains(Flags::ONTHEFLY),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DoNai {
        DoNai::parse(text).unwrap()
    }

    fn answer(flags: Flags, localid: &str, remoteid: &str) -> Result<Choice, NoChoice> {
        let entry = Lidentry {
            flags,
            localid: Text::cut(localid),
            remoteid: Text::cut(remoteid),
            ..Lidentry::default()
        };
        read_choice(&entry, &name("john@www.example.com"))
    }

    #[test]
    fn answers_are_read_within_bounds() {
        let choice = answer(Flags::default(), "me@a.example", "").unwrap();
        assert_eq!(choice.local, Some(name("me@a.example")));
        assert_eq!((choice.remember, choice.is_new, choice.on_the_fly), (None, false, false));
        assert_eq!(answer(Flags::default(), "", "").unwrap().local, None);
        for (flags, place, reorder) in [
            (Flags::DBINSERT, Place::First, false),
            (Flags::DBAPPEND | Flags::DBREORDER, Place::Last, true),
        ] {
            let remember = answer(flags, "me@a.example", "@.example.com").unwrap().remember;
            let remote = Selector::parse("@.example.com").unwrap();
            assert_eq!(remember, Some(Remember { remote, place, reorder }));
        }
        let alone = answer(Flags::DBREORDER, "me@a.example", "").unwrap();
        assert_eq!(alone.remember, None);
        for (flags, local, remote) in [
            (Flags::DBINSERT | Flags::DBAPPEND, "me@a.example", ""),
            (Flags::DBINSERT, "me@a.example", "@.example.net"),
            (Flags::DBINSERT, "me@a.example", "www.example.com"),
            (Flags::ONTHEFLY | Flags::DBINSERT, "me@a.example", ""),
            (Flags::default(), "me@@a", ""),
            (Flags::default(), "me@.example", ""),
            (Flags::default(), "me@a.example", "a b"),
        ] {
            let unfit = answer(flags, local, remote);
            assert!(matches!(unfit, Err(NoChoice::Unfit(_))), "{local} {remote}: {unfit:?}");
        }
    }

    #[test]
    fn what_is_shown_before_the_question() {
        let listed = Listed {
            step: 1,
            selector: Selector::parse("@www.example.com").unwrap(),
            names: vec![Some(name("a@a.example")), None],
        };
        let question = Question {
            uid: 7,
            remote: name("john@www.example.com"),
            proposed: None,
            listed: Some(Arc::new(listed)),
            candidates: vec![name("a@a.example"), name("b@a.example")],
            limit: 1,
            deadline: None,
        };
        let shown = |flags| -> Vec<(u32, u16, String, String)> {
            let entries = shown_before(flags, &question).into_iter();
            let text = |e: Lidentry| {
                (e.flags.0, e.maxlevels, e.localid.to_string(), e.remoteid.to_string())
            };
            entries.map(text).collect()
        };
        let at = "@www.example.com".to_owned();
        assert!(shown(Flags::SKIP_USER).is_empty());
        let known =
            [(0x1100, 1, "a@a.example".to_owned(), at.clone()), (0x1100, 1, String::new(), at)];
        assert_eq!(shown(Flags::WANT_DBENTRY), known);
        let others = shown(Flags::WANT_CANDIDATES);
        let remote = question.remote.to_string();
        assert_eq!(others, [(0x1_1200, 0, "b@a.example".to_owned(), remote)]);
    }
}
