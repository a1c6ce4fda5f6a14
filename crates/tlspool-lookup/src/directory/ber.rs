//! The Basic Encoding Rules as far as LDAP uses them (RFC 4511 section 5.1): definite lengths, single
//! byte tags. The reader borrows and never recurses: how deep it goes is up to the grammar that asks,
//! not to the bytes. Only [`super::message`] uses this.

/// Longest length field that is read, in bytes after the first.
const LENGTH_BYTES: usize = 4;

pub(crate) const BOOLEAN: u8 = 0x01;
pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// Bytes that are not what the grammar wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the directory sends what is not LDAP")]
pub(crate) struct Malformed;

/// The head of an element: its tag, the length of the head, and that of the content.
fn head(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, Malformed> {
    let [tag, first, more @ ..] = bytes else { return Ok(None) };
    if tag & 0x1f == 0x1f {
        return Err(Malformed); // a tag of several bytes; LDAP has none
    }
    if first & 0x80 == 0 {
        return Ok(Some((*tag, 2, usize::from(*first))));
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > LENGTH_BYTES {
        return Err(Malformed); // indefinite, or beyond any bound of ours
    }
    let Some(length) = more.get(..count) else { return Ok(None) };
    let length = length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    Ok(Some((*tag, 2 + count, length)))
}

/// The length of the element that `bytes` begin with, head included, or `None` if its head is not whole.
pub(crate) fn extent(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    Ok(head(bytes)?.map(|(_, head, content)| head.saturating_add(content)))
}

/// Reads elements one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next element.
    pub(crate) fn element(&mut self) -> Result<(u8, &'a [u8]), Malformed> {
        let (tag, start, length) = head(self.0)?.ok_or(Malformed)?;
        let content = self.0.get(start..).and_then(|rest| rest.get(..length)).ok_or(Malformed)?;
        self.0 = &self.0[start + length..];
        Ok((tag, content))
    }

    /// The content of the next element, which has this tag.
    pub(crate) fn expect(&mut self, tag: u8) -> Result<&'a [u8], Malformed> {
        let (found, content) = self.element()?;
        if found == tag { Ok(content) } else { Err(Malformed) }
    }

    /// As [`Self::expect`], for what has elements in it.
    pub(crate) fn inside(&mut self, tag: u8) -> Result<Reader<'a>, Malformed> {
        self.expect(tag).map(Reader)
    }

    /// A number that fits, with this tag.
    pub(crate) fn number(&mut self, tag: u8) -> Result<i32, Malformed> {
        let content = self.expect(tag)?;
        let (first, rest) = content.split_first().ok_or(Malformed)?;
        if rest.len() > 3 {
            return Err(Malformed);
        }
        let sign = i32::from(*first as i8);
        Ok(rest.iter().fold(sign, |sum, byte| sum << 8 | i32::from(*byte)))
    }
}

/// An element with `content`.
pub(crate) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 6);
    bytes.push(tag);
    match content.len() {
        length @ 0..0x80 => bytes.push(length as u8),
        length => {
            let length = length.to_be_bytes();
            let start = length.iter().position(|byte| *byte != 0).unwrap_or(0);
            bytes.push(0x80 | (length.len() - start) as u8);
            bytes.extend_from_slice(&length[start..]);
        }
    }
    bytes.extend_from_slice(content);
    bytes
}

/// An element that holds others.
pub(crate) fn nest(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    element(tag, &parts.concat())
}

/// A number that is not negative.
pub(crate) fn number(tag: u8, value: i32) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    // Without leading zero bytes that say nothing (X.690 section 8.3.2).
    let start = (0..3).find(|&at| bytes[at] != 0 || bytes[at + 1] & 0x80 != 0).unwrap_or(3);
    element(tag, &bytes[start..])
}

/// A string.
pub(crate) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    element(OCTET_STRING, text.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive() {
        for value in [0, 1, 127, 128, 255, 256, 32767, 32768, 8_388_607, 8_388_608, i32::MAX] {
            let bytes = number(INTEGER, value);
            assert_eq!(Reader(&bytes).number(INTEGER), Ok(value), "{bytes:?}");
        }
        assert_eq!(number(INTEGER, 127), [2, 1, 127]);
        assert_eq!(number(INTEGER, 128), [2, 2, 0, 128]);
    }

    #[test]
    fn lengths_survive() {
        for length in [0, 1, 127, 128, 255, 256, 70_000] {
            let bytes = element(OCTET_STRING, &vec![7; length]);
            assert_eq!(extent(&bytes), Ok(Some(bytes.len())));
            assert_eq!(Reader(&bytes).expect(OCTET_STRING).map(<[u8]>::len), Ok(length));
        }
    }

    #[test]
    fn what_ber_does_not_allow_here_is_refused() {
        for bytes in [
            &[0x30, 0x80, 0, 0][..],               // indefinite length
            &[0x30, 0x85, 1, 0, 0, 0, 0],          // a length of five bytes
            &[0x3f, 0x81, 0, 0],                   // a tag of two bytes
            &[0x04, 0x05, 1, 2],                   // cut short
            &[0x04, 0x84, 0xff, 0xff, 0xff, 0xff], // far too long
        ] {
            assert_eq!(Reader(bytes).element(), Err(Malformed), "{bytes:?}");
        }
        assert_eq!(Reader(&[2, 0]).number(INTEGER), Err(Malformed));
        assert_eq!(Reader(&[2, 5, 1, 1, 1, 1, 1]).number(INTEGER), Err(Malformed));
    }
}
