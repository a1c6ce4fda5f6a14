//! Record protection after the handshake: TLS 1.3 (RFC 8446 section 5) and the AEAD suites of
//! TLS 1.2 (RFC 5246 section 6.2.3.3, RFC 5288, RFC 7905), in place and without allocation.
//!
//! rustls hands its traffic secrets over when a handshake is done and keeps deriving the next ones
//! ([`Kernel`]); everything between is here: sequence numbers, limits, alerts, key updates,
//! tickets, and the refusal to renegotiate. The relay alone uses it.

use std::ops::Range;
use std::rc::Rc;

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error, ExtractedSecrets, SupportedCipherSuite};

use crate::coroutine::within;
use crate::handshake::Context;

/// Most plaintext in a record (RFC 8446 section 5.1).
pub const MAX_PLAINTEXT: usize = 1 << 14;
/// Type, version and length in front of a record.
pub const HEADER: usize = 5;
/// Bytes of an authentication tag, the same for every AEAD in use.
const TAG: usize = 16;
/// Bytes of the nonce that TLS 1.2 with AES-GCM sends along (RFC 5288 section 3).
const EXPLICIT_NONCE: usize = 8;
/// Most that encryption may add: TLS 1.2 allows 2048 bytes, TLS 1.3 only 256.
const MAX_EXPANSION_TLS12: usize = 2048;
const MAX_EXPANSION_TLS13: usize = 256;
/// Longest record on the wire.
pub const MAX_RECORD: usize = HEADER + MAX_PLAINTEXT + MAX_EXPANSION_TLS12;

/// Records without application data that a peer may send in a row, so that none keeps us busy.
const IDLE_RECORDS: u32 = 32;
/// Longest handshake message taken after the handshake: a ticket with the largest extensions.
const MAX_LATE_MESSAGE: usize = 1 << 16;

/// Content types (RFC 8446 section 5.1).
pub mod content {
    #![allow(missing_docs)]
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

/// Alert descriptions (RFC 8446 section 6).
pub mod alert {
    #![allow(missing_docs)]
    pub const CLOSE_NOTIFY: u8 = 0;
    pub const UNEXPECTED_MESSAGE: u8 = 10;
    pub const BAD_RECORD_MAC: u8 = 20;
    pub const RECORD_OVERFLOW: u8 = 22;
    pub const ACCESS_DENIED: u8 = 49;
    pub const DECODE_ERROR: u8 = 50;
    pub const INTERNAL_ERROR: u8 = 80;
    pub const USER_CANCELED: u8 = 90;
    pub const NO_RENEGOTIATION: u8 = 100;
}

/// Handshake message types that may come late.
const HELLO_REQUEST: u8 = 0;
const CLIENT_HELLO: u8 = 1;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// The peer broke the protocol, or a limit is reached: the session must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Fault {
    /// What the peer is told.
    pub alert: u8,
    /// What people are told.
    pub text: &'static str,
}

const fn fault(alert: u8, text: &'static str) -> Fault {
    Fault { alert, text }
}

/// What a record that is no application data meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was dealt with.
    Nothing,
    /// The peer sends no more data (`close_notify`).
    PeerClosed,
    /// The peer ended the session with this alert.
    PeerAlert(u8),
}

/// rustls's half of a session after the handshake: derives keys, stores tickets.
pub(crate) enum Kernel {
    Client(KernelConnection<ClientConnectionData>, Rc<Context>),
    Server(KernelConnection<ServerConnectionData>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Tls13,
    Tls12Gcm,
    Tls12ChaCha,
}

/// The keys of one session, both directions.
pub struct Traffic {
    tx: Protection,
    rx: Protection,
    style: Style,
    kernel: Kernel,
    /// Records that may be sealed with one key (RFC 8446 section 5.5).
    seal_limit: u64,
    /// Part of a handshake message that came late.
    late: Vec<u8>,
    idle_records: u32,
    /// The peer asked for another key of ours: ours changes before the next data (RFC 8446 section 4.6.3), however
    /// often it asked.
    owes_update: bool,
    /// The peer asked for a renegotiation, and is still to be refused; once, however often it asked.
    owes_refusal: bool,
    /// Plaintext that came with the handshake's last flight; the relay takes it.
    pub early: Vec<u8>,
    /// Ciphertext that came with it; the relay takes it.
    pub unread: Vec<u8>,
    /// Tickets that the peer was not sent yet; whoever seals the first record sends them before it.
    pub held: Vec<u8>,
    /// `close_notify` came with it.
    pub peer_closed: bool,
}

struct Protection {
    key: LessSafeKey,
    iv: [u8; 12],
    seq: u64,
}

impl Protection {
    fn new((seq, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("no record protection for this suite".into())),
        };
        let unusable = |_| Error::General("the traffic key is unusable".into());
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(unusable)?;
        let mut nonce = [0; 12];
        nonce.copy_from_slice(iv.as_ref());
        Ok(Self { key: LessSafeKey::new(key), iv: nonce, seq })
    }

