//! From the premaster secret to everything derived from it: master secret (RFC 7627), record keys, Finished
//! (RFC 5246 sections 6.3, 7.4.9), exporters (RFC 5705) and channel bindings (RFC 5929, RFC 9266).

use zeroize::Zeroizing;

use crate::crypto::{Hash, RecordKey, equal, prf};
use crate::error::Error;
use crate::suite::Suite;

/// Bytes of verify_data.
pub(crate) const VERIFY_DATA: usize = 12;
/// Label and length of tls-exporter (RFC 9266 section 2).
const TLS_EXPORTER: (&[u8], usize) = (b"EXPORTER-Channel-Binding", 32);
/// Labels that derive the connection's own secrets: nothing of them may leave.
const RESERVED_LABELS: [&[u8]; 5] = [
    b"client finished",
    b"server finished",
    b"master secret",
    b"extended master secret",
    b"key expansion",
];
/// Most bytes of one export; the PRF has no bound of its own.
const MAX_EXPORT: usize = 1 << 16;

/// Which side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Speaks first.
    Client,
    /// Answers.
    Server,
}

/// The secret of a session and what it belongs to.
#[derive(Clone)]
pub(crate) struct Secrets {
    pub(crate) suite: &'static Suite,
    pub(crate) master: Zeroizing<[u8; 48]>,
    pub(crate) client_random: [u8; 32],
    pub(crate) server_random: [u8; 32],
}

impl Secrets {
    /// `session_hash`: of all messages up to and with ClientKeyExchange (RFC 7627 section 4).
    pub(crate) fn derive(
        suite: &'static Suite,
        premaster: &[u8],
        session_hash: &[u8],
        client_random: [u8; 32],
        server_random: [u8; 32],
    ) -> Result<Self, Error> {
        let mut master = Zeroizing::new([0; 48]);
        let label = b"extended master secret";
        prf(suite.hash, premaster, label, &[session_hash], master.as_mut())?;
        Ok(Self { suite, master, client_random, server_random })
    }

    /// Keys for what the client sends, and for what the server sends.
    pub(crate) fn record_keys(&self) -> Result<(RecordKey, RecordKey), Error> {
        let aead = self.suite.aead;
        let (key, iv) = (aead.key_len(), aead.fixed_iv_len());
        let mut block = Zeroizing::new(vec![0; 2 * (key + iv)]);
        let seeds: [&[u8]; 2] = [&self.server_random, &self.client_random];
        prf(self.suite.hash, self.master.as_ref(), b"key expansion", &seeds, &mut block)?;
        let (keys, ivs) = block.split_at(2 * key);
        Ok((
            RecordKey::new(aead, &keys[..key], &ivs[..iv])?,
            RecordKey::new(aead, &keys[key..], &ivs[iv..])?,
        ))
    }

    /// What the Finished of `sender` holds after messages with this digest.
    pub(crate) fn verify_data(
        &self,
        sender: Role,
        digest: &[u8],
    ) -> Result<[u8; VERIFY_DATA], Error> {
        let label: &[u8] = match sender {
            Role::Client => b"client finished",
            Role::Server => b"server finished",
        };
        let mut data = [0; VERIFY_DATA];
        prf(self.suite.hash, self.master.as_ref(), label, &[digest], &mut data)?;
        Ok(data)
    }
}

/// Compares the peer's Finished, in constant time.
pub(crate) fn check_finished(expected: &[u8; VERIFY_DATA], body: &[u8]) -> Result<(), Error> {
    if body.len() != VERIFY_DATA {
        return Err(Error::Malformed("Finished"));
    }
    if equal(expected, body) { Ok(()) } else { Err(Error::Decrypt("Finished")) }
}

/// Computes keying material of one session; independent of the connection's further life.
#[derive(Clone)]
pub struct Exporter {
    hash: Hash,
    master: Zeroizing<[u8; 48]>,
    randoms: [u8; 64],
    tls_unique: [u8; VERIFY_DATA],
}

