//! Messages between the network process and the look-up process.
//!
//! ```text
//! request:  id u32 · remaining u32 (ms) · Request         one datagram
//! answer:   id u32 · Answer                               one or more datagrams, each
//!                                                         mark u8 · up to CHUNK bytes
//! ```
//!
//! Numbers are little-endian, [`Request`] and [`Answer`] are in postcard. The datagrams of an answer
//! follow each other; one that was given up in the middle is forgotten when the next begins. Decoding
//! never panics, refuses trailing bytes, and is bounded: the network process faces the world, and so
//! does the look-up process.

use serde::{Deserialize, Serialize};
use tlspool_validate::sources::{Caches, Found, Outcome, Query, Recalled};

/// The largest request; it fits the send buffer that a socket gets by default.
pub const MAX_REQUEST: usize = 64 * 1024;
/// The largest answer: room for a long revocation list.
pub const MAX_ANSWER: usize = 16 << 20;
/// Questions in one [`Request::Recall`]. What a cache holds of that many fits an answer.
pub const MAX_RECALL: usize = 8;
/// Bytes of an answer in one datagram.
pub const CHUNK: usize = 60_000;

/// Marks of a datagram: it is the first, or the last, of its answer.
const FIRST: u8 = 1;
const LAST: u8 = 2;

/// What the network process may say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Look this up.
    Ask {
        /// What.
        query: Query,
        /// What of the caches counts.
        caches: Caches,
    },
    /// What is remembered of these, [`MAX_RECALL`] at most? Nothing is looked up.
    Recall {
        /// Of these.
        queries: Vec<Query>,
    },
    /// Nobody waits any more for the request with the same id.
    Cancel,
    /// What has been done so far?
    Status,
}

/// What the look-up process answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Ask`.
    Found(Found),
    /// To `Recall`: for each question, in their order.
    Recalled(Vec<Recalled>),
    /// To `Status`.
    Status(Counters),
}

/// What the look-up process has done, for `tlspool status`. Counts since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Questions.
    pub queries: u64,
    /// Of these: the source had an answer.
    pub present: u64,
    /// The source had provably nothing to say.
    pub absent: u64,
    /// It could not be asked, or was not to be believed.
    pub failed: u64,
    /// Answered from the memory of the process.
    pub from_memory: u64,
    /// Answered from memcached.
    pub from_memcached: u64,
    /// Whoever asked gave up.
    pub cancelled: u64,
    /// Refused, because too many were under way.
    pub refused: u64,
    /// Under way now.
    pub under_way: u64,
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message on the look-up channel")]
pub struct Malformed;

/// A request and what every request carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFrame {
    /// Chosen by the client, copied into the answer.
    pub id: u32,
    /// How long the client will wait, in milliseconds.
    pub remaining_ms: u32,
    /// What is asked.
    pub request: Request,
}

/// Where [`patch_remaining`] writes, and where the request begins.
const REMAINING_AT: usize = 4;
const BODY_AT: usize = 8;

impl RequestFrame {
    /// The datagram; an error if it is larger than [`MAX_REQUEST`].
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.remaining_ms.to_le_bytes());
        let out = postcard::to_extend(&self.request, out).map_err(|_| Malformed)?;
        if out.len() > MAX_REQUEST { Err(Malformed) } else { Ok(out) }
    }

    /// Reads a datagram.
    pub fn decode(datagram: &[u8]) -> Result<Self, Malformed> {
        let (id, rest) = datagram.split_first_chunk().ok_or(Malformed)?;
        let (remaining, body) = rest.split_first_chunk().ok_or(Malformed)?;
        let (id, remaining_ms) = (u32::from_le_bytes(*id), u32::from_le_bytes(*remaining));
        Ok(Self { id, remaining_ms, request: whole(body)? })
    }
}

/// Writes a new time limit into an encoded request that is sent again.
pub(crate) fn patch_remaining(datagram: &mut [u8], remaining_ms: u32) {
    if let Some(field) = datagram.get_mut(REMAINING_AT..BODY_AT) {
        field.copy_from_slice(&remaining_ms.to_le_bytes());
    }
}

