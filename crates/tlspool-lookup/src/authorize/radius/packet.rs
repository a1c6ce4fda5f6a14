//! RADIUS packets: an Access-Request (RFC 2865 section 4.1), and the reply to it, which is believed only if
//! both its Response Authenticator (section 3) and its Message-Authenticator (RFC 3579 section 3.2) are right.
//! Without the latter, MD5 alone protects a reply, and that can be forged by who is on the way (CVE-2024-3596).
//! No I/O.
//!
//! The request asks about somebody whose identity is proved already, so it has no password: its Service-Type is
//! Call Check, as for a call that is to be answered or not.
//!
//! | attribute | |
//! | --- | --- |
//! | Message-Authenticator (80) | first, as the remedy against forged replies wants it |
//! | Service-Type (6) | Call Check (10) |
//! | NAS-Identifier (32) | who we are |
//! | NAS-Port-Type (61) | Virtual (5) |
//! | User-Name (1), Calling-Station-Id (31) | the peer's name; absent if it has shown none |
//! | Called-Station-Id (30) | our name, if we have one here |
//! | NAS-Port-Id (87) | the service, if it is known |
//! | Connect-Info (77) | our role: `server` or `client` |

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::rand;
use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};
use zeroize::Zeroizing;

use crate::authorize::{Meeting, reason};

/// Bytes of a packet (RFC 2865 section 3).
pub const MAX_PACKET: usize = 4096;

/// Code, identifier, length, authenticator.
const HEAD: usize = 20;

/// Most bytes of an attribute's value.
const MAX_VALUE: usize = 253;

/// Bytes of a shared secret.
const SECRET_LEAST: usize = 8;
const SECRET_MOST: usize = 256;

const ACCESS_REQUEST: u8 = 1;
/// It may.
pub const ACCESS_ACCEPT: u8 = 2;
/// It may not.
pub const ACCESS_REJECT: u8 = 3;
/// It should be asked for more.
pub const ACCESS_CHALLENGE: u8 = 11;

const USER_NAME: u8 = 1;
const SERVICE_TYPE: u8 = 6;
const REPLY_MESSAGE: u8 = 18;
const CALLED_STATION_ID: u8 = 30;
const CALLING_STATION_ID: u8 = 31;
const NAS_IDENTIFIER: u8 = 32;
const NAS_PORT_TYPE: u8 = 61;
const CONNECT_INFO: u8 = 77;
const MESSAGE_AUTHENTICATOR: u8 = 80;
const NAS_PORT_ID: u8 = 87;

const CALL_CHECK: u32 = 10;
const VIRTUAL: u32 = 5;

/// What we share with the servers.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Why bytes are no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// Too easy to guess.
    #[error(
        "has {0} bytes, and at least {SECRET_LEAST} are needed; make one with `openssl rand -hex 16`"
    )]
    Short(usize),
    /// Servers take none that is that long.
    #[error("has more than {SECRET_MOST} bytes")]
    Long,
    /// Who reads it can let anyone in.
    #[error("is open to everybody (mode {0:03o}); take their rights away with `chmod o=`")]
    Open(u32),
}

impl Secret {
    /// A secret. White space at the end belongs to the file, not to the secret.
    pub fn new(bytes: &[u8]) -> Result<Self, SecretError> {
        let secret = bytes.trim_ascii_end();
        match secret.len() {
            0..SECRET_LEAST => Err(SecretError::Short(secret.len())),
            SECRET_LEAST..=SECRET_MOST => Ok(Self(Zeroizing::new(secret.to_vec()))),
            _ => Err(SecretError::Long),
        }
    }

    /// Reads a file, which must not be open to everybody.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let file = fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        if mode & 0o007 != 0 {
            return Err(SecretError::Open(mode));
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MOST + 2));
        file.take(SECRET_MOST as u64 + 2).read_to_end(&mut bytes)?;
        Self::new(&bytes)
    }
}

/// A question, as it is sent.
#[derive(Debug)]
pub struct Request {
    bytes: Vec<u8>,
    authenticator: [u8; 16],
}

