//! The local identities that requests may use: looked up in the database, kept while it is
//! unchanged. Each worker has its own.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use lru::LruCache;
use rustls::SignatureScheme;
use rustls_pki_types::CertificateDer;
use tlspool_engine::{Credential, Shown};
use tlspool_identity::x509::Legacy;
use tlspool_identity::{DoNai, matches, x509};
use tlspool_openpgp::Limits;
use tlspool_store::{
    AccessError, Caller, LocalIdentity, Mode, Role, Store, StoreError, TrustAnchorRow, fingerprint,
};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::authorization::AuthorizationCache;
use super::client::ClientId;
use super::database::{Database, Sight};
use super::disclosure::DisclosureCache;
use super::peer::Peer;
use super::policies::PolicyCache;

/// Look-ups, and credentials, that a worker remembers.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// A change of the tables is seen after this time at the latest.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Whom a look-up was for: access depends on the program's connection.
type Asked = (ClientId, Option<DoNai>, Role);

/// The program that look-ups are for, as access rules see it.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) id: ClientId,
    pub(crate) peer: Peer,
    /// Its file, if any rule wants to know.
    pub(crate) program: Option<PathBuf>,
}

impl Asker {
    fn caller(&self) -> Caller<'_> {
        let Peer { uid, groups, .. } = &self.peer;
        Caller { uid: *uid, gids: groups, program: self.program.as_deref() }
    }
}

/// Changes the database; an error is in words. Another writer may hold the lock for seconds, which must not stop a worker's
/// thread, so another thread writes.
pub(crate) async fn write(
    identities: &RefCell<Identities>,
    change: impl FnOnce(&mut Store) -> Result<(), StoreError> + Send + 'static,
) -> Result<(), String> {
    let path = identities.borrow_mut().path_to_write().map_err(|error| error.to_string())?;
    let written = tokio::task::spawn_blocking(move || {
        let mut store = Store::open(path, Mode::ReadWrite)?;
        change(&mut store)
    });
    match written.await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the thread that writes has ended".to_owned()),
    }
}

/// A worker's view of the tables.
pub(crate) struct Identities {
    database: Database,
    changes: u64,
    looked: Option<Instant>,
    /// Whether any access rule names a program, if that was looked up.
    programs: Option<bool>,
    found: LruCache<Asked, Rc<Vec<LocalIdentity>>>,
    /// By row; cleared when any row changes.
    credentials: LruCache<i64, Arc<Credential>>,
    policies: PolicyCache,
    authorizations: AuthorizationCache,
    disclosures: DisclosureCache,
    /// By row and the name that a wildcard of its certificate covers.
    covering: LruCache<(i64, DoNai), Arc<Credential>>,
}

