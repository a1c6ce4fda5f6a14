use super::*;

fn secret() -> Secret {
    Secret::new(b"xyzzy5461\n").unwrap()
}

fn meeting() -> Meeting<'static> {
    let (remote, local) = ("john@example.org", "mail.example.com");
    Meeting { remote, local, service: "imap", server: true }
}

fn request() -> Request {
    Request::with(7, [9; 16], &meeting(), "pool", &secret()).unwrap()
}

fn opened(datagram: &[u8]) -> Verdict {
    request().open(datagram, &secret(), true)
}

/// Type and value of each attribute.
fn attributes(packet: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let found = Attributes(&packet[HEAD..], 0).map(|found| found.unwrap());
    found.map(|(_, kind, value)| (kind, value.to_vec())).collect()
}

#[test]
fn the_question_carries_both_names_and_the_service() {
    let request = request();
    let bytes = request.bytes();
    assert_eq!(bytes[..4], [ACCESS_REQUEST, 7, 0, bytes.len() as u8]);
    let found = attributes(bytes);
    assert_eq!(found[0].0, MESSAGE_AUTHENTICATOR, "it comes first");
    let text = |kind| {
        let value = found.iter().find(|(other, _)| *other == kind).map(|(_, value)| value.clone());
        value.map(|value| String::from_utf8(value).unwrap())
    };
    assert_eq!(text(USER_NAME).unwrap(), "john@example.org");
    assert_eq!(text(CALLING_STATION_ID).unwrap(), "john@example.org");
    assert_eq!(text(CALLED_STATION_ID).unwrap(), "mail.example.com");
    assert_eq!(text(NAS_PORT_ID).unwrap(), "imap");
    assert_eq!(text(CONNECT_INFO).unwrap(), "server");
    assert_eq!(text(NAS_IDENTIFIER).unwrap(), "pool");
    assert!(found.contains(&(SERVICE_TYPE, vec![0, 0, 0, 10])));
    // What is unknown is not there.
    let nobody = Meeting { remote: "", local: "", service: "", server: false };
    let request = Request::with(7, [9; 16], &nobody, "pool", &secret()).unwrap();
    let kinds: Vec<u8> = attributes(request.bytes()).iter().map(|(kind, _)| *kind).collect();
    let expected =
        [MESSAGE_AUTHENTICATOR, SERVICE_TYPE, NAS_IDENTIFIER, NAS_PORT_TYPE, CONNECT_INFO];
    assert_eq!(kinds, expected);
}

#[test]
fn no_two_questions_look_alike() {
    let one = Request::new(&meeting(), "pool", &secret()).unwrap();
    let two = Request::new(&meeting(), "pool", &secret()).unwrap();
    assert_ne!(one.bytes()[4..20], two.bytes()[4..20]);
}

/// RFC 2865 section 7.1.
#[test]
fn the_reply_of_the_rfc_is_authentic() {
    let authenticator = [
        0x0f, 0x40, 0x3f, 0x94, 0x73, 0x97, 0x80, 0x57, 0xbd, 0x83, 0xd5, 0xcb, 0x98, 0xf4, 0x22,
        0x7a,
    ];
    let request = Request::with(0, authenticator, &meeting(), "pool", &secret()).unwrap();
    let reply = [
        0x02, 0x00, 0x00, 0x26, 0x86, 0xfe, 0x22, 0x0e, 0x76, 0x24, 0xba, 0x2a, 0x10, 0x05, 0xf6,
        0xbf, 0x9b, 0x55, 0xe0, 0xb2, 0x06, 0x06, 0x00, 0x00, 0x00, 0x01, 0x0f, 0x06, 0x00, 0x00,
        0x00, 0x00, 0x0e, 0x06, 0xc0, 0xa8, 0x01, 0x03,
    ];
    let accept = Reply { code: ACCESS_ACCEPT, message: String::new() };
    assert_eq!(request.open(&reply, &secret(), false), Verdict::Reply(accept));
    assert_eq!(
        request.open(&reply, &secret(), true),
        Verdict::Ignored("it has no Message-Authenticator")
    );
}

#[test]
fn replies_with_both_authenticators_are_believed() {
    let message = [&[REPLY_MESSAGE, 7], &b"until"[..], &[REPLY_MESSAGE, 6], b" \x07\xff5"].concat();
    for code in [ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_CHALLENGE] {
        let mut bytes = reply(request().bytes(), code, &message, &secret()).unwrap();
        let expected = Reply { code, message: "until ?\u{fffd}5".to_owned() };
        assert_eq!(opened(&bytes), Verdict::Reply(expected.clone()));
        // Padding does not count.
        bytes.extend_from_slice(&[0; 9]);
        assert_eq!(opened(&bytes), Verdict::Reply(expected));
    }
}

#[test]
fn every_altered_bit_shows() {
    let good = reply(request().bytes(), ACCESS_REJECT, &[REPLY_MESSAGE, 4, b'n', b'o'], &secret());
    let good = good.unwrap();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            assert!(matches!(opened(&bytes), Verdict::Ignored(_)), "byte {at}, bit {bit}");
        }
        assert!(matches!(opened(&good[..at]), Verdict::Ignored(_)), "cut at {at}");
    }
    let other = Secret::new(b"another secret").unwrap();
    assert!(matches!(request().open(&good, &other, true), Verdict::Ignored(_)));
    let elsewhere = Request::with(7, [8; 16], &meeting(), "pool", &secret()).unwrap();
    assert!(matches!(elsewhere.open(&good, &secret(), true), Verdict::Ignored(_)));
}

/// A reply whose authenticator is right, by who knows the secret, and whose attributes are these.
fn signed(attributes: &[u8]) -> Vec<u8> {
    let mut bytes = vec![ACCESS_ACCEPT, 7, 0, 0];
    bytes.extend_from_slice(&[9; 16]);
    bytes.extend_from_slice(attributes);
    set_length(&mut bytes).unwrap();
    sign(&mut bytes, &secret());
    bytes
}

#[test]
fn odd_attributes_are_refused() {
    let tag = [&[MESSAGE_AUTHENTICATOR, 18][..], &[0; 16]].concat();
    for (attributes, why) in [
        (&[1][..], "its attributes are none"),
        (&[1, 0], "its attributes are none"),
        (&[1, 1], "its attributes are none"),
        (&[1, 5, b'a', b'b'], "its attributes are none"),
        (&[MESSAGE_AUTHENTICATOR, 3, 1], "its Message-Authenticator is none"),
        (&[tag.clone(), tag.clone()].concat(), "its Message-Authenticator is none"),
        (&tag, "its Message-Authenticator is wrong"),
        (&[], "it has no Message-Authenticator"),
    ] {
        assert_eq!(opened(&signed(attributes)), Verdict::Ignored(why), "{attributes:?}");
    }
}

#[test]
fn secrets_are_neither_short_nor_open() {
    assert!(matches!(Secret::new(b"short \n\n"), Err(SecretError::Short(5))));
    assert!(matches!(Secret::new(&[b'x'; 257]), Err(SecretError::Long)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "testing123\n").unwrap();
    std::fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(Secret::load(&path), Err(SecretError::Open(0o644))));
    std::fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(*Secret::load(&path).unwrap().0, b"testing123");
    assert_eq!(format!("{:?}", Secret::load(&path).unwrap()), "Secret");
    assert!(matches!(Secret::load(&folder.path().join("none")), Err(SecretError::Read(_))));
}
