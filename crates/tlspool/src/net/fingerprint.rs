//! The OpenPGP certificate of a peer that has shown but its fingerprint (RFC 6091 section 3.3): among the
//! keys of the trust table, or in the directory of the name that the peer should have.

use std::time::SystemTime;

use tlspool_identity::DoNai;
use tlspool_openpgp::{Certificate, KeyId, Limits};
use tlspool_validate::sources::{Answer, Options, Outcome, Query, Sources};

/// What the peer has shown.
pub(crate) struct Shown<'a> {
    /// The fingerprint of its certificate.
    pub(crate) fingerprint: &'a [u8],
    /// The key that signs the handshake.
    pub(crate) key: KeyId,
}

/// Finds the certificate. `known` is the trust table's copy; it counts at once if its key may sign, and else if the
/// directory of `name` has none that is newer. An error says what was tried.
pub(crate) async fn find(
    shown: &Shown<'_>,
    known: Option<Certificate>,
    name: Option<&DoNai>,
    sources: &dyn Sources,
    options: Options,
) -> Result<Certificate, String> {
    let may_sign = |known: &Certificate| known.signing_key(shown.key, SystemTime::now()).is_ok();
    let known = match known {
        Some(known) if may_sign(&known) => return Ok(known),
        known => known,
    };
    match (listed(shown, name, sources, options).await, known) {
        (Err(_), Some(known)) => Ok(known),
        (listed, _) => listed,
    }
}

async fn listed(
    shown: &Shown<'_>,
    name: Option<&DoNai>,
    sources: &dyn Sources,
    options: Options,
) -> Result<Certificate, String> {
    let Some(name) = name else {
        return Err("it is but a fingerprint, and nobody knows whose directory has the rest; name the peer, \
             or add the certificate to the trust table"
            .to_owned());
    };
    let fingerprint = shown.fingerprint;
    let query =
        Query::OpenPgpKey { name: name.as_str().to_owned(), fingerprint: fingerprint.to_vec() };
    let bytes = match sources.look_up(&query, options).await.outcome {
        Outcome::Present(Answer::OpenPgpKey(bytes)) => bytes,
        Outcome::Present(_) => return Err("another kind of answer".to_owned()),
        Outcome::Absent(why) | Outcome::Failed(why) => {
            return Err(format!("it is but a fingerprint; {why}"));
        }
    };
    let certificate = Certificate::read(&bytes, Limits::PEER).map_err(|error| error.to_string())?;
    if certificate.fingerprint().as_bytes() != fingerprint {
        return Err("the directory's has another fingerprint".to_owned());
    }
    Ok(certificate)
}
