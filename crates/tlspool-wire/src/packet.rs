//! Records as types: what each command carries, read from and written to 388 bytes.

use std::fmt;

use zeroize::Zeroize;

use crate::layout::{DATA_LEN, Fields, FieldsMut};
use crate::text::{Text, TextError};
use crate::{LidentryFlags, PoolError, RECORD_LEN, RawRecord, StarttlsFlags, command};

/// One record: whose request, which callback, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Chosen by the client, copied into every response.
    pub reqid: u16,
    /// Non-zero in a callback, copied into its answer.
    pub cbid: u16,
    /// The command and its data.
    pub body: Body,
}

/// A command and its data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // one variant per command of `crate::command`, documented there
pub enum Body {
    Success,
    Error(ErrorReply),
    Ping(Ping),
    Starttls(Starttls),
    StarttlsLocalid(Starttls),
    PlaintextConnect(Starttls),
    Pinentry(Pinentry),
    Prng(Prng),
    Info(Info),
    ControlDetach(ControlRequest),
    ControlReattach(ControlRequest),
    LidentryRegister(Lidentry),
    LidentryCallback(Lidentry),
    Draining,
    Datagram(DatagramPiece),
    Unknown(u32),
}

/// Data of ERROR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorReply {
    /// An errno (1–255) or a [`PoolError`] code.
    pub code: i32,
    /// What went wrong, for a person; no secrets.
    pub message: Text<128>,
}

/// Data of PING.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// `YYYYMMDDproducer`.
    pub identity: Text<136>,
    /// [`crate::Facilities`].
    pub facilities: u32,
}

/// The 16 bytes by which later commands name a session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CtlKey(pub [u8; 16]);

impl CtlKey {
    /// All zero: the client names no key.
    pub fn is_none(&self) -> bool {
        self.0 == [0; 16]
    }
}

/// Data of STARTTLS and its callbacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Starttls {
    /// What the client permits and wants.
    pub flags: StarttlsFlags,
    /// For the client's own use, copied back.
    pub local: u32,
    /// `IPPROTO_TCP` 6, `IPPROTO_UDP` 17 or `IPPROTO_SCTP` 132.
    pub ipproto: u8,
    /// Of SCTP: the stream of TLS; with DTLS, that of plaintext messages, or [`crate::message::EVERY_STREAM`].
    pub streamid: u16,
    /// Our name; may be empty in a request.
    pub localid: Text<128>,
    /// The peer's name; may be empty in a request.
    pub remoteid: Text<128>,
    /// Names the session for later commands; all zero if none is wanted.
    pub ctlkey: CtlKey,
    /// Name of the service, as in the services database; selects policy.
    pub service: Text<16>,
    /// Milliseconds; 0 is the pool's default, all ones is no limit.
    pub timeout_ms: u32,
}

/// Data of DATAGRAM: a piece of the first datagram of a DTLS session, whose cookie the client has found
/// right. Pieces come in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatagramPiece {
    /// Length of the whole datagram.
    pub total: u16,
    /// Where this piece begins.
    pub offset: u16,
    /// At most [`DATAGRAM_PIECE`] bytes.
    pub bytes: Vec<u8>,
}

/// Bytes of a datagram that fit into one record.
pub const DATAGRAM_PIECE: usize = 374;

/// Longest datagram that is passed in pieces.
pub const MAX_FIRST_DATAGRAM: usize = 2048;

impl DatagramPiece {
    /// The pieces of a datagram; none if it is too long.
    pub fn of(datagram: &[u8]) -> Option<Vec<Self>> {
        if datagram.len() > MAX_FIRST_DATAGRAM {
            return None;
        }
        let total = u16::try_from(datagram.len()).ok()?;
        let pieces = datagram.chunks(DATAGRAM_PIECE).enumerate();
        let piece = |(n, bytes): (usize, &[u8])| Self {
            total,
            offset: (n * DATAGRAM_PIECE) as u16,
            bytes: bytes.to_vec(),
        };
        Some(pieces.map(piece).collect())
    }
}

/// A PIN in a record: stays at one place, however its record is moved, and is wiped when dropped.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PinText(Box<Text<128>>);

impl std::ops::Deref for PinText {
    type Target = Text<128>;
    fn deref(&self) -> &Text<128> {
        &self.0
    }
}

impl std::ops::DerefMut for PinText {
    fn deref_mut(&mut self) -> &mut Text<128> {
        &mut self.0
    }
}

