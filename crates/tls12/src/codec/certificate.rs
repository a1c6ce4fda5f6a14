//! Certificate and CertificateRequest, for X.509 (RFC 5246 section 7.4.2) and OpenPGP (RFC 6091).
//!
//! Certificates themselves are bytes here: whoever verifies a peer reads them.

use super::{Reader, Writer};
use crate::error::Error;

/// Kinds of certificates (RFC 6091 section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CertificateType {
    /// A chain of X.509 certificates.
    X509,
    /// An OpenPGP certificate, or the fingerprint of one.
    OpenPgp,
}

impl CertificateType {
    /// Its number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Self::X509 => 0,
            Self::OpenPgp => 1,
        }
    }

    /// The kind with this number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::X509),
            1 => Some(Self::OpenPgp),
            _ => None,
        }
    }
}

/// What a side shows of itself, as it was sent. Nothing in it has been checked but its framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerCertificate {
    /// DER, leaf first, at least one.
    X509(Vec<Vec<u8>>),
    /// Descriptor subkey_cert: binary packets, and the key id of the key that signs.
    OpenPgp {
        /// Of the subkey that signs, or the primary key if there is none.
        key_id: [u8; 8],
        /// A transferable public key.
        certificate: Vec<u8>,
    },
    /// Descriptor subkey_cert_fingerprint: the receiver must find the certificate itself.
    OpenPgpFingerprint {
        /// Of the subkey that signs, or the primary key if there is none.
        key_id: [u8; 8],
        /// Of the primary key.
        fingerprint: [u8; 20],
    },
}

impl PeerCertificate {
    /// Which kind it is.
    pub const fn certificate_type(&self) -> CertificateType {
        match self {
            Self::X509(_) => CertificateType::X509,
            _ => CertificateType::OpenPgp,
        }
    }
}

/// How OpenPGP certificates are framed. Both forms are understood; this is which one is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// As deployed programs do it (GnuTLS up to 3.5): a 24 bit number in front, which must not be zero.
    #[default]
    Deployed,
    /// As RFC 6091 section 3.3 has it.
    Rfc6091,
}

const CERTIFICATE: &str = "Certificate";
/// Longest chain.
const MAX_CHAIN: usize = 32;
/// Descriptors of RFC 6091 section 3.3.
const EMPTY_CERT: u8 = 1;
const SUBKEY_CERT: u8 = 2;
const SUBKEY_CERT_FINGERPRINT: u8 = 3;

/// `None`: the peer has no certificate.
pub(crate) fn decode_certificate(
    kind: CertificateType,
    body: &[u8],
) -> Result<Option<PeerCertificate>, Error> {
    let mut reader = Reader::new(CERTIFICATE, body);
    match kind {
        CertificateType::X509 => {
            let list = reader.vec24()?;
            reader.finish()?;
            let mut list = reader.inner(list);
            let mut chain = Vec::new();
            while !list.is_empty() {
                let certificate = list.vec24()?;
                if certificate.is_empty() {
                    return Err(list.malformed());
                }
                if chain.len() == MAX_CHAIN {
                    return Err(Error::TooMuch("certificates"));
                }
                chain.push(certificate.to_vec());
            }
            Ok((!chain.is_empty()).then_some(PeerCertificate::X509(chain)))
        }
        CertificateType::OpenPgp => decode_openpgp(reader),
    }
}

fn decode_openpgp(mut reader: Reader<'_>) -> Result<Option<PeerCertificate>, Error> {
    // The first byte tells the forms apart: a descriptor is never zero, the upper byte of the
    // deployed form's number always is.
    if reader.peek() == Some(0) {
        let ignored = reader.u24()?;
        if ignored == 0 {
            // Deployed programs take this for "no certificate".
            reader.finish()?;
            return Ok(None);
        }
    }
    let descriptor = reader.u8()?;
    if descriptor == EMPTY_CERT {
        let empty = reader.vec24()?;
        reader.finish()?;
        return if empty.is_empty() { Ok(None) } else { Err(reader.malformed()) };
    }
    let key_id = reader.vec8()?;
    let key_id = key_id.try_into().map_err(|_| reader.malformed())?;
    let shown = match descriptor {
        SUBKEY_CERT => {
            let certificate = reader.vec24()?.to_vec();
            if certificate.is_empty() {
                return Err(reader.malformed());
            }
            PeerCertificate::OpenPgp { key_id, certificate }
        }
        SUBKEY_CERT_FINGERPRINT => {
            let fingerprint = reader.vec8()?;
            let fingerprint = fingerprint.try_into().map_err(|_| reader.malformed())?;
            PeerCertificate::OpenPgpFingerprint { key_id, fingerprint }
        }
        _ => return Err(Error::Illegal("the descriptor of an OpenPGP certificate")),
    };
    reader.finish()?;
    Ok(Some(shown))
}

