//! What each predicate means.

use rustls_pki_types::CertificateDer;
use tlspool_identity::{DoNai, How};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::dane;
use crate::evaluate::{Evaluation, Step, Why};
use crate::inquiry::{Credential, Endpoint};
use crate::openpgp;
use crate::policy::{Predicate, Verdict};
use crate::revocation::{crl, ocsp};
use crate::sources::{Answer, CredentialKind, Query};
use crate::validator::LdapMatch;
use crate::{Peer, Question, Refusal};

/// What there is to say about predicates that are for X.509 only.
const OPENPGP: Step =
    Step::Done(Verdict::Absent, Why::Nothing("the peer shows an OpenPGP certificate"));

impl Evaluation<'_> {
    /// Answers a predicate here, or says what must be looked up for it.
    pub(crate) fn begin(&self, predicate: Predicate) -> Step {
        let negotiated = &self.inquiry.negotiated;
        match predicate {
            Predicate::Client => yes_or(self.we_are_client(), "we are the server"),
            Predicate::Server => yes_or(!self.we_are_client(), "we are the client"),
            Predicate::Private => {
                yes_or(negotiated.private, "certificates are visible on the wire")
            }
            Predicate::Pq => {
                yes_or(negotiated.post_quantum, "the key exchange is not post-quantum")
            }
            Predicate::ForwardSecrecy => {
                yes_or(negotiated.forward_secrecy, "the key exchange is not ephemeral")
            }
            Predicate::Identity => self.identity(),
            Predicate::Pin => self.pin(),
            Predicate::Dane => self.dane(),
            Predicate::Ldap => self.ldap(),
            Predicate::OpenPgp => openpgp::begin(self),
            Predicate::Pkix => self.pkix(),
            Predicate::Ocsp => self.leaf().map_or(OPENPGP, |leaf| ocsp::begin(self, leaf)),
            Predicate::Crl => self.leaf().map_or(OPENPGP, |leaf| crl::begin(self, leaf)),
        }
    }

    /// What an answer from outside means for the predicate that asked for it.
    pub(crate) fn judge(&mut self, predicate: Predicate, answer: &Answer) -> (Verdict, Why) {
        match (predicate, answer) {
            (Predicate::Dane, Answer::Tlsa { records, reference_names }) => {
                self.compare_tlsa(records, reference_names)
            }
            (Predicate::Ldap, Answer::Directory { credentials, .. }) => {
                self.compare_directory(credentials)
            }
            (Predicate::Ocsp, Answer::Ocsp(der)) => ocsp::judge(self, der),
            (Predicate::Crl, Answer::Crl(der)) => crl::judge(self, der),
            _ => (Verdict::Failed, Why::Fixed("the source answered something else")),
        }
    }

    /// What another predicate's verdict means for one that waits for it.
    pub(crate) fn follow(
        &self,
        predicate: Predicate,
        other: Predicate,
        verdict: Verdict,
    ) -> (Verdict, Why) {
        match (predicate, other, verdict) {
            // Secure records of the wanted name lead to what the certificate says, or to this very
            // certificate (RFC 7671 sections 5.1 and 7): it is a credential for that name.
            (Predicate::Identity, Predicate::Dane, Verdict::True) => {
                (Verdict::True, Why::Fixed("secure records of that name lead to this certificate"))
            }
            (Predicate::Identity, Predicate::Ldap, Verdict::True) => {
                (Verdict::True, Why::Fixed("the directory knows of a later end"))
            }
            (Predicate::Identity, Predicate::Ldap, _) => {
                let refusal = self.stale.cloned().unwrap_or_else(|| self.wrong_name());
                (unless_failed(verdict), Why::Refusal(refusal))
            }
            (Predicate::OpenPgp, Predicate::Ldap, _) => match openpgp::certified(self) {
                (Verdict::False, why) => (unless_failed(verdict), why),
                certified => certified,
            },
            (Predicate::Identity, ..) => (unless_failed(verdict), Why::Refusal(self.wrong_name())),
            _ => (Verdict::Failed, Why::Plain),
        }
    }

    /// The chain, as the question whether it is `name`'s.
    pub(crate) fn question(&self) -> Question<'_> {
        let chain = match self.inquiry.credential {
            Credential::X509(chain) => chain,
            Credential::OpenPgp(..) => &[],
        };
        Question {
            chain,
            peer: self.inquiry.peer,
            wanted: Some(self.name),
            domain_represents_user: self.inquiry.domain_may_answer(),
            service: self.inquiry.service,
            now: self.inquiry.now,
        }
    }

    pub(crate) fn leaf(&self) -> Option<&CertificateDer<'_>> {
        match self.inquiry.credential {
            Credential::X509(chain) => chain.first(),
            Credential::OpenPgp(..) => None,
        }
    }

    /// Who is authenticated if all goes well: the name that is carried for the wanted one, or that one.
    pub(crate) fn subject(&self) -> &DoNai {
        self.carried.as_ref().map_or(self.name, |(name, _)| name)
    }

    fn wrong_name(&self) -> Refusal {
        let carried = crate::pkix::carried(self.names);
        if carried.is_empty() {
            return Refusal::NoName { ignored: crate::pkix::unusable(self.names) };
        }
        Refusal::WrongName { wanted: self.name.clone(), carried }
    }

    fn identity(&self) -> Step {
        if let Some(refusal) = self.stale {
            return match self.ldap() {
                Step::LookUp(_) if self.carried.is_some() => Step::With(Predicate::Ldap),
                _ => Step::Done(Verdict::False, Why::Refusal(refusal.clone())),
            };
        }
        match &self.carried {
            Some((name, How::DomainForUser)) if self.inquiry.trace => {
                Step::Done(Verdict::True, Why::Text(format!("{name} answers for its user")))
            }
            Some((name, _)) if self.inquiry.trace => {
                Step::Done(Verdict::True, Why::Text(format!("its credential is for {name}")))
            }
            Some(_) => Step::Done(Verdict::True, Why::Plain),
            None if self.inquiry.wanted.is_some() && matches!(self.dane(), Step::LookUp(_)) => {
                Step::With(Predicate::Dane)
            }
            None => Step::Done(Verdict::False, Why::Refusal(self.wrong_name())),
        }
    }

    fn pkix(&self) -> Step {
        if self.leaf().is_none() {
            return OPENPGP;
        }
        match self.validator.pkix().check(&self.question()) {
            Ok(_) => Step::Done(Verdict::True, Why::Plain),
            Err(refusal) => Step::Done(Verdict::False, Why::Refusal(refusal)),
        }
    }

    fn pin(&self) -> Step {
        let pins = match self.tables.pins(self.subject()) {
            Ok(pins) if pins.is_empty() => {
                return Step::Done(Verdict::Absent, Why::Nothing("no pin for this name"));
            }
            Ok(pins) => pins,
            Err(why) => return Step::Done(Verdict::Failed, Why::Text(why)),
        };
        let shown = self.inquiry.credential.fingerprint();
        if pins.iter().any(|pin| Some(pin) == shown.as_ref()) {
            return Step::Done(Verdict::True, Why::Fixed("the fingerprint is pinned"));
        }
        Step::Done(Verdict::False, Why::Fixed("another fingerprint is pinned for this name"))
    }

    fn dane(&self) -> Step {
        if self.leaf().is_none() {
            return nothing("TLSA records are not for OpenPGP");
        }
        if !self.validator.settings().dns {
            return nothing("look-ups in the DNS are not configured");
        }
        let subject = self.subject();
        if subject.user().is_some() && !self.inquiry.domain_may_answer() {
            return nothing("DANE speaks for domains, not for users");
        }
        let (peer, endpoint) = (self.inquiry.peer, self.inquiry.endpoint);
        match tlsa_query(peer, subject, self.inquiry.service, endpoint) {
            Some(query) => Step::LookUp(query),
            None => nothing("the connection has no port, and TLSA records are for ports"),
        }
    }

    fn compare_tlsa(
        &mut self,
        records: &[crate::sources::Tlsa],
        reference_names: &[String],
    ) -> (Verdict, Why) {
        let question = Question { wanted: Some(self.subject()), ..self.question() };
        let pkix = Some(self.validator.pkix());
        let verdict = dane::check(&question, records, reference_names, pkix);
        let text = Why::Text(verdict.to_string());
        match verdict {
            dane::Verdict::Match(matched) => {
                // A key that the domain publishes is the domain's, whatever user its certificate names.
                let subject = self.subject();
                self.dane_proves_domain =
                    subject.user().is_some() && matched.name.as_ref() != Some(subject);
                (Verdict::True, text)
            }
            dane::Verdict::NoMatch(_) => (Verdict::False, text),
            dane::Verdict::Absent(_) => (Verdict::Absent, text),
        }
    }

    pub(crate) fn ldap(&self) -> Step {
        if !self.validator.settings().directory {
            return nothing("look-ups in directories are not configured");
        }
        Step::LookUp(directory_query(self.subject(), self.inquiry.credential.kind()))
    }

    fn compare_directory(&mut self, credentials: &[Vec<u8>]) -> (Verdict, Why) {
        if credentials.is_empty() {
            return (Verdict::Absent, Why::Fixed("the directory lists no certificate for it"));
        }
        let leaf = match self.inquiry.credential {
            Credential::OpenPgp(certificate, key) => {
                return openpgp::compare(self, certificate, key, credentials);
            }
            Credential::X509([leaf, ..]) => leaf,
            Credential::X509([]) => {
                return (Verdict::False, Why::Refusal(Refusal::NoCertificate));
            }
        };
        if credentials.iter().any(|listed| listed.as_slice() == leaf.as_ref()) {
            return (Verdict::True, Why::Fixed("the directory lists this certificate"));
        }
        let by_key = self.validator.settings().ldap_match == LdapMatch::Key;
        let key = by_key.then(|| public_key(leaf)).flatten();
        if key.is_some() && credentials.iter().any(|listed| public_key(listed) == key) {
            return (Verdict::True, Why::Fixed("the directory lists a certificate with this key"));
        }
        let text = format!("the directory lists {} other certificates", credentials.len());
        (Verdict::False, Why::Text(text))
    }
}