    /// The per-record nonce: the IV, exclusive-or the sequence number (RFC 8446 section 5.3).
    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, seq) in nonce[4..].iter_mut().zip(self.seq.to_be_bytes()) {
            *byte ^= seq;
        }
        nonce
    }

    /// Associated data of TLS 1.2: sequence number, type, version, plaintext length.
    fn aad12(&self, kind: u8, length: usize) -> [u8; 13] {
        let mut aad = [0; 13];
        aad[..8].copy_from_slice(&self.seq.to_be_bytes());
        aad[8..11].copy_from_slice(&[kind, 3, 3]);
        aad[11..].copy_from_slice(&(length as u16).to_be_bytes());
        aad
    }
}

impl Traffic {
    pub(crate) fn new(
        suite: SupportedCipherSuite,
        secrets: ExtractedSecrets,
        kernel: Kernel,
        early: Vec<u8>,
        unread: Vec<u8>,
        held: Vec<u8>,
        peer_closed: bool,
    ) -> Result<Self, Error> {
        let gcm = !matches!(secrets.tx.1, ConnectionTrafficSecrets::Chacha20Poly1305 { .. });
        let (style, common) = match suite {
            SupportedCipherSuite::Tls13(suite) => (Style::Tls13, &suite.common),
            SupportedCipherSuite::Tls12(suite) if gcm => (Style::Tls12Gcm, &suite.common),
            SupportedCipherSuite::Tls12(suite) => (Style::Tls12ChaCha, &suite.common),
        };
        Ok(Self {
            tx: Protection::new(secrets.tx)?,
            rx: Protection::new(secrets.rx)?,
            style,
            kernel,
            // Some way below the limit, so that alerts can still be said at it.
            seal_limit: common.confidentiality_limit.saturating_sub(IDLE_RECORDS.into()),
            late: Vec::new(),
            idle_records: 0,
            owes_update: false,
            owes_refusal: false,
            early,
            unread,
            held,
            peer_closed,
        })
    }

    /// Bytes in front of the plaintext of a record that we seal.
    pub fn prefix(&self) -> usize {
        match self.style {
            Style::Tls12Gcm => HEADER + EXPLICIT_NONCE,
            Style::Tls13 | Style::Tls12ChaCha => HEADER,
        }
    }

    /// Bytes behind it.
    pub fn suffix(&self) -> usize {
        match self.style {
            Style::Tls13 => 1 + TAG,
            Style::Tls12Gcm | Style::Tls12ChaCha => TAG,
        }
    }

    /// Seals the record in `room`: prefix, `length` bytes of plaintext, suffix, and maybe more
    /// that is not touched. Returns the record's length.
    pub fn seal(&mut self, kind: u8, room: &mut [u8], length: usize) -> Result<usize, Fault> {
        const FAILED: Fault = fault(alert::INTERNAL_ERROR, "a record could not be encrypted");
        let (prefix, total) = (self.prefix(), self.prefix() + length + self.suffix());
        let record = room.get_mut(..total).ok_or(FAILED)?;
        let outer = if self.style == Style::Tls13 { content::APPLICATION_DATA } else { kind };
        let [high, low] = ((total - HEADER) as u16).to_be_bytes();
        let header = [outer, 3, 3, high, low];
        record[..HEADER].copy_from_slice(&header);
        let nonce = self.tx.nonce();
        let assumed = Nonce::assume_unique_for_key(nonce);
        let (sealed, tag_room) = record.split_at_mut(total - TAG);
        let tag = match self.style {
            Style::Tls13 => {
                sealed[HEADER + length] = kind;
                let aad = Aad::from(header);
                self.tx.key.seal_in_place_separate_tag(assumed, aad, &mut sealed[HEADER..])
            }
            Style::Tls12Gcm | Style::Tls12ChaCha => {
                if self.style == Style::Tls12Gcm {
                    sealed[HEADER..prefix].copy_from_slice(&nonce[4..]);
                }
                let aad = Aad::from(self.tx.aad12(kind, length));
                self.tx.key.seal_in_place_separate_tag(assumed, aad, &mut sealed[prefix..])
            }
        }
        .map_err(|_| FAILED)?;
        tag_room.copy_from_slice(tag.as_ref());
        self.tx.seq = self.tx.seq.checked_add(1).ok_or(FAILED)?;
        Ok(total)
    }

