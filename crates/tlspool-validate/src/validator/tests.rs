//! Every predicate true, false and absent, by a fake world; what is asked and when.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls_pki_types::{CertificateDer, UnixTime};
use tlspool_identity::How;

use super::*;
use crate::inquiry::{Endpoint, Negotiated};
use crate::policy::{Random, reference};
use crate::sources::{Answer, Found, Looking, Options, Origin, Outcome, Query, Tlsa, Transport};
use crate::{Peer, SystemAnchors, TableAnchor, trace::Truth};

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

/// 2030-01-01, within rcgen's default validity.
pub(crate) const NOW: u64 = 1_893_456_000;

pub(crate) fn name(text: &str) -> DoNai {
    DoNai::parse(text).unwrap()
}

pub(crate) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub(crate) fn leaf(issuer: &Authority, names: &[&str]) -> CertificateDer<'static> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let params = CertificateParams::new(names).unwrap();
    params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
}

pub(crate) fn anchors(root: &Authority) -> Arc<TrustAnchors> {
    let row = TableAnchor { service: None, certificate: root.der() };
    Arc::new(TrustAnchors::load(&SystemAnchors::default(), [row]).unwrap().anchors)
}

pub(crate) fn everything_on() -> PolicySettings {
    PolicySettings { dns: true, directory: true, revocation: true, ..PolicySettings::default() }
}

pub(crate) fn inquiry<'a>(
    chain: &'a [CertificateDer<'a>],
    wanted: Option<&'a DoNai>,
) -> Inquiry<'a> {
    Inquiry {
        credential: Credential::X509(chain),
        peer: Peer::Server,
        wanted,
        local: None,
        domain_represents_user: false,
        service: "",
        endpoint: Some(Endpoint { port: 443, transport: Transport::Tcp }),
        ignore_caches: false,
        negotiated: Negotiated { private: true, post_quantum: false, forward_secrecy: true },
        stapled_ocsp: &[],
        now: UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
        deadline: (tokio::time::Instant::now() + Duration::from_secs(30)).into_std(),
        trace: true,
    }
}

/// Tables that a test fills.
#[derive(Default)]
pub(crate) struct Rows {
    pub(crate) policies: Vec<(Side, String, Expression)>,
    pub(crate) pins: HashMap<String, Vec<Vec<u8>>>,
    pub(crate) broken: bool,
}

impl Rows {
    pub(crate) fn remote(expression: &str) -> Self {
        let mut rows = Self::default();
        rows.add(Side::Remote, ".", expression);
        rows.add(Side::Remote, "@.", expression);
        rows
    }

    pub(crate) fn add(&mut self, side: Side, selector: &str, expression: &str) {
        let expression = Expression::parse(expression).unwrap();
        self.policies.push((side, selector.to_owned(), expression));
    }
}

impl Tables for Rows {
    fn policy(&self, side: Side, name: &DoNai, _: &str) -> Result<Option<Arc<Applicable>>, String> {
        if self.broken {
            return Err("the disk is on fire".to_owned());
        }
        let first = name.lookup_order().find_map(|selector| {
            let row = self.policies.iter().find(|(s, t, _)| *s == side && t == selector.as_str());
            row.map(|(_, _, expression)| Applicable {
                selector: selector.to_string(),
                service: None,
                expression: expression.clone(),
            })
        });
        Ok(first.map(Arc::new))
    }

    fn pins(&self, name: &DoNai) -> Result<Vec<Vec<u8>>, String> {
        if self.broken {
            return Err("the disk is on fire".to_owned());
        }
        Ok(self.pins.get(name.as_str()).cloned().unwrap_or_default())
    }
}

/// A world that answers as a test says, after a time, and counts.
#[derive(Default)]
pub(crate) struct World {
    answers: Vec<(&'static str, u64, Outcome)>,
    pub(crate) asked: RefCell<Vec<(Query, Options)>>,
    /// Look-ups that were dropped before their end.
    dropped: Rc<Cell<usize>>,
}

impl World {
    /// `kind` is `tlsa`, `directory`, `ocsp` or `crl`; the answer comes after `millis`.
    pub(crate) fn with(mut self, kind: &'static str, millis: u64, outcome: Outcome) -> Self {
        self.answers.push((kind, millis, outcome));
        self
    }

    fn kinds(&self) -> Vec<&'static str> {
        self.asked.borrow().iter().map(|(query, _)| kind(query)).collect()
    }
}

