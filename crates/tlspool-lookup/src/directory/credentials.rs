//! What the entries of a directory say: attributes made credentials. Bytes that are none are left out
//! and counted; whether a credential is any good is for those to say who compare it with a peer's.

use aws_lc_rs::digest::{self, Context};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tlspool_identity::der::split_chain;
use tlspool_validate::sources::CredentialKind;

use super::message::Entry;

/// First and last line of an armored key (RFC 9580 section 6.2).
const ARMOR_BEGIN: &[u8] = b"-----BEGIN PGP PUBLIC KEY BLOCK-----";
const ARMOR_END: &[u8] = b"-----END";

/// Tag of the packet that a transferable public key begins with (RFC 9580 section 10.1).
const PUBLIC_KEY: u8 = 6;

/// What entries list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// Certificates in DER, or transferable public keys in binary.
    pub credentials: Vec<Vec<u8>>,
    /// Anchors that the domain publishes, in DER.
    pub anchors: Vec<Vec<u8>>,
    /// Values that are neither.
    pub unreadable: usize,
}

impl Listed {
    /// Reads the credentials of this kind out of entries; each once.
    pub fn read<'a>(kind: CredentialKind, entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut listed = Self::default();
        for entry in entries {
            match kind {
                CredentialKind::X509 => {
                    for value in entry.values("userCertificate") {
                        listed.unreadable += add(&mut listed.credentials, certificate(value));
                    }
                    for value in entry.values("cACertificate") {
                        listed.unreadable += add(&mut listed.anchors, certificate(value));
                    }
                }
                CredentialKind::OpenPgp => {
                    for value in entry.values("pgpKey") {
                        listed.unreadable += add(&mut listed.credentials, public_key(value));
                    }
                }
            }
        }
        listed
    }
}

/// Adds a value that is new; returns how many were unreadable.
fn add(to: &mut Vec<Vec<u8>>, value: Option<Vec<u8>>) -> usize {
    let Some(value) = value else { return 1 };
    if !to.contains(&value) {
        to.push(value);
    }
    0
}

/// A value that is one DER SEQUENCE and nothing else.
fn certificate(value: &[u8]) -> Option<Vec<u8>> {
    matches!(split_chain(value).as_deref(), Ok([_])).then(|| value.to_vec())
}

/// A transferable public key in binary, out of a value that is armored, or binary already.
fn public_key(value: &[u8]) -> Option<Vec<u8>> {
    let key = if value.first()? & 0x80 == 0 { dearmor(value)? } else { value.to_vec() };
    primary(&key).is_some().then_some(key)
}

/// Takes the armor off (RFC 9580 section 6). Its checksum is not looked at, as the RFC wants it.
fn dearmor(text: &[u8]) -> Option<Vec<u8>> {
    let begin = text.windows(ARMOR_BEGIN.len()).position(|window| window == ARMOR_BEGIN)?;
    let mut lines = text[begin + ARMOR_BEGIN.len()..]
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .skip(1);
    // Headers end with an empty line; some leave both out.
    let mut base64 = Vec::new();
    for line in lines.by_ref() {
        if line.is_empty() {
            break;
        }
        if !line.contains(&b':') {
            base64.extend_from_slice(line);
            break;
        }
    }
    for line in lines {
        if line.starts_with(b"=") || line.starts_with(ARMOR_END) {
            return BASE64_STANDARD.decode(base64).ok();
        }
        base64.extend_from_slice(line);
    }
    None
}

/// The body of the packet that a key begins with, if it is a public key.
fn primary(key: &[u8]) -> Option<&[u8]> {
    let (head, rest) = key.split_first()?;
    let (tag, length, rest) = if head & 0xc0 == 0xc0 {
        let (first, rest) = rest.split_first()?;
        match *first {
            length @ 0..192 => (head & 0x3f, usize::from(length), rest),
            high @ 192..224 => {
                let (low, rest) = rest.split_first()?;
                (head & 0x3f, ((usize::from(high) - 192) << 8) + usize::from(*low) + 192, rest)
            }
            255 => {
                let (length, rest) = rest.split_first_chunk::<4>()?;
                (head & 0x3f, u32::from_be_bytes(*length) as usize, rest)
            }
            _ => return None, // parts are for data packets only
        }
    } else {
        let size = match head & 3 {
            0 => 1,
            1 => 2,
            2 => 4,
            _ => return None,
        };
        let (length, rest) = rest.split_at_checked(size)?;
        let length = length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
        (head >> 2 & 0x0f, length, rest)
    };
    (tag == PUBLIC_KEY).then_some(())?;
    rest.get(..length)
}

