//! Keys that want their PIN for each signature, as the signature key of a PIV card does.

use std::sync::Arc;

use tlspool_keys::pin::NoPins;
use tlspool_keys::{KeyError, KeyInfo, KeyStore, KeyStoreConfig, SignScheme};

use crate::common::{
    Home, PIN, SOFTHSM, Script, check_all_schemes, config, isolated, mock, store, uri,
};

const SCHEME: SignScheme = SignScheme::EcdsaP256Sha256;
const NAME: &str = "pkcs11:token=one;object=k";

/// Makes such a key, on a token of its own.
pub(crate) fn guarded_key(home: &Home) {
    use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
    use cryptoki::mechanism::Mechanism;
    use cryptoki::object::Attribute;
    home.token("one");
    let pkcs11 = Pkcs11::new(SOFTHSM).unwrap();
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = pkcs11.get_slots_with_initialized_token().unwrap()[0];
    let session = pkcs11.open_rw_session(slot).unwrap();
    let pin = cryptoki::types::AuthPin::from(PIN);
    session.login(cryptoki::session::UserType::User, Some(&pin)).unwrap();
    let name = [Attribute::Token(true), Attribute::Label(b"k".to_vec()), Attribute::Id(vec![1])];
    let p256 = vec![6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let public = [&name[..], &[Attribute::Verify(true), Attribute::EcParams(p256)]].concat();
    let guarded = [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Sign(true),
        Attribute::AlwaysAuthenticate(true),
    ];
    let private = [&name[..], &guarded].concat();
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
    drop(session);
    pkcs11.finalize().unwrap();
}

fn sign(keys: &KeyStore, key: &KeyInfo) -> Result<(), KeyError> {
    keys.sign(&key.id, SCHEME, b"message").map(drop)
}

/// The key by a URI with a PIN file.
fn from_file(home: &Home, pin: &str) -> tlspool_keys::KeyUri {
    let pin = home.write("pin", pin);
    uri(&format!("{NAME}?pin-source=file:{}", pin.display()))
}

isolated! {
    fn a_key_that_wants_its_pin_each_time_gets_it(home) {
        guarded_key(home);
        // A PIN that a person gave once; and one from a file.
        let script = Script::new(&[PIN]);
        let keys = store(mock(), &script);
        let key = keys.open(&uri(NAME)).unwrap();
        for _ in 0..3 {
            check_all_schemes(&keys, &key);
        }
        assert_eq!(script.asked.lock().len(), 1, "asked once");
        assert!(home.count("logins") >= 4, "but logged in for each signature");
        let keys = store(mock(), &Script::new(&[]));
        let key = keys.open(&from_file(home, PIN)).unwrap();
        check_all_schemes(&keys, &key);
    }
}

isolated! {
    fn a_pin_that_has_become_wrong_costs_one_try_however_many_sign(home) {
        guarded_key(home);
        home.card(PIN, 8, 8, "");
        let script = Script::new(&[PIN]);
        let config = KeyStoreConfig { sessions_per_token: 8, ..config(mock()) };
        let keys = KeyStore::new(config, script.clone());
        let key = keys.open(&uri(NAME)).unwrap();
        sign(&keys, &key).unwrap();
        // Somebody changes it with another tool. So slow a card sees them all at once, if it may.
        home.card("4321", 8, 8, "");
        home.control("login_ms 50");
        let all_at_once = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    all_at_once.wait();
                    let locked = sign(&keys, &key);
                    assert!(matches!(locked, Err(KeyError::Locked(_))), "{locked:?}");
                });
            }
        });
        assert_eq!(home.tries_left(), 7, "one of them has tried it");
    }
}

isolated! {
    fn a_wrong_pin_in_a_file_costs_one_try_too(home) {
        guarded_key(home);
        home.card(PIN, 8, 8, "");
        let keys = KeyStore::new(config(mock()), Arc::new(NoPins));
        let name = from_file(home, PIN);
        let key = keys.open(&name).unwrap();
        sign(&keys, &key).unwrap();
        for wrong in ["9999", "12"] {
            let left = home.tries_left();
            from_file(home, wrong);
            for _ in 0..3 {
                let refused = sign(&keys, &key);
                assert!(matches!(refused, Err(KeyError::PinWrong(_))), "{refused:?}");
            }
            assert_eq!(home.tries_left(), left - 1, "{wrong}");
        }
        from_file(home, PIN);
        sign(&keys, &key).unwrap();
        assert_eq!(home.tries_left(), 8);
    }
}

isolated! {
    fn its_last_try_is_a_persons(home) {
        guarded_key(home);
        home.card(PIN, 3, 3, "");
        let script = Script::new(&[PIN, PIN]);
        let keys = store(mock(), &script);
        let key = keys.open(&uri(NAME)).unwrap();
        // Others have used up the rest.
        home.card(PIN, 1, 3, "");
        sign(&keys, &key).unwrap();
        let asked = script.asked.lock();
        assert!(asked.len() == 2 && asked[1].final_try, "{asked:?}");
        drop(asked);
        sign(&keys, &key).unwrap();
        assert_eq!(script.asked.lock().len(), 2, "that PIN is good again");
    }
}

isolated! {
    fn a_person_is_asked_if_there_is_no_pin_at_hand(home) {
        guarded_key(home);
        home.card(PIN, 3, 3, "");
        // Another row has unlocked the token with a file; this one names none.
        let script = Script::new(&["12", "12", PIN]);
        let keys = store(mock(), &script);
        keys.open(&from_file(home, PIN)).unwrap();
        let key = keys.open(&uri(NAME)).unwrap();
        let logins = home.count("logins");
        sign(&keys, &key).unwrap();
        assert_eq!(script.asked.lock().len(), 3);
        // "12" once; the right one to log in again, and for the signature.
        assert_eq!(home.count("logins"), logins + 3, "a wrong one is not tried again");
        sign(&keys, &key).unwrap();
        assert_eq!(script.asked.lock().len(), 3, "it is remembered");
    }
}

isolated! {
    fn a_person_is_asked_for_a_pin_that_was_changed(home) {
        guarded_key(home);
        home.card(PIN, 3, 3, "");
        let script = Script::new(&[PIN, "4321"]);
        let keys = store(mock(), &script);
        let key = keys.open(&uri(NAME)).unwrap();
        sign(&keys, &key).unwrap();
        home.card("4321", 3, 3, "");
        for _ in 0..3 {
            sign(&keys, &key).unwrap();
        }
        assert_eq!(script.asked.lock().len(), 2, "asked again, once");
        assert_eq!(home.tries_left(), 3);
    }
}
