//! Finite-field Diffie-Hellman over the safe primes of RFC 7919 and RFC 3526, in constant time.
//!
//! Only `kx` calls it. It takes no group from outside: only these six, whose generator is 2.

use std::sync::LazyLock;

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U384, U2048, U3072, U4096, Uint};
use zeroize::{Zeroize, Zeroizing};

use super::kx::Group;
use super::{CryptoError, random};

/// The generator of all six groups.
pub(super) const GENERATOR: u8 = 2;

/// A private exponent of one of the groups.
pub(super) struct FfPrivate {
    group: Group,
    exponent: Zeroizing<U384>,
}

impl FfPrivate {
    /// A fresh exponent. `group` must be a finite-field group.
    pub(super) fn generate(group: Group) -> Result<Self, CryptoError> {
        let mut bytes = Zeroizing::new([0; 48]);
        let len = exponent_bits(group).ok_or(CryptoError)? as usize / 8;
        random(&mut bytes[48 - len..])?;
        // An exponent of 0 or 1 has the probability 2^-255.
        let exponent = Zeroizing::new(U384::from_be_slice(&*bytes));
        Ok(Self { group, exponent })
    }

    /// Our Y, as long as the prime.
    pub(super) fn public(&self) -> Vec<u8> {
        self.power(&[GENERATOR]).unwrap_or_default()
    }

    /// The shared secret, as long as the prime. None if `peer` is not in 2..=p-2 (RFC 7919 5.1).
    pub(super) fn agree(&self, peer: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        self.power(peer).map(Zeroizing::new)
    }

    fn power(&self, base: &[u8]) -> Option<Vec<u8>> {
        let (exponent, bits) = (&*self.exponent, exponent_bits(self.group)?);
        match self.group {
            Group::Ffdhe2048 => power(&FFDHE_2048, base, exponent, bits),
            Group::Ffdhe3072 => power(&FFDHE_3072, base, exponent, bits),
            Group::Ffdhe4096 => power(&FFDHE_4096, base, exponent, bits),
            Group::Modp2048 => power(&MODP_2048, base, exponent, bits),
            Group::Modp3072 => power(&MODP_3072, base, exponent, bits),
            Group::Modp4096 => power(&MODP_4096, base, exponent, bits),
            Group::X25519 | Group::Secp256r1 | Group::Secp384r1 => None,
        }
    }
}

/// The prime, big-endian; none for a curve.
pub(super) fn prime(group: Group) -> Option<Vec<u8>> {
    fn bytes<const L: usize>(params: &FixedMontyParams<L>) -> Vec<u8> {
        params.modulus().as_ref().to_be_bytes().as_ref().to_vec()
    }
    match group {
        Group::Ffdhe2048 => Some(bytes(&FFDHE_2048)),
        Group::Ffdhe3072 => Some(bytes(&FFDHE_3072)),
        Group::Ffdhe4096 => Some(bytes(&FFDHE_4096)),
        Group::Modp2048 => Some(bytes(&MODP_2048)),
        Group::Modp3072 => Some(bytes(&MODP_3072)),
        Group::Modp4096 => Some(bytes(&MODP_4096)),
        Group::X25519 | Group::Secp256r1 | Group::Secp384r1 => None,
    }
}

/// The group of this prime, given without leading zeros.
pub(super) fn group_of_prime(p: &[u8]) -> Option<Group> {
    let candidates = match p.len() {
        256 => [Group::Ffdhe2048, Group::Modp2048],
        384 => [Group::Ffdhe3072, Group::Modp3072],
        512 => [Group::Ffdhe4096, Group::Modp4096],
        _ => return None,
    };
    candidates.into_iter().find(|group| prime(*group).as_deref() == Some(p))
}

/// Bits of a private exponent: no fewer than RFC 7919's appendix A asks for (225, 275, 325), in whole words.
fn exponent_bits(group: Group) -> Option<u32> {
    match group {
        Group::Ffdhe2048 | Group::Modp2048 => Some(256),
        Group::Ffdhe3072 | Group::Modp3072 => Some(320),
        Group::Ffdhe4096 | Group::Modp4096 => Some(384),
        Group::X25519 | Group::Secp256r1 | Group::Secp384r1 => None,
    }
}

