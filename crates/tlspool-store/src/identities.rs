//! The table `local_identity`.

use rusqlite::{OptionalExtension, Row, params};
use tlspool_identity::{DoNai, Selector, der};

use crate::model::{
    CertificateSource, Fingerprint, Kind, LocalIdentity, NewIdentity, Role, Roles, fingerprint,
};
use crate::{Store, StoreError};

/// Longest inline chain in bytes: what fits into a TLS 1.2 certificate message of the usual limit.
pub const MAX_CHAIN_BYTES: usize = 64 * 1024;

const COLUMNS: &str = "id, name, roles, kind, certificate, certificate_uri, key_uri, \
                       fingerprint, preference, is_default, created, certify_uri";

impl Store {
    /// The identities with exactly this name that may play `role`, the preferred first.
    pub fn local_identities(
        &self,
        name: &DoNai,
        role: Role,
    ) -> Result<Vec<LocalIdentity>, StoreError> {
        self.rows(
            "WHERE name = ?1 AND roles & ?2 ORDER BY preference, id",
            params![name.as_str(), role.bit()],
        )
    }

    /// All rows with this name, whatever the role.
    pub fn identities_named(&self, name: &DoNai) -> Result<Vec<LocalIdentity>, StoreError> {
        self.rows("WHERE name = ?1 ORDER BY preference, id", params![name.as_str()])
    }

    /// The row with this number.
    pub fn identity(&self, id: i64) -> Result<Option<LocalIdentity>, StoreError> {
        Ok(self.rows("WHERE id = ?1", params![id])?.pop())
    }

    /// The rows flagged as default for `role`, the preferred first.
    pub(crate) fn default_identities(&self, role: Role) -> Result<Vec<LocalIdentity>, StoreError> {
        self.rows(
            "WHERE is_default = 1 AND roles & ?1 ORDER BY preference, id",
            params![role.bit()],
        )
    }

    /// The first `limit` different names that may play `role`, by the index.
    pub(crate) fn names(&self, role: Role, limit: usize) -> Result<Vec<DoNai>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT DISTINCT name FROM local_identity WHERE roles & ?1 ORDER BY name LIMIT ?2",
        )?;
        let mut rows = statement.query(params![role.bit(), limit as i64])?;
        let mut names = Vec::new();
        while let Some(row) = rows.next()? {
            let text: String = row.get(0)?;
            // A bad row says so when it is looked up; here it is merely nobody's only identity.
            names.extend(DoNai::parse_strict(&text).ok());
        }
        Ok(names)
    }

    /// Calls `each` with every row whose name `filter` matches, in the order of names.
    pub fn for_each_identity<E: From<StoreError>>(
        &self,
        filter: Option<&Selector>,
        mut each: impl FnMut(LocalIdentity) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(name) = filter.and_then(Selector::as_name) {
            return self.identities_named(&name)?.into_iter().try_for_each(each);
        }
        let sql = format!("SELECT {COLUMNS} FROM local_identity ORDER BY name, preference, id");
        let mut statement = self.connection.prepare(&sql).map_err(StoreError::from)?;
        let mut rows = statement.query([]).map_err(StoreError::from)?;
        while let Some(row) = rows.next().map_err(StoreError::from)? {
            let identity = read(row)?;
            if filter.is_none_or(|filter| filter.matches(&identity.name)) {
                each(identity)?;
            }
        }
        Ok(())
    }

    /// Whether any identity has this name.
    pub fn has_identity(&self, name: &DoNai) -> Result<bool, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM local_identity WHERE name = ?1 LIMIT 1")?;
        Ok(statement.query_row(params![name.as_str()], |_| Ok(())).optional()?.is_some())
    }

    /// Adds a row and returns its number.
    pub fn add_identity(&self, new: &NewIdentity<'_>) -> Result<i64, StoreError> {
        check_stored_uri(new.key_uri)?;
        let stored = StoredCertificate::of(new.kind, &new.certificate)?;
        let result = self
            .connection
            .prepare_cached(
                "INSERT INTO local_identity (name, roles, kind, certificate, certificate_uri, \
             key_uri, fingerprint, preference, is_default) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)",
            )?
            .insert(params![
                new.name.as_str(),
                new.roles.bits(),
                new.kind,
                stored.inline,
                stored.uri,
                new.key_uri,
                stored.fingerprint,
                new.preference,
                new.is_default,
            ]);
        result.map_err(|error| {
            self.explain(error, || format!("{} with this certificate and key", new.name))
        })
    }

    /// Remembers where the key is that certifies the OpenPGP certificate of a row.
    pub fn set_certifying_key(&self, id: i64, uri: &str) -> Result<(), StoreError> {
        check_stored_uri(uri)?;
        let changed = self.written(self.connection.execute(
            "UPDATE local_identity SET certify_uri = ?2 WHERE id = ?1 AND kind = 'openpgp'",
            params![id, uri],
        ))?;
        found(changed, || format!("OpenPGP identity number {id}"))
    }

    /// Puts another certificate of the same kind into a row, as after a renewal with the same key.
    pub fn set_certificate(
        &self,
        id: i64,
        certificate: &CertificateSource,
    ) -> Result<(), StoreError> {
        let Some(row) = self.identity(id)? else {
            return Err(StoreError::NotFound { what: format!("identity number {id}") });
        };
        let stored = StoredCertificate::of(row.kind, certificate)?;
        let changed = self.written(self.connection.execute(
            "UPDATE local_identity SET certificate = ?2, certificate_uri = ?3, fingerprint = ?4 \
             WHERE id = ?1",
            params![id, stored.inline, stored.uri, stored.fingerprint],
        ))?;
        found(changed, || format!("identity number {id}"))
    }

    /// Removes the row with this number.
    pub fn remove_identity(&self, id: i64) -> Result<(), StoreError> {
        let changed = self.written(
            self.connection.execute("DELETE FROM local_identity WHERE id = ?1", params![id]),
        )?;
        found(changed, || format!("identity number {id}"))
    }

    fn rows(
        &self,
        rest: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<LocalIdentity>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM local_identity {rest}");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(row)?);
        }
        Ok(found)
    }
}