/// `None`: a client without certificate, in the form of `kind`.
pub(crate) fn encode_certificate(
    kind: CertificateType,
    shown: Option<&PeerCertificate>,
    framing: Framing,
) -> Vec<u8> {
    let mut out = Vec::new();
    match (kind, shown) {
        (CertificateType::X509, Some(PeerCertificate::X509(chain))) => {
            out.counted(3, |out| chain.iter().for_each(|certificate| out.vec24(certificate)));
        }
        (CertificateType::X509, _) => out.u24(0),
        (CertificateType::OpenPgp, shown) => match framing {
            Framing::Deployed => out.counted(3, |out| encode_openpgp(out, shown)),
            Framing::Rfc6091 => encode_openpgp(&mut out, shown),
        },
    }
    out
}

fn encode_openpgp(out: &mut Vec<u8>, shown: Option<&PeerCertificate>) {
    match shown {
        Some(PeerCertificate::OpenPgp { key_id, certificate }) => {
            out.u8(SUBKEY_CERT);
            out.vec8(key_id);
            out.vec24(certificate);
        }
        Some(PeerCertificate::OpenPgpFingerprint { key_id, fingerprint }) => {
            out.u8(SUBKEY_CERT_FINGERPRINT);
            out.vec8(key_id);
            out.vec8(fingerprint);
        }
        _ => {
            out.u8(EMPTY_CERT);
            out.u24(0);
        }
    }
}

/// What certificates a server takes from a client (RFC 5246 section 7.4.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateRequest {
    /// ClientCertificateType: which kinds of keys.
    pub(crate) key_types: Vec<u8>,
    pub(crate) schemes: Vec<u16>,
    /// Distinguished names, DER.
    pub(crate) authorities: Vec<Vec<u8>>,
}

/// ClientCertificateType rsa_sign.
pub(crate) const RSA_SIGN: u8 = 1;
/// ClientCertificateType dss_sign: only in the list that deployed OpenPGP peers expect.
const DSS_SIGN: u8 = 2;
/// ClientCertificateType ecdsa_sign; Ed25519 too (RFC 8422 section 5.5).
pub(crate) const ECDSA_SIGN: u8 = 64;

