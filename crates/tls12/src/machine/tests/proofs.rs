//! Shares, groups, certificates, signatures and Finished that are wrong.

use super::*;
use crate::codec::{Params, ServerKeyExchange, decode_certificate};
use crate::crypto::{Group, SignatureScheme};

pub(super) fn dhe() -> ClientConfig {
    let mut config = client_config();
    config.common.suites = vec![Suite::from_code(0x009E).unwrap()];
    config.common.groups = vec![Group::Ffdhe2048];
    config
}

#[test]
fn shares_that_are_none() {
    // Points off the curve, of another length, and X25519's zero.
    type Lie = fn(&mut Vec<u8>);
    let points: [(Group, Lie); 5] = [
        (Group::Secp256r1, |p| *p.last_mut().unwrap() ^= 1),
        (Group::Secp256r1, |p| p.truncate(33)),
        (Group::Secp384r1, |p| p[5] ^= 1),
        (Group::X25519, |p| p.fill(0)),
        (Group::X25519, |p| p.truncate(31)),
    ];
    for (group, lie) in points {
        let mut config = client_config();
        config.common.groups = vec![group];
        let by_client = alter(kind::CLIENT_KEY_EXCHANGE, move |body| {
            let mut point = body[1..].to_vec();
            lie(&mut point);
            *body = vec![point.len() as u8];
            body.extend(point);
        });
        server_refuses(config.clone(), by_client, Alert::ILLEGAL_PARAMETER);
    }
    let (p, _) = Group::Ffdhe2048.dh_params().unwrap();
    let mut last = p.clone();
    *last.last_mut().unwrap() -= 1;
    for y in
        [vec![0; 256], vec![1], [vec![0; 255], vec![1]].concat(), last, p.clone(), vec![255; 256]]
    {
        let lie = alter(kind::CLIENT_KEY_EXCHANGE, move |body| {
            *body = (y.len() as u16).to_be_bytes().to_vec();
            body.extend(&y);
        });
        let mut pair = Pair::with(
            dhe(),
            vec![credential(0, Shape::X509)],
            server_config(),
            vec![credential(0, Shape::X509)],
        );
        lying_client(&mut pair, dhe(), lie);
        refused_by_server(&mut pair, Alert::ILLEGAL_PARAMETER);
    }
}

/// A server that replaces its share, and signs what it says.
fn server_with(config: ClientConfig, key: usize, lie: fn(&mut Params)) -> Option<Error> {
    let suite = config.common.suites[0];
    let credentials = || vec![credential(key, Shape::X509)];
    let mut pair = Pair::with(config, credentials(), ServerConfig::default(), credentials());
    let randoms = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    pair.client.act();
    let hello = &pair.client.sent[9..];
    randoms.borrow_mut().extend_from_slice(&hello[2..34]);
    pair.server.connection.core.liar = Some(Box::new(move |said, body| {
        let mut body = body.to_vec();
        if said == kind::SERVER_HELLO {
            randoms.borrow_mut().extend_from_slice(&body[2..34]);
        }
        if said == kind::SERVER_KEY_EXCHANGE {
            let mut exchange = ServerKeyExchange::decode(&body, suite.exchange, false).unwrap();
            lie(&mut exchange.params);
            exchange.encoded = exchange.params.encode();
            let message = [&randoms.borrow()[..], &exchange.encoded].concat();
            let signed = exchange.signed.as_mut().unwrap();
            let scheme = SignatureScheme::from_code_point(signed.scheme).unwrap();
            signed.signature = keys()[key].sign(scheme, &message);
            body = exchange.encode();
        }
        vec![(said, body)]
    }));
    pair.run();
    assert!(!pair.client.established);
    pair.client.error().cloned()
}

