//! Keying material exporters (RFC 5705, RFC 8446 section 7.5) and channel bindings (RFC 5929,
//! RFC 9266), from secrets kept at the handshake for sessions that have a control key.

use rustls::crypto::tls13::OkmBlock;
use rustls::{SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite};
use zeroize::Zeroizing;

/// Label and length of tls-exporter (RFC 9266 section 2).
const TLS_EXPORTER: (&[u8], usize) = (b"EXPORTER-Channel-Binding", 32);

/// Computes keying material of one session.
pub struct Exporter(Kind);

enum Kind {
    Tls13 { suite: &'static Tls13CipherSuite, secret: Zeroizing<Vec<u8>> },
    Tls12 { suite: &'static Tls12CipherSuite, master: Zeroizing<Vec<u8>>, seen: Seen },
    Twelve(tls12::Exporter),
}

/// What a TLS 1.2 handshake showed in the clear.
struct Seen {
    randoms: [u8; 64],
    tls_unique: [u8; 12],
}

impl Exporter {
    pub(crate) fn new(
        suite: SupportedCipherSuite,
        secret: Zeroizing<Vec<u8>>,
        transcript: &Transcript,
    ) -> Option<Self> {
        Some(Self(match suite {
            SupportedCipherSuite::Tls13(suite) => Kind::Tls13 { suite, secret },
            SupportedCipherSuite::Tls12(suite) => {
                let mut randoms = [0; 64];
                let (client, server) = transcript.randoms()?;
                randoms[..32].copy_from_slice(client);
                randoms[32..].copy_from_slice(server);
                let label: &[u8] = match transcript.finisher? {
                    Sender::Client => b"client finished",
                    Sender::Server => b"server finished",
                };
                let hash = suite.common.hash_provider.hash(&transcript.messages);
                let mut tls_unique = [0; 12];
                suite.prf_provider.for_secret(&mut tls_unique, &secret, label, hash.as_ref());
                Kind::Tls12 { suite, master: secret, seen: Seen { randoms, tls_unique } }
            }
        }))
    }

    /// Of a session of the engine `tls12`.
    pub(crate) fn twelve(exporter: tls12::Exporter) -> Self {
        Self(Kind::Twelve(exporter))
    }

    /// Fills `out` with keying material for `label` and `context`; no context differs from an
    /// empty one in TLS 1.2 (RFC 5705 section 4), and does not in TLS 1.3. An error if a label
    /// or context is too long.
    pub fn export(
        &self,
        label: &[u8],
        context: Option<&[u8]>,
        out: &mut [u8],
    ) -> Result<(), TooLong> {
        // The key derivation that rustls has for TLS 1.2 panics.
        if out.is_empty() {
            return Ok(());
        }
        match &self.0 {
            Kind::Tls13 { suite, secret } => {
                let hash = suite.common.hash_provider;
                let mut derived = Zeroizing::new([0; 64]);
                let derived = &mut derived[..hash.output_len()];
                expand_label(suite, secret, label, hash.hash(b"").as_ref(), derived)?;
                let context = hash.hash(context.unwrap_or_default());
                expand_label(suite, derived, b"exporter", context.as_ref(), out)
            }
            Kind::Tls12 { suite, master, seen } => {
                let mut seed = seen.randoms.to_vec();
                if let Some(context) = context {
                    let length = u16::try_from(context.len()).map_err(|_| TooLong)?;
                    seed.extend_from_slice(&length.to_be_bytes());
                    seed.extend_from_slice(context);
                }
                suite.prf_provider.for_secret(out, master, label, &seed);
                Ok(())
            }
            Kind::Twelve(exporter) => exporter.export(label, context, out).map_err(|_| TooLong),
        }
    }

    /// The first Finished message of the handshake (RFC 5929 section 3); none in TLS 1.3.
    pub fn tls_unique(&self) -> Option<&[u8; 12]> {
        match &self.0 {
            Kind::Tls13 { .. } => None,
            Kind::Tls12 { seen, .. } => Some(&seen.tls_unique),
            Kind::Twelve(exporter) => Some(exporter.tls_unique()),
        }
    }

    /// tls-exporter (RFC 9266).
    pub fn tls_exporter(&self) -> Result<[u8; 32], TooLong> {
        let mut out = [0; TLS_EXPORTER.1];
        self.export(TLS_EXPORTER.0, Some(b""), &mut out)?;
        Ok(out)
    }
}

/// The label, the context or the output is longer than the protocol can express.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the exporter's label, context or output is too long")]
pub struct TooLong;

/// HKDF-Expand-Label (RFC 8446 section 7.1).
fn expand_label(
    suite: &Tls13CipherSuite,
    secret: &[u8],
    label: &[u8],
    context: &[u8],
    out: &mut [u8],
) -> Result<(), TooLong> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(out.len()).map_err(|_| TooLong)?;
    let label_length = u8::try_from(PREFIX.len() + label.len()).map_err(|_| TooLong)?;
    let context_length = u8::try_from(context.len()).map_err(|_| TooLong)?;
    let info: [&[u8]; 6] =
        [&length.to_be_bytes(), &[label_length], PREFIX, label, &[context_length], context];
    suite
        .hkdf_provider
        .expander_for_okm(&OkmBlock::new(secret))
        .expand_slice(&info, out)
        .map_err(|_| TooLong)
}

/// tls-server-end-point (RFC 5929 section 4): the digest of the server's certificate with the
/// hash of its signature algorithm, SHA-256 in place of MD5 and SHA-1.
pub fn tls_server_end_point(certificate: &[u8], signature_hash: SignatureHash) -> Vec<u8> {
    use aws_lc_rs::digest::{SHA256, SHA384, SHA512, digest};
    let algorithm = match signature_hash {
        SignatureHash::Sha256 => &SHA256,
        SignatureHash::Sha384 => &SHA384,
        SignatureHash::Sha512 => &SHA512,
    };
    digest(algorithm, certificate).as_ref().to_vec()
}

/// Hash used by a certificate's signature, as tls-server-end-point counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SignatureHash {
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    Client,
    Server,
}

