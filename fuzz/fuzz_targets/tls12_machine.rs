//! The whole TLS 1.2 and DTLS 1.2 machine: alone against any bytes in either role, and both roles against each
//! other while what passes between them is altered, lost, repeated or added to.
//!
//! Input: switches, then steps.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use libfuzzer_sys::fuzz_target;
use tls12::dtls::{self, Mode};
use tls12::{
    Alert, Anonymous, CertificateType, ClientAuth, ClientConfig, ClientSession, Closed, Connection,
    Credential, Framing, Output, PeerCertificate, Renegotiation, ServerConfig, SignatureScheme,
    TicketKey, TicketKeys,
};
use tlspool_fuzz::{Input, LEAF, LEAF_KEY};

static KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, LEAF_KEY).expect("the fixture")
});
static TICKETS: LazyLock<Arc<TicketKeys>> = LazyLock::new(|| {
    let current = Arc::new(TicketKey::new([1; 16], &[2; 32]).expect("the lengths are right"));
    Arc::new(TicketKeys { current, previous: Vec::new(), lifetime: 60 })
});

fn public_key() -> Vec<u8> {
    let mut spki = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00".to_vec();
    spki.extend_from_slice(KEY.public_key().as_ref());
    spki
}

struct Side {
    connection: Connection,
    openpgp: bool,
    packets: Vec<Vec<u8>>,
    session: Option<ClientSession>,
    wait_until: Option<Instant>,
    closed: bool,
    /// Over SCTP: datagrams that came, which is their tag.
    came: u64,
    /// New keys are known, and in use.
    keys: (bool, bool),
}

impl Side {
    fn new(connection: Connection, openpgp: bool) -> Self {
        let packets = Vec::new();
        Self {
            connection,
            openpgp,
            packets,
            session: None,
            wait_until: None,
            closed: false,
            came: 0,
            keys: (false, false),
        }
    }

    fn input(&mut self, bytes: &[u8], now: Instant) {
        self.came += 1;
        self.connection.set_tag(self.came);
        self.connection.handle_input(bytes, now);
    }

    fn act(&mut self) {
        loop {
            let mut buf = Vec::new();
            self.wait_until = None;
            match self.connection.poll_output(&mut buf) {
                Output::Send => self.packets.push(buf),
                Output::NewKeys => {
                    assert!(self.connection.next_exporter().is_some());
                    self.keys.0 = true;
                }
                Output::SendChangeOfKeys => {
                    assert!(self.keys.0, "keys change before they are known");
                    self.keys.1 = true;
                    self.packets.push(buf);
                }
                Output::OldKeysDone => {
                    assert_eq!(std::mem::take(&mut self.keys), (true, true));
                }
                Output::Message { tag, .. } => {
                    assert!(self.connection.summary().is_some());
                    assert!((1..=self.came).contains(&tag), "a tag that was never said");
                }
                Output::ChooseCredential(question) => {
                    let x509 = PeerCertificate::X509(vec![LEAF.to_vec()]);
                    let fingerprint = PeerCertificate::OpenPgpFingerprint {
                        key_id: [1; 8],
                        fingerprint: [2; 20],
                    };
                    let certificate = if self.openpgp { fingerprint } else { x509 };
                    let takes =
                        question.certificate_types.contains(&certificate.certificate_type());
                    let schemes = vec![SignatureScheme::EcdsaSecp256r1Sha256];
                    let takes = takes && question.schemes.contains(&schemes[0]);
                    let credential =
                        Credential { id: 0, certificate, schemes, fingerprint: [0; 32] };
                    self.connection.chosen(Ok(takes.then(|| Arc::new(credential))));
                }
                Output::Sign(request) => {
                    let signed = KEY.sign(&SystemRandom::new(), &request.message);
                    self.connection.signed(signed.ok().map(|s| s.as_ref().to_vec()));
                }
                Output::Verify(_) => self.connection.verified(Ok(public_key())),
                Output::Session(session) => self.session = Some(*session),
                Output::Established => {
                    let summary = self.connection.summary().expect("established");
                    assert!(!summary.suite.is_anonymous() || !summary.private);
                }
                Output::Closed(how) => {
                    assert!(!self.closed, "closed twice");
                    assert!(how == Closed::Cleanly || self.connection.send(b"x").is_err());
                    self.closed = true;
                }
                Output::WaitUntil(time) => {
                    self.wait_until = Some(time);
                    return;
                }
                // An empty message of datagrams is one, too.
                Output::Data(_) => assert!(self.connection.summary().is_some()),
                Output::Idle => return,
                _ => {}
            }
        }
    }
}

