//! OpenPGP certificates (RFC 6091), and the extension that agrees on them.

use tls12::*;

use crate::support::*;
use crate::{client, contains, server};

#[test]
fn openpgp_in_both_framings_and_descriptors() {
    for framing in [Framing::Deployed, Framing::Rfc6091] {
        for shape in [Shape::OpenPgp, Shape::Fingerprint] {
            for key in 0..3 {
                let mut offer = client();
                offer.common.certificate_types = openpgp_first();
                offer.common.framing = framing;
                let mut answer = ServerConfig { client_auth: ClientAuth::Required, ..server() };
                answer.common.certificate_types = openpgp_first();
                answer.common.framing = framing;
                let both = || vec![credential(1, Shape::X509), credential(key, shape)];
                let shown = vec![credential(key, shape), credential(1, Shape::X509)];
                let mut pair = Pair::with(offer, both(), answer, shown);
                pair.run();
                pair.check_open();
                for side in [&pair.client, &pair.server] {
                    let peer = side.connection.summary().unwrap().peer.as_ref().unwrap();
                    assert_eq!(*peer, credential(key, shape).certificate);
                }
            }
        }
    }
}

#[test]
fn openpgp_falls_back_to_x509_or_fails() {
    let mut offer = client();
    offer.common.certificate_types = openpgp_first();
    let mut pair = Pair::new(offer.clone(), server());
    pair.run();
    pair.check_open();
    offer.common.certificate_types = vec![CertificateType::OpenPgp];
    let mut pair = Pair::new(offer, server());
    pair.run();
    assert!(matches!(pair.server.error(), Some(Error::UnsupportedCertificate(_))));
    let alert = Error::PeerAlert(Alert::UNSUPPORTED_CERTIFICATE);
    assert_eq!(pair.client.error(), Some(&alert));
}

/// RFC 6091 section 3: a server says which type it has chosen, if it is OpenPGP; for X.509, and where nobody shows
/// anything, it says nothing.
#[test]
fn cert_type_on_the_wire() {
    const CHOSEN: [u8; 5] = [0, 9, 0, 1, 1];
    let offer = |types: &[CertificateType]| {
        let mut offer = client();
        offer.common.certificate_types = types.to_vec();
        offer
    };
    let mut answer = server();
    answer.common.certificate_types = openpgp_first();
    let x509 = || credential(1, Shape::X509);
    for (types, offered, shown, says) in [
        (openpgp_first(), &[0, 9, 0, 3, 2, 1, 0][..], credential(1, Shape::OpenPgp), true),
        (openpgp_first(), &[0, 9, 0, 3, 2, 1, 0], x509(), false),
        (vec![CertificateType::OpenPgp], &[0, 9, 0, 2, 1, 1], credential(1, Shape::OpenPgp), true),
    ] {
        let mut pair = Pair::with(offer(&types), vec![], answer.clone(), vec![shown]);
        pair.run();
        pair.check_open();
        assert!(contains(&pair.client.wire, offered));
        assert_eq!(contains(&pair.server.wire, &CHOSEN), says, "{types:?}");
        // Neither does it say X.509 in so many words.
        assert!(!contains(&pair.server.wire, &[0, 9, 0, 1, 0]));
    }
    // With X.509 alone the extension stays out.
    let mut pair = Pair::with(client(), vec![], answer.clone(), vec![x509()]);
    pair.run();
    assert!(!contains(&pair.client.wire, &[0, 9, 0, 2, 1, 0]));
    // One that takes OpenPGP only, and stays anonymous.
    let mut anonymous = offer(&[CertificateType::OpenPgp]);
    anonymous.common.anonymous = Anonymous::Final;
    answer.common.anonymous = Anonymous::Final;
    let mut pair = Pair::with(anonymous, vec![], answer, vec![]);
    pair.run();
    pair.check_open();
    assert!(pair.client.connection.summary().unwrap().suite.is_anonymous());
    assert!(contains(&pair.client.wire, &[0, 9, 0, 2, 1, 1]));
    assert!(!contains(&pair.server.wire, &CHOSEN));
}
