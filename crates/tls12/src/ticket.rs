//! Session tickets (RFC 5077) of a server, and sessions that a client may resume.
//!
//! A ticket is sealed with AES-256-GCM; the scope and the credential's fingerprint are associated data, so
//! one from elsewhere does not open. Keys, their rotation and their lifetime are the caller's.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::codec::{
    CertificateType, Framing, PeerCertificate, Reader, Writer, decode_certificate,
    encode_certificate,
};
use crate::config::Credential;
use crate::crypto::random;
use crate::error::Error;
use crate::suite::Suite;

/// Bytes of a key's name, in front of a ticket.
const KEY_NAME: usize = 16;
/// Longest ticket that is made: a session whose certificates need more is not resumed.
const MAX_TICKET: usize = 1 << 14;
/// First byte of the contents; changes with their form.
const FORM: u8 = 1;

/// A key that seals tickets.
pub struct TicketKey {
    name: [u8; KEY_NAME],
    key: LessSafeKey,
}

impl TicketKey {
    /// A key with its public name. Daemons that share both take each other's tickets.
    pub fn new(name: [u8; KEY_NAME], key: &[u8; 32]) -> Result<Self, Error> {
        let unusable = |_| Error::Internal("the ticket key is unusable");
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(unusable)?);
        Ok(Self { name, key })
    }

    /// A random one.
    pub fn generate() -> Result<Self, Error> {
        let (mut name, mut key) = ([0; KEY_NAME], Zeroizing::new([0; 32]));
        random(&mut name)?;
        random(key.as_mut())?;
        Self::new(name, &key)
    }
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey")
    }
}

/// The keys in use.
#[derive(Debug, Clone)]
pub struct TicketKeys {
    /// Seals new tickets, and opens.
    pub current: Arc<TicketKey>,
    /// Opens what earlier keys have sealed.
    pub previous: Vec<Arc<TicketKey>>,
    /// Seconds that a client is told a ticket lives.
    pub lifetime: u32,
}

/// What a ticket holds.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) suite: &'static Suite,
    pub(crate) master: Zeroizing<[u8; 48]>,
    pub(crate) server_name: Option<String>,
    pub(crate) peer: Option<PeerCertificate>,
}

impl Sealed {
    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(1024));
        out.u8(FORM);
        out.u16(self.suite.code);
        out.bytes(self.master.as_ref());
        out.vec8(self.server_name.as_deref().unwrap_or_default().as_bytes());
        let kind =
            self.peer.as_ref().map_or(CertificateType::X509, PeerCertificate::certificate_type);
        out.u8(kind.code());
        out.bytes(&encode_certificate(kind, self.peer.as_ref(), Framing::Rfc6091));
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new("ticket", bytes);
        if reader.u8().ok()? != FORM {
            return None;
        }
        let suite = Suite::from_code(reader.u16().ok()?)?;
        let master = Zeroizing::new(reader.array().ok()?);
        let name = String::from_utf8(reader.vec8().ok()?.to_vec()).ok()?;
        let kind = CertificateType::from_code(reader.u8().ok()?)?;
        let peer = decode_certificate(kind, reader.rest()).ok()?;
        Some(Self { suite, master, server_name: (!name.is_empty()).then_some(name), peer })
    }
}

impl TicketKeys {
    fn additional(scope: &[u8; 32], fingerprint: &[u8; 32]) -> Aad<[u8; 64]> {
        let mut both = [0; 64];
        both[..32].copy_from_slice(scope);
        both[32..].copy_from_slice(fingerprint);
        Aad::from(both)
    }

