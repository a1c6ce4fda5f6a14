//! Who may use what.

use super::*;
use crate::{CertificateSource, Kind, Mode, NewIdentity, Roles};

struct Fixture {
    store: Store,
    _folder: tempfile::TempDir,
}

fn fixture(names: &[&str]) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("a.db"), Mode::ReadWrite).unwrap();
    for text in names {
        add(&store, text, false);
    }
    Fixture { store, _folder: folder }
}

fn add(store: &Store, text: &str, is_default: bool) {
    let new = NewIdentity {
        name: &name(text),
        roles: Roles::Server,
        kind: Kind::X509,
        certificate: CertificateSource::Uri("file:/cert".to_owned()),
        key_uri: "file:/key",
        preference: 100,
        is_default,
    };
    store.add_identity(&new).unwrap();
}

fn name(text: &str) -> DoNai {
    DoNai::parse(text).unwrap()
}

fn allow(store: &Store, selector: &str, subject: Subject, program: Option<&str>) -> i64 {
    let rule = AccessRule {
        id: 0,
        selector: Selector::parse(selector).unwrap(),
        subject,
        program: program.map(str::to_owned),
    };
    store.add_access_rule(&rule).unwrap()
}

/// A uid that is neither root nor whoever runs the tests.
fn stranger(store: &Store) -> u32 {
    store.owner() + 4711
}

#[test]
fn without_rules_only_root_and_the_owner() {
    let f = fixture(&["a.example"]);
    let may = |uid| {
        let caller = Caller { uid, gids: &[0, 1], program: None };
        f.store.candidates(&caller, &name("a.example"), Role::Server).is_ok()
    };
    assert!(may(0));
    assert!(may(f.store.owner()));
    assert!(!may(stranger(&f.store)));
}

#[test]
fn the_most_concrete_selector_with_rules_decides() {
    let f = fixture(&["john@a.example", "mary@a.example"]);
    let uid = stranger(&f.store);
    let caller = Caller { uid, gids: &[100], program: None };
    allow(&f.store, "@.", Subject::Group(100), None);
    assert!(f.store.check_access(&caller, &name("john@a.example")).is_ok());
    let id = allow(&f.store, "john@a.example", Subject::User(uid + 1), None);
    let denied = f.store.check_access(&caller, &name("john@a.example")).unwrap_err();
    assert_eq!(
        denied.to_string(),
        format!(
            "uid {uid} may not use john@a.example; \
             permit: tlspool access add john@a.example --user {uid}"
        )
    );
    assert!(f.store.check_access(&caller, &name("mary@a.example")).is_ok());
    f.store.remove_access_rule(id).unwrap();
    assert!(f.store.check_access(&caller, &name("john@a.example")).is_ok());
    // `@.` is about users, not about domains.
    assert!(f.store.check_access(&caller, &name("a.example")).is_err());
}

#[test]
fn programs_must_be_known_to_match() {
    let f = fixture(&["a.example"]);
    let uid = stranger(&f.store);
    allow(&f.store, "a.example", Subject::Anyone, Some("/usr/bin/curl"));
    for (program, may) in [(None, false), (Some("/usr/bin/curl"), true), (Some("/bin/sh"), false)] {
        let caller = Caller { uid, gids: &[], program: program.map(Path::new) };
        assert_eq!(f.store.check_access(&caller, &name("a.example")).is_ok(), may, "{program:?}");
    }
    let relative = AccessRule {
        id: 0,
        selector: Selector::parse(".").unwrap(),
        subject: Subject::Anyone,
        program: Some("curl".to_owned()),
    };
    assert!(matches!(f.store.add_access_rule(&relative), Err(StoreError::Refused(_))));
}

#[test]
fn the_only_one_or_the_default() {
    let f = fixture(&["a.example", "b.example"]);
    let uid = stranger(&f.store);
    let caller = Caller { uid, gids: &[], program: None };
    let only = || f.store.only_candidates(&caller, Role::Server);
    assert!(matches!(only(), Err(AccessError::None { .. })));
    allow(&f.store, "b.example", Subject::User(uid), None);
    assert_eq!(only().unwrap()[0].name, name("b.example"));
    allow(&f.store, ".", Subject::User(uid), None);
    assert!(matches!(only(), Err(AccessError::Several { .. })));
    add(&f.store, "c.example", true);
    assert_eq!(only().unwrap()[0].name, name("c.example"));
    let clients = f.store.only_candidates(&caller, Role::Client);
    assert!(matches!(clients, Err(AccessError::None { .. })));
}

#[test]
fn the_names_that_somebody_may_use() {
    let f = fixture(&["a.example", "b.example", "c.example"]);
    let uid = stranger(&f.store);
    let caller = Caller { uid, gids: &[], program: None };
    let usable = |role, limit| f.store.usable_names(&caller, role, limit).unwrap();
    assert!(usable(Role::Server, 10).is_empty());
    allow(&f.store, "c.example", Subject::User(uid), None);
    allow(&f.store, "a.example", Subject::Anyone, None);
    assert_eq!(usable(Role::Server, 10), [name("a.example"), name("c.example")]);
    assert_eq!(usable(Role::Server, 1), [name("a.example")]);
    assert!(usable(Role::Client, 10).is_empty());
}

#[test]
fn unknown_names_and_roles() {
    let f = fixture(&["a.example"]);
    let root = Caller { uid: 0, gids: &[], program: None };
    for (text, role) in [("b.example", Role::Server), ("a.example", Role::Client)] {
        let result = f.store.candidates(&root, &name(text), role);
        assert!(matches!(result, Err(AccessError::Unknown { .. })), "{text}");
    }
}
