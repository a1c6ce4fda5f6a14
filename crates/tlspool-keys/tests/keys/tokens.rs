//! Keys on a SoftHSM2 token.

use tlspool_keys::uri::ObjectClass;
use tlspool_keys::{KeyAlgorithm, KeyError, KeyUri};

use crate::common::{PIN, SOFTHSM, Script, check_all_schemes, isolated, store, uri, verifies};

isolated! {
    fn every_kind_of_key_is_made_and_signs(home) {
        home.token("one");
        let script = Script::new(&[PIN]);
        let made = store(SOFTHSM, &script);
        let mut keys = Vec::new();
        for name in ["p256", "p384", "ed25519", "rsa-2048", "rsa-3072"] {
            let algorithm: KeyAlgorithm = name.parse().unwrap();
            let key = made.generate(&uri(&format!("pkcs11:token=one;object={name}")), algorithm);
            let key = key.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(key.algorithm, algorithm);
            check_all_schemes(&made, &key);
            keys.push(key);
        }
        assert_eq!(script.asked.lock().len(), 1, "one login for the token");
        drop(made);

        // A new store finds them by the URI that was told, and by less.
        let other = store(SOFTHSM, &Script::new(&[PIN]));
        for key in keys {
            assert_eq!(other.open(&uri(&key.uri)).unwrap(), key);
        }
        let by_label = other.open(&uri("pkcs11:object=p384")).unwrap();
        check_all_schemes(&other, &by_label);
    }
}

isolated! {
    fn keys_are_sensitive_and_stay_on_the_token(home) {
        home.token("one");
        let made = store(SOFTHSM, &Script::new(&[PIN]));
        made.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256).unwrap();
        let output = home
            .command("pkcs11-tool".as_ref())
            .args(["--module", SOFTHSM, "--login", "--pin", PIN, "--list-objects", "--type", "privkey"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("sensitive") && text.contains("never extractable"), "{text}");
    }
}

isolated! {
    fn the_wrong_name_gets_a_clear_error(home) {
        home.token("one");
        home.token("two");
        let keys = store(SOFTHSM, &Script::new(&[PIN, PIN]));
        let open = |text: &str| keys.open(&uri(text)).unwrap_err();
        assert!(matches!(open("pkcs11:token=three;object=k"), KeyError::TokenAbsent(_)));
        assert!(matches!(open("pkcs11:object=k"), KeyError::Ambiguous(_)));
        assert!(matches!(open("pkcs11:token=one;object=k"), KeyError::NotFound(_)));
        assert!(matches!(open("pkcs11:token=one;object=k;type=cert"), KeyError::BadUri(_)));
        let elsewhere = "pkcs11:token=one?module-path=/usr/lib/evil.so";
        let refused = open(elsewhere);
        assert!(matches!(refused, KeyError::Unsupported(_)));
        assert!(refused.to_string().contains("[[keys.module]]"), "{refused}");
        let name = uri("pkcs11:token=one;object=k");
        keys.generate(&name, KeyAlgorithm::P256).unwrap();
        let twice = keys.generate(&name, KeyAlgorithm::P256);
        assert!(matches!(twice, Err(KeyError::Ambiguous(_))));
        let sign = keys.open(&name).unwrap();
        let wrong = keys.sign(&sign.id, tlspool_keys::SignScheme::Ed25519, b"");
        assert!(matches!(wrong, Err(KeyError::Unsupported(_))));
    }
}

isolated! {
    fn certificates_are_imported_listed_and_read_as_a_chain(home) {
        home.token("one");
        let at = |name: &str| home.file(name).to_str().unwrap().to_owned();
        let der = |name: &str| {
            home.run("openssl", &["x509", "-in", &at(name), "-outform", "DER", "-out", &at("der")]);
            std::fs::read(at("der")).unwrap()
        };
        home.run("openssl", &["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", &at("ca.key"), "-subj", "/CN=ca", "-out", &at("ca")]);
        home.run("openssl", &["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", &at("leaf.key"), "-subj", "/CN=leaf", "-out", &at("csr")]);
        home.run("openssl", &["x509", "-req", "-in", &at("csr"), "-CA", &at("ca"), "-CAkey",
            &at("ca.key"), "-set_serial", "7", "-out", &at("leaf")]);
        let keys = store(SOFTHSM, &Script::new(&[PIN]));
        keys.import_certificate(&uri("pkcs11:token=one;object=ca;id=%01"), &der("ca")).unwrap();
        keys.import_certificate(&uri("pkcs11:token=one;object=leaf;id=%02"), &der("leaf")).unwrap();
        assert!(keys.import_certificate(&uri("pkcs11:token=one"), b"no").is_err());

        // A locked token shows certificates without its PIN.
        let locked = store(SOFTHSM, &Script::new(&[]));
        let chain = locked.certificates(&uri("pkcs11:token=one;id=%02;type=cert")).unwrap();
        assert_eq!(chain, [der("leaf"), der("ca")]);
        let absent = locked.certificates(&uri("pkcs11:token=one;id=%03"));
        assert!(matches!(absent, Err(KeyError::Locked(_))), "{absent:?}");

        let listed = keys.objects(&uri("pkcs11:token=one")).unwrap();
        assert_eq!(listed.len(), 2);
        assert!(listed.iter().all(|object| object.class == ObjectClass::Certificate));
        let leaf: KeyUri = listed.iter().find(|o| o.uri.object.as_deref() == Some("leaf")).unwrap()
            .uri.clone().into();
        assert_eq!(keys.destroy(&leaf).unwrap(), 1);
        assert_eq!(keys.objects(&uri("pkcs11:token=one")).unwrap().len(), 1);
    }
}

