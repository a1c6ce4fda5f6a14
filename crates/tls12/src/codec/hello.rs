//! ClientHello and ServerHello with the extensions of the profile.

use super::{Reader, Writer};
use crate::error::Error;

/// Extension numbers.
pub(crate) mod extension {
    pub(crate) const SERVER_NAME: u16 = 0;
    pub(crate) const SUPPORTED_GROUPS: u16 = 10;
    pub(crate) const EC_POINT_FORMATS: u16 = 11;
    pub(crate) const SIGNATURE_ALGORITHMS: u16 = 13;
    pub(crate) const ALPN: u16 = 16;
    pub(crate) const CERT_TYPE: u16 = 9;
    pub(crate) const EXTENDED_MASTER_SECRET: u16 = 23;
    pub(crate) const SESSION_TICKET: u16 = 35;
    pub(crate) const RENEGOTIATION_INFO: u16 = 0xFF01;
}

/// Most extensions in a hello; the registry has fewer than 70.
const MAX_EXTENSIONS: usize = 128;
const CLIENT_HELLO: &str = "ClientHello";
const SERVER_HELLO: &str = "ServerHello";
/// The only compression method: none.
const NO_COMPRESSION: u8 = 0;
const HOST_NAME: u8 = 0;

/// What a client offers (RFC 5246 section 7.4.1.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ClientHello {
    pub(crate) version: [u8; 2],
    pub(crate) random: [u8; 32],
    pub(crate) session_id: Vec<u8>,
    /// DTLS only (RFC 6347 section 4.2.1).
    pub(crate) cookie: Option<Vec<u8>>,
    pub(crate) suites: Vec<u16>,
    pub(crate) extensions: ClientExtensions,
}

/// Its extensions, as far as they are known here.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ClientExtensions {
    pub(crate) server_name: Option<String>,
    pub(crate) groups: Option<Vec<u16>>,
    pub(crate) point_formats: Option<Vec<u8>>,
    pub(crate) schemes: Option<Vec<u16>>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) cert_types: Option<Vec<u8>>,
    pub(crate) extended_master_secret: bool,
    pub(crate) ticket: Option<Vec<u8>>,
    pub(crate) renegotiation_info: Option<Vec<u8>>,
}

impl ClientHello {
    /// `datagram`: with the cookie field of DTLS.
    pub(crate) fn decode(body: &[u8], datagram: bool) -> Result<Self, Error> {
        let mut reader = Reader::new(CLIENT_HELLO, body);
        let version = reader.array()?;
        let random = reader.array()?;
        let session_id = reader.vec8()?;
        if session_id.len() > 32 {
            return Err(reader.malformed());
        }
        let cookie = if datagram { Some(reader.vec8()?.to_vec()) } else { None };
        let suites = reader.vec16()?;
        let suites = reader.numbers(suites)?;
        if !reader.vec8()?.contains(&NO_COMPRESSION) {
            return Err(Error::Illegal("no compression method null"));
        }
        let extensions = ClientExtensions::decode(&mut reader)?;
        let session_id = session_id.to_vec();
        Ok(Self { version, random, session_id, cookie, suites, extensions })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        out.bytes(&self.version);
        out.bytes(&self.random);
        out.vec8(&self.session_id);
        if let Some(cookie) = &self.cookie {
            out.vec8(cookie);
        }
        put_numbers(&mut out, &self.suites);
        out.vec8(&[NO_COMPRESSION]);
        out.counted(2, |out| self.extensions.encode(out));
        out
    }
}

