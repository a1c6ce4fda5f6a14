//! Validation by certificate paths (RFC 5280) and names.

use std::sync::{Arc, PoisonError, RwLock};

use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime};
use tlspool_identity::x509::{self, CertificateNames, Legacy, NameSource};
use tlspool_identity::{Match, matches};
use webpki::{EndEntityCert, KeyUsage, RevocationOptions, VerifiedPath};
use x509_parser::oid_registry::OID_X509_EXT_NAME_CONSTRAINTS;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use crate::{Peer, Question, Refusal, TrustAnchors, Validated};

/// Validates against trust anchors. One may serve all threads.
#[derive(Debug)]
pub struct PkixValidator {
    anchors: RwLock<Arc<TrustAnchors>>,
    legacy: Legacy,
}

impl PkixValidator {
    /// A validator over `anchors`; `legacy` says whether CN and emailAddress of the subject count in
    /// certificates without alternative names.
    pub fn new(anchors: Arc<TrustAnchors>, legacy: Legacy) -> Self {
        Self { anchors: RwLock::new(anchors), legacy }
    }

    /// Uses other anchors from now on. What is being validated goes on with the old ones.
    pub fn replace(&self, anchors: Arc<TrustAnchors>) {
        *self.anchors.write().unwrap_or_else(PoisonError::into_inner) = anchors;
    }

    /// Answers `question` at once.
    pub fn check(&self, question: &Question<'_>) -> Result<Validated, Refusal> {
        name(&mut self.names(question, &|_| true)?, question)
    }

    /// The names in the peer's certificate, if there is a path to it that `accept` agrees to. `accept`
    /// gets the certificates above it, the anchor last; none if it is itself trusted.
    pub(crate) fn names(
        &self,
        question: &Question<'_>,
        accept: &dyn Fn(&[CertificateDer<'_>]) -> bool,
    ) -> Result<CertificateNames, Refusal> {
        let anchors = Arc::clone(&self.anchors.read().unwrap_or_else(PoisonError::into_inner));
        let (set, own) = anchors.of(question.service);
        let [leaf, rest @ ..] = question.chain else { return Err(Refusal::NoCertificate) };
        if set.exact.iter().any(|trusted| trusted == leaf) && accept(&[]) {
            check_exact(leaf, question)?;
            return Ok(x509::names(leaf, self.legacy)?);
        }
        let accept = |path: &VerifiedPath<'_>| {
            let mut issuers = Vec::new();
            for issuer in path.intermediate_certificates() {
                issuers.push(issuer.der());
            }
            let anchor = set.certificates_of(path.anchor());
            issuers.extend(anchor.map(|certificate| CertificateDer::from(certificate.as_ref())));
            accept(&issuers)
        };
        let end_entity =
            EndEntityCert::try_from(leaf).map_err(|error| refusal(&error, question, own))?;
        let path = find_path(&end_entity, rest, &set.authorities, question, &accept)
            .map_err(|error| refusal(&error, question, own))?;
        let mut names = x509::names(leaf, self.legacy)?;
        drop_unconstrained(&mut names, &path);
        Ok(names)
    }

    /// The SubjectPublicKeyInfo of who issued the peer's certificate, if there is a path to it.
    pub(crate) fn issuer_key(
        &self,
        question: &Question<'_>,
    ) -> Option<SubjectPublicKeyInfoDer<'static>> {
        let anchors = Arc::clone(&self.anchors.read().unwrap_or_else(PoisonError::into_inner));
        let (set, _) = anchors.of(question.service);
        let [leaf, rest @ ..] = question.chain else { return None };
        let end_entity = EndEntityCert::try_from(leaf).ok()?;
        let path = find_path(&end_entity, rest, &set.authorities, question, &|_| true).ok()?;
        Some(path.issuer_spki().as_ref().to_vec().into())
    }

    /// Looks for a path in which nothing is revoked.
    pub(crate) fn verify(
        &self,
        question: &Question<'_>,
        revocation: RevocationOptions<'_>,
    ) -> Result<(), webpki::Error> {
        let anchors = Arc::clone(&self.anchors.read().unwrap_or_else(PoisonError::into_inner));
        let (set, _) = anchors.of(question.service);
        let [leaf, rest @ ..] = question.chain else { return Err(webpki::Error::UnknownIssuer) };
        let end_entity = EndEntityCert::try_from(leaf)?;
        end_entity.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &set.authorities,
            rest,
            question.now,
            usage(question.peer),
            Some(revocation),
            None,
        )?;
        Ok(())
    }

    /// Whether names in the subject count.
    pub(crate) fn legacy(&self) -> Legacy {
        self.legacy
    }
}

/// A path from one of `anchors` to `end_entity` that `accept` agrees to. An error of it that no other
/// reason explains is `UnknownIssuer`.
pub(crate) fn find_path<'p>(
    end_entity: &'p EndEntityCert<'p>,
    intermediates: &'p [CertificateDer<'p>],
    anchors: &'p [TrustAnchor<'p>],
    question: &Question<'_>,
    accept: &dyn Fn(&VerifiedPath<'_>) -> bool,
) -> Result<VerifiedPath<'p>, webpki::Error> {
    let accept = |path: &VerifiedPath<'_>| {
        if accept(path) { Ok(()) } else { Err(webpki::Error::UnknownIssuer) }
    };
    end_entity.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        anchors,
        intermediates,
        question.now,
        usage(question.peer),
        None,
        Some(&accept),
    )
}

/// The extended key usage that a peer's certificate must have, if it has any.
pub(crate) fn usage(peer: Peer) -> KeyUsage {
    match peer {
        Peer::Server => KeyUsage::server_auth(),
        Peer::Client => KeyUsage::client_auth(),
    }
}