fn altered(mut packet: Vec<u8>, input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let at = usize::from(input.short());
    match input.byte() % 8 {
        1 => {
            let at = at % packet.len().max(1);
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= input.byte().max(1);
            }
        }
        2 => packet.truncate(at % packet.len().max(1)),
        3 => return vec![packet.clone(), packet],
        4 => {
            let at = at % (packet.len() + 1);
            packet.splice(at..at, input.piece().iter().copied());
        }
        5 => return vec![],
        6 => {
            let end = packet.len().min(at + 4);
            if at < end {
                packet.drain(at..end);
            }
        }
        _ => {}
    }
    vec![packet]
}

/// A record in the clear that holds one handshake message.
fn framed(datagram: bool, kind: u8, seq: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    let mut message = vec![kind, length[1], length[2], length[3]];
    let mut record = vec![22, 3, 3];
    if datagram {
        message.extend([0, seq, 0, 0, 0, length[1], length[2], length[3]]);
        record = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, seq];
    }
    message.extend(body);
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let switches = input.short();
    let is = |bit: u16| switches & 1 << bit != 0;
    let (datagram, openpgp) = (is(0), is(2));
    let mut now = Instant::now();
    let mut client = ClientConfig {
        server_name: Some("example.com".into()),
        wants_session: is(3),
        ..ClientConfig::default()
    };
    let mut server = ServerConfig {
        client_auth: if is(4) { ClientAuth::Required } else { ClientAuth::Requested },
        tickets: is(3).then(|| TICKETS.clone()),
        serves_tls13: is(5),
        ..ServerConfig::default()
    };
    for common in [&mut client.common, &mut server.common] {
        if openpgp {
            common.certificate_types = vec![CertificateType::OpenPgp, CertificateType::X509];
        }
        if is(6) {
            common.framing = Framing::Rfc6091;
        }
        if is(1) {
            common.anonymous = if is(7) { Anonymous::Final } else { Anonymous::Precursor };
        }
        common.renegotiation = Renegotiation::AtMostEvery(Duration::ZERO);
    }
    let mode = if is(8) { Mode::Sctp } else { Mode::Udp };
    let settings = dtls::Config { mode, ..dtls::Config::default() };
    let (client, server) = (Arc::new(client), Arc::new(server));
    let new_client = |config: &Arc<ClientConfig>, now: Instant| {
        if datagram {
            Connection::datagram_client(config, settings.clone(), now).expect("a client")
        } else {
            Connection::client(config).expect("a client")
        }
    };
    let new_server = |now: Instant| {
        if datagram {
            Connection::datagram_server(server.clone(), settings.clone(), None, now)
        } else {
            Connection::server(server.clone())
        }
    };
    if is(9) {
        let connection = if is(10) { new_client(&client, now) } else { new_server(now) };
        let mut side = Side::new(connection, openpgp);
        let mut seq = 0;
        while !input.0.is_empty() && !side.closed {
            side.act();
            let kind = input.byte();
            let piece = input.piece();
            if kind < 128 {
                side.input(&framed(datagram, kind, seq, piece), now);
                seq = seq.wrapping_add(1);
            } else {
                side.input(piece, now);
            }
        }
        side.act();
        return;
    }
    let mut sides =
        [Side::new(new_client(&client, now), openpgp), Side::new(new_server(now), openpgp)];
    for _ in 0..100 {
        let mut quiet = true;
        for from in 0..2 {
            sides[from].act();
            for packet in std::mem::take(&mut sides[from].packets) {
                quiet = false;
                let packets =
                    if input.byte() < 200 { vec![packet] } else { altered(packet, &mut input) };
                for packet in packets {
                    sides[1 - from].input(&packet, now);
                    sides[1 - from].act();
                }
            }
        }
        if !quiet {
            continue;
        }
        if input.0.is_empty() {
            break;
        }
        let which = input.byte();
        let side = &mut sides[usize::from(which & 1)];
        match which >> 1 & 7 {
            0 | 1 => drop(side.connection.renegotiate(None)),
            2 => drop(side.connection.send(input.piece())),
            3 => side.connection.close(),
            4 => side.connection.handle_end(),
            5 => side.connection.abort(Alert::ACCESS_DENIED),
            6 => {
                now = side.wait_until.unwrap_or(now).max(now);
                side.connection.handle_timeout(now);
            }
            _ => {
                // Once more, with what the first connection left.
                let session = sides[0].session.take();
                let again = Arc::new(ClientConfig { session, ..(*client).clone() });
                sides[0] = Side::new(new_client(&again, now), openpgp);
                sides[1] = Side::new(new_server(now), openpgp);
            }
        }
    }
});
