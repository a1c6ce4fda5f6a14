//! Cutting a row of certificates apart.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_identity::der::split_chain;

fuzz_target!(|data: &[u8]| {
    if let Ok(chain) = split_chain(data) {
        assert!(!chain.is_empty());
        assert!(chain.iter().all(|one| one.len() >= 2 && one[0] == 0x30));
        assert_eq!(chain.concat(), data);
    }
});
