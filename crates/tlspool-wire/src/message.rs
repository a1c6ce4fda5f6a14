//! The header in front of each message on the plaintext socket of a session of DTLS over SCTP, if its `streamid` is
//! [`EVERY_STREAM`].

/// `streamid` of a program that uses many streams. (No stream of SCTP has this number.)
pub const EVERY_STREAM: u16 = 0xffff;

/// Longest message of DTLS over SCTP, without the header (RFC 6083 section 4.1).
pub const MAX_MESSAGE: usize = 1 << 14;

/// Says what a message of SCTP has beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageHeader {
    /// Its stream.
    pub stream: u16,
    /// Unknown bits are ignored, and not set by the pool.
    pub flags: MessageFlags,
    /// The payload protocol identifier, byte by byte as it travels.
    pub ppid: [u8; 4],
}

/// Flags of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageFlags(pub u16);

impl MessageFlags {
    /// The message may overtake others of its stream.
    pub const UNORDERED: Self = Self(0x1);

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl MessageHeader {
    /// Bytes of a header.
    pub const LENGTH: usize = 8;

    /// As it stands in front of the message: stream u16, flags u16, both in host byte order, PPID.
    pub fn encode(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..2].copy_from_slice(&self.stream.to_ne_bytes());
        bytes[2..4].copy_from_slice(&self.flags.0.to_ne_bytes());
        bytes[4..].copy_from_slice(&self.ppid);
        bytes
    }

    /// Takes a message apart; none if it is shorter than a header.
    pub fn split(message: &[u8]) -> Option<(Self, &[u8])> {
        let ([s1, s2, f1, f2, ppid @ ..], rest) =
            message.split_first_chunk::<{ Self::LENGTH }>()?;
        let header = Self {
            stream: u16::from_ne_bytes([*s1, *s2]),
            flags: MessageFlags(u16::from_ne_bytes([*f1, *f2])),
            ppid: *ppid,
        };
        Some((header, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let header =
            MessageHeader { stream: 0x1234, flags: MessageFlags::UNORDERED, ppid: [0, 0, 0, 47] };
        let message = [&header.encode()[..], b"hello"].concat();
        assert_eq!(MessageHeader::split(&message), Some((header, &b"hello"[..])));
        assert_eq!(message[..2], 0x1234_u16.to_ne_bytes());
        assert_eq!(message[4..8], [0, 0, 0, 47]);
        assert_eq!(MessageHeader::split(&message[..8]).unwrap().1, b"");
        assert_eq!(MessageHeader::split(&message[..7]), None);
    }
}
