//! The LDAP messages that a look-up needs (RFC 4511): StartTLS, an anonymous bind, a search, and what
//! comes back. The crate `ldap3` was not taken: its decoder recurses as deep as the directory likes and
//! panics on messages that are not as it expects them; here the directory is somebody else's.

use super::ber::{
    self, BOOLEAN, ENUMERATED, INTEGER, Malformed, OCTET_STRING, Reader, SEQUENCE, SET,
};
use super::filter::Filter;

/// StartTLS (RFC 4511 section 4.14).
const START_TLS: &str = "1.3.6.1.4.1.1466.20037";

/// Attributes of an entry, and values of an attribute, at most. We ask for five.
const ATTRIBUTES: usize = 64;
const VALUES: usize = 1024;

/// How much of a directory's words are shown, in characters.
const SHOWN: usize = 200;

/// How deep to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// This entry.
    Base,
    /// This entry and everything below.
    Subtree,
}

/// A search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Search {
    pub(crate) base: String,
    pub(crate) scope: Scope,
    pub(crate) filter: Filter,
    pub(crate) attributes: &'static [&'static str],
}

impl Search {
    /// The protocol's message: `entries` at most, within `seconds`.
    pub(crate) fn encode(&self, id: i32, entries: i32, seconds: i32) -> Vec<u8> {
        let scope = match self.scope {
            Scope::Base => 0,
            Scope::Subtree => 2,
        };
        let attributes: Vec<_> = self.attributes.iter().map(ber::string).collect();
        let parts = [
            ber::string(&self.base),
            ber::number(ENUMERATED, scope),
            ber::number(ENUMERATED, 0), // aliases are not followed
            ber::number(INTEGER, entries),
            ber::number(INTEGER, seconds),
            ber::element(BOOLEAN, &[0]), // values too, not only their types
            self.filter.encode(),
            ber::nest(SEQUENCE, &attributes),
        ];
        message(id, ber::nest(0x63, &parts))
    }
}

/// Asks for TLS.
pub(crate) fn start_tls(id: i32) -> Vec<u8> {
    message(id, ber::nest(0x77, &[ber::element(0x80, START_TLS.as_bytes())]))
}

/// An anonymous bind (RFC 4513 section 5.1.1), version 3.
pub(crate) fn bind(id: i32) -> Vec<u8> {
    let parts = [ber::number(INTEGER, 3), ber::string(""), ber::element(0x80, b"")];
    message(id, ber::nest(0x60, &parts))
}

/// The answer to `of` does not interest any more.
pub(crate) fn abandon(id: i32, of: i32) -> Vec<u8> {
    message(id, ber::number(0x50, of))
}

/// Farewell.
pub(crate) fn unbind(id: i32) -> Vec<u8> {
    message(id, ber::element(0x42, b""))
}

fn message(id: i32, operation: Vec<u8>) -> Vec<u8> {
    ber::nest(SEQUENCE, &[ber::number(INTEGER, id), operation])
}

/// What a directory sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// Of the request that it answers; 0 if of none.
    pub(crate) id: i32,
    pub(crate) body: Body,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    /// A request is done: bind, extended operation, or the end of a search.
    Done(Ending),
    /// An entry that a search found.
    Entry(Entry),
    /// A search would have to go on elsewhere.
    Reference,
}

/// How a request ended (RFC 4511 section 4.1.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// The result code.
    pub(crate) code: i32,
    /// What the directory says of it.
    pub(crate) text: String,
}

/// Result codes that mean something to us.
pub(crate) mod code {
    pub(crate) const SUCCESS: i32 = 0;
    pub(crate) const TIME_LIMIT: i32 = 3;
    pub(crate) const SIZE_LIMIT: i32 = 4;
    pub(crate) const REFERRAL: i32 = 10;
    pub(crate) const ADMIN_LIMIT: i32 = 11;
    pub(crate) const NO_SUCH_OBJECT: i32 = 32;
    pub(crate) const INAPPROPRIATE_AUTHENTICATION: i32 = 48;
    pub(crate) const NO_ACCESS: i32 = 50;
    pub(crate) const BUSY: i32 = 51;
    pub(crate) const UNAVAILABLE: i32 = 52;
}

impl std::fmt::Display for Ending {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self.code {
            code::SUCCESS => "success",
            code::TIME_LIMIT => "time limit exceeded",
            code::SIZE_LIMIT => "size limit exceeded",
            code::REFERRAL => "referral",
            code::ADMIN_LIMIT => "administrative limit exceeded",
            code::NO_SUCH_OBJECT => "no such object",
            code::INAPPROPRIATE_AUTHENTICATION => "inappropriate authentication",
            code::NO_ACCESS => "insufficient access rights",
            code::BUSY => "busy",
            code::UNAVAILABLE => "unavailable",
            _ => "error",
        };
        write!(to, "{name} ({})", self.code)?;
        if self.text.is_empty() { Ok(()) } else { write!(to, ", {:?}", self.text) }
    }
}

/// An entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its distinguished name, as far as it is text.
    pub name: String,
    /// Types of attributes, with their options, and values.
    pub attributes: Vec<(String, Vec<Vec<u8>>)>,
}

