use std::cell::Cell;

use tlspool_validate::sources::Answer;

use super::*;

/// Sources that count how often they are asked.
#[derive(Default)]
struct Counting {
    asked: Cell<u32>,
    outcome: Option<Outcome>,
    lasts: Option<Duration>,
}

impl Sources for Counting {
    fn look_up<'a>(&'a self, _query: &'a Query, _options: Options) -> Looking<'a> {
        self.asked.set(self.asked.get() + 1);
        let outcome =
            self.outcome.clone().unwrap_or_else(|| Outcome::Failed("nobody is there".into()));
        let steps = vec!["asked".into()];
        let (elapsed, lasts) = (Duration::ZERO, self.lasts);
        let found = Found { outcome, origin: Origin::Live, elapsed, lasts, steps };
        Box::pin(async { found })
    }
}

fn cached(outcome: Option<Outcome>, timeout: Duration) -> Cached<Counting> {
    let sources = Counting { outcome, ..Counting::default() };
    Cached::new(sources, Settings { timeout, ..Settings::default() })
}

fn options(ignore_caches: bool) -> Options {
    let caches = if ignore_caches { Caches::Ignore } else { Caches::Use };
    Options { deadline: Instant::now() + Duration::from_secs(9), caches }
}

fn query() -> Query {
    Query::Crl { url: "http://example.com/crl".into() }
}

fn present() -> Outcome {
    Outcome::Present(Answer::Crl(vec![1]))
}

#[tokio::test]
async fn nothing_is_remembered_for_longer_than_its_source_says() {
    let (five, one) = (Duration::from_mins(5), Duration::from_mins(1));
    let absent = || Outcome::Absent("gone".into());
    for (outcome, lasts, most) in [
        (present(), None, five),
        (present(), Some(one), one),
        (present(), Some(Duration::from_hours(1)), five),
        (present(), Some(Duration::ZERO), Duration::ZERO),
        (absent(), Some(Duration::from_secs(7)), Duration::from_secs(7)),
        (absent(), Some(five), one),
    ] {
        let sources = Counting { outcome: Some(outcome), lasts, ..Counting::default() };
        let cached = Cached::new(sources, Settings { timeout: five, ..Settings::default() });
        cached.look_up(&query(), options(false)).await;
        let recalled = cached.recall(&[query()], Instant::now() + five).await;
        let left = recalled[0].left;
        assert_eq!(recalled[0].outcome.is_some(), !most.is_zero());
        assert!(left <= most && most <= left + Duration::from_secs(5), "{left:?} {most:?}");
    }
}

#[tokio::test]
async fn facts_are_remembered_and_failures_are_not() {
    let five = Duration::from_mins(5);
    for (outcome, asked) in
        [(Some(present()), 1), (Some(Outcome::Absent("gone".into())), 1), (None, 3)]
    {
        let cached = cached(outcome, five);
        let first = cached.look_up(&query(), options(false)).await;
        assert_eq!((first.origin, first.steps), (Origin::Live, vec!["asked".to_owned()]));
        for _ in 0..2 {
            let again = cached.look_up(&query(), options(false)).await;
            assert_eq!(again.outcome, first.outcome);
            let origin = if asked == 1 { Origin::Memory } else { Origin::Live };
            assert_eq!(again.origin, origin);
        }
        assert_eq!(cached.sources().asked.get(), asked);
    }
    // Nothing at all.
    let cached = cached(Some(present()), Duration::ZERO);
    for _ in 0..2 {
        cached.look_up(&query(), options(false)).await;
    }
    assert_eq!(cached.sources().asked.get(), 2);
}

#[tokio::test]
async fn decisions_are_never_remembered() {
    use tlspool_validate::sources::{Authorizer, Opinion};
    let query = Query::Authorize {
        authorizer: Authorizer::Program,
        remote: "john@example.org".into(),
        local: String::new(),
        service: String::new(),
        server: true,
    };
    let (opinion, by, why) = (Opinion::Allow, String::new(), String::new());
    let allowed = Outcome::Present(Answer::Authorization { opinion, by, why });
    for outcome in [allowed, Outcome::Absent("no opinion".into())] {
        let cached = cached(Some(outcome), Duration::from_mins(5));
        for number in 1..4 {
            let found = cached.look_up(&query, options(false)).await;
            assert_eq!((found.origin, cached.sources().asked.get()), (Origin::Live, number));
        }
    }
}

#[tokio::test]
async fn ignoring_caches_reads_nothing_and_writes() {
    let cached = cached(Some(present()), Duration::from_mins(5));
    for _ in 0..2 {
        let found = cached.look_up(&query(), options(true)).await;
        assert_eq!(found.origin, Origin::Live);
        assert_eq!(found.steps[0], "what is remembered is ignored, as was asked");
    }
    let found = cached.look_up(&query(), options(false)).await;
    assert_eq!(found.origin, Origin::Memory);
    assert_eq!(cached.sources().asked.get(), 2);
}

#[tokio::test]
async fn what_is_at_hand_is_told_at_once() {
    let cached = cached(Some(present()), Duration::from_mins(5));
    assert_eq!(cached.at_hand(&query(), options(false)), None);
    let until = options(false).deadline;
    assert_eq!(cached.recall(&[query()], until).await, [Recalled::default()]);
    cached.look_up(&query(), options(false)).await;
    let found = cached.at_hand(&query(), options(false)).expect("it is remembered");
    assert_eq!((found.outcome, found.origin), (present(), Origin::Memory));
    let recalled = cached.recall(&[query()], until).await.remove(0);
    assert_eq!(recalled.outcome, Some(present()));
    assert!(recalled.left > Duration::from_mins(4));
    // Unless caches do not count.
    for caches in [Caches::Ignore, Caches::Missed] {
        let options = Options { caches, ..options(false) };
        assert_eq!(cached.at_hand(&query(), options), None);
        assert_eq!(cached.look_up(&query(), options).await.origin, Origin::Live);
    }
    assert_eq!(cached.sources().asked.get(), 3);
}

#[test]
fn absence_is_remembered_for_less() {
    let found = |outcome| {
        let (elapsed, steps) = (Duration::ZERO, Vec::new());
        Found { outcome, origin: Origin::Live, elapsed, lasts: None, steps }
    };
    let absent = found(Outcome::Absent(String::new()));
    for (timeout, shorter) in [(40, 10), (300, 60), (3600, 60)] {
        let cached = cached(None, Duration::from_secs(timeout));
        assert_eq!(cached.lifetime(&found(present())), Some(Duration::from_secs(timeout)));
        assert_eq!(cached.lifetime(&absent), Some(Duration::from_secs(shorter)));
        assert_eq!(cached.lifetime(&found(Outcome::Failed(String::new()))), None);
    }
}
