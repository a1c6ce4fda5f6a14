//! Evaluates the expressions that apply to one peer under one name: what costs nothing first, among that what
//! was looked up before and is at hand; look-ups only if they can still change the outcome, then all of those at
//! once, within one deadline.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use tlspool_identity::x509::CertificateNames;
use tlspool_identity::{DoNai, How};
use tlspool_openpgp::Certificate;

use crate::inquiry::{Inquiry, Tables};
use crate::openpgp;
use crate::policy::{Expression, Predicate, Verdict, survey};
use crate::sources::{Caches, Found, Looking, Options, Origin, Outcome, Query, Sources};
use crate::trace::Asked;
use crate::validator::PolicyValidator;
use crate::{Peer, Refusal};

/// In this order predicates are answered: the cheap and the telling before the dear.
const ORDER: [Predicate; Predicate::ALL.len()] = [
    Predicate::Client,
    Predicate::Server,
    Predicate::Private,
    Predicate::Pq,
    Predicate::ForwardSecrecy,
    Predicate::Identity,
    Predicate::Pin,
    Predicate::Dane,
    Predicate::Ldap,
    Predicate::OpenPgp,
    Predicate::Pkix,
    Predicate::Ocsp,
    Predicate::Crl,
];

/// Why a predicate came to what it did.
#[derive(Debug, Clone)]
pub(crate) enum Why {
    /// Nothing to add.
    Plain,
    /// In a few words.
    Fixed(&'static str),
    /// In more words.
    Text(String),
    /// As a refusal with an alert of its own.
    Refusal(Refusal),
    /// Absent because there is nothing to ask here; of no interest to who reads a refusal.
    Nothing(&'static str),
}

impl Why {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Plain => String::new(),
            Self::Fixed(text) | Self::Nothing(text) => (*text).to_owned(),
            Self::Text(text) => text.clone(),
            Self::Refusal(refusal) => refusal.to_string(),
        }
    }
}

/// How a predicate is answered.
pub(crate) enum Step {
    /// At once.
    Done(Verdict, Why),
    /// By a look-up.
    LookUp(Query),
    /// By what another predicate finds out.
    With(Predicate),
}

/// What is known of a predicate that was begun.
struct Begun {
    step: Waiting,
    begun: Instant,
}

enum Waiting {
    LookUp(Query),
    With(Predicate),
}

/// An answered predicate.
pub(crate) struct Answered {
    pub(crate) predicate: Predicate,
    pub(crate) why: Why,
    found: Option<Found>,
    elapsed: std::time::Duration,
}

/// One peer under one name.
pub(crate) struct Evaluation<'a> {
    pub(crate) validator: &'a PolicyValidator,
    pub(crate) inquiry: &'a Inquiry<'a>,
    pub(crate) tables: &'a dyn Tables,
    /// Who it is said to be: what the application wants, or one of the names carried.
    pub(crate) name: &'a DoNai,
    /// The name that the credential carries for it, and how, if it does.
    pub(crate) carried: Option<(DoNai, How)>,
    /// All names in the credential.
    pub(crate) names: &'a CertificateNames,
    /// Why the credential is no good any more, unless a directory knows better.
    pub(crate) stale: Option<&'a Refusal>,
    /// The key that signs the handshake has expired, unless a directory knows better.
    pub(crate) key_expired: bool,
    /// The OpenPGP certificate together with the directory's copies, if it is in force by these.
    pub(crate) merged: Option<Certificate>,
    /// The records that match are proof of the domain, not of the user whom the name means.
    pub(crate) dane_proves_domain: bool,
    pub(crate) expressions: &'a [&'a Expression],
    pub(crate) board: [Option<Verdict>; Predicate::ALL.len()],
    /// In the order of the answers.
    pub(crate) answered: Vec<Answered>,
    /// What is remembered for these turned out to be no good, and why.
    pub(crate) doubted: Vec<(Predicate, String)>,
    /// Questions that were asked once more for such a reason. Evaluations for one peer share them: once is enough.
    pub(crate) asked_anew: &'a RefCell<Vec<Query>>,
}

