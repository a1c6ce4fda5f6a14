//! Validation of any chain, against a sound authority and against any certificate as an anchor.
//!
//! Input: switches, then certificates with their lengths in front; length 65535 stands for the
//! sound leaf.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tlspool_fuzz::{Input, LEAF, ROOT};
use tlspool_identity::DoNai;
use tlspool_validate::{
    CertificateDer, Legacy, Peer, PkixValidator, Question, SystemAnchors, TableAnchor,
    TrustAnchors, UnixTime,
};

fn validator(certificates: &[(Option<&str>, &[u8])]) -> PkixValidator {
    let rows = certificates
        .iter()
        .map(|(service, certificate)| TableAnchor { service: *service, certificate });
    let loaded = TrustAnchors::load(&SystemAnchors::default(), rows).expect("nothing is read");
    PkixValidator::new(Arc::new(loaded.anchors), Legacy::Accept)
}

static SOUND: LazyLock<PkixValidator> = LazyLock::new(|| validator(&[(None, ROOT)]));

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let switches = input.byte();
    let mut chain = Vec::new();
    while !input.0.is_empty() && chain.len() < 8 {
        let length = usize::from(input.short());
        let der = if length == 0xffff { LEAF } else { input.take(length) };
        chain.push(CertificateDer::from(der));
    }
    let wanted = DoNai::parse("john@example.com").expect("a name");
    let question = Question {
        chain: &chain,
        peer: if switches & 1 == 0 { Peer::Server } else { Peer::Client },
        wanted: (switches & 2 != 0).then_some(&wanted),
        domain_represents_user: switches & 4 != 0,
        service: if switches & 8 == 0 { "" } else { "imap" },
        now: UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)),
    };
    match SOUND.check(&question) {
        Ok(validated) => {
            // Only the leaf that the authority issued can have been accepted.
            assert_eq!(chain[0].as_ref(), LEAF);
            let domain =
                question.domain_represents_user && validated.identity == wanted.domain_name();
            assert!(question.wanted.is_none() || validated.identity == wanted || domain);
        }
        Err(refusal) => drop((refusal.to_string(), refusal.alert())),
    }
    if let Some(last) = chain.last() {
        let odd = validator(&[(None, last), (Some("imap"), last)]);
        if let Err(refusal) = odd.check(&question) {
            drop(refusal.to_string());
        }
    }
});