impl From<Text<128>> for PinText {
    fn from(text: Text<128>) -> Self {
        Self(Box::new(text))
    }
}

impl Drop for PinText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Data of PINENTRY.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pinentry {
    /// None are defined.
    pub flags: u32,
    /// How often this PIN was asked for before.
    pub attempt: u32,
    /// Microseconds the registrant takes at most.
    pub timeout_us: u32,
    /// The PIN, in an answer; empty is a refusal.
    pub pin: PinText,
    /// What to show.
    pub prompt: Text<128>,
    /// `CK_TOKEN_INFO.manufacturerID`.
    pub token_manufacturer: Text<36>,
    /// `CK_TOKEN_INFO.model`.
    pub token_model: Text<20>,
    /// `CK_TOKEN_INFO.serialNumber`.
    pub token_serial: Text<20>,
    /// `CK_TOKEN_INFO.label`.
    pub token_label: Text<36>,
}

impl fmt::Debug for Pinentry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinentry")
            .field("attempt", &self.attempt)
            .field("prompt", &self.prompt)
            .field("token_label", &self.token_label)
            .finish_non_exhaustive()
    }
}

/// Data of the LIDENTRY commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lidentry {
    /// When to call back, and what to do with the answer.
    pub flags: LidentryFlags,
    /// How many steps from the concrete name to the general.
    pub maxlevels: u16,
    /// Response timeout.
    pub timeout: u32,
    /// Proposed local identity.
    pub localid: Text<128>,
    /// The remote identity it is for.
    pub remoteid: Text<128>,
}

/// Data of the CONTROL commands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlRequest {
    /// None are defined.
    pub flags: u32,
    /// The session.
    pub ctlkey: CtlKey,
    /// Unused by current commands.
    pub name: Text<128>,
}

/// Bytes of the PRNG buffer.
pub const PRNG_BUFFER: usize = 350;

/// Data of PRNG: a question (label, context, how many bytes) or the keying material.
#[derive(Clone, PartialEq, Eq)]
pub struct Prng {
    /// Length of the label; in the buffer after the 16-byte ctlkey.
    pub in1_len: i16,
    /// Length of the context; negative for none (RFC 5705 section 4 tells the two apart).
    pub in2_len: i16,
    /// Bytes wanted, or delivered.
    pub prng_len: i16,
    /// ctlkey, label and context in a question; keying material in an answer.
    pub buffer: [u8; PRNG_BUFFER],
}

impl fmt::Debug for Prng {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prng").field("prng_len", &self.prng_len).finish_non_exhaustive()
    }
}

impl Drop for Prng {
    fn drop(&mut self) {
        self.buffer.zeroize();
    }
}

/// A question for keying material, checked.
#[derive(Debug, PartialEq, Eq)]
pub struct PrngQuestion<'a> {
    /// The session.
    pub ctlkey: CtlKey,
    /// Exporter label.
    pub label: &'a [u8],
    /// Context, if there is one (an empty context is not none).
    pub context: Option<&'a [u8]>,
    /// Bytes wanted, at most [`PRNG_BUFFER`].
    pub wanted: usize,
}

impl Prng {
    /// A question; `None` if it does not fit.
    pub fn question(
        ctlkey: CtlKey,
        label: &[u8],
        context: Option<&[u8]>,
        wanted: usize,
    ) -> Option<Self> {
        let context_bytes = context.unwrap_or_default();
        let used = 16 + label.len() + context_bytes.len();
        if used > PRNG_BUFFER || wanted > PRNG_BUFFER {
            return None;
        }
        let mut buffer = [0; PRNG_BUFFER];
        buffer[..16].copy_from_slice(&ctlkey.0);
        buffer[16..16 + label.len()].copy_from_slice(label);
        buffer[16 + label.len()..used].copy_from_slice(context_bytes);
        Some(Self {
            in1_len: label.len() as i16,
            in2_len: context.map_or(-1, |c| c.len() as i16),
            prng_len: wanted as i16,
            buffer,
        })
    }

    /// Reads a question; an error names the length that lies.
    pub fn as_question(&self) -> Result<PrngQuestion<'_>, PacketError> {
        let lie = |field| PacketError::Length { field };
        let label_len = usize::try_from(self.in1_len).map_err(|_| lie("in1_len"))?;
        let wanted = usize::try_from(self.prng_len).map_err(|_| lie("prng_len"))?;
        if wanted > PRNG_BUFFER {
            return Err(lie("prng_len"));
        }
        let rest = &self.buffer[16..];
        let (label, rest) = rest.split_at_checked(label_len).ok_or(lie("in1_len"))?;
        let context = match usize::try_from(self.in2_len) {
            Err(_) => None,
            Ok(len) => Some(rest.get(..len).ok_or(lie("in2_len"))?),
        };
        let mut ctlkey = CtlKey::default();
        ctlkey.0.copy_from_slice(&self.buffer[..16]);
        Ok(PrngQuestion { ctlkey, label, context, wanted })
    }
}