/// An authentic reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// [`ACCESS_ACCEPT`], [`ACCESS_REJECT`] or [`ACCESS_CHALLENGE`].
    pub code: u8,
    /// What it says to people (Reply-Message), made fit for a log.
    pub message: String,
}

/// What a datagram is to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its reply.
    Reply(Reply),
    /// Nothing that counts; why.
    Ignored(&'static str),
}

impl Request {
    /// A question with an identifier and an authenticator that nobody can guess. An error says which value is
    /// too long for a packet, or that there is no randomness.
    pub fn new(
        meeting: &Meeting<'_>,
        nas_identifier: &str,
        secret: &Secret,
    ) -> Result<Self, String> {
        let mut random = [0; 17];
        rand::fill(&mut random).map_err(|_| "there is no randomness".to_owned())?;
        let [identifier, authenticator @ ..] = random;
        Self::with(identifier, authenticator, meeting, nas_identifier, secret)
    }

    /// The same, with these.
    pub fn with(
        identifier: u8,
        authenticator: [u8; 16],
        meeting: &Meeting<'_>,
        nas_identifier: &str,
        secret: &Secret,
    ) -> Result<Self, String> {
        let mut bytes = vec![ACCESS_REQUEST, identifier, 0, 0];
        bytes.extend_from_slice(&authenticator);
        attribute(&mut bytes, MESSAGE_AUTHENTICATOR, &[0; 16])?;
        attribute(&mut bytes, SERVICE_TYPE, &CALL_CHECK.to_be_bytes())?;
        attribute(&mut bytes, NAS_IDENTIFIER, nas_identifier.as_bytes())?;
        attribute(&mut bytes, NAS_PORT_TYPE, &VIRTUAL.to_be_bytes())?;
        for (kind, text) in [
            (USER_NAME, meeting.remote),
            (CALLING_STATION_ID, meeting.remote),
            (CALLED_STATION_ID, meeting.local),
            (NAS_PORT_ID, meeting.service),
            (CONNECT_INFO, if meeting.server { "server" } else { "client" }),
        ] {
            // An attribute without a value must not be sent (RFC 2865 section 5).
            if !text.is_empty() {
                attribute(&mut bytes, kind, text.as_bytes())?;
            }
        }
        set_length(&mut bytes)?;
        let tag = message_authenticator(&[&bytes], secret);
        bytes[HEAD + 2..HEAD + 18].copy_from_slice(&tag);
        Ok(Self { bytes, authenticator })
    }

    /// The packet.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Looks at a datagram that came to the socket from which the question was sent.
    pub fn open(&self, datagram: &[u8], secret: &Secret, must_have_tag: bool) -> Verdict {
        match self.read(datagram, secret, must_have_tag) {
            Ok(reply) => Verdict::Reply(reply),
            Err(why) => Verdict::Ignored(why),
        }
    }

    fn read(
        &self,
        datagram: &[u8],
        secret: &Secret,
        must_have_tag: bool,
    ) -> Result<Reply, &'static str> {
        let [code, identifier, high, low, ..] = *datagram else { return Err("it is too short") };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(HEAD..=MAX_PACKET).contains(&length) {
            return Err("its length is none");
        }
        // What follows is padding.
        let packet = datagram.get(..length).ok_or("it is cut short")?;
        let (head, attributes) = packet.split_at(HEAD);
        if Some(identifier) != self.bytes.get(1).copied() {
            return Err("it answers another question");
        }
        if !matches!(code, ACCESS_ACCEPT | ACCESS_REJECT | ACCESS_CHALLENGE) {
            return Err("it is no answer to an Access-Request");
        }
        let mut hash = Md5::new();
        for part in [&head[..4], &self.authenticator, attributes, &secret.0] {
            hash.update(part);
        }
        if verify_slices_are_equal(&hash.finalize(), &head[4..]).is_err() {
            return Err("its authenticator is wrong: it is forged, or the secret is another");
        }
        let mut tag = None;
        let mut message = Vec::new();
        for found in Attributes(attributes, 0) {
            let (at, kind, value) = found?;
            match kind {
                MESSAGE_AUTHENTICATOR if tag.is_some() || value.len() != 16 => {
                    return Err("its Message-Authenticator is none");
                }
                MESSAGE_AUTHENTICATOR => tag = Some((at, value)),
                REPLY_MESSAGE => message.extend_from_slice(value),
                _ => {}
            }
        }
        match tag {
            None if must_have_tag => return Err("it has no Message-Authenticator"),
            None => {}
            Some((at, value)) => {
                let (before, after) = (&attributes[..at + 2], &attributes[at + 18..]);
                let parts = [&head[..4], &self.authenticator, before, &[0; 16], after];
                let expected = message_authenticator(&parts, secret);
                if verify_slices_are_equal(&expected, value).is_err() {
                    return Err("its Message-Authenticator is wrong");
                }
            }
        }
        Ok(Reply { code, message: reason(&String::from_utf8_lossy(&message)) })
    }
}