impl ClientExtensions {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let mut known = Self::default();
        for (number, body) in extensions(reader)? {
            let mut body = Reader::new(CLIENT_HELLO, body);
            match number {
                extension::SERVER_NAME => known.server_name = server_name(&mut body)?,
                extension::SUPPORTED_GROUPS => {
                    let groups = body.vec16()?;
                    known.groups = Some(body.numbers(groups)?);
                }
                extension::EC_POINT_FORMATS => {
                    known.point_formats = Some(body.vec8()?.to_vec());
                }
                extension::SIGNATURE_ALGORITHMS => {
                    let schemes = body.vec16()?;
                    known.schemes = Some(body.numbers(schemes)?);
                }
                extension::ALPN => known.alpn = protocols(&mut body)?,
                extension::CERT_TYPE => {
                    let types = body.vec8()?;
                    if types.is_empty() {
                        return Err(body.malformed());
                    }
                    known.cert_types = Some(types.to_vec());
                }
                extension::EXTENDED_MASTER_SECRET => known.extended_master_secret = true,
                extension::SESSION_TICKET => {
                    known.ticket = Some(body.rest().to_vec());
                    continue;
                }
                extension::RENEGOTIATION_INFO => {
                    known.renegotiation_info = Some(body.vec8()?.to_vec());
                }
                _ => continue,
            }
            body.finish()?;
        }
        Ok(known)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        if let Some(info) = &self.renegotiation_info {
            put(out, extension::RENEGOTIATION_INFO, |out| out.vec8(info));
        }
        if let Some(name) = &self.server_name {
            put(out, extension::SERVER_NAME, |out| {
                out.counted(2, |out| {
                    out.u8(HOST_NAME);
                    out.vec16(name.as_bytes());
                });
            });
        }
        if self.extended_master_secret {
            put(out, extension::EXTENDED_MASTER_SECRET, |_| {});
        }
        if let Some(ticket) = &self.ticket {
            put(out, extension::SESSION_TICKET, |out| out.bytes(ticket));
        }
        if let Some(schemes) = &self.schemes {
            put(out, extension::SIGNATURE_ALGORITHMS, |out| put_numbers(out, schemes));
        }
        if let Some(groups) = &self.groups {
            put(out, extension::SUPPORTED_GROUPS, |out| put_numbers(out, groups));
        }
        if let Some(formats) = &self.point_formats {
            put(out, extension::EC_POINT_FORMATS, |out| out.vec8(formats));
        }
        if let Some(types) = &self.cert_types {
            put(out, extension::CERT_TYPE, |out| out.vec8(types));
        }
        put_protocols(out, &self.alpn);
    }
}

/// The cookie of a HelloVerifyRequest (RFC 6347 section 4.2.1); its version means nothing.
pub(crate) fn decode_cookie(body: &[u8]) -> Result<&[u8], Error> {
    let mut reader = Reader::new("HelloVerifyRequest", body);
    let [_, _] = reader.array()?;
    let cookie = reader.vec8()?;
    reader.finish()?;
    Ok(cookie)
}

/// What a server chose (RFC 5246 section 7.4.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ServerHello {
    pub(crate) version: [u8; 2],
    pub(crate) random: [u8; 32],
    pub(crate) session_id: Vec<u8>,
    pub(crate) suite: u16,
    pub(crate) extensions: ServerExtensions,
}

/// Its extensions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ServerExtensions {
    pub(crate) server_name: bool,
    pub(crate) point_formats: Option<Vec<u8>>,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) cert_type: Option<u8>,
    pub(crate) extended_master_secret: bool,
    pub(crate) ticket: bool,
    pub(crate) renegotiation_info: Option<Vec<u8>>,
}

impl ServerHello {
    /// Extensions that `offered` lacks are refused.
    pub(crate) fn decode(body: &[u8], offered: &ClientExtensions) -> Result<Self, Error> {
        let mut reader = Reader::new(SERVER_HELLO, body);
        let version = reader.array()?;
        let random = reader.array()?;
        let session_id = reader.vec8()?.to_vec();
        if session_id.len() > 32 {
            return Err(reader.malformed());
        }
        let suite = reader.u16()?;
        if reader.u8()? != NO_COMPRESSION {
            return Err(Error::Illegal("a compression method that was not offered"));
        }
        let extensions = ServerExtensions::decode(&mut reader, offered)?;
        Ok(Self { version, random, session_id, suite, extensions })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.bytes(&self.version);
        out.bytes(&self.random);
        out.vec8(&self.session_id);
        out.u16(self.suite);
        out.u8(NO_COMPRESSION);
        out.counted(2, |out| self.extensions.encode(out));
        out
    }
}

