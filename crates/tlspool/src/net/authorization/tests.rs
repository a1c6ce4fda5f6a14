use std::collections::HashMap;

use tlspool_store::{Mode, Peers};
use tlspool_validate::sources::{Found, Looking, Origin};
use tlspool_validate::{Side, Tables};

use super::*;
use crate::config::{AbsolutePath, AuthorizingProgram, Radius};
use crate::net::identities::write;
use crate::net::policies::WorkerTables;

/// Authorizers that say this, and how often each was asked.
#[derive(Default)]
struct Fake {
    says: HashMap<Authorizer, Outcome>,
    asked: RefCell<Vec<Authorizer>>,
}

impl Sources for Fake {
    fn look_up<'a>(&'a self, query: &'a Query, _options: Options) -> Looking<'a> {
        let Query::Authorize { authorizer, remote, service, .. } = query else { unreachable!() };
        assert_eq!((remote.as_str(), service.as_str()), ("john@example.org", "imap"));
        self.asked.borrow_mut().push(*authorizer);
        let outcome = self.says[authorizer].clone();
        let (elapsed, steps) = (Duration::ZERO, Vec::new());
        Box::pin(
            async move { Found { outcome, origin: Origin::Live, elapsed, lasts: None, steps } },
        )
    }
}

fn says(opinion: Opinion) -> Outcome {
    let (by, why) = ("them".to_owned(), "because".to_owned());
    Outcome::Present(Answer::Authorization { opinion, by, why })
}

fn silent() -> Outcome {
    Outcome::Absent("no opinion".to_owned())
}

struct Bench {
    folder: tempfile::TempDir,
    settings: Authorization,
    fake: Fake,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, settings: Authorization::default(), fake: Fake::default() }
    }

    fn with(program: Option<Outcome>, radius: Option<Outcome>) -> Self {
        let mut bench = Self::new();
        let path = |text: &str| AbsolutePath::new(text).unwrap();
        if let Some(outcome) = program {
            bench.settings.program = Some(AuthorizingProgram::at(path("/program.sock")));
            bench.fake.says.insert(Authorizer::Program, outcome);
        }
        if let Some(outcome) = radius {
            bench.settings.radius = Some(Radius::with(Vec::new(), path("/secret")));
            bench.fake.says.insert(Authorizer::Radius, outcome);
        }
        bench
    }

    fn rule(&self, effect: Effect, remote: &str) {
        let store = Store::open(self.folder.path().join("a.db"), Mode::ReadWrite).unwrap();
        let row = AuthorizationRow {
            id: 0,
            effect,
            remote: Peers::parse(remote).unwrap(),
            local: None,
            service: None,
            roles: Roles::Both,
            position: 100,
            comment: String::new(),
        };
        store.add_authorization(&row).unwrap();
    }

    fn decide(&self) -> Decision {
        self.decide_by(&RefCell::new(Identities::new(self.folder.path().join("a.db"))))
    }

    fn decide_by(&self, tables: &RefCell<Identities>) -> Decision {
        let meeting = Meeting {
            role: Role::Server,
            remote: Some(DoNai::parse("john@example.org").unwrap()),
            local: None,
            service: "imap".into(),
        };
        let deadline = Instant::now() + Duration::from_secs(9);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let decision = decide(&self.settings, tables, &self.fake, &meeting, deadline);
        runtime.block_on(decision)
    }

    /// What each said, and what came of it.
    fn told(&self) -> (Vec<Says>, bool) {
        let decision = self.decide();
        (decision.steps.iter().map(|step| step.says).collect(), decision.allowed)
    }
}

use Says::{Allow, Deny, Failed, Silent, Unreachable};

#[test]
fn without_anybody_the_default_holds() {
    let mut bench = Bench::new();
    assert_eq!(bench.told(), (vec![Allow], true));
    bench.settings.default = Ruling::Deny;
    assert_eq!(bench.told(), (vec![Deny], false));
    bench.rule(Effect::Allow, "jane@example.org");
    assert_eq!(bench.told(), (vec![Silent, Deny], false));
    bench.rule(Effect::Allow, "john@example.org");
    assert_eq!(bench.told(), (vec![Allow], true));
}

