//! OpenPGP in the administrator's commands: keys of `tlspool identity` and of `tlspool trust`.

mod add;
mod change;
mod create;
mod describe;
mod key;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tlspool_openpgp::{Certificate, Limits};
use tlspool_store::{CertificateSource, LocalIdentity};

use super::AdminError;
use super::output;

pub(super) use add::{add, trust, trust_one};
pub(super) use change::{RenewArgs, RevokeArgs, renew, revoke};
pub(super) use create::{OpenPgpArgs, create};
pub(super) use describe::OpenPgpDescription;

/// Now, in the whole seconds that OpenPGP counts.
pub(super) fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// Reads an OpenPGP certificate from a file, or from standard input if it is `-`.
fn read_file(path: &Path, limits: Limits) -> Result<Certificate, AdminError> {
    // In armor it is longer.
    let most = limits.bytes as u64 * 2;
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    result.map_err(|error| AdminError::reading(path, error))?;
    Certificate::read(&bytes, limits)
        .map_err(|why| AdminError::OpenPgp { path: path.to_owned(), why })
}

/// Reads what stands in the database.
pub(super) fn read_stored(bytes: &[u8]) -> Result<Certificate, AdminError> {
    Certificate::read(bytes, Limits::LARGE)
        .map_err(|error| AdminError::Usage(format!("the stored OpenPGP certificate: {error}")))
}

/// Reads the text in an import of identities.
pub(super) fn read_text(text: &str) -> Result<Certificate, AdminError> {
    Certificate::read(text.as_bytes(), Limits::PEER)
        .map_err(|error| AdminError::Usage(error.to_string()))
}

/// Reads the text in an import of trusted keys.
pub(super) fn read_trusted(text: &str) -> Result<Certificate, AdminError> {
    Certificate::read(text.as_bytes(), Limits::LARGE)
        .map_err(|error| AdminError::Usage(error.to_string()))
}

/// The certificate of the one OpenPGP row among `rows`.
fn only<'r>(
    rows: &'r [LocalIdentity],
    name: &str,
) -> Result<(&'r LocalIdentity, Certificate), AdminError> {
    let mut found = rows.iter().filter_map(|row| match &row.certificate {
        CertificateSource::OpenPgp(bytes) => Some((row, bytes)),
        _ => None,
    });
    let Some((row, bytes)) = found.next() else {
        return Err(AdminError::Usage(format!(
            "{name} has no OpenPGP certificate; make one with: tlspool identity create {name} \
             --openpgp"
        )));
    };
    if found.next().is_some() {
        return Err(AdminError::Usage(format!(
            "{name} has several OpenPGP certificates; give the number of one, see: tlspool identity \
             list {name}"
        )));
    }
    Ok((row, read_stored(bytes)?))
}

/// `tlspool identity export --armor | --binary`: one certificate, to publish.
pub(super) fn export(
    rows: &[LocalIdentity],
    name: &str,
    binary: bool,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    let (_, certificate) = only(rows, name)?;
    let bytes = if binary { certificate.to_bytes() } else { certificate.to_armored().into_bytes() };
    out.write_all(&bytes).map_err(AdminError::Output)
}

/// A line of advice on publishing.
fn publish(name: &str) {
    output::note(format_args!(
        "publish the certificate: tlspool identity export {name} --armor > {name}.asc"
    ));
}
