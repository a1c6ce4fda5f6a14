//! A look at the first bytes of a client, to see which engine should serve it.
//!
//! Nothing is decided here, and nothing consumed: whoever serves the client gets all bytes.

use crate::codec::{CertificateType, ClientHello, kind, length24};
use crate::record::{HEADER, content};
use crate::suite::Suite;

/// Longest ClientHello that is waited for; real ones have some kilobytes at most.
const LONGEST: usize = 1 << 16;

/// The extension supported_versions (RFC 8446 section 4.2.1), and TLS 1.3 in it.
const SUPPORTED_VERSIONS: u16 = 43;
const TLS13: [u8; 2] = [3, 4];

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peek {
    /// Not enough to say.
    More,
    /// A ClientHello.
    Hello(Offer),
    /// Nothing that this engine would serve.
    Other,
}

/// What a ClientHello offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Offer {
    /// TLS 1.3 or newer.
    pub tls13: bool,
    /// OpenPGP certificates (RFC 6091).
    pub openpgp: bool,
    /// A suite without authentication that this engine has.
    pub anonymous: bool,
    /// No other suite that this engine has.
    pub only_anonymous: bool,
    /// The name that the client asks for (RFC 6066 section 3). Not looked at where TLS 1.3 is offered.
    pub server_name: Option<String>,
}

/// Looks at the first bytes of a stream.
pub fn peek(bytes: &[u8]) -> Peek {
    let Some((message, whole)) = gather(bytes) else { return Peek::Other };
    let Some(&[found, high, mid, low]) = message.first_chunk::<4>() else {
        return if whole { Peek::Other } else { Peek::More };
    };
    if found != kind::CLIENT_HELLO {
        return Peek::Other;
    }
    let length = length24([high, mid, low]);
    if length > LONGEST {
        return Peek::Other;
    }
    let Some(body) = message.get(4..4 + length) else { return Peek::More };
    // What offers TLS 1.3 is not ours, whatever else it says.
    if offers_tls13(body) == Some(true) {
        return Peek::Hello(Offer { tls13: true, ..Offer::default() });
    }
    let Ok(hello) = ClientHello::decode(body, false) else { return Peek::Other };
    let known = || hello.suites.iter().filter_map(|code| Suite::from_code(*code));
    let anonymous = known().any(Suite::is_anonymous);
    let types = hello.extensions.cert_types.unwrap_or_default();
    Peek::Hello(Offer {
        tls13: false,
        openpgp: types.contains(&CertificateType::OpenPgp.code()),
        anonymous,
        only_anonymous: anonymous && known().all(Suite::is_anonymous),
        server_name: hello.extensions.server_name,
    })
}