fn kind(query: &Query) -> &'static str {
    match query {
        Query::ServerTlsa { .. } | Query::ClientTlsa { .. } => "tlsa",
        Query::Directory { .. } | Query::OpenPgpKey { .. } => "directory",
        Query::Ocsp { .. } => "ocsp",
        Query::Crl { .. } => "crl",
        Query::Authorize { .. } => unreachable!("no policy asks that"),
    }
}

/// Counts, unless the look-up came to its end.
struct CountDrop {
    dropped: Rc<Cell<usize>>,
    done: Cell<bool>,
}

impl Drop for CountDrop {
    fn drop(&mut self) {
        if !self.done.get() {
            self.dropped.set(self.dropped.get() + 1);
        }
    }
}

impl Sources for World {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        self.asked.borrow_mut().push((query.clone(), options));
        let guard = CountDrop { dropped: self.dropped.clone(), done: Cell::new(false) };
        Box::pin(async move {
            let kind = kind(query);
            let answer = self.answers.iter().find(|(known, _, _)| *known == kind);
            let (_, millis, outcome) =
                answer.unwrap_or_else(|| panic!("nobody should ask for {query:?}"));
            tokio::time::sleep(Duration::from_millis(*millis)).await;
            guard.done.set(true);
            Found {
                outcome: outcome.clone(),
                origin: Origin::Live,
                elapsed: Duration::from_millis(*millis),
                lasts: None,
                steps: vec![format!("asked for {kind}")],
            }
        })
    }
}

pub(crate) fn tlsa(der: &[u8]) -> Outcome {
    let data = fingerprint(der);
    let records = vec![Tlsa { usage: 3, selector: 0, matching: 1, data }];
    Outcome::Present(Answer::Tlsa { records, reference_names: Vec::new() })
}

pub(crate) fn listing(ders: &[&[u8]]) -> Outcome {
    let credentials = ders.iter().map(|der| der.to_vec()).collect();
    Outcome::Present(Answer::Directory { credentials, anchors: Vec::new() })
}

pub(crate) fn absent() -> Outcome {
    Outcome::Absent("provably nothing".to_owned())
}

pub(crate) fn failed() -> Outcome {
    Outcome::Failed("timeout".to_owned())
}

