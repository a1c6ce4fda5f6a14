//! Key URIs: what stands in the database, on the command line and on the key channel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tlspool_keys::KeyUri;

fuzz_target!(|text: &str| {
    match KeyUri::parse(text) {
        Ok(uri) => {
            let canonical = uri.to_string();
            // Escaping makes it longer, and what is too long is refused.
            if canonical.len() <= tlspool_keys::uri::MAX_URI {
                assert_eq!(KeyUri::parse(&canonical).as_ref(), Ok(&uri), "{canonical}");
                assert_eq!(KeyUri::parse(&canonical).map(|u| u.to_string()), Ok(canonical));
            }
        }
        Err(error) => drop(error.to_string()),
    }
});
