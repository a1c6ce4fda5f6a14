//! Certificates made here, names read back.

use rcgen::{CertificateParams, DnType, KeyPair, OtherNameValue, SanType, string::Ia5String};

use super::*;

/// A self-signed certificate with these alternative names and subject.
fn certificate(sans: &[SanType], subject: &[(DnType, &str)]) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in subject {
        params.distinguished_name.push(kind.clone(), *value);
    }
    params.subject_alt_names = sans.to_vec();
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(text).unwrap())
}

fn mail(text: &str) -> SanType {
    SanType::Rfc822Name(Ia5String::try_from(text).unwrap())
}

fn dc() -> DnType {
    DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25])
}

fn uid() -> DnType {
    DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 1])
}

fn read(sans: &[SanType], subject: &[(DnType, &str)], legacy: Legacy) -> Vec<String> {
    let found = names(&certificate(sans, subject), legacy).unwrap();
    found.identities().map(ToString::to_string).collect()
}

#[test]
fn alternative_names_in_their_order() {
    let sans = [mail("John@Example.com"), dns("WWW.example.com"), dns("www.example.com")];
    let subject = [(DnType::CommonName, "evil.example")];
    assert_eq!(read(&sans, &subject, Legacy::Accept), ["john@example.com", "www.example.com"]);
}

#[test]
fn users_in_utf8() {
    let value = OtherNameValue::Utf8String("émile@bücher.example".to_owned());
    let san = SanType::OtherName((vec![1, 3, 6, 1, 5, 5, 7, 8, 9], value));
    assert_eq!(read(&[san], &[], Legacy::Refuse), ["émile@xn--bcher-kva.example"]);
}

#[test]
fn wildcards_are_never_identities() {
    let sans = [dns("*.example.com"), dns("*.com"), dns("*"), dns("a.*.com"), dns("w*.a.com")];
    let found = names(&certificate(&sans, &[]), Legacy::Refuse).unwrap();
    assert!(found.identities.is_empty());
    let parents: Vec<&str> = found.wildcards.iter().map(|w| w.parent.as_str()).collect();
    assert_eq!(parents, ["example.com"]);
    let reasons: Vec<IgnoredBecause> = found.ignored.iter().map(|i| i.why).collect();
    assert_eq!(
        reasons,
        [
            IgnoredBecause::TopWildcard,
            IgnoredBecause::PartialWildcard,
            IgnoredBecause::PartialWildcard,
            IgnoredBecause::PartialWildcard
        ]
    );
}

#[test]
fn hidden_characters_spoil_the_certificate() {
    for san in [dns("good.com\0.evil.com"), mail("a@b\0.com"), mail("no-at\0"), dns("*.a\n.com")] {
        let der = certificate(&[dns("fine.example.com"), san], &[]);
        assert!(matches!(names(&der, Legacy::Refuse), Err(CertificateError::HiddenCharacter(_))));
    }
}

#[test]
fn odd_names_are_put_aside_and_bar_the_subject() {
    let sans = [dns("a..b"), dns("192.0.2.1"), dns("example.com."), mail("example.com")];
    let subject = [(dc(), "com"), (dc(), "example"), (DnType::CommonName, "www.example.com")];
    let found = names(&certificate(&sans, &subject), Legacy::Accept).unwrap();
    assert!(found.identities.is_empty(), "{found:?}");
    assert_eq!(found.ignored.len(), 4);
}

#[test]
fn subject_with_uid_and_dc() {
    let domain = [(dc(), "com"), (dc(), "Example")];
    assert_eq!(rdns(&domain), ["example.com"]);
    let user = [(dc(), "com"), (dc(), "example"), (ou(), "people"), (uid(), "John")];
    assert_eq!(rdns(&user), ["john@example.com"]);
    // One dc, a row that does not start at the root, two rows, and a dot within one: no name.
    assert!(rdns(&[(dc(), "com"), (uid(), "john")]).is_empty());
    assert!(rdns(&[(uid(), "john"), (dc(), "com"), (dc(), "example")]).is_empty());
    assert!(rdns(&[(dc(), "com"), (dc(), "a"), (uid(), "j"), (dc(), "b")]).is_empty());
    assert!(rdns(&[(dc(), "com"), (dc(), "www.bank")]).is_empty());
    // A dNSName comes first.
    assert_eq!(read(&[dns("a.example")], &[(dc(), "com")], Legacy::Refuse), ["a.example"]);
}

#[test]
fn subject_of_old_needs_permission() {
    let subject = [
        (DnType::CommonName, "www.example.com"),
        (DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]), "john@example.com"),
    ];
    assert!(read(&[], &subject, Legacy::Refuse).is_empty());
    assert_eq!(read(&[], &subject, Legacy::Accept), ["john@example.com", "www.example.com"]);
    let address = SanType::IpAddress([192, 0, 2, 1].into());
    assert!(read(&[address], &subject, Legacy::Accept).is_empty());
    assert!(read(&[], &[(DnType::CommonName, "John Doe")], Legacy::Accept).is_empty());
}

#[test]
fn rubbish_is_an_error() {
    let der = certificate(&[dns("a.example")], &[]);
    assert_eq!(names(&[], Legacy::Refuse), Err(CertificateError::NotX509));
    assert_eq!(names(&der[1..], Legacy::Refuse), Err(CertificateError::NotX509));
    let longer = [&der[..], &[0]].concat();
    assert_eq!(names(&longer, Legacy::Refuse), Err(CertificateError::TrailingBytes(1)));
    for cut in 0..der.len() {
        assert!(names(&der[..cut], Legacy::Refuse).is_err());
    }
}

fn ou() -> DnType {
    DnType::OrganizationalUnitName
}

/// The names of a subject alone. rcgen's own subject holds each type once, so it is put into DER
/// here and swapped into a certificate's bytes by the parser's own type.
fn rdns(attributes: &[(DnType, &str)]) -> Vec<String> {
    let mut der = Vec::new();
    for (kind, value) in attributes {
        let oid: &[u8] = match kind {
            DnType::CustomDnType(arcs) if arcs.last() == Some(&25) => OID_DC,
            DnType::CustomDnType(_) => OID_UID,
            _ => &[0x55, 0x04, 0x0b],
        };
        let inner = [wrap(0x06, oid), wrap(0x0c, value.as_bytes())].concat();
        der.extend(wrap(0x31, &wrap(0x30, &inner)));
    }
    let der = wrap(0x30, &der);
    let (_, subject) = X509Name::from_der(&der).unwrap();
    let mut found = CertificateNames::default();
    found.add_subject_dc(&subject).unwrap();
    found.identities().map(ToString::to_string).collect()
}

const OID_DC: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19];
const OID_UID: &[u8] = &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01];

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()][..], content].concat()
}