/// A label that is reserved, or a label, context or output that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the exporter's label is reserved, or its label, context or output is too long")]
pub struct ExportError;

impl Exporter {
    pub(crate) fn new(secrets: &Secrets, tls_unique: [u8; VERIFY_DATA]) -> Self {
        let mut randoms = [0; 64];
        randoms[..32].copy_from_slice(&secrets.client_random);
        randoms[32..].copy_from_slice(&secrets.server_random);
        Self { hash: secrets.suite.hash, master: secrets.master.clone(), randoms, tls_unique }
    }

    /// Fills `out` for `label` (RFC 5705 section 4). No context differs from an empty one.
    pub fn export(
        &self,
        label: &[u8],
        context: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), ExportError> {
        if RESERVED_LABELS.contains(&label) || out.len() > MAX_EXPORT {
            return Err(ExportError);
        }
        if out.is_empty() {
            return Ok(());
        }
        let mut seed = Vec::with_capacity(66);
        if let Some(context) = context {
            let length = u16::try_from(context.len()).map_err(|_| ExportError)?;
            seed.extend_from_slice(&length.to_be_bytes());
            seed.extend_from_slice(context);
        }
        let seeds: [&[u8]; 2] = [&self.randoms, &seed];
        prf(self.hash, self.master.as_ref(), label, &seeds, out).map_err(|_| ExportError)
    }

    /// The first Finished message of the latest handshake (RFC 5929 section 3).
    pub fn tls_unique(&self) -> &[u8; VERIFY_DATA] {
        &self.tls_unique
    }

    /// tls-exporter (RFC 9266).
    pub fn tls_exporter(&self) -> Result<[u8; 32], ExportError> {
        let mut out = [0; TLS_EXPORTER.1];
        self.export(TLS_EXPORTER.0, Some(b""), &mut out)?;
        Ok(out)
    }
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        let suite = Suite::from_code(0xC02F).unwrap();
        Secrets::derive(suite, &[1; 32], &[2; 32], [3; 32], [4; 32]).unwrap()
    }

    #[test]
    fn exports_have_a_bound() {
        assert_eq!(MAX_EXPORT, 65_536);
    }

    #[test]
    fn finished_is_compared() {
        let secrets = secrets();
        let data = secrets.verify_data(Role::Client, &[5; 32]).unwrap();
        assert_ne!(data, secrets.verify_data(Role::Server, &[5; 32]).unwrap());
        assert_eq!(check_finished(&data, &data), Ok(()));
        let mut other = data;
        other[11] ^= 1;
        assert_eq!(check_finished(&data, &other), Err(Error::Decrypt("Finished")));
        assert_eq!(check_finished(&data, &data[..11]), Err(Error::Malformed("Finished")));
    }

    #[test]
    fn exports_have_bounds() {
        let exporter = Exporter::new(&secrets(), [7; 12]);
        let (mut with, mut without) = ([0; 20], [0; 20]);
        exporter.export(b"EXPERIMENTAL", Some(b""), &mut with).unwrap();
        exporter.export(b"EXPERIMENTAL", None, &mut without).unwrap();
        assert_ne!(with, without);
        assert_eq!(exporter.export(b"key expansion", None, &mut with), Err(ExportError));
        let long = vec![0; 1 << 16];
        assert_eq!(exporter.export(b"x", Some(&long), &mut with), Err(ExportError));
        assert_eq!(exporter.export(b"x", None, &mut vec![0; MAX_EXPORT]), Ok(()));
        assert_eq!(exporter.export(b"x", None, &mut vec![0; MAX_EXPORT + 1]), Err(ExportError));
        assert_eq!(exporter.export(b"x", None, &mut []), Ok(()));
        assert_eq!(exporter.tls_unique(), &[7; 12]);
        let mut binding = [0; 32];
        exporter.export(b"EXPORTER-Channel-Binding", Some(b""), &mut binding).unwrap();
        assert_eq!(exporter.tls_exporter(), Ok(binding));
        assert!(binding != [0; 32] && binding != [1; 32]);
    }
}
