//! What is looked at before sequoia is: size, number, kinds and nesting of packets.
//!
//! [`check`] walks over the headers alone. What it lets pass is one transferable public key of
//! bounded work: definite lengths, no container that could hold more packets, no secret, no
//! signature within a signature within a signature.

use crate::ReadError;

/// Most that one certificate may be, so that a stranger cannot make us work for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes, without armor.
    pub bytes: usize,
    /// Packets.
    pub packets: usize,
}

impl Limits {
    /// For what a peer shows in a handshake.
    pub const PEER: Self = Self { bytes: 64 * 1024, packets: 128 };

    /// For what an administrator or a directory supplies: keys with many certifications on them.
    pub const LARGE: Self = Self { bytes: 1024 * 1024, packets: 8192 };

    /// Bytes that `bytes` may be in armor: base64, line ends, headers.
    pub(crate) fn armored(self) -> usize {
        self.bytes / 2 * 3 + 4096
    }
}

/// Most bytes of a public key packet: RSA with 8192 bits needs 1 KiB, ML-DSA-87 with Ed448 2.7 KiB.
const MAX_KEY: usize = 4096;
/// Most bytes of a user ID; a DoNAI has 127.
const MAX_USER_ID: usize = 2048;

/// Subpacket that holds a signature (RFC 9580 section 5.2.3.34).
const EMBEDDED_SIGNATURE: u8 = 32;

/// Packet tags (RFC 9580 section 5).
mod tag {
    pub(super) const SIGNATURE: u8 = 2;
    pub(super) const SECRET_KEY: u8 = 5;
    pub(super) const PUBLIC_KEY: u8 = 6;
    pub(super) const SECRET_SUBKEY: u8 = 7;
    pub(super) const MARKER: u8 = 10;
    pub(super) const TRUST: u8 = 12;
    pub(super) const USER_ID: u8 = 13;
    pub(super) const PUBLIC_SUBKEY: u8 = 14;
    pub(super) const USER_ATTRIBUTE: u8 = 17;
    pub(super) const PADDING: u8 = 21;
}

/// Refuses what is not one public key within `limits`.
pub(crate) fn check(bytes: &[u8], limits: Limits) -> Result<(), ReadError> {
    if bytes.len() > limits.bytes {
        return Err(ReadError::TooLarge { most: limits.bytes });
    }
    let mut rest = bytes;
    let mut packets = 0;
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let (tag, body, after) = packet(rest).ok_or(ReadError::Broken { at })?;
        match tag {
            tag::SECRET_KEY | tag::SECRET_SUBKEY => return Err(ReadError::SecretKey),
            tag::PUBLIC_KEY if packets > 0 => return Err(ReadError::SeveralKeys),
            tag::PUBLIC_KEY | tag::PUBLIC_SUBKEY if body.len() > MAX_KEY => {
                return Err(ReadError::Broken { at });
            }
            tag::PUBLIC_KEY => {}
            _ if packets == 0 => return Err(ReadError::NoKey),
            tag::SIGNATURE => signature(body, true).ok_or(ReadError::Broken { at })?,
            tag::USER_ID if body.len() > MAX_USER_ID => return Err(ReadError::Broken { at }),
            tag::PUBLIC_SUBKEY
            | tag::USER_ID
            | tag::USER_ATTRIBUTE
            | tag::TRUST
            | tag::MARKER
            | tag::PADDING
            // To be passed over when unknown (RFC 9580 section 4.3).
            | 40..=63 => {}
            other => return Err(ReadError::ForeignPacket { tag: other }),
        }
        packets += 1;
        if packets > limits.packets {
            return Err(ReadError::TooManyPackets { most: limits.packets });
        }
        rest = after;
    }
    if packets == 0 { Err(ReadError::NoKey) } else { Ok(()) }
}

/// The first packet: its tag, its body, and what follows. Lengths must be definite.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (tag, (len, rest)) = match first {
        0xc0.. => {
            let (&one, after) = rest.split_first()?;
            let length = match one {
                0..=191 => (usize::from(one), after),
                192..=223 => {
                    let (&two, after) = after.split_first()?;
                    ((usize::from(one) - 192) * 256 + usize::from(two) + 192, after)
                }
                224..=254 => return None,
                255 => number::<4>(after)?,
            };
            (first & 0x3f, length)
        }
        0x80..=0xbf => {
            let length = match first & 3 {
                0 => number::<1>(rest)?,
                1 => number::<2>(rest)?,
                2 => number::<4>(rest)?,
                _ => return None,
            };
            (first >> 2 & 0x0f, length)
        }
        _ => return None,
    };
    let (body, after) = rest.split_at_checked(len)?;
    Some((tag, body, after))
}

/// A big-endian number of `N` bytes and what follows it.
fn number<const N: usize>(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (digits, rest) = bytes.split_first_chunk::<N>()?;
    Some((digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest))
}

/// Whether the subpackets of a signature are whole, and nest at most once. Signatures of versions
/// that we do not know are sequoia's to ignore.
fn signature(body: &[u8], may_nest: bool) -> Option<()> {
    let (&version, rest) = body.split_first()?;
    if version != 4 && version != 6 {
        return Some(());
    }
    let mut rest = rest.get(3..)?;
    for _ in ["hashed", "unhashed"] {
        let (len, after) = if version == 4 { number::<2>(rest)? } else { number::<4>(rest)? };
        let (area, after) = after.split_at_checked(len)?;
        subpackets(area, may_nest)?;
        rest = after;
    }
    Some(())
}

