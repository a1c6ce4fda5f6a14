//! The stateless answer to a first hello (RFC 6347 section 4.2.1): who claims to be at an address must have got
//! our cookie there.
//!
//! Whoever receives datagrams of strangers calls it, before there is a connection. It keeps nothing of a hello,
//! does one HMAC for each, and never answers with more bytes than came.

use std::time::{Duration, Instant};

use crate::crypto::{CryptoError, Hash, MacKey, random};

use super::inbox::{self, Fragment};
use super::record::{self, FIRST_VERSION};

const CLIENT_HELLO: u8 = 1;
const HELLO_VERIFY_REQUEST: u8 = 3;

/// Bytes of a cookie: which key, and what of the HMAC is left. RFC 4347 allows 32.
const COOKIE: usize = 1 + TAG;
const TAG: usize = 19;
/// Version, and the cookie behind its length.
const BODY: usize = 2 + 1 + COOKIE;
/// Bytes of the answer. The shortest hello has 66.
const ANSWER: usize = record::HEADER + inbox::HEADER + BODY;

/// Where the numbers of a connection begin, if its first hello carries a valid cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// message_seq of the hello, and of the ServerHello.
    pub message_seq: u16,
    /// The record's number, with which our records begin: the client has seen the lower ones.
    pub record_seq: u64,
}

/// What to do with a datagram of a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is no hello. No answer.
    Ignore,
    /// Send so many bytes of `out` to where it came from.
    Challenge(usize),
    /// The client is where it claims to be: begin a connection with [`super::Transport::after_cookie`], and give
    /// it this datagram.
    Valid(Start),
}

/// The keys behind the cookies.
#[derive(Debug)]
pub struct Cookies {
    lifetime: Duration,
    since: Instant,
    /// Which keys these are, so that one HMAC tells.
    number: u8,
    current: MacKey,
    previous: Option<MacKey>,
}

impl Cookies {
    /// Cookies that are valid for `lifetime` at least and twice that at most.
    pub fn new(lifetime: Duration, now: Instant) -> Result<Self, CryptoError> {
        Ok(Self { lifetime, since: now, number: 0, current: fresh_key()?, previous: None })
    }

    /// Judges a datagram from `address`, any bytes that stand for where it came from, port included. An answer,
    /// never longer than the datagram, is put into `out`.
    pub fn respond(
        &mut self,
        datagram: &[u8],
        address: &[u8],
        now: Instant,
        out: &mut [u8],
    ) -> Verdict {
        let Some(hello) = Hello::parse(datagram) else { return Verdict::Ignore };
        self.rotate(now);
        let length = (address.len() as u64).to_be_bytes();
        let parts: [&[u8]; 4] = [&length, address, hello.before, hello.after];
        if let Some((number, tag)) = hello.cookie.split_first() {
            let key = match self.number.wrapping_sub(*number) {
                0 => Some(&self.current),
                1 => self.previous.as_ref(),
                _ => None,
            };
            if tag.len() == TAG && key.is_some_and(|key| key.verify(&parts, tag)) {
                return Verdict::Valid(hello.start);
            }
        }
        let Some(answer) = out.get_mut(..ANSWER).filter(|answer| answer.len() <= datagram.len())
        else {
            return Verdict::Ignore;
        };
        let tag = self.current.sign(&parts);
        hello.write_answer(self.number, &tag.as_ref()[..TAG], answer);
        Verdict::Challenge(ANSWER)
    }

    fn rotate(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.since);
        if age < self.lifetime {
            return;
        }
        // Without random bytes the old keys go on.
        let Ok(key) = fresh_key() else { return };
        let current = std::mem::replace(&mut self.current, key);
        self.previous = (age < self.lifetime * 2).then_some(current);
        self.number = self.number.wrapping_add(1);
        self.since = now;
    }
}

fn fresh_key() -> Result<MacKey, CryptoError> {
    let mut key = zeroize::Zeroizing::new([0; 32]);
    random(key.as_mut())?;
    Ok(MacKey::new(Hash::Sha256, key.as_ref()))
}

