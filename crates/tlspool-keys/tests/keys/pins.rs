//! PINs: from files, from people, wrong ones.

use std::sync::Arc;

use tlspool_keys::pin::{NoPins, PinMemory};
use tlspool_keys::{KeyAlgorithm, KeyError, KeyStore, KeyStoreConfig, SignScheme};

use crate::common::{PIN, SOFTHSM, Script, check_all_schemes, config, isolated, mock, store, uri};

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
        assert_eq!(format!("{:?}", PinMemory::restore(again())), "PinMemory(..)");
    }
}

isolated! {
    fn a_key_that_wants_its_pin_each_time_gets_it(home) {
        use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
        use cryptoki::mechanism::Mechanism;
        use cryptoki::object::Attribute;
        home.token("one");
        {
            let pkcs11 = Pkcs11::new(SOFTHSM).unwrap();
            pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
            let slot = pkcs11.get_slots_with_initialized_token().unwrap()[0];
            let session = pkcs11.open_rw_session(slot).unwrap();
            let pin = cryptoki::types::AuthPin::from(PIN);
            session.login(cryptoki::session::UserType::User, Some(&pin)).unwrap();
            let name = [Attribute::Token(true), Attribute::Label(b"k".to_vec()), Attribute::Id(vec![1])];
            let p256 = vec![6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
            let public = [&name[..], &[Attribute::Verify(true), Attribute::EcParams(p256)]].concat();
            let guarded = [Attribute::Private(true), Attribute::Sensitive(true),
                Attribute::Sign(true), Attribute::AlwaysAuthenticate(true)];
            let private = [&name[..], &guarded].concat();
            session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
            drop(session);
            pkcs11.finalize().unwrap();
        }
        // A PIN that a person gave once; and one from a file.
        let script = Script::new(&[PIN]);
        let keys = store(mock(), &script);
        let key = keys.open(&uri("pkcs11:token=one;object=k")).unwrap();
        for _ in 0..3 {
            check_all_schemes(&keys, &key);
        }
        assert_eq!(script.asked.lock().len(), 1, "asked once");
        assert!(home.count("logins") >= 4, "but logged in for each signature");
        let pin = home.write("pin", PIN);
        let keys = store(mock(), &Script::new(&[]));
        let from_file = format!("pkcs11:token=one;object=k?pin-source=file:{}", pin.display());
        let key = keys.open(&uri(&from_file)).unwrap();
        check_all_schemes(&keys, &key);
    }
}