impl Evaluation<'_> {
    /// Whether all expressions hold.
    pub(crate) async fn run(&mut self, sources: &dyn Sources, deadline: Instant) -> bool {
        let mut begun: [Option<Begun>; Predicate::ALL.len()] = Default::default();
        let options = Options { deadline, caches: self.inquiry.caches() };
        loop {
            // What can be answered here, one after the other while it matters.
            let open = match survey(self.expressions, &self.board) {
                Ok(holds) => return holds,
                Err(open) => open,
            };
            let next = ORDER.into_iter().find(|p| open.has(*p) && begun[p.index()].is_none());
            if let Some(predicate) = next {
                let started = Instant::now();
                match self.begin(predicate) {
                    Step::Done(verdict, why) => self.note(predicate, verdict, why, None, started),
                    Step::LookUp(query) => {
                        // Later predicates need not be answered if this one decides: a path is dearer than a
                        // digest.
                        let known = sources.at_hand(&query, options);
                        begun[predicate.index()] =
                            Some(Begun { step: Waiting::LookUp(query), begun: started });
                        if let Some(found) = known {
                            self.conclude(predicate, found, &begun);
                        }
                    }
                    Step::With(other) => {
                        begun[predicate.index()] =
                            Some(Begun { step: Waiting::With(other), begun: started });
                        // What it waits for must be begun, even if no expression mentions it.
                        if self.board[other.index()].is_none() && begun[other.index()].is_none() {
                            match self.begin(other) {
                                Step::LookUp(query) => {
                                    let step = Waiting::LookUp(query);
                                    begun[other.index()] = Some(Begun { step, begun: started });
                                }
                                Step::Done(verdict, why) => {
                                    self.note(other, verdict, why, None, started);
                                }
                                Step::With(_) => {}
                            }
                        }
                        self.settle(predicate, &begun);
                    }
                }
                continue;
            }
            return self.look_up(sources, options, &begun).await;
        }
    }

    /// Only look-ups are left: all that matter run at once; each is dropped as soon as it no longer can
    /// change the outcome.
    async fn look_up(
        &mut self,
        sources: &dyn Sources,
        options: Options,
        begun: &[Option<Begun>; Predicate::ALL.len()],
    ) -> bool {
        let mut running: Vec<(Predicate, Looking<'_>)> = Vec::new();
        let late = tokio::time::sleep_until(options.deadline.into());
        tokio::pin!(late);
        loop {
            let open = match survey(self.expressions, &self.board) {
                Ok(holds) => return holds,
                Err(open) => open,
            };
            // A directory's copy that withdraws what `openpgp` was by opens what that had settled.
            if let Some(predicate) = open.iter().find(|p| begun[p.index()].is_none())
                && let Step::Done(verdict, why) = self.begin(predicate)
            {
                self.note(predicate, verdict, why, None, Instant::now());
                continue;
            }
            // What an open predicate waits for is as open.
            let needed = |owner: Predicate| {
                open.iter().any(|p| {
                    let step = begun[p.index()].as_ref().map(|begun| &begun.step);
                    p == owner || matches!(step, Some(Waiting::With(other)) if *other == owner)
                })
            };
            running.retain(|(predicate, _)| needed(*predicate));
            let starting = ORDER.into_iter().filter_map(|predicate| {
                let Some(Begun { step: Waiting::LookUp(query), .. }) = &begun[predicate.index()]
                else {
                    return None;
                };
                let is_running = running.iter().any(|(other, _)| *other == predicate);
                let starts =
                    self.board[predicate.index()].is_none() && needed(predicate) && !is_running;
                starts.then_some((predicate, query))
            });
            let (anew, starting): (Vec<(Predicate, &Query)>, Vec<_>) =
                starting.partition(|(predicate, _)| self.doubt(*predicate).is_some());
            if !starting.is_empty() {
                let queries: Vec<&Query> = starting.iter().map(|(_, query)| *query).collect();
                sources.announce(&queries, options);
            }
            for (predicate, query) in starting {
                running.push((predicate, sources.look_up(query, options)));
            }
            for (predicate, query) in anew {
                let options = Options { caches: Caches::Ignore, ..options };
                running.push((predicate, sources.look_up(query, options)));
            }
            let next = poll_fn(|context| {
                for (n, (predicate, looking)) in running.iter_mut().enumerate() {
                    if let Poll::Ready(found) = looking.as_mut().poll(context) {
                        return Poll::Ready(Some((n, *predicate, found)));
                    }
                }
                if late.as_mut().poll(context).is_ready() || running.is_empty() {
                    return Poll::Ready(None);
                }
                Poll::Pending
            });
            if let Some((n, predicate, found)) = next.await {
                drop(running.swap_remove(n));
                self.conclude(predicate, found, begun);
            } else {
                let pending: Vec<Predicate> = running.iter().map(|(p, _)| *p).collect();
                running.clear();
                for predicate in pending.into_iter().chain(open.iter()) {
                    if self.board[predicate.index()].is_none() {
                        let why = Why::Fixed("there was no answer in time");
                        let since = begun[predicate.index()].as_ref().map(|begun| begun.begun);
                        let since = since.unwrap_or_else(Instant::now);
                        self.note(predicate, Verdict::Failed, why, None, since);
                    }
                }
            }
        }
    }

    /// A look-up has ended.
    fn conclude(
        &mut self,
        predicate: Predicate,
        mut found: Found,
        begun: &[Option<Begun>; Predicate::ALL.len()],
    ) {
        let (verdict, why) = match &found.outcome {
            Outcome::Present(answer) => self.judge(predicate, answer),
            Outcome::Absent(why) => (Verdict::Absent, Why::Text(why.clone())),
            Outcome::Failed(why) => (Verdict::Failed, Why::Text(why.clone())),
        };
        if verdict == Verdict::Failed
            && let Some(Begun { step: Waiting::LookUp(query), .. }) = &begun[predicate.index()]
            && self.may_be_better(predicate, query, &found)
        {
            // It stays open, and is looked up without the caches.
            self.doubted.push((predicate, why.text()));
            return;
        }
        if let Some(doubt) = self.doubt(predicate) {
            found.steps.insert(0, format!("what is remembered does not count: {doubt}"));
        }
        self.note(predicate, verdict, why, Some(found), Instant::now());
        let again = predicate == Predicate::Ldap && self.merged.is_some();
        if again && self.board[Predicate::OpenPgp.index()].is_some() {
            // It was answered by the certificate as shown; the directory knows more of it.
            self.answered.retain(|answered| answered.predicate != Predicate::OpenPgp);
            let (verdict, why) = openpgp::certified(self);
            self.note(Predicate::OpenPgp, verdict, why, None, Instant::now());
        }
        for waiting in Predicate::ALL {
            if self.board[waiting.index()].is_none() {
                self.settle(waiting, begun);
            }
        }
    }

    /// Whether to ask the source itself, once, because what is remembered of it failed: revocation lists and OCSP
    /// responses are remembered before anybody verifies them.
    fn may_be_better(&self, predicate: Predicate, query: &Query, found: &Found) -> bool {
        let mut asked = self.asked_anew.borrow_mut();
        let may = matches!(predicate, Predicate::Crl | Predicate::Ocsp)
            && matches!(found.outcome, Outcome::Present(_))
            && found.origin != Origin::Live
            && !asked.contains(query);
        if may {
            asked.push(query.clone());
        }
        may
    }

    /// Why what is remembered for a predicate does not count, if it was found not to.
    fn doubt(&self, predicate: Predicate) -> Option<&str> {
        let doubted = self.doubted.iter().find(|(doubted, _)| *doubted == predicate);
        doubted.map(|(_, why)| why.as_str())
    }

    /// Answers a predicate that waits for another, if that has its answer.
    fn settle(&mut self, predicate: Predicate, begun: &[Option<Begun>; Predicate::ALL.len()]) {
        let Some(Begun { step: Waiting::With(other), begun }) = &begun[predicate.index()] else {
            return;
        };
        let Some(verdict) = self.board[other.index()] else { return };
        let (verdict, why) = self.follow(predicate, *other, verdict);
        self.note(predicate, verdict, why, None, *begun);
    }

    fn note(
        &mut self,
        predicate: Predicate,
        verdict: Verdict,
        why: Why,
        found: Option<Found>,
        since: Instant,
    ) {
        self.board[predicate.index()] = Some(verdict);
        let elapsed = match &found {
            Some(found) => found.elapsed,
            None if self.inquiry.trace => since.elapsed(),
            None => std::time::Duration::ZERO,
        };
        self.answered.push(Answered { predicate, why, found, elapsed });
    }

    /// Whether the directory is still to be asked, for the policy's own sake.
    pub(crate) fn will_ask_directory(&self) -> bool {
        matches!(self.ldap(), Step::LookUp(_))
            && survey(self.expressions, &self.board).is_err_and(|open| open.has(Predicate::Ldap))
    }

    /// Why a predicate came to what it did.
    pub(crate) fn why(&self, predicate: Predicate) -> Option<&Why> {
        self.answered.iter().find(|answered| answered.predicate == predicate).map(|a| &a.why)
    }

    /// Whether a predicate is known to be true.
    pub(crate) fn is_true(&self, predicate: Predicate) -> bool {
        self.board[predicate.index()] == Some(Verdict::True)
    }

    /// The peer's side is the server's.
    pub(crate) fn we_are_client(&self) -> bool {
        self.inquiry.peer == Peer::Server
    }
}

impl Answered {
    /// For a trace.
    pub(crate) fn asked(&self, board: &[Option<Verdict>]) -> Asked {
        let verdict = board[self.predicate.index()].unwrap_or(Verdict::Failed);
        Asked {
            predicate: self.predicate.as_str(),
            truth: verdict.into(),
            why: self.why.text(),
            origin: self.found.as_ref().map(|found| found.origin),
            elapsed: self.elapsed,
            steps: self.found.as_ref().map_or_else(Vec::new, |found| found.steps.clone()),
        }
    }
}
