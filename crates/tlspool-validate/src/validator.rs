//! Judges peers by policy.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest;
use rustls_pki_types::UnixTime;
use tlspool_identity::x509::{self, CertificateNames, Legacy};
use tlspool_identity::{DoNai, How, matches};

use crate::evaluate::{Evaluation, Why};
use crate::inquiry::{Applicable, Commit, Credential, Inquiry, Refused, Side, Tables, Validated};
use crate::openpgp;
use crate::policy::{Expression, Predicate, Verdict, blame, survey};
use crate::sources::{Query, Sources};
use crate::trace::{Part, Trace, Traced};
use crate::{OpenPgpTrust, PkixValidator, Refusal, RevocationLists, SigningKey, TrustAnchors};

/// Of a peer that the application did not name, at most so many names are tried.
const MAX_CANDIDATES: usize = 4;

/// Who vouches, strongest first: what is published live, then what somebody once signed, then what was
/// seen before.
const VOUCHERS: [Predicate; 5] =
    [Predicate::Dane, Predicate::Ldap, Predicate::OpenPgp, Predicate::Pkix, Predicate::Pin];

/// When a directory's entry counts as the peer's credential.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LdapMatch {
    /// It is the very certificate.
    #[default]
    Certificate,
    /// It has the same public key, so that a renewed certificate counts as well.
    Key,
}

/// What policies may ask of the outside, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySettings {
    /// TLSA records are looked up. Otherwise there are none.
    pub dns: bool,
    /// Directories are looked up. Otherwise they list nothing.
    pub directory: bool,
    /// Revocation lists and OCSP responders are asked. Otherwise there are only files and stapling.
    pub revocation: bool,
    /// Time for everything that one peer's policy looks up.
    pub timeout: Duration,
    /// When a directory's entry is the peer's.
    pub ldap_match: LdapMatch,
    /// The responder to ask instead of the one that a certificate names; an `http:` URL.
    pub ocsp_responder: Option<String>,
}

impl Default for PolicySettings {
    fn default() -> Self {
        Self {
            dns: false,
            directory: false,
            revocation: false,
            timeout: Duration::from_secs(10),
            ldap_match: LdapMatch::Certificate,
            ocsp_responder: None,
        }
    }
}

/// Judges peers. One may serve all threads.
#[derive(Debug)]
pub struct PolicyValidator {
    pkix: PkixValidator,
    settings: PolicySettings,
    revocation_lists: Arc<RevocationLists>,
    openpgp: Arc<OpenPgpTrust>,
}

/// What a credential says of itself.
struct Carried {
    names: CertificateNames,
    /// Why it is no good any more, unless a directory knows better.
    stale: Option<Refusal>,
    /// The key of an OpenPGP certificate that signs the handshake, or why it may not any more.
    key: Option<Result<SigningKey, Refusal>>,
}

/// The expressions that apply, as found.
pub(crate) struct Policies {
    remote: Option<Arc<Applicable>>,
    local: Option<Arc<Applicable>>,
}

impl PolicyValidator {
    /// Judges by `anchors`, and by `legacy` whether CN and emailAddress of the subject count.
    pub fn new(anchors: Arc<TrustAnchors>, legacy: Legacy, settings: PolicySettings) -> Self {
        Self {
            pkix: PkixValidator::new(anchors, legacy),
            settings,
            revocation_lists: Arc::default(),
            openpgp: Arc::default(),
        }
    }

    /// The same, with these keys that certify OpenPGP certificates.
    #[must_use]
    pub fn with_openpgp_trust(self, openpgp: Arc<OpenPgpTrust>) -> Self {
        Self { openpgp, ..self }
    }

    /// The same, with these revocation lists.
    #[must_use]
    pub fn with_revocation_lists(self, revocation_lists: Arc<RevocationLists>) -> Self {
        Self { revocation_lists, ..self }
    }

    /// What may be asked, and how.
    pub fn settings(&self) -> &PolicySettings {
        &self.settings
    }

    pub(crate) fn pkix(&self) -> &PkixValidator {
        &self.pkix
    }

    /// The OpenPGP keys that are trusted.
    pub fn openpgp_trust(&self) -> &OpenPgpTrust {
        &self.openpgp
    }

    pub(crate) fn revocation_lists(&self) -> &RevocationLists {
        &self.revocation_lists
    }

