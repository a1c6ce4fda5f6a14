//! Which rows decide, and what is remembered.

use super::*;
use crate::Mode;

struct Fixture {
    store: Store,
    _folder: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path().join("a.db"), Mode::ReadWrite).unwrap();
    Fixture { store, _folder: folder }
}

fn name(text: &str) -> DoNai {
    DoNai::parse(text).unwrap()
}

fn row(remote: &str, user: Option<u32>, local: &str) -> DisclosureRow {
    let local = (!local.is_empty()).then(|| name(local));
    DisclosureRow { id: 0, remote: Selector::parse(remote).unwrap(), user, local }
}

impl Fixture {
    fn add(&self, remote: &str, user: Option<u32>, local: &str) -> i64 {
        self.store.add_disclosure(&row(remote, user, local), Place::Last).unwrap()
    }

    /// The step and the names.
    fn found(&self, remote: &str, uid: u32) -> Option<(usize, Vec<String>)> {
        let found = self.store.disclosed(&name(remote), uid).unwrap()?;
        let text = |row: DisclosureRow| row.local.map_or("-".to_owned(), |name| name.to_string());
        Some((found.step, found.rows.into_iter().map(text).collect()))
    }

    fn remember(&mut self, remote: &str, local: &str, place: Place, reorder: bool) {
        let remote = Selector::parse(remote).unwrap();
        let local = (!local.is_empty()).then(|| name(local));
        self.store.remember_disclosure(&remote, 1000, local.as_ref(), place, reorder).unwrap();
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn the_most_concrete_selector_decides_and_a_users_rows_before_everyones() {
    let f = fixture();
    assert!(!f.store.has_disclosures().unwrap());
    assert_eq!(f.found("example.com", 1000), None);
    f.add(".", None, "any@a.example");
    f.add(".example.com", None, "below@a.example");
    f.add("www.example.com", None, "www@a.example");
    f.add("www.example.com", None, "second@a.example");
    f.add("www.example.com", Some(1000), "own@a.example");
    f.add("quiet.example.com", None, "");
    assert!(f.store.has_disclosures().unwrap());
    for (remote, uid, step, found) in [
        ("www.example.com", 1000, 0, &["own@a.example"][..]),
        ("www.example.com", 1001, 0, &["www@a.example", "second@a.example"]),
        ("ftp.example.com", 1000, 1, &["below@a.example"]),
        ("example.com", 1000, 2, &["any@a.example"]),
        ("quiet.example.com", 1000, 0, &["-"]),
    ] {
        assert_eq!(f.found(remote, uid), Some((step, names(found))), "{remote} {uid}");
    }
    // A pattern without a user matches no user.
    assert_eq!(f.found("mary@www.example.com", 1000), None);
    f.add("@.com", Some(7), "u@a.example");
    assert_eq!(f.found("mary@www.example.com", 1000), None);
    // mary@www., @www., mary@.example.com, @.example.com, mary@.com, @.com
    assert_eq!(f.found("mary@www.example.com", 7), Some((5, names(&["u@a.example"]))));
}

#[test]
fn rows_are_added_in_order_and_removed() {
    let f = fixture();
    let second = f.add("example.com", None, "b@a.example");
    let first = row("example.com", None, "a@a.example");
    let id = f.store.add_disclosure(&first, Place::First).unwrap();
    f.add("example.com", None, "c@a.example");
    let all = names(&["a@a.example", "b@a.example", "c@a.example"]);
    assert_eq!(f.found("example.com", 0).unwrap().1, all);
    let again = f.store.add_disclosure(&first, Place::Last).unwrap_err();
    assert!(again.to_string().starts_with("that example.com may be shown a@a.example is in"));
    assert_eq!(f.store.disclosure(id).unwrap().unwrap(), DisclosureRow { id, ..first });
    f.store.remove_disclosure(second).unwrap();
    assert!(matches!(f.store.remove_disclosure(second), Err(StoreError::NotFound { .. })));
    assert_eq!(f.store.disclosures().unwrap().len(), 2);
    for n in 0..MAX_DISCLOSED - 2 {
        f.add("example.com", None, &format!("n{n}@a.example"));
    }
    let more = f.store.add_disclosure(&row("example.com", None, "x@a.example"), Place::Last);
    assert!(matches!(more, Err(StoreError::Refused(_))), "{more:?}");
}

#[test]
fn a_choice_is_remembered_once_and_moved_only_if_told_to() {
    let mut f = fixture();
    let list = |f: &Fixture| f.found("example.com", 1000).unwrap().1;
    f.remember("example.com", "a@a.example", Place::Last, false);
    f.remember("example.com", "b@a.example", Place::First, false);
    assert_eq!(list(&f), names(&["b@a.example", "a@a.example"]));
    f.remember("example.com", "a@a.example", Place::First, false);
    assert_eq!(list(&f), names(&["b@a.example", "a@a.example"]));
    f.remember("example.com", "a@a.example", Place::First, true);
    assert_eq!(list(&f), names(&["a@a.example", "b@a.example"]));
    f.remember("example.com", "a@a.example", Place::Last, true);
    assert_eq!(list(&f), names(&["b@a.example", "a@a.example"]));
    f.remember(".com", "", Place::Last, false);
    assert_eq!(f.found("other.com", 1000), Some((1, names(&["-"]))));
    // It is that user's alone.
    assert_eq!(f.found("example.com", 1001), None);
}

#[test]
fn what_a_user_has_remembered_is_bounded() {
    let mut f = fixture();
    f.store
        .transaction(|store| {
            for n in 0..MAX_REMEMBERED {
                let row = row(&format!("n{n}.example"), Some(1000), "a@a.example");
                store.add_disclosure(&row, Place::Last)?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
    let remote = Selector::parse("one.more.example").unwrap();
    let more = f.store.remember_disclosure(&remote, 1000, None, Place::Last, false);
    assert!(matches!(more, Err(StoreError::Refused(_))), "{more:?}");
    f.store.remember_disclosure(&remote, 1001, None, Place::Last, false).unwrap();
}