/// Time and usage of a certificate that is itself trusted.
fn check_exact(leaf: &CertificateDer<'_>, question: &Question<'_>) -> Result<(), Refusal> {
    let unreadable = |what: &str| Refusal::Malformed(what.to_owned());
    let (_, certificate) =
        X509Certificate::from_der(leaf).map_err(|_| unreadable("not an X.509 certificate"))?;
    let now = i64::try_from(question.now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(Refusal::NotYetValid(validity.not_before.to_string()));
    }
    if now > validity.not_after.timestamp() {
        return Err(Refusal::Expired(validity.not_after.to_string()));
    }
    let usage = certificate
        .extended_key_usage()
        .map_err(|_| unreadable("its extended key usage stands there twice"))?;
    match usage {
        Some(usage) if question.peer == Peer::Server && !usage.value.server_auth => {
            Err(Refusal::WrongUsage("server"))
        }
        Some(usage) if question.peer == Peer::Client && !usage.value.client_auth => {
            Err(Refusal::WrongUsage("client"))
        }
        _ => Ok(()),
    }
}

/// Name constraints are checked on alternative names only. An issuer that has any must not get
/// around them by putting a name elsewhere, so such names are not believed from it.
pub(crate) fn drop_unconstrained(names: &mut CertificateNames, path: &VerifiedPath<'_>) {
    let sources: fn(&CertificateNames) -> Vec<NameSource> = |names| {
        let of_names = names.identities.iter().map(|certified| certified.source);
        of_names.chain(names.wildcards.iter().map(|wildcard| wildcard.source)).collect()
    };
    if sources(names).into_iter().all(NameSource::is_constrained) || !has_constraints(path) {
        return;
    }
    names.identities.retain(|certified| certified.source.is_constrained());
    names.wildcards.retain(|wildcard| wildcard.source.is_constrained());
}

fn has_constraints(path: &VerifiedPath<'_>) -> bool {
    path.anchor().name_constraints.is_some()
        || path.intermediate_certificates().any(|issuer| {
            let der = issuer.der();
            let Ok((_, certificate)) = X509Certificate::from_der(&der) else { return true };
            certificate.extensions().iter().any(|e| e.oid == OID_X509_EXT_NAME_CONSTRAINTS)
        })
}

/// The name to report, out of those that the credential carries.
fn name(names: &mut CertificateNames, question: &Question<'_>) -> Result<Validated, Refusal> {
    let (identity, how) = match question.wanted {
        Some(wanted) => match matches(wanted, names, question.domain_represents_user) {
            Some(Match { identity, how, .. }) => (identity, Some(how)),
            None => {
                return Err(Refusal::WrongName { wanted: wanted.clone(), carried: carried(names) });
            }
        },
        None => match names.identities.first() {
            Some(first) => (first.name.clone(), None),
            None => return Err(Refusal::NoName { ignored: unusable(names) }),
        },
    };
    let others = names.identities.drain(..).map(|certified| certified.name);
    let others = others.filter(|other| *other != identity).collect();
    Ok(Validated {
        identity,
        others,
        how,
        source: "pkix",
        signing_key: None,
        trace: None,
        commits: Vec::new(),
    })
}

pub(crate) fn carried(names: &CertificateNames) -> Vec<String> {
    let wildcards = names.wildcards.iter().map(|wildcard| format!("*.{}", wildcard.parent));
    names.identities().map(ToString::to_string).chain(wildcards).collect()
}

pub(crate) fn unusable(names: &CertificateNames) -> Vec<String> {
    let wildcards = names
        .wildcards
        .iter()
        .map(|wildcard| format!("*.{} stands for many: name the peer you want", wildcard.parent));
    let ignored =
        names.ignored.iter().map(|ignored| format!("{:?}: {}", ignored.text, ignored.why));
    wildcards.chain(ignored).collect()
}

/// webpki's reasons in our words.
pub(crate) fn refusal(error: &webpki::Error, question: &Question<'_>, own: bool) -> Refusal {
    use webpki::Error as E;
    match error {
        E::CertExpired { not_after, .. } => Refusal::Expired(date(*not_after)),
        E::CertNotValidYet { not_before, .. } => Refusal::NotYetValid(date(*not_before)),
        E::UnknownIssuer => Refusal::UnknownIssuer {
            issuer: issuer(question.chain),
            service: if own { question.service.to_owned() } else { String::new() },
        },
        E::InvalidSignatureForPublicKey => Refusal::BadSignature,
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => {
            Refusal::WrongUsage(match question.peer {
                Peer::Server => "server",
                Peer::Client => "client",
            })
        }
        E::CaUsedAsEndEntity => Refusal::AuthorityAsPeer,
        E::EndEntityUsedAsCa => Refusal::Constrained("it is no authority (CA:FALSE)".into()),
        E::NameConstraintViolation => Refusal::Constrained("its name constraints".into()),
        E::PathLenConstraintViolated => Refusal::Constrained("its path length".into()),
        E::MaximumNameConstraintComparisonsExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumPathDepthExceeded
        | E::MaximumSignatureChecksExceeded => Refusal::TooComplex,
        E::UnsupportedCriticalExtension
        | E::UnsupportedCertVersion
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            Refusal::Unsupported(error.to_string())
        }
        other => Refusal::Malformed(other.to_string()),
    }
}

fn date(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    ASN1Time::from_timestamp(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

/// The issuer of the last certificate that the peer sent, printable and cut.
fn issuer(chain: &[CertificateDer<'_>]) -> String {
    let Some((_, last)) = chain.last().and_then(|der| X509Certificate::from_der(der).ok()) else {
        return "unreadable".to_owned();
    };
    last.issuer().to_string().chars().take(120).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests;
