//! What one handshake looks up, on its way to memcached and back: one journey for all questions that are known to
//! come, begun as soon as the peer has something to answer to, so that it costs none of the time in which nothing else
//! happens.
//!
//! Only what is remembered is asked for ahead of the policy. Sources are asked when, and only if, the policy gets there,
//! for what no journey has brought. With IGNORE_CACHES, and where this process itself remembers, nobody travels.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{Shared, join_all};
use tlspool_store::Role;
use tlspool_validate::sources::{
    Caches, CredentialKind, Found, Looking, Options, Origin, Query, Recalled, Sources,
};
use tlspool_validate::{Expected, Peer};
use tlspool_wire::StarttlsFlags;
use tokio::time::timeout;

use super::host::RequestHost;
use super::lookups::Lookups;

/// Questions of one journey; further ones go by themselves.
const MOST: usize = tlspool_lookup::process::message::MAX_RECALL;
/// No longer does a handshake wait for memcached instead of computing; some round trips.
const MOMENT: Duration = Duration::from_millis(1);

/// Looks up for one handshake.
pub(crate) struct Foresight {
    lookups: Lookups,
    /// What the peer will most probably show; until a journey begins for that.
    expected: Cell<Option<CredentialKind>>,
    journeys: RefCell<Vec<Journey>>,
}

/// What a journey comes back with: an answer for each question.
type Answers = Shared<Pin<Box<dyn Future<Output = Rc<Vec<Recalled>>>>>>;

/// Questions that went together.
struct Journey {
    queries: Vec<Query>,
    begun: Instant,
    answers: Answers,
}

impl Foresight {
    /// Nothing is foreseen yet.
    pub(crate) fn new(lookups: Lookups) -> Self {
        Self { lookups, expected: Cell::default(), journeys: RefCell::default() }
    }

    /// The peer will be judged, and will most probably show a credential of this kind.
    pub(crate) fn expect(&self, kind: CredentialKind) {
        self.expected.set(Some(kind));
    }

    /// Whether it is worth while to think of questions before they are asked.
    pub(crate) fn is_useful(&self) -> bool {
        self.lookups.remember_afar()
    }

    /// These questions will be asked, some time before `deadline`.
    pub(crate) fn send(&self, mut queries: Vec<Query>, deadline: Instant) {
        queries.truncate(MOST);
        if queries.is_empty() || !self.is_useful() {
            return;
        }
        let begun = Instant::now();
        let answers = self.lookups.recalling(&queries, deadline).map(Rc::new);
        let answers: Pin<Box<dyn Future<Output = _>>> = Box::pin(answers);
        self.journeys.borrow_mut().push(Journey { queries, begun, answers: answers.shared() });
    }

    /// Waits a moment for those who are on their way.
    ///
    /// What can be computed of a credential, a path above all, costs more than it takes memcached to answer, and is not
    /// needed if what is remembered decides.
    pub(crate) async fn arrive(&self) {
        let travelling: Vec<Answers> =
            self.journeys.borrow().iter().map(|journey| journey.answers.clone()).collect();
        // Whoever takes longer is waited for when it is known that nothing else decides.
        let _ = timeout(MOMENT, join_all(travelling)).await;
    }

    /// What was foreseen has come to pass.
    pub(crate) fn forget(&self) {
        self.journeys.borrow_mut().clear();
    }
}

impl RequestHost {
    /// Sends for what is remembered of a peer that was named, once, if a credential of it is expected.
    pub(crate) fn foresee(&self) {
        let Some(kind) = self.foresight.expected.take() else { return };
        let flags = self.request.flags;
        let Some(wanted) = &self.remote else { return };
        if !self.foresight.is_useful() || flags.contains(StarttlsFlags::IGNORE_CACHES) {
            return;
        }
        let local = self.own_name();
        let expected = Expected {
            peer: if self.role == Role::Server { Peer::Client } else { Peer::Server },
            wanted,
            local: local.as_ref(),
            domain_represents_user: flags.contains(StarttlsFlags::DOMAIN_REPRESENTS_USER),
            service: self.request.service.as_str(),
            endpoint: self.endpoint,
            kind,
        };
        self.foresight.send(self.worker.foresee(&expected), self.until());
    }
}

/// One question among those of a journey.
struct Seat {
    place: usize,
    begun: Instant,
    answers: Answers,
}

/// What the journey has brought for a question.
enum Brought {
    /// What is remembered.
    Found(Found),
    /// Nothing is; what there is to say of it.
    Missed(Vec<String>),
    /// What was, counts no longer: the peer took its time.
    Stale,
}