/// The three columns of a certificate.
struct StoredCertificate<'a> {
    inline: Option<Vec<u8>>,
    uri: Option<&'a str>,
    fingerprint: Vec<u8>,
}

impl<'a> StoredCertificate<'a> {
    fn of(kind: Kind, source: &'a CertificateSource) -> Result<Self, StoreError> {
        match (kind, source) {
            (Kind::OpenPgp, CertificateSource::OpenPgp(certificate)) => {
                if certificate.is_empty() || certificate.len() > MAX_CHAIN_BYTES {
                    return Err(StoreError::Refused(format!(
                        "an OpenPGP certificate may have 1 to {MAX_CHAIN_BYTES} bytes, not {}",
                        certificate.len()
                    )));
                }
                let fingerprint = fingerprint(certificate).0.to_vec();
                Ok(Self { inline: Some(certificate.clone()), uri: None, fingerprint })
            }
            (Kind::OpenPgp, _) => Err(StoreError::Refused(
                "an OpenPGP identity needs its certificate in the database".to_owned(),
            )),
            (Kind::X509, CertificateSource::OpenPgp(_)) => Err(StoreError::Refused(
                "an X.509 identity cannot have an OpenPGP certificate".to_owned(),
            )),
            (Kind::X509, CertificateSource::Chain(chain)) => {
                let inline = chain.concat();
                let Some(leaf) = chain.first().filter(|_| inline.len() <= MAX_CHAIN_BYTES) else {
                    return Err(StoreError::Refused(format!(
                        "a chain of {} certificates and {} bytes: there must be at least one, and at \
                         most {MAX_CHAIN_BYTES} bytes in all",
                        chain.len(),
                        inline.len()
                    )));
                };
                der::split_chain(&inline).map_err(|e| StoreError::Refused(e.to_string()))?;
                let fingerprint = fingerprint(leaf).0.to_vec();
                Ok(Self { inline: Some(inline), uri: None, fingerprint })
            }
            (Kind::X509, CertificateSource::Uri(uri)) => {
                check_stored_uri(uri)?;
                Ok(Self { inline: None, uri: Some(uri), fingerprint: Vec::new() })
            }
        }
    }
}

/// Refuses URIs that must not stand in the table: other schemes, and PINs. That the URI makes sense
/// is for those to check who use it.
pub fn check_stored_uri(uri: &str) -> Result<(), StoreError> {
    if !uri.starts_with("pkcs11:") && !uri.starts_with("file:/") {
        return Err(StoreError::Refused(format!(
            "{uri:?} is neither a pkcs11: URI nor file: with an absolute path"
        )));
    }
    if uri.split(['?', '&', ';', ':']).any(|part| part.trim().starts_with("pin-value=")) {
        return Err(StoreError::Refused(
            "the URI holds a PIN (pin-value), and the database is no place for secrets; use \
             pin-source, or `tlspool -p` to enter it"
                .to_owned(),
        ));
    }
    Ok(())
}

/// An error unless a statement changed something.
pub(crate) fn found(changed: usize, what: impl FnOnce() -> String) -> Result<(), StoreError> {
    if changed == 0 { Err(StoreError::NotFound { what: what() }) } else { Ok(()) }
}

fn read(row: &Row<'_>) -> Result<LocalIdentity, StoreError> {
    let id = row.get(0)?;
    let bad = |why: String| StoreError::BadRow { table: "local_identity", id, why };
    let name: String = row.get(1)?;
    let name = DoNai::parse_strict(&name).map_err(|error| bad(format!("name: {error}")))?;
    let roles: Roles = row.get(2).map_err(|_| bad("roles".to_owned()))?;
    let kind: Kind = row.get(3).map_err(|_| bad("kind".to_owned()))?;
    let certificate = match (row.get_ref(4)?.as_blob_or_null(), row.get(5)?) {
        (Ok(Some(blob)), None) if kind == Kind::OpenPgp => CertificateSource::OpenPgp(blob.into()),
        (Ok(Some(blob)), None) => {
            let chain = der::split_chain(blob).map_err(|error| bad(error.to_string()))?;
            CertificateSource::Chain(chain.into_iter().map(<[u8]>::to_vec).collect())
        }
        (Ok(None), Some(uri)) => CertificateSource::Uri(uri),
        _ => return Err(bad("certificate".to_owned())),
    };
    let fingerprint: Vec<u8> = row.get(7)?;
    Ok(LocalIdentity {
        id,
        name,
        roles,
        kind,
        certificate,
        key_uri: row.get(6)?,
        preference: row.get(8)?,
        is_default: row.get(9)?,
        fingerprint: fingerprint.try_into().ok().map(Fingerprint),
        created: row.get(10)?,
        certify_uri: row.get(11)?,
    })
}

#[cfg(test)]
mod tests;
