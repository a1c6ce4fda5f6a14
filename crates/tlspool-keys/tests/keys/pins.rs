//! PINs: from files, from people, wrong ones.

use std::sync::Arc;

use tlspool_keys::pin::{NoPins, PinMemory};
use tlspool_keys::{KeyAlgorithm, KeyError, KeyStore, KeyStoreConfig, SignScheme};

use crate::common::{PIN, Script, config, isolated, mock, store, uri};

isolated! {
    fn a_pin_source_file_opens_the_token_and_a_wrong_one_is_tried_once(home) {
        home.token("one");
        let file = home.write("pin", "1234\n");
        let keys = KeyStore::new(config(mock()), Arc::new(NoPins));
        let name = uri(&format!("pkcs11:token=one;object=k?pin-source=file:{}", file.display()));
        let key = keys.generate(&name, KeyAlgorithm::P256).unwrap();
        assert!(key.uri.contains("pin-source=file:"), "{}", key.uri);
        drop(keys);

        let keys = KeyStore::new(config(mock()), Arc::new(NoPins));
        home.write("pin", "9999\n");
        let logins = home.count("logins");
        for _ in 0..3 {
            let refused = keys.open(&name);
            assert!(matches!(refused, Err(KeyError::PinWrong(_))), "{refused:?}");
        }
        assert_eq!(home.count("logins"), logins + 1, "the refused PIN is not tried again");
        home.write("pin", PIN);
        assert_eq!(keys.open(&name).unwrap().spki_der, key.spki_der);
        home.write("pin", "");
        drop(keys);
        let keys = KeyStore::new(config(mock()), Arc::new(NoPins));
        assert!(keys.open(&name).unwrap_err().to_string().contains("first line"));
    }
}

isolated! {
    fn a_person_is_asked_again_after_a_wrong_pin(home) {
        home.token("one");
        let script = Script::new(&["0000", "1111", PIN]);
        let keys = store(mock(), &script);
        keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256).unwrap();
        let asked = script.asked.lock();
        assert_eq!(asked.iter().map(|request| request.attempt).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(asked[0].token.label, "one");
        assert!(!asked[0].count_low && asked[1].count_low, "the token says that a PIN was wrong");
    }
}

isolated! {
    fn a_wrong_pin_typed_again_does_not_cost_the_token_a_try(home) {
        home.token("one");
        let keys = store(mock(), &Script::new(&[PIN]));
        keys.generate(&uri("pkcs11:token=one;object=other"), KeyAlgorithm::P256).unwrap();
        drop(keys);
        let usual = home.count("logins");
        let script = Script::new(&["0000", "1111", "0000", PIN]);
        let keys = KeyStore::new(KeyStoreConfig { pin_prompts: 4, ..config(mock()) }, script.clone());
        keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256).unwrap();
        assert_eq!(home.count("logins"), 2 * usual + 2, "each wrong PIN once");
        let attempts = script.asked.lock().iter().map(|request| request.attempt).collect::<Vec<_>>();
        assert_eq!(attempts, [1, 2, 3, 4]);
    }
}

isolated! {
    fn a_person_is_asked_as_often_as_configured(home) {
        home.token("one");
        let script = Script::new(&["0000", "1111", PIN]);
        let keys = KeyStore::new(KeyStoreConfig { pin_prompts: 2, ..config(mock()) }, script.clone());
        let made = keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256);
        assert!(matches!(made, Err(KeyError::Locked(_))), "{made:?}");
        assert_eq!(script.asked.lock().len(), 2);
    }
}

isolated! {
    fn nobody_to_ask_means_locked(home) {
        home.token("one");
        let keys = KeyStore::new(config(mock()), Arc::new(NoPins));
        let made = keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256);
        assert!(matches!(made, Err(KeyError::Locked(_))), "{made:?}");
        assert_eq!(home.count("logins"), 0);
    }
}