/// A root, and a chain of it for example.com.
struct Setting {
    validator: PolicyValidator,
    chain: [CertificateDer<'static>; 1],
    wanted: DoNai,
}

fn setting() -> Setting {
    let root = authority("Root");
    Setting {
        validator: PolicyValidator::new(anchors(&root), Legacy::Refuse, everything_on()),
        chain: [leaf(&root, &["example.com", "www.example.com"])],
        wanted: name("example.com"),
    }
}

impl Setting {
    async fn ask(&self, rows: &Rows, world: &World) -> Result<Validated, Refused> {
        self.validator.validate(&inquiry(&self.chain, Some(&self.wanted)), rows, world).await
    }
}

fn truth(result: &Result<Validated, Refused>, predicate: Predicate) -> Option<Truth> {
    let trace = match result {
        Ok(validated) => validated.trace.as_ref(),
        Err(refused) => refused.trace.as_ref(),
    };
    trace.unwrap().asked(predicate).map(|asked| asked.truth)
}

#[tokio::test(start_paused = true)]
async fn without_look_ups_it_is_pkix_as_ever() {
    let root = authority("Root");
    let off = PolicyValidator::new(anchors(&root), Legacy::Refuse, PolicySettings::default());
    let chain = [leaf(&root, &["www.example.com", "example.com"])];
    let wanted = name("example.com");
    let (rows, world) = (Rows::default(), World::default());
    let validated = off.validate(&inquiry(&chain, Some(&wanted)), &rows, &world).await.unwrap();
    assert_eq!((validated.identity, validated.source), (wanted, "pkix"));
    assert_eq!(validated.others, [name("www.example.com")]);
    assert_eq!(validated.how, Some(How::Exact));
    let unnamed = off.validate(&inquiry(&chain, None), &rows, &world).await.unwrap();
    assert_eq!((unnamed.identity, unnamed.how), (name("www.example.com"), None));
    // The refusals of a single source stay what they were.
    let stranger = authority("Stranger");
    let chain = [leaf(&stranger, &["example.com"])];
    let wanted = name("example.com");
    let refused = off.validate(&inquiry(&chain, Some(&wanted)), &rows, &world).await.unwrap_err();
    assert!(matches!(refused.refusal, Refusal::UnknownIssuer { .. }), "{}", refused.refusal);
    let other = name("bank.example");
    let refused = off.validate(&inquiry(&chain, Some(&other)), &rows, &world).await.unwrap_err();
    assert!(matches!(refused.refusal, Refusal::WrongName { .. }), "{}", refused.refusal);
    let refused = off.validate(&inquiry(&[], Some(&other)), &rows, &world).await.unwrap_err();
    assert_eq!(refused.refusal, Refusal::NoCertificate);
    assert!(world.asked.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_default_asks_both_sources_at_once() {
    let setting = setting();
    let leaf = &setting.chain[0];
    let world = World::default().with("tlsa", 300, absent()).with("directory", 500, absent());
    let begun = tokio::time::Instant::now();
    let validated = setting.ask(&Rows::default(), &world).await.unwrap();
    assert_eq!(begun.elapsed().as_millis(), 500);
    assert_eq!((validated.source, world.kinds()), ("pkix", vec!["tlsa", "directory"]));
    let asked = world.asked.borrow()[0].0.clone();
    let Query::ServerTlsa { host, port, transport, .. } = asked else { panic!("{asked:?}") };
    assert_eq!((host.as_str(), port, transport), ("example.com", 443, Transport::Tcp));
    // What is published must match; the first mismatch decides, and the other look-up is dropped.
    let world = World::default().with("tlsa", 300, tlsa(b"other")).with("directory", 500, absent());
    let begun = tokio::time::Instant::now();
    let refused = setting.ask(&Rows::default(), &world).await.unwrap_err();
    assert_eq!((begun.elapsed().as_millis(), world.dropped.get()), (300, 1));
    assert!(refused.refusal.to_string().contains("dane is false"), "{}", refused.refusal);
    // A failing look-up is no absence.
    let world = World::default().with("tlsa", 1, tlsa(leaf)).with("directory", 2, failed());
    let refused = setting.ask(&Rows::default(), &world).await.unwrap_err();
    assert!(refused.refusal.to_string().contains("ldap is failed: timeout"), "{}", refused.refusal);
    // A bad certificate that is published all the same.
    let stranger = authority("Stranger");
    let setting = Setting { chain: [self::leaf(&stranger, &["example.com"])], ..setting };
    let world = World::default().with("tlsa", 1, tlsa(&setting.chain[0])).with(
        "directory",
        2,
        listing(&[&setting.chain[0]]),
    );
    let validated = setting.ask(&Rows::default(), &world).await.unwrap();
    assert_eq!(validated.source, "dane");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_that_cannot_matter() {
    let setting = setting();
    for (expression, asked, holds) in [
        ("pkix or dane or ldap", vec![], true),
        ("pkix and (pq or dane)", vec!["tlsa"], true),
        ("pq and dane", vec![], false),
        ("not pkix and dane", vec![], false),
        ("false and dane", vec![], false),
        ("true or ldap", vec![], true),
        ("identity and (server or dane and ldap)", vec!["tlsa", "directory"], true),
        ("client and not server and forward-secrecy and private", vec![], true),
    ] {
        let leaf = &setting.chain[0];
        let world =
            World::default().with("tlsa", 10, tlsa(leaf)).with("directory", 20, listing(&[leaf]));
        let result = setting.ask(&Rows::remote(expression), &world).await;
        assert_eq!((world.kinds(), result.is_ok()), (asked, holds), "{expression}");
    }
    // One of two is enough, and the slower is dropped.
    let leaf = &setting.chain[0];
    let world =
        World::default().with("tlsa", 900, tlsa(leaf)).with("directory", 20, listing(&[leaf]));
    let begun = tokio::time::Instant::now();
    let validated = setting.ask(&Rows::remote("dane or ldap"), &world).await.unwrap();
    assert_eq!((validated.source, begun.elapsed().as_millis()), ("ldap", 20));
    assert_eq!((world.kinds().len(), world.dropped.get()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn one_deadline_for_everything() {
    let setting = setting();
    let world = World::default().with("tlsa", 60_000, absent()).with("directory", 90_000, absent());
    let begun = tokio::time::Instant::now();
    let result = setting.ask(&Rows::default(), &world).await;
    assert_eq!(begun.elapsed().as_secs(), 10);
    assert_eq!(truth(&result, Predicate::Dane), Some(Truth::Failed));
    let text = result.unwrap_err().refusal.to_string();
    assert!(text.contains("no answer in time"), "{text}");
    assert_eq!(world.dropped.get(), 2);
    // What does not need the slow one holds.
    let world = World::default().with("tlsa", 60_000, absent()).with("directory", 1, absent());
    assert!(setting.ask(&Rows::remote("ldap? and pkix"), &world).await.is_ok());
    // The handshake's own deadline is earlier.
    let mut inquiry = inquiry(&setting.chain, Some(&setting.wanted));
    inquiry.deadline = (tokio::time::Instant::now() + Duration::from_secs(1)).into_std();
    let begun = tokio::time::Instant::now();
    let rows = Rows::remote("dane?");
    assert!(setting.validator.validate(&inquiry, &rows, &world).await.is_err());
    assert_eq!(begun.elapsed().as_secs(), 1);
    assert_eq!(world.asked.borrow().last().unwrap().1.deadline, inquiry.deadline);
}

#[tokio::test(start_paused = true)]
async fn dane_in_all_its_states() {
    let setting = setting();
    let leaf = &setting.chain[0];
    let unusable = Tlsa { usage: 9, selector: 0, matching: 0, data: Vec::new() };
    let unusable =
        Outcome::Present(Answer::Tlsa { records: vec![unusable], reference_names: Vec::new() });
    for (outcome, truth_of_it) in [
        (tlsa(leaf), Truth::True),
        (tlsa(b"another"), Truth::False),
        (absent(), Truth::Absent),
        (unusable, Truth::Absent),
        (failed(), Truth::Failed),
        (listing(&[leaf]), Truth::Failed),
    ] {
        let world = World::default().with("tlsa", 1, outcome);
        let result = setting.ask(&Rows::remote("dane"), &world).await;
        assert_eq!(truth(&result, Predicate::Dane), Some(truth_of_it));
        assert_eq!(result.is_ok(), truth_of_it == Truth::True);
        let result = setting.ask(&Rows::remote("dane? and pkix"), &world).await;
        assert_eq!(result.is_ok(), matches!(truth_of_it, Truth::True | Truth::Absent));
        assert!(
            setting.ask(&Rows::remote("not dane"), &world).await.is_ok()
                == (truth_of_it == Truth::False)
        );
    }
    // Of users it says nothing, and of connections without a port neither: nobody is asked.
    let john = name("john@example.com");
    let chain = [self::leaf(&authority("Other"), &["john@example.com"])];
    let (rows, world) = (Rows::remote("dane?"), World::default());
    let result = setting.validator.validate(&inquiry(&chain, Some(&john)), &rows, &world).await;
    assert_eq!(truth(&result, Predicate::Dane), Some(Truth::Absent));
    let mut local = inquiry(&setting.chain, Some(&setting.wanted));
    local.endpoint = None;
    let result = setting.validator.validate(&local, &rows, &world).await;
    assert_eq!(truth(&result, Predicate::Dane), Some(Truth::Absent));
    // A client is looked up under its own domain.
    let mut client = inquiry(&setting.chain, None);
    (client.peer, client.service) = (Peer::Client, "smtp");
    let world = World::default().with("tlsa", 1, tlsa(leaf));
    assert!(setting.validator.validate(&client, &Rows::remote("dane"), &world).await.is_ok());
    let asked = world.asked.borrow()[0].0.clone();
    let (domain, service) = ("example.com".to_owned(), "smtp".to_owned());
    assert_eq!(asked, Query::ClientTlsa { domain, service });
}

#[tokio::test(start_paused = true)]
async fn secure_records_give_a_certificate_its_name() {
    let root = authority("Root");
    let validator = PolicyValidator::new(anchors(&root), Legacy::Refuse, everything_on());
    let chain = [leaf(&root, &["mx.provider.net"])];
    let wanted = name("example.com");
    let inquiry = inquiry(&chain, Some(&wanted));
    let world = World::default().with("tlsa", 1, tlsa(&chain[0])).with("directory", 1, absent());
    let validated = validator.validate(&inquiry, &Rows::default(), &world).await.unwrap();
    assert_eq!((validated.identity, validated.source), (wanted.clone(), "dane"));
    // Without them it is another's.
    for outcome in [absent(), failed(), tlsa(b"x")] {
        let world = World::default().with("tlsa", 1, outcome).with("directory", 1, absent());
        let refused = validator.validate(&inquiry, &Rows::default(), &world).await.unwrap_err();
        assert!(
            refused.refusal.to_string().contains("not example.com")
                || refused.refusal.to_string().contains("dane"),
            "{}",
            refused.refusal
        );
    }
    // Nobody vouches for the name, so no policy is lenient enough.
    let world = World::default();
    let rows = Rows::remote("true");
    let refused = validator.validate(&inquiry, &rows, &world).await.unwrap_err();
    assert!(matches!(refused.refusal, Refusal::WrongName { .. }));
    let wanted = name("mx.provider.net");
    let inquiry = super::tests::inquiry(&chain, Some(&wanted));
    assert_eq!(validator.validate(&inquiry, &rows, &world).await.unwrap().source, "policy");
}

#[tokio::test(start_paused = true)]
async fn dane_proves_the_domain_and_no_user() {
    let (root, stranger) = (authority("Root"), authority("Stranger"));
    let validator = PolicyValidator::new(anchors(&root), Legacy::Refuse, everything_on());
    let of_user = |issuer: &Authority, user: &str| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::Rfc822Name(user.try_into().unwrap())];
        params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().der().clone()
    };
    let (john, domain) = (name("john@example.com"), name("example.com"));
    let ask = async |chain: &[CertificateDer<'static>], rows: &Rows, world: &World| {
        let mut inquiry = inquiry(chain, Some(&john));
        inquiry.domain_represents_user = true;
        validator.validate(&inquiry, rows, world).await
    };
    let published =
        |der: &[u8]| World::default().with("tlsa", 1, tlsa(der)).with("directory", 1, absent());
    // Whoever has the domain's key is the domain, whomever its certificate names.
    let of_another = [leaf(&stranger, &["mx.provider.net"])];
    let of_john = [of_user(&stranger, "john@example.com")];
    for chain in [&of_another, &of_john] {
        let validated = ask(chain, &Rows::default(), &published(&chain[0])).await.unwrap();
        assert_eq!((&validated.identity, validated.source), (&domain, "dane"));
        assert_eq!(validated.how, Some(How::DomainForUser));
        let rows = Rows::remote("dane and pin?");
        let validated = ask(chain, &rows, &published(&chain[0])).await.unwrap();
        let Commit::Pin { name, .. } = &validated.commits[0];
        assert_eq!(name, &domain);
    }
    // Another who vouches for the user himself is believed.
    let mut pinned = Rows::default();
    pinned.pins.insert("john@example.com".to_owned(), vec![fingerprint(&of_john[0])]);
    let listed = World::default().with("tlsa", 1, tlsa(&of_john[0])).with(
        "directory",
        1,
        listing(&[&of_john[0]]),
    );
    let none = Rows::default();
    let pin = Rows { policies: Rows::remote("identity and pin and dane").policies, ..pinned };
    for (rows, world) in [(&none, &listed), (&pin, &published(&of_john[0]))] {
        let validated = ask(&of_john, rows, world).await.unwrap();
        assert_eq!((&validated.identity, validated.how), (&john, Some(How::Exact)));
    }
    // So is the domain's own authority, which says which user it is.
    let chain = [of_user(&stranger, "john@example.com"), stranger.der().clone()];
    let data = fingerprint(&chain[1]);
    let records = vec![Tlsa { usage: 2, selector: 0, matching: 1, data }];
    let answer = Answer::Tlsa { records, reference_names: Vec::new() };
    let world = World::default().with("tlsa", 1, Outcome::Present(answer));
    let validated = ask(&chain, &Rows::remote("dane"), &world).await.unwrap();
    assert_eq!((&validated.identity, validated.how), (&john, Some(How::Exact)));
    // The freedom is for a user whom the program wants: a user who comes by himself has no DANE.
    let mut unnamed = inquiry(&of_john, None);
    (unnamed.peer, unnamed.domain_represents_user) = (Peer::Client, true);
    let world = published(&of_john[0]);
    let result = validator.validate(&unnamed, &Rows::default(), &world).await;
    assert_eq!(truth(&result, Predicate::Dane), Some(Truth::Absent));
    assert!(result.is_err());
    assert!(!world.kinds().contains(&"tlsa"));
}

#[tokio::test(start_paused = true)]
async fn who_blocks_a_source_makes_nothing_false() {
    let setting = setting();
    let chain = [leaf(&authority("Other"), &["mx.provider.net"])];
    // As `PTI?` of earlier pools is imported.
    let mut rows = Rows::remote("identity and pkix or not identity and pin");
    rows.pins.insert("example.com".to_owned(), vec![fingerprint(&chain[0])]);
    for (outcome, verdict) in
        [(absent(), Truth::False), (tlsa(b"another"), Truth::False), (failed(), Truth::Failed)]
    {
        let world = World::default().with("tlsa", 1, outcome);
        let inquiry = inquiry(&chain, Some(&setting.wanted));
        let result = setting.validator.validate(&inquiry, &rows, &world).await;
        assert_eq!(truth(&result, Predicate::Identity), Some(verdict));
        assert_eq!(result.is_ok(), verdict == Truth::False);
    }
}

#[tokio::test(start_paused = true)]
async fn ldap_in_all_its_states() {
    let setting = setting();
    let leaf = &setting.chain[0];
    let key = KeyPair::generate().unwrap();
    let root = authority("Root");
    let signed = |name: &str| {
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.signed_by(&key, &root).unwrap().der().clone()
    };
    for (outcome, truth_of_it) in [
        (listing(&[b"other", leaf]), Truth::True),
        (listing(&[b"other"]), Truth::False),
        (listing(&[]), Truth::Absent),
        (absent(), Truth::Absent),
        (failed(), Truth::Failed),
        (tlsa(leaf), Truth::Failed),
    ] {
        let world = World::default().with("directory", 1, outcome);
        let result = setting.ask(&Rows::remote("ldap"), &world).await;
        assert_eq!(truth(&result, Predicate::Ldap), Some(truth_of_it));
        let result = setting.ask(&Rows::remote("ldap?"), &world).await;
        let accepted = matches!(truth_of_it, Truth::True | Truth::Absent);
        assert_eq!(result.is_ok(), accepted);
    }
    // Another certificate with the same key counts only if so configured.
    let (old, new) = (signed("example.com"), signed("example.com"));
    let setting = Setting { chain: [new], ..setting };
    let world = World::default().with("directory", 1, listing(&[&old]));
    assert!(setting.ask(&Rows::remote("ldap"), &world).await.is_err());
    let settings = PolicySettings { ldap_match: LdapMatch::Key, ..everything_on() };
    let validator = PolicyValidator::new(anchors(&root), Legacy::Refuse, settings);
    let setting = Setting { validator, ..setting };
    assert!(setting.ask(&Rows::remote("ldap"), &world).await.is_ok());
    // A user is looked up as such; with DOMAIN_REPRESENTS_USER, the domain that answers for it.
    let john = name("john@example.com");
    let mut inquiry = inquiry(&setting.chain, Some(&john));
    inquiry.domain_represents_user = true;
    let world = World::default().with("directory", 1, listing(&[&setting.chain[0]]));
    let rows = Rows::remote("identity and ldap");
    let validated = setting.validator.validate(&inquiry, &rows, &world).await.unwrap();
    assert_eq!(validated.how, Some(How::DomainForUser));
    assert_eq!(validated.identity, name("example.com"));
    let asked = world.asked.borrow()[0].0.clone();
    assert!(matches!(asked, Query::Directory { name, .. } if name == "example.com"));
}

#[tokio::test(start_paused = true)]
async fn pins_match_mismatch_and_are_learnt() {
    let setting = setting();
    let world = World::default();
    let own = fingerprint(&setting.chain[0]);
    let pinned = |pins: Vec<Vec<u8>>, expression: &str| {
        let mut rows = Rows::remote(expression);
        rows.pins.insert("example.com".to_owned(), pins);
        rows
    };
    let good = setting.ask(&pinned(vec![vec![0; 32], own.clone()], "pin"), &world).await.unwrap();
    assert_eq!((good.source, good.commits.len()), ("pin", 0));
    let bad = setting.ask(&pinned(vec![vec![0; 32]], "pin? and pkix"), &world).await;
    assert_eq!(truth(&bad, Predicate::Pin), Some(Truth::False));
    assert!(bad.is_err());
    assert!(setting.ask(&Rows::remote("pin"), &world).await.is_err());
    let first = setting.ask(&Rows::remote("pkix and pin?"), &world).await.unwrap();
    let kind = crate::sources::CredentialKind::X509;
    let commit = Commit::Pin { name: name("example.com"), kind, fingerprint: own };
    assert_eq!(first.commits, std::slice::from_ref(&commit));
    // Not learnt without a `?`, nor if the rest does not hold.
    assert!(setting.ask(&Rows::remote("pkix or pin"), &world).await.unwrap().commits.is_empty());
    assert!(setting.ask(&Rows::remote("pin? and pq"), &world).await.is_err());
    let broken = Rows { broken: true, ..Rows::remote("pin?") };
    let refused = setting.ask(&broken, &world).await.unwrap_err();
    assert!(matches!(refused.refusal, Refusal::NoPolicy(_)));
    // First sight makes a name of what has none.
    let chain = [leaf(&authority("Router"), &["router.local"])];
    let wanted = name("gateway.example.com");
    let inquiry = inquiry(&chain, Some(&wanted));
    let first = setting.validator.validate(&inquiry, &Rows::remote("pin?"), &world).await.unwrap();
    assert_eq!((first.identity, first.commits.len()), (wanted.clone(), 1));
    let lax = Rows::remote("pin? or true");
    assert!(setting.validator.validate(&inquiry, &lax, &world).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn both_sides_must_agree() {
    let setting = setting();
    let world = World::default();
    let local = name("john@example.org");
    let ask = async |rows: &Rows| {
        let mut inquiry = inquiry(&setting.chain, Some(&setting.wanted));
        inquiry.local = Some(&local);
        setting.validator.validate(&inquiry, rows, &world).await
    };
    let mut rows = Rows::remote("pkix");
    assert!(ask(&rows).await.is_ok());
    rows.add(Side::Local, "@example.org", "pq");
    let refused = ask(&rows).await.unwrap_err();
    let text = refused.refusal.to_string();
    assert!(text.contains("local @example.org") && text.contains("post-quantum"), "{text}");
    assert_eq!(refused.trace.unwrap().expressions.len(), 2);
    // The first selector that has a row decides, whatever the more general ones say.
    rows.add(Side::Local, "john@example.org", "forward-secrecy");
    assert!(ask(&rows).await.is_ok());
    rows.add(Side::Remote, "example.com", "false");
    assert!(ask(&rows).await.is_err());
}

/// Has a certificate published for www.example.com alone.
struct OnlyWww<'a>(&'a World, Outcome);
impl Sources for OnlyWww<'_> {
    fn look_up<'a>(&'a self, query: &'a Query, options: Options) -> Looking<'a> {
        self.0.asked.borrow_mut().push((query.clone(), options));
        let www = matches!(query, Query::ClientTlsa { domain, .. } if domain == "www.example.com");
        let outcome = if www { self.1.clone() } else { absent() };
        let (origin, elapsed, steps) = (Origin::Memory, Duration::ZERO, Vec::new());
        Box::pin(async move { Found { outcome, origin, elapsed, lasts: None, steps } })
    }
}

#[tokio::test(start_paused = true)]
async fn the_strongest_name_is_reported_if_none_was_wanted() {
    let setting = setting();
    let leaf = &setting.chain[0];
    let world = World::default();
    let mut inquiry = inquiry(&setting.chain, None);
    inquiry.peer = Peer::Client;
    let sources = OnlyWww(&world, tlsa(leaf));
    let found = setting.validator.validate(&inquiry, &Rows::default(), &sources).await.unwrap();
    assert_eq!((found.identity.as_str(), found.source), ("www.example.com", "dane"));
    assert_eq!(found.others, [name("example.com")]);
    let sources = OnlyWww(&world, absent());
    let found = setting.validator.validate(&inquiry, &Rows::default(), &sources).await.unwrap();
    assert_eq!((found.identity.as_str(), found.source), ("example.com", "pkix"));
}

#[tokio::test(start_paused = true)]
async fn a_trace_says_what_decided() {
    let setting = setting();
    let world = World::default().with("tlsa", 12, tlsa(b"other")).with("directory", 40, absent());
    let refused = setting.ask(&Rows::default(), &world).await.unwrap_err();
    let trace = refused.trace.unwrap();
    let text = trace.to_string();
    assert!(text.starts_with("example.com: refused, in "), "{text}");
    assert!(text.contains("policy for remote, the default does not hold:"), "{text}");
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    assert!(
        line("* false       dane?").contains("[live, 12 ms]  no TLSA record matches"),
        "{text}"
    );
    assert!(line("  not asked   ldap?").len() < 30, "{text}");
    assert!(text.contains("- asked for tlsa"), "{text}");
    let json = serde_json::to_value(&*trace).unwrap();
    assert_eq!(json["holds"], false);
    assert_eq!(json["expressions"][0]["tree"]["parts"][1]["decided"], true);
    assert_eq!(json["asked"].as_array().unwrap().len(), trace.asked.len());
    // Nothing is kept unless asked for.
    let mut quiet = inquiry(&setting.chain, Some(&setting.wanted));
    quiet.trace = false;
    let rows = Rows::remote("pkix");
    let validated = setting.validator.validate(&quiet, &rows, &world).await.unwrap();
    assert_eq!(validated.trace, None);
}

/// The evaluator, with its laziness and parallelism, comes to what the textbook says.
#[tokio::test(start_paused = true)]
async fn any_expression_in_any_world_equals_the_reference() {
    let root = authority("Root");
    let stranger = authority("Stranger");
    let validator = PolicyValidator::new(anchors(&root), Legacy::Refuse, everything_on());
    let [good, bad] = [&root, &stranger].map(|issuer| [leaf(issuer, &["example.com"])]);
    let wanted = name("example.com");
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut held = 0;
    for _ in 0..3000 {
        let expression = random.expression();
        let mut board = [None; 13];
        let mut set = |predicate: Predicate, verdict| board[predicate.index()] = Some(verdict);
        let bool = |holds| if holds { Verdict::True } else { Verdict::False };
        let [pkix, private, pq, fs, client] = [(); 5].map(|()| random.below(2) == 0);
        let chain = if pkix { &good } else { &bad };
        let (dane, ldap, pin) = (random.verdict(), random.verdict(), random.below(3));
        let outcome = |verdict, right: Outcome, wrong: Outcome| match verdict {
            Verdict::True => right,
            Verdict::False => wrong,
            Verdict::Absent => absent(),
            Verdict::Failed => failed(),
        };
        let world = World::default()
            .with("tlsa", random.below(50), outcome(dane, tlsa(&chain[0]), tlsa(b"x")))
            .with(
                "directory",
                random.below(50),
                outcome(ldap, listing(&[&chain[0]]), listing(&[b"x"])),
            );
        let mut rows = Rows::default();
        rows.policies.push((Side::Remote, ".".to_owned(), expression.clone()));
        let pins = [vec![], vec![fingerprint(&chain[0])], vec![vec![1; 32]]];
        rows.pins.insert("example.com".to_owned(), pins[pin as usize].clone());
        set(Predicate::Identity, Verdict::True);
        set(Predicate::Pkix, bool(pkix));
        set(Predicate::Dane, dane);
        set(Predicate::Ldap, ldap);
        let pin = [Verdict::Absent, Verdict::True, Verdict::False][pin as usize];
        set(Predicate::Pin, pin);
        for nothing in [Predicate::OpenPgp, Predicate::Crl, Predicate::Ocsp] {
            set(nothing, Verdict::Absent);
        }
        set(Predicate::Private, bool(private));
        set(Predicate::Pq, bool(pq));
        set(Predicate::ForwardSecrecy, bool(fs));
        set(Predicate::Client, bool(client));
        set(Predicate::Server, bool(!client));
        let mut inquiry = inquiry(chain, Some(&wanted));
        inquiry.peer = if client { Peer::Server } else { Peer::Client };
        inquiry.negotiated = Negotiated { private, post_quantum: pq, forward_secrecy: fs };
        let result = validator.validate(&inquiry, &rows, &world).await;
        let expected = reference(expression.root(), &board) == 2;
        assert_eq!(result.is_ok(), expected, "{expression}: {result:?}");
        held += usize::from(expected);
        // Never asked twice, never asked in vain: each question is about a predicate it mentions.
        let text = expression.to_string();
        let mut kinds = world.kinds();
        kinds.sort_unstable();
        assert!(!kinds.contains(&"tlsa") || text.contains("dane"));
        assert!(!kinds.contains(&"directory") || text.contains("ldap"));
        let before = kinds.len();
        kinds.dedup();
        assert_eq!(kinds.len(), before);
    }
    assert!((500..2500).contains(&held), "{held}");
}
