//! Handshake messages: bytes to types and back. The state machine calls it.
//!
//! Every length is checked against what is there and against a bound; what is left over at the end of a
//! message is an error. Nothing here decides anything.

mod certificate;
mod exchange;
mod hello;

pub(crate) use certificate::{
    CertificateRequest, ECDSA_SIGN, RSA_SIGN, decode_certificate, encode_certificate,
};
pub use certificate::{CertificateType, Framing, PeerCertificate};
pub(crate) use exchange::{
    Params, ServerKeyExchange, Signed, decode_client_share, decode_ticket, encode_client_share,
    encode_ticket,
};
pub(crate) use hello::{
    ClientExtensions, ClientHello, ServerExtensions, ServerHello, decode_cookie,
};

use crate::error::Error;

/// Handshake types (RFC 5246 section 7.4).
pub(crate) mod kind {
    pub(crate) const HELLO_REQUEST: u8 = 0;
    pub(crate) const CLIENT_HELLO: u8 = 1;
    pub(crate) const SERVER_HELLO: u8 = 2;
    pub(crate) const HELLO_VERIFY_REQUEST: u8 = 3;
    pub(crate) const NEW_SESSION_TICKET: u8 = 4;
    pub(crate) const CERTIFICATE: u8 = 11;
    pub(crate) const SERVER_KEY_EXCHANGE: u8 = 12;
    pub(crate) const CERTIFICATE_REQUEST: u8 = 13;
    pub(crate) const SERVER_HELLO_DONE: u8 = 14;
    pub(crate) const CERTIFICATE_VERIFY: u8 = 15;
    pub(crate) const CLIENT_KEY_EXCHANGE: u8 = 16;
    pub(crate) const FINISHED: u8 = 20;
}

/// What a handshake type is called in errors.
pub(crate) const fn name(kind: u8) -> &'static str {
    match kind {
        kind::HELLO_REQUEST => "HelloRequest",
        kind::CLIENT_HELLO => "ClientHello",
        kind::SERVER_HELLO => "ServerHello",
        kind::HELLO_VERIFY_REQUEST => "HelloVerifyRequest",
        kind::NEW_SESSION_TICKET => "NewSessionTicket",
        kind::CERTIFICATE => "Certificate",
        kind::SERVER_KEY_EXCHANGE => "ServerKeyExchange",
        kind::CERTIFICATE_REQUEST => "CertificateRequest",
        kind::SERVER_HELLO_DONE => "ServerHelloDone",
        kind::CERTIFICATE_VERIFY => "CertificateVerify",
        kind::CLIENT_KEY_EXCHANGE => "ClientKeyExchange",
        kind::FINISHED => "Finished",
        _ => "unknown handshake message",
    }
}

/// A length of three bytes.
pub(crate) const fn length24([high, middle, low]: [u8; 3]) -> usize {
    u32::from_be_bytes([0, high, middle, low]) as usize
}

