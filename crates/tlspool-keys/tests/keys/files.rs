//! Keys and certificates in files.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tlspool_keys::pin::NoPins;
use tlspool_keys::{KeyAlgorithm, KeyError, KeyStore, KeyStoreConfig, SignScheme};

use crate::common::{check_all_schemes, uri, verifies};

fn store() -> KeyStore {
    KeyStore::new(KeyStoreConfig::default(), Arc::new(NoPins))
}

fn openssl(args: &[&str]) {
    let output = Command::new("openssl").args(args).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {output:?}");
}

fn ec_key(path: &Path) {
    let path = path.to_str().unwrap();
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path]);
}

#[test]
fn every_form_of_key_signs() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let store = store();
    let check = |name: &str, algorithm| {
        let key = store.open(&uri(&format!("file:{}", at(name)))).unwrap();
        assert_eq!(key.algorithm, algorithm, "{name}");
        check_all_schemes(&store, &key);
    };

    ec_key(&dir.path().join("p256.pem"));
    check("p256.pem", KeyAlgorithm::P256);
    // What many people have: parameters in front of the key in SEC1.
    openssl(&["ecparam", "-name", "secp384r1", "-genkey", "-out", &at("sec1.pem")]);
    check("sec1.pem", KeyAlgorithm::P384);
    openssl(&["genpkey", "-algorithm", "ED25519", "-out", &at("ed.pem")]);
    check("ed.pem", KeyAlgorithm::Ed25519);
    openssl(&[
        "genpkey",
        "-algorithm",
        "RSA",
        "-pkeyopt",
        "rsa_keygen_bits:2048",
        "-out",
        &at("rsa.pem"),
    ]);
    check("rsa.pem", KeyAlgorithm::Rsa { bits: 2048 });
    openssl(&["rsa", "-in", &at("rsa.pem"), "-traditional", "-out", &at("pkcs1.pem")]);
    check("pkcs1.pem", KeyAlgorithm::Rsa { bits: 2048 });
    openssl(&[
        "pkcs8",
        "-topk8",
        "-nocrypt",
        "-in",
        &at("p256.pem"),
        "-outform",
        "DER",
        "-out",
        &at("p256.der"),
    ]);
    check("p256.der", KeyAlgorithm::P256);
}

#[test]
fn says_what_is_wrong_with_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    ec_key(&path);
    let plain = path.to_str().unwrap().to_owned();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let open = |name: &str| store().open(&uri(&format!("file:{}", at(name)))).unwrap_err();

    openssl(&["pkcs8", "-topk8", "-in", &plain, "-passout", "pass:x", "-out", &at("enc.pem")]);
    assert!(open("enc.pem").to_string().contains("encrypted"), "{}", open("enc.pem"));
    openssl(&["ec", "-in", &plain, "-aes128", "-passout", "pass:x", "-out", &at("old.pem")]);
    assert!(open("old.pem").to_string().contains("encrypted"), "{}", open("old.pem"));
    std::fs::write(at("text"), "no key").unwrap();
    assert!(open("text").to_string().contains("no BEGIN PRIVATE KEY"));
    openssl(&["ecparam", "-name", "secp521r1", "-genkey", "-noout", "-out", &at("p521.pem")]);
    assert!(open("p521.pem").to_string().contains("P-256 or P-384"));
    assert!(matches!(open("absent"), KeyError::NotFound(_)));
    assert!(open("").to_string().contains("not a regular file"));
}

#[test]
fn a_replaced_file_is_read_again_and_the_old_key_stays_itself() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    let name = uri(&format!("file:{}", path.display()));
    let store = store();
    ec_key(&path);
    let old = store.open(&name).unwrap();
    assert_eq!(store.open(&name).unwrap(), old);

    let new_path = dir.path().join("new.pem");
    ec_key(&new_path);
    std::fs::rename(&new_path, &path).unwrap();
    let new = store.open(&name).unwrap();
    assert_ne!(new.id, old.id);
    for key in [old, new] {
        let signature = store.sign(&key.id, SignScheme::EcdsaP256Sha256, b"m").unwrap();
        assert!(verifies(&key, SignScheme::EcdsaP256Sha256, b"m", &signature));
    }
}

#[test]
fn reads_chains_in_pem_and_single_certificates_in_der() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["a", "b"] {
        let (key, crt, subject) = (at("key"), at(name), format!("/CN={name}"));
        openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            &key,
            "-subj",
            &subject,
            "-out",
            &crt,
        ]);
    }
    let chain =
        std::fs::read_to_string(at("a")).unwrap() + &std::fs::read_to_string(at("b")).unwrap();
    std::fs::write(at("chain"), chain).unwrap();
    openssl(&["x509", "-in", &at("a"), "-outform", "DER", "-out", &at("der")]);
    let read = |name: &str| store().certificates(&uri(&format!("file:{}", at(name))));
    assert_eq!(read("chain").unwrap().len(), 2);
    assert_eq!(read("der").unwrap(), read("chain").unwrap()[..1]);
    assert!(read("key").unwrap_err().to_string().contains("no BEGIN CERTIFICATE"));
}

#[test]
fn only_files_in_the_configured_folders_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("keys");
    std::fs::create_dir(&inside).unwrap();
    ec_key(&inside.join("key.pem"));
    ec_key(&dir.path().join("key.pem"));
    let config = KeyStoreConfig { file_dirs: vec![inside.clone()], ..KeyStoreConfig::default() };
    let store = KeyStore::new(config, Arc::new(NoPins));
    assert!(store.open(&uri(&format!("file:{}/key.pem", inside.display()))).is_ok());
    for path in
        [format!("{}/key.pem", dir.path().display()), format!("{}/../key.pem", inside.display())]
    {
        let uri = uri(&format!("file:{path}"));
        for refused in [store.open(&uri).map(drop), store.certificates(&uri).map(drop)] {
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("file_dirs"), "{text}");
        }
    }
}