    /// Judges a peer. Waits only if the policy needs something looked up; needs a tokio runtime with
    /// timers.
    pub async fn validate(
        &self,
        inquiry: &Inquiry<'_>,
        tables: &dyn Tables,
        sources: &dyn Sources,
    ) -> Result<Validated, Refused> {
        let carried = self.names(inquiry)?;
        let names = &carried.names;
        let anew = RefCell::default();
        if let Some(wanted) = inquiry.wanted {
            let judged = self.judge(inquiry, wanted, &carried, tables, sources, &anew).await;
            return judged.map(|(validated, _)| validated);
        }
        // Nobody was named: the carried name with the strongest voucher is the peer's.
        let mut best: Option<(Validated, usize)> = None;
        let mut first_refusal = None;
        for candidate in names.identities().take(MAX_CANDIDATES) {
            match self.judge(inquiry, candidate, &carried, tables, sources, &anew).await {
                Ok((validated, rank)) => {
                    if best.as_ref().is_none_or(|(_, known)| rank < *known) {
                        best = Some((validated, rank));
                    }
                }
                Err(refused) => first_refusal = first_refusal.or(Some(refused)),
            }
            let strongest = if self.looks_up() { 0 } else { VOUCHERS.len() };
            if best.as_ref().is_some_and(|(_, rank)| *rank <= strongest) {
                break;
            }
        }
        match (best, first_refusal) {
            (Some((validated, _)), _) => Ok(validated),
            (None, Some(refused)) => Err(refused),
            (None, None) => Err(Refusal::NoName { ignored: crate::pkix::unusable(names) }.into()),
        }
    }

    fn looks_up(&self) -> bool {
        self.settings.dns || self.settings.directory
    }

    fn names(&self, inquiry: &Inquiry<'_>) -> Result<Carried, Refused> {
        match inquiry.credential {
            Credential::X509(chain) => {
                let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
                let names = x509::names(leaf, self.pkix.legacy()).map_err(Refusal::from)?;
                Ok(Carried { names, stale: None, key: None })
            }
            Credential::OpenPgp(certificate, key) => {
                let (names, stale) = openpgp::names(certificate, inquiry.now)?;
                let key = openpgp::shown_key(certificate, key, inquiry.now)?;
                Ok(Carried { names, stale, key })
            }
        }
    }

    /// Judges a peer under one name; beside the answer, the rank of who vouched.
    async fn judge(
        &self,
        inquiry: &Inquiry<'_>,
        name: &DoNai,
        Carried { names, stale, key }: &Carried,
        tables: &dyn Tables,
        sources: &dyn Sources,
        asked_anew: &RefCell<Vec<Query>>,
    ) -> Result<(Validated, usize), Refused> {
        let begun = Instant::now();
        let policies = Policies::find(inquiry.local, inquiry.service, name, tables)?;
        let (expressions, count) = policies.expressions();
        let expressions = &expressions[..count];
        let found = matches(name, names, inquiry.domain_may_answer());
        let mut evaluation = Evaluation {
            validator: self,
            inquiry,
            tables,
            name,
            carried: found.map(|found| (found.identity, found.how)),
            names,
            stale: stale.as_ref(),
            key_expired: matches!(key, Some(Err(_))),
            merged: None,
            dane_proves_domain: false,
            expressions,
            board: [None; Predicate::ALL.len()],
            answered: Vec::new(),
            doubted: Vec::new(),
            asked_anew,
        };
        // By tokio's clock, which tests can stop.
        let own = tokio::time::Instant::now() + self.settings.timeout;
        let deadline = inquiry.deadline.min(own.into_std());
        let mut holds = evaluation.run(sources, deadline).await;
        let voucher = VOUCHERS.iter().position(|voucher| evaluation.is_true(*voucher));
        let mut refusal = None;
        if !holds {
            refusal = Some(explain(&evaluation, &policies));
        } else if evaluation.carried.is_none()
            && voucher.is_none()
            && !evaluation.accepts_first_sight()
        {
            // Not even the most lenient policy makes somebody else the one who was asked for.
            holds = false;
            let carried = crate::pkix::carried(names);
            refusal = Some(Refusal::WrongName { wanted: name.clone(), carried });
        }
        let mut signing_key = None;
        if holds {
            match openpgp::signing_key(&evaluation, key.as_ref()) {
                Ok(found) => signing_key = found,
                Err(unfit) => {
                    holds = false;
                    refusal = Some(unfit);
                }
            }
        }
        let trace = inquiry.trace.then(|| Box::new(trace(&evaluation, &policies, holds, begun)));
        if let Some(refusal) = refusal {
            return Err(Refused { refusal, trace });
        }
        if evaluation.dane_proves_domain && !evaluation.user_is_vouched_for() {
            let domain = evaluation.subject().domain_name();
            evaluation.carried = Some((domain, How::DomainForUser));
        }
        let commits = evaluation.commits();
        let carried = evaluation.carried.take();
        let how = carried.as_ref().map(|(_, how)| *how).filter(|_| inquiry.wanted.is_some());
        let identity = carried.map_or_else(|| name.clone(), |(identity, _)| identity);
        let others = names.identities().filter(|other| **other != identity).cloned().collect();
        let source = voucher.map_or("policy", |place| VOUCHERS[place].as_str());
        let rank = voucher.unwrap_or(VOUCHERS.len());
        Ok((Validated { identity, others, how, source, signing_key, trace, commits }, rank))
    }
}

