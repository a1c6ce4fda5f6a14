//! The table of identities, also when it is large.

use super::*;
use crate::Mode;

fn store(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path().join("a.db"), Mode::ReadWrite).unwrap()
}

fn name(text: &str) -> DoNai {
    DoNai::parse(text).unwrap()
}

fn new<'a>(name: &'a DoNai, roles: Roles, preference: i32, key_uri: &'a str) -> NewIdentity<'a> {
    NewIdentity {
        name,
        roles,
        kind: Kind::X509,
        certificate: CertificateSource::Chain(vec![vec![0x30, 1, 7], vec![0x30, 0]]),
        key_uri,
        preference,
        is_default: false,
    }
}

#[test]
fn rows_by_role_and_preference() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let www = name("www.example.com");
    let later = store.add_identity(&new(&www, Roles::Server, 200, "file:/b")).unwrap();
    let first = store.add_identity(&new(&www, Roles::Both, 100, "pkcs11:object=a")).unwrap();
    let client = store.add_identity(&new(&www, Roles::Client, 1, "file:/c")).unwrap();
    let ids = |role| -> Vec<i64> {
        store.local_identities(&www, role).unwrap().iter().map(|i| i.id).collect()
    };
    assert_eq!(ids(Role::Server), [first, later]);
    assert_eq!(ids(Role::Client), [client, first]);
    let row = store.identity(first).unwrap().unwrap();
    assert_eq!(row.name, www);
    assert_eq!(row.fingerprint, Some(fingerprint(&[0x30, 1, 7])));
    assert_eq!(row.certificate, CertificateSource::Chain(vec![vec![0x30, 1, 7], vec![0x30, 0]]));
    let again = store.add_identity(&new(&www, Roles::Both, 100, "pkcs11:object=a"));
    assert!(matches!(again, Err(StoreError::Exists { .. })));

    let uri = CertificateSource::Uri("file:/etc/cert.pem".to_owned());
    store.set_certificate(first, &uri).unwrap();
    let row = store.identity(first).unwrap().unwrap();
    assert_eq!((row.certificate, row.fingerprint), (uri, None));
    store.remove_identity(first).unwrap();
    assert!(matches!(store.remove_identity(first), Err(StoreError::NotFound { .. })));
    assert!(store.has_identity(&www).unwrap());
    assert!(!store.has_identity(&name("example.com")).unwrap());
}

#[test]
fn openpgp_certificates_are_kept_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let john = name("john@example.com");
    let pgp = |bytes: &[u8]| NewIdentity {
        kind: Kind::OpenPgp,
        certificate: CertificateSource::OpenPgp(bytes.to_vec()),
        ..new(&john, Roles::Both, 100, "pkcs11:object=a")
    };
    let id = store.add_identity(&pgp(b"packets")).unwrap();
    // An X.509 certificate with the same key is another row.
    let x509 = store.add_identity(&new(&john, Roles::Both, 100, "pkcs11:object=a")).unwrap();
    let row = store.identity(id).unwrap().unwrap();
    assert_eq!(row.certificate, CertificateSource::OpenPgp(b"packets".to_vec()));
    assert_eq!((row.kind, row.certify_uri), (Kind::OpenPgp, None));
    assert_eq!(row.fingerprint, Some(fingerprint(b"packets")));
    store.set_certifying_key(id, "pkcs11:object=b").unwrap();
    store.set_certificate(id, &CertificateSource::OpenPgp(b"renewed".to_vec())).unwrap();
    let row = store.identity(id).unwrap().unwrap();
    assert_eq!(row.certificate, CertificateSource::OpenPgp(b"renewed".to_vec()));
    assert_eq!(row.certify_uri.as_deref(), Some("pkcs11:object=b"));

    let missing = store.set_certifying_key(x509, "pkcs11:object=b");
    assert!(matches!(missing, Err(StoreError::NotFound { .. })));
    let secret = store.set_certifying_key(id, "pkcs11:object=b?pin-value=1");
    assert!(matches!(secret, Err(StoreError::Refused(_))));
    let chain = CertificateSource::Chain(vec![vec![0x30, 0]]);
    for (id, certificate) in [
        (id, chain),
        (id, CertificateSource::Uri("file:/key.asc".to_owned())),
        (id, CertificateSource::OpenPgp(Vec::new())),
        (id, CertificateSource::OpenPgp(vec![0; MAX_CHAIN_BYTES + 1])),
        (x509, CertificateSource::OpenPgp(b"packets".to_vec())),
    ] {
        let result = store.set_certificate(id, &certificate);
        assert!(matches!(result, Err(StoreError::Refused(_))), "{result:?}");
    }
}

#[test]
fn refuses_secrets_and_rubbish() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let www = name("www.example.com");
    for uri in [
        "pkcs11:token=a?pin-value=1234",
        "pkcs11:token=a?pin-source=file:/x&pin-value=1234",
        "file:relative.pem",
        "/etc/key.pem",
        "https://example.com/",
    ] {
        let result = store.add_identity(&new(&www, Roles::Both, 1, uri));
        assert!(matches!(result, Err(StoreError::Refused(_))), "{uri}");
    }
    let mut bad = new(&www, Roles::Both, 1, "file:/a");
    for chain in [vec![], vec![vec![0x31, 0]], vec![vec![0x30, 5]], vec![vec![0x30, 0]; 33_000]] {
        bad.certificate = CertificateSource::Chain(chain);
        assert!(matches!(store.add_identity(&bad), Err(StoreError::Refused(_))));
    }
}

#[test]
fn a_foreign_bad_row_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let insert = "INSERT INTO local_identity (id, name, roles, kind, certificate, key_uri) \
                  VALUES (7, 'a.example', 3, 'x509', x'0102', 'file:/a')";
    store.connection.execute(insert, []).unwrap();
    let result = store.local_identities(&name("a.example"), Role::Client);
    assert!(matches!(result, Err(StoreError::BadRow { id: 7, .. })), "{result:?}");
}

#[test]
fn a_hundred_thousand_names_are_found_by_index() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(&folder);
    store
        .transaction(|store| {
            for i in 0..100_000 {
                let name = name(&format!("host{i}.example.com"));
                store.add_identity(&new(&name, Roles::Server, 100, "file:/a"))?;
            }
            Ok::<(), StoreError>(())
        })
        .unwrap();
    let found = store.local_identities(&name("host77777.example.com"), Role::Server).unwrap();
    assert_eq!(found.len(), 1);
    for sql in [
        "SELECT id FROM local_identity WHERE name = 'a' AND roles & 2 ORDER BY preference, id",
        "SELECT id FROM local_identity WHERE is_default = 1 AND roles & 2",
        "SELECT id FROM access WHERE selector = 'a'",
    ] {
        let plan: String = store
            .connection
            .query_row(&format!("EXPLAIN QUERY PLAN {sql}"), [], |row| row.get(3))
            .unwrap();
        assert!(plan.starts_with("SEARCH"), "{sql}: {plan}");
    }
    let mut count = 0;
    let filter = Selector::parse(".example.com").unwrap();
    store
        .for_each_identity(Some(&filter), |_| {
            count += 1;
            Ok::<(), StoreError>(())
        })
        .unwrap();
    assert_eq!(count, 100_000);
}
