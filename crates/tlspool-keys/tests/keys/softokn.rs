//! A second module: NSS softokn, which takes its settings as the argument of C_Initialize.

use std::path::PathBuf;

use tlspool_keys::{KeyAlgorithm, KeyStore, KeyStoreConfig, ModuleConfig};

use crate::common::{SOFTHSM, Script, check_all_schemes, isolated, uri};

const PIN: &str = "nss-pin-1234";

fn softokn() -> PathBuf {
    let folders =
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let names = ["nss/libsoftokn3.so", "libsoftokn3.so"];
    let paths =
        folders.iter().flat_map(|dir| names.iter().map(move |name| PathBuf::from(dir).join(name)));
    paths.into_iter().find(|path| path.exists()).expect("NSS softokn (package libnss3)")
}

isolated! {
    fn softokn_and_softhsm_serve_side_by_side(home) {
        home.token("one");
        std::fs::create_dir(home.file("nss")).unwrap();
        let database = format!("sql:{}", home.file("nss").display());
        let pin_file = home.write("nss-pin", PIN);
        home.run("certutil", &["-N", "-d", &database, "-f", pin_file.to_str().unwrap()]);
        let args = format!("configdir='{database}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=");
        let config = KeyStoreConfig {
            modules: vec![
                ModuleConfig { path: SOFTHSM.into(), args: None },
                ModuleConfig { path: softokn(), args: Some(args) },
            ],
            ..KeyStoreConfig::default()
        };
        let keys = KeyStore::new(config, Script::new(&[crate::common::PIN]));
        let labels: Vec<_> = keys.tokens().into_iter().map(|token| token.name.label).collect();
        assert!(labels.iter().any(|label| label == "NSS Certificate DB"), "{labels:?}");
        for algorithm in ["p256", "p384", "rsa-2048"] {
            let algorithm: KeyAlgorithm = algorithm.parse().unwrap();
            let name = format!(
                "pkcs11:token=NSS%20Certificate%20DB;object=k-{algorithm}?pin-source=file:{}",
                pin_file.display()
            );
            let key = keys.generate(&uri(&name), algorithm).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(key.algorithm, algorithm);
            check_all_schemes(&keys, &key);
        }
        let soft = keys.generate(&uri("pkcs11:token=one;object=k"), KeyAlgorithm::P256).unwrap();
        check_all_schemes(&keys, &soft);
    }
}