impl Evaluation<'_> {
    /// Whether somebody but the DNS, which speaks for domains, is known to vouch for the very name.
    fn user_is_vouched_for(&self) -> bool {
        VOUCHERS.into_iter().any(|voucher| voucher != Predicate::Dane && self.is_true(voucher))
    }

    /// Whether nothing was pinned for the name yet and a policy accepts that.
    fn accepts_first_sight(&self) -> bool {
        self.board[Predicate::Pin.index()] == Some(Verdict::Absent)
            && self.expressions.iter().any(|expression| {
                expression.accepts_absence(Predicate::Pin) && {
                    // It counted: if the pin had been a wrong one, the outcome would be another.
                    let mut otherwise = self.board;
                    otherwise[Predicate::Pin.index()] = Some(Verdict::False);
                    survey(&[expression], &otherwise) != Ok(true)
                }
            })
    }

    /// What to remember: the first sight of a peer, where a policy asks for that.
    fn commits(&self) -> Vec<Commit> {
        let asked = self.expressions.iter().any(|e| e.accepts_absence(Predicate::Pin));
        if self.board[Predicate::Pin.index()] != Some(Verdict::Absent) || !asked {
            return Vec::new();
        }
        let credential = &self.inquiry.credential;
        let Some(fingerprint) = credential.fingerprint() else { return Vec::new() };
        let name = self.carried.as_ref().map_or(self.name, |(name, _)| name).clone();
        vec![Commit::Pin { name, kind: credential.kind(), fingerprint }]
    }
}

impl Policies {
    /// Between `local`, our name, and `name`, the peer's.
    pub(crate) fn find(
        local: Option<&DoNai>,
        service: &str,
        name: &DoNai,
        tables: &dyn Tables,
    ) -> Result<Self, Refusal> {
        let find = |side, name| tables.policy(side, name, service).map_err(Refusal::NoPolicy);
        let local = local.map(|local| find(Side::Local, local)).transpose()?.flatten();
        Ok(Self { remote: find(Side::Remote, name)?, local })
    }

    /// Those that apply, and how many they are.
    pub(crate) fn expressions(&self) -> ([&Expression; 2], usize) {
        let remote = match &self.remote {
            Some(applicable) => &applicable.expression,
            None => Expression::default_for_remotes(),
        };
        match &self.local {
            Some(local) => ([remote, &local.expression], 2),
            None => ([remote, remote], 1),
        }
    }

    fn whose(&self, local: bool) -> (Side, Option<&Applicable>) {
        if local {
            (Side::Local, self.local.as_deref())
        } else {
            (Side::Remote, self.remote.as_deref())
        }
    }
}

/// The same time.
pub(crate) fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

/// SHA-256 of a certificate, as it is pinned.
pub(crate) fn fingerprint(der: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, der).as_ref().to_vec()
}

/// The refusal that helps most: what a single source says if that alone is at fault, else all of it.
fn explain(evaluation: &Evaluation<'_>, policies: &Policies) -> Refusal {
    let failing = evaluation
        .expressions
        .iter()
        .position(|expression| survey(&[expression], &evaluation.board) == Ok(false))
        .unwrap_or(0);
    let expression = evaluation.expressions[failing];
    let mut told = Vec::new();
    let mut quiet = Vec::new();
    for predicate in blame(expression, &evaluation.board) {
        match evaluation.why(predicate) {
            Some(Why::Nothing(text)) => quiet.push((predicate, Why::Nothing(text))),
            Some(why) => told.push((predicate, why.clone())),
            None => {}
        }
    }
    if let [(_, Why::Refusal(refusal))] = told.as_slice() {
        return refusal.clone();
    }
    let alert = told.iter().find_map(|(_, why)| match why {
        Why::Refusal(refusal) => Some(refusal.alert()),
        _ => None,
    });
    let (side, applicable) = policies.whose(failing == 1);
    let of = match applicable {
        Some(applicable) => format!("{side} {}", applicable.selector),
        None => format!("{side}, the default"),
    };
    if told.is_empty() {
        told = quiet;
    }
    let reasons = told.into_iter().map(|(predicate, why)| {
        let verdict = evaluation.board[predicate.index()].unwrap_or(Verdict::Failed);
        let text = why.text();
        if text.is_empty() {
            format!("{predicate} is {verdict}")
        } else {
            format!("{predicate} is {verdict}: {text}")
        }
    });
    Refusal::Policy { of, expression: expression.to_string(), reasons: reasons.collect(), alert }
}

fn trace(evaluation: &Evaluation<'_>, policies: &Policies, holds: bool, begun: Instant) -> Trace {
    let expressions = evaluation.expressions.iter().enumerate().map(|(n, expression)| {
        let (side, applicable) = policies.whose(n == 1);
        Traced {
            side: side.as_str(),
            selector: applicable.map(|applicable| applicable.selector.clone()),
            service: applicable.and_then(|applicable| applicable.service.clone()),
            expression: expression.to_string(),
            holds: survey(&[expression], &evaluation.board) == Ok(true),
            tree: Part::of(expression.root(), &evaluation.board),
        }
    });
    Trace {
        name: evaluation.name.to_string(),
        holds,
        elapsed: begun.elapsed(),
        expressions: expressions.collect(),
        asked: evaluation.answered.iter().map(|a| a.asked(&evaluation.board)).collect(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