/// The handshake messages of a TLS 1.2 handshake up to its first Finished, read off the records
/// as they pass. (For TLS 1.3 it soon stops: there is nothing more to read in the clear.)
#[derive(Default)]
pub(crate) struct Transcript {
    messages: Vec<u8>,
    finisher: Option<Sender>,
}

/// Handshake records, and the record that ends them.
const CHANGE_CIPHER_SPEC: u8 = 20;
const HANDSHAKE: u8 = 22;

/// No handshake in the clear is longer; beyond it the binding is given up, not the memory.
const TRANSCRIPT_LIMIT: usize = 256 * 1024;

impl Transcript {
    /// Whole records that `sender` sent.
    pub(crate) fn see(&mut self, sender: Sender, mut records: &[u8]) {
        while self.finisher.is_none()
            && let [kind, _, _, high, low, rest @ ..] = records
        {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some((fragment, rest)) = rest.split_at_checked(length) else { return };
            match *kind {
                HANDSHAKE if self.messages.len() + length <= TRANSCRIPT_LIMIT => {
                    self.messages.extend_from_slice(fragment);
                }
                CHANGE_CIPHER_SPEC => self.finisher = Some(sender),
                _ => {}
            }
            records = rest;
        }
    }

    /// The randoms of the two Hello messages: 4 bytes of header and 2 of version precede them.
    fn randoms(&self) -> Option<(&[u8], &[u8])> {
        let header = self.messages.get(1..4)?;
        let length = header.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let server_hello = self.messages.get(4 + length..)?;
        Some((self.messages.get(6..38)?, server_hello.get(6..38)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::crypto::aws_lc_rs::cipher_suite;

    #[test]
    fn nothing_is_exported_where_nothing_is_wanted() {
        let secret = || Zeroizing::new(vec![7; 32]);
        let seen = Seen { randoms: [1; 64], tls_unique: [2; 12] };
        let SupportedCipherSuite::Tls13(new) = cipher_suite::TLS13_AES_128_GCM_SHA256 else {
            panic!("a suite of TLS 1.3")
        };
        let old = cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
        let SupportedCipherSuite::Tls12(old) = old else { panic!("a suite of TLS 1.2") };
        let kinds = [
            Kind::Tls13 { suite: new, secret: secret() },
            Kind::Tls12 { suite: old, master: secret(), seen },
        ];
        for exporter in kinds.map(Exporter) {
            exporter.export(b"EXPERIMENTAL", None, &mut []).unwrap();
            let mut out = [0; 20];
            exporter.export(b"EXPERIMENTAL", Some(b"x"), &mut out).unwrap();
            assert_ne!(out, [0; 20]);
        }
    }
}