#[test]
fn rules_do_not_vanish_with_their_file() {
    let bench = Bench::new();
    let [path, aside, copy] = ["a.db", "aside.db", "copy.db"].map(|n| bench.folder.path().join(n));
    let tables = RefCell::new(Identities::new(path.clone()));
    let until = |expected: (&[Says], bool)| {
        let end = Instant::now() + Duration::from_secs(9);
        loop {
            let decision = bench.decide_by(&tables);
            let told: Vec<Says> = decision.steps.iter().map(|step| step.says).collect();
            if (told.as_slice(), decision.allowed) == expected {
                return;
            }
            assert!(Instant::now() < end, "{decision}");
            std::thread::yield_now();
        }
    };
    // As a fresh user has it: none yet, and then one that somebody makes.
    until((&[Allow], true));
    bench.rule(Effect::Deny, "@example.org");
    until((&[Deny], false));
    std::fs::rename(&path, &aside).unwrap();
    until((&[Failed], false));
    let name = DoNai::parse("example.org").unwrap();
    let policies = WorkerTables(&tables);
    assert!(policies.policy(Side::Remote, &name, "").is_err() && policies.pins(&name).is_err());
    // Nor is it made anew by who wants to remember something.
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let written = runtime.block_on(write(&tables, |_| Ok(())));
    assert!(written.is_err_and(|error| error.contains("gone")) && !path.exists());
    std::fs::rename(&aside, &path).unwrap();
    until((&[Deny], false));
    // Another in its place counts at once.
    Store::open(&copy, Mode::ReadWrite).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    until((&[Allow], true));
}

#[test]
fn a_denial_ends_the_asking() {
    let bench = Bench::with(Some(says(Opinion::Allow)), Some(says(Opinion::Allow)));
    bench.rule(Effect::Deny, "@example.org");
    assert_eq!(bench.told(), (vec![Deny], false));
    assert!(bench.fake.asked.borrow().is_empty());
    let bench = Bench::with(Some(says(Opinion::Deny)), Some(says(Opinion::Allow)));
    bench.rule(Effect::Allow, "@example.org");
    assert_eq!(bench.told(), (vec![Allow, Deny], false));
    assert_eq!(*bench.fake.asked.borrow(), [Authorizer::Program]);
}

#[test]
fn all_are_asked_and_none_may_deny() {
    for (program, radius, rule, expected) in [
        (says(Opinion::Allow), says(Opinion::Allow), None, (vec![Allow, Allow], true)),
        (says(Opinion::Allow), says(Opinion::Deny), None, (vec![Allow, Deny], false)),
        (silent(), says(Opinion::Deny), Some(Effect::Allow), (vec![Allow, Silent, Deny], false)),
        (silent(), says(Opinion::Allow), None, (vec![Silent, Allow], true)),
        (silent(), silent(), Some(Effect::Allow), (vec![Allow, Silent, Silent], true)),
        (silent(), silent(), None, (vec![Silent, Silent, Deny], false)),
    ] {
        let mut bench = Bench::with(Some(program), Some(radius));
        bench.settings.default = Ruling::Deny;
        if let Some(effect) = rule {
            bench.rule(effect, ".");
            bench.rule(effect, "@.");
        }
        assert_eq!(bench.told(), expected);
    }
}

#[test]
fn rules_may_be_enough() {
    let mut bench = Bench::with(Some(says(Opinion::Deny)), None);
    bench.settings.ask = Ask::Undecided;
    bench.rule(Effect::Allow, "jane@example.org");
    assert_eq!(bench.told(), (vec![Silent, Deny], false));
    bench.rule(Effect::Allow, "@example.org");
    assert_eq!(bench.told(), (vec![Allow], true));
}

#[test]
fn unreachable_denies_unless_that_is_set() {
    let mut bench = Bench::with(Some(says(Opinion::Unreachable)), None);
    assert_eq!(bench.told(), (vec![Failed], false));
    let refusal = bench.decide().steps[0].to_string();
    assert_eq!(refusal, "them: unreachable: because");
    bench.settings.unreachable = Ruling::Allow;
    bench.settings.default = Ruling::Deny;
    assert_eq!(bench.told(), (vec![Unreachable], true));
    // It denies nobody, but others do.
    let mut bench = Bench::with(Some(says(Opinion::Unreachable)), Some(says(Opinion::Deny)));
    bench.settings.unreachable = Ruling::Allow;
    assert_eq!(bench.told(), (vec![Unreachable, Deny], false));
}

#[test]
fn what_cannot_be_understood_denies_whatever_is_set() {
    let another = Outcome::Present(Answer::Crl(Vec::new()));
    for outcome in [Outcome::Failed("garbage".to_owned()), another] {
        let mut bench = Bench::with(Some(outcome), None);
        bench.settings.unreachable = Ruling::Allow;
        bench.rule(Effect::Allow, "@.");
        assert_eq!(bench.told(), (vec![Allow, Failed], false));
    }
    // As does a table that cannot be read.
    let bench = Bench::new();
    std::fs::write(bench.folder.path().join("a.db"), "no database ".repeat(99)).unwrap();
    assert_eq!(bench.told(), (vec![Failed], false));
}
