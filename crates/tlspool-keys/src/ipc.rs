//! Messages between the network process and the key process, one for each SEQPACKET datagram.
//!
//! ```text
//! request:  id u32 · deadline u32 (ms from now) · operation u8 · body
//! answer:   id u32 · kind u8 · body            (id as in the request)
//! event:    0  u32 · kind u8 · body
//! ```
//!
//! Numbers are little-endian; `text` and `bytes` are a u16 length and that many bytes; `rest` runs
//! to the end. Decoding never panics, borrows from the datagram, and refuses trailing bytes: the
//! network process faces the world, and the key process must survive whatever it sends.

use crate::algorithm::KeyAlgorithm;
use crate::{KeyError, KeyId, TokenName, TokenStatus};

/// The largest datagram.
pub const MAX_MESSAGE: usize = 64 * 1024;
/// The longest message to sign: a TLS 1.2 transcript that rustls hands out unhashed, and more.
pub const MAX_SIGN: usize = MAX_MESSAGE - 8192;

/// A request and what every request carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFrame<'a> {
    /// Chosen by the client, not 0, copied into the answer.
    pub id: u32,
    /// How long the client will wait, in milliseconds.
    pub deadline_ms: u32,
    /// What is asked.
    pub request: Request<'a>,
}

/// What the network process may ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Open a private key.
    Open {
        /// Its URI.
        uri: &'a str,
    },
    /// Sign a message.
    Sign {
        /// The key, as `Opened` named it.
        key: KeyId,
        /// TLS SignatureScheme.
        scheme: u16,
        /// The URI to open the key by if it is not open, or empty.
        uri: &'a str,
        /// What to sign, not hashed.
        message: &'a [u8],
    },
    /// Read certificates.
    Certificates {
        /// Where they are.
        uri: &'a str,
    },
    /// Answer to [`Event::PinNeeded`].
    Pin {
        /// The question.
        prompt: u32,
        /// The PIN, or nothing if the person refused.
        pin: Option<&'a str>,
    },
    /// The state of all tokens.
    Status,
}

/// What the key process says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message<'a> {
    /// The answer to a request.
    Answer {
        /// As in the request.
        id: u32,
        /// What came of it.
        answer: Answer<'a>,
    },
    /// Something nobody asked for.
    Event(Event),
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<'a> {
    /// To `Open`.
    Opened {
        /// Names the key in `Sign`.
        key: KeyId,
        /// Kind of key.
        algorithm: KeyAlgorithm,
        /// SubjectPublicKeyInfo.
        spki_der: &'a [u8],
    },
    /// To `Sign`.
    Signature(&'a [u8]),
    /// To `Certificates`: DER, leaf first.
    Certificates(Vec<&'a [u8]>),
    /// To `Pin`.
    Done,
    /// To `Status`.
    Status(Vec<TokenStatus>),
    /// To any.
    Failed(KeyError),
}

/// What the key process tells everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A token waits for its PIN.
    PinNeeded(PinPrompt),
    /// Nobody needs to answer this question any more.
    PinDone {
        /// The question.
        prompt: u32,
        /// Whether the token accepted a PIN.
        accepted: bool,
    },
    /// No request waits for the answer to this question any more, which would still unlock the token for the next one.
    /// When one waits again, the question is put again.
    PinIdle {
        /// The question.
        prompt: u32,
    },
}

/// A question for a PIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinPrompt {
    /// Names the question in the answer.
    pub prompt: u32,
    /// 1 for the first, counting up after each refused PIN.
    pub attempt: u32,
    /// The token refused a PIN since the last good one.
    pub count_low: bool,
    /// The next wrong PIN locks the token.
    pub final_try: bool,
    /// The token.
    pub token: TokenName,
}

/// A datagram that is none of the above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message on the key channel")]
pub struct Malformed;

