//! Sessions that expire, tokens that vanish and return.

use tlspool_keys::{KeyAlgorithm, KeyError, SignScheme};

use crate::common::{PIN, Script, check_all_schemes, isolated, mock, store, uri};

const SCHEME: SignScheme = SignScheme::EcdsaP256Sha256;

isolated! {
    fn lost_sessions_and_logins_heal_without_asking_anybody(home) {
        home.token("one");
        let script = Script::new(&[PIN]);
        let keys = store(mock(), &script);
        let key = keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256).unwrap();
        let mut signed = 0;
        for what in ["remove_at", "expire_at", "logout_at"] {
            check_all_schemes(&keys, &key);
            signed += 1;
            home.control(&format!("{what} {}", signed + 1));
            check_all_schemes(&keys, &key);
            signed += 2; // the one that failed, and its repetition
            home.control("");
        }
        assert_eq!(script.asked.lock().len(), 1, "the PIN is asked once");
    }
}

isolated! {
    fn a_token_that_vanishes_and_returns_works_again(home) {
        home.token("one");
        let keys = store(mock(), &Script::new(&[PIN]));
        let name = uri("pkcs11:token=one;object=k");
        let key = keys.generate(&name, KeyAlgorithm::P256).unwrap();
        check_all_schemes(&keys, &key);
        home.control("absent");
        for _ in 0..3 {
            let absent = keys.sign(&key.id, SCHEME, b"m");
            assert!(matches!(absent, Err(KeyError::TokenAbsent(_))), "{absent:?}");
            assert!(matches!(keys.open(&name), Err(KeyError::TokenAbsent(_))));
        }
        home.control("");
        check_all_schemes(&keys, &key);
        assert_eq!(keys.open(&name).unwrap().spki_der, key.spki_der);
        home.control("removed");
        let removed = keys.sign(&key.id, SCHEME, b"m");
        assert!(matches!(removed, Err(KeyError::TokenAbsent(_))), "{removed:?}");
        home.control("");
        check_all_schemes(&keys, &key);
    }
}

isolated! {
    fn a_new_token_is_seen_while_another_is_in_use(home) {
        home.token("one");
        let script = Script::new(&[PIN, PIN]);
        let keys = store(mock(), &script);
        let key = keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256).unwrap();
        check_all_schemes(&keys, &key);
        home.token("two");
        let other = keys.generate(&uri("pkcs11:token=two;object=k"), KeyAlgorithm::P256).unwrap();
        check_all_schemes(&keys, &other);
        // The first one was disturbed, which nobody needs to know.
        check_all_schemes(&keys, &key);
        assert_eq!(script.asked.lock().len(), 2, "one PIN for each token");
        // A token that is not there does not disturb it each time.
        let logins = home.count("logins");
        for _ in 0..5 {
            let absent = keys.open(&uri("pkcs11:token=three;object=k"));
            assert!(matches!(absent, Err(KeyError::TokenAbsent(_))), "{absent:?}");
            check_all_schemes(&keys, &key);
        }
        assert!(home.count("logins") <= logins + 1);
    }
}