/// What is asked of the DNS about a peer; none if its records are for ports, and it has none.
pub(crate) fn tlsa_query(
    peer: Peer,
    subject: &DoNai,
    service: &str,
    endpoint: Option<Endpoint>,
) -> Option<Query> {
    let (domain, service) = (subject.domain().to_owned(), service.to_owned());
    match peer {
        Peer::Client => Some(Query::ClientTlsa { domain, service }),
        Peer::Server => {
            let Endpoint { port, transport } = endpoint?;
            Some(Query::ServerTlsa { host: domain, port, transport, service })
        }
    }
}

/// What is asked of a directory about a peer.
pub(crate) fn directory_query(subject: &DoNai, kind: CredentialKind) -> Query {
    Query::Directory { name: subject.as_str().to_owned(), kind }
}

/// The SubjectPublicKeyInfo of a certificate.
fn public_key(der: &[u8]) -> Option<&[u8]> {
    X509Certificate::from_der(der).ok().map(|(_, read)| read.tbs_certificate.subject_pki.raw)
}

/// What does not hold because another predicate does not: unknown if that is.
fn unless_failed(other: Verdict) -> Verdict {
    if other == Verdict::Failed { Verdict::Failed } else { Verdict::False }
}

fn yes_or(holds: bool, otherwise: &'static str) -> Step {
    if holds {
        Step::Done(Verdict::True, Why::Plain)
    } else {
        Step::Done(Verdict::False, Why::Fixed(otherwise))
    }
}

pub(crate) fn nothing(why: &'static str) -> Step {
    Step::Done(Verdict::Absent, Why::Nothing(why))
}