impl RequestFrame<'_> {
    /// Where [`patch_deadline`] writes.
    const DEADLINE_AT: usize = 4;

    /// Writes the datagram into `out`, which is emptied first.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        put_u32(out, self.id);
        put_u32(out, self.deadline_ms);
        match &self.request {
            Request::Open { uri } => {
                out.push(1);
                put_bytes(out, uri.as_bytes());
            }
            Request::Sign { key, scheme, uri, message } => {
                out.push(2);
                out.extend_from_slice(&key.0);
                out.extend_from_slice(&scheme.to_le_bytes());
                put_bytes(out, uri.as_bytes());
                out.extend_from_slice(message);
            }
            Request::Certificates { uri } => {
                out.push(3);
                put_bytes(out, uri.as_bytes());
            }
            Request::Pin { prompt, pin } => {
                out.push(4);
                put_u32(out, *prompt);
                out.push(u8::from(pin.is_some()));
                put_bytes(out, pin.unwrap_or("").as_bytes());
            }
            Request::Status => out.push(5),
        }
    }
}

/// Writes a new deadline into an encoded request that is sent again.
pub(crate) fn patch_deadline(request: &mut [u8], deadline_ms: u32) {
    let at = RequestFrame::DEADLINE_AT;
    if let Some(field) = request.get_mut(at..at + 4) {
        field.copy_from_slice(&deadline_ms.to_le_bytes());
    }
}

/// Reads a request.
pub fn decode_request(datagram: &[u8]) -> Result<RequestFrame<'_>, Malformed> {
    let mut from = Reader(datagram);
    let (id, deadline_ms) = (from.u32()?, from.u32()?);
    if id == 0 {
        return Err(Malformed);
    }
    let request = match from.u8()? {
        1 => Request::Open { uri: from.text()? },
        2 => Request::Sign {
            key: KeyId(from.array()?),
            scheme: from.u16()?,
            uri: from.text()?,
            message: from.rest(),
        },
        3 => Request::Certificates { uri: from.text()? },
        4 => {
            let prompt = from.u32()?;
            let given = from.flag()?;
            let pin = from.text()?;
            Request::Pin { prompt, pin: given.then_some(pin) }
        }
        5 => Request::Status,
        _ => return Err(Malformed),
    };
    from.end()?;
    Ok(RequestFrame { id, deadline_ms, request })
}

impl Message<'_> {
    /// Writes the datagram into `out`, which is emptied first. What does not fit becomes an error.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Answer { id, answer } => {
                put_u32(out, *id);
                answer.encode(out);
                if out.len() > MAX_MESSAGE {
                    out.truncate(4);
                    let text = format!("the answer is larger than {MAX_MESSAGE} bytes");
                    Answer::Failed(KeyError::Unsupported(text)).encode(out);
                }
            }
            Self::Event(event) => {
                put_u32(out, 0);
                event.encode(out);
            }
        }
    }
}

impl Answer<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Opened { key, algorithm, spki_der } => {
                let (kind, bits) = algorithm.encode();
                out.push(1);
                out.extend_from_slice(&key.0);
                out.push(kind);
                out.extend_from_slice(&bits.to_le_bytes());
                out.extend_from_slice(spki_der);
            }
            Self::Signature(signature) => {
                out.push(2);
                out.extend_from_slice(signature);
            }
            Self::Certificates(chain) => {
                out.push(3);
                for certificate in chain {
                    put_u32(out, certificate.len() as u32);
                    out.extend_from_slice(certificate);
                }
            }
            Self::Done => out.push(4),
            Self::Status(tokens) => {
                out.push(5);
                for token in tokens {
                    put_status(out, token);
                }
            }
            Self::Failed(error) => {
                let (code, text) = error.encode();
                out.push(6);
                out.push(code);
                put_bytes(out, text.as_bytes());
            }
        }
    }
}