#[test]
fn servers_with_wrong_groups_and_shares() {
    let ecdhe = || {
        let mut config = client_config();
        config.common.suites = vec![Suite::from_code(0xC02B).unwrap()];
        config.common.groups = vec![Group::Secp256r1];
        config
    };
    let not_offered = Some(Error::Illegal("a group that was not offered"));
    let lies: [fn(&mut Params); 2] = [
        |params| {
            let Params::Named { group, .. } = params else { panic!() };
            *group = 29;
        },
        |params| {
            let Params::Named { group, .. } = params else { panic!() };
            *group = 256;
        },
    ];
    for lie in lies {
        assert_eq!(server_with(ecdhe(), 1, lie), not_offered);
    }
    let off_curve = server_with(ecdhe(), 1, |params| {
        let Params::Named { public, .. } = params else { panic!() };
        public[40] ^= 1;
    });
    assert_eq!(off_curve, Some(Error::Illegal("a key share that is none")));
    let unsound = server_with(dhe(), 0, |params| {
        let Params::Finite { p, .. } = params else { panic!() };
        p[100] ^= 1;
    });
    assert!(matches!(unsound, Some(Error::Insufficient(_))));
    let lies: [fn(&mut Params); 2] = [
        |params| {
            let Params::Finite { public, .. } = params else { panic!() };
            *public = vec![0];
        },
        |params| {
            let Params::Finite { public, .. } = params else { panic!() };
            *public = vec![1];
        },
    ];
    for lie in lies {
        assert_eq!(server_with(dhe(), 0, lie), Some(Error::Illegal("a key share that is none")));
    }
}

#[test]
fn signatures_that_are_wrong() {
    let bend = |body: &mut Vec<u8>| *body.last_mut().unwrap() ^= 1;
    let offered_not = |body: &mut Vec<u8>| body[..2].copy_from_slice(&[2, 3]); // ecdsa_sha1
    let other_key = |body: &mut Vec<u8>| body[..2].copy_from_slice(&[8, 4]);
    server_refuses(client_config(), alter(15, bend), Alert::DECRYPT_ERROR);
    server_refuses(client_config(), alter(15, offered_not), Alert::ILLEGAL_PARAMETER);
    server_refuses(client_config(), alter(15, other_key), Alert::ILLEGAL_PARAMETER);
    client_refuses(client_config(), alter(12, bend), Alert::DECRYPT_ERROR);
    // The scheme stands behind the share of 32 bytes.
    let scheme = |with: [u8; 2]| {
        alter(12, move |body| {
            let at = 4 + usize::from(body[3]);
            body[at..at + 2].copy_from_slice(&with);
        })
    };
    client_refuses(client_config(), scheme([2, 3]), Alert::ILLEGAL_PARAMETER);
    client_refuses(client_config(), scheme([8, 4]), Alert::ILLEGAL_PARAMETER);
}

#[test]
fn finished_that_is_wrong() {
    let bend = |body: &mut Vec<u8>| body[0] ^= 1;
    server_refuses(client_config(), alter(20, bend), Alert::DECRYPT_ERROR);
    let mut pair = pair_of(client_config(), server_config());
    pair.server.connection.core.liar = Some(alter(20, bend));
    pair.run();
    assert_eq!(pair.client.error(), Some(&Error::Decrypt("Finished")));
    assert!(!pair.client.established);
}

#[test]
fn certificates_that_do_not_fit() {
    // A key that does not fit the suite.
    let mut pair = pair_of(client_config(), server_config());
    pair.client.trust = Some(RSA.spki.clone());
    pair.run();
    assert!(matches!(pair.client.error(), Some(Error::UnsupportedCertificate(_))));
    pair = pair_of(client_config(), server_config());
    pair.client.trust = Some(vec![0x30, 0]);
    pair.run();
    assert!(matches!(pair.client.error(), Some(Error::UnsupportedCertificate(_))));
    pair = pair_of(client_config(), server_config());
    pair.server.trust = Some(vec![0x30, 0]);
    pair.run();
    assert!(matches!(pair.server.error(), Some(Error::UnsupportedCertificate(_))));
    // None, and one of another type than was agreed.
    let none = || alter(11, |body| *body = vec![0, 0, 0]);
    client_refuses(client_config(), none(), Alert::DECODE_ERROR);
    let other = || alter(11, |body| *body = [&[2, 8][..], &[7; 8], &[0, 0, 2, 9, 9]].concat());
    client_refuses(client_config(), other(), Alert::DECODE_ERROR);
    server_refuses(client_config(), other(), Alert::DECODE_ERROR);
    assert!(decode_certificate(CertificateType::X509, &[0, 0, 1]).is_err());
}