/// What matters of a ClientHello.
struct Hello<'a> {
    start: Start,
    /// Version, random and session ID, and cipher suites and compression methods: what a client must repeat.
    before: &'a [u8],
    after: &'a [u8],
    cookie: &'a [u8],
}

impl<'a> Hello<'a> {
    /// The first record of the datagram must hold a hello, or the first fragment of one that reaches up to its
    /// extensions.
    fn parse(datagram: &'a [u8]) -> Option<Self> {
        let parsed = record::parse(datagram, 0)?;
        if parsed.content_type != record::HANDSHAKE || parsed.epoch != 0 {
            return None;
        }
        let (fragment, _) = Fragment::parse(datagram.get(parsed.fragment)?)?;
        let body = fragment.first_piece().filter(|_| fragment.kind == CLIENT_HELLO)?;
        // A version of which we could not even say no: not for us.
        if body.first() != Some(&254) {
            return None;
        }
        let (_, rest) = body.split_at_checked(2 + 32)?;
        let (session, rest) = counted::<1>(rest)?;
        let before = &body[..body.len() - rest.len()];
        let (cookie, after) = counted::<1>(rest)?;
        let (suites, rest) = counted::<2>(after)?;
        let (compression, rest) = counted::<1>(rest)?;
        let after = &after[..after.len() - rest.len()];
        let sound = session.len() <= 32 && suites.len() >= 2 && !compression.is_empty();
        let start = Start { message_seq: fragment.seq, record_seq: parsed.seq };
        sound.then_some(Self { start, before, after, cookie })
    }

    /// HelloVerifyRequest. It says DTLS 1.0 whatever is spoken later, and repeats the hello's numbers, since we
    /// keep none.
    fn write_answer(&self, number: u8, tag: &[u8], answer: &mut [u8]) {
        let (head, rest) = answer.split_at_mut(record::HEADER);
        let (message, body) = rest.split_at_mut(inbox::HEADER);
        head[0] = record::HANDSHAKE;
        head[1..3].copy_from_slice(&FIRST_VERSION);
        head[3..11].copy_from_slice(&self.start.record_seq.to_be_bytes());
        head[11..].copy_from_slice(&((inbox::HEADER + BODY) as u16).to_be_bytes());
        message[0] = HELLO_VERIFY_REQUEST;
        message[1..4].copy_from_slice(&[0, 0, BODY as u8]);
        message[4..6].copy_from_slice(&self.start.message_seq.to_be_bytes());
        message[6..].copy_from_slice(&[0, 0, 0, 0, 0, BODY as u8]);
        body[..2].copy_from_slice(&FIRST_VERSION);
        body[2] = COOKIE as u8;
        body[3] = number;
        body[4..].copy_from_slice(tag);
    }
}