fn subpackets(mut area: &[u8], may_nest: bool) -> Option<()> {
    while let Some((&one, after)) = area.split_first() {
        let (len, after) = match one {
            0..=191 => (usize::from(one), after),
            192..=254 => {
                let (&two, after) = after.split_first()?;
                ((usize::from(one) - 192) * 256 + usize::from(two) + 192, after)
            }
            255 => number::<4>(after)?,
        };
        let (subpacket, after) = after.split_at_checked(len)?;
        let (&kind, content) = subpacket.split_first()?;
        if kind & 0x7f == EMBEDDED_SIGNATURE {
            may_nest.then_some(())?;
            signature(content, false)?;
        }
        area = after;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = &[0xc6, 1, 4];

    fn with(packets: &[&[u8]]) -> Result<(), ReadError> {
        check(&[KEY, &packets.concat()].concat(), Limits { bytes: 3000, packets: 4 })
    }

    /// A version 4 signature with these hashed subpackets.
    fn signature_body(subpackets: &[u8]) -> Vec<u8> {
        let mut body = vec![4, 0x18, 22, 8];
        body.extend((subpackets.len() as u16).to_be_bytes());
        body.extend(subpackets);
        body.extend([0, 0, 1, 2]);
        body
    }

    fn subpacket(kind: u8, content: &[u8]) -> Vec<u8> {
        [&[255][..], &(content.len() as u32 + 1).to_be_bytes(), &[kind], content].concat()
    }

    fn signature_packet(subpackets: &[u8]) -> Vec<u8> {
        let body = signature_body(subpackets);
        [&[0xc2, 255][..], &(body.len() as u32).to_be_bytes(), &body].concat()
    }

    #[test]
    fn one_key_and_what_belongs_to_it() {
        with(&[]).unwrap();
        // A user ID in the old format with each length, in the new one, and a packet to ignore.
        with(&[&[0xb4, 1, b'a'], &[0xb5, 0, 1, b'a'], &[0xb6, 0, 0, 0, 1, b'a']]).unwrap();
        with(&[&[0xcd, 1, b'a'], &[0xcd, 255, 0, 0, 0, 1, b'a'], &[0xff, 0]]).unwrap();
        with(&[&[&[0xcd, 192, 8][..], &[b'a'; 200]].concat()]).unwrap();
        assert_eq!(check(&[], Limits::PEER), Err(ReadError::NoKey));
        assert_eq!(check(&[0xcd, 1, b'a'], Limits::PEER), Err(ReadError::NoKey));
        assert_eq!(with(&[KEY]), Err(ReadError::SeveralKeys));
        assert_eq!(with(&[&[0xc7, 0]]), Err(ReadError::SecretKey));
        assert_eq!(check(&[0xc5, 0], Limits::PEER), Err(ReadError::SecretKey));
    }

    #[test]
    fn containers_are_foreign() {
        for tag in [0, 1, 3, 4, 8, 9, 11, 18, 19, 20, 39] {
            assert_eq!(with(&[&[0xc0 | tag, 0]]), Err(ReadError::ForeignPacket { tag }), "{tag}");
        }
    }

    #[test]
    fn lengths_that_lie() {
        for bad in [
            &[0xcd][..],
            &[0xcd, 2, 0],
            &[0xcd, 192],
            &[0xcd, 224, 1],
            &[0xcd, 255, 0, 0, 0],
            &[0xcd, 255, 255, 255, 255, 255],
            &[0xb7, 1],
            &[0xb5, 0],
            &[0x4d, 0],
        ] {
            assert_eq!(with(&[bad]), Err(ReadError::Broken { at: 3 }), "{bad:x?}");
        }
    }

    #[test]
    fn bounds() {
        let id: &[u8] = &[0xcd, 1, b'a'];
        with(&[id; 3]).unwrap();
        assert_eq!(with(&[id; 4]), Err(ReadError::TooManyPackets { most: 4 }));
        assert_eq!(with(&[&[0xff; 3000]]), Err(ReadError::TooLarge { most: 3000 }));
        let sized = |tag: u8, len: usize| {
            let head = [&[0xc0 | tag, 255][..], &(len as u32).to_be_bytes()].concat();
            check(&[KEY, &head, &vec![0; len]].concat(), Limits::PEER)
        };
        sized(tag::USER_ID, MAX_USER_ID).unwrap();
        assert_eq!(sized(tag::USER_ID, MAX_USER_ID + 1), Err(ReadError::Broken { at: 3 }));
        sized(tag::PUBLIC_SUBKEY, MAX_KEY).unwrap();
        assert_eq!(sized(tag::PUBLIC_SUBKEY, MAX_KEY + 1), Err(ReadError::Broken { at: 3 }));
    }

    #[test]
    fn signatures_nest_once() {
        let inner = subpacket(32, &signature_body(&subpacket(2, &[0; 4])));
        with(&[&signature_packet(&inner)]).unwrap();
        let deep = subpacket(32, &signature_body(&inner));
        assert_eq!(with(&[&signature_packet(&deep)]), Err(ReadError::Broken { at: 3 }));
        // Also when flagged as critical.
        let deep = subpacket(32, &signature_body(&subpacket(0x80 | 32, &signature_body(&[]))));
        assert_eq!(with(&[&signature_packet(&deep)]), Err(ReadError::Broken { at: 3 }));
        for bad in [&[2][..], &[0], &[192], &[255, 0, 0], &[2, 32, 4]] {
            let error = with(&[&signature_packet(bad)]);
            assert_eq!(error, Err(ReadError::Broken { at: 3 }), "{bad:?}");
        }
    }
}
