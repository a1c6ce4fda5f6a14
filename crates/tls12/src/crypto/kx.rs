//! Ephemeral key exchange: ECDHE (RFC 8422) and DHE over the groups of RFC 7919.
//!
//! The state machine calls it, once per handshake. A share is used once and is gone; peers' shares are checked
//! before a secret comes of them.

use aws_lc_rs::agreement::{
    self, Algorithm, ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey, X25519,
};
use aws_lc_rs::rand::SystemRandom;
use zeroize::Zeroizing;

use super::CryptoError;
use super::ffdh::{self, FfPrivate};

/// A group for the key exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Group {
    /// Curve25519 (RFC 7748).
    X25519,
    /// NIST P-256.
    Secp256r1,
    /// NIST P-384.
    Secp384r1,
    /// 2048 bit group of RFC 7919.
    Ffdhe2048,
    /// 3072 bit group of RFC 7919.
    Ffdhe3072,
    /// 4096 bit group of RFC 7919.
    Ffdhe4096,
    /// 2048 bit group of RFC 3526, which servers send though nobody can ask for it.
    Modp2048,
    /// 3072 bit group of RFC 3526, likewise.
    Modp3072,
    /// 4096 bit group of RFC 3526, likewise.
    Modp4096,
}

impl Group {
    /// Its name, as registered (or as RFC 3526 has it).
    pub const fn name(self) -> &'static str {
        match self {
            Self::X25519 => "X25519",
            Self::Secp256r1 => "secp256r1",
            Self::Secp384r1 => "secp384r1",
            Self::Ffdhe2048 => "ffdhe2048",
            Self::Ffdhe3072 => "ffdhe3072",
            Self::Ffdhe4096 => "ffdhe4096",
            Self::Modp2048 => "modp2048",
            Self::Modp3072 => "modp3072",
            Self::Modp4096 => "modp4096",
        }
    }

    /// The groups that have a code point, best first.
    pub const NAMED: [Self; 6] = [
        Self::X25519,
        Self::Secp256r1,
        Self::Secp384r1,
        Self::Ffdhe2048,
        Self::Ffdhe3072,
        Self::Ffdhe4096,
    ];

    /// The code point in `supported_groups` and ServerKeyExchange; none for the groups of RFC 3526.
    #[must_use]
    pub const fn code_point(self) -> Option<u16> {
        match self {
            Self::Secp256r1 => Some(23),
            Self::Secp384r1 => Some(24),
            Self::X25519 => Some(29),
            Self::Ffdhe2048 => Some(256),
            Self::Ffdhe3072 => Some(257),
            Self::Ffdhe4096 => Some(258),
            Self::Modp2048 | Self::Modp3072 | Self::Modp4096 => None,
        }
    }

    /// The group with this code point.
    #[must_use]
    pub fn from_code_point(code_point: u16) -> Option<Self> {
        Self::NAMED.into_iter().find(|group| group.code_point() == Some(code_point))
    }

    /// Whether this is a finite-field group, for DHE and DH_anon; the others are for ECDHE.
    #[must_use]
    pub const fn is_finite_field(self) -> bool {
        !matches!(self, Self::X25519 | Self::Secp256r1 | Self::Secp384r1)
    }

    /// The prime and the generator, as ServerKeyExchange carries them; none for an elliptic curve.
    #[must_use]
    pub fn dh_params(self) -> Option<(Vec<u8>, Vec<u8>)> {
        ffdh::prime(self).map(|prime| (prime, vec![ffdh::GENERATOR]))
    }

    fn curve(self) -> Option<&'static Algorithm> {
        match self {
            Self::X25519 => Some(&X25519),
            Self::Secp256r1 => Some(&ECDH_P256),
            Self::Secp384r1 => Some(&ECDH_P384),
            _ => None,
        }
    }
}

