//! The protection of records: any fragment, opened with any number, type and version; and what was sealed,
//! altered.
//!
//! Input: switches, number, type, version, then the fragment.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tls12::crypto::{Aead, RecordKey};

fuzz_target!(|data: &[u8]| {
    let Some((head, rest)) = data.split_first_chunk::<12>() else { return };
    let [switches, s1, s2, s3, s4, s5, s6, s7, s8, kind, major, minor] = *head;
    let seq = u64::from_be_bytes([s1, s2, s3, s4, s5, s6, s7, s8]);
    let aead =
        [Aead::Aes128Gcm, Aead::Aes256Gcm, Aead::ChaCha20Poly1305][usize::from(switches) % 3];
    let key = RecordKey::new(aead, &[7; 32][..aead.key_len()], &[8; 12][..aead.fixed_iv_len()]);
    let key = key.expect("the lengths are right");
    let version = [major, minor];
    // Nobody who lacks the key finds a fragment that opens.
    assert!(key.open_in_place(seq, kind, version, &mut rest.to_vec()).is_err());
    // What was sealed opens, and altered it does not.
    let mut sealed = vec![0; aead.explicit_nonce_len()];
    sealed.extend_from_slice(rest);
    sealed.resize(rest.len() + aead.overhead(), 0);
    key.seal_in_place(seq, kind, version, &mut sealed).expect("it has room");
    let mut altered = sealed.clone();
    let at = usize::from(switches) * 31 % altered.len();
    altered[at] ^= 1 << (switches % 8);
    assert!(key.open_in_place(seq, kind, version, &mut altered).is_err());
    assert!(key.open_in_place(seq ^ 1, kind, version, &mut sealed.clone()).is_err());
    let plain = key.open_in_place(seq, kind, version, &mut sealed).expect("it is as it was");
    assert_eq!(sealed[plain], *rest);
});
