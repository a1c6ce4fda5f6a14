//! Names and selectors: from programs, from certificates, from administrators.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_identity::{DoNai, MAX_LEN, Selector};

fuzz_target!(|text: &str| {
    if let Ok(name) = DoNai::parse(text) {
        assert!(name.as_str().len() <= MAX_LEN);
        assert!(!name.as_str().contains('\0'));
        assert_eq!(DoNai::parse_strict(name.as_str()).as_ref(), Ok(&name));
        let parts = DoNai::from_parts(name.user(), name.domain());
        assert_eq!(parts.as_ref(), Ok(&name));
        for selector in name.lookup_order() {
            assert!(selector.matches(&name), "{selector} does not match {name}");
            let again = Selector::parse(selector.as_str());
            assert_eq!(again.as_ref(), Ok(&selector));
        }
        assert_eq!(Selector::from(&name).as_name().as_ref(), Some(&name));
    }
    if let Ok(selector) = Selector::parse(text) {
        let again = Selector::parse(selector.as_str());
        assert_eq!(again.as_ref(), Ok(&selector));
        if let Some(name) = selector.as_name() {
            assert!(selector.matches(&name));
        }
    }
    if let Some((user, domain)) = text.split_once('\n') {
        if let Ok(name) = DoNai::from_parts(Some(user), domain) {
            assert_eq!(DoNai::parse_strict(name.as_str()).as_ref(), Ok(&name));
        }
    }
});
