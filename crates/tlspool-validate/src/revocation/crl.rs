//! `crl`: certificate revocation lists (RFC 5280), from files and fetched.

use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::{Issuer, crl_url, issuer_name};
use crate::evaluate::{Evaluation, Step, Why};
use crate::pkix::usage;
use crate::policy::Verdict;
use crate::predicates::nothing;
use crate::sources::Query;

/// Largest file of lists that is read.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Lists out of files. Built once, shared, and replaced when the files are read again.
#[derive(Debug, Default)]
pub struct RevocationLists {
    lists: Vec<CertRevocationList<'static>>,
}

/// Why lists cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RevocationListError {
    /// A file or folder cannot be read.
    #[error("cannot read revocation lists from {}: {why}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl RevocationLists {
    /// Reads PEM and DER files, and the files of folders.
    pub fn load(paths: &[PathBuf]) -> Result<Self, RevocationListError> {
        let mut lists = Vec::new();
        for path in paths {
            let failed = |why: String| RevocationListError::Read { path: path.clone(), why };
            let data = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
            let mut files = vec![path.clone()];
            if data.is_dir() {
                let entries = std::fs::read_dir(path).map_err(|error| failed(error.to_string()))?;
                files = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
                files.retain(|file| std::fs::metadata(file).is_ok_and(|data| data.is_file()));
                files.sort();
            }
            for file in files {
                read_file(&file, &mut lists)?;
            }
        }
        Ok(Self { lists })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lists.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }
}

fn read_file(
    path: &Path,
    lists: &mut Vec<CertRevocationList<'static>>,
) -> Result<(), RevocationListError> {
    let failed = |why: String| RevocationListError::Read { path: path.to_owned(), why };
    let size = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.len();
    if size > MAX_FILE {
        return Err(failed(format!("{size} bytes; at most {MAX_FILE} are read")));
    }
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    let ders = if bytes.first() == Some(&0x30) {
        vec![CertificateRevocationListDer::from(bytes)]
    } else {
        CertificateRevocationListDer::pem_slice_iter(&bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| failed(error.to_string()))?
    };
    if ders.is_empty() {
        return Err(failed("there is no revocation list in it".to_owned()));
    }
    for der in ders {
        let list = OwnedCertRevocationList::from_der(&der)
            .map_err(|error| failed(format!("{error}; it must be a whole list of version 2")))?;
        lists.push(list.into());
    }
    Ok(())
}

/// By the lists in files if one is by the issuer, else by the list that the certificate names. What is above
/// the certificate is looked for in the lists in files in any case.
pub(crate) fn begin(evaluation: &Evaluation<'_>, leaf: &CertificateDer<'_>) -> Step {
    let settings = evaluation.validator.settings();
    let url = crl_url(leaf).filter(|_| settings.revocation);
    let local: Vec<&CertRevocationList<'_>> =
        evaluation.validator.revocation_lists().lists.iter().collect();
    if local.is_empty() && url.is_none() {
        return nothing("no revocation list is configured, and the certificate names none to ask");
    }
    let by_issuer = match issuer_name(leaf) {
        Some(name) => local.iter().any(|list| list.issuer() == name.as_slice()),
        None => return Step::Done(Verdict::Failed, Why::Fixed(UNKNOWN_ISSUER)),
    };
    let issuer = Issuer::of(evaluation);
    if issuer.is_none() && (by_issuer || url.is_some()) {
        return Step::Done(Verdict::Failed, Why::Fixed(UNKNOWN_ISSUER));
    }
    if let (Some(issuer), true) = (&issuer, by_issuer) {
        let (verdict, why) = check(evaluation, issuer, &local);
        return Step::Done(verdict, why);
    }
    if !local.is_empty()
        && let Err(error) = check_above(evaluation, &local)
    {
        let (verdict, why) = explain(&error);
        return Step::Done(verdict, why);
    }
    match url {
        Some(url) => Step::LookUp(Query::Crl { url }),
        None => nothing("no revocation list is configured for its issuer"),
    }
}