impl Foresight {
    fn seat(&self, query: &Query) -> Option<Seat> {
        self.journeys.borrow().iter().rev().find_map(|journey| {
            let place = journey.queries.iter().position(|sent| sent == query)?;
            Some(Seat { place, begun: journey.begun, answers: journey.answers.clone() })
        })
    }
}

impl Seat {
    fn brought(&self, recalled: &[Recalled]) -> Brought {
        let Some(recalled) = recalled.get(self.place) else { return Brought::Missed(Vec::new()) };
        let Recalled { outcome, left, elapsed, steps } = recalled;
        let Some(outcome) = outcome else { return Brought::Missed(steps.clone()) };
        // It counted for so long when it was read, which was later than the journey began.
        if self.begun.elapsed() >= *left {
            return Brought::Stale;
        }
        let (outcome, steps) = (outcome.clone(), steps.clone());
        let origin = Origin::Memcached;
        Brought::Found(Found { outcome, origin, elapsed: *elapsed, lasts: None, steps })
    }
}

impl Sources for Foresight {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        let seat = if options.caches == Caches::Use { self.seat(query) } else { None };
        let Some(seat) = seat else { return self.lookups.look_up(query, options) };
        Box::pin(async move {
            let begun = Instant::now();
            let recalled = seat.answers.clone().await;
            let mut steps = match seat.brought(&recalled) {
                Brought::Found(found) => return found,
                Brought::Missed(steps) => steps,
                Brought::Stale => return self.lookups.look_up(query, options).await,
            };
            let options = Options { caches: Caches::Missed, ..options };
            let mut found = self.lookups.look_up(query, options).await;
            steps.append(&mut found.steps);
            Found { steps, elapsed: begun.elapsed(), ..found }
        })
    }

    fn at_hand(&self, query: &Query, options: Options) -> Option<Found> {
        if options.caches != Caches::Use {
            return None;
        }
        if let Some(seat) = self.seat(query) {
            let recalled = seat.answers.clone().now_or_never()?;
            return match seat.brought(&recalled) {
                Brought::Found(found) => Some(found),
                Brought::Missed(_) | Brought::Stale => None,
            };
        }
        self.lookups.at_hand(query, options)
    }

    fn announce(&self, queries: &[&Query], options: Options) {
        if options.caches != Caches::Use || !self.is_useful() {
            return;
        }
        let new = queries.iter().filter(|query| query.may_be_remembered());
        let new = new.filter(|query| self.seat(query).is_none());
        self.send(new.map(|query| (*query).clone()).collect(), options.deadline);
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use tlspool_validate::sources::Outcome;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::yield_now;

    use super::super::settings::Settings;
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_remembered_counts_for_its_time_however_long_the_peer_takes() {
        let recalled = |outcome: Option<Outcome>, seconds| {
            let (left, steps) = (Duration::from_secs(seconds), vec!["a step".to_owned()]);
            Recalled { outcome, left, elapsed: Duration::ZERO, steps }
        };
        let absent = || Some(Outcome::Absent("no".to_owned()));
        let all = [recalled(absent(), 100), recalled(absent(), 10), recalled(None, 0)];
        let begun = Instant::now().checked_sub(Duration::from_secs(50)).unwrap();
        let answers: Pin<Box<dyn Future<Output = _>>> = Box::pin(ready(Rc::new(Vec::new())));
        let answers = answers.shared();
        let seat = |place| Seat { place, begun, answers: answers.clone() };
        let Brought::Found(found) = seat(0).brought(&all) else { panic!("it counts") };
        assert_eq!((Some(found.outcome), found.origin), (absent(), Origin::Memcached));
        assert!(matches!(seat(1).brought(&all), Brought::Stale));
        assert!(matches!(seat(2).brought(&all), Brought::Missed(steps) if steps.len() == 1));
        assert!(matches!(seat(3).brought(&all), Brought::Missed(_)), "too few answers");
    }

    #[test]
    fn who_is_about_to_come_is_waited_for_and_who_does_not_come_for_a_moment_only() {
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_all().build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let settings = Settings::new(Config::default(), None).unwrap();
            let foresight = Foresight::new(Lookups::new(&settings));
            let travel = |answers: Pin<Box<dyn Future<Output = _>>>| {
                let answers = answers.shared();
                let journey = Journey { queries: Vec::new(), begun: Instant::now(), answers };
                foresight.journeys.borrow_mut().push(journey);
            };
            travel(Box::pin(async {
                yield_now().await;
                Rc::new(Vec::new())
            }));
            foresight.arrive().await;
            let first = foresight.journeys.borrow()[0].answers.clone();
            assert!(first.now_or_never().is_some(), "it is at hand");
            travel(Box::pin(std::future::pending()));
            // It ends.
            foresight.arrive().await;
        });
    }
}