/// The datagrams of an answer. What is larger than [`MAX_ANSWER`] becomes a failure, or is not remembered.
pub fn encode_answer(id: u32, answer: &Answer) -> Vec<Vec<u8>> {
    let encode = |answer: &Answer| postcard::to_extend(answer, id.to_le_bytes().to_vec());
    let too_large = |found: &Found| {
        let text = format!("the answer is larger than {MAX_ANSWER} bytes");
        Answer::Found(Found { outcome: Outcome::Failed(text), ..found.clone() })
    };
    let mut bytes = encode(answer).unwrap_or_default();
    if bytes.len() > MAX_ANSWER || bytes.is_empty() {
        let smaller = match answer {
            Answer::Found(found) => too_large(&Found { steps: Vec::new(), ..found.clone() }),
            Answer::Recalled(all) => Answer::Recalled(vec![Recalled::default(); all.len()]),
            Answer::Status(counters) => Answer::Status(*counters),
        };
        bytes = encode(&smaller).unwrap_or_default();
    }
    let count = bytes.len().div_ceil(CHUNK);
    let mark = |n| if n == 0 { FIRST } else { 0 } | if n + 1 == count { LAST } else { 0 };
    bytes.chunks(CHUNK).enumerate().map(|(n, chunk)| [&[mark(n)], chunk].concat()).collect()
}

/// Puts the datagrams of answers together.
#[derive(Debug, Default)]
pub struct Assembly {
    bytes: Vec<u8>,
    /// A first datagram has come, and the last has not.
    begun: bool,
}

impl Assembly {
    /// Takes the next datagram; returns an answer when it is whole.
    pub fn take(&mut self, datagram: &[u8]) -> Result<Option<(u32, Answer)>, Malformed> {
        let (&mark, chunk) = datagram.split_first().ok_or(Malformed)?;
        if mark & !(FIRST | LAST) != 0 || chunk.len() > CHUNK {
            return Err(Malformed);
        }
        if mark & FIRST != 0 {
            self.bytes.clear();
            self.begun = true;
        }
        if !self.begun || self.bytes.len() + chunk.len() > MAX_ANSWER {
            *self = Self::default();
            return Err(Malformed);
        }
        if mark == FIRST | LAST {
            // The usual case is read where it is.
            self.begun = false;
            return decode_answer(chunk).map(Some);
        }
        self.bytes.extend_from_slice(chunk);
        if mark & LAST == 0 {
            return Ok(None);
        }
        let whole = std::mem::take(self);
        decode_answer(&whole.bytes).map(Some)
    }
}

fn decode_answer(bytes: &[u8]) -> Result<(u32, Answer), Malformed> {
    let (id, body) = bytes.split_first_chunk().ok_or(Malformed)?;
    Ok((u32::from_le_bytes(*id), whole(body)?))
}

fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Malformed> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tlspool_validate::sources::{
        self, Authorizer, CredentialKind, Opinion, Origin, Tlsa, Transport,
    };

    use super::*;

    fn queries() -> Vec<Query> {
        let (host, name) = ("example.com".to_owned(), "john@example.com".to_owned());
        let url = "http://ocsp.example.com/".to_owned();
        vec![
            Query::ServerTlsa {
                host: host.clone(),
                port: 443,
                transport: Transport::Sctp,
                service: String::new(),
            },
            Query::ClientTlsa { domain: host, service: "smtp".into() },
            Query::Directory { name: name.clone(), kind: CredentialKind::OpenPgp },
            Query::Authorize {
                authorizer: Authorizer::Radius,
                remote: name.clone(),
                local: String::new(),
                service: "imap".into(),
                server: true,
            },
            Query::OpenPgpKey { name, fingerprint: vec![7; 20] },
            Query::Ocsp { url: url.clone(), request: vec![0x30; 80] },
            Query::Crl { url },
        ]
    }

    fn found(outcome: Outcome) -> Found {
        let steps = vec!["one".to_owned(), "two".to_owned()];
        Found {
            outcome,
            origin: Origin::Live,
            elapsed: Duration::from_micros(1_234_567),
            lasts: None,
            steps,
        }
    }

    fn assembled(datagrams: &[Vec<u8>]) -> Result<Option<(u32, Answer)>, Malformed> {
        let mut assembly = Assembly::default();
        let (last, before) = datagrams.split_last().unwrap();
        for datagram in before {
            assert_eq!(assembly.take(datagram), Ok(None));
        }
        assembly.take(last)
    }

    #[test]
    fn requests_read_back() {
        let asks =
            queries().into_iter().map(|query| Request::Ask { query, caches: Caches::Ignore });
        let recall = Request::Recall { queries: queries() };
        for (id, request) in asks.chain([recall, Request::Cancel, Request::Status]).enumerate() {
            let frame = RequestFrame { id: id as u32, remaining_ms: 77, request };
            let mut datagram = frame.encode().unwrap();
            assert_eq!(RequestFrame::decode(&datagram).as_ref(), Ok(&frame));
            patch_remaining(&mut datagram, 5);
            assert_eq!(RequestFrame::decode(&datagram).unwrap().remaining_ms, 5);
            datagram.push(0);
            assert_eq!(RequestFrame::decode(&datagram), Err(Malformed), "trailing bytes");
            for length in 0..datagram.len() - 1 {
                assert_eq!(RequestFrame::decode(&datagram[..length]), Err(Malformed));
            }
        }
    }

    #[test]
    fn a_request_beyond_its_bound_is_refused() {
        let query = Query::Ocsp { url: String::new(), request: vec![0; MAX_REQUEST] };
        let request = Request::Ask { query, caches: Caches::Use };
        assert_eq!(RequestFrame { id: 1, remaining_ms: 1, request }.encode(), Err(Malformed));
    }

    #[test]
    fn answers_of_any_size_read_back() {
        let record = Tlsa { usage: 3, selector: 1, matching: 1, data: vec![9; 32] };
        let tlsa = sources::Answer::Tlsa { records: vec![record], reference_names: vec![] };
        let certificates = |n: usize| sources::Answer::Directory {
            credentials: (0..n).map(|n| vec![n as u8; 1500]).collect(),
            anchors: vec![vec![1; 900]],
        };
        let crl = |length| sources::Answer::Crl(vec![5; length]);
        let (by, why) = ("RADIUS server 192.0.2.1:1812".to_owned(), String::new());
        let decision = sources::Answer::Authorization { opinion: Opinion::Deny, by, why };
        let (few, many) = (certificates(3), certificates(700));
        for present in [tlsa, decision, few, many, crl(1), crl(CHUNK), crl(9 << 20)] {
            let answer = Answer::Found(found(Outcome::Present(present)));
            assert_eq!(assembled(&encode_answer(9, &answer)), Ok(Some((9, answer))));
        }
        let outcome = Some(Outcome::Absent("no".into()));
        let (left, elapsed) = (Duration::from_secs(7), Duration::from_micros(3));
        let recalled = Recalled { outcome, left, elapsed, steps: vec!["one".into()] };
        let answer = Answer::Recalled(vec![recalled.clone(), Recalled::default()]);
        assert_eq!(assembled(&encode_answer(9, &answer)), Ok(Some((9, answer))));
        let large = Some(Outcome::Present(sources::Answer::Crl(vec![5; MAX_ANSWER])));
        let answer =
            Answer::Recalled(vec![recalled, Recalled { outcome: large, ..<_>::default() }]);
        let nothing = Answer::Recalled(vec![Recalled::default(); 2]);
        assert_eq!(assembled(&encode_answer(9, &answer)), Ok(Some((9, nothing))));
        let answer = Answer::Status(Counters { queries: 3, ..Counters::default() });
        assert_eq!(assembled(&encode_answer(9, &answer)), Ok(Some((9, answer))));
    }

    #[test]
    fn an_answer_beyond_its_bound_becomes_a_failure() {
        let crl = sources::Answer::Crl(vec![5; MAX_ANSWER]);
        let datagrams = encode_answer(9, &Answer::Found(found(Outcome::Present(crl))));
        let Ok(Some((9, Answer::Found(found)))) = assembled(&datagrams) else { panic!() };
        assert!(matches!(found.outcome, Outcome::Failed(why) if why.contains("larger")));
    }

    #[test]
    fn pieces_out_of_order_and_without_end_are_refused() {
        let answer = Answer::Found(found(Outcome::Present(sources::Answer::Crl(vec![5; 200_000]))));
        let datagrams = encode_answer(9, &answer);
        let mut assembly = Assembly::default();
        assert_eq!(assembly.take(&datagrams[1]), Err(Malformed), "it has not begun");
        assert_eq!(assembly.take(&[]), Err(Malformed));
        assert_eq!(assembly.take(&[0xff, 1]), Err(Malformed));
        // What was given up in the middle does no harm to what follows.
        assert_eq!(assembly.take(&datagrams[0]), Ok(None));
        assert_eq!(assembly.take(&datagrams[0]), Ok(None));
        for datagram in &datagrams[1..datagrams.len() - 1] {
            assert_eq!(assembly.take(datagram), Ok(None));
        }
        assert_eq!(assembly.take(datagrams.last().unwrap()), Ok(Some((9, answer))));
        let mut part = vec![0; CHUNK + 1];
        part[0] = FIRST;
        assert_eq!(assembly.take(&part), Ok(None));
        part[0] = 0;
        let refused = (0..=MAX_ANSWER / CHUNK).any(|_| assembly.take(&part).is_err());
        assert!(refused, "memory is bounded");
    }
}