impl ServerExtensions {
    fn decode(reader: &mut Reader<'_>, offered: &ClientExtensions) -> Result<Self, Error> {
        let mut known = Self::default();
        for (number, body) in extensions(reader)? {
            let mut body = Reader::new(SERVER_HELLO, body);
            let was_offered = match number {
                extension::SERVER_NAME => offered.server_name.is_some(),
                extension::EC_POINT_FORMATS => offered.point_formats.is_some(),
                extension::ALPN => !offered.alpn.is_empty(),
                extension::CERT_TYPE => offered.cert_types.is_some(),
                extension::EXTENDED_MASTER_SECRET => offered.extended_master_secret,
                extension::SESSION_TICKET => offered.ticket.is_some(),
                extension::RENEGOTIATION_INFO => true, // answers the SCSV as well
                _ => false,
            };
            if !was_offered {
                return Err(Error::UnsupportedExtension(number));
            }
            match number {
                extension::SERVER_NAME => known.server_name = true,
                extension::EC_POINT_FORMATS => known.point_formats = Some(body.vec8()?.to_vec()),
                extension::ALPN => {
                    let mut chosen = protocols(&mut body)?;
                    let (Some(protocol), true) = (chosen.pop(), chosen.is_empty()) else {
                        return Err(body.malformed());
                    };
                    known.alpn = Some(protocol);
                }
                extension::CERT_TYPE => known.cert_type = Some(body.u8()?),
                extension::EXTENDED_MASTER_SECRET => known.extended_master_secret = true,
                extension::SESSION_TICKET => known.ticket = true,
                _ => known.renegotiation_info = Some(body.vec8()?.to_vec()),
            }
            body.finish()?;
        }
        Ok(known)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        if let Some(info) = &self.renegotiation_info {
            put(out, extension::RENEGOTIATION_INFO, |out| out.vec8(info));
        }
        if self.server_name {
            put(out, extension::SERVER_NAME, |_| {});
        }
        if self.extended_master_secret {
            put(out, extension::EXTENDED_MASTER_SECRET, |_| {});
        }
        if self.ticket {
            put(out, extension::SESSION_TICKET, |_| {});
        }
        if let Some(formats) = &self.point_formats {
            put(out, extension::EC_POINT_FORMATS, |out| out.vec8(formats));
        }
        if let Some(kind) = self.cert_type {
            put(out, extension::CERT_TYPE, |out| out.u8(kind));
        }
        if let Some(protocol) = &self.alpn {
            put_protocols(out, std::slice::from_ref(protocol));
        }
    }
}

/// The extensions at the end of a hello; each number may occur once. A hello may also end without
/// any (RFC 5246 section 7.4.1.2).
fn extensions<'a>(reader: &mut Reader<'a>) -> Result<Vec<(u16, &'a [u8])>, Error> {
    let mut found = Vec::new();
    if reader.is_empty() {
        return Ok(found);
    }
    let all = reader.vec16()?;
    reader.finish()?;
    let mut all = reader.inner(all);
    let mut numbers = Vec::new();
    while !all.is_empty() {
        let number = all.u16()?;
        let body = all.vec16()?;
        if found.len() == MAX_EXTENSIONS {
            return Err(Error::TooMuch("extensions"));
        }
        found.push((number, body));
        numbers.push(number);
    }
    numbers.sort_unstable();
    if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::Illegal("an extension that occurs twice"));
    }
    Ok(found)
}

/// RFC 6066 section 3: one name of type host_name; other types are passed over.
fn server_name(body: &mut Reader<'_>) -> Result<Option<String>, Error> {
    let list = body.vec16()?;
    let mut list = body.inner(list);
    let mut found = None;
    if list.is_empty() {
        return Err(list.malformed());
    }
    while !list.is_empty() {
        let kind = list.u8()?;
        let name = list.vec16()?;
        if kind != HOST_NAME {
            continue;
        }
        let valid = !name.is_empty() && name.len() <= 255 && name.iter().all(u8::is_ascii_graphic);
        if !valid || found.is_some() {
            return Err(Error::Illegal("the server name"));
        }
        found = Some(String::from_utf8_lossy(name).into_owned());
    }
    Ok(found)
}