/// Reads a message from its front; every error names the message.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { bytes, what }
    }

    pub(crate) const fn malformed(&self) -> Error {
        Error::Malformed(self.what)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.bytes.first().copied()
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(self.malformed())?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or(self.malformed())?;
        self.bytes = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u24(&mut self) -> Result<usize, Error> {
        self.array().map(length24)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn vec8(&mut self) -> Result<&'a [u8], Error> {
        let length = self.u8()?;
        self.take(length.into())
    }

    pub(crate) fn vec16(&mut self) -> Result<&'a [u8], Error> {
        let length = self.u16()?;
        self.take(length.into())
    }

    pub(crate) fn vec24(&mut self) -> Result<&'a [u8], Error> {
        let length = self.u24()?;
        self.take(length)
    }

    /// A reader of what is inside.
    pub(crate) const fn inner(&self, bytes: &'a [u8]) -> Self {
        Self { bytes, what: self.what }
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// The message must end here.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }

    /// A list of 16 bit numbers that fills all of `bytes` and is not empty.
    pub(crate) fn numbers(&self, bytes: &[u8]) -> Result<Vec<u16>, Error> {
        let (pairs, rest) = bytes.as_chunks::<2>();
        if pairs.is_empty() || !rest.is_empty() {
            return Err(self.malformed());
        }
        Ok(pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
    }
}

/// Appends to a message. Lengths are ours and fit by construction; what comes from the caller's
/// configuration is checked where it enters.
pub(crate) trait Writer {
    fn u8(&mut self, value: u8);
    fn u16(&mut self, value: u16);
    fn u24(&mut self, value: usize);
    fn bytes(&mut self, bytes: &[u8]);
    /// What `fill` appends, behind its length in `size` bytes.
    fn counted(&mut self, size: usize, fill: impl FnOnce(&mut Vec<u8>));
    fn vec8(&mut self, bytes: &[u8]);
    fn vec16(&mut self, bytes: &[u8]);
    fn vec24(&mut self, bytes: &[u8]);
}

impl Writer for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn u24(&mut self, value: usize) {
        self.extend_from_slice(&(value as u32).to_be_bytes()[1..]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn counted(&mut self, size: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.len();
        self.resize(start + size, 0);
        fill(self);
        let length = (self.len() - start - size).to_be_bytes();
        self[start..start + size].copy_from_slice(&length[length.len() - size..]);
    }

    fn vec8(&mut self, bytes: &[u8]) {
        self.counted(1, |out| out.bytes(bytes));
    }

    fn vec16(&mut self, bytes: &[u8]) {
        self.counted(2, |out| out.bytes(bytes));
    }

    fn vec24(&mut self, bytes: &[u8]) {
        self.counted(3, |out| out.bytes(bytes));
    }
}

/// A handshake message as TLS frames it: type, length, body.
pub(crate) fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(4 + body.len());
    message.u8(kind);
    message.vec24(body);
    message
}

/// Reads `body` as the message of this kind, in each way there is, writes what came of it, and reads that again.
/// For the fuzzer; panics if the two differ.
#[doc(hidden)]
pub fn read_and_write(kind: u8, body: &[u8]) {
    use crate::suite::Exchange;
    match kind {
        kind::CLIENT_HELLO => {
            for datagram in [false, true] {
                if let Ok(hello) = ClientHello::decode(body, datagram) {
                    assert_eq!(ClientHello::decode(&hello.encode(), datagram), Ok(hello));
                }
            }
        }
        kind::SERVER_HELLO => {
            let offered = ClientExtensions {
                server_name: Some("x".into()),
                point_formats: Some(vec![0]),
                alpn: vec![vec![1]],
                cert_types: Some(vec![1, 0]),
                extended_master_secret: true,
                ticket: Some(vec![]),
                ..ClientExtensions::default()
            };
            if let Ok(hello) = ServerHello::decode(body, &offered) {
                assert_eq!(ServerHello::decode(&hello.encode(), &offered), Ok(hello));
            }
        }
        kind::CERTIFICATE => {
            for kind in [CertificateType::X509, CertificateType::OpenPgp] {
                let Ok(shown) = decode_certificate(kind, body) else { continue };
                for framing in [Framing::Deployed, Framing::Rfc6091] {
                    let again = encode_certificate(kind, shown.as_ref(), framing);
                    assert_eq!(decode_certificate(kind, &again), Ok(shown.clone()));
                }
            }
        }
        kind::CERTIFICATE_REQUEST => {
            if let Ok(request) = CertificateRequest::decode(body) {
                assert_eq!(CertificateRequest::decode(&request.encode()), Ok(request));
            }
        }
        kind::SERVER_KEY_EXCHANGE => {
            for (exchange, anonymous) in
                [(Exchange::Ecdhe, false), (Exchange::Dhe, false), (Exchange::Dhe, true)]
            {
                if let Ok(whole) = ServerKeyExchange::decode(body, exchange, anonymous) {
                    assert_eq!(whole.encode(), body);
                }
            }
        }
        kind::CLIENT_KEY_EXCHANGE => {
            for exchange in [Exchange::Ecdhe, Exchange::Dhe] {
                if let Ok(share) = decode_client_share(body, exchange) {
                    assert_eq!(encode_client_share(share, exchange), body);
                }
            }
        }
        kind::CERTIFICATE_VERIFY => {
            if let Ok(signed) = Signed::decode(body) {
                let mut out = Vec::new();
                signed.encode(&mut out);
                assert_eq!(out, body);
            }
        }
        kind::NEW_SESSION_TICKET => {
            if let Ok((lifetime, ticket)) = decode_ticket(body) {
                assert_eq!(encode_ticket(lifetime, ticket), body);
            }
        }
        _ => drop(decode_cookie(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_has_a_name_of_its_own() {
        let kinds = [0, 1, 2, 3, 4, 11, 12, 13, 14, 15, 16, 20, 99];
        let names: std::collections::HashSet<_> = kinds.map(name).into();
        assert_eq!(names.len(), kinds.len());
        assert_eq!(name(kind::FINISHED), "Finished");
    }

    #[test]
    fn reads_within_bounds_only() {
        assert_eq!([[1, 0, 0], [0, 1, 0], [1, 2, 3]].map(length24), [65_536, 256, 66_051]);
        let mut reader = Reader::new("x", &[2, 1, 2, 0, 1, 9, 0, 0, 1]);
        assert_eq!(reader.vec8(), Ok(&[1, 2][..]));
        assert_eq!(reader.vec16(), Ok(&[9][..]));
        assert_eq!(reader.vec24(), Err(Error::Malformed("x")));
        assert_eq!(Reader::new("x", &[1]).finish(), Err(Error::Malformed("x")));
        assert_eq!(reader.numbers(&[1, 2, 3]), Err(Error::Malformed("x")));
        assert_eq!(reader.numbers(&[]), Err(Error::Malformed("x")));
        assert_eq!(reader.numbers(&[1, 2]), Ok(vec![0x0102]));
    }

    #[test]
    fn what_is_read_is_written_the_same() {
        for kind in 0..=20 {
            for body in [&[][..], &[0; 4], &[0; 40], &[1; 60], &[3, 0, 29, 1, 9, 4, 1, 0, 0]] {
                read_and_write(kind, body);
            }
        }
    }

    #[test]
    fn writes_lengths() {
        let mut out = Vec::new();
        out.vec8(&[1]);
        out.vec16(&[2]);
        out.vec24(&[3]);
        assert_eq!(out, [1, 1, 0, 1, 2, 0, 0, 1, 3]);
        assert_eq!(framed(1, &[7]), [1, 0, 0, 1, 7]);
    }
}