/// Bytes of the INFO buffer.
pub const INFO_BUFFER: usize = 334;

/// What `len` says in a query for information.
pub const INFO_QUERY: u16 = 0xffff;

/// Data of INFO: a query (`len` is [`INFO_QUERY`]), a check of the bytes given, or the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The session.
    pub ctlkey: CtlKey,
    /// What about it.
    pub kind: u32,
    /// Bytes in the buffer, or [`INFO_QUERY`].
    pub len: u16,
    /// The information.
    pub buffer: [u8; INFO_BUFFER],
}

impl Info {
    /// The bytes to check, `None` for a query; an error if the length lies.
    pub fn given(&self) -> Result<Option<&[u8]>, PacketError> {
        if self.len == INFO_QUERY {
            return Ok(None);
        }
        self.buffer
            .get(..usize::from(self.len))
            .map(Some)
            .ok_or(PacketError::Length { field: "info_len" })
    }
}

/// Kinds of information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InfoKind {
    /// DER of the peer certificate's subject.
    PeerCertSubject,
    /// DER of the peer certificate's issuer.
    PeerCertIssuer,
    /// Check only: does this DER GeneralName occur in the peer certificate?
    PeerCertSubjectAltName,
    /// DER of our certificate's subject.
    MyCertSubject,
    /// DER of our certificate's issuer.
    MyCertIssuer,
    /// Check only: does this DER GeneralName occur in our certificate?
    MyCertSubjectAltName,
    /// Channel binding tls-unique (RFC 5929 section 3); absent in TLS 1.3.
    TlsUnique,
    /// Channel binding tls-server-end-point (RFC 5929 section 4).
    TlsServerEndPoint,
    /// Channel binding tls-exporter (RFC 9266). Ours.
    TlsExporter,
}

impl InfoKind {
    const NUMBERS: [(u32, Self); 9] = [
        (0x5280_0000, Self::PeerCertSubject),
        (0x5280_0001, Self::PeerCertIssuer),
        (0x5280_0002, Self::PeerCertSubjectAltName),
        (0x5280_0100, Self::MyCertSubject),
        (0x5280_0101, Self::MyCertIssuer),
        (0x5280_0102, Self::MyCertSubjectAltName),
        (0x5929_0000, Self::TlsUnique),
        (0x5929_0001, Self::TlsServerEndPoint),
        (0x9266_0000, Self::TlsExporter),
    ];

    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::NUMBERS.iter().find(|(n, _)| *n == number).map(|(_, kind)| *kind)
    }

    /// Its number.
    pub fn number(self) -> u32 {
        Self::NUMBERS.iter().find(|(_, kind)| *kind == self).map_or(0, |(n, _)| *n)
    }
}

/// Why a record's data cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// A text field is bad.
    #[error("field {field}: {error}")]
    Text {
        /// The field's name in the protocol.
        field: &'static str,
        /// What is wrong with it.
        error: TextError,
    },
    /// A length points outside the record.
    #[error("field {field} points outside the record")]
    Length {
        /// The field's name in the protocol.
        field: &'static str,
    },
}

impl Packet {
    /// An ERROR response.
    pub fn error(reqid: u16, error: PoolError, message: &str) -> Self {
        let body = Body::Error(ErrorReply { code: error.code(), message: Text::cut(message) });
        Self { reqid, cbid: 0, body }
    }

