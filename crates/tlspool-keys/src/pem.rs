//! Keys and certificates in files: PEM (PKCS#8, SEC1, PKCS#1; RFC 7468) or bare DER.
//!
//! The file is read when a key is opened, and again when it has changed since. A key that was
//! opened keeps signing with what was read then, because it belongs to the certificate that was
//! read with it: its [`KeyId`](crate::KeyId) covers the public key.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64ct::{Base64, Encoding};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use crate::algorithm::Payload;
use crate::{KeyAlgorithm, KeyError, SignScheme};
use crate::{der, files};

/// Larger files are refused: a chain of certificates takes a few KiB.
const MAX_FILE: u64 = 1 << 20;

/// What stands behind `-----BEGIN`: PKCS #8, SEC 1, PKCS #1.
const KEY_LABELS: [&str; 3] = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"];

/// A private key read from a file.
pub(crate) struct PemKey {
    path: PathBuf,
    stamp: Stamp,
    key: PrivateKey,
    spki_der: Vec<u8>,
    algorithm: KeyAlgorithm,
}

enum PrivateKey {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// What changes when somebody writes or replaces a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl PemKey {
    /// Reads the first private key of the file.
    pub(crate) fn read(path: &Path) -> Result<Self, KeyError> {
        let (bytes, stamp) = read_file(path, "key")?;
        let key = parse_key(path, &bytes)?;
        let (spki_der, algorithm) = key.public().ok_or_else(|| unreadable(path))?;
        Ok(Self { path: path.to_owned(), stamp, key, spki_der, algorithm })
    }

    /// Whether the file is still the one that was read.
    pub(crate) fn is_current(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|meta| Stamp::of(&meta) == self.stamp)
    }

    pub(crate) fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    pub(crate) fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// Signs into `out`, which is emptied first.
    pub(crate) fn sign(
        &self,
        scheme: SignScheme,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), KeyError> {
        self.algorithm.check(scheme)?;
        out.clear();
        let failed = |_| KeyError::File(format!("{}: signing failed", self.path.display()));
        let random = SystemRandom::new();
        match &self.key {
            PrivateKey::Ecdsa(key) => {
                out.extend_from_slice(key.sign(&random, message).map_err(failed)?.as_ref());
            }
            PrivateKey::Ed25519(key) => {
                out.extend_from_slice(key.try_sign(message).map_err(failed)?.as_ref());
            }
            PrivateKey::Rsa(key) => {
                out.resize(key.public_modulus_len(), 0);
                key.sign(rsa_encoding(scheme)?, &random, message, out).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Signs a hash that somebody else has made.
    pub(crate) fn sign_digest(
        &self,
        scheme: SignScheme,
        digest: &[u8],
    ) -> Result<Vec<u8>, KeyError> {
        self.algorithm.check(scheme)?;
        let failed = |_| KeyError::File(format!("{}: signing failed", self.path.display()));
        let Some(algorithm) = scheme.digest() else {
            let mut signature = Vec::new();
            self.sign(scheme, digest, &mut signature)?;
            return Ok(signature);
        };
        let digest = Payload::Digest(digest).digest(algorithm)?;
        match &self.key {
            PrivateKey::Ecdsa(key) => {
                Ok(key.sign_digest(&digest).map_err(failed)?.as_ref().to_vec())
            }
            PrivateKey::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let encoding = rsa_encoding(scheme)?;
                key.sign_digest(encoding, &digest, &mut signature).map_err(failed)?;
                Ok(signature)
            }
            PrivateKey::Ed25519(_) => Err(KeyError::Unsupported(format!("{scheme:?} of a hash"))),
        }
    }
}

impl PrivateKey {
    fn public(&self) -> Option<(Vec<u8>, KeyAlgorithm)> {
        Some(match self {
            Self::Rsa(key) => der::rsa_spki_from_pkcs1(key.public_key().as_ref())?,
            Self::Ed25519(key) => {
                (der::ed25519_spki(key.public_key().as_ref()), KeyAlgorithm::Ed25519)
            }
            Self::Ecdsa(key) => match key.public_key().as_ref() {
                point if point.len() == 65 => (der::p256_spki(point), KeyAlgorithm::P256),
                point => (der::p384_spki(point), KeyAlgorithm::P384),
            },
        })
    }
}

/// The certificates of a file, in the order of the file: PEM, or one in DER.
pub(crate) fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, KeyError> {
    let (bytes, _) = read_file(path, "certificate")?;
    let bad = |what: String| KeyError::File(format!("certificate file {}: {what}", path.display()));
    if is_der(&bytes) {
        return Ok(vec![bytes.to_vec()]);
    }
    let chain = CertificateDer::pem_slice_iter(&bytes)
        .map(|der| der.map(|der| der.to_vec()).map_err(|e| bad(e.to_string())))
        .collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        return Err(bad("has no BEGIN CERTIFICATE".into()));
    }
    Ok(chain)
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            size: meta.size(),
        }
    }
}