impl Identities {
    /// The tables in the database at `path`, which is opened when it is first needed.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self::one_of(path, Arc::default())
    }

    /// The same for one of several readers in a process.
    pub(crate) fn one_of(path: PathBuf, sight: Arc<Sight>) -> Self {
        Self {
            database: Database::new(path, sight),
            changes: 0,
            looked: None,
            programs: None,
            found: LruCache::new(REMEMBERED),
            credentials: LruCache::new(REMEMBERED),
            policies: PolicyCache::default(),
            authorizations: AuthorizationCache::default(),
            disclosures: DisclosureCache::default(),
            covering: LruCache::new(REMEMBERED),
        }
    }

    /// Forgets what is remembered: certificate files may have changed.
    pub(crate) fn forget(&mut self) {
        self.found.clear();
        self.credentials.clear();
        self.covering.clear();
    }

    /// Counts the changes of the tables that were seen; forgets what was remembered from before.
    pub(crate) fn changes(&mut self) -> Result<u64, StoreError> {
        // One request asks several times; under load one look serves many.
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_AGAIN) {
            return Ok(self.changes);
        }
        let changed = self.database.has_changed()?;
        self.looked = Some(Instant::now());
        if changed {
            self.forget_tables();
        }
        Ok(self.changes)
    }

    fn forget_tables(&mut self) {
        self.changes += 1;
        self.programs = None;
        self.policies = PolicyCache::default();
        self.authorizations = AuthorizationCache::default();
        self.disclosures = DisclosureCache::default();
        self.forget();
    }

    /// Whether look-ups need to know the program.
    pub(crate) fn rules_name_programs(&mut self) -> Result<bool, StoreError> {
        self.changes()?;
        if let Some(known) = self.programs {
            return Ok(known);
        }
        let found = self.database.store()?.access_names_programs()?;
        self.programs = Some(found);
        Ok(found)
    }

    /// The trust table.
    pub(crate) fn trust_anchors(&mut self) -> Result<Vec<TrustAnchorRow>, StoreError> {
        self.database.store()?.trust_anchors()
    }

    /// What is remembered of the policies and pins, and the tables to ask for the rest.
    pub(crate) fn policies(&mut self) -> Result<(&mut PolicyCache, &Store), StoreError> {
        self.changes()?;
        Ok((&mut self.policies, self.database.store()?))
    }

    /// What is remembered of the rules of authorization, and the table to ask for the rest.
    pub(crate) fn authorizations(
        &mut self,
    ) -> Result<(&mut AuthorizationCache, &Store), StoreError> {
        self.changes()?;
        Ok((&mut self.authorizations, self.database.store()?))
    }

    /// What is remembered of the disclosures, and the tables to ask for the rest.
    pub(crate) fn disclosures(&mut self) -> Result<(&mut DisclosureCache, &Store), StoreError> {
        self.changes()?;
        Ok((&mut self.disclosures, self.database.store()?))
    }

    /// The first `limit` names that the program may use as a client.
    pub(crate) fn usable_names(
        &mut self,
        asker: &Asker,
        limit: usize,
    ) -> Result<Vec<DoNai>, StoreError> {
        let store = self.database.store()?;
        store.usable_names(&asker.caller(), Role::Client, limit)
    }

    /// Where the database is, for who is going to write: one that was there and is gone is not made anew.
    fn path_to_write(&mut self) -> Result<PathBuf, StoreError> {
        match self.database.has_changed() {
            Err(gone @ StoreError::Gone { .. }) => Err(gone),
            changed => {
                if let Ok(true) = changed {
                    self.forget_tables();
                }
                Ok(self.database.path().to_owned())
            }
        }
    }

    /// The identities that the program may use as `role` under `name`, or under the only or default
    /// name that it may use.
    pub(crate) fn look_up(
        &mut self,
        asker: &Asker,
        name: Option<&DoNai>,
        role: Role,
    ) -> Result<Rc<Vec<LocalIdentity>>, AccessError> {
        self.changes()?;
        let store = self.database.store()?;
        let asked = (asker.id, name.cloned(), role);
        if let Some(found) = self.found.get(&asked) {
            return Ok(found.clone());
        }
        let caller = asker.caller();
        let rows = match name {
            Some(name) => store.candidates(&caller, name, role)?,
            None => store.only_candidates(&caller, role)?,
        };
        let rows = Rc::new(rows);
        self.found.put(asked, rows.clone());
        Ok(rows)
    }

    /// An error unless the program may use `name`, which need not exist.
    pub(crate) fn check_access(&mut self, asker: &Asker, name: &DoNai) -> Result<(), AccessError> {
        self.changes()?;
        self.database.store()?.check_access(&asker.caller(), name)
    }

    /// The credential of a row, if it is remembered.
    pub(crate) fn remembered(&mut self, row: &LocalIdentity) -> Option<Arc<Credential>> {
        self.credentials.get(&row.id).cloned()
    }

    /// The credential of a row under `name`, which its certificate covers by a wildcard.
    pub(crate) fn covering(
        &mut self,
        row: &LocalIdentity,
        own: &Credential,
        name: &DoNai,
    ) -> Result<Arc<Credential>, String> {
        let asked = (row.id, name.clone());
        if let Some(known) = self.covering.get(&asked) {
            return Ok(known.clone());
        }
        let leaf = own.chain().first().map(AsRef::as_ref).unwrap_or_default();
        let names = x509::names(leaf, Legacy::default()).map_err(|error| error.to_string())?;
        if matches(name, &names, false).is_none() {
            return Err(format!("its certificate does not cover {name}"));
        }
        let credential = Arc::new(Credential { name: name.to_string(), ..own.clone() });
        self.covering.put(asked, credential.clone());
        Ok(credential)
    }

    /// Remembers the credential of a row.
    pub(crate) fn remember(&mut self, row: &LocalIdentity, credential: Arc<Credential>) {
        self.credentials.put(row.id, credential);
    }
}