    /// `reqid`, `cbid` and command number, which every record has.
    pub fn header(raw: &RawRecord) -> (u16, u16, u32) {
        let u16_at = |at: usize| u16::from_ne_bytes([raw[at], raw[at + 1]]);
        (u16_at(0), u16_at(2), u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]))
    }

    /// Reads a record. An unknown command is no error here, bad data of a known one is.
    pub fn decode(raw: &RawRecord) -> Result<Self, PacketError> {
        let (reqid, cbid, number) = Self::header(raw);
        let fields = Fields(raw);
        let body = match number {
            command::SUCCESS => Body::Success,
            command::ERROR => Body::Error(ErrorReply {
                code: fields.u32(0) as i32,
                message: fields.text(4, "message")?,
            }),
            command::PING => Body::Ping(Ping {
                identity: fields.text(0, "YYYYMMDD_producer")?,
                facilities: fields.u32(136),
            }),
            command::STARTTLS => Body::Starttls(starttls(&fields)?),
            command::STARTTLS_LOCALID => Body::StarttlsLocalid(starttls(&fields)?),
            command::PLAINTEXT_CONNECT => Body::PlaintextConnect(starttls(&fields)?),
            command::PINENTRY => Body::Pinentry(Pinentry {
                flags: fields.u32(0),
                attempt: fields.u32(4),
                timeout_us: fields.u32(8),
                pin: PinText(fields.secret(12, "pin")?),
                prompt: fields.text(140, "prompt")?,
                token_manufacturer: fields.text(268, "token_manuf")?,
                token_model: fields.text(304, "token_model")?,
                token_serial: fields.text(324, "token_serial")?,
                token_label: fields.text(344, "token_label")?,
            }),
            command::PRNG => Body::Prng(Prng {
                in1_len: fields.i16(0),
                in2_len: fields.i16(2),
                prng_len: fields.i16(4),
                buffer: fields.array(6),
            }),
            command::INFO => Body::Info(Info {
                ctlkey: CtlKey(fields.array(0)),
                kind: fields.u32(16),
                len: fields.u16(20),
                buffer: fields.array(22),
            }),
            command::CONTROL_DETACH => Body::ControlDetach(control(&fields)?),
            command::CONTROL_REATTACH => Body::ControlReattach(control(&fields)?),
            command::LIDENTRY_REGISTER => Body::LidentryRegister(lidentry(&fields)?),
            command::LIDENTRY_CALLBACK => Body::LidentryCallback(lidentry(&fields)?),
            command::DRAINING => Body::Draining,
            command::DATAGRAM => {
                let (total, offset, length) = (fields.u16(0), fields.u16(2), fields.u16(4));
                let bytes: [u8; DATAGRAM_PIECE] = fields.array(6);
                let bytes = bytes.get(..length.into());
                let bytes = bytes.ok_or(PacketError::Length { field: "length" })?.to_vec();
                Body::Datagram(DatagramPiece { total, offset, bytes })
            }
            other => Body::Unknown(other),
        };
        Ok(Self { reqid, cbid, body })
    }

    /// The record as it travels; unused bytes are zero.
    pub fn encode(&self) -> RawRecord {
        let mut raw = [0; RECORD_LEN];
        raw[0..2].copy_from_slice(&self.reqid.to_ne_bytes());
        raw[2..4].copy_from_slice(&self.cbid.to_ne_bytes());
        raw[4..8].copy_from_slice(&self.body.number().to_ne_bytes());
        self.body.write(&mut FieldsMut(&mut raw));
        raw
    }
}

impl Body {
    /// The command's number.
    pub fn number(&self) -> u32 {
        match self {
            Self::Success => command::SUCCESS,
            Self::Error(_) => command::ERROR,
            Self::Ping(_) => command::PING,
            Self::Starttls(_) => command::STARTTLS,
            Self::StarttlsLocalid(_) => command::STARTTLS_LOCALID,
            Self::PlaintextConnect(_) => command::PLAINTEXT_CONNECT,
            Self::Pinentry(_) => command::PINENTRY,
            Self::Prng(_) => command::PRNG,
            Self::Info(_) => command::INFO,
            Self::ControlDetach(_) => command::CONTROL_DETACH,
            Self::ControlReattach(_) => command::CONTROL_REATTACH,
            Self::LidentryRegister(_) => command::LIDENTRY_REGISTER,
            Self::LidentryCallback(_) => command::LIDENTRY_CALLBACK,
            Self::Draining => command::DRAINING,
            Self::Datagram(_) => command::DATAGRAM,
            Self::Unknown(number) => *number,
        }
    }

