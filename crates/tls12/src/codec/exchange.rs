//! Key exchange, signatures and tickets: ServerKeyExchange, ClientKeyExchange, CertificateVerify
//! (RFC 5246 sections 7.4.3, 7.4.7, 7.4.8; RFC 8422), NewSessionTicket (RFC 5077).

use super::{Reader, Writer};
use crate::error::Error;
use crate::suite::Exchange;

const SERVER_KEY_EXCHANGE: &str = "ServerKeyExchange";
const CLIENT_KEY_EXCHANGE: &str = "ClientKeyExchange";
/// ECCurveType named_curve.
const NAMED_CURVE: u8 = 3;

/// A server's share and the group it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Params {
    Named { group: u16, public: Vec<u8> },
    Finite { p: Vec<u8>, g: Vec<u8>, public: Vec<u8> },
}

/// A signature and how it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) scheme: u16,
    pub(crate) signature: Vec<u8>,
}

impl Signed {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let scheme = reader.u16()?;
        let signature = reader.vec16()?.to_vec();
        reader.finish()?;
        Ok(Self { scheme, signature })
    }

    /// The body of a CertificateVerify.
    pub(crate) fn decode(body: &[u8]) -> Result<Self, Error> {
        Self::read(&mut Reader::new("CertificateVerify", body))
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.u16(self.scheme);
        out.vec16(&self.signature);
    }
}

/// What the server contributes to the key exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerKeyExchange {
    pub(crate) params: Params,
    /// What is signed, after both randoms.
    pub(crate) encoded: Vec<u8>,
    /// None in an anonymous exchange.
    pub(crate) signed: Option<Signed>,
}

impl Params {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Named { group, public } => {
                out.u8(NAMED_CURVE);
                out.u16(*group);
                out.vec8(public);
            }
            Self::Finite { p, g, public } => {
                out.vec16(p);
                out.vec16(g);
                out.vec16(public);
            }
        }
        out
    }
}

impl ServerKeyExchange {
    pub(crate) fn decode(body: &[u8], exchange: Exchange, anonymous: bool) -> Result<Self, Error> {
        let mut reader = Reader::new(SERVER_KEY_EXCHANGE, body);
        let params = match exchange {
            Exchange::Ecdhe => {
                if reader.u8()? != NAMED_CURVE {
                    return Err(Error::Illegal("a curve without a name"));
                }
                Params::Named { group: reader.u16()?, public: reader.vec8()?.to_vec() }
            }
            Exchange::Dhe => Params::Finite {
                p: reader.vec16()?.to_vec(),
                g: reader.vec16()?.to_vec(),
                public: reader.vec16()?.to_vec(),
            },
        };
        let encoded = params.encode();
        let signed = if anonymous {
            reader.finish()?;
            None
        } else {
            Some(Signed::read(&mut reader)?)
        };
        Ok(Self { params, encoded, signed })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.encoded.clone();
        if let Some(signed) = &self.signed {
            signed.encode(&mut out);
        }
        out
    }
}

/// The client's share.
pub(crate) fn decode_client_share(body: &[u8], exchange: Exchange) -> Result<&[u8], Error> {
    let mut reader = Reader::new(CLIENT_KEY_EXCHANGE, body);
    let share = match exchange {
        Exchange::Ecdhe => reader.vec8()?,
        Exchange::Dhe => reader.vec16()?,
    };
    reader.finish()?;
    if share.is_empty() {
        return Err(reader.malformed());
    }
    Ok(share)
}

pub(crate) fn encode_client_share(share: &[u8], exchange: Exchange) -> Vec<u8> {
    let mut out = Vec::new();
    match exchange {
        Exchange::Ecdhe => out.vec8(share),
        Exchange::Dhe => out.vec16(share),
    }
    out
}

/// Lifetime hint in seconds and the ticket; an empty ticket is none (RFC 5077 section 3.3).
pub(crate) fn decode_ticket(body: &[u8]) -> Result<(u32, &[u8]), Error> {
    let mut reader = Reader::new("NewSessionTicket", body);
    let ticket = (reader.u32()?, reader.vec16()?);
    reader.finish()?;
    Ok(ticket)
}

pub(crate) fn encode_ticket(lifetime: u32, ticket: &[u8]) -> Vec<u8> {
    let mut out = lifetime.to_be_bytes().to_vec();
    out.vec16(ticket);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_key_exchange_round_trip() {
        let named = Params::Named { group: 29, public: vec![9; 32] };
        let finite = Params::Finite { p: vec![7; 256], g: vec![2], public: vec![3; 256] };
        let signed = Signed { scheme: 0x0804, signature: vec![1; 64] };
        for (params, exchange) in [(named, Exchange::Ecdhe), (finite, Exchange::Dhe)] {
            for signed in [None, Some(signed.clone())] {
                let encoded = params.encode();
                let whole = ServerKeyExchange { params: params.clone(), encoded, signed };
                let bytes = whole.encode();
                let anonymous = whole.signed.is_none();
                let decoded = ServerKeyExchange::decode(&bytes, exchange, anonymous);
                assert_eq!(decoded.unwrap(), whole);
                assert!(ServerKeyExchange::decode(&bytes, exchange, !anonymous).is_err());
                for cut in 0..bytes.len() {
                    assert!(ServerKeyExchange::decode(&bytes[..cut], exchange, anonymous).is_err());
                }
            }
        }
        let explicit = ServerKeyExchange::decode(&[1, 0, 29, 1, 0], Exchange::Ecdhe, true);
        assert_eq!(explicit, Err(Error::Illegal("a curve without a name")));
    }

    #[test]
    fn client_share_and_ticket_and_signature() {
        for exchange in [Exchange::Ecdhe, Exchange::Dhe] {
            let bytes = encode_client_share(&[5; 40], exchange);
            assert_eq!(decode_client_share(&bytes, exchange), Ok(&[5; 40][..]));
            for cut in 0..bytes.len() {
                assert!(decode_client_share(&bytes[..cut], exchange).is_err());
            }
            assert!(decode_client_share(&encode_client_share(&[], exchange), exchange).is_err());
            assert!(decode_client_share(&[bytes, vec![0]].concat(), exchange).is_err());
        }
        let ticket = encode_ticket(300, &[1, 2]);
        assert_eq!(decode_ticket(&ticket), Ok((300, &[1, 2][..])));
        assert!(decode_ticket(&ticket[..7]).is_err());
        assert!(decode_ticket(&[ticket, vec![0]].concat()).is_err());
        assert!(Signed::decode(&[4, 1, 0, 1, 9, 9]).is_err());
        assert_eq!(Signed::decode(&[4, 1, 0, 1, 9]).unwrap().signature, [9]);
    }
}