impl Entry {
    /// The values of an attribute, whatever options it comes with (RFC 4512 section 2.5).
    pub fn values<'a>(&'a self, attribute: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let wanted = self.attributes.iter().filter(move |(description, _)| {
            let description = description.split(';').next().unwrap_or_default();
            description.eq_ignore_ascii_case(attribute)
        });
        wanted.flat_map(|(_, values)| values.iter().map(Vec::as_slice))
    }
}

impl Message {
    /// Reads one whole message.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut outer = Reader(bytes);
        let mut message = outer.inside(SEQUENCE)?;
        if !outer.is_empty() {
            return Err(Malformed);
        }
        let id = message.number(INTEGER)?;
        let (tag, content) = message.element()?;
        // Controls may follow; we sent none, so none matters (RFC 4511 section 4.1.11).
        let mut content = Reader(content);
        let body = match tag {
            0x61 | 0x65 | 0x78 => Body::Done(ending(&mut content)?),
            0x64 => Body::Entry(entry(&mut content)?),
            0x73 => Body::Reference,
            _ => return Err(Malformed),
        };
        Ok(Self { id, body })
    }
}

fn ending(content: &mut Reader<'_>) -> Result<Ending, Malformed> {
    let code = content.number(ENUMERATED)?;
    content.expect(OCTET_STRING)?; // the part of the name that was found
    let text = shown(content.expect(OCTET_STRING)?);
    Ok(Ending { code, text })
}

fn entry(content: &mut Reader<'_>) -> Result<Entry, Malformed> {
    let name = String::from_utf8_lossy(content.expect(OCTET_STRING)?).into_owned();
    let mut list = content.inside(SEQUENCE)?;
    let mut attributes = Vec::new();
    while !list.is_empty() {
        let mut attribute = list.inside(SEQUENCE)?;
        let description = String::from_utf8_lossy(attribute.expect(OCTET_STRING)?).into_owned();
        let mut set = attribute.inside(SET)?;
        let mut values = Vec::new();
        while !set.is_empty() {
            if values.len() == VALUES {
                return Err(Malformed);
            }
            values.push(set.expect(OCTET_STRING)?.to_vec());
        }
        if attributes.len() == ATTRIBUTES {
            return Err(Malformed);
        }
        attributes.push((description, values));
    }
    Ok(Entry { name, attributes })
}

/// Words of a directory, made fit for a line of a log.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let start = &bytes[..bytes.len().min(SHOWN * 4)];
    let text = String::from_utf8_lossy(start);
    text.chars().filter(|character| !character.is_control()).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(tag: u8, code: i32, text: &[u8]) -> Vec<u8> {
        let parts = [ber::number(ENUMERATED, code), ber::string(""), ber::string(text)];
        message(7, ber::nest(tag, &parts))
    }

    #[test]
    fn endings_are_read_and_their_words_tamed() {
        let read = Message::decode(&done(0x65, 32, b"no\n\x1b[31m\xffway")).unwrap();
        let ending = Ending { code: 32, text: "no[31m\u{fffd}way".into() };
        assert_eq!(read, Message { id: 7, body: Body::Done(ending.clone()) });
        assert_eq!(ending.to_string(), "no such object (32), \"no[31m\u{fffd}way\"");
        let long = Message::decode(&done(0x65, 1, &[b'x'; 5000])).unwrap();
        assert!(matches!(long.body, Body::Done(Ending { text, .. }) if text.len() == SHOWN));
    }

    #[test]
    fn entries_are_read_with_binary_names_and_values() {
        let values = ber::nest(SET, &[ber::string([0xff, 0]), ber::string("two")]);
        let attribute = ber::nest(SEQUENCE, &[ber::string("userCertificate;binary"), values]);
        let none = ber::nest(SEQUENCE, &[ber::string([0xfe]), ber::nest(SET, &[])]);
        let parts = [ber::string([0xc3, b'=']), ber::nest(SEQUENCE, &[attribute, none])];
        let read = Message::decode(&message(3, ber::nest(0x64, &parts))).unwrap();
        let Body::Entry(entry) = read.body else { panic!("{read:?}") };
        assert_eq!(entry.name, "\u{fffd}=");
        let values: Vec<_> = entry.values("USERCERTIFICATE").collect();
        assert_eq!(values, [&[0xff, 0][..], b"two"]);
        assert_eq!(entry.values("userCert").count(), 0);
    }

    #[test]
    fn what_is_cut_or_nested_without_end_is_refused_quietly() {
        let whole = done(0x65, 0, b"fine");
        for length in 0..whole.len() {
            assert_eq!(Message::decode(&whole[..length]), Err(Malformed));
        }
        // The depth that ends a recursive decoder.
        let mut deep = Vec::new();
        for _ in 0..100_000 {
            deep = [&[0x30, 0x84][..], &(deep.len() as u32).to_be_bytes(), &deep].concat();
            if deep.len() > 3000 {
                break;
            }
        }
        assert_eq!(Message::decode(&deep), Err(Malformed));
    }

    #[test]
    fn requests_are_as_the_rfc_has_them() {
        assert_eq!(bind(1), *b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00");
        assert_eq!(unbind(2), *b"\x30\x05\x02\x01\x02\x42\x00");
        assert_eq!(abandon(6, 5), *b"\x30\x06\x02\x01\x06\x50\x01\x05");
        assert_eq!(start_tls(1), *b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037");
    }
}