    fn write(&self, out: &mut FieldsMut<'_>) {
        match self {
            Self::Success | Self::Draining | Self::Unknown(_) => {}
            Self::Datagram(piece) => {
                let length = piece.bytes.len().min(DATAGRAM_PIECE);
                out.u16(0, piece.total);
                out.u16(2, piece.offset);
                out.u16(4, length as u16);
                out.bytes(6, &piece.bytes[..length]);
            }
            Self::Error(error) => {
                out.u32(0, error.code as u32);
                out.text(4, &error.message);
            }
            Self::Ping(ping) => {
                out.text(0, &ping.identity);
                out.u32(136, ping.facilities);
            }
            Self::Starttls(s) | Self::StarttlsLocalid(s) | Self::PlaintextConnect(s) => {
                out.u32(0, s.flags.0);
                out.u32(4, s.local);
                out.u8(8, s.ipproto);
                out.u16(10, s.streamid);
                out.text(12, &s.localid);
                out.text(140, &s.remoteid);
                out.bytes(268, &s.ctlkey.0);
                out.text(284, &s.service);
                out.u32(300, s.timeout_ms);
            }
            Self::Pinentry(p) => {
                out.u32(0, p.flags);
                out.u32(4, p.attempt);
                out.u32(8, p.timeout_us);
                out.text(12, &p.pin);
                out.text(140, &p.prompt);
                out.text(268, &p.token_manufacturer);
                out.text(304, &p.token_model);
                out.text(324, &p.token_serial);
                out.text(344, &p.token_label);
            }
            Self::Prng(p) => {
                out.i16(0, p.in1_len);
                out.i16(2, p.in2_len);
                out.i16(4, p.prng_len);
                out.bytes(6, &p.buffer);
            }
            Self::Info(i) => {
                out.bytes(0, &i.ctlkey.0);
                out.u32(16, i.kind);
                out.u16(20, i.len);
                out.bytes(22, &i.buffer);
            }
            Self::ControlDetach(c) | Self::ControlReattach(c) => {
                out.u32(0, c.flags);
                out.bytes(4, &c.ctlkey.0);
                out.text(20, &c.name);
            }
            Self::LidentryRegister(l) | Self::LidentryCallback(l) => {
                out.u32(0, l.flags.0);
                out.u16(4, l.maxlevels);
                out.u32(6, l.timeout);
                out.text(10, &l.localid);
                out.text(138, &l.remoteid);
            }
        }
    }
}

fn starttls(fields: &Fields<'_>) -> Result<Starttls, PacketError> {
    Ok(Starttls {
        flags: StarttlsFlags(fields.u32(0)),
        local: fields.u32(4),
        ipproto: fields.u8(8),
        streamid: fields.u16(10),
        localid: fields.text(12, "localid")?,
        remoteid: fields.text(140, "remoteid")?,
        ctlkey: CtlKey(fields.array(268)),
        service: fields.text(284, "service")?,
        timeout_ms: fields.u32(300),
    })
}

fn control(fields: &Fields<'_>) -> Result<ControlRequest, PacketError> {
    Ok(ControlRequest {
        flags: fields.u32(0),
        ctlkey: CtlKey(fields.array(4)),
        name: fields.text(20, "name")?,
    })
}

fn lidentry(fields: &Fields<'_>) -> Result<Lidentry, PacketError> {
    Ok(Lidentry {
        flags: LidentryFlags(fields.u32(0)),
        maxlevels: fields.u16(4),
        timeout: fields.u32(6),
        localid: fields.text(10, "localid")?,
        remoteid: fields.text(138, "remoteid")?,
    })
}