/// RFC 7301 section 3.1.
fn protocols(body: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, Error> {
    let list = body.vec16()?;
    let mut list = body.inner(list);
    let mut names = Vec::new();
    while !list.is_empty() {
        let name = list.vec8()?;
        if name.is_empty() {
            return Err(list.malformed());
        }
        names.push(name.to_vec());
    }
    if names.is_empty() {
        return Err(list.malformed());
    }
    Ok(names)
}

fn put(out: &mut Vec<u8>, number: u16, body: impl FnOnce(&mut Vec<u8>)) {
    out.u16(number);
    out.counted(2, body);
}

fn put_numbers(out: &mut Vec<u8>, numbers: &[u16]) {
    out.counted(2, |out| numbers.iter().for_each(|number| out.u16(*number)));
}

fn put_protocols(out: &mut Vec<u8>, names: &[Vec<u8>]) {
    if !names.is_empty() {
        put(out, extension::ALPN, |out| {
            out.counted(2, |out| names.iter().for_each(|name| out.vec8(name)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> ClientHello {
        ClientHello {
            version: [3, 3],
            random: [7; 32],
            session_id: vec![1, 2],
            cookie: None,
            suites: vec![0x00A7, 0x00FF],
            extensions: ClientExtensions {
                server_name: Some("example.com".into()),
                groups: Some(vec![29, 23]),
                point_formats: Some(vec![0]),
                schemes: Some(vec![0x0807]),
                alpn: vec![b"h2".to_vec(), b"imap".to_vec()],
                cert_types: Some(vec![1, 0]),
                extended_master_secret: true,
                ticket: Some(vec![9; 40]),
                renegotiation_info: Some(vec![5; 12]),
            },
        }
    }

    #[test]
    fn client_hello_round_trip_and_every_cut_is_refused() {
        for cookie in [None, Some(vec![3; 20])] {
            let hello = ClientHello { cookie: cookie.clone(), ..full() };
            let bytes = hello.encode();
            assert_eq!(ClientHello::decode(&bytes, cookie.is_some()).unwrap(), hello);
            let fixed = 34 + 3 + cookie.map_or(0, |c| c.len() + 1) + 6 + 2;
            for cut in 0..bytes.len() {
                // Without any extensions it is whole again.
                let decoded = ClientHello::decode(&bytes[..cut], hello.cookie.is_some());
                assert_eq!(decoded.is_ok(), cut == fixed, "{cut}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert!(ClientHello::decode(&longer, hello.cookie.is_some()).is_err());
        }
    }

    type Strip = fn(&mut ClientExtensions);

    #[test]
    fn server_hello_round_trip_and_unsolicited_extensions() {
        let hello = ServerHello {
            version: [3, 3],
            random: [8; 32],
            session_id: vec![4; 32],
            suite: 0xC02F,
            extensions: ServerExtensions {
                server_name: true,
                point_formats: Some(vec![0]),
                alpn: Some(b"h2".to_vec()),
                cert_type: Some(1),
                extended_master_secret: true,
                ticket: true,
                renegotiation_info: Some(vec![5; 24]),
            },
        };
        let bytes = hello.encode();
        let offered = full().extensions;
        assert_eq!(ServerHello::decode(&bytes, &offered).unwrap(), hello);
        for cut in 0..bytes.len() {
            assert_eq!(ServerHello::decode(&bytes[..cut], &offered).is_ok(), cut == 70, "{cut}");
        }
        let strips: [(u16, Strip); 6] = [
            (0, |e| e.server_name = None),
            (11, |e| e.point_formats = None),
            (16, |e| e.alpn.clear()),
            (9, |e| e.cert_types = None),
            (23, |e| e.extended_master_secret = false),
            (35, |e| e.ticket = None),
        ];
        for (number, strip) in strips {
            let mut less = offered.clone();
            strip(&mut less);
            let refused = ServerHello::decode(&bytes, &less);
            assert_eq!(refused, Err(Error::UnsupportedExtension(number)));
        }
        let mut unknown = ServerHello::default().encode();
        unknown.truncate(38);
        unknown.extend_from_slice(&[0, 4, 0, 77, 0, 0]);
        let refused = ServerHello::decode(&unknown, &offered);
        assert_eq!(refused, Err(Error::UnsupportedExtension(77)));
        let mut twice = ServerHello::default().encode();
        twice.truncate(38);
        twice.extend_from_slice(&[0, 8, 0, 23, 0, 0, 0, 23, 0, 0]);
        let refused = ServerHello::decode(&twice, &offered);
        assert_eq!(refused, Err(Error::Illegal("an extension that occurs twice")));
    }

    #[test]
    fn cert_type_is_byte_exact() {
        let mut out = Vec::new();
        let offer = ClientExtensions { cert_types: Some(vec![1, 0]), ..Default::default() };
        offer.encode(&mut out);
        assert_eq!(out, [0x00, 0x09, 0x00, 0x03, 0x02, 0x01, 0x00]);
        let mut out = Vec::new();
        ServerExtensions { cert_type: Some(1), ..Default::default() }.encode(&mut out);
        assert_eq!(out, [0x00, 0x09, 0x00, 0x01, 0x01]);
    }

    /// A ClientHello with exactly these extensions.
    fn with_extensions(bytes: &[u8]) -> Result<ClientHello, Error> {
        let mut hello = full();
        hello.extensions = ClientExtensions::default();
        let mut out = hello.encode();
        out.truncate(out.len() - 2);
        out.vec16(bytes);
        ClientHello::decode(&out, false)
    }

    #[test]
    fn wrong_extensions() {
        let malformed = Err(Error::Malformed(CLIENT_HELLO));
        let twice = with_extensions(&[0, 23, 0, 0, 0, 23, 0, 0]);
        assert_eq!(twice, Err(Error::Illegal("an extension that occurs twice")));
        assert!(with_extensions(&[0, 99, 0, 1, 7]).is_ok());
        for bad in [
            &[0, 23, 0, 1, 0][..],         // EMS with a body
            &[0, 9, 0, 1, 0],              // no certificate type
            &[0, 10, 0, 2, 0, 0],          // no group
            &[0, 10, 0, 3, 0, 1, 29],      // half a group
            &[0, 13, 0, 5, 0, 2, 4, 1, 0], // something behind the schemes
            &[0, 16, 0, 2, 0, 0],          // no protocol
            &[0, 16, 0, 3, 0, 1, 0],       // an empty protocol
            &[0, 0, 0, 2, 0, 0],           // no name
            &[0xFF, 1, 0, 2, 2, 0],        // a lying length
        ] {
            assert_eq!(with_extensions(bad), malformed, "{bad:?}");
        }
        for bad in [&[0, 0, 0, 6, 0, 4, 0, 0, 1, b' '][..], &[0, 0, 0, 5, 0, 3, 0, 0, 0]] {
            assert_eq!(with_extensions(bad), Err(Error::Illegal("the server name")), "{bad:?}");
        }
        let many: Vec<u8> = (0..200).flat_map(|n| [9, n, 0, 0]).collect();
        assert_eq!(with_extensions(&many), Err(Error::TooMuch("extensions")));
    }

    #[test]
    fn a_session_id_has_at_most_32_bytes() {
        for length in [32, 33] {
            let hello = ClientHello { session_id: vec![1; length], ..full() };
            assert_eq!(ClientHello::decode(&hello.encode(), false).is_ok(), length == 32);
            let hello = ServerHello { session_id: vec![1; length], ..ServerHello::default() };
            let none = ClientExtensions::default();
            assert_eq!(ServerHello::decode(&hello.encode(), &none).is_ok(), length == 32);
        }
    }

    #[test]
    fn names_of_other_types_are_passed_over() {
        let named = |list: &[u8]| {
            let mut body = vec![];
            put(&mut body, extension::SERVER_NAME, |out| out.vec16(list));
            with_extensions(&body).map(|hello| hello.extensions.server_name)
        };
        assert_eq!(named(&[1, 0, 1, b'x', 0, 0, 1, b'a']), Ok(Some("a".into())));
        assert_eq!(named(&[0, 0, 1, b'a', 7, 0, 0]), Ok(Some("a".into())));
        assert_eq!(named(&[1, 0, 1, b'x']), Ok(None));
        assert!(named(&[0, 0, 1, b'a', 0, 0, 1, b'b']).is_err());
        let long = |length: usize| {
            [&[0, (length >> 8) as u8, length as u8][..], &vec![b'a'; length]].concat()
        };
        assert!(named(&long(255)).is_ok() && named(&long(256)).is_err());
    }

    #[test]
    fn compression_is_refused() {
        let mut bytes = full().encode();
        bytes[34 + 3 + 6 + 1] = 1;
        let refused = ClientHello::decode(&bytes, false);
        assert_eq!(refused, Err(Error::Illegal("no compression method null")));
        let mut bytes = ServerHello::default().encode();
        bytes[37] = 1;
        assert!(matches!(
            ServerHello::decode(&bytes, &ClientExtensions::default()),
            Err(Error::Illegal(_))
        ));
    }
}