isolated! {
    fn a_pin_and_a_refusal_survive_in_the_memory_file(home) {
        use rustix::fs::{MemfdFlags, memfd_create};
        home.token("one");
        let name = uri("pkcs11:token=one;object=k");
        let memory = memfd_create("pins", MemfdFlags::CLOEXEC).unwrap();
        let again = || Some(memory.try_clone().unwrap());
        let keys = KeyStore::with_memory(config(mock()), Script::new(&[PIN]), again());
        keys.generate(&name, KeyAlgorithm::P256).unwrap();
        drop(keys);
        let keys = KeyStore::with_memory(config(mock()), Arc::new(NoPins), again());
        let key = keys.open(&name).unwrap();
        keys.sign(&key.id, SignScheme::EcdsaP256Sha256, b"m").unwrap();
        assert_eq!(format!("{:?}", PinMemory::restore(again(), true)), "PinMemory(..)");
    }
}

isolated! {
    fn a_refusal_outlives_a_process_that_is_to_forget_pins(home) {
        use rustix::fs::{MemfdFlags, memfd_create};
        home.token("one");
        let keys = store(mock(), &Script::new(&[PIN]));
        keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256).unwrap();
        drop(keys);
        let file = home.write("pin", "9999");
        let name = uri(&format!("pkcs11:token=one;object=k?pin-source=file:{}", file.display()));
        let memory = memfd_create("pins", MemfdFlags::CLOEXEC).unwrap();
        let config = KeyStoreConfig { remember_pins: false, ..config(mock()) };
        let logins = home.count("logins");
        for _ in 0..3 {
            let again = Some(memory.try_clone().unwrap());
            let keys = KeyStore::with_memory(config.clone(), Arc::new(NoPins), again);
            let refused = keys.open(&name);
            assert!(matches!(refused, Err(KeyError::PinWrong(_))), "{refused:?}");
        }
        assert_eq!(home.count("logins"), logins + 1);
    }
}

isolated! {
    fn the_last_try_is_a_persons_also_after_a_pin_from_memory(home) {
        use rustix::fs::{MemfdFlags, memfd_create};
        home.token("one");
        let memory = memfd_create("pins", MemfdFlags::CLOEXEC).unwrap();
        let again = || Some(memory.try_clone().unwrap());
        let keys = KeyStore::with_memory(config(mock()), Script::new(&[PIN]), again());
        keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256).unwrap();
        drop(keys);
        // Somebody has changed the PIN, and tried once in vain. Neither PIN at hand is right.
        home.card("4321", 2, 3, "");
        let file = home.write("pin", "1111");
        let name = uri(&format!("pkcs11:token=one;object=k?pin-source=file:{}", file.display()));
        let script = Script::new(&["4321"]);
        let keys = KeyStore::with_memory(config(mock()), script.clone(), again());
        keys.open(&name).unwrap();
        let asked = script.asked.lock();
        assert!(matches!(asked.as_slice(), [request] if request.final_try), "{asked:?}");
        assert_eq!(home.tries_left(), 3);
    }
}

isolated! {
    fn who_does_not_know_which_pin_was_wrong_does_not_try_that_of_a_file(home) {
        home.token("one");
        let keys = store(mock(), &Script::new(&[PIN]));
        keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256).unwrap();
        drop(keys);
        home.card(PIN, 5, 5, "");
        let file = home.write("pin", "9999");
        let name = uri(&format!("pkcs11:token=one;object=k?pin-source=file:{}", file.display()));
        let keys = || KeyStore::new(config(mock()), Arc::new(NoPins));
        let refused = keys().open(&name);
        assert!(matches!(refused, Err(KeyError::PinWrong(_))), "{refused:?}");
        // Another process, which has not seen that.
        for _ in 0..3 {
            let locked = keys().open(&name);
            assert!(matches!(locked, Err(KeyError::Locked(_))), "{locked:?}");
        }
        assert_eq!(home.tries_left(), 4, "tried once");
        // A person clears it up, and with the right PIN in the file nobody is needed any more.
        let script = Script::new(&[PIN]);
        KeyStore::new(config(mock()), script.clone()).open(&name).unwrap();
        assert_eq!(script.asked.lock().len(), 1);
        home.write("pin", PIN);
        let keys = keys();
        let key = keys.open(&name).unwrap();
        // Also if another tool is given a wrong one: ours was good.
        home.card(PIN, 4, 5, "");
        home.control("logout_at 1");
        keys.sign(&key.id, SignScheme::EcdsaP256Sha256, b"m").unwrap();
    }
}