fn read_file(path: &Path, what: &str) -> Result<(Zeroizing<Vec<u8>>, Stamp), KeyError> {
    let (bytes, meta) = files::read(path, MAX_FILE).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => KeyError::NotFound(path.display().to_string()),
        _ => KeyError::File(format!("{what} file {}: {error}", path.display())),
    })?;
    Ok((bytes, Stamp::of(&meta)))
}

fn is_der(bytes: &[u8]) -> bool {
    matches!(der::read_tlv(bytes), Some((0x30, _, [])))
}

fn parse_key(path: &Path, bytes: &[u8]) -> Result<PrivateKey, KeyError> {
    let fail = |text: &str| KeyError::File(format!("key file {}: {text}", path.display()));
    // Everything below refers to `bytes` or to `section`, both of which are wiped.
    let section;
    let der = if is_der(bytes) {
        PrivateKeyDer::try_from(bytes).map_err(fail)?
    } else {
        let says = |needle: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
        if says(b"BEGIN ENCRYPTED PRIVATE KEY") || says(b"Proc-Type: 4,ENCRYPTED") {
            return Err(fail(
                "is encrypted with a passphrase, which the pool does not take; decrypt it with \
                 openssl pkey, or import it into a token",
            ));
        }
        let (label, text) =
            pem_section(bytes).ok_or_else(|| fail("has no BEGIN PRIVATE KEY, or no END for it"))?;
        section = decode(&text).ok_or_else(|| fail("is not in base64"))?;
        match label {
            "PRIVATE KEY" => PrivateKeyDer::Pkcs8(section.as_slice().into()),
            "EC PRIVATE KEY" => PrivateKeyDer::Sec1(section.as_slice().into()),
            _ => PrivateKeyDer::Pkcs1(section.as_slice().into()),
        }
    };
    load(&der).ok_or_else(|| unreadable(path))
}

/// The first private key of a PEM file: its label, and its base64 without white space. Our own
/// reading, because those of the libraries leave copies of the text behind.
fn pem_section(bytes: &[u8]) -> Option<(&'static str, Zeroizing<Vec<u8>>)> {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let label = lines.find_map(|line| {
        let label = line.strip_prefix(b"-----BEGIN ")?.strip_suffix(b"-----")?;
        KEY_LABELS.into_iter().find(|known| known.as_bytes() == label)
    })?;
    let end = format!("-----END {label}-----");
    // Room for all of it at once, so that nothing is left behind by growing.
    let mut text = Zeroizing::new(Vec::with_capacity(bytes.len()));
    for line in lines {
        if line == end.as_bytes() {
            return Some((label, text));
        }
        text.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
    }
    None
}

/// In constant time: what stands there is the key.
fn decode(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut der = Zeroizing::new(vec![0; text.len() / 4 * 3]);
    let length = Base64::decode(text, &mut der).ok()?.len();
    der.truncate(length);
    Some(der)
}

fn load(der: &PrivateKeyDer<'_>) -> Option<PrivateKey> {
    let ecdsa = |key| PrivateKey::Ecdsa(Box::new(key));
    let rsa = |key| PrivateKey::Rsa(Box::new(key));
    let curves = [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING];
    match der {
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            let mut curves = curves.iter();
            curves
                .find_map(|curve| EcdsaKeyPair::from_pkcs8(curve, der).ok().map(ecdsa))
                .or_else(|| RsaKeyPair::from_pkcs8(der).ok().map(rsa))
                .or_else(|| {
                    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok();
                    key.map(|key| PrivateKey::Ed25519(Box::new(key)))
                })
        }
        PrivateKeyDer::Sec1(der) => {
            let der = der.secret_sec1_der();
            let mut curves = curves.iter();
            curves.find_map(|curve| EcdsaKeyPair::from_private_key_der(curve, der).ok().map(ecdsa))
        }
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).ok().map(rsa),
        _ => None,
    }
}

fn unreadable(path: &Path) -> KeyError {
    KeyError::File(format!(
        "key file {}: not a key the pool can use (RSA from 2048 bits, ECDSA P-256 or P-384, Ed25519)",
        path.display()
    ))
}

fn rsa_encoding(scheme: SignScheme) -> Result<&'static dyn RsaEncoding, KeyError> {
    Ok(match scheme {
        SignScheme::RsaPkcs1Sha256 => &RSA_PKCS1_SHA256,
        SignScheme::RsaPkcs1Sha384 => &RSA_PKCS1_SHA384,
        SignScheme::RsaPkcs1Sha512 => &RSA_PKCS1_SHA512,
        SignScheme::RsaPssSha256 => &RSA_PSS_SHA256,
        SignScheme::RsaPssSha384 => &RSA_PSS_SHA384,
        SignScheme::RsaPssSha512 => &RSA_PSS_SHA512,
        other => return Err(KeyError::Unsupported(format!("{other:?} with an RSA key"))),
    })
}