// The widest command fills the record exactly: pinentry, 380 bytes.
const _: () = assert!(344 + 36 == DATA_LEN && 22 + INFO_BUFFER == 356 && 6 + PRNG_BUFFER == 356);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starttls_stands_at_the_documented_offsets() {
        let packet = Packet {
            reqid: 0x0102,
            cbid: 0x0304,
            body: Body::Starttls(Starttls {
                flags: StarttlsFlags::LOCALROLE_CLIENT | StarttlsFlags::FORK,
                local: 0x5555_5555,
                ipproto: 6,
                streamid: 9,
                localid: Text::new("john@example.com").unwrap(),
                remoteid: Text::new("example.org").unwrap(),
                ctlkey: CtlKey([7; 16]),
                service: Text::new("imap").unwrap(),
                timeout_ms: 1234,
            }),
        };
        let raw = packet.encode();
        assert_eq!(&raw[0..2], &0x0102_u16.to_ne_bytes());
        assert_eq!(&raw[2..4], &0x0304_u16.to_ne_bytes());
        assert_eq!(&raw[4..8], &0x24_u32.to_ne_bytes());
        assert_eq!(&raw[8..12], &0x4001_u32.to_ne_bytes());
        assert_eq!(raw[16], 6);
        assert_eq!(&raw[18..20], &9_u16.to_ne_bytes());
        assert_eq!(&raw[20..36], b"john@example.com");
        assert_eq!(&raw[148..159], b"example.org");
        assert_eq!(&raw[276..292], &[7; 16]);
        assert_eq!(&raw[292..296], b"imap");
        assert_eq!(&raw[308..312], &1234_u32.to_ne_bytes());
        assert_eq!(Packet::decode(&raw), Ok(packet));
    }

    #[test]
    fn every_command_survives_the_trip() {
        let prng = Prng::question(CtlKey([1; 16]), b"EXPERIMENTAL", Some(b""), 32).unwrap();
        let info = Info { ctlkey: CtlKey([2; 16]), kind: 0x5280_0000, len: 3, buffer: [9; 334] };
        let pin = Pinentry { pin: Text::cut("1234").into(), attempt: 2, ..Pinentry::default() };
        let lid = Lidentry { maxlevels: 3, timeout: 5, ..Lidentry::default() };
        let ping = Ping { identity: Text::cut(crate::PROTOCOL_IDENTITY), facilities: 1 };
        for body in [
            Body::Success,
            Body::Error(ErrorReply { code: -5, message: Text::cut("no") }),
            Body::Ping(ping),
            Body::StarttlsLocalid(Starttls::default()),
            Body::PlaintextConnect(Starttls::default()),
            Body::Pinentry(pin),
            Body::Prng(prng),
            Body::Info(info),
            Body::ControlDetach(ControlRequest::default()),
            Body::ControlReattach(ControlRequest::default()),
            Body::LidentryRegister(lid.clone()),
            Body::LidentryCallback(lid),
            Body::Draining,
            Body::Datagram(DatagramPiece { total: 500, offset: 374, bytes: vec![7; 126] }),
            Body::Unknown(0x77),
        ] {
            let packet = Packet { reqid: 1, cbid: 2, body };
            assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
        }
    }

    #[test]
    fn a_datagram_comes_in_pieces() {
        let datagram: Vec<u8> = (0..1000).map(|n| (n % 251) as u8).collect();
        let pieces = DatagramPiece::of(&datagram).unwrap();
        assert_eq!(pieces.len(), 3);
        assert!(pieces.iter().all(|piece| piece.total == 1000));
        let joined: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes.clone()).collect();
        assert_eq!(joined, datagram);
        assert!(DatagramPiece::of(&[0; MAX_FIRST_DATAGRAM + 1]).is_none());
        let body = Body::Datagram(pieces[0].clone());
        let mut raw = Packet { reqid: 0, cbid: 0, body }.encode();
        raw[12..14].copy_from_slice(&375_u16.to_ne_bytes());
        assert_eq!(Packet::decode(&raw), Err(PacketError::Length { field: "length" }));
    }

    #[test]
    fn unterminated_text_names_its_field() {
        let mut raw =
            Packet { reqid: 0, cbid: 0, body: Body::Starttls(Starttls::default()) }.encode();
        raw[20..148].fill(b'a');
        let error = Packet::decode(&raw).unwrap_err();
        assert_eq!(
            error,
            PacketError::Text { field: "localid", error: TextError::Unterminated(128) }
        );
    }

    #[test]
    fn prng_lengths_may_not_lie() {
        let mut prng = Prng::question(CtlKey([3; 16]), b"label", None, 350).unwrap();
        let question = prng.as_question().unwrap();
        assert_eq!((question.label, question.context), (&b"label"[..], None));
        assert_eq!((question.wanted, question.ctlkey), (350, CtlKey([3; 16])));
        prng.in1_len = 335;
        assert_eq!(prng.as_question(), Err(PacketError::Length { field: "in1_len" }));
        prng.in1_len = 334;
        prng.in2_len = 1;
        assert_eq!(prng.as_question(), Err(PacketError::Length { field: "in2_len" }));
        prng.in1_len = -1;
        assert_eq!(prng.as_question(), Err(PacketError::Length { field: "in1_len" }));
        assert!(Prng::question(CtlKey::default(), &[0; 300], Some(&[0; 35]), 1).is_none());
    }

    #[test]
    fn info_kinds_have_their_numbers() {
        assert_eq!(InfoKind::from_number(0x5280_0102), Some(InfoKind::MyCertSubjectAltName));
        assert_eq!(InfoKind::TlsUnique.number(), 0x5929_0000);
        assert_eq!(InfoKind::from_number(1), None);
        let info = Info { ctlkey: CtlKey::default(), kind: 0, len: 335, buffer: [0; 334] };
        assert!(info.given().is_err());
    }
}
