//! What is wrong with an OpenPGP certificate, in words that say what to do.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::KeyId;

/// Why bytes are not an OpenPGP certificate that we read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Too many bytes.
    #[error(
        "the OpenPGP certificate has more than {most} bytes; export it without the \
             certifications of others (gpg: --export-options export-minimal)"
    )]
    TooLarge {
        /// How many there may be.
        most: usize,
    },
    /// Too many packets.
    #[error(
        "the OpenPGP certificate has more than {most} packets; export it without the \
             certifications of others (gpg: --export-options export-minimal)"
    )]
    TooManyPackets {
        /// How many there may be.
        most: usize,
    },
    /// Armor that cannot be undone.
    #[error(
        "this is no OpenPGP certificate, neither binary nor armored (BEGIN PGP PUBLIC KEY BLOCK)"
    )]
    Armor,
    /// No public key at the start.
    #[error("there is no OpenPGP public key at the start")]
    NoKey,
    /// A secret key.
    #[error("this is a secret key, which must not leave its owner; export the public one")]
    SecretKey,
    /// More than one key.
    #[error("there are several keys; export the one that is meant, by its fingerprint")]
    SeveralKeys,
    /// A packet that no public key has.
    #[error("a packet of type {tag} does not belong into a public key")]
    ForeignPacket {
        /// Its tag (RFC 9580 section 5).
        tag: u8,
    },
    /// A packet of lying or indefinite length, too large, or with a signature in a signature in a
    /// signature.
    #[error("the OpenPGP packet at byte {at} is broken")]
    Broken {
        /// Where it starts.
        at: usize,
    },
    /// Packets that make no certificate.
    #[error("the OpenPGP packets make no certificate: {0}")]
    Malformed(String),
}

/// The part of a certificate that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The whole of it: its primary key.
    Certificate,
    /// The primary key or a subkey.
    Key(KeyId),
    /// A user ID, made printable and cut.
    UserId(String),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate => f.write_str("the OpenPGP certificate"),
            Self::Key(id) => write!(f, "the key {id} of the OpenPGP certificate"),
            Self::UserId(text) => write!(f, "the user ID \"{text}\""),
        }
    }
}

/// What is wrong with a part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It starts in the future.
    #[error("is valid from {} on only; check both clocks", Date(*from))]
    NotYet {
        /// When.
        from: SystemTime,
    },
    /// It has ended.
    #[error("has expired on {}; its owner must extend it", Date(*since))]
    Expired {
        /// When.
        since: SystemTime,
    },
    /// Its owner has revoked it.
    #[error("was revoked on {}{}: {reason}", Date(*since),
            if *compromised { ", and everything that it ever signed" } else { "" })]
    Revoked {
        /// When.
        since: SystemTime,
        /// Whether the past is void as well: the key is known to others, or no reason was given (a
        /// hard revocation).
        compromised: bool,
        /// The owner's reason.
        reason: String,
    },
    /// Its algorithms, or those of its signatures, are broken.
    #[error("relies on an algorithm that is not safe: {why}")]
    Weak {
        /// Which.
        why: String,
    },
    /// No signature of the primary key holds it.
    #[error("carries no valid signature of its primary key: {why}")]
    Unsigned {
        /// Why not.
        why: String,
    },
    /// No such part.
    #[error("does not exist")]
    Missing,
    /// Flags that permit neither signing nor authentication.
    #[error("may neither sign nor authenticate (key flags)")]
    MayNotSign,
    /// An algorithm that TLS has no signature scheme for, or a key out of its bounds.
    #[error("is of a kind that cannot be used in TLS here: {algorithm}")]
    Unsupported {
        /// Which.
        algorithm: String,
    },
    /// A NUL or another hidden character in the name.
    #[error("names something with a hidden character (U+{0:04X})")]
    HiddenCharacter(u32),
}

/// A part that cannot be relied on, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{part} {fault}")]
pub struct Unfit {
    /// What.
    pub part: Part,
    /// Why.
    pub fault: Fault,
}

impl Unfit {
    pub(crate) fn certificate(fault: Fault) -> Self {
        Self { part: Part::Certificate, fault }
    }

    pub(crate) fn key(id: KeyId, fault: Fault) -> Self {
        Self { part: Part::Key(id), fault }
    }
}

/// Why nobody vouches for a name in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotCertified {
    /// The certificate itself is no good.
    #[error(transparent)]
    Unfit(#[from] Unfit),
    /// It does not carry the name.
    #[error("no valid user ID of the certificate is for {0}")]
    NoSuchName(String),
    /// No trusted key has certified it.
    #[error(
        "none of the {trusted} trusted OpenPGP keys has certified {name}; trust one that has: \
             tlspool trust add --openpgp FILE"
    )]
    Nobody {
        /// The name.
        name: String,
        /// How many trusted keys there are.
        trusted: usize,
    },
    /// A trusted key has taken its certification back.
    #[error("the trusted key {by} has revoked its certification of {name}")]
    Withdrawn {
        /// The name.
        name: String,
        /// Fingerprint of the trusted key.
        by: String,
    },
    /// A trusted key has certified it, but is itself no good any more.
    #[error("the trusted key {by}, which has certified {name}, is no good: {unfit}")]
    TrustedUnfit {
        /// The name.
        name: String,
        /// Fingerprint of the trusted key.
        by: String,
        /// Why.
        unfit: Unfit,
    },
}

/// Two certificates of different primary keys were to be merged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{ours} and {theirs} are different OpenPGP certificates")]
pub struct MergeError {
    /// The one.
    pub ours: String,
    /// The other.
    pub theirs: String,
}

/// A time for people: date and time of day in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date(pub SystemTime);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Eras of 400 years, counted from the first of March of the year 0.
        let shifted = days + 719_468;
        let (era, day) = (shifted / 146_097, shifted % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let in_year = day - (365 * year + year / 4 - year / 100);
        let month = (5 * in_year + 2) / 153;
        let day = in_year - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + next;
        let (hour, minute) = (rest / 3600, rest % 3600 / 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_767_225_599, "2025-12-31 23:59 UTC"),
            (4_294_967_295, "2106-02-07 06:28 UTC"),
        ] {
            assert_eq!(Date(UNIX_EPOCH + Duration::from_secs(seconds)).to_string(), text);
        }
    }
}
