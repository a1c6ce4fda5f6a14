//! Any TLSA records against any chain.
//!
//! Input: switches, the number of records, each with usage, selector, matching and a piece; then
//! certificates with their lengths in front, where 65535 stands for the sound leaf and 65534 for its
//! root. Data with the same lengths stands for the digest of what they name.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use libfuzzer_sys::fuzz_target;
use tlspool_fuzz::{Input, LEAF, ROOT};
use tlspool_identity::DoNai;
use tlspool_validate::dane::{Usage, Verdict, check};
use tlspool_validate::sources::Tlsa;
use tlspool_validate::{
    CertificateDer, Legacy, Peer, PkixValidator, Question, SystemAnchors, TableAnchor,
    TrustAnchors, UnixTime,
};

static PKIX: LazyLock<PkixValidator> = LazyLock::new(|| {
    let row = TableAnchor { service: None, certificate: ROOT };
    let loaded = TrustAnchors::load(&SystemAnchors::default(), [row]).expect("nothing is read");
    PkixValidator::new(Arc::new(loaded.anchors), Legacy::Accept)
});

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let switches = input.byte();
    let mut records = Vec::new();
    for _ in 0..input.byte() % 8 {
        let (usage, selector, matching) = (input.byte(), input.byte(), input.byte());
        let length = input.short();
        let data = match length {
            0xffff => digest(&SHA256, LEAF).as_ref().to_vec(),
            0xfffe => digest(&SHA256, ROOT).as_ref().to_vec(),
            0xfffd => LEAF.to_vec(),
            0xfffc => ROOT.to_vec(),
            length => input.take(length.into()).to_vec(),
        };
        records.push(Tlsa { usage, selector, matching, data });
    }
    let reference = String::from_utf8_lossy(input.piece()).into_owned();
    let mut chain = Vec::new();
    while !input.0.is_empty() && chain.len() < 8 {
        let der = match input.short() {
            0xffff => LEAF,
            0xfffe => ROOT,
            length => input.take(length.into()),
        };
        chain.push(CertificateDer::from(der));
    }
    let wanted = DoNai::parse(if switches & 16 == 0 { "example.com" } else { "john@example.com" });
    let wanted = wanted.expect("a name");
    let question = Question {
        chain: &chain,
        peer: if switches & 1 == 0 { Peer::Server } else { Peer::Client },
        wanted: (switches & 2 != 0).then_some(&wanted),
        domain_represents_user: switches & 4 != 0,
        service: "",
        now: UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)),
    };
    let pkix = (switches & 8 == 0).then(|| &*PKIX);
    let verdict = check(&question, &records, &[reference], pkix);
    drop(verdict.to_string());
    if let Verdict::Match(matched) = verdict {
        let record = &records[matched.record];
        assert_eq!(record.usage, matched.usage as u8);
        assert_eq!(matched.name.is_none(), matched.usage == Usage::DaneEe);
        match matched.usage {
            // Only the leaf that the authority issued has a path to it; itself it is trusted as it is.
            Usage::PkixTa => assert_eq!(chain[0].as_ref(), LEAF),
            Usage::PkixEe => assert!([LEAF, ROOT].contains(&chain[0].as_ref())),
            // An authority of the input's own cannot have signed the leaf, nor the input itself: nobody
            // makes signatures here.
            Usage::DaneTa => assert_eq!(chain[0].as_ref(), LEAF),
            Usage::DaneEe if record.selector == 0 && record.matching == 0 => {
                assert_eq!(chain[0].as_ref(), record.data);
            }
            Usage::DaneEe => assert!(record.selector < 2 && record.matching < 3),
        }
    }
});
