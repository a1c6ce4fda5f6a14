//! Policy expressions, in words and in the older postfix form.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_validate::policy::{Expression, MAX_LENGTH};

fuzz_target!(|text: &str| {
    for result in [Expression::parse(text), Expression::import(text)] {
        match result {
            Ok(expression) => {
                let canonical = expression.to_string();
                assert!(canonical.len() <= MAX_LENGTH);
                assert_eq!(Expression::parse(&canonical).as_ref(), Ok(&expression), "{canonical}");
            }
            Err(error) => {
                assert!(error.at <= text.len());
                drop((error.to_string(), error.pointed(text)));
            }
        }
    }
});