/// `base` to the `exponent`, as long as the prime. None if `base` is not in 2..=p-2 or longer than the prime.
fn power<const L: usize>(
    params: &FixedMontyParams<L>,
    base: &[u8],
    exponent: &U384,
    exponent_bits: u32,
) -> Option<Vec<u8>> {
    let len = Uint::<L>::BITS as usize / 8;
    let start = len.checked_sub(base.len())?;
    let mut padded = vec![0; len];
    padded[start..].copy_from_slice(base);
    let base = Uint::<L>::from_be_slice(&padded);
    let last = params.modulus().as_ref().wrapping_sub(&Uint::ONE);
    // The base is public: comparing it may show in the time.
    if base <= Uint::ONE || base >= last {
        return None;
    }
    let mut result = FixedMontyForm::new(&base, params).pow_bounded_exp(exponent, exponent_bits);
    let mut number = result.retrieve();
    let bytes = number.to_be_bytes().as_ref().to_vec();
    number.zeroize();
    result.zeroize();
    Some(bytes)
}

type Params<const L: usize> = LazyLock<FixedMontyParams<L>>;

static FFDHE_2048: Params<{ U2048::LIMBS }> = LazyLock::new(|| params(FFDHE2048));
static FFDHE_3072: Params<{ U3072::LIMBS }> = LazyLock::new(|| params(FFDHE3072));
static FFDHE_4096: Params<{ U4096::LIMBS }> = LazyLock::new(|| params(FFDHE4096));
static MODP_2048: Params<{ U2048::LIMBS }> = LazyLock::new(|| params(MODP2048));
static MODP_3072: Params<{ U3072::LIMBS }> = LazyLock::new(|| params(MODP3072));
static MODP_4096: Params<{ U4096::LIMBS }> = LazyLock::new(|| params(MODP4096));

fn params<const L: usize>(prime: &str) -> FixedMontyParams<L> {
    FixedMontyParams::new_vartime(Odd::<Uint<L>>::from_be_hex(prime))
}