/// The handshake bytes of whole and begun records. `None` if they are none. The second value says
/// that what follows is no handshake.
fn gather(mut bytes: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut message = Vec::new();
    while let Some((&[kind, major, _, high, low], rest)) = bytes.split_first_chunk::<HEADER>() {
        if kind != content::HANDSHAKE || major != 3 {
            return if message.is_empty() { None } else { Some((message, true)) };
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (fragment, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        message.extend_from_slice(fragment);
        bytes = after;
    }
    if message.is_empty() && bytes.first().is_some_and(|kind| *kind != content::HANDSHAKE) {
        return None;
    }
    Some((message, false))
}

/// Whether the extension supported_versions names TLS 1.3. `None` if the message is malformed.
fn offers_tls13(body: &[u8]) -> Option<bool> {
    let rest = body.get(2 + 32..)?;
    let (session, rest) = vec8(rest)?;
    let (suites, rest) = vec16(rest)?;
    let (compression, rest) = vec8(rest)?;
    if session.len() > 32 || suites.is_empty() || compression.is_empty() {
        return None;
    }
    if rest.is_empty() {
        return Some(false);
    }
    let (mut extensions, _) = vec16(rest)?;
    while let Some((&[high, low], rest)) = extensions.split_first_chunk::<2>() {
        let (data, after) = vec16(rest)?;
        if u16::from_be_bytes([high, low]) == SUPPORTED_VERSIONS {
            let (versions, _) = vec8(data)?;
            return Some(versions.chunks_exact(2).any(|version| version == TLS13));
        }
        extensions = after;
    }
    Some(false)
}

fn vec8(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first()?;
    rest.split_at_checked(length.into())
}

fn vec16(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(u16::from_be_bytes(length).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Anonymous, ClientConfig, Connection, Output};
    use std::sync::Arc;

    fn hello(config: ClientConfig) -> Vec<u8> {
        let mut connection = Connection::client(&Arc::new(config)).unwrap();
        let mut bytes = Vec::new();
        assert!(matches!(connection.poll_output(&mut bytes), Output::Send));
        bytes
    }

    fn offer(bytes: &[u8]) -> Offer {
        match peek(bytes) {
            Peek::Hello(offer) => offer,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn hellos_have_a_bound() {
        assert_eq!(LONGEST, 65_536);
    }

    #[test]
    fn sees_what_our_own_client_offers() {
        let mut config = ClientConfig::default();
        let plain = offer(&hello(config.clone()));
        assert!(!plain.tls13 && !plain.openpgp && !plain.anonymous);
        config.common.certificate_types = vec![CertificateType::OpenPgp, CertificateType::X509];
        assert!(offer(&hello(config.clone())).openpgp);
        config.common.anonymous = Anonymous::Precursor;
        let hidden = offer(&hello(config.clone()));
        assert!(hidden.anonymous && !hidden.only_anonymous);
        config.common.private = true;
        assert!(offer(&hello(config)).only_anonymous);
    }

    /// A hello in one record, with these extensions.
    fn with_extensions(extensions: &[u8]) -> Vec<u8> {
        with(&[0, 0, 2, 0xC0, 0x2C, 1, 0], extensions)
    }

    /// Likewise, with session id, suites and compression as they stand there.
    fn with(middle: &[u8], extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(middle);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let length = (body.len() as u32).to_be_bytes();
        let mut bytes = vec![22, 3, 1];
        bytes.extend((body.len() as u16 + 4).to_be_bytes());
        bytes.extend([1, length[1], length[2], length[3]]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn sees_tls13_wherever_it_stands() {
        for (extensions, tls13) in [
            (&[0, 43, 0, 3, 2, 3, 4][..], true),
            (&[0, 43, 0, 5, 4, 3, 3, 3, 4], true),
            (&[0, 23, 0, 0, 0, 43, 0, 3, 2, 3, 4], true),
            (&[0, 43, 0, 3, 2, 3, 3], false),
            (&[0, 23, 0, 0], false),
        ] {
            assert_eq!(offer(&with_extensions(extensions)).tls13, tls13, "{extensions:?}");
        }
        // Even if it is malformed for us.
        assert!(offer(&with_extensions(&[0, 43, 0, 3, 2, 3, 4, 0, 23, 0, 1, 0])).tls13);
        for lie in [&[0, 43, 0, 3, 4, 3, 4][..], &[0, 43, 0, 4, 2, 3, 4], &[0, 43, 0, 0]] {
            let seen = peek(&with_extensions(lie));
            assert!(!matches!(seen, Peek::Hello(Offer { tls13: true, .. })), "{lie:?}");
        }
    }

    #[test]
    fn tls13_in_a_hello_that_is_none_does_not_count() {
        let session = |length: u8| {
            let id = vec![5; length.into()];
            [&[length][..], &id, &[0, 2, 0xC0, 0x2C, 1, 0]].concat()
        };
        for (middle, counts) in [
            (session(32), true),
            (session(33), false),
            (vec![0, 0, 0, 1, 0], false),
            (vec![0, 0, 2, 0xC0, 0x2C, 0], false),
        ] {
            let seen = peek(&with(&middle, &[0, 43, 0, 3, 2, 3, 4]));
            let tls13 = matches!(seen, Peek::Hello(Offer { tls13: true, .. }));
            assert_eq!(tls13, counts, "{middle:?}");
        }
    }

    #[test]
    fn waits_for_a_whole_hello_and_for_nothing_else() {
        let bytes = hello(ClientConfig::default());
        for cut in 0..bytes.len() {
            assert_eq!(peek(&bytes[..cut]), Peek::More, "{cut} bytes");
        }
        assert_eq!(peek(b"GET / HTTP/1.1\r\n\r\n"), Peek::Other);
        assert_eq!(peek(&[22, 3, 3, 0, 4, 2, 0, 0, 0]), Peek::Other);
        assert_eq!(peek(&[22, 2, 3, 0, 4, 1, 0, 0, 0]), Peek::Other);
        // Another record, or too much, before a whole message.
        assert_eq!(peek(&[22, 3, 3, 0, 2, 1, 0, 23, 3, 3, 0, 0]), Peek::Other);
        assert_eq!(peek(&[22, 3, 3, 0, 4, 1, 1, 0, 0]), Peek::More);
        assert_eq!(peek(&[22, 3, 3, 0, 4, 1, 1, 0, 1]), Peek::Other);
        // Its length has three bytes, each of which counts.
        let short = [&[22, 3, 3, 1, 3, 1, 0, 1, 0][..], &[0; 255]].concat();
        assert_eq!(peek(&short), Peek::More);
        assert_eq!(peek(&[&short[..], &[22, 3, 3, 0, 1, 0]].concat()), Peek::Other);
    }
}