/// The fingerprint of a key (RFC 9580 section 5.5.4), of version 4 or 6.
pub(crate) fn fingerprint(key: &[u8]) -> Option<Vec<u8>> {
    let body = primary(key)?;
    let mut context;
    match body.first()? {
        4 => {
            context = Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
            context.update(&[0x99]);
            context.update(&u16::try_from(body.len()).ok()?.to_be_bytes());
        }
        6 => {
            context = Context::new(&digest::SHA256);
            context.update(&[0x9b]);
            context.update(&u32::try_from(body.len()).ok()?.to_be_bytes());
        }
        _ => return None,
    }
    context.update(body);
    Some(context.finish().as_ref().to_vec())
}

/// The key ID as directories write it: the last 8 bytes of a fingerprint of 20, the first 8 of one of 32
/// (RFC 9580 section 5.5.4), in upper case hexadecimal.
pub fn key_id(fingerprint: &[u8]) -> Option<String> {
    let id = match fingerprint.len() {
        20 => &fingerprint[12..],
        32 => &fingerprint[..8],
        _ => return None,
    };
    Some(id.iter().fold(String::new(), |text, byte| format!("{text}{byte:02X}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(attribute: &str, values: &[&[u8]]) -> Entry {
        let values = values.iter().map(|value| value.to_vec()).collect();
        Entry { name: "dc=example".into(), attributes: vec![(attribute.into(), values)] }
    }

    /// A version 4 key packet with nothing in it that anyone could use.
    const KEY: &[u8] = b"\xc6\x06\x04\x00\x00\x00\x01\x16rest";

    fn armored(armor: &str) -> Vec<u8> {
        let base64 = BASE64_STANDARD.encode(KEY);
        armor.replace("BODY", &base64).into_bytes()
    }

    #[test]
    fn certificates_are_told_from_other_values() {
        let values: &[&[u8]] =
            &[b"\x30\x01x", b"text", b"\x30\x05x", b"\x30\x01xy", b"", b"\x30\x01x"];
        let read = |attribute| Listed::read(CredentialKind::X509, [&entry(attribute, values)]);
        let listed = read("usercertificate;binary");
        assert_eq!(listed.credentials, [b"\x30\x01x"]);
        assert_eq!((listed.anchors.len(), listed.unreadable), (0, 4));
        let listed = read("cACertificate");
        assert_eq!((listed.credentials.len(), listed.anchors.len()), (0, 1));
        assert_eq!(read("pgpKey"), Listed::default());
    }

    #[test]
    fn keys_come_armored_or_in_binary() {
        let begin = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
        let end = "-----END PGP PUBLIC KEY BLOCK-----";
        for armor in [
            format!("{begin}\r\nVersion: 1\r\nComment: a: b\r\n\r\nBODY\r\n=abcd\r\n{end}\r\n"),
            format!("{begin}\n\nBODY\n{end}"),
            format!("words\n{begin}\nBODY\n{end}"),
        ] {
            let value = armored(&armor);
            let listed = Listed::read(CredentialKind::OpenPgp, [&entry("pgpKey", &[&value, KEY])]);
            assert_eq!((listed.credentials, listed.unreadable), (vec![KEY.to_vec()], 0), "{armor}");
        }
        for bad in [
            armored(&format!("{begin}\n\nBODY")),
            armored(&format!("{begin}\n\nBODY*\n{end}")),
            armored(&format!("{begin}\n{end}")),
            b"".to_vec(),
            b"\xc6\x80\x04".to_vec(),
            b"\xcd\x04john".to_vec(),
            b"\xc6\xff\xff\xff\xff\xff\x04".to_vec(),
        ] {
            let listed = Listed::read(CredentialKind::OpenPgp, [&entry("pgpKey", &[&bad])]);
            assert_eq!((listed.credentials.len(), listed.unreadable), (0, 1), "{bad:?}");
        }
    }

    #[test]
    fn keys_have_fingerprints_and_ids() {
        // The first packet of the sample in RFC 9580, appendix A.3.
        let hex = "c62a0663877fe31b00000020f94da7bb48d60a61e567706a6587d0331999bb9d891a08242ead84543df895a3";
        let key: Vec<_> = (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap())
            .collect();
        let fingerprint = fingerprint(&key).unwrap();
        assert_eq!(key_id(&fingerprint).unwrap(), "CB186C4F0609A697");
        assert_eq!(key_id(&[0xab; 20]).unwrap(), "ABABABABABABABAB");
        assert_eq!(key_id(&[1; 16]), None);
    }
}
