//! What GnuPG does not make: version 6, and certificates made to cost us time.

use std::time::{Duration, Instant};

use sequoia_openpgp as openpgp;

use openpgp::cert::CertBuilder;
use openpgp::packet::signature::subpacket::{Subpacket, SubpacketValue};
use openpgp::packet::{Signature, UserID};
use openpgp::parse::Parse;
use openpgp::serialize::SerializeInto;
use openpgp::types::KeyFlags;
use openpgp::{Cert, Packet, Profile};
use tlspool_identity::DoNai;
use tlspool_openpgp::{Algorithm, Certificate, Limits, ReadError};

use crate::gpg::{Gpg, day};

#[test]
fn version_6() {
    let (cert, _) = CertBuilder::new()
        .set_profile(Profile::RFC9580)
        .unwrap()
        .set_creation_time(day(0))
        .set_validity_period(Duration::from_hours(30 * 24))
        .add_userid("John <john@example.org>")
        .add_subkey(KeyFlags::empty().set_signing().set_authentication(), None, None)
        .generate()
        .unwrap();
    let certificate = Certificate::read(&cert.to_vec().unwrap(), Limits::PEER).unwrap();
    assert_eq!(certificate.fingerprint().as_bytes().len(), 32);
    let names = certificate.names(day(1)).unwrap();
    assert_eq!(names.identities().map(DoNai::as_str).collect::<Vec<_>>(), ["john@example.org"]);
    let keys = certificate.signing_keys(day(1)).unwrap();
    let key = keys[0].1.as_ref().unwrap();
    assert_eq!((key.algorithm, key.spki.len()), (Algorithm::Ed25519, 44));
    // The ID is the start of the fingerprint, not its end.
    let fingerprint = cert.keys().subkeys().next().unwrap().key().fingerprint();
    assert_eq!(key.id.0, fingerprint.as_bytes()[..8]);
    assert!(certificate.signing_key(key.id, day(1)).is_ok());
}

/// As many signatures as fit, each of which might belong to each of as many user IDs.
#[test]
fn a_certificate_made_to_cost_time() {
    let gpg = Gpg::new();
    let key = gpg.key("<example.com>", "rsa4096", "cert,sign", "0");
    let cert = Cert::from_bytes(&gpg.export(&key)).unwrap();
    let signature = cert.userids().next().unwrap().self_signatures().next().unwrap().clone();
    let mut packets = vec![Packet::from(cert.primary_key().key().clone())];
    for number in 0..63 {
        packets.push(UserID::from(format!("<host{number}.example.com>")).into());
        packets.push(numbered(&signature, number).into());
    }
    let bytes: Vec<u8> = packets.iter().flat_map(|packet| packet.to_vec().unwrap()).collect();
    let start = Instant::now();
    let certificate = Certificate::read(&bytes, Limits::PEER).unwrap();
    let names = certificate.names(day(1));
    let keys = certificate.signing_keys(day(1));
    let vouched = certificate.certified_by(
        &DoNai::parse("host1.example.com").unwrap(),
        &[gpg.certificate(&key)],
        day(1),
    );
    let took = start.elapsed();
    assert!(names.is_err() && keys.is_err() && vouched.is_err());
    println!("{} bytes, {} packets: {took:?}", bytes.len(), packets.len());
    packets.extend([Packet::from(UserID::from("<a.example>")), UserID::from("<b.example>").into()]);
    let bytes: Vec<u8> = packets.iter().flat_map(|packet| packet.to_vec().unwrap()).collect();
    let error = Certificate::read(&bytes, Limits::PEER).unwrap_err();
    assert_eq!(error, ReadError::TooManyPackets { most: 128 });
}

/// The same signature, but not the same bytes.
fn numbered(signature: &Signature, number: u8) -> Signature {
    let mut signature = signature.clone();
    let value = SubpacketValue::Unknown {
        tag: openpgp::packet::signature::subpacket::SubpacketTag::Private(100),
        body: vec![number; 8],
    };
    signature.unhashed_area_mut().add(Subpacket::new(value, false).unwrap()).unwrap();
    signature
}