/// The group with this prime and generator, big-endian with or without leading zeros; none if it is not one
/// that we know to be sound.
#[must_use]
pub fn dh_group_from_params(p: &[u8], g: &[u8]) -> Option<Group> {
    if strip_zeros(g) != [ffdh::GENERATOR] {
        return None;
    }
    ffdh::group_of_prime(strip_zeros(p))
}

/// Why a key exchange came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KxError {
    /// The peer's share is not of the group, or gives its secret away (illegal_parameter).
    #[error("the peer's key share is no element of the group")]
    BadShare,
    /// The library or the system failed (internal_error).
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// Our half of a key exchange.
pub struct KeyShare {
    group: Group,
    private: Private,
    public: Vec<u8>,
}

enum Private {
    Curve(EphemeralPrivateKey),
    Field(FfPrivate),
}

impl KeyShare {
    /// A fresh share.
    pub fn generate(group: Group) -> Result<Self, CryptoError> {
        let (private, public) = if let Some(curve) = group.curve() {
            let private = EphemeralPrivateKey::generate(curve, &SystemRandom::new())?;
            let public = private.compute_public_key()?.as_ref().to_vec();
            (Private::Curve(private), public)
        } else {
            let private = FfPrivate::generate(group)?;
            let public = private.public();
            (Private::Field(private), public)
        };
        Ok(Self { group, private, public })
    }

    /// The group of this share.
    #[must_use]
    pub fn group(&self) -> Group {
        self.group
    }

    /// What the peer gets: a curve's point as RFC 8422 5.4 has it (uncompressed), or Y as long as the prime.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The premaster secret with the peer's share. Of a finite-field secret leading zeros are stripped
    /// (RFC 5246 8.1.2), of a curve's they are not (RFC 8422 5.10).
    ///
    /// Refused: points off the curve or not in the uncompressed form, Y of 0, 1, p-1 or beyond (RFC 7919 5.1),
    /// and shares of another length than the group's.
    pub fn agree(self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, KxError> {
        match self.private {
            Private::Curve(private) => {
                // 65 and 97 bytes with 4 in front: uncompressed, the one form that we say we take.
                let well_formed = peer.len() == self.public.len()
                    && (self.group == Group::X25519 || peer.first() == Some(&4));
                if !well_formed {
                    return Err(KxError::BadShare);
                }
                let peer = UnparsedPublicKey::new(private.algorithm(), peer);
                agreement::agree_ephemeral(private, peer, KxError::BadShare, |secret| {
                    Ok(Zeroizing::new(secret.to_vec()))
                })
            }
            Private::Field(private) => {
                let secret = private.agree(peer).ok_or(KxError::BadShare)?;
                // The zeros' number shows in the time; it tells of this one secret only, whose share is
                // never used again.
                Ok(Zeroizing::new(strip_zeros(&secret).to_vec()))
            }
        }
    }
}

impl std::fmt::Debug for KeyShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeyShare").field(&self.group).finish()
    }
}