    /// `None` if the session is too large, or the library fails: then there is no ticket.
    pub(crate) fn seal(
        &self,
        sealed: &Sealed,
        scope: &[u8; 32],
        fingerprint: &[u8; 32],
    ) -> Option<Vec<u8>> {
        let plain = sealed.encode();
        if plain.len() > MAX_TICKET {
            return None;
        }
        let mut nonce = [0; NONCE_LEN];
        random(&mut nonce).ok()?;
        let mut ticket = [&self.current.name[..], &nonce, &plain].concat();
        let tag = self
            .current
            .key
            .seal_in_place_separate_tag(
                Nonce::assume_unique_for_key(nonce),
                Self::additional(scope, fingerprint),
                &mut ticket[KEY_NAME + NONCE_LEN..],
            )
            .ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    /// `None` if it is not ours, not of this scope, or altered: then the handshake is a full one.
    pub(crate) fn open(
        &self,
        ticket: &[u8],
        scope: &[u8; 32],
        fingerprint: &[u8; 32],
    ) -> Option<Sealed> {
        let (name, rest) = ticket.split_first_chunk::<KEY_NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        let key = keys.find(|key| key.name == *name)?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let additional = Self::additional(scope, fingerprint);
        let opened = key.key.open_in_place(nonce, additional, &mut plain).ok()?;
        Sealed::decode(opened)
    }
}

/// A session that a client may resume. Keep it under everything that must be equal then (whose it is, which
/// server, which demands), and give it back in [`crate::ClientConfig::session`].
#[derive(Clone)]
pub struct ClientSession {
    pub(crate) suite: &'static Suite,
    pub(crate) master: Zeroizing<[u8; 48]>,
    pub(crate) ticket: Vec<u8>,
    pub(crate) lifetime: u32,
    pub(crate) peer: Option<PeerCertificate>,
    pub(crate) shown: Option<Arc<Credential>>,
}

impl ClientSession {
    /// Seconds that the server says it lives; 0: it does not say (RFC 5077 section 3.3).
    pub fn lifetime(&self) -> u32 {
        self.lifetime
    }

    /// What the server has shown.
    pub fn peer(&self) -> Option<&PeerCertificate> {
        self.peer.as_ref()
    }

    /// What was shown to the server: a resumed session shows it again.
    pub fn shown(&self) -> Option<&Arc<Credential>> {
        self.shown.as_ref()
    }
}

impl std::fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClientSession({})", self.suite.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> TicketKeys {
        let key = || Arc::new(TicketKey::generate().unwrap());
        TicketKeys { current: key(), previous: vec![key()], lifetime: 60 }
    }

    fn session(peer: Option<PeerCertificate>) -> Sealed {
        let suite = Suite::from_code(0xC02F).unwrap();
        let server_name = peer.as_ref().map(|_| "example.com".into());
        Sealed { suite, master: Zeroizing::new([7; 48]), server_name, peer }
    }

    #[test]
    fn tickets_have_a_bound() {
        assert_eq!(MAX_TICKET, 16_384);
    }

    #[test]
    fn a_ticket_opens_only_where_it_belongs() {
        let keys = keys();
        let openpgp = PeerCertificate::OpenPgpFingerprint { key_id: [1; 8], fingerprint: [2; 20] };
        for peer in [None, Some(openpgp), Some(PeerCertificate::X509(vec![vec![3; 500]]))] {
            let sealed = session(peer);
            let ticket = keys.seal(&sealed, &[1; 32], &[2; 32]).unwrap();
            assert!(keys.open(&ticket, &[1; 32], &[2; 32]) == Some(sealed));
            assert!(keys.open(&ticket, &[9; 32], &[2; 32]).is_none());
            assert!(keys.open(&ticket, &[1; 32], &[9; 32]).is_none());
            for cut in 0..ticket.len() {
                assert!(keys.open(&ticket[..cut], &[1; 32], &[2; 32]).is_none());
            }
            for at in [0, KEY_NAME, KEY_NAME + NONCE_LEN, ticket.len() - 1] {
                let mut bent = ticket.clone();
                bent[at] ^= 1;
                assert!(keys.open(&bent, &[1; 32], &[2; 32]).is_none());
            }
        }
    }

    #[test]
    fn previous_keys_still_open() {
        let old = keys();
        let ticket = old.seal(&session(None), &[0; 32], &[0; 32]).unwrap();
        let current = Arc::new(TicketKey::generate().unwrap());
        let rotated = TicketKeys { current, previous: vec![old.current.clone()], lifetime: 60 };
        assert!(rotated.open(&ticket, &[0; 32], &[0; 32]).is_some());
        assert!(keys().open(&ticket, &[0; 32], &[0; 32]).is_none());
    }

    #[test]
    fn a_large_session_has_no_ticket() {
        let of = |length| session(Some(PeerCertificate::X509(vec![vec![0; length]])));
        let most = MAX_TICKET - of(0).encode().len();
        let ticket = keys().seal(&of(most), &[0; 32], &[0; 32]).unwrap();
        assert_eq!(ticket.len(), KEY_NAME + NONCE_LEN + MAX_TICKET + crate::crypto::TAG_LEN);
        assert!(keys().seal(&of(most + 1), &[0; 32], &[0; 32]).is_none());
    }

    #[test]
    fn contents_of_another_form_are_passed_over() {
        let mut contents = session(None).encode();
        assert!(Sealed::decode(&contents).is_some());
        contents[0] = 9;
        assert!(Sealed::decode(&contents).is_none());
    }
}
