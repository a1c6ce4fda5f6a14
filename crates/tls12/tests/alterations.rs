//! Somebody on the way changes what passes: bits, extensions, suites. Neither side takes it for the other's word.

mod support;

use support::*;
use tls12::*;

fn client() -> ClientConfig {
    let mut config = ClientConfig {
        server_name: Some("localhost".into()),
        wants_session: true,
        ..ClientConfig::default()
    };
    config.common.alpn = vec![b"h2".to_vec()];
    config.common.certificate_types = openpgp_first();
    config
}

fn server() -> ServerConfig {
    let mut config = ServerConfig { client_auth: ClientAuth::Required, ..ServerConfig::default() };
    config.common.alpn = vec![b"h2".to_vec()];
    config
}

/// Carries bytes until both are quiet, through the hands of somebody.
fn run(pair: &mut Pair, mut hands: impl FnMut(bool, &mut Vec<u8>)) {
    loop {
        pair.client.act();
        pair.server.act();
        let mut up = std::mem::take(&mut pair.client.sent);
        let mut down = std::mem::take(&mut pair.server.sent);
        if up.is_empty() && down.is_empty() {
            return;
        }
        for (is_up, bytes) in [(true, &mut up), (false, &mut down)] {
            if !bytes.is_empty() {
                hands(is_up, bytes);
            }
        }
        pair.server.input(&up);
        pair.client.input(&down);
    }
}

/// Whether this byte is the minor version in a header: nothing covers that of a record in the clear.
fn is_free(bytes: &[u8], at: usize) -> bool {
    let mut start = 0;
    while let [_, _, _, high, low, ..] = bytes[start..] {
        let end = start + 5 + usize::from(u16::from_be_bytes([high, low]));
        if at < end {
            return at == start + 2;
        }
        start = end;
    }
    false
}

#[test]
fn a_bit_that_changes_on_the_way_ends_the_handshake() {
    for up in [true, false] {
        let mut at = 0;
        loop {
            let (mut passed, mut changed) = (0, false);
            let mut pair = Pair::new(client(), server());
            // Whatever certificate comes, the key is believed: it is the transcript that must tell.
            pair.client.trust = Some(P256.spki.clone());
            pair.server.trust = Some(P256.spki.clone());
            run(&mut pair, |is_up, bytes| {
                if is_up == up {
                    let place = at - passed.min(at);
                    if at >= passed && place < bytes.len() && !is_free(bytes, place) {
                        bytes[place] ^= 1 << (at % 8);
                        changed = true;
                    }
                    passed += bytes.len();
                }
            });
            if at >= passed {
                break;
            }
            let side = if up { &pair.server } else { &pair.client };
            assert_eq!(side.established, !changed, "byte {at}, up: {up}: {:?}", side.error());
            // Every byte at the beginning, then some.
            at += if at < 80 { 1 } else { 13 };
        }
        assert!(at > 600, "{at}");
    }
}

/// Takes `part` out of the first ClientHello, and lets its lengths agree.
fn without(hello: &mut Vec<u8>, part: &[u8], in_extensions: bool) {
    let at = hello.windows(part.len()).position(|window| window == part).expect("it is there");
    hello.drain(at..at + part.len());
    let mut lengths = vec![(3, 2), (6, 3)];
    // Header of the record and of the message, version, random.
    let session = 5 + 4 + 2 + 32;
    let suites = session + 1 + usize::from(hello[session]);
    let old = usize::from(u16::from_be_bytes([hello[suites], hello[suites + 1]]));
    if in_extensions {
        lengths.push((suites + 2 + old + 2, 2));
    } else {
        lengths.push((suites, 2));
    }
    for (at, size) in lengths {
        let length = hello[at..at + size].iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        let new = (length - part.len()).to_be_bytes();
        hello[at..at + size].copy_from_slice(&new[8 - size..]);
    }
}

/// What a server must say.
type Expected<'e> = &'e dyn Fn(&Error) -> bool;

#[test]
fn what_is_stripped_from_a_hello_is_missed() {
    let insufficient = |error: &Error| matches!(error, Error::Insufficient(_));
    // Keys depend on all that was said (RFC 7627), so even the Finished cannot be read.
    let unequal = |error: &Error| *error == Error::BadRecord;
    // A client that shows something signs all that went before, and that is looked at first.
    let unsigned = |error: &Error| *error == Error::Decrypt("signature of the handshake");
    let cases: [(&[u8], bool, Expected<'_>, Expected<'_>); 7] = [
        (&[0, 23, 0, 0], true, &insufficient, &insufficient),
        (&[0xFF, 1, 0, 1, 0], true, &insufficient, &insufficient),
        (&[0, 16, 0, 5, 0, 3, 2, b'h', b'2'], true, &unequal, &unsigned),
        (&[0, 9, 0, 3, 2, 1, 0], true, &unequal, &unsigned),
        (&[0, 35, 0, 0], true, &unequal, &unsigned),
        (b"\0\0\0\x0e\0\x0c\0\0\x09localhost", true, &unequal, &unsigned),
        // The best suites.
        (&[0xC0, 0x2C, 0xC0, 0x2B], false, &unequal, &unsigned),
    ];
    for (part, in_extensions, plainly, signed) in cases {
        for client_auth in [ClientAuth::None, ClientAuth::Required] {
            let mut pair = Pair::new(client(), ServerConfig { client_auth, ..server() });
            let mut first = true;
            run(&mut pair, |is_up, bytes| {
                if is_up && std::mem::take(&mut first) {
                    without(bytes, part, in_extensions);
                }
            });
            let error = pair.server.error().unwrap_or_else(|| panic!("{part:?}"));
            let expected = if client_auth == ClientAuth::None { plainly } else { signed };
            assert!(expected(error), "{part:?} {error:?}");
            let told = pair.client.error();
            assert_eq!(told, error.alert().map(Error::PeerAlert).as_ref());
            assert!(!pair.server.established && !pair.client.established);
        }
    }
}

/// A certificate message, and what it holds, are not believed for their lengths.
#[test]
fn lengths_that_lie_in_a_message_cost_nothing() {
    // Handshake messages that promise up to their bound, one record each, and never end.
    for kind in [1, 2, 11, 12, 13, 16, 20] {
        let mut side = Side::server(server(), vec![]);
        side.input(&[22, 3, 1, 0, 6, kind, 0, 0xFF, 0xFF, 3, 3]);
        side.act();
        assert!(side.closed.is_none() && side.sent.is_empty(), "{kind}");
        side.connection.handle_end();
        side.act();
        assert_eq!(side.error(), Some(&Error::Truncated));
    }
}
