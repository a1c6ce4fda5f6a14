//! The table `trust_anchor`.

use rusqlite::params;

use crate::identities::found;
use crate::model::{Fingerprint, Kind, fingerprint};
use crate::{Store, StoreError};

/// A row of `trust_anchor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustAnchorRow {
    /// The row's number.
    pub id: i64,
    /// The kind of credential it vouches for.
    pub kind: Kind,
    /// The service it is for; none: all of them.
    pub service: Option<String>,
    /// The certificate (DER) or OpenPGP certificate.
    pub certificate: Vec<u8>,
    /// Its SHA-256.
    pub fingerprint: Fingerprint,
    /// Its subject, for people.
    pub label: String,
}

/// A trust anchor to add.
#[derive(Debug, Clone, Copy)]
pub struct NewTrustAnchor<'a> {
    /// The kind of credential it vouches for.
    pub kind: Kind,
    /// The service it is for; none: all of them.
    pub service: Option<&'a str>,
    /// The certificate.
    pub certificate: &'a [u8],
    /// Its subject, for people.
    pub label: &'a str,
}

const COLUMNS: &str = "id, kind, service, certificate, fingerprint, label";

impl Store {
    /// All anchors, by service.
    pub fn trust_anchors(&self) -> Result<Vec<TrustAnchorRow>, StoreError> {
        self.anchors("ORDER BY service, id", [])
    }

    /// The anchors of one service (`None`: those for all services), without the others.
    pub fn trust_anchors_of(
        &self,
        service: Option<&str>,
    ) -> Result<Vec<TrustAnchorRow>, StoreError> {
        self.anchors("WHERE service = ?1 ORDER BY id", params![service.unwrap_or_default()])
    }

    /// The anchor with this number.
    pub fn trust_anchor(&self, id: i64) -> Result<Option<TrustAnchorRow>, StoreError> {
        Ok(self.anchors("WHERE id = ?1", params![id])?.pop())
    }

    /// Adds an anchor and returns its number.
    pub fn add_trust_anchor(&self, new: &NewTrustAnchor<'_>) -> Result<i64, StoreError> {
        let result = self
            .connection
            .prepare_cached(
                "INSERT INTO trust_anchor (kind, service, certificate, fingerprint, label) \
             VALUES (?1,?2,?3,?4,?5)",
            )?
            .insert(params![
                new.kind,
                new.service.unwrap_or_default(),
                new.certificate,
                &fingerprint(new.certificate).0[..],
                new.label,
            ]);
        result.map_err(|error| self.explain(error, || format!("the trust anchor {}", new.label)))
    }

    /// Removes the anchor with this number.
    pub fn remove_trust_anchor(&self, id: i64) -> Result<(), StoreError> {
        let changed = self.written(
            self.connection.execute("DELETE FROM trust_anchor WHERE id = ?1", params![id]),
        )?;
        found(changed, || format!("trust anchor number {id}"))
    }

    fn anchors(
        &self,
        rest: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<TrustAnchorRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM trust_anchor {rest}");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            let bad = |why: &str| StoreError::BadRow { table: "trust_anchor", id, why: why.into() };
            let service: String = row.get(2)?;
            let stored: Vec<u8> = row.get(4)?;
            found.push(TrustAnchorRow {
                id,
                kind: row.get(1).map_err(|_| bad("kind"))?,
                service: Some(service).filter(|s| !s.is_empty()),
                certificate: row.get(3)?,
                fingerprint: Fingerprint(stored.try_into().map_err(|_| bad("fingerprint"))?),
                label: row.get(5)?,
            });
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;

    #[test]
    fn per_service_or_for_all() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path().join("a.db"), Mode::ReadWrite).unwrap();
        let new = |service, certificate| NewTrustAnchor {
            kind: Kind::X509,
            service,
            certificate,
            label: "CN=Root",
        };
        store.add_trust_anchor(&new(None, b"a")).unwrap();
        let id = store.add_trust_anchor(&new(Some("imap"), b"a")).unwrap();
        let again = store.add_trust_anchor(&new(Some("imap"), b"a"));
        assert!(matches!(again, Err(StoreError::Exists { .. })));
        assert_eq!(store.trust_anchors().unwrap().len(), 2);
        let imap = store.trust_anchors_of(Some("imap")).unwrap();
        assert_eq!((imap.len(), imap[0].id, imap[0].service.as_deref()), (1, id, Some("imap")));
        store.remove_trust_anchor(id).unwrap();
        assert!(store.trust_anchor(id).unwrap().is_none());
        assert!(matches!(store.remove_trust_anchor(id), Err(StoreError::NotFound { .. })));
    }
}