// Computed from the formulas in RFC 7919, appendix A, and RFC 3526; the tests do it again.
const FFDHE2048: &str = concat!(
    "FFFFFFFFFFFFFFFFADF85458A2BB4A9AAFDC5620273D3CF1D8B9C583CE2D3695A9E13641",
    "146433FBCC939DCE249B3EF97D2FE363630C75D8F681B202AEC4617AD3DF1ED5D5FD6561",
    "2433F51F5F066ED0856365553DED1AF3B557135E7F57C935984F0C70E0E68B77E2A689DA",
    "F3EFE8721DF158A136ADE73530ACCA4F483A797ABC0AB182B324FB61D108A94BB2C8E3FB",
    "B96ADAB760D7F4681D4F42A3DE394DF4AE56EDE76372BB190B07A7C8EE0A6D709E02FCE1",
    "CDF7E2ECC03404CD28342F619172FE9CE98583FF8E4F1232EEF28183C3FE3B1B4C6FAD73",
    "3BB5FCBC2EC22005C58EF1837D1683B2C6F34A26C1B2EFFA886B423861285C97FFFFFFFF",
    "FFFFFFFF",
);
const FFDHE3072: &str = concat!(
    "FFFFFFFFFFFFFFFFADF85458A2BB4A9AAFDC5620273D3CF1D8B9C583CE2D3695A9E13641",
    "146433FBCC939DCE249B3EF97D2FE363630C75D8F681B202AEC4617AD3DF1ED5D5FD6561",
    "2433F51F5F066ED0856365553DED1AF3B557135E7F57C935984F0C70E0E68B77E2A689DA",
    "F3EFE8721DF158A136ADE73530ACCA4F483A797ABC0AB182B324FB61D108A94BB2C8E3FB",
    "B96ADAB760D7F4681D4F42A3DE394DF4AE56EDE76372BB190B07A7C8EE0A6D709E02FCE1",
    "CDF7E2ECC03404CD28342F619172FE9CE98583FF8E4F1232EEF28183C3FE3B1B4C6FAD73",
    "3BB5FCBC2EC22005C58EF1837D1683B2C6F34A26C1B2EFFA886B4238611FCFDCDE355B3B",
    "6519035BBC34F4DEF99C023861B46FC9D6E6C9077AD91D2691F7F7EE598CB0FAC186D91C",
    "AEFE130985139270B4130C93BC437944F4FD4452E2D74DD364F2E21E71F54BFF5CAE82AB",
    "9C9DF69EE86D2BC522363A0DABC521979B0DEADA1DBF9A42D5C4484E0ABCD06BFA53DDEF",
    "3C1B20EE3FD59D7C25E41D2B66C62E37FFFFFFFFFFFFFFFF",
);
const FFDHE4096: &str = concat!(
    "FFFFFFFFFFFFFFFFADF85458A2BB4A9AAFDC5620273D3CF1D8B9C583CE2D3695A9E13641",
    "146433FBCC939DCE249B3EF97D2FE363630C75D8F681B202AEC4617AD3DF1ED5D5FD6561",
    "2433F51F5F066ED0856365553DED1AF3B557135E7F57C935984F0C70E0E68B77E2A689DA",
    "F3EFE8721DF158A136ADE73530ACCA4F483A797ABC0AB182B324FB61D108A94BB2C8E3FB",
    "B96ADAB760D7F4681D4F42A3DE394DF4AE56EDE76372BB190B07A7C8EE0A6D709E02FCE1",
    "CDF7E2ECC03404CD28342F619172FE9CE98583FF8E4F1232EEF28183C3FE3B1B4C6FAD73",
    "3BB5FCBC2EC22005C58EF1837D1683B2C6F34A26C1B2EFFA886B4238611FCFDCDE355B3B",
    "6519035BBC34F4DEF99C023861B46FC9D6E6C9077AD91D2691F7F7EE598CB0FAC186D91C",
    "AEFE130985139270B4130C93BC437944F4FD4452E2D74DD364F2E21E71F54BFF5CAE82AB",
    "9C9DF69EE86D2BC522363A0DABC521979B0DEADA1DBF9A42D5C4484E0ABCD06BFA53DDEF",
    "3C1B20EE3FD59D7C25E41D2B669E1EF16E6F52C3164DF4FB7930E9E4E58857B6AC7D5F42",
    "D69F6D187763CF1D5503400487F55BA57E31CC7A7135C886EFB4318AED6A1E012D9E6832",
    "A907600A918130C46DC778F971AD0038092999A333CB8B7A1A1DB93D7140003C2A4ECEA9",
    "F98D0ACC0A8291CDCEC97DCF8EC9B55A7F88A46B4DB5A851F44182E1C68A007E5E655F6A",
    "FFFFFFFFFFFFFFFF",
);
const MODP2048: &str = concat!(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA6",
    "3B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245",
    "E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F2411",
    "7C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F",
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08",
    "CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9",
    "DE2BCBF6955817183995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFF",
    "FFFFFFFF",
);
const MODP3072: &str = concat!(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA6",
    "3B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245",
    "E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F2411",
    "7C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F",
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08",
    "CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9",
    "DE2BCBF6955817183995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D",
    "04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7",
    "ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D8760273",
    "3EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E208E24FA074E5AB31",
    "43DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF",
);
const MODP4096: &str = concat!(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA6",
    "3B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245",
    "E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F2411",
    "7C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F",
    "83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08",
    "CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9",
    "DE2BCBF6955817183995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D",
    "04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7",
    "ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D8760273",
    "3EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E208E24FA074E5AB31",
    "43DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D788719A10BDBA5B2699C32718",
    "6AF4E23C1A946834B6150BDA2583E9CA2AD44CE8DBBBC2DB04DE8EF92E8EFC141FBECAA6",
    "287C59474E6BC05D99B2964FA090C3A2233BA186515BE7ED1F612970CEE2D7AFB81BDD76",
    "2170481CD0069127D5B05AA993B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199",
    "FFFFFFFFFFFFFFFF",
);

#[cfg(test)]
mod tests {
    use super::super::unhex;
    use super::*;
    use crypto_bigint::{BoxedUint, Resize};

    /// Room for 4096 bits and the guard bits of the series.
    const WIDE: u32 = 4352;

    fn number(value: u64) -> BoxedUint {
        BoxedUint::from(value).resize(WIDE)
    }

    fn divided(value: &BoxedUint, by: u64) -> BoxedUint {
        let by = crypto_bigint::NonZero::new(number(by)).unwrap();
        value.div_rem_vartime(&by).0.resize(WIDE)
    }