    /// Before application data is sealed: changes the key if its time has come, or the peer asked
    /// for it. What must be sent first is appended to `out`.
    pub fn refresh(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if self.tx.seq < self.seal_limit && !self.owes_update {
            return Ok(());
        }
        if self.style != Style::Tls13 {
            const USED_UP: &str = "the key of this TLS 1.2 session is used up; connect again";
            return Err(fault(alert::INTERNAL_ERROR, USED_UP));
        }
        self.update_tx(out)
    }

    pub(crate) fn update_tx(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.seal_small(content::HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], out)?;
        let secrets = match &mut self.kernel {
            Kernel::Client(kernel, _) => kernel.update_tx_secret(),
            Kernel::Server(kernel) => kernel.update_tx_secret(),
        };
        self.tx = secrets.and_then(Protection::new).map_err(|_| NO_NEXT_KEY)?;
        self.owes_update = false;
        Ok(())
    }

    /// Refuses to renegotiate if the peer has asked for it since the last time. What is to be sent
    /// is appended to `out`.
    pub fn refuse(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        if std::mem::take(&mut self.owes_refusal) {
            self.seal_alert(alert::NO_RENEGOTIATION, out)?;
        }
        Ok(())
    }

    fn update_rx(&mut self) -> Result<(), Fault> {
        let secrets = match &mut self.kernel {
            Kernel::Client(kernel, _) => kernel.update_rx_secret(),
            Kernel::Server(kernel) => kernel.update_rx_secret(),
        };
        self.rx = secrets.and_then(Protection::new).map_err(|_| NO_NEXT_KEY)?;
        Ok(())
    }

    /// Appends a record with an alert to `out`; `close_notify` is a warning, all others fatal.
    pub fn seal_alert(&mut self, description: u8, out: &mut Vec<u8>) -> Result<(), Fault> {
        let warning = matches!(
            description,
            alert::CLOSE_NOTIFY | alert::USER_CANCELED | alert::NO_RENEGOTIATION
        );
        self.seal_small(content::ALERT, &[if warning { 1 } else { 2 }, description], out)
    }

    fn seal_small(&mut self, kind: u8, payload: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let (start, prefix) = (out.len(), self.prefix());
        out.resize(start + prefix + payload.len() + self.suffix(), 0);
        out[start + prefix..][..payload.len()].copy_from_slice(payload);
        self.seal(kind, &mut out[start..], payload.len())?;
        Ok(())
    }

    /// Length of the record that begins with these bytes, header included; `None` if its header
    /// is not whole yet.
    pub fn record_length(&self, bytes: &[u8]) -> Result<Option<usize>, Fault> {
        let [kind, major, _, high, low, ..] = *bytes else { return Ok(None) };
        if !(content::CHANGE_CIPHER_SPEC..=content::APPLICATION_DATA).contains(&kind) || major != 3
        {
            return Err(fault(
                alert::UNEXPECTED_MESSAGE,
                "the peer sent something that is not TLS",
            ));
        }
        let expansion = match self.style {
            Style::Tls13 => MAX_EXPANSION_TLS13,
            _ => MAX_EXPANSION_TLS12,
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > MAX_PLAINTEXT + expansion {
            return Err(TOO_LONG);
        }
        Ok(Some(HEADER + length))
    }

    /// Opens a whole record in place. Returns its content type and where its plaintext is.
    pub fn open(&mut self, record: &mut [u8]) -> Result<(u8, Range<usize>), Fault> {
        const BAD: Fault = fault(alert::BAD_RECORD_MAC, "a record was altered on its way");
        let Some((&header, _)) = record.split_first_chunk::<HEADER>() else { return Err(BAD) };
        let outer = header[0];
        let mut nonce = self.rx.nonce();
        let (kind, plain) = match self.style {
            Style::Tls13 => {
                if outer != content::APPLICATION_DATA {
                    const CLEAR: &str = "the peer sent a record that is not encrypted";
                    return Err(fault(alert::UNEXPECTED_MESSAGE, CLEAR));
                }
                let opened = self
                    .rx
                    .key
                    .open_in_place(
                        Nonce::assume_unique_for_key(nonce),
                        Aad::from(header),
                        &mut record[HEADER..],
                    )
                    .map_err(|_| BAD)?;
                // The type stands behind the content, zeros may follow (RFC 8446 section 5.4).
                let Some(end) = opened.iter().rposition(|byte| *byte != 0) else {
                    return Err(fault(alert::UNEXPECTED_MESSAGE, "the peer sent an empty record"));
                };
                (opened[end], HEADER..HEADER + end)
            }
            Style::Tls12Gcm | Style::Tls12ChaCha => {
                let start = self.prefix();
                let Some(length) = record.len().checked_sub(start + TAG) else { return Err(BAD) };
                if self.style == Style::Tls12Gcm {
                    nonce[..4].copy_from_slice(&self.rx.iv[..4]);
                    nonce[4..].copy_from_slice(&record[HEADER..start]);
                }
                let aad = Aad::from(self.rx.aad12(outer, length));
                self.rx
                    .key
                    .open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut record[start..])
                    .map_err(|_| BAD)?;
                (outer, start..start + length)
            }
        };
        if plain.len() > MAX_PLAINTEXT {
            return Err(TOO_LONG);
        }
        self.rx.seq = self.rx.seq.checked_add(1).ok_or(BAD)?;
        if kind == content::APPLICATION_DATA && !plain.is_empty() {
            self.idle_records = 0;
        } else {
            self.idle_records += 1;
            if self.idle_records > IDLE_RECORDS {
                const BUSY: &str = "the peer sends records without data";
                return Err(fault(alert::UNEXPECTED_MESSAGE, BUSY));
            }
        }
        if kind == content::APPLICATION_DATA && !self.late.is_empty() {
            const MIXED: &str = "the peer sent data within a handshake message";
            return Err(fault(alert::UNEXPECTED_MESSAGE, MIXED));
        }
        Ok((kind, plain))
    }

    /// Deals with a record that is no application data. Answers come from [`Self::refresh`] and
    /// [`Self::refuse`], so that a peer that asks and does not read them makes nothing grow.
    pub fn control(&mut self, kind: u8, payload: &[u8]) -> Result<Event, Fault> {
        match kind {
            content::ALERT => self.alert(payload),
            content::HANDSHAKE => self.handshake(payload).map(|()| Event::Nothing),
            _ => Err(fault(alert::UNEXPECTED_MESSAGE, "the peer sent a record of a wrong type")),
        }
    }

    fn alert(&self, payload: &[u8]) -> Result<Event, Fault> {
        const FATAL: u8 = 2;
        let &[level, description] = payload else {
            return Err(fault(alert::DECODE_ERROR, "the peer sent a malformed alert"));
        };
        match (description, self.style) {
            (alert::CLOSE_NOTIFY, _) => Ok(Event::PeerClosed),
            (alert::USER_CANCELED, Style::Tls13) => Ok(Event::Nothing),
            (_, Style::Tls12Gcm | Style::Tls12ChaCha) if level != FATAL => Ok(Event::Nothing),
            _ => Ok(Event::PeerAlert(description)),
        }
    }

    fn handshake(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let mut late = std::mem::take(&mut self.late);
        late.extend_from_slice(payload);
        let mut used = 0;
        while let [kind, a, b, c, rest @ ..] = &late[used..] {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if length > MAX_LATE_MESSAGE {
                return Err(fault(alert::DECODE_ERROR, "the peer sent an oversize message"));
            }
            let Some((message, behind)) = rest.split_at_checked(length) else { break };
            self.late_message(*kind, message, behind.is_empty())?;
            used = late.len() - behind.len();
        }
        if used < late.len() {
            late.drain(..used);
            self.late = late;
        }
        Ok(())
    }

    /// `last`: nothing follows in its record.
    fn late_message(&mut self, kind: u8, message: &[u8], last: bool) -> Result<(), Fault> {
        const UNEXPECTED: Fault =
            fault(alert::UNEXPECTED_MESSAGE, "the peer sent an unexpected message");
        match (kind, self.style, &mut self.kernel) {
            // Keys change at record boundaries only (RFC 8446 section 5.1).
            (KEY_UPDATE, Style::Tls13, _) if last => {
                match message {
                    [0] => {}
                    [1] => self.owes_update = true,
                    _ => {
                        return Err(fault(
                            alert::DECODE_ERROR,
                            "the peer sent a malformed KeyUpdate",
                        ));
                    }
                }
                self.update_rx()
            }
            (NEW_SESSION_TICKET, Style::Tls13, Kernel::Client(kernel, context)) => {
                within(context.clone(), || kernel.handle_new_session_ticket(message))
                    .map_err(|_| fault(alert::DECODE_ERROR, "the peer sent a malformed ticket"))
            }
            (HELLO_REQUEST, Style::Tls12Gcm | Style::Tls12ChaCha, Kernel::Client(..))
            | (CLIENT_HELLO, Style::Tls12Gcm | Style::Tls12ChaCha, Kernel::Server(_)) => {
                self.owes_refusal = true;
                Ok(())
            }
            _ => Err(UNEXPECTED),
        }
    }
}

const NO_NEXT_KEY: Fault = fault(alert::INTERNAL_ERROR, "the next traffic key could not be made");
const TOO_LONG: Fault = fault(alert::RECORD_OVERFLOW, "the peer sent a record that is too long");
