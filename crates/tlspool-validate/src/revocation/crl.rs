//! `crl`: certificate revocation lists (RFC 5280), from files and fetched.

use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::{Issuer, crl_url};
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

/// By the lists in files if one is by the issuer, else by the list that the certificate names.
pub(crate) fn begin(evaluation: &Evaluation<'_>, leaf: &CertificateDer<'_>) -> Step {
    let settings = evaluation.validator.settings();
    let url = crl_url(leaf).filter(|_| settings.revocation);
    let local = &evaluation.validator.revocation_lists().lists;
    if local.is_empty() && url.is_none() {
        return nothing("no revocation list is configured, and the certificate names none to ask");
    }
    let Some(issuer) = Issuer::of(evaluation) else {
        return match url {
            None => nothing("no revocation list is configured for its issuer"),
            Some(_) => Step::Done(Verdict::Failed, Why::Fixed(UNKNOWN_ISSUER)),
        };
    };
    if local.iter().any(|list| list.issuer() == issuer.name.as_slice()) {
        let lists: Vec<&CertRevocationList<'_>> = local.iter().collect();
        let (verdict, why) = check(evaluation, &issuer, &lists);
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
    check(evaluation, &issuer, &[&list])
}

fn check(
    evaluation: &Evaluation<'_>,
    issuer: &Issuer,
    lists: &[&CertRevocationList<'_>],
) -> (Verdict, Why) {
    match try_check(evaluation, issuer, lists) {
        Ok(()) => (Verdict::True, Why::Fixed("not on the issuer's revocation list")),
        Err(webpki::Error::CertRevoked) => {
            (Verdict::False, Why::Refusal(crate::Refusal::Revoked("a revocation list".into())))
        }
        Err(webpki::Error::CrlExpired { .. }) => {
            (Verdict::Failed, Why::Fixed("the revocation list is out of date"))
        }
        Err(webpki::Error::UnknownRevocationStatus) => {
            (Verdict::Failed, Why::Fixed("the revocation list is not for this certificate"))
        }
        Err(webpki::Error::InvalidCrlSignatureForPublicKey) => {
            (Verdict::Failed, Why::Fixed("the signature of the revocation list is wrong"))
        }
        Err(other) => (Verdict::Failed, Why::Text(format!("it cannot be checked: {other}"))),
    }
}

/// The peer's own certificate must be on a list's domain and not on the list; those above it must not be
/// on any list that we have.
fn try_check(
    evaluation: &Evaluation<'_>,
    issuer: &Issuer,
    lists: &[&CertRevocationList<'_>],
) -> Result<(), webpki::Error> {
    let required = || webpki::Error::UnknownRevocationStatus;
    let builder = || RevocationOptionsBuilder::new(lists).map_err(|_| required());
    let options = builder()?
        .with_depth(RevocationCheckDepth::EndEntity)
        .with_status_policy(UnknownStatusPolicy::Deny)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build();
    let question = evaluation.question();
    let leaf = question.chain.first().ok_or_else(required)?;
    let end_entity = EndEntityCert::try_from(leaf)?;
    let usage = usage(question.peer);
    let anchor = issuer.anchor().ok_or_else(required)?;
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    end_entity.verify_for_usage(
        algorithms,
        &[anchor],
        &[],
        question.now,
        usage,
        Some(options),
        None,
    )?;
    let options = builder()?
        .with_depth(RevocationCheckDepth::Chain)
        .with_status_policy(UnknownStatusPolicy::Allow)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build();
    match evaluation.validator.pkix().verify(&question, options) {
        // Without a path there is nothing above that could be asked about.
        Err(webpki::Error::CertRevoked) => Err(webpki::Error::CertRevoked),
        _ => Ok(()),
    }
}