/// What is counted by `N` bytes of length at the beginning, and what follows.
fn counted<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<N>()?;
    let length = length.iter().fold(0, |length, byte| length * 256 + usize::from(*byte));
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn both_bytes_of_a_length_count() {
        let bytes = [&[1, 2][..], &[7; 300]].concat();
        assert_eq!(counted::<2>(&bytes).map(|(of, rest)| (of.len(), rest.len())), Some((258, 42)));
        assert_eq!(counted::<1>(&bytes).map(|(of, rest)| (of.len(), rest.len())), Some((1, 300)));
        assert_eq!(counted::<2>(&bytes[..259]), None);
    }

    /// A hello as short as can be.
    fn hello(record_seq: u8, message_seq: u8, cookie: &[u8], random: u8) -> Vec<u8> {
        let mut body = vec![254, 253];
        body.extend_from_slice(&[random; 32]);
        body.push(0);
        body.push(cookie.len() as u8);
        body.extend_from_slice(cookie);
        body.extend_from_slice(&[0, 2, 0xc0, 0x2f, 1, 0]);
        let len = body.len() as u8;
        let mut out = vec![22, 254, 255, 0, 0, 0, 0, 0, 0, 0, record_seq, 0, len + 12];
        out.extend_from_slice(&[1, 0, 0, len, 0, message_seq, 0, 0, 0, 0, 0, len]);
        out.extend_from_slice(&body);
        out
    }

    fn cookie_of(out: &[u8]) -> Vec<u8> {
        out[ANSWER - COOKIE..ANSWER].to_vec()
    }

    #[test]
    fn the_answer_is_as_the_rfc_has_it_and_short() {
        let now = Instant::now();
        let mut cookies = Cookies::new(MINUTE, now).unwrap();
        let mut out = [0xaa; 100];
        let datagram = hello(9, 3, b"", 7);
        let verdict = cookies.respond(&datagram, b"here", now, &mut out);
        assert_eq!(verdict, Verdict::Challenge(48));
        assert!(datagram.len() >= 48);
        let head = [
            22, 254, 255, 0, 0, 0, 0, 0, 0, 0, 9, 0, 35, // record
            3, 0, 0, 23, 0, 3, 0, 0, 0, 0, 0, 23, // message
            254, 255, 20, // body
        ];
        assert_eq!(out[..28], head);
        assert!(out[48..].iter().all(|byte| *byte == 0xaa));
    }

    #[test]
    fn a_cookie_is_for_one_address_and_one_hello() {
        let now = Instant::now();
        let mut cookies = Cookies::new(MINUTE, now).unwrap();
        let mut out = [0; 100];
        cookies.respond(&hello(0, 0, b"", 7), b"here", now, &mut out);
        let cookie = cookie_of(&out);
        let start = Start { message_seq: 1, record_seq: 1 };
        let again = hello(1, 1, &cookie, 7);
        assert_eq!(cookies.respond(&again, b"here", now, &mut out), Verdict::Valid(start));
        let challenge = Verdict::Challenge(ANSWER);
        assert_eq!(cookies.respond(&again, b"there", now, &mut out), challenge);
        assert_eq!(cookies.respond(&again, b"her", now, &mut out), challenge);
        assert_eq!(cookies.respond(&hello(1, 1, &cookie, 8), b"here", now, &mut out), challenge);
        for at in 0..COOKIE {
            let mut damaged = cookie.clone();
            damaged[at] ^= 1;
            let verdict = cookies.respond(&hello(1, 1, &damaged, 7), b"here", now, &mut out);
            assert_eq!(verdict, challenge, "byte {at}");
        }
        for len in 0..COOKIE {
            let cut = hello(1, 1, &cookie[..len], 7);
            assert_eq!(cookies.respond(&cut, b"here", now, &mut out), challenge, "{len}");
        }
        let mut suites = again.clone();
        *suites.last_mut().unwrap() = 1; // another compression method
        assert_eq!(cookies.respond(&suites, b"here", now, &mut out), challenge);
        // Somebody else's keys.
        let mut others = Cookies::new(MINUTE, now).unwrap();
        assert_eq!(others.respond(&again, b"here", now, &mut out), challenge);
    }

    #[test]
    fn a_cookie_lives_between_one_and_two_lifetimes() {
        let start = Instant::now();
        let mut out = [0; 100];
        for (asked, answered, valid) in [
            (0, 59, true),
            (0, 61, true),
            (59, 119, true),
            // At the very moment when the keys change.
            (60, 121, true),
            (0, 120, false),
            (59, 181, false),
            (0, 15_300, false), // 255 minutes
        ] {
            let mut cookies = Cookies::new(MINUTE, start).unwrap();
            let at = |seconds| start + Duration::from_secs(seconds);
            cookies.respond(&hello(0, 0, b"", 7), b"a", at(asked), &mut out);
            let again = hello(1, 1, &cookie_of(&out), 7);
            // Somebody asks each minute, so that the keys change each minute.
            for minute in asked / 60 + 1..=answered / 60 {
                cookies.respond(&hello(0, 0, b"", 1), b"b", at(minute * 60), &mut out);
            }
            let verdict = cookies.respond(&again, b"a", at(answered), &mut out);
            assert_eq!(matches!(verdict, Verdict::Valid(_)), valid, "{asked} {answered}");
        }
        // After a long silence both keys are old.
        let mut cookies = Cookies::new(MINUTE, start).unwrap();
        cookies.respond(&hello(0, 0, b"", 7), b"a", start, &mut out);
        let again = hello(1, 1, &cookie_of(&out), 7);
        assert_eq!(
            cookies.respond(&again, b"a", start + 2 * MINUTE, &mut out),
            Verdict::Challenge(ANSWER)
        );
    }

    #[test]
    fn a_session_id_has_at_most_32_bytes() {
        let now = Instant::now();
        let mut cookies = Cookies::new(MINUTE, now).unwrap();
        let mut out = [0; 100];
        for length in [0, 32, 33] {
            let mut hello = hello(0, 0, b"", 7);
            // Behind the headers, version and random; then the lengths of message, fragment and record.
            hello[13 + 12 + 34] = length;
            hello.splice(13 + 12 + 35..13 + 12 + 35, vec![1; length.into()]);
            for at in [12, 16, 24] {
                hello[at] += length;
            }
            let verdict = cookies.respond(&hello, b"here", now, &mut out);
            assert_eq!(verdict != Verdict::Ignore, length <= 32, "{length}");
        }
    }

    #[test]
    fn what_is_no_hello_gets_no_answer() {
        let now = Instant::now();
        let mut cookies = Cookies::new(MINUTE, now).unwrap();
        let mut out = [0; 100];
        let good = hello(0, 0, b"cookie", 7);
        let mut respond = |datagram: &[u8]| cookies.respond(datagram, b"here", now, &mut out);
        assert_eq!(respond(&good), Verdict::Challenge(ANSWER));
        for len in 0..good.len() {
            assert_eq!(respond(&good[..len]), Verdict::Ignore, "{len}");
        }
        for (at, value) in [
            (0, 23),   // content type
            (1, 3),    // version
            (4, 1),    // epoch
            (13, 2),   // message type
            (16, 255), // length of the message: the fragment is fine, see below
            (21, 1),   // fragment offset
            (25, 3),   // client version
            (59, 33),  // session ID
            (68, 1),   // no cipher suite
        ] {
            let mut damaged = good.clone();
            damaged[at] = value;
            let expected = if at == 16 { Verdict::Challenge(ANSWER) } else { Verdict::Ignore };
            assert_eq!(respond(&damaged), expected, "byte {at}");
        }
        let mut no_compression = hello(0, 0, b"cookie", 7);
        let len = no_compression.len();
        no_compression[len - 2] = 0;
        assert_eq!(respond(&no_compression), Verdict::Ignore);
        assert_eq!(cookies.respond(&good, b"here", now, &mut [0; ANSWER - 1]), Verdict::Ignore);
    }

    #[test]
    fn a_flood_gets_no_more_than_it_sent() {
        let now = Instant::now();
        let mut cookies = Cookies::new(MINUTE, now).unwrap();
        let size = std::mem::size_of_val(&cookies);
        let (mut received, mut sent) = (0, 0);
        let mut out = [0; 2_000];
        for n in 0..100_000_u32 {
            let mut datagram = hello(0, 0, &n.to_be_bytes()[..n as usize % 5], n as u8);
            // Some are longer, some are damaged.
            datagram.resize(datagram.len() + n as usize % 3, 0);
            datagram[n as usize % 70] ^= u8::from(n.is_multiple_of(7));
            received += datagram.len();
            match cookies.respond(&datagram, &n.to_be_bytes(), now, &mut out) {
                Verdict::Challenge(len) => {
                    assert!(len <= datagram.len());
                    sent += len;
                }
                Verdict::Ignore => {}
                Verdict::Valid(_) => panic!("nobody has a cookie"),
            }
        }
        assert!(sent > 0 && sent <= received);
        assert_eq!(size, std::mem::size_of_val(&cookies));
    }
}