impl Event {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::PinNeeded(prompt) => {
                out.push(1);
                put_u32(out, prompt.prompt);
                put_u32(out, prompt.attempt);
                out.push(u8::from(prompt.count_low));
                out.push(u8::from(prompt.final_try));
                put_bytes(out, prompt.token.label.as_bytes());
                put_bytes(out, prompt.token.manufacturer.as_bytes());
                put_bytes(out, prompt.token.model.as_bytes());
                put_bytes(out, prompt.token.serial.as_bytes());
            }
            Self::PinDone { prompt, accepted } => {
                out.push(2);
                put_u32(out, *prompt);
                out.push(u8::from(*accepted));
            }
            Self::PinIdle { prompt } => {
                out.push(3);
                put_u32(out, *prompt);
            }
        }
    }
}

/// Reads an answer or an event.
pub fn decode_message(datagram: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut from = Reader(datagram);
    let id = from.u32()?;
    let kind = from.u8()?;
    let message = if id == 0 {
        Message::Event(match kind {
            1 => Event::PinNeeded(PinPrompt {
                prompt: from.u32()?,
                attempt: from.u32()?,
                count_low: from.flag()?,
                final_try: from.flag()?,
                token: TokenName {
                    label: from.text()?.to_owned(),
                    manufacturer: from.text()?.to_owned(),
                    model: from.text()?.to_owned(),
                    serial: from.text()?.to_owned(),
                },
            }),
            2 => Event::PinDone { prompt: from.u32()?, accepted: from.flag()? },
            3 => Event::PinIdle { prompt: from.u32()? },
            _ => return Err(Malformed),
        })
    } else {
        let answer = match kind {
            1 => {
                let key = KeyId(from.array()?);
                let (kind, bits) = (from.u8()?, from.u16()?);
                let algorithm = KeyAlgorithm::decode(kind, bits).ok_or(Malformed)?;
                Answer::Opened { key, algorithm, spki_der: from.rest() }
            }
            2 => Answer::Signature(from.rest()),
            3 => {
                let mut chain = Vec::new();
                while !from.0.is_empty() {
                    let len = from.u32()? as usize;
                    chain.push(from.take(len)?);
                }
                Answer::Certificates(chain)
            }
            4 => Answer::Done,
            5 => {
                let mut tokens = Vec::new();
                while !from.0.is_empty() {
                    tokens.push(from.status()?);
                }
                Answer::Status(tokens)
            }
            6 => {
                let code = from.u8()?;
                Answer::Failed(KeyError::decode(code, from.text()?).ok_or(Malformed)?)
            }
            _ => return Err(Malformed),
        };
        Message::Answer { id, answer }
    };
    from.end()?;
    Ok(message)
}

fn put_u32(out: &mut Vec<u8>, n: u32) {
    out.extend_from_slice(&n.to_le_bytes());
}

/// Cuts what is longer than a u16 can say, at a character boundary for the sake of texts.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut len = bytes.len().min(usize::from(u16::MAX));
    while len < bytes.len() && len > 0 && bytes[len] & 0xc0 == 0x80 {
        len -= 1;
    }
    out.extend_from_slice(&(len as u16).to_le_bytes());
    out.extend_from_slice(&bytes[..len]);
}

fn put_status(out: &mut Vec<u8>, token: &TokenStatus) {
    put_bytes(out, token.uri.as_bytes());
    out.push(u8::from(token.logged_in));
    out.extend_from_slice(&token.sessions.to_le_bytes());
    put_u32(out, token.waiting);
    out.extend_from_slice(&token.signatures.to_le_bytes());
    out.extend_from_slice(&token.failures.to_le_bytes());
    put_bytes(out, token.last_error.as_bytes());
}