pub(super) const UNKNOWN_ISSUER: &str = "it cannot be told who issued the certificate";

/// By a list that was fetched.
pub(crate) fn judge(evaluation: &Evaluation<'_>, der: &[u8]) -> (Verdict, Why) {
    let Some(issuer) = Issuer::of(evaluation) else {
        return (Verdict::Failed, Why::Fixed(UNKNOWN_ISSUER));
    };
    let list = match webpki::BorrowedCertRevocationList::from_der(der) {
        Ok(list) => CertRevocationList::from(list),
        Err(error) => {
            return (Verdict::Failed, Why::Text(format!("the list cannot be read: {error}")));
        }
    };
    // Those in files first: the peer chose the other one, which may stand in for none of them.
    let local = evaluation.validator.revocation_lists().lists.iter();
    let lists: Vec<&CertRevocationList<'_>> = local.chain([&list]).collect();
    check(evaluation, &issuer, &lists)
}

fn check(
    evaluation: &Evaluation<'_>,
    issuer: &Issuer,
    lists: &[&CertRevocationList<'_>],
) -> (Verdict, Why) {
    let checked = check_own(evaluation, issuer, lists);
    match checked.and_then(|()| check_above(evaluation, lists)) {
        Ok(()) => (Verdict::True, Why::Fixed("not on the issuer's revocation list")),
        Err(error) => explain(&error),
    }
}

fn explain(error: &webpki::Error) -> (Verdict, Why) {
    match error {
        webpki::Error::CertRevoked => {
            (Verdict::False, Why::Refusal(crate::Refusal::Revoked("a revocation list".into())))
        }
        webpki::Error::CrlExpired { .. } => {
            (Verdict::Failed, Why::Fixed("the revocation list is out of date"))
        }
        webpki::Error::UnknownRevocationStatus => {
            (Verdict::Failed, Why::Fixed("the revocation list is not for this certificate"))
        }
        webpki::Error::InvalidCrlSignatureForPublicKey => {
            (Verdict::Failed, Why::Fixed("the signature of the revocation list is wrong"))
        }
        other => (Verdict::Failed, Why::Text(format!("it cannot be checked: {other}"))),
    }
}

/// The peer's own certificate must be on a list's domain and not on the list.
fn check_own(
    evaluation: &Evaluation<'_>,
    issuer: &Issuer,
    lists: &[&CertRevocationList<'_>],
) -> Result<(), webpki::Error> {
    let required = || webpki::Error::UnknownRevocationStatus;
    let options = RevocationOptionsBuilder::new(lists)
        .map_err(|_| required())?
        .with_depth(RevocationCheckDepth::EndEntity)
        .with_status_policy(UnknownStatusPolicy::Deny)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build();
    let question = evaluation.question();
    let leaf = question.chain.first().ok_or_else(required)?;
    let end_entity = EndEntityCert::try_from(leaf)?;
    let anchor = issuer.anchor().ok_or_else(required)?;
    end_entity.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &[anchor],
        &[],
        question.now,
        usage(question.peer),
        Some(options),
        None,
    )?;
    Ok(())
}

/// If the peer's certificate has a path to an anchor, it must have one on which no certificate is on any list
/// that we have.
fn check_above(
    evaluation: &Evaluation<'_>,
    lists: &[&CertRevocationList<'_>],
) -> Result<(), webpki::Error> {
    let options = RevocationOptionsBuilder::new(lists)
        .map_err(|_| webpki::Error::UnknownRevocationStatus)?
        .with_depth(RevocationCheckDepth::Chain)
        .with_status_policy(UnknownStatusPolicy::Allow)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build();
    let question = evaluation.question();
    let pkix = evaluation.validator.pkix();
    match pkix.verify(&question, options) {
        Ok(()) => Ok(()),
        // Without a path there is nothing above that could be asked about. With one, the error may be
        // about any of those that the peer's other certificates make: it says nothing good.
        Err(_) if pkix.issuer_key(&question).is_none() => Ok(()),
        Err(error) => Err(error),
    }
}
