use super::Effect::{Allow, Deny};
use super::*;
use crate::Mode;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("a.db"), Mode::ReadWrite).unwrap();
    (folder, store)
}

fn row(effect: Effect, remote: &str) -> AuthorizationRow {
    AuthorizationRow {
        id: 0,
        effect,
        remote: Peers::parse(remote).unwrap(),
        local: None,
        service: None,
        roles: Roles::Both,
        position: DEFAULT_POSITION,
        comment: String::new(),
    }
}

fn selector(text: &str) -> Selector {
    Selector::parse(text).unwrap()
}

/// The number of the rule that decides.
fn decides(store: &Store, remote: &str, local: &str, service: &str, role: Role) -> Option<i64> {
    let name = |text: &str| (!text.is_empty()).then(|| DoNai::parse(text).unwrap());
    let (remote, local) = (name(remote), name(local));
    let rows = store.authorizations_for(remote.as_ref(), local.as_ref(), service, role).unwrap();
    rows.first().map(|row| row.id)
}

#[test]
fn the_most_concrete_rule_decides() {
    let (_folder, store) = store();
    assert!(!store.has_authorizations().unwrap());
    let add = |row: AuthorizationRow| store.add_authorization(&row).unwrap();
    let anyone = add(row(Deny, "*"));
    let nameless = add(row(Allow, ""));
    let users = add(row(Deny, "@example.com"));
    let john = add(row(Allow, "john@example.com"));
    let imap =
        add(AuthorizationRow { service: Some("imap".to_owned()), ..row(Deny, "john@example.com") });
    let mail = add(AuthorizationRow {
        local: Some(selector("mail.example.net")),
        ..row(Allow, "john@example.com")
    });
    let client = add(AuthorizationRow { roles: Roles::Client, ..row(Deny, "@example.com") });
    assert!(store.has_authorizations().unwrap());
    let server = Role::Server;
    for (remote, ours, service, role, expected) in [
        ("", "", "", server, nameless),
        ("example.com", "", "", server, anyone),
        ("jane@example.com", "", "", server, users),
        ("jane@example.com", "www.example.net", "imap", server, users),
        ("jane@example.com", "", "", Role::Client, client),
        ("john@example.com", "", "", server, john),
        ("john@example.com", "www.example.net", "http", server, john),
        ("john@example.com", "www.example.net", "imap", server, imap),
        // Our name comes before the service.
        ("john@example.com", "mail.example.net", "imap", server, mail),
        ("john@cs.example.com", "", "", server, anyone),
    ] {
        let found = decides(&store, remote, ours, service, role);
        assert_eq!(found, Some(expected), "{remote} {ours} {service} {role}");
    }
    // A lower position comes before everything.
    let first = add(AuthorizationRow { position: 1, ..row(Deny, ".") });
    assert_eq!(decides(&store, "example.com", "", "", server), Some(first));
    let john_first =
        add(AuthorizationRow { position: 1, service: Some("http".to_owned()), ..row(Deny, "@.") });
    assert_eq!(decides(&store, "john@example.com", "", "http", server), Some(john_first));
    store.remove_authorization(john).unwrap();
    assert_eq!(store.authorization(john).unwrap(), None);
    assert!(matches!(store.remove_authorization(john), Err(StoreError::NotFound { .. })));
    assert_eq!(store.authorizations().unwrap().len(), 8);
}

#[test]
fn silence_is_no_rule() {
    let (_folder, store) = store();
    store.add_authorization(&row(Effect::Allow, "@example.com")).unwrap();
    let only_local = AuthorizationRow { local: Some(selector("@.")), ..row(Effect::Deny, "*") };
    store.add_authorization(&only_local).unwrap();
    for remote in ["", "example.com", "john@example.org"] {
        assert_eq!(decides(&store, remote, "", "", Role::Server), None, "{remote}");
        assert_eq!(decides(&store, remote, "example.net", "", Role::Server), None, "{remote}");
        assert!(decides(&store, remote, "a@example.net", "", Role::Server).is_some(), "{remote}");
    }
}

#[test]
fn no_two_rules_contradict_each_other() {
    let (_folder, store) = store();
    let rule = row(Effect::Allow, "john@example.com");
    let id = store.add_authorization(&rule).unwrap();
    let again = AuthorizationRow { effect: Effect::Deny, position: 5, ..rule.clone() };
    let again = store.add_authorization(&again);
    assert!(matches!(again, Err(StoreError::Exists { .. })), "{again:?}");
    let read = store.authorization(id).unwrap().unwrap();
    assert_eq!(read, AuthorizationRow { id, ..rule });
}

#[test]
fn comments_are_short_and_on_one_line() {
    let (_folder, store) = store();
    for comment in ["x".repeat(MAX_COMMENT + 1), "two\nlines".to_owned()] {
        let long = AuthorizationRow { comment, ..row(Effect::Allow, ".") };
        assert!(matches!(store.add_authorization(&long), Err(StoreError::Refused(_))));
    }
    let comment = "asked for by Ann, 5/26".to_owned();
    let id = store.add_authorization(&AuthorizationRow { comment, ..row(Effect::Allow, ".") });
    let read = store.authorization(id.unwrap()).unwrap().unwrap();
    assert_eq!(read.comment, "asked for by Ann, 5/26");
}

#[test]
fn users_with_odd_letters_are_found() {
    let (_folder, store) = store();
    for user in ["o'neil@example.com", "back\\slash@example.com", "größe@example.com", "*@a.b"] {
        let id = store.add_authorization(&row(Effect::Allow, user)).unwrap();
        assert_eq!(decides(&store, user, "", "", Role::Server), Some(id), "{user}");
    }
}

#[test]
fn a_broken_row_is_an_error_not_silence() {
    let (_folder, store) = store();
    let insert = "INSERT INTO authorization (effect, remote, local) VALUES ('allow', '*', '..')";
    store.connection.execute(insert, []).unwrap();
    let broken = store.authorizations();
    assert!(matches!(broken, Err(StoreError::BadRow { table: "authorization", .. })), "{broken:?}");
}

#[test]
fn many_rules_cost_what_few_cost() {
    let (_folder, mut store) = store();
    store
        .transaction::<_, StoreError>(|store| {
            for n in 0..2000 {
                let rule = AuthorizationRow {
                    local: Some(selector(&format!("host{n}.example.net"))),
                    ..row(Effect::Allow, "*")
                };
                store.add_authorization(&rule)?;
                store.add_authorization(&row(Effect::Deny, &format!("user{n}@example.com")))?;
            }
            Ok(())
        })
        .unwrap();
    let plan = "EXPLAIN QUERY PLAN SELECT id FROM authorization \
                WHERE remote IN (SELECT value FROM json_each('[\"a\"]')) \
                AND local IN (SELECT value FROM json_each('[\"b\"]')) AND service IN ('', 'x')";
    let mut statement = store.connection.prepare(plan).unwrap();
    let plan: Vec<String> =
        statement.query_map([], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
    let plan = plan.join("; ");
    assert!(plan.contains("authorization_remote (remote=? AND local=?"), "{plan}");
    drop(statement);
    let found = decides(&store, "user7@example.com", "host9.example.net", "", Role::Server);
    let row = store.authorization(found.unwrap()).unwrap().unwrap();
    assert_eq!(row.remote.as_str(), "user7@example.com");
}