/// What is left of a datagram.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[b]| b)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let len = usize::from(self.u16()?);
        std::str::from_utf8(self.take(len)?).map_err(|_| Malformed)
    }

    fn status(&mut self) -> Result<TokenStatus, Malformed> {
        Ok(TokenStatus {
            uri: self.text()?.to_owned(),
            logged_in: self.flag()?,
            sessions: self.u16()?,
            waiting: self.u32()?,
            signatures: self.u64()?,
            failures: self.u64()?,
            last_error: self.text()?.to_owned(),
        })
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request<'static>> {
        vec![
            Request::Open { uri: "file:/x" },
            Request::Sign { key: KeyId([7; 16]), scheme: 0x403, uri: "", message: b"hello" },
            Request::Sign { key: KeyId([7; 16]), scheme: 0x403, uri: "pkcs11:", message: b"" },
            Request::Certificates { uri: "file:/y" },
            Request::Pin { prompt: 3, pin: Some("1234") },
            Request::Pin { prompt: 3, pin: None },
            Request::Status,
        ]
    }

    fn messages() -> Vec<Message<'static>> {
        let token = TokenName {
            label: "a".into(),
            manufacturer: "b".into(),
            model: "c".into(),
            serial: "d".into(),
        };
        let status = TokenStatus {
            uri: "pkcs11:token=x".into(),
            logged_in: true,
            sessions: 4,
            waiting: 2,
            signatures: 1 << 40,
            failures: 1,
            last_error: "e".into(),
        };
        let answers = [
            Answer::Opened {
                key: KeyId([1; 16]),
                algorithm: KeyAlgorithm::Rsa { bits: 3072 },
                spki_der: b"spki",
            },
            Answer::Signature(b"sig"),
            Answer::Certificates(vec![b"leaf", b"issuer"]),
            Answer::Done,
            Answer::Status(vec![status.clone(), status]),
            Answer::Failed(KeyError::Locked("t".into())),
        ];
        let mut messages: Vec<_> =
            answers.into_iter().map(|answer| Message::Answer { id: 9, answer }).collect();
        messages.push(Message::Event(Event::PinNeeded(PinPrompt {
            prompt: 5,
            attempt: 2,
            count_low: true,
            final_try: false,
            token,
        })));
        messages.push(Message::Event(Event::PinDone { prompt: 5, accepted: true }));
        messages.push(Message::Event(Event::PinIdle { prompt: 6 }));
        messages
    }

    #[test]
    fn requests_round_trip() {
        let mut bytes = Vec::new();
        for request in requests() {
            let frame = RequestFrame { id: 77, deadline_ms: 1000, request };
            frame.encode(&mut bytes);
            assert_eq!(decode_request(&bytes).as_ref(), Ok(&frame));
            patch_deadline(&mut bytes, 5);
            assert_eq!(decode_request(&bytes).unwrap().deadline_ms, 5);
        }
    }

    #[test]
    fn messages_round_trip() {
        let mut bytes = Vec::new();
        for message in messages() {
            message.encode(&mut bytes);
            assert_eq!(decode_message(&bytes), Ok(message));
        }
    }

    #[test]
    fn errors_keep_their_kind_and_text() {
        for code in 1..=16 {
            let error = KeyError::decode(code, "text").unwrap();
            assert_eq!(error.encode().0, code);
        }
        assert_eq!(KeyError::decode(17, ""), None);
    }

    #[test]
    fn whatever_is_cut_or_changed_is_refused_or_read_without_panic() {
        let mut bytes = Vec::new();
        for request in requests() {
            RequestFrame { id: 1, deadline_ms: 1, request }.encode(&mut bytes);
            for len in 0..bytes.len() {
                let _ = decode_request(&bytes[..len]);
            }
            for at in 0..bytes.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut changed = bytes.clone();
                    changed[at] = value;
                    let _ = decode_request(&changed);
                }
            }
        }
        for message in messages() {
            message.encode(&mut bytes);
            for at in 0..bytes.len() {
                let _ = decode_message(&bytes[..at]);
                let mut changed = bytes.clone();
                changed[at] = 0xff;
                let _ = decode_message(&changed);
            }
        }
    }

    #[test]
    fn too_large_an_answer_becomes_an_error() {
        let big = vec![0; MAX_MESSAGE];
        let mut bytes = Vec::new();
        let answer = Answer::Certificates(vec![&big]);
        Message::Answer { id: 4, answer }.encode(&mut bytes);
        let Ok(Message::Answer { id: 4, answer: Answer::Failed(_) }) = decode_message(&bytes)
        else {
            panic!("{:?}", decode_message(&bytes));
        };
    }
}
