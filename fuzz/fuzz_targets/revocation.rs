//! Revocation lists and OCSP responses, fetched and stapled, about a certificate that is good.
//!
//! Input: switches (1: OCSP instead of a list, 2: stapled), then the bytes that somebody answers.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tlspool_fuzz::{Input, run};
use tlspool_identity::DoNai;
use tlspool_validate::policy::Expression;
use tlspool_validate::sources::{Answer, Found, Looking, Options, Origin, Outcome, Query, Sources};
use tlspool_validate::{
    Applicable, CertificateDer, Credential, Inquiry, Legacy, Negotiated, Peer, PolicySettings,
    PolicyValidator, Side, SystemAnchors, TableAnchor, Tables, TrustAnchors, UnixTime,
};

/// An authority, and a certificate of it that names a list and a responder.
const ROOT: &[u8] = include_bytes!("../fixtures/revoking-root.der");
const LEAF: &[u8] = include_bytes!("../fixtures/revocable-leaf.der");
/// What the authority has signed that speaks for the certificate; its key is gone.
const GOOD_LIST: &[u8] = include_bytes!("../fixtures/list-good.tbs");
const GOOD_OCSP: &[u8] = include_bytes!("../fixtures/ocsp-good.tbs");

static VALIDATOR: LazyLock<PolicyValidator> = LazyLock::new(|| {
    let row = TableAnchor { service: None, certificate: ROOT };
    let loaded = TrustAnchors::load(&SystemAnchors::default(), [row]).expect("nothing is read");
    let settings = PolicySettings { revocation: true, ..PolicySettings::default() };
    PolicyValidator::new(Arc::new(loaded.anchors), Legacy::Refuse, settings)
});

/// One policy for all.
struct Policy(Arc<Applicable>);

impl Policy {
    fn new(expression: &str) -> Self {
        let expression = Expression::parse(expression).expect("an expression");
        Self(Arc::new(Applicable { selector: ".".to_owned(), service: None, expression }))
    }
}

static LIST: LazyLock<Policy> = LazyLock::new(|| Policy::new("crl"));
static OCSP: LazyLock<Policy> = LazyLock::new(|| Policy::new("ocsp"));

impl Tables for Policy {
    fn policy(&self, _: Side, _: &DoNai, _: &str) -> Result<Option<Arc<Applicable>>, String> {
        Ok(Some(self.0.clone()))
    }

    fn pins(&self, _: &DoNai) -> Result<Vec<Vec<u8>>, String> {
        Ok(Vec::new())
    }
}

/// Somebody who answers.
struct Answering<'a>(&'a [u8]);

impl Sources for Answering<'_> {
    fn look_up<'a>(&'a self, query: &'a Query, _: Options) -> Looking<'a> {
        let bytes = self.0.to_vec();
        let outcome = Outcome::Present(match query {
            Query::Crl { .. } => Answer::Crl(bytes),
            _ => Answer::Ocsp(bytes),
        });
        let (origin, elapsed) = (Origin::Live, Duration::ZERO);
        Box::pin(async move { Found { outcome, origin, elapsed, lasts: None, steps: Vec::new() } })
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let switches = input.byte();
    let answer = input.0;
    let ocsp = switches & 1 != 0;
    let chain = [CertificateDer::from(LEAF)];
    let wanted = DoNai::parse("example.com").expect("a name");
    let inquiry = Inquiry {
        credential: Credential::X509(&chain),
        peer: Peer::Server,
        wanted: Some(&wanted),
        local: None,
        domain_represents_user: false,
        service: "",
        endpoint: None,
        ignore_caches: false,
        negotiated: Negotiated::default(),
        stapled_ocsp: if switches & 2 == 0 { &[] } else { answer },
        now: UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000)),
        deadline: Instant::now() + Duration::from_secs(30),
        trace: true,
    };
    let policy: &Policy = if ocsp { &OCSP } else { &LIST };
    let sources = Answering(answer);
    let result = run(VALIDATOR.validate(&inquiry, policy, &sources));
    match result {
        // Nobody signs here: what is believed holds what the authority once signed.
        Ok(_) => {
            let signed = if ocsp { GOOD_OCSP } else { GOOD_LIST };
            assert!(answer.windows(signed.len()).any(|window| window == signed));
        }
        Err(refused) => drop((refused.refusal.to_string(), refused.refusal.alert())),
    }
});