impl CertificateRequest {
    pub(crate) fn new(kind: CertificateType, schemes: Vec<u16>) -> Self {
        let key_types = match kind {
            CertificateType::X509 => vec![RSA_SIGN, ECDSA_SIGN],
            CertificateType::OpenPgp => vec![RSA_SIGN, DSS_SIGN, ECDSA_SIGN],
        };
        Self { key_types, schemes, authorities: Vec::new() }
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new("CertificateRequest", body);
        let key_types = reader.vec8()?.to_vec();
        let schemes = reader.vec16()?;
        let schemes = reader.numbers(schemes)?;
        let list = reader.vec16()?;
        reader.finish()?;
        let mut list = reader.inner(list);
        let mut authorities = Vec::new();
        while !list.is_empty() {
            authorities.push(list.vec16()?.to_vec());
        }
        if key_types.is_empty() {
            return Err(reader.malformed());
        }
        Ok(Self { key_types, schemes, authorities })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.vec8(&self.key_types);
        out.counted(2, |out| self.schemes.iter().for_each(|scheme| out.u16(*scheme)));
        out.counted(2, |out| self.authorities.iter().for_each(|name| out.vec16(name)));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY_ID: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

    fn openpgp() -> PeerCertificate {
        PeerCertificate::OpenPgp { key_id: KEY_ID, certificate: vec![0x99, 0xAA] }
    }

    fn fingerprint() -> PeerCertificate {
        PeerCertificate::OpenPgpFingerprint { key_id: KEY_ID, fingerprint: [0xEE; 20] }
    }

    fn encode(shown: Option<&PeerCertificate>, framing: Framing) -> Vec<u8> {
        encode_certificate(CertificateType::OpenPgp, shown, framing)
    }

    #[test]
    fn openpgp_messages_are_byte_exact() {
        let subkey = [&[2, 8][..], &KEY_ID, &[0, 0, 2, 0x99, 0xAA]].concat();
        let by_fingerprint = [&[3, 8][..], &KEY_ID, &[20], &[0xEE; 20]].concat();
        let empty = [1, 0, 0, 0];
        for (shown, rfc) in
            [(Some(openpgp()), &subkey[..]), (Some(fingerprint()), &by_fingerprint), (None, &empty)]
        {
            assert_eq!(encode(shown.as_ref(), Framing::Rfc6091), rfc);
            let deployed = [&[0, 0, rfc.len() as u8][..], rfc].concat();
            assert_eq!(encode(shown.as_ref(), Framing::Deployed), deployed);
            // The number in front is wrong in deployed programs.
            let wrong_number = [&[0, 0x11, 0x22][..], rfc].concat();
            for message in [rfc, &deployed, &wrong_number] {
                let decoded = decode_certificate(CertificateType::OpenPgp, message);
                assert_eq!(decoded.unwrap(), shown);
                for cut in 0..message.len() {
                    let cut = decode_certificate(CertificateType::OpenPgp, &message[..cut]);
                    assert_eq!(cut, Err(Error::Malformed("Certificate")));
                }
                let longer = [message, &[0]].concat();
                assert!(decode_certificate(CertificateType::OpenPgp, &longer).is_err());
            }
        }
        assert_eq!(decode_certificate(CertificateType::OpenPgp, &[0, 0, 0]), Ok(None));
    }

    #[test]
    fn openpgp_messages_that_lie() {
        let malformed = Err(Error::Malformed("Certificate"));
        for bad in [
            &[][..],
            &[0, 0, 0, 1, 0, 0, 0], // zero in front, then more
            &[1, 0, 0, 1, 7],       // empty that is not
            &[2, 7, 1, 2, 3, 4, 5, 6, 7, 0, 0, 1, 9], // short key id
            &[2, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0], // no certificate
            &[2, 8, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 2, 9], // lying length
            &[3, 8, 1, 2, 3, 4, 5, 6, 7, 8, 2, 9, 9], // short fingerprint
        ] {
            assert_eq!(decode_certificate(CertificateType::OpenPgp, bad), malformed, "{bad:?}");
        }
        let unknown = decode_certificate(CertificateType::OpenPgp, &[4, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
        assert!(matches!(unknown, Err(Error::Illegal(_))));
    }

    #[test]
    fn x509_chains() {
        let chain = PeerCertificate::X509(vec![vec![1; 300], vec![2]]);
        let bytes = encode_certificate(CertificateType::X509, Some(&chain), Framing::Deployed);
        assert_eq!(decode_certificate(CertificateType::X509, &bytes), Ok(Some(chain)));
        for cut in 0..bytes.len() {
            assert!(decode_certificate(CertificateType::X509, &bytes[..cut]).is_err());
        }
        assert_eq!(decode_certificate(CertificateType::X509, &[0, 0, 0]), Ok(None));
        assert_eq!(encode_certificate(CertificateType::X509, None, Framing::Deployed), [0, 0, 0]);
        // An empty certificate, too many, and an OpenPGP message where X.509 was agreed.
        assert!(decode_certificate(CertificateType::X509, &[0, 0, 3, 0, 0, 0]).is_err());
        let many = PeerCertificate::X509(vec![vec![1]; MAX_CHAIN + 1]);
        let many = encode_certificate(CertificateType::X509, Some(&many), Framing::Deployed);
        let refused = decode_certificate(CertificateType::X509, &many);
        assert_eq!(refused, Err(Error::TooMuch("certificates")));
        for framing in [Framing::Deployed, Framing::Rfc6091] {
            let other = encode(Some(&openpgp()), framing);
            assert!(decode_certificate(CertificateType::X509, &other).is_err());
        }
        // And the other way round.
        let chain = encode_certificate(
            CertificateType::X509,
            Some(&PeerCertificate::X509(vec![vec![0x30; 40], vec![0x30; 9]])),
            Framing::Deployed,
        );
        assert!(decode_certificate(CertificateType::OpenPgp, &chain).is_err());
    }

    #[test]
    fn certificate_request_round_trip() {
        let mut request = CertificateRequest::new(CertificateType::OpenPgp, vec![0x0804, 0x0403]);
        assert_eq!(request.encode(), [3, 1, 2, 64, 0, 4, 8, 4, 4, 3, 0, 0]);
        request.authorities = vec![vec![0x30, 0], vec![]];
        let bytes = request.encode();
        assert_eq!(CertificateRequest::decode(&bytes).unwrap(), request);
        for cut in 0..bytes.len() {
            assert!(CertificateRequest::decode(&bytes[..cut]).is_err());
        }
        assert!(CertificateRequest::decode(&[0, 0, 2, 4, 1, 0, 0]).is_err());
    }

    #[test]
    fn types_have_numbers() {
        for kind in [CertificateType::X509, CertificateType::OpenPgp] {
            assert_eq!(CertificateType::from_code(kind.code()), Some(kind));
        }
        assert_eq!(CertificateType::from_code(2), None);
        assert_eq!(openpgp().certificate_type(), CertificateType::OpenPgp);
    }
}
