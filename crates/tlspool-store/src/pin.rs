//! The table `pin`: fingerprints that peers must have.
//!
//! For an X.509 certificate that is its SHA-256, for an OpenPGP certificate the fingerprint of its primary
//! key. A pin that has expired counts no more.

use rusqlite::params;
use tlspool_identity::DoNai;

use crate::identities::found;
use crate::{Kind, Store, StoreError};

/// Sizes of fingerprints: OpenPGP version 4; SHA-256, and OpenPGP version 6.
const LENGTHS: [usize; 2] = [20, 32];

/// A row of `pin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRow {
    /// The row's number (0 in a row to add).
    pub id: i64,
    /// The peer.
    pub name: DoNai,
    /// The kind of its credential.
    pub kind: Kind,
    /// The credential's fingerprint.
    pub fingerprint: Vec<u8>,
    /// When the pin ends, in seconds since 1970; none: never.
    pub expires: Option<i64>,
}

const COLUMNS: &str = "id, name, kind, fingerprint, expires";

impl Store {
    /// All pins, also those that have expired.
    pub fn pins(&self) -> Result<Vec<PinRow>, StoreError> {
        self.read_pins("ORDER BY name, id", [])
    }

    /// The pins of one name, also those that have expired.
    pub fn pins_of(&self, name: &DoNai) -> Result<Vec<PinRow>, StoreError> {
        self.read_pins("WHERE name = ?1 ORDER BY id", params![name.as_str()])
    }

    /// Whether there is any pin.
    pub fn has_pins(&self) -> Result<bool, StoreError> {
        let mut statement = self.connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM pin)")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }

    /// Adds a pin and returns its number.
    pub fn add_pin(&self, pin: &PinRow) -> Result<i64, StoreError> {
        if !LENGTHS.contains(&pin.fingerprint.len()) {
            let text = "a fingerprint has 32 bytes, or 20 of an OpenPGP version 4 key";
            return Err(StoreError::Refused(text.to_owned()));
        }
        let result = self
            .connection
            .prepare_cached(
                "INSERT INTO pin (name, kind, fingerprint, expires) VALUES (?1,?2,?3,?4)",
            )?
            .insert(params![pin.name.as_str(), pin.kind, pin.fingerprint, pin.expires]);
        result.map_err(|error| self.explain(error, || format!("this pin for {}", pin.name)))
    }

    /// Pins what was seen first, at `now` in seconds since 1970. That it is pinned already is fine; if
    /// something else is, somebody else was first, and that is an error.
    pub fn pin_first_sight(
        &mut self,
        name: &DoNai,
        kind: Kind,
        fingerprint: &[u8],
        now: i64,
    ) -> Result<(), StoreError> {
        self.transaction(|store| {
            let mut valid = store.pins_of(name)?;
            valid.retain(|pin| pin.expires.is_none_or(|expires| expires > now));
            if valid.iter().any(|pin| pin.kind == kind && pin.fingerprint == fingerprint) {
                return Ok(());
            }
            if !valid.is_empty() {
                let text = format!("another fingerprint was just pinned for {name}");
                return Err(StoreError::Refused(text));
            }
            // One that has expired would stand in the way.
            store.connection.execute(
                "DELETE FROM pin WHERE name = ?1 AND kind = ?2 AND fingerprint = ?3",
                params![name.as_str(), kind, fingerprint],
            )?;
            let fingerprint = fingerprint.to_vec();
            let pin = PinRow { id: 0, name: name.clone(), kind, fingerprint, expires: None };
            store.add_pin(&pin).map(|_| ())
        })
    }

    /// Removes the pin with this number.
    pub fn remove_pin(&self, id: i64) -> Result<(), StoreError> {
        let changed =
            self.written(self.connection.execute("DELETE FROM pin WHERE id = ?1", params![id]))?;
        found(changed, || format!("pin number {id}"))
    }

    fn read_pins(
        &self,
        rest: &str,
        params: impl rusqlite::Params,
    ) -> Result<Vec<PinRow>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM pin {rest}");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query(params)?;
        let mut pins = Vec::new();
        while let Some(row) = rows.next()? {
            let id = row.get(0)?;
            let bad = |why: String| StoreError::BadRow { table: "pin", id, why };
            let name: String = row.get(1)?;
            pins.push(PinRow {
                id,
                name: DoNai::parse(&name).map_err(|error| bad(error.to_string()))?,
                kind: row.get(2).map_err(|_| bad("kind".to_owned()))?,
                fingerprint: row.get(3)?,
                expires: row.get(4)?,
            });
        }
        Ok(pins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mode;

    #[test]
    fn pins_and_first_sight() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path().join("a.db"), Mode::ReadWrite).unwrap();
        let name = DoNai::parse("example.com").unwrap();
        assert!(!store.has_pins().unwrap());
        store.pin_first_sight(&name, Kind::X509, &[1; 32], 100).unwrap();
        store.pin_first_sight(&name, Kind::X509, &[1; 32], 100).unwrap();
        let pins = store.pins_of(&name).unwrap();
        assert_eq!((pins.len(), pins[0].expires), (1, None));
        let second = store.pin_first_sight(&name, Kind::X509, &[2; 32], 100);
        assert!(second.unwrap_err().to_string().contains("another fingerprint"));
        store.remove_pin(pins[0].id).unwrap();
        // What has expired is neither in the way nor good enough.
        let old = PinRow { id: 0, fingerprint: vec![2; 32], expires: Some(50), ..pins[0].clone() };
        store.add_pin(&old).unwrap();
        assert!(matches!(store.add_pin(&old), Err(StoreError::Exists { .. })));
        store.pin_first_sight(&name, Kind::X509, &[2; 32], 100).unwrap();
        assert_eq!(store.pins().unwrap()[0].expires, None);
        let short = PinRow { fingerprint: vec![0; 31], ..old };
        assert!(matches!(store.add_pin(&short), Err(StoreError::Refused(_))));
        assert!(store.pins_of(&DoNai::parse("example.org").unwrap()).unwrap().is_empty());
    }
}