fn strip_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: [Group; 6] = [
        Group::Ffdhe2048,
        Group::Ffdhe3072,
        Group::Ffdhe4096,
        Group::Modp2048,
        Group::Modp3072,
        Group::Modp4096,
    ];

    #[test]
    fn both_sides_agree() {
        for group in Group::NAMED.into_iter().chain(FIELDS) {
            let ours = KeyShare::generate(group).unwrap();
            let theirs = KeyShare::generate(group).unwrap();
            let (our_public, their_public) = (ours.public().to_vec(), theirs.public().to_vec());
            assert_ne!(our_public, their_public);
            let secret = ours.agree(&their_public).unwrap();
            assert_eq!(secret, theirs.agree(&our_public).unwrap(), "{group:?}");
            assert!(secret.len() >= 32);
        }
    }

    #[test]
    fn code_points_lead_back() {
        for group in Group::NAMED {
            let code_point = group.code_point().unwrap();
            assert_eq!(Group::from_code_point(code_point), Some(group));
        }
        assert_eq!(Group::from_code_point(25), None);
        assert_eq!(Group::Modp2048.code_point(), None);
    }

    #[test]
    fn groups_are_known_by_their_parameters() {
        for group in FIELDS {
            let (p, g) = group.dh_params().unwrap();
            assert_eq!(dh_group_from_params(&p, &g), Some(group));
            let padded = [&[0, 0], p.as_slice()].concat();
            assert_eq!(dh_group_from_params(&padded, &[0, 2]), Some(group));
            assert_eq!(dh_group_from_params(&p, &[3]), None);
            assert_eq!(dh_group_from_params(&p, &[]), None);
            assert_eq!(dh_group_from_params(&p[1..], &g), None);
            let mut other = p.clone();
            other[100] ^= 1;
            assert_eq!(dh_group_from_params(&other, &g), None);
        }
        assert_eq!(dh_group_from_params(&[], &[2]), None);
        assert_eq!(Group::X25519.dh_params(), None);
    }

    #[test]
    fn finite_field_shares_that_are_none_are_refused() {
        for group in FIELDS {
            let (p, _) = group.dh_params().unwrap();
            let with_last = |last: u8| {
                let mut number = p.clone();
                *number.last_mut().unwrap() = last;
                number
            };
            let refused = [
                vec![],
                vec![0],
                vec![1],
                vec![0; p.len()],
                [vec![0; p.len() - 1], vec![1]].concat(),
                with_last(0xfe), // p - 1
                p.clone(),
                [&p[..], &[2]].concat(),
                [vec![0; p.len()], vec![2]].concat(),
                vec![0xff; p.len()],
            ];
            for share in refused {
                let ours = KeyShare::generate(group).unwrap();
                assert_eq!(ours.agree(&share), Err(KxError::BadShare), "{share:?}");
            }
            for share in [vec![2], vec![0, 2], with_last(0xfd)] {
                assert!(KeyShare::generate(group).unwrap().agree(&share).is_ok());
            }
        }
    }

    #[test]
    fn points_that_are_none_are_refused() {
        for group in [Group::Secp256r1, Group::Secp384r1] {
            let good = KeyShare::generate(group).unwrap().public().to_vec();
            let mut off_curve = good.clone();
            *off_curve.last_mut().unwrap() ^= 1;
            let mut compressed = good[..=good.len() / 2].to_vec();
            compressed[0] = 2 | (good.last().unwrap() & 1);
            let mut hybrid = good.clone();
            hybrid[0] = 6 | (good.last().unwrap() & 1);
            let other = [Group::Secp384r1, Group::Secp256r1]
                .into_iter()
                .find(|other| *other != group)
                .map(|other| KeyShare::generate(other).unwrap().public().to_vec())
                .unwrap();
            for share in [
                vec![],
                vec![0],
                vec![4],
                off_curve,
                compressed,
                hybrid,
                other,
                good[1..].to_vec(),
                [&good[..], &[0]].concat(),
                [vec![4], vec![0; good.len() - 1]].concat(),
                [vec![4], vec![0xff; good.len() - 1]].concat(),
            ] {
                let ours = KeyShare::generate(group).unwrap();
                assert_eq!(ours.agree(&share), Err(KxError::BadShare), "{share:?}");
            }
        }
    }

    #[test]
    fn x25519_shares_of_small_order_are_refused() {
        let one = [vec![1], vec![0; 31]].concat();
        for share in [vec![0; 32], one, vec![9; 31], vec![9; 33], vec![]] {
            let ours = KeyShare::generate(Group::X25519).unwrap();
            assert_eq!(ours.agree(&share), Err(KxError::BadShare), "{share:?}");
        }
    }

    #[test]
    fn leading_zeros_go() {
        assert_eq!(strip_zeros(&[0, 0, 1, 0]), [1, 0]);
        assert_eq!(strip_zeros(&[0, 0]), []);
        assert_eq!(strip_zeros(&[]), []);
    }
}
