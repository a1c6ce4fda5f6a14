//! Names out of a certificate that a peer sent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_identity::x509::{self, Legacy};
use tlspool_identity::{DoNai, matches};

fuzz_target!(|der: &[u8]| {
    let wanted = DoNai::parse("john@example.com").expect("a name");
    for legacy in [Legacy::Refuse, Legacy::Accept] {
        let Ok(names) = x509::names(der, legacy) else { continue };
        for name in names.identities() {
            // A wildcard is never reported, and a name is what it looks like.
            assert!(!name.domain().contains('*'));
            assert_eq!(DoNai::parse_strict(name.as_str()).as_ref(), Ok(name));
        }
        for ignored in &names.ignored {
            assert!(!ignored.text.contains(char::is_control));
        }
        for domain in [false, true] {
            if let Some(found) = matches(&wanted, &names, domain) {
                assert!(found.identity == wanted || domain);
            }
        }
    }
});