/// Makes a credential of a row and its chain, leaf first.
pub(crate) fn credential(
    row: &LocalIdentity,
    chain: Vec<Vec<u8>>,
) -> Result<Credential, &'static str> {
    x509_credential(row.name.as_str(), &row.key_uri, chain)
}

/// Makes a credential of a name, the URI of its key, and its chain, leaf first.
pub(crate) fn x509_credential(
    name: &str,
    key_uri: &str,
    chain: Vec<Vec<u8>>,
) -> Result<Credential, &'static str> {
    let leaf = chain.first().ok_or("its certificate chain is empty")?;
    let schemes = schemes(leaf)?;
    let fingerprint = fingerprint(leaf).0;
    Ok(Credential {
        name: name.to_owned(),
        key_uri: key_uri.into(),
        fingerprint,
        schemes,
        shown: Shown::X509(chain.into_iter().map(CertificateDer::from).collect()),
    })
}

/// Makes a credential of a row with an OpenPGP certificate, whose key has this
/// SubjectPublicKeyInfo.
pub(crate) fn openpgp_credential(
    row: &LocalIdentity,
    certificate: &[u8],
    key: &[u8],
) -> Result<Credential, String> {
    let read = tlspool_openpgp::Certificate::read_binary(certificate, Limits::LARGE)
        .map_err(|error| format!("its certificate is not readable: {error}"))?;
    let signs = read
        .signing_key_by_spki(key, SystemTime::now())
        .ok_or("its key is none of its certificate's; import the pair again")?
        .map_err(|unfit| unfit.to_string())?;
    Ok(Credential {
        name: row.name.as_str().to_owned(),
        key_uri: row.key_uri.as_str().into(),
        fingerprint: fingerprint(certificate).0,
        schemes: signs.algorithm.schemes().iter().map(|&scheme| scheme.into()).collect(),
        shown: Shown::OpenPgp {
            key_id: signs.id.0,
            certificate: certificate.to_vec(),
            key: signs.spki,
            fingerprint: read.fingerprint().as_bytes().try_into().ok(),
        },
    })
}

/// The signature schemes that fit a certificate's key, best first.
fn schemes(leaf: &[u8]) -> Result<Vec<SignatureScheme>, &'static str> {
    const UNREADABLE: &str = "its certificate is not readable; import it again";
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| UNREADABLE)?;
    let key = certificate.public_key();
    match key.parsed() {
        Ok(PublicKey::RSA(_)) => Ok(vec![
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
            SignatureScheme::RSA_PKCS1_SHA256,
            SignatureScheme::RSA_PKCS1_SHA384,
            SignatureScheme::RSA_PKCS1_SHA512,
        ]),
        Ok(PublicKey::EC(point)) => match point.key_size() {
            256 => Ok(vec![SignatureScheme::ECDSA_NISTP256_SHA256]),
            384 => Ok(vec![SignatureScheme::ECDSA_NISTP384_SHA384]),
            _ => Err("its key is on a curve that TLS does not use; make one on P-256 or P-384"),
        },
        _ if key.algorithm.algorithm == x509_parser::oid_registry::OID_SIG_ED25519 => {
            Ok(vec![SignatureScheme::ED25519])
        }
        _ => Err("its key is of a kind that is not supported; use RSA, P-256, P-384 or Ed25519"),
    }
}
