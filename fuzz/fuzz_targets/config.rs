//! The text of a configuration file: every error must be explained, none may panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tlspoold::config::Config;

fuzz_target!(|text: &str| {
    match Config::parse(text, Path::new("/etc/tlspool/tlspool.toml")) {
        Ok(config) => {
            // The supervisor hands it to the other processes as JSON.
            let json = serde_json::to_vec(&config).expect("a configuration can be written");
            let again: Config = serde_json::from_slice(&json).expect("and read");
            assert_eq!(again, config);
        }
        Err(error) => drop(error.to_string()),
    }
});
