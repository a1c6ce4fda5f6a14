//! Tokens with a keypad of their own, at which a person types the PIN.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tlspool_keys::{KeyAlgorithm, KeyError, KeyStore, KeyStoreConfig};

use crate::common::{Home, PIN, Script, config, isolated, mock, store, uri};

const NAME: &str = "pkcs11:token=one;object=k";

fn key_at_keypad(home: &Home) {
    home.token("one");
    let keys = store(mock(), &Script::new(&[PIN]));
    keys.generate(&uri(NAME), KeyAlgorithm::P256).unwrap();
}

isolated! {
    fn who_errs_once_is_asked_again(home) {
        key_at_keypad(home);
        home.card(PIN, 5, 5, "9999,1234");
        let script = Script::new(&[]);
        let keys = store(mock(), &script);
        let logins = home.count("logins");
        keys.open(&uri(NAME)).unwrap();
        assert_eq!(home.count("logins"), logins + 2);
        assert!(script.asked.lock().is_empty(), "nobody else");
    }
}

isolated! {
    fn as_often_as_configured_and_not_for_the_last_try_in_one_go(home) {
        key_at_keypad(home);
        home.card(PIN, 5, 5, "9999");
        let config = KeyStoreConfig { pin_prompts: 2, ..config(mock()) };
        let keys = KeyStore::new(config, Script::new(&[]));
        for left in [3, 1] {
            let refused = keys.open(&uri(NAME));
            assert!(matches!(refused, Err(KeyError::PinWrong(_))), "{refused:?}");
            assert_eq!(home.tries_left(), left);
        }
        home.card(PIN, 2, 5, "9999");
        keys.open(&uri(NAME)).unwrap_err();
        assert_eq!(home.tries_left(), 1);
        home.card(PIN, 5, 5, "cancel");
        let logins = home.count("logins");
        keys.open(&uri(NAME)).unwrap_err();
        assert_eq!(home.count("logins"), logins + 1, "a person who does not want to is not asked again");
    }
}

isolated! {
    fn a_person_who_fails_does_so_for_all_who_wait(home) {
        key_at_keypad(home);
        home.card(PIN, 5, 5, "cancel");
        let keys = store(mock(), &Script::new(&[]));
        let logins = home.count("logins");
        home.control("wait_login");
        let threads = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    threads.lock().unwrap().push(rustix::thread::gettid());
                    let failed = keys.open(&uri(NAME));
                    assert!(matches!(failed, Err(KeyError::ModuleFailed(_))), "{failed:?}");
                });
            }
            let sleeps = |thread: &rustix::thread::Pid| {
                let stat = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
                let stat = std::fs::read_to_string(stat).unwrap();
                stat.rsplit_once(") ").unwrap().1.starts_with('S')
            };
            let limit = Instant::now() + Duration::from_mins(1);
            let all_wait = || {
                let threads = threads.lock().unwrap();
                threads.len() == 4 && home.count("logins") > logins && threads.iter().all(sleeps)
            };
            while !all_wait() && Instant::now() < limit {
                std::thread::yield_now();
            }
            home.control("");
            assert!(Instant::now() < limit, "they do not get to wait");
        });
        assert_eq!(home.count("logins"), logins + 1, "asked once for all");
    }
}
