//! Files that `file:` URIs name: private keys (PEM or DER) and certificates.
#![no_main]

use std::os::fd::AsRawFd;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use tlspool_keys::pin::NoPins;
use tlspool_keys::{KeyStore, KeyStoreConfig, KeyUri, SignScheme};

fuzz_target!(|data: &[u8]| {
    let file = memfd_create("key", MemfdFlags::CLOEXEC).expect("a memory file");
    rustix::io::write(&file, data).expect("room");
    let uri = KeyUri::File(format!("/proc/self/fd/{}", file.as_raw_fd()).into());
    let config = KeyStoreConfig { max_open_keys: 1, ..KeyStoreConfig::default() };
    let store = KeyStore::new(config, Arc::new(NoPins));
    if let Ok(chain) = store.certificates(&uri) {
        assert!(!chain.is_empty());
    }
    if let Ok(key) = store.open(&uri) {
        for scheme in [0x0403, 0x0503, 0x0804, 0x0807] {
            let scheme = SignScheme::from_number(scheme).expect("a scheme of TLS 1.3");
            if let Ok(signature) = store.sign(&key.id, scheme, b"message") {
                assert!(!signature.is_empty());
            }
        }
    }
});