/// A reply to `request` as a server makes it, with these attributes behind its Message-Authenticator: for the
/// servers of tests. None if the request or the reply is no packet.
pub fn reply(request: &[u8], code: u8, attributes: &[u8], secret: &Secret) -> Option<Vec<u8>> {
    let head = request.get(..HEAD)?;
    let mut bytes = vec![code, *head.get(1)?, 0, 0];
    bytes.extend_from_slice(head.get(4..)?);
    attribute(&mut bytes, MESSAGE_AUTHENTICATOR, &[0; 16]).ok()?;
    bytes.extend_from_slice(attributes);
    set_length(&mut bytes).ok()?;
    let tag = message_authenticator(&[&bytes], secret);
    bytes.get_mut(HEAD + 2..HEAD + 18)?.copy_from_slice(&tag);
    sign(&mut bytes, secret);
    Some(bytes)
}

/// Puts the Response Authenticator where the request's stands.
pub fn sign(reply: &mut [u8], secret: &Secret) {
    let mut hash = Md5::new();
    hash.update(&*reply);
    hash.update(&*secret.0);
    let hash = hash.finalize();
    if let Some(field) = reply.get_mut(4..HEAD) {
        field.copy_from_slice(&hash);
    }
}

/// HMAC-MD5 (RFC 2104) of the parts.
fn message_authenticator(parts: &[&[u8]], secret: &Secret) -> [u8; 16] {
    let mut mac = Hmac::<Md5>::new_from_slice(&secret.0).unwrap_or_else(|_| {
        // HMAC takes keys of any length.
        Hmac::<Md5>::new(&<_>::default())
    });
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn attribute(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) -> Result<(), String> {
    if value.is_empty() || value.len() > MAX_VALUE {
        return Err(format!("an attribute of {} bytes does not fit RADIUS", value.len()));
    }
    bytes.extend_from_slice(&[kind, value.len() as u8 + 2]);
    bytes.extend_from_slice(value);
    Ok(())
}

fn set_length(bytes: &mut [u8]) -> Result<(), String> {
    let length = bytes.len();
    match bytes.get_mut(2..4) {
        Some(field) if length <= MAX_PACKET => {
            field.copy_from_slice(&(length as u16).to_be_bytes());
            Ok(())
        }
        _ => Err(format!("a packet of {length} bytes is none")),
    }
}

/// The attributes of a packet: where each stands, its type, its value.
struct Attributes<'a>(&'a [u8], usize);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(usize, u8, &'a [u8]), &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        const BROKEN: &str = "its attributes are none";
        let Self(bytes, at) = *self;
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        // Whatever is wrong, it ends there.
        self.1 = bytes.len();
        let [kind, length, ..] = *rest else { return Some(Err(BROKEN)) };
        let Some(value) = rest.get(2..usize::from(length)) else { return Some(Err(BROKEN)) };
        self.1 = at + usize::from(length);
        Some(Ok((at, kind, value)))
    }
}

#[cfg(test)]
mod tests;