    #[test]
    fn exponents_are_as_long_as_the_group_is_strong() {
        for (group, bits) in
            [(Group::Ffdhe2048, 256), (Group::Modp3072, 320), (Group::Ffdhe4096, 384)]
        {
            let longest =
                (0..20).map(|_| FfPrivate::generate(group).unwrap().exponent.bit_width()).max();
            assert!(longest.is_some_and(|longest| longest <= bits && longest > bits - 20));
        }
    }

    const GUARD: u32 = 64;

    /// floor(2^bits e), by its series.
    fn e(bits: u32) -> BoxedUint {
        let mut term = number(1).shl(bits + GUARD);
        let mut sum = number(0);
        let mut k = 0;
        while !bool::from(term.is_zero()) {
            sum = sum.wrapping_add(&term);
            k += 1;
            term = divided(&term, k);
        }
        sum.shr(GUARD)
    }

    /// floor(2^bits pi), by Machin's formula.
    fn pi(bits: u32) -> BoxedUint {
        let arctan = |x: u64| {
            let mut term = divided(&number(1).shl(bits + GUARD), x);
            let mut sum = term.clone();
            for n in 1.. {
                term = divided(&term, x * x);
                let part = divided(&term, 2 * n + 1);
                if bool::from(part.is_zero()) {
                    break;
                }
                sum = if n % 2 == 1 { sum.wrapping_sub(&part) } else { sum.wrapping_add(&part) };
            }
            sum
        };
        let quarter = arctan(5).shl(2).wrapping_sub(arctan(239));
        quarter.shl(2).shr(GUARD)
    }

    /// 2^b - 2^(b-64) + (constant + x) 2^64 - 1, as both RFCs write it.
    fn formula(b: u32, constant: &BoxedUint, x: u64) -> Vec<u8> {
        let power = |n| number(1).shl(n);
        let middle = constant.wrapping_add(number(x)).shl(64);
        let p = power(b).wrapping_sub(power(b - 64)).wrapping_add(middle).wrapping_sub(number(1));
        let bytes = p.to_be_bytes();
        bytes[bytes.len() - b as usize / 8..].to_vec()
    }

    #[test]
    fn primes_are_those_of_the_formulas() {
        for (group, b, x) in [
            (Group::Ffdhe2048, 2048, 560_316),
            (Group::Ffdhe3072, 3072, 2_625_351),
            (Group::Ffdhe4096, 4096, 5_736_041),
        ] {
            assert_eq!(prime(group).unwrap(), formula(b, &e(b - 130), x));
        }
        for (group, b, x) in [
            (Group::Modp2048, 2048, 124_476),
            (Group::Modp3072, 3072, 1_690_314),
            (Group::Modp4096, 4096, 240_904),
        ] {
            assert_eq!(prime(group).unwrap(), formula(b, &pi(b - 130), x));
        }
    }

    /// A power modulo each prime, its first 24 bytes, computed with Python's `pow`.
    #[test]
    fn known_powers() {
        for (group, expected) in KNOWN_POWERS {
            let private = FfPrivate {
                group,
                exponent: Zeroizing::new(U384::from_u64(0x0123_4567_89ab_cdef)),
            };
            let secret = private.agree(&[0x5a; 200]).unwrap();
            assert_eq!(prime(group).unwrap().len(), secret.len());
            assert_eq!(secret[..24], unhex(expected), "{group:?}");
        }
    }

    const KNOWN_POWERS: [(Group, &str); 6] = [
        (Group::Ffdhe2048, "6cc84adbd417cd86b2acfbef26a0b865654497ab9a940873"),
        (Group::Ffdhe3072, "a292ac8d63a60bed473906b604e8afe796998791a6374781"),
        (Group::Ffdhe4096, "6e690fb0e72d294aefca270c4bca2a972f03acdaad0f7845"),
        (Group::Modp2048, "7e89a9d09b5a42b87884ebceec6775df5c09c3820c7038a4"),
        (Group::Modp3072, "e7e0f79fbe2d33836e04c200ad6def58bf8ff74deb9f6a19"),
        (Group::Modp4096, "604e6867f28d87752aaf0a5dd4e88b1e16b12752808b1add"),
    ];
}