isolated! {
    fn the_public_key_may_come_from_a_certificate(home) {
        home.token("one");
        let at = |name: &str| home.file(name).to_str().unwrap().to_owned();
        home.run("openssl", &["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", &at("key"), "-subj", "/CN=x", "-outform", "DER", "-out", &at("crt")]);
        home.run("softhsm2-util", &["--import", &at("key"), "--token", "one", "--label", "k",
            "--id", "07", "--pin", PIN]);
        let keys = store(SOFTHSM, &Script::new(&[PIN]));
        let private = uri("pkcs11:token=one;id=%07;type=private");
        let before = keys.open(&private).unwrap();
        assert_eq!(keys.destroy(&uri("pkcs11:token=one;id=%07;type=public")).unwrap(), 1);
        assert!(matches!(keys.open(&private), Err(KeyError::Unsupported(_))));
        let der = std::fs::read(at("crt")).unwrap();
        keys.import_certificate(&uri("pkcs11:token=one;id=%07;object=k"), &der).unwrap();
        let after = keys.open(&private).unwrap();
        assert_eq!(after, before);
        check_all_schemes(&keys, &after);
    }
}

isolated! {
    fn modules_and_tokens_are_listed_as_uris_that_open_them(home) {
        home.token("one");
        home.token("two");
        let mut config = crate::common::config(SOFTHSM);
        config.modules.push(std::path::PathBuf::from("/usr/lib/absent.so").into());
        let script = Script::new(&[PIN]);
        let keys = tlspool_keys::KeyStore::new(config, script);
        let modules = keys.modules();
        assert_eq!(modules[0].error, None);
        assert!(modules[0].description.contains("SoftHSM") || modules[0].manufacturer.contains("SoftHSM"));
        assert!(modules[1].error.as_ref().unwrap().contains("No such file"));
        let tokens = keys.tokens();
        let two = tokens.iter().find(|token| token.name.label == "two").unwrap();
        assert!(two.initialized && two.login_required && !two.pin_locked);
        let name = format!("{};object=k?{}", two.uri, "module-path=/usr/lib/softhsm/libsofthsm2.so");
        let key = keys.generate(&uri(&name), KeyAlgorithm::P256).unwrap();
        assert!(key.uri.contains("module-path=/usr/lib/softhsm"), "{}", key.uri);
        let by_name = keys.open(&uri("pkcs11:token=two;object=k?module-name=softhsm2")).unwrap();
        assert_eq!(by_name.spki_der, key.spki_der);
    }
}

isolated! {
    fn a_token_made_after_the_module_was_loaded_is_found(home) {
        home.token("one");
        let keys = store(SOFTHSM, &Script::new(&[PIN, PIN]));
        assert_eq!(keys.tokens().iter().filter(|token| token.initialized).count(), 1);
        home.token("two");
        // The module looks again at most once a second.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let key = loop {
            match keys.generate(&uri("pkcs11:token=two;object=k"), KeyAlgorithm::P256) {
                Err(KeyError::TokenAbsent(_)) if std::time::Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                made => break made.unwrap(),
            }
        };
        check_all_schemes(&keys, &key);
    }
}

isolated! {
    fn a_key_that_was_replaced_is_not_used_under_its_old_name(home) {
        home.token("one");
        let keys = store(SOFTHSM, &Script::new(&[PIN]));
        let name = uri("pkcs11:token=one;object=k;id=%01");
        let old = keys.generate(&name, KeyAlgorithm::P256).unwrap();
        let admin = |args: &[&str]| {
            let mut all = vec!["--module", SOFTHSM, "--login", "--pin", PIN, "--token-label", "one"];
            all.extend(args);
            home.run("pkcs11-tool", &all);
        };
        admin(&["--delete-object", "--type", "privkey", "--id", "01"]);
        admin(&["--delete-object", "--type", "pubkey", "--id", "01"]);
        admin(&["--keypairgen", "--key-type", "EC:prime256v1", "--id", "01", "--label", "k"]);
        let scheme = tlspool_keys::SignScheme::EcdsaP256Sha256;
        // SoftHSM2 either still has the old object in memory, or knows that it is gone.
        match keys.sign(&old.id, scheme, b"m") {
            Ok(signature) => assert!(verifies(&old, scheme, b"m", &signature)),
            Err(error) => {
                assert!(matches!(error, KeyError::KeyChanged(_)), "{error}");
            }
        }
    }
}
